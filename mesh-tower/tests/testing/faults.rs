//! What a plain client sees of each fault.

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use mesh_tower::BoxError;
use mesh_tower::core::grpc::Code;
use mesh_tower::testing::{
    At, Fault, MemoryNetwork, Payload, Pieces, Reason, Reply, RequestBody, TestBackend, grpc, watched,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{BOTH, Place, broken, h2_error, reset_reason, text};

#[tokio::test]
async fn a_healthy_backend_says_its_name_and_records() {
    for place in Place::each(|| TestBackend::named("v1")) {
        for version in BOTH {
            let before = place.backend.request_count();
            let mut client = place.client(version).await;
            assert_eq!(text(client.post("one").await.unwrap()).await, "v1");
            assert_eq!(text(client.get().await.unwrap()).await, "v1");
            let [first, second] = &place.backend.requests()[before..] else { panic!("two requests") };
            assert_eq!((first.body.as_ref(), first.is_complete, first.head.version), (&b"one"[..], true, version));
            assert_eq!((second.body.as_ref(), second.is_complete), (&b""[..], true));
            assert_eq!(first.connection, second.connection);
        }
        assert_eq!((place.backend.connections(), place.backend.request_count()), (2, 4));
        place.backend.deserted().await;
    }
}

#[tokio::test]
async fn trailers_travel_both_ways() {
    let trailers = || http::HeaderMap::from_iter([("x-sum".parse().unwrap(), "7".parse().unwrap())]);
    let place = Place::in_memory(TestBackend::handling(move |request: Request<RequestBody>| async move {
        let sent = request.into_body().collect().await?.trailers().cloned();
        let body = Pieces::new(["a", "", "b"]).with_trailers(sent.unwrap_or_default());
        Ok::<_, BoxError>(Response::builder().header("trailer", "x-sum").body(body).unwrap())
    }));
    for version in BOTH {
        let body: Payload = Pieces::new(["x"]).with_trailers(trailers()).boxed_unsync();
        let request = Request::post("http://test/").header("host", "test").header("te", "trailers");
        let request = request.header("trailer", "x-sum").body(body).unwrap();
        let answer = place.client(version).await.send(request).await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(answer.trailers(), Some(&trailers()), "{version:?}");
        assert_eq!(answer.to_bytes(), "ab");
    }
    assert_eq!(place.backend.requests()[1].trailers, Some(trailers()));
}

#[tokio::test]
async fn refused() {
    watched(async {
        for place in Place::each(|| TestBackend::named("v1")) {
            let mut client = place.client(Version::HTTP_2).await;
            assert_eq!(text(client.get().await.unwrap()).await, "v1");
            place.backend.set(Fault::Refused);
            let refused = place.stream().await.err().unwrap();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
            // Open connections go too, and nothing more is answered there.
            client.get().await.unwrap_err();
            place.backend.deserted().await;
            place.backend.recover();
            assert_eq!(text(place.client(Version::HTTP_11).await.get().await.unwrap()).await, "v1");
            assert_eq!(place.backend.request_count(), 2);
        }
    })
    .await;
}

#[tokio::test]
async fn refusals_are_counted_in_memory() {
    let network = MemoryNetwork::new();
    let backend = TestBackend::named("v1").start_in(&network);
    backend.fail_next(2, Fault::Refused);
    let connects: Vec<_> = (0..4).map(|_| network.connect(backend.address()).is_ok()).collect();
    assert_eq!(connects, [false, false, true, true]);
    assert_eq!((network.connects(), backend.connections()), (4, 2));
}

#[tokio::test]
#[should_panic(expected = "a loopback port cannot count what it refuses")]
async fn refusals_of_a_port_are_not_counted() {
    TestBackend::named("v1").start().fail_next(1, Fault::Refused);
}

#[tokio::test]
async fn black_hole() {
    watched(async {
        for place in Place::each(|| TestBackend::named("v1")) {
            place.backend.fail_next(1, Fault::BlackHole);
            let mut stream = place.stream().await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            place.backend.connected(1).await;
            // A client that comes later is answered; the first is not even then.
            assert_eq!(text(place.client(Version::HTTP_11).await.get().await.unwrap()).await, "v1");
            tokio::select! {
                biased;
                read = stream.read_u8() => panic!("{read:?}"),
                () = tokio::task::yield_now() => {}
            }
            assert_eq!(place.backend.request_count(), 1);
            drop(stream);
            place.backend.deserted().await;
        }
    })
    .await;
}

/// Ends a body's first bytes: these arrive, whatever follows.
const ENDS: [(At, &str); 4] =
    [(At::AfterHead, ""), (At::InBody(1), "h"), (At::InBody(5), "hello"), (At::InBody(99), "hello")];

#[tokio::test]
async fn disconnect() {
    watched(async {
        for place in Place::each(|| TestBackend::named("hello")) {
            for version in BOTH {
                place.backend.fail_next(1, Fault::Disconnect(At::BeforeHead));
                let mut client = place.client(version).await;
                let error = client.get().await.unwrap_err();
                assert_eq!(reset_reason(&error), None, "{error:?}");
                let _ = client.closed().await;
                for (at, arrives) in ENDS {
                    place.backend.fail_next(1, Fault::Disconnect(at));
                    let mut client = place.client(version).await;
                    let response = client.get().await.unwrap_or_else(|error| panic!("{version:?} {at:?}: {error:?}"));
                    assert_eq!(response.status(), 200);
                    let (data, error) = broken(response).await;
                    assert_eq!(data, arrives, "{version:?} {at:?}");
                    assert_eq!(reset_reason(&error), None, "{error:?}");
                    let _ = client.closed().await;
                }
                place.backend.deserted().await;
            }
        }
    })
    .await;
}

/// A larger body than one window, and its last byte is missing.
#[tokio::test]
async fn disconnect_in_a_large_body() {
    watched(async {
        const LEN: usize = 3_000_000;
        for place in Place::each(|| TestBackend::named("x".repeat(LEN))) {
            for version in BOTH {
                place.backend.fail_next(1, Fault::Disconnect(At::InBody(LEN - 1)));
                let (data, _) = broken(place.client(version).await.get().await.unwrap()).await;
                assert_eq!(data.len(), LEN - 1, "{version:?}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset() {
    watched(async {
        for place in Place::each(|| TestBackend::named("hello")) {
            let mut client = place.client(Version::HTTP_2).await;
            for reason in [Reason::REFUSED_STREAM, Reason::CANCEL, Reason::ENHANCE_YOUR_CALM, Reason::INTERNAL_ERROR] {
                place.backend.fail_next(1, Fault::Reset(At::BeforeHead, reason));
                let error = client.post("body").await.unwrap_err();
                assert_eq!(reset_reason(&error), Some(reason));
                for (at, arrives) in ENDS {
                    place.backend.fail_next(1, Fault::Reset(at, reason));
                    let (data, error) = broken(client.get().await.unwrap()).await;
                    assert_eq!((data, reset_reason(&error)), (Bytes::from(arrives), Some(reason)), "{at:?}");
                }
            }
            // The connection is as good as before.
            assert_eq!(text(client.get().await.unwrap()).await, "hello");
            assert_eq!(place.backend.connections(), 1);

            // Without streams it is the connection that goes.
            place.backend.fail_next(1, Fault::Reset(At::InBody(2), Reason::CANCEL));
            let mut client = place.client(Version::HTTP_11).await;
            assert_eq!(broken(client.get().await.unwrap()).await.0, "he");
            let _ = client.closed().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_graceful_goaway_answers_and_leaves() {
    watched(async {
        for place in Place::each(|| TestBackend::named("v1")) {
            for version in BOTH {
                for fault in [Fault::GoAway { processed: true }, Fault::CloseAfter(1)] {
                    place.backend.fail_next(1, fault);
                    let mut client = place.client(version).await;
                    let response = client.get().await.unwrap();
                    assert_eq!(text(response).await, "v1");
                    client.closed().await.unwrap();
                }
            }
            place.backend.set(Fault::CloseAfter(3));
            for version in BOTH {
                let mut client = place.client(version).await;
                for _ in 0..3 {
                    assert_eq!(text(client.get().await.unwrap()).await, "v1");
                }
                client.get().await.unwrap_err();
                client.closed().await.unwrap();
            }
        }
    })
    .await;
}

/// The streams below the last one are answered; the one that is disowned, and any later one, is not.
#[tokio::test]
async fn a_goaway_disowns_a_request() {
    watched(async {
        for place in Place::each(|| TestBackend::named("v1")) {
            place.backend.fail_next(1, Fault::Stall);
            place.backend.fail_next(1, Fault::GoAway { processed: false });
            let client = place.client(Version::HTTP_2).await;
            let get = || {
                let mut sender = client.another();
                async move {
                    sender.send_request(Request::get("http://test/").body(mesh_tower::testing::empty()).unwrap()).await
                }
            };
            let first = tokio::spawn(get());
            place.backend.arrived(1).await;
            let error = get().await.unwrap_err();
            let error = h2_error(&error).unwrap_or_else(|| panic!("{error:?}"));
            assert!(error.is_go_away() && error.is_remote(), "{error:?}");
            assert_eq!(error.reason(), Some(Reason::NO_ERROR));
            get().await.unwrap_err();
            place.backend.release();
            assert_eq!(text(first.await.unwrap().unwrap()).await, "v1");
            client.closed().await.unwrap();
            assert_eq!(place.backend.request_count(), 2);
            place.backend.deserted().await;
        }
    })
    .await;
}

/// However the frames of other streams lie on the wire.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goaway_falls_between_the_frames_of_a_busy_connection() {
    watched(async {
        const LEN: usize = 500_000;
        for _ in 0..20 {
            for place in Place::each(|| TestBackend::named("x".repeat(LEN))) {
                let client = place.client(Version::HTTP_2).await;
                let mut busy = tokio::task::JoinSet::new();
                for _ in 0..4 {
                    let mut sender = client.another();
                    busy.spawn(async move {
                        let request = Request::get("http://test/").body(mesh_tower::testing::empty()).unwrap();
                        text(sender.send_request(request).await.unwrap()).await.len()
                    });
                }
                place.backend.arrived(4).await;
                place.backend.fail_next(1, Fault::GoAway { processed: false });
                let request = Request::get("http://test/").body(mesh_tower::testing::empty()).unwrap();
                let error = client.another().send_request(request).await.unwrap_err();
                assert!(h2_error(&error).unwrap().is_go_away(), "{error:?}");
                assert_eq!(busy.join_all().await, [LEN; 4]);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn statuses_come_before_the_handler() {
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = asked.clone();
    let place = Place::in_memory(TestBackend::handling(move |_| {
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async { "handled" }
    }));
    for version in BOTH {
        place.backend.fail_next(1, Fault::Status(StatusCode::SERVICE_UNAVAILABLE));
        place.backend.fail_next(2, Fault::Status(StatusCode::TOO_MANY_REQUESTS));
        let mut client = place.client(version).await;
        let mut statuses = Vec::new();
        for _ in 0..4 {
            statuses.push(client.post("read").await.unwrap().status().as_u16());
        }
        assert_eq!(statuses, [503, 429, 429, 200], "one after the other, then well again");
    }
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 2);
    let bodies: Vec<_> = place.backend.requests().iter().map(|request| request.body.len()).collect();
    assert_eq!(bodies, [4, 4, 4, 0, 4, 4, 4, 0], "the handler reads nothing");
    assert_eq!(place.backend.connections(), 2, "they cost no connection");
}

#[tokio::test]
async fn grpc_statuses() {
    let place = Place::in_memory(TestBackend::handling(|_| async {
        grpc::answer([&b"one"[..], b""], Code::NotFound, "no such ånimal")
    }));
    let mut client = place.client(Version::HTTP_2).await;
    let response = client.send(grpc::call("http://test/s/m", b"message")).await.unwrap();
    assert!(!response.headers().contains_key("grpc-status"));
    let body = response.into_body().collect().await.unwrap();
    let trailers = body.trailers().unwrap();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["grpc-message"]),
        (&"5".parse().unwrap(), &"no such %C3%A5nimal".parse().unwrap())
    );
    assert_eq!(body.to_bytes(), &b"\0\0\0\0\x03one\0\0\0\0\0"[..]);

    place.backend.fail_next(1, Fault::Grpc(Code::Unavailable));
    let response = client.send(grpc::call("http://test/s/m", b"message")).await.unwrap();
    assert_eq!((response.status(), &response.headers()["grpc-status"]), (StatusCode::OK, &"14".parse().unwrap()));
    assert!(http_body::Body::is_end_stream(response.body()), "trailers-only");
    assert_eq!(place.backend.requests()[1].body, &b"\0\0\0\0\x07message"[..]);
}

/// A handler may fail one request, and the script goes before it.
#[tokio::test]
async fn faults_of_a_handler() {
    let place = Place::in_memory(TestBackend::handling(|request: Request<RequestBody>| async move {
        match request.uri().path() {
            "/refused" => Ok(Reply::from(Fault::Reset(At::BeforeHead, Reason::REFUSED_STREAM))),
            "/half" => Ok(Reply::from("whole").with_fault(Fault::Reset(At::InBody(2), Reason::CANCEL))),
            "/error" => Err(BoxError::from(h2::Error::from(Reason::INADEQUATE_SECURITY))),
            "/other" => Err("of no kind".into()),
            "/status" => Ok(Fault::Status(StatusCode::IM_A_TEAPOT).into()),
            "/gone" => Ok(Fault::Refused.into()),
            _ => Ok("well".into()),
        }
    }));
    let mut client = place.client(Version::HTTP_2).await;
    let mut get = async |path: &str| {
        let request = Request::get(format!("http://test{path}")).body(mesh_tower::testing::empty()).unwrap();
        client.send(request).await
    };
    assert_eq!(reset_reason(&get("/refused").await.unwrap_err()), Some(Reason::REFUSED_STREAM));
    assert_eq!(broken(get("/half").await.unwrap()).await.0, "wh");
    assert_eq!(reset_reason(&get("/error").await.unwrap_err()), Some(Reason::INADEQUATE_SECURITY));
    assert_eq!(reset_reason(&get("/other").await.unwrap_err()), Some(Reason::INTERNAL_ERROR));
    assert_eq!(get("/status").await.unwrap().status(), 418);
    place.backend.fail_next(1, Fault::Status(StatusCode::BAD_GATEWAY));
    assert_eq!(get("/half").await.unwrap().status(), 502);
    assert_eq!(text(get("/").await.unwrap()).await, "well");
    assert_eq!(reset_reason(&get("/gone").await.unwrap_err()), None);
    assert_eq!(place.backend.connections(), 1);
}
