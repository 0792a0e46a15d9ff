//! What an error of somebody else's client says about the request.

use std::error::Error as StdError;
use std::io;

use mesh_core::classify::Failure;
use mesh_core::grpc::{self, Code};

use crate::error::{Error, ErrorKind};

/// Tells what an error of the inner service means for a retry.
///
/// The answer decides what may happen next ([`Failure`]): [`Connect`](Failure::Connect),
/// [`NotSent`](Failure::NotSent) and [`Refused`](Failure::Refused) say that no peer processed the request, so that even
/// a POST may be sent again; [`Reset`](Failure::Reset) that one may have; [`Local`](Failure::Local) ends it.
///
/// Implemented by [`KnownErrors`], which is the default, and by functions:
///
/// ```
/// use mesh_tower::core::classify::Failure;
/// use mesh_tower::layer::{ClassifyFailure, KnownErrors};
///
/// #[derive(Debug, thiserror::Error)]
/// #[error("the pool is drained")]
/// struct Drained;
///
/// let classify = |error: &(dyn std::error::Error + 'static)| match error.is::<Drained>() {
///     true => Failure::NotSent,
///     false => KnownErrors.classify(error),
/// };
/// assert_eq!(classify.classify(&Drained), Failure::NotSent);
/// ```
pub trait ClassifyFailure {
    /// What `error` says. It is the error as the inner service returned it; its causes are in its source chain.
    fn classify(&self, error: &(dyn StdError + 'static)) -> Failure;
}

impl<F: Fn(&(dyn StdError + 'static)) -> Failure> ClassifyFailure for F {
    fn classify(&self, error: &(dyn StdError + 'static)) -> Failure {
        self(error)
    }
}

/// Understands the errors of this crate, `h2`, `hyper`, hyper-util's client and [`std::io`], wherever they stand in the
/// source chain; so also those of a tonic `Channel`. The outermost that says something decides.
///
/// | error | failure |
/// | --- | --- |
/// | [`Error`] of a kind | that kind's: no healthy endpoint is [`Connect`](Failure::Connect), and so on |
/// | [`io::ErrorKind::ConnectionRefused`], a connector of hyper-util | [`Connect`](Failure::Connect) |
/// | `hyper` "canceled" or "closed": it never left the queue | [`NotSent`](Failure::NotSent) |
/// | `h2`: `REFUSED_STREAM` or `GOAWAY` from the peer (RFC 9113 8.7) | [`Refused`](Failure::Refused) |
/// | `h2`: any other reset | [`Reset`](Failure::Reset) with gRPC's code for its reason |
/// | a broken connection or response: `h2`, `hyper`, [`io::Error`] | [`Reset`](Failure::Reset) |
/// | the request itself is at fault: `hyper`'s user errors | [`Local`](Failure::Local) |
/// | everything else | [`Local`](Failure::Local): of what is not known nobody can say that a retry is safe |
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KnownErrors;

impl ClassifyFailure for KnownErrors {
    fn classify(&self, error: &(dyn StdError + 'static)) -> Failure {
        chain(error).find_map(known).unwrap_or(Failure::Local)
    }
}

/// The error of this crate in the source chain of `error`: what a layer, or a mesh below it, had to say.
///
/// ```
/// use mesh_tower::layer::find_error;
/// use mesh_tower::{BoxError, Error, ErrorKind};
///
/// let error: BoxError = Error::new(ErrorKind::DeadlineExceeded, "no response within 1s").into();
/// assert_eq!(find_error(&*error).map(Error::http_status), Some(http::StatusCode::GATEWAY_TIMEOUT));
/// ```
pub fn find_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// `error` and its causes.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error: &'a (dyn StdError + 'static) = *error;
        match error.downcast_ref().and_then(io::Error::get_ref) {
            // Its `source` would be the source of what it wraps, and what it wraps be skipped.
            Some(wrapped) => Some(wrapped as _),
            None => error.source(),
        }
    })
}

/// What one error of a chain says, its causes apart.
fn known(error: &(dyn StdError + 'static)) -> Option<Failure> {
    if let Some(error) = error.downcast_ref::<Error>() {
        return Some(mesh(error));
    }
    if let Some(error) = error.downcast_ref::<h2::Error>() {
        return Some(h2(error));
    }
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        return Some(hyper(error));
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return io(error.kind());
    }
    // hyper-util's types need a feature that nothing else here needs, or are private.
    matches!(error.to_string().as_str(), "client error (Connect)" | "tcp connect error" | "dns error")
        .then_some(Failure::Connect)
}

fn mesh(error: &Error) -> Failure {
    match error.kind() {
        ErrorKind::NoHealthyEndpoint => Failure::Connect,
        ErrorKind::Refused => Failure::Refused,
        ErrorKind::PerTryTimeout => Failure::PerTryTimeout,
        ErrorKind::Protocol => Failure::Reset(None),
        // UNAVAILABLE is what a broken connection counts as, too.
        ErrorKind::Reset => Failure::Reset(Some(error.grpc_code()).filter(|code| *code != Code::Unavailable)),
        _ => Failure::Local,
    }
}

fn h2(error: &h2::Error) -> Failure {
    if crate::net::h2::is_refused(error) {
        return Failure::Refused;
    }
    Failure::Reset(error.reason().filter(|_| error.is_reset()).map(|reason| grpc::code_of_h2_reason(reason.into())))
}

fn hyper(error: &hyper::Error) -> Failure {
    if error.is_canceled() || error.is_closed() {
        return Failure::NotSent;
    }
    // hyper counts a connection task that is gone among the user's errors; the request may have left by then.
    if error.is_user() && !error.to_string().contains("dispatch task is gone") {
        return Failure::Local;
    }
    // The cause knows more, if it is there.
    error.source().and_then(|cause| chain(cause).find_map(known)).unwrap_or(Failure::Reset(None))
}

fn io(kind: io::ErrorKind) -> Option<Failure> {
    match kind {
        // Nothing but an attempt to connect ends like this.
        io::ErrorKind::ConnectionRefused => Some(Failure::Connect),
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::NotConnected
        | io::ErrorKind::TimedOut
        | io::ErrorKind::UnexpectedEof => Some(Failure::Reset(None)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::BoxError;

    #[derive(Debug, thiserror::Error)]
    #[error("the user's own client failed")]
    struct Wrapped(#[source] BoxError);

    fn every_way_to_wrap(make: impl Fn() -> BoxError) -> [BoxError; 4] {
        [
            make(),
            Wrapped(make()).into(),
            io::Error::other(make()).into(),
            Wrapped(io::Error::other(make()).into()).into(),
        ]
    }

    #[test]
    fn errors_of_the_mesh() {
        for kind in ErrorKind::ALL {
            let expected = match kind {
                ErrorKind::NoHealthyEndpoint => Failure::Connect,
                ErrorKind::Refused => Failure::Refused,
                ErrorKind::PerTryTimeout => Failure::PerTryTimeout,
                ErrorKind::Protocol | ErrorKind::Reset => Failure::Reset(None),
                _ => Failure::Local,
            };
            for error in every_way_to_wrap(|| Error::new(kind, "").into()) {
                assert_eq!(KnownErrors.classify(&*error), expected, "{error:?}");
                assert_eq!(find_error(&*error).map(Error::kind), Some(kind), "{error:?}");
            }
        }
        let reset = Error::new(ErrorKind::Reset, "").with_code(Code::ResourceExhausted);
        assert_eq!(KnownErrors.classify(&reset), Failure::Reset(Some(Code::ResourceExhausted)));
    }

    #[test]
    fn errors_of_sockets() {
        use io::ErrorKind as Kind;
        for (kind, expected) in [
            (Kind::ConnectionRefused, Failure::Connect),
            (Kind::ConnectionReset, Failure::Reset(None)),
            (Kind::BrokenPipe, Failure::Reset(None)),
            (Kind::UnexpectedEof, Failure::Reset(None)),
            (Kind::TimedOut, Failure::Reset(None)),
            (Kind::PermissionDenied, Failure::Local),
            (Kind::Other, Failure::Local),
        ] {
            for error in every_way_to_wrap(|| io::Error::from(kind).into()) {
                assert_eq!(KnownErrors.classify(&*error), expected, "{error:?}");
                assert!(find_error(&*error).is_none());
            }
        }
    }

    /// The peer's resets are those of the tests over connections; here is what a client says by itself.
    #[test]
    fn errors_of_h2() {
        let reason = |reason: h2::Reason| h2::Error::from(reason).into();
        for error in every_way_to_wrap(|| reason(h2::Reason::REFUSED_STREAM)) {
            assert!(matches!(KnownErrors.classify(&*error), Failure::Reset(_)), "not from the peer: {error:?}");
        }
    }

    #[test]
    fn what_is_not_known_ends_the_request() {
        for error in every_way_to_wrap(|| "the signature could not be made".into()) {
            assert_eq!(KnownErrors.classify(&*error), Failure::Local, "{error:?}");
        }
    }
}
