//! What is sent as the head of a request: the caller's, put right for the hop.

use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Uri, Version};
use mesh_core::grpc;
use mesh_core::matching::RequestHead;
use mesh_core::model::{Settings, UnknownServices};

use super::target::Target;
use crate::demand;
use crate::error::{Error, ErrorKind};
use crate::options::RequestOptions;
use crate::telemetry::spans::{AttemptSpan, Facts};

/// A request's head, kept for every attempt.
pub(crate) struct Head {
    method: Method,
    /// What the caller called.
    authority: Authority,
    /// What selects the service in place of the authority.
    key: Option<Arc<str>>,
    /// What the peer is told: the caller's `Host`, or the authority.
    host: Option<HeaderValue>,
    path: PathAndQuery,
    headers: HeaderMap,
    secure: bool,
    grpc: bool,
    /// Whether nothing tells how long the body is.
    streamed: bool,
    caller_timeout: Option<Duration>,
    options: RequestOptions,
    /// Whether generated code stands for the path.
    generated: bool,
}

impl Head {
    pub(crate) fn new(parts: http::request::Parts, target: &Target) -> Result<Self, Error> {
        let http::request::Parts { method, uri, mut headers, mut extensions, .. } = parts;
        let options = extensions.remove::<RequestOptions>().unwrap_or_default();
        let uri = uri.into_parts();
        if method == Method::CONNECT {
            return Err(upgrade_refused("CONNECT"));
        }
        let authority = match (target, uri.authority) {
            (Target::Named(named), _) => named.authority.clone(),
            (Target::Uri, Some(authority)) => authority,
            (Target::Uri, None) => {
                return Err(Error::new(
                    ErrorKind::InvalidRequest,
                    format!(
                        "the URI {:?} names no service; write http://SERVICE{}",
                        uri.path_and_query.as_ref().map_or("/", PathAndQuery::as_str),
                        uri.path_and_query.as_ref().map_or("/", PathAndQuery::path),
                    ),
                ));
            }
        };
        if authority.as_str().contains('@') {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                "the authority holds user information; send an `authorization` header instead",
            ));
        }
        let scheme = uri.scheme.as_ref().map(Scheme::as_str);
        let secure = match (target, scheme) {
            (Target::Named(named), _) if named.secure => true,
            (_, None | Some("http")) => false,
            (_, Some("https")) => true,
            (_, Some(other)) => {
                return Err(Error::new(
                    ErrorKind::InvalidRequest,
                    format!("the scheme {other:?} is not supported; write http:// or https://"),
                ));
            }
        };
        if headers.keys().any(is_hop_by_hop) {
            strip_hop_by_hop(&mut headers)?;
        }
        let host = headers.remove(header::HOST);
        let grpc = grpc::is_grpc(&headers);
        let mut caller_timeout = options.timeout;
        if grpc {
            headers.remove(grpc::GRPC_PREVIOUS_RPC_ATTEMPTS);
            if let Some(value) = headers.get(grpc::GRPC_TIMEOUT) {
                let told = grpc::parse_timeout(value.as_bytes()).map_err(|error| {
                    Error::new(ErrorKind::InvalidRequest, format!("grpc-timeout: {value:?}: {error}"))
                })?;
                caller_timeout = Some(caller_timeout.map_or(told, |timeout| timeout.min(told)));
            }
        }
        let path = uri.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let (key, generated) = match target {
            Target::Named(named) => (named.key.clone(), named.generated),
            Target::Uri => (None, false),
        };
        Ok(Self {
            method,
            authority,
            key,
            host,
            path,
            headers,
            secure,
            grpc,
            streamed: false,
            caller_timeout,
            options,
            generated,
        })
    }

    /// What routing looks at.
    pub(crate) fn request_head(&self) -> RequestHead<'_> {
        RequestHead {
            method: &self.method,
            authority: self.authority.as_str(),
            path: self.path.path(),
            query: self.path.query(),
            headers: &self.headers,
        }
    }

    /// What selects the service.
    pub(crate) fn key(&self) -> &str {
        self.key.as_deref().unwrap_or(self.authority.as_str())
    }

    /// What selects the service if it may be made on demand.
    pub(crate) fn with_demand<R>(&self, settings: &Settings, with: impl FnOnce(Option<&str>) -> R) -> R {
        match &self.key {
            Some(key) => with(Some(key)),
            None if settings.unknown_services == UnknownServices::Dns => {
                demand::key(&self.authority, self.secure, with)
            }
            None => with(None),
        }
    }

    /// Whether the target says what selects the service, and no authority does.
    pub(crate) fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Whether the port that is written, if one is, is one.
    pub(crate) fn names_a_port(&self) -> bool {
        demand::port(&self.authority).is_some()
    }

    pub(crate) fn options(&self) -> &RequestOptions {
        &self.options
    }

    /// The path, if generated code stands for it.
    pub(crate) fn generated_path(&self) -> Option<&str> {
        self.generated.then(|| self.path())
    }

    pub(crate) fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.headers
    }

    /// What a span says of it.
    pub(crate) fn facts(&self) -> Facts<'_> {
        Facts {
            method: &self.method,
            authority: Some(&self.authority),
            secure: self.secure,
            path: &self.path,
            grpc: self.grpc,
        }
    }

    pub(crate) fn method(&self) -> &Method {
        &self.method
    }

    pub(crate) fn path(&self) -> &str {
        self.path.path()
    }

    pub(crate) fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// Whether the caller wrote `https`.
    pub(crate) fn is_secure(&self) -> bool {
        self.secure
    }

    /// The whole call may take no longer than `limit`.
    pub(crate) fn limit_to(&mut self, limit: Duration) {
        self.caller_timeout = Some(self.caller_timeout.map_or(limit, |timeout| timeout.min(limit)));
    }

    /// The time the caller gives the whole call.
    pub(crate) fn caller_timeout(&self) -> Option<Duration> {
        self.caller_timeout
    }

    /// States the length of the body, as RFC 9110 8.6 asks of a client that knows it.
    ///
    /// # Errors
    /// If the caller stated another one.
    pub(crate) fn set_content_length(&mut self, length: Option<u64>) -> Result<(), Error> {
        let Some(length) = length else {
            self.streamed = !self.headers.contains_key(header::CONTENT_LENGTH);
            return Ok(());
        };
        if let Some(stated) = self.headers.get(header::CONTENT_LENGTH) {
            let right = stated.to_str().ok().and_then(|text| text.parse().ok()) == Some(length);
            let text =
                format!("content-length says {stated:?} and the body has {length} bytes; leave it to the client");
            return if right { Ok(()) } else { Err(Error::new(ErrorKind::InvalidRequest, text)) };
        }
        let expected = matches!(self.method, Method::POST | Method::PUT | Method::PATCH);
        if !self.grpc && (length > 0 || expected) {
            self.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        Ok(())
    }

    /// The head of one attempt over HTTP/2.
    pub(crate) fn http2(&self, tls: bool, per_attempt: &PerAttempt<'_>) -> Request<()> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
        // A `Host` that is no authority cannot be told in HTTP/2; the service's name is.
        let host = self.host.as_ref().and_then(|host| Authority::try_from(host.as_bytes()).ok());
        uri.authority = Some(host.unwrap_or_else(|| self.authority.clone()));
        uri.path_and_query = Some(self.path.clone());
        let mut request = self.request(Uri::from_parts(uri).unwrap_or_default(), per_attempt);
        *request.version_mut() = Version::HTTP_2;
        request
    }

    /// The head of one attempt over HTTP/1.1: the path alone, and a `Host` (RFC 9112 3.2).
    pub(crate) fn http1(&self, per_attempt: &PerAttempt<'_>) -> Request<()> {
        let mut uri = http::uri::Parts::default();
        uri.path_and_query = Some(self.path.clone());
        let mut request = self.request(Uri::from_parts(uri).unwrap_or_default(), per_attempt);
        let host = match &self.host {
            Some(host) => Some(host.clone()),
            None => HeaderValue::from_str(self.authority.as_str()).ok(),
        };
        if let Some(host) = host {
            request.headers_mut().insert(header::HOST, host);
        }
        if self.headers.contains_key(header::TE) {
            // RFC 9110 10.1.4: TE is of the hop, and named as such.
            request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
        if self.streamed {
            // Unless told, hyper takes it that a GET has no body, and drops it; and of a body that is replayed it learns
            // the length, and drops the trailers.
            request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        *request.version_mut() = Version::HTTP_11;
        request
    }

    fn request(&self, uri: Uri, per_attempt: &PerAttempt<'_>) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        *headers = self.headers.clone();
        per_attempt.span.inject(per_attempt.settings, headers);
        if self.grpc {
            if per_attempt.previous > 0 {
                headers.insert(grpc::GRPC_PREVIOUS_RPC_ATTEMPTS, HeaderValue::from(per_attempt.previous));
            }
            if let Some(timeout) = per_attempt.timeout {
                headers.insert(grpc::GRPC_TIMEOUT, grpc::encode_timeout(timeout));
            }
        }
        request
    }
}

/// What differs from attempt to attempt.
pub(crate) struct PerAttempt<'a> {
    /// How many attempts the policy made before this one.
    pub(crate) previous: u32,
    /// What is left of the time, if the peer should be told.
    pub(crate) timeout: Option<Duration>,
    pub(crate) span: &'a AttemptSpan,
    pub(crate) settings: &'a Settings,
}

/// Headers that speak of the connection and not of the message (RFC 9110 7.6.1).
fn is_hop_by_hop(name: &HeaderName) -> bool {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || *name == header::TE
        || *name == KEEP_ALIVE
        || *name == PROXY_CONNECTION
}

fn strip_hop_by_hop(headers: &mut HeaderMap) -> Result<(), Error> {
    if let Some(upgrade) = headers.get(header::UPGRADE) {
        return Err(upgrade_refused(&String::from_utf8_lossy(upgrade.as_bytes())));
    }
    // The only value of TE that means something beyond this hop; gRPC requires it.
    let trailers = headers.get_all(header::TE).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    let plain = headers.len() == headers.keys_len() && headers.keys().filter(|name| is_hop_by_hop(name)).count() == 1;
    if trailers && plain {
        return Ok(());
    }
    remove_hop_by_hop(headers);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    Ok(())
}

/// Removes the headers of the hop, those that `connection` names included.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    let standard: Vec<HeaderName> = headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
    for name in named.into_iter().chain(standard) {
        headers.remove(name);
    }
}

fn upgrade_refused(what: &str) -> Error {
    Error::new(
        ErrorKind::UpgradeRefused,
        format!(
            "{what:?} asks to leave HTTP, which a mesh client cannot route or retry; connect to the server directly"
        ),
    )
}
