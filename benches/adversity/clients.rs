//! Who is compared, and how each is told to cope.

use std::time::Duration;

use benches::Result;
#[cfg(feature = "peers")]
use benches::client::{SERVICE, SERVICE_WITHOUT_RETRIES, xds};
use benches::client::{mesh, tonic};
use benches::open_loop::Sample;
use benches::server::Server;

use crate::scenario::Scenario;

/// How long the clients that can bound an attempt wait for one.
const PER_TRY: Duration = Duration::from_millis(100);

/// A client, not yet built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// The mesh with this balancer, outlier detection and, if any, this retry policy, all in the words of its file.
    Mesh(&'static str, Option<&'static str>),
    /// tonic's `balance_list`, with a bound of each call.
    BalanceList(Option<Duration>),
    /// `tonic-xds`, whose route has a retry policy or not.
    #[cfg(feature = "peers")]
    Xds { retries: bool },
}

/// Sends failures again, as often as the peers do.
const RETRY: Option<&str> = Some("{ num_retries: 2, on: [unavailable] }");
/// Sends attempts again that took too long; `per_try_timeout` is [`PER_TRY`].
const RETRY_SILENCE: Option<&str> =
    Some("{ num_retries: 2, on: [unavailable, deadline-exceeded], per_try_timeout: 100ms, methods: all }");

pub(crate) fn against_slowness() -> Vec<Client> {
    let mut clients: Vec<_> =
        ["peak_ewma", "least_request", "random", "round_robin"].map(|policy| Client::Mesh(policy, None)).into();
    clients.push(Client::BalanceList(None));
    #[cfg(feature = "peers")]
    clients.push(Client::Xds { retries: false });
    clients
}

/// All policies that heed ejections, which pick first does not (gRFC A61).
pub(crate) fn against_failures() -> Vec<Client> {
    let policies =
        ["round_robin", "random", "least_request", "peak_ewma", "weighted_round_robin", "ring_hash", "maglev"];
    let mut clients: Vec<_> = policies.map(|policy| Client::Mesh(policy, None)).into();
    clients.extend(policies.map(|policy| Client::Mesh(policy, RETRY)));
    clients.push(Client::BalanceList(None));
    #[cfg(feature = "peers")]
    clients.extend([false, true].map(|retries| Client::Xds { retries }));
    clients
}

pub(crate) fn against_silence() -> Vec<Client> {
    let mut clients: Vec<_> = ["round_robin", "random", "least_request", "peak_ewma"]
        .map(|policy| Client::Mesh(policy, RETRY_SILENCE))
        .into();
    clients.push(Client::BalanceList(Some(PER_TRY)));
    #[cfg(feature = "peers")]
    clients.push(Client::Xds { retries: true });
    clients
}

impl Client {
    /// What reports call it.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Mesh(policy, retry) => {
                let retries = match retry {
                    None => "",
                    RETRY_SILENCE => ", 100 ms an attempt, retries",
                    Some(_) => ", retries",
                };
                format!("mesh, {policy}{retries}")
            }
            Self::BalanceList(None) => "tonic `balance_list`".to_owned(),
            Self::BalanceList(Some(_)) => "tonic `balance_list`, 100 ms a call".to_owned(),
            #[cfg(feature = "peers")]
            Self::Xds { retries } => format!("tonic-xds{}", if retries { ", retries" } else { "" }),
        }
    }

    pub(crate) fn is_mesh(self) -> bool {
        matches!(self, Self::Mesh(..))
    }

    /// Whether it sends again what failed at once, which leaves nothing to see of balancing.
    pub(crate) fn retries_failures(self) -> bool {
        matches!(self, Self::Mesh(_, RETRY))
    }

    pub(crate) fn is_xds(self) -> bool {
        match self {
            #[cfg(feature = "peers")]
            Self::Xds { .. } => true,
            _ => false,
        }
    }

    pub(crate) fn is_balance_list(self) -> bool {
        matches!(self, Self::BalanceList(_))
    }

    /// A colour of SVG. The peers have warm ones.
    pub(crate) fn colour(self) -> &'static str {
        match self {
            Self::Mesh("round_robin", _) => "#7f7f7f",
            Self::Mesh("random", _) => "#17becf",
            Self::Mesh("least_request", _) => "#1f77b4",
            Self::Mesh("peak_ewma", _) => "#2ca02c",
            Self::Mesh("weighted_round_robin", _) => "#8c564b",
            Self::Mesh("ring_hash", _) => "#e377c2",
            Self::Mesh("maglev", _) => "#bcbd22",
            Self::Mesh(..) => "#9467bd",
            Self::BalanceList(_) => "#d62728",
            #[cfg(feature = "peers")]
            Self::Xds { retries: false } => "#ff7f0e",
            #[cfg(feature = "peers")]
            Self::Xds { retries: true } => "#b8860b",
        }
    }

    /// Builds it and has `scenario` play one round with it.
    pub(crate) async fn play(self, scenario: &Scenario, server: &mut Server, round: usize) -> Result<Vec<Sample>> {
        let endpoints = server.endpoints();
        match self {
            Self::Mesh(policy, retry) => {
                let client = mesh::grpc_in_adversity(endpoints, policy, retry).await?;
                scenario.play(client, server, round).await
            }
            Self::BalanceList(timeout) => {
                let client = tonic::balance_list(endpoints, timeout)?;
                scenario.play(client, server, round).await
            }
            #[cfg(feature = "peers")]
            Self::Xds { retries } => {
                let control_plane = server.control_plane().ok_or("the server has no control plane")?;
                let service = if retries { SERVICE } else { SERVICE_WITHOUT_RETRIES };
                scenario.play(xds::channel(control_plane, service)?, server, round).await
            }
        }
    }
}
