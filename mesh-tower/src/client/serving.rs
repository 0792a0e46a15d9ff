//! An endpoint while it serves an attempt: what the attempt counts as, and what it tells of the endpoint.

use std::sync::Arc;

use http::HeaderMap;
use mesh_core::balance::{Chosen, InFlight, LoadReport};
use mesh_core::classify::{Attempt, Failure};
use mesh_core::model::{LoadBalancer, WeightedRoundRobin};
use mesh_core::resilience::outlier::{self, Outcome};
use tokio::time::Instant;

use crate::net::{Backend, Endpoint, Pool};

/// An attempt on an endpoint. Counts until it is dropped.
pub(crate) struct Serving {
    in_flight: InFlight<Pool>,
    watch: Option<Watch>,
}

/// What is owed to those who want to know how it went.
struct Watch {
    backend: Arc<Backend>,
    /// Whether it shows if an ejected endpoint is back.
    probes: bool,
    grpc: bool,
    /// When it was sent.
    sent: Option<Instant>,
    /// When the request is over, whatever its attempt comes to.
    deadline: Option<Instant>,
}

impl Serving {
    /// Takes a place at the endpoint that was chosen, unless the backend serves as many requests as it may.
    pub(super) fn begin(
        backend: &Arc<Backend>,
        chosen: &Chosen<'_, Pool>,
        grpc: bool,
        deadline: Option<Instant>,
    ) -> Option<Self> {
        Self::at(backend, chosen.endpoint, chosen.probes, grpc, deadline)
    }

    pub(super) fn at(
        backend: &Arc<Backend>,
        endpoint: &Arc<Endpoint>,
        probes: bool,
        grpc: bool,
        deadline: Option<Instant>,
    ) -> Option<Self> {
        let entered = endpoint.enter(backend.config().circuit_breaker.max_requests);
        let Some(in_flight) = entered else {
            if probes {
                endpoint.release_probe();
            }
            return None;
        };
        let watched = probes || is_watched(backend);
        let watch = watched.then(|| Watch { backend: Arc::clone(backend), probes, grpc, sent: None, deadline });
        Some(Self { in_flight, watch })
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        self.in_flight.endpoint()
    }

    /// The request is put on a connection now: what comes of it is the endpoint's.
    pub(super) fn sent(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.sent = Some(Instant::now());
        }
    }

    /// Tells how the attempt went. `attempt` may be a head whose status follows with its trailers: that is no answer yet.
    pub(super) fn judge(&mut self, attempt: &Attempt<'_>) {
        if let Attempt::Response { end_of_stream: false, .. } = attempt
            && self.watch.as_ref().is_some_and(|watch| watch.grpc)
        {
            self.answers();
            return;
        }
        let Some(watch) = self.watch.take() else { return };
        watch.judge(self.in_flight.endpoint(), attempt);
    }

    /// The head of a gRPC call is here, its status is not. An endpoint that answers at all is back: a stream that goes on
    /// for hours must not keep it out for hours.
    fn answers(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        let (endpoint, now) = (self.in_flight.endpoint(), Instant::now());
        watch.observe_latency(endpoint, now);
        if watch.probes {
            watch.tell(endpoint, Outcome::Success, now);
            watch.probes = false;
        }
    }
}

fn is_watched(backend: &Backend) -> bool {
    let config = backend.config();
    config.outlier_detection.is_some()
        || matches!(config.load_balancer, LoadBalancer::PeakEwma(_) | LoadBalancer::WeightedRoundRobin(_))
}

impl Watch {
    fn observe_latency(&self, endpoint: &Endpoint, now: Instant) {
        if let (LoadBalancer::PeakEwma(policy), Some(sent)) = (&self.backend.config().load_balancer, self.sent) {
            endpoint.observe_latency(now.saturating_duration_since(sent), now.into_std(), policy);
        }
    }

    fn judge(self, endpoint: &Arc<Endpoint>, attempt: &Attempt<'_>) {
        let config = self.backend.config();
        let now = Instant::now();
        match (&config.load_balancer, attempt) {
            (LoadBalancer::PeakEwma(_), Attempt::Response { status, .. })
                if !self.grpc && !status.is_server_error() =>
            {
                self.observe_latency(endpoint, now);
            }
            (LoadBalancer::WeightedRoundRobin(policy), Attempt::Response { headers, .. }) if !policy.out_of_band => {
                if let Some(weight) = reported(headers, policy) {
                    endpoint.report_weight(weight, now.into_std());
                }
            }
            _ => {}
        }
        let failures = config.outlier_detection.as_ref().map(|policy| policy.grpc_failures).unwrap_or_default();
        self.tell(endpoint, outlier::outcome(failures, self.grpc, attempt), now);
    }

    fn tell(&self, endpoint: &Arc<Endpoint>, outcome: Outcome, now: Instant) {
        let Some(policy) = &self.backend.config().outlier_detection else {
            if self.probes {
                endpoint.release_probe();
            }
            return;
        };
        let total = self.backend.picker().endpoints().len();
        let change = endpoint.judge(policy, outcome, total, self.probes, now.into_std(), &mut rand::rng());
        let cluster = self.backend.transport();
        if let Some(change) = change {
            cluster.ejection(endpoint.address(), change);
        }
    }
}

/// The weight that a load report in `headers` makes.
fn reported(headers: &HeaderMap, policy: &WeightedRoundRobin) -> Option<f64> {
    let value = headers.get(LoadReport::HEADER)?;
    LoadReport::of_header(value.as_bytes(), |report| report.weight(policy)).flatten()
}

impl Drop for Serving {
    /// Whoever gives up an attempt says nothing about its endpoint; that the time is up does.
    fn drop(&mut self) {
        let Some(watch) = self.watch.take() else { return };
        let now = Instant::now();
        let endpoint = self.in_flight.endpoint();
        if watch.sent.is_some() && watch.deadline.is_some_and(|deadline| now >= deadline) {
            watch.judge(endpoint, &Attempt::Failed(Failure::PerTryTimeout));
        } else if watch.probes {
            endpoint.release_probe();
        }
    }
}
