//! Lists of revoked certificates (gRFC A69).

use std::time::{Duration, SystemTime};

use super::*;
use crate::identity::Usage;
use crate::testing::{NewCertificate, RevocationList};

const HOUR: Duration = Duration::from_secs(3600);

struct Case {
    authority: Authority,
    allow_undetermined: bool,
}

impl Case {
    fn new(allow_undetermined: bool) -> Self {
        Self { authority: Authority::new("cluster.local"), allow_undetermined }
    }

    fn identity(&self, lists: &[&RevocationList]) -> Result<Identity, IdentityError> {
        let material = self.authority.issue(CART).material(self.authority.bundles());
        let material = material.with_revocation_lists(lists.iter().map(|list| list.der.clone()).collect());
        let mut settings = settings();
        settings.allow_undetermined_revocation = self.allow_undetermined;
        Identity::new(material, &settings, &provider(), 1, UnixTime::now())
    }

    fn verify(&self, peer: &Issued, lists: &[&RevocationList]) -> &'static str {
        let identity = self.identity(lists).unwrap();
        let verify = |usage| identity.trust().verify(&peer.chain, usage, &[], UnixTime::now());
        let (server, client) = (verify(Usage::Server), verify(Usage::Client));
        assert_eq!(server.as_ref().err(), client.as_ref().err());
        server.map_or_else(|refused| refused.as_str(), |_| "accepted")
    }
}

/// MT-10: revoked, undetermined, expired.
#[test]
fn mt_10_what_lists_say() {
    for allow in [false, true] {
        let case = Case::new(allow);
        let (good, bad) = (case.authority.issue(CATALOG), case.authority.issue(CATALOG));
        let undetermined = if allow { "accepted" } else { "undetermined_revocation" };
        let now = SystemTime::now();

        assert_eq!(case.verify(&bad, &[]), "accepted", "without lists nobody is revoked");
        let list = case.authority.revocation_list(&[&bad]);
        assert_eq!((case.verify(&good, &[&list]), case.verify(&bad, &[&list])), ("accepted", "revoked"));

        let expired = case.authority.revocation_list_of(&[&bad], now - 2 * HOUR, now - HOUR);
        assert_eq!(case.verify(&good, &[&expired]), undetermined);
        let still = if allow { "revoked" } else { "undetermined_revocation" };
        assert_eq!(case.verify(&bad, &[&expired]), still, "an old list does not forget whom it revoked");

        let foreign = Authority::new("another").revocation_list(&[&bad]);
        assert_eq!(case.verify(&good, &[&foreign]), undetermined);
        let forged = Authority::new("cluster.local").revocation_list(&[]);
        assert_eq!(case.verify(&good, &[&forged]), "undetermined_revocation", "of the right name and another key");
    }
}

/// MT-10: of a directory with old lists and new ones the newest counts, whatever their order.
#[test]
fn mt_10_the_newest_list_counts() {
    let case = Case::new(false);
    let (good, bad) = (case.authority.issue(CATALOG), case.authority.issue(CATALOG));
    let now = SystemTime::now();
    let old = case.authority.revocation_list_of(&[&good], now - 3 * HOUR, now - HOUR);
    let new = case.authority.revocation_list(&[&bad]);
    for lists in [[&old, &new], [&new, &old]] {
        assert_eq!((case.verify(&good, &lists), case.verify(&bad, &lists)), ("accepted", "revoked"));
    }
}

/// MT-10: each certificate below the root needs a list of its issuer.
#[test]
fn mt_10_intermediates_are_looked_up_too() {
    let case = Case::new(false);
    let below = case.authority.intermediate("zone a");
    let peer = below.issue(CATALOG);
    let (of_root, of_zone) = (case.authority.revocation_list(&[]), below.revocation_list(&[]));
    assert_eq!(case.verify(&peer, &[&of_root, &of_zone]), "accepted");
    assert_eq!(case.verify(&peer, &[&of_root]), "undetermined_revocation");
    assert_eq!(case.verify(&peer, &[&of_zone]), "undetermined_revocation");
}

/// MT-10: a list that cannot be read is refused with the rest, and the last good identity stays.
#[test]
fn mt_10_malformed_lists_are_refused() {
    let case = Case::new(false);
    let list = case.authority.revocation_list(&[]);
    for cut in [0, 1, 20, list.der.len() / 2, list.der.len() - 1] {
        let der = list.der[..cut].to_vec().into();
        let cut_list = RevocationList { der, pem: String::new() };
        let error = case.identity(&[&list, &cut_list]).unwrap_err();
        assert!(matches!(error, IdentityError::RevocationList { index: 1, .. }), "{error}");
        assert_eq!(error.part(), crate::identity::Part::RevocationLists);
    }
}

/// MT-10: every list of random bytes is refused without a panic (RUSTSEC-2026-0104).
#[test]
fn mt_10_no_bytes_make_the_reader_of_lists_panic() {
    use proptest::prelude::*;
    let case = Case::new(false);
    let bad = case.authority.issue_as(NewCertificate::new().uri(CATALOG));
    let list = case.authority.revocation_list(&[&bad]).der.to_vec();
    proptest!(|(place in 0..list.len(), byte: u8, cut in 0..=list.len())| {
        let mut bytes = list.clone();
        bytes[place] = byte;
        bytes.truncate(cut);
        let broken = RevocationList { der: bytes.into(), pem: String::new() };
        if let Ok(identity) = case.identity(&[&broken]) {
            drop(identity.trust().verify(&bad.chain, Usage::Client, &[], UnixTime::now()));
        }
    });
}
