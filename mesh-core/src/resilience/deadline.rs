//! How long a call may take in all: every attempt, the pauses between them and the response body.

use std::time::Duration;

/// The shorter of what the caller and the route allow; `None` if neither sets a bound. Zero is no bound on the route's
/// side (gRFC A31), but on the caller's a deadline that has passed.
pub fn effective(caller: Option<Duration>, route: Option<Duration>) -> Option<Duration> {
    match (caller, bound(route)) {
        (Some(caller), Some(route)) => Some(caller.min(route)),
        (caller, route) => caller.or(route),
    }
}

/// The route's bound of a gRPC call as xDS says it (gRFC A31): the first that is set of `grpc_timeout_header_max`, the
/// route's `max_stream_duration` and the listener's `max_stream_duration`. One that is set to zero ends the search
/// without a bound.
pub fn grpc_limit(
    header_max: Option<Duration>,
    max_stream_duration: Option<Duration>,
    listener: Option<Duration>,
) -> Option<Duration> {
    bound(header_max.or(max_stream_duration).or(listener))
}

fn bound(limit: Option<Duration>) -> Option<Duration> {
    limit.filter(|limit| !limit.is_zero())
}
