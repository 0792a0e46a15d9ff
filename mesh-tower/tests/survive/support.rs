//! What the tests share: some backends in memory, a mesh whose configuration changes, and short requests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use mesh_tower::core::config;
use mesh_tower::core::grpc::Code;
use mesh_tower::core::model::{Address, Config};
use mesh_tower::core::resilience::limits::Limit;
use mesh_tower::core::resilience::outlier::{Cause, EjectionChange};
use mesh_tower::testing::{Events, MemoryNetwork, Payload, Seen, ServiceConfig, TestBackend, TestMesh, empty, grpc};
use mesh_tower::{Body, Builder, Error, ErrorKind, Mesh, RequestOptions, ResponseFuture};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use tokio::sync::watch;
use tower::Service;

/// The service of every test.
pub(crate) const URI: &str = "http://greeter/";

/// Some backends, and the network that they and their mesh are on.
pub(crate) struct World {
    pub(crate) network: MemoryNetwork,
    pub(crate) backends: Vec<TestBackend>,
}

impl World {
    /// Backends called `0`, `1` and so on.
    pub(crate) fn of(count: usize) -> Self {
        Self::made(count, |number| TestBackend::named(number.to_string()))
    }

    pub(crate) fn made(count: usize, make: impl Fn(usize) -> mesh_tower::testing::BackendBuilder) -> Self {
        let network = MemoryNetwork::new();
        let backends = (0..count).map(|number| make(number).start_in(&network)).collect();
        Self { network, backends }
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.backends.iter().map(TestBackend::address).collect()
    }

    /// All of them behind the service `greeter`, with these fields of the backend.
    pub(crate) fn config(&self, backend: &str) -> ServiceConfig {
        greeter(self.addresses()).backend(backend)
    }

    pub(crate) async fn live(&self, yaml: impl AsRef<str>) -> Live {
        Live::over(&self.network, yaml).await
    }

    /// What each of them has seen.
    pub(crate) fn requests(&self) -> Vec<usize> {
        self.backends.iter().map(TestBackend::request_count).collect()
    }
}

pub(crate) fn greeter(addresses: impl IntoIterator<Item = SocketAddr>) -> ServiceConfig {
    ServiceConfig::new("greeter", addresses)
}

/// A mesh whose configuration can be changed, what it tells, and what it counts.
pub(crate) struct Live {
    pub(crate) mesh: TestMesh,
    pub(crate) events: Events,
    configs: watch::Sender<Arc<Config>>,
    provider: SdkMeterProvider,
    exporter: InMemoryMetricExporter,
}

impl Live {
    pub(crate) async fn over(network: &MemoryNetwork, yaml: impl AsRef<str>) -> Self {
        Self::built(Mesh::builder().connector(network.clone()), yaml).await
    }

    pub(crate) async fn built(builder: Builder, yaml: impl AsRef<str>) -> Self {
        let exporter = InMemoryMetricExporter::default();
        let reader = PeriodicReader::builder(exporter.clone()).with_interval(Duration::from_secs(1 << 20)).build();
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        let (configs, receiver) = watch::channel(parsed(yaml.as_ref()));
        let events = Events::new();
        let builder = builder.configs(receiver).observer(events.clone()).meter_provider(&provider);
        Self { mesh: TestMesh::start(builder).await, events, configs, provider, exporter }
    }

    /// Resolves when `yaml` is in force.
    pub(crate) async fn apply(&self, yaml: impl AsRef<str>) {
        let applied = self.events.from_now();
        self.push(yaml);
        let seen = applied.wait_for(|seen| matches!(seen, Seen::Config { .. })).await;
        assert!(matches!(seen, Seen::Config { error: None, .. }), "{seen:?}");
    }

    /// The same without waiting.
    pub(crate) fn push(&self, yaml: impl AsRef<str>) {
        self.configs.send_replace(parsed(yaml.as_ref()));
    }

    pub(crate) fn send(&self, request: Request<Payload>) -> ResponseFuture {
        self.mesh.http_client().call(request)
    }

    pub(crate) async fn get(&self) -> Result<(StatusCode, String), Error> {
        whole(self.mesh.http_client().get(URI).await?).await
    }

    /// The name of the backend that answered.
    pub(crate) async fn name(&self) -> String {
        let (status, name) = self.get().await.unwrap();
        assert_eq!(status, 200);
        name
    }

    /// The kind of the error that a request must have.
    pub(crate) async fn refused(&self) -> Error {
        self.get().await.expect_err("it is refused")
    }

