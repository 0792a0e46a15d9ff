use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};

use super::{HeaderMatch, Rewrite};

/// When a failed attempt is followed by another, how often and how soon.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// The conditions; one that holds is enough.
    pub on: RetryOn,
    /// The statuses of [`RetryOn::RETRIABLE_STATUS_CODES`].
    pub status_codes: Vec<StatusCode>,
    /// The response headers of [`RetryOn::RETRIABLE_HEADERS`]; one that matches is enough.
    pub headers: Vec<HeaderMatch>,
    /// How many attempts may follow the first. gRPC calls never have more than 5 attempts in all (gRFC A44).
    pub num_retries: u32,
    /// Bound of each attempt up to its response head; an attempt that exceeds it counts as failed and retriable.
    pub per_try_timeout: Option<Duration>,
    /// The pause before each retry.
    pub backoff: Backoff,
    /// Which methods may be sent again after a peer may have acted on them. gRPC calls are not bound by it: for them
    /// naming a code is the permission.
    pub methods: RetryMethods,
    /// How much of a request body is kept for a resend, in bytes; a body that grows beyond it commits the attempt.
    pub max_body_bytes: usize,
}

impl RetryPolicy {
    /// The replay cap where none is configured: 64 KiB (Linkerd's).
    pub const DEFAULT_MAX_BODY_BYTES: usize = 64 * 1024;
    /// The most attempts of a gRPC call, the first included (gRFC A44).
    pub const MAX_GRPC_ATTEMPTS: u32 = 5;

    /// One retry on `on` with the default pauses.
    pub fn new(on: RetryOn) -> Self {
        Self {
            on,
            status_codes: Vec::new(),
            headers: Vec::new(),
            num_retries: 1,
            per_try_timeout: None,
            backoff: Backoff::default(),
            methods: RetryMethods::default(),
            max_body_bytes: Self::DEFAULT_MAX_BODY_BYTES,
        }
    }

    /// Sets how many attempts may follow the first.
    pub fn with_num_retries(mut self, num_retries: u32) -> Self {
        self.num_retries = num_retries;
        self
    }

    /// Sets the pauses.
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }
}

/// A set of retry conditions, in the words of Envoy's `retry_on` and `retry_grpc_on`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct RetryOn(u16);

/// A word that is no retry condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a retry condition")]
pub struct UnknownCondition(pub String);

impl RetryOn {
    /// gRPC status CANCELLED.
    pub const CANCELLED: Self = Self(1);
    /// gRPC status DEADLINE_EXCEEDED from the peer.
    pub const DEADLINE_EXCEEDED: Self = Self(1 << 1);
    /// gRPC status INTERNAL.
    pub const INTERNAL: Self = Self(1 << 2);
    /// gRPC status RESOURCE_EXHAUSTED.
    pub const RESOURCE_EXHAUSTED: Self = Self(1 << 3);
    /// gRPC status UNAVAILABLE, which a broken connection is too.
    pub const UNAVAILABLE: Self = Self(1 << 4);
    /// Any HTTP status 500..=599, or no response at all.
    pub const SERVER_ERROR: Self = Self(1 << 5);
    /// HTTP status 502, 503 or 504, or no response at all.
    pub const GATEWAY_ERROR: Self = Self(1 << 6);
    /// No connection could be made.
    pub const CONNECT_FAILURE: Self = Self(1 << 7);
    /// The peer refused the stream (`REFUSED_STREAM`).
    pub const REFUSED_STREAM: Self = Self(1 << 8);
    /// The connection or the stream broke before a response.
    pub const RESET: Self = Self(1 << 9);
    /// HTTP status 409.
    pub const RETRIABLE_4XX: Self = Self(1 << 10);
    /// An HTTP status of the policy's list.
    pub const RETRIABLE_STATUS_CODES: Self = Self(1 << 11);
    /// A response header that matches one of the policy's list.
    pub const RETRIABLE_HEADERS: Self = Self(1 << 12);

