//! Choosing an endpoint.
//!
//! An [`Endpoint`] is stable: it keeps its identity, its [`State`] and its counters through every update that names
//! its address again. A [`Picker`] is immutable: an update that changes a backend builds a new one over the old
//! endpoints. The transport owns the states; a balancer only reads them.

#[cfg_attr(not(test), allow(dead_code, reason = "the picker is built next"))]
mod alias;
mod custom;
mod endpoint;
#[cfg_attr(not(test), allow(dead_code, reason = "the picker is built next"))]
mod ewma;
#[cfg_attr(not(test), allow(dead_code, reason = "the picker is built next"))]
mod keys;
#[cfg_attr(not(test), allow(dead_code, reason = "the picker is built next"))]
mod maglev;
mod orca;
mod pick_first;
mod picker;
#[cfg_attr(not(test), allow(dead_code, reason = "the picker is built next"))]
mod reported;
#[cfg_attr(not(test), allow(dead_code, reason = "the picker is built next"))]
mod ring;
#[cfg_attr(not(test), allow(dead_code, reason = "the picker is built next"))]
mod slow_start;
#[cfg_attr(not(test), allow(dead_code, reason = "the picker is built next"))]
mod stride;
#[cfg_attr(not(test), allow(dead_code, reason = "the picker is built next"))]
mod subsetting;

pub use custom::{Balance, Candidates, MakeBalance, PickRequest};
pub use endpoint::{Endpoint, InFlight, State};
pub use orca::LoadReport;
pub(crate) use pick_first::order as pick_first_order;
pub use picker::{Pick, Picker};
