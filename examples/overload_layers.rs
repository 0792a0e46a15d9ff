//! A bad day for a client that is not a mesh: an endpoint that dies, a backend that is slow, one that is gone, and the
//! layers that bear it, around hyper-util's client and below tower's own balancer.
//!
//! ```sh
//! cargo run --example overload_layers
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use examples::backend::Backend;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use mesh_tonic::core::error::ErrorKind;
use mesh_tonic::core::model::{AdmissionControl, Consecutive, OutlierDetection};
use mesh_tonic::mesh_tower::BoxError;
use mesh_tonic::mesh_tower::layer::{AdmissionLayer, CircuitBreakerLayer, OutlierLayer, TimeoutLayer, find_error};
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::Constant;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

type Get = Request<Empty<Bytes>>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    an_endpoint_dies().await?;
    a_backend_is_slow().await?;
    a_backend_is_gone().await
}

/// A client of one endpoint.
fn client(
    backend: &Backend,
) -> impl Service<Get, Response = Response<Incoming>, Error = BoxError, Future: Send> + Clone + Send + use<> {
    let address = backend.address();
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    ServiceBuilder::new()
        .map_request(move |mut request: Get| {
            *request.uri_mut() = format!("http://{address}/").parse().expect("an address is a URI");
            request
        })
        .map_err(BoxError::from)
        .service(client)
}

/// `OutlierLayer`: a service per endpoint, below a balancer that takes whatever is ready.
async fn an_endpoint_dies() -> Result<(), BoxError> {
    let mut backends = Vec::new();
    for name in ["one", "two", "three"] {
        backends.push(Backend::start(name, Duration::ZERO)?);
    }
    let mut policy = OutlierDetection::default();
    policy.interval = Duration::from_millis(100);
    policy.base_ejection_time = Duration::from_millis(500);
    policy.max_ejection_percent = 50;
    policy.consecutive_5xx = Some(Consecutive::new(3)); // a refused connection counts as one
    let outliers = OutlierLayer::new(policy);
    let endpoint = |backend| outliers.layer(TimeoutLayer::new(Duration::from_secs(1)).layer(client(backend)));
    let endpoints: Vec<_> = backends.iter().map(|backend| Constant::new(endpoint(backend), 0)).collect();
    let mut balancer = Balance::new(ServiceList::new::<Get>(endpoints));

    let mut answers = async |title: &str| -> Result<[u32; 4], BoxError> {
        let mut answers = [0; 4];
        for _ in 0..60 {
            let answer = balancer.ready().await?.call(Get::default()).await;
            let text = match answer {
                Ok(response) => response.into_body().collect().await?.to_bytes(),
                Err(_) => Bytes::new(),
            };
            let index = ["one", "two", "three"].iter().position(|name| text.starts_with(name.as_bytes()));
            answers[index.unwrap_or(3)] += 1;
        }
        let [one, two, three, failed] = answers;
        let ejected = outliers.ejected();
        println!("{title:<26} one {one:2}, two {two:2}, three {three:2}, failed {failed}; ejected now: {ejected}");
        Ok(answers)
    };
    answers("three endpoints:").await?;
    backends[2].kill().await;
    let [.., failed] = answers("the third dies:").await?;
    let [.., still] = answers("it is ejected:").await?;
    backends[2].restart()?;
    let began = Instant::now();
    let mut back = false;
    while !back && began.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let [_, _, three, _] = answers("it is started again:").await?;
        back = three > 0;
    }
    if !(1..20).contains(&failed) || still > 4 || !back {
        return Err("the endpoint was not taken out and back".into());
    }
    Ok(())
}

/// `CircuitBreakerLayer`: what is too much is refused at once.
async fn a_backend_is_slow() -> Result<(), BoxError> {
    let backend = Backend::start("slow", Duration::from_millis(500))?;
    let service = CircuitBreakerLayer::new(3).layer(client(&backend));
    let mut calls = Vec::new();
    for _ in 0..10 {
        // Whether there is a place is decided here.
        calls.push(tokio::spawn(ServiceExt::<Get>::ready_oneshot(service.clone()).await?.call(Get::default())));
    }
    let (mut served, mut refused) = (0, 0);
    for call in calls {
        match call.await? {
            Ok(_) => served += 1,
            Err(error) if find_error(&*error).is_some_and(|error| error.kind() == ErrorKind::Overflow) => refused += 1,
            Err(error) => return Err(error),
        }
    }
    println!("ten calls at once, three allowed: {served} served, {refused} refused");
    if (served, refused) == (3, 7) { Ok(()) } else { Err("the limit did not hold".into()) }
}

/// `AdmissionLayer`: the more fail, the fewer are sent.
async fn a_backend_is_gone() -> Result<(), BoxError> {
    let mut backend = Backend::start("gone", Duration::ZERO)?;
    backend.kill().await;
    let mut policy = AdmissionControl::default();
    policy.min_requests_per_second = 0;
    let admission = AdmissionLayer::new(policy);
    let service = admission.layer(client(&backend));
    let mut sent = 0;
    for _ in 0..500 {
        let error = service.clone().oneshot(Get::default()).await.err().ok_or("nobody is there to answer")?;
        sent += u32::from(find_error(&*error).is_none());
    }
    println!("500 requests to nobody: {sent} sent; {:.0} % are refused now", admission.rejection() * 100.0);
    if sent < 300 { Ok(()) } else { Err("too many were sent".into()) }
}
