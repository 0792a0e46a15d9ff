//! RL-11: a mesh ends when it is told to, and when nobody holds it any more.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use mesh_tower::core::model::Address;
use mesh_tower::{Error, ErrorKind, Io, Mesh};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use mesh_tower::testing::{Fault, TestBackend, watched};

use crate::support::{Server, URI, Wire, backend, config, config_of, finish, get, kind, live_mesh, mesh};

#[tokio::test]
async fn rl_11_the_last_holder_ends_the_mesh() {
    watched(async {
        for through in ["mesh", "client", "service"] {
            let servers = [TestBackend::named("a").start(), TestBackend::named("b").start()];
            let addresses = servers.each_ref().map(TestBackend::address);
            let (mesh, _, configs) = live_mesh(config(&addresses)).await;
            for _ in 0..10 {
                get(&mesh).await.unwrap();
            }
            // When all but one holder are dropped, then that one works,
            let (client, service) = (mesh.http_client(), mesh.service("svc").unwrap());
            match through {
                "mesh" => {
                    drop((client, service));
                    get(&mesh).await.unwrap();
                    drop(mesh);
                }
                "client" => {
                    drop((mesh, service));
                    client.get(URI).await.unwrap().into_body().bytes().await.unwrap();
                    drop(client);
                }
                _ => {
                    drop((mesh, client));
                    let mut service = service;
                    let request = http::Request::get("/").body(http_body_util::Empty::<Bytes>::new()).unwrap();
                    tower::Service::call(&mut service, request).await.unwrap().into_body().bytes().await.unwrap();
                    drop(service);
                }
            }
            // and with the last one connections and watchers end.
            for server in &servers {
                server.deserted().await;
            }
            configs.closed().await;
        }
    })
    .await;
}

#[tokio::test]
async fn rl_11_a_response_that_is_read_keeps_the_mesh_alive() {
    watched(async {
        for read in [true, false] {
            let server = TestBackend::named("first last").start();
            server.set(Fault::SlowBody { chunk: 6 });
            let (mesh, _, configs) = live_mesh(config(&[server.address()])).await;
            let body = mesh.http_client().get(URI).await.unwrap().into_body();
            // When only a body is left, then its connection stays,
            drop(mesh);
            assert!(!configs.is_closed());
            if read {
                server.release();
                assert_eq!(body.bytes().await.unwrap(), "first last");
            } else {
                drop(body);
            }
            // until it is read or dropped.
            server.deserted().await;
            configs.closed().await;
        }
    })
    .await;
}

/// A mesh that nobody holds while it connects.
#[tokio::test]
async fn rl_11_connection_attempts_end_with_the_mesh() {
    watched(async {
        let silent = Server::start(|_, stream| async {
            let Some(mut wire) = Wire::silent(stream).await else { return };
            while wire.next().await.is_some() {}
        })
        .await;
        let (mesh, _, configs) = live_mesh(config(&[silent.address, Server::nowhere().await])).await;
        tokio::select! {
            biased;
            _ = get(&mesh) => panic!("nobody answers"),
            () = silent.accepts(1) => {}
        }
        drop(mesh);
        silent.deserted().await;
        configs.closed().await;
    })
    .await;
}

/// A body that never ends, and tells by the sender's end that it was dropped.
struct Endless {
    _held: mpsc::Sender<()>,
}

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

/// The response is whole, but the request goes on for ever: nobody reads it, and nobody ends it.
#[tokio::test]
async fn rl_11_an_upload_without_an_end_does_not_outlive_the_mesh() {
    watched(async {
        let server = Server::start(|_, stream| async {
            let Some(mut wire) = Wire::greet(stream, None).await else { return };
            while let Some(frame) = wire.next().await {
                if frame.kind == kind::HEADERS {
                    wire.answer(frame.stream, b"enough").await;
                }
            }
        })
        .await;
        let (mesh, _) = mesh(config(&[server.address])).await;
        let (held, mut holder) = mpsc::channel(1);
        let request = http::Request::post(URI).body(Endless { _held: held }).unwrap();
        let response = tower::Service::call(&mut mesh.http_client(), request).await.unwrap();
        assert_eq!(response.into_body().bytes().await.unwrap(), "enough");
        drop(mesh);
        server.deserted().await;
        // The body is dropped too: this is its sender's end.
        assert_eq!(holder.recv().await, None);
    })
    .await;
}

/// Over memory and a paused clock: a peer that is asked over a duplex stream.
async fn paused<F, Fut>(serve: F) -> Mesh
where
    F: Fn(tokio::io::DuplexStream) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let connector = move |_: &Address| {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        tokio::spawn(serve(theirs));
        async move { Ok::<_, io::Error>(Box::new(ours) as Box<dyn Io>) }
    };
    let config = config_of(backend("b", &["192.0.2.1:80".parse().unwrap()]));
    Mesh::builder().config(config).connector(connector).build().await.unwrap()
}

