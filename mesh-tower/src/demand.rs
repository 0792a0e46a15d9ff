//! Services that nobody configured: made when they are first called, from nothing but their name.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use http::uri::Authority;
use mesh_core::model::{
    Backend, BackendId, Discovery, DnsName, Endpoint, Finder, Forward, RootCertificates, Route, Settings, Tls, TlsMode,
    VirtualHost,
};
use rustls_pki_types::ServerName;

use crate::client::Named;
use crate::error::{Error, ErrorKind};

/// The longest key: `https://`, a host and a port.
const MAX_KEY: usize = "https://".len() + 255 + ":65535".len();

/// The service that a client was asked for: `greeter`, `greeter:8080`, `http://greeter`, `https://greeter`,
/// `dns:///greeter:8080`, `unix:/run/greeter.sock`.
pub(crate) fn parse(target: &str) -> Result<Named, Error> {
    let refuse = |text: String| Error::new(ErrorKind::InvalidRequest, format!("the target {target:?} {text}"));
    let named = |authority: &str, key: Option<Arc<str>>, secure| match authority.parse::<Authority>() {
        Ok(authority) if authority.as_str().contains('@') => {
            Err(refuse("holds user information; send an `authorization` header instead".to_owned()))
        }
        Ok(authority) if port(&authority).is_none() => Err(refuse(PORT.to_owned())),
        Ok(authority) => Ok(Named { authority, key, secure, generated: false }),
        Err(error) => {
            Err(refuse(format!("is not a service name or host:port: {error}; write `greeter` or `greeter:8080`")))
        }
    };
    if let Some(path) = target.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if !path.starts_with('/') {
            return Err(refuse("is not the path of a socket; write unix:/run/greeter.sock".to_owned()));
        }
        // gRPC's authority for a peer without a name.
        return named("localhost", Some(format!("unix:{path}").into()), false);
    }
    match target.split_once(':') {
        Some(("http", rest)) => named(slashes(rest).ok_or_else(|| refuse(URI.to_owned()))?, None, false),
        Some(("https", rest)) => named(slashes(rest).ok_or_else(|| refuse(URI.to_owned()))?, None, true),
        Some(("dns", rest)) => {
            let host = match rest.strip_prefix("//") {
                None => rest,
                Some(rest) => rest.strip_prefix('/').ok_or_else(|| {
                    refuse("names a DNS server, which is not supported; write dns:///greeter:8080".to_owned())
                })?,
            };
            let named = named(host, None, false)?;
            let key = key(&named.authority, false, |key| key.map(Arc::from));
            let key = key.ok_or_else(|| refuse(format!("is longer than {MAX_KEY} bytes")))?;
            Ok(Named { key: Some(key), ..named })
        }
        Some(("xds", rest)) if rest.starts_with("//") => {
            Err(refuse("asks for a control plane, which is not supported in this version".to_owned()))
        }
        _ => named(target, None, false),
    }
}

pub(crate) const PORT: &str = "has a port that is none: it must be from 1 to 65535";
const URI: &str = "is neither a service name nor a URI; write http://greeter";

/// What stands behind `//`, without a path of nothing but a slash.
fn slashes(rest: &str) -> Option<&str> {
    let rest = rest.strip_prefix("//")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    (!rest.contains('/')).then_some(rest)
}

/// What the service that is made for `authority` is called. Upper and lower case make no difference.
pub(crate) fn key<R>(authority: &Authority, secure: bool, with: impl FnOnce(Option<&str>) -> R) -> R {
    let mut buffer = [0; MAX_KEY];
    let mut rest = &mut buffer[..];
    let (scheme, default) = if secure { ("https", 443) } else { ("http", 80) };
    let Some(port) = port(authority) else { return with(None) };
    let written = write!(rest, "{scheme}://{}:{}", authority.host(), port.unwrap_or(default));
    let left = rest.len();
    buffer.make_ascii_lowercase();
    let text = written.ok().and_then(|()| std::str::from_utf8(&buffer[..MAX_KEY - left]).ok());
    with(text)
}

/// The port of `authority`, if one is written; `None` if that is none.
pub(crate) fn port(authority: &Authority) -> Option<Option<u16>> {
    // User information, which might stand before the host, is refused wherever it may come from.
    let behind = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    match behind.strip_prefix(':') {
        // RFC 3986 3.2.3 allows a port without digits.
        None | Some("") => Some(None),
        Some(_) => authority.port_u16().filter(|port| *port > 0).map(Some),
    }
}

/// What a [key](key) says of the service that is made for it.
pub(crate) enum Place<'a> {
    Socket(PathBuf),
    /// An IPv6 address stands here without its brackets.
    Host {
        host: &'a str,
        port: u16,
    },
}

impl<'a> Place<'a> {
    /// `None` if `name` is no key: the name of a service that somebody configured.
    pub(crate) fn of(name: &'a str) -> Option<Self> {
        if let Some(path) = name.strip_prefix("unix:").filter(|path| path.starts_with('/')) {
            return Some(Self::Socket(path.into()));
        }
        let place = name.strip_prefix("http://").or_else(|| name.strip_prefix("https://"))?;
        let (host, port) = place.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Some(Self::Host { host, port: port.parse().ok()? })
    }
}

