//! The crypto of TLS where an application chooses none.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// The provider that the features of this crate choose, if any does: whoever turned on another one than the default wants
/// that one.
pub(crate) fn default_provider() -> Option<Arc<CryptoProvider>> {
    chosen().map(Arc::new)
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
