//! Active health checks: endpoints are asked whether they are well, and are not picked while they are not.
//!
//! Who is asked: endpoints that are connected, and unhealthy ones, which are connected for that if their connections
//! have idled out since; a failing one answers nobody, and its connection attempts go on anyway. A question goes over the
//! connections of requests, and is [no use](crate::net::aside) of them: an HTTP/2 connection that only health checks use
//! idles out, and the endpoint is asked again once a request has connected it. An endpoint of HTTP/1.1 stays ready
//! without a connection, and is asked over one that is made for it if none is left.
//!
//! An endpoint is healthy before its first answer, which comes as soon as it is connected. Until then requests that come
//! quickly may find out for themselves; a wait for it would hold up every start.
//!
//! A backend with `pick_first` is not checked (gRFC A61): it has one endpoint in use, and leaves it when the connection
//! is lost.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method};
use mesh_core::balance::State;
use mesh_core::grpc::health;
use mesh_core::model::{HealthCheck, HealthProbe, LoadBalancer};
use mesh_core::resilience::health::HealthRecord;
use tokio::time::Instant;

use super::authority_of;
use super::rounds::{Errand, Next};
use crate::net::account::jittered;
use crate::net::aside::{self, Question, Unanswered};
use crate::net::grpc::{Call, CallError};
use crate::net::{Backend, Endpoint, Wanted, after, pool};

/// That an answer was good, or what was wrong with it.
type Verdict = Result<(), String>;
/// The least pause between two questions.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// The least time for an answer.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);

/// The errand of asking endpoints for their health. What and how often is looked up at each visit: a change of that is
/// no new beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HealthChecks;

impl Errand for HealthChecks {
    type Memory = HealthRecord;
    /// Whether the answer was good; `None` if nothing was asked.
    type Report = Option<Verdict>;

    fn of(backend: &Backend) -> Option<Self> {
        check_of(backend).map(|_| Self)
    }

    fn wants(&self, endpoint: &Endpoint) -> bool {
        match endpoint.state() {
            State::Ready => true,
            State::Idle => !endpoint.is_healthy(),
            State::Connecting | State::Failing => false,
        }
    }

    async fn visit(&self, backend: Arc<Backend>, endpoint: Arc<Endpoint>) -> Option<Verdict> {
        let check = check_of(&backend)?;
        match &check.probe {
            HealthProbe::Grpc { service } => ask_grpc(&backend, &endpoint, check, service).await,
            HealthProbe::Http { path, host, expected } => {
                let authority = match host {
                    Some(host) => Authority::try_from(&**host).unwrap_or_else(|_| authority_of(&backend, &endpoint)),
                    None => authority_of(&backend, &endpoint),
                };
                let path = PathAndQuery::try_from(&**path).ok()?;
                let status = ask_http(&backend, &endpoint, check, authority, path).await?;
                Some(status.and_then(|status| judge(status, expected)))
            }
            _ => None,
        }
    }

    fn conclude(
        &self,
        backend: &Backend,
        endpoint: &Endpoint,
        record: &mut HealthRecord,
        report: Option<Verdict>,
        began: Instant,
    ) -> Next {
        let Some(check) = check_of(backend) else { return Next::WhenConnectedAnew };
        if let Some(verdict) = report {
            let good = verdict.is_ok();
            if let Some(series) = &backend.transport().series {
                series.health_checked(good);
            }
            if let Some(healthy) = record.answered(check, endpoint.is_healthy(), good) {
                set(backend, endpoint, healthy, verdict.err());
            }
        }
        Next::At(after(began, jittered(check.interval.max(MIN_INTERVAL), &mut rand::rng())))
    }

    fn adopt(&self, backend: &Backend) {
        forgive(backend);
    }
}

/// Makes every endpoint healthy of a backend that is not checked, or not any more.
pub(crate) fn forgive(backend: &Backend) {
    if check_of(backend).is_none() {
        let unhealthy = backend.picker().endpoints().iter().filter(|endpoint| !endpoint.is_healthy());
        unhealthy.for_each(|endpoint| set(backend, endpoint, true, None));
    }
}

