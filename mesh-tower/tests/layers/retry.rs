use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use mesh_tower::core::classify::Failure;
use mesh_tower::core::grpc::{self, Code};
use mesh_tower::core::model::{Backoff, RetryBudget, RetryMethods, RetryOn, RetryPolicy, RetryThrottling};
use mesh_tower::layer::{DeadlineLayer, RetryLayer, TimeoutLayer};
use mesh_tower::{BoxError, Error, ErrorKind, RequestOptions};
use tokio::time::Instant;
use tower::{Layer, ServiceBuilder, ServiceExt};

use super::support::{Answer, Mock, Script, World, call, get, mesh_error, poll_once, post, text};

const PAUSE: Duration = Duration::from_millis(100);

fn policy(on: RetryOn, num_retries: u32) -> RetryPolicy {
    RetryPolicy::new(on).with_num_retries(num_retries).with_backoff(Backoff { base: PAUSE, max: 10 * PAUSE })
}

fn retry(policy: RetryPolicy) -> RetryLayer {
    RetryLayer::new(policy)
}

/// The n-th answer, the last for all that follow.
fn world(answers: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Arc<World> {
    World::new(100, move |number, _| answers(number))
}

fn unavailable() -> Answer {
    Answer::grpc(14)
}

/// RE-01, RE-08, RE-09, RE-15: conditions, methods and the number of attempts are those of the policy.
#[tokio::test(start_paused = true)]
async fn what_is_tried_again_is_decided_by_the_policy() {
    type Case = (&'static str, Request<Full<Bytes>>, RetryOn, fn() -> Answer, usize);
    let all = RetryOn::SERVER_ERROR;
    let busy: fn() -> Answer = || Answer::status(503);
    let no_connection: fn() -> Answer = || Answer::error(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
    let broken: fn() -> Answer = || Answer::error(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
    let refused: fn() -> Answer = || Answer::error(Error::new(ErrorKind::Refused, "refused"));
    let stop: fn() -> Answer = || unavailable().header("grpc-retry-pushback-ms", "-1");
    let cases: [Case; 13] = [
        ("a condition that holds", get("http://x/"), all, busy, 4),
        ("another status", get("http://x/"), RetryOn::GATEWAY_ERROR, || Answer::status(500), 1),
        ("success", get("http://x/"), all, Answer::ok, 1),
        ("a method that may not be sent again", post("http://x/", "a"), all, busy, 1),
        ("no connection", post("http://x/", "a"), RetryOn::CONNECT_FAILURE, no_connection, 4),
        ("no connection, and no condition", post("http://x/", "a"), RetryOn::RETRIABLE_4XX, no_connection, 1),
        ("a broken connection", get("http://x/"), RetryOn::RESET, broken, 4),
        ("a broken connection under a POST", post("http://x/", "a"), RetryOn::RESET, broken, 1),
        ("refused: once at once, whatever the policy", post("http://x/", "a"), RetryOn::none(), refused, 2),
        ("an error nobody knows", get("http://x/"), all, || Answer::error("no key"), 1),
        ("gRPC", call(None), RetryOn::UNAVAILABLE, unavailable, 4),
        ("another code", call(None), RetryOn::UNAVAILABLE, || Answer::grpc(5), 1),
        ("pushback: stop", call(None), RetryOn::UNAVAILABLE, stop, 1),
    ];
    for (case, request, on, answer, calls) in cases {
        let world = world(move |_| answer());
        let _ = retry(policy(on, 3)).layer(world.mock()).oneshot(request).await;
        assert_eq!(world.calls(), calls, "{case}");
        assert_eq!(world.held(), 0, "{case}");
    }
}

/// RE-03, RE-08: pauses double, jittered by a fifth; what the server asks for goes first.
#[tokio::test(start_paused = true)]
async fn pauses_are_those_of_the_policy_or_the_servers() {
    fn plain() -> Answer {
        Answer::status(503)
    }
    type Case = (&'static str, Request<Full<Bytes>>, fn() -> Answer, [u64; 2]);
    let cases: [Case; 4] = [
        ("backoff", get("http://x/"), plain, [100, 200]),
        ("retry-after", get("http://x/"), || plain().header("retry-after", "7"), [7_000, 7_000]),
        ("pushback", call(None), || unavailable().header("grpc-retry-pushback-ms", "3000"), [3_000, 3_000]),
        ("backoff of gRPC", call(None), unavailable, [100, 200]),
    ];
    for (case, request, answer, pauses) in cases {
        let times: Arc<std::sync::Mutex<Vec<Instant>>> = Arc::default();
        let kept = Arc::clone(&times);
        let world = world(move |_| {
            kept.lock().unwrap().push(Instant::now());
            answer()
        });
        let layer = retry(policy(RetryOn::SERVER_ERROR | RetryOn::UNAVAILABLE, 2));
        layer.layer(world.mock()).oneshot(request).await.unwrap();
        let times = times.lock().unwrap();
        let took: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(took.len(), 2, "{case}");
        for (took, pause) in took.into_iter().zip(pauses.map(Duration::from_millis)) {
            // Timers count in milliseconds, rounded up.
            let range = pause.mul_f64(0.8)..=pause.mul_f64(1.2) + Duration::from_millis(2);
            assert!(range.contains(&took), "{case}: {took:?}, not about {pause:?}");
        }
    }
}

/// RE-01: the whole request goes out each time, and gRPC's server hears which attempt it is.
#[tokio::test(start_paused = true)]
async fn every_attempt_is_the_whole_request() {
    let world = world(|number| if number < 2 { unavailable() } else { Answer::grpc(0) });
    let mut request = call(Some("10S"));
    request.headers_mut().insert("x-mine", "kept".parse().unwrap());
    request.headers_mut().insert(grpc::GRPC_PREVIOUS_RPC_ATTEMPTS, "9".parse().unwrap());
    let mut policy = policy(RetryOn::UNAVAILABLE, 3);
    policy.per_try_timeout = Some(Duration::from_secs(4));
    let response = retry(policy).layer(world.mock()).oneshot(request).await.unwrap();
    assert_eq!(grpc::status(response.headers()), Some(Code::Ok));
    let seen = world.seen();
    assert_eq!(seen.len(), 3);
    for (number, (parts, body)) in seen.iter().enumerate() {
        assert_eq!(
            (&parts.method, parts.uri.path(), &body[..]),
            (&http::Method::POST, "/greeter.v1.Greeter/SayHello", &b"hello"[..])
        );
        assert_eq!(parts.headers["x-mine"], "kept");
        let previous = parts.headers.get(grpc::GRPC_PREVIOUS_RPC_ATTEMPTS).map(|value| value.to_str().unwrap());
        assert_eq!(previous, [None, Some("1"), Some("2")][number]);
        let left = grpc::parse_timeout(parts.headers[grpc::GRPC_TIMEOUT].as_bytes()).unwrap();
        assert_eq!(left, Duration::from_secs(4), "the per-try timeout is shorter than what is left");
    }
}

/// Later attempts are told what is left of the caller's time.
#[tokio::test(start_paused = true)]
async fn what_is_left_shrinks_from_attempt_to_attempt() {
    let world = world(|number| if number < 2 { unavailable().after(Duration::from_secs(2)) } else { Answer::grpc(0) });
    let service = retry(policy(RetryOn::UNAVAILABLE, 3)).layer(world.mock());
    service.oneshot(call(Some("10S"))).await.unwrap();
    let told = world
        .seen()
        .iter()
        .map(|(parts, _)| grpc::parse_timeout(parts.headers[grpc::GRPC_TIMEOUT].as_bytes()).unwrap().as_secs_f64())
        .collect::<Vec<_>>();
    assert!(told[0] == 10.0 && (7.8..7.93).contains(&told[1]) && (5.5..5.8).contains(&told[2]), "{told:?}");
}

/// No pause that reaches the deadline, wherever it is known from.
#[tokio::test(start_paused = true)]
async fn no_pause_reaches_the_deadline() {
    let at_once = |result: &Result<_, BoxError>, began: Instant| result.is_ok() && began.elapsed() < PAUSE / 10;
    let layer = || retry(policy(RetryOn::SERVER_ERROR | RetryOn::UNAVAILABLE, 3));

    let (began, grpc) = (Instant::now(), world(|_| unavailable()));
    let result = layer().layer(grpc.mock()).oneshot(call(Some("50m"))).await;
    assert!(at_once(&result.map(|_| ()), began) && grpc.calls() == 1);

    let (began, announced) = (Instant::now(), world(|_| Answer::status(503)));
    let deadline = DeadlineLayer::new(PAUSE / 2).announced();
    let result = deadline.layer(layer().layer(announced.mock())).oneshot(get("http://x/")).await;
    assert!(at_once(&result.map(|_| ()), began) && announced.calls() == 1);

    let (began, asked) = (Instant::now(), world(|_| Answer::status(503)));
    let mut request = get("http://x/");
    request.extensions_mut().insert(RequestOptions::new().timeout(PAUSE / 2));
    let result = layer().layer(asked.mock()).oneshot(request).await;
    assert!(at_once(&result.map(|_| ()), began) && asked.calls() == 1);

    // Not announced, it is met.
    let unknown = world(|_| Answer::status(503));
    let result = DeadlineLayer::new(PAUSE / 2).layer(layer().layer(unknown.mock())).oneshot(get("http://x/")).await;
    assert_eq!(mesh_error(&result.unwrap_err()).kind(), ErrorKind::DeadlineExceeded);
}

/// The policy is the caller's to refuse; what no peer processed is sent again all the same.
#[tokio::test(start_paused = true)]
async fn a_caller_may_refuse_retries() {
    let refused = || Answer::error(Error::new(ErrorKind::Refused, "refused"));
    for (no_retry, answer, calls) in [
        (false, (|| Answer::status(503)) as fn() -> Answer, 4),
        (true, || Answer::status(503), 1),
        (true, unavailable, 1),
        (true, refused, 2),
    ] {
        let world = world(move |_| answer());
        let mut request = if answer().result.unwrap().is_ok_and(|response| response.status() == 200) {
            call(None)
        } else {
            get("http://x/")
        };
        let options = RequestOptions::new();
        let options = if no_retry { options.no_retry() } else { options };
        request.extensions_mut().insert(options);
        let layer = retry(policy(RetryOn::SERVER_ERROR | RetryOn::UNAVAILABLE, 3));
        let _ = layer.layer(world.mock()).oneshot(request).await;
        assert_eq!(world.calls(), calls, "{:?}", answer().result);
        assert!(world.seen().iter().all(|(head, _)| head.extensions.get() == Some(&options)), "layers inside see them");
    }
}

/// RE-11: an attempt without a head is given up, and tried again.
#[tokio::test(start_paused = true)]
async fn attempts_are_bounded_by_themselves() {
    let mut policy = policy(RetryOn::GATEWAY_ERROR, 1);
    policy.per_try_timeout = Some(Duration::from_secs(1));
    let slow = world(|number| if number == 0 { Answer::silence() } else { Answer::ok() });
    let response = retry(policy.clone()).layer(slow.mock()).oneshot(get("http://x/")).await.unwrap();
    assert_eq!((text(response).await.unwrap().as_str(), slow.calls(), slow.held()), ("ok", 2, 0));

    let silent = world(|_| Answer::silence());
    let error = retry(policy.clone()).layer(silent.mock()).oneshot(get("http://x/")).await.unwrap_err();
    let error = mesh_error(&error);
    assert_eq!((error.kind(), error.attempts(), silent.held()), (ErrorKind::PerTryTimeout, 2, 0), "{error}");

    // An inner service that notices first may call it what it likes.
    let knowing = world(|number| match number {
        0 => Answer::error("expired").after(Duration::from_secs(1)),
        _ => Answer::ok(),
    });
    let response = retry(policy.clone()).layer(knowing.mock()).oneshot(get("http://x/")).await.unwrap();
    assert_eq!((response.status().as_u16(), knowing.calls()), (200, 2));

    // The deadline's, where it left no time for another attempt.
    let late = world(|_| Answer::silence());
    let error = retry(policy).layer(late.mock()).oneshot(call(Some("1500m"))).await.unwrap_err();
    assert_eq!(mesh_error(&error).kind(), ErrorKind::DeadlineExceeded, "{error}");

    // A timeout layer inside says the same.
    let stuck = world(|number| if number == 0 { Answer::silence() } else { Answer::ok() });
    let layers = ServiceBuilder::new()
        .layer(retry(self::policy(RetryOn::GATEWAY_ERROR, 1)))
        .layer(TimeoutLayer::new(Duration::from_secs(1)));
    let response = layers.service(stuck.mock()).oneshot(get("http://x/")).await.unwrap();
    assert_eq!((response.status().as_u16(), stuck.calls()), (200, 2));
}

/// RE-06: a body beyond the cap goes out once; an attempt left behind cannot read on.
#[tokio::test(start_paused = true)]
async fn bodies_are_kept_up_to_the_cap() {
    for (cap, calls) in [(5, 2), (4, 1)] {
        let mut policy = policy(RetryOn::SERVER_ERROR, 1);
        policy.methods = RetryMethods::All;
        policy.max_body_bytes = cap;
        let world = world(|_| Answer::status(503));
        let response = retry(policy).layer(world.mock()).oneshot(post("http://x/", "apple")).await.unwrap();
        assert_eq!((response.status().as_u16(), world.calls()), (503, calls), "{cap}");
        assert!(world.seen().iter().all(|(_, body)| body == "apple"));
    }
}

/// A request body that fails with an error which, of the server, would be worth a retry.
struct Broken;

impl http_body::Body for Broken {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<std::io::Result<http_body::Frame<Bytes>>>> {
        std::task::Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionRefused.into())))
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_is_nobodys_fault_but_the_callers() {
    let world = world(|_| Answer::ok());
    let service = retry(policy(RetryOn::SERVER_ERROR | RetryOn::CONNECT_FAILURE, 3)).layer(world.mock());
    assert!(service.oneshot(Request::put("http://x/").body(Broken).unwrap()).await.is_err());
    assert_eq!(world.calls(), 1, "it is not tried again");
}

/// RE-05: the budget is shared by the clones of a service; a retry beyond it is put off once, and then given up.
#[tokio::test(start_paused = true)]
async fn retries_under_way_are_bounded() {
    let budget = RetryBudget { percent: 0.0, min_concurrent: 2 };
    let world = world(|_| Answer::status(503));
    let service = retry(policy(RetryOn::SERVER_ERROR, 1)).with_budget(budget).layer(world.mock());
    let calls: Vec<_> = (0..20).map(|_| tokio::spawn(service.clone().oneshot(get("http://x/")))).collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().status(), 503);
    }
    let retries = world.calls() - 20;
    assert!((2..=4).contains(&retries), "two at first, and two of those that were put off: {retries}");
    // What ended has given its place back.
    let before = world.calls();
    service.oneshot(get("http://x/")).await.unwrap();
    assert_eq!(world.calls(), before + 2);

    // Each service that the layer makes has a budget of its own.
    let none = retry(policy(RetryOn::SERVER_ERROR, 1)).with_budget(RetryBudget { percent: 0.0, min_concurrent: 0 });
    let before = world.calls();
    none.layer(world.mock()).oneshot(get("http://x/")).await.unwrap();
    assert_eq!(world.calls(), before + 1);
}

/// A request gives back the place of one retry before it takes that of the next, and who is put off makes no room for
/// others.
#[tokio::test(start_paused = true)]
async fn places_in_the_budget_are_not_kept() {
    let one = world(|_| Answer::status(503));
    let budget = RetryBudget { percent: 0.0, min_concurrent: 1 };
    let service = retry(policy(RetryOn::SERVER_ERROR, 3)).with_budget(budget).layer(one.mock());
    let began = Instant::now();
    service.oneshot(get("http://x/")).await.unwrap();
    assert_eq!(one.calls(), 4);
    // 100 ms, 200 ms and 400 ms; who is put off waits twice.
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());

    // A retry for each other request in flight, of which there is none.
    let two = world(|_| Answer::status(503));
    let budget = RetryBudget { percent: 100.0, min_concurrent: 0 };
    let service = retry(policy(RetryOn::SERVER_ERROR, 3)).with_budget(budget).layer(two.mock());
    let mut first = Box::pin(service.clone().oneshot(get("http://x/")));
    assert!(poll_once(first.as_mut()).await.is_pending(), "put off");
    service.oneshot(get("http://x/")).await.unwrap();
    first.await.unwrap();
    assert_eq!(two.calls(), 2, "no retry");
}

/// RE-04 (gRFC A6): while most calls fail there are no retries; a call that succeeds, trailers included, counts.
#[tokio::test(start_paused = true)]
async fn throttling_stops_retries_while_most_calls_fail() {
    let throttling = RetryThrottling { max_tokens: 2, token_ratio_millis: 1000 };
    let ok = || {
        let head = Response::builder().header("content-type", "application/grpc");
        Answer::response(head.body(Script::of("hi").trailer("grpc-status", "0")).unwrap())
    };
    let world = world(move |number| if (1..3).contains(&number) || number > 5 { ok() } else { unavailable() });
    let service = retry(policy(RetryOn::UNAVAILABLE, 1)).with_throttling(throttling).layer(world.mock());
    // 2 tokens of 2: one is taken, half of them are gone, no retry.
    service.clone().oneshot(call(None)).await.unwrap();
    assert_eq!(world.calls(), 1);
    // A success that is not read to its end does not count, one that is does.
    drop(service.clone().oneshot(call(None)).await.unwrap());
    assert_eq!(text(service.clone().oneshot(call(None)).await.unwrap()).await.unwrap(), "hi");
    assert_eq!(world.calls(), 3);
    service.clone().oneshot(call(None)).await.unwrap();
    assert_eq!(world.calls(), 4, "2 tokens again, of which this one takes one");
    service.clone().oneshot(call(None)).await.unwrap();
    assert_eq!(world.calls(), 5);
}

/// The response that a retry replaces is read during the pause; one without end is let go after it.
#[tokio::test(start_paused = true)]
async fn replaced_responses_are_drained_and_let_go() {
    for (body, left_in_pause) in [(Script::of("busy"), false), (Script::of("busy").stuck(), true)] {
        let alive = Arc::new(());
        let body = std::sync::Mutex::new(Some(body.alive(&alive)));
        let world = world(move |_| match body.lock().unwrap().take() {
            Some(body) => Answer::response(Response::builder().status(503).body(body).unwrap()),
            None => Answer::ok(),
        });
        let mut request =
            Box::pin(retry(policy(RetryOn::SERVER_ERROR, 1)).layer(world.mock()).oneshot(get("http://x/")));
        assert!(poll_once(request.as_mut()).await.is_pending());
        assert_eq!(Arc::strong_count(&alive) > 1, left_in_pause);
        assert_eq!(request.await.unwrap().status(), 200);
        assert_eq!(Arc::strong_count(&alive), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn errors_may_be_classified_by_the_user() {
    let world = world(|_| Answer::error("the pool is drained"));
    let classify = |error: &(dyn std::error::Error + 'static)| match error.to_string().as_str() {
        "the pool is drained" => Failure::Connect,
        _ => Failure::Local,
    };
    let service = retry(policy(RetryOn::CONNECT_FAILURE, 2)).with_classifier(classify).layer(world.mock());
    let error = service.oneshot(post("http://x/", "a")).await.unwrap_err();
    assert_eq!((error.to_string().as_str(), world.calls()), ("the pool is drained", 3));
}

/// Nothing goes on for a caller who left.
#[tokio::test(start_paused = true)]
async fn a_request_that_is_dropped_makes_no_further_attempt() {
    let world = world(|_| Answer::status(503));
    let service: mesh_tower::layer::Retry<Mock> = retry(policy(RetryOn::SERVER_ERROR, 3)).layer(world.mock());
    let mut request = Box::pin(service.oneshot(get("http://x/")));
    assert!(poll_once(request.as_mut()).await.is_pending());
    drop(request);
    tokio::time::advance(100 * PAUSE).await;
    assert_eq!((world.calls(), world.held()), (1, 0));
}
