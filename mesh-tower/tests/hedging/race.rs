//! Who wins, and what becomes of the others.

use std::time::Duration;

use mesh_tower::core::grpc::Code;
use mesh_tower::core::model::{HedgePolicy, RetryOn};
use mesh_tower::testing::{At, Fault, Reason, TestBackend, watched};

use crate::support::{Act, DELAY, GOOD, Plan, UNAVAILABLE};

fn policy(max_attempts: u32) -> HedgePolicy {
    let mut policy = HedgePolicy::new(max_attempts, DELAY);
    policy.non_fatal = RetryOn::UNAVAILABLE | RetryOn::GATEWAY_ERROR;
    policy
}

/// RE-10: the first hangs, the second fails as soon as it is sent, the third is sent at once and wins. The first is
/// cancelled at that moment, and each went to an endpoint of its own.
#[tokio::test(start_paused = true)]
async fn re_10_slow_then_failing_then_good() {
    let world = Plan::new(policy(3)).start(&[Act::Hang, UNAVAILABLE, GOOD]).await;
    assert_eq!(world.call().await, (0, "by 3".into()));
    assert_eq!(world.now(), 100);
    assert_eq!(world.log.arrivals(), [0, 100, 100]);
    assert_eq!(world.log.cancelled(1).await, [(0, 100)]);
    assert_eq!(world.request_counts(), [1, 1, 1]);
    world.mesh.end().await;
}

/// RE-10: the first good answer wins, whoever gives it, over HTTP/1.1 too; there the connection of a loser is closed.
#[tokio::test(start_paused = true)]
async fn re_10_the_first_good_answer_wins_and_losers_are_cancelled() {
    let ms = Duration::from_millis;
    for protocol in ["protocol: http1", "protocol: http2"] {
        for (acts, winner, at, losers) in [
            ([Act::Good(ms(99)), Act::Hang, Act::Hang], 1, 99, vec![]),
            ([Act::Good(ms(250)), Act::Hang, Act::Hang], 1, 250, vec![(1, 250), (2, 250)]),
            ([Act::Hang, Act::Good(ms(50)), Act::Hang], 2, 150, vec![(0, 150)]),
            ([Act::Good(ms(300)), Act::Hang, Act::Good(ms(20))], 3, 220, vec![(0, 220), (1, 220)]),
        ] {
            let world = Plan { backend: protocol, ..Plan::new(policy(3)) }.start(&acts).await;
            assert_eq!(world.ask("GET").await.unwrap(), (200, format!("by {winner}")), "{protocol} {acts:?}");
            assert_eq!(world.now(), at, "{protocol} {acts:?}");
            assert_eq!(world.log.cancelled(losers.len()).await, losers, "{protocol} {acts:?}");
            let closed = || world.servers.iter().filter(|server| has_lost_its_connection(server)).count();
            // A stream is reset and leaves its connection; HTTP/1.1 has no streams.
            let expected = if protocol == "protocol: http1" { losers.len() } else { 0 };
            watched(async {
                while closed() < expected {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            assert_eq!(closed(), expected, "{protocol} {acts:?}");
            world.mesh.end().await;
        }
    }
}

fn has_lost_its_connection(server: &TestBackend) -> bool {
    server.request_count() > 0 && server.open_connections() == 0
}

/// gRFC A6: each hedge says how many attempts came before it; one that repeats what no peer processed says the same as
/// the one it repeats.
#[tokio::test(start_paused = true)]
async fn re_10_hedges_say_how_many_attempts_came_before() {
    let refused = Act::Fault(Fault::Reset(At::BeforeHead, Reason::REFUSED_STREAM));
    let acts = [Act::Hang, Act::Hang, refused, Act::Hang, Act::Good(Duration::from_millis(10))];
    let world = Plan { servers: 1, ..Plan::new(policy(4)) }.start(&acts).await;
    assert_eq!(world.call().await, (0, "by 5".into()));
    assert_eq!(world.log.arrivals(), [0, 100, 200, 200, 300]);
    let told = world.servers[0].requests();
    let told: Vec<_> = told.iter().map(|request| request.header("grpc-previous-rpc-attempts")).collect();
    assert_eq!(told, [None, Some("1"), Some("2"), Some("2"), Some("3")]);
    assert!(world.servers[0].requests().iter().all(|request| request.body.ends_with(b"hello")));
    world.mesh.end().await;
}

/// RE-09 within a hedged request that has nothing else under way.
#[tokio::test(start_paused = true)]
async fn re_09_what_no_peer_processed_is_sent_again_at_once() {
    let refused = Act::Fault(Fault::Reset(At::BeforeHead, Reason::REFUSED_STREAM));
    let world = Plan::new(policy(2)).start(&[refused, GOOD]).await;
    assert_eq!(world.call().await, (0, "by 2".into()));
    assert_eq!((world.now(), world.log.arrivals()), (0, vec![0, 0]));
    world.mesh.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_delay_all_are_sent_at_once() {
    let mut policy = policy(3);
    policy.delay = Duration::ZERO;
    let world = Plan::new(policy).start(&[Act::Hang, Act::Hang, GOOD]).await;
    assert_eq!(world.call().await, (0, "by 3".into()));
    assert_eq!((world.now(), world.log.arrivals()), (0, vec![0, 0, 0]));
    assert_eq!(world.request_counts(), [1, 1, 1]);
    assert_eq!(world.log.cancelled(2).await, [(0, 0), (1, 0)]);
    world.mesh.end().await;
}

/// RE-10: a server that pushes back sets when the next one is sent, or that none is.
#[tokio::test(start_paused = true)]
async fn re_10_pushback_is_obeyed() {
    let says = |pushback| Act::Grpc(Code::Unavailable, Some(pushback));
    let late = Act::Late(Duration::from_millis(30), Code::Unavailable);
    for (acts, arrivals, end) in [
        (vec![says("500"), GOOD], vec![0, 500], (0, "by 2", 500)),
        (vec![says("0"), GOOD], vec![0, 0], (0, "by 2", 0)),
        (vec![says("-1"), GOOD], vec![0], (14, "by 1", 0)),
        (vec![says("soon"), GOOD], vec![0], (14, "by 1", 0)),
        // The one that hangs goes on, and nothing is sent beside it.
        (vec![Act::Good(Duration::from_millis(900)), says("-1"), GOOD], vec![0, 100], (0, "by 1", 900)),
        (vec![Act::Good(Duration::from_millis(900)), says("400"), Act::Hang], vec![0, 100, 500], (0, "by 1", 900)),
        (vec![late, says("50"), GOOD], vec![0, 30, 80], (0, "by 3", 80)),
    ] {
        let world = Plan::new(policy(3)).start(&acts).await;
        let (code, text) = world.call().await;
        assert_eq!((code, &*text, world.now()), end, "{acts:?}");
        assert_eq!(world.log.arrivals(), arrivals, "{acts:?}");
        world.mesh.end().await;
    }
}
