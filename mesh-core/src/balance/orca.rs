//! Load reports of endpoints (ORCA), as they come with responses or over a stream of their own (gRFC A51).
//!
//! A report may come with every response, so nothing is allocated: [`LoadReport`] is a view of the bytes.

use std::time::Duration;

use crate::base64;
use crate::grpc::wire::{self, Fields, Value};
use crate::model::WeightedRoundRobin;

/// A load report: a serialized `xds.data.orca.v3.OrcaLoadReport`.
///
/// ```
/// use mesh_core::balance::LoadReport;
/// use mesh_core::model::WeightedRoundRobin;
///
/// // cpu_utilization: 0.5, rps_fractional: 100
/// let weight = LoadReport::of_header(b"CQAAAAAAAOA/MQAAAAAAAFlA", |report| report.weight(&WeightedRoundRobin::default()));
/// assert_eq!(weight, Some(Some(200.0)));
/// ```
#[derive(Debug, Clone, Copy)]
pub struct LoadReport<'a> {
    bytes: &'a [u8],
    cpu_utilization: f64,
    mem_utilization: f64,
    application_utilization: f64,
    requests_per_second: f64,
    errors_per_second: f64,
}

/// The numbers of the fields of `OrcaLoadReport`. `rps` (3) is deprecated and not read, as in gRPC.
mod field {
    pub(super) const CPU_UTILIZATION: u32 = 1;
    pub(super) const MEM_UTILIZATION: u32 = 2;
    pub(super) const REQUEST_COST: u32 = 4;
    pub(super) const UTILIZATION: u32 = 5;
    pub(super) const RPS_FRACTIONAL: u32 = 6;
    pub(super) const EPS: u32 = 7;
    pub(super) const NAMED_METRICS: u32 = 8;
    pub(super) const APPLICATION_UTILIZATION: u32 = 9;
}

impl<'a> LoadReport<'a> {
    /// The header or trailer that a report comes in.
    pub const HEADER: &'static str = "endpoint-load-metrics-bin";

    /// The longest value of the header that is read, in bytes.
    pub const MAX_HEADER: usize = 16 * 1024;

    /// The call that an endpoint answers with a stream of reports, out of band.
    pub const STREAM: &'static str = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";

    /// The message of [`STREAM`](Self::STREAM), serialized: a report each `period`. Servers have a least period of their
    /// own (30 s unless they are told), and keep to that where less is asked for.
    pub fn request(period: Duration) -> Vec<u8> {
        let (mut duration, mut request) = (Vec::new(), Vec::new());
        wire::put_number(&mut duration, 1, period.as_secs().min(i64::MAX as u64));
        wire::put_number(&mut duration, 2, period.subsec_nanos().into());
        wire::put_bytes(&mut request, 1, &duration);
        request
    }