fn check_of(backend: &Backend) -> Option<&HealthCheck> {
    let config = backend.config();
    let check = config.health_check.as_ref()?;
    let asks_grpc = matches!(check.probe, HealthProbe::Grpc { .. });
    let can_be_asked = !asks_grpc || backend.transport().wanted(true).is_some();
    (can_be_asked && !matches!(config.load_balancer, LoadBalancer::PickFirst { .. })).then_some(check)
}

fn set(backend: &Backend, endpoint: &Endpoint, healthy: bool, reason: Option<String>) {
    let reason: Option<Arc<str>> = reason.map(Into::into);
    if endpoint.set_healthy(healthy) {
        // Before anybody is woken that may tell it.
        endpoint.transport().set_illness(reason.clone());
        backend.transport().health(endpoint.address(), healthy, reason.as_deref());
    }
}

fn judge(status: u16, expected: &RangeInclusive<u16>) -> Verdict {
    match (expected.contains(&status), expected.start() == expected.end()) {
        (true, _) => Ok(()),
        (false, true) => Err(format!("status {status}, expected {}", expected.start())),
        (false, false) => Err(format!("status {status}, expected {expected:?}")),
    }
}

async fn ask_grpc(backend: &Backend, endpoint: &Arc<Endpoint>, check: &HealthCheck, service: &str) -> Option<Verdict> {
    let call = Call {
        wanted: backend.transport().wanted(true)?,
        authority: authority_of(backend, endpoint),
        path: health::CHECK,
        message: health::request(service),
    };
    let answer = call.unary(endpoint, check.timeout.max(MIN_TIMEOUT)).await;
    match &answer {
        Ok(message) => Some(health::judge(Ok(message))),
        Err(CallError::Status(code)) => Some(health::judge(Err(*code))),
        Err(CallError::Unanswered(error)) => owed(endpoint, check, error).map(Err),
        Err(CallError::Leaving) => None,
    }
}

/// The status of the answer, or why there was none; `None` if nothing was asked.
async fn ask_http(
    backend: &Backend,
    endpoint: &Arc<Endpoint>,
    check: &HealthCheck,
    authority: Authority,
    path: PathAndQuery,
) -> Option<Result<u16, String>> {
    let cluster = backend.transport();
    let wanted = cluster.used().or_else(|| cluster.wanted(false))?;
    // Where there are clients of both, an endpoint may serve those of HTTP/1.1 alone.
    let lacks = wanted == Wanted::Http2 && cluster.serves_http1() && pool::refuses_http2(endpoint);
    let question = Question {
        wanted: if lacks { Wanted::Http1 } else { wanted },
        authority,
        method: Method::GET,
        path,
        headers: HeaderMap::new(),
        body: bytes::Bytes::new(),
    };
    let timeout = check.timeout.max(MIN_TIMEOUT);
    let asked = async {
        let place = aside::find(endpoint, question.wanted, after(Instant::now(), timeout)).await?;
        let deadline = after(Instant::now(), timeout);
        let answer = aside::ask(endpoint, &question, place, deadline).await?;
        let status = answer.head.status.as_u16();
        answer.discard(deadline).await;
        Ok::<_, Unanswered>(status)
    };
    match asked.await {
        Ok(status) => Some(Ok(status)),
        Err(error) => owed(endpoint, check, &error).map(Err),
    }
}

/// Why a missing answer is a bad one; `None` where nothing was asked, which counts as nothing.
fn owed(endpoint: &Endpoint, check: &HealthCheck, error: &Unanswered) -> Option<String> {
    tracing::debug!(endpoint = %endpoint.address(), %error, "no answer to a health check");
    match error {
        Unanswered::NotAsked | Unanswered::Invalid(_) => None,
        Unanswered::Late => Some(format!("no answer within {:?}", check.timeout)),
        Unanswered::Failing | Unanswered::H2(_) | Unanswered::H1(_) => Some(error.to_string()),
    }
}
