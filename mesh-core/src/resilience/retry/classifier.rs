use http::Method;

use crate::classify::Attempt;
use crate::model::BackendId;

/// Says what the conditions of a retry policy cannot: whether this very outcome is worth another attempt.
///
/// It is asked after every attempt of a request whose route has a retry policy, on the request path: it must be quick.
/// How often, how soon and within which budget a request is tried again stays with the policy, and so does the question
/// which methods may be repeated. What no peer processed is sent again without asking.
///
/// ```
/// use mesh_core::classify::Attempt;
/// use mesh_core::resilience::retry::{Attempted, RetryClassifier, Verdict};
///
/// /// An answer that says itself whether it will be another one next time.
/// struct Hint;
///
/// impl RetryClassifier for Hint {
///     fn classify(&self, attempted: &Attempted<'_>) -> Verdict {
///         let Attempt::Response { headers, .. } = attempted.attempt else { return Verdict::Policy };
///         match headers.get("x-retry").map(|value| value.as_bytes()) {
///             Some(b"yes") => Verdict::Retry,
///             Some(b"no") => Verdict::Return,
///             _ => Verdict::Policy,
///         }
///     }
/// }
/// ```
pub trait RetryClassifier: Send + Sync + 'static {
    /// What is to become of an attempt.
    fn classify(&self, attempted: &Attempted<'_>) -> Verdict;
}

/// An attempt that ended, with what it was for.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Attempted<'a> {
    /// The virtual host.
    pub service: &'a str,
    /// The route's name, if it has one.
    pub route: Option<&'a str>,
    /// The backend.
    pub backend: &'a BackendId,
    /// The request's method.
    pub method: &'a Method,
    /// The request's path.
    pub path: &'a str,
    /// How it ended.
    pub attempt: &'a Attempt<'a>,
}

impl<'a> Attempted<'a> {
    /// `attempt`, of a request for `method` and `path` to `service`'s `backend`.
    pub fn new(
        service: &'a str,
        backend: &'a BackendId,
        method: &'a Method,
        path: &'a str,
        attempt: &'a Attempt<'a>,
    ) -> Self {
        Self { service, route: None, backend, method, path, attempt }
    }
}

/// What an application says of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Verdict {
    /// What the policy's conditions say.
    #[default]
    Policy,
    /// As if one of the policy's conditions held.
    Retry,
    /// As if none did.
    Return,
}
