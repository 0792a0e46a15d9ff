//! What this process serves.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path as FsPath;

use super::super::address::MAX_SOCKET_PATH;
use super::super::origin::Position;
use super::super::problem::{Draft, Path, shorten};
use super::super::schema;
use super::super::shape::{Context, Field, Spanned};
use super::{HasIdentity, exactly_one, tls};
use crate::model::{Admin, Drain, ForwardedIdentity, Listen, Server, ServerLimits, ServerTls};

type Servers = Field<Vec<Field<schema::Server>>>;

/// The servers. `admin` is an address that none of them may have.
pub(super) fn servers(
    field: &Servers,
    has_identity: HasIdentity,
    admin: Option<SocketAddr>,
    directory: &FsPath,
    context: &mut Context,
) -> Vec<Server> {
    let mut taken = Taken::default();
    if let Some(address) = admin {
        taken.take(&Listen::Socket(address), "the admin listener");
    }
    let path = Path::TOP;
    let path = path.key("servers");
    let mut names = HashMap::new();
    let mut servers = Vec::new();
    for (index, section) in field.value().into_iter().flatten().enumerate() {
        let Some(section) = section.value() else { continue };
        let path = path.index(index);
        if let Some(Spanned { value, at }) = section.name.given()
            && let Some(first) = names.insert(value.clone(), index)
        {
            context.report(*at, path.key("name"), || {
                Draft::new(format!("`{}` is already the name of `servers[{first}]`", shorten(value))).about(value)
            });
        }
        servers.extend(server(section, has_identity, &mut taken, directory, path, context));
    }
    servers
}

fn server(
    section: &schema::Server,
    has_identity: HasIdentity,
    taken: &mut Taken,
    directory: &FsPath,
    path: Path<'_>,
    context: &mut Context,
) -> Option<Server> {
    let addresses = addresses(section, taken, directory, path, context);
    let (mode, identities) = match section.tls.value() {
        Some(section) => server_tls(section, has_identity, path.key("tls"), context)?,
        None if has_identity == HasIdentity::No => (ServerTls::Disabled, Vec::new()),
        None => (ServerTls::Strict, Vec::new()),
    };
    let mut server = Server::new(section.name.value()?.clone());
    server.addresses = addresses;
    server.tls = Some(mode);
    server.identities = identities;
    if let Some(section) = section.forwarded_identity.value() {
        server.forwarded_identity = forwarded_identity(section, mode, path.key("forwarded_identity"), context);
    }
    if let Some(section) = section.limits.value() {
        server.limits = limits(section);
    }
    if let Some(section) = section.drain.value() {
        let default = Drain::default();
        server.drain = Drain { delay: section.delay.or(default.delay), grace: section.grace.or(default.grace) };
    }
    server.access_log = section.access_log.or_default();
    server.propagate_deadline = section.propagate_deadline.or(false);
    Some(server)
}

fn addresses(
    section: &schema::Server,
    taken: &mut Taken,
    directory: &FsPath,
    path: Path<'_>,
    context: &mut Context,
) -> Vec<Listen> {
    if section.address.is_written() && section.addresses.is_written() {
        exactly_one(&[("address", true), ("addresses", true)], section.at, path, context);
        return Vec::new();
    }
    let owner = format!("the server `{}`", shorten(section.name.value().map_or("", |name| name)));
    let mut found = Vec::new();
    let mut add = |item: &Field<Listen>, path: Path<'_>| {
        let Some(Spanned { value, at }) = item.given() else { return };
        let listen = match (value, at) {
            // An absolute path stays what it is.
            (Listen::Unix(socket), Position::File { .. }) => Listen::Unix(directory.join(socket).into()),
            (other, _) => other.clone(),
        };
        if let Listen::Unix(socket) = &listen
            && socket.as_os_str().len() > MAX_SOCKET_PATH
        {
            let shown = shown(&listen);
            context.report(*at, path, || {
                let message = format!("{shown} has more than the {MAX_SOCKET_PATH} bytes of a Unix socket's path");
                Draft::new(message).about(&shown).help("move the socket, or the configuration")
            });
        }
        if let Some(other) = taken.take(&listen, &owner) {
            report_taken(&listen, &other, *at, path, context);
            return;
        }
        found.push(listen);
    };
    add(&section.address, path.key("address"));
    let path = path.key("addresses");
    for (index, item) in section.addresses.value().into_iter().flatten().enumerate() {
        add(item, path.index(index));
    }
    found
}

