//! What goes over the wire for a request and its response.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod http_support;

use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use http_support::{Raw, greeter, in_memory, serve, silent, text, until, whole};
use mesh_tower::testing::{Feed, Pieces, TestBackend, TestMesh, empty, full};
use tower::ServiceExt;

/// Both protocols of a plaintext backend.
const PROTOCOLS: [(&str, Version); 2] = [("http1", Version::HTTP_11), ("http2", Version::HTTP_2)];

/// A server that keeps what it is sent and answers 200, and a mesh that speaks `protocol` to it.
async fn echo_head(protocol: &str) -> (TestMesh, TestBackend) {
    let server = silent();
    let mesh = greeter(&[server.address()]).backend(&format!("protocol: {protocol}")).mesh().await;
    (mesh, server)
}

/// What the server is sent for `request`.
async fn sent(protocol: &str, request: http::request::Builder) -> http::request::Parts {
    let (mesh, server) = echo_head(protocol).await;
    let response = mesh.http_client().oneshot(request.body(empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    mesh.end().await;
    server.only_request().head
}

/// The authority as the server is told it.
fn authority(parts: &http::request::Parts) -> String {
    match parts.version {
        Version::HTTP_2 => {
            assert!(!parts.headers.contains_key("host"), "no Host beside :authority");
            parts.uri.authority().expect("an :authority").to_string()
        }
        _ => parts.headers["host"].to_str().unwrap().to_owned(),
    }
}

#[tokio::test]
async fn the_authority_is_what_the_caller_wrote() {
    for (protocol, _) in PROTOCOLS {
        for (uri, host, expected) in [
            ("http://greeter/x", None, "greeter"),
            ("http://greeter:80/x", None, "greeter:80"),
            ("http://greeter.default.svc:8080/x", None, "greeter.default.svc:8080"),
            ("http://GREETER/x", None, "GREETER"),
            ("http://greeter/x", Some("other.example:81"), "other.example:81"),
        ] {
            let mut request = Request::get(uri);
            if let Some(host) = host {
                request = request.header("host", host);
            }
            let parts = sent(protocol, request).await;
            assert_eq!(authority(&parts), expected, "{protocol} {uri}");
        }
    }
}

#[tokio::test]
async fn a_service_client_sends_its_own_name_whatever_the_uri_says() {
    for (protocol, _) in PROTOCOLS {
        let (mesh, server) = echo_head(protocol).await;
        let client = mesh.service("greeter.default.svc:8080").unwrap();
        for uri in ["http://elsewhere/x", "/x"] {
            let request = Request::get(uri).body(full("")).unwrap();
            client.clone().oneshot(request).await.unwrap();
        }
        for request in server.requests() {
            let parts = request.head;
            assert_eq!(authority(&parts), "greeter.default.svc:8080");
            assert_eq!(parts.uri.path(), "/x");
        }
        mesh.end().await;
    }
}

#[tokio::test]
async fn path_and_query_are_not_touched() {
    let paths = ["/", "/a/../b//c/./?x=%20&&y=a+b&z", "/%2e%2E/%00?", "/?q=http://x/y", "/a;b=1,2/'()*!$~"];
    for (protocol, version) in PROTOCOLS {
        for path in paths {
            let parts = sent(protocol, Request::get(format!("http://greeter{path}"))).await;
            assert_eq!(parts.uri.path_and_query().unwrap().as_str(), path, "{protocol}");
            assert_eq!(parts.version, version);
            if version == Version::HTTP_2 {
                assert_eq!(parts.uri.scheme_str(), Some("http"));
            }
        }
    }
}

#[tokio::test]
async fn http1_has_the_origin_form_and_one_host() {
    let server = Raw::start(|_, mut client| async move {
        let head = client.head().await.unwrap();
        let body = head.replace("\r\n", "|");
        client.answer(&body).await;
    })
    .await;
    let mesh = greeter(&[server.address()]).mesh().await;
    let request = Request::get("http://greeter?q=1").header("x-a", "1").body(empty()).unwrap();
    let head = text(mesh.http_client().oneshot(request).await.unwrap()).await;
    assert!(head.starts_with("GET /?q=1 HTTP/1.1|"), "{head}");
    assert_eq!(head.matches("host: greeter|").count(), 1, "{head}");
    assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
    mesh.end().await;
}

#[tokio::test]
async fn headers_of_the_hop_are_removed_and_others_kept() {
    for (protocol, version) in PROTOCOLS {
        let request = Request::get("http://greeter/")
            .header("connection", "x-foo, keep-alive")
            .header("connection", "x-bar")
            .header("keep-alive", "timeout=5")
            .header("proxy-connection", "keep-alive")
            .header("te", "trailers, deflate;q=0.5")
            .header("x-foo", "1")
            .header("x-bar", "2")
            .header("x-kept", "a")
            .header("x-kept", "b")
            .header("cookie", "a=1");
        let parts = sent(protocol, request).await;
        for name in ["connection", "keep-alive", "proxy-connection", "te", "x-foo", "x-bar", "transfer-encoding"] {
            assert!(!parts.headers.contains_key(name), "{version:?}: {name}: {:?}", parts.headers);
        }
        let kept: Vec<_> = parts.headers.get_all("x-kept").iter().collect();
        assert_eq!(kept, ["a", "b"]);
        assert_eq!(parts.headers["cookie"], "a=1");
    }
}

/// RFC 9110 10.1.4: over HTTP/1.1 the option `te` must be named in `connection`.
#[tokio::test]
async fn te_trailers_is_kept() {
    for extra in [None, Some(("connection", "x-foo"))] {
        for (protocol, version) in PROTOCOLS {
            let mut request = Request::get("http://greeter/").header("te", "trailers");
            if let Some((name, value)) = extra {
                request = request.header(name, value);
            }
            let parts = sent(protocol, request).await;
            assert_eq!(parts.headers["te"], "trailers");
            let connection = parts.headers.get("connection").map(HeaderValue::as_bytes);
            let expected: Option<&[u8]> = if version == Version::HTTP_2 { None } else { Some(b"te") };
            assert_eq!(connection, expected, "{protocol}");
        }
    }
}

#[tokio::test]
async fn the_length_of_a_body_is_told_where_it_is_known() {
    for (protocol, _) in PROTOCOLS {
        let (mesh, server) = echo_head(protocol).await;
        let client = mesh.http_client();
        for (request, expected) in [
            (Request::post("http://greeter/").body(full("12345")).unwrap(), Some("5")),
            (Request::post("http://greeter/").body(empty()).unwrap(), Some("0")),
            (Request::put("http://greeter/").body(empty()).unwrap(), Some("0")),
            (Request::get("http://greeter/").body(empty()).unwrap(), None),
            (Request::delete("http://greeter/").body(empty()).unwrap(), None),
            (Request::get("http://greeter/").body(full("123")).unwrap(), Some("3")),
            (Request::post("http://greeter/").body(Pieces::new(["ab", "c"]).boxed_unsync()).unwrap(), None),
            (
                Request::post("http://greeter/")
                    .header("content-length", "3")
                    .body(Pieces::new(["ab", "c"]).boxed_unsync())
                    .unwrap(),
                Some("3"),
            ),
        ] {
            let (method, before) = (request.method().clone(), server.request_count());
            client.clone().oneshot(request).await.unwrap();
            let sent = server.requests().remove(before);
            assert_eq!(sent.header("content-length"), expected, "{protocol} {method} with {:?}", sent.body);
        }
        mesh.end().await;
    }
}

/// A body of unknown length belongs to the request whatever its method: hyper's client would leave it out.
#[tokio::test]
async fn a_streamed_body_reaches_the_server_with_every_method() {
    for (protocol, _) in PROTOCOLS {
        for method in
            [Method::GET, Method::DELETE, Method::POST, Method::OPTIONS, Method::from_bytes(b"QUERY").unwrap()]
        {
            let (mesh, server) = echo_head(protocol).await;
            let body = Pieces::new(["ab", "", "cd"]);
            let request = Request::builder().method(&method).uri("http://greeter/").body(body).unwrap();
            mesh.http_client().oneshot(request).await.unwrap();
            assert_eq!(server.only_request().body, "abcd", "{protocol} {method}");
            mesh.end().await;
        }
    }
}

fn fields(all: &[(&'static str, &'static str)]) -> HeaderMap {
    all.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

#[tokio::test]
async fn request_trailers_arrive() {
    for (protocol, _) in PROTOCOLS {
        let (mesh, server) = echo_head(protocol).await;
        let body = Pieces::new(["data"]).with_trailers(fields(&[("x-sum", "1")]));
        // HTTP/1.1 sends only what `trailer` announces (RFC 9110 6.6.2); HTTP/2 has no such rule.
        let request = Request::post("http://greeter/").header("trailer", "x-sum").body(body).unwrap();
        mesh.http_client().oneshot(request).await.unwrap();
        let sent = server.only_request();
        assert_eq!(sent.body, "data");
        assert_eq!(sent.trailers.expect("trailers")["x-sum"], "1", "{protocol}");
        mesh.end().await;
    }
}

#[tokio::test]
async fn a_request_may_be_nothing_but_trailers_over_http2() {
    let (mesh, server) = echo_head("http2").await;
    let body = Pieces::new([""; 0]).with_trailers(fields(&[("x-sum", "0")]));
    mesh.http_client().oneshot(Request::post("http://greeter/").body(body).unwrap()).await.unwrap();
    let sent = server.only_request();
    assert_eq!((sent.body, sent.trailers.unwrap()["x-sum"].clone()), (Bytes::new(), HeaderValue::from_static("0")));
    mesh.end().await;
}

#[tokio::test]
async fn response_trailers_arrive() {
    for (protocol, _) in PROTOCOLS {
        for data in [vec!["some", "data"], vec![]] {
            let expected = data.concat();
            let server = serve(move |_| {
                let body = Pieces::new(data.clone()).with_trailers(fields(&[("x-sum", "7")]));
                async move { Ok(Response::builder().header("trailer", "x-sum").body(body.boxed_unsync()).unwrap()) }
            });
            let mesh = greeter(&[server.address()]).backend(&format!("protocol: {protocol}")).mesh().await;
            let request = Request::get("http://greeter/").header("te", "trailers").body(empty()).unwrap();
            let (_, body) = whole(mesh.http_client().oneshot(request).await.unwrap()).await;
            assert_eq!(body.data, expected);
            assert_eq!(body.trailers.expect("trailers")["x-sum"], "7", "{protocol} {expected:?}");
            mesh.end().await;
        }
    }
}

#[tokio::test]
async fn http1_chunked_trailers_of_a_response_arrive_and_the_connection_is_kept() {
    let server = Raw::start(|_, mut client| async move {
        while client.head().await.is_some() {
            client.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-a\r\n\r\n").await;
            client.write("3;ext=1\r\nabc\r\n0\r\nx-a: 1\r\nX-B: 2\r\n\r\n").await;
        }
    })
    .await;
    let mesh = greeter(&[server.address()]).mesh().await;
    for _ in 0..3 {
        let (parts, body) = whole(mesh.http_client().get("http://greeter/").await.unwrap()).await;
        assert!(!parts.headers.contains_key("transfer-encoding"), "a header of the hop");
        assert_eq!(body.data, "abc");
        assert_eq!(body.trailers.unwrap(), fields(&[("x-a", "1"), ("x-b", "2")]));
    }
    assert_eq!(server.connections(), 1);
    mesh.end().await;
}

#[tokio::test]
async fn answers_without_a_body_end_with_their_head() {
    for (protocol, _) in PROTOCOLS {
        let server = serve(|request| async move {
            let status: u16 = request.uri().path()[1..].parse().unwrap();
            let response = Response::builder().status(status);
            let head = request.method() == Method::HEAD;
            Ok(if head { response.header("content-length", "1234").body(empty()) } else { response.body(empty()) }
                .unwrap())
        });
        let mesh = greeter(&[server.address()]).backend(&format!("protocol: {protocol}")).mesh().await;
        for (method, status, length) in [
            (Method::HEAD, 200, Some("1234")),
            (Method::GET, 204, None),
            (Method::GET, 304, None),
            (Method::GET, 200, Some("0")),
        ] {
            let request =
                Request::builder().method(&method).uri(format!("http://greeter/{status}")).body(empty()).unwrap();
            let response = mesh.http_client().oneshot(request).await.unwrap();
            assert!(http_body::Body::is_end_stream(response.body()), "{protocol} {method} {status}");
            let (parts, body) = whole(response).await;
            assert_eq!(parts.status, status);
            assert_eq!(body.data, "");
            let told = parts.headers.get("content-length").map(|value| value.to_str().unwrap());
            assert_eq!(told.filter(|_| method == Method::HEAD), length.filter(|_| method == Method::HEAD));
        }
        assert_eq!(server.connections(), 1, "{protocol}: none of them costs the connection");
        mesh.end().await;
    }
}

#[tokio::test]
async fn http1_informational_responses_are_passed_over() {
    let server = Raw::start(|_, mut client| async move {
        while client.head().await.is_some() {
            client.write("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n").await;
            client.answer("final").await;
        }
    })
    .await;
    let mesh = greeter(&[server.address()]).mesh().await;
    for _ in 0..2 {
        let response = mesh.http_client().get("http://greeter/").await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(!response.headers().contains_key("link"));
        assert_eq!(text(response).await, "final");
    }
    assert_eq!(server.connections(), 1);
    mesh.end().await;
}

#[tokio::test]
async fn http2_informational_responses_are_passed_over() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            for status in [100, 103] {
                let informational = Response::builder().status(status).header("link", "x").body(()).unwrap();
                respond.send_informational(informational).unwrap();
            }
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            body.send_data(Bytes::from_static(b"final"), true).unwrap();
        }
    });
    let mesh = greeter(&[address]).backend("protocol: http2").mesh().await;
    for _ in 0..2 {
        let response = mesh.http_client().get("http://greeter/").await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(!response.headers().contains_key("link"));
        assert_eq!(text(response).await, "final");
    }
    mesh.end().await;
    server.await.unwrap();
}

