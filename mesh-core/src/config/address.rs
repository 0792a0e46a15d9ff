//! Shapes of what leads to an endpoint: addresses, sockets, names to be looked up.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

#[cfg(test)]
use super::json_schema::{Definitions, Schema, json};
use super::problem::{Path, shorten};
use super::schema::{EndpointSection, SrvSection};
use super::shape::{Context, Shape};
use super::text::{Refusal, TextShape};
use super::tree::{Entries, Entry, Node, Value};
use crate::model::{Address, DnsName};

/// How many bytes the path of a Unix socket has at most: `sun_path` of Linux holds 108 with the zero at its end.
pub(super) const MAX_SOCKET_PATH: usize = 107;

/// Where an endpoint listens. The path of a Unix socket is as it was written.
pub(super) struct EndpointAddress;

impl TextShape for EndpointAddress {
    type Value = Address;

    fn form() -> Cow<'static, str> {
        "an address, `ip:port`, `\"[ipv6]:port\"` or `unix:path`".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        const NEITHER: &str = "is not an address: write `ip:port`, `\"[ipv6]:port\"` or `unix:path`";
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.port() {
                0 => Err(Refusal::new("is not an address to connect to: the port must be from 1 to 65535")),
                _ => Ok(address.into()),
            };
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return socket(path).map(Address::from);
        }
        if text.parse::<IpAddr>().is_ok() {
            return Err(match text.contains(':') {
                true => Refusal::new(NEITHER).help("put an IPv6 address in brackets: `\"[2001:db8::1]:80\"`"),
                false => Refusal::new(NEITHER).help(format!("add the port: `{text}:80`")),
            });
        }
        if let Some((_, rest)) = text.split_once("://") {
            return Err(Refusal::new(NEITHER).help(format!("without a scheme: `{}`", shorten(rest))));
        }
        if text.starts_with('/') {
            return Err(Refusal::new(NEITHER).help(format!("for a Unix socket write `unix:{}`", shorten(text))));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or((text, "80"));
        if !is_host(host) || port.is_empty() {
            return Err(Refusal::new(NEITHER));
        }
        let way_out = format!("write `dns: {}:{}` in place of `endpoints`", shorten(host), shorten(port));
        Err(Refusal::new("names a host, which is no address").help(way_out))
    }

    #[cfg(test)]
    fn describe() -> Schema {
        let ip = r"([0-9]{1,3}\.){3}[0-9]{1,3}|\[[0-9A-Fa-f:.]+(%[0-9]+)?\]";
        json!({ "pattern": format!("^(({ip}):[0-9]{{1,5}}|unix:.+)$") })
    }
}

/// An endpoint: an address, or a section where there is more to say.
pub(super) struct EndpointItem;

impl Shape for EndpointItem {
    type Value = EndpointSection;

    fn form() -> Cow<'static, str> {
        format!("{}, or a section", <EndpointAddress as Shape>::form()).into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<EndpointSection> {
        if matches!(node.value, Value::Map(_)) {
            return EndpointSection::read(node, path, context);
        }
        EndpointAddress::read(node, path, context)?;
        let address = Entry { key: "address".into(), at: node.at, value: node.clone() };
        EndpointSection::read(&Node::map([address], node.at), path, context)
    }

    fn complete(node: &Node, defaults: &Entries) -> Node {
        EndpointSection::complete(node, defaults)
    }

    #[cfg(test)]
    fn schema(definitions: &mut Definitions) -> Schema {
        json!({ "anyOf": [EndpointAddress::schema(definitions), EndpointSection::schema(definitions)] })
    }
}

