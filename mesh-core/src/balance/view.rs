//! Which endpoints serve right now, and what each gets: made anew whenever an endpoint changes.

use std::time::Instant;

use super::alias::Alias;
use super::picker::{Picker, Policy};
use super::shares::{self, ALL, Part};
use super::stride::{self, Stride};
use super::tiers::Group;
use super::{Endpoint, State, slow_start};
use crate::resilience::outlier::Standing;

/// Endpoints as they were when somebody looked.
#[derive(Debug, Default)]
pub(super) struct View {
    /// The changes it knows of.
    pub(super) version: u64,
    pub(super) built: Option<Instant>,
    /// When it has to be made anew although nothing changed.
    pub(super) until: Option<Instant>,
    /// What each priority gets, of [`ALL`].
    pub(super) loads: Box<[u64]>,
    /// The groups that get something, with the sum of the shares up to each.
    pub(super) shares: Box<[(u64, u32)]>,
    /// Those that are ready, group by group.
    pub(super) ready: Box<[Members]>,
    /// Those that are ready and wait for one request to show that they are well.
    pub(super) probing: Box<[u32]>,
    /// Those that may be connected: of the priorities that get something, and those that are to be probed.
    pub(super) idle: Box<[u32]>,
    /// How many are being connected.
    pub(super) connecting: u32,
    pub(super) outlook: Outlook,
    /// Priorities that are served whatever the health of their endpoints.
    pub(super) panicking: Box<[bool]>,
    pub(super) first: Option<u32>,
}

impl View {
    pub(super) fn panics(&self) -> bool {
        self.panicking.iter().any(|panics| *panics)
    }
}

/// What there is to hope for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outlook {
    /// Some endpoint is ready.
    Ready,
    /// None is, and some may become so.
    Open,
    /// None is, and none may become so soon.
    Failing,
    /// There is no endpoint that may be picked.
    #[default]
    Empty,
}

/// Endpoints to choose among.
#[derive(Debug, Default)]
pub(super) struct Members {
    pub(super) list: Box<[u32]>,
    pub(super) shares: Shares,
}

/// What each of some endpoints gets.
#[derive(Debug, Default)]
pub(super) enum Shares {
    #[default]
    Equal,
    InTurn(Stride),
    AtRandom(Alias),
}

impl<T> Picker<T> {
    pub(super) fn look(&self, version: u64, now: Instant) -> View {
        let mut seen = Seen { until: None, idle: Vec::new(), dormant: Vec::new(), probing: Vec::new(), connecting: 0, open: false };
        let tiers = &self.tiers.tiers;
        let mut ready: Vec<Vec<u32>> = Vec::with_capacity(self.tiers.groups.len());
        let mut idle_of = Vec::with_capacity(tiers.len());
        let mut parts = Vec::with_capacity(self.tiers.groups.len());
        let mut capacities = Vec::with_capacity(tiers.len());
        let mut wholes = Vec::with_capacity(tiers.len());
        for tier in tiers {
            let mut whole = Part { available: 0, total: tier.unhealthy };
            let from = seen.idle.len();
            for group in &self.tiers.groups[tier.groups.clone()] {
                let (part, members) = self.look_at(group, &mut seen, now);
                whole.available += part.available;
                whole.total += part.total;
                parts.push(part);
                ready.push(members);
            }
            idle_of.push(from..seen.idle.len());
            capacities.push(whole.capacity(self.localities.overprovisioning_factor));
            wholes.push(whole);
        }
        let mut loads = shares::loads(&capacities);
        let strained = capacities.iter().sum::<u64>() < ALL;
        let panicking: Box<[bool]> =
            wholes.iter().map(|whole| strained && whole.is_below(self.localities.panic_threshold)).collect();
        if loads.iter().all(|load| *load == 0)
            && let Some(first) = panicking.iter().position(|panics| *panics)
        {
            loads[first] = ALL;
        }
        for (tier, _) in tiers.iter().zip(&panicking).filter(|(_, panics)| **panics) {
            for index in tier.groups.clone() {
                let group = &self.tiers.groups[index];
                ready[index] =
                    group.members.iter().copied().filter(|at| self.at(*at).state() == State::Ready).collect();
                parts[index].available = parts[index].total;
            }
        }
        let shares = self.shares(&loads, &parts);
        let in_use = |tier: &usize| loads[*tier] > 0;
        let idle = (0..tiers.len()).filter(in_use).flat_map(|tier| seen.idle[idle_of[tier].clone()].to_vec());
        let idle = idle.chain(seen.dormant.iter().copied()).collect();
        let first = loads.iter().position(|load| *load > 0).map(|tier| tiers[tier].priority);
        let outlook = match () {
            () if shares.iter().any(|(_, group)| !ready[*group as usize].is_empty()) => Outlook::Ready,
            () if tiers.is_empty() => Outlook::Empty,
            () if seen.open => Outlook::Open,
            () => Outlook::Failing,
        };
        let ready = ready.into_iter().map(|list| self.members(list, &mut seen, now)).collect();
        View {
            version,
            built: Some(now),
            until: seen.until,
            loads: loads.into(),
            shares,
            ready,
            probing: seen.probing.into(),
            idle,
            connecting: seen.connecting,
            outlook,
            panicking,
            first,
        }
    }

