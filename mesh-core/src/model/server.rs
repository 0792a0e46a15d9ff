//! What this process serves.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::identity::SanMatch;

/// A server: where it listens, whom it lets in, and within which limits.
///
/// A change of the configuration holds for new connections. If it changes whom the server lets in, the connections of
/// callers that it would not let in any more end: at once where they proved who they are, within the drain's grace where
/// they are in plaintext. A change of `addresses` needs a new process.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Server {
    /// Its name: `mesh.listener(name)`.
    pub name: Arc<str>,
    /// Where it listens.
    pub addresses: Vec<Listen>,
    /// Whether callers must prove who they are. `None`: [`Strict`](ServerTls::Strict) where this process has an
    /// identity, else [`Disabled`](ServerTls::Disabled), with a warning.
    pub tls: Option<ServerTls>,
    /// Who may connect with a certificate: one of their names must be one of these. Empty: everybody the identity's
    /// trust covers.
    pub identities: Vec<SanMatch>,
    /// What becomes of headers that say who the caller is.
    pub forwarded_identity: ForwardedIdentity,
    /// Limits.
    pub limits: ServerLimits,
    /// How it stops.
    pub drain: Drain,
    /// Whether each request is written to the log.
    pub access_log: AccessLog,
    /// Whether what a handler sends by a client of the same mesh is bound by the deadline of the request that it
    /// handles. Default no.
    pub propagate_deadline: bool,
}

impl Server {
    /// A server without an address: for listeners that the application opens itself.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            addresses: Vec::new(),
            tls: None,
            identities: Vec::new(),
            forwarded_identity: ForwardedIdentity::default(),
            limits: ServerLimits::default(),
            drain: Drain::default(),
            access_log: AccessLog::default(),
            propagate_deadline: false,
        }
    }
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Listen {
    /// An IP address and a TCP port; port 0 is any free one. `[::]` takes IPv4 too.
    Socket(SocketAddr),
    /// A Unix domain socket. A socket file that nobody listens on is replaced.
    Unix(Arc<Path>),
    /// A socket that this process was started with (systemd's `LISTEN_FDS`), by its place, counted from 0.
    Inherited(u32),
}

/// Whether the callers of a server must prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServerTls {
    /// Mutual TLS and nothing else.
    Strict,
    /// Mutual TLS and plaintext on one port, told apart by the first bytes.
    Permissive,
    /// Plaintext.
    Disabled,
}

/// What becomes of headers in a request that say who its caller is: `x-forwarded-client-cert`, `x-envoy-*`,
/// `l5d-client-id` and their like.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct ForwardedIdentity {
    /// Whose headers are left as they are: proxies, by a name in their verified certificates. Default nobody's: such
    /// headers are removed before a handler sees them.
    pub trusted_proxies: Vec<SanMatch>,
    /// Further headers that say who the caller is, removed like [those that are known](crate::inbound::is_identity_header),
    /// spelled with `-` or `_`. Default none.
    pub headers: Arc<[HeaderName]>,
    /// Whether `x-forwarded-client-cert` is written from the verified certificate; behind what a trusted proxy wrote, if
    /// there is any. Default no.
    pub write: bool,
}

