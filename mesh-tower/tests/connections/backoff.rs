//! CL-04: how a lost endpoint is asked again, on a paused clock over in-memory streams.

use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

use mesh_tower::core::balance::State;
use mesh_tower::core::model::{Backend, ConnectBackoff};
use mesh_tower::{Connect, Connecting, ErrorKind, Io, Mesh, core::model::Address};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use mesh_tower::testing::{Events, Seen, watched};

use crate::support::{Wire, backend, config_of, finish, get};

type Answer = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;
type Script = Box<dyn FnMut(usize) -> Answer + Send>;

/// Asks `script` what becomes of each attempt, and tells when it was made.
struct Scripted {
    script: Mutex<(usize, Script)>,
    attempts: mpsc::Sender<Instant>,
}

impl Connect for Scripted {
    fn connect(&self, _: &Address) -> Connecting {
        self.attempts.try_send(Instant::now()).unwrap();
        let mut script = self.script.lock().unwrap();
        script.0 += 1;
        let number = script.0 - 1;
        (script.1)(number)
    }
}

fn refuse() -> Answer {
    Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
}

fn stream(stream: DuplexStream) -> Answer {
    Box::pin(async move { Ok(Box::new(stream) as Box<dyn Io>) })
}

/// The defaults of gRPC, and one endpoint.
fn patient() -> Backend {
    let mut backend = backend("b", &["192.0.2.1:80".parse().unwrap()]);
    backend.connect_backoff = ConnectBackoff::default();
    backend
}

async fn scripted(
    backend: Backend,
    script: impl FnMut(usize) -> Answer + Send + 'static,
) -> (Mesh, Events, mpsc::Receiver<Instant>) {
    let (sender, attempts) = mpsc::channel(1000);
    let events = Events::new();
    let connector = Scripted { script: Mutex::new((0, Box::new(script))), attempts: sender };
    let builder = Mesh::builder().config(config_of(backend)).observer(events.clone()).connector(connector);
    (builder.build().await.unwrap(), events, attempts)
}

async fn pauses(attempts: &mut mpsc::Receiver<Instant>, mut last: Instant, count: usize) -> Vec<f64> {
    let mut pauses = Vec::new();
    for _ in 0..count {
        let now = attempts.recv().await.unwrap();
        pauses.push((now - last).as_secs_f64());
        last = now;
    }
    pauses
}

