//! The access log: a line for each request (TL-08).

use std::fmt::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{Method, StatusCode, Uri, Version};
use mesh_core::grpc::Code;
use mesh_core::model::AccessLog;
use opentelemetry::trace::{SpanContext, TraceId};
use time::OffsetDateTime;

use super::End;
use super::escape::{Json, Text};
use crate::contain::contained;
use crate::server::Peer;

/// The target of the access log's `tracing` events.
const TARGET: &str = "mesh::access";
/// What proxies call a request by.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const MAX_METHOD: usize = 32;
const MAX_PATH: usize = 1024;
const MAX_HEADER: usize = 256;

/// Where an application writes the access log.
///
/// Called once for each request of the servers that have one (`access_log: text` or `json`), on whatever task the request
/// ends: a sink must be quick and must not block. Its panic is caught and logged.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let mesh = mesh_tower::Mesh::builder().env().access_log(|line: &str| println!("{line}")).build().await?;
/// # Ok(())
/// # }
/// ```
pub trait AccessSink: Send + Sync + 'static {
    /// A request ended. `line` is printable ASCII without a line break at its end.
    fn write(&self, line: &str);
}

impl<F: Fn(&str) + Send + Sync + 'static> AccessSink for F {
    fn write(&self, line: &str) {
        self(line);
    }
}

/// Whether anybody hears of a request.
pub(super) fn is_heard(sink: Option<&dyn AccessSink>) -> bool {
    sink.is_some() || tracing::enabled!(target: TARGET, tracing::Level::INFO)
}

/// What a line says of the head of a request; its values share the request's memory.
pub(super) struct Entry {
    form: AccessLog,
    time: SystemTime,
    method: Method,
    uri: Uri,
    version: Version,
    host: Option<HeaderValue>,
    agent: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
    trace: Option<TraceId>,
}

/// What a line says of the end of a request.
pub(super) struct Facts<'a> {
    pub(super) server: &'a str,
    pub(super) peer: Option<&'a Peer>,
    /// Of the head that went out, if one did.
    pub(super) status: Option<StatusCode>,
    pub(super) code: Option<Code>,
    pub(super) end: End<'a>,
    pub(super) took: Duration,
    pub(super) received: u64,
    pub(super) sent: u64,
}

impl Entry {
    /// A request that begins. `trace` of its span; else that of its caller, which `remote` looks for.
    pub(super) fn new(
        form: AccessLog,
        request: &http::request::Parts,
        trace: Option<TraceId>,
        remote: impl FnOnce() -> Option<SpanContext>,
    ) -> Self {
        let header = |name| request.headers.get(name).cloned();
        Self {
            form,
            time: SystemTime::now(),
            method: request.method.clone(),
            uri: request.uri.clone(),
            version: request.version,
            host: request.headers.get(HOST).cloned(),
            agent: header(USER_AGENT),
            request_id: header(REQUEST_ID),
            trace: trace.or_else(|| remote().map(|span| span.trace_id())),
        }
    }

    fn values<'a>(&'a self, facts: &Facts<'a>) -> Values<'a> {
        let header = |value: &'a Option<HeaderValue>| {
            value.as_ref().map(|value| Text { bytes: value.as_bytes(), max: MAX_HEADER })
        };
        let authority = self.uri.authority().map(|authority| authority.as_str().as_bytes());
        // What stands before an `@` may be a password.
        let authority = authority.map(|text| text.rsplit(|byte| *byte == b'@').next().unwrap_or(text));
        Values {
            time: Time(self.time),
            server: Text { bytes: facts.server.as_bytes(), max: MAX_HEADER },
            method: Text { bytes: self.method.as_str().as_bytes(), max: MAX_METHOD },
            path: Text { bytes: self.uri.path().as_bytes(), max: MAX_PATH },
            protocol: protocol(self.version),
            status: facts.status.map(|status| status.as_u16()),
            code: facts.code.map(Code::name),
            outcome: facts.end.served.as_str(),
            refusal: facts.end.refusal.map(super::Refusal::as_str),
            received: facts.received,
            sent: facts.sent,
            took: Millis(facts.took),
            peer: facts.peer.and_then(Peer::identity).map(|id| id.as_str()),
            remote: facts.peer.and_then(Peer::remote_address),
            authority: authority.map(|bytes| Text { bytes, max: MAX_HEADER }).or_else(|| header(&self.host)),
            agent: header(&self.agent),
            request_id: header(&self.request_id),
            trace: self.trace,
        }
    }

    #[cfg(test)]
    pub(super) fn line(&self, facts: &Facts<'_>) -> String {
        self.values(facts).line(self.form)
    }
}

