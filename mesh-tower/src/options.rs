//! What a caller may ask for one request.

use std::net::IpAddr;
use std::time::Duration;

use mesh_core::matching::hash_of;

/// What a caller asks for one request, put into its [`extensions`](http::Request::extensions).
///
/// It never reaches the peer. Where several sources set a bound, the shortest holds: this timeout, a caller's
/// `grpc-timeout`, the route's, and what is left of the request that is being handled where a server has
/// `propagate_deadline`.
///
/// ```
/// use std::time::Duration;
///
/// use mesh_tower::RequestOptions;
///
/// let mut request = http::Request::get("http://catalog/items").body(String::new())?;
/// request.extensions_mut().insert(RequestOptions::new().timeout(Duration::from_millis(300)).no_retry());
/// # Ok::<(), http::Error>(())
/// ```
///
/// The [layers](crate::layer) heed `timeout` and `no_retry`.
///
/// tonic carries the extensions of a `tonic::Request` on to the HTTP request: there it works the same way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestOptions {
    pub(crate) timeout: Option<Duration>,
    pub(crate) no_retry: bool,
    pub(crate) wait_for_ready: bool,
    pub(crate) hash: Option<u64>,
    pub(crate) source: Option<IpAddr>,
}

impl RequestOptions {
    /// Nothing in particular.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bounds the whole request: every wait, attempt and pause, and the response's body. Zero is a time that is up:
    /// nothing is sent.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Leaves the route's retry and hedging policies aside. A request that no peer has processed is still sent again.
    #[must_use]
    pub fn no_retry(mut self) -> Self {
        self.no_retry = true;
        self
    }

    /// Balances by this key, in place of the route's hash policies: requests of one key go to one endpoint, where the
    /// backend's balancer goes by hashes.
    #[must_use]
    pub fn hash_key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.hash = Some(hash_of(key.as_ref()));
        self
    }

    /// Says whom the request came from, for gateways and services that forward: what a hash policy of the route by
    /// source address looks at (`hash_policy: [{ source_ip: true }]`). Without it such a policy finds nothing.
    ///
    /// The port does not count. Take the address from the connection; a header such as `x-forwarded-for` says what its
    /// sender likes, unless the sender is a proxy of yours.
    #[must_use]
    pub fn source_address(mut self, address: IpAddr) -> Self {
        self.source = Some(address);
        self
    }

    /// Waits for an endpoint where the request would fail at once because there is none, or none that can be connected
    /// (gRPC's wait-for-ready): until the request's deadline, and without one for 30 s.
    #[must_use]
    pub fn wait_for_ready(mut self) -> Self {
        self.wait_for_ready = true;
        self
    }
}
