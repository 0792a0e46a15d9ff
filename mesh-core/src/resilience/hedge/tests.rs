use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::*;
use crate::grpc::Code;
use crate::model::{RetryMethods, RetryOn, RetryThrottling};

const DELAY: Duration = Duration::from_millis(100);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// How an attempt ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// A trailers-only answer of gRPC, with a pushback.
    Grpc(u32, Option<&'static str>),
    /// An answer that goes on.
    Open(u16),
    Status(u16),
    Failed(Failure),
}

fn with<R>(end: End, decide: impl FnOnce(&Attempt<'_>) -> R) -> R {
    let mut headers = HeaderMap::new();
    let (status, end_of_stream) = match end {
        End::Failed(failure) => return decide(&Attempt::Failed(failure)),
        End::Grpc(code, pushback) => {
            headers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from(code));
            if let Some(pushback) = pushback {
                let name = HeaderName::from_static("grpc-retry-pushback-ms");
                headers.insert(name, HeaderValue::from_static(pushback));
            }
            (200, true)
        }
        End::Open(status) => (status, false),
        End::Status(status) => (status, true),
    };
    decide(&Attempt::Response { status: StatusCode::from_u16(status).unwrap(), headers: &headers, end_of_stream })
}

/// A request, its policy and the time.
struct Run {
    hedge: Hedge,
    policy: HedgePolicy,
    begin: Instant,
    throttle: Option<Throttle>,
    remaining: Option<Duration>,
}

impl Run {
    fn new(grpc: bool, max_attempts: u32, non_fatal: RetryOn) -> Self {
        let policy = HedgePolicy { non_fatal, ..HedgePolicy::new(max_attempts, DELAY) };
        let hedge = Hedge::new(&policy, grpc, &Method::GET).unwrap();
        Self { hedge, policy, begin: Instant::now(), throttle: None, remaining: None }
    }

    fn start(&mut self, at: u64) -> &mut Self {
        self.hedge.started(&self.policy, self.begin + ms(at));
        self
    }

    fn end(&mut self, at: u64, end: End) -> Decision {
        self.end_with(at, end, true)
    }

    fn end_with(&mut self, at: u64, end: End, replayable: bool) -> Decision {
        let (now, throttle) = (self.begin + ms(at), self.throttle.as_ref());
        with(end, |attempt| self.hedge.ended(&self.policy, attempt, now, replayable, self.remaining, throttle))
    }

    /// When the next attempt is due, in milliseconds.
    fn due(&self) -> Option<u128> {
        self.hedge.next_at().map(|at| (at - self.begin).as_millis())
    }
}

/// gRFC A6: at 0, d, 2d and so on, up to the limit, which gRPC caps at 5.
#[test]
fn re_10_attempts_are_due_one_delay_after_the_other() {
    for (max, expected) in [(2, 2), (3, 3), (5, 5), (9, 5)] {
        let mut run = Run::new(true, max, RetryOn::none());
        for attempt in 0..expected {
            assert_eq!(run.hedge.previous_attempts(), attempt);
            run.start(u64::from(attempt) * 100);
            assert_eq!(run.due(), (attempt + 1 < expected).then(|| u128::from(attempt + 1) * 100), "{max}");
        }
    }
}

#[test]
fn without_a_delay_all_are_due_at_once() {
    let mut run = Run::new(true, 3, RetryOn::none());
    run.policy.delay = Duration::ZERO;
    run.start(7).start(7);
    assert_eq!(run.due(), Some(7));
    run.start(7);
    assert_eq!(run.due(), None);
}

/// RE-10: a POST over HTTP is sent twice only if the route says so; gRPC calls are POSTs, and the policy is what says so.
#[test]
fn re_10_only_methods_that_may_be_repeated_are_hedged() {
    let post_only = RetryMethods::Only(vec![Method::POST]);
    for (grpc, methods, method, hedged) in [
        (false, RetryMethods::Idempotent, Method::GET, true),
        (false, RetryMethods::Idempotent, Method::PUT, true),
        (false, RetryMethods::Idempotent, Method::POST, false),
        (false, RetryMethods::Idempotent, Method::PATCH, false),
        (false, RetryMethods::All, Method::POST, true),
        (false, post_only.clone(), Method::POST, true),
        (false, post_only, Method::GET, false),
        (true, RetryMethods::Idempotent, Method::POST, true),
    ] {
        let policy = HedgePolicy { methods, ..HedgePolicy::new(2, DELAY) };
        assert_eq!(Hedge::new(&policy, grpc, &method).is_some(), hedged, "{grpc} {method} {policy:?}");
    }
    assert!(Hedge::new(&HedgePolicy::new(1, DELAY), true, &Method::POST).is_none(), "one attempt is no hedging");
}