    /// How much of `group` is available, and who is ready.
    fn look_at(&self, group: &Group, seen: &mut Seen, now: Instant) -> (Part, Vec<u32>) {
        let mut part = Part { available: 0, total: group.members.len().try_into().unwrap_or(u32::MAX) };
        let mut ready = Vec::with_capacity(group.members.len());
        // An endpoint may take its time to connect only if the others, too, have nothing to offer.
        let mut late = 0;
        for at in &group.members {
            let endpoint = self.at(*at);
            let state = endpoint.state();
            if state == State::Connecting {
                seen.connecting += 1;
            }
            if state == State::Failing || !endpoint.is_healthy() {
                continue;
            }
            match endpoint.standing() {
                Standing::Active => {}
                Standing::HalfOpen => {
                    match state {
                        State::Ready => seen.probing.push(*at),
                        State::Idle => seen.dormant.push(*at),
                        _ => {}
                    }
                    seen.open = true;
                    continue;
                }
                _ => continue,
            }
            part.available += 1;
            match state {
                State::Ready => ready.push(*at),
                State::Idle => {
                    seen.idle.push(*at);
                    seen.open = true;
                }
                _ => {
                    seen.open = true;
                    let at = endpoint.since() + self.localities.failover_timeout;
                    if at > now { seen.again(at) } else { late += 1 }
                }
            }
        }
        if ready.is_empty() {
            part.available -= late;
        }
        (part, ready)
    }

    /// What each group gets, of those that get something.
    fn shares(&self, loads: &[u64], parts: &[Part]) -> Box<[(u64, u32)]> {
        let mut shares = Vec::with_capacity(parts.len());
        let mut bound = 0_u64;
        for (tier, load) in self.tiers.tiers.iter().zip(loads).filter(|(_, load)| **load > 0) {
            let weight = |index: usize| {
                let capacity = parts[index].capacity(self.localities.overprovisioning_factor);
                u64::from(self.tiers.groups[index].weight) * capacity
            };
            let sum: u64 = tier.groups.clone().map(weight).sum();
            for index in tier.groups.clone().filter(|index| weight(*index) > 0) {
                // Scaled so that the smallest locality weight still shows.
                bound += (u128::from(*load) * u128::from(weight(index)) * (1 << 32) / u128::from(sum)) as u64;
                shares.push((bound, index as u32));
            }
        }
        shares.into()
    }

