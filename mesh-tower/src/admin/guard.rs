//! Who may ask for a page, and what a browser may do with it.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::Authority;
use http::{Method, StatusCode};
use mesh_core::inbound::check_target;

use super::page::text;
use super::router::Pages;
use crate::server::Peer;

/// What every answer says to a browser: nothing is loaded, run, framed, guessed or kept (AD-05).
const RULES: [(HeaderName, HeaderValue); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// Goes on to the page if the request may have it.
pub(super) async fn guard(State(pages): State<Arc<Pages>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let mut response = match refuse(&parts, &pages.hosts()) {
        Some(refusal) => refusal,
        None => next.run(Request::from_parts(parts, body)).await,
    };
    secure(response.headers_mut());
    response
}

fn secure(headers: &mut HeaderMap) {
    for (name, value) in &RULES {
        headers.insert(name, value.clone());
    }
}

/// Why a request gets nothing, if it does not (AD-04).
fn refuse(parts: &Parts, hosts: &[Arc<str>]) -> Option<Response<Body>> {
    if let Err(error) = check_target(parts, false) {
        return Some(text(StatusCode::BAD_REQUEST, format!("{error}\n")));
    }
    let certified = parts.extensions.get::<Arc<Peer>>().is_some_and(|peer| peer.is_mutual());
    if !certified && !said_hosts(parts).all(|host| is_known(host, hosts)) {
        let why = "The host of the request is no IP address, not `localhost`, and not in `admin.hosts`.\n";
        return Some(text(StatusCode::FORBIDDEN, why));
    }
    let reads = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
    if !reads && parts.headers.contains_key(header::ORIGIN) {
        return Some(text(StatusCode::FORBIDDEN, "A page in a browser may change nothing here.\n"));
    }
    None
}

/// Every host that the request says it is for.
fn said_hosts(parts: &Parts) -> impl Iterator<Item = &[u8]> {
    let target = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    target.into_iter().chain(parts.headers.get_all(header::HOST).iter().map(HeaderValue::as_bytes))
}

/// Whether no name that somebody else could let point here is in `said`, a host with or without a port.
fn is_known(said: &[u8], hosts: &[Arc<str>]) -> bool {
    let Ok(authority) = Authority::try_from(said) else { return false };
    let host = authority.host();
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        // Behind `%` is a zone of this machine (RFC 6874).
        return address.split('%').next().is_some_and(|address| address.parse::<IpAddr>().is_ok());
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let is = |known: &str| name.eq_ignore_ascii_case(known.strip_suffix('.').unwrap_or(known));
    name.parse::<IpAddr>().is_ok() || is("localhost") || hosts.iter().any(|known| is(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ad_04_only_names_that_nobody_else_has_are_answered() {
        let hosts = ["metrics.shop.svc".into(), "Rooted.example.".into()];
        for (said, expected) in [
            ("127.0.0.1", true),
            ("127.0.0.1:15000", true),
            ("10.1.2.3:15000", true),
            ("[::1]", true),
            ("[::1]:15000", true),
            ("[fe80::1%25eth0]:80", true),
            ("localhost", true),
            ("LocalHost:15000", true),
            ("localhost.:15000", true),
            ("metrics.shop.svc:15000", true),
            ("METRICS.shop.svc", true),
            ("rooted.example", true),
            ("evil.example", false),
            ("evil.example:15000", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("127.0.0.1@evil.example", false),
            ("user@127.0.0.1@evil.example", false),
            ("evil.localhost", false),
            ("127.1", false),
            ("0x7f000001", false),
            ("2130706433", false),
            ("[evil.example]", false),
            ("::1", false),
            ("", false),
            (".", false),
            (":15000", false),
        ] {
            assert_eq!(is_known(said.as_bytes(), &hosts), expected, "{said}");
        }
    }
}