#[tokio::test]
async fn response_headers_of_the_hop_are_removed() {
    let server = Raw::start(|_, mut client| async move {
        while client.head().await.is_some() {
            client
                .write(
                    "HTTP/1.1 200 OK\r\nconnection: keep-alive, x-foo\r\nkeep-alive: timeout=5\r\nx-foo: 1\r\n\
                     proxy-connection: keep-alive\r\nx-bar: 2\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\
                     content-length: 2\r\n\r\nok",
                )
                .await;
        }
    })
    .await;
    let mesh = greeter(&[server.address()]).mesh().await;
    let (parts, body) = whole(mesh.http_client().get("http://greeter/").await.unwrap()).await;
    let mut expected = fields(&[("x-bar", "2"), ("content-length", "2"), ("set-cookie", "a=1")]);
    expected.append("set-cookie", HeaderValue::from_static("b=2"));
    assert_eq!(parts.headers, expected);
    assert_eq!(body.data, "ok");
    mesh.end().await;
}

/// Pieces of a pattern that shows every loss, repetition and exchange of bytes.
fn large() -> Vec<Bytes> {
    let piece = |n: usize| (0..64 * 1024).map(|i| ((i * 7 + n * 13) % 251) as u8).collect::<Bytes>();
    (0..256).map(piece).collect()
}

