//! How a hedged request ends that no good answer ends.

use std::sync::Arc;
use std::time::Duration;

use mesh_tower::ErrorKind;
use mesh_tower::core::grpc::Code;
use mesh_tower::core::model::{HedgePolicy, RetryOn, RetryPolicy};
use mesh_tower::observe::{Next, Outcome};
use mesh_tower::testing::{At, Fault, Reason, Seen, watched};

use crate::support::{Act, DELAY, GOOD, Plan, UNAVAILABLE};

fn policy(non_fatal: RetryOn) -> HedgePolicy {
    let mut policy = HedgePolicy::new(3, DELAY);
    policy.non_fatal = non_fatal;
    policy
}

/// RE-10: an answer that the policy does not call non-fatal is the caller's at once, and the others are cancelled.
#[tokio::test(start_paused = true)]
async fn re_10_a_fatal_answer_ends_it() {
    let world = Plan::new(policy(RetryOn::UNAVAILABLE)).start(&[Act::Hang, Act::Grpc(Code::NotFound, None)]).await;
    assert_eq!(world.call().await, (5, "by 2".into()));
    assert_eq!((world.now(), world.log.arrivals().len()), (100, 2));
    assert_eq!(world.log.cancelled(1).await, [(0, 100)]);
    world.mesh.end().await;

    let world = Plan::new(policy(RetryOn::GATEWAY_ERROR)).start(&[Act::Hang, Act::Status(500)]).await;
    assert_eq!(world.ask("GET").await.unwrap(), (500, "by 2".into()));
    assert_eq!(world.log.cancelled(1).await, [(0, 100)]);
    world.mesh.end().await;

    let broken = Act::Fault(Fault::Reset(At::BeforeHead, Reason::INTERNAL_ERROR));
    let world = Plan::new(policy(RetryOn::UNAVAILABLE)).start(&[Act::Hang, broken]).await;
    let request = mesh_tower::testing::grpc::call("http://greeter/a.B/C", "hello");
    let error = world.send(request).await.unwrap_err();
    assert_eq!((error.kind(), error.grpc_code(), error.attempts()), (ErrorKind::Reset, Code::Internal, 2));
    assert_eq!(world.log.cancelled(1).await, [(0, 100)]);
    world.mesh.end().await;
}

/// RE-10: when all failed it is the last failure, but an answer goes before none.
#[tokio::test(start_paused = true)]
async fn re_10_when_all_fail_the_last_or_best_failure_is_returned() {
    let world = Plan::new(policy(RetryOn::UNAVAILABLE)).start(&[UNAVAILABLE]).await;
    assert_eq!(world.call().await, (14, "by 3".into()));
    assert_eq!((world.now(), world.request_counts()), (0, vec![1, 1, 1]));
    world.mesh.end().await;

    let broken = Act::Fault(Fault::Reset(At::BeforeHead, Reason::INTERNAL_ERROR));
    for protocol in ["protocol: http1", "protocol: http2"] {
        for (acts, end) in [
            (vec![Act::Status(502), Act::Status(503), Act::Status(504)], (504, "by 3")),
            (vec![Act::Status(502), broken, broken], (502, "by 1")),
            (vec![broken, Act::Status(503), broken], (503, "by 2")),
            (vec![broken, broken, Act::Status(503)], (503, "by 3")),
        ] {
            let world = Plan { backend: protocol, ..Plan::new(policy(RetryOn::GATEWAY_ERROR | RetryOn::RESET)) };
            let world = world.start(&acts).await;
            let (status, text) = world.ask("GET").await.unwrap();
            assert_eq!((status, &*text), end, "{protocol} {acts:?}");
            assert_eq!(world.log.arrivals(), [0, 0, 0]);
            world.mesh.end().await;
        }
        let world = Plan { backend: protocol, ..Plan::new(policy(RetryOn::RESET)) }.start(&[broken]).await;
        let error = world.ask("GET").await.unwrap_err();
        assert_eq!((error.kind(), error.attempts()), (ErrorKind::Reset, 3), "{protocol}");
        world.mesh.end().await;
    }
}

/// The same of attempts that are under way at once: the best is kept until the last has failed.
#[tokio::test(start_paused = true)]
async fn re_10_an_answer_goes_before_a_failure_that_comes_later() {
    let late = |millis, code| Act::Late(Duration::from_millis(millis), code);
    let lost = Act::LateFault(Duration::from_millis(20), Fault::Reset(At::BeforeHead, Reason::ENHANCE_YOUR_CALM));
    for (acts, end) in [
        ([late(200, Code::Unavailable), UNAVAILABLE, late(20, Code::Unavailable)], (14, "by 1", 200)),
        ([late(110, Code::Unavailable), lost, lost], (14, "by 1", 130)),
    ] {
        let world = Plan::new(policy(RetryOn::UNAVAILABLE | RetryOn::RESET)).start(&acts).await;
        let (code, text) = world.call().await;
        assert_eq!((code, &*text, world.now()), end, "{acts:?}");
        assert_eq!(world.log.arrivals().len(), 3, "{acts:?}");
        world.mesh.end().await;
    }
}

