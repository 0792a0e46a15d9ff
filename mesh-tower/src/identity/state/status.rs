//! What is told about the identity of a mesh.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_core::model::IdentityFrom;

use crate::identity::Identity;

/// Where the identity of a mesh stands.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct IdentityStatus {
    /// Who is asked for it, such as `files /etc/tls/tls.crt, /etc/tls/tls.key`. Empty without an identity.
    pub source: Arc<str>,
    /// How many identities there were so far; 0 before the first.
    pub generation: u64,
    /// When the source last brought something usable, new or not.
    pub loaded_at: Option<SystemTime>,
    /// What was wrong last; `None` once the source brought something usable again. The last good identity stays.
    pub failure: Option<IdentityFailure>,
    /// How often something was wrong.
    pub failures: u64,
    /// Why peers may refuse the identity in force, for people to read: its certificate is for clients or servers only, no
    /// authority of the own bundle vouches for it, its SPIFFE id is another than before.
    pub warnings: Arc<[Arc<str>]>,
    /// Whether the source has ended, and brings nothing any more.
    pub ended: bool,
}

/// Why an identity was not renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdentityFailure {
    /// When.
    pub at: SystemTime,
    /// What was wrong, with the file if there is one.
    pub error: Arc<str>,
}

/// There is no identity, where the configuration asks for one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoIdentity {
    /// The source is the application's, which gave none.
    #[error("identity.source: the application's source is asked for, and the builder was given none")]
    NotGiven,
    /// The source is of a kind that this version does not have.
    #[error("identity.source: this version knows no source {source_name}")]
    Unknown {
        /// What was asked for.
        source_name: Arc<str>,
    },
    /// Nothing usable came in time.
    #[error("identity: {source_name} brought nothing usable within {timeout:?}: {failure}; {way_out}")]
    TimedOut {
        /// Who was asked.
        source_name: Arc<str>,
        /// How long that was waited for.
        timeout: Duration,
        /// What was wrong last, with the file if there is one.
        failure: Arc<str>,
        /// What to do about it.
        way_out: &'static str,
    },
    /// The source ended and has brought nothing usable.
    #[error("identity: {source_name} ended and brought nothing usable: {failure}; {way_out}")]
    Ended {
        /// Who was asked.
        source_name: Arc<str>,
        /// What was wrong last.
        failure: Arc<str>,
        /// What to do about it.
        way_out: &'static str,
    },
}

/// What metrics show of an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Until when the certificate in force is valid.
    pub(crate) not_after: Option<SystemTime>,
    /// When the source last brought something usable.
    pub(crate) last_success: Option<SystemTime>,
    /// Whether nothing went wrong since.
    pub(crate) last_successful: bool,
    /// How often something was wrong.
    pub(crate) failures: u64,
    /// How many identities there were.
    pub(crate) generation: u64,
}

impl Facts {
    pub(super) fn of(current: Option<&Identity>, status: &IdentityStatus) -> Self {
        Self {
            not_after: current.map(Identity::not_after),
            last_success: status.loaded_at,
            last_successful: status.loaded_at.is_some() && status.failure.is_none(),
            failures: status.failures,
            generation: status.generation,
        }
    }
}

impl NoIdentity {
    /// Of what `source` has done so far. `timeout`: how long it was waited for; `None` if it ended.
    pub(super) fn of(status: &IdentityStatus, source: Option<&IdentityFrom>, timeout: Option<Duration>) -> Self {
        let way_out = match source {
            Some(IdentityFrom::Files(_)) => {
                "the files must be there, readable and belong together; raise `identity.startup_timeout` if they come late"
            }
            Some(IdentityFrom::WorkloadApi { .. }) => {
                "the agent must run, its socket be mounted here, and this workload be registered with it; raise \
                 `identity.startup_timeout` if that takes longer"
            }
            _ => {
                "a source must bring an identity as soon as it runs; raise `identity.startup_timeout` if it takes longer"
            }
        };
        let source_name = Arc::clone(&status.source);
        let failure =
            status.failure.as_ref().map_or_else(|| "it said nothing".into(), |failure| Arc::clone(&failure.error));
        match timeout {
            Some(timeout) => Self::TimedOut { source_name, timeout, failure, way_out },
            None => Self::Ended { source_name, failure, way_out },
        }
    }
}

/// What a source is called where people read it.
pub(super) fn name(source: &IdentityFrom) -> Arc<str> {
    match source {
        IdentityFrom::Files(files) => format!("files {}, {}", files.certificate.display(), files.key.display()).into(),
        IdentityFrom::WorkloadApi { endpoint: Some(endpoint), .. } => format!("Workload API at {endpoint}").into(),
        IdentityFrom::WorkloadApi { endpoint: None, .. } => "Workload API at $SPIFFE_ENDPOINT_SOCKET".into(),
        IdentityFrom::Custom => "the application's source".into(),
        other => format!("{other:?}").into(),
    }
}
