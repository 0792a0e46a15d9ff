//! What the files of an identity hold. No error tells anything of their content: it may be a key.

use std::fmt;

use mesh_core::identity::parse_bundle_map;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use webpki::anchor_from_trusted_cert;

use crate::identity::material::Bundles;
use crate::identity::revocation::read_lists;

/// A chain.
pub(super) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    all(text, "certificate")
}

/// The certificates of authorities.
pub(super) fn authorities(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let authorities = all(text, "certificate")?;
    check(&authorities, &"authority")?;
    Ok(authorities)
}

/// The key, which there must be once.
pub(super) fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let mut keys = all(text, "private key in PKCS#8, SEC1 or PKCS#1, without a password,")?;
    match (keys.pop(), keys.len()) {
        (Some(key), 0) => Ok(key),
        (_, others) => Err(format!("{} private keys, where one is expected", others + 1)),
    }
}

/// Lists of revoked certificates.
pub(super) fn revocation_lists(text: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let lists = all(text, "certificate revocation list")?;
    read_lists(&lists).map_err(|error| error.to_string())?;
    Ok(lists)
}

/// A SPIFFE bundle map; what stands there for the own trust domain is found by whoever uses it.
pub(super) fn bundle_map(text: &[u8]) -> Result<Bundles, String> {
    let mut bundles = Bundles::default();
    for (domain, authorities) in parse_bundle_map(text).map_err(|error| error.to_string())? {
        let authorities: Vec<_> = authorities.into_iter().map(CertificateDer::from).collect();
        check(&authorities, &format_args!("trust domain {domain}: authority"))?;
        bundles.others.insert(domain, authorities);
    }
    Ok(bundles)
}

fn check(authorities: &[CertificateDer<'_>], what: &dyn fmt::Display) -> Result<(), String> {
    for (index, authority) in authorities.iter().enumerate() {
        anchor_from_trusted_cert(authority).map_err(|error| format!("{what} {}: {error}", index + 1))?;
    }
    Ok(())
}

/// All sections of a kind. One that is damaged spoils the file: it is probably being written.
fn all<T: PemObject>(text: &[u8], what: &str) -> Result<Vec<T>, String> {
    let sections: Vec<T> = T::pem_slice_iter(text).collect::<Result<_, _>>().map_err(|error| {
        match error {
            // The library's own words would quote the line.
            pem::Error::MissingSectionEnd { .. } => "PEM without an END line; it may be half written",
            pem::Error::IllegalSectionStart { .. } => "PEM with a damaged BEGIN line",
            pem::Error::Base64Decode(_) => "PEM with damaged base64",
            _ => "damaged PEM",
        }
        .to_owned()
    })?;
    if sections.is_empty() { Err(format!("no {what} in PEM in it")) } else { Ok(sections) }
}