#[tokio::test]
async fn sixteen_mib_travel_both_ways_within_flow_control() {
    for (protocol, _) in PROTOCOLS {
        let server = serve(|request| async move {
            let body = request.into_body().collect().await?.to_bytes();
            Ok(Response::new(full(body)))
        });
        let mesh = greeter(&[server.address()]).backend(&format!("protocol: {protocol}")).mesh().await;
        let expected = large().concat();
        for body in [Pieces::new(large()).boxed_unsync(), full(expected.clone())] {
            let request = Request::post("http://greeter/").body(body).unwrap();
            let (_, body) = whole(mesh.http_client().oneshot(request).await.unwrap()).await;
            assert!(body.data == expected, "{protocol}: {} of {} bytes, or others", body.data.len(), expected.len());
        }
        mesh.end().await;
    }
}

#[tokio::test]
async fn http2_is_full_duplex() {
    let server =
        serve(|request| async move { Ok(Response::new(request.into_body().map_err(Into::into).boxed_unsync())) });
    let mesh = greeter(&[server.address()]).backend("protocol: http2").mesh().await;
    let (sender, body) = Feed::new();
    // The head of the response comes before the first byte of the request.
    let response = mesh.http_client().oneshot(Request::post("http://greeter/").body(body).unwrap()).await.unwrap();
    let mut answer = response.into_body();
    for word in ["one", "two", "three"] {
        sender.data(word);
        let frame = answer.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), word);
    }
    sender.trailers(fields(&[("x-last", "1")]));
    drop(sender);
    let frame = answer.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_trailers().unwrap()["x-last"], "1");
    assert!(answer.frame().await.is_none());
    mesh.end().await;
}

