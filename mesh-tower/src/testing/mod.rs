//! Tests of what your service does when the services that it calls are slow, refuse, break off or lie (feature
//! `test-util`).
//!
//! Everything runs inside the test's process: a [`TestBackend`] is a server that fails as it is told, a
//! [`MemoryNetwork`] stands in for the network, [`Events`] keeps what the mesh tells, and [`TestMesh`] asserts that
//! nothing is left behind. Give the code under test the mesh that it has in production, over another connector:
//!
//! ```
//! use std::time::Duration;
//!
//! use http::StatusCode;
//! use mesh_tower::testing::{Fault, MemoryNetwork, ServiceConfig, TestBackend};
//! use tokio::time::Instant;
//!
//! # fn main() -> Result<(), mesh_tower::Error> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
//! // #[tokio::test(start_paused = true)]
//! let network = MemoryNetwork::new();
//! let backend = TestBackend::named("v1").start_in(&network);
//! let mesh = ServiceConfig::new("catalog", [backend.address()])
//!     .route("retry: { on: [gateway-error], num_retries: 2, backoff: { base: 1s, max: 1s } }")
//!     .mesh_over(&network)
//!     .await;
//!
//! backend.fail_next(2, Fault::Status(StatusCode::SERVICE_UNAVAILABLE));
//! let began = Instant::now();
//! let response = mesh.http_client().get("http://catalog/items").await?;
//! assert_eq!(response.into_body().string().await?, "v1");
//!
//! assert_eq!(backend.request_count(), 3);
//! assert!(began.elapsed() >= Duration::from_millis(1600), "two pauses of 1 s, less 20 % of jitter, in no time");
//! mesh.end().await;
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! A paused clock needs tokio's feature `test-util`, a `MemoryNetwork` and nothing else that waits outside of tokio. Over
//! a loopback port ([`BackendBuilder::start`]) leave the clock alone: it would jump ahead while the kernel works.
//!
//! The kit is for tests: it panics where an application would return an error, with a text that says what was there
//! instead, and whatever is awaited is [`watched`] over, so that a test fails and does not hang.

mod backend;
mod body;
mod certificates;
mod events;
mod fault;
pub mod grpc;
#[cfg(test)]
pub(crate) mod log;
mod mesh;
mod network;
mod port;
mod reply;
mod request;
mod resolver;
mod script;
mod server;
mod watchdog;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use backend::{BackendBuilder, TestBackend};
pub use body::{Feed, Payload, Pieces, empty, full};
pub use certificates::{Authority, Issued, NewCertificate, RevocationList, anonymous_client};
pub use events::{Events, Seen};
pub use fault::{At, Fault, Reason};
pub use mesh::{ServiceConfig, TestMesh};
pub use network::{MemoryListener, MemoryNetwork, MemoryStream};
pub use reply::Reply;
pub use request::{ReceivedRequest, RequestBody};
pub use resolver::ScriptedResolver;
pub use watchdog::watched;
use watchdog::watched_for;

/// A panic elsewhere is a failure of its own; what it left is still what was recorded.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