/// A request ended: whoever wants to know is told.
pub(super) fn tell(sink: Option<&dyn AccessSink>, entry: &Entry, facts: &Facts<'_>) {
    let values = entry.values(facts);
    let line = values.line(entry.form);
    tracing::info!(
        target: TARGET,
        server = %values.server,
        method = %values.method,
        path = %values.path,
        protocol = values.protocol,
        status = values.status,
        grpc_status = values.code,
        outcome = values.outcome,
        refusal = values.refusal,
        bytes_in = values.received,
        bytes_out = values.sent,
        duration_ms = %values.took,
        peer = values.peer,
        remote = values.remote.map(display),
        authority = values.authority.map(display),
        user_agent = values.agent.map(display),
        request_id = values.request_id.map(display),
        trace_id = values.trace.map(display),
        "{line}"
    );
    if let Some(sink) = sink {
        // It is in the log; the request is over all the same.
        let _ = contained("the access log's sink", || sink.write(&line));
    }
}

/// What a line says.
struct Values<'a> {
    time: Time,
    server: Text<'a>,
    method: Text<'a>,
    path: Text<'a>,
    protocol: &'static str,
    status: Option<u16>,
    code: Option<&'static str>,
    outcome: &'static str,
    refusal: Option<&'static str>,
    received: u64,
    sent: u64,
    took: Millis,
    peer: Option<&'a str>,
    remote: Option<std::net::SocketAddr>,
    authority: Option<Text<'a>>,
    agent: Option<Text<'a>>,
    request_id: Option<Text<'a>>,
    trace: Option<TraceId>,
}

impl Values<'_> {
    fn line(&self, form: AccessLog) -> String {
        let mut line = String::with_capacity(512);
        // Writing to a text cannot fail.
        let _ = if form == AccessLog::Json { self.json(&mut line) } else { self.text(&mut line) };
        line
    }

    fn text(&self, line: &mut String) -> fmt::Result {
        let Self { time, method, path, protocol, received, sent, took, .. } = self;
        write!(line, "{time} \"{method} {path} {protocol}\"")?;
        word(line, self.status)?;
        word(line, self.code)?;
        word(line, Some(self.outcome))?;
        word(line, self.refusal)?;
        write!(line, " {received} {sent} {took}")?;
        word(line, self.peer)?;
        word(line, self.remote)?;
        for value in [self.authority, self.agent, self.request_id] {
            match value {
                Some(value) => write!(line, " \"{value}\"")?,
                None => line.push_str(" \"-\""),
            }
        }
        word(line, self.trace)?;
        write!(line, " \"{}\"", self.server)
    }

    fn json(&self, line: &mut String) -> fmt::Result {
        let Self { time, protocol, outcome, received, sent, took, .. } = self;
        let (server, method, path) = (Json(self.server), Json(self.method), Json(self.path));
        write!(line, r#"{{"time":"{time}","server":{server},"method":{method},"path":{path},"protocol":"{protocol}""#)?;
        if let Some(status) = self.status {
            write!(line, r#","status":{status}"#)?;
        }
        for (name, value) in [("grpc_status", self.code), ("outcome", Some(*outcome)), ("refusal", self.refusal)] {
            if let Some(value) = value {
                write!(line, r#","{name}":"{value}""#)?;
            }
        }
        write!(line, r#","bytes_in":{received},"bytes_out":{sent},"duration_ms":{took}"#)?;
        if let Some(peer) = self.peer {
            write!(line, r#","peer":"{peer}""#)?;
        }
        if let Some(remote) = self.remote {
            write!(line, r#","remote":"{remote}""#)?;
        }
        let headers = [("authority", self.authority), ("user_agent", self.agent), ("request_id", self.request_id)];
        for (name, value) in headers {
            if let Some(value) = value {
                write!(line, r#","{name}":{}"#, Json(value))?;
            }
        }
        if let Some(trace) = self.trace {
            write!(line, r#","trace_id":"{trace}""#)?;
        }
        line.write_char('}')
    }
}

/// A word that needs no quotes, or `-`.
fn word(line: &mut String, value: Option<impl fmt::Display>) -> fmt::Result {
    match value {
        Some(value) => write!(line, " {value}"),
        None => line.write_str(" -"),
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

/// Milliseconds with three decimals.
#[derive(Clone, Copy)]
struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        write!(f, "{}.{:03}", micros / 1000, micros % 1000)
    }
}

/// An instant in UTC, as RFC 3339 writes it.
#[derive(Clone, Copy)]
struct Time(SystemTime);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
        // Years of more than four digits are no dates of RFC 3339, and none of a clock that is right.
        let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (year, month, day) = time.to_calendar_date();
        let (hour, minute, second) = time.to_hms();
        let (month, millis) = (u8::from(month), since.subsec_millis());
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339_says() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (16_725_225_600, "2500-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(Time(UNIX_EPOCH + Duration::from_secs(seconds)).to_string(), expected);
        }
        assert_eq!(Time(UNIX_EPOCH + Duration::from_millis(7)).to_string(), "1970-01-01T00:00:00.007Z");
        assert_eq!(Millis(Duration::from_micros(12_045)).to_string(), "12.045");
    }
}
