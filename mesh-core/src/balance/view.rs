//! Which endpoints serve right now, and what each gets: made anew whenever an endpoint changes.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::alias::Alias;
use super::picker::{News, Picker, Policy, telling};
use super::shares::{self, ALL, Part};
use super::stride::{self, Stride};
use super::tiers::{Group, Tier};
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
    /// Those of the priorities that get something.
    pub(super) asleep: Asleep,
    /// Those that get nothing and should be there: of better priorities, and those that a request is to probe.
    pub(super) missed: Asleep,
    pub(super) outlook: Outlook,
    /// Priorities that are served whatever the health of their endpoints.
    pub(super) panicking: Box<[bool]>,
    /// The priority and the distance of the first that get something.
    pub(super) first: Option<(u32, u32)>,
}

/// Endpoints that are not connected.
#[derive(Debug, Default)]
pub(super) struct Asleep {
    /// Those that may be.
    pub(super) idle: Box<[u32]>,
    /// How many are just being connected.
    pub(super) connecting: u32,
    /// How many requests that went elsewhere woke since.
    woken: AtomicU32,
}

impl Asleep {
    /// How many more may be connected so that it is `most` at once.
    pub(super) fn room(&self, most: u32) -> u32 {
        most.saturating_sub(self.connecting).saturating_sub(self.woken.load(Ordering::Relaxed))
    }

    /// One is woken.
    pub(super) fn wake(&self) {
        self.woken.fetch_add(1, Ordering::Relaxed);
    }
}

impl View {
    pub(super) fn panics(&self) -> bool {
        self.panicking.iter().any(|panics| *panics)
    }

    pub(super) fn news(&self) -> News {
        let (priority, distance) = self.first.unzip();
        News { priority, distance: distance.unwrap_or_default(), panics: self.panics() }
    }

    pub(super) fn telling(&self) -> u64 {
        telling(self.first, self.panics())
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
        let tiers = &self.tiers.tiers;
        let mut seen = Seen::default();
        let mut parts = Vec::with_capacity(self.tiers.groups.len());
        let mut ready = Vec::with_capacity(self.tiers.groups.len());
        let mut sights = Vec::with_capacity(tiers.len());
        for tier in tiers {
            let mut sight = Sight::default();
            for group in &self.tiers.groups[tier.groups.clone()] {
                let (part, members) = self.look_at(group, &mut sight, &mut seen);
                sight.whole.available += part.available;
                sight.whole.total += part.total;
                sight.ready |= !members.is_empty();
                parts.push(part);
                ready.push(members);
            }
            sight.overdue = self.is_overdue(tier, &sight, &mut seen, now);
            sights.push(sight);
        }

        let capacities = self.capacities(&sights);
        let mut loads = shares::loads(&capacities);
        let strained = capacities.iter().sum::<u64>() < ALL;
        let below = |sight: &Sight| strained && sight.whole.is_below(self.localities.panic_threshold);
        let panicking: Box<[bool]> = sights.iter().map(below).collect();
        for (tier, sight) in (0..tiers.len()).zip(&mut sights).filter(|(tier, _)| panicking[*tier]) {
            sight.idle.clear();
            for index in tiers[tier].groups.clone() {
                let group = &self.tiers.groups[index];
                ready[index] = group.all().filter(|at| self.at(*at).state() == State::Ready).collect();
                sight.ready |= !ready[index].is_empty();
                sight.idle.extend(group.all().filter(|at| self.at(*at).state() == State::Idle));
                parts[index].available = parts[index].total;
            }
            let connecting = |at: u32| self.at(at).state() == State::Connecting;
            let connects = tiers[tier].groups.clone().any(|index| self.tiers.groups[index].all().any(connecting));
            seen.open |= !sight.idle.is_empty() || connects;
        }
        if loads.iter().all(|load| *load == 0) {
            // Nobody is well: the first that is there at all or, if none is, that can be connected.
            let mut panicked = (0..tiers.len()).filter(|tier| panicking[*tier]);
            let there = panicked.clone().find(|tier| sights[*tier].ready);
            let near = || panicked.clone().find(|tier| !sights[*tier].idle.is_empty() || sights[*tier].connecting > 0);
            if let Some(first) = there.or_else(near).or_else(|| panicked.next()) {
                loads[first] = ALL;
            }
        }

        let shares = self.shares(&loads, &parts);
        let last = loads.iter().rposition(|load| *load > 0).unwrap_or(tiers.len());
        let nobody_ready = !sights.iter().any(|sight| sight.ready);
        let is_missed = |tier: &usize| loads[*tier] == 0 && (*tier < last || (nobody_ready && sights[*tier].overdue));
        let asleep = asleep(&sights, |tier| loads[*tier] > 0, Vec::new());
        let missed = self::asleep(&sights, is_missed, seen.to_probe);
        let outlook = match () {
            () if shares.iter().any(|(_, group)| !ready[*group as usize].is_empty()) => Outlook::Ready,
            () if tiers.is_empty() => Outlook::Empty,
            () if seen.open => Outlook::Open,
            () => Outlook::Failing,
        };
        let until = &mut seen.until;
        let ready = ready.into_iter().map(|list| self.members(list, until, now)).collect();
        View {
            version,
            built: Some(now),
            until: seen.until,
            first: loads.iter().position(|load| *load > 0).map(|tier| tiers[tier].key),
            loads: loads.into(),
            shares,
            ready,
            probing: seen.probing.into(),
            asleep,
            missed,
            outlook,
            panicking,
        }
    }

