//! How a backend chooses among its endpoints.

use std::sync::Arc;
use std::time::Duration;

/// How a backend chooses among its ready endpoints.
///
/// Every policy gives an endpoint a share by its [weight](super::Endpoint::weight), but `PickFirst` and
/// `WeightedRoundRobin`, which has the reported ones; `Custom` does as it likes.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub enum LoadBalancer {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// At random.
    Random,
    /// `choice_count` endpoints at random, then the one with the fewest requests in flight for its weight (gRFC A48).
    /// Range 2..=10.
    ///
    /// Endpoints of equal weight are drawn without replacement, unlike in gRFC A48, so that none is compared with itself
    /// only; if the best two have equally many, one more is drawn.
    LeastRequest {
        /// How many endpoints are compared.
        choice_count: u32,
    },
    /// Two endpoints at random, of equal weight two different ones, then the one with the smaller product of latency and
    /// requests in flight (Finagle's and Linkerd's peak EWMA).
    PeakEwma(PeakEwma),
    /// In turn by weights that the endpoints report (gRFC A58). Until two of them have, it is round robin.
    WeightedRoundRobin(WeightedRoundRobin),
    /// Requests of one hash go to one endpoint; few of them move when endpoints come and go (gRFC A42).
    RingHash(RingHash),
    /// Requests of one hash go to one endpoint, by Google's Maglev table: all endpoints of a weight get the same share,
    /// and somewhat more requests move than with a ring.
    Maglev(Maglev),
    /// The first that can be connected, and no other one while it lasts (gRFC A62). Address families take turns, and
    /// the next endpoint is tried 250 ms after the one before, or once that failed (gRFC A61, RFC 8305). Priorities are
    /// tried one after the other; outlier detection and health checks do not move it (gRFC A50, A61).
    PickFirst {
        /// Whether the order is drawn anew for each list of endpoints, which spreads clients.
        shuffle: bool,
    },
    /// A policy of the application, by the name it was registered under.
    Custom(Arc<str>),
}

/// The parameters of [`LoadBalancer::PeakEwma`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeakEwma {
    /// How fast a peak is forgotten: after this time 1/e of it is left. Default 10 s (Linkerd's). More than 0.
    pub decay: Duration,
    /// The latency that is assumed of an endpoint while its first answer is under way. Default 30 ms (Linkerd's).
    pub default_latency: Duration,
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self { decay: Duration::from_secs(10), default_latency: Duration::from_millis(30) }
    }
}

/// The parameters of [`LoadBalancer::WeightedRoundRobin`] (gRFC A58, A114).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct WeightedRoundRobin {
    /// Whether reports come over a stream of their own (`OpenRcaService`) and not with responses. Default no.
    pub out_of_band: bool,
    /// How often endpoints are asked to report out of band. Default 10 s.
    pub out_of_band_period: Duration,
    /// How long an endpoint reports before its weight counts. Default 10 s; 0 is at once.
    pub blackout_period: Duration,
    /// After how long without a report a weight no longer counts. Default 180 s.
    pub weight_expiration_period: Duration,
    /// How often weights are put to use. Default 1 s, at least 100 ms.
    pub weight_update_period: Duration,
    /// How much errors lower a weight, not negative. Default 1.0.
    pub error_utilization_penalty: f64,
    /// Which reported metrics make the utilization, the greatest of them; without one the application's, else the
    /// CPU's. `cpu_utilization`, `mem_utilization`, `application_utilization`, `named_metrics.KEY`,
    /// `utilization.KEY` (gRFC A114).
    pub utilization_metrics: Vec<Arc<str>>,
}

impl Default for WeightedRoundRobin {
    fn default() -> Self {
        Self {
            out_of_band: false,
            out_of_band_period: Duration::from_secs(10),
            blackout_period: Duration::from_secs(10),
            weight_expiration_period: Duration::from_secs(180),
            weight_update_period: Duration::from_secs(1),
            error_utilization_penalty: 1.0,
            utilization_metrics: Vec::new(),
        }
    }
}

/// The parameters of [`LoadBalancer::RingHash`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RingHash {
    /// The least entries of the ring. Default 1024, at most `max_size`.
    pub min_size: u32,
    /// The most entries of the ring. Default 4096, at most 8,388,608.
    pub max_size: u32,
}

impl RingHash {
    /// The largest ring (Envoy's bound).
    pub const MAX_SIZE: u32 = 8_388_608;
}

impl Default for RingHash {
    fn default() -> Self {
        Self { min_size: 1024, max_size: 4096 }
    }
}

/// The parameters of [`LoadBalancer::Maglev`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Maglev {
    /// The entries of the table: a prime of at most 5,000,011, and better a hundred times the endpoints. Default 65537.
    pub table_size: u32,
}

impl Maglev {
    /// The largest table (Envoy's bound).
    pub const MAX_TABLE_SIZE: u32 = 5_000_011;
}

impl Default for Maglev {
    fn default() -> Self {
        Self { table_size: 65_537 }
    }
}

/// How an endpoint that just became ready comes up to its full share: its weight is scaled by
/// `max(min_weight_percent / 100, (t / window)^(1 / aggression))` (Envoy's slow start).
///
/// Not with `pick_first`, hashes and custom balancers.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SlowStart {
    /// How long it takes. More than 0.
    pub window: Duration,
    /// How fast it grows; 1.0 is a straight line, above it grows faster at first. More than 0. Default 1.0.
    pub aggression: f64,
    /// The share it begins with, in percent, 0..=100. Default 10.
    pub min_weight_percent: f64,
}

impl SlowStart {
    /// A straight line from 10 % over `window`.
    pub fn new(window: Duration) -> Self {
        Self { window, aggression: 1.0, min_weight_percent: 10.0 }
    }
}

/// How requests are divided among the localities and priorities of a backend.
///
/// An endpoint is *available* unless it is failing, ejected, or unhealthy by a health check or its source. Priority 0
/// gets what it can carry, `min(100 %, available share x overprovisioning factor)`, the next one of the rest, and so
/// on; within a priority localities share by weight, each scaled in the same way (Envoy's priority levels and locality
/// weighted balancing).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalityPolicy {
    /// In percent, at least 100. Default 140: while 72 % of a priority are available, it gets everything. `None`: a
    /// priority gets everything as long as one of its endpoints is available (gRPC's, gRFC A56).
    pub overprovisioning_factor: Option<u32>,
    /// If fewer than this share of a priority's endpoints are available and no other priority can take its place,
    /// requests go to all of them, whatever their health: an unlikely success is better than a sure failure. In percent,
    /// 0..=100. Default 0: only to those that are available (gRPC's; Envoy has 50).
    pub panic_threshold: u32,
    /// How long a priority may take to connect before the next one takes its place. Default 10 s (gRFC A56).
    pub failover_timeout: Duration,
    /// Whether endpoints near this process come first, and how near. It needs a locality of the process, in
    /// [`Settings::locality`](super::Settings::locality). Default no.
    pub prefer: Option<Proximity>,
}

impl Default for LocalityPolicy {
    fn default() -> Self {
        Self {
            overprovisioning_factor: Some(140),
            panic_threshold: 0,
            failover_timeout: Duration::from_secs(10),
            prefer: None,
        }
    }
}

/// How near endpoints come before others. Each step away is a priority of its own, behind the one before, so that
/// requests go on to the next step where the nearest cannot carry them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Proximity {
    /// The own region, then the others.
    Region,
    /// The own zone, then the own region, then the others.
    Zone,
    /// The own sub-zone, then the own zone, and so on.
    SubZone,
}
