//! What metrics that know no services of a mesh call one.

use std::sync::Arc;

use opentelemetry::StringValue;

use crate::demand::Place;

/// gRPC's target (gRFC A66): the service or, of one that nobody configured, what a channel would have been given.
pub(super) fn grpc(service: &Arc<str>) -> StringValue {
    match Place::of(service) {
        None => Arc::clone(service).into(),
        Some(Place::Socket(path)) => format!("unix:{}", path.display()).into(),
        // Quoted as in a URI: without brackets an IPv6 address would end at its first colon.
        Some(Place::Host { host, port }) if host.contains(':') => format!("dns:///[{host}]:{port}").into(),
        Some(Place::Host { host, port }) => format!("dns:///{host}:{port}").into(),
    }
}

/// The server as OpenTelemetry's conventions describe it: the service, which has no port, or the place that stands for
/// one that nobody configured.
pub(super) fn server(service: &Arc<str>) -> (StringValue, Option<u16>) {
    match Place::of(service) {
        None => (Arc::clone(service).into(), None),
        Some(Place::Socket(path)) => (path.display().to_string().into(), None),
        Some(Place::Host { host, port }) => (host.to_owned().into(), Some(port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_that_nobody_configured_are_told_by_their_place() {
        for (service, target, address, port) in [
            ("greeter", "greeter", "greeter", None),
            ("greeter.default.svc", "greeter.default.svc", "greeter.default.svc", None),
            ("http://localhost:8080", "dns:///localhost:8080", "localhost", Some(8080)),
            ("https://h:443", "dns:///h:443", "h", Some(443)),
            ("http://[::1]:80", "dns:///[::1]:80", "::1", Some(80)),
            ("unix:/run/a.sock", "unix:/run/a.sock", "/run/a.sock", None),
            ("unix:/run/A.sock", "unix:/run/A.sock", "/run/A.sock", None),
        ] {
            let service = service.into();
            assert_eq!(grpc(&service).as_str(), target);
            let (told, told_port) = server(&service);
            assert_eq!((told.as_str(), told_port), (address, port), "{service}");
        }
    }
}
