//! Lists of revoked certificates (gRFC A69).

use std::time::{Duration, SystemTime};

use super::*;
use crate::identity::Usage;
use crate::testing::{NewCertificate, RevocationList};

const MINUTE: Duration = Duration::from_secs(60);
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
        self.identity_by(&self.authority.bundles(), lists)
    }

    fn identity_by(&self, trust: &Bundles, lists: &[&RevocationList]) -> Result<Identity, IdentityError> {
        let material = self.authority.issue(CART).material(trust.clone());
        let material = material.with_revocation_lists(lists.iter().map(|list| list.der.clone()).collect());
        let mut settings = settings();
        settings.allow_undetermined_revocation = self.allow_undetermined;
        Identity::new(material, &settings, &provider(), 1, UnixTime::now())
    }

    fn verify(&self, peer: &Issued, lists: &[&RevocationList]) -> &'static str {
        self.verify_by(&self.authority.bundles(), peer, lists)
    }

    fn verify_by(&self, trust: &Bundles, peer: &Issued, lists: &[&RevocationList]) -> &'static str {
        let identity = self.identity_by(trust, lists).unwrap();
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
        let namesake = Authority::new("cluster.local").revocation_list(&[&bad]);
        assert_eq!(case.verify(&good, &[&namesake]), undetermined, "of the right name and another key");
        for old in [&[][..], &[&list]] {
            let forged = damaged(&case.authority.revocation_list(&[]));
            let lists: Vec<_> = old.iter().copied().chain([&forged]).collect();
            assert_eq!(
                case.verify(&good, &lists),
                "undetermined_revocation",
                "nobody's, where the issuer's may have been"
            );
        }
    }
}

/// `list` with a wrong signature.
fn damaged(list: &RevocationList) -> RevocationList {
    let mut der = list.der.to_vec();
    *der.last_mut().unwrap() ^= 1;
    RevocationList { der: der.into(), pem: String::new() }
}

/// MT-10: while a root is rotated there are two of one name. Each has its list, and is judged by it alone.
#[test]
fn mt_10_two_roots_of_one_name() {
    let now = SystemTime::now();
    for (allow, older) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
        let case = Case::new(allow);
        let new = Authority::new("cluster.local");
        let roots = [&case.authority, &new];
        let peers = roots.map(|root| (root.issue(CATALOG), root.issue(CATALOG)));
        let ages = [0, 1].map(|root| if root == older { 10 * MINUTE } else { MINUTE });
        let lists = [0, 1].map(|root| roots[root].revocation_list_of(&[&peers[root].1], now - ages[root], now + HOUR));
        let both = Bundles::new(roots.map(|root| root.root().clone()).to_vec());
        for lists in [[&lists[0], &lists[1]], [&lists[1], &lists[0]]] {
            for (good, revoked) in &peers {
                assert_eq!(case.verify_by(&both, good, &lists), "accepted", "{allow} {older}");
                assert_eq!(case.verify_by(&both, revoked, &lists), "revoked", "{allow} {older}");
            }
        }
        // The other's list alone says nothing, whether it revokes everybody or nobody.
        let undetermined = if allow { "accepted" } else { "undetermined_revocation" };
        assert_eq!(case.verify_by(&both, &peers[0].0, &[&lists[1]]), undetermined);
        assert_eq!(case.verify_by(&both, &peers[1].1, &[&lists[0]]), undetermined);
        // Nor does one that stays when its root has gone.
        let lists = [&lists[0], &lists[1]];
        assert_eq!(case.verify_by(&new.bundles(), &peers[1].0, &lists), "accepted");
        assert_eq!(case.verify_by(&new.bundles(), &peers[1].1, &lists), "revoked");
        assert_eq!(case.verify_by(&new.bundles(), &peers[0].0, &lists), "unknown_issuer");
    }
}

/// MT-10: so of authorities below the root, which are known by their certificates in a peer's chain alone.
#[test]
fn mt_10_two_intermediates_of_one_name() {
    let case = Case::new(false);
    let zones = [case.authority.intermediate("zone a"), case.authority.intermediate("zone a")];
    let peers = [0, 1].map(|zone| (zones[zone].issue(CATALOG), zones[zone].issue(CATALOG)));
    let lists = [0, 1].map(|zone| zones[zone].revocation_list(&[&peers[zone].1]));
    let of_root = case.authority.revocation_list(&[]);
    for lists in [[&of_root, &lists[0], &lists[1]], [&lists[1], &lists[0], &of_root]] {
        for (good, revoked) in &peers {
            assert_eq!((case.verify(good, &lists), case.verify(revoked, &lists)), ("accepted", "revoked"));
        }
    }
    assert_eq!(case.verify(&peers[0].0, &[&of_root, &lists[1]]), "undetermined_revocation");
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
