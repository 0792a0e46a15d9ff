//! The crypto of TLS where an application chooses none.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::{CipherSuite, SupportedCipherSuite};

/// The provider that the features of this crate choose, if any does: whoever turned on another one than the default wants
/// that one.
///
/// It offers AES-128 with SHA-256 first, as Go and BoringSSL do. rustls would offer AES-256 with SHA-384, for which hashes
/// CPUs have no instructions: a handshake whose signatures are known then spends an eighth of its time on it.
pub(crate) fn default_provider() -> Option<Arc<CryptoProvider>> {
    chosen().map(|mut provider| {
        provider.cipher_suites.sort_by_key(|suite| (suite.tls13().is_none(), !is_quick(suite)));
        Arc::new(provider)
    })
}

fn is_quick(suite: &SupportedCipherSuite) -> bool {
    matches!(
        suite.suite(),
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

#[cfg(feature = "fips")]
fn chosen() -> Option<CryptoProvider> {
    Some(rustls::crypto::default_fips_provider())
}

#[cfg(all(feature = "aws-lc-rs", not(feature = "fips")))]
fn chosen() -> Option<CryptoProvider> {
    Some(rustls::crypto::aws_lc_rs::default_provider())
}

#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
fn chosen() -> Option<CryptoProvider> {
    Some(rustls::crypto::ring::default_provider())
}

#[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
fn chosen() -> Option<CryptoProvider> {
    None
}

#[cfg(all(test, feature = "ring"))]
mod tests {
    use super::*;

    #[test]
    fn what_cpus_are_quick_at_comes_first() {
        let suites: Vec<_> = default_provider().unwrap().cipher_suites.iter().map(|suite| suite.suite()).collect();
        assert_eq!(suites[..2], [CipherSuite::TLS13_AES_128_GCM_SHA256, CipherSuite::TLS13_AES_256_GCM_SHA384]);
        let older = suites.iter().position(|suite| *suite == CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256);
        assert!(older.is_some_and(|place| place >= 3 && suites.len() == 9), "{suites:?}");
    }
}