    /// Every word with the condition it stands for.
    pub const WORDS: [(&'static str, Self); 13] = [
        ("cancelled", Self::CANCELLED),
        ("deadline-exceeded", Self::DEADLINE_EXCEEDED),
        ("internal", Self::INTERNAL),
        ("resource-exhausted", Self::RESOURCE_EXHAUSTED),
        ("unavailable", Self::UNAVAILABLE),
        ("5xx", Self::SERVER_ERROR),
        ("gateway-error", Self::GATEWAY_ERROR),
        ("connect-failure", Self::CONNECT_FAILURE),
        ("refused-stream", Self::REFUSED_STREAM),
        ("reset", Self::RESET),
        ("retriable-4xx", Self::RETRIABLE_4XX),
        ("retriable-status-codes", Self::RETRIABLE_STATUS_CODES),
        ("retriable-headers", Self::RETRIABLE_HEADERS),
    ];

    /// The conditions gRPC itself knows (gRFC A44).
    pub const GRPC: Self = Self(0b1_1111);

    /// No condition.
    pub const fn none() -> Self {
        Self(0)
    }

    /// Whether no condition is set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all conditions of `other` are in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any condition of `other` is in this set.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The conditions of both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The condition of one word, such as `connect-failure`.
    ///
    /// # Errors
    /// [`UnknownCondition`] if there is no such word.
    pub fn from_word(word: &str) -> Result<Self, UnknownCondition> {
        Self::WORDS
            .iter()
            .find_map(|(name, condition)| (*name == word).then_some(*condition))
            .ok_or_else(|| UnknownCondition(word.to_owned()))
    }

    /// gRPC's reading of an xDS `retry_on`: comma-separated, trimmed, in any case; only the conditions of
    /// [`RetryOn::GRPC`] count and everything else is ignored (gRFC A44).
    pub fn from_grpc_list(list: &str) -> Self {
        list.split(',')
            .filter_map(|word| Self::from_word(&word.trim().to_ascii_lowercase()).ok())
            .filter(|condition| Self::GRPC.contains(*condition))
            .fold(Self::none(), Self::union)
    }

    /// The words of the set.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        Self::WORDS.into_iter().filter(move |(_, condition)| self.contains(*condition)).map(|(word, _)| word)
    }
}

impl std::ops::BitOr for RetryOn {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl fmt::Debug for RetryOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.words()).finish()
    }
}

/// Which methods may be sent again after a peer may have acted on them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RetryMethods {
    /// Those that RFC 9110 9.2.2 calls idempotent: GET, HEAD, OPTIONS, TRACE, PUT, DELETE.
    #[default]
    Idempotent,
    /// Every method.
    All,
    /// These.
    Only(Vec<Method>),
}

impl RetryMethods {
    /// Whether `method` may be sent again.
    pub fn allows(&self, method: &Method) -> bool {
        match self {
            Self::Idempotent => method.is_idempotent(),
            Self::All => true,
            Self::Only(methods) => methods.contains(method),
        }
    }
}

/// Exponential pauses: before retry `n` (from 1) `min(base * 2^(n-1), max)`, jittered by ±20 % (gRFC A6, A44).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause; less than 1 ms counts as 1 ms. Default 25 ms.
    pub base: Duration,
    /// The longest pause, at least `base`. Default 10 times `base`.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_millis(25), max: Duration::from_millis(250) }
    }
}

/// How many retries of a backend may be under way at once: `max(min_concurrent, percent of its other requests in
/// flight)` (Envoy's retry budget). A retry counts from the beginning of its pause; one beyond the budget waits as long
/// as that pause, asks again, and is then given up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// The share of the requests in flight, in percent, 0..=100. Default 20.
    pub percent: f64,
    /// What is allowed however few requests are in flight. Default 3.
    pub min_concurrent: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: 20.0, min_concurrent: 3 }
    }
}

/// gRPC's token bucket for retries (gRFC A6): a failure takes one token, a success returns `token_ratio`; retries stop
/// while half of the tokens or more are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryThrottling {
    /// The size of the bucket, 1..=1000.
    pub max_tokens: u32,
    /// What a success returns, in thousandths of a token; more than 0.
    pub token_ratio_millis: u32,
}

