//! How connections to a backend's endpoints are kept, and how endpoints are asked for their health.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// How the connections to the endpoints of a backend are kept and when they are given up.
///
/// A connection is given up by *draining* it: it takes no more requests, and closes after its last one. A change costs
/// no connection: it holds for those that are made from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionPolicy {
    /// Pings over HTTP/2 connections, and the time without an acknowledgement of sent bytes after which the kernel gives
    /// up a TCP connection (where there is `TCP_USER_TIMEOUT`: Linux and Android). `None`, the default: none, and a peer
    /// that vanished is found out after about 15 minutes.
    pub keepalive: Option<Keepalive>,
    /// How long a connection may be without a request; one over HTTP/2 then lives for a quarter of it more at the most.
    /// An endpoint without connections is idle until its next request. `None`: for good. Default 30 min (gRPC's);
    /// HTTP/1.1 connections close after 50 s whatever it says, because common servers close them after 60 s.
    pub idle_timeout: Option<Duration>,
    /// How old a connection may become, jittered by 10 % in both directions. An HTTP/2 connection that is the only one
    /// goes once another one is there: while none can be made it serves on. Less than 1 s counts as 1 s.
    /// Default `None`: any age.
    pub max_age: Option<Duration>,
    /// How many requests a connection may serve; 0 counts as 1. The next connection is made when four fifths are used up.
    /// Default `None`: any number.
    pub max_requests: Option<u32>,
    /// A backend of more endpoints than this is connected as its endpoints are picked, and not all of them at once.
    /// Default 100.
    pub eager_endpoints: u32,
}

impl Default for ConnectionPolicy {
    fn default() -> Self {
        Self {
            keepalive: None,
            idle_timeout: Some(Duration::from_secs(30 * 60)),
            max_age: None,
            max_requests: None,
            eager_endpoints: 100,
        }
    }
}

/// Pings over HTTP/2 connections (gRFC A8), and `TCP_USER_TIMEOUT` (gRFC A18).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Keepalive {
    /// How long nothing is received before a ping is sent. A `GOAWAY` with `too_many_pings` doubles it for the next
    /// connections to that endpoint. At least 10 s for gRPC's peace, less where a source insists.
    pub time: Duration,
    /// How long the answer may take, or anything else that shows that the peer lives. Without it the connection counts as
    /// broken, with every request on it. Default 20 s.
    pub timeout: Duration,
    /// Whether connections without a request are asked, too. Default no.
    pub without_calls: bool,
}

impl Keepalive {
    /// A ping after `time`, whose answer may take 20 s, while there are requests.
    pub fn new(time: Duration) -> Self {
        Self { time, timeout: Duration::from_secs(20), without_calls: false }
    }
}

/// How endpoints are asked for their health. One that is not healthy is not picked; one that was not asked yet is
/// healthy.
///
/// Endpoints that are connected are asked, over the connections of requests. Not with
/// [`PickFirst`](super::LoadBalancer::PickFirst) (gRFC A61), and not by gRPC where a backend speaks HTTP/1.1 only.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct HealthCheck {
    /// What is asked.
    pub probe: HealthProbe,
    /// The pause between two questions, jittered by 10 %. Less than 10 ms counts as 10 ms. Default 10 s.
    pub interval: Duration,
    /// How long an answer may take. Less than 1 ms counts as 1 ms. Default 1 s.
    pub timeout: Duration,
    /// After so many bad answers in a row an endpoint is unhealthy. At least 1. Default 3.
    pub unhealthy_threshold: u32,
    /// After so many good answers in a row it is healthy again; the first answer of all counts at once. At least 1.
    /// Default 2.
    pub healthy_threshold: u32,
}

impl HealthCheck {
    /// `probe` every 10 s.
    pub fn new(probe: HealthProbe) -> Self {
        Self {
            probe,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            unhealthy_threshold: 3,
            healthy_threshold: 2,
        }
    }
}

/// What an endpoint is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HealthProbe {
    /// `grpc.health.v1.Health/Check`; SERVING is good, and so is UNIMPLEMENTED (gRFC A17).
    Grpc {
        /// The service that is asked for; empty for the server as a whole.
        service: Arc<str>,
    },
    /// A GET request.
    Http {
        /// Its path.
        path: Arc<str>,
        /// Its host. `None`: the name of the service.
        host: Option<Arc<str>>,
        /// The statuses that are good. Default 200..=299.
        expected: RangeInclusive<u16>,
    },
}
