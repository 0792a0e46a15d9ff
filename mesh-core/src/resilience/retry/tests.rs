use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::classify::Failure;
use crate::model::{HeaderMatch, RetryMethods, RetryOn, RetryThrottling, StringMatch, ValueMatch};

const FAILURES: [Failure; 6] = [
    Failure::Connect,
    Failure::NotSent,
    Failure::Refused,
    Failure::Reset(None),
    Failure::PerTryTimeout,
    Failure::Local,
];

/// One request and its surroundings; the defaults are those of a request that may be sent again.
struct Request {
    retry: Retry,
    policy: Option<RetryPolicy>,
    method: Method,
    replayable: bool,
    remaining: Option<Duration>,
    throttle: Option<Throttle>,
    rng: StdRng,
}

impl Request {
    fn new(grpc: bool, on: RetryOn) -> Self {
        Self {
            retry: Retry::new(grpc),
            policy: Some(RetryPolicy::new(on).with_num_retries(100)),
            method: if grpc { Method::POST } else { Method::GET },
            replayable: true,
            remaining: None,
            throttle: None,
            rng: StdRng::seed_from_u64(1),
        }
    }

    fn grpc(on: &str) -> Self {
        Self::new(true, words(on))
    }

    fn http(on: &str) -> Self {
        Self::new(false, words(on))
    }

    fn without_policy(mut self) -> Self {
        self.policy = None;
        self
    }

    fn num_retries(mut self, num_retries: u32) -> Self {
        self.policy = self.policy.map(|policy| policy.with_num_retries(num_retries));
        self
    }

    fn throttled(mut self, max_tokens: u32) -> Self {
        self.throttle = Some(Throttle::new(&RetryThrottling { max_tokens, token_ratio_millis: 100 }));
        self
    }

    fn tokens(&self) -> u64 {
        self.throttle.as_ref().unwrap().tokens_millis()
    }

    fn after(&mut self, attempt: &Attempt<'_>) -> Decision {
        self.retry.decide(
            self.policy.as_ref(),
            &self.method,
            attempt,
            self.replayable,
            self.remaining,
            self.throttle.as_ref(),
            &mut self.rng,
        )
    }

    fn failed(&mut self, failure: Failure) -> Decision {
        self.after(&Attempt::Failed(failure))
    }

    fn code(&mut self, code: Code) -> Decision {
        self.head(200, &[("grpc-status", code.header_value())], true)
    }

    fn head(&mut self, status: u16, headers: &[(&'static str, HeaderValue)], end_of_stream: bool) -> Decision {
        let headers: HeaderMap =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.clone())).collect();
        let status = StatusCode::from_u16(status).unwrap();
        self.after(&Attempt::Response { status, headers: &headers, end_of_stream })
    }
}

fn words(list: &str) -> RetryOn {
    list.split_whitespace().fold(RetryOn::none(), |on, word| on | RetryOn::from_word(word).unwrap())
}

fn text(value: &'static str) -> HeaderValue {
    HeaderValue::from_static(value)
}

fn retries(decision: Decision) -> bool {
    matches!(decision, Decision::RetryAfter(_))
}

fn is_about(decision: Decision, millis: u64) -> bool {
    let nominal = Duration::from_millis(millis);
    let bounds = nominal.mul_f64(0.799_999)..=nominal.mul_f64(1.200_001);
    matches!(decision, Decision::RetryAfter(delay) if bounds.contains(&delay))
}

/// RE-01: with 3 retries an answer at the fourth attempt is reached and one at the fifth is not; each retry announces
/// how many attempts came before it.
#[test]
fn re_01_num_retries_bounds_the_retries() {
    let mut request = Request::grpc("unavailable").num_retries(3);
    for previous in 0..3 {
        assert_eq!(request.retry.previous_attempts(), previous);
        assert!(retries(request.code(Code::Unavailable)));
    }
    assert_eq!(request.retry.previous_attempts(), 3);
    assert_eq!(request.code(Code::Unavailable), Decision::Return);

    let mut none = Request::grpc("unavailable").num_retries(0);
    assert_eq!(none.code(Code::Unavailable), Decision::Return);
}

