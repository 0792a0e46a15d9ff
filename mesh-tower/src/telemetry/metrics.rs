//! What is counted.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::observe::{Next, Outcome};
use mesh_core::snapshot::VirtualHost;

/// All series of a mesh.
#[derive(Default)]
pub(crate) struct Metrics {}

/// What kind of request a series counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Call<'a> {
    /// A gRPC call, with its path if generated code stands for it. Any other path may be anything, and is counted as
    /// `other` (gRFC A66).
    Grpc(Option<&'a str>),
    /// Any other request, by its method.
    Http(&'a http::Method),
}

/// The requests of one service, route and method.
pub(crate) struct Series {}

impl Metrics {
    /// The series that a request belongs to.
    pub(crate) fn series(&self, _host: &Arc<VirtualHost>, _route: u32, _call: Call<'_>) -> Arc<Series> {
        Arc::new(Series {})
    }
}

impl Series {
    /// An attempt begins.
    pub(crate) fn attempt_started(&self) {}

    /// An attempt ended.
    pub(crate) fn attempt_ended(&self, _outcome: Outcome, _duration: Duration, _next: Next) {}

    /// The request ended.
    pub(crate) fn request_ended(&self, _outcome: Outcome, _duration: Duration, _attempts: u32) {}
}
