//! Looking up one name, once.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use mesh_core::model::DnsName;

use crate::error::BoxError;

/// A look-up on its way.
pub type Resolving = Pin<Box<dyn Future<Output = Result<Answer, ResolveError>> + Send>>;

/// Looks names up, in place of the system's DNS: in tests from a script, in an application by whatever it has.
///
/// The mesh decides when a name is looked up: again after its TTL, within the bounds of
/// [`DnsSettings`](mesh_core::model::DnsSettings), and after a failure with a growing pause. What was found last stays
/// in use meanwhile.
pub trait Resolve: Send + Sync + 'static {
    /// Looks `name` up. The mesh drops the future after `timeout`, which an implementation may want to divide among
    /// its servers. A literal address is never asked for.
    ///
    /// # Errors
    /// The future's, if there is no answer.
    fn resolve(&self, name: &DnsName, timeout: Duration) -> Resolving;
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// The endpoints, in the order of preference. None counts as a failure.
    pub endpoints: Vec<SocketAddr>,
    /// How long they may be used without asking again.
    pub ttl: Duration,
}

impl Answer {
    /// `endpoints`, to be looked up again after `ttl`.
    pub fn new(endpoints: Vec<SocketAddr>, ttl: Duration) -> Self {
        Self { endpoints, ttl }
    }
}

/// Why a name could not be looked up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The name does not exist (NXDOMAIN).
    #[error("{name} does not exist in DNS")]
    NoSuchName {
        /// The name.
        name: DnsName,
    },
    /// The name exists and has no address, or no service record.
    #[error("{name} has no {} in DNS", if matches!(name, DnsName::Service(_)) { "usable service record" } else { "address" })]
    NoAddress {
        /// The name.
        name: DnsName,
    },
    /// It is no name of DNS.
    #[error("{name} is not a name that DNS could know: {reason}")]
    InvalidName {
        /// The name.
        name: DnsName,
        /// What is wrong with it.
        reason: String,
    },
    /// There was no answer in time.
    #[error("{name}: no answer of DNS within {timeout:?}; raise `dns.timeout` if it is only slow")]
    Timeout {
        /// The name.
        name: DnsName,
        /// The bound.
        timeout: Duration,
    },
    /// The system does not say which name servers to ask. Its configuration is read again by the next look-up.
    #[error(
        "the system's DNS configuration (on Unix /etc/resolv.conf) cannot be used: {0}; name a `nameserver` there, or build the mesh with a resolver of your own"
    )]
    NoConfiguration(#[source] BoxError),
    /// The crate was built without a resolver.
    #[error("built without the feature `dns`: enable it, or build the mesh with a resolver of your own")]
    NotBuilt,
    /// Anything else.
    #[error("{name}: {error}")]
    Failed {
        /// The name.
        name: DnsName,
        /// The reason.
        #[source]
        error: BoxError,
    },
}

/// What stands in where no resolver was built or given.
#[cfg(not(feature = "dns"))]
pub(super) struct NoResolver;

#[cfg(not(feature = "dns"))]
impl Resolve for NoResolver {
    fn resolve(&self, _: &DnsName, _: Duration) -> Resolving {
        Box::pin(std::future::ready(Err(ResolveError::NotBuilt)))
    }
}
