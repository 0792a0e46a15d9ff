//! The time of a request, to its last byte.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod http_support;

use std::sync::Mutex;
use std::time::Duration;

use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use http_support::{Answer, greeter, grpc, in_memory, nowhere, text};
use mesh_tower::core::grpc::Code;
use mesh_tower::testing::{Feed, MemoryNetwork, TestBackend, TestMesh, empty, full};
use mesh_tower::{Error, ErrorKind};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tower::ServiceExt;

const PROTOCOLS: [&str; 2] = ["http1", "http2"];

/// A server in memory whose responses the test writes.
fn streaming() -> (MemoryNetwork, TestBackend, mpsc::Receiver<Feed>) {
    let (feeds, receiver) = mpsc::channel(1024);
    let (network, server) = in_memory(move |_| {
        let (sender, body) = Feed::new();
        feeds.try_send(sender).unwrap();
        async move { Ok(Response::new(body)) as Answer }
    });
    (network, server, receiver)
}

fn assert_deadline(error: &Error) {
    assert_eq!((error.kind(), error.grpc_code()), (ErrorKind::DeadlineExceeded, Code::DeadlineExceeded), "{error:?}");
    assert!(error.to_string().contains("backend v1 of service greeter"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_time_ends_in_the_middle_of_the_body_and_the_server_learns_it() {
    for protocol in PROTOCOLS {
        let (network, _server, mut feeds) = streaming();
        let greeter = greeter(&[nowhere()]).route("timeout: 1s").backend(&format!("protocol: {protocol}"));
        let mesh = greeter.mesh_over(&network).await;
        let began = Instant::now();
        let mut response = mesh.http_client().get("http://greeter/").await.unwrap();
        let sender = feeds.recv().await.unwrap();
        sender.data("some");
        assert_eq!(response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "some");
        let error = response.body_mut().frame().await.unwrap().unwrap_err();
        assert_deadline(&error);
        assert!((1000..=1020).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
        assert!(response.body_mut().frame().await.is_none(), "an error is the end");
        sender.abandoned().await;
        drop(response);
        mesh.end().await;
    }
}

/// A reader that is slower than the server never waits, and has no more time than others.
#[tokio::test(start_paused = true)]
async fn the_time_ends_for_a_slow_reader_too() {
    for protocol in PROTOCOLS {
        let (network, _server, mut feeds) = streaming();
        let greeter = greeter(&[nowhere()]).route("timeout: 1s").backend(&format!("protocol: {protocol}"));
        let mesh = greeter.mesh_over(&network).await;
        let began = Instant::now();
        let mut response = mesh.http_client().get("http://greeter/").await.unwrap();
        let sender = feeds.recv().await.unwrap();
        for _ in 0..50 {
            sender.data(vec![0; 1024]);
        }
        let error = loop {
            match response.body_mut().frame().await.expect("the body has no end") {
                Ok(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(error) => break error,
            }
            assert!(began.elapsed() < Duration::from_secs(2), "{protocol}: {:?}", began.elapsed());
            sender.data(vec![0; 1024]);
        };
        assert_deadline(&error);
        mesh.end().await;
    }
}

/// What came whole in time is the caller's, however late it is read.
#[tokio::test(start_paused = true)]
async fn a_response_that_came_in_time_can_be_read_later() {
    for protocol in PROTOCOLS {
        let (network, _server) = in_memory(|_| async { Ok(Response::new(full("in time"))) });
        let greeter = greeter(&[nowhere()]).route("timeout: 1s").backend(&format!("protocol: {protocol}"));
        let mesh = greeter.mesh_over(&network).await;
        let response = mesh.http_client().get("http://greeter/").await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(text(response).await, "in time", "{protocol}");
        mesh.end().await;
    }
}

/// The caller sends slowly: the time of the route holds for that too.
#[tokio::test(start_paused = true)]
async fn the_time_ends_while_the_request_is_still_sent() {
    for protocol in PROTOCOLS {
        let (network, _server) = in_memory(|request| async move {
            request.into_body().collect().await?;
            Ok(Response::new(empty()))
        });
        let greeter = greeter(&[nowhere()]).route("timeout: 1s").backend(&format!("protocol: {protocol}"));
        let mesh = greeter.mesh_over(&network).await;
        let (sender, body) = Feed::new();
        sender.data("some");
        let request = Request::post("http://greeter/").body(body).unwrap();
        assert_deadline(&mesh.http_client().oneshot(request).await.unwrap_err());
        sender.abandoned().await;
        mesh.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_to_connect_counts() {
    let mesh = mesh_tower::Mesh::builder()
        .text(greeter(&[nowhere()]).route("timeout: 1s").yaml())
        .connector(|_: &mesh_tower::core::model::Address| std::future::pending())
        .build()
        .await
        .unwrap();
    let began = Instant::now();
    let error = mesh.http_client().get("http://greeter/").await.unwrap_err();
    assert_deadline(&error);
    assert!(error.to_string().contains("waiting for an endpoint"), "{error}");
    assert_eq!(error.attempts(), 0);
    assert!((1000..=1020).contains(&began.elapsed().as_millis()));
    TestMesh::from(mesh).end().await;
}

/// gRPC: a deadline that has passed already reaches no server.
#[tokio::test(start_paused = true)]
async fn no_time_at_all_is_no_request() {
    let (network, server) = in_memory(|_| async { Ok(Response::new(empty())) });
    let mesh = greeter(&[nowhere()]).mesh_over(&network).await;
    let request = grpc("http://greeter/s/m").header("grpc-timeout", "0n").body(empty()).unwrap();
    assert_deadline(&mesh.http_client().oneshot(request).await.unwrap_err());
    assert_eq!(server.request_count(), 0);
    mesh.end().await;
}

/// A policy of the backend replaces the route's, and `0s` takes it away.
#[tokio::test(start_paused = true)]
async fn a_backend_of_the_route_may_have_a_time_of_its_own() {
    let (network, _server) = in_memory(|_| async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        Ok(Response::new(full("late")))
    });
    for (own, waits) in [("", Some(1000)), (", timeout: 3s", Some(3000)), (", timeout: 0s", None)] {
        let yaml = format!(
            "services: {{ greeter: {{ routes: [{{ timeout: 1s, backends: [{{ name: v1{own} }}] }}], \
             backends: {{ v1: {{ endpoints: [192.0.2.1:80] }} }} }} }}"
        );
        let mesh = mesh_tower::Mesh::builder().text(yaml).connector(network.clone()).build().await.unwrap();
        let began = Instant::now();
        let result = mesh.http_client().get("http://greeter/").await;
        match waits {
            Some(waits) => {
                assert_deadline(&result.unwrap_err());
                let elapsed = began.elapsed().as_millis();
                assert!((waits..=waits + 20).contains(&elapsed), "{own}: {elapsed}");
            }
            None => assert_eq!(text(result.unwrap()).await, "late"),
        }
        TestMesh::from(mesh).end().await;
    }
}

/// The trailers of a call may come in time while its reader waits.
#[tokio::test(start_paused = true)]
async fn a_grpc_stream_is_cut_by_the_callers_deadline() {
    let (network, _server, feeds) = {
        let (feeds, receiver) = mpsc::channel(1024);
        let (network, server) = in_memory(move |_| {
            let (sender, body) = Feed::new();
            feeds.try_send(sender).unwrap();
            let mut response = Response::new(body);
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            async move { Ok(response) as Answer }
        });
        (network, server, Mutex::new(receiver))
    };
    let mesh = greeter(&[nowhere()]).mesh_over(&network).await;
    let request = grpc("http://greeter/s/m").header("grpc-timeout", "500m").body(empty()).unwrap();
    let response = mesh.http_client().oneshot(request).await.unwrap();
    let sender = feeds.lock().unwrap().try_recv().unwrap();
    let began = Instant::now();
    assert_deadline(&response.into_body().bytes().await.unwrap_err());
    assert!(began.elapsed() <= Duration::from_millis(520));
    sender.abandoned().await;
    mesh.end().await;
}

/// A server keeps the same deadline by its own clock, and resets the stream with CANCEL when it has passed, which may be
/// heard before our timer rings or before anybody reads: it is the deadline's error all the same, as in gRPC's other
/// libraries.
#[tokio::test(start_paused = true)]
async fn a_server_that_cancels_at_the_deadline_is_heard_as_the_deadline() {
    // Between two ticks of the timer.
    let (limit, past) = (Duration::from_micros(500_500), Duration::from_micros(500_700));
    for (heard, code) in [(past, Code::DeadlineExceeded), (limit / 2, Code::Cancelled)] {
        let (arrived, mut arrivals) = mpsc::channel(1);
        let (network, _server) = in_memory(move |_| {
            let arrived = arrived.clone();
            async move {
                arrived.send(()).await.unwrap();
                tokio::time::advance(heard).await;
                Err(h2::Error::from(h2::Reason::CANCEL).into()) as Answer
            }
        });
        let mesh = greeter(&[nowhere()]).mesh_over(&network).await;
        let request = grpc("http://greeter/s/m").header("grpc-timeout", "500500u").body(empty()).unwrap();
        let error = mesh.http_client().oneshot(request).await.unwrap_err();
        arrivals.try_recv().unwrap();
        assert_eq!(error.grpc_code(), code, "{error:?}");
        if code == Code::DeadlineExceeded {
            assert_deadline(&error);
        }
        mesh.end().await;

        let (network, _server, mut feeds) = streaming();
        let mesh = greeter(&[nowhere()]).backend("protocol: http2").mesh_over(&network).await;
        let request = grpc("http://greeter/s/m").header("grpc-timeout", "500500u").body(empty()).unwrap();
        let response = mesh.http_client().oneshot(request).await.unwrap();
        feeds.recv().await.unwrap().fail(h2::Error::from(h2::Reason::CANCEL));
        tokio::time::advance(heard).await;
        let error = response.into_body().bytes().await.unwrap_err();
        assert_eq!(error.grpc_code(), code, "{error:?}");
        if code == Code::DeadlineExceeded {
            assert_deadline(&error);
        }
        mesh.end().await;
    }
}
