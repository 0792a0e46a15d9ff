use std::net::SocketAddr;
use std::path::PathBuf;

use http::header::{self, HeaderName, HeaderValue};

use super::RequestHead;
use super::cookie::{cookie, covers, set_cookie};
use crate::base64;
use crate::model::{Address, SessionAffinity};

/// The session of a request (gRFC A55): what it says of the endpoint that served it before.
///
/// It is told by the endpoint's address in base64, as Envoy writes it. Callers can forge it, and reach any endpoint of
/// the backend that their request goes to, and none besides.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Session {
    /// The endpoint of the session, if it has one. Nobody says that it exists.
    pub endpoint: Option<Address>,
}

/// The longest base64 of an address: more than the path of a Unix socket takes.
const MAX_TEXT: usize = 256;

impl Session {
    /// The session of a request with `head`; `None` if it is outside of the path of the cookie.
    ///
    /// What is not base64 of an address counts as nothing.
    pub fn of(affinity: &SessionAffinity, head: &RequestHead<'_>) -> Option<Self> {
        let text = match affinity {
            SessionAffinity::Cookie { path, .. } if !covers(path, head.path) => return None,
            SessionAffinity::Cookie { name, .. } => cookie(head.headers, name),
            SessionAffinity::Header(name) => head.headers.get(name).map(HeaderValue::as_bytes),
        };
        Some(Self { endpoint: text.and_then(decode) })
    }

    /// What the response tells the caller of the session: a header to be added (a cookie) or set (any other); nothing
    /// if the endpoint that `served` is the one that the request named.
    pub fn told(&self, affinity: &SessionAffinity, served: &Address) -> Option<(HeaderName, HeaderValue)> {
        if self.endpoint.as_ref() == Some(served) {
            return None;
        }
        let text = base64::encode(served.to_string().as_bytes());
        match affinity {
            SessionAffinity::Cookie { name, ttl, path } => {
                Some((header::SET_COOKIE, set_cookie(name, &text, *ttl, Some(path))?))
            }
            SessionAffinity::Header(name) => Some((name.clone(), text.try_into().ok()?)),
        }
    }
}

fn decode(text: &[u8]) -> Option<Address> {
    let mut decoded = [0; MAX_TEXT / 4 * 3 + 2];
    if text.len() > MAX_TEXT {
        return None;
    }
    let length = base64::decode(text, &mut decoded)?;
    let text = std::str::from_utf8(&decoded[..length]).ok()?;
    if let Some(path) = text.strip_prefix("unix:") {
        return Some(PathBuf::from(path).into());
    }
    // gRPC puts further addresses of the endpoint, and its cluster, behind the first one (gRFC A60, A61).
    let first = text.split([',', ';']).next()?;
    first.parse::<SocketAddr>().ok().map(Address::from)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, Method};
    use proptest::prelude::*;

    use super::*;

    fn in_cookie(path: &str) -> SessionAffinity {
        SessionAffinity::Cookie { name: "s".into(), ttl: Duration::from_secs(60), path: path.into() }
    }

    fn session(affinity: &SessionAffinity, path: &str, headers: &HeaderMap) -> Option<Session> {
        Session::of(affinity, &RequestHead { method: &Method::GET, authority: "a", path, query: None, headers })
    }

    fn with(name: &'static str, value: &[u8]) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())])
    }

    fn address(text: &str) -> Address {
        text.parse::<SocketAddr>().unwrap().into()
    }

    /// gRFC A55; the first value is the one of Envoy's documentation.
    #[test]
    fn the_endpoint_of_a_session_is_read() {
        let encoded = |text: &str| base64::encode(text.as_bytes());
        let cases = [
            ("MS4yLjMuNDo4MA==".to_owned(), Some(address("1.2.3.4:80"))),
            ("\"MS4yLjMuNDo4MA==\"".to_owned(), Some(address("1.2.3.4:80"))),
            ("MS4yLjMuNDo4MA".to_owned(), Some(address("1.2.3.4:80"))),
            (encoded("[2001:db8::1]:80"), Some(address("[2001:db8::1]:80"))),
            (encoded("unix:/run/a;b.sock"), Some(PathBuf::from("/run/a;b.sock").into())),
            (encoded("1.2.3.4:80;cluster:c"), Some(address("1.2.3.4:80"))),
            (encoded("1.2.3.4:80,5.6.7.8:90;cluster:c"), Some(address("1.2.3.4:80"))),
            (encoded("1.2.3.4"), None),
            (encoded("example.org:80"), None),
            (encoded("1.2.3.4:80 "), None),
            (encoded(""), None),
            (base64::encode(&[0xff; 9]), None),
            ("1.2.3.4:80".to_owned(), None),
            ("A".repeat(MAX_TEXT), None),
            ("A".repeat(MAX_TEXT + 4), None),
            ("A".repeat(1 << 16), None),
        ];
        for (text, wanted) in cases {
            let found = session(&in_cookie("/"), "/", &with("cookie", format!("a=b; s={text}").as_bytes())).unwrap();
            assert_eq!(found.endpoint, wanted, "cookie {text}");
            if !text.starts_with('"') {
                let header = SessionAffinity::Header(HeaderName::from_static("x-session"));
                let found = session(&header, "/", &with("x-session", text.as_bytes())).unwrap();
                assert_eq!(found.endpoint, wanted, "header {text}");
            }
        }
    }

    #[test]
    fn a_request_outside_of_the_path_has_no_session() {
        let headers = with("cookie", b"s=MS4yLjMuNDo4MA==");
        assert_eq!(session(&in_cookie("/cart"), "/carts", &headers), None);
        assert_eq!(session(&in_cookie("/cart"), "/", &headers), None);
        let inside = session(&in_cookie("/cart"), "/cart/1", &headers).unwrap();
        assert_eq!(inside.endpoint, Some(address("1.2.3.4:80")));
    }

    #[test]
    fn a_response_tells_what_the_request_did_not() {
        let (affinity, served) = (in_cookie("/a"), address("1.2.3.4:80"));
        let told = |endpoint| Session { endpoint }.told(&affinity, &served);
        let cookie = "s=MS4yLjMuNDo4MA==; Max-Age=60; Path=/a; HttpOnly";
        let wanted = Some((header::SET_COOKIE, HeaderValue::from_static(cookie)));
        assert_eq!(told(None), wanted);
        assert_eq!(told(Some(address("1.2.3.4:81"))), wanted);
        assert_eq!(told(Some(served.clone())), None);
        let name = HeaderName::from_static("x-session");
        let told = Session { endpoint: None }.told(&SessionAffinity::Header(name.clone()), &served);
        assert_eq!(told, Some((name, HeaderValue::from_static("MS4yLjMuNDo4MA=="))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(value in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let headers = HeaderMap::from_iter([(header::COOKIE, value)]);
                prop_assert!(session(&in_cookie("/"), "/", &headers).is_some());
            }
            let encoded = with("cookie", format!("s={}", base64::encode(&value)).as_bytes());
            prop_assert!(session(&in_cookie("/"), "/", &encoded).is_some());
        }

        #[test]
        fn what_a_response_tells_is_read_again(ip in any::<std::net::IpAddr>(), port in any::<u16>()) {
            let served = Address::from(SocketAddr::new(ip, port));
            let (_, set) = Session { endpoint: None }.told(&in_cookie("/"), &served).unwrap();
            let pair = set.to_str().unwrap().split(';').next().unwrap();
            let found = session(&in_cookie("/"), "/", &with("cookie", pair.as_bytes())).unwrap();
            prop_assert_eq!(found.endpoint, Some(served));
        }
    }
}
