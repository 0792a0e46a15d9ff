//! Export of traces and metrics to an OpenTelemetry collector, set up from the environment in one call.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use mesh_tower::Mesh;
//! use mesh_tower::telemetry::otlp::Otlp;
//!
//! let otlp = Otlp::from_env().await?;
//! let mesh = Mesh::builder().env().telemetry(&otlp).build().await?;
//! // ..
//! mesh.shutdown().await;
//! otlp.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! | variable | means | default |
//! | --- | --- | --- |
//! | `OTEL_SDK_DISABLED` | `true`: nothing is recorded; what is neither `true` nor `false` counts as `false`, with a warning | `false` |
//! | `OTEL_TRACES_EXPORTER`, `OTEL_METRICS_EXPORTER` | `otlp` or `none` | `otlp` |
//! | `OTEL_EXPORTER_OTLP_ENDPOINT` | the collector; `/v1/traces` and `/v1/metrics` are put behind it | `http://localhost:4318` |
//! | `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, `.._METRICS_ENDPOINT` | the whole URL of one signal | |
//! | `OTEL_EXPORTER_OTLP_PROTOCOL`, and `.._TRACES_..`, `.._METRICS_..` | `http/protobuf`; nothing else is supported | `http/protobuf` |
//! | `OTEL_EXPORTER_OTLP_HEADERS`, likewise | `name=value,..`, values percent-encoded | |
//! | `OTEL_EXPORTER_OTLP_TIMEOUT`, likewise | of one export with its retries, in milliseconds | 10000 |
//! | `OTEL_EXPORTER_OTLP_COMPRESSION`, likewise | `none`; with anything else there is a warning, and nothing is compressed | `none` |
//! | `OTEL_EXPORTER_OTLP_CERTIFICATE`, likewise | a PEM file of the authorities to trust for `https` | the public ones |
//! | `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE` | `cumulative`, `delta` or `lowmemory` | `cumulative` |
//! | `OTEL_METRIC_EXPORT_INTERVAL` | in milliseconds | 60000 |
//! | `OTEL_BSP_SCHEDULE_DELAY` | between two exports of spans, in milliseconds | 5000 |
//! | `OTEL_BSP_MAX_QUEUE_SIZE` | spans that may wait | 2048 |
//! | `OTEL_BSP_MAX_EXPORT_BATCH_SIZE` | spans in one export, at most what may wait | 512 |
//! | `OTEL_TRACES_SAMPLER` | `always_on`, `always_off`, `traceidratio`, and the three with `parentbased_` | `parentbased_always_on` |
//! | `OTEL_TRACES_SAMPLER_ARG` | of the samplers with a ratio: 0 to 1 | 1 |
//! | `OTEL_SERVICE_NAME` | what the telemetry is of | `unknown_service:` and the program's name |
//! | `OTEL_RESOURCE_ATTRIBUTES` | `key=value,..`, values percent-encoded | |
//!
//! An empty variable counts as unset; one that cannot be read, or is not UTF-8, is an error that names it, unless the table
//! says otherwise. Warnings are `WARN` events of `tracing` under the target `mesh`. What is wrong with a header is told
//! without its value.
//!
//! # What happens when the collector is away
//!
//! Nothing to requests: exports run on threads of OpenTelemetry's SDK. Spans wait, as many as the queue holds, and what
//! comes then is dropped and [counted](Otlp::spans). An export is tried again for as long as its timeout, then given up;
//! metrics come with the next one. [`shutdown`](Otlp::shutdown) takes at most 5 s.
//!
//! The connection to the collector is one of a mesh of its own, which tells nobody anything.

