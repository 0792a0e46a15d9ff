//! The mesh taken apart: one Tower layer for each thing it does, around any HTTP client.
//!
//! A team that has its own stack - a tonic `Channel`, hyper-util's client, a client of its own - takes from here what
//! it lacks. The decisions are those of a [`Mesh`](crate::Mesh)'s own clients, by the same functions of
//! [`mesh_core`].
//!
//! # The order
//! From the outside in, as [`tower::ServiceBuilder`](https://docs.rs/tower/latest/tower/struct.ServiceBuilder.html)
//! is written:
//!
//! ```text
//! TraceLayer      what happened?         a span for the request; another one inside of the retries for each attempt
//! RouteLayer      which backend?         one service per backend, made from what stands below:
//!   AdmissionLayer        any use?     a share is refused while most requests of that backend fail
//!     DeadlineLayer         until when?  the whole request with its body; the route's timeout or the caller's
//!       RetryLayer            once more?   the route's policy; budget and throttling of that backend
//!         CircuitBreakerLayer   how many?    attempts under way on that backend
//!           SplitService          which?       where the configuration's own weights are not what you want
//!             your balancer         which?       among the endpoints
//!               OutlierLayer          is it well?  one service per endpoint, not ready while that is ejected
//!                 TimeoutLayer          how long?    one attempt to its head
//!                   your client
//! ```
//!
//! Each layer stands for itself and can be left out. Turned round they mean something else: a deadline inside of the
//! retries bounds each attempt anew, a route inside of them may take each attempt to another backend.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use bytes::Bytes;
//! use http::Request;
//! use http_body_util::Full;
//! use hyper_util::client::legacy::Client;
//! use hyper_util::rt::TokioExecutor;
//! use mesh_tower::core::model::{Backend, Config};
//! use mesh_tower::layer::{DeadlineLayer, ReplayBody, RetryLayer, RouteLayer, TimeoutLayer};
//! use tower::{Layer, ServiceBuilder, service_fn};
//!
//! # fn stack(config: &Config) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let client = Client::builder(TokioExecutor::new()).build_http::<ReplayBody<Full<Bytes>>>();
//! let maker = service_fn(move |backend: Arc<Backend>| {
//!     let service = ServiceBuilder::new()
//!         .layer(DeadlineLayer::new(Duration::from_secs(10))) // where the route has no timeout
//!         .layer(RetryLayer::from_route())
//!         .layer(TimeoutLayer::new(Duration::from_secs(3)))
//!         .map_request(move |mut request: Request<_>| {
//!             // Any way to find the backend's endpoints will do; this one takes the first there is.
//!             let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
//!             let endpoint = backend.endpoints.first().map_or(String::new(), |endpoint| endpoint.address.to_string());
//!             *request.uri_mut() = format!("http://{endpoint}{path}").parse().unwrap_or_default();
//!             request
//!         })
//!         .service(client.clone());
//!     std::future::ready(Ok::<_, std::convert::Infallible>(service))
//! });
//! let service = RouteLayer::new(config)?.layer(maker);
//! # fn is_a_client<S: tower::Service<Request<Full<Bytes>>> + Clone + Send + Sync>(_: S) {}
//! # is_a_client(service);
//! # Ok(())
//! # }
//! ```
//!
//! # The straight path and the layers
//! | | a `Mesh`'s client | layers around your client |
//! | --- | --- | --- |
//! | routes, weights, retries, deadlines | yes | yes, the same decisions |
//! | their policies from the configuration | every one | timeout and retry where their layers stand inside of the route; hash policies no |
//! | endpoints: balancing, states, connections, TLS | yes | your client's |
//! | [`RequestOptions`](crate::RequestOptions) of a request | yes | `timeout` by [`DeadlineLayer`], `no_retry` by [`RetryLayer`]; `hash_key` and `wait_for_ready` no |
//! | a retry goes to another endpoint | yes | if your client chooses another one |
//! | backends connected before an update sends them traffic | yes | no: made at first use |
//! | outlier detection, circuit breakers, admission control | from the configuration | their layers' own, the same decisions; the breaker counts requests alone |
//! | a full or failing backend | one queue per backend; fails at once if all endpoints fail | your client's readiness, waited for at most 30 s |
//! | heads put right for the hop (RFC 9110 7.6.1), upgrades refused | yes | no; `CONNECT` is not routed |
//! | what was refused or never left is told apart | exactly | as well as your client's errors tell: [`ClassifyFailure`] |
//! | upload that outlives its response, replaced responses | own tasks, bounded | your client's; replaced ones are read while the retry pauses |
//! | spans, trace context | yes | where a [`TraceLayer`] stands |
//! | events, metrics | [`Observer`](crate::observe), [`telemetry`](crate::telemetry) | none |
//! | errors | [`Error`](crate::Error) | [`BoxError`](crate::BoxError): an `Error` of the layer's own, or your client's; [`find_error`] |
//! | cost | one box per request | no box while nothing waits; see the benchmark `layers` |
//!
//! # Laws
//! All of them are `Clone + Send + Sync` if what they are put around is, box no response future, and keep Tower's
//! contract: an inner service is called once for each time it said that it was ready, on that very instance; a clone is
//! asked anew; dropping a future frees all it held; `poll_ready` may be repeated; errors keep their sources. Timers are
//! tokio's, so that `call` panics outside of a runtime with time.

mod admission;
mod circuit_breaker;
mod deadline;
mod failure;
mod judge;
mod outlier;
mod retry;
mod route;
mod split;
mod timeout;
mod trace;
mod watch;

pub use admission::{Admission, AdmissionBody, AdmissionFuture, AdmissionLayer};
pub use circuit_breaker::{CircuitBreaker, CircuitBreakerBody, CircuitBreakerFuture, CircuitBreakerLayer};
pub use deadline::{Deadline, DeadlineAt, DeadlineBody, DeadlineFuture, DeadlineLayer};
pub use failure::{ClassifyFailure, KnownErrors, find_error};
pub use outlier::{Outlier, OutlierBody, OutlierFuture, OutlierLayer};
pub use retry::{ReplayBody, Retry, RetryBody, RetryFuture, RetryLayer};
pub use route::{Route, RouteFuture, RouteLayer, Routed};
pub use split::{InvalidWeights, SplitService};
pub use timeout::{Timeout, TimeoutFuture, TimeoutLayer};
pub use trace::{Trace, TraceBody, TraceFuture, TraceLayer};

/// ` from backend v1 of service greeter`, if that is known.
fn from_place(routed: Option<&Routed>) -> String {
    routed.map_or_else(String::new, |routed| format!(" from {routed}"))
}
