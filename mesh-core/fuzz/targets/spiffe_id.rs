//! SPIFFE ids: reading any text, and saying it again.

use mesh_core::identity::{SpiffeId, TrustDomain};

/// The input is read as an id, and as the name of a trust domain.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read = SpiffeId::new(text);
    assert_eq!(read.is_ok(), plainly(text), "{text:?}");
    if let Ok(id) = read {
        assert_eq!(id.as_str(), text);
        assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
        assert_eq!(id.to_string().parse().as_ref(), Ok(&id));
        assert!(TrustDomain::new(id.trust_domain().as_str()).is_ok());
    }
    if let Ok(domain) = TrustDomain::new(text) {
        let id = SpiffeId::new(&format!("spiffe://{domain}/a")).expect("every trust domain has members");
        assert_eq!((id.trust_domain(), id.path()), (&domain, "/a"));
    }
}

/// The rules again, one after the other (SPIFFE-ID, 2.1 to 2.3).
fn plainly(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("spiffe://") else { return false };
    let mut parts = rest.split('/');
    let domain = parts.next().unwrap_or_default();
    let of = |text: &str, more: &str| text.chars().all(|c| c.is_ascii_digit() || ".-_".contains(c) || more.contains(c));
    const SMALL: &str = "abcdefghijklmnopqrstuvwxyz";
    let any = format!("{SMALL}{}", SMALL.to_uppercase());
    text.len() <= 2048
        && (1..=255).contains(&domain.len())
        && of(domain, SMALL)
        && parts.all(|part| !part.is_empty() && part != "." && part != ".." && of(part, &any))
}