mod client;
mod settings;
mod spans;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_otlp::{ExporterBuildError, MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tokio::sync::oneshot;

use self::client::Client;
use self::settings::Settings;
use self::spans::Counts;
pub use self::spans::SpanCounts;
use crate::mesh::Mesh;
use crate::source::BuildError;

/// The most that [`Otlp::shutdown`] takes.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OtlpError {
    /// A variable cannot be read.
    #[error("{name}={value:?}: {reason}")]
    Variable {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A variable with headers cannot be read. Its value is a secret and is not told.
    #[error("{name}: {reason}; write `key=value,key=value`, with values percent-encoded")]
    Headers {
        /// The variable.
        name: &'static str,
        /// What is wrong, and with which entry, counted from 1.
        reason: String,
    },
    /// A variable is not text.
    #[error("{name}: its value is not UTF-8")]
    NotText {
        /// The variable.
        name: String,
    },
    /// The connection to the collector cannot be set up.
    #[error("the connection to the OpenTelemetry collector: {0}")]
    Connection(#[from] BuildError),
    /// The exporter refuses its settings.
    #[error("the OpenTelemetry exporter: {0}")]
    Exporter(#[from] ExporterBuildError),
    /// What was left could not be exported.
    #[error("what was left could not be exported: {0}")]
    Left(String),
    /// What was left could not be sent in time.
    #[error("the OpenTelemetry collector did not take what was left within {0:?}")]
    Shutdown(Duration),
}

/// Providers of traces and metrics that export to a collector. See the [module](self).
///
/// Sets nothing global: hand it to [`Builder::telemetry`](crate::Builder::telemetry), and its providers to whatever
/// else is to be told of. When it is dropped, what is left is sent in the background, if the process lives so long.
pub struct Otlp {
    providers: Option<Providers>,
    tracers: SdkTracerProvider,
    meters: SdkMeterProvider,
    counts: Arc<Counts>,
    enabled: bool,
}

/// What must be shut down.
struct Providers {
    tracers: SdkTracerProvider,
    meters: SdkMeterProvider,
    /// They carry the exports.
    meshes: Vec<Mesh>,
}

impl Otlp {
    /// Set up as the environment says.
    ///
    /// # Errors
    /// If a variable cannot be read or asks for what is not supported, or the certificates cannot be used.
    ///
    /// # Panics
    /// Outside of a tokio runtime: exports are sent on the one this is called on.
    pub async fn from_env() -> Result<Self, OtlpError> {
        Self::of(Settings::read_os(&|name| std::env::var_os(name))?).await
    }

    /// Set up as `variable` says: it gives the value of each variable of the table above, where there is one.
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env).
    ///
    /// # Panics
    /// As [`from_env`](Self::from_env).
    pub async fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, OtlpError> {
        Self::of(Settings::read(&variable)?).await
    }

    async fn of(settings: Settings) -> Result<Self, OtlpError> {
        for warning in &settings.warnings {
            tracing::warn!(target: crate::observe::TARGET, "{warning}");
        }
        let counts = Arc::new(Counts::new(settings.max_queue));
        let mut tracers = SdkTracerProvider::builder().with_resource(settings.resource.clone());
        let mut meters = SdkMeterProvider::builder().with_resource(settings.resource.clone());
        let mut meshes = Vec::new();
        tracers = match &settings.traces {
            Some(traces) => {
                let client = Client::new(traces).await?;
                meshes.push(client.mesh().clone());
                let exporter = SpanExporter::builder()
                    .with_http()
                    .with_http_client(client)
                    .with_endpoint(traces.endpoint.to_string())
                    .with_timeout(traces.timeout)
                    .with_headers(traces.headers.clone())
                    .build()?;
                let processor = spans::processor(exporter, &settings, &counts);
                tracers.with_span_processor(processor).with_sampler(settings.sampler.clone())
            }
            None => tracers.with_sampler(Sampler::AlwaysOff),
        };
        if let Some(metrics) = &settings.metrics {
            let client = Client::new(metrics).await?;
            meshes.push(client.mesh().clone());
            let exporter = MetricExporter::builder()
                .with_http()
                .with_http_client(client)
                .with_endpoint(metrics.endpoint.to_string())
                .with_timeout(metrics.timeout)
                .with_headers(metrics.headers.clone())
                .with_temporality(settings.temporality)
                .build()?;
            let reader = PeriodicReader::builder(exporter).with_interval(settings.metric_interval).build();
            meters = meters.with_reader(reader);
        }
        let (tracers, meters) = (tracers.build(), meters.build());
        let providers = Providers { tracers: tracers.clone(), meters: meters.clone(), meshes };
        let enabled = settings.traces.is_some() || settings.metrics.is_some();
        Ok(Self { providers: Some(providers), tracers, meters, counts, enabled })
    }

    /// The provider of traces.
    pub fn tracer_provider(&self) -> &SdkTracerProvider {
        &self.tracers
    }

    /// The provider of metrics.
    pub fn meter_provider(&self) -> &SdkMeterProvider {
        &self.meters
    }

    /// Whether anything is exported at all.
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// What became of the spans that were sampled so far.
    pub fn spans(&self) -> SpanCounts {
        self.counts.read()
    }

    /// Sends what is left, and ends the export. Takes at most 5 s.
    ///
    /// Shut the mesh down first, for the spans of requests that end later are lost, and drop it afterwards, for its
    /// counters are read now.
    ///
    /// # Errors
    /// If what was left could not be exported, or not in that time. A program that ends then has lost some of its
    /// telemetry and nothing else: that is a line for its log.
    pub async fn shutdown(mut self) -> Result<(), OtlpError> {
        let Some(providers) = self.providers.take() else { return Ok(()) };
        let meshes = providers.meshes.clone();
        let done = providers.shutdown();
        let sent = tokio::time::timeout(SHUTDOWN, done).await;
        for mesh in meshes {
            mesh.shutdown().await;
        }
        match sent {
            Ok(Ok(result)) => result.map_err(OtlpError::Left),
            _ => Err(OtlpError::Shutdown(SHUTDOWN)),
        }
    }
}

impl Providers {
    /// Shuts both down, on threads of their own: that blocks until the last export has ended, and the runtime which it
    /// might block is the one that sends it.
    fn shutdown(self) -> oneshot::Receiver<Result<(), String>> {
        let Self { tracers, meters, meshes } = self;
        let (done, receiver) = oneshot::channel();
        let run = move || {
            let failed = |signal: &str, result: OTelSdkResult| result.err().map(|error| format!("{signal}: {error}"));
            let metrics = std::thread::spawn(move || meters.shutdown_with_timeout(SHUTDOWN));
            let traces = failed("traces", tracers.shutdown_with_timeout(SHUTDOWN));
            let metrics =
                metrics.join().map_or_else(|_| Some("metrics".to_owned()), |result| failed("metrics", result));
            drop(meshes);
            let errors: Vec<_> = traces.into_iter().chain(metrics).collect();
            // Nobody may wait for it.
            let _ = done.send(if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) });
        };
        // Without a thread the receiver hears that nothing was sent.
        let _ = std::thread::Builder::new().name("otlp-shutdown".to_owned()).spawn(run);
        receiver
    }
}

impl Drop for Otlp {
    fn drop(&mut self) {
        if let Some(providers) = self.providers.take() {
            drop(providers.shutdown());
        }
    }
}

impl fmt::Debug for Otlp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Otlp").field("enabled", &self.enabled).field("spans", &self.spans()).finish_non_exhaustive()
    }
}