/// What ends a request, with one more attempt under way and another one still to come.
#[test]
fn re_10_a_good_or_fatal_answer_ends_it_and_a_non_fatal_one_does_not() {
    use Decision::{GoOn, Return};
    let unavailable = RetryOn::UNAVAILABLE;
    let by_status = RetryOn::RETRIABLE_STATUS_CODES;
    for (grpc, non_fatal, end, expected) in [
        (true, unavailable, End::Grpc(0, None), Return),
        (true, unavailable, End::Open(200), Return),
        (true, unavailable, End::Grpc(14, None), GoOn),
        (true, unavailable, End::Status(503), GoOn),
        (true, unavailable, End::Grpc(13, None), Return),
        (true, RetryOn::none(), End::Grpc(14, None), Return),
        (true, unavailable | RetryOn::INTERNAL, End::Grpc(13, None), GoOn),
        (true, unavailable, End::Failed(Failure::Reset(None)), GoOn),
        (true, unavailable, End::Failed(Failure::Reset(Some(Code::Internal))), Return),
        (false, RetryOn::SERVER_ERROR, End::Status(200), Return),
        (false, RetryOn::SERVER_ERROR, End::Open(500), GoOn),
        (false, RetryOn::GATEWAY_ERROR, End::Status(500), Return),
        (false, RetryOn::GATEWAY_ERROR, End::Status(502), GoOn),
        (false, RetryOn::RETRIABLE_4XX, End::Status(409), GoOn),
        (false, by_status, End::Status(429), GoOn),
        (false, by_status, End::Status(404), Return),
        (false, RetryOn::none(), End::Status(503), Return),
        (false, RetryOn::RESET, End::Failed(Failure::Reset(None)), GoOn),
        (false, RetryOn::none(), End::Failed(Failure::Reset(None)), Return),
        // No peer has processed these; what the others do is not up to them.
        (false, RetryOn::none(), End::Failed(Failure::Connect), GoOn),
        (false, RetryOn::none(), End::Failed(Failure::Local), GoOn),
    ] {
        let mut run = Run::new(grpc, 3, non_fatal);
        run.policy.status_codes = vec![StatusCode::TOO_MANY_REQUESTS];
        run.start(0).start(100);
        assert_eq!(run.end(150, end), expected, "{grpc} {non_fatal:?} {end:?}");
    }
}

/// gRFC A6: a non-fatal failure brings the next attempt forward, and the pauses begin anew with it.
#[test]
fn re_10_a_non_fatal_failure_starts_the_next_attempt_at_once() {
    let mut run = Run::new(true, 3, RetryOn::UNAVAILABLE);
    run.start(0);
    assert_eq!(run.end(30, End::Grpc(14, None)), Decision::GoOn);
    assert_eq!(run.due(), Some(30));
    run.start(30);
    assert_eq!((run.due(), run.hedge.previous_attempts()), (Some(130), 2));
    run.start(130);
    assert_eq!(run.due(), None);
    assert_eq!(run.end(140, End::Grpc(14, None)), Decision::GoOn, "one is under way");
    assert_eq!(run.end(150, End::Grpc(14, None)), Decision::GiveUp, "none is, and none is to come");
}

/// A failure that the policy does not name brings nothing forward.
#[test]
fn a_failure_that_no_peer_processed_ends_nothing_that_is_under_way() {
    let mut run = Run::new(false, 3, RetryOn::none());
    run.start(0).start(100);
    assert_eq!(run.end(110, End::Failed(Failure::Connect)), Decision::GoOn);
    assert_eq!(run.due(), Some(200));
    assert_eq!(run.end(120, End::Failed(Failure::Connect)), Decision::GiveUp);
}

