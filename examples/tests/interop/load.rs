//! h2load and wrk. `.ci/interop load` runs these tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use examples::echo;
use examples::peers::{Bare, h2load, wrk};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_count_what_was_answered() {
    let server = Bare::serve(echo::app(echo::Options::new("one")).await).await.unwrap();
    let url = |path: &str| format!("http://{}{path}", server.address());
    for more in [&[][..], &["--h1"]] {
        let arguments = [&["-n", "2000", "-c", "4", "-m", "10"], more].concat();
        let load = h2load(&url("/"), &arguments).await;
        assert_eq!((load.answered, load.succeeded, load.lost), (2000, 2000, 0), "{more:?}");
        assert!(load.rate > 0.0);
    }
    let load = h2load(&url("/status/503"), &["-n", "100", "-c", "1"]).await;
    assert_eq!((load.answered, load.succeeded, load.lost), (100, 0, 0));

    let load = wrk(&url("/"), 4, Duration::from_secs(1)).await;
    assert!(load.answered > 0 && load.succeeded == load.answered && load.lost == 0, "{load:?}");
    let load = wrk(&url("/status/503"), 4, Duration::from_secs(1)).await;
    assert!(load.answered > 0 && load.succeeded == 0, "{load:?}");
}

#[tokio::test]
async fn what_nobody_answers_is_lost() {
    let nobody = Bare::serve(echo::app(echo::Options::new("one")).await).await.unwrap();
    let url = format!("http://{}/delay/1h", nobody.address());
    let load = h2load(&url, &["-n", "4", "-c", "2", "-N", "1s"]).await;
    assert_eq!((load.answered, load.lost), (0, 4), "{load:?}");
}
