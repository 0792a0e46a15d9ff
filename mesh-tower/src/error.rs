//! The error of every service of this crate.

use std::error::Error as StdError;
use std::fmt;

use mesh_core::grpc::Code;

pub use mesh_core::error::ErrorKind;

/// A source of an [`Error`].
pub type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// A request ended without a response from a peer.
///
/// The message names the service, the backend, the reason and, where there is one, the way out; the causes follow in
/// [`source`](StdError::source).
///
/// ```
/// use mesh_tower::ErrorKind;
///
/// assert_eq!(ErrorKind::NoRoute.http_status(), 404);
/// assert_eq!(ErrorKind::DeadlineExceeded.http_status(), 504);
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    code: Code,
    message: String,
    attempts: u32,
    source: Option<BoxError>,
}

impl Error {
    /// An error of `kind`, for layers on top of this crate.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, code: kind.grpc_code(), message: message.into(), attempts: 0, source: None }))
    }

    pub(crate) fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub(crate) fn with_code(mut self, code: Code) -> Self {
        self.0.code = code;
        self
    }

    /// Says where it happened.
    pub(crate) fn in_place(mut self, place: &str) -> Self {
        self.0.message = format!("{place}: {}", self.0.message);
        self
    }

    pub(crate) fn with_attempts(mut self, attempts: u32) -> Self {
        self.0.attempts = attempts;
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The status of the response that stands for this failure, as Envoy would choose it.
    pub fn http_status(&self) -> http::StatusCode {
        self.0.kind.http_status()
    }

    /// The gRPC code of this failure.
    pub fn grpc_code(&self) -> Code {
        self.0.code
    }

    /// How many attempts were made; 0 if nothing was sent.
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// Whether the time was up: the caller's deadline, the route's timeout or the per-try timeout.
    pub fn is_timeout(&self) -> bool {
        matches!(self.0.kind, ErrorKind::DeadlineExceeded | ErrorKind::PerTryTimeout)
    }

    /// Whether a limit of our own refused the request.
    pub fn is_overloaded(&self) -> bool {
        self.0.kind == ErrorKind::Overflow
    }

    /// Whether no endpoint could be connected.
    pub fn is_connect(&self) -> bool {
        matches!(self.0.kind, ErrorKind::NoEndpoint | ErrorKind::NoHealthyEndpoint)
    }

    /// The message with every cause that adds something, in one line.
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let line = error.to_string();
            if !text.contains(&line) {
                text.push_str(": ");
                text.push_str(&line);
            }
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("attempts", &self.0.attempts)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
