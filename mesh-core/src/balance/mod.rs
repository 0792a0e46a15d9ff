//! Choosing an endpoint.
//!
//! An [`Endpoint`] is stable: it keeps its identity, its [`State`] and its counters through every update that names
//! its address again. A [`Picker`] is made for one list of endpoints: an update that changes a backend builds a new one
//! over the old endpoints. The transport owns the states; a balancer only reads them.
//!
//! ```text
//!  model ─> tiers (priorities, localities) ─┐
//!  endpoints: state, health, ejections ─────┴─> view: who is ready, what each gets ─> policy ─> endpoint
//! ```
//!
//! A *view* is made when something changed, by the request that comes next, and serves all requests until the next
//! change. So a pick costs the same whatever the number of endpoints.

mod alias;
mod bound;
mod choosing;
mod custom;
mod endpoint;
mod ewma;
mod fleet;
mod hashing;
mod keys;
mod maglev;
mod orca;
mod pick_first;
mod picker;
mod reported;
mod ring;
mod shares;
mod slow_start;
mod stride;
mod subsetting;
mod tiers;
mod view;

pub use custom::{Balance, Candidates, MakeBalance, PickRequest};
pub use endpoint::{Endpoint, InFlight, State};
pub use fleet::Fleet;
pub use orca::LoadReport;
pub(crate) use pick_first::order as pick_first_order;
pub use picker::{Chosen, News, Pick, Picker};
pub use view::{Census, Outlook};

use std::fmt::Write as _;

use self::keys::Keys;
use crate::model;

/// The places of the `size` endpoints that a mesh with this `seed` uses (gRFC A68).
pub(crate) fn subset(endpoints: &[&model::Endpoint], size: usize, seed: u64) -> Vec<u32> {
    subsetting::choose(&keys_of(endpoints.iter().map(|endpoint| &endpoint.address)), size, seed)
}

/// What endpoints are hashed by: their addresses.
fn keys_of<'a>(mut addresses: impl ExactSizeIterator<Item = &'a model::Address>) -> Keys {
    Keys::new(addresses.len(), |_, text| {
        // Writing to a `String` does not fail.
        let _ = addresses.next().map(|address| write!(text, "{address}"));
    })
}