/// The service behind `key`.
///
/// # Errors
/// If its host cannot be the name of one.
pub(crate) fn service(key: &str, settings: &Settings) -> Result<(VirtualHost, Backend), Error> {
    let id = BackendId::new(key, "dns");
    let mut backend = Backend::new(id.clone(), Vec::new());
    backend.connect_timeout = settings.defaults.connect_timeout;
    backend.load_balancer = settings.defaults.load_balancer.clone();
    backend.protocol = settings.defaults.protocol;
    backend.circuit_breaker = settings.defaults.circuit_breaker;
    backend.outlier_detection = settings.defaults.outlier_detection.clone();
    backend.connections.keepalive = settings.defaults.keepalive;
    backend.tls = settings.defaults.tls.clone();
    match Place::of(key) {
        Some(Place::Socket(path)) => backend.endpoints.push(Endpoint::new(path)),
        Some(Place::Host { host, port }) => {
            match host.parse::<IpAddr>() {
                Ok(address) => backend.endpoints.push(Endpoint::new(std::net::SocketAddr::new(address, port))),
                Err(_) if is_host(host) => {
                    let name = DnsName::Host { host: host.into(), port };
                    backend.discovery = Some(Discovery::new(Finder::Dns(name)));
                }
                Err(_) => return Err(no_host(host)),
            }
            if key.starts_with("https:") {
                // Whoever writes it means the world outside of the mesh.
                backend.tls = Some(Tls::simple(RootCertificates::WebPki));
            }
            if let Some(tls) = backend.tls.as_mut().filter(|tls| tls.mode == TlsMode::Simple)
                && tls.server_name.is_none()
            {
                if ServerName::try_from(host).is_err() {
                    let text = format!("{host:?} is neither a DNS name nor an IP address: no certificate can prove it");
                    return Err(Error::new(ErrorKind::InvalidRequest, text));
                }
                tls.server_name = Some(host.into());
            }
        }
        None => return Err(no_host(key)),
    }
    let mut forward = Forward::to(id);
    forward.policy.timeout = settings.defaults.timeout;
    forward.policy.retry = settings.defaults.retry.clone();
    // Without a host: no authority selects it, and it stands in the way of no wildcard.
    Ok((VirtualHost::new(key, Vec::new()).with_route(Route::new(forward)), backend))
}

fn no_host(host: &str) -> Error {
    let text = format!("{host:?} cannot be the name of a host: it holds letters, digits, `-`, `_` and `.` only");
    Error::new(ErrorKind::InvalidRequest, text)
}

