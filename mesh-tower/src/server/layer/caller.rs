//! Who calls, and what of their word about that is believed.

use std::fmt::Write as _;
use std::sync::Arc;

use http::{Extensions, HeaderMap, HeaderValue};
use mesh_core::identity::xfcc::{Element, XFCC};
use mesh_core::identity::{SubjectAltName, matches_any};
use mesh_core::inbound::remove_identity_headers;
use mesh_core::model::{ForwardedIdentity, ServerTls};
use rustls::crypto::CryptoProvider;
use rustls::crypto::hash::HashAlgorithm;

use crate::server::peer::Peer;
use crate::server::state::{ServerSettings, ServerState};
use crate::telemetry::server::Refusal;

/// Who calls, as whoever took the connection in says. Wherever that is, it is then in `extensions` for the handler.
pub(super) fn find(extensions: &mut Extensions) -> Option<&Arc<Peer>> {
    #[cfg(feature = "axum")]
    if extensions.get::<Arc<Peer>>().is_none()
        && let Some(axum::extract::ConnectInfo(caller)) =
            extensions.get::<axum::extract::ConnectInfo<super::super::Caller>>()
    {
        let peer = Arc::clone(&caller.0);
        extensions.insert(peer);
    }
    extensions.get()
}

/// Whether `peer` gets in. Nobody who is not known does where callers have to be: a layer under an accept loop that does
/// not say who calls lets nobody in.
///
/// The names are looked at again for each request: a list of them that became shorter holds at once, not only when the
/// connections of before have drained.
pub(super) fn let_in(settings: &ServerSettings, peer: Option<&Peer>) -> Result<(), Refusal> {
    match peer {
        Some(peer) if peer.is_mutual() => {
            let known = matches_any(&settings.server.identities, peer.names());
            if known { Ok(()) } else { Err(Refusal::Identity) }
        }
        _ if settings.tls() != ServerTls::Strict => Ok(()),
        Some(_) => Err(Refusal::NotMutual),
        None => Err(Refusal::NoPeer),
    }
}

/// Whether what `peer` says of its own caller is believed.
pub(super) fn is_trusted(forwarded: &ForwardedIdentity, peer: Option<&Peer>) -> bool {
    // An empty list would fit everybody.
    let proxies = &forwarded.trusted_proxies;
    !proxies.is_empty() && peer.is_some_and(|peer| peer.is_mutual() && matches_any(proxies, peer.names()))
}

/// Leaves in `headers` of who the caller is what is true.
pub(super) fn sanitize(
    headers: &mut HeaderMap,
    forwarded: &ForwardedIdentity,
    peer: Option<&Peer>,
    is_trusted: bool,
    state: &ServerState,
) {
    if !is_trusted {
        remove_identity_headers(headers, &forwarded.headers);
    }
    if !forwarded.write {
        return;
    }
    let Some(ours) = peer.and_then(|peer| peer.forwarded.get_or_init(|| describe(peer, state)).clone()) else { return };
    let before: Vec<&[u8]> = headers.get_all(XFCC).iter().map(HeaderValue::as_bytes).collect();
    // As one value: not everybody looks for a second one.
    let whole = match before.is_empty() {
        true => Some(ours),
        false => HeaderValue::from_bytes(&[&before[..], &[ours.as_bytes()]].concat().join(&b","[..])).ok(),
    };
    match whole {
        Some(whole) => headers.insert(XFCC, whole),
        // It cannot be, and nobody may pass for the caller of a proxy.
        None => headers.remove(XFCC),
    };
}

/// What `x-forwarded-client-cert` says of `peer`.
fn describe(peer: &Peer, state: &ServerState) -> Option<HeaderValue> {
    let certified = peer.certified.as_ref()?;
    let own = state.shared.identities.current();
    let own = own.as_ref().and_then(|identity| identity.id());
    let mut element = Element {
        by: own.map(|id| id.to_string()).into_iter().collect(),
        hash: certified.chain().first().and_then(|leaf| sha256(&state.shared.provider, leaf)),
        subject: Some(certified.subject().to_owned()),
        ..Element::default()
    };
    for name in certified.names() {
        match name {
            SubjectAltName::Uri(uri) => element.uri.push(uri.to_string()),
            SubjectAltName::Dns(name) => element.dns.push(name.to_string()),
            _ => {}
        }
    }
    HeaderValue::try_from(element.to_string()).ok()
}

/// In hexadecimal, by the hash of a cipher suite: nobody else has to bring one. `None`: the provider has no such suite.
fn sha256(provider: &CryptoProvider, data: &[u8]) -> Option<String> {
    let hashes = provider.cipher_suites.iter().map(|suite| match suite {
        rustls::SupportedCipherSuite::Tls12(suite) => suite.common.hash_provider,
        rustls::SupportedCipherSuite::Tls13(suite) => suite.common.hash_provider,
    });
    let hash = hashes.into_iter().find(|hash| hash.algorithm() == HashAlgorithm::SHA256)?.hash(data);
    Some(hash.as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    }))
}
