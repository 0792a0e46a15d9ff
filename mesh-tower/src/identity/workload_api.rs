//! An identity of the SPIFFE Workload API: what SPIRE's agent, and others, serve on a socket of the machine.
//!
//! One HTTP/2 connection with one call, `FetchX509SVID`, whose stream brings all that this process may use, whole, each
//! time it changes. The client is the `h2` crate and the messages of [`mesh_core`]: no more of gRPC is needed. It was
//! written from the published interface (SPIFFE Workload Endpoint and Workload API), and so is the server in its tests.
//!
//! A stream that ends is begun anew after a pause of 1 s, which grows by 1.6 up to 30 s, each ±20 %, and is short again
//! after a message. While there is none, the last good identity stays.

mod call;
mod endpoint;

use std::sync::Arc;
use std::time::Duration;

use mesh_core::identity::{SpiffeId, TrustDomain, X509Svid, X509SvidResponse, split_certificates};
use mesh_core::model::{self, ConnectBackoff, IdentityFrom};
use mesh_core::resilience::backoff::ConnectBackoffState;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use self::call::Ended;
use self::endpoint::Endpoint;
use super::certificate::Leaf;
use super::material::{Bundles, Material};
use super::source::IdentityUpdates;

/// Where the standard says the endpoint is found.
const VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// How many ids an error names.
const SHOWN: usize = 5;

/// Follows the Workload API that `settings` name. Ends, after it has said why, if that cannot be one.
pub(super) async fn run(settings: Arc<model::Identity>, updates: IdentityUpdates) {
    let IdentityFrom::WorkloadApi { endpoint, spiffe_id } = &settings.source else { return };
    let endpoint = match endpoint {
        Some(endpoint) => endpoint.parse(),
        None => match std::env::var(VARIABLE) {
            Ok(endpoint) => endpoint.parse().map_err(|error| format!("{VARIABLE}: {error}")),
            Err(_) => Err(format!("no endpoint is configured, and {VARIABLE} is not set")),
        },
    };
    match endpoint {
        Ok(endpoint) => follow(&endpoint, spiffe_id.as_ref(), &updates).await,
        Err(error) => updates.failed(error),
    }
}

async fn follow(endpoint: &Endpoint, wanted: Option<&SpiffeId>, updates: &IdentityUpdates) {
    let mut backoff = ConnectBackoff::default();
    (backoff.base, backoff.max) = (FIRST_PAUSE, MAX_PAUSE);
    let mut state = ConnectBackoffState::new();
    loop {
        let ended = call::follow(endpoint, |message| {
            let response = X509SvidResponse::parse(message)?;
            state.reset();
            let used = material(&response, wanted)
                .and_then(|material| updates.offer(material).map_err(|error| error.to_string()));
            if let Err(error) = used {
                // The next message may be better.
                updates.failed(error);
            }
            Some(())
        })
        .await;
        updates.failed(&ended);
        let mut pause = state.next_delay(&backoff, &mut rand::rng());
        if matches!(ended, Ended::Refused { .. }) {
            // It will not be other soon.
            pause = pause.max(MAX_PAUSE);
        }
        tokio::time::sleep(pause).await;
    }
}

/// The identity of a response that is `wanted`, or its first (SPIFFE Workload API, 5.3).
fn material(response: &X509SvidResponse<'_>, wanted: Option<&SpiffeId>) -> Result<Material, String> {
    let svids = &response.svids;
    let svid = match wanted {
        Some(wanted) => svids.iter().find(|svid| svid.spiffe_id == wanted.as_str()).ok_or_else(|| {
            let ids: Vec<_> = svids.iter().take(SHOWN).map(|svid| svid.spiffe_id).collect();
            format!("{wanted} is not issued to this process; {} are, such as {ids:?}", svids.len())
        })?,
        None => svids.first().ok_or("no identity is issued to this process")?,
    };
    let chain = certificates(svid.certificates).ok_or_else(|| malformed(svid, "certificates"))?;
    check_id(svid, &chain)?;
    let mut trust = Bundles::new(certificates(svid.bundle).ok_or_else(|| malformed(svid, "authorities"))?);
    for (name, bundle) in &response.federated_bundles {
        let domain = trust_domain(name).ok_or_else(|| format!("a bundle of {name:?}, which is no trust domain"))?;
        let authorities = certificates(bundle).ok_or_else(|| format!("the bundle of {domain} is malformed"))?;
        trust.others.insert(domain, authorities);
    }
    let key = PrivatePkcs8KeyDer::from(svid.key.to_vec()).into();
    let lists = response.revocation_lists.iter().map(|list| list.to_vec().into()).collect();
    Ok(Material::new(chain, key, trust).with_revocation_lists(lists))
}

fn malformed(svid: &X509Svid<'_>, what: &str) -> String {
    format!("{}: the {what} are malformed", svid.spiffe_id)
}

fn certificates(der: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let certificates = split_certificates(der)?;
    Some(certificates.into_iter().map(|certificate| CertificateDer::from(certificate.to_vec())).collect())
}

/// The certificate must be the announced one's: whoever asked for an id gets that or none.
fn check_id(svid: &X509Svid<'_>, certificates: &[CertificateDer<'_>]) -> Result<(), String> {
    let leaf = certificates.first().and_then(|certificate| Leaf::read(certificate).ok());
    match leaf {
        Some(leaf) if leaf.uris().any(|uri| **uri == *svid.spiffe_id) => Ok(()),
        _ => Err(format!("the certificate that came for {:?} is not of it", svid.spiffe_id)),
    }
}

/// The name is a SPIFFE id without a path; older agents leave out the scheme.
fn trust_domain(name: &str) -> Option<TrustDomain> {
    match SpiffeId::new(name) {
        Ok(id) => id.path().is_empty().then(|| id.trust_domain().clone()),
        Err(_) => TrustDomain::new(name).ok(),
    }
}

#[cfg(test)]
mod tests;