/// The limits of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerLimits {
    /// The most connections at once; those above it are closed at once. Default 20,000. `None`: any number.
    pub max_connections: Option<u32>,
    /// The most of them from one address: of IPv6 one network of 64 bits, of which a caller has as many addresses as it
    /// likes. Default `None`: many callers may stand behind one address.
    pub max_connections_per_address: Option<u32>,
    /// The most bytes of all headers of a request, decoded, 32 more for each (RFC 9113 10.5.1). Default 16 KiB.
    pub max_header_bytes: u32,
    /// The most headers of a request. Default 100.
    pub max_headers: u32,
    /// How long a TLS handshake may take. Default 10 s.
    pub handshake_timeout: Duration,
    /// How long it may take until it is clear what the caller speaks. Default 10 s; 5 s from the end of a drain's delay, if
    /// by then nothing was said at all.
    pub detection_timeout: Duration,
    /// How long the headers of a request may take from their first byte to their last. Default 10 s. The beginning of an
    /// HTTP/1.1 head that came in one piece with the request before it is bound by `idle_timeout` alone.
    pub header_timeout: Duration,
    /// From the accepted connection to the headers of the first request: TLS, preface and headers together. Default 15 s.
    pub first_request_timeout: Duration,
    /// How long a connection may be without a request. Default 1 h (Envoy's).
    pub idle_timeout: Option<Duration>,
    /// How long nothing is heard of a caller before it is asked whether it is still there: by a ping of HTTP/2, whatever is
    /// under way, and by the probes of TCP. Default 1 min. `None`: it is never asked, and one that vanished without a word
    /// is noticed when something is sent to it, after a quarter of an hour.
    pub keepalive_time: Option<Duration>,
    /// How long its answer may take. Then the connection ends, and with it all that is under way on it. Default 20 s (gRPC's).
    pub keepalive_timeout: Duration,
    /// How old a connection may become, jittered by 10 % in both directions. Default `None`: any age.
    pub max_connection_age: Option<Duration>,
    /// How long the requests of a connection that is too old may go on. Default `None`: any time.
    pub max_connection_age_grace: Option<Duration>,
    /// The most requests at once on an HTTP/2 connection. Default 200.
    pub max_concurrent_streams: u32,
    /// How long a request may take, up to the head of its response. Default `None`: any time.
    pub request_timeout: Option<Duration>,
    /// How long a handler may wait for the next piece of a request's body; not of a gRPC call whose handler is known to
    /// speak gRPC. Default 5 min.
    pub body_timeout: Option<Duration>,
    /// How long an answer may wait for its caller: with windows of HTTP/2 that it does not open, or a connection that it
    /// does not read. Then the stream is reset, or the connection ends. An answer whose handler has nothing to send may
    /// wait for any time. Default 5 min (that of Envoy's `stream_idle_timeout`).
    pub send_timeout: Option<Duration>,
    /// The most bytes of a request's body; not of a gRPC call whose handler is known to speak gRPC, by the head of its
    /// answer or by the application's word: that a request is a gRPC call is what its caller says. Default `None`: any
    /// number.
    pub max_body_bytes: Option<u64>,
    /// The most bytes of a message of a gRPC call, as it is sent. Default 4 MiB (gRPC's).
    pub max_message_bytes: Option<u32>,
    /// The most streams that a caller may have reset before their requests were looked at (rapid reset). Default 20.
    pub max_pending_resets: u32,
    /// The most streams that this server may have reset for a caller's mistakes (MadeYouReset). Default 1024.
    pub max_local_resets: u32,
    /// The most frames a second that carry nothing of a request: pings, settings, priorities, window updates without
    /// data, empty data, resets of requests that were just sent. Counted over 10 s. Default 1000.
    pub max_control_frames: u32,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            max_connections: Some(20_000),
            max_connections_per_address: None,
            max_header_bytes: 16 * 1024,
            max_headers: 100,
            handshake_timeout: Duration::from_secs(10),
            detection_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            first_request_timeout: Duration::from_secs(15),
            idle_timeout: Some(Duration::from_secs(3600)),
            keepalive_time: Some(Duration::from_secs(60)),
            keepalive_timeout: Duration::from_secs(20),
            max_connection_age: None,
            max_connection_age_grace: None,
            max_concurrent_streams: 200,
            request_timeout: None,
            body_timeout: Some(Duration::from_secs(300)),
            send_timeout: Some(Duration::from_secs(300)),
            max_body_bytes: None,
            max_message_bytes: Some(4 * 1024 * 1024),
            max_pending_resets: 20,
            max_local_resets: 1024,
            max_control_frames: 1000,
        }
    }
}

/// How a server stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drain {
    /// How long it goes on to accept connections once it is no longer ready: until then others still send here.
    /// Default 5 s.
    pub delay: Duration,
    /// How long requests under way may then take. Default 20 s: with `delay` less than the 30 s that Kubernetes gives.
    pub grace: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { delay: Duration::from_secs(5), grace: Duration::from_secs(20) }
    }
}

/// Whether the requests of a server are written to the log, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[non_exhaustive]
pub enum AccessLog {
    /// Not at all.
    #[default]
    Off,
    /// As a line of text each.
    Text,
    /// As a line of JSON each.
    Json,
}

/// The admin listener: plaintext, for kubelets, scrapers and people.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Admin {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether `address` may be another than a loopback one. Without it such an address is refused (AD-07).
    pub allow_remote: bool,
    /// Whether `POST /drain` works. Default no.
    pub allow_drain: bool,
    /// The names by which it may be asked for, beside IP addresses and `localhost`, in any case and without a port: a
    /// request for another host is refused (AD-04). Default none.
    pub hosts: Vec<Arc<str>>,
}

impl Admin {
    /// At `address`, which must be a loopback one, without `/drain`.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, allow_remote: false, allow_drain: false, hosts: Vec::new() }
    }
}
