//! AZ-10, AZ-16, RL-02: heads that no handler sees.

use http::header::HOST;
use http::{HeaderValue, Request, Version};
use mesh_tower::testing::{Payload, empty, full};

use super::support::{Told, ask, call, echo, get, layer, message, post};

async fn told(request: Request<Payload>) -> Told {
    let (_mesh, layer) = layer(|server| server.limits.max_headers = 3).await;
    Told::read(ask(&layer, echo, request).await).await
}

fn with(mut request: Request<Payload>, name: &'static str, value: &'static str) -> Request<Payload> {
    request.headers_mut().append(name, HeaderValue::from_static(value));
    request
}

#[tokio::test]
async fn what_is_well_formed_reaches_the_handler() {
    assert_eq!(told(post("hello")).await, Told::http(200, "hello"));
    assert_eq!(told(call(empty())).await, Told::http(200, ""));
    assert_eq!(told(with(call(empty()), "grpc-timeout", "1S")).await, Told::http(200, ""));
    let bare = Request::get("/").version(Version::HTTP_10).body(empty()).unwrap();
    assert_eq!(told(bare).await, Told::http(200, ""));
    assert_eq!(told(with(get("/"), "grpc-timeout", "no matter")).await, Told::http(200, ""));
}

#[tokio::test]
async fn rl_02_as_many_headers_as_there_may_be_and_no_more() {
    let many = |mut request: Request<Payload>, extra: usize| {
        for _ in 0..extra {
            // Of one name: values count.
            request = with(request, "cookie", "crumb");
        }
        request
    };
    assert_eq!(told(many(get("/"), 2)).await, Told::http(200, ""));
    assert_eq!(told(many(get("/"), 3)).await, Told::http(431, "too many headers"));
    assert_eq!(told(many(call(empty()), 2)).await, Told::http(200, ""));
    assert_eq!(told(many(call(empty()), 3)).await, Told::grpc(8));
}

#[tokio::test]
async fn az_10_paths_that_are_none() {
    for path in ["http://catalog/", "http://catalog//svc/m", "http://catalog/svc", "http://catalog/svc/"] {
        let mut request = call(full(message(1)));
        *request.uri_mut() = path.parse().unwrap();
        assert_eq!(told(request).await, Told::grpc(12), "{path}");
    }
    let star = Request::get("*").header("host", "catalog").body(empty()).unwrap();
    assert_eq!(told(star).await, Told::http(400, "malformed path"));
}

#[tokio::test]
async fn az_16_hosts_that_are_none_or_two() {
    let malformed = Told::http(400, "malformed authority");
    assert_eq!(told(with(get("/"), "host", "catalog")).await, malformed);
    assert_eq!(told(Request::get("/").body(empty()).unwrap()).await, malformed);
    assert_eq!(told(with(Request::get("/").body(empty()).unwrap(), "host", "a@b")).await, malformed);
    assert_eq!(told(with(Request::get("http://a/").body(empty()).unwrap(), "host", "b")).await, malformed);
    assert_eq!(told(with(Request::get("http://a/").body(empty()).unwrap(), "host", "A")).await, Told::http(200, ""));
    let grpc = told(with(call(empty()), "host", "other")).await;
    assert_eq!(grpc, Told { status: 400, ..Told::grpc(13) });
}

#[tokio::test]
async fn a_malformed_grpc_timeout_is_refused() {
    assert_eq!(told(with(call(empty()), "grpc-timeout", "1 S")).await, Told { status: 400, ..Told::grpc(13) });
}

/// gRPC is a POST of HTTP/2: nobody gets an answer in gRPC's manner, or its limits, by a header alone.
#[tokio::test]
async fn a_content_type_alone_makes_no_grpc_call() {
    let mut over_http1 = call(empty());
    *over_http1.version_mut() = Version::HTTP_11;
    *over_http1.uri_mut() = "/".parse().unwrap();
    over_http1.headers_mut().append(HOST, HeaderValue::from_static("a"));
    over_http1.headers_mut().append(HOST, HeaderValue::from_static("b"));
    assert_eq!(told(over_http1).await, Told::http(400, "malformed authority"));
    let mut get = call(empty());
    *get.method_mut() = http::Method::GET;
    *get.uri_mut() = "http://catalog/".parse().unwrap();
    assert_eq!(told(get).await, Told::http(200, ""));
}
