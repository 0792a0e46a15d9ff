//! The receiving half of the mesh: who is calling, within which limits, and a way out without a lost request.

mod peer;
mod state;

pub use peer::Peer;
pub(crate) use state::{Phase, ServerSettings, ServerState, Servers};
