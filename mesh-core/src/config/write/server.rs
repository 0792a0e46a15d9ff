//! What a program serves.

use std::time::Duration;

use super::Writer;
use crate::config::tree::Node;
use crate::model::{Admin, Listen, Server, ServerLimits, ServerTls};

impl Writer {
    pub(in crate::config) fn server(self, server: &Server) -> Node {
        let forwarded = &server.forwarded_identity;
        // Who is let in needs a mode beside it: the one that follows from an identity.
        let mode = server.tls.or((!server.identities.is_empty()).then_some(ServerTls::Strict));
        let tls = mode.map(|mode| match &server.identities[..] {
            [] => self.word(mode),
            identities => self.map([("mode", Some(self.word(mode))), ("identities", Some(self.peers(identities)))]),
        });
        let addresses = server.addresses.iter().map(|address| self.listen(address));
        self.map([
            ("name", Some(self.text(&server.name))),
            ("addresses", (addresses.len() > 0).then(|| self.list(addresses))),
            ("tls", tls),
            (
                "forwarded_identity",
                Some(self.map([
                    ("trusted_proxies", Some(self.peers(&forwarded.trusted_proxies))),
                    ("headers", Some(self.list(forwarded.headers.iter().map(|name| self.text(name.as_str()))))),
                    ("write", Some(self.flag(forwarded.write))),
                ])),
            ),
            ("limits", Some(self.limits(&server.limits))),
            (
                "drain",
                Some(self.map([
                    ("delay", Some(self.duration(server.drain.delay))),
                    ("grace", Some(self.duration(server.drain.grace))),
                ])),
            ),
            ("access_log", Some(self.word(server.access_log))),
            ("propagate_deadline", Some(self.flag(server.propagate_deadline))),
        ])
    }

    fn listen(self, listen: &Listen) -> Node {
        self.text(&match listen {
            Listen::Socket(address) => address.to_string(),
            Listen::Unix(path) => format!("unix:{}", path.to_string_lossy()),
            Listen::Inherited(place) => format!("fd:{place}"),
        })
    }

    fn limits(self, limits: &ServerLimits) -> Node {
        let ServerLimits {
            max_connections,
            max_connections_per_address,
            max_header_bytes,
            max_headers,
            handshake_timeout,
            detection_timeout,
            header_timeout,
            first_request_timeout,
            idle_timeout,
            keepalive_time,
            keepalive_timeout,
            max_connection_age,
            max_connection_age_grace,
            max_concurrent_streams,
            request_timeout,
            body_timeout,
            send_timeout,
            max_body_bytes,
            max_message_bytes,
            max_pending_resets,
            max_local_resets,
            max_control_frames,
        } = limits;
        let number = |number: &u32| Some(self.number(*number));
        let time = |time: &Duration| Some(self.duration(*time));
        self.map([
            ("max_connections", self.or_none(*max_connections, Self::number)),
            ("max_connections_per_address", self.or_none(*max_connections_per_address, Self::number)),
            ("max_header_bytes", number(max_header_bytes)),
            ("max_headers", number(max_headers)),
            ("handshake_timeout", time(handshake_timeout)),
            ("detection_timeout", time(detection_timeout)),
            ("header_timeout", time(header_timeout)),
            ("first_request_timeout", time(first_request_timeout)),
            ("idle_timeout", self.or_none(*idle_timeout, Self::duration)),
            ("keepalive_time", self.or_none(*keepalive_time, Self::duration)),
            ("keepalive_timeout", time(keepalive_timeout)),
            ("max_connection_age", self.or_none(*max_connection_age, Self::duration)),
            ("max_connection_age_grace", self.or_none(*max_connection_age_grace, Self::duration)),
            ("max_concurrent_streams", number(max_concurrent_streams)),
            ("request_timeout", self.or_none(*request_timeout, Self::duration)),
            ("body_timeout", self.or_none(*body_timeout, Self::duration)),
            ("send_timeout", self.or_none(*send_timeout, Self::duration)),
            ("max_body_bytes", self.or_none(*max_body_bytes, Self::number)),
            ("max_message_bytes", self.or_none(*max_message_bytes, Self::number)),
            ("max_pending_resets", number(max_pending_resets)),
            ("max_local_resets", number(max_local_resets)),
            ("max_control_frames", number(max_control_frames)),
        ])
    }

    fn or_none<T>(self, value: Option<T>, write: impl FnOnce(Self, T) -> Node) -> Option<Node> {
        Some(value.map_or_else(|| self.text("none"), |value| write(self, value)))
    }

    pub(in crate::config) fn admin(self, admin: &Admin) -> Node {
        let Admin { address, allow_remote, allow_drain, hosts } = admin;
        self.map([
            ("address", Some(self.text(&address.to_string()))),
            ("allow_remote", Some(self.flag(*allow_remote))),
            ("allow_drain", Some(self.flag(*allow_drain))),
            ("hosts", Some(self.list(hosts.iter().map(|host| self.text(host))))),
        ])
    }
}