    /// How much of `group` is available, and who is ready.
    fn look_at(&self, group: &Group, sight: &mut Sight, seen: &mut Seen) -> (Part, Vec<u32>) {
        // Pick first has one endpoint and nobody to turn to (gRFC A50, A61).
        let heeds = !matches!(self.policy, Policy::PickFirst);
        let total = group.members.len() + group.unhealthy.len();
        let mut part = Part { available: 0, total: total.try_into().unwrap_or(u32::MAX) };
        let mut ready = Vec::with_capacity(group.members.len());
        for at in &group.members {
            let endpoint = self.at(*at);
            let state = endpoint.state();
            match state {
                State::Connecting => sight.connecting += 1,
                State::Failing => {
                    sight.failing = true;
                    continue;
                }
                State::Idle | State::Ready => {}
            }
            if heeds && !endpoint.is_healthy() {
                continue;
            }
            match endpoint.standing() {
                Standing::Active => {}
                _ if !heeds => {}
                Standing::HalfOpen => {
                    match state {
                        State::Ready => seen.probing.push(*at),
                        State::Idle => seen.to_probe.push(*at),
                        _ => {}
                    }
                    seen.open = true;
                    continue;
                }
                Standing::Ejected | Standing::Probing => continue,
            }
            part.available += 1;
            match state {
                State::Ready => ready.push(*at),
                State::Idle => sight.idle.push(*at),
                _ => {}
            }
            seen.open |= state != State::Ready;
        }
        (part, ready)
    }

    /// Whether `tier` has been connecting for so long, without a ready endpoint, that others take its place. The time
    /// runs from the first attempt after it was last ready (gRFC A56); that single attempts fail does not end it.
    fn is_overdue(&self, tier: &Tier, sight: &Sight, seen: &mut Seen, now: Instant) -> bool {
        if sight.ready || (sight.connecting == 0 && !sight.failing) {
            tier.trying.store(0, Ordering::Relaxed);
            return false;
        }
        let since = match tier.trying.load(Ordering::Relaxed) {
            0 if sight.connecting == 0 => return false,
            0 => {
                let since = self.fleet.nanos(now).saturating_add(1);
                tier.trying.store(since, Ordering::Relaxed);
                since
            }
            since => since,
        };
        let over = self.fleet.at_nanos(since - 1) + self.localities.failover_timeout;
        if now < over {
            again(&mut seen.until, over);
        }
        now >= over
    }

    /// What each priority can carry, of [`ALL`].
    fn capacities(&self, sights: &[Sight]) -> Vec<u64> {
        let factor = self.localities.overprovisioning_factor;
        let capacity = |sight: &Sight| if sight.overdue { 0 } else { sight.whole.capacity(factor) };
        let capacities: Vec<_> = sights.iter().map(capacity).collect();
        if capacities.iter().any(|capacity| *capacity > 0) {
            return capacities;
        }
        // gRFC A56: where none is any better, those that still connect are waited for.
        sights.iter().map(|sight| sight.whole.capacity(factor)).collect()
    }

