//! The straight path of a request.
//!
//! ```text
//! call ─ head ─ route ─┬─> pick ─> connection ─> exchange ─> decide ─┬─> response with its guard
//!                      └───────────────── pause <────────────────────┘
//! ```
//!
//! One async function, boxed once by the service in front of it. The snapshot is read where a decision is made and
//! never held over an await; the route and the backend are drawn once and kept for every retry, the endpoints are
//! looked up anew. A request that its route hedges takes a path of its own ([`hedge`]) through the same steps.

mod affinity;
mod attempt;
mod body;
mod call;
mod context;
mod destination;
mod head;
mod hedge;
mod permit;
mod pick;
mod serving;
mod target;

pub use body::Body;
pub(crate) use call::call;
pub(crate) use context::unknown_service;
pub(crate) use destination::{Destination, destination};
pub(crate) use head::Head;
pub(crate) use target::{Named, Target};
