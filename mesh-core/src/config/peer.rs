//! Shapes of who somebody is: names in certificates, SPIFFE ids, trust domains, and who vouches for them.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::path::Path as FsPath;
use std::sync::Arc;

#[cfg(test)]
use super::json_schema::{Definitions, Schema, json};
use super::names::FilePath;
use super::problem::{Draft, Path, shorten};
use super::schema::PeerSection;
use super::shape::{Context, Shape, Spanned};
use super::text::{Refusal, TextShape};
use super::tree::{Entry, Node, Scalar, Value};
use super::write::Writer;
use crate::identity::{SpiffeId, TrustDomain};

#[cfg(test)]
const SPIFFE_ID: &str = "^[Ss][Pp][Ii][Ff][Ff][Ee]://[A-Za-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)*$";

/// Who a peer must be: a SPIFFE id, or a section.
pub(super) struct PeerItem;

impl Shape for PeerItem {
    type Value = PeerSection;

    fn form() -> Cow<'static, str> {
        format!("{}, or a section", <SpiffeText as Shape>::form()).into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<PeerSection> {
        if matches!(node.value, Value::Map(_)) {
            return PeerSection::read(node, path, context);
        }
        PlainPeer::read(node, path, context)?;
        let uri = Entry { key: "uri".into(), at: node.at, value: node.clone() };
        PeerSection::read(&Node::map([uri], node.at), path, context)
    }

    #[cfg(test)]
    fn schema(definitions: &mut Definitions) -> Schema {
        json!({ "anyOf": [PlainPeer::schema(definitions), PeerSection::schema(definitions)] })
    }
}

/// A SPIFFE id, and whoever writes something else hears how that is written.
struct PlainPeer;

impl TextShape for PlainPeer {
    type Value = SpiffeId;

    fn form() -> Cow<'static, str> {
        <SpiffeText as TextShape>::form()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        SpiffeId::new(text).map_err(|error| {
            let refusal = Refusal::new(format!("is not a SPIFFE id: {error}"));
            if starts_as_spiffe(text) {
                return match text.split_once('*') {
                    Some((prefix, "")) => {
                        refusal.help(format!("write whatever begins so as `{{ prefix: {:?} }}`", shorten(prefix)))
                    }
                    _ => refusal,
                };
            }
            let text = shorten(text);
            refusal.help(match text.parse::<IpAddr>() {
                Ok(_) => format!("write an IP address as `{{ exact: {text:?}, kind: ip }}`"),
                Err(_) if text.contains("://") => format!("write another URI as `{{ uri: {text:?} }}`"),
                Err(_) if text.contains('*') => {
                    "write a part of a name as `{ prefix: .. }`, `{ suffix: .. }` or `{ contains: .. }`".to_owned()
                }
                Err(_) => format!("write a DNS name as `{{ dns: {text:?} }}`"),
            })
        })
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "pattern": SPIFFE_ID })
    }
}

fn starts_as_spiffe(text: &str) -> bool {
    text.get(..9).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe://"))
}

/// The whole URI of a certificate. A SPIFFE id is written as it is compared.
pub(super) struct PeerUri;

impl TextShape for PeerUri {
    type Value = Arc<str>;

    fn form() -> Cow<'static, str> {
        "a URI, such as a SPIFFE id".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        if starts_as_spiffe(text) {
            let id = SpiffeId::new(text).map_err(|error| Refusal::new(format!("is not a SPIFFE id: {error}")))?;
            return Ok(id.as_str().into());
        }
        let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        if is_scheme && text.len() > scheme.len() + 1 && text.bytes().all(|b| b.is_ascii_graphic()) {
            return Ok(text.clone());
        }
        Err(Refusal::new("is not a URI: it begins with a scheme, such as `spiffe://`, and has no white space"))
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "pattern": "^[A-Za-z][A-Za-z0-9+.-]*:[!-~]+$" })
    }
}

/// The whole DNS name that a certificate must stand for.
pub(super) struct PeerDns;

impl TextShape for PeerDns {
    type Value = Arc<str>;

    fn form() -> Cow<'static, str> {
        "a DNS name".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        let refusal = Refusal::new("is not a DNS name, such as `shop.example`");
        if text.parse::<IpAddr>().is_ok() {
            return Err(refusal.help(format!("write an IP address as `{{ exact: {text:?}, kind: ip }}`")));
        }
        if text.contains('*') {
            let help =
                "write the name itself: a wildcard of the certificate stands for it; or `{ suffix: .., kind: dns }`";
            return Err(refusal.help(help));
        }
        let is_label = |label: &str| {
            (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.len() <= 253 && name.split('.').all(is_label) { Ok(text.clone()) } else { Err(refusal) }
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "pattern": "^[A-Za-z0-9._-]{1,254}$" })
    }
}

