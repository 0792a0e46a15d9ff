use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One instance of a backend, as a source names it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endpoint {
    /// Where it listens. Also its identity within a backend: an update that keeps the address keeps the connections.
    pub address: Address,
    /// Its share among the endpoints of its locality. Default 1; 0 is never picked.
    pub weight: u32,
    /// What its source says of its health.
    pub health: Health,
    /// Where it runs, shared by all endpoints there. `None`: in a nameless place of weight 1 and priority 0.
    pub locality: Option<Arc<Locality>>,
    /// What [subsets](super::WeightedBackend::subset) select by. `None`: nothing.
    pub metadata: Option<Arc<Metadata>>,
    /// Whether it takes part in the mesh: a backend whose TLS is [`Auto`](super::TlsMode::Auto) speaks mutual TLS with it.
    pub mesh: bool,
}

/// Words about an endpoint, by their names.
pub type Metadata = BTreeMap<Arc<str>, Arc<str>>;

impl Endpoint {
    /// An endpoint at `address`, of weight 1.
    pub fn new(address: impl Into<Address>) -> Self {
        Self {
            address: address.into(),
            weight: 1,
            health: Health::default(),
            locality: None,
            metadata: None,
            mesh: false,
        }
    }

    /// The priority of its locality.
    pub(crate) fn priority(&self) -> u32 {
        self.locality.as_ref().map_or(0, |locality| locality.priority)
    }

    /// Whether it and its locality have a weight: without one it is never used, whatever its health.
    pub(crate) fn has_weight(&self) -> bool {
        self.weight > 0 && self.locality.as_ref().is_none_or(|locality| locality.weight > 0)
    }

    /// Whether a balancer may choose it, as far as its source says.
    pub(crate) fn may_be_picked(&self) -> bool {
        self.has_weight() && self.health == Health::Healthy
    }
}

/// What a source says of an endpoint's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[non_exhaustive]
pub enum Health {
    /// Nothing, or that it is well.
    #[default]
    Healthy,
    /// It takes no new requests, but for those of a session that is bound to it (gRFC A55).
    Draining,
    /// It is not picked.
    Unhealthy,
}

/// Where endpoints run, and what goes there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Locality {
    /// The name of the place.
    pub place: Place,
    /// 0 is used first; see [`LocalityPolicy`](super::LocalityPolicy). Priorities are used in order, gaps do not count.
    pub priority: u32,
    /// Its share among the localities of its priority. Default 1; 0 is never picked.
    pub weight: u32,
}

impl Locality {
    /// `place`, of weight 1 and priority 0.
    pub fn new(place: Place) -> Self {
        Self { place, priority: 0, weight: 1 }
    }
}

/// The name of a place: a region, a zone in it and a sub-zone in that. Empty is unknown.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Place {
    /// Such as `eu-west-1`.
    pub region: Arc<str>,
    /// Such as `eu-west-1a`.
    pub zone: Arc<str>,
    /// Such as a rack.
    pub sub_zone: Arc<str>,
}

impl Place {
    /// A place by its three names, of which the last ones may be empty.
    pub fn new(region: impl Into<Arc<str>>, zone: impl Into<Arc<str>>, sub_zone: impl Into<Arc<str>>) -> Self {
        Self { region: region.into(), zone: zone.into(), sub_zone: sub_zone.into() }
    }
}

impl fmt::Display for Place {
    /// `region/zone/sub_zone`, without what is empty at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { region, zone, sub_zone } = self;
        match (&**zone, &**sub_zone) {
            ("", "") => f.write_str(region),
            (zone, "") => write!(f, "{region}/{zone}"),
            (zone, sub_zone) => write!(f, "{region}/{zone}/{sub_zone}"),
        }
    }
}

/// Where an endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Address {
    /// An IP address and a TCP port.
    Socket(SocketAddr),
    /// The path of a Unix domain socket.
    Unix(Arc<Path>),
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Socket(address)
    }
}

impl From<PathBuf> for Address {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path.into())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
