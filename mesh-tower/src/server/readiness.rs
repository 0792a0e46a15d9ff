//! Whether this process is ready for requests, and why not.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::state::Phase;
use crate::identity::{Identity, Utc};
use crate::mesh::{ConfigStatus, Core};

/// How long at most until the clock of the wall is looked at again: it may be set.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Whether a process is ready for requests, and if not, why: [`Mesh::readiness`](crate::Mesh::readiness).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    failed: Vec<NotReady>,
}

impl Readiness {
    /// Whether it is.
    pub fn is_ready(&self) -> bool {
        self.failed.is_empty()
    }

    /// What keeps it from being ready.
    pub fn failed(&self) -> &[NotReady] {
        &self.failed
    }

    /// The readiness of a mesh that is gone.
    fn gone() -> Self {
        Self { failed: vec![NotReady::Draining] }
    }
}

/// What keeps a process from being ready.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotReady {
    /// No configuration is in force yet.
    Configuration,
    /// The configuration asks for an identity, and there is none.
    NoIdentity {
        /// What was wrong last; `None` if nothing was said so far.
        failure: Option<Arc<str>>,
    },
    /// The certificate has expired, and no new one has come.
    Expired {
        /// When.
        not_after: SystemTime,
    },
    /// The configuration says where a server listens, and nobody serves it.
    NotServed {
        /// The server.
        server: Arc<str>,
    },
    /// The mesh drains, or has ended.
    Draining,
}

impl NotReady {
    /// In a word: `configuration`, `identity`, `server` or `draining`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::NoIdentity { .. } | Self::Expired { .. } => "identity",
            Self::NotServed { .. } => "server",
            Self::Draining => "draining",
        }
    }
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration => f.write_str("no configuration is in force yet"),
            Self::NoIdentity { failure: None } => {
                f.write_str("the identity that the configuration asks for is not there yet")
            }
            Self::NoIdentity { failure: Some(failure) } => {
                write!(f, "the identity that the configuration asks for is not there: {failure}")
            }
            Self::Expired { not_after } => write!(f, "the certificate has expired: {}", Utc(*not_after)),
            Self::NotServed { server } => write!(f, "nobody serves the server {server:?} of the configuration"),
            Self::Draining => f.write_str("the mesh drains"),
        }
    }
}

impl Core {
    /// Whether this process is ready, and why not.
    pub(crate) fn readiness(&self) -> Readiness {
        let mut failed = Vec::new();
        let snapshot = self.snapshot.load();
        if snapshot.version() == 0 {
            failed.push(NotReady::Configuration);
        }
        let identity = self.shared.identities.current();
        match identity {
            Some(identity) if identity.not_after() < SystemTime::now() => {
                failed.push(NotReady::Expired { not_after: identity.not_after() });
            }
            Some(_) => {}
            None => {
                let status = self.shared.identities.status();
                let status = status.borrow();
                // There is a source as soon as the configuration is known, before that is in force.
                if snapshot.settings().identity.is_some() || !status.source.is_empty() {
                    let failure = status.failure.as_ref().map(|failure| Arc::clone(&failure.error));
                    failed.push(NotReady::NoIdentity { failure });
                }
            }
        }
        let named = snapshot.servers().values().filter(|server| !server.addresses.is_empty());
        let unserved = named.filter(|server| !self.servers.is_served(&server.name));
        failed.extend(unserved.map(|server| NotReady::NotServed { server: Arc::clone(&server.name) }));
        if self.servers.phase() != Phase::Serving {
            failed.push(NotReady::Draining);
        }
        Readiness { failed }
    }
}

/// Follows whether a process is ready: [`Mesh::watch_readiness`](crate::Mesh::watch_readiness).
#[derive(Debug, Clone)]
pub struct ReadinessWatch {
    core: WeakCore,
    last: Readiness,
    phase: watch::Receiver<Phase>,
    identities: watch::Receiver<Option<Arc<Identity>>>,
    config: watch::Receiver<ConfigStatus>,
    servers: watch::Receiver<()>,
}

#[derive(Clone)]
struct WeakCore(Weak<Core>);

impl fmt::Debug for WeakCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Core")
    }
}

impl WeakCore {
    fn readiness(&self) -> Readiness {
        self.0.upgrade().map_or_else(Readiness::gone, |core| core.readiness())
    }
}

impl ReadinessWatch {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        // Before it is looked at: what changes meanwhile is a change.
        let (phase, identities) = (core.servers.phases(), core.shared.identities.subscribe());
        let (config, servers) = (core.subscribe(), core.servers.news());
        let core_readiness = core.readiness();
        Self { core: WeakCore(Arc::downgrade(core)), last: core_readiness, phase, identities, config, servers }
    }

    /// As it was when it was last [looked at](Self::changed), at first when this was made.
    pub fn last(&self) -> &Readiness {
        &self.last
    }

    /// Waits until it is another, and returns it; `None` once the mesh is gone, which is not ready any more. Loses
    /// nothing when dropped.
    pub async fn changed(&mut self) -> Option<&Readiness> {
        loop {
            let now = self.core.readiness();
            if now != self.last {
                self.last = now;
                return Some(&self.last);
            }
            let expires = self.identities.borrow().as_ref().and_then(|identity| {
                // Just behind: a certificate is valid through the second that it names.
                identity.not_after().duration_since(SystemTime::now()).ok().map(|left| left + Duration::from_millis(1))
            });
            let expiry = async {
                match expires {
                    Some(left) => tokio::time::sleep(left.min(LOOK_AGAIN)).await,
                    None => std::future::pending().await,
                }
            };
            let goes_on = tokio::select! {
                changed = self.phase.changed() => changed.is_ok(),
                changed = self.identities.changed() => changed.is_ok(),
                changed = self.config.changed() => changed.is_ok(),
                changed = self.servers.changed() => changed.is_ok(),
                () = expiry => true,
            };
            if !goes_on {
                self.last = Readiness::gone();
                return None;
            }
        }
    }
}