/// RE-10, gRFC A6: a pushback sets the time of the next attempt, or ends the hedging.
#[test]
fn re_10_pushback_is_obeyed() {
    for (pushback, due) in [("500", Some(550)), ("0", Some(50)), ("-1", None), ("abc", None), ("", None)] {
        let mut run = Run::new(true, 4, RetryOn::UNAVAILABLE);
        run.start(0).start(10);
        assert_eq!(run.end(50, End::Grpc(14, Some(pushback))), Decision::GoOn, "{pushback}");
        assert_eq!(run.due(), due, "{pushback}");
        // Another server has no say in what the first asked for.
        let over = run.end(60, End::Grpc(14, None));
        assert_eq!(over, if due.is_some() { Decision::GoOn } else { Decision::GiveUp }, "{pushback}");
        assert_eq!(run.due(), due.map(|at| at.max(60)), "{pushback}");
        if due.is_some() {
            run.start(600);
            assert_eq!(run.due(), Some(700), "the pauses are the policy's again");
        }
    }
}

#[test]
fn re_10_a_pushback_beyond_the_deadline_ends_the_hedging() {
    for (remaining, decision) in [(500, Decision::GiveUp), (501, Decision::GoOn)] {
        let mut run = Run::new(true, 3, RetryOn::UNAVAILABLE);
        run.remaining = Some(ms(remaining));
        run.start(0);
        assert_eq!(run.end(50, End::Grpc(14, Some("500"))), decision, "{remaining}");
    }
}

#[test]
fn a_body_that_cannot_begin_again_ends_the_hedging() {
    let mut run = Run::new(true, 3, RetryOn::UNAVAILABLE);
    run.start(0).start(100);
    assert_eq!(run.end_with(110, End::Grpc(14, None), false), Decision::GoOn);
    assert_eq!(run.due(), None);
    assert_eq!(run.end_with(120, End::Failed(Failure::NotSent), false), Decision::GiveUp);
}

/// RE-04: a non-fatal failure takes a token, and so does a server that wants no more; a fatal one does not.
#[test]
fn re_04_failures_of_hedges_take_tokens() {
    for (end, tokens) in [
        (End::Grpc(14, None), 9_000),
        (End::Grpc(14, Some("-1")), 9_000),
        (End::Grpc(13, Some("-1")), 9_000),
        (End::Grpc(13, None), 10_000),
        (End::Grpc(0, None), 10_000),
        (End::Failed(Failure::NotSent), 10_000),
    ] {
        let mut run = Run::new(true, 3, RetryOn::UNAVAILABLE);
        run.throttle = Some(Throttle::new(&RetryThrottling { max_tokens: 10, token_ratio_millis: 100 }));
        run.start(0);
        run.end(10, end);
        assert_eq!(run.throttle.as_ref().map(Throttle::tokens_millis), Some(tokens), "{end:?}");
    }
}

/// RE-09: what no peer processed is sent again as always, and is no attempt of the policy's.
#[test]
fn re_09_resends_do_not_count() {
    let mut run = Run::new(true, 2, RetryOn::none());
    run.start(0);
    for _ in 0..8 {
        assert_eq!(run.end(5, End::Failed(Failure::NotSent)), Decision::Resend);
    }
    assert_eq!(run.end(5, End::Failed(Failure::Refused)), Decision::Resend);
    assert_eq!((run.due(), run.hedge.previous_attempts()), (Some(100), 1));
    assert_eq!(run.end(6, End::Failed(Failure::Refused)), Decision::GiveUp, "once");
    let mut run = Run::new(true, 2, RetryOn::none());
    run.remaining = Some(Duration::ZERO);
    run.start(0);
    assert_eq!(run.end(5, End::Failed(Failure::NotSent)), Decision::GiveUp, "the time is up");
}

#[test]
fn once_stopped_nothing_is_due_and_the_last_failure_is_returned() {
    let mut run = Run::new(true, 5, RetryOn::UNAVAILABLE);
    run.start(0).start(100);
    run.hedge.stop();
    assert_eq!(run.due(), None);
    assert_eq!(run.end(110, End::Grpc(14, None)), Decision::GoOn);
    assert_eq!(run.end(120, End::Grpc(14, None)), Decision::GiveUp);
}

/// Nothing is under way and the budget is full: one more look later, and no more.
#[test]
fn an_attempt_is_put_off_once() {
    let mut run = Run::new(true, 5, RetryOn::UNAVAILABLE);
    run.start(0);
    assert_eq!(run.end(10, End::Grpc(14, None)), Decision::GoOn);
    let later = run.hedge.next_at().unwrap() + ms(25);
    assert!(run.hedge.put_off(later));
    assert_eq!(run.hedge.next_at(), Some(later));
    assert!(!run.hedge.put_off(later + ms(25)));
    assert_eq!(run.hedge.next_at(), Some(later));
}
