//! What happens to the endpoints, and one round of it.

use std::time::Duration;

use benches::Result;
use benches::client::Call;
use benches::open_loop::{self, Sample};
use benches::server::{Manner, Server};
use tokio::time::Instant;

use crate::clients::{self, Client};

pub(crate) const ENDPOINTS: usize = 3;
/// Calls a second: with a timer's millisecond on top of each call, two endpoints are busy for six tenths of their time.
pub(crate) const RATE: f64 = 800.0;
/// The endpoint that turns.
const BAD: usize = 0;
/// What a call takes at an endpoint that is well.
const WELL: Manner = Manner::Serves(Duration::from_millis(2));
/// Calls that open connections and do not count.
const WARM_UP: usize = 30;

/// One endpoint turns bad.
pub(crate) struct Scenario {
    pub name: &'static str,
    pub title: &'static str,
    pub manner: Manner,
    /// How long all is well at first.
    pub before: Duration,
    /// How long one endpoint is bad.
    pub length: Duration,
    /// How long all is well again.
    pub after: Duration,
    /// How long a caller waits.
    pub patience: Duration,
    pub rounds: usize,
    pub clients: Vec<Client>,
    pub view: View,
}

/// What its plot shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    P99,
    Success,
}

pub(crate) fn all() -> [Scenario; 3] {
    let [half, one, two, three, thirty] = [500, 1_000, 2_000, 3_000, 30_000].map(Duration::from_millis);
    [
        Scenario {
            name: "slow-endpoint",
            title: "One of three endpoints turns slow: 40 ms a call in place of 2 ms",
            manner: Manner::Serves(Duration::from_millis(40)),
            before: half,
            length: three,
            after: one,
            patience: thirty,
            rounds: 3,
            clients: clients::against_slowness(),
            view: View::P99,
        },
        Scenario {
            name: "failing-endpoint",
            title: "One of three endpoints turns failing: UNAVAILABLE at once",
            manner: Manner::Fails,
            before: half,
            length: two,
            after: Duration::ZERO,
            patience: one,
            rounds: 2,
            clients: clients::against_failures(),
            view: View::Success,
        },
        Scenario {
            name: "hanging-endpoint",
            title: "One of three endpoints turns silent; callers wait for 1 s",
            manner: Manner::Hangs,
            before: half,
            length: two,
            after: Duration::ZERO,
            patience: one,
            rounds: 2,
            clients: clients::against_silence(),
            view: View::Success,
        },
    ]
}

impl Scenario {
    pub(crate) fn whole(&self) -> Duration {
        self.before + self.length + self.after
    }

    /// One round of a client, from its start with all endpoints well. All clients of a round see the same arrivals.
    pub(crate) async fn play(&self, client: impl Call, server: &mut Server, round: usize) -> Result<Vec<Sample>> {
        for endpoint in 0..ENDPOINTS {
            server.tell(endpoint, WELL)?;
        }
        for _ in 0..WARM_UP {
            client.call().await?;
        }
        let arrivals = open_loop::arrivals(RATE, self.whole(), round as u64);
        let (start, patience) = (Instant::now(), self.patience);
        // On a worker, as callers in a server would be.
        let calls = tokio::spawn(async move { open_loop::run(client, &arrivals, start, patience).await });
        tokio::time::sleep_until(start + self.before).await;
        server.tell(BAD, self.manner)?;
        tokio::time::sleep_until(start + self.before + self.length).await;
        if !self.after.is_zero() {
            server.tell(BAD, WELL)?;
        }
        calls.await?
    }
}
