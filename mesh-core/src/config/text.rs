//! Shapes of text with a meaning: hosts, paths, header names, methods, addresses, words.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderName, Method};

use super::problem::{Path, shorten};
use super::scalar::Kind;
use super::shape::{Context, NOT_YET, Shape, list};
use super::suggest::did_you_mean;
use super::tree::{Node, Scalar, Value};
use crate::model::{HostPattern, Pattern};

/// Why a text was refused.
#[derive(Debug)]
pub(super) struct Refusal {
    /// What follows the text itself in the message: `is not an address: ..`.
    message: String,
    help: Option<String>,
}

impl Refusal {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// A kind of text. Every one is a [`Shape`].
pub(super) trait TextShape {
    type Value;

    fn form() -> Cow<'static, str>;

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal>;
}

impl<T: TextShape> Shape for T {
    type Value = T::Value;

    fn form() -> Cow<'static, str> {
        T::form()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Self::Value> {
        let text = text(node, &T::form(), path, context)?;
        match T::parse(text) {
            Ok(value) => Some(value),
            Err(Refusal { message, help }) => {
                context.report(node.at, path, || node.draft(format!("{} {message}", node.shown())).maybe_help(help));
                None
            }
        }
    }
}

/// The text of `node`. What only looks like text to a person is refused with the way out.
pub(super) fn text<'a>(node: &'a Node, form: &str, path: Path<'_>, context: &mut Context) -> Option<&'a Arc<str>> {
    let help = match &node.value {
        Value::Scalar(Scalar { text, kind: Kind::String }) => return Some(text),
        Value::Scalar(Scalar { text, .. }) => Some(format!("quote it: {:?}", shorten(text))),
        Value::Sequence(_) | Value::Map(_) => None,
    };
    context.mismatch(node, path, form, help);
    None
}

/// Any text.
pub(super) struct Text;

impl TextShape for Text {
    type Value = Arc<str>;

    fn form() -> Cow<'static, str> {
        "text".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        Ok(text.clone())
    }
}

/// Text of at least one character.
pub(super) struct SomeText;

impl TextShape for SomeText {
    type Value = Arc<str>;

    fn form() -> Cow<'static, str> {
        "text, not empty".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        if text.is_empty() { Err(Refusal::new("is not text of at least one character")) } else { Ok(text.clone()) }
    }
}

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
}

/// Where an endpoint listens.
pub(super) struct SocketAddress;

impl TextShape for SocketAddress {
    type Value = SocketAddr;

    fn form() -> Cow<'static, str> {
        "an address, `ip:port` or `\"[ipv6]:port\"`".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        const NEITHER: &str = "is not an address: write `ip:port` or `\"[ipv6]:port\"`";
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.port() {
                0 => Err(Refusal::new("is not an address to connect to: the port must be from 1 to 65535")),
                _ => Ok(address),
            };
        }
        if text.parse::<std::net::IpAddr>().is_ok() {
            let with_port = if text.contains(':') { format!("\"[{text}]:80\"") } else { format!("{text}:80") };
            return Err(Refusal::new(NEITHER).help(format!("add the port, as in `{with_port}`")));
        }
        if let Some((_, rest)) = text.split_once("://") {
            return Err(Refusal::new(NEITHER).help(format!("without a scheme: `{}`", shorten(rest))));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
        let has_name = host.bytes().any(|b| b.is_ascii_alphabetic())
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if !has_name {
            return Err(Refusal::new(NEITHER));
        }
        let refusal = Refusal::new(format!("names a host: name resolution (`dns:`) {NOT_YET}"));
        Err(match (host, port) {
            ("localhost", port) if !port.is_empty() => refusal.help(format!("write `127.0.0.1:{}`", shorten(port))),
            _ => refusal.help("write its IP address and port"),
        })
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
        if is_name || text.parse::<std::net::IpAddr>().is_ok() {
            return Ok(text.clone());
        }
        Err(Refusal::new("is not the name of a server: write a DNS name or an IP address, without a port"))
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
}

/// One word of a few.
pub(super) struct Word<V>(PhantomData<V>);

/// The words that stand for values of a type.
pub(super) trait Vocabulary: Copy + 'static {
    /// How messages call it: `a balancer`.
    const FORM: &'static str;
    const WORDS: &'static [(&'static str, Self)];
    /// Words of a later version.
    const NOT_YET: &'static [&'static str] = &[];
}

impl<V: Vocabulary> TextShape for Word<V> {
    type Value = V;

    fn form() -> Cow<'static, str> {
        let words = V::WORDS.iter().map(|(word, _)| *word);
        format!("{}: {}", V::FORM, list(words)).into()
    }

    fn parse(text: &Arc<str>) -> Result<V, Refusal> {
        if let Some((_, value)) = V::WORDS.iter().find(|(word, _)| *word == &**text) {
            return Ok(*value);
        }
        let words = || V::WORDS.iter().map(|(word, _)| *word);
        if V::NOT_YET.contains(&&**text) {
            return Err(Refusal::new(NOT_YET).help(format!("this version has {}", list(words()))));
        }
        let help = did_you_mean(text, words().chain(V::NOT_YET.iter().copied()));
        Err(Refusal { message: format!("is not {}: write one of {}", V::FORM, list(words())), help })
    }
}

/// A regular expression.
pub(super) struct Regex;

/// How many different regular expressions a file may hold; each may compile to [`Pattern::SIZE_LIMIT`] bytes.
const MAX_PATTERNS: usize = 1000;

/// A regular expression. It is no [`TextShape`] because equal ones are compiled once.
impl Shape for Regex {
    type Value = Pattern;

    fn form() -> Cow<'static, str> {
        "a regular expression for the whole of it".into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Pattern> {
        let source = text(node, "a regular expression", path, context)?;
        let full = context.patterns.len() >= MAX_PATTERNS;
        let result = match context.patterns.entry(source.clone()) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(_) if full => Err(format!("a file may hold {MAX_PATTERNS} different ones, this is one more")),
            Entry::Vacant(new) => new.insert(Pattern::new(source).map_err(|error| error.to_string())).clone(),
        };
        match result {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                context.mismatch(node, path, &format!("a regular expression: {error}"), None);
                None
            }
        }
    }
}
