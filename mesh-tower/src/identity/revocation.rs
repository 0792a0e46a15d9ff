//! Lists of revoked certificates, each with whoever issued it (gRFC A69, RFC 5280 6.3).
//!
//! `webpki` takes the first list of an issuer's name. But two authorities may have one name: the old root of a trust
//! domain and the new one, while it is rotated. So it is offered only those lists that are of the key that has issued:
//!
//! | a list of the issuer's name that | counts as |
//! | --- | --- |
//! | the issuer's key has signed | the issuer's |
//! | another trusted authority's key has signed, or whose authority key identifier is not the issuer's | another's: as if it were not there |
//! | neither | nobody's: the issuer's certificates are refused, since it may be what became of the issuer's list |

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, TrustAnchor,
    UnixTime,
};
use webpki::{
    BorrowedCertRevocationList, CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RawPublicKeyEntity,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath, anchor_from_trusted_cert,
    spki_for_anchor,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::certificate::unix_time;
use super::error::IdentityError;

/// What is known of revoked certificates.
#[derive(Debug, Default)]
pub(super) struct Revocation {
    /// Of one issuer, the list that was issued last comes first: `webpki` looks at no other.
    lists: Vec<List>,
    /// The subject key identifiers of trusted authorities, which `TrustAnchor` forgets.
    key_ids: Vec<(SubjectPublicKeyInfoDer<'static>, Vec<u8>)>,
    allow_undetermined: bool,
}

/// A list, and who issued it.
#[derive(Debug)]
pub(super) struct List {
    list: CertRevocationList<'static>,
    issued: i64,
    due: Option<UnixTime>,
    key_id: Option<Vec<u8>>,
    signed: Signed,
}

#[derive(Debug)]
enum Signed {
    /// By a trusted authority's key.
    By(SubjectPublicKeyInfoDer<'static>),
    /// By somebody who is met in a peer's chain, if anywhere.
    BySomebody { algorithm: Vec<u8>, message: Vec<u8>, signature: Vec<u8> },
}

/// Whose a list is that has the issuer's name.
enum Whose {
    Issuer,
    Another,
    Nobody,
}

impl Revocation {
    /// Of `authorities`, the trusted ones, `lists` are read.
    pub(super) fn new<'a>(
        lists: &[CertificateRevocationListDer<'_>],
        authorities: impl Iterator<Item = &'a CertificateDer<'a>>,
        allow_undetermined: bool,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Self, IdentityError> {
        let mut lists = read_lists(lists)?;
        let mut key_ids = Vec::new();
        if !lists.is_empty() {
            for authority in authorities {
                // Those that cannot be read are refused where they are.
                let Ok(anchor) = anchor_from_trusted_cert(authority) else { continue };
                let key = spki_for_anchor(&anchor);
                for list in lists.iter_mut().filter(|list| list.list.issuer() == anchor.subject.as_ref()) {
                    if list.signed.is_by(&key, algorithms) {
                        list.signed = Signed::By(key.clone());
                    }
                }
                key_ids.extend(subject_key_id(authority).map(|id| (key, id)));
            }
        }
        Ok(Self { lists, key_ids, allow_undetermined })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.lists.len()
    }

    /// When the first of them has expired, if that matters.
    pub(super) fn due(&self) -> Option<UnixTime> {
        if self.allow_undetermined { None } else { self.lists.iter().filter_map(|list| list.due).min() }
    }

    /// Whether no certificate of `path` is revoked.
    ///
    /// One name stands for one key in a path, or some list's signature is wrong: a path through an authority that renewed
    /// its key and vouches for itself is refused where both keys have lists.
    pub(super) fn check(
        &self,
        path: &VerifiedPath<'_>,
        usage: KeyUsage,
        now: UnixTime,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<(), webpki::Error> {
        let between: Vec<CertificateDer<'_>> = path.intermediate_certificates().map(|issuer| issuer.der()).collect();
        let issuers = path
            .intermediate_certificates()
            .map(|issuer| (issuer.subject(), issuer.subject_public_key_info(), subject_key_id(&issuer.der())))
            .chain(std::iter::once_with(|| {
                let key = spki_for_anchor(path.anchor());
                let known = self.key_ids.iter().find(|(of, _)| *of == key);
                let id = known.map(|(_, id)| id.clone());
                (path.anchor().subject.as_ref(), key, id)
            }));
        let mut offered = vec![false; self.lists.len()];
        for (name, key, key_id) in issuers {
            for (list, offered) in self.lists.iter().zip(&mut offered).filter(|(list, _)| list.list.issuer() == name) {
                match list.whose(&key, key_id.as_deref(), algorithms) {
                    Whose::Issuer => *offered = true,
                    Whose::Another => {}
                    Whose::Nobody => return Err(webpki::Error::UnknownRevocationStatus),
                }
            }
        }
        let lists: Vec<_> = self.lists.iter().zip(offered).filter(|(_, offered)| *offered).collect();
        let lists: Vec<&CertRevocationList<'_>> = lists.into_iter().map(|(list, _)| &list.list).collect();
        // Where nothing needs to be known, a list that has expired still says whom it revokes.
        let (unknown, expired) = match self.allow_undetermined {
            true => (UnknownStatusPolicy::Allow, ExpirationPolicy::Ignore),
            false => (UnknownStatusPolicy::Deny, ExpirationPolicy::Enforce),
        };
        let Ok(options) = RevocationOptionsBuilder::new(&lists) else {
            return if self.allow_undetermined { Ok(()) } else { Err(webpki::Error::UnknownRevocationStatus) };
        };
        let options = options.with_depth(RevocationCheckDepth::Chain).with_status_policy(unknown);
        let options = options.with_expiration_policy(expired).build();
        let anchor: [TrustAnchor<'_>; 1] = [path.anchor().clone()];
        let end_entity: &EndEntityCert<'_> = path.end_entity();
        end_entity.verify_for_usage(algorithms.all, &anchor, &between, now, usage, Some(options), None).map(drop)
    }
}

impl List {
    /// `key_id` is the subject key identifier in the issuer's certificate, if it is known.
    fn whose(
        &self,
        key: &SubjectPublicKeyInfoDer<'_>,
        key_id: Option<&[u8]>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Whose {
        match (&self.signed, &self.key_id, key_id) {
            (signed, ..) if signed.is_by(key, algorithms) => Whose::Issuer,
            (Signed::By(_), ..) => Whose::Another,
            (Signed::BySomebody { .. }, Some(said), Some(wanted)) if said != wanted => Whose::Another,
            (Signed::BySomebody { .. }, ..) => Whose::Nobody,
        }
    }
}

impl Signed {
    fn is_by(&self, key: &SubjectPublicKeyInfoDer<'_>, algorithms: WebPkiSupportedAlgorithms) -> bool {
        let (algorithm, message, signature) = match self {
            Self::By(known) => return known.as_ref() == key.as_ref(),
            Self::BySomebody { algorithm, message, signature } => (algorithm, message, signature),
        };
        let Ok(key) = RawPublicKeyEntity::try_from(key) else { return false };
        // By the identifier without its parameters: what of them must be, `webpki` asks of the lists that it is offered.
        let fits = |one: &&&dyn SignatureVerificationAlgorithm| one.signature_alg_id().as_ref().starts_with(algorithm);
        algorithms.all.iter().filter(fits).any(|one| key.verify_signature(*one, message, signature).is_ok())
    }
}

/// Reads `lists`; the newest comes first.
pub(super) fn read_lists(lists: &[CertificateRevocationListDer<'_>]) -> Result<Vec<List>, IdentityError> {
    let mut read = Vec::with_capacity(lists.len());
    for (index, list) in lists.iter().enumerate() {
        let refused = |reason: String| IdentityError::RevocationList { index, reason };
        let owned = BorrowedCertRevocationList::from_der(list)
            .and_then(|list| list.to_owned())
            .map_err(|error| refused(error.to_string()))?;
        let (_, parsed) = CertificateRevocationList::from_der(list).map_err(|error| refused(error.to_string()))?;
        let oid = parsed.signature_algorithm.oid().as_bytes();
        let length = u8::try_from(oid.len()).map_err(|_| refused("its signature has no known algorithm".to_owned()))?;
        read.push(List {
            list: CertRevocationList::Owned(owned),
            issued: parsed.last_update().timestamp(),
            due: parsed.next_update().map(unix_time),
            key_id: authority_key_id(parsed.extensions()),
            signed: Signed::BySomebody {
                algorithm: [&[0x06, length], oid].concat(),
                message: parsed.tbs_cert_list.as_ref().to_vec(),
                signature: parsed.signature_value.data.to_vec(),
            },
        });
    }
    read.sort_by_key(|list| std::cmp::Reverse(list.issued));
    Ok(read)
}

fn authority_key_id(extensions: &[X509Extension<'_>]) -> Option<Vec<u8>> {
    extensions.iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => Some(id.key_identifier.as_ref()?.0.to_vec()),
        _ => None,
    })
}

fn subject_key_id(authority: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(authority).ok()?;
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}
