//! Whom this process trusts, and the one way by which peers are verified.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use mesh_core::identity::{SanMatch, SpiffeId, SubjectAltName, TrustDomain, matches_any};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{CommonState, RootCertStore};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, anchor_from_trusted_cert};

use super::certificate::{Certified, Leaf, Validity};
use super::error::IdentityError;
use super::known::Known;
use super::material::Bundles;
use super::refused::PeerRefused;
use super::revocation::Revocation;
use super::shown;

/// How many certificates a peer may send. `webpki` goes up to seven below the root; a few more may be there for those who
/// trust another root.
pub(super) const MAX_CHAIN_CERTIFICATES: usize = 10;

/// How many bytes they may have together. A chain of four with RSA keys of 4096 bits has 8 KiB. What a peer sent is kept
/// with its connection and its session, where rustls alone would keep 64 KiB of each.
pub(super) const MAX_CHAIN_BYTES: usize = 32 * 1024;

/// Whom this process trusts.
#[derive(Clone)]
pub(crate) struct Trust {
    anchors: Anchors,
    revocation: Arc<Revocation>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    /// Who was verified by it.
    known: Arc<Known>,
}

#[derive(Clone)]
enum Anchors {
    /// Whoever one of them vouches for, by any name.
    Plain(Arc<RootCertStore>),
    /// Each authority vouches for its trust domain alone.
    Spiffe(Arc<Domains>),
}

struct Domains {
    own: Vec<TrustAnchor<'static>>,
    /// The own trust domain first.
    names: Vec<TrustDomain>,
    others: BTreeMap<TrustDomain, Vec<TrustAnchor<'static>>>,
}

/// What a peer's certificate is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Usage {
    /// The peer is the server.
    Server,
    /// The peer is the client.
    Client,
}

impl Usage {
    fn of_key(self) -> KeyUsage {
        match self {
            Self::Server => KeyUsage::server_auth(),
            Self::Client => KeyUsage::client_auth(),
        }
    }
}

