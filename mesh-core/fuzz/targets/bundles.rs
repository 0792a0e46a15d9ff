//! What sources of identities are sent: SPIFFE bundle maps, answers of the Workload API, certificates in a row.

use mesh_core::identity::{X509SvidResponse, parse_bundle_map, split_certificates};

/// Each reader sees all of it.
pub fn run(data: &[u8]) {
    if let Ok(bundles) = parse_bundle_map(data) {
        let decoded: usize = bundles.values().flatten().map(Vec::len).sum();
        assert!(decoded <= data.len(), "base64 only grows");
        assert!(bundles.values().flatten().all(|certificate| !certificate.is_empty()));
    }
    if let Some(response) = X509SvidResponse::parse(data) {
        for svid in &response.svids {
            certificates(svid.certificates);
            certificates(svid.bundle);
        }
        response.revocation_lists.iter().for_each(|list| certificates(list));
        let read = response.svids.iter().map(|svid| svid.certificates.len() + svid.key.len() + svid.bundle.len());
        assert!(read.sum::<usize>() <= data.len());
    }
    certificates(data);
}

/// They are all of it, one behind the other, and none is empty.
fn certificates(der: &[u8]) {
    if let Some(certificates) = split_certificates(der) {
        assert!(certificates.iter().all(|certificate| certificate.len() >= 2));
        assert_eq!(certificates.concat(), der);
    }
}
