//! What is legal and probably wrong.
//!
//! Looked for only where there is no problem. What somebody wrote to say that it is meant (`timeout: 0s`,
//! `tls: { mode: disabled }`) is not warned about.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::choice::{Balancer, MethodList};
use super::duration::format;
use super::origin::Position;
use super::problem::{Path, shorten};
use super::schema::{self, BalancerSection};
use super::shape::{Field, Named, Spanned};
use super::warning::Warning;
use crate::model::{Address, UnknownServices};

/// How many warnings are kept.
const MAX_WARNINGS: usize = 1000;

/// The warnings about `file`, in its order. `name` is how they call it.
pub(super) fn warnings(file: &schema::File, name: &Arc<str>) -> Vec<Warning> {
    let mut lint = Lint { defaults: file.defaults.value(), name, found: Vec::new() };
    if let Some(defaults) = lint.defaults {
        lint.retry(&defaults.retry, &defaults.timeout, Path::TOP.key("defaults"));
    }
    lint.unknown_services(file);
    let services = Path::TOP;
    let services = services.key("services");
    for service in file.services.value().into_iter().flatten() {
        lint.service(service, services.key(&service.name));
    }
    lint.found.sort_by_key(|warning| (warning.origin.line(), warning.origin.column()));
    lint.found
}

struct Lint<'a> {
    defaults: Option<&'a schema::Defaults>,
    name: &'a Arc<str>,
    found: Vec<Warning>,
}

type Timeout = Field<Option<Duration>>;
type Retry = Field<Option<schema::Retry>>;

impl<'a> Lint<'a> {
    fn warn(&mut self, code: &'static str, at: Position, path: Path<'_>, message: String, help: &str) {
        if self.found.len() < MAX_WARNINGS {
            let origin = at.origin(self.name);
            self.found.push(Warning { code, origin, path: path.to_string(), message, help: help.to_owned() });
        }
    }

    fn service(&mut self, service: &Named<schema::Service>, path: Path<'_>) {
        let Some(section) = &service.value else { return };
        let routes: &[_] = section.routes.value().map_or(&[], Vec::as_slice);
        self.unbounded(service, routes, path);
        let mut used = HashSet::new();
        let mut catch_all = None;
        let routes_path = path.key("routes");
        for (index, route) in routes.iter().enumerate() {
            let Some(Spanned { value: route, at }) = route.given() else { continue };
            let path = routes_path.index(index);
            if let Some(first) = catch_all {
                let message = format!("no request comes here: the route `#{first}` matches all that are left");
                let help = "move it up, or give the other one `matches`";
                self.warn("unreachable-route", *at, path, message, help);
            } else if matches_everything(route) {
                catch_all = Some(index);
            }
            self.route(route, section, path);
            let backends = route.backends.value().into_iter().flatten().filter_map(Field::value);
            used.extend(backends.filter_map(|backend| backend.name.value().cloned()));
        }
        let backends: &[_] = section.backends.value().map_or(&[], Vec::as_slice);
        let backends_path = path.key("backends");
        for backend in backends {
            let path = backends_path.key(&backend.name);
            if !routes.is_empty() && !used.contains(&backend.name) {
                let message = format!("no route of the service leads to the backend `{}`", shorten(&backend.name));
                self.warn("unused-backend", backend.at, path, message, "name it in a route, or remove it");
            } else if let Some(section) = &backend.value {
                self.backend(section, path);
            }
        }
    }

    /// Who said that any name is looked up has a bound to think of; where nobody said anything there is no file to warn
    /// about.
    fn unknown_services(&mut self, file: &schema::File) {
        if let Some(Spanned { value: UnknownServices::Dns, at }) = file.unknown_services.given()
            && matches!(at, Position::File { .. } | Position::Environment(_))
            && !self.has_default_timeout()
        {
            let message =
                "a request to a name that is no service takes as long as it takes if its caller sets no deadline";
            let help = "set `defaults.timeout`; `0s` says that none is meant";
            self.warn("no-default-timeout", *at, Path::TOP.key("unknown_services"), message.to_owned(), help);
        }
    }

    fn has_default_timeout(&self) -> bool {
        self.defaults.is_some_and(|defaults| defaults.timeout.is_written())
    }

