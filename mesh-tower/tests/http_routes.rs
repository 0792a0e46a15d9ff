//! Routing through the wire: each rule once, and the shares of weights.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod http_support;

use http::{Method, Request, Response};
use http_support::{mesh, serve, text};
use mesh_tower::testing::{TestBackend, TestMesh, empty};
use tower::ServiceExt;

/// A server that answers with its name.
fn named(name: &str) -> TestBackend {
    TestBackend::named(name).start()
}

/// A service `greeter` with these routes (in YAML) and two backends, `a` and `b`, that answer with their names.
struct Two {
    mesh: TestMesh,
    _servers: [TestBackend; 2],
}

impl Two {
    async fn with(service: &str) -> Self {
        let servers = [named("a"), named("b")];
        let [a, b] = servers.each_ref().map(|server| server.address());
        let backends = format!("backends: {{ a: {{ endpoints: [{a}] }}, b: {{ endpoints: [{b}] }} }}");
        let mesh = mesh(format!("services: {{ greeter: {{ {service}, {backends} }} }}")).await;
        Self { mesh, _servers: servers }
    }

    /// Who answers.
    async fn ask(&self, request: http::request::Builder) -> String {
        let client = self.mesh.http_client().errors_as_responses();
        let response = client.oneshot(request.body(empty()).unwrap()).await.unwrap();
        match response.status().as_u16() {
            200 => text(response).await,
            status => status.to_string(),
        }
    }
}

/// `a` for what matches, `b` for the rest.
async fn matching(matches: &str) -> Two {
    Two::with(&format!(
        "routes: [{{ matches: [{matches}], backends: [{{ name: a }}] }}, {{ backends: [{{ name: b }}] }}]"
    ))
    .await
}

#[tokio::test]
async fn rt_01_hosts() {
    let servers = [named("exact"), named("suffix"), named("longer"), named("prefix"), named("any")];
    let [exact, suffix, longer, prefix, any] = servers.each_ref().map(|server| server.address());
    let service = |name: &str, host: &str, address| {
        format!("{name}: {{ hosts: [\"{host}\"], backends: {{ v1: {{ endpoints: [{address}] }} }} }}")
    };
    let services = [
        service("one", "a.foo.com", exact),
        service("two", "*.foo.com", suffix),
        service("three", "*.b.foo.com", longer),
        service("four", "a.foo.*", prefix),
        service("five", "*", any),
    ];
    let mesh = mesh(format!("services: {{ {} }}", services.join(", "))).await;
    for (authority, expected) in [
        ("a.foo.com", "exact"),
        ("A.FOO.com", "exact"),
        ("x.foo.com", "suffix"),
        ("x.b.foo.com", "longer"),
        ("a.foo.org", "prefix"),
        ("foo.com", "any"),
        ("elsewhere", "any"),
        ("one", "exact"),
    ] {
        let response = mesh.http_client().get(format!("http://{authority}/")).await.unwrap();
        assert_eq!(text(response).await, expected, "{authority}");
    }
    mesh.end().await;
}

#[tokio::test]
async fn rt_02_the_first_route_that_matches_wins() {
    let two = Two::with(
        "routes: [{ matches: [{ path: { prefix: /x } }], backends: [{ name: a }] }, \
         { matches: [{ path: { exact: /x/y } }], backends: [{ name: b }] }]",
    )
    .await;
    assert_eq!(two.ask(Request::get("http://greeter/x/y")).await, "a");
    assert_eq!(two.ask(Request::get("http://greeter/y")).await, "404");
    two.mesh.end().await;
}

#[tokio::test]
async fn rt_03_a_prefix_counts_by_elements() {
    let two = matching("{ path: { prefix: /v2 } }").await;
    for (path, expected) in
        [("/v2", "a"), ("/v2/", "a"), ("/v2/x?y", "a"), ("/v2?x", "a"), ("/v2example", "b"), ("/V2", "b"), ("", "b")]
    {
        assert_eq!(two.ask(Request::get(format!("http://greeter{path}"))).await, expected, "{path:?}");
    }
    two.mesh.end().await;
}

#[tokio::test]
async fn rt_04_paths() {
    for (path_match, path, expected) in [
        ("{ exact: /a/B }", "/a/B", "a"),
        ("{ exact: /a/B }", "/a/b", "b"),
        ("{ exact: /a/B, ignore_case: true }", "/A/b", "a"),
        ("{ exact: /a/B }", "/a/B/", "b"),
        ("{ regex: \"/v[0-9]+/.*\" }", "/v12/x", "a"),
        ("{ regex: \"/v[0-9]+\" }", "/v12/x", "b"),
        ("{ regex: \"/V1\" }", "/v1", "b"),
    ] {
        let two = matching(&format!("{{ path: {path_match} }}")).await;
        assert_eq!(two.ask(Request::get(format!("http://greeter{path}"))).await, expected, "{path_match} {path}");
        two.mesh.end().await;
    }
}

