use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use examples::greeter::HelloRequest;
use examples::greeter::greeter_client::GreeterClient;
use mesh_tonic::mesh_tower::HttpClient;
use mesh_tonic::prelude::*;
use mesh_tonic::{Channel, mesh_tower};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

/// Callers of each kind.
const CALLERS: u32 = 16;
/// How many requests there are at once, at the most.
pub(crate) const IN_FLIGHT: u64 = 2 * CALLERS as u64;
/// How often each of them calls: 2 * 16 callers make 320 requests a second.
const PERIOD: Duration = Duration::from_millis(100);
/// How long a caller waits for an answer. The configuration's timeout comes first.
const PATIENCE: Duration = Duration::from_secs(8);
/// How many failures are kept to be shown.
const KEPT: usize = 5;

/// Callers at work, half of them by tonic and half by HTTP.
pub(crate) struct Traffic {
    stop: watch::Sender<bool>,
    callers: JoinSet<()>,
    results: Arc<Results>,
}

/// What the callers got.
#[derive(Default)]
pub(crate) struct Results {
    tonic: AtomicU64,
    http: AtomicU64,
    failures: Mutex<(u64, Vec<String>)>,
}

impl Traffic {
    /// Starts all callers.
    pub(crate) fn start(mesh: &Mesh) -> Result<Self, mesh_tower::Error> {
        let (stop, stopping) = watch::channel(false);
        let results = Arc::new(Results::default());
        let mut callers = JoinSet::new();
        let greeter = GreeterClient::new(mesh.channel("greeter")?);
        let http = mesh.http_client();
        for index in 0..CALLERS {
            let (greeter, http) = (greeter.clone(), http.clone());
            // Spread over the period, tonic and HTTP in turn.
            let offset = PERIOD * index / CALLERS;
            let results = |by_tonic| Arc::clone(&results).recorder(by_tonic);
            callers.spawn(call(offset, stopping.clone(), results(true), move || hello(greeter.clone())));
            let offset = offset + PERIOD / (2 * CALLERS);
            callers.spawn(call(offset, stopping.clone(), results(false), move || get(http.clone())));
        }
        Ok(Self { stop, callers, results })
    }

    /// What the callers got so far.
    pub(crate) fn results(&self) -> &Arc<Results> {
        &self.results
    }

    /// Lets every caller finish its request, and ends.
    pub(crate) async fn stop(mut self) -> Arc<Results> {
        self.stop.send_replace(true);
        while let Some(ended) = self.callers.join_next().await {
            if let Err(error) = ended {
                self.results.failed(error.to_string());
            }
        }
        self.results
    }
}

/// Calls every [`PERIOD`] until it is told to stop.
async fn call<F: Future<Output = Result<(), String>>>(
    offset: Duration,
    mut stopping: watch::Receiver<bool>,
    record: impl Fn(Result<(), String>),
    request: impl Fn() -> F,
) {
    let mut ticks = interval_at(Instant::now() + offset, PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopping.changed() => return,
        }
        let result = timeout(PATIENCE, request()).await;
        record(result.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}"))));
    }
}

async fn hello(mut greeter: GreeterClient<Channel>) -> Result<(), String> {
    let request = HelloRequest { name: "mesh".to_owned(), count: 0 };
    let reply = greeter.say_hello(request).await.map_err(|status| format!("tonic: {status}"))?;
    match reply.into_inner().message.as_str() {
        "Hello, mesh!" => Ok(()),
        other => Err(format!("tonic: the reply is {other:?}")),
    }
}

async fn get(client: HttpClient) -> Result<(), String> {
    let response = client.get("http://greeter/").await.map_err(|error| format!("HTTP: {}", error.report()))?;
    let status = response.status();
    let text = response.into_body().string().await.map_err(|error| format!("HTTP: {}", error.report()))?;
    if status.is_success() { Ok(()) } else { Err(format!("HTTP: {status} {text:?}")) }
}

impl Results {
    fn recorder(self: Arc<Self>, by_tonic: bool) -> impl Fn(Result<(), String>) {
        move |result| {
            if by_tonic { &self.tonic } else { &self.http }.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = result {
                self.failed(error);
            }
        }
    }

    fn failed(&self, error: String) {
        let mut failures = self.lock();
        failures.0 += 1;
        if failures.1.len() < KEPT {
            failures.1.push(error);
        }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, Vec<String>)> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The requests by tonic and by HTTP.
    pub(crate) fn requests(&self) -> (u64, u64) {
        (self.tonic.load(Ordering::Relaxed), self.http.load(Ordering::Relaxed))
    }

    /// How many requests failed.
    pub(crate) fn failures(&self) -> u64 {
        self.lock().0
    }

    /// The first failures.
    pub(crate) fn first_failures(&self) -> Vec<String> {
        self.lock().1.clone()
    }
}
