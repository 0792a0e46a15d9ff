//! Where a request finds its series.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use mesh_core::snapshot::VirtualHost;
use opentelemetry::{KeyValue, StringValue};

use super::index::{Hash, Index};
use super::instruments::Histograms;
use super::outcome::Protocol;
use super::series::{Durations, Series};
use super::target;
use super::{Call, KEEP, MAX_SERIES, lock};

/// The methods that OpenTelemetry's conventions know; any other is `_OTHER`.
pub(super) const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "_OTHER"];
/// What is counted beyond [`MAX_SERIES`], and calls that generated code does not stand for.
pub(super) const OTHER: &str = "other";
/// The most places: each series before and after an update.
const MAX_PLACES: usize = 2 * MAX_SERIES;

/// The index of `_OTHER`.
const OTHER_METHOD: usize = METHODS.len() - 1;

/// What a request asks for, as far as series tell: what [`Method`] owns.
#[derive(Debug, Clone, Copy)]
pub(super) enum Key<'a> {
    Grpc(Option<&'a str>),
    Http(usize),
}

impl<'a> From<Call<'a>> for Key<'a> {
    fn from(call: Call<'a>) -> Self {
        let method = match call {
            Call::Grpc(path) => return Self::Grpc(path),
            Call::Http(method) => method,
        };
        Self::Http(method_number(method))
    }
}

/// The index of [`METHODS`] that a method has.
pub(super) fn method_number(method: &http::Method) -> usize {
    match *method {
        http::Method::GET => 0,
        http::Method::HEAD => 1,
        http::Method::POST => 2,
        http::Method::PUT => 3,
        http::Method::DELETE => 4,
        http::Method::OPTIONS => 5,
        http::Method::PATCH => 6,
        http::Method::TRACE => 7,
        http::Method::CONNECT => 8,
        _ => OTHER_METHOD,
    }
}

/// What a request asks for, as far as series tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Method {
    /// The path of a call that generated code stands for.
    Grpc(Option<Arc<str>>),
    /// An index of [`METHODS`].
    Http(usize),
}

impl Method {
    fn of(key: Key<'_>) -> Self {
        match key {
            Key::Grpc(path) => Self::Grpc(path.map(Arc::from)),
            Key::Http(index) => Self::Http(index),
        }
    }

    fn is(&self, key: Key<'_>) -> bool {
        match (self, key) {
            (Self::Grpc(path), Key::Grpc(called)) => path.as_deref() == called,
            (Self::Http(index), Key::Http(called)) => *index == called,
            _ => false,
        }
    }

    pub(super) fn protocol(&self) -> Protocol {
        match self {
            Self::Grpc(_) => Protocol::Grpc,
            Self::Http(_) => Protocol::Http,
        }
    }

    /// `package.Service/Method`, or a known method of HTTP.
    fn text(&self) -> StringValue {
        match self {
            Self::Grpc(Some(path)) => path.trim_start_matches('/').to_owned().into(),
            Self::Grpc(None) => OTHER.into(),
            Self::Http(index) => METHODS[*index].into(),
        }
    }
}

fn hash_key(hash: Hash, key: Key<'_>) -> u64 {
    match key {
        Key::Grpc(Some(path)) => hash.number(1).text(path),
        Key::Grpc(None) => hash.number(2),
        Key::Http(index) => hash.number(3).number(index as u64),
    }
    .finish()
}

/// A route: by its name, or by its index if it has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RouteName {
    Named(Arc<str>),
    Index(u32),
}

/// What a series counts.
#[derive(Debug, Clone)]
pub(super) struct Name {
    service: Arc<str>,
    route: RouteName,
    pub(super) method: Method,
}

impl Name {
    pub(super) fn of(host: &VirtualHost, route: u32, key: Key<'_>) -> Self {
        let route = host.route_name(route).map_or(RouteName::Index(route), |name| RouteName::Named(Arc::clone(name)));
        Self { service: Arc::clone(host.name()), route, method: Method::of(key) }
    }

    fn other(key: Key<'_>) -> Self {
        Self { service: OTHER.into(), route: RouteName::Named(OTHER.into()), method: Method::of(key) }
    }

