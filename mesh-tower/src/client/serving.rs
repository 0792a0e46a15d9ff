//! An endpoint while it serves an attempt: what the attempt counts as, and what it tells of the endpoint.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use mesh_core::balance::{Chosen, InFlight, LoadReport};
use mesh_core::classify::{Attempt, Failure};
use mesh_core::model::{LoadBalancer, WeightedRoundRobin};
use mesh_core::resilience::outlier::{self, Outcome};
use tokio::time::Instant;

use super::context::Context;
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
    /// When it was put on a connection. Until then it waits for one, which may be a limit of ours.
    sent: Option<Instant>,
    /// When the request is over, whatever its attempt comes to.
    deadline: Option<Instant>,
    /// Whether a head is here that finds nothing wrong, and more is to come.
    answered: bool,
}

impl Serving {
    /// Takes a place at the endpoint that was chosen, unless the backend serves as many requests as it may.
    pub(super) fn begin(backend: &Arc<Backend>, chosen: &Chosen<'_, Pool>, context: &Context) -> Option<Self> {
        let Chosen { endpoint, probes, .. } = *chosen;
        let entered = endpoint.enter(backend.config().circuit_breaker.max_requests);
        let Some(in_flight) = entered else {
            if probes {
                release_probe(endpoint);
            }
            return None;
        };
        // Most backends are not watched, and pay nothing for it.
        let watch = (probes || is_watched(backend)).then(|| Watch {
            backend: Arc::clone(backend),
            probes,
            grpc: context.is_grpc(),
            sent: None,
            deadline: context.deadline,
            answered: false,
        });
        Some(Self { in_flight, watch })
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        self.in_flight.endpoint()
    }

    /// The request goes out: from now on it is the endpoint that keeps it waiting.
    pub(super) fn sent(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.sent = Some(Instant::now());
        }
    }

    /// Tells how the attempt went. `attempt` may be a head that more follows: its body may break off, and the status of
    /// gRPC comes behind it. Only what such a head says of failures is final, and of a probe: an endpoint that answers at
    /// all is back, and a stream that goes on for hours must not keep it out for hours.
    pub(super) fn judge(&mut self, attempt: &Attempt<'_>) {
        let Some(watch) = &mut self.watch else { return };
        let endpoint = self.in_flight.endpoint();
        if let Attempt::Response { status, headers, end_of_stream: false } = attempt {
            watch.learn(endpoint, *status, headers);
            watch.answered = true;
            if watch.grpc || !status.is_server_error() {
                if std::mem::take(&mut watch.probes) {
                    watch.tell(endpoint, Outcome::Success, true);
                }
                return;
            }
        }
        if let Some(watch) = self.watch.take() {
            watch.judge(endpoint, attempt);
        }
    }
}

fn is_watched(backend: &Backend) -> bool {
    let config = backend.config();
    config.outlier_detection.is_some()
        || matches!(config.load_balancer, LoadBalancer::PeakEwma(_) | LoadBalancer::WeightedRoundRobin(_))
}

impl Watch {
    /// What a response tells balancers: its head and, of gRPC, its trailers.
    fn learn(&self, endpoint: &Endpoint, status: StatusCode, headers: &HeaderMap) {
        match &self.backend.config().load_balancer {
            LoadBalancer::PeakEwma(policy) if !self.answered && !status.is_server_error() => {
                if let Some(sent) = self.sent {
                    let now = Instant::now();
                    endpoint.observe_latency(now.saturating_duration_since(sent), now.into_std(), policy);
                }
            }
            LoadBalancer::WeightedRoundRobin(policy) if !policy.out_of_band => {
                if let Some(weight) = reported(headers, policy) {
                    endpoint.report_weight(weight, Instant::now().into_std());
                }
            }
            _ => {}
        }
    }

    fn judge(self, endpoint: &Endpoint, attempt: &Attempt<'_>) {
        if let Attempt::Response { status, headers, end_of_stream: true } = attempt {
            self.learn(endpoint, *status, headers);
        }
        let policy = self.backend.config().outlier_detection.as_ref();
        let failures = policy.map(|policy| policy.grpc_failures).unwrap_or_default();
        self.tell(endpoint, outlier::outcome(failures, self.grpc, attempt), self.probes);
    }

    fn tell(&self, endpoint: &Endpoint, outcome: Outcome, probes: bool) {
        let Some(policy) = &self.backend.config().outlier_detection else {
            if probes {
                release_probe(endpoint);
            }
            return;
        };
        let now = Instant::now().into_std();
        if probes && outcome == Outcome::Ignored {
            return release_probe(endpoint);
        }
        if let Some(change) = endpoint.judge(policy, outcome, probes, now, &mut rand::rng()) {
            self.backend.transport().ejection(endpoint.address(), change);
        }
    }
}

/// A probe ended without a verdict: another request may be one.
pub(super) fn release_probe(endpoint: &Endpoint) {
    endpoint.release_probe();
    endpoint.transport().wake_all();
}

/// The weight that a load report in `headers` makes.
fn reported(headers: &HeaderMap, policy: &WeightedRoundRobin) -> Option<f64> {
    let value = headers.get(LoadReport::HEADER)?;
    LoadReport::of_header(value.as_bytes(), |report| report.weight(policy)).flatten()
}

impl Drop for Serving {
    /// Whoever gives up an attempt says nothing about its endpoint, but for how long it kept the request waiting; that the
    /// time is up says something, and so does a head that was there by then: of gRPC nothing, of HTTP all that its caller
    /// wanted to know.
    fn drop(&mut self) {
        let Some(watch) = self.watch.take() else { return };
        let (endpoint, now) = (self.in_flight.endpoint(), Instant::now());
        if watch.answered && !watch.grpc {
            return watch.tell(endpoint, Outcome::Success, watch.probes);
        }
        if let (Some(sent), false, LoadBalancer::PeakEwma(policy)) =
            (watch.sent, watch.answered, &watch.backend.config().load_balancer)
        {
            endpoint.observe_wait(now.saturating_duration_since(sent), now.into_std(), policy);
        }
        if watch.sent.is_some() && watch.deadline.is_some_and(|deadline| now >= deadline) {
            watch.judge(endpoint, &Attempt::Failed(Failure::PerTryTimeout));
        } else if watch.probes {
            release_probe(endpoint);
        }
    }
}
