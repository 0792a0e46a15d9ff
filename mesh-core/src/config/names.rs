//! Shapes of text that names something: hosts, paths, headers, methods, servers, files.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderName, Method};

#[cfg(test)]
use super::json_schema::{Schema, json};
use super::problem::shorten;
use super::shape::{MAX_NAME, is_name, list};
use super::text::{Refusal, TextShape};
use crate::model::HostPattern;

/// What the name of a header or a method is made of (RFC 9110 5.6.2).
#[cfg(test)]
const TOKEN: &str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";

/// A pattern for an authority.
pub(super) struct Host;

impl TextShape for Host {
    type Value = HostPattern;

    fn form() -> Cow<'static, str> {
        "a host: `name`, `name:port`, `*.suffix`, `prefix.*` or `*`".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        HostPattern::parse(text).map_err(|error| {
            let refusal = Refusal::new(format!("is not a host: {error}"));
            if text.contains("://") || text.contains('/') { refusal.help("write the host alone") } else { refusal }
        })
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "pattern": r"^[A-Za-z0-9._:\[\]*-]{1,255}$" })
    }
}

/// A path or its beginning, without the query.
pub(super) struct UriPath;

impl TextShape for UriPath {
    type Value = Arc<str>;

    fn form() -> Cow<'static, str> {
        "a path that begins with `/`".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        if text.contains(['?', '#']) {
            return Err(Refusal::new("is not a path: it ends before `?` and `#`").help("match the query with `query`"));
        }
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(Refusal::new("is not a path: it holds white space").help("write it percent-encoded"));
        }
        if text.starts_with('/') {
            return Ok(text.clone());
        }
        Err(Refusal::new("is not a path: it must begin with `/`").help(format!("write `/{}`", shorten(text))))
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "pattern": r"^/[^?# \t\n]*$" })
    }
}

/// A header that a request can carry and a match can see.
pub(super) struct Header;

impl TextShape for Header {
    type Value = HeaderName;

    fn form() -> Cow<'static, str> {
        "the name of a header".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        if text.starts_with(':') {
            let instead = match &**text {
                ":path" => "use `path` of the match",
                ":method" => "use `method` of the match",
                ":authority" => "use `hosts` of the service",
                _ => "there is no way to match it",
            };
            return Err(Refusal::new("is a pseudo-header and no header").help(instead));
        }
        let name = text.to_ascii_lowercase();
        if name.ends_with("-bin") {
            let message = "never matches: headers that end in `-bin` are binary in gRPC and invisible here";
            return Err(Refusal::new(message).help("use a header of another name"));
        }
        HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| Refusal::new("is not the name of a header: write letters, digits and !#$%&'*+-.^_`|~"))
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "pattern": TOKEN })
    }
}

/// A header that says who a caller is.
pub(super) struct IdentityHeader;

impl TextShape for IdentityHeader {
    type Value = HeaderName;

    fn form() -> Cow<'static, str> {
        "the name of a header".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRAILER, TRANSFER_ENCODING};
        let name = HeaderName::from_bytes(text.as_bytes())
            .map_err(|_| Refusal::new("is not the name of a header: write letters, digits and !#$%&'*+-.^_`|~"))?;
        if [CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRAILER, TRANSFER_ENCODING].contains(&name) {
            return Err(Refusal::new("says how a request is read, and cannot be removed"));
        }
        Ok(name)
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "pattern": TOKEN })
    }
}

/// The name of a cookie (RFC 6265 4.1.1).
pub(super) struct CookieName;

impl TextShape for CookieName {
    type Value = Arc<str>;

    fn form() -> Cow<'static, str> {
        "the name of a cookie".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if (1..=255).contains(&text.len()) && text.bytes().all(is_token) {
            return Ok(text.clone());
        }
        Err(Refusal::new("is not the name of a cookie: write 1 to 255 letters, digits and !#$%&'*+-.^_`|~"))
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "pattern": TOKEN })
    }
}

/// The path of a cookie (RFC 6265 4.1.1).
pub(super) struct CookiePath;

impl TextShape for CookiePath {
    type Value = Arc<str>;

    fn form() -> Cow<'static, str> {
        "a path that begins with `/`".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        if text.bytes().any(|b| b == b';' || !b.is_ascii_graphic()) {
            return Err(Refusal::new("is not the path of a cookie, which has no `;`, no white space and only ASCII"));
        }
        UriPath::parse(text)
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "pattern": "^/" })
    }
}

/// An HTTP method.
pub(super) struct HttpMethod;

impl TextShape for HttpMethod {
    type Value = Method;

    fn form() -> Cow<'static, str> {
        "an HTTP method".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];
        let upper = text.to_ascii_uppercase();
        if KNOWN.contains(&&*upper) && *upper != **text {
            let help = format!("did you mean `{upper}`?");
            return Err(Refusal::new("is not an HTTP method: methods are written in capitals").help(help));
        }
        Method::from_bytes(text.as_bytes())
            .map_err(|_| Refusal::new(format!("is not an HTTP method such as {}", list(KNOWN))))
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "pattern": TOKEN })
    }
}

/// The name a server's certificate must carry.
pub(super) struct ServerName;

impl TextShape for ServerName {
    type Value = Arc<str>;

    fn form() -> Cow<'static, str> {
        "the name of a server: a DNS name or an IP address".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let is_name = text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(label);
        if is_name || text.parse::<IpAddr>().is_ok() {
            return Ok(text.clone());
        }
        Err(Refusal::new("is not the name of a server: write a DNS name or an IP address, without a port"))
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "pattern": "^[A-Za-z0-9._:-]{1,254}$" })
    }
}

/// A name that is chosen for this configuration.
pub(super) struct Name;

impl TextShape for Name {
    type Value = Arc<str>;

    fn form() -> Cow<'static, str> {
        format!("a name of 1 to {MAX_NAME} letters, digits, `-`, `.`, `_`").into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        if is_name(text) {
            return Ok(text.clone());
        }
        Err(Refusal::new(format!("is not a name: write 1 to {MAX_NAME} letters, digits, `-`, `.`, `_`")))
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "pattern": format!("^[A-Za-z0-9._-]{{1,{MAX_NAME}}}$") })
    }
}

/// The path of a file.
pub(super) struct FilePath;

impl TextShape for FilePath {
    type Value = Arc<str>;

    fn form() -> Cow<'static, str> {
        "the path of a file".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        const MAX: usize = 4096;
        if (1..=MAX).contains(&text.len()) {
            return Ok(text.clone());
        }
        Err(Refusal::new(format!("is not the path of a file: write 1 to {MAX} bytes")))
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "minLength": 1, "maxLength": 4096 })
    }
}