    fn is(&self, host: &VirtualHost, route: u32, key: Key<'_>) -> bool {
        let same_route = match &self.route {
            RouteName::Named(name) => host.route_name(route) == Some(name),
            RouteName::Index(index) => *index == route && host.route_name(route).is_none(),
        };
        same_route && self.service == *host.name() && self.method.is(key)
    }

    fn is_in(&self, host: &VirtualHost) -> bool {
        match &self.route {
            RouteName::Named(name) => host.routes().iter().any(|route| route.name() == Some(name)),
            RouteName::Index(index) => host.routes().get(*index as usize).is_some_and(|route| route.name().is_none()),
        }
    }

    /// What our own metrics of requests are told apart by.
    pub(super) fn attributes(&self) -> Vec<KeyValue> {
        let route: StringValue = match &self.route {
            RouteName::Named(name) => Arc::clone(name).into(),
            RouteName::Index(index) => format!("#{index}").into(),
        };
        let method = match self.method.protocol() {
            Protocol::Grpc => "rpc.method",
            Protocol::Http => "http.request.method",
        };
        vec![
            KeyValue::new("mesh.service", Arc::clone(&self.service)),
            KeyValue::new("mesh.route", route),
            KeyValue::new(method, self.method.text()),
        ]
    }

    /// What the metrics of gRPC and of OpenTelemetry's conventions are told apart by.
    pub(super) fn target_attributes(&self) -> Vec<KeyValue> {
        match self.method.protocol() {
            Protocol::Grpc => {
                let target = target::grpc(&self.service);
                vec![KeyValue::new("grpc.method", self.method.text()), KeyValue::new("grpc.target", target)]
            }
            Protocol::Http => {
                let (address, port) = target::server(&self.service);
                let mut attributes = vec![
                    KeyValue::new("http.request.method", self.method.text()),
                    KeyValue::new("server.address", address),
                ];
                attributes.extend(port.map(|port| KeyValue::new("server.port", i64::from(port))));
                attributes
            }
        }
    }
}

fn hash_name(host: &VirtualHost, route: u32, key: Key<'_>) -> u64 {
    let hash = Hash::new().text(host.name());
    let hash = match host.route_name(route) {
        Some(name) => hash.number(1).text(name),
        None => hash.number(2).number(route.into()),
    };
    hash_key(hash, key)
}

fn hash_place(host: &Arc<VirtualHost>, route: u32, key: Key<'_>) -> u64 {
    hash_key(Hash::new().number(Arc::as_ptr(host).addr() as u64).number(route.into()), key)
}

/// A route of a virtual host that is held, so that no other one has its address, and a method.
#[derive(Debug, Clone)]
struct Place {
    host: Arc<VirtualHost>,
    route: u32,
    method: Method,
    series: Arc<Series>,
}

impl Place {
    fn is(&self, host: &Arc<VirtualHost>, route: u32, key: Key<'_>) -> bool {
        Arc::ptr_eq(&self.host, host) && self.route == route && self.method.is(key)
    }
}

/// A series whose route left the configuration.
#[derive(Debug)]
struct Leaving {
    series: Arc<Series>,
    /// Its activity when it was looked at, and since when it is that.
    seen: Mutex<(u64, Instant)>,
}

impl Leaving {
    fn is_idle(&self, now: Instant) -> bool {
        let activity = self.series.activity();
        let mut seen = lock(&self.seen);
        if seen.0 != activity {
            *seen = (activity, now);
        }
        now.saturating_duration_since(seen.1) >= KEEP
    }
}

/// See the [module above](super).
#[derive(Debug)]
pub(super) struct Table {
    places: Index<Place>,
    /// By name.
    series: Index<Arc<Series>>,
    leaving: Vec<Arc<Leaving>>,
    /// Of gRPC calls, of HTTP requests.
    other: [Arc<Series>; 2],
}

impl Table {
    pub(super) fn new(histograms: &Arc<Histograms>) -> Self {
        let other = [Key::Grpc(None), Key::Http(OTHER_METHOD)].map(|key| {
            let name = Name::other(key);
            let durations = Durations::new(&name, histograms);
            Arc::new(Series::new(name, durations))
        });
        Self { places: Index::default(), series: Index::default(), leaving: Vec::new(), other }
    }

