//! The admin pages: probes, metrics, the configuration in force, certificates, and the way out.
//!
//! They are off by default. With the feature `admin` the mesh serves them where `admin` in the configuration says, from
//! before there is an identity until the mesh is [shut down](crate::Mesh::shutdown), also while it
//! [drains](crate::Mesh::drain): HTTP/1.1 and HTTP/2 without TLS, on a port of its own, so that a kubelet can probe a
//! process whose servers are strict. `Mesh::admin_router` has the same pages for a server of your own.
//!
//! ```yaml
//! admin:
//!   address: 127.0.0.1:15000
//!   allow_drain: true
//! ```
//!
//! | path | method | answers |
//! | --- | --- | --- |
//! | `/` | GET | what there is, for people |
//! | `/live` | GET | 200 as long as the process serves |
//! | `/ready` | GET | 200, or 503 with what keeps it from being [ready](crate::Mesh::readiness), as JSON |
//! | `/metrics`, `/stats/prometheus` | GET | every metric, as OpenMetrics or Prometheus' text, whichever is asked for |
//! | `/config` | GET | the [configuration in force](crate::Mesh::effective_config) as YAML; as JSON for `Accept: application/json` or `?format=json` |
//! | `/certs` | GET | the certificate of this process and how its renewal goes, as JSON |
//! | `/drain` | POST | 202: the mesh begins to [drain](crate::Mesh::drain); `?force` once it does: [what is left is cut](crate::Mesh::force_drain) |
//!
//! `/metrics` needs the feature `prometheus`; a configuration with `admin` is then enough for metrics to be kept. The page
//! and `/config` are compressed by gzip for whoever takes that. They are made beside the tasks that serve requests.
//!
//! # Who may
//! Whoever reaches the listener. Nobody is asked who they are, so:
//!
//! - The address is a loopback one, unless `allow_remote: true` says otherwise (AD-07); then let a network policy bound
//!   who reaches it. `/drain` answers 403 unless `allow_drain: true`.
//! - Nothing that is shown is a secret: no key, no token, and no value that a match compares with a credential (AD-06).
//! - A page in somebody's browser can ask for `http://name-of-theirs:15000/`, and let the name point to this machine. So
//!   the host of a request must be an IP address, `localhost`, or one of the names in `admin.hosts`; any other is refused
//!   with 403 (AD-04). Kubelets and Prometheus' service discovery ask for pods by address; a scraper that asks by name
//!   needs the name in `hosts`. A caller with a verified certificate, on a server of your own, is no browser and may use
//!   any name.
//! - A request that changes something must be a `POST`, and have no `Origin`, as those have that a page makes (AD-04).
//! - Names that come from elsewhere are escaped, and pages may load and run nothing (AD-05).
//!
//! # When the configuration changes
//! The listener follows: `hosts` and `allow_drain` hold from the next request on, and another `address` is listened on
//! before the old one is let go; only if the port is the same, the old one goes first. An address that cannot be listened
//! on is told to the log, once, and tried again; meanwhile the old one is served. When the mesh is built it is an error.
//! Metrics that were not kept from the beginning stay away.

mod check;
#[cfg(feature = "admin")]
mod guard;
#[cfg(feature = "admin")]
mod gzip;
#[cfg(feature = "admin")]
mod listener;
#[cfg(feature = "admin")]
mod page;
#[cfg(feature = "admin")]
mod router;

pub use check::AdminError;
pub(crate) use check::{check, keeps_metrics};
#[cfg(feature = "admin")]
pub(crate) use listener::{bind, start};
