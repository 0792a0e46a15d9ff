//! Prometheus and promtool. `.ci/interop prometheus` runs these tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU64, Ordering};

use examples::peers::{Page, Prometheus, promtool_check};

const TEXT: &str = "text/plain; version=0.0.4";

#[tokio::test]
async fn a_page_is_scraped_and_found_by_queries() {
    let scrapes = AtomicU64::new(0);
    let page = Page::serve(TEXT, move || {
        let scrape = scrapes.fetch_add(1, Ordering::Relaxed);
        format!("# HELP calls_total Calls made.\n# TYPE calls_total counter\ncalls_total{{to=\"a\\\"b\"}} {scrape}\n")
    });
    let page = page.await.unwrap();
    let prometheus = Prometheus::start(&[("shop", page.address())]).await;

    let found = prometheus.query_until("calls_total{to=~'a.+'} > 1", |found| !found.is_empty()).await;
    let [sample] = &found[..] else { panic!("there is one series: {found:?}") };
    assert_eq!((&*sample.labels["__name__"], &*sample.labels["job"]), ("calls_total", "shop"));
    assert_eq!((&*sample.labels["to"], &*sample.labels["instance"]), ("a\"b", &*page.address().to_string()));

    assert_eq!(prometheus.query("nobody_total").await.unwrap(), []);
    assert_eq!(prometheus.query("up").await.unwrap()[0].value, 1.0);
    let metadata = prometheus.api("/api/v1/metadata?metric=calls_total").await.unwrap();
    assert_eq!(metadata["calls_total"][0]["type"], "counter", "{metadata}");
}

#[tokio::test]
async fn a_page_that_it_cannot_read_is_a_target_that_is_down() {
    let page = Page::serve(TEXT, || "calls_total{to=} 1\n".to_owned()).await.unwrap();
    let prometheus = Prometheus::start(&[("shop", page.address())]).await;

    prometheus.query_until("up{job='shop'} == 0", |found| !found.is_empty()).await;
    let targets = prometheus.api("/api/v1/targets").await.unwrap();
    assert_eq!(targets["activeTargets"][0]["health"], "down", "{targets}");
    assert!(prometheus.query("calls_total").await.unwrap().is_empty());
    let error = prometheus.query("calls_total{").await.unwrap_err();
    assert!(error.contains("parse error"), "{error}");
}

#[test]
fn promtool_takes_a_good_page_and_says_what_is_wrong_with_others() {
    let good = "# HELP calls_total Calls made.\n# TYPE calls_total counter\ncalls_total{to=\"a\"} 1\n";
    promtool_check(good).unwrap();
    for (bad, reason) in [
        ("# TYPE calls_total counter\ncalls_total 1\n", "no help text"),
        ("# HELP calls Calls made.\n# TYPE calls counter\ncalls 1\n", "_total"),
        ("# HELP openTotal Open.\n# TYPE openTotal gauge\nopenTotal 1\n", "snake_case"),
        ("calls_total{to=} 1\n", "pars"),
    ] {
        let said = promtool_check(bad).unwrap_err();
        assert!(said.contains(reason), "{bad}{said}");
    }
}
