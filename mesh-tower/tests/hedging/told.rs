//! What observers, metrics and traces are told of hedges.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_tower::Builder;
use mesh_tower::core::grpc::Code;
use mesh_tower::core::model::{HedgePolicy, RetryOn};
use mesh_tower::observe::{Next, Outcome};
use mesh_tower::testing::Seen;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, SumDataPoint};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};

use crate::support::{Act, DELAY, GOOD, Plan, UNAVAILABLE};

fn policy() -> HedgePolicy {
    let mut policy = HedgePolicy::new(4, DELAY);
    policy.non_fatal = RetryOn::UNAVAILABLE;
    policy
}

/// RE-10: every attempt is told once with its endpoint and what followed, losers as cancelled; the request once.
#[tokio::test(start_paused = true)]
async fn re_10_every_attempt_is_told() {
    let late = Act::Late(Duration::from_millis(150), Code::Unavailable);
    let world = Plan { servers: 4, ..Plan::new(policy()) }.start(&[Act::Hang, late, Act::Hang, GOOD]).await;
    assert_eq!(world.call().await, (0, "by 4".into()));
    let mut attempts: Vec<_> = world
        .events
        .all()
        .into_iter()
        .filter_map(|seen| match seen {
            Seen::Attempt { number, outcome, next, endpoint, duration, .. } => {
                assert!(endpoint.is_some());
                Some((number, outcome, next, duration.as_millis()))
            }
            _ => None,
        })
        .collect();
    attempts.sort_by_key(|(number, ..)| *number);
    let answered = |grpc| Outcome::Response { status: http::StatusCode::OK, grpc };
    assert_eq!(
        attempts,
        [
            (1, Outcome::Cancelled, Next::Hedge, 250),
            (2, answered(Some(Code::Unavailable)), Next::Hedge, 150),
            (3, Outcome::Cancelled, Next::Hedge, 50),
            (4, answered(None), Next::Return, 0),
        ]
    );
    world.events.assert_count(1, "requests", |seen| matches!(seen, Seen::Request { attempts: 4, .. }));
    let mut endpoints: Vec<_> = world
        .events
        .all()
        .into_iter()
        .filter_map(|seen| if let Seen::Attempt { endpoint, .. } = seen { endpoint } else { None })
        .map(|endpoint| endpoint.to_string())
        .collect();
    endpoints.sort();
    endpoints.dedup();
    assert_eq!(endpoints.len(), 4, "each at an endpoint of its own");
    world.mesh.end().await;
}

/// Where nothing else is under way the budget is asked once more after a pause; the failure that was there is the answer
/// if it has no place then, either.
#[tokio::test(start_paused = true)]
async fn a_hedge_that_the_budget_denies_is_put_off_once() {
    let backend = "protocol: http2, retry_budget: { percent: 0, min_concurrent: 0 }";
    let world = Plan { backend, ..Plan::new(policy()) }.start(&[UNAVAILABLE]).await;
    let began = tokio::time::Instant::now();
    assert_eq!(world.call().await, (14, "by 1".into()));
    let waited = began.elapsed().as_millis();
    assert!((25..=30).contains(&waited), "{waited} ms");
    world.events.assert_count(1, "attempts", |seen| matches!(seen, Seen::Attempt { .. }));
    world.mesh.end().await;
}

/// gRFC A96: how many hedges a call had; every attempt counts, losers as cancelled. gRFC A72: each has a span.
#[tokio::test(start_paused = true)]
async fn a96_hedges_are_measured_and_each_has_a_span() {
    let metrics = InMemoryMetricExporter::default();
    let meters = SdkMeterProvider::builder().with_reader(PeriodicReader::builder(metrics.clone()).build()).build();
    let traces = InMemorySpanExporter::default();
    let tracers = SdkTracerProvider::builder().with_simple_exporter(traces.clone()).build();
    let providers = (meters.clone(), tracers.clone());
    let build = Box::new(move |builder: Builder| builder.meter_provider(&providers.0).tracer_provider(&providers.1));
    let world = Plan { build, ..Plan::new(policy()) }.start(&[Act::Hang, UNAVAILABLE, GOOD]).await;
    assert_eq!(world.call().await, (0, "by 3".into()));
    // Without hedges nothing is reported.
    assert_eq!(world.call().await, (0, "by 4".into()));

    meters.force_flush().unwrap();
    let exported = metrics.get_finished_metrics().unwrap();
    let all: Vec<_> = exported.iter().flat_map(|resource| resource.scope_metrics()).flat_map(|s| s.metrics()).collect();
    let of = |name: &str| all.iter().find(|metric| metric.name() == name).unwrap().data();
    let AggregatedMetrics::F64(MetricData::Histogram(hedges)) = of("grpc.client.call.hedges") else { panic!() };
    let points: Vec<_> = hedges.data_points().map(|point| (point.count(), point.sum())).collect();
    assert_eq!(points, [(1, 2.0)]);
    let counts = |name: &str, key: &str| {
        let AggregatedMetrics::U64(MetricData::Sum(sum)) = of(name) else { panic!("{name}") };
        let point = |point: &SumDataPoint<u64>| {
            let of_key = point.attributes().find(|pair| pair.key.as_str() == key);
            (of_key.map(|pair| pair.value.to_string()).unwrap_or_default(), point.value())
        };
        sum.data_points().map(point).collect::<BTreeMap<_, _>>()
    };
    let expect = |pairs: &[(&str, u64)]| pairs.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect();
    let by_code = expect(&[("OK", 2), ("UNAVAILABLE", 1), ("CANCELLED", 1)]);
    assert_eq!(counts("mesh.client.attempts", "rpc.response.status_code"), by_code);
    assert_eq!(counts("grpc.client.attempt.started", ""), expect(&[("", 4)]));
    assert_eq!(counts("mesh.client.retries", "mesh.retry.kind"), expect(&[("hedge", 2)]));

    let spans = traces.get_finished_spans().unwrap();
    let call = spans.iter().find(|span| span.name.starts_with("Sent.")).unwrap();
    let attribute = |span: &SpanData, name: &str| {
        span.attributes.iter().find(|pair| pair.key.as_str() == name).map(|pair| pair.value.to_string()).unwrap()
    };
    let beside = spans.iter().filter(|span| span.parent_span_id == call.span_context.span_id());
    let mut attempts: Vec<_> = beside
        .map(|span| {
            ["previous-rpc-attempts", "transparent-retry", "rpc.response.status_code"].map(|name| attribute(span, name))
        })
        .collect();
    attempts.sort();
    let text = |words: [&str; 3]| words.map(str::to_owned);
    let expected = [["0", "false", "CANCELLED"], ["1", "false", "UNAVAILABLE"], ["2", "false", "OK"]];
    assert_eq!(attempts, expected.map(text));
    world.mesh.end().await;
}