/// RE-02: 5 attempts of a gRPC call in all; HTTP requests are not capped.
#[test]
fn re_02_grpc_attempts_are_capped() {
    for (mut request, expected) in [
        (Request::grpc("unavailable").num_retries(u32::MAX), 4),
        (Request::grpc("unavailable").num_retries(4), 4),
        (Request::grpc("unavailable").num_retries(3), 3),
        (Request::http("connect-failure").num_retries(7), 7),
    ] {
        let made = (0..).take_while(|_| retries(request.failed(Failure::Connect))).count();
        assert_eq!(made, expected);
    }
}

/// RE-02: of the codes only those that a word of gRPC names can be retried, each by its own word alone.
#[test]
fn re_02_a_code_is_retried_by_its_own_word_only() {
    let pairs = [
        ("cancelled", Code::Cancelled),
        ("deadline-exceeded", Code::DeadlineExceeded),
        ("internal", Code::Internal),
        ("resource-exhausted", Code::ResourceExhausted),
        ("unavailable", Code::Unavailable),
    ];
    for (word, _) in RetryOn::WORDS {
        for code in Code::ALL {
            let expected = pairs.contains(&(word, code));
            assert_eq!(retries(Request::grpc(word).code(code)), expected, "{word} {code}");
        }
    }
    let mut all = Request::new(true, RetryOn::GRPC);
    assert_eq!(all.head(200, &[("grpc-status", text("99"))], true), Decision::Return);
    assert_eq!(all.head(200, &[], true), Decision::Return, "no status at all is UNKNOWN");
}

/// RE-03 and gRFC A6: the pauses of one request double.
#[test]
fn re_03_pauses_grow_with_each_retry() {
    let mut request = Request::http("5xx");
    for nominal in [25, 50, 100, 200, 250, 250] {
        let decision = request.head(500, &[], false);
        assert!(is_about(decision, nominal), "{decision:?} {nominal}");
    }
}

/// RE-04: a retriable failure takes a token, retried or not; what is not retriable takes none.
#[test]
fn re_04_retriable_failures_take_tokens_and_stop_at_half() {
    let mut request = Request::grpc("unavailable").throttled(4);
    assert!(retries(request.code(Code::Unavailable)), "3 of 4 tokens are left");
    assert_eq!(request.code(Code::Unavailable), Decision::Return, "2 of 4 are not more than half");
    assert_eq!(request.tokens(), 2_000);
    assert_eq!(request.code(Code::Unavailable), Decision::Return);
    assert_eq!(request.tokens(), 1_000);
    assert_eq!(request.code(Code::NotFound), Decision::Return);
    assert_eq!(request.failed(Failure::Local), Decision::Return);
    assert_eq!(request.tokens(), 1_000);
    request.throttle.as_ref().unwrap().succeeded();
    assert_eq!(request.tokens(), 1_100);

    let mut last = Request::grpc("unavailable").num_retries(0).throttled(4);
    assert_eq!(last.code(Code::Unavailable), Decision::Return);
    assert_eq!(last.tokens(), 3_000, "the last attempt counts as well");
}

/// RE-04: "do not retry" takes a token whatever the code and the policy, except from a call that succeeded.
#[test]
fn re_04_pushback_stop_takes_a_token() {
    let stop = ("grpc-retry-pushback-ms", text("-1"));
    for (mut request, code, expected) in [
        (Request::grpc("unavailable"), Code::Unavailable, 9_000),
        (Request::grpc("unavailable"), Code::NotFound, 9_000),
        (Request::grpc("unavailable").without_policy(), Code::Unavailable, 9_000),
        (Request::grpc("unavailable"), Code::Ok, 10_000),
    ] {
        request = request.throttled(10);
        let decision = request.head(200, &[("grpc-status", code.header_value()), stop.clone()], true);
        assert_eq!((decision, request.tokens()), (Decision::Return, expected), "{code}");
    }
    let mut head = Request::grpc("unavailable").throttled(10);
    assert_eq!(head.head(200, &[stop], false), Decision::Return);
    assert_eq!(head.tokens(), 10_000, "a call that goes on has not failed");
}

