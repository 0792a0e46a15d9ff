//! An endpoint while it serves an attempt: what the attempt counts as, and what it tells of the endpoint.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};
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
    began: Instant,
    /// When the request is over, whatever its attempt comes to.
    deadline: Option<Instant>,
    /// Whether the request is on its way. Until then it waits for a connection, which may be a limit of ours.
    sent: bool,
    /// Whether a head is here that finds nothing wrong, and more is to come.
    answered: bool,
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
        let watch = watched.then(|| Watch {
            backend: Arc::clone(backend),
            probes,
            grpc,
            began: Instant::now(),
            deadline,
            sent: false,
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
            watch.sent = true;
        }
    }

    /// Tells how the attempt went. `attempt` may be a head that more follows: its body may break off, and the status of
    /// gRPC comes behind it. Only what such a head says of failures is final, and of a probe over HTTP, whose body may take
    /// for ever.
    pub(super) fn judge(&mut self, attempt: &Attempt<'_>) {
        let Some(watch) = &mut self.watch else { return };
        if let Attempt::Response { status, headers, end_of_stream: false } = attempt {
            watch.learn(self.in_flight.endpoint(), *status, headers);
            watch.answered = true;
            if watch.grpc || !(status.is_server_error() || watch.probes) {
                return;
            }
        }
        let Some(watch) = self.watch.take() else { return };
        watch.judge(self.in_flight.endpoint(), attempt);
    }
}

fn is_watched(backend: &Backend) -> bool {
    let config = backend.config();
    config.outlier_detection.is_some()
        || matches!(config.load_balancer, LoadBalancer::PeakEwma(_) | LoadBalancer::WeightedRoundRobin(_))
}

impl Watch {
    /// What a response tells balancers: its head and, of gRPC, its trailers.
    fn learn(&self, endpoint: &Arc<Endpoint>, status: StatusCode, headers: &HeaderMap) {
        let now = Instant::now();
        match &self.backend.config().load_balancer {
            LoadBalancer::PeakEwma(policy) if !self.answered && !status.is_server_error() => {
                endpoint.observe_latency(now - self.began, now.into_std(), policy);
            }
            LoadBalancer::WeightedRoundRobin(policy) if !policy.out_of_band => {
                if let Some(weight) = reported(headers, policy) {
                    endpoint.report_weight(weight, now.into_std());
                }
            }
            _ => {}
        }
    }

    fn judge(self, endpoint: &Arc<Endpoint>, attempt: &Attempt<'_>) {
        if let Attempt::Response { status, headers, end_of_stream: true } = attempt {
            self.learn(endpoint, *status, headers);
        }
        match &self.backend.config().outlier_detection {
            Some(policy) => self.tell(endpoint, outlier::outcome(policy.grpc_failures, self.grpc, attempt)),
            None if self.probes => endpoint.release_probe(),
            None => {}
        }
    }

    fn tell(&self, endpoint: &Arc<Endpoint>, outcome: Outcome) {
        let Some(policy) = &self.backend.config().outlier_detection else { return };
        let total = self.backend.picker().endpoints().len();
        let now = Instant::now().into_std();
        let change = endpoint.judge(policy, outcome, total, self.probes, now, &mut rand::rng());
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
    /// Whoever gives up an attempt says nothing about its endpoint; that the time is up does, and so does a head that was
    /// there by then: of gRPC it says nothing, of HTTP all that its caller wanted to know.
    fn drop(&mut self) {
        let Some(watch) = self.watch.take() else { return };
        let endpoint = self.in_flight.endpoint();
        if watch.answered && !watch.grpc {
            watch.tell(endpoint, Outcome::Success);
        } else if watch.sent && watch.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            watch.judge(endpoint, &Attempt::Failed(Failure::PerTryTimeout));
        } else if watch.probes {
            endpoint.release_probe();
        }
    }
}