    fn members(&self, list: Vec<u32>, seen: &mut Seen, now: Instant) -> Members {
        if list.len() < 2 {
            return Members { list: list.into(), shares: Shares::Equal };
        }
        let shares = match &self.policy {
            Policy::PickFirst | Policy::Ring(_) | Policy::Maglev(_) | Policy::Custom(_) => Shares::Equal,
            Policy::Reported(policy) => {
                seen.again(now + policy.weight_update_period);
                let mut weights: Vec<f64> = list
                    .iter()
                    .map(|at| {
                        self.at(*at).reported().and_then(|reported| self.reported(reported, now, policy)).unwrap_or(0.0)
                    })
                    .collect();
                let usable = stride::fill(&mut weights);
                self.warm_up(&list, &mut weights, seen, now);
                if usable { in_turn(&weights) } else { Shares::Equal }
            }
            policy => {
                let mut weights: Vec<f64> = list.iter().map(|at| f64::from(self.weight(*at))).collect();
                let warms_up = self.warm_up(&list, &mut weights, seen, now);
                if self.weights.is_none() && !warms_up {
                    Shares::Equal
                } else if matches!(policy, Policy::RoundRobin) {
                    in_turn(&weights)
                } else {
                    // In thousandths, so that slow start shows.
                    let weights: Vec<u64> = weights.iter().map(|weight| (weight * 1e3) as u64).collect();
                    Alias::new(&weights).map_or(Shares::Equal, Shares::AtRandom)
                }
            }
        };
        Members { list: list.into(), shares }
    }

    /// Scales the weights of endpoints that just became ready; returns whether there are any.
    fn warm_up(&self, list: &[u32], weights: &mut [f64], seen: &mut Seen, now: Instant) -> bool {
        let Some(policy) = &self.slow_start else { return false };
        let mut warms_up = false;
        for (at, weight) in list.iter().zip(weights) {
            let since = self.at(*at).since();
            let ready_for = now.saturating_duration_since(since);
            if let Some(next) = slow_start::next_change(policy, ready_for) {
                warms_up = true;
                *weight *= slow_start::scale(policy, ready_for);
                seen.again(since + next);
            }
        }
        warms_up
    }
}

fn in_turn(weights: &[f64]) -> Shares {
    Stride::new(weights).map_or(Shares::Equal, Shares::InTurn)
}

/// What comes up on the way.
struct Seen {
    until: Option<Instant>,
    idle: Vec<u32>,
    /// Those that are to be probed, and have to be connected for that.
    dormant: Vec<u32>,
    probing: Vec<u32>,
    connecting: u32,
    /// Whether an endpoint may become ready.
    open: bool,
}

impl Seen {
    fn again(&mut self, at: Instant) {
        self.until = Some(self.until.map_or(at, |until| until.min(at)));
    }
}

/// What the endpoints of a backend are at, for error texts: `2 ejected, 1 connecting`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Census {
    /// Those that could serve.
    pub ready: u32,
    /// Those that could be connected.
    pub idle: u32,
    /// Those that are being connected.
    pub connecting: u32,
    /// Those that cannot be connected.
    pub failing: u32,
    /// Those that outlier detection keeps out.
    pub ejected: u32,
    /// Those that answer health checks badly, or that their source calls unhealthy.
    pub unhealthy: u32,
    /// Those that their source takes out, or gives no weight.
    pub out_of_use: u32,
}

impl Census {
    pub(super) fn count<T>(&mut self, endpoint: &Endpoint<T>) {
        let place = match endpoint.state() {
            State::Failing => &mut self.failing,
            _ if endpoint.standing() != Standing::Active => &mut self.ejected,
            _ if !endpoint.is_healthy() => &mut self.unhealthy,
            State::Ready => &mut self.ready,
            State::Idle => &mut self.idle,
            State::Connecting => &mut self.connecting,
        };
        *place += 1;
    }
}

impl std::fmt::Display for Census {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            (self.failing, "failing"),
            (self.ejected, "ejected"),
            (self.unhealthy, "unhealthy"),
            (self.connecting, "connecting"),
            (self.idle, "idle"),
            (self.ready, "ready"),
            (self.out_of_use, "out of use"),
        ];
        let mut first = true;
        for (count, what) in parts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{}{count} {what}", if first { "" } else { ", " })?;
            first = false;
        }
        if first { f.write_str("none") } else { Ok(()) }
    }
}