/// RE-06: a body that cannot be sent again forbids every kind of further attempt.
#[test]
fn re_06_a_lost_body_ends_the_request() {
    for failure in FAILURES {
        for grpc in [false, true] {
            let mut request = Request::new(grpc, words("5xx reset unavailable connect-failure refused-stream"));
            request.replayable = false;
            assert_eq!(request.failed(failure), Decision::Return, "{failure:?}");
            assert_eq!(request.retry.previous_attempts(), 0);
        }
    }
    let mut request = Request::grpc("unavailable").throttled(10);
    request.replayable = false;
    assert_eq!(request.code(Code::Unavailable), Decision::Return);
    assert_eq!(request.tokens(), 9_000, "it failed all the same");
}

/// RE-07: a response head that goes on commits a gRPC call, whatever it carries.
#[test]
fn re_07_a_head_that_goes_on_commits() {
    let every = RetryOn::WORDS.into_iter().fold(RetryOn::none(), |on, (_, word)| on | word);
    let mut request = Request::new(true, every);
    assert_eq!(request.head(200, &[], false), Decision::Return);
    assert_eq!(request.head(200, &[("grpc-status", text("14"))], false), Decision::Return);
    assert_eq!(request.head(200, &[("grpc-status", text("0"))], true), Decision::Return);
}

/// RE-08: the server's pause is taken exactly and the sequence of pauses begins anew; anything else ends the call.
#[test]
fn re_08_pushback_sets_the_pause_or_ends_the_call() {
    let unavailable = ("grpc-status", text("14"));
    let pushback = |value| [unavailable.clone(), ("grpc-retry-pushback-ms", text(value))];

    let mut request = Request::grpc("unavailable");
    assert!(is_about(request.code(Code::Unavailable), 25));
    assert!(is_about(request.code(Code::Unavailable), 50));
    let exactly = Decision::RetryAfter(Duration::from_millis(500));
    assert_eq!(request.head(200, &pushback("500"), true), exactly);
    assert!(is_about(request.code(Code::Unavailable), 25), "the sequence restarts");

    let mut at_once = Request::grpc("unavailable");
    assert_eq!(at_once.head(200, &pushback("0"), true), Decision::RetryAfter(Duration::ZERO));
    let mut long = Request::grpc("unavailable");
    assert_eq!(long.head(200, &pushback("30000"), true), Decision::RetryAfter(Duration::from_secs(30)));
    assert_eq!(long.head(200, &pushback("30001"), true), Decision::Return, "nobody is kept for longer");
    for value in ["-1", "abc", ""] {
        assert_eq!(Request::grpc("unavailable").head(200, &pushback(value), true), Decision::Return, "{value:?}");
    }
    assert_eq!(Request::grpc("internal").head(200, &pushback("5"), true), Decision::Return, "not a retriable code");
    assert_eq!(Request::grpc("unavailable").num_retries(0).head(200, &pushback("5"), true), Decision::Return);
    // It is gRPC's word: a plain HTTP request does not read it.
    let decision = Request::http("5xx").head(503, &[("grpc-retry-pushback-ms", text("-1"))], true);
    assert!(is_about(decision, 25));
}

