use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Action, Snapshot, Target, Transport, describe};
use crate::matching::{Origin, RequestHead, Session, stated_hash};
use crate::model::{Fraction, RetryMethods, RetryPolicy};

/// A request to be explained.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestDescription {
    /// The method. Default `GET`.
    #[serde(default = "get")]
    pub method: String,
    /// The authority: a service's name, or a host.
    pub authority: String,
    /// The path, with the query if there is one. Default `/`.
    #[serde(default = "slash")]
    pub path: String,
    /// Headers as pairs of name and value. Read from a list of pairs, `[["name", "value"]]`, or from a map,
    /// `{"name": "value"}`, which has no place for a name that comes twice.
    #[serde(default, deserialize_with = "headers")]
    pub headers: Vec<(String, String)>,
    /// What every fraction draws, `0..1_000_000`. Default 0.
    #[serde(default)]
    pub draw: u32,
    /// The address of whom it comes from.
    #[serde(default)]
    pub source: Option<IpAddr>,
}

fn headers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    struct Pairs;

    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(String, String)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(r#"headers as [["name", "value"]] or {"name": "value"}"#)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some(pair) = list.next_element()? {
                pairs.push(pair);
            }
            Ok(pairs)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some(pair) = map.next_entry()? {
                pairs.push(pair);
            }
            Ok(pairs)
        }
    }

    deserializer.deserialize_any(Pairs)
}

fn get() -> String {
    "GET".to_owned()
}

fn slash() -> String {
    "/".to_owned()
}

/// What would happen to a request, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// The virtual host its authority selects.
    pub virtual_host: Option<String>,
    /// The route's name, or `#index`.
    pub route: Option<String>,
    /// `forward`, `redirect`, `direct_response` or `none`.
    pub action: &'static str,
    /// The HTTP status the mesh itself would answer with.
    pub status: Option<u16>,
    /// The backends that may be drawn, with their weights.
    pub backends: Vec<BackendShare>,
    /// The route's timeout in milliseconds.
    pub timeout_ms: Option<u64>,
    /// The retry policy. None where the route hedges.
    pub retry: Option<RetryExplanation>,
    /// The hedging policy in a line: attempts, pause, and what does not end them.
    pub hedging: Option<String>,
    /// How the requests of a session find their endpoint again: `cookie NAME ..`, `header NAME`.
    pub session_affinity: Option<String>,
    /// What the request's hash is made of, in a line each.
    pub hash_policy: Vec<String>,
    /// The request's hash, in hexadecimal. `None`: it has none, or is to be hashed by a cookie that is made up.
    pub hash: Option<String>,
    /// The endpoint that its session names, whether or not the backend has it.
    pub session: Option<String>,
    /// The rule that decided, or why nothing matched.
    pub reason: String,
}

/// A backend and its share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BackendShare {
    /// Its name within the service.
    pub name: String,
    /// Its weight among the backends of the route.
    pub weight: u32,
    /// The metadata that its endpoints must have to be chosen. Empty: every endpoint may be.
    pub subset: BTreeMap<String, String>,
    /// How an endpoint is chosen. Empty if there is no such backend.
    pub load_balancer: String,
    /// What else holds for it, in a line each: localities, limits, outlier detection, health checks, TLS and who is expected, as far as
    /// there are such.
    pub in_force: Vec<String>,
}

impl BackendShare {
    fn new<T: Transport>(snapshot: &Snapshot<T>, target: &Target) -> Self {
        let backend = target.index.and_then(|index| snapshot.backend(index));
        let subset = target.subset.as_deref().into_iter().flatten();
        Self {
            name: target.backend.name.to_string(),
            weight: target.weight,
            subset: subset.map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            load_balancer: backend
                .map(|backend| describe::load_balancer(&backend.config.load_balancer))
                .unwrap_or_default(),
            in_force: backend.map(|backend| describe::in_force(&backend.config)).unwrap_or_default(),
        }
    }
}

/// A retry policy, as [`explain`] shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RetryExplanation {
    /// How many attempts may follow the first.
    pub num_retries: u32,
    /// The conditions.
    pub on: Vec<&'static str>,
    /// The bound of each attempt in milliseconds.
    pub per_try_timeout_ms: Option<u64>,
    /// The first pause in milliseconds.
    pub backoff_base_ms: u64,
    /// The longest pause in milliseconds.
    pub backoff_max_ms: u64,
    /// Which methods may be sent again.
    pub methods: Vec<String>,
    /// The replay cap in bytes.
    pub max_body_bytes: usize,
}

