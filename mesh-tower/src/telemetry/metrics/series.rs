//! The counters of requests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mesh_core::observe::{Next, Outcome};
use opentelemetry::KeyValue;

use super::buckets::Recorder;
use super::instruments::{Distribution, Histograms};
use super::outcome::Protocol;
use super::table::Name;

/// The requests of one service, route and method.
#[derive(Debug)]
pub(crate) struct Series {
    pub(super) name: Name,
    /// By the number of their outcome.
    pub(super) requests: Box<[AtomicU64]>,
    pub(super) attempts: Box<[AtomicU64]>,
    pub(super) resends: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) hedges: AtomicU64,
    /// Retries that the budget did not allow.
    pub(super) denied: AtomicU64,
    pub(super) durations: Arc<Durations>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    pub(crate) duration: Duration,
    /// How often the retry policy tried again.
    pub(crate) retries: u32,
    /// How often it was sent again because no peer processed it.
    pub(crate) resends: u32,
    /// How many attempts were sent beside the first.
    pub(crate) hedges: u32,
    /// How long no attempt was under way.
    pub(crate) idle: Duration,
}

impl Series {
    pub(super) fn new(name: Name, durations: Arc<Durations>) -> Self {
        let outcomes = name.method.protocol().outcomes();
        let counters = || std::iter::repeat_with(AtomicU64::default).take(outcomes).collect();
        Self {
            name,
            requests: counters(),
            attempts: counters(),
            resends: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            hedges: AtomicU64::new(0),
            denied: AtomicU64::new(0),
            durations,
        }
    }

    /// An attempt begins.
    pub(crate) fn attempt_started(&self) {
        self.durations.started.fetch_add(1, Ordering::Relaxed);
    }

    /// An attempt ended.
    pub(crate) fn attempt_ended(&self, outcome: Outcome, duration: Duration, next: Next) {
        let number = self.name.method.protocol().number(outcome);
        self.attempts[number].fetch_add(1, Ordering::Relaxed);
        match next {
            Next::Resend => &self.resends,
            Next::Retry => &self.retries,
            Next::BudgetExhausted => &self.denied,
            _ => return self.durations.attempt(outcome, duration),
        }
        .fetch_add(1, Ordering::Relaxed);
        self.durations.attempt(outcome, duration);
    }

    /// An attempt is sent beside another one.
    pub(crate) fn hedged(&self) {
        self.hedges.fetch_add(1, Ordering::Relaxed);
    }

    /// An attempt was not sent because the budget did not allow it.
    pub(crate) fn denied(&self) {
        self.denied.fetch_add(1, Ordering::Relaxed);
    }

    /// The request ended.
    pub(crate) fn request_ended(&self, ended: &Ended) {
        let number = self.name.method.protocol().number(ended.outcome);
        self.requests[number].fetch_add(1, Ordering::Relaxed);
        self.durations.request(ended);
    }

    /// A number that changes whenever something is counted.
    pub(super) fn activity(&self) -> u64 {
        let counts = self.requests.iter().chain(&*self.attempts);
        counts.fold(0, |sum, count| sum.wrapping_add(count.load(Ordering::Relaxed)))
    }

    /// What its counters are told apart by, and what tells the outcomes of `number` apart.
    pub(super) fn attributes(&self, number: Option<usize>) -> Vec<KeyValue> {
        let mut attributes = self.name.attributes();
        if let Some(number) = number {
            attributes.extend(self.name.method.protocol().attributes(number));
        }
        attributes
    }
}

/// How long the requests of one service and method take, whatever their route. Named by gRPC and by OpenTelemetry,
/// which know no routes of a client.
#[derive(Debug)]
pub(crate) struct Durations {
    protocol: Protocol,
    /// Without the status.
    pub(super) attributes: Vec<KeyValue>,
    histograms: Arc<Histograms>,
    pub(super) started: AtomicU64,
    /// By status, made when first met.
    attempts: Box<[OnceLock<Box<Recorder>>]>,
    requests: Box<[OnceLock<Box<Recorder>>]>,
    retries: OnceLock<Box<Recorder>>,
    resends: OnceLock<Box<Recorder>>,
    hedges: OnceLock<Box<Recorder>>,
    idle: OnceLock<Box<Recorder>>,
}

