//! Sections to the model: what can only be said of several fields together is checked here.
//!
//! A field that was refused counts as written; nothing is said about what follows from it. The model that comes out
//! is only used if no problem was found at all.

mod backend;
mod balancer;
mod connection;
mod endpoint;
mod identity;
mod matching;
mod overload;
mod policy;
mod server;
mod session;
mod settings;
mod tls;

use std::collections::{HashMap, HashSet};
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use self::identity::HasIdentity;
use super::origin::Position;
use super::problem::{Draft, Path, shorten};
use super::schema;
use super::shape::{Context, Field, Map, Shape, Spanned, list};
use super::suggest::did_you_mean;
use crate::model::{
    BackendId, Config, Defaults, Forward, HostPattern, PolicyOverride, Route, RoutePolicy, UnknownServices,
    VirtualHost, WeightedBackend,
};

/// The model of `file`.
pub(super) fn config(file: &schema::File, directory: &FsPath, context: &mut Context) -> Config {
    let settings = settings::settings(file, directory, context);
    require_services(file, settings.unknown_services, context);
    let defaults = settings.defaults.clone();
    let admin = settings.admin.as_ref().map(|admin| admin.address);
    let mut config = Config::new().with_settings(settings);
    let has_identity = HasIdentity::of(file);
    for server in server::servers(&file.servers, has_identity, admin, directory, context) {
        config = config.with_server(server);
    }
    let mut owners = HashMap::new();
    let services = Path::TOP;
    let services = services.key("services");
    for entry in file.services.value().into_iter().flatten() {
        let path = services.key(&entry.name);
        let mut hosts = Hosts { owners: &mut owners, service: &entry.name, claimed: Vec::new() };
        // A name that is no host has been reported.
        if let Ok(host) = HostPattern::parse(&entry.name) {
            hosts.claim(host, entry.at, path, context);
        }
        let Some(service) = &entry.value else { continue };
        let hosts_path = path.key("hosts");
        for (index, host) in service.hosts.value().into_iter().flatten().enumerate() {
            if let Some(host) = host.given() {
                hosts.claim(host.value.clone(), host.at, hosts_path.index(index), context);
            }
        }
        let mut virtual_host = VirtualHost::new(entry.name.clone(), hosts.claimed);
        virtual_host.routes = routes(service, &entry.name, &defaults, path, context);
        virtual_host.retry_throttling = service.retry_throttling.value().map(policy::retry_throttling);
        config = config.with_virtual_host(virtual_host);
        let backends_path = path.key("backends");
        for named in service.backends.value().into_iter().flatten() {
            if let Some(section) = &named.value {
                let id = BackendId::new(entry.name.clone(), named.name.clone());
                let path = backends_path.key(&named.name);
                let scope = backend::Scope { defaults: &defaults, has_identity, directory };
                config = config.with_backend(backend::backend(section, id, &scope, path, context));
            }
        }
    }
    config
}

/// Without services every name is unknown; that makes sense only if unknown names are looked up.
fn require_services(file: &schema::File, unknown: UnknownServices, context: &mut Context) {
    let is_needed = unknown == UnknownServices::Refuse && !file.unknown_services.is_invalid();
    // A process may serve and call nobody.
    if file.services.is_written() || file.servers.is_written() || file.is_doubtful || !is_needed {
        return;
    }
    // Who said `refuse` is to hear of it, if it was not the file that lacks the services.
    let at = match file.unknown_services.given() {
        Some(Spanned { at: at @ (Position::Environment(_) | Position::Builder(_)), .. }) => *at,
        _ => file.at,
    };
    context.report(at, Path::TOP.key("services"), || {
        let form = <Map<schema::Service> as Shape>::form();
        let draft = Draft::new(format!("`services` is missing: write {form}"));
        draft.help("or `unknown_services: dns`, to look every name up")
    });
}

/// The path of a file. A relative one that stands in the configuration is relative to `directory`; what the environment
/// or the program says is relative to where the process runs.
fn file_path(path: &Spanned<Arc<str>>, directory: &FsPath) -> PathBuf {
    match path.at {
        // An absolute path stays what it is.
        Position::File { .. } => directory.join(&*path.value),
        Position::Default | Position::Environment(_) | Position::Builder(_) => PathBuf::from(&*path.value),
    }
}