#[tokio::test]
async fn rt_05_headers_methods_and_queries() {
    let get = || Request::get("http://greeter/?q=a%20b&q=2&flag");
    for (conditions, request, expected) in [
        ("headers: [{ name: X-A, exact: \"1,2\" }]", get().header("x-a", "1").header("x-a", "2"), "a"),
        ("headers: [{ name: x-a, exact: \"1\" }]", get(), "b"),
        (
            "headers: [{ name: x-a, prefix: ab }, { name: x-b, suffix: yz }]",
            get().header("x-a", "abc").header("x-b", "xyz"),
            "a",
        ),
        ("headers: [{ name: x-a, prefix: ab }, { name: x-b, suffix: yz }]", get().header("x-a", "abc"), "b"),
        ("headers: [{ name: x-a, contains: BC, ignore_case: true }]", get().header("x-a", "abcd"), "a"),
        ("headers: [{ name: x-a, regex: \"[a-z]+\" }]", get().header("x-a", "abc1"), "b"),
        ("headers: [{ name: x-a, range: { start: -5, end: 5 } }]", get().header("x-a", "-5"), "a"),
        ("headers: [{ name: x-a, range: { start: -5, end: 5 } }]", get().header("x-a", "5"), "b"),
        ("headers: [{ name: x-a, range: { start: -5, end: 5 } }]", get().header("x-a", "x"), "b"),
        ("headers: [{ name: x-a, present: true }]", get().header("x-a", ""), "a"),
        ("headers: [{ name: x-a, present: false }]", get(), "a"),
        ("headers: [{ name: x-a, exact: \"1\", invert: true }]", get().header("x-a", "2"), "a"),
        ("headers: [{ name: x-a, exact: \"1\", invert: true }]", get(), "b"),
        ("method: GET", get(), "a"),
        ("method: GET", get().method(Method::POST), "b"),
        ("query: [{ name: q, exact: \"a b\" }]", get(), "a"),
        ("query: [{ name: q, exact: \"2\" }]", get(), "b"),
        ("query: [{ name: flag, present: true }]", get(), "a"),
        ("query: [{ name: none, present: false }]", get(), "a"),
        ("method: GET, path: { prefix: /x }", get(), "b"),
    ] {
        let two = matching(&format!("{{ {conditions} }}")).await;
        assert_eq!(two.ask(request).await, expected, "{conditions}");
        two.mesh.end().await;
    }
}

/// How many of `n` requests `a` answered.
async fn share_of_a(two: &Two, n: usize) -> usize {
    let mut count = 0;
    for _ in 0..n {
        count += usize::from(two.ask(Request::get("http://greeter/")).await == "a");
    }
    count
}

/// Five sigma of 1875 draws at 25 % are 94.
#[tokio::test]
async fn rt_06_a_fraction() {
    let two = matching("{ percent: 25 }").await;
    let count = share_of_a(&two, 1875).await;
    assert!((375..=562).contains(&count), "{count} of 1875");
    two.mesh.end().await;
}

/// Five sigma of 1600 draws at 20 % are 80.
#[tokio::test]
async fn rt_07_weights() {
    let two = Two::with("routes: [{ backends: [{ name: a, weight: 20 }, { name: b, weight: 80 }] }]").await;
    let count = share_of_a(&two, 1600).await;
    assert!((240..=400).contains(&count), "{count} of 1600");
    two.mesh.end().await;
}

#[tokio::test]
async fn rt_08_a_weight_of_zero_is_never_drawn() {
    let two = Two::with("routes: [{ backends: [{ name: a, weight: 0 }, { name: b, weight: 1 }] }]").await;
    assert_eq!(share_of_a(&two, 500).await, 0);
    two.mesh.end().await;
}

/// A retry stays with the backend that was drawn, and with that backend's own policy.
#[tokio::test]
async fn a_backend_of_the_route_has_a_retry_policy_of_its_own() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    for (own, attempts) in
        [("", 2), (", retry: none", 1), (", retry: { on: [5xx], num_retries: 4, backoff: { base: 1ms } }", 5)]
    {
        let count = std::sync::Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let server = serve(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { Ok(Response::builder().status(503).body(empty()).unwrap()) }
        });
        let mesh = mesh(format!(
            "services: {{ greeter: {{ routes: [{{ retry: {{ on: [5xx], backoff: {{ base: 1ms }} }}, \
             backends: [{{ name: v1{own} }}] }}], backends: {{ v1: {{ endpoints: [{}] }} }} }} }}",
            server.address()
        ))
        .await;
        assert_eq!(mesh.http_client().get("http://greeter/").await.unwrap().status(), 503);
        assert_eq!(count.load(Ordering::SeqCst), attempts, "{own}");
        mesh.end().await;
    }
}