/// 1 s, 1.6 s, 2.56 s .. 120 s, each ±20 %; tokio's timer adds up to a millisecond.
fn assert_grow(pauses: &[f64]) {
    for (step, pause) in pauses.iter().enumerate() {
        let nominal = 1.6f64.powi(i32::try_from(step).unwrap()).min(120.0);
        assert!((nominal * 0.8..=nominal * 1.2 + 0.002).contains(pause), "step {step}: {pause} s of {pauses:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn cl_04_pauses_grow_to_two_minutes_and_begin_anew_after_a_success() {
    watched(async {
        // Given an endpoint that refuses 15 times, then serves one request and is lost, and refuses for ever.
        let (mesh, events, mut attempts) = scripted(patient(), |number| {
            if number != 15 {
                return refuse();
            }
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            tokio::spawn(async move {
                let mut wire = Wire::greet(theirs, None).await.unwrap();
                let (stream, _) = wire.request().await.unwrap();
                wire.answer(stream, b"once").await;
            });
            stream(ours)
        })
        .await;
        // When a request wakes it up, that one fails at once,
        let asked = Instant::now();
        assert_eq!(get(&mesh).await.unwrap_err().kind(), ErrorKind::NoHealthyEndpoint);
        assert_eq!(asked.elapsed(), Duration::ZERO);
        // and the pauses between the attempts grow.
        let first = attempts.recv().await.unwrap();
        let grown = pauses(&mut attempts, first, 15).await;
        assert_grow(&grown);
        assert!(grown[14] >= 96.0, "{grown:?}");
        // When the endpoint serves again and is lost, then it is asked at once, and after that the pauses are short again.
        events.wait_for(|seen| matches!(seen, Seen::Endpoint { state: State::Ready, .. })).await;
        let served = Instant::now();
        assert_eq!(get(&mesh).await.unwrap(), "once");
        let again = attempts.recv().await.unwrap();
        assert_eq!(again, served);
        assert_grow(&pauses(&mut attempts, again, 5).await);
        finish(mesh).await;
    })
    .await;
}

/// A peer that dies before it served anything is not asked again at once, however soon it accepts.
#[tokio::test(start_paused = true)]
async fn cl_04_a_connection_that_dies_at_birth_is_followed_by_a_pause() {
    watched(async {
        let (mesh, _, mut attempts) = scripted(patient(), |_| {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            tokio::spawn(async move { drop(Wire::greet(theirs, None).await) });
            stream(ours)
        })
        .await;
        let request = get(&mesh);
        let mut last = attempts_of(request, &mut attempts).await;
        for _ in 0..5 {
            let now = attempts.recv().await.unwrap();
            assert!(now - last >= Duration::from_millis(800), "asked again after {:?}", now - last);
            last = now;
        }
        finish(mesh).await;
    })
    .await;
}

async fn attempts_of(request: impl Future, attempts: &mut mpsc::Receiver<Instant>) -> Instant {
    let (_, first) = tokio::join!(request, attempts.recv());
    first.unwrap()
}

/// A connector that never answers, and a peer that never sends SETTINGS: both end with the connect timeout.
#[tokio::test(start_paused = true)]
async fn cl_04_the_connect_timeout_bounds_each_attempt() {
    watched(async {
        for connects in [false, true] {
            let mut open = Vec::new();
            let (mesh, events, mut attempts) = scripted(patient(), move |_| {
                if !connects {
                    return Box::pin(std::future::pending());
                }
                let (ours, theirs) = tokio::io::duplex(1 << 16);
                open.push(theirs);
                stream(ours)
            })
            .await;
            let began = Instant::now();
            let error = get(&mesh).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint);
            assert_eq!(began.elapsed().as_millis() / 10, Backend::DEFAULT_CONNECT_TIMEOUT.as_millis() / 10);
            let phase = if connects { "not answered as an HTTP/2 server within 5s" } else { "not connected within 5s" };
            assert!(error.report().contains(phase), "{}", error.report());
            assert!(error.report().contains("192.0.2.1:80"), "{}", error.report());
            // Each further attempt has the same bound and is followed by a pause.
            let first = attempts.recv().await.unwrap();
            let pauses = pauses(&mut attempts, first, 3).await;
            let pauses: Vec<_> = pauses.iter().map(|pause| pause - 5.0).collect();
            assert_grow(&pauses);
            let timed_out =
                |seen: &Seen| matches!(seen, Seen::Connect { error: Some(_), duration, .. } if duration.as_secs() == 5);
            assert_eq!(events.count(timed_out), 3);
            finish(mesh).await;
        }
    })
    .await;
}

/// No wait is unbounded: a request that nobody gave a deadline ends before an attempt that takes longer.
#[tokio::test(start_paused = true)]
async fn a_request_without_a_deadline_does_not_wait_for_ever() {
    watched(async {
        let mut slow = patient();
        slow.connect_timeout = Duration::from_secs(300);
        let (mesh, _, _attempts) = scripted(slow, |_| Box::pin(std::future::pending())).await;
        let began = Instant::now();
        assert_eq!(get(&mesh).await.unwrap_err().kind(), ErrorKind::Overflow);
        assert_eq!(began.elapsed().as_secs(), 30);
        finish(mesh).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_request_leaves_its_connection_attempt_alone() {
    watched(async {
        // Given a connection attempt on its way,
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        let mut released = Some(released);
        let (mesh, events, mut attempts) = scripted(patient(), move |number| {
            assert_eq!(number, 0, "one attempt is enough");
            let released = released.take().unwrap();
            Box::pin(async move {
                released.await.unwrap();
                let (ours, theirs) = tokio::io::duplex(1 << 16);
                tokio::spawn(async move { Wire::greet(theirs, None).await.unwrap().echo().await });
                Ok(Box::new(ours) as Box<dyn Io>)
            })
        })
        .await;
        // when the request that started it, and a hundred others, give up,
        for _ in 0..100 {
            let waiting = tokio::time::timeout(Duration::from_millis(1), get(&mesh));
            assert!(waiting.await.is_err());
        }
        attempts.recv().await.unwrap();
        // then it still comes to its end and serves the next.
        release.send(()).unwrap();
        events.wait_for(|seen| matches!(seen, Seen::Connect { error: None, .. })).await;
        assert_eq!(get(&mesh).await.unwrap(), "");
        finish(mesh).await;
    })
    .await;
}