    /// The series of a request.
    pub(super) fn find(&self, host: &Arc<VirtualHost>, route: u32, key: Key<'_>) -> Option<&Arc<Series>> {
        let place = self.places.find(hash_place(host, route, key), |place| place.is(host, route, key))?;
        Some(&place.series)
    }

    /// The series of a request by its names.
    pub(super) fn named(&self, host: &VirtualHost, route: u32, key: Key<'_>) -> Option<&Arc<Series>> {
        self.series.find(hash_name(host, route, key), |series| series.name.is(host, route, key))
    }

    pub(super) fn other(&self, key: Key<'_>) -> &Arc<Series> {
        let [grpc, http] = &self.other;
        if let Key::Grpc(_) = key { grpc } else { http }
    }

    pub(super) fn len(&self) -> usize {
        self.series.len()
    }

    pub(super) fn places_are_full(&self) -> bool {
        self.places.len() >= MAX_PLACES
    }

    /// What counts the same target and method on other routes, or of a service that is told by the same place.
    pub(super) fn durations(&self, name: &Name) -> Option<Arc<Durations>> {
        let attributes = name.target_attributes();
        let same = |series: &&Arc<Series>| series.durations.attributes == attributes;
        self.all().find(same).map(|series| Arc::clone(&series.durations))
    }

    /// Every series, those of what has no place of its own last.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Series>> {
        self.series.iter().map(|(_, series)| series).chain(&self.other)
    }

    /// With one more place, and with `series` if it is new.
    pub(super) fn with(&self, host: &Arc<VirtualHost>, route: u32, key: Key<'_>, series: &Arc<Series>) -> Self {
        let place =
            Place { host: Arc::clone(host), route, method: series.name.method.clone(), series: Arc::clone(series) };
        let places = self.places.iter().cloned().chain([(hash_place(host, route, key), place)]);
        let new = self.named(host, route, key).is_none();
        let new = new.then(|| (hash_name(host, route, key), Arc::clone(series)));
        let series = self.series.iter().cloned().chain(new);
        Self {
            places: Index::new(places.collect()),
            series: Index::new(series.collect()),
            leaving: self.leaving.clone(),
            other: self.other.clone(),
        }
    }

    /// As `hosts` are in force: without the places of those that are not, and with their series on their way out.
    pub(super) fn following(&self, hosts: &[Arc<VirtualHost>], now: Instant) -> Self {
        let live: HashSet<_> = hosts.iter().map(Arc::as_ptr).collect();
        let places = self.places.iter().filter(|(_, place)| live.contains(&Arc::as_ptr(&place.host))).cloned();
        let named: HashMap<&str, &Arc<VirtualHost>> = hosts.iter().map(|host| (&**host.name(), host)).collect();
        let left =
            |series: &&Arc<Series>| !named.get(&*series.name.service).is_some_and(|host| series.name.is_in(host));
        let leaving = self.series.iter().map(|(_, series)| series).filter(left).map(|series| {
            let known = self.leaving.iter().find(|leaving| Arc::ptr_eq(&leaving.series, series));
            known.cloned().unwrap_or_else(|| {
                let seen = Mutex::new((series.activity(), now));
                Arc::new(Leaving { series: Arc::clone(series), seen })
            })
        });
        Self {
            places: Index::new(places.collect()),
            series: Index::new(self.series.iter().cloned().collect()),
            leaving: leaving.collect(),
            other: self.other.clone(),
        }
    }

    /// Whether something left and was not used for [`KEEP`].
    pub(super) fn has_idle(&self, now: Instant) -> bool {
        self.leaving.iter().any(|leaving| leaving.is_idle(now))
    }

    /// Without that.
    pub(super) fn without_idle(&self, now: Instant) -> Self {
        let (idle, leaving): (Vec<_>, Vec<_>) = self.leaving.iter().cloned().partition(|leaving| leaving.is_idle(now));
        let idle: HashSet<_> = idle.iter().map(|leaving| Arc::as_ptr(&leaving.series)).collect();
        let stays = |series: &Arc<Series>| !idle.contains(&Arc::as_ptr(series));
        let places = self.places.iter().filter(|(_, place)| stays(&place.series)).cloned();
        let series = self.series.iter().filter(|(_, series)| stays(series)).cloned();
        Self {
            places: Index::new(places.collect()),
            series: Index::new(series.collect()),
            leaving,
            other: self.other.clone(),
        }
    }
}