/// A SPIFFE id.
pub(super) struct SpiffeText;

impl TextShape for SpiffeText {
    type Value = SpiffeId;

    fn form() -> Cow<'static, str> {
        "a SPIFFE id, `spiffe://domain/path`".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        SpiffeId::new(text).map_err(|error| Refusal::new(format!("is not a SPIFFE id: {error}")))
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "pattern": SPIFFE_ID })
    }
}

/// The name of a trust domain.
pub(super) struct TrustDomainName;

impl TextShape for TrustDomainName {
    type Value = TrustDomain;

    fn form() -> Cow<'static, str> {
        "a trust domain".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        TrustDomain::new(text).map_err(|error| {
            let refusal = Refusal::new(format!("is not a trust domain: {error}"));
            match text.split_once("://") {
                Some((_, rest)) => {
                    refusal.help(format!("write `{}`", shorten(rest.split('/').next().unwrap_or_default())))
                }
                None => refusal,
            }
        })
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "pattern": "^[a-z0-9._-]{1,255}$" })
    }
}

/// The socket of the SPIFFE Workload API (SPIFFE Workload Endpoint, section 4).
pub(super) struct WorkloadEndpoint;

impl TextShape for WorkloadEndpoint {
    type Value = Arc<str>;

    fn form() -> Cow<'static, str> {
        "the socket of a workload API, `unix:/path` or `tcp://ip:port`".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        let refusal = || Refusal::new("is not the socket of a workload API: write `unix:/path` or `tcp://ip:port`");
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            let is_path = FsPath::new(path).is_absolute() && path.len() > 1 && !path.contains('\0');
            return if is_path { Ok(text.clone()) } else { Err(refusal().help("the path begins with one `/`")) };
        }
        let address = text.strip_prefix("tcp://").and_then(|address| address.parse::<SocketAddr>().ok());
        match address {
            Some(address) if address.port() > 0 => Ok(text.clone()),
            _ if text.starts_with('/') => Err(refusal().help(format!("write `unix:{}`", shorten(text)))),
            _ => Err(refusal()),
        }
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "pattern": "^(unix:/.+|tcp://.+:[0-9]{1,5})$" })
    }
}

/// Files by trust domain; may be empty.
pub(super) struct Bundles;

impl Shape for Bundles {
    type Value = Vec<(TrustDomain, Spanned<Arc<str>>)>;

    fn form() -> Cow<'static, str> {
        "a map of trust domains, each to the path of a file".into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Self::Value> {
        let Value::Map(map) = &node.value else {
            context.mismatch(node, path, &Self::form(), Some("write `{ other.example: FILE }`".to_owned()));
            return None;
        };
        let mut read = |entry: &Entry| {
            let path = path.key(&entry.key);
            let key = Writer(entry.at).text(&entry.key);
            let domain = TrustDomainName::read(&key, path, context);
            let value = FilePath::read(&entry.value, path, context);
            Some((domain?, Spanned { value: value?, at: entry.value.at }))
        };
        // All of them are read: every problem is told.
        let files: Vec<_> = map.list.iter().map(&mut read).collect();
        files.into_iter().collect::<Option<_>>().filter(|_| !map.is_incomplete)
    }

    #[cfg(test)]
    fn schema(definitions: &mut Definitions) -> Schema {
        json!({
            "type": "object",
            "additionalProperties": FilePath::schema(definitions),
            "propertyNames": TrustDomainName::schema(definitions),
        })
    }
}

/// The path of a file with a private key. Who writes the key itself there does not find it shown anywhere.
pub(super) struct KeyPath;

impl Shape for KeyPath {
    type Value = Arc<str>;

    fn form() -> Cow<'static, str> {
        <FilePath as Shape>::form()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Self::Value> {
        let Value::Scalar(Scalar { text, .. }) = &node.value else { return FilePath::read(node, path, context) };
        if text.contains(['\n', '\r']) || text.contains("-----BEGIN") || <FilePath as TextShape>::parse(text).is_err() {
            context.report(node.at, path, || {
                let draft = Draft::new("this is not the path of a file; it is not shown, for it may be the key itself");
                draft.help("keep the key in a file of its own, and write its path here")
            });
            return None;
        }
        FilePath::read(node, path, context)
    }

    #[cfg(test)]
    fn schema(definitions: &mut Definitions) -> Schema {
        FilePath::schema(definitions)
    }
}
