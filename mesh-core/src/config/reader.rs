use std::ffi::OsString;
use std::path::Path as FsPath;
use std::time::Duration;

use super::effective::Effective;
use super::environment::{DEFAULT_RETRY_ON, Environment};
use super::origin::Position;
use super::overrides::{Override, get};
use super::problem::{ConfigError, Path};
use super::section::default_node;
use super::shape::{Context, OneOrMore, Shape};
use super::text::Word;
use super::tree::Node;
use super::warning::Warning;
use super::write::Writer;
use super::{decode, lint, lower, schema, tree};
use crate::model::{
    self, Admin, Identity, LoadBalancer, Place, Propagator, Protocol, RetryOn, RetryPolicy, Server, Tls,
    UnknownServices,
};

/// Reads configurations: a file, and over it what the environment and the program say.
///
/// The later one of default, file, environment and program wins, each for itself: a variable replaces one field and
/// leaves its neighbours. Whoever says something is held to the same rules, and a problem names who it was.
///
/// A reader is kept for as long as the file is followed: what it holds is put over each version of it.
///
/// # Examples
/// ```
/// use std::path::Path;
/// use std::time::Duration;
///
/// use mesh_core::config::{File, Reader};
///
/// let text = b"services: { shop: { backends: { v1: { dns: shop.internal:80 } } } }";
/// let file = File { text, name: "mesh.yaml", directory: Path::new("") };
/// let reader = Reader::new().with_environment([("MESH_TIMEOUT".into(), "2s".into())]);
/// let parsed = reader.read(Some(file))?;
/// assert_eq!(parsed.config.settings.defaults.timeout, Some(Duration::from_secs(2)));
///
/// let reader = Reader::new().with_environment([("MESH_TIMEOUT".into(), "soon".into())]);
/// let error = reader.read(Some(file)).unwrap_err();
/// assert!(error.to_string().starts_with("MESH_TIMEOUT: \"soon\" is not a duration"));
/// # Ok::<(), mesh_core::config::ConfigError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Reader {
    environment: Environment,
    program: Vec<Override>,
}

/// A configuration file that was read into memory.
#[derive(Debug, Clone, Copy)]
pub struct File<'a> {
    /// What is in it.
    pub text: &'a [u8],
    /// How problems call it.
    pub name: &'a str,
    /// What relative paths in it are relative to. Nothing is read from there.
    pub directory: &'a FsPath,
}

/// A configuration, and what is to be known about it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Parsed {
    /// The configuration.
    pub config: model::Config,
    /// The same as text, with all defaults and who said what.
    pub effective: Effective,
    /// What is legal and probably wrong.
    pub warnings: Vec<Warning>,
}

impl Reader {
    /// A reader for which the file alone counts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts the variables of [`VARIABLES`](super::VARIABLES) over the file. What is not there or empty is unset; a
    /// variable that begins with `MESH_` and is not of the table is a warning. Names are compared as they are.
    #[must_use]
    pub fn with_environment(mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        self.environment = Environment::read(variables);
        self
    }

    /// Whether neither the environment nor the program says anything.
    pub fn is_empty(&self) -> bool {
        let Environment { overrides, problems, .. } = &self.environment;
        overrides.is_empty() && problems.is_empty() && self.program.is_empty()
    }

    /// Reads a configuration. Without a `file` nothing is known but DNS: `unknown_services` is `dns` unless somebody
    /// says otherwise.
    ///
    /// # Errors
    /// All problems at once, as [`parse`](super::parse) has them.
    pub fn read(&self, file: Option<File<'_>>) -> Result<Parsed, ConfigError> {
        let name = file.map_or("", |file| file.name);
        let mut context = Context::new(name);
        context.problems.add(&self.environment.problems);
        let root = match file {
            Some(file) => {
                decode(file.text, &mut context.problems).and_then(|text| tree::read(text, &mut context.problems))
            }
            None => Some(without_file()),
        };
        let directory = file.map_or(FsPath::new(""), |file| file.directory);
        let parsed = root.and_then(|mut root| {
            self.put_over(&mut root, &mut context);
            let file = schema::File::read(&root, Path::TOP, &mut context)?;
            let config = lower::config(&file, directory, &mut context);
            let effective = Effective::new(root, name);
            let mut warnings = self.environment.warnings.clone();
            if context.problems.is_empty() {
                warnings.extend(lint::warnings(&file, &name.into()));
            }
            Some(Parsed { config, effective, warnings })
        });
        context.problems.into_result(parsed)
    }

    fn put_over(&self, root: &mut Node, context: &mut Context) {
        const ON: &str = "defaults.retry.on";
        let Environment { overrides, .. } = &self.environment;
        overrides.iter().for_each(|value| value.put(root));
        if get(root, "defaults.retry").is_some_and(|retry| retry.is_text("none")) {
            // No retries, and conditions for them all the same: they are in nobody's way, but must be conditions.
            for Override { value, .. } in overrides.iter().filter(|value| value.field == ON) {
                OneOrMore::<Word<RetryOn>>::read(value, Path::TOP, context);
            }
        } else if overrides.iter().any(|value| value.field.starts_with("defaults.retry.")) && get(root, ON).is_none() {
            Override { field: ON, value: default_node(DEFAULT_RETRY_ON) }.put(root);
        }
        self.program.iter().for_each(|value| value.put(root));
    }