/// RE-09: what no peer has processed is sent again without policy, for any method, uncounted and unthrottled.
#[test]
fn re_09_unprocessed_requests_are_resent_without_a_policy() {
    for grpc in [false, true] {
        for method in [Method::GET, Method::POST] {
            let mut request = Request::new(grpc, RetryOn::none()).without_policy().throttled(2);
            request.method = method;
            assert_eq!(request.failed(Failure::Refused), Decision::Resend);
            assert_eq!(request.failed(Failure::Refused), Decision::Return, "once");
            for _ in 0..Retry::MAX_UNSENT_IN_A_ROW {
                assert_eq!(request.failed(Failure::NotSent), Decision::Resend);
            }
            assert_eq!(request.failed(Failure::NotSent), Decision::Return, "not for ever");
            assert_eq!(request.tokens(), 2_000);
            assert_eq!(request.retry.previous_attempts(), 0);
        }
    }
}

/// RE-09: the row of attempts that never left the client is broken by any other end, the one resend of a refused
/// request is never given twice.
#[test]
fn re_09_resends_are_bounded() {
    let mut request = Request::grpc("unavailable");
    let unsent = Retry::MAX_UNSENT_IN_A_ROW;
    for _ in 0..unsent {
        assert_eq!(request.failed(Failure::NotSent), Decision::Resend);
    }
    assert!(retries(request.failed(Failure::NotSent)), "counts as a failed connection");
    for _ in 0..unsent {
        assert_eq!(request.failed(Failure::NotSent), Decision::Resend);
    }
    assert_eq!(request.failed(Failure::Refused), Decision::Resend);
    assert_eq!(request.failed(Failure::NotSent), Decision::Resend);
    assert!(retries(request.failed(Failure::Refused)));
    assert_eq!(request.retry.previous_attempts(), 2);
}

/// RE-09: the second refusal is an ordinary failure of the policy, safe for any method.
#[test]
fn re_09_a_second_refusal_goes_by_the_policy() {
    for (on, grpc, expected) in [
        ("refused-stream", false, true),
        ("5xx", false, true),
        ("gateway-error", false, true),
        ("reset", false, true),
        ("connect-failure", false, false),
        ("unavailable", false, false),
        ("unavailable", true, true),
        ("refused-stream", true, true),
        ("internal", true, false),
    ] {
        let mut request = Request::new(grpc, words(on));
        request.method = Method::POST;
        assert_eq!(request.failed(Failure::Refused), Decision::Resend, "{on}");
        assert_eq!(retries(request.failed(Failure::Refused)), expected, "{on}");
    }
}

/// RE-09, RE-14, RE-15: every condition against every failure, for methods that may and may not be repeated. The words
/// beside a failure are those that retry it.
#[test]
fn re_15_conditions_and_methods_decide_on_failures() {
    let always = ["5xx", "gateway-error"];
    for failure in [Failure::Connect, Failure::Reset(None), Failure::PerTryTimeout, Failure::Local] {
        for (word, on) in RetryOn::WORDS {
            for (grpc, method) in [(false, Method::GET), (false, Method::POST), (true, Method::POST)] {
                let named = match failure {
                    Failure::Connect => always.contains(&word) || word == "connect-failure",
                    Failure::Reset(_) => always.contains(&word) || word == "reset",
                    Failure::PerTryTimeout => true,
                    _ => false,
                };
                let silent = matches!(failure, Failure::Connect | Failure::Reset(None));
                let wanted = named || grpc && silent && word == "unavailable";
                let allowed = grpc || method == Method::GET || failure == Failure::Connect;

                let mut request = Request::new(grpc, on);
                request.method = method.clone();
                let decision = request.failed(failure);
                let case = format!("{failure:?} {word} {method} grpc={grpc}");
                assert_eq!(retries(decision), wanted && allowed, "{case}");
                assert!(decision != Decision::Resend, "{case}");
                assert_eq!(request.without_policy().failed(failure), Decision::Return, "{case}");
            }
        }
    }
}

