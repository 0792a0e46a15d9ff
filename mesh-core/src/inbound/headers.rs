//! Headers that say who a caller is.

use http::{HeaderMap, HeaderName};

/// Whether the header `name`, in lower case, says who a caller is, or is an order to a proxy that only those behind it may
/// give: of no worth unless the one who sends it is trusted.
///
/// | header | who writes it |
/// | --- | --- |
/// | `x-forwarded-client-cert*` | Envoy, Istio, Linkerd: see [`xfcc`](crate::identity::xfcc) |
/// | `client-cert`, `client-cert-chain` | proxies that end TLS (RFC 9440) |
/// | `x-envoy-*` | Envoy, to other Envoys. Its own edge removes those it knows from what comes from outside, one by one (CVE-2024-45806); here the whole family goes, so that the next one is covered too |
/// | `l5d-*` | Linkerd, `l5d-client-id` among them |
/// | `x-forwarded-tls-client-cert*` | Traefik |
/// | `ssl-client-*` | nginx's ingress controller; Apache and others as `SSL_CLIENT_*` |
/// | `x-ssl-client-*`, `x-ssl-cert*`, `x-tls-client-*` | HAProxy and nginx, by custom |
/// | `x-client-cert*`, `x-client-dn*`, `x-client-verify*` | load balancers of Google, and by custom |
/// | `x-amzn-mtls-*`, `x-arr-clientcert*`, `cf-client-cert*` | load balancers of Amazon, Azure's, Cloudflare's |
/// | `x-spiffe-*` | gateways that know SPIFFE ids, by custom |
///
/// With `_` as with `-`: what becomes an environment variable, as in CGI, makes one name of both.
///
/// Not among them: `x-forwarded-for`, `forwarded` and their like, which say where a request came from, not whose it is;
/// `authorization`, which proves itself; and what a proxy of yours says of its users (`x-forwarded-user`, `x-remote-user`),
/// since its name is yours: list it in `forwarded_identity.headers` of the server.
pub fn is_identity_header(name: &str) -> bool {
    let name = name.as_bytes();
    // What most requests have begins with another letter, or differs in the next few.
    match name.first() {
        Some(b'x') => X_FAMILIES.iter().any(|family| begins(name, family)),
        Some(b'l') => begins(name, b"l5d-"),
        Some(b's') => begins(name, b"ssl-client-"),
        Some(b'c') => {
            is_spelled(name, b"client-cert")
                || is_spelled(name, b"client-cert-chain")
                || begins(name, b"cf-client-cert")
        }
        _ => false,
    }
}

const X_FAMILIES: [&[u8]; 12] = [
    b"x-forwarded-client-cert",
    b"x-envoy-",
    b"x-forwarded-tls-client-cert",
    b"x-ssl-client-",
    b"x-ssl-cert",
    b"x-client-cert",
    b"x-client-dn",
    b"x-client-verify",
    b"x-amzn-mtls-",
    b"x-arr-clientcert",
    b"x-spiffe-",
    b"x-tls-client-",
];

/// Whether `name` is `this`, which is written with `-`.
fn is_spelled(name: &[u8], this: &[u8]) -> bool {
    name.len() == this.len() && begins(name, this)
}

fn begins(name: &[u8], this: &[u8]) -> bool {
    name.len() >= this.len() && name.iter().zip(this).all(|(a, b)| a == b || (*a == b'_' && *b == b'-'))
}

/// Whether both are one header to whoever takes `_` for `-`.
fn are_same(a: &HeaderName, b: &HeaderName) -> bool {
    let (a, b) = (a.as_str().as_bytes(), b.as_str().as_bytes());
    let folded = |byte: &u8| if *byte == b'_' { b'-' } else { *byte };
    a.len() == b.len() && a.iter().map(folded).eq(b.iter().map(folded))
}

/// Removes the headers that say who a caller is, and those of `more`, spelled with `-` or `_`. Allocates only if there are
/// any.
pub fn remove_identity_headers(headers: &mut HeaderMap, more: &[HeaderName]) {
    let goes = |name: &&HeaderName| is_identity_header(name.as_str()) || more.iter().any(|other| are_same(name, other));
    let names: Vec<_> = headers.keys().filter(goes).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

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
            "x-forwarded-tls-client-cert",
            "x-forwarded-tls-client-cert-info",
            "ssl-client-cert",
            "ssl-client-subject-dn",
            "ssl-client-issuer-dn",
            "ssl-client-verify",
            "ssl_client_s_dn",
            "x-ssl-client-cert",
            "x-ssl-client-cn",
            "x-ssl-cert",
            "x-client-cert",
            "x-client-cert-present",
            "x-client-dn",
            "x-client-verify",
            "x-amzn-mtls-clientcert-subject",
            "x-arr-clientcert",
            "cf-client-cert-sha256",
            "x-spiffe-id",
            "x-tls-client-subject",
            "x_forwarded_client_cert",
            "x-forwarded_client-cert",
            "client_cert",
            "l5d_client_id",
        ];
        let stays = [
            "host",
            "x-forwarded-for",
            "x-request-id",
            "x-forwarded-user",
            "x-forwarded-client",
            "x-client-version",
            "content-type",
            "ssl-client",
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
        remove_identity_headers(&mut headers, &[]);
        assert!(goes.iter().all(|name| !headers.contains_key(*name)), "{headers:?}");
        assert!(stays.iter().all(|name| headers.get_all(*name).iter().count() == 2), "{headers:?}");
    }

    /// AZ-05
    #[test]
    fn az_05_what_a_server_names_goes_too_however_it_is_spelled() {
        let more = [HeaderName::from_static("x-remote-user"), HeaderName::from_static("team_id")];
        let mut headers = HeaderMap::new();
        for name in ["x-remote-user", "x_remote_user", "x-remote_user", "team-id", "team_id", "x-remote-users", "team"]
        {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("admin"));
        }
        remove_identity_headers(&mut headers, &more);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["team", "x-remote-users"]);
    }
}