    fn with(mut self, setter: &'static str, field: &'static str, value: impl FnOnce(Writer) -> Node) -> Self {
        self.program.push(Override { field, value: value(Writer(Position::Builder(setter))) });
        self
    }

    /// Sets what becomes of a name that is no service: `unknown_services` of the file.
    #[must_use]
    pub fn with_unknown_services(self, rule: UnknownServices) -> Self {
        self.with("unknown_services", "unknown_services", |writer| writer.word(rule))
    }

    /// Sets the bound of a whole request where no route says another one: `defaults.timeout` of the file.
    #[must_use]
    pub fn with_default_timeout(self, timeout: Option<Duration>) -> Self {
        self.with("default_timeout", "defaults.timeout", |writer| writer.timeout(timeout))
    }

    /// Sets when to try again where no route says otherwise: `defaults.retry` of the file, as a whole.
    #[must_use]
    pub fn with_default_retry(self, policy: Option<&RetryPolicy>) -> Self {
        self.with("default_retry", "defaults.retry", |writer| writer.retry(policy))
    }

    /// Sets the bound of a connection attempt where no backend says another one: `defaults.connect_timeout`.
    #[must_use]
    pub fn with_default_connect_timeout(self, timeout: Duration) -> Self {
        self.with("default_connect_timeout", "defaults.connect_timeout", |writer| writer.duration(timeout))
    }

    /// Sets the balancer of backends that say nothing: `defaults.load_balancer` of the file.
    #[must_use]
    pub fn with_default_load_balancer(self, balancer: &LoadBalancer) -> Self {
        self.with("default_load_balancer", "defaults.load_balancer", |writer| writer.load_balancer(balancer))
    }

    /// Sets the HTTP version for backends that say nothing: `defaults.protocol` of the file.
    #[must_use]
    pub fn with_default_protocol(self, protocol: Protocol) -> Self {
        self.with("default_protocol", "defaults.protocol", |writer| writer.word(protocol))
    }

    /// Sets `dns.min_ttl` of the file.
    #[must_use]
    pub fn with_dns_min_ttl(self, ttl: Duration) -> Self {
        self.with("dns_min_ttl", "dns.min_ttl", |writer| writer.duration(ttl))
    }

    /// Sets `dns.max_ttl` of the file.
    #[must_use]
    pub fn with_dns_max_ttl(self, ttl: Duration) -> Self {
        self.with("dns_max_ttl", "dns.max_ttl", |writer| writer.duration(ttl))
    }

    /// Sets `dns.timeout` of the file.
    #[must_use]
    pub fn with_dns_timeout(self, timeout: Duration) -> Self {
        self.with("dns_timeout", "dns.timeout", |writer| writer.duration(timeout))
    }

    /// Sets where this process runs: `locality` of the file. The default place is unknown.
    #[must_use]
    pub fn with_locality(self, place: &Place) -> Self {
        self.with("locality", "locality", |writer| writer.place(place))
    }

    /// Sets who this process is: `identity` of the file, as a whole. Paths are relative to where the process runs, and are
    /// UTF-8.
    #[must_use]
    pub fn with_identity(self, identity: &Identity) -> Self {
        self.with("identity", "identity", |writer| writer.identity(identity))
    }

    /// Sets TLS to endpoints where no backend says otherwise: `defaults.tls` of the file, as a whole. `None` is plaintext.
    #[must_use]
    pub fn with_default_tls(self, tls: Option<&Tls>) -> Self {
        self.with("default_tls", "defaults.tls", |writer| writer.tls(tls))
    }

    /// Adds a server to those of the file, or replaces the one of the same name. Sockets are relative to where the process
    /// runs.
    #[must_use]
    pub fn with_server(self, server: &Server) -> Self {
        self.with("server", "servers[]", |writer| writer.server(server))
    }

    /// Sets the admin listener: `admin` of the file, as a whole.
    #[must_use]
    pub fn with_admin(self, admin: &Admin) -> Self {
        self.with("admin", "admin", |writer| writer.admin(admin))
    }

    /// Sets the formats of the trace context: `telemetry.propagators` of the file. None of them is none at all.
    #[must_use]
    pub fn with_propagators(self, propagators: &[Propagator]) -> Self {
        self.with("propagators", "telemetry.propagators", |writer| {
            writer.list(propagators.iter().map(|propagator| writer.word(*propagator)))
        })
    }
}

/// What stands in place of a file that is not there.
fn without_file() -> Node {
    let mut root = Node::empty_map(Position::Default);
    let value = Writer(Position::Default).word(UnknownServices::Dns);
    Override { field: "unknown_services", value }.put(&mut root);
    root
}