fn report_taken(listen: &Listen, other: &Other, at: Position, path: Path<'_>, context: &mut Context) {
    context.report(at, path, || {
        let (address, Other { address: taken, owner }) = (shown(listen), other);
        let (message, help) = match *taken == address {
            true => {
                (format!("{address} is already an address of {owner}"), "remove one of them, or give it another port")
            }
            false => (
                format!(
                    "{address} cannot be listened on beside {taken} of {owner}: one of them is a part of the other"
                ),
                "write the larger one alone; `[::]` takes IPv4 too",
            ),
        };
        Draft::new(message).about(&address).help(help)
    });
}

fn shown(listen: &Listen) -> String {
    match listen {
        Listen::Socket(address) => address.to_string(),
        Listen::Unix(path) => format!("unix:{}", path.display()),
        Listen::Inherited(place) => format!("fd:{place}"),
    }
}

/// Who listens where.
#[derive(Default)]
struct Taken {
    by_address: HashMap<Listen, Other>,
    /// The first address of each port, of IPv4 and of either.
    by_port: HashMap<(u16, bool), Other>,
}

#[derive(Clone)]
struct Other {
    address: String,
    owner: String,
}

impl Taken {
    /// Takes `listen`, or says who has it already. Port 0 is a different one each time.
    fn take(&mut self, listen: &Listen, owner: &str) -> Option<Other> {
        if matches!(listen, Listen::Socket(address) if address.port() == 0) {
            return None;
        }
        if let Some(other) = self.by_address.get(listen) {
            return Some(other.clone());
        }
        let new = Other { address: shown(listen), owner: owner.to_owned() };
        if let Listen::Socket(address) = listen {
            let port = address.port();
            let all = |ip: IpAddr| Listen::Socket(SocketAddr::new(ip, port));
            let is_ipv4 = address.ip().to_canonical().is_ipv4();
            let (all_ipv4, all_of_both) = (all(Ipv4Addr::UNSPECIFIED.into()), all(Ipv6Addr::UNSPECIFIED.into()));
            let inside = if *listen == all_of_both {
                self.by_port.get(&(port, false))
            } else if *listen == all_ipv4 {
                self.by_port.get(&(port, true)).or_else(|| self.by_address.get(&all_of_both))
            } else {
                let outer = self.by_address.get(&all_of_both);
                outer.or_else(|| self.by_address.get(&all_ipv4).filter(|_| is_ipv4))
            };
            if let Some(other) = inside {
                return Some(other.clone());
            }
            self.by_port.entry((port, false)).or_insert_with(|| new.clone());
            if is_ipv4 {
                self.by_port.entry((port, true)).or_insert_with(|| new.clone());
            }
        }
        self.by_address.insert(listen.clone(), new);
        None
    }
}

fn server_tls(
    section: &schema::ServerTlsSection,
    has_identity: HasIdentity,
    path: Path<'_>,
    context: &mut Context,
) -> Option<(ServerTls, Vec<crate::identity::SanMatch>)> {
    let identities = tls::peers(&section.identities, path.key("identities"), context);
    let Spanned { value: mode, at } = section.mode.given()?;
    match mode {
        ServerTls::Disabled => {
            super::has_no_effect(&section.identities, "identities", "while `mode` is `disabled`", path, context);
        }
        ServerTls::Strict => has_identity.require("strict", *at, path.key("mode"), context),
        ServerTls::Permissive => has_identity.require("permissive", *at, path.key("mode"), context),
    }
    Some((*mode, identities))
}

