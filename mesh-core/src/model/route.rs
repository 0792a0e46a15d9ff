use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};

use super::{BackendId, HashPolicy, HedgePolicy, Metadata, Pattern, RetryPolicy, RetryThrottling, SessionAffinity};

/// The names callers use for one service, and what happens to requests for them.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct VirtualHost {
    /// Its name: the service's in a file. Errors and telemetry speak of it.
    pub name: Arc<str>,
    /// Authorities that select it.
    pub hosts: Vec<HostPattern>,
    /// Routes in order: the first that matches wins.
    pub routes: Vec<Route>,
    /// gRPC's token bucket for retries (gRFC A6); its tokens survive updates.
    pub retry_throttling: Option<RetryThrottling>,
}

impl VirtualHost {
    /// A virtual host without routes.
    pub fn new(name: impl Into<Arc<str>>, hosts: Vec<HostPattern>) -> Self {
        Self { name: name.into(), hosts, routes: Vec::new(), retry_throttling: None }
    }

    /// Adds a route behind the others.
    pub fn with_route(mut self, route: Route) -> Self {
        self.routes.push(route);
        self
    }
}

/// A pattern for an authority. Matching ignores ASCII case; a wildcard stands for at least one byte (Envoy).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// The whole authority.
    Exact(Arc<str>),
    /// `*.example.com`: the text after the star.
    Suffix(Arc<str>),
    /// `example.*`: the text before the star.
    Prefix(Arc<str>),
    /// `*`: everything.
    Any,
}

/// A host pattern that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostPatternError {
    /// Nothing was written.
    #[error("a host must not be empty")]
    Empty,
    /// A star anywhere but at one end.
    #[error("`*` may stand only at the beginning or at the end of a host")]
    Wildcard,
    /// A byte that no authority can hold.
    #[error("a host holds letters, digits and -._:[] only")]
    Character,
    /// Longer than 255 bytes.
    #[error("a host has at most 255 bytes")]
    Length,
}

impl HostPattern {
    /// The longest pattern, in bytes.
    pub const MAX_LEN: usize = 255;

    /// Reads `example.com`, `example.com:8080`, `*.example.com`, `example.*` or `*`; the result is in lower case.
    ///
    /// # Errors
    /// A [`HostPatternError`] that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, HostPatternError> {
        if text.is_empty() {
            return Err(HostPatternError::Empty);
        }
        if text.len() > Self::MAX_LEN {
            return Err(HostPatternError::Length);
        }
        let lower = text.to_ascii_lowercase();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]*".contains(&b);
        if !lower.bytes().all(allowed) {
            return Err(HostPatternError::Character);
        }
        let stars = lower.bytes().filter(|b| *b == b'*').count();
        match (stars, lower.strip_prefix('*'), lower.strip_suffix('*')) {
            (0, ..) => Ok(Self::Exact(lower.into())),
            (1, Some(""), _) => Ok(Self::Any),
            (1, Some(suffix), _) => Ok(Self::Suffix(suffix.into())),
            (1, None, Some(prefix)) => Ok(Self::Prefix(prefix.into())),
            _ => Err(HostPatternError::Wildcard),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// One rule: requests that match go where the action says.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Route {
    /// Its name for people; routes without one are called by their index, `#0`, `#1`, ..
    pub name: Option<Arc<str>>,
    /// Alternatives: one that holds is enough. Empty matches everything.
    pub matches: Vec<RouteMatch>,
    /// What happens.
    pub action: RouteAction,
}

impl Route {
    /// A route that matches everything.
    pub fn new(action: impl Into<RouteAction>) -> Self {
        Self { name: None, matches: Vec::new(), action: action.into() }
    }

    /// Names the route.
    pub fn with_name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Adds an alternative.
    pub fn with_match(mut self, route_match: RouteMatch) -> Self {
        self.matches.push(route_match);
        self
    }
}

/// Conditions that must all hold.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct RouteMatch {
    /// The path; `None` matches every path.
    pub path: Option<PathMatch>,
    /// Whether the path is compared without regard to ASCII case. Regular expressions ignore this (xDS).
    pub ignore_path_case: bool,
    /// The method.
    pub method: Option<Method>,
    /// Headers.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters.
    pub query: Vec<QueryMatch>,
    /// A random share of the requests.
    pub fraction: Option<Fraction>,
}

/// A condition on the path (without the query).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathMatch {
    /// The whole path.
    Exact(Arc<str>),
    /// The first elements of the path, as Gateway API counts: `/v2` matches `/v2` and `/v2/x`, not `/v2x`. A slash at
    /// the end of the pattern makes no difference.
    PathPrefix(Arc<str>),
    /// The first bytes of the path, as xDS counts: `/v2` matches `/v2x` too.
    Prefix(Arc<str>),
    /// A regular expression over the whole path.
    Regex(Pattern),
}

/// A condition on a header. Several values of one name are joined with a comma before they are compared; names ending
/// in `-bin` never match (gRFC A28).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct HeaderMatch {
    /// The header.
    pub name: HeaderName,
    /// What must hold for its value.
    pub value: ValueMatch,
    /// Turns the result round. An absent header then still does not match, unless presence is what is asked.
    pub invert: bool,
}

impl HeaderMatch {
    /// `name` must satisfy `value`.
    pub fn new(name: HeaderName, value: ValueMatch) -> Self {
        Self { name, value, invert: false }
    }