    /// A unary call and its code.
    pub(crate) async fn grpc(&self) -> Result<Code, Error> {
        let response = self.send(grpc::call("http://greeter/a.B/C", "")).await?;
        let head = response.headers().clone();
        let body = response.into_body().collect().await?;
        let code = body.trailers().or(Some(&head)).and_then(mesh_tower::core::grpc::status);
        Ok(code.expect("every answer has a code"))
    }

    /// What there is to be seen of ejections: the endpoint, and its change.
    pub(crate) fn ejections(&self) -> Vec<(Address, EjectionChange)> {
        let of = |seen: &Seen| match seen {
            Seen::Ejection { endpoint, change, .. } => Some((endpoint.clone(), *change)),
            _ => None,
        };
        self.events.all().iter().filter_map(of).collect()
    }

    /// How many endpoints were taken out so far.
    pub(crate) fn ejected(&self) -> usize {
        self.ejections().iter().filter(|(_, change)| matches!(change, EjectionChange::Ejected { .. })).count()
    }

    pub(crate) fn overflows(&self, limit: Limit) -> usize {
        self.events.count(|seen| matches!(seen, Seen::Overflow { limit: told, .. } if *told == limit))
    }

    /// The sums of the metric over all its series that have `label`, by what they are told apart by.
    pub(crate) fn metric(&self, name: &str, label: &str) -> f64 {
        self.metrics()
            .into_iter()
            .filter(|((of, labels), _)| of == name && labels.contains(label))
            .map(|(_, n)| n)
            .sum()
    }

    fn metrics(&self) -> BTreeMap<(String, String), f64> {
        self.exporter.reset();
        self.provider.force_flush().unwrap();
        let mut found = BTreeMap::new();
        for resource in self.exporter.get_finished_metrics().unwrap() {
            for metric in resource.scope_metrics().flat_map(|scope| scope.metrics()) {
                let mut add = |labels: Vec<String>, value: f64| {
                    found.insert((metric.name().to_owned(), labels.join(" ")), value);
                };
                let label = |pair: &mesh_tower::opentelemetry::KeyValue| format!("{}={}", pair.key, pair.value);
                match metric.data() {
                    AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                        sum.data_points().for_each(|p| add(p.attributes().map(label).collect(), p.value() as f64));
                    }
                    AggregatedMetrics::I64(MetricData::Sum(sum)) => {
                        sum.data_points().for_each(|p| add(p.attributes().map(label).collect(), p.value() as f64));
                    }
                    _ => {}
                }
            }
        }
        found
    }

    /// Nothing is under way, as far as can be counted (CB-04).
    pub(crate) fn assert_idle(&self) {
        for name in ["mesh.backend.active_requests", "mesh.backend.pending_requests", "mesh.backend.active_retries"] {
            assert_eq!(self.metric(name, ""), 0.0, "{name}");
        }
    }

    /// Ends the mesh and shows that nothing of it is left (RL-11, RL-12).
    pub(crate) async fn end(self) {
        self.assert_idle();
        self.mesh.end().await;
    }
}

pub(crate) fn parsed(yaml: &str) -> Arc<Config> {
    match config::parse(yaml.as_bytes(), "test.yaml", Path::new(".")) {
        Ok(config) => Arc::new(config),
        Err(error) => panic!("the configuration of the test is refused:\n{error}\n{yaml}"),
    }
}

pub(crate) async fn whole(response: http::Response<Body>) -> Result<(StatusCode, String), Error> {
    let status = response.status();
    Ok((status, response.into_body().string().await?))
}

pub(crate) fn get_with(options: RequestOptions) -> Request<Payload> {
    let mut request = Request::get(URI).body(empty()).unwrap();
    request.extensions_mut().insert(options);
    request
}

/// A GET that gives up after `timeout`.
pub(crate) fn get_within(timeout: Duration) -> Request<Payload> {
    get_with(RequestOptions::new().timeout(timeout))
}

pub(crate) fn is_ejected(change: &EjectionChange, by: Cause) -> bool {
    matches!(change, EjectionChange::Ejected { cause, .. } if *cause == by)
}

/// An overflow: at once, of its own kind, and nothing was sent (CB-03).
#[track_caller]
pub(crate) fn assert_overflow(error: &Error) {
    assert_eq!((error.kind(), error.grpc_code()), (ErrorKind::Overflow, Code::Unavailable), "{error}");
    assert!(error.is_overloaded());
}

pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}
