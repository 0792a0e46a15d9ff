//! What observers, metrics and traces are told of hedges.

use std::time::Duration;

use mesh_tower::core::grpc::Code;
use mesh_tower::core::model::{HedgePolicy, RetryOn};
use mesh_tower::observe::{Next, Outcome};
use mesh_tower::testing::Seen;

use crate::support::{Act, DELAY, GOOD, Plan, UNAVAILABLE};

fn policy() -> HedgePolicy {
    let mut policy = HedgePolicy::new(4, DELAY);
    policy.non_fatal = RetryOn::UNAVAILABLE;
    policy
}

/// RE-10: every attempt is told once with its endpoint and what followed, losers as cancelled; the request once.
#[tokio::test(start_paused = true)]
async fn re_10_every_attempt_is_told() {
    let late = Act::Late(Duration::from_millis(150), Code::Unavailable);
    let world = Plan { servers: 4, ..Plan::new(policy()) }.start(&[Act::Hang, late, Act::Hang, GOOD]).await;
    assert_eq!(world.call().await, (0, "by 4".into()));
    let mut attempts: Vec<_> = world
        .events
        .all()
        .into_iter()
        .filter_map(|seen| match seen {
            Seen::Attempt { number, outcome, next, endpoint, duration, .. } => {
                assert!(endpoint.is_some());
                Some((number, outcome, next, duration.as_millis()))
            }
            _ => None,
        })
        .collect();
    attempts.sort_by_key(|(number, ..)| *number);
    let answered = |grpc| Outcome::Response { status: http::StatusCode::OK, grpc };
    assert_eq!(
        attempts,
        [
            (1, Outcome::Cancelled, Next::Hedge, 250),
            (2, answered(Some(Code::Unavailable)), Next::Hedge, 150),
            (3, Outcome::Cancelled, Next::Hedge, 50),
            (4, answered(None), Next::Return, 0),
        ]
    );
    world.events.assert_count(1, "requests", |seen| matches!(seen, Seen::Request { attempts: 4, .. }));
    let mut endpoints: Vec<_> = world
        .events
        .all()
        .into_iter()
        .filter_map(|seen| if let Seen::Attempt { endpoint, .. } = seen { endpoint } else { None })
        .map(|endpoint| endpoint.to_string())
        .collect();
    endpoints.sort();
    endpoints.dedup();
    assert_eq!(endpoints.len(), 4, "each at an endpoint of its own");
    world.mesh.end().await;
}

/// A hedge that the budget did not allow, where nothing else is under way, is told with the attempt it would follow.
#[tokio::test(start_paused = true)]
async fn a_hedge_that_the_budget_denies_is_told() {
    let backend = "protocol: http2, retry_budget: { percent: 0, min_concurrent: 0 }";
    let world = Plan { backend, ..Plan::new(policy()) }.start(&[UNAVAILABLE]).await;
    assert_eq!(world.call().await, (14, "by 1".into()));
    world.events.assert_count(1, "attempts", |seen| matches!(seen, Seen::Attempt { next: Next::BudgetExhausted, .. }));
    world.mesh.end().await;
}
