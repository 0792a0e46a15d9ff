use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use examples::percentile;
use http::StatusCode;
use mesh_tonic::mesh_tower::observe::{Event, Observer};
use serde_json::{Value, json};

/// What the mesh did for one request.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    attempts: u64,
    backend: Option<String>,
    endpoint: Option<String>,
}

tokio::task_local! {
    /// The request that this task sends. The mesh tells its observer of a request on the request's own task.
    pub(crate) static TRACE: RefCell<Trace>;
}

/// Writes down in [`TRACE`] where the attempts of the request go.
pub(crate) struct Tracer;

impl Observer for Tracer {
    fn event(&self, event: &Event<'_>) {
        // Events of no request are told on other tasks.
        let _ = TRACE.try_with(|trace| {
            let mut trace = trace.borrow_mut();
            match event {
                Event::Attempt(attempt) => {
                    trace.backend = Some(attempt.backend.name.to_string());
                    trace.endpoint = attempt.endpoint.map(ToString::to_string);
                }
                Event::Request(request) => trace.attempts = request.attempts.into(),
                _ => {}
            }
        });
    }
}

/// What became of all requests.
#[derive(Debug, Default)]
pub(crate) struct Report {
    requests: usize,
    by_status: BTreeMap<String, u64>,
    by_backend: BTreeMap<String, u64>,
    by_endpoint: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
    attempts: u64,
    latencies: Vec<Duration>,
}

impl Report {
    /// Adds a request that took `latency` up to the end of the answer, or to its failure.
    pub(crate) fn add(&mut self, result: Result<StatusCode, String>, trace: Trace, latency: Duration) {
        self.requests += 1;
        self.attempts += trace.attempts;
        self.latencies.push(latency);
        match result {
            Ok(status) => {
                count(&mut self.by_status, status.as_str().to_owned());
                // The last attempt is the one that was answered.
                trace.backend.into_iter().for_each(|backend| count(&mut self.by_backend, backend));
                trace.endpoint.into_iter().for_each(|endpoint| count(&mut self.by_endpoint, endpoint));
            }
            Err(error) => count(&mut self.errors, error),
        }
    }

    /// Adds all that is in `other`.
    pub(crate) fn merge(&mut self, other: Self) {
        self.requests += other.requests;
        self.attempts += other.attempts;
        self.latencies.extend(other.latencies);
        for (mine, theirs) in [
            (&mut self.by_status, other.by_status),
            (&mut self.by_backend, other.by_backend),
            (&mut self.by_endpoint, other.by_endpoint),
            (&mut self.errors, other.errors),
        ] {
            for (key, count) in theirs {
                *mine.entry(key).or_default() += count;
            }
        }
    }

    /// Whether every request got an answer.
    pub(crate) fn all_answered(&self) -> bool {
        self.errors.is_empty()
    }

    /// p50, p90, p99 and the maximum in milliseconds.
    fn latency_ms(&self) -> [f64; 4] {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let micros = |percent| percentile(&sorted, percent).unwrap_or_default().as_micros() as f64;
        [50.0, 90.0, 99.0, 100.0].map(|percent| micros(percent) / 1000.0)
    }

    /// The whole report as one object.
    pub(crate) fn to_json(&self) -> Value {
        let [p50, p90, p99, max] = self.latency_ms();
        json!({
            "requests": self.requests,
            "by_status": self.by_status,
            "by_backend": self.by_backend,
            "by_endpoint": self.by_endpoint,
            "errors": self.errors,
            "attempts": self.attempts,
            "latency_ms": { "p50": p50, "p90": p90, "p99": p99, "max": max },
        })
    }
}

fn count(map: &mut BTreeMap<String, u64>, key: String) {
    *map.entry(key).or_default() += 1;
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "requests   {} in {} attempts", self.requests, self.attempts)?;
        for (title, map) in [
            ("status", &self.by_status),
            ("backend", &self.by_backend),
            ("endpoint", &self.by_endpoint),
            ("error", &self.errors),
        ] {
            for (key, count) in map {
                writeln!(f, "{title:<10} {count:>6}  {key}")?;
            }
        }
        let [p50, p90, p99, max] = self.latency_ms();
        write!(f, "latency    p50 {p50} ms, p90 {p90} ms, p99 {p99} ms, max {max} ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(attempts: u64, backend: &str, endpoint: &str) -> Trace {
        Trace { attempts, backend: Some(backend.to_owned()), endpoint: Some(endpoint.to_owned()) }
    }

    #[test]
    fn counts_where_the_answers_came_from() {
        let mut report = Report::default();
        report.add(Ok(StatusCode::OK), trace(1, "v1", "127.0.0.1:1"), Duration::from_millis(1));
        report.add(Ok(StatusCode::OK), trace(3, "v1", "127.0.0.1:2"), Duration::from_millis(5));
        report.add(Ok(StatusCode::NOT_FOUND), trace(1, "v2", "127.0.0.1:3"), Duration::from_micros(2500));
        assert!(report.all_answered());
        let mut other = Report::default();
        other.add(Err("too late".to_owned()), trace(2, "v2", "127.0.0.1:3"), Duration::from_secs(1));
        report.merge(other);
        report.add(Err("no such service".to_owned()), Trace::default(), Duration::ZERO);
        assert!(!report.all_answered());
        let expected = json!({
            "requests": 5,
            "by_status": { "200": 2, "404": 1 },
            "by_backend": { "v1": 2, "v2": 1 },
            "by_endpoint": { "127.0.0.1:1": 1, "127.0.0.1:2": 1, "127.0.0.1:3": 1 },
            "errors": { "too late": 1, "no such service": 1 },
            "attempts": 7,
            "latency_ms": { "p50": 2.5, "p90": 1000.0, "p99": 1000.0, "max": 1000.0 },
        });
        assert_eq!(report.to_json(), expected);
        let text = report.to_string();
        assert!(text.contains("status          2  200") && text.contains("error           1  too late"), "{text}");
    }
}