    /// About the service if none of its routes has a bound, otherwise about each that has none.
    fn unbounded(&mut self, service: &Named<schema::Service>, routes: &[Field<schema::Route>], path: Path<'_>) {
        if self.has_default_timeout() {
            return;
        }
        let is_bounded = |route: &schema::Route| {
            let mut backends = route.backends.value().into_iter().flatten().filter_map(Field::value).peekable();
            route.timeout.is_written()
                || backends.peek().is_some() && backends.all(|backend| backend.timeout.is_written())
        };
        let name = &service.name;
        if !routes.iter().filter_map(Field::value).any(is_bounded) {
            let message = format!("a request to `{name}` takes as long as it takes if its caller sets no deadline");
            let help = "set `timeout` of its routes, or `defaults.timeout`; `0s` says that none is meant";
            self.warn("no-timeout", service.at, path, message, help);
            return;
        }
        let routes_path = path.key("routes");
        let help = "set its `timeout`, or `defaults.timeout`; `0s` says that none is meant";
        for (index, route) in routes.iter().enumerate() {
            if let Some(Spanned { value: route, at }) = route.given()
                && !is_bounded(route)
            {
                let message = format!(
                    "a request to `{name}` by this route takes as long as it takes if its caller sets no deadline"
                );
                self.warn("no-timeout", *at, routes_path.index(index), message, help);
            }
        }
    }

    fn route(&mut self, route: &schema::Route, service: &schema::Service, path: Path<'_>) {
        let matches_path = path.key("matches");
        for (index, section) in route.matches.value().into_iter().flatten().enumerate() {
            if let Some(section) = section.value() {
                self.share(section, matches_path.index(index));
            }
        }
        let defaults = self.defaults;
        let inherited = defaults.map_or(&Field::Absent, |defaults| &defaults.timeout);
        let timeout = if route.timeout.is_written() { &route.timeout } else { inherited };
        self.retry(&route.retry, timeout, path);
        self.hash(&route.hash_policy, route, service, path);
        let backends_path = path.key("backends");
        for (index, backend) in route.backends.value().into_iter().flatten().enumerate() {
            let Some(backend) = backend.value() else { continue };
            let path = backends_path.index(index);
            let timeout = if backend.timeout.is_written() { &backend.timeout } else { timeout };
            self.retry(&backend.retry, timeout, path);
            self.hash(&backend.hash_policy, route, service, path);
        }
    }

    fn share(&mut self, section: &schema::Match, path: Path<'_>) {
        let help = "remove the match, or let some requests through";
        let message = || "no request is among a share of nothing: this never matches".to_owned();
        if let Some(Spanned { value: 0, at }) = section.percent.given() {
            self.warn("never-matches", *at, path.key("percent"), message(), help);
        }
        if let Some(Spanned { value: fraction, at }) = section.fraction.given()
            && fraction.numerator.value() == Some(&0)
        {
            self.warn("never-matches", *at, path.key("fraction"), message(), help);
        }
    }

    fn retry(&mut self, field: &Retry, timeout: &Timeout, path: Path<'_>) {
        let Some(retry) = field.value().and_then(Option::as_ref) else { return };
        let path = path.key("retry");
        if let Some(Spanned { value: MethodList::All, at }) = retry.methods.given() {
            let message = "a POST that a server carried out before it failed is carried out again".to_owned();
            let help = "list the methods that may be repeated, such as `[GET, PUT]`";
            self.warn("retry-all-methods", *at, path.key("methods"), message, help);
        }
        let Some(timeout) = timeout.value().copied().flatten() else { return };
        if let Some(Spanned { value: Some(per_try), at }) = retry.per_try_timeout.given()
            && *per_try >= timeout
        {
            let message = format!(
                "an attempt may take {}, and the whole request only {}: one that takes too long is never retried",
                format(*per_try),
                format(timeout)
            );
            let help = "make it a fraction of the timeout";
            self.warn("per-try-timeout-too-long", *at, path.key("per_try_timeout"), message, help);
        }
        let base = retry.backoff.value().and_then(|backoff| backoff.base.given());
        if let Some(Spanned { value: base, at }) = base
            && *base >= timeout
        {
            let message = format!(
                "the first pause takes {}, and the whole request only {}: there is no time for a retry",
                format(*base),
                format(timeout)
            );
            let help = "make it a fraction of the timeout";
            self.warn("backoff-too-long", *at, path.key("backoff").key("base"), message, help);
        }
    }