/// One ingredient of a request's hash (gRFC A42).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct HashPolicy {
    /// Where the value comes from.
    pub source: HashSource,
    /// Whether the policies behind this one are skipped once a hash exists.
    pub terminal: bool,
}

impl HashPolicy {
    /// A policy that the following ones add to.
    pub fn new(source: HashSource) -> Self {
        Self { source, terminal: false }
    }
}

/// Where a hash policy finds its value.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum HashSource {
    /// A header's values, joined with a comma, after an optional rewrite. Absent and `-bin` headers give nothing.
    Header {
        /// The header.
        name: HeaderName,
        /// Applied to the joined value before it is hashed.
        rewrite: Option<Rewrite>,
    },
    /// The first query parameter of this name, percent-decoded.
    QueryParameter(Arc<str>),
    /// The cookie of this name. Where there is none and a `ttl` is set, a value is made up: the response gives it to the
    /// caller in `set-cookie`, and this request is balanced by it already (Envoy's).
    Cookie {
        /// The cookie.
        name: Arc<str>,
        /// How long a cookie that is made up lives; zero lives as long as the caller's session. `None`: none is made up.
        ttl: Option<Duration>,
        /// Its path. `None`: that of the request's directory, as always without one (RFC 6265 5.1.4).
        path: Option<Arc<str>>,
    },
    /// The address of whom the request came from, without a port, where the caller said so.
    SourceAddress,
    /// A random number that one channel keeps for its life (xDS `filter_state` with key `io.grpc.channel_id`).
    ChannelId,
}

/// When a request that has no answer yet is sent once more, to another endpoint, without giving up the first (gRFC A6).
///
/// The first good answer wins and the others are cancelled. Hedges count against the retry budget and the retry
/// throttling. A route has this or a retry policy, not both; with both this one holds.
///
/// A request that names the endpoint of its session is not hedged ([`SessionAffinity`]): the answer of another endpoint
/// would take the session along. It is not retried either, and the first request of a session is hedged.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HedgePolicy {
    /// How many attempts there may be in all, 2..=5.
    pub max_attempts: u32,
    /// The pause between two attempts; zero sends all at once.
    pub delay: Duration,
    /// A gRPC answer of these codes does not end the call: it starts the next attempt at once. For HTTP the words that
    /// name statuses hold in the same way. Anything else is final; the words that name no answer (`connect-failure`,
    /// `refused-stream`, `reset`) and `retriable-headers` mean nothing here, and a file is refused that has them.
    pub non_fatal: RetryOn,
    /// The statuses of [`RetryOn::RETRIABLE_STATUS_CODES`].
    pub status_codes: Vec<StatusCode>,
    /// Which methods may be sent twice. gRPC calls are not bound by it: for them the policy is the permission.
    pub methods: RetryMethods,
    /// How much of a request body is kept for the other attempts, in bytes; a body that grows beyond it ends the
    /// hedging.
    pub max_body_bytes: usize,
}

impl HedgePolicy {
    /// `max_attempts` with pauses of `delay`, after which anything but silence is final.
    pub fn new(max_attempts: u32, delay: Duration) -> Self {
        Self {
            max_attempts,
            delay,
            non_fatal: RetryOn::none(),
            status_codes: Vec::new(),
            methods: RetryMethods::default(),
            max_body_bytes: RetryPolicy::DEFAULT_MAX_BODY_BYTES,
        }
    }
}

/// How the requests of a session find the endpoint of its first one again, whatever becomes of the others
/// (gRFC A55, Envoy's stateful session): the endpoint's address travels with the session.
///
/// Where that endpoint is gone or not available, the balancer chooses another one, and the session moves there. An
/// endpoint that drains keeps its sessions. The address counts within the backend that the request goes to: where a
/// route splits its requests among several, a session may find itself in another one each time.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionAffinity {
    /// In a cookie.
    Cookie {
        /// Its name.
        name: Arc<str>,
        /// How long it lives; zero lives as long as the caller's session.
        ttl: Duration,
        /// Its path. Requests outside of it have no session.
        path: Arc<str>,
    },
    /// In a header of requests and responses.
    Header(HeaderName),
}