    /// Reads a serialized message. `None` if it is malformed; no part of it counts then.
    ///
    /// Unknown fields are passed over, and of a field that comes twice the last one counts, as Protobuf says.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut report = Self {
            bytes,
            cpu_utilization: 0.0,
            mem_utilization: 0.0,
            application_utilization: 0.0,
            requests_per_second: 0.0,
            errors_per_second: 0.0,
        };
        for entry in Fields::of(bytes) {
            match entry? {
                (field::CPU_UTILIZATION, Value::Double(value)) => report.cpu_utilization = value,
                (field::MEM_UTILIZATION, Value::Double(value)) => report.mem_utilization = value,
                (field::APPLICATION_UTILIZATION, Value::Double(value)) => report.application_utilization = value,
                (field::RPS_FRACTIONAL, Value::Double(value)) => report.requests_per_second = value,
                (field::EPS, Value::Double(value)) => report.errors_per_second = value,
                (field::REQUEST_COST | field::UTILIZATION | field::NAMED_METRICS, Value::Bytes(entry)) => {
                    map_entry(entry)?;
                }
                _ => {}
            }
        }
        Some(report)
    }

    /// Reads the value of [`HEADER`](Self::HEADER), which is base64 with or without padding (gRPC PROTOCOL-HTTP2), and
    /// shows it to `read`. `None` if it is malformed or longer than [`MAX_HEADER`](Self::MAX_HEADER).
    pub fn of_header<T>(value: &[u8], read: impl FnOnce(&LoadReport<'_>) -> T) -> Option<T> {
        if value.len() > Self::MAX_HEADER {
            return None;
        }
        // Few reports are longer; those that name many metrics are worth an allocation.
        let (mut short, mut long) = ([0; 384], Vec::new());
        let decoded = match value.len() / 4 * 3 + 2 {
            size if size <= short.len() => &mut short[..],
            size => {
                long.resize(size, 0);
                &mut long[..]
            }
        };
        let length = base64::decode(value, decoded)?;
        LoadReport::parse(&decoded[..length]).map(|report| read(&report))
    }

    /// The metric of a name as in [`WeightedRoundRobin::utilization_metrics`]: `cpu_utilization`, `mem_utilization`,
    /// `application_utilization`, `named_metrics.KEY` or `utilization.KEY`, where `KEY` may have dots (gRFC A114).
    ///
    /// `None` if it was not reported, or is not a positive number.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let value = match name.split_once('.') {
            Some(("named_metrics", key)) => self.entry_of(field::NAMED_METRICS, key)?,
            Some(("utilization", key)) => self.entry_of(field::UTILIZATION, key)?,
            Some(_) => return None,
            None => match name {
                "cpu_utilization" => self.cpu_utilization,
                "mem_utilization" => self.mem_utilization,
                "application_utilization" => self.application_utilization,
                _ => return None,
            },
        };
        positive(value)
    }

    /// The requests a second that the endpoint serves, for whomever. `None` if it did not say so.
    pub fn requests_per_second(&self) -> Option<f64> {
        positive(self.requests_per_second)
    }

    /// How many of them fail. 0 if it did not say so.
    pub fn errors_per_second(&self) -> f64 {
        positive(self.errors_per_second).unwrap_or(0.0)
    }

    /// The weight of the endpoint: its requests a second for its utilization, to which its share of errors is added, as
    /// `policy` says (gRFC A58). `None` if it did not report both of them.
    ///
    /// The utilization is the greatest of the policy's metrics; without one the application's, else the CPU's. (Envoy's
    /// order, and what the metrics are configured for. gRFC A114, in review, has the application's first.)
    pub fn weight(&self, policy: &WeightedRoundRobin) -> Option<f64> {
        let named = policy.utilization_metrics.iter().filter_map(|name| self.metric(name)).reduce(f64::max);
        let utilization =
            named.or_else(|| positive(self.application_utilization)).or_else(|| positive(self.cpu_utilization))?;
        let requests = self.requests_per_second()?;
        let penalty = self.errors_per_second() / requests * policy.error_utilization_penalty.max(0.0);
        positive(requests / (utilization + penalty))
    }

    /// The value of `key` in a map.
    fn entry_of(&self, map: u32, key: &str) -> Option<f64> {
        let entries = Fields::of(self.bytes).flatten().filter_map(|entry| match entry {
            (number, Value::Bytes(entry)) if number == map => map_entry(entry),
            _ => None,
        });
        entries.filter(|(name, _)| *name == key.as_bytes()).map(|(_, value)| value).last()
    }
}

/// An entry of a `map<string, double>`, which is a message of a key (1) and a value (2).
fn map_entry(bytes: &[u8]) -> Option<(&[u8], f64)> {
    let (mut key, mut value) = (&[][..], 0.0);
    for entry in Fields::of(bytes) {
        match entry? {
            (1, Value::Bytes(bytes)) => key = bytes,
            (2, Value::Double(double)) => value = double,
            _ => {}
        }
    }
    Some((key, value))
}

fn positive(value: f64) -> Option<f64> {
    (value.is_finite() && value > 0.0).then_some(value)
}

#[cfg(test)]
mod tests;
