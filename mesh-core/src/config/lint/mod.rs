//! What is legal and probably wrong.
//!
//! Looked for only where there is no problem. What somebody wrote to say that it is meant (`timeout: 0s`,
//! `tls: { mode: disabled }`) is not warned about.

mod backend;
mod balancer;
mod hash;
mod server;
mod subset;
mod tls;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::backend::is_single;
use super::choice::{Balancer, MethodList};
use super::duration::format;
use super::origin::Position;
use super::problem::{Path, shorten};
use super::schema::{self, BalancerSection};
use super::shape::{Field, Named, Spanned};
use super::warning::Warning;
use crate::model::UnknownServices;

/// How many warnings are kept.
const MAX_WARNINGS: usize = 1000;

/// The warnings about `file`, in its order. `name` is how they call it.
pub(super) fn warnings(file: &schema::File, name: &Arc<str>) -> Vec<Warning> {
    let has_locality = file.locality.value().is_some_and(|section| section.region.is_written());
    let mut lint = Lint {
        defaults: file.defaults.value(),
        has_locality,
        has_identity: file.identity.is_written(),
        compared: 0,
        in_plaintext: 0,
        first_in_plaintext: None,
        name,
        found: Vec::new(),
    };
    if let Some(defaults) = lint.defaults {
        let path = Path::TOP.key("defaults");
        lint.retry(&defaults.retry, &defaults.timeout, path);
        lint.outlier_detection(&defaults.outlier_detection, path);
        lint.keepalive(&defaults.keepalive, path);
        if let Some(tls) = defaults.tls.value() {
            lint.peers(&tls.identities, path.key("tls").key("identities"));
        }
    }
    lint.unknown_services(file);
    let services = Path::TOP;
    let services = services.key("services");
    for service in file.services.value().into_iter().flatten() {
        lint.service(service, services.key(&service.name));
    }
    lint.plaintext();
    lint.servers(file);
    lint.found.sort_by_key(|warning| (warning.origin.line(), warning.origin.column()));
    lint.found
}

struct Lint<'a> {
    defaults: Option<&'a schema::Defaults>,
    /// Whether anybody knows where this process runs.
    has_locality: bool,
    has_identity: bool,
    /// How many endpoints were compared with subsets.
    compared: usize,
    /// How many backends are spoken to in plaintext without a word about it.
    in_plaintext: usize,
    first_in_plaintext: Option<(Position, String)>,
    name: &'a Arc<str>,
    found: Vec<Warning>,
}

type Timeout = Field<Option<Duration>>;
type Retry = Field<Option<schema::Retry>>;

impl<'a> Lint<'a> {
    fn warn(&mut self, code: &'static str, at: Position, path: impl fmt::Display, message: String, help: &str) {
        if self.found.len() < MAX_WARNINGS {
            let origin = at.origin(self.name);
            self.found.push(Warning { code, origin, path: path.to_string(), message, help: help.to_owned() });
        }
    }

    fn service(&mut self, service: &'a Named<schema::Service>, path: Path<'_>) {
        let Some(section) = &service.value else { return };
        let routes: &[_] = section.routes.value().map_or(&[], Vec::as_slice);
        self.unbounded(service, routes, path);
        let mut used = HashSet::new();
        let mut catch_all = None;
        let by_name: Backends<'a> = section.backends.value().into_iter().flatten().filter_map(entry_of).collect();
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
            self.route(route, &by_name, path);
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
                self.tls(section, backend.at, path);
                if routes.is_empty() {
                    self.missing_hash(section, backend.at, path);
                }
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

    fn route(&mut self, route: &schema::Route, backends: &Backends<'a>, path: Path<'_>) {
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
        self.hedging(&route.hedging, timeout, path);
        let single = |backend: &schema::WeightedBackend| {
            backend.name.value().and_then(|name| backends.get(&**name)).is_some_and(|section| is_single(section))
        };
        let all = route.backends.value().map_or(&[][..], Vec::as_slice);
        if !all.is_empty() && all.iter().all(|backend| backend.value().is_some_and(single)) {
            self.hedging_of_one(&route.hedging, path);
        }
        self.unused_hash(&route.hash_policy, route, backends, path);
        let backends_path = path.key("backends");
        for (index, backend) in route.backends.value().into_iter().flatten().enumerate() {
            let Some(Spanned { value: backend, at }) = backend.given() else { continue };
            let path = backends_path.index(index);
            let timeout = if backend.timeout.is_written() { &backend.timeout } else { timeout };
            self.retry(&backend.retry, timeout, path);
            self.hedging(&backend.hedging, timeout, path);
            if single(backend) {
                self.hedging_of_one(&backend.hedging, path);
            }
            self.unused_hash(&backend.hash_policy, route, backends, path);
            let name = backend.name.value();
            let Some(section) = name.and_then(|name| backends.get(&**name)) else { continue };
            self.subset(backend, section, path);
            let policies = if backend.hash_policy.is_written() { &backend.hash_policy } else { &route.hash_policy };
            if policies.value().is_none_or(Vec::is_empty) {
                self.missing_hash(section, *at, path);
            }
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

    fn hedging(&mut self, field: &Field<Option<schema::Hedging>>, timeout: &Timeout, path: Path<'_>) {
        let Some(hedging) = field.value().and_then(Option::as_ref) else { return };
        let path = path.key("hedging");
        if let Some(Spanned { value: MethodList::All, at }) = hedging.methods.given() {
            let message = "a POST may be carried out by two servers".to_owned();
            let help = "list the methods that may be sent twice, such as `[GET, PUT]`";
            self.warn("retry-all-methods", *at, path.key("methods"), message, help);
        }
        if let (Some(Spanned { value: delay, at }), Some(timeout)) =
            (hedging.delay.given(), timeout.value().copied().flatten())
            && *delay >= timeout
        {
            let message = format!(
                "the second attempt comes after {}, and the whole request may take only {}",
                format(*delay),
                format(timeout)
            );
            self.warn("hedging-too-late", *at, path.key("delay"), message, "make it a fraction of the timeout");
        }
    }

    fn hedging_of_one(&mut self, field: &Field<Option<schema::Hedging>>, path: Path<'_>) {
        if let Some(Spanned { value: Some(_), at }) = field.given() {
            let message = "there is one endpoint: the second attempt goes where the first one waits".to_owned();
            let help = "list more endpoints, or remove it";
            self.warn("hedging-of-one", *at, path.key("hedging"), message, help);
        }
    }

    /// The balancer of a backend, be it its own or the default.
    fn balancer(&self, section: &'a schema::Backend) -> Option<&'a BalancerSection> {
        section.load_balancer.value().or_else(|| self.defaults.and_then(|defaults| defaults.load_balancer.value()))
    }
}

/// The backends of a service.
type Backends<'a> = HashMap<&'a str, &'a schema::Backend>;

fn entry_of(named: &Named<schema::Backend>) -> Option<(&str, &schema::Backend)> {
    Some((&*named.name, named.value.as_ref()?))
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
