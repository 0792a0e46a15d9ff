//! Requests without a response: kinds, statuses, codes and texts.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod http_support;

use std::error::Error as _;
use std::sync::Arc;

use http::{Method, Request, Response};
use http_support::{Raw, gone, greeter, grpc, in_memory, nowhere, serve, text};
use mesh_tower::core::grpc::Code;
use mesh_tower::core::model::{
    Backend, BackendId, Config, Endpoint, Forward, Route, RouteAction, VirtualHost, WeightedBackend,
};
use mesh_tower::testing::{At, Fault, TestBackend, TestMesh, empty, full};
use mesh_tower::{Error, ErrorKind, Mesh};
use tower::ServiceExt;

/// What is to be seen of an error: kind, HTTP status, gRPC code, and what its text must hold.
struct Expected(ErrorKind, u16, Code, &'static [&'static str]);

fn check(error: &Error, expected: &Expected) {
    let Expected(kind, status, code, words) = expected;
    let report = error.report();
    assert_eq!(error.kind(), *kind, "{report}");
    assert_eq!((error.http_status().as_u16(), error.grpc_code()), (*status, *code), "{report}");
    for word in *words {
        assert!(report.contains(word), "{word:?} is missing: {report}");
    }
    assert!(!report.contains('\n'), "{report}");
}

/// Sends `request` as an HTTP client does, and once more for the response that stands for the error.
async fn fails(mesh: &Mesh, request: impl Fn() -> http::request::Builder, expected: &Expected) -> Error {
    let error = mesh.http_client().oneshot(request().body(empty()).unwrap()).await.unwrap_err();
    check(&error, expected);
    let client = mesh.http_client().errors_as_responses();
    let response = client.oneshot(request().body(empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), expected.1);
    assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
    let body = text(response).await;
    for word in expected.3 {
        assert!(body.contains(word), "{word:?} is missing: {body}");
    }
    error
}

#[tokio::test]
async fn requests_that_no_mesh_can_send_are_refused_with_the_way_out() {
    let mesh = greeter(&[nowhere()]).mesh().await;
    let invalid = |words| Expected(ErrorKind::InvalidRequest, 400, Code::Internal, words);
    for (uri, expected) in [
        ("/items?x=1", invalid(&["names no service", "http://SERVICE/items"])),
        ("http://user:secret@greeter/", invalid(&["user information", "authorization"])),
        ("http://user@greeter/", invalid(&["user information"])),
        ("ftp://greeter/", invalid(&["\"ftp\"", "http:// or https://"])),
        ("https://greeter/", invalid(&["backend v1 of service greeter", "`tls`", "http://"])),
    ] {
        let error = fails(&mesh, || Request::get(uri), &expected).await;
        assert!(!error.report().contains("secret"), "{}", error.report());
        assert_eq!(error.attempts(), 0);
    }
    let error = mesh.http_client().get("http://gre eter/").await.unwrap_err();
    check(&error, &invalid(&["the URI cannot be read"]));
    assert!(error.source().is_some());
    mesh.end().await;
}

#[tokio::test]
async fn upgrades_and_connect_are_refused() {
    let mesh = greeter(&[nowhere()]).mesh().await;
    let refused = Expected(ErrorKind::UpgradeRefused, 501, Code::Unimplemented, &["connect to the server directly"]);
    let upgrade = || Request::get("http://greeter/").header("connection", "upgrade").header("upgrade", "websocket");
    let error = fails(&mesh, upgrade, &refused).await;
    assert!(error.report().contains("websocket"));
    fails(&mesh, || Request::get("http://greeter/").header("upgrade", "h2c"), &refused).await;
    let error = fails(&mesh, || Request::builder().method(Method::CONNECT).uri("greeter:80"), &refused).await;
    assert!(error.report().contains("CONNECT"));
    mesh.end().await;
}

#[tokio::test]
async fn a_server_that_switches_protocols_unasked_broke_the_protocol() {
    let server = Raw::start(|_, mut client| async move {
        client.head().await.unwrap();
        client.write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\nhello").await;
        client.closed().await;
    })
    .await;
    let mesh = greeter(&[server.address()]).route("retry: { on: [5xx, reset] }").mesh().await;
    let expected = Expected(ErrorKind::Protocol, 502, Code::Internal, &["101", "backend v1 of service greeter"]);
    let error = mesh.http_client().get("http://greeter/").await.unwrap_err();
    check(&error, &expected);
    assert_eq!((error.attempts(), server.connections()), (2, 2), "it is tried again, like other nonsense");
    mesh.end().await;
}