/// Whether `host` can be asked of DNS (RFC 1123 2.1, and the underscore that people use).
fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    host.len() <= 253 && host.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mesh_core::model::{Keepalive, OutlierDetection};

    use super::*;

    #[test]
    fn targets_are_read_as_written() {
        type Case<'a> = (&'a str, Option<(&'a str, Option<&'a str>, bool)>);
        let cases: [Case<'_>; 24] = [
            ("greeter", Some(("greeter", None, false))),
            ("greeter:8080", Some(("greeter:8080", None, false))),
            ("http://greeter", Some(("greeter", None, false))),
            ("http://greeter:8080/", Some(("greeter:8080", None, false))),
            ("https://greeter", Some(("greeter", None, true))),
            ("[::1]:80", Some(("[::1]:80", None, false))),
            ("dns:///greeter:8080", Some(("greeter:8080", Some("http://greeter:8080"), false))),
            ("dns:greeter", Some(("greeter", Some("http://greeter:80"), false))),
            ("unix:/run/a.sock", Some(("localhost", Some("unix:/run/a.sock"), false))),
            ("unix:///run/a.sock", Some(("localhost", Some("unix:/run/a.sock"), false))),
            ("unix:/run/A.sock", Some(("localhost", Some("unix:/run/A.sock"), false))),
            ("unix:run/a.sock", None),
            ("dns://8.8.8.8/greeter", None),
            ("xds:///greeter", None),
            ("http://greeter/path", None),
            ("http:greeter", None),
            ("me@greeter", None),
            ("greeter:99999", None),
            ("a:a", None),
            ("greeter:0", None),
            ("dns:///greeter:https", None),
            ("greeter:", Some(("greeter:", None, false))),
            ("a b", None),
            ("", None),
        ];
        for (target, expected) in cases {
            let got = parse(target);
            let got = got.as_ref().ok().map(|named| (named.authority.as_str(), named.key.as_deref(), named.secure));
            assert_eq!(got, expected, "{target:?}");
        }
    }

    #[test]
    fn a_key_holds_scheme_host_and_port() {
        let cases = [
            ("greeter", false, "http://greeter:80"),
            ("greeter", true, "https://greeter:443"),
            ("greeter:8080", true, "https://greeter:8080"),
            ("[::1]", false, "http://[::1]:80"),
        ];
        for (authority, secure, expected) in cases {
            key(&authority.parse().unwrap(), secure, |key| assert_eq!(key, Some(expected)));
        }
        key(&"GREETER".parse().unwrap(), false, |key| assert_eq!(key, Some("http://greeter:80")));
        for authority in ["greeter:65536", "greeter:0"] {
            key(&authority.parse().unwrap(), false, |key| assert_eq!(key, None, "{authority}"));
        }
        key(&"a".repeat(300).parse().unwrap(), false, |key| assert_eq!(key, None));
    }

    #[test]
    fn a_service_is_made_of_its_key() {
        let mut settings = Settings::default();
        settings.defaults.circuit_breaker.max_requests = Some(1024);
        settings.defaults.outlier_detection = Some(OutlierDetection::default());
        settings.defaults.keepalive = Some(Keepalive::new(Duration::from_secs(60)));
        let (host, backend) = service("https://greeter.example:8443", &settings).unwrap();
        assert_eq!(backend.circuit_breaker, settings.defaults.circuit_breaker);
        assert_eq!(backend.outlier_detection, settings.defaults.outlier_detection);
        assert_eq!(backend.connections.keepalive, settings.defaults.keepalive);
        assert_eq!((&*host.name, &*host.hosts), ("https://greeter.example:8443", &[][..]));
        let name = DnsName::Host { host: "greeter.example".into(), port: 8443 };
        assert_eq!(backend.discovery, Some(Discovery::new(Finder::Dns(name))));
        assert_eq!(backend.tls.unwrap().server_name.as_deref(), Some("greeter.example"));

        let (_, backend) = service("http://[::1]:8080", &settings).unwrap();
        assert_eq!(backend.endpoints, [Endpoint::new("[::1]:8080".parse::<std::net::SocketAddr>().unwrap())]);
        assert_eq!((backend.discovery, backend.tls), (None, None));

        let (_, backend) = service("unix:/run/A.sock", &settings).unwrap();
        assert_eq!(backend.endpoints[0].address.to_string(), "unix:/run/A.sock");

        for host in ["a..b", "a$b", "-a", "a-.b", &"a".repeat(64)] {
            let error = service(&format!("http://{host}:80"), &settings).unwrap_err();
            assert!(error.to_string().contains("cannot be the name of a host"), "{error}");
        }
        assert_eq!(service("https://10.0.0:443", &settings).unwrap_err().kind(), ErrorKind::InvalidRequest);
    }

    /// What nobody asks for by `https` is spoken to as the defaults say: with an identity by mutual TLS.
    #[test]
    fn a_service_without_https_has_the_default_tls() {
        let tls = |key: &str, default: &Tls| {
            let mut settings = Settings::default();
            settings.defaults.tls = Some(default.clone());
            service(key, &settings).map(|(_, backend)| backend.tls.unwrap())
        };
        let mutual = Tls::mutual(Vec::new());
        for key in ["http://greeter:80", "http://10.0.0:80", "http://[::1]:80", "unix:/run/a.sock"] {
            assert_eq!(tls(key, &mutual).unwrap(), mutual, "{key}");
        }
        let named = |mut tls: Tls, name: &str| {
            tls.server_name = Some(name.into());
            tls
        };
        let public = named(Tls::simple(RootCertificates::WebPki), "greeter");
        let private = Tls::simple(RootCertificates::PemFile("ca.crt".into()));
        for default in [&mutual, &private] {
            assert_eq!(tls("https://greeter:443", default).unwrap(), public);
        }
        assert_eq!(tls("http://greeter:80", &private).unwrap(), named(private.clone(), "greeter"));
        let own = named(private.clone(), "own.example");
        assert_eq!(tls("http://10.0.0:80", &own).unwrap(), own);
        assert_eq!(tls("http://10.0.0:80", &private).unwrap_err().kind(), ErrorKind::InvalidRequest);
    }

    proptest::proptest! {
        /// Targets come from configuration files and command lines, keys from whatever a caller calls.
        #[test]
        fn whatever_can_be_read_makes_a_service_or_an_error(
            target in r"\PC{0,300}|(unix:|dns:///|https?://)?[a-zA-Z0-9.:/%@_\[\]-]{0,80}"
        ) {
            let Ok(named) = parse(&target) else { return Ok(()) };
            let made = |key: Option<&str>| key.map(|key| (key.to_owned(), service(key, &Settings::default())));
            let made = match &named.key {
                Some(key) => made(Some(key)),
                None => key(&named.authority, named.secure, made),
            };
            if let Some((key, Ok((host, backend)))) = made {
                proptest::prop_assert!(key.starts_with("unix:") || key == key.to_ascii_lowercase(), "{}", key);
                proptest::prop_assert_eq!(&*host.name, key);
                proptest::prop_assert_eq!(backend.endpoints.is_empty(), backend.discovery.is_some());
            }
        }
    }
}
