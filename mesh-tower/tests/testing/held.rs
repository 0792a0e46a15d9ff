//! What is held until the test lets it go.

use http::{Request, Version};
use http_body_util::BodyExt;
use mesh_tower::testing::{Fault, Feed, RequestBody, TestBackend, empty, watched};

use crate::client::{BOTH, Place, text};

#[tokio::test]
async fn a_stalled_request_is_answered_when_it_is_released() {
    watched(async {
        for place in Place::each(|| TestBackend::named("v1")) {
            for version in BOTH {
                place.backend.set(Fault::Stall);
                let before = place.backend.request_count();
                let mut client = place.client(version).await;
                let first = tokio::spawn(async move { text(client.get().await.unwrap()).await });
                place.backend.arrived(before + 1).await;
                assert!(!first.is_finished());
                place.backend.release();
                assert_eq!(first.await.unwrap(), "v1");
                // The next one is held again, until the backend recovers.
                let mut client = place.client(version).await;
                let second = tokio::spawn(async move { text(client.get().await.unwrap()).await });
                place.backend.arrived(before + 2).await;
                assert!(!second.is_finished());
                place.backend.recover();
                assert_eq!(second.await.unwrap(), "v1");
                assert_eq!(text(place.client(version).await.get().await.unwrap()).await, "v1");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_slow_body_comes_chunk_by_chunk() {
    watched(async {
        for place in Place::each(|| TestBackend::named("hello")) {
            for version in BOTH {
                place.backend.fail_next(2, Fault::SlowBody { chunk: 2 });
                let mut client = place.client(version).await;
                let mut body = client.get().await.unwrap().into_body();
                for chunk in ["he", "ll", "o"] {
                    tokio::select! {
                        biased;
                        _ = body.frame() => panic!("{chunk:?} comes before it is released"),
                        () = tokio::task::yield_now() => {}
                    }
                    place.backend.release_chunk();
                    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), chunk, "{version:?}");
                }
                assert_eq!(body.collect().await.unwrap().to_bytes(), "");
                // Another one, and all at once.
                let response = client.get().await.unwrap();
                place.backend.release_chunk();
                place.backend.release();
                assert_eq!(text(response).await, "hello");
            }
        }
    })
    .await;
}

/// A client that gives up takes the handler with it, whatever holds it.
#[tokio::test]
async fn a_client_that_leaves_ends_what_it_left() {
    watched(async {
        for place in Place::each(|| TestBackend::named("v1")) {
            for version in BOTH {
                for fault in [Fault::Stall, Fault::SlowBody { chunk: 1 }] {
                    place.backend.fail_next(1, fault);
                    let before = place.backend.request_count();
                    let mut client = place.client(version).await;
                    let asking = tokio::spawn(async move { client.get().await.unwrap().into_body().collect().await });
                    place.backend.arrived(before + 1).await;
                    asking.abort();
                    place.backend.deserted().await;
                }
            }
        }
    })
    .await;
}

/// Over HTTP/2 the stream alone is given up.
#[tokio::test]
async fn a_stream_that_is_reset_ends_its_body() {
    watched(async {
        let (feeds, mut given) = tokio::sync::mpsc::channel(8);
        let place = Place::in_memory(TestBackend::handling(move |_: Request<RequestBody>| {
            let (feed, body) = Feed::new();
            feeds.try_send(feed).unwrap();
            async move { http::Response::new(body) }
        }));
        let mut client = place.client(Version::HTTP_2).await;
        let mut response = client.get().await.unwrap();
        let feed = given.recv().await.unwrap();
        feed.data("one");
        assert_eq!(response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "one");
        drop(response);
        feed.abandoned().await;
        let response = client.get().await.unwrap();
        drop(given.recv().await.unwrap());
        assert_eq!(text(response).await, "");
        assert_eq!(place.backend.connections(), 1);
    })
    .await;
}

/// What a handler reads is recorded as far as it reads.
#[tokio::test]
async fn a_request_is_recorded_while_it_is_read() {
    watched(async {
        let place = Place::in_memory(TestBackend::handling(|request: Request<RequestBody>| async move {
            let mut body = request.into_body();
            body.frame().await.unwrap().unwrap();
            http::Response::new(empty())
        }));
        let mut client = place.client(Version::HTTP_2).await;
        let (feed, body) = Feed::new();
        feed.data("first");
        let request = Request::post("http://test/").body(body).unwrap();
        let response = tokio::spawn(async move { client.send(request).await.unwrap().status() });
        let arrived = place.backend.arrived(1).await;
        assert_eq!((arrived.head.method.as_str(), arrived.is_complete), ("POST", false));
        assert_eq!(response.await.unwrap(), 200);
        let read = place.backend.only_request();
        assert_eq!((read.body.as_ref(), read.is_complete), (&b"first"[..], false));
    })
    .await;
}
