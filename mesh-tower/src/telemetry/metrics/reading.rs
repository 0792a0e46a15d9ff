//! Where the values of metrics are read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use mesh_core::balance::{News, State};
use mesh_core::error::ErrorKind;
use mesh_core::resilience::limits::Limit;
use mesh_core::resilience::outlier::{Cause, Unenforced};
use opentelemetry::KeyValue;

#[cfg(feature = "prometheus")]
use super::buckets::Recorder;
#[cfg(feature = "prometheus")]
use super::instruments::Distribution;
use super::metric::Sink;
use super::series::Series;
use super::server::Requests;
use super::{BackendSeries, Picked, Reading, ServerSeries};
use crate::identity::Facts;
use crate::net::Backend;
use crate::telemetry::server::{ConnectionRefusal, Refusal};

pub(super) fn load(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

pub(super) fn since_1970(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// `attributes` with one more.
fn and(mut attributes: Vec<KeyValue>, key: &'static str, value: &'static str) -> Vec<KeyValue> {
    attributes.push(KeyValue::new(key, value));
    attributes
}

impl Reading<'_> {
    /// Each of the things that series of one service and method share, once.
    fn durations(&self) -> impl Iterator<Item = &super::Durations> {
        let by_address: BTreeMap<_, _> =
            self.table.all().map(|series| (Arc::as_ptr(&series.durations), &*series.durations)).collect();
        by_address.into_values()
    }

    pub(super) fn started(&self, sink: Sink<'_, u64>) {
        for durations in self.durations().filter(|durations| durations.is_grpc()) {
            let count = load(&durations.started);
            if count > 0 {
                sink(count, &durations.attributes);
            }
        }
    }

    /// The distributions kept here.
    #[cfg(feature = "prometheus")]
    pub(crate) fn distribution(&self, distribution: Distribution, sink: &mut dyn FnMut(&Recorder)) {
        for durations in self.durations() {
            durations.recorders(distribution).for_each(&mut *sink);
        }
        for requests in self.servers.iter().filter_map(|series| series.requests.as_ref()) {
            requests.distribution(distribution, sink);
        }
    }

    /// What each server says of itself.
    pub(super) fn servers(&self, value: impl Fn(&ServerSeries) -> u64, sink: Sink<'_, u64>) {
        for series in &self.servers {
            sink(value(series), &[series.attribute()]);
        }
    }

    /// What each server says of its requests.
    pub(super) fn served(&self, counts: impl Fn(&Requests) -> Vec<(u64, Vec<KeyValue>)>, sink: Sink<'_, u64>) {
        for requests in self.servers.iter().filter_map(|series| series.requests.as_ref()) {
            for (count, attributes) in counts(requests) {
                sink(count, &attributes);
            }
        }
    }

    pub(super) fn refused_requests(&self, sink: Sink<'_, u64>) {
        for series in &self.servers {
            let Some(requests) = &series.requests else { continue };
            for (why, count) in Refusal::ALL.into_iter().zip(requests.refusals.each_ref().map(load)) {
                if count > 0 {
                    sink(count, &[series.attribute(), KeyValue::new("mesh.refusal", why.as_str())]);
                }
            }
        }
    }

    pub(super) fn refused_connections(&self, sink: Sink<'_, u64>) {
        for series in &self.servers {
            for (why, count) in ConnectionRefusal::ALL.into_iter().zip(series.turned_away.each_ref().map(load)) {
                if count > 0 {
                    sink(count, &[series.attribute(), KeyValue::new("mesh.refusal", why.as_str())]);
                }
            }
        }
    }

    /// What is known of the identity, where the configuration asks for one.
    pub(super) fn own_identity(&self) -> Option<&Facts> {
        let settings = self.snapshot.as_ref()?.settings();
        self.identity.as_ref().filter(|_| settings.identity.is_some())
    }

    pub(super) fn identity(&self, value: impl Fn(&Facts) -> Option<f64>, sink: Sink<'_, f64>) {
        if let Some(value) = self.own_identity().and_then(value) {
            sink(value, &[]);
        }
    }

    pub(super) fn handshakes(&self, sink: Sink<'_, u64>) {
        for series in &self.servers {
            let count = load(&series.handshakes);
            if count > 0 {
                sink(count, &[series.attribute()]);
            }
            for (reason, count) in series.failed_handshakes() {
                sink(count, &[series.attribute(), KeyValue::new("error.type", reason)]);
            }
        }
    }

    pub(super) fn outcomes(&self, counts: impl Fn(&Series) -> &[AtomicU64], sink: Sink<'_, u64>) {
        for series in self.table.all() {
            for (number, count) in counts(series).iter().map(load).enumerate().filter(|(_, count)| *count > 0) {
                sink(count, &series.attributes(Some(number)));
            }
        }
    }

    pub(super) fn retries(&self, sink: Sink<'_, u64>) {
        for series in self.table.all() {
            let kinds = [("policy", &series.retries), ("transparent", &series.resends), ("hedge", &series.hedges)];
            for (kind, count) in kinds.map(|(kind, count)| (kind, load(count))) {
                if count > 0 {
                    sink(count, &and(series.attributes(None), "mesh.retry.kind", kind));
                }
            }
        }
    }

    pub(super) fn denied(&self, sink: Sink<'_, u64>) {
        for series in self.table.all() {
            let count = load(&series.denied);
            if count > 0 {
                sink(count, &series.attributes(None));
            }
        }
    }

    pub(super) fn unrouted(&self, sink: Sink<'_, u64>) {
        for (kind, count) in ErrorKind::ALL.iter().zip(self.metrics.unrouted.iter().map(load)) {
            if count > 0 {
                sink(count, &[KeyValue::new("error.type", kind.as_str())]);
            }
        }
    }

    pub(super) fn backends(&self, value: impl Fn(&BackendSeries) -> u64, sink: Sink<'_, u64>) {
        for series in self.backends.iter().filter(|series| series.was_used()) {
            sink(value(series), &series.attributes());
        }
    }

    /// What was counted by kinds, of each backend.
    pub(super) fn by_kind<const N: usize>(
        &self,
        key: &'static str,
        words: [&'static str; N],
        counts: impl Fn(&BackendSeries) -> [u64; N],
        sink: Sink<'_, u64>,
    ) {
        for series in self.backends.iter() {
            for (word, count) in words.into_iter().zip(counts(series)).filter(|(_, count)| *count > 0) {
                sink(count, &and(series.attributes(), key, word));
            }
        }
    }

    pub(super) fn overflows(&self, sink: Sink<'_, u64>) {
        let counts = |series: &BackendSeries| series.overflows.each_ref().map(load);
        self.by_kind("mesh.limit", Limit::ALL.map(Limit::as_str), counts, sink);
    }

    pub(super) fn ejections(&self, sink: Sink<'_, u64>) {
        let counts = |series: &BackendSeries| series.ejections.each_ref().map(load);
        self.by_kind("mesh.ejection.cause", Cause::ALL.map(Cause::as_str), counts, sink);
    }

    pub(super) fn spared(&self, sink: Sink<'_, u64>) {
        for series in self.backends.iter() {
            for (cause, counts) in Cause::ALL.into_iter().zip(&series.spared) {
                for (reason, count) in Unenforced::ALL.into_iter().zip(counts).filter(|(_, count)| load(count) > 0) {
                    let attributes = and(series.attributes(), "mesh.ejection.cause", cause.as_str());
                    sink(load(count), &and(attributes, "mesh.ejection.reason", reason.as_str()));
                }
            }
        }
    }

    /// In gRPC's words, of the two algorithms that it has.
    pub(super) fn grpc_ejections(&self, sink: Sink<'_, u64>) {
        for cause in [Cause::SuccessRate, Cause::FailurePercentage] {
            self.grpc_backends(|series| load(&series.ejections[cause as usize]), &mut |count, attributes| {
                if count > 0 {
                    sink(
                        count,
                        &and(attributes.to_vec(), "grpc.lb.outlier_detection.detection_method", cause.as_str()),
                    );
                }
            });
        }
    }

    pub(super) fn grpc_spared(&self, sink: Sink<'_, u64>) {
        for cause in [Cause::SuccessRate, Cause::FailurePercentage] {
            for reason in Unenforced::ALL {
                let value = |series: &BackendSeries| load(&series.spared[cause as usize][reason as usize]);
                self.grpc_backends(value, &mut |count, attributes| {
                    if count > 0 {
                        let method = "grpc.lb.outlier_detection.detection_method";
                        let attributes = and(attributes.to_vec(), method, cause.as_str());
                        let why = "grpc.lb.outlier_detection.unenforced_reason";
                        sink(count, &and(attributes, why, reason.as_str()));
                    }
                });
            }
        }
    }

    /// Backends that are told by the same place, over TLS and without, are one.
    pub(super) fn grpc_backends(&self, value: impl Fn(&BackendSeries) -> u64, sink: Sink<'_, u64>) {
        let mut sums = BTreeMap::new();
        for series in self.backends.iter().filter(|series| series.serves_grpc()) {
            let attributes = series.grpc_attributes();
            let key = attributes.each_ref().map(|attribute| attribute.value.to_string());
            sums.entry(key).or_insert((0, attributes)).0 += value(series);
        }
        for (sum, attributes) in sums.values() {
            sink(*sum, attributes);
        }
    }

    pub(super) fn picks(&self, sink: Sink<'_, u64>) {
        for series in &self.backends {
            for result in Picked::ALL {
                let count = load(&series.picks[result as usize]);
                if count > 0 {
                    sink(count, &and(series.attributes(), "mesh.pick.result", result.as_str()));
                }
            }
        }
    }

    pub(super) fn connects(&self, sink: Sink<'_, u64>) {
        for series in self.backends.iter().filter(|series| series.was_used()) {
            sink(load(&series.connected), &and(series.attributes(), "mesh.connect.result", "succeeded"));
            sink(load(&series.not_connected), &and(series.attributes(), "mesh.connect.result", "failed"));
        }
    }

    /// The backends of the configuration in force.
    pub(super) fn live(&self, value: impl Fn(&Backend) -> u64, sink: Sink<'_, u64>) {
        for backend in self.snapshot.iter().flat_map(|snapshot| snapshot.backends()) {
            if let Some(series) = &backend.transport().series {
                sink(value(backend), &series.attributes());
            }
        }
    }

    pub(super) fn serving(&self, value: impl Fn(&News) -> Option<f64>, sink: Sink<'_, f64>) {
        for backend in self.snapshot.iter().flat_map(|snapshot| snapshot.backends()) {
            if let (Some(series), Some(value)) = (&backend.transport().series, value(&backend.picker().serving())) {
                sink(value, &series.attributes());
            }
        }
    }

    pub(super) fn endpoints(&self, sink: Sink<'_, u64>) {
        for backend in self.snapshot.iter().flat_map(|snapshot| snapshot.backends()) {
            let Some(series) = &backend.transport().series else { continue };
            for state in [State::Idle, State::Connecting, State::Ready, State::Failing] {
                let endpoints = backend.picker().endpoints().iter();
                let count = endpoints.filter(|endpoint| endpoint.state() == state).count() as u64;
                sink(count, &and(series.attributes(), "mesh.endpoint.state", state.as_str()));
            }
        }
    }
}