/// A hedge that no peer takes is no reason to give up the attempt that one has taken.
#[tokio::test(start_paused = true)]
async fn a_hedge_that_nobody_processes_ends_nothing() {
    let refused = Act::Fault(Fault::Reset(At::BeforeHead, Reason::REFUSED_STREAM));
    for (non_fatal, refused_at) in [(RetryOn::none(), [100, 100, 200]), (RetryOn::UNAVAILABLE, [100, 100, 100])] {
        let acts = [Act::Good(Duration::from_millis(300)), refused];
        let world = Plan::new(policy(non_fatal)).start(&acts).await;
        assert_eq!(world.call().await, (0, "by 1".into()));
        assert_eq!(world.now(), 300);
        assert_eq!(world.log.arrivals()[1..], refused_at, "one is sent again, once");
        world.events.assert_count(2, "failed hedges that are not sent again", |seen| {
            matches!(seen, Seen::Attempt { outcome: Outcome::Failed(_), next: Next::Hedge, .. })
        });
        world.mesh.end().await;
    }
}

/// The deadline is that of the whole request: whatever is under way then is cancelled, and told as late.
#[tokio::test(start_paused = true)]
async fn the_deadline_ends_all_attempts() {
    let plan = Plan { route: "timeout: 250ms", ..Plan::new(policy(RetryOn::none())) };
    let world = plan.start(&[Act::Hang]).await;
    let error = world.ask("GET").await.unwrap_err();
    assert_eq!((error.kind(), error.attempts(), world.now()), (ErrorKind::DeadlineExceeded, 3, 250));
    assert_eq!(world.log.cancelled(3).await, [(0, 250), (1, 250), (2, 250)]);
    let late = Outcome::Failed(ErrorKind::DeadlineExceeded);
    world.events.assert_count(
        3,
        "late attempts",
        |seen| matches!(seen, Seen::Attempt { outcome, endpoint: Some(_), .. } if *outcome == late),
    );
    world.mesh.end().await;
}

/// `grpc-timeout` of each attempt is what is left of the deadline.
#[tokio::test(start_paused = true)]
async fn each_attempt_is_told_what_is_left_of_the_deadline() {
    let plan = Plan { servers: 1, route: "timeout: 1s", ..Plan::new(policy(RetryOn::none())) };
    let world = plan.start(&[Act::Hang, Act::Hang, GOOD]).await;
    assert_eq!(world.call().await.0, 0);
    let told = world.servers[0].requests();
    let told: Vec<_> = told.iter().map(|request| request.header("grpc-timeout").unwrap()).collect();
    assert_eq!(told, ["1000000u", "900000u", "800000u"]);
    world.mesh.end().await;
}

/// RE-10, RL-12: who drops the request cancels all of it.
#[tokio::test(start_paused = true)]
async fn re_10_a_request_that_is_dropped_cancels_all_attempts() {
    for protocol in ["protocol: http1", "protocol: http2"] {
        let world = Plan { backend: protocol, ..Plan::new(policy(RetryOn::none())) }.start(&[Act::Hang]).await;
        let cut = tokio::time::timeout(Duration::from_millis(210), world.ask("GET")).await;
        assert!(cut.is_err());
        assert_eq!(world.log.cancelled(3).await, [(0, 210), (1, 210), (2, 210)], "{protocol}");
        world.events.assert_count(3, "cancelled attempts", |seen| {
            matches!(seen, Seen::Attempt { outcome: Outcome::Cancelled, .. })
        });
        world.events.assert_count(1, "cancelled requests", |seen| {
            matches!(seen, Seen::Request { outcome: Outcome::Cancelled, attempts: 3, .. })
        });
        watched(world.mesh.end()).await;
    }
}

/// The hedging policy takes the place of the retry policy, for requests that it does not hedge too.
#[tokio::test(start_paused = true)]
async fn with_both_policies_the_hedging_holds() {
    for method in ["GET", "POST"] {
        let mut plan = Plan::new(policy(RetryOn::none()));
        plan.adjust = |forward| {
            let mut retry = RetryPolicy::new(RetryOn::SERVER_ERROR);
            retry.per_try_timeout = Some(Duration::from_millis(1));
            forward.policy.retry = Some(Arc::new(retry));
        };
        let world = plan.start(&[Act::Status(503)]).await;
        assert_eq!(world.ask(method).await.unwrap(), (503, "by 1".into()), "{method}");
        world.mesh.end().await;
    }
}
