//! Verification by itself, and through real handshakes in memory.

mod handshakes;
mod material;
mod revocation;
mod trust;

use std::sync::Arc;

use mesh_core::identity::{SanMatch, SpiffeId, TrustDomain};
use mesh_core::model::{self, IdentityFrom};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls_pki_types::UnixTime;

use super::{Bundles, Identity, IdentityError, Material, PeerRefused, Terms};
use crate::testing::{Authority, Issued};

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const CATALOG: &str = "spiffe://cluster.local/ns/shop/sa/catalog";

fn settings() -> model::Identity {
    model::Identity::new(IdentityFrom::Custom)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(default_provider())
}

fn identity_of(material: Material) -> Result<Identity, IdentityError> {
    Identity::new(material, &settings(), &provider(), 1, UnixTime::now())
}

/// CART, who trusts `bundles`.
fn cart(authority: &Authority, bundles: Bundles) -> Identity {
    identity_of(authority.issue(CART).material(bundles)).unwrap()
}

fn expecting(expected: &[SanMatch]) -> Arc<[SanMatch]> {
    Arc::from(expected)
}

fn terms(expected: &[SanMatch]) -> Terms {
    Terms { alpn: vec![b"h2".to_vec()], expected: expecting(expected), roots: None }
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn spiffe_id(text: &str) -> SpiffeId {
    SpiffeId::new(text).unwrap()
}
