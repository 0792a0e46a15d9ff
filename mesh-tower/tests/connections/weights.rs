//! Weights change at run time: the split follows at once, and nobody is sent where no connection is.

use std::sync::Arc;

use mesh_tower::Mesh;
use mesh_tower::core::model::Config;
use mesh_tower::observe::Outcome;
use tokio::sync::watch;
use tokio::task::JoinSet;

use mesh_tower::testing::{Events, Seen, TestBackend, watched};

use crate::support::{Server, Wire, backend, config_of, finish, get, kind, live_mesh, split};

/// Callers that send without a pause until they are told to stop; a failed request fails the test.
struct Load {
    stop: watch::Sender<bool>,
    callers: JoinSet<()>,
}

impl Load {
    fn start(mesh: &Mesh, callers: usize) -> Self {
        let stop = watch::Sender::new(false);
        let mut set = JoinSet::new();
        for _ in 0..callers {
            let (mesh, stopped) = (mesh.clone(), stop.subscribe());
            set.spawn(async move {
                while !*stopped.borrow() {
                    get(&mesh).await.unwrap();
                }
            });
        }
        Self { stop, callers: set }
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        self.callers.join_all().await;
    }
}

/// How the first `count` requests that version `version` routed were split: the number of those to `name`.
async fn share(events: &Events, version: u64, name: &str, count: usize) -> usize {
    let routed = |seen: &Seen| matches!(seen, Seen::Attempt { config_version, .. } if *config_version == version);
    events.wait_for_nth(count, routed).await;
    let attempts = events.all();
    let attempts = attempts.iter().filter(|seen| routed(seen)).take(count);
    attempts.filter(|seen| matches!(seen, Seen::Attempt { backend, .. } if &*backend.name == name)).count()
}

fn within_five_sigma(share: usize, count: usize, probability: f64) {
    let count = count as f64;
    let sigma = (count * probability * (1.0 - probability)).sqrt();
    assert!((share as f64 - count * probability).abs() <= 5.0 * sigma, "{share} of {count}, expected {probability}");
}

fn position(events: &[Seen], wanted: impl Fn(&Seen) -> bool) -> usize {
    events.iter().position(wanted).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_change_under_load_without_a_failed_request() {
    const COUNT: usize = 2500;
    watched(async {
        // Given 90/10 over two backends, a third that nobody has used and whose peer is slow to answer, and load.
        let (old, new) = (TestBackend::named("old").start(), TestBackend::named("new").start());
        let (release, released) = watch::channel(false);
        let slow = Server::start(move |_, stream| {
            let mut released = released.clone();
            async move {
                released.wait_for(|released| *released).await.unwrap();
                let Some(mut wire) = Wire::greet(stream, None).await else { return };
                wire.echo().await;
            }
        })
        .await;
        let weights = |weights: [u32; 3]| -> Arc<Config> {
            let backends = [("old", old.address()), ("new", new.address()), ("slow", slow.address)];
            let backends = backends.into_iter().zip(weights);
            Arc::new(split(backends.map(|((name, address), weight)| (backend(name, &[address]), weight)).collect()))
        };
        let (mesh, events, configs) = live_mesh((*weights([90, 10, 0])).clone()).await;
        let load = Load::start(&mesh, 4);
        within_five_sigma(share(&events, 1, "new", COUNT).await, COUNT, 0.1);
        // When the weights become 50/50, then the requests that the new version routes are split so.
        configs.send_replace(weights([50, 50, 0]));
        within_five_sigma(share(&events, 2, "new", COUNT).await, COUNT, 0.5);
        assert_eq!(events.count(|seen| matches!(seen, Seen::Connect { backend, .. } if &*backend.name == "slow")), 0);
        // When everything is to go to the third, then the others serve until it is connected,
        configs.send_replace(weights([0, 0, 100]));
        slow.accepts(1).await;
        let later = events.from_now();
        later.wait_for_nth(200, |seen| matches!(seen, Seen::Attempt { config_version: 2, .. })).await;
        release.send_replace(true);
        // and then it has everything.
        assert_eq!(share(&events, 3, "slow", COUNT).await, COUNT);
        load.stop().await;
        let events = events.all();
        let connected = position(
            &events,
            |seen| matches!(seen, Seen::Connect { backend, error: None, .. } if &*backend.name == "slow"),
        );
        let in_force = position(&events, |seen| matches!(seen, Seen::Config { version: 3, .. }));
        let used = position(&events, |seen| matches!(seen, Seen::Attempt { backend, .. } if &*backend.name == "slow"));
        assert!(connected < in_force && in_force < used, "{connected} {in_force} {used}");
        let failed = events.iter().filter(|seen| matches!(seen, Seen::Attempt { outcome: Outcome::Failed(_), .. }));
        assert_eq!(failed.count(), 0);
        finish(mesh).await;
    })
    .await;
}

/// A backend that cannot be connected does not hold a configuration back for longer than its connect timeout.
#[tokio::test]
async fn a_backend_that_cannot_be_connected_does_not_hold_an_update_back() {
    watched(async {
        let old = TestBackend::named("old").start();
        let silent = Server::start(|_, stream| async {
            let Some(mut wire) = Wire::silent(stream).await else { return };
            while wire.next().await.is_some_and(|frame| frame.kind != kind::GOAWAY) {}
        })
        .await;
        for address in [silent.address, Server::nowhere().await] {
            let (mesh, _, configs) = live_mesh(config_of(backend("old", &[old.address()]))).await;
            get(&mesh).await.unwrap();
            let mut next = backend("next", &[address]);
            next.connect_timeout = std::time::Duration::from_millis(100);
            configs.send_replace(Arc::new(config_of(next)));
            mesh.config_status().wait_for(|status| status.version == 2).await.unwrap();
            get(&mesh).await.unwrap_err();
            finish(mesh).await;
        }
    })
    .await;
}