impl From<&RetryPolicy> for RetryExplanation {
    fn from(policy: &RetryPolicy) -> Self {
        Self {
            num_retries: policy.num_retries,
            on: policy.on.words().collect(),
            per_try_timeout_ms: policy.per_try_timeout.map(millis),
            backoff_base_ms: millis(policy.backoff.base),
            backoff_max_ms: millis(policy.backoff.max),
            methods: match &policy.methods {
                RetryMethods::Idempotent => vec!["idempotent".to_owned()],
                RetryMethods::All => vec!["all".to_owned()],
                RetryMethods::Only(methods) => methods.iter().map(ToString::to_string).collect(),
            },
            max_body_bytes: policy.max_body_bytes,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

/// What `snapshot` would do with a request, by the very code of the request path. Nothing is sent.
///
/// # Errors
/// If `request` is not a request: what is wrong with it.
pub fn explain<T: Transport>(snapshot: &Snapshot<T>, request: &RequestDescription) -> Result<Explanation, String> {
    let method: Method =
        request.method.parse().map_err(|_| format!("method: {:?} is not an HTTP method", request.method))?;
    if request.draw >= Fraction::DENOMINATOR {
        return Err(format!("draw: {} is not in 0..={}", request.draw, Fraction::DENOMINATOR - 1));
    }
    let path = if request.path.starts_with('/') || request.path == "*" {
        request.path.as_str()
    } else {
        return Err(format!("path: {:?} does not begin with `/`", request.path));
    };
    let uri: Uri = path.parse().map_err(|error| format!("path: {:?}: {error}", request.path))?;
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        let header: HeaderName = name.parse().map_err(|_| format!("headers: {name:?} is not a header name"))?;
        let value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| format!("headers: the value of {name:?} holds a control character"))?;
        headers.append(header, value);
    }
    let head = RequestHead::new(&method, &uri, &request.authority, &headers);
    let mut explanation = Explanation {
        virtual_host: None,
        route: None,
        action: "none",
        status: Some(404),
        backends: Vec::new(),
        timeout_ms: None,
        retry: None,
        hedging: None,
        session_affinity: None,
        hash_policy: Vec::new(),
        hash: None,
        session: None,
        reason: String::new(),
    };

    if method == Method::CONNECT {
        explanation.status = Some(501);
        explanation.reason = "CONNECT asks to leave HTTP and is refused before routing".to_owned();
        return Ok(explanation);
    }
    let Some(virtual_host) = snapshot.virtual_host(&request.authority) else {
        let nearest = snapshot.nearest_host(&request.authority).map(|host| format!("; did you mean `{host}`?"));
        explanation.reason = format!("no service has the host {:?}{}", request.authority, nearest.unwrap_or_default());
        return Ok(explanation);
    };
    explanation.virtual_host = Some(virtual_host.name().to_string());
    let Some((index, route)) = virtual_host.find(&head, || request.draw) else {
        explanation.reason =
            format!("none of the {} routes of {} matches", virtual_host.routes.len(), virtual_host.name());
        return Ok(explanation);
    };
    let name = route.name.as_ref().map_or_else(|| format!("#{index}"), ToString::to_string);
    let conditions = &virtual_host.config.routes[index as usize].matches;
    explanation.reason = match conditions.len() {
        0 => format!("route {name} matches every request"),
        1 => format!("route {name} is the first whose match holds"),
        count => format!("route {name} is the first of whose {count} matches one holds"),
    };
    explanation.route = Some(name);
    match &route.action {
        Action::Unsupported(what) => {
            explanation.reason = format!("{}, but {what} is not supported in this version", explanation.reason);
        }
        Action::Forward(split) => {
            explanation.action = "forward";
            explanation.status = None;
            explanation.backends = split.targets.iter().map(|target| BackendShare::new(snapshot, target)).collect();
            // Where backends override the route's policies, those of the first one are shown.
            if let Some(target) = split.targets.first() {
                explanation.timeout_ms = target.policy.timeout.map(millis);
                explanation.hedging = target.policy.hedge.as_deref().map(describe::hedging);
                // Hedging takes the place of retries.
                let retry = target.policy.retry.as_deref().filter(|_| explanation.hedging.is_none());
                explanation.retry = retry.map(RetryExplanation::from);
                explanation.session_affinity = target.policy.session.as_deref().map(describe::session);
                explanation.hash_policy = describe::hash_sources(&target.policy.hash);
                let origin = Origin { source: request.source, channel_id: 0 };
                match stated_hash(&target.policy.hash, &head, &origin) {
                    Ok(hash) => explanation.hash = hash.map(|hash| format!("{hash:016x}")),
                    Err(cookie) => {
                        explanation.reason.push_str(&format!("; the cookie {cookie} is made up for its hash"));
                    }
                }
                let session = target.policy.session.as_ref().and_then(|session| Session::of(session, &head));
                explanation.session = session.and_then(|session| session.endpoint).map(|address| address.to_string());
            }
            if split.targets.iter().any(|target| target.index.is_none()) {
                explanation.reason.push_str("; a backend it names does not exist");
            }
        }
    }
    Ok(explanation)
}