impl Trust {
    /// `id` is the own SPIFFE id; without it, this is a plain PKI.
    pub(super) fn new(
        bundles: &Bundles,
        lists: &[CertificateRevocationListDer<'_>],
        id: Option<&SpiffeId>,
        aliases: &[TrustDomain],
        allow_undetermined: bool,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Self, IdentityError> {
        let mut own = read_anchors(None, &bundles.own)?;
        let mut others = BTreeMap::new();
        for (name, authorities) in &bundles.others {
            others.insert(name.clone(), read_anchors(Some(name), authorities)?);
        }
        let anchors = match id {
            Some(id) => {
                own.extend(others.remove(id.trust_domain()).unwrap_or_default());
                let names = std::iter::once(id.trust_domain()).chain(aliases).cloned().collect();
                Anchors::Spiffe(Arc::new(Domains { own, names, others }))
            }
            None => match others.into_keys().next() {
                Some(trust_domain) => return Err(IdentityError::BundleWithoutSpiffeId { trust_domain }),
                None => Anchors::Plain(Arc::new(RootCertStore { roots: own })),
            },
        };
        let authorities = bundles.own.iter().chain(bundles.others.values().flatten());
        let revocation = Arc::new(Revocation::new(lists, authorities, allow_undetermined, algorithms)?);
        Ok(Self { anchors, revocation, algorithms, known: Arc::default() })
    }

    /// An ordinary PKI without lists.
    pub(super) fn of_roots(roots: Arc<RootCertStore>, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { anchors: Anchors::Plain(roots), revocation: Arc::default(), algorithms, known: Arc::default() }
    }

    /// Trusts `roots`, with whatever name, in place of the bundles. Lists of revoked certificates stay in force.
    pub(super) fn with_roots(&self, roots: Arc<RootCertStore>) -> Self {
        Self { anchors: Anchors::Plain(roots), known: Arc::default(), ..self.clone() }
    }

    /// The trust domains whose members are trusted, the own one first; none in a plain PKI.
    pub(super) fn domains(&self) -> impl Iterator<Item = &TrustDomain> {
        let domains = match &self.anchors {
            Anchors::Spiffe(domains) => Some(domains),
            Anchors::Plain(_) => None,
        };
        domains.into_iter().flat_map(|domains| domains.names.iter().chain(domains.others.keys()))
    }

    /// Verifies the peer that sent `chain`, of which it is said that it is one of `expected`, or anybody.
    ///
    /// # Errors
    /// Why the peer is refused.
    pub(crate) fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        expected: &[SanMatch],
        now: UnixTime,
    ) -> Result<Arc<Certified>, PeerRefused> {
        self.verify_silently(chain, usage, expected, now).inspect_err(|_| shown::note(chain))
    }

    fn verify_silently(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        expected: &[SanMatch],
        now: UnixTime,
    ) -> Result<Arc<Certified>, PeerRefused> {
        let certified = match self.known.get(chain, usage, now) {
            Some(certified) => certified,
            None => {
                let certified = Arc::new(self.check(chain, usage, expected, now)?);
                self.known.insert(Arc::clone(&certified), usage, self.valid(&certified));
                certified
            }
        };
        self.check_names(&certified, expected)?;
        Ok(certified)
    }

    /// Who is at the other end of `connection`, whose handshake has verified the peer, or an earlier one whose session
    /// was resumed: since then dates may be over and lists due.
    ///
    /// # Errors
    /// Why the peer is refused.
    pub(crate) fn of_connection(
        &self,
        connection: &CommonState,
        usage: Usage,
        expected: &[SanMatch],
        now: UnixTime,
    ) -> Result<Arc<Certified>, PeerRefused> {
        self.verify(connection.peer_certificates().unwrap_or_default(), usage, expected, now)
    }

    /// Everything but whether it is expected.
    fn check(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        expected: &[SanMatch],
        now: UnixTime,
    ) -> Result<Certified, PeerRefused> {
        let (end_entity, intermediates) = chain.split_first().ok_or(PeerRefused::NoCertificate)?;
        check_length(chain)?;
        let mut leaf = Leaf::read(end_entity)?;
        let (id, anchors) = self.identify(&leaf, expected)?;
        self.keep_vouched(&mut leaf, id.as_ref());
        let certificate = EndEntityCert::try_from(end_entity).map_err(|error| PeerRefused::of_chain(&error))?;
        let usage = usage.of_key();
        let check = |path: &VerifiedPath<'_>| self.revocation.check(path, usage, now, self.algorithms);
        let check: Option<&dyn Fn(&VerifiedPath<'_>) -> _> =
            if self.revocation.is_empty() { None } else { Some(&check) };
        let path = certificate
            .verify_for_usage(self.algorithms.all, anchors, intermediates, now, usage, None, check)
            .map_err(|error| PeerRefused::of_chain(&error))?;
        let path = path.intermediate_certificates().map(|between| between.der());
        let validity = Validity::of(std::iter::once(end_entity.clone()).chain(path))?;
        if let Some(weak) = leaf.weak_key {
            return Err(weak.into());
        }
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        Ok(Certified { id, leaf, chain, validity })
    }

    /// While time changes nothing of what was found out about a peer: no date on its path, and no list, is over.
    fn valid(&self, certified: &Certified) -> RangeInclusive<UnixTime> {
        let Validity { from, until } = certified.validity;
        from..=self.revocation.due().map_or(until, |due| until.min(due))
    }

    /// Whether an authority of the own bundle vouches for the own `chain`, as peers with the same bundle look at it.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn vouches_for_own(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<(), String> {
        let Some((end_entity, intermediates)) = chain.split_first() else { return Ok(()) };
        let own = match &self.anchors {
            Anchors::Plain(roots) => &roots.roots,
            Anchors::Spiffe(domains) => &domains.own,
        };
        let verified = EndEntityCert::try_from(end_entity).and_then(|certificate| {
            let usage = usage.of_key();
            certificate.verify_for_usage(self.algorithms.all, own, intermediates, now, usage, None, None).map(drop)
        });
        verified.map_err(|error| match PeerRefused::of_chain(&error) {
            PeerRefused::UnknownIssuer => "its issuer is not among them".to_owned(),
            _ => error.to_string(),
        })
    }

    fn check_names(&self, certified: &Certified, expected: &[SanMatch]) -> Result<(), PeerRefused> {
        let names = certified.names();
        if certified.id.is_none() && expected.is_empty() && matches!(self.anchors, Anchors::Spiffe(_)) {
            return Err(PeerRefused::no_spiffe_id(names));
        }
        if matches_any(expected, names) { Ok(()) } else { Err(PeerRefused::name(names, expected)) }
    }

    /// Leaves of a peer of another trust domain its SPIFFE id: its authority vouches for members of that domain, and not
    /// for hosts or whatever else our own authority may name.
    fn keep_vouched(&self, leaf: &mut Leaf, id: Option<&SpiffeId>) {
        if let (Anchors::Spiffe(domains), Some(id)) = (&self.anchors, id)
            && !domains.names.contains(id.trust_domain())
        {
            leaf.names.retain(|name| matches!(name, SubjectAltName::Uri(_)));
        }
    }

    /// Who it says to be, and who would have to vouch for that.
    fn identify(
        &self,
        leaf: &Leaf,
        expected: &[SanMatch],
    ) -> Result<(Option<SpiffeId>, &[TrustAnchor<'static>]), PeerRefused> {
        let domains = match &self.anchors {
            Anchors::Plain(roots) => return Ok((only_spiffe_id(leaf), &roots.roots)),
            Anchors::Spiffe(domains) => domains,
        };
        let mut uris = leaf.uris();
        let Some(uri) = uris.next() else {
            if expected.is_empty() {
                return Err(PeerRefused::no_spiffe_id(&leaf.names));
            }
            return Ok((None, &domains.own));
        };
        match uris.count() {
            0 => {}
            more => return Err(PeerRefused::ManySpiffeIds { count: more + 1 }),
        }
        let id = SpiffeId::new(uri).map_err(|error| PeerRefused::SpiffeId { uri: Arc::clone(uri), error })?;
        let name = id.trust_domain();
        let anchors = match domains.names.contains(name) {
            true => &domains.own,
            false => domains.others.get(name).ok_or_else(|| PeerRefused::TrustDomain { trust_domain: name.clone() })?,
        };
        Ok((Some(id), anchors))
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("trust_domains", &self.domains().collect::<Vec<_>>())
            .field("revocation_lists", &self.revocation.len())
            .finish_non_exhaustive()
    }
}

/// Before anything is read: what is too long costs nothing.
fn check_length(chain: &[CertificateDer<'_>]) -> Result<(), PeerRefused> {
    let certificates = chain.len();
    let bytes = chain.iter().map(|certificate| certificate.len()).sum();
    match certificates > MAX_CHAIN_CERTIFICATES || bytes > MAX_CHAIN_BYTES {
        true => Err(PeerRefused::LongChain { certificates, bytes }),
        false => Ok(()),
    }
}

/// In a plain PKI nothing depends on it; it is told if there is no doubt.
fn only_spiffe_id(leaf: &Leaf) -> Option<SpiffeId> {
    let mut uris = leaf.uris();
    let id = SpiffeId::new(uris.next()?).ok()?;
    uris.next().is_none().then_some(id)
}

fn read_anchors(
    trust_domain: Option<&TrustDomain>,
    authorities: &[CertificateDer<'_>],
) -> Result<Vec<TrustAnchor<'static>>, IdentityError> {
    let read = |(index, authority)| match anchor_from_trusted_cert(authority) {
        Ok(anchor) => Ok(anchor.to_owned()),
        Err(error) => {
            Err(IdentityError::Authority { trust_domain: trust_domain.cloned(), index, reason: error.to_string() })
        }
    };
    authorities.iter().enumerate().map(read).collect()
}