impl Durations {
    pub(super) fn new(name: &Name, histograms: &Arc<Histograms>) -> Arc<Self> {
        let protocol = name.method.protocol();
        let recorders = || std::iter::repeat_with(OnceLock::new).take(protocol.statuses()).collect();
        Arc::new(Self {
            protocol,
            attributes: name.target_attributes(),
            histograms: Arc::clone(histograms),
            started: AtomicU64::new(0),
            attempts: recorders(),
            requests: recorders(),
            retries: OnceLock::new(),
            resends: OnceLock::new(),
            hedges: OnceLock::new(),
            idle: OnceLock::new(),
        })
    }

    fn attempt(&self, outcome: Outcome, duration: Duration) {
        let distribution = match self.protocol {
            Protocol::Grpc => Distribution::GrpcAttempt,
            Protocol::Http => Distribution::HttpAttempt,
        };
        self.record_status(&self.attempts, distribution, outcome, duration);
    }

    fn request(&self, ended: &Ended) {
        let distribution = match self.protocol {
            Protocol::Grpc => Distribution::GrpcCall,
            Protocol::Http => Distribution::HttpRequest,
        };
        self.record_status(&self.requests, distribution, ended.outcome, ended.duration);
        if ended.retries + ended.resends + ended.hedges == 0 || self.protocol != Protocol::Grpc {
            return;
        }
        // 0 is not reported (gRFC A96).
        for (place, distribution, value) in [
            (&self.retries, Distribution::GrpcRetries, f64::from(ended.retries)),
            (&self.resends, Distribution::GrpcTransparentRetries, f64::from(ended.resends)),
            (&self.hedges, Distribution::GrpcHedges, f64::from(ended.hedges)),
            (&self.idle, Distribution::GrpcRetryDelay, ended.idle.as_secs_f64()),
        ] {
            if value > 0.0 {
                let recorder = place.get_or_init(|| self.histograms.recorder(distribution, self.attributes.clone()));
                recorder.record(value);
            }
        }
    }

    fn record_status(
        &self,
        places: &[OnceLock<Box<Recorder>>],
        distribution: Distribution,
        outcome: Outcome,
        duration: Duration,
    ) {
        let status = self.protocol.status(outcome);
        let recorder = places[status].get_or_init(|| {
            let mut attributes = self.attributes.clone();
            match self.protocol {
                Protocol::Grpc => {
                    attributes.push(KeyValue::new("grpc.status", super::outcome::code(status).name()));
                }
                Protocol::Http => attributes.extend(self.protocol.attributes(status)),
            }
            self.histograms.recorder(distribution, attributes)
        });
        recorder.record(duration.as_secs_f64());
    }

    pub(super) fn is_grpc(&self) -> bool {
        self.protocol == Protocol::Grpc
    }

    /// Every distribution that was met.
    #[cfg(feature = "prometheus")]
    pub(super) fn recorders(&self, distribution: Distribution) -> impl Iterator<Item = &Recorder> {
        let grpc = self.is_grpc();
        let places: &[OnceLock<Box<Recorder>>] = match distribution {
            Distribution::GrpcAttempt if grpc => &self.attempts,
            Distribution::HttpAttempt if !grpc => &self.attempts,
            Distribution::GrpcCall if grpc => &self.requests,
            Distribution::HttpRequest if !grpc => &self.requests,
            Distribution::GrpcRetries => std::slice::from_ref(&self.retries),
            Distribution::GrpcTransparentRetries => std::slice::from_ref(&self.resends),
            Distribution::GrpcHedges => std::slice::from_ref(&self.hedges),
            Distribution::GrpcRetryDelay => std::slice::from_ref(&self.idle),
            _ => &[],
        };
        places.iter().filter_map(OnceLock::get).map(|recorder| &**recorder)
    }
}