/// RE-15: a POST that a peer may have acted on is sent again only if the policy says so.
#[test]
fn re_15_the_policy_may_allow_more_methods_or_fewer() {
    for (methods, allowed) in [
        (RetryMethods::Idempotent, &["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"][..]),
        (RetryMethods::All, &["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "POST", "PATCH"]),
        (RetryMethods::Only(vec![Method::POST]), &["POST"]),
    ] {
        for name in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "POST", "PATCH"] {
            let request = || {
                let mut request = Request::http("5xx reset");
                request.method = name.parse().unwrap();
                request.policy.as_mut().unwrap().methods = methods.clone();
                request
            };
            let expected = allowed.contains(&name);
            assert_eq!(retries(request().failed(Failure::Reset(None))), expected, "{name} {methods:?}");
            assert_eq!(retries(request().failed(Failure::PerTryTimeout)), expected, "{name} {methods:?}");
            assert_eq!(retries(request().head(503, &[], false)), expected, "{name} {methods:?}");
            assert!(retries(request().failed(Failure::Connect)), "{name} {methods:?}");
        }
    }
}

/// Every status against every HTTP condition. A gRPC call that is answered in plain HTTP knows the same conditions and
/// its code's besides.
#[test]
fn http_statuses_are_retried_by_the_conditions_that_name_them() {
    for (word, on) in RetryOn::WORDS {
        for status in 100..=999 {
            let http = match word {
                "5xx" => (500..=599).contains(&status),
                "gateway-error" => (502..=504).contains(&status),
                "retriable-4xx" => status == 409,
                "retriable-status-codes" => matches!(status, 200 | 425 | 599),
                _ => false,
            };
            let code = match word {
                "unavailable" => matches!(status, 429 | 502 | 503 | 504),
                "internal" => status == 400,
                _ => false,
            };
            for end_of_stream in [false, true] {
                for grpc in [false, true] {
                    let mut request = Request::new(grpc, on);
                    request.policy.as_mut().unwrap().status_codes =
                        [200, 425, 599].map(|code| StatusCode::from_u16(code).unwrap()).to_vec();
                    let expected = if grpc { status != 200 && (http || code) } else { http };
                    let decision = request.head(status, &[], end_of_stream);
                    assert_eq!(retries(decision), expected, "{word} {status} grpc={grpc}");
                    assert_ne!(decision, Decision::Resend);
                }
            }
        }
    }
}

#[test]
fn an_http_status_list_needs_its_condition() {
    let mut request = Request::http("5xx");
    request.policy.as_mut().unwrap().status_codes = vec![StatusCode::TOO_EARLY];
    assert_eq!(request.head(425, &[], false), Decision::Return);
}

#[test]
fn response_headers_are_retried_by_their_condition() {
    let name = HeaderName::from_static("x-try-again");
    let exact = |value: &str| ValueMatch::String(StringMatch::Exact { value: value.into(), ignore_case: false });
    let wanted = vec![HeaderMatch::new(name.clone(), exact("yes")), HeaderMatch::new(name, exact("soon"))];
    for (on, status, value, expected) in [
        ("retriable-headers", 500, "yes", true),
        ("retriable-headers", 404, "soon", true),
        ("retriable-headers", 200, "yes", true),
        ("retriable-headers", 500, "no", false),
        ("reset", 500, "yes", false),
    ] {
        let mut request = Request::http(on);
        request.policy.as_mut().unwrap().headers = wanted.clone();
        let decision = request.head(status, &[("x-try-again", text(value))], false);
        assert_eq!(retries(decision), expected, "{on} {status} {value}");
        assert_eq!(request.head(status, &[], false), Decision::Return, "{on} {status} without the header");
    }
}

/// `Retry-After` replaces the pause; one that is too long ends the request and leaves the response to the caller.
#[test]
fn retry_after_replaces_the_pause() {
    const NOON: &str = "Sun, 06 Nov 1994 12:00:00 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 12:00:07 GMT";
    const MUCH_LATER: &str = "Sun, 06 Nov 1994 12:00:31 GMT";
    let pause = |seconds| Some(Decision::RetryAfter(Duration::from_secs(seconds)));
    for (retry_after, date, remaining, expected) in [
        ("7", None, None, pause(7)),
        ("0", None, None, pause(0)),
        ("30", None, None, pause(30)),
        ("31", None, None, Some(Decision::Return)),
        ("99999999999999999999999", None, None, Some(Decision::Return)),
        ("7", None, Some(8), pause(7)),
        ("7", None, Some(7), Some(Decision::Return)),
        (LATER, Some(NOON), None, pause(7)),
        (NOON, Some(LATER), None, pause(0)),
        (NOON, Some(NOON), None, pause(0)),
        (MUCH_LATER, Some(NOON), None, Some(Decision::Return)),
        (LATER, Some(NOON), Some(7), Some(Decision::Return)),
        // What cannot be understood is not there.
        (LATER, None, None, None),
        (LATER, Some("noon"), None, None),
        ("tomorrow", Some(NOON), None, None),
        ("-7", None, None, None),
        ("7.5", None, None, None),
        ("", None, None, None),
    ] {
        let mut request = Request::http("5xx");
        request.remaining = remaining.map(Duration::from_secs);
        let mut headers = HeaderMap::from_iter([(RETRY_AFTER, text(retry_after))]);
        headers.extend(date.map(|date| (DATE, text(date))));
        let attempt =
            Attempt::Response { status: StatusCode::SERVICE_UNAVAILABLE, headers: &headers, end_of_stream: false };
        let decision = request.after(&attempt);
        match expected {
            Some(expected) => assert_eq!(decision, expected, "{retry_after:?} {date:?} {remaining:?}"),
            None => assert!(is_about(decision, 25), "{retry_after:?} {date:?}: {decision:?}"),
        }
    }
}

#[test]
fn retry_after_counts_on_a_grpc_call_only_in_plain_http_answers() {
    let seven = ("retry-after", text("7"));
    let mut request = Request::grpc("unavailable");
    let decision = request.head(503, std::slice::from_ref(&seven), false);
    assert_eq!(decision, Decision::RetryAfter(Duration::from_secs(7)));
    let mut request = Request::grpc("unavailable");
    assert!(is_about(request.head(200, &[("grpc-status", text("14")), seven.clone()], true), 25));
    // gRPC's own word comes first.
    let mut request = Request::grpc("unavailable");
    let decision = request.head(503, &[("grpc-retry-pushback-ms", text("3")), seven], false);
    assert_eq!(decision, Decision::RetryAfter(Duration::from_millis(3)));
}

/// `Retry-After` is one pause of the sequence, which goes on after it.
#[test]
fn retry_after_does_not_restart_the_sequence() {
    let mut request = Request::http("5xx");
    assert!(is_about(request.head(503, &[], false), 25));
    assert_eq!(request.head(503, &[("retry-after", text("1"))], false), Decision::RetryAfter(Duration::from_secs(1)));
    assert!(is_about(request.head(503, &[], false), 100));
}

/// RE-11: tries of 300 ms within a deadline of 1 s. The pauses are about 25, 50 and 100 ms, so the third try ends 10 to
/// 40 ms before the deadline and the pause after it would outlast that.
#[test]
fn re_11_no_retry_begins_that_the_deadline_would_cut_off() {
    let mut request = Request::grpc("unavailable");
    let (mut now, deadline) = (Duration::ZERO, Duration::from_secs(1));
    let mut tries = Vec::new();
    loop {
        tries.push(now);
        now += Duration::from_millis(300);
        request.remaining = Some(deadline.saturating_sub(now));
        match request.failed(Failure::PerTryTimeout) {
            Decision::RetryAfter(delay) => now += delay,
            other => break assert_eq!(other, Decision::Return),
        }
    }
    assert_eq!(tries.len(), 3, "{tries:?}");

    for (remaining, expected) in [(0, false), (19, false), (31, true)] {
        let mut request = Request::http("5xx");
        request.remaining = Some(Duration::from_millis(remaining));
        assert_eq!(retries(request.head(500, &[], false)), expected, "{remaining} ms left, 20 to 30 to wait");
    }
    let mut over = Request::http("5xx");
    over.remaining = Some(Duration::ZERO);
    assert_eq!(over.failed(Failure::NotSent), Decision::Return, "not even a resend");
    assert_eq!(over.failed(Failure::Refused), Decision::Return);
    let mut pushed = Request::grpc("unavailable");
    pushed.remaining = Some(Duration::from_millis(500));
    let pushback = [("grpc-status", text("14")), ("grpc-retry-pushback-ms", text("500"))];
    assert_eq!(pushed.head(200, &pushback, true), Decision::Return);
}

/// A retry that is not made leaves the count and the pauses as they were.
#[test]
fn a_request_that_returns_has_not_retried() {
    let mut request = Request::http("5xx");
    request.remaining = Some(Duration::from_millis(1));
    assert_eq!(request.head(500, &[], false), Decision::Return);
    request.remaining = None;
    assert_eq!(request.retry.previous_attempts(), 0);
    assert!(is_about(request.head(500, &[], false), 25));
}

/// RE-02: a stream that the peer reset has a code of its own (gRPC over HTTP/2, "Errors"); only a broken connection is
/// UNAVAILABLE by itself.
#[test]
fn a_reset_with_a_reason_is_judged_by_its_code() {
    for (on, failure, expected) in [
        (RetryOn::UNAVAILABLE, Failure::Reset(None), true),
        (RetryOn::UNAVAILABLE, Failure::Reset(Some(Code::Cancelled)), false),
        (RetryOn::UNAVAILABLE, Failure::Reset(Some(Code::Internal)), false),
        (RetryOn::CANCELLED, Failure::Reset(Some(Code::Cancelled)), true),
        (RetryOn::INTERNAL, Failure::Reset(Some(Code::Internal)), true),
        (RetryOn::RESET, Failure::Reset(Some(Code::Internal)), true),
    ] {
        let policy = RetryPolicy::new(on);
        let decision = Retry::new(true).decide(
            Some(&policy),
            &Method::POST,
            &Attempt::Failed(failure),
            true,
            None,
            None,
            &mut rand::rng(),
        );
        assert_eq!(matches!(decision, Decision::RetryAfter(_)), expected, "{on:?} {failure:?}");
    }
}

#[test]
fn an_application_may_overrule_the_conditions_and_nothing_else() {
    let policy = RetryPolicy::new(RetryOn::GATEWAY_ERROR);
    let headers = HeaderMap::new();
    let http = |status| Attempt::Response { status, headers: &headers, end_of_stream: true };
    let going_on = Attempt::Response { status: StatusCode::OK, headers: &headers, end_of_stream: false };
    let reset = Attempt::Failed(Failure::Reset(None));
    let cases = [
        (false, Method::GET, http(StatusCode::BAD_GATEWAY), Verdict::Policy, true),
        (false, Method::GET, http(StatusCode::BAD_GATEWAY), Verdict::Return, false),
        (false, Method::GET, http(StatusCode::OK), Verdict::Policy, false),
        (false, Method::GET, http(StatusCode::OK), Verdict::Retry, true),
        (false, Method::POST, http(StatusCode::OK), Verdict::Retry, false),
        (false, Method::POST, reset, Verdict::Retry, false),
        (false, Method::GET, Attempt::Failed(Failure::Local), Verdict::Retry, false),
        (true, Method::POST, http(StatusCode::OK), Verdict::Retry, true),
        (true, Method::POST, going_on, Verdict::Retry, false),
    ];
    for (grpc, method, attempt, verdict, expected) in cases {
        let mut retry = Retry::new(grpc);
        retry.overrule(verdict);
        let mut decide =
            || retry.decide(Some(&policy), &method, &attempt, true, None, None, &mut StdRng::seed_from_u64(1));
        let decision = decide();
        let retried = matches!(decision, Decision::RetryAfter(_));
        assert_eq!(retried, expected, "{grpc} {method} {attempt:?} {verdict:?}");
    }
}
