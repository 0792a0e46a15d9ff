//! The receiving half of the mesh: who is calling, within which limits, and a way out without a lost request.

mod acceptor;
#[cfg(feature = "axum")]
mod axum;
mod connection;
mod count;
mod entry;
mod incoming;
mod layer;
mod life;
mod listener;
mod mesh;
mod metered;
mod peer;
mod probe;
mod readiness;
mod requests;
mod serve;
mod state;
mod staying;
mod stream;
mod taking;
mod told;

pub use acceptor::{AcceptError, Acceptor, Stage};
#[cfg(feature = "axum")]
pub use axum::Caller;
pub use incoming::Incoming;
pub(crate) use layer::inherited_deadline;
pub use layer::{
    GrpcLayer, GrpcService, RequestBody, RequestBodyError, ServerBody, ServerFuture, ServerLayer, ServerService,
};
pub use listener::{Accept, Accepted, ListenError, Listener};
pub use peer::Peer;
pub use readiness::{NotReady, Readiness, ReadinessWatch};
pub use serve::Drained;
pub(crate) use state::{Phase, ServerState, Servers};
pub use stream::ServerStream;
#[cfg(feature = "admin")]
pub(crate) use {listener::bind_tcp, serve::run};
