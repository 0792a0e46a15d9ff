//! The global meter provider. A test binary of its own: it is one for the whole process.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod http_support;

use std::time::Duration;

use http_support::{greeter, text};
use mesh_tower::opentelemetry::global;
use mesh_tower::testing::TestBackend;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};

/// TL-09: a mesh that is built before one is installed tells nobody; one that is built after tells it.
#[tokio::test]
async fn tl_09_the_global_provider_is_used_if_it_is_there() {
    let server = TestBackend::named("hello").start();
    let exporter = InMemoryMetricExporter::default();
    let reader = PeriodicReader::builder(exporter.clone()).with_interval(Duration::from_secs(3600)).build();
    let provider = SdkMeterProvider::builder().with_reader(reader).build();
    let collected = || {
        exporter.reset();
        provider.force_flush().unwrap();
        let exported = exporter.get_finished_metrics().unwrap();
        exported.iter().flat_map(ResourceMetrics::scope_metrics).flat_map(|scope| scope.metrics()).count()
    };

    let before = greeter(&[server.address()]).mesh().await;
    global::set_meter_provider(provider.clone());
    text(before.http_client().get("http://greeter/").await.unwrap()).await;
    assert_eq!(collected(), 0);
    before.end().await;

    let after = greeter(&[server.address()]).mesh().await;
    text(after.http_client().get("http://greeter/").await.unwrap()).await;
    assert!(collected() > 10);
    after.end().await;
}
