use std::fmt;
use std::sync::Arc;

/// How a backend's endpoints are found, and how far that has come.
///
/// A source says [`of`](Self::of) and leaves the rest; whoever looks endpoints up fills in
/// [`Backend::endpoints`](super::Backend::endpoints) and [`found`](Self::found).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Discovery {
    /// Who is asked for what.
    pub of: Finder,
    /// What became of the last look.
    pub found: Discovered,
}

impl Discovery {
    /// A discovery that has not answered so far.
    pub fn new(of: Finder) -> Self {
        Self { of, found: Discovered::Pending }
    }
}

/// Who is asked for the endpoints of a backend, and for what.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Finder {
    /// The domain name system.
    Dns(DnsName),
    /// A source of endpoints that the application registered.
    Custom {
        /// The name it was registered under.
        source: Arc<str>,
        /// What it is asked for.
        name: Arc<str>,
    },
}

impl fmt::Display for Finder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "dns:{name}"),
            Self::Custom { source, name } => write!(f, "{source}:{name}"),
        }
    }
}

/// What is asked of the domain name system.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DnsName {
    /// The addresses of a host, IPv6 and IPv4, each with this port.
    Host {
        /// The host.
        host: Arc<str>,
        /// The port.
        port: u16,
    },
    /// A service record (RFC 2782): hosts with their ports. Only those of the lowest priority are used; weights are not.
    Service(Arc<str>),
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
            Self::Service(name) => write!(f, "{name} (SRV)"),
        }
    }
}

/// What became of a look for endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Discovered {
    /// There is no answer yet: requests wait for it.
    #[default]
    Pending,
    /// The endpoints are those that were found last. A later look that fails changes nothing about them.
    Found,
    /// None were ever found, and this is why: requests fail with it.
    Failed(Arc<str>),
}
