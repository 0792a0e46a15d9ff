//! Headers that say who a caller is.

use http::HeaderMap;

/// Whether the header `name` says who a caller is, or is an order to a proxy that only those behind it may give: of no
/// worth unless the one who sends it is trusted.
///
/// | header | who writes it |
/// | --- | --- |
/// | `x-forwarded-client-cert` | Envoy, Istio, Linkerd: see [`xfcc`](crate::identity::xfcc) |
/// | `client-cert`, `client-cert-chain` | proxies that end TLS (RFC 9440) |
/// | `x-envoy-*` | Envoy, to other Envoys. Its own edge removes those it knows from what comes from outside, one by one (CVE-2024-45806); here the whole family goes, so that the next one is covered too |
/// | `l5d-*` | Linkerd, `l5d-client-id` among them |
///
/// Not among them: `x-forwarded-for`, `forwarded` and their like, which say where a request came from, not whose it is;
/// and `authorization`, which proves itself.
pub fn is_identity_header(name: &str) -> bool {
    match name.as_bytes().first() {
        Some(b'x') => name == "x-forwarded-client-cert" || name.starts_with("x-envoy-"),
        Some(b'l') => name.starts_with("l5d-"),
        Some(b'c') => name == "client-cert" || name == "client-cert-chain",
        _ => false,
    }
}

/// Removes the headers that say who a caller is. Allocates only if there are any.
pub fn remove_identity_headers(headers: &mut HeaderMap) {
    if !headers.keys().any(|name| is_identity_header(name.as_str())) {
        return;
    }
    let names: Vec<_> = headers.keys().filter(|name| is_identity_header(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::HeaderName;

    use super::*;

    /// AZ-05, AZ-19
    #[test]
    fn az_05_az_19_what_says_who_the_caller_is_goes_and_the_rest_stays() {
        let goes = [
            "x-forwarded-client-cert",
            "x-envoy-internal",
            "x-envoy-external-address",
            "x-envoy-peer-metadata",
            "x-envoy-a-header-of-next-year",
            "l5d-client-id",
            "l5d-dst-override",
            "client-cert",
            "client-cert-chain",
        ];
        let stays = [
            "host",
            "x-forwarded-for",
            "x-request-id",
            "x-envoy",
            "l5d",
            "client-certificate-of-attendance",
            "authorization",
            "traceparent",
        ];
        let mut headers = HeaderMap::new();
        for name in goes.into_iter().chain(stays) {
            // Twice: no value may be left behind. In capitals: names come in lower case whatever is sent.
            headers.append(name, HeaderValue::from_static("one"));
            headers.append(
                HeaderName::from_bytes(name.to_uppercase().as_bytes()).unwrap(),
                HeaderValue::from_static("two"),
            );
        }
        remove_identity_headers(&mut headers);
        assert!(goes.iter().all(|name| !headers.contains_key(*name)), "{headers:?}");
        assert!(stays.iter().all(|name| headers.get_all(*name).iter().count() == 2), "{headers:?}");
    }
}
