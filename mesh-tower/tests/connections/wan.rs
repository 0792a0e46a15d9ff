//! CL-14: connections over a long and lossy way, on a paused clock.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_tower::core::model::{Address, Keepalive, RetryOn, RetryPolicy, RoutePolicy};
use mesh_tower::testing::{MemoryNetwork, MemoryStream, TestBackend, TestMesh, watched};
use mesh_tower::{Connect, Connecting, ErrorKind, Io, Mesh};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::support::{URI, backend, config_with, pattern};

/// Half a round trip of 100 ms.
const ONE_WAY: Duration = Duration::from_millis(50);
/// A lost segment is sent again after the time out; what follows it waits.
const RESENT_AFTER: Duration = Duration::from_millis(200);
/// What one segment carries.
const SEGMENT: usize = 1460;
const DEADLINE: Duration = Duration::from_secs(3);

/// A way that takes its time, loses one segment in a hundred, and one connection in twenty for good.
struct Wan {
    network: MemoryNetwork,
    rng: Mutex<StdRng>,
}

impl Connect for Wan {
    fn connect(&self, address: &Address) -> Connecting {
        let Address::Socket(address) = address else { panic!("{address} is no address of this network") };
        let far = self.network.connect(*address);
        let mut rng = self.rng.lock().unwrap();
        let (there, back) = (StdRng::seed_from_u64(rng.random()), StdRng::seed_from_u64(rng.random()));
        // Some seconds after it was made.
        let lost = rng.random_bool(0.05).then(|| Instant::now() + Duration::from_millis(rng.random_range(100..20_000)));
        Box::pin(async move {
            tokio::time::sleep(2 * ONE_WAY).await;
            let (near, ours) = tokio::io::duplex(1 << 16);
            tokio::spawn(relay(ours, far?, lost, there, back));
            Ok::<_, io::Error>(Box::new(near) as Box<dyn Io>)
        })
    }
}

async fn relay(near: MemoryStream, far: MemoryStream, lost: Option<Instant>, there: StdRng, back: StdRng) {
    let (near_read, near_write) = tokio::io::split(near);
    let (far_read, far_write) = tokio::io::split(far);
    tokio::select! {
        () = one_way(near_read, far_write, lost, there) => {}
        () = one_way(far_read, near_write, lost, back) => {}
    }
}

/// Carries bytes until one end closes. Once it is lost nobody hears of the other any more, not even of its end.
fn one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    lost: Option<Instant>,
    mut rng: StdRng,
) -> impl Future<Output = ()> {
    let (sender, mut segments) = mpsc::channel::<(Instant, Vec<u8>)>(64);
    let read = async move {
        let mut stalled = Instant::now();
        loop {
            let mut segment = vec![0; SEGMENT];
            let Ok(len @ 1..) = from.read(&mut segment).await else { return };
            segment.truncate(len);
            let mut arrives = Instant::now() + ONE_WAY;
            while rng.random_bool(0.01) {
                arrives += RESENT_AFTER;
            }
            stalled = stalled.max(arrives);
            if lost.is_none_or(|lost| stalled < lost) && sender.send((stalled, segment)).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((arrives, segment)) = segments.recv().await {
            sleep_until(arrives).await;
            if to.write_all(&segment).await.is_err() {
                return;
            }
        }
    };
    async move {
        tokio::join!(read, write);
    }
}

#[tokio::test(start_paused = true)]
async fn cl_14_no_request_outlives_its_deadline_over_a_lossy_way() {
    const CALLERS: usize = 8;
    const LASTS: Duration = Duration::from_secs(60);
    watched(async {
        let network = MemoryNetwork::new();
        let servers: Vec<_> = (0..3)
            .map(|_| {
                TestBackend::handling(|request| async move {
                    let body = http_body_util::BodyExt::collect(request.into_body()).await?.to_bytes();
                    Ok::<_, mesh_tower::BoxError>(http::Response::new(mesh_tower::testing::full(body)))
                })
                .start_in(&network)
            })
            .collect();
        let addresses: Vec<_> = servers.iter().map(TestBackend::address).collect();
        let mut backend = backend("b", &addresses);
        let mut keepalive = Keepalive::new(Duration::from_secs(1));
        keepalive.timeout = Duration::from_secs(1);
        backend.connections.keepalive = Some(keepalive);
        backend.connections.max_age = Some(Duration::from_secs(10));
        backend.connections.max_requests = Some(500);
        let mut policy = RoutePolicy::default();
        policy.timeout = Some(DEADLINE);
        let mut retry = RetryPolicy::new(RetryOn::RESET);
        retry.num_retries = 2;
        policy.retry = Some(Arc::new(retry));
        let wan = Wan { network: network.clone(), rng: Mutex::new(StdRng::seed_from_u64(14)) };
        let mesh = Mesh::builder().config(config_with(backend, policy)).connector(wan).build().await.unwrap();
        let end = Instant::now() + LASTS;
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let client = mesh.http_client();
            callers.spawn(async move {
                let mut outcomes = HashMap::<Option<ErrorKind>, usize>::new();
                let mut number = caller;
                while Instant::now() < end {
                    number += CALLERS;
                    let body = pattern((number * 997) % 20_000, number);
                    let began = Instant::now();
                    let answer = async { client.post(URI, body.clone()).await?.into_body().bytes().await };
                    let kind = match answer.await {
                        Ok(answer) => {
                            assert_eq!(answer, body);
                            None
                        }
                        Err(error) => Some(error.kind()),
                    };
                    // Then none is stuck, whatever becomes of its connection,
                    assert!(began.elapsed() <= DEADLINE + Duration::from_secs(1), "{kind:?}: {:?}", began.elapsed());
                    *outcomes.entry(kind).or_default() += 1;
                }
                outcomes
            });
        }
        let mut outcomes = HashMap::<Option<ErrorKind>, usize>::new();
        while let Some(of_one) = callers.join_next().await {
            for (kind, count) in of_one.unwrap() {
                *outcomes.entry(kind).or_default() += count;
            }
        }
        // nearly all are answered,
        let answered = outcomes.remove(&None).unwrap_or(0);
        let failed: usize = outcomes.values().sum();
        assert!(answered > 1000 && failed * 50 < answered, "{answered} were answered; {outcomes:?} failed");
        let expected = [ErrorKind::DeadlineExceeded, ErrorKind::Reset];
        assert!(outcomes.keys().flatten().all(|kind| expected.contains(kind)), "{outcomes:?}");
        // and what was given up is gone.
        tokio::time::sleep(Duration::from_secs(30)).await;
        let mesh = TestMesh::from(mesh);
        assert!(mesh.live_tasks() <= 3 * 2 + 2, "{} tasks", mesh.live_tasks());
        mesh.end().await;
    })
    .await;
}
