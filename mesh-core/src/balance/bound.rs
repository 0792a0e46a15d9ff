//! Requests of a session that has its endpoint already (gRFC A55, A75).

use std::sync::Arc;

use super::picker::{Chosen, Pick, Picker, is_in};
use super::{Endpoint, State};
use crate::model::{self, Address, Health};

impl<T> Picker<T> {
    /// The endpoint at `address`, for a request of a session that is bound to it; `None` where the balancer is to choose:
    /// it is not there, is in `tried` or cannot serve.
    ///
    /// One that drains serves its sessions. One that is not connected yet is [waited for](Pick::Await), but where
    /// endpoints are connected in order: there the first that is ready serves all.
    pub fn pick_bound(&self, address: &Address, tried: &[Arc<Endpoint<T>>]) -> Option<Pick<'_, T>> {
        let at = self.place_of(address)?;
        let endpoint = self.at(at);
        if self.barred.binary_search(&at).is_ok() || is_in(tried, endpoint) || !endpoint.is_available() {
            return None;
        }
        match endpoint.state() {
            State::Ready => Some(Pick::Ready(Chosen { endpoint, probes: false, sleeper: None })),
            State::Idle | State::Connecting if !self.connects_in_order() => Some(Pick::Await(endpoint)),
            State::Idle | State::Connecting | State::Failing => None,
        }
    }
}

/// Whether not even a session reaches the endpoint.
pub(super) fn is_barred(endpoint: &model::Endpoint) -> bool {
    !endpoint.has_weight() || endpoint.health == Health::Unhealthy
}
