//! Building a mesh.

mod settings;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_core::balance::MakeBalance;
use mesh_core::config::{File, Reader};
use mesh_core::model::Config;
use mesh_core::resilience::retry::RetryClassifier;
use mesh_core::snapshot::Compiler;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry::trace::{Tracer, TracerProvider};
use rustls::crypto::CryptoProvider;
use tokio::sync::watch;

use crate::admin;
use crate::apply::{Applier, forward};
use crate::discover::{self, Discover, Sources};
use crate::identity::{Identities, IdentitySource};
use crate::mesh::{Core, Mesh};
use crate::net::tls::{Sessions, default_provider};
use crate::net::{Connect, Net, Shared, Snapshot, Tasks};
use crate::observe::{Observer, Observers};
use crate::source::dns::{DnsSource, Resolve};
use crate::source::endpoints::EndpointSource;
use crate::source::env::Environment;
use crate::source::reading::{Reading, Readings};
use crate::source::{BuildError, file};
use crate::telemetry::metrics::{self, Metrics};
#[cfg(feature = "otlp")]
use crate::telemetry::otlp::Otlp;
use crate::telemetry::spans::Spans;
use crate::telemetry::{AccessSink, Telemetry};
use crate::upkeep;

enum Source {
    File(PathBuf),
    Text(String),
    Config(Config),
    Watch(watch::Receiver<Arc<Config>>),
}

/// Builds a [`Mesh`].
#[derive(Default)]
pub struct Builder {
    source: Option<Source>,
    /// What the builder says itself.
    settings: Reader,
    environment: Environment,
    observer: Option<Arc<dyn Observer>>,
    connector: Option<Arc<dyn Connect>>,
    provider: Option<Arc<CryptoProvider>>,
    spans: Option<Spans>,
    meter: Option<Meter>,
    /// Whether metrics are kept for pages of our own.
    pages: bool,
    /// Whether nothing is told to OpenTelemetry's global providers either.
    quiet: bool,
    classifier: Option<Arc<dyn RetryClassifier>>,
    access_log: Option<Arc<dyn AccessSink>>,
    sources: HashMap<Arc<str>, Arc<dyn EndpointSource>>,
    resolver: Option<Arc<dyn Resolve>>,
    balances: Vec<(Arc<str>, Arc<dyn MakeBalance>)>,
    identity_source: Option<Arc<dyn IdentitySource>>,
}

impl Builder {
    /// Takes the configuration from a file, and follows it while it changes. The environment has no say, unless
    /// [`env`](Self::env) lets it.
    #[must_use]
    pub fn file(mut self, path: impl AsRef<Path>) -> Self {
        self.source = Some(Source::File(path.as_ref().to_owned()));
        self
    }

    /// Lets the environment of this process have a say, as it is now: its
    /// [variables](mesh_core::config#the-environment) replace what the file or the text says, and are replaced by what
    /// the builder says. `MESH_CONFIG` names the file if the builder is given neither one nor a
    /// configuration, and is ignored otherwise. Beside a configuration made in code ([`config`](Self::config),
    /// [`configs`](Self::configs)) any other of its variables is refused by [`build`](Self::build), with
    /// [`SettingsBesideConfig`](BuildError::SettingsBesideConfig).
    #[must_use]
    pub fn env(self) -> Self {
        self.environment(std::env::vars_os())
    }

    /// As [`env`](Self::env), with these variables in place of those of the process.
    #[must_use]
    pub fn environment(mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        self.environment = Environment::new(variables);
        self
    }

    /// Takes the configuration from a text in the file's format. The environment has no say, unless
    /// [`env`](Self::env) lets it.
    #[must_use]
    pub fn text(mut self, yaml: impl Into<String>) -> Self {
        self.source = Some(Source::Text(yaml.into()));
        self
    }

