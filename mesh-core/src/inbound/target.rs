//! What a request is for: its path and its authority, before anybody decides by them.

use http::header::HOST;
use http::request::Parts;
use http::{Method, Version};

/// Why a request is for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadTarget {
    /// Its path does not begin with `/`, or names no method of a gRPC service.
    #[error("the path of a request begins with `/`, and that of a gRPC call is `/service/method`")]
    Path,
    /// It says for which host it is not at all, more than once, in two ways that differ, or with characters that no host
    /// has.
    #[error("a request names one host, once")]
    Authority,
}

/// Whether the target of a request is well-formed; `grpc`: whether it is a gRPC call.
///
/// The path begins with `/` (CVE-2026-33186: a rule for `/pkg.Svc/M` must not be evaded by `pkg.Svc/M`), that of a gRPC
/// call is a service and a method; `*` is for `OPTIONS` alone (RFC 9112 3.2.4), and `CONNECT` has none.
///
/// The host is said once, by the target or one `Host`, or twice the same (RFC 9112 3.2, RFC 9113 8.3.1, gRFC A41); only
/// HTTP/1.0 may leave it out. Case does not count. It has no user information (RFC 9110 4.2.4), and no character beyond
/// those of names, addresses, ports and percent-encoding.
///
/// # Errors
/// Names the first rule that is broken.
pub fn check_target(request: &Parts, grpc: bool) -> Result<(), BadTarget> {
    let path = request.uri.path();
    let well_formed = match &request.method {
        _ if grpc => is_method(path),
        &Method::CONNECT => true,
        method => path.starts_with('/') || (path == "*" && method == Method::OPTIONS),
    };
    if !well_formed {
        return Err(BadTarget::Path);
    }
    let mut hosts = request.headers.get_all(HOST).iter();
    let host = hosts.next().map(|host| host.as_bytes());
    let authority = request.uri.authority().map(|authority| authority.as_str().as_bytes());
    let said_well = match (authority, host, hosts.next()) {
        (_, _, Some(_)) => false,
        (Some(authority), Some(host), None) => is_host(authority) && authority.eq_ignore_ascii_case(host),
        (Some(host), None, None) | (None, Some(host), None) => is_host(host),
        (None, None, None) => request.version < Version::HTTP_11,
    };
    if said_well { Ok(()) } else { Err(BadTarget::Authority) }
}

/// `/service/method`.
fn is_method(path: &str) -> bool {
    let parts = path.strip_prefix('/').and_then(|path| path.rsplit_once('/'));
    parts.is_some_and(|(service, method)| !service.is_empty() && !service.starts_with('/') && !method.is_empty())
}

fn is_host(host: &[u8]) -> bool {
    let may_be = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%:[]".contains(byte);
    !host.is_empty() && host.iter().all(may_be)
}

#[cfg(test)]
mod tests {
    use http::uri::{PathAndQuery, Uri};
    use http::{HeaderValue, Request};

    use super::*;

    /// As `h2` makes it of the pseudo-headers.
    fn http2(method: Method, path: &'static str, authority: Option<&'static str>, hosts: &[&'static str]) -> Parts {
        let mut uri = http::uri::Parts::default();
        uri.scheme = authority.map(|_| http::uri::Scheme::HTTP);
        uri.authority = authority.map(|authority| authority.parse().unwrap());
        uri.path_and_query = Some(PathAndQuery::from_static(path));
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = Uri::from_parts(uri).unwrap();
        for host in hosts {
            request.headers_mut().append(HOST, HeaderValue::from_static(host));
        }
        request.into_parts().0
    }

    #[test]
    fn az_10_a_path_begins_with_a_slash() {
        for (path, http, grpc) in [
            ("/pkg.Svc/M", true, true),
            ("/pkg.Svc/M?q", true, true),
            ("/a/b/M", true, true),
            ("/", true, false),
            ("//svc/m", true, false),
            ("//", true, false),
            ("/svc/", true, false),
            ("/svc", true, false),
            ("*", false, false),
            ("?/svc/m", true, false),
        ] {
            let request = http2(Method::POST, path, Some("greeter"), &[]);
            let ok = |result: Result<(), BadTarget>| result.map_err(|error| assert_eq!(error, BadTarget::Path)).is_ok();
            assert_eq!(ok(check_target(&request, false)), http, "{path:?}");
            assert_eq!(ok(check_target(&request, true)), grpc, "{path:?}");
        }
        // `http` itself takes no other path, and `h2` resets its stream.
        for path in ["pkg.Svc/M", "", "\\svc\\m"] {
            assert!(PathAndQuery::try_from(path).is_err(), "{path:?}");
        }
        assert_eq!(check_target(&http2(Method::OPTIONS, "*", Some("greeter"), &[]), false), Ok(()));
        let mut connect = Request::connect("greeter:80").body(()).unwrap();
        *connect.version_mut() = Version::HTTP_2;
        assert_eq!(check_target(&connect.into_parts().0, false), Ok(()));
    }

    #[test]
    fn az_16_one_host_is_said_once() {
        const OK: Result<(), BadTarget> = Ok(());
        const BAD: Result<(), BadTarget> = Err(BadTarget::Authority);
        for (authority, hosts, expected) in [
            (Some("greeter"), &[][..], OK),
            (Some("greeter:8080"), &[], OK),
            (Some("EXAMPLE.com"), &["example.COM"], OK),
            (Some("[::1]:80"), &[], OK),
            (None, &["example.com"], OK),
            (None, &["%2Frun%2Fa.sock"], OK),
            (None, &[], BAD),
            (None, &[""], BAD),
            (None, &["a", "a"], BAD),
            (Some("a"), &["a", "a"], BAD),
            (Some("a"), &["b"], BAD),
            (Some("a"), &["a:80"], BAD),
            (Some("a"), &[""], BAD),
            (None, &["a, b"], BAD),
            (None, &["a b"], BAD),
            (None, &["a/b"], BAD),
            (None, &["a@b"], BAD),
            (Some("user@a"), &[], BAD),
            (Some("user@a"), &["user@a"], BAD),
        ] {
            let request = http2(Method::GET, "/", authority, hosts);
            assert_eq!(check_target(&request, false), expected, "{authority:?} {hosts:?}");
        }
    }

    #[test]
    fn az_16_only_http_1_0_may_leave_the_host_out() {
        for (version, expected) in [
            (Version::HTTP_10, Ok(())),
            (Version::HTTP_11, Err(BadTarget::Authority)),
            (Version::HTTP_2, Err(BadTarget::Authority)),
        ] {
            let mut request = Request::get("/").body(()).unwrap();
            *request.version_mut() = version;
            assert_eq!(check_target(&request.into_parts().0, false), expected, "{version:?}");
        }
    }
}
