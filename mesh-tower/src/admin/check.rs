//! Whether a configuration may have the admin listener that it asks for.

use std::io;
use std::net::SocketAddr;

use mesh_core::model::Settings;

/// The admin listener cannot be as the configuration says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// This program was built without it.
    #[error(
        "admin: this program was built without the admin listener; turn on the feature `admin` of mesh-tower or \
         mesh-tonic, or remove `admin` from the configuration"
    )]
    NotBuilt,
    /// Others would reach the address, and nobody said that they may (AD-07).
    #[error(
        "admin.address: {address} is no loopback address: whoever reaches it would read all that is known here; take \
         127.0.0.1:{}, or set `allow_remote`", address.port()
    )]
    Remote {
        /// The address.
        address: SocketAddr,
    },
    /// The operating system refused.
    #[error("admin.address: {address} cannot be listened on: {error}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The reason.
        #[source]
        error: io::Error,
    },
}

/// What a file was asked already holds for configurations made in code too.
///
/// # Errors
/// If there cannot be such a listener, wherever it is.
pub(crate) fn check(settings: &Settings) -> Result<(), AdminError> {
    let Some(admin) = &settings.admin else { return Ok(()) };
    if cfg!(not(feature = "admin")) {
        return Err(AdminError::NotBuilt);
    }
    if !admin.allow_remote && !admin.address.ip().to_canonical().is_loopback() {
        return Err(AdminError::Remote { address: admin.address });
    }
    Ok(())
}

/// Whether metrics are to be kept for the pages.
pub(crate) fn keeps_metrics(settings: &Settings) -> bool {
    cfg!(all(feature = "admin", feature = "prometheus")) && settings.admin.is_some()
}

#[cfg(test)]
mod tests {
    use mesh_core::model::Admin;

    use super::*;

    fn check_of(address: &str, allow_remote: bool) -> Result<(), String> {
        let mut admin = Admin::new(address.parse().unwrap());
        admin.allow_remote = allow_remote;
        let mut settings = Settings::default();
        settings.admin = Some(admin);
        check(&settings).map_err(|error| error.to_string())
    }

    #[cfg(feature = "admin")]
    #[test]
    fn ad_07_others_reach_it_only_if_that_is_said() {
        check(&Settings::default()).unwrap();
        for loopback in ["127.0.0.1:15000", "127.9.9.9:1", "[::1]:15000", "[::ffff:127.0.0.1]:15000"] {
            assert_eq!(check_of(loopback, false), Ok(()), "{loopback}");
        }
        for address in ["0.0.0.0:15000", "[::]:15000", "10.0.0.1:15000", "[::ffff:10.0.0.1]:15000"] {
            let error = check_of(address, false).unwrap_err();
            assert!(error.contains(address) && error.contains("127.0.0.1:15000"), "{error}");
            assert_eq!(check_of(address, true), Ok(()), "{address}");
        }
    }

    #[cfg(not(feature = "admin"))]
    #[test]
    fn without_the_feature_the_error_names_it() {
        check(&Settings::default()).unwrap();
        let error = check_of("127.0.0.1:15000", false).unwrap_err();
        assert!(error.contains("feature `admin`"), "{error}");
    }
}
