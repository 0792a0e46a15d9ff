//! Shapes of where something listens.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use super::address::socket;
#[cfg(test)]
use super::json_schema::{Definitions, Schema, json};
use super::problem::{Path, shorten};
use super::scalar::Kind;
use super::shape::{Context, Shape};
use super::text::{Refusal, TextShape};
use super::tree::{Node, Scalar, Value};
use crate::model::Listen;

/// Where a server listens. The path of a Unix socket is as it was written.
pub(super) struct ListenAddress;

impl Shape for ListenAddress {
    type Value = Listen;

    fn form() -> Cow<'static, str> {
        <ListenText as TextShape>::form()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Listen> {
        if let Value::Scalar(Scalar { text, kind: Kind::Int(1..=65535) }) = &node.value {
            context.mismatch(node, path, &Self::form(), Some(of_port(text)));
            return None;
        }
        ListenText::read(node, path, context)
    }

    #[cfg(test)]
    fn schema(definitions: &mut Definitions) -> Schema {
        ListenText::schema(definitions)
    }
}

/// A port alone would have to mean either: only this machine, or everybody.
fn of_port(port: &str) -> String {
    format!("say to whom: `127.0.0.1:{port}` for this machine, `0.0.0.0:{port}` for all, `\"[::]:{port}\"` with IPv6")
}

struct ListenText;

impl TextShape for ListenText {
    type Value = Listen;

    fn form() -> Cow<'static, str> {
        "an address to listen on, `ip:port`, `\"[ipv6]:port\"`, `unix:path` or `fd:0`".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        if let Some(path) = text.strip_prefix("unix:") {
            return socket(path).map(|path: PathBuf| Listen::Unix(path.into()));
        }
        if let Some(place) = text.strip_prefix("fd:") {
            return match place.parse::<u32>() {
                Ok(place @ 0..=1023) => Ok(Listen::Inherited(place)),
                _ => Err(Refusal::new("is not a socket that this process was started with")
                    .help("count them from 0: `fd:0` is the first")),
            };
        }
        ip_and_port(text, &<Self as TextShape>::form()).map(Listen::Socket)
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "pattern": format!("^({IP_AND_PORT}|unix:.+|fd:[0-9]{{1,4}})$") })
    }
}

/// Where the admin listener is.
pub(super) struct AdminAddress;

impl TextShape for AdminAddress {
    type Value = SocketAddr;

    fn form() -> Cow<'static, str> {
        "an address to listen on, `ip:port` or `\"[ipv6]:port\"`".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        ip_and_port(text, &<Self as TextShape>::form())
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "pattern": format!("^{IP_AND_PORT}$") })
    }
}

#[cfg(test)]
const IP_AND_PORT: &str = r"(([0-9]{1,3}\.){3}[0-9]{1,3}|\[[0-9A-Fa-f:.]+(%[0-9]+)?\]):[0-9]{1,5}";

fn ip_and_port(text: &str, form: &str) -> Result<SocketAddr, Refusal> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let refusal = Refusal::new(format!("is not {form}"));
    if text.parse::<IpAddr>().is_ok() {
        return Err(match text.contains(':') {
            true => refusal.help("put an IPv6 address in brackets, and add the port: `\"[2001:db8::1]:8080\"`"),
            false => refusal.help(format!("add the port: `{text}:8080`")),
        });
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("-", text));
    let is_port = port.parse::<u16>().is_ok();
    Err(match host {
        "" | "*" | "-" if is_port => refusal.help(of_port(port)),
        "localhost" if is_port => refusal.help(format!("write `127.0.0.1:{port}`")),
        _ if text.starts_with('/') => refusal.help(format!("for a Unix socket write `unix:{}`", shorten(text))),
        _ => refusal,
    })
}
