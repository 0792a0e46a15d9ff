use std::time::Duration;

use super::super::duration::format;
use super::super::origin::Position;
use super::super::problem::Path;
use super::super::schema;
use super::super::shape::Spanned;
use super::Lint;
use crate::model::ServerTls;

impl Lint<'_> {
    pub(super) fn servers(&mut self, file: &schema::File) {
        let path = Path::TOP;
        let path = path.key("servers");
        for (index, server) in file.servers.value().into_iter().flatten().enumerate() {
            if let Some(server) = server.value() {
                self.server(server, path.index(index));
            }
        }
        if let Some(admin) = file.admin.value() {
            self.admin(admin, Path::TOP.key("admin"));
        }
    }

    fn server(&mut self, server: &schema::Server, path: Path<'_>) {
        match server.tls.given() {
            None if !self.has_identity => {
                let message = "this process has no identity, and the server speaks plaintext with anybody".to_owned();
                let help = "add `identity`; `tls: disabled` says that plaintext is meant";
                self.warn("plaintext-server", server.at, path, message, help);
            }
            Some(Spanned { value: tls, at }) => {
                if tls.mode.value() == Some(&ServerTls::Permissive) {
                    let message = "who speaks plaintext is let in as nobody, whatever `identities` say".to_owned();
                    let help = "write `strict` once every caller has an identity";
                    self.warn("permissive-server", *at, path.key("tls"), message, help);
                }
                self.peers(&tls.identities, path.key("tls").key("identities"));
            }
            None => {}
        }
        if let Some(forwarded) = server.forwarded_identity.value() {
            self.peers(&forwarded.trusted_proxies, path.key("forwarded_identity").key("trusted_proxies"));
        }
        if let Some(limits) = server.limits.value() {
            self.limits(limits, path.key("limits"));
        }
        if let Some(Spanned { value: drain, at }) = server.drain.given() {
            self.drain(drain, *at, path.key("drain"));
        }
    }

    fn limits(&mut self, limits: &schema::ServerLimits, path: Path<'_>) {
        const CODE: &str = "contradictory-limits";
        let whole = &limits.first_request_timeout;
        for (part, name) in
            [(&limits.handshake_timeout, "handshake_timeout"), (&limits.detection_timeout, "detection_timeout")]
        {
            if let (Some(first), Some(time)) = (whole.value(), part.value())
                && first < time
                && let Some((at, field)) = part
                    .given()
                    .map(|part| (part.at, name))
                    .or_else(|| Some((whole.given()?.at, "first_request_timeout")))
            {
                let message = format!(
                    "`first_request_timeout` of {} ends before the {} of `{name}`",
                    format(*first),
                    format(*time)
                );
                let help = "make the first request's timeout the longer one: it holds for all that comes before it";
                self.warn(CODE, at, path.key(field), message, help);
                return;
            }
        }
        if let (Some(Spanned { value: Some(one), at }), Some(Some(all))) =
            (limits.max_connections_per_address.given(), limits.max_connections.value())
            && one > all
        {
            let message = format!("{one} connections from one address, and {all} in all");
            let help = "make it a part of `max_connections`";
            self.warn(CODE, *at, path.key("max_connections_per_address"), message, help);
        }
        if let (Some(Spanned { value: Some(_), at }), Some(None)) =
            (limits.max_connection_age_grace.given(), limits.max_connection_age.value())
        {
            let message = "no connection is ever too old, so none needs a grace".to_owned();
            self.warn(CODE, *at, path.key("max_connection_age_grace"), message, "set `max_connection_age`");
        }
    }

    fn drain(&mut self, drain: &schema::Drain, at: Position, path: Path<'_>) {
        const KUBERNETES: Duration = Duration::from_secs(30);
        let (Some(delay), Some(grace)) = (drain.delay.value(), drain.grace.value()) else { return };
        let whole = *delay + *grace;
        if whole > KUBERNETES {
            let message = format!("to stop takes up to {}, and Kubernetes kills after 30s by default", format(whole));
            let help = "shorten it, or raise `terminationGracePeriodSeconds` of the pod above it";
            self.warn("long-drain", at, path, message, help);
        }
    }

    fn admin(&mut self, admin: &schema::Admin, path: Path<'_>) {
        if let (Some(Spanned { value: true, at }), Some(address)) = (admin.allow_remote.given(), admin.address.value())
            && !address.ip().to_canonical().is_loopback()
        {
            let message = match admin.allow_drain.value() {
                Some(true) => format!("whoever reaches {address} can read the configuration and stop this process"),
                _ => format!("whoever reaches {address} can read the configuration"),
            };
            let help = "let a network policy say who does; metrics and probes can also be mounted on a server";
            self.warn("remote-admin", *at, path.key("allow_remote"), message, help);
        }
    }
}
