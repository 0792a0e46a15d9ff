use std::sync::Arc;

use rand::{Rng, RngExt};

use super::{Action, Route, Snapshot, Split, Target, Transport, VirtualHost};
use crate::matching::RequestHead;
use crate::model::Fraction;

/// Where a request goes.
#[derive(Debug)]
pub struct Routed<'a> {
    /// The virtual host its authority selected.
    pub virtual_host: &'a Arc<VirtualHost>,
    /// The route that matched.
    pub route: &'a Route,
    /// Its index in the virtual host.
    pub route_index: u32,
    /// The backend that was drawn.
    pub target: &'a Target,
}

/// Why a request goes nowhere.
#[derive(Debug)]
#[non_exhaustive]
pub enum RouteError<'a> {
    /// No virtual host claims the authority.
    UnknownService,
    /// No route of this virtual host matches.
    NoRoute(&'a Arc<VirtualHost>),
    /// The route that matches asks for something this version cannot do.
    Unsupported(&'a Arc<VirtualHost>, &'a Arc<str>),
}

impl<T: Transport> Snapshot<T> {
    /// The way of a request.
    ///
    /// Allocates nothing; the time does not depend on the number of hosts, nor on the number of exact and prefix routes.
    ///
    /// # Errors
    /// A [`RouteError`] that says where the search ended.
    pub fn route<R: Rng>(&self, head: &RequestHead<'_>, rng: &mut R) -> Result<Routed<'_>, RouteError<'_>> {
        let virtual_host = self.virtual_host(head.authority).ok_or(RouteError::UnknownService)?;
        virtual_host.route(head, rng)
    }
}

impl VirtualHost {
    /// The way of a request that belongs here, whatever its authority.
    ///
    /// # Errors
    /// A [`RouteError`] that says where the search ended.
    pub fn route<'a, R: Rng>(
        self: &'a Arc<Self>,
        head: &RequestHead<'_>,
        rng: &mut R,
    ) -> Result<Routed<'a>, RouteError<'a>> {
        let virtual_host = self;
        let draw = || rng.random_range(0..Fraction::DENOMINATOR);
        let (route_index, route) = virtual_host.find(head, draw).ok_or(RouteError::NoRoute(virtual_host))?;
        match &route.action {
            Action::Forward(split) => Ok(Routed { virtual_host, route, route_index, target: split.draw(rng) }),
            Action::Unsupported(what) => Err(RouteError::Unsupported(virtual_host, what)),
        }
    }

    /// The first route that matches. `draw` gives a number in `0..1_000_000` for each fraction that is tested.
    pub(super) fn find(&self, head: &RequestHead<'_>, draw: impl FnMut() -> u32) -> Option<(u32, &Route)> {
        let index = self.table.find(head, draw)?;
        Some((index, &self.routes[index as usize]))
    }
}

impl Split {
    /// A target, in proportion to the weights.
    fn draw<R: Rng>(&self, rng: &mut R) -> &Target {
        if let [only] = &*self.targets {
            return only;
        }
        let total = self.bounds.last().copied().unwrap_or_default();
        let draw = rng.random_range(0..total.max(1));
        let index = self.bounds.partition_point(|bound| *bound <= draw);
        &self.targets[index.min(self.targets.len() - 1)]
    }
}
