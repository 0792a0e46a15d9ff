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

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    /// RE-12: the smaller wins; zero means "no bound" only for the route.
    #[test]
    fn re_12_the_shorter_bound_holds() {
        for (caller, route, expected) in [
            (None, None, None),
            (secs(10), None, secs(10)),
            (None, secs(3), secs(3)),
            (secs(10), secs(3), secs(3)),
            (secs(3), secs(10), secs(3)),
            (secs(10), secs(0), secs(10)),
            (None, secs(0), None),
            (secs(0), secs(3), secs(0)),
            (secs(0), None, secs(0)),
            (secs(0), secs(0), secs(0)),
        ] {
            assert_eq!(effective(caller, route), expected, "{caller:?} {route:?}");
        }
    }

    /// RE-12: the table of gRFC A31, with the caller's deadline of 10 s and without one.
    #[test]
    fn re_12_the_first_limit_that_is_set_counts() {
        for (header_max, max_stream_duration, listener, with_caller, alone) in [
            (secs(5), None, None, secs(5), secs(5)),
            (secs(5), secs(1), secs(1), secs(5), secs(5)),
            (secs(20), secs(1), secs(1), secs(10), secs(20)),
            (secs(0), None, None, secs(10), None),
            (secs(0), secs(1), secs(1), secs(10), None),
            (None, secs(5), None, secs(5), secs(5)),
            (None, secs(5), secs(1), secs(5), secs(5)),
            (None, secs(20), secs(1), secs(10), secs(20)),
            (None, secs(0), None, secs(10), None),
            (None, secs(0), secs(1), secs(10), None),
            (None, None, secs(5), secs(5), secs(5)),
            (None, None, secs(20), secs(10), secs(20)),
            (None, None, secs(0), secs(10), None),
            (None, None, None, secs(10), None),
        ] {
            let limit = grpc_limit(header_max, max_stream_duration, listener);
            let case = format!("{header_max:?} {max_stream_duration:?} {listener:?}");
            assert_eq!(effective(secs(10), limit), with_caller, "{case}");
            assert_eq!(effective(None, limit), alone, "{case}");
        }
    }
}
