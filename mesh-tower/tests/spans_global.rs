//! The global provider, which belongs to the whole process: a test binary of its own.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod http_support;

use http::Response;
use http_support::{greeter, serve};
use mesh_tower::opentelemetry::global;
use mesh_tower::testing::empty;
use opentelemetry_sdk::trace::{InMemorySpanExporter, Sampler, SdkTracerProvider};

#[tokio::test]
async fn tl_09_the_global_provider_is_used_if_it_is_there_when_the_mesh_is_built() {
    let server = serve(|_| async { Ok(Response::new(empty())) });
    let before = greeter(&[server.address()]).mesh().await;

    let exporter = InMemorySpanExporter::default();
    // One that samples whatever it is asked: building a mesh must leave no span behind.
    let provider =
        SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).with_sampler(Sampler::AlwaysOn).build();
    global::set_tracer_provider(provider);
    let after = greeter(&[server.address()]).mesh().await;
    assert_eq!(exporter.get_finished_spans().unwrap().len(), 0, "the probe is not seen");

    before.http_client().get("http://greeter/").await.unwrap();
    assert_eq!(exporter.get_finished_spans().unwrap().len(), 0);
    after.http_client().get("http://greeter/").await.unwrap();
    assert_eq!(exporter.get_finished_spans().unwrap().len(), 2);
    before.end().await;
    after.end().await;
}
