//! The variables that OpenTelemetry specifies, as far as they concern us.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::Sampler;
use percent_encoding::percent_decode_str;

use super::OtlpError;
use crate::demand;

/// Where one kind of telemetry goes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Signal {
    pub(super) endpoint: Uri,
    pub(super) headers: HashMap<String, String>,
    pub(super) timeout: Duration,
    pub(super) certificate: Option<PathBuf>,
}

/// Everything the variables say.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) traces: Option<Signal>,
    pub(super) metrics: Option<Signal>,
    pub(super) resource: Resource,
    pub(super) sampler: Sampler,
    pub(super) temporality: Temporality,
    pub(super) metric_interval: Duration,
    pub(super) schedule_delay: Duration,
    pub(super) max_queue: usize,
    pub(super) max_batch: usize,
    /// What is not understood and holds nothing up: it is told, and ignored.
    pub(super) warnings: Vec<String>,
}

/// The variables of one signal, each before the one that holds for both.
struct Names {
    exporter: &'static str,
    path: &'static str,
    endpoint: &'static str,
    protocol: [&'static str; 2],
    headers: [&'static str; 2],
    timeout: [&'static str; 2],
    compression: [&'static str; 2],
    certificate: [&'static str; 2],
    unsupported: [&'static str; 4],
}

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

const TRACES: Names = Names {
    exporter: "OTEL_TRACES_EXPORTER",
    path: "/v1/traces",
    endpoint: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    protocol: ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"],
    headers: ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"],
    timeout: ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"],
    compression: ["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"],
    certificate: ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"],
    unsupported: [
        "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
        "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY",
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    ],
};

const METRICS: Names = Names {
    exporter: "OTEL_METRICS_EXPORTER",
    path: "/v1/metrics",
    endpoint: "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    protocol: ["OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"],
    headers: ["OTEL_EXPORTER_OTLP_METRICS_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"],
    timeout: ["OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"],
    compression: ["OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"],
    certificate: ["OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"],
    unsupported: [
        "OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY",
        "OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY",
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    ],
};

/// The variables.
struct Variables<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    warnings: RefCell<Vec<String>>,
}

impl Variables<'_> {
    /// The value of `name`; an empty one counts as none.
    fn get(&self, name: &'static str) -> Option<(&'static str, String)> {
        let value = (self.variable)(name)?.trim().to_owned();
        (!value.is_empty()).then_some((name, value))
    }

    fn warn(&self, (name, value): &(&'static str, String), outcome: &str) {
        let warning = format!("{name}={value:?}: {outcome}");
        let mut warnings = self.warnings.borrow_mut();
        // Both signals may read it.
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    fn first(&self, names: [&'static str; 2]) -> Option<(&'static str, String)> {
        names.into_iter().find_map(|name| self.get(name))
    }

    /// The value of `name` as `read` understands it, or `default`.
    fn read<T>(
        &self,
        name: &'static str,
        default: T,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, OtlpError> {
        self.get(name).map_or(Ok(default), |variable| understand(variable, read))
    }
}

fn understand<T>(
    (name, value): (&'static str, String),
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<T, OtlpError> {
    read(&value).map_err(|reason| OtlpError::Variable { name, value, reason })
}

impl Settings {
    /// As [`read`](Self::read), of an environment. What is not UTF-8 is an error that names the variable.
    pub(super) fn read_os(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, OtlpError> {
        let refused = RefCell::new(None);
        let text = |name: &str| {
            let read = variable(name)?.into_string();
            read.inspect_err(|_| *refused.borrow_mut() = Some(name.to_owned())).ok()
        };
        let settings = Self::read(&text);
        match refused.take() {
            Some(name) => Err(OtlpError::NotText { name }),
            None => settings,
        }
    }

    pub(super) fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, OtlpError> {
        let variables = Variables { variable, warnings: RefCell::default() };
        let disabled = variables.get("OTEL_SDK_DISABLED").is_some_and(|variable| {
            let is = |word| variable.1.eq_ignore_ascii_case(word);
            if !is("true") && !is("false") {
                variables.warn(&variable, "counts as `false`; write `true` or `false`");
            }
            is("true")
        });
        let max_queue = variables.read("OTEL_BSP_MAX_QUEUE_SIZE", 2048, count)?;
        let max_batch = variables.read("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512, count)?;
        Ok(Self {
            traces: signal(&variables, &TRACES, disabled)?,
            metrics: signal(&variables, &METRICS, disabled)?,
            resource: resource(&variables)?,
            sampler: sampler(&variables)?,
            temporality: variables.read(
                "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
                Temporality::Cumulative,
                |value| value.parse().map_err(|()| "write `cumulative`, `delta` or `lowmemory`".to_owned()),
            )?,
            metric_interval: variables.read("OTEL_METRIC_EXPORT_INTERVAL", Duration::from_secs(60), millis)?,
            schedule_delay: variables.read("OTEL_BSP_SCHEDULE_DELAY", Duration::from_secs(5), millis)?,
            max_queue,
            max_batch: max_batch.min(max_queue),
            warnings: variables.warnings.take(),
        })
    }
}

fn signal(variables: &Variables<'_>, names: &Names, disabled: bool) -> Result<Option<Signal>, OtlpError> {
    let exports = variables.read(names.exporter, true, |value| match value {
        "otlp" => Ok(true),
        "none" => Ok(false),
        _ => Err("is not supported; write `otlp` or `none`".to_owned()),
    })?;
    if disabled || !exports {
        return Ok(None);
    }
    if let Some(variable) = variables.first(names.protocol) {
        understand(variable, |value| match value {
            "http/protobuf" => Ok(()),
            _ => Err("is not supported; write `http/protobuf`, or nothing".to_owned()),
        })?;
    }
    if let Some(variable) = variables.first(names.compression)
        && variable.1 != "none"
    {
        variables.warn(&variable, "is not supported, and nothing is compressed; write `none`, or nothing");
    }
    for name in names.unsupported {
        if let Some(variable) = variables.get(name) {
            understand(variable, |_| Err::<(), _>("client certificates are not supported in this version".to_owned()))?;
        }
    }
    let endpoint = match variables.get(names.endpoint) {
        Some(whole) => understand(whole, uri)?,
        None => variables.read(ENDPOINT, uri_of("http://localhost:4318", names.path)?, |value| {
            uri(&format!("{}{}", value.trim_end_matches('/'), names.path))
        })?,
    };
    let headers = variables.first(names.headers).map_or(Ok(HashMap::new()), |(name, value)| {
        headers(&value).map_err(|reason| OtlpError::Headers { name, reason })
    })?;
    let timeout = variables.first(names.timeout);
    let timeout = timeout.map_or(Ok(Duration::from_secs(10)), |variable| understand(variable, millis))?;
    let certificate = variables.first(names.certificate).map(|(_, path)| PathBuf::from(path));
    Ok(Some(Signal { endpoint, headers, timeout, certificate }))
}

fn uri_of(endpoint: &'static str, path: &str) -> Result<Uri, OtlpError> {
    understand((ENDPOINT, endpoint.to_owned()), |value| uri(&format!("{value}{path}")))
}

fn uri(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|error| format!("is not a URL: {error}; write http://collector:4318"))?;
    if uri.authority().is_some_and(|authority| demand::port(authority).is_none()) {
        return Err(format!("{}; write http://collector:4318", demand::PORT));
    }
    match uri.scheme_str() {
        Some("http" | "https") if uri.host().is_some_and(|host| !host.is_empty()) => Ok(uri),
        _ => Err("is not the URL of a collector; write http://collector:4318".to_owned()),
    }
}

fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=1_000_000) => Ok(number),
        _ => Err("write a number from 1 to 1000000".to_owned()),
    }
}

fn millis(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(number @ 1..=u64::MAX) => Ok(Duration::from_millis(number)),
        _ => Err("write a number of milliseconds, at least 1".to_owned()),
    }
}

/// As [`pairs`]. Values are secrets, and no error shows one; nor what stands in the place of a name and is none, for it
/// may be a value too.
fn headers(text: &str) -> Result<HashMap<String, String>, String> {
    let header = |(index, member): (usize, &str)| {
        let what = || format!("entry {}", index + 1);
        let (name, value) = member.split_once('=').ok_or_else(|| format!("{} is not `key=value`", what()))?;
        let (name, value) = (name.trim(), percent_decode_str(value.trim()).decode_utf8());
        if name.is_empty() {
            return Err(format!("{} has no key", what()));
        }
        if http::HeaderName::try_from(name).is_err() {
            return Err(format!("the key of {} is not the name of a header", what()));
        }
        let value = value.map_err(|_| format!("the value of {}, {name:?}, is not UTF-8", what()))?;
        if http::HeaderValue::try_from(&*value).is_err() {
            return Err(format!("the value of {}, {name:?}, is not one of a header", what()));
        }
        Ok((name.to_owned(), value.into_owned()))
    };
    members(text).enumerate().map(header).collect()
}

fn members(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|member| !member.is_empty())
}

/// `key=value,key=value`, with values percent-encoded (W3C Baggage).
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let pair = |member: &str| {
        let (key, value) = member.split_once('=').ok_or_else(|| format!("{member:?} is not `key=value`"))?;
        let value = percent_decode_str(value.trim()).decode_utf8();
        let value = value.map_err(|_| format!("the value of {key:?} is not UTF-8"))?;
        match key.trim() {
            "" => Err(format!("{member:?} has no key")),
            key => Ok((key.to_owned(), value.into_owned())),
        }
    };
    members(text).map(pair).collect()
}

fn resource(variables: &Variables<'_>) -> Result<Resource, OtlpError> {
    let attributes = variables.read("OTEL_RESOURCE_ATTRIBUTES", Vec::new(), pairs)?;
    let named = variables.get("OTEL_SERVICE_NAME").map(|(_, name)| name);
    let named = named.or_else(|| {
        let given = attributes.iter().find(|(key, _)| key == "service.name");
        given.map(|(_, name)| name.clone())
    });
    let name = named.unwrap_or_else(|| {
        let program = std::env::current_exe().ok();
        let program = program.as_deref().and_then(std::path::Path::file_name).and_then(std::ffi::OsStr::to_str);
        program.map_or_else(|| "unknown_service".to_owned(), |program| format!("unknown_service:{program}"))
    });
    let attributes = attributes.into_iter().map(|(key, value)| KeyValue::new(key, value));
    Ok(Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(attributes)
        .with_service_name(name)
        .build())
}

fn sampler(variables: &Variables<'_>) -> Result<Sampler, OtlpError> {
    let ratio = || {
        variables.read("OTEL_TRACES_SAMPLER_ARG", 1.0, |value| match value.parse() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
            _ => Err("write a ratio from 0 to 1".to_owned()),
        })
    };
    let by_parent = |sampler| Sampler::ParentBased(Box::new(sampler));
    let Some((name, value)) = variables.get("OTEL_TRACES_SAMPLER") else { return Ok(by_parent(Sampler::AlwaysOn)) };
    match &*value {
        "always_on" => Ok(Sampler::AlwaysOn),
        "always_off" => Ok(Sampler::AlwaysOff),
        "traceidratio" => Ok(Sampler::TraceIdRatioBased(ratio()?)),
        "parentbased_always_on" => Ok(by_parent(Sampler::AlwaysOn)),
        "parentbased_always_off" => Ok(by_parent(Sampler::AlwaysOff)),
        "parentbased_traceidratio" => Ok(by_parent(Sampler::TraceIdRatioBased(ratio()?))),
        _ => {
            let known = "always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off or \
                         parentbased_traceidratio";
            Err(OtlpError::Variable { name, reason: format!("is not supported; write {known}"), value })
        }
    }
}

#[cfg(test)]
mod tests;