#[tokio::test]
async fn an_unknown_service_is_told_with_its_neighbour() {
    let mesh = greeter(&[nowhere()]).mesh().await;
    let expected = Expected(
        ErrorKind::UnknownService,
        404,
        Code::Unavailable,
        &["no service has the host \"greter\"", "did you mean `greeter`?"],
    );
    fails(&mesh, || Request::get("http://greter/"), &expected).await;
    check(&mesh.service("greter").unwrap_err(), &expected);
    let far = Expected(ErrorKind::UnknownService, 404, Code::Unavailable, &["\"billing.example\"", "`services`"]);
    fails(&mesh, || Request::get("http://billing.example/"), &far).await;
    check(
        &mesh.service("not a name").unwrap_err(),
        &Expected(ErrorKind::InvalidRequest, 400, Code::Internal, &["\"not a name\""]),
    );
    mesh.end().await;
}

#[tokio::test]
async fn rt_10_no_route_is_404() {
    let mesh = greeter(&[nowhere()]).route("matches: [{ path: { prefix: /v1 } }]").mesh().await;
    let words = &["service greeter", "GET /v2", "`matches`"];
    fails(&mesh, || Request::get("http://greeter/v2?q"), &Expected(ErrorKind::NoRoute, 404, Code::Unavailable, words))
        .await;
    mesh.end().await;
}

fn model(routes: Vec<Route>, backends: Vec<Backend>) -> Config {
    let mut config = Config::default();
    let host = mesh_tower::core::model::HostPattern::parse("greeter").unwrap();
    let mut virtual_host = VirtualHost::new("greeter", vec![host]);
    virtual_host.routes = routes;
    config.virtual_hosts = vec![Arc::new(virtual_host)];
    config.backends = backends.into_iter().map(|backend| (backend.id.clone(), Arc::new(backend))).collect();
    config
}

async fn mesh_of(config: Config) -> TestMesh {
    TestMesh::start(Mesh::builder().config(config)).await
}

fn backend(name: &str, server: Option<&TestBackend>) -> Backend {
    let endpoints = server.into_iter().map(|server| Endpoint::new(server.address())).collect();
    Backend::new(BackendId::new("greeter", name), endpoints)
}

#[tokio::test]
async fn an_unsupported_action_is_told() {
    let action = RouteAction::Unsupported(Arc::from("a redirect"));
    let mesh = mesh_of(model(vec![Route::new(action)], vec![])).await;
    let words = &["service greeter", "a redirect", "not supported"];
    let expected = Expected(ErrorKind::UnsupportedRoute, 404, Code::Unavailable, words);
    fails(&mesh, || Request::get("http://greeter/"), &expected).await;
    mesh.end().await;
}

/// 25 % of 2000 requests: sigma is 19.4, five of them are 97.
#[tokio::test]
async fn rt_11_a_missing_backend_fails_its_share_with_500() {
    let server = TestBackend::named("ok").start();
    let weighted = |name, weight| WeightedBackend::new(BackendId::new("greeter", name), weight);
    let split = Forward::split(vec![weighted("v1", 3), weighted("gone", 1)]);
    let mesh = mesh_of(model(vec![Route::new(split)], vec![backend("v1", Some(&server))])).await;
    let client = mesh.http_client().errors_as_responses();
    let mut missing = 0;
    for _ in 0..2000 {
        let response = client.get("http://greeter/").await.unwrap();
        match response.status().as_u16() {
            200 => assert_eq!(text(response).await, "ok"),
            500 => {
                missing += 1;
                let body = text(response).await;
                assert!(body.contains("service greeter") && body.contains("greeter/gone"), "{body}");
            }
            other => panic!("{other}"),
        }
    }
    assert!((403..=597).contains(&missing), "{missing} of 2000");
    assert_eq!(server.connections(), 1);
    mesh.end().await;

    let mesh = mesh_of(model(vec![Route::new(Forward::to(BackendId::new("greeter", "gone")))], vec![])).await;
    let expected = Expected(ErrorKind::BackendNotFound, 500, Code::Unavailable, &["greeter/gone", "does not exist"]);
    fails(&mesh, || Request::get("http://greeter/"), &expected).await;
    mesh.end().await;
}