    /// The balancers of today choose without a hash; one of the application may look at it.
    fn hash(
        &mut self,
        field: &Field<Vec<Field<schema::HashPolicy>>>,
        route: &schema::Route,
        service: &schema::Service,
        path: Path<'_>,
    ) {
        let Some(Spanned { value, at }) = field.given() else { return };
        let names: HashSet<_> =
            route.backends.value().into_iter().flatten().filter_map(|backend| backend.value()?.name.value()).collect();
        let is_used = service.backends.value().into_iter().flatten().any(|backend| {
            let balancer = backend.value.as_ref().and_then(|section| self.balancer(section));
            names.contains(&backend.name) && balancer.is_some_and(|balancer| is_policy(balancer, Balancer::Custom))
        });
        if !value.is_empty() && !is_used {
            let message = "no backend of this route has a balancer that looks at a hash".to_owned();
            let help = "use a `custom` balancer, or remove it";
            self.warn("unused-hash-policy", *at, path.key("hash_policy"), message, help);
        }
    }

    /// The balancer of a backend, be it its own or the default.
    fn balancer(&self, section: &'a schema::Backend) -> Option<&'a BalancerSection> {
        section.load_balancer.value().or_else(|| self.defaults.and_then(|defaults| defaults.load_balancer.value()))
    }

    fn backend(&mut self, section: &schema::Backend, path: Path<'_>) {
        let endpoints = section.endpoints.given();
        if let Some(Spanned { value, at }) = endpoints
            && value.is_empty()
        {
            let message = "there is no endpoint: every request to this backend fails".to_owned();
            self.warn("no-endpoints", *at, path.key("endpoints"), message, "list some, or use `dns`");
        }
        let addresses = || endpoints.into_iter().flat_map(|list| list.value.iter()).filter_map(Field::given);
        let own = section.load_balancer.value();
        let defaults = self.defaults.and_then(|defaults| defaults.load_balancer.value());
        if let Some(balancer) = own.or(defaults)
            && is_policy(balancer, Balancer::PickFirst)
            && !balancer.shuffle.or(false)
            && addresses().count() > 2
        {
            let message = "every client uses the first endpoint that it can connect to, and the others idle".to_owned();
            let help = "set `shuffle: true`, or use another balancer";
            self.warn("pick-first-of-many", balancer.at, path.key("load_balancer"), message, help);
        }
        if !section.tls.is_written()
            && let Some((index, Spanned { value: address, at })) =
                addresses().enumerate().find(|(_, address)| is_public(&address.value))
        {
            let message = format!("requests to {address} go over the internet in plaintext");
            let help = "add `tls: { mode: simple }`; `mode: disabled` says that plaintext is meant";
            self.warn("public-plaintext", *at, path.key("endpoints").index(index), message, help);
        }
        if let Some(Spanned { value: budget, at }) = section.retry_budget.given()
            && (budget.percent.value(), budget.min_concurrent.value()) == (Some(&0), Some(&0))
        {
            let message = "the budget allows no retry at all".to_owned();
            let help = "raise it; `retry: none` of a route says that none is meant";
            self.warn("empty-retry-budget", *at, path.key("retry_budget"), message, help);
        }
    }
}

fn is_policy(balancer: &BalancerSection, policy: Balancer) -> bool {
    balancer.policy.value() == Some(&policy)
}

fn matches_everything(route: &schema::Route) -> bool {
    let matches: &[_] = route.matches.value().map_or(&[], Vec::as_slice);
    let is_empty = |section: &schema::Match| {
        let schema::Match { at: _, is_doubtful: _, path, method, headers, query, percent, fraction } = section;
        let no_conditions = |count: Option<usize>| count.unwrap_or(0) == 0;
        !path.is_written()
            && !method.is_written()
            && no_conditions(headers.value().map(Vec::len))
            && no_conditions(query.value().map(Vec::len))
            && !percent.is_written()
            && !fraction.is_written()
    };
    matches.is_empty() || matches.iter().filter_map(Field::value).any(is_empty)
}

/// Whether packets to it leave what one operator is likely to hold in hand (RFC 6890, RFC 4193).
fn is_public(address: &Address) -> bool {
    let Address::Socket(address) = address else { return false };
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let is_shared = a == 100 && (64..128).contains(&b);
            let is_benchmark = a == 198 && (18..20).contains(&b);
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_documentation()
                || ip.is_multicast()
                || a == 0
                || a >= 240
                || is_shared
                || is_benchmark)
        }
        IpAddr::V6(ip) => {
            let is_documentation = ip.segments()[..2] == [0x2001, 0xdb8];
            !(ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_unique_local()
                || ip.is_unicast_link_local()
                || ip.is_multicast()
                || is_documentation)
        }
    }
}