/// The hosts of one service, and who has those of the others.
struct Hosts<'a> {
    owners: &'a mut HashMap<HostPattern, Arc<str>>,
    service: &'a Arc<str>,
    claimed: Vec<HostPattern>,
}

impl Hosts<'_> {
    fn claim(&mut self, host: HostPattern, at: Position, path: Path<'_>, context: &mut Context) {
        match self.owners.get(&host) {
            None => {
                self.owners.insert(host.clone(), self.service.clone());
                self.claimed.push(host);
            }
            // Naming a host of its own twice changes nothing.
            Some(owner) if owner == self.service => {}
            Some(owner) => context.report(at, path, || {
                let message = format!("`{host}` is already a host of the service `{}`", shorten(owner));
                Draft::new(message)
                    .about(&host.to_string())
                    .help("a host belongs to one service, in any case of its letters")
            }),
        }
    }
}

/// The routes of a service.
fn routes(
    service: &schema::Service,
    name: &Arc<str>,
    defaults: &Defaults,
    path: Path<'_>,
    context: &mut Context,
) -> Vec<Route> {
    let backends: &[_] = service.backends.value().map_or(&[], Vec::as_slice);
    let written: &[_] = service.routes.value().map_or(&[], Vec::as_slice);
    if written.is_empty() && !service.routes.is_invalid() {
        return match backends {
            [] => Vec::new(),
            [only] => {
                let forward = Forward::to(BackendId::new(name.clone(), only.name.clone()));
                vec![Route::new(forward.with_policy(default_policy(defaults)))]
            }
            [first, ..] => {
                context.report(service.at, path.key("routes"), || {
                    let names = list(backends.iter().map(|backend| &*backend.name));
                    let message = format!("`routes` is missing: it must say which of the backends {names} gets what");
                    let example = format!("write `routes: [{{ backends: [{{ name: {} }}] }}]`", shorten(&first.name));
                    Draft::new(message).help(example)
                });
                Vec::new()
            }
        };
    }
    let scope = Scope {
        service: name,
        backends: backends.iter().map(|backend| &*backend.name).collect(),
        ordered: backends.iter().map(|backend| &*backend.name).collect(),
        is_known: !service.backends.is_invalid(),
        defaults,
    };
    let path = path.key("routes");
    let mut names = HashMap::new();
    let mut routes = Vec::new();
    for (index, section) in written.iter().enumerate() {
        let Some(section) = section.given() else { continue };
        let path = path.index(index);
        if let Some(Spanned { value, at }) = section.value.name.given()
            && let Some(first) = names.insert(value.clone(), index)
        {
            context.report(*at, path.key("name"), || {
                let message = format!("{:?} is already the name of the route `#{first}`", shorten(value));
                Draft::new(message).about(value)
            });
        }
        routes.push(route(&section.value, &scope, path, context));
    }
    routes
}

/// The backends that routes of a service may name.
struct Scope<'a> {
    service: &'a Arc<str>,
    backends: HashSet<&'a str>,
    /// The same in the order of the file, for messages.
    ordered: Vec<&'a str>,
    /// Whether the backends could be read; if not, no name is called wrong.
    is_known: bool,
    defaults: &'a Defaults,
}

/// The policy of a route that says nothing.
fn default_policy(defaults: &Defaults) -> RoutePolicy {
    RoutePolicy { timeout: defaults.timeout, retry: defaults.retry.clone(), ..RoutePolicy::default() }
}

fn route(section: &schema::Route, scope: &Scope<'_>, path: Path<'_>, context: &mut Context) -> Route {
    let backends = weighted_backends(section, scope, path, context);
    let default = default_policy(scope.defaults);
    let hedge = policy::hedging(&section.hedging, path, context).flatten();
    policy::one_of_retry_and_hedging(&section.retry, &section.hedging, path, context);
    let policy = RoutePolicy {
        timeout: section.timeout.value().copied().unwrap_or(default.timeout),
        // Hedging takes the place of the retries of the defaults.
        retry: policy::retry(&section.retry, path, context)
            .unwrap_or_else(|| default.retry.filter(|_| hedge.is_none())),
        hedge,
        hash: policy::hash(&section.hash_policy, path, context).unwrap_or_default(),
        session: section.session_affinity.value().and_then(|section| {
            let path = path.key("session_affinity");
            session::session_affinity(section, path, context).map(Arc::new)
        }),
    };
    let forward = Forward { backends, policy };
    let mut route = Route::new(forward);
    route.name = section.name.value().cloned();
    let path = path.key("matches");
    for (index, section) in section.matches.value().into_iter().flatten().enumerate() {
        if let Some(section) = section.value() {
            route.matches.push(matching::route_match(section, path.index(index), context));
        }
    }
    route
}