    /// Takes a configuration made in code. Its settings are [`Config::settings`]: settings of the builder and variables of
    /// the environment beside it are refused by [`build`](Self::build), with
    /// [`SettingsBesideConfig`](BuildError::SettingsBesideConfig); `MESH_CONFIG` is ignored.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.source = Some(Source::Config(config));
        self
    }

    /// Takes configurations made in code, and follows them while they change. What is refused beside them, and what is
    /// ignored, is as with [`config`](Self::config).
    #[must_use]
    pub fn configs(mut self, configs: watch::Receiver<Arc<Config>>) -> Self {
        self.source = Some(Source::Watch(configs));
        self
    }

    /// Tells `observer` what happens.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Opens byte streams by `connector` in place of TCP.
    #[must_use]
    pub fn connector(mut self, connector: impl Connect) -> Self {
        self.connector = Some(Arc::new(connector));
        self
    }

    /// Finds the endpoints of the backends that say `discovery: { source: NAME, .. }`. An earlier source of that name is
    /// replaced.
    #[must_use]
    pub fn endpoint_source(mut self, name: impl Into<Arc<str>>, source: impl EndpointSource) -> Self {
        self.sources.insert(name.into(), Arc::new(source));
        self
    }

    /// Takes the identity from `source`, where the configuration says `identity: { source: custom }`.
    #[must_use]
    pub fn identity_source(mut self, source: impl IdentitySource) -> Self {
        self.identity_source = Some(Arc::new(source));
        self
    }

    /// Looks up DNS names by `resolver` in place of the system's name servers.
    #[must_use]
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.resolver = Some(Arc::new(resolver));
        self
    }

    /// Balances the backends that say `load_balancer: { policy: custom, name: NAME }`: `make` makes a policy for each of
    /// them. An earlier one of that name is replaced.
    #[must_use]
    pub fn load_balancer(mut self, name: impl Into<Arc<str>>, make: impl MakeBalance) -> Self {
        self.balances.push((name.into(), Arc::new(make)));
        self
    }

    /// Asks `classifier` after each attempt of a request that may be retried.
    #[must_use]
    pub fn retry_classifier(mut self, classifier: impl RetryClassifier) -> Self {
        self.classifier = Some(Arc::new(classifier));
        self
    }

    /// Takes spans from `provider`: one for each request and one for each of its attempts, below the span that is
    /// current where a client is called. Default: the global provider, if one is installed when the mesh is built.
    ///
    /// Where the span is not sampled, a provider that is given here costs no allocation; the global one costs one.
    #[must_use]
    pub fn tracer_provider<P>(mut self, provider: &P) -> Self
    where
        P: TracerProvider,
        P::Tracer: Tracer<Span: Send + Sync + 'static> + Send + Sync + 'static,
    {
        self.spans = Some(Spans::new(provider));
        self
    }

    /// Tells metrics to `provider`; [`telemetry`](crate::telemetry) lists them. Default: the global provider, if one is
    /// installed when the mesh is built.
    #[must_use]
    pub fn meter_provider(mut self, provider: &impl MeterProvider) -> Self {
        self.meter = Some(metrics::meter(provider));
        self
    }

    /// Keeps metrics for [`Mesh::prometheus_text`]. Works beside a meter provider, and without one.
    #[cfg(feature = "prometheus")]
    #[must_use]
    pub fn prometheus(mut self) -> Self {
        self.pages = true;
        self
    }

    /// Writes the access log of the servers that have one to `sink`, too. Without it a line is the message of a `tracing`
    /// event at level `INFO` under the target `mesh::access`, which has its values as fields.
    #[must_use]
    pub fn access_log(mut self, sink: impl AccessSink) -> Self {
        self.access_log = Some(Arc::new(sink));
        self
    }

    /// Tells traces and metrics to the collector that `otlp` was made for, or to nobody if it was told to do nothing.
    #[cfg(feature = "otlp")]
    #[must_use]
    pub fn telemetry(self, otlp: &Otlp) -> Self {
        if !otlp.is_enabled() {
            return self.quiet();
        }
        self.tracer_provider(otlp.tracer_provider()).meter_provider(otlp.meter_provider())
    }

    /// Tells nothing to OpenTelemetry's global providers.
    #[cfg(feature = "otlp")]
    pub(crate) fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Uses `provider` for TLS. Default, by the features of this crate: `fips`, else `aws-lc-rs`, else `ring`; without any
    /// of them [`build`](Self::build) fails unless it is given one. The process default is neither read nor set.
    #[must_use]
    pub fn crypto_provider(mut self, provider: Arc<CryptoProvider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// Builds the mesh on the current tokio runtime. Nothing is connected before the first request.
    ///
    /// Without a configuration the mesh looks the name of each service up in DNS
    /// ([`unknown_services`](Self::unknown_services)). An `INFO` event of `tracing` under the target `mesh` says what is
    /// active, and a `WARN` event each thing about the configuration that is legal and probably wrong.
    ///
    /// # Errors
    /// If the configuration cannot be read, or has problems.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn build(mut self) -> Result<Mesh, BuildError> {
        let mut watcher = None;
        let mut configs = None;
        let mut name = "config".to_owned();
        let readings = Arc::new(Readings::default());
        let source = self.source.or_else(|| self.environment.file.take().map(Source::File));
        let reader = self.environment.over(self.settings);
        if matches!(source, Some(Source::Config(_) | Source::Watch(_))) && !reader.is_empty() {
            return Err(BuildError::SettingsBesideConfig);
        }
        let config = match source {
            None => {
                "no file".clone_into(&mut name);
                readings.add(Reading::of(reader.read(None)?))
            }
            Some(Source::File(path)) => {
                let (opened, reading) = file::open(path, reader, Arc::clone(&readings)).await?;
                name = opened.path().display().to_string();
                watcher = Some(opened);
                readings.add(reading)
            }
            Some(Source::Text(text)) => {
                let file = File { text: text.as_bytes(), name: &name, directory: Path::new("") };
                readings.add(Reading::of(reader.read(Some(file))?))
            }
            Some(Source::Config(config)) => Arc::new(config),
            Some(Source::Watch(mut receiver)) => {
                let first = receiver.borrow_and_update().clone();
                configs = Some(receiver);
                first
            }
        };
        let global = !self.quiet;
        let meter = self.meter.or_else(|| global.then(metrics::global_meter).flatten());
        let pages = self.pages || admin::keeps_metrics(&config.settings);
        let metrics = (meter.is_some() || pages).then(|| Metrics::new(meter.as_ref(), pages));
        let provider = self.provider.or_else(default_provider).ok_or(BuildError::NoCryptoProvider)?;
        let tasks = Tasks::new();
        let observers = Observers::new(self.observer).with_metrics(metrics.clone());
        let identities = Identities::new(tasks.clone(), Arc::clone(&provider), observers.clone());
        let shared = Arc::new(Shared {
            tasks,
            observers,
            telemetry: Telemetry { spans: self.spans.or_else(|| global.then(Spans::global).flatten()), metrics },
            classifier: self.classifier,
            channel_id: rand::random(),
            connector: self.connector,
            access_log: self.access_log,
            provider,
            identities,
            identity_source: self.identity_source,
            sessions: Sessions::default(),
        });
        let mut compiler = Compiler::new(Net { shared: Arc::clone(&shared) });
        for (name, make) in self.balances {
            compiler = compiler.with_balance(name, make);
        }
        let dns = Arc::new(DnsSource::new(self.resolver, shared.observers.clone()));
        let sources = Sources { identity: shared.identity_source.is_some(), dns, custom: self.sources };
        sources.check(&config)?;
        #[cfg(feature = "admin")]
        let bound = admin::bind(&config.settings)?;
        let tasks = &shared.tasks;
        let unfinished = Unfinished(Some(tasks.clone()));
        let (sender, updates) = watch::channel(Ok(Arc::clone(&config)));
        let (demands, demanded) = discover::channel();
        let discover = Discover::new(sources, tasks.clone(), Arc::clone(&config), updates, demanded);
        let published = discover.config();
        let now = tokio::time::Instant::now().into_std();
        let first = compiler.compile(&Snapshot::empty(), &published, &mut rand::rng(), now)?;
        let core = Arc::new(Core::new(Arc::clone(&shared), demands, readings));
        // Probes are answered while there is no identity yet.
        #[cfg(feature = "admin")]
        admin::start(&core, bound);
        if let Some(identity) = &config.settings.identity {
            shared.identify(Some(identity))?;
            shared.identities.wait(identity.startup_timeout).await?;
        }
        if let Some(metrics) = &shared.telemetry.metrics {
            metrics.attach(&core);
        }
        core.publish(first, Some(&name), None);
        if global {
            settings::announce(&name, &config, shared.telemetry.spans.is_some());
        }
        let applier = Applier { core: Arc::clone(&core), compiler, discover, published, source: name, refused: None };
        tasks.spawn_until_stop(applier.run());
        tasks.spawn_until_stop(upkeep::run(Arc::clone(&core)));
        if let Some(watcher) = watcher {
            tasks.spawn_until_stop(watcher.run(sender));
        } else if let Some(configs) = configs {
            tasks.spawn_until_stop(forward(configs, sender));
        }
        unfinished.finish();
        Ok(Mesh::of(core))
    }
}

/// Ends the tasks of a mesh that is given up while it is built.
struct Unfinished(Option<Tasks>);

impl Unfinished {
    fn finish(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(tasks) = &self.0 {
            tasks.stop();
            tasks.abort();
        }
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Builder")
    }
}