#[tokio::test]
async fn rt_11_a_backend_without_endpoints_is_503() {
    let mesh = greeter(&[]).mesh().await;
    let words = &["backend v1 of service greeter", "no endpoints", "`endpoints`"];
    let expected = Expected(ErrorKind::NoEndpoint, 503, Code::Unavailable, words);
    fails(&mesh, || Request::get("http://greeter/"), &expected).await;
    fails(&mesh, || grpc("http://greeter/s/m"), &expected).await;
    mesh.end().await;
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_is_named() {
    // The port of a server that is gone.
    let address = gone();
    let mesh = greeter(&[address]).mesh().await;
    let words = &["backend v1 of service greeter", "127.0.0.1", "refused"];
    let expected = Expected(ErrorKind::NoHealthyEndpoint, 503, Code::Unavailable, words);
    let error = fails(&mesh, || Request::get("http://greeter/"), &expected).await;
    assert!(error.is_connect());
    let mut source: Option<&dyn std::error::Error> = error.source();
    let mut io = None;
    while let Some(cause) = source {
        io = io.or(cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind));
        source = cause.source();
    }
    assert_eq!(io, Some(std::io::ErrorKind::ConnectionRefused), "the chain of sources is kept: {error:?}");
    mesh.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_route_timeout_is_504() {
    let (network, _server) = in_memory(|_| std::future::pending());
    for protocol in ["http1", "http2"] {
        let greeter = greeter(&[nowhere()]).route("timeout: 2s").backend(&format!("protocol: {protocol}"));
        let mesh = greeter.mesh_over(&network).await;
        let words = &["backend v1 of service greeter", "2s", "first attempt"];
        let expected = Expected(ErrorKind::DeadlineExceeded, 504, Code::DeadlineExceeded, words);
        let error = fails(&mesh, || Request::get("http://greeter/"), &expected).await;
        assert!(error.is_timeout());
        assert_eq!(error.attempts(), 1);
        mesh.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_per_try_timeout_is_504_for_http_and_unavailable_for_grpc() {
    let (network, _server) = in_memory(|_| std::future::pending());
    let greeter = greeter(&[nowhere()]).route("retry: { on: [connect-failure], per_try_timeout: 200ms }");
    let mesh = greeter.mesh_over(&network).await;
    let words = &["backend v1 of service greeter", "per-try timeout of 200ms"];
    let expected = Expected(ErrorKind::PerTryTimeout, 504, Code::Unavailable, words);
    assert!(fails(&mesh, || Request::get("http://greeter/"), &expected).await.is_timeout());
    mesh.end().await;
}

#[tokio::test]
async fn grpc_to_a_backend_of_http1_is_told() {
    let mesh = greeter(&[nowhere()]).backend("protocol: http1").mesh().await;
    let words = &["gRPC needs HTTP/2", "backend v1 of service greeter", "protocol: http1"];
    let expected = Expected(ErrorKind::Protocol, 502, Code::Internal, words);
    fails(&mesh, || grpc("http://greeter/s/m"), &expected).await;
    mesh.end().await;
}

#[tokio::test]
async fn a_malformed_response_is_502() {
    for answer in [
        "HTTP/1.1 abc\r\n\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1, 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "\u{1}\u{2}\r\n\r\n",
    ] {
        let server = Raw::start(move |_, mut client| async move {
            client.head().await.unwrap();
            client.write(answer).await;
            client.closed().await;
        })
        .await;
        let mesh = greeter(&[server.address()]).mesh().await;
        let words = &["backend v1 of service greeter", "not HTTP/1.1"];
        let expected = Expected(ErrorKind::Protocol, 502, Code::Internal, words);
        let error = fails(&mesh, || Request::get("http://greeter/"), &expected).await;
        assert!(error.source().is_some(), "{answer:?}");
        mesh.end().await;
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_503() {
    let server = Raw::start(|_, mut client| async move {
        client.head().await.unwrap();
        client.write("HTTP/1.1 200 O").await;
    })
    .await;
    let mesh = greeter(&[server.address()]).mesh().await;
    let words = &["backend v1 of service greeter", "broke before a response"];
    let expected = Expected(ErrorKind::Reset, 503, Code::Unavailable, words);
    let error = fails(&mesh, || Request::get("http://greeter/"), &expected).await;
    assert_eq!(error.attempts(), 1);
    mesh.end().await;
}

/// gRPC PROTOCOL-HTTP2: the reason of a reset tells the code.
#[tokio::test]
async fn a_reset_stream_is_told_by_its_reason() {
    for (reason, kind, code) in [
        (h2::Reason::CANCEL, ErrorKind::Reset, Code::Cancelled),
        (h2::Reason::INTERNAL_ERROR, ErrorKind::Reset, Code::Internal),
        (h2::Reason::ENHANCE_YOUR_CALM, ErrorKind::Reset, Code::ResourceExhausted),
        (h2::Reason::INADEQUATE_SECURITY, ErrorKind::Reset, Code::PermissionDenied),
        (h2::Reason::REFUSED_STREAM, ErrorKind::Refused, Code::Unavailable),
    ] {
        let server = TestBackend::named("v1").start();
        server.set(Fault::Reset(At::BeforeHead, reason));
        let mesh = greeter(&[server.address()]).mesh().await;
        let expected = Expected(kind, 503, code, &["backend v1 of service greeter"]);
        let error = fails(&mesh, || grpc("http://greeter/s/m"), &expected).await;
        let source = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
        assert_eq!(source.and_then(h2::Error::reason), Some(reason));
        mesh.end().await;
    }
}

#[tokio::test]
async fn an_http1_server_asked_for_http2_is_told_as_such() {
    let server = Raw::start(|_, mut client| async move {
        client.head().await;
        client.write("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
    })
    .await;
    let mesh = greeter(&[server.address()]).backend("protocol: http2").mesh().await;
    let words = &["backend v1 of service greeter", "HTTP/2", "is it an HTTP/2 server?"];
    let expected = Expected(ErrorKind::NoHealthyEndpoint, 503, Code::Unavailable, words);
    fails(&mesh, || Request::get("http://greeter/"), &expected).await;
    mesh.end().await;
}

/// A gRPC call to an HTTP/1.1 server fails; those who speak HTTP/1.1 to it are none the wiser, whoever comes first.
#[tokio::test]
async fn a_grpc_call_to_an_http1_server_harms_nobody_else() {
    for grpc_first in [false, true] {
        let server = Raw::start(|_, mut client| async move {
            while let Some(head) = client.head().await {
                if head.starts_with("PRI ") {
                    client.write("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
                    return;
                }
                client.answer("ok").await;
            }
        })
        .await;
        let mesh = greeter(&[server.address()]).mesh().await;
        let refused = Expected(
            ErrorKind::NoHealthyEndpoint,
            503,
            Code::Unavailable,
            &["backend v1 of service greeter", "is it an HTTP/2 server?"],
        );
        for round in 0..6 {
            if (round % 2 == 0) == grpc_first {
                fails(&mesh, || grpc("http://greeter/s/m"), &refused).await;
            } else {
                assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, "ok", "round {round}");
            }
        }
        mesh.end().await;
    }
}

/// Of two endpoints only one speaks HTTP/2: gRPC goes there, and HTTP/1.1 to both.
#[tokio::test]
async fn grpc_passes_over_an_endpoint_of_http1() {
    let old = Raw::start(|_, mut client| async move {
        while let Some(head) = client.head().await {
            if head.starts_with("PRI ") {
                return;
            }
            client.answer("old").await;
        }
    })
    .await;
    let new = TestBackend::named("new").start();
    let mesh = greeter(&[old.address(), new.address()]).mesh().await;
    let mut old_answers = 0;
    for _ in 0..10 {
        old_answers += usize::from(text(mesh.http_client().get("http://greeter/").await.unwrap()).await == "old");
        let call = mesh.http_client().oneshot(grpc("http://greeter/s/m").body(empty()).unwrap());
        assert_eq!(text(call.await.unwrap()).await, "new");
    }
    assert!(old_answers > 0);
    mesh.end().await;
}

#[tokio::test]
async fn after_a_shutdown_nothing_is_sent() {
    let server = TestBackend::named("ok").start();
    let mesh = greeter(&[server.address()]).mesh().await;
    let client = mesh.http_client();
    assert_eq!(text(client.get("http://greeter/").await.unwrap()).await, "ok");
    mesh.shutdown().await;
    let expected = Expected(ErrorKind::Shutdown, 503, Code::Unavailable, &["shut down"]);
    fails(&mesh, || Request::get("http://greeter/"), &expected).await;
    mesh.end().await;
}

#[tokio::test]
async fn a_response_that_is_an_error_of_the_peer_stays_a_response() {
    let server = serve(|request| async move {
        let status = request.uri().path()[1..].parse::<u16>().unwrap();
        Ok(Response::builder().status(status).body(full("mine")).unwrap())
    });
    for protocol in ["http1", "http2"] {
        let mesh = greeter(&[server.address()]).backend(&format!("protocol: {protocol}")).mesh().await;
        for status in [400, 404, 418, 429, 500, 502, 503, 504, 599] {
            let response = mesh.http_client().get(format!("http://greeter/{status}")).await.unwrap();
            assert_eq!(response.status(), status);
            assert_eq!(text(response).await, "mine");
        }
        mesh.end().await;
    }
}