fn weighted_backends(
    section: &schema::Route,
    scope: &Scope<'_>,
    path: Path<'_>,
    context: &mut Context,
) -> Vec<WeightedBackend> {
    let Some(Spanned { value: written, at }) = section.backends.given() else { return Vec::new() };
    let path = path.key("backends");
    let route_hedges = matches!(section.hedging.value(), Some(Some(_)));
    let mut names = HashSet::new();
    let mut sum = Some(0_u64);
    let mut backends = Vec::new();
    for (index, item) in written.iter().enumerate() {
        let Some(Spanned { value: item, .. }) = item.given() else {
            sum = None;
            continue;
        };
        let path = path.index(index);
        sum = sum.zip(item.weight.value()).map(|(sum, weight)| sum + u64::from(*weight));
        if let Some(Spanned { value: name, at }) = item.name.given() {
            if scope.is_known && !scope.backends.contains(&**name) {
                context.report(*at, path.key("name"), || unknown_backend(name, scope));
            }
            if !names.insert(name) {
                context.report(*at, path.key("name"), || {
                    let message = format!("`{}` is already a backend of this route", shorten(name));
                    Draft::new(message).about(name).help("add up their weights")
                });
            }
        }
        policy::one_of_retry_and_hedging(&item.retry, &item.hedging, path, context);
        let retry = policy::retry(&item.retry, path, context);
        // Of what the backend says the route's hedging must not take the place.
        let ends_hedging = (route_hedges && matches!(retry, Some(Some(_)))).then_some(None);
        backends.push(WeightedBackend {
            backend: BackendId::new(scope.service.clone(), item.name.value().map_or("", |name| name)),
            weight: item.weight.or(1),
            subset: item.subset.or_default(),
            policy: PolicyOverride {
                timeout: item.timeout.value().copied(),
                retry,
                hedge: policy::hedging(&item.hedging, path, context).or(ends_hedging),
                hash: policy::hash(&item.hash_policy, path, context),
            },
        });
    }
    if let Some(sum) = sum
        && !(1..=u64::from(u32::MAX)).contains(&sum)
    {
        context.report(*at, path, || {
            Draft::new(format!("the weights add up to {sum}: their sum must be from 1 to {}", u32::MAX))
        });
    }
    backends
}

fn unknown_backend(name: &str, scope: &Scope<'_>) -> Draft {
    let known = || scope.ordered.iter().copied();
    let message = format!("`{}` is not a backend of this service, which has {}", shorten(name), list(known()));
    Draft::new(message).about(name).maybe_help(did_you_mean(name, known()))
}

/// Reports unless exactly one of `fields` is written. The flag of a field: whether it is.
fn exactly_one(fields: &[(&'static str, bool)], at: Position, path: Path<'_>, context: &mut Context) {
    let written = || fields.iter().filter(|(_, is_written)| *is_written).map(|(name, _)| *name);
    match written().count() {
        1 => {}
        0 => context.report(at, path, || {
            Draft::new(format!("one of {} is required", list(fields.iter().map(|(name, _)| *name))))
        }),
        _ => context
            .report(at, path, || Draft::new(format!("{} exclude each other: write one of them", list(written())))),
    }
}

/// Reports a field that means nothing beside the others.
fn has_no_effect<V>(field: &Field<V>, name: &'static str, why: &str, path: Path<'_>, context: &mut Context) {
    if let Some(Spanned { at, .. }) = field.given() {
        context.report(*at, path.key(name), || Draft::new(format!("`{name}` has no effect {why}")).help("remove it"));
    }
}