    /// What each group gets, of those that get something.
    fn shares(&self, loads: &[u64], parts: &[Part]) -> Box<[(u64, u32)]> {
        let mut shares = Vec::with_capacity(parts.len());
        let mut bound = 0_u64;
        for (tier, load) in self.tiers.tiers.iter().zip(loads).filter(|(_, load)| **load > 0) {
            let weight = |index: usize| {
                let capacity = parts[index].capacity(self.localities.overprovisioning_factor);
                u128::from(self.tiers.groups[index].weight) * u128::from(capacity)
            };
            let sum: u128 = tier.groups.clone().map(weight).sum();
            for index in tier.groups.clone().filter(|index| weight(*index) > 0) {
                // Scaled so that the smallest locality weight still shows.
                bound += (u128::from(*load) * weight(index) * (1 << 32) / sum) as u64;
                shares.push((bound, index as u32));
            }
        }
        shares.into()
    }

    fn members(&self, list: Vec<u32>, until: &mut Option<Instant>, now: Instant) -> Members {
        let shares = if list.len() < 2 { Shares::Equal } else { self.shares_of(&list, until, now) };
        Members { list: list.into(), shares }
    }

    fn shares_of(&self, list: &[u32], until: &mut Option<Instant>, now: Instant) -> Shares {
        match &self.policy {
            Policy::PickFirst | Policy::Ring(_) | Policy::Maglev(_) | Policy::Custom(_) => Shares::Equal,
            Policy::Reported(policy) => {
                again(until, now + policy.weight_update_period);
                let reported = |at: &u32| self.reported(self.at(*at).reported()?, now, policy);
                let mut weights: Vec<f64> = list.iter().map(|at| reported(at).unwrap_or(0.0)).collect();
                if !stride::fill(&mut weights) {
                    weights.fill(1.0);
                }
                self.warm_up(list, &mut weights, until, now);
                in_turn(&weights)
            }
            _ if self.weights.is_none() && self.slow_start.is_none() => Shares::Equal,
            policy => {
                let mut weights: Vec<f64> = list.iter().map(|at| f64::from(self.weight(*at))).collect();
                let warms_up = self.warm_up(list, &mut weights, until, now);
                if self.weights.is_none() && !warms_up {
                    Shares::Equal
                } else if matches!(policy, Policy::RoundRobin) {
                    in_turn(&weights)
                } else {
                    // In thousandths, so that slow start shows.
                    let weights: Vec<u64> = weights.iter().map(|weight| ((weight * 1e3) as u64).max(1)).collect();
                    Alias::new(&weights).map_or(Shares::Equal, Shares::AtRandom)
                }
            }
        }
    }

    /// Scales the weights of endpoints that just became ready; returns whether there are any.
    fn warm_up(&self, list: &[u32], weights: &mut [f64], until: &mut Option<Instant>, now: Instant) -> bool {
        let Some(policy) = &self.slow_start else { return false };
        // However many come up one after the other.
        let soonest = now + policy.window / 100;
        let mut warms_up = false;
        for (at, weight) in list.iter().zip(weights) {
            let (_, since) = self.at(*at).state_since();
            let ready_for = now.saturating_duration_since(since);
            if let Some(next) = slow_start::next_change(policy, ready_for) {
                warms_up = true;
                *weight *= slow_start::scale(policy, ready_for);
                again(until, (since + next).max(soonest));
            }
        }
        warms_up
    }
}

fn in_turn(weights: &[f64]) -> Shares {
    Stride::new(weights).map_or(Shares::Equal, Shares::InTurn)
}

/// The endpoints that are not connected, of the tiers that `which` names, and `others`.
fn asleep(sights: &[Sight], which: impl Fn(&usize) -> bool, others: Vec<u32>) -> Asleep {
    let (mut idle, mut connecting) = (others, 0);
    for (_, sight) in sights.iter().enumerate().filter(|(tier, _)| which(tier)) {
        idle.extend_from_slice(&sight.idle);
        connecting += sight.connecting;
    }
    Asleep { idle: idle.into(), connecting, woken: AtomicU32::new(0) }
}

/// A tier, as it is seen.
#[derive(Default)]
struct Sight {
    whole: Part,
    /// Those that may be connected.
    idle: Vec<u32>,
    connecting: u32,
    ready: bool,
    failing: bool,
    overdue: bool,
}

/// What comes up on the way.
#[derive(Default)]
struct Seen {
    until: Option<Instant>,
    probing: Vec<u32>,
    /// Those that have to be connected to be probed.
    to_probe: Vec<u32>,
    /// Whether an endpoint may become ready.
    open: bool,
}

fn again(until: &mut Option<Instant>, at: Instant) {
    *until = Some(until.map_or(at, |until| until.min(at)));
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