/// RFC 9113 8.1: the answer may be whole before the request is; what is still sent then is not lost.
#[tokio::test]
async fn a_server_may_answer_while_the_caller_still_sends() {
    for (protocol, _) in PROTOCOLS {
        let (told, mut arrived) = tokio::sync::mpsc::channel(1024);
        let server = serve(move |request| {
            let told = told.clone();
            async move {
                let mut upload = request.into_body();
                let first = upload.frame().await.unwrap().unwrap().into_data().unwrap();
                tokio::spawn(async move {
                    let rest = upload.collect().await.map(|rest| rest.to_bytes());
                    told.try_send(rest).unwrap();
                });
                Ok(Response::new(full(first)))
            }
        });
        let mesh = greeter(&[server.address()]).backend(&format!("protocol: {protocol}")).mesh().await;
        let (sender, body) = Feed::new();
        sender.data("first");
        let response = mesh.http_client().oneshot(Request::post("http://greeter/").body(body).unwrap()).await.unwrap();
        assert_eq!(text(response).await, "first", "{protocol}");
        sender.data("then ");
        sender.data("the rest");
        drop(sender);
        assert_eq!(arrived.recv().await.unwrap().unwrap(), "then the rest", "{protocol}");
        mesh.end().await;
    }
}

/// The server answers 413 to a head and reads no byte of a body that no socket buffer takes.
#[tokio::test]
async fn an_early_refusal_of_a_large_upload_arrives() {
    let server = Raw::start(|_, mut client| async move {
        client.head().await.unwrap();
        client.write("HTTP/1.1 413 Content Too Large\r\ncontent-length: 4\r\n\r\nmuch").await;
        std::future::pending::<()>().await;
    })
    .await;
    let mesh = greeter(&[server.address()]).mesh().await;
    let request = Request::post("http://greeter/").body(Pieces::new(large())).unwrap();
    let response = mesh.http_client().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(text(response).await, "much");
    mesh.end().await;
}

