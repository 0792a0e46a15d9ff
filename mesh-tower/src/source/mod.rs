//! Where configurations come from.
//!
//! A source turns the outside into [`Update`]s on a watch channel: the newest one counts, whatever was there before it
//! is of no interest. What a source cannot read is an update too, so that it is reported and the last good
//! configuration stays.

pub(crate) mod dns;
pub(crate) mod endpoints;
pub(crate) mod env;
pub(crate) mod file;
pub(crate) mod reading;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use mesh_core::config::ConfigError;
use mesh_core::model::{self, BackendId};
use mesh_core::snapshot::CompileError;

use crate::admin::AdminError;
use crate::identity::NoIdentity;
use crate::net::tls::TlsConfigError;

/// The newest word of a source.
pub(crate) type Update = Result<Arc<model::Config>, Arc<BuildError>>;

/// A configuration that is not in force, and why.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The builder was given a configuration made in code, and settings beside it.
    #[error(
        "the settings of the builder and the variables of the environment have no effect on a configuration made in \
         code; say them in `Config::settings`, or give the builder a file or a text"
    )]
    SettingsBesideConfig,
    /// This crate was built without a crypto provider, and the builder was given none.
    #[error(
        "no crypto provider for TLS: build with the feature `ring`, `aws-lc-rs` or `fips`, or give one to \
         `Builder::crypto_provider`"
    )]
    NoCryptoProvider,
    /// The file cannot be read.
    #[error("{path}: {error}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        error: std::io::Error,
    },
    /// The configuration asks for an identity, and there is none.
    #[error(transparent)]
    Identity(#[from] NoIdentity),
    /// The configuration asks for an admin listener that there cannot be.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// A running mesh was to give up its identity, and what depends on it would go on in plaintext.
    #[error(
        "identity: it is gone, and a running mesh does not give up its identity: what depends on it would go on in \
         plaintext; put it back, or start the process anew without one"
    )]
    IdentityRemoved,
    /// The configuration has problems; all of them are listed.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A backend asks for a source of endpoints that the application has not registered.
    #[error(
        "services.{}.backends.{}: the endpoint source {source_name:?} is not registered; {}", backend.service,
        backend.name, if known.is_empty() { "none is".to_owned() } else { format!("there are {known:?}") }
    )]
    EndpointSource {
        /// The backend.
        backend: BackendId,
        /// The source's name.
        source_name: Arc<str>,
        /// The names that are registered.
        known: Vec<Arc<str>>,
    },
    /// Code of the application panicked while the configuration was applied.
    #[error("{0}")]
    Panicked(String),
    /// The parts do not fit together.
    #[error(transparent)]
    Compile(#[from] CompileError<TlsConfigError>),
}

/// As [`Display`](fmt::Display): it is what a `main` that returns the error shows.
impl fmt::Debug for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
