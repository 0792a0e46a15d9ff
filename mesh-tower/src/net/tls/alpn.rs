//! What is offered by ALPN, and what the answer means.
//!
//! Istio's sidecars tell traffic of the mesh from other traffic by the names `istio-h2`, `istio-http/1.1` and `istio` in
//! the list that a client offers, and choose the ordinary name that stands behind them. A server that knows only `istio`
//! agrees on that, or on nothing, and looks at what it is sent.

const ALPN_H2: &[u8] = b"h2";
const ALPN_H1: &[u8] = b"http/1.1";
const ISTIO_H2: &[u8] = b"istio-h2";
const ISTIO_HTTP1: &[u8] = b"istio-http/1.1";
const ISTIO: &[u8] = b"istio";

/// Which versions of HTTP are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) enum Offer {
    Http1,
    Http2,
    /// Both, HTTP/2 first.
    Both,
}

impl Offer {
    pub(super) const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Both];

    /// The names for it. `mesh`: towards peers of the mesh, as Istio's sidecars do among themselves.
    pub(super) fn names(self, mesh: bool) -> Vec<Vec<u8>> {
        let names: &[&[u8]] = match (self, mesh) {
            (Self::Http1, false) => &[ALPN_H1],
            (Self::Http2, false) => &[ALPN_H2],
            (Self::Both, false) => &[ALPN_H2, ALPN_H1],
            (Self::Http1, true) => &[ISTIO_HTTP1, ISTIO, ALPN_H1],
            (Self::Http2, true) => &[ISTIO_H2, ISTIO, ALPN_H2],
            (Self::Both, true) => &[ISTIO_H2, ISTIO_HTTP1, ISTIO, ALPN_H2, ALPN_H1],
        };
        names.iter().map(|name| name.to_vec()).collect()
    }
}

/// Whether the peer's choice means HTTP/2. `None`: it says nothing of HTTP.
pub(super) fn means_h2(chosen: Option<&[u8]>) -> Option<bool> {
    match chosen? {
        ALPN_H2 | ISTIO_H2 => Some(true),
        ALPN_H1 | ISTIO_HTTP1 => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `istio.alpn` writes, and what Envoy's PERMISSIVE filter chains were seen to take.
    #[test]
    fn peers_of_the_mesh_are_offered_what_istio_offers() {
        let offered = |offer: Offer, mesh| {
            let names: Vec<_> = offer.names(mesh).iter().map(|name| String::from_utf8(name.clone()).unwrap()).collect();
            names.join(" ")
        };
        for (offer, plain, mesh) in [
            (Offer::Http1, "http/1.1", "istio-http/1.1 istio http/1.1"),
            (Offer::Http2, "h2", "istio-h2 istio h2"),
            (Offer::Both, "h2 http/1.1", "istio-h2 istio-http/1.1 istio h2 http/1.1"),
        ] {
            assert_eq!((offered(offer, false).as_str(), offered(offer, true).as_str()), (plain, mesh), "{offer:?}");
        }
    }

    #[test]
    fn what_is_chosen_means_a_version_or_nothing() {
        let table: [(Option<&[u8]>, Option<bool>); 6] = [
            (Some(b"h2"), Some(true)),
            (Some(b"istio-h2"), Some(true)),
            (Some(b"http/1.1"), Some(false)),
            (Some(b"istio-http/1.1"), Some(false)),
            (Some(b"istio"), None),
            (None, None),
        ];
        for (chosen, means) in table {
            assert_eq!(means_h2(chosen), means, "{chosen:?}");
        }
    }
}