    /// Turns the result round.
    pub fn inverted(mut self) -> Self {
        self.invert = !self.invert;
        self
    }
}

/// A condition on a query parameter: on the first one of that name, percent-decoded.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct QueryMatch {
    /// The parameter's name, decoded.
    pub name: Arc<str>,
    /// What must hold for its value. A range never holds for a query parameter.
    pub value: ValueMatch,
}

impl QueryMatch {
    /// The parameter `name` must satisfy `value`.
    pub fn new(name: impl Into<Arc<str>>, value: ValueMatch) -> Self {
        Self { name: name.into(), value }
    }
}

/// A condition on a value.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ValueMatch {
    /// On the text.
    String(StringMatch),
    /// On the value as a decimal integer: `start` included, `end` excluded. What is not an integer does not match.
    Range {
        /// The smallest number that matches.
        start: i64,
        /// The first number that no longer matches.
        end: i64,
    },
    /// On there being a value at all: `true` asks for one, `false` for none.
    Present(bool),
}

/// A condition on text, byte by byte.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StringMatch {
    /// Equal.
    Exact {
        /// The text.
        value: Arc<str>,
        /// Without regard to ASCII case.
        ignore_case: bool,
    },
    /// Begins with.
    Prefix {
        /// The text.
        value: Arc<str>,
        /// Without regard to ASCII case.
        ignore_case: bool,
    },
    /// Ends with.
    Suffix {
        /// The text.
        value: Arc<str>,
        /// Without regard to ASCII case.
        ignore_case: bool,
    },
    /// Holds.
    Contains {
        /// The text.
        value: Arc<str>,
        /// Without regard to ASCII case.
        ignore_case: bool,
    },
    /// Matches as a whole.
    Regex(Pattern),
}

/// A share of the requests, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fraction(u32);

impl Fraction {
    /// The number of parts the whole is divided into.
    pub const DENOMINATOR: u32 = 1_000_000;

    /// `parts` of a million; more than that counts as all.
    pub fn per_million(parts: u32) -> Self {
        Self(parts.min(Self::DENOMINATOR))
    }

    /// The share in millionths.
    pub fn parts(self) -> u32 {
        self.0
    }

    /// Whether a request that drew `draw` (`0..1_000_000`) is among the share.
    pub fn holds(self, draw: u32) -> bool {
        draw < self.0
    }
}

/// What happens to a request that matched.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum RouteAction {
    /// It is sent to a backend.
    Forward(Forward),
    /// The source asked for something that this version cannot do; requests fail and say so. Only a control plane can
    /// cause this: a file with such a field is refused.
    Unsupported(Arc<str>),
}

impl From<Forward> for RouteAction {
    fn from(forward: Forward) -> Self {
        Self::Forward(forward)
    }
}

/// Send to one of these backends.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Forward {
    /// Candidates; one is drawn for each request in proportion to its weight and kept for all retries.
    pub backends: Vec<WeightedBackend>,
    /// Policies of the route.
    pub policy: RoutePolicy,
}

impl Forward {
    /// Everything to one backend, without policies.
    pub fn to(backend: BackendId) -> Self {
        Self { backends: vec![WeightedBackend::new(backend, 1)], policy: RoutePolicy::default() }
    }

    /// By weight among several backends.
    pub fn split(backends: Vec<WeightedBackend>) -> Self {
        Self { backends, policy: RoutePolicy::default() }
    }

    /// Sets the policies.
    pub fn with_policy(mut self, policy: RoutePolicy) -> Self {
        self.policy = policy;
        self
    }
}

/// A backend and its share.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct WeightedBackend {
    /// The backend.
    pub backend: BackendId,
    /// Its share among its siblings; 0 is never drawn. The sum over a route is 1..=4294967295.
    pub weight: u32,
    /// Only endpoints whose metadata holds all of this. `None`: every endpoint.
    pub subset: Option<Arc<Metadata>>,
    /// Policies that replace the route's for requests that draw this backend.
    pub policy: PolicyOverride,
}

impl WeightedBackend {
    /// `backend` with `weight`.
    pub fn new(backend: BackendId, weight: u32) -> Self {
        Self { backend, weight, subset: None, policy: PolicyOverride::default() }
    }
}

/// What holds for the requests of a route.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct RoutePolicy {
    /// Bound of the whole request: every attempt, the pauses between them, and the response body. `None`: only the
    /// caller's deadline bounds it.
    pub timeout: Option<Duration>,
    /// When and how often to try again. `None`: only what the peer never processed is sent again.
    pub retry: Option<Arc<RetryPolicy>>,
    /// When to send a second one beside the first. It takes the place of `retry`.
    pub hedge: Option<Arc<HedgePolicy>>,
    /// What the request's hash is made of (gRFC A42). Empty: the request has no hash.
    pub hash: Arc<[HashPolicy]>,
    /// How requests of a session find their endpoint again.
    pub session: Option<Arc<SessionAffinity>>,
}

/// Policies of one backend of a route; each `Some` replaces the route's value, whole.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct PolicyOverride {
    /// Replaces the timeout; the inner `None` takes it away.
    pub timeout: Option<Option<Duration>>,
    /// Replaces the retry policy; the inner `None` takes it away.
    pub retry: Option<Option<Arc<RetryPolicy>>>,
    /// Replaces the hedging policy; the inner `None` takes it away.
    pub hedge: Option<Option<Arc<HedgePolicy>>>,
    /// Replaces the hash policies.
    pub hash: Option<Arc<[HashPolicy]>>,
}
