//! Choosing among the endpoints that are ready, by the policies that do not go by hashes.

use std::sync::atomic::Ordering;

use rand::{Rng, RngExt};

use super::picker::{NOWHERE, Picker, Policy};
use super::view::{Members, Shares, View};
use super::{Candidates, PickRequest};
use crate::model::Address;

/// The most endpoints that a policy compares: of what [`LoadBalancer::LeastRequest`] is told.
///
/// [`LoadBalancer::LeastRequest`]: crate::model::LoadBalancer::LeastRequest
const MAX_CHOICES: usize = 10;

impl<T> Picker<T> {
    /// An endpoint that is usable, as the policy likes.
    pub(super) fn choose<R: Rng>(
        &self,
        view: &View,
        request: &PickRequest,
        usable: impl Fn(u32) -> bool,
        rng: &mut R,
    ) -> Option<u32> {
        match &self.policy {
            Policy::Custom(custom) => {
                let usable = |at: u32| self.is_in_use(view, custom.groups[at as usize], at) && usable(at);
                let candidates = Choices { picker: self, usable: &usable };
                // Asked only if there is something to choose.
                let any = self.in_shares(view, rng, |group, rng| self.draw(&view.ready[group], &usable, rng))?;
                let chosen = custom.policy.pick(&candidates, request, rng).and_then(|at| u32::try_from(at).ok());
                Some(chosen.filter(|at| (*at as usize) < self.endpoints.len() && usable(*at)).unwrap_or(any))
            }
            Policy::PickFirst => view
                .shares
                .iter()
                .find_map(|(_, group)| view.ready[*group as usize].list.iter().copied().find(|at| usable(*at))),
            _ => {
                self.in_shares(view, rng, |group, rng| self.choose_in(group, &view.ready[group], request, &usable, rng))
            }
        }
    }

    /// Whether requests may go to the endpoint of this group.
    fn is_in_use(&self, view: &View, group: u32, at: u32) -> bool {
        if group == NOWHERE {
            return false;
        }
        let tier = self.tiers.tiers.partition_point(|tier| tier.groups.end <= group as usize);
        view.loads[tier] > 0 && (view.panicking[tier] || self.is_available(at))
    }

    /// Asks the group whose turn it is and, where that has nothing, the others.
    fn in_shares<R: Rng>(
        &self,
        view: &View,
        rng: &mut R,
        mut choose: impl FnMut(usize, &mut R) -> Option<u32>,
    ) -> Option<u32> {
        match &*view.shares {
            [] => None,
            [(_, only)] => choose(*only as usize, rng),
            shares @ [.., (sum, _)] => {
                let point = rng.random_range(0..*sum);
                let drawn = shares.partition_point(|(bound, _)| *bound <= point);
                let order = std::iter::once(drawn).chain((0..shares.len()).filter(|at| *at != drawn));
                order.into_iter().find_map(|at| choose(shares[at].1 as usize, rng))
            }
        }
    }

    fn choose_in<R: Rng>(
        &self,
        group: usize,
        members: &Members,
        request: &PickRequest,
        usable: &impl Fn(u32) -> bool,
        rng: &mut R,
    ) -> Option<u32> {
        match &self.policy {
            Policy::RoundRobin | Policy::Reported(_) => self.turn(group, members, usable),
            Policy::LeastRequest { choices } => {
                self.best(members, *choices, usable, rng, |at| f64::from(self.at(at).in_flight()) / self.share(at))
            }
            Policy::PeakEwma(policy) => {
                self.best(members, 2, usable, rng, |at| self.at(at).cost(request.now, policy, self.share(at)))
            }
            _ => self.draw(members, usable, rng),
        }
    }

    /// The next usable endpoint in turn. Each one passed over takes a turn of its own, so that its share is divided
    /// among all the others and not given to its neighbour.
    fn turn(&self, group: usize, members: &Members, usable: &impl Fn(u32) -> bool) -> Option<u32> {
        let next = &self.tiers.groups[group].next;
        let list = &members.list;
        for _ in 0..list.len() {
            let at = match &members.shares {
                Shares::InTurn(stride) => list[stride.pick(next) as usize],
                _ => list[next.fetch_add(1, Ordering::Relaxed) as usize % list.len()],
            };
            if usable(at) {
                return Some(at);
            }
        }
        // Other requests took turns in between; whoever is usable serves.
        list.iter().copied().find(|at| usable(*at))
    }

    /// Some usable endpoints at random, and of them the one that costs the least; if that is more than nothing and another
    /// costs the same, one more has a chance to cost less.
    ///
    /// Of equal shares they are different ones. gRFC A48 draws with replacement, and then one of three endpoints is
    /// compared with itself for a ninth of the requests and gets them however slow it is, so that the p99 of the backend
    /// is the latency of its slowest endpoint, whatever the policy. Of unequal shares they are drawn by weight, so that of
    /// those that cost the same each has its share, and a small one is not compared with all that is drawn.
    fn best<R: Rng>(
        &self,
        members: &Members,
        choices: u32,
        usable: &impl Fn(u32) -> bool,
        rng: &mut R,
        cost: impl Fn(u32) -> f64,
    ) -> Option<u32> {
        let choices = (choices as usize).min(MAX_CHOICES);
        let mut best = self.draw(members, usable, rng)?;
        let (mut least, mut tied) = (cost(best), false);
        let mut drawn = [best; MAX_CHOICES + 1];
        for count in 1..=choices {
            if count == choices && !(tied && least > 0.0) {
                break;
            }
            let others = |at: u32| !drawn[..count].contains(&at) && usable(at);
            let other = match members.shares {
                Shares::Equal => self.draw(members, &others, rng),
                _ => self.draw(members, usable, rng),
            };
            let Some(other) = other else { break };
            drawn[count] = other;
            if other != best {
                let costs = cost(other);
                tied = costs == least || tied && costs > least;
                if costs < least {
                    (best, least) = (other, costs);
                }
            }
        }
        Some(best)
    }

    /// A usable endpoint at random.
    fn draw<R: Rng>(&self, members: &Members, usable: &impl Fn(u32) -> bool, rng: &mut R) -> Option<u32> {
        let list = &members.list;
        if list.is_empty() {
            return None;
        }
        // With most endpoints usable the first draw hits; drawing anew keeps the distribution.
        for _ in 0..4 {
            let at = match &members.shares {
                Shares::AtRandom(alias) => list[alias.draw(rng) as usize],
                _ => list[rng.random_range(0..list.len())],
            };
            if usable(at) {
                return Some(at);
            }
        }
        let start = rng.random_range(0..list.len());
        list[start..].iter().chain(&list[..start]).copied().find(|at| usable(*at))
    }
}

struct Choices<'a, T, F> {
    picker: &'a Picker<T>,
    usable: &'a F,
}

impl<T, F: Fn(u32) -> bool> Candidates for Choices<'_, T, F> {
    fn len(&self) -> usize {
        self.picker.endpoints.len()
    }

    fn address(&self, index: usize) -> &Address {
        self.picker.endpoints[index].address()
    }

    fn weight(&self, index: usize) -> u32 {
        self.picker.weight(index as u32)
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.picker.endpoints[index].in_flight()
    }

    fn is_usable(&self, index: usize) -> bool {
        (self.usable)(index as u32)
    }
}