/// Requests on their way, waiting ones and a body being read, and a peer that does nothing about any of them.
#[tokio::test(start_paused = true)]
async fn rl_11_shutdown_ends_whatever_is_under_way_within_a_second() {
    watched(async {
        let (arrive, mut arrived) = mpsc::channel(100);
        let mesh = paused(move |stream| {
            let arrive = arrive.clone();
            async move {
                let Some(mut wire) = Wire::greet(stream, Some(1)).await else { return };
                let mut first = true;
                while let Some(frame) = wire.next().await {
                    if frame.kind == kind::HEADERS {
                        if std::mem::take(&mut first) {
                            wire.head(frame.stream).await;
                        }
                        arrive.send(()).await.unwrap();
                    }
                }
            }
        })
        .await;
        // Given eight connections of one stream each: on some the head is here, on others it never comes; others wait.
        let mut bodies = Vec::new();
        for _ in 0..4 {
            bodies.push(mesh.http_client().get(URI).await.unwrap().into_body());
            arrived.recv().await.unwrap();
        }
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let mesh = mesh.clone();
            waiting.spawn(async move { get(&mesh).await.unwrap_err() });
        }
        for _ in 0..4 {
            arrived.recv().await.unwrap();
        }
        // When the mesh is shut down, then it takes less than a second,
        let began = Instant::now();
        mesh.shutdown().await;
        assert!(began.elapsed() <= Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(mesh.live_tasks(), 0);
        // whoever waits or comes later is told so,
        let error = get(&mesh).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shutdown, "{error:?}");
        let errors: Vec<Error> = waiting.join_all().await;
        let told = errors.iter().filter(|error| error.kind() == ErrorKind::Shutdown).count();
        assert!(told >= 6, "{errors:?}");
        // and what was under way ends too.
        for error in &errors {
            assert!([ErrorKind::Shutdown, ErrorKind::Reset].contains(&error.kind()), "{error:?}");
        }
        for body in bodies {
            let error = body.bytes().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Reset, "{error:?}");
        }
        // A second shutdown is none.
        finish(mesh).await;
    })
    .await;
}

/// Requests under way have their time to end well.
#[tokio::test(start_paused = true)]
async fn rl_11_shutdown_lets_requests_end() {
    watched(async {
        let (answer, answering) = watch::channel(false);
        let mesh = paused(move |stream| {
            let mut answering = answering.clone();
            async move {
                let Some(mut wire) = Wire::greet(stream, None).await else { return };
                let Some((stream, _)) = wire.request().await else { return };
                wire.head(stream).await;
                answering.wait_for(|answer| *answer).await.unwrap();
                wire.data(stream, b"in time", true).await;
                while wire.next().await.is_some() {}
            }
        })
        .await;
        let body = mesh.http_client().get(URI).await.unwrap().into_body();
        let began = Instant::now();
        let (_, answered) = tokio::join!(mesh.shutdown(), async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            answer.send_replace(true);
            body.bytes().await
        });
        assert_eq!(answered.unwrap(), "in time");
        assert_eq!(began.elapsed().as_millis() / 10, 50);
        finish(mesh).await;
    })
    .await;
}

/// A peer that takes nothing in any more cannot keep a mesh from ending, whether it is shut down or dropped.
#[tokio::test(start_paused = true)]
async fn rl_11_a_peer_that_reads_nothing_does_not_keep_the_mesh() {
    watched(async {
        for dropped in [false, true] {
            let (stall, mut stalled) = mpsc::channel::<()>(1);
            let mesh = paused(move |stream| {
                let stall = stall.clone();
                async move {
                    let Some(wire) = Wire::greet(stream, None).await else { return };
                    // The stream stays open and unread; its end is seen by its writing half.
                    let (read, mut write) = tokio::io::split(wire.io);
                    let ping = [0u8, 0, 8, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                    while tokio::io::AsyncWriteExt::write_all(&mut write, &ping).await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    drop((read, stall));
                }
            })
            .await;
            let request =
                http::Request::post(URI).body(http_body_util::Full::new(Bytes::from(vec![0; 1 << 20]))).unwrap();
            let mut sending = Box::pin(tower::Service::call(&mut mesh.http_client(), request));
            let pending = poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx).is_pending()));
            assert!(pending.await);
            tokio::select! {
                _ = &mut sending => panic!("nobody answers"),
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
            }
            drop(sending);
            let began = Instant::now();
            if dropped {
                drop(mesh);
            } else {
                finish(mesh).await;
            }
            assert!(stalled.recv().await.is_none());
            assert!(began.elapsed() <= Duration::from_secs(1), "{dropped}: {:?}", began.elapsed());
        }
    })
    .await;
}

/// CF-14: an update on its way while the mesh is shut down.
#[tokio::test]
async fn cf_14_an_update_during_shutdown_changes_nothing() {
    watched(async {
        let old = TestBackend::named("old").start();
        let silent = Server::start(|_, stream| async {
            let Some(mut wire) = Wire::silent(stream).await else { return };
            while wire.next().await.is_some() {}
        })
        .await;
        let (mesh, _, configs) = live_mesh(config(&[old.address()])).await;
        get(&mesh).await.unwrap();
        // Given an update that waits for its endpoint, when the mesh is shut down, then that ends too.
        configs.send_replace(std::sync::Arc::new(config_of(backend("next", &[silent.address]))));
        silent.accepts(1).await;
        mesh.shutdown().await;
        assert_eq!(mesh.live_tasks(), 0);
        configs.closed().await;
        silent.deserted().await;
        old.deserted().await;
        assert_eq!(get(&mesh).await.unwrap_err().kind(), ErrorKind::Shutdown);
        assert_eq!(mesh.config_status().borrow().version, 1);
        finish(mesh).await;
    })
    .await;
}
