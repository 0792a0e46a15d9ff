//! What is not hedged, and what stops hedging.

use std::time::Duration;

use mesh_tower::RequestOptions;
use mesh_tower::core::grpc::Code;
use mesh_tower::core::model::{HedgePolicy, RetryMethods, RetryOn};
use mesh_tower::testing::grpc::call;

use crate::support::{Act, DELAY, GOOD, Plan, UNAVAILABLE};

const SLOW: Act = Act::Good(Duration::from_millis(250));

fn policy(max_attempts: u32) -> HedgePolicy {
    let mut policy = HedgePolicy::new(max_attempts, DELAY);
    policy.non_fatal = RetryOn::UNAVAILABLE | RetryOn::SERVER_ERROR;
    policy
}

/// RE-10: over HTTP only what may be repeated is hedged, unless the route says otherwise.
#[tokio::test(start_paused = true)]
async fn re_10_a_post_over_http_is_hedged_only_where_the_route_says_so() {
    for (methods, method, attempts) in [
        (RetryMethods::Idempotent, "POST", 1),
        (RetryMethods::Idempotent, "PATCH", 1),
        (RetryMethods::Idempotent, "GET", 3),
        (RetryMethods::Idempotent, "PUT", 3),
        (RetryMethods::All, "POST", 3),
        (RetryMethods::Only(vec![http::Method::POST]), "POST", 3),
        (RetryMethods::Only(vec![http::Method::POST]), "GET", 1),
    ] {
        let mut policy = policy(3);
        policy.methods = methods.clone();
        let world = Plan::new(policy).start(&[SLOW]).await;
        assert_eq!(world.ask(method).await.unwrap(), (200, "by 1".into()));
        assert_eq!(world.log.arrivals().len(), attempts, "{method} {methods:?}");
        world.mesh.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_may_do_without_hedges_and_so_may_a_backend() {
    let world = Plan::new(policy(3)).start(&[SLOW]).await;
    let mut request = call("http://greeter/a.B/C", "hello");
    request.extensions_mut().insert(RequestOptions::new().no_retry());
    world.send(request).await.unwrap();
    assert_eq!(world.log.arrivals().len(), 1);
    world.mesh.end().await;

    let mut plan = Plan::new(policy(3));
    plan.adjust = |forward| forward.backends[0].policy.hedge = Some(None);
    let world = plan.start(&[SLOW]).await;
    assert_eq!(world.call().await.0, 0);
    assert_eq!(world.log.arrivals().len(), 1);
    world.mesh.end().await;
}

/// RE-04: failures of hedges take tokens; with half of them gone there are no hedges, and a first attempt always is.
#[tokio::test(start_paused = true)]
async fn re_04_throttling_stops_hedges_and_never_the_first_attempt() {
    let plan = Plan { service: "retry_throttling: { max_tokens: 4, token_ratio: 0.5 }", ..Plan::new(policy(4)) };
    // Two failures take two of four tokens: half is not more than half.
    let world = plan.start(&[UNAVAILABLE, UNAVAILABLE, SLOW, SLOW, SLOW, SLOW, GOOD]).await;
    assert_eq!(world.call().await, (14, "by 2".into()));
    assert_eq!(world.log.arrivals().len(), 2);
    // Nor beside an attempt that hangs. Each success returns half a token.
    assert_eq!(world.call().await, (0, "by 3".into()));
    assert_eq!(world.log.arrivals().len(), 3);
    assert_eq!(world.call().await, (0, "by 4".into()));
    assert_eq!(world.log.arrivals().len(), 6, "2.5 tokens are more than half: two hedges");
    world.mesh.end().await;
}

/// RE-04: a server that wants no more attempts takes a token, whatever its code.
#[tokio::test(start_paused = true)]
async fn re_04_a_fatal_answer_takes_no_token_unless_it_pushes_back() {
    for (pushback, attempts) in [(None, 2), (Some("-1"), 1)] {
        let plan = Plan { service: "retry_throttling: { max_tokens: 2, token_ratio: 0.5 }", ..Plan::new(policy(2)) };
        let world = plan.start(&[Act::Grpc(Code::NotFound, pushback), SLOW]).await;
        assert_eq!(world.call().await.0, 5);
        let before = world.log.arrivals().len();
        assert_eq!(world.call().await.0, 0);
        assert_eq!(world.log.arrivals().len() - before, attempts, "{pushback:?}");
        world.mesh.end().await;
    }
}

/// RE-05: a hedge needs a place in the budget until it ends; the first attempt does not.
#[tokio::test(start_paused = true)]
async fn re_05_the_budget_bounds_hedges_and_never_the_first_attempt() {
    for (budget, acts, end, attempts) in [
        (0, vec![SLOW], (0, "by 1"), 1),
        (0, vec![UNAVAILABLE, GOOD], (14, "by 1"), 1),
        // The place of the hedge is taken until it ends.
        (1, vec![SLOW], (0, "by 1"), 2),
        (2, vec![SLOW], (0, "by 1"), 3),
        (1, vec![UNAVAILABLE, UNAVAILABLE, UNAVAILABLE, GOOD], (0, "by 4"), 4),
    ] {
        let backend = match budget {
            0 => "protocol: http2, retry_budget: { percent: 0, min_concurrent: 0 }",
            1 => "protocol: http2, retry_budget: { percent: 0, min_concurrent: 1 }",
            _ => "protocol: http2, retry_budget: { percent: 0, min_concurrent: 2 }",
        };
        let world = Plan { backend, ..Plan::new(policy(4)) }.start(&acts).await;
        // Places come free: the second request fares like the first.
        let (code, text) = world.call().await;
        assert_eq!((code, &*text), end, "{budget} {acts:?}");
        assert_eq!(world.log.arrivals().len(), attempts, "{budget} {acts:?}");
        world.log.cancelled(world.log.all().len() - attempts).await;
        if acts.len() == 1 {
            assert_eq!(world.call().await.0, 0);
            assert_eq!(world.log.arrivals().len(), 2 * attempts, "{budget} {acts:?}");
        }
        world.mesh.end().await;
    }
}