/// The path behind `unix:`.
pub(super) fn socket(path: &str) -> Result<PathBuf, Refusal> {
    const NO_PATH: &str = "is not the path of a Unix socket";
    if path.is_empty() {
        return Err(Refusal::new(format!("{NO_PATH}: there is none behind `unix:`")));
    }
    if let Some(rest) = path.strip_prefix("//") {
        let rest = rest.trim_start_matches('/');
        return Err(Refusal::new(format!("{NO_PATH}: it begins with `//`")).help(format!("write `unix:/{rest}`")));
    }
    if path.len() > MAX_SOCKET_PATH {
        let message = format!("{NO_PATH}: it has {} bytes, at most {MAX_SOCKET_PATH} are possible", path.len());
        return Err(Refusal::new(message));
    }
    if path.contains('\0') {
        return Err(Refusal::new(format!("{NO_PATH}: it holds a zero byte")));
    }
    Ok(PathBuf::from(path))
}

/// A host and a port, or a section that names a service record.
pub(super) struct DnsTarget;

impl Shape for DnsTarget {
    type Value = DnsName;

    fn form() -> Cow<'static, str> {
        "`host:port`, or a section".into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<DnsName> {
        if matches!(node.value, Value::Map(_)) {
            let section = SrvSection::read(node, path, context)?;
            return section.srv.value().cloned().map(DnsName::Service);
        }
        HostAndPort::read(node, path, context)
    }

    fn complete(node: &Node, defaults: &Entries) -> Node {
        SrvSection::complete(node, defaults)
    }

    #[cfg(test)]
    fn schema(definitions: &mut Definitions) -> Schema {
        json!({ "anyOf": [HostAndPort::schema(definitions), SrvSection::schema(definitions)] })
    }
}

/// A host to be looked up, and a port.
pub(super) struct HostAndPort;

impl TextShape for HostAndPort {
    type Value = DnsName;

    fn form() -> Cow<'static, str> {
        "`host:port`, or `{ srv: _service._proto.name }`".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        let neither = || Refusal::new("is not `host:port`");
        if let Some((_, rest)) = text.split_once("://") {
            return Err(neither().help(format!("without a scheme: `{}`", shorten(rest.trim_start_matches('/')))));
        }
        if text.parse::<SocketAddr>().is_ok() {
            let way_out = format!("write `endpoints: [{text:?}]` in place of `dns`");
            return Err(Refusal::new("is an address, which needs no looking up").help(way_out));
        }
        if text.parse::<IpAddr>().is_ok() {
            let way_out = "write `endpoints: [..]` in place of `dns`, with the port";
            return Err(Refusal::new("is an address, which needs no looking up").help(way_out));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            let refusal = Refusal::new("is not `host:port`: the port is missing");
            return Err(if is_host(text) { refusal.help(format!("write `{text}:80`")) } else { refusal });
        };
        let port = match port.parse::<u16>() {
            Ok(port @ 1..) if port.to_string().len() == text.len() - host.len() - 1 => port,
            _ => return Err(Refusal::new("is not `host:port`: the port must be from 1 to 65535")),
        };
        if !is_host(host) {
            return Err(Refusal::new(format!("is not `host:port`: {HOST}")));
        }
        Ok(DnsName::Host { host: host.to_ascii_lowercase().into(), port })
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "pattern": "^[A-Za-z0-9._-]{1,254}:[1-9][0-9]{0,4}$" })
    }
}

/// The name of a service record.
pub(super) struct SrvName;

impl TextShape for SrvName {
    type Value = Arc<str>;

    fn form() -> Cow<'static, str> {
        "the name of a service record, `_service._proto.name`".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        if is_host(text) {
            return Ok(text.to_ascii_lowercase().into());
        }
        let refusal = Refusal::new(format!("is not the name of a service record: {HOST}"));
        Err(if text.contains(':') { refusal.help("without a port: the record holds it") } else { refusal })
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "pattern": "^[A-Za-z0-9._-]{1,254}$" })
    }
}

/// What [`is_host`] asks for.
const HOST: &str = "a name has 1 to 253 bytes, in parts of 1 to 63 letters, digits, `-` and `_` between dots, and its \
                    last part is no number";

/// Whether the domain name system can be asked for it. A number as the last part would be an IPv4 address to many
/// programs.
fn is_host(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(is_label) && !last.bytes().all(|b| b.is_ascii_digit())
}
