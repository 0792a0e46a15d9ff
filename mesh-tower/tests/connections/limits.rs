//! CL-10: the peer's limit of streams is kept, whatever it is and however it changes, and nobody fails for it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use mesh_tower::testing::watched;

use crate::support::{Server, URI, Wire, config, finish, get, kind, mesh};

/// What a connection of [`counting`] saw.
#[derive(Default)]
struct Counts {
    /// The most streams that were open at once on one connection.
    most: AtomicUsize,
    served: AtomicUsize,
}

/// Allows `limit` streams, and answers each request only once the client had the time to send whatever it may: after a
/// round trip.
async fn count_streams(stream: TcpStream, limit: u32, counts: Arc<Counts>) {
    let Some(mut wire) = Wire::greet(stream, Some(limit)).await else { return };
    let (mut open, mut ended) = (HashSet::new(), Vec::new());
    while let Some(frame) = wire.next().await {
        match frame.kind {
            kind::HEADERS => {
                open.insert(frame.stream);
                counts.most.fetch_max(open.len(), Ordering::SeqCst);
                if frame.ends_stream() {
                    ended.push(frame.stream);
                    wire.ping().await;
                }
            }
            kind::PING if frame.is_ack() => {
                let stream = ended.remove(0);
                // It counts as open until its end is on the way.
                open.remove(&stream);
                wire.answer(stream, b"").await;
                counts.served.fetch_add(1, Ordering::SeqCst);
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cl_10_fifty_requests_over_one_stream_a_connection() {
    watched(async {
        // Given a peer that allows one stream a connection.
        let counts = Arc::new(Counts::default());
        let seen = Arc::clone(&counts);
        let server = Server::start(move |_, stream| count_streams(stream, 1, Arc::clone(&seen))).await;
        let (mesh, _) = mesh(config(&[server.address])).await;
        // When fifty requests are sent at once, ten times over,
        for _ in 0..10 {
            let mut callers = JoinSet::new();
            for _ in 0..50 {
                let mesh = mesh.clone();
                callers.spawn(async move { get(&mesh).await });
            }
            // then none of them fails,
            while let Some(answer) = callers.join_next().await {
                answer.unwrap().unwrap();
            }
        }
        // the limit is kept, and the connections are bounded.
        assert_eq!(counts.served.load(Ordering::SeqCst), 500);
        assert_eq!(counts.most.load(Ordering::SeqCst), 1);
        assert!(server.accepted() <= 8, "{} connections", server.accepted());
        finish(mesh).await;
    })
    .await;
}

/// Streams that a scripted connection holds open until it is told to answer.
struct Holder {
    server: Server,
    /// The number of the connection of each request that arrives.
    arrived: mpsc::Receiver<usize>,
    answer: watch::Sender<bool>,
    /// The limit that the first connection announces.
    limit: watch::Sender<u32>,
    /// The limit that the client has acknowledged on the first connection, and how often it did.
    acknowledged: watch::Receiver<(u32, usize)>,
}

impl Holder {
    /// The first connection announces `first` and then what it is told to, all others `others`.
    async fn start(first: u32, others: u32) -> Self {
        let (arrivals, arrived) = mpsc::channel(1000);
        let (answer, answering) = watch::channel(false);
        let (limit, limits) = watch::channel(first);
        let (acknowledge, acknowledged) = watch::channel((0, 0));
        let server = Server::start(move |number, stream| {
            let (arrivals, mut answering, mut limits) = (arrivals.clone(), answering.clone(), limits.clone());
            let acknowledge = acknowledge.clone();
            async move {
                let limit = if number == 0 { *limits.borrow_and_update() } else { others };
                let Some(mut wire) = Wire::greet(stream, Some(limit)).await else { return };
                let mut held = Vec::new();
                let mut open = 0;
                let mut agreed = u32::MAX;
                let mut announced = std::collections::VecDeque::from([limit]);
                loop {
                    // The other branches are taken between frames only: peeking consumes nothing.
                    let mut next = [0];
                    tokio::select! {
                        peeked = wire.io.peek(&mut next) => {
                            if peeked.is_err() {
                                return;
                            }
                            let Some(frame) = wire.next().await else { return };
                            if frame.kind == kind::SETTINGS && frame.is_ack() && let Some(limit) = announced.pop_front() {
                                agreed = limit;
                                if number == 0 {
                                    acknowledge.send_modify(|(now, times)| (*now, *times) = (limit, *times + 1));
                                }
                            }
                            if frame.kind == kind::HEADERS {
                                open += 1;
                                // A lowered limit leaves open streams alone (RFC 9113 5.1.2): only new ones count.
                                assert!(open <= agreed, "{open} streams where {agreed} are allowed");
                                arrivals.send(number).await.unwrap();
                                if *answering.borrow() {
                                    wire.answer(frame.stream, b"").await;
                                    open -= 1;
                                } else {
                                    held.push(frame.stream);
                                }
                            }
                        }
                        _ = answering.changed() => {
                            for stream in held.drain(..) {
                                wire.answer(stream, b"").await;
                                open -= 1;
                            }
                        }
                        _ = limits.changed(), if number == 0 => {
                            let limit = *limits.borrow_and_update();
                            announced.push_back(limit);
                            wire.settings(Some(limit)).await;
                        }
                    }
                }
            }
        })
        .await;
        Self { server, arrived, answer, limit, acknowledged }
    }

    /// On which connections the next `count` requests arrive, and how many on each.
    async fn arrivals(&mut self, count: usize) -> HashMap<usize, usize> {
        let mut arrivals = HashMap::new();
        for _ in 0..count {
            *arrivals.entry(self.arrived.recv().await.unwrap()).or_default() += 1;
        }
        arrivals
    }

    /// Changes the limit of the first connection and waits until the client knows.
    async fn limit(&mut self, limit: u32) {
        let times = self.acknowledged.borrow().1;
        self.limit.send_replace(limit);
        self.acknowledged.wait_for(|(_, now)| *now > times).await.unwrap();
    }
}

fn callers(mesh: &mesh_tower::Mesh, count: usize) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for _ in 0..count {
        let mesh = mesh.clone();
        callers.spawn(async move {
            get(&mesh).await.unwrap();
        });
    }
    callers
}

#[tokio::test]
async fn cl_10_a_limit_that_is_raised_lets_the_waiting_go() {
    watched(async {
        // Given eight connections of one stream each, all in use and none answered, and 42 requests that wait.
        let mut holder = Holder::start(1, 1).await;
        let (mesh, _) = mesh(config(&[holder.server.address])).await;
        let callers = callers(&mesh, 50);
        let first = holder.arrivals(8).await;
        assert_eq!(first.len(), 8);
        // When the first connection allows a hundred,
        holder.limit(100).await;
        // then all that wait go there.
        assert_eq!(holder.arrivals(42).await, HashMap::from([(0, 42)]));
        holder.answer.send_replace(true);
        callers.join_all().await;
        finish(mesh).await;
    })
    .await;
}

#[tokio::test]
async fn cl_10_a_limit_that_is_lowered_is_kept() {
    watched(async {
        // Given a connection of a hundred streams with ten on it,
        let mut holder = Holder::start(100, 1).await;
        let (mesh, _) = mesh(config(&[holder.server.address])).await;
        let long = callers(&mesh, 10);
        assert_eq!(holder.arrivals(10).await, HashMap::from([(0, 10)]));
        // when it allows only one,
        holder.limit(1).await;
        // then no further one is opened there, and the others go elsewhere: the server asserts the limit.
        let rest = callers(&mesh, 7);
        assert_eq!(holder.arrivals(7).await.get(&0), None);
        holder.answer.send_replace(true);
        long.join_all().await;
        rest.join_all().await;
        let more = callers(&mesh, 100);
        holder.arrivals(100).await;
        more.join_all().await;
        assert!(holder.server.accepted() <= 8);
        finish(mesh).await;
    })
    .await;
}

#[tokio::test]
async fn cl_10_a_limit_of_none_is_waited_out() {
    watched(async {
        // Given a peer that allows no stream at first,
        let mut holder = Holder::start(0, 0).await;
        let (mesh, _) = mesh(config(&[holder.server.address])).await;
        let waiting = callers(&mesh, 5);
        holder.acknowledged.clone().wait_for(|(_, times)| *times == 1).await.unwrap();
        // when it allows some, then the request that waited is sent.
        holder.answer.send_replace(true);
        holder.limit(10).await;
        assert_eq!(holder.arrivals(5).await, HashMap::from([(0, 5)]));
        waiting.join_all().await;
        // When it allows none again and then some, those who waited are sent.
        holder.limit(0).await;
        let waiting = callers(&mesh, 5);
        // The client was seen to try: its further connection has arrived.
        holder.server.accepts(2).await;
        holder.limit(10).await;
        assert_eq!(holder.arrivals(5).await, HashMap::from([(0, 5)]));
        waiting.join_all().await;
        finish(mesh).await;
    })
    .await;
}

/// A request whose stream ends frees its place for those who wait, also if its answer is never read.
#[tokio::test]
async fn cl_10_a_dropped_answer_frees_its_place() {
    watched(async {
        let server = Server::start(|_, stream| async {
            let Some(mut wire) = Wire::greet(stream, Some(1)).await else { return };
            while let Some((stream, _)) = wire.request().await {
                wire.head(stream).await;
            }
        })
        .await;
        let (mesh, _) = mesh(config(&[server.address])).await;
        let mut open = Vec::new();
        for _ in 0..8 {
            open.push(mesh.http_client().get(URI).await.unwrap());
        }
        for _ in 0..200 {
            drop(open.pop());
            open.push(mesh.http_client().get(URI).await.unwrap());
        }
        assert_eq!(server.accepted(), 8);
        finish(mesh).await;
    })
    .await;
}