#[tokio::test]
async fn a_caller_that_lets_go_of_a_streamed_response_stops_the_server() {
    for (protocol, _) in PROTOCOLS {
        let (sender, body) = Feed::new();
        let body = std::sync::Mutex::new(Some(body));
        let server = serve(move |_| {
            let body = body.lock().unwrap().take().unwrap();
            async move { Ok(Response::new(body)) }
        });
        let mesh = greeter(&[server.address()]).backend(&format!("protocol: {protocol}")).mesh().await;
        sender.data("first");
        let mut response = mesh.http_client().get("http://greeter/").await.unwrap();
        response.body_mut().frame().await.unwrap().unwrap();
        drop(response);
        sender.abandoned().await;
        mesh.end().await;
    }
}

#[tokio::test]
async fn a_caller_that_lets_go_of_a_response_stops_its_own_upload() {
    for (protocol, _) in PROTOCOLS {
        let server =
            serve(|request| async move { Ok(Response::new(request.into_body().map_err(Into::into).boxed_unsync())) });
        let mesh = greeter(&[server.address()]).backend(&format!("protocol: {protocol}")).mesh().await;
        let (sender, body) = Feed::new();
        sender.data("first");
        let request = Request::post("http://greeter/").body(body).unwrap();
        let mut response = mesh.http_client().oneshot(request).await.unwrap();
        response.body_mut().frame().await.unwrap().unwrap();
        drop(response);
        sender.abandoned().await;
        mesh.end().await;
    }
}

#[tokio::test]
async fn a_request_body_that_fails_is_the_callers_error_and_never_a_short_body() {
    for (protocol, _) in PROTOCOLS {
        let (told, mut arrived) = tokio::sync::mpsc::channel(1024);
        let server = serve(move |request| {
            let told = told.clone();
            async move {
                told.try_send(request.into_body().collect().await.is_ok()).unwrap();
                Ok(Response::new(empty()))
            }
        });
        let mesh = greeter(&[server.address()]).backend(&format!("protocol: {protocol}")).mesh().await;
        let (sender, body) = Feed::new();
        let call = tokio::spawn(mesh.http_client().oneshot(Request::post("http://greeter/").body(body).unwrap()));
        sender.data("some");
        until("the request is on its way", || server.connections() == 1).await;
        sender.fail("out of paper");
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), mesh_tower::ErrorKind::RequestBody, "{protocol}: {error:?}");
        assert!(error.report().contains("out of paper"), "{}", error.report());
        assert_ne!(arrived.recv().await, Some(true), "{protocol}: the server took it for whole");
        mesh.end().await;
    }
}

/// The mesh adds no bound of its own: a server that takes its time is waited for.
#[tokio::test(start_paused = true)]
async fn without_a_timeout_there_is_none() {
    let (network, _server) = in_memory(|_| async {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let (sender, body) = Feed::new();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            sender.data("late");
        });
        Ok(Response::new(body))
    });
    for (protocol, _) in PROTOCOLS {
        let mesh =
            greeter(&[http_support::nowhere()]).backend(&format!("protocol: {protocol}")).mesh_over(&network).await;
        assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, "late");
        mesh.end().await;
    }
}