fn forwarded_identity(
    section: &schema::ForwardedIdentity,
    mode: ServerTls,
    path: Path<'_>,
    context: &mut Context,
) -> ForwardedIdentity {
    let forwarded = ForwardedIdentity {
        trusted_proxies: tls::peers(&section.trusted_proxies, path.key("trusted_proxies"), context),
        headers: section.headers.value().into_iter().flatten().filter_map(|name| name.value().cloned()).collect(),
        write: section.write.or(false),
    };
    let proxies = section.trusted_proxies.given().filter(|given| !given.value.is_empty()).map(|given| given.at);
    let write = section.write.given().filter(|given| given.value).map(|given| given.at);
    for (at, name) in [(proxies, "trusted_proxies"), (write, "write")] {
        if let (Some(at), ServerTls::Disabled) = (at, mode) {
            context.report(at, path.key(name), || {
                let draft =
                    Draft::new(format!("`{name}` has no effect on a server without TLS: nobody proves who they are"));
                draft.help("remove it, or let the server be `strict` or `permissive`")
            });
        }
    }
    forwarded
}

fn limits(section: &schema::ServerLimits) -> ServerLimits {
    let default = ServerLimits::default();
    ServerLimits {
        max_connections: section.max_connections.or(default.max_connections),
        max_connections_per_address: section.max_connections_per_address.or(default.max_connections_per_address),
        max_header_bytes: section.max_header_bytes.or(default.max_header_bytes),
        max_headers: section.max_headers.or(default.max_headers),
        handshake_timeout: section.handshake_timeout.or(default.handshake_timeout),
        detection_timeout: section.detection_timeout.or(default.detection_timeout),
        header_timeout: section.header_timeout.or(default.header_timeout),
        first_request_timeout: section.first_request_timeout.or(default.first_request_timeout),
        idle_timeout: section.idle_timeout.or(default.idle_timeout),
        keepalive_time: section.keepalive_time.or(default.keepalive_time),
        keepalive_timeout: section.keepalive_timeout.or(default.keepalive_timeout),
        max_connection_age: section.max_connection_age.or(default.max_connection_age),
        max_connection_age_grace: section.max_connection_age_grace.or(default.max_connection_age_grace),
        max_concurrent_streams: section.max_concurrent_streams.or(default.max_concurrent_streams),
        request_timeout: section.request_timeout.or(default.request_timeout),
        body_timeout: section.body_timeout.or(default.body_timeout),
        send_timeout: section.send_timeout.or(default.send_timeout),
        max_body_bytes: section.max_body_bytes.or(default.max_body_bytes),
        max_message_bytes: section.max_message_bytes.or(default.max_message_bytes),
        max_pending_resets: section.max_pending_resets.or(default.max_pending_resets),
        max_local_resets: section.max_local_resets.or(default.max_local_resets),
        max_control_frames: section.max_control_frames.or(default.max_control_frames),
    }
}

/// AD-07: who reaches the listener needs no identity, so that anybody may must be said.
pub(super) fn admin(section: &schema::Admin, path: Path<'_>, context: &mut Context) -> Option<Admin> {
    let Spanned { value: address, at } = section.address.given()?;
    let mut admin = Admin::new(*address);
    admin.allow_remote = section.allow_remote.or(false);
    admin.allow_drain = section.allow_drain.or(false);
    admin.hosts = section.hosts.value().into_iter().flatten().filter_map(|host| host.value().cloned()).collect();
    if !address.ip().to_canonical().is_loopback() && !admin.allow_remote && !section.allow_remote.is_invalid() {
        context.report(*at, path.key("address"), || {
            let message =
                format!("{address} is no loopback address: whoever reaches it would read all that is known here");
            let help = format!("write `127.0.0.1:{}`, or add `allow_remote: true`", address.port());
            Draft::new(message).about(&address.to_string()).help(help)
        });
    }
    Some(admin)
}
