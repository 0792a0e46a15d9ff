//! The environment as a source of single values.

use std::ffi::{OsStr, OsString};

use super::origin::{Origin, Position};
use super::overrides::Override;
use super::problem::{Problem, shorten};
use super::suggest::nearest;
use super::tree::Node;
use super::warning::Warning;
use super::write::Writer;

/// An environment variable that the mesh reads. One that is empty counts as unset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// The field of the file that it replaces. Empty for `MESH_CONFIG`, which names the file.
    pub field: &'static str,
    /// What it means, in one line.
    pub about: &'static str,
    kind: Kind,
}

/// How the text of a variable becomes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It is of no interest here.
    Path,
    Scalar,
    /// It is what it is, also where it looks like a number.
    Text,
    /// Words with commas between them.
    Words,
    NumRetries,
    Propagators,
}

const fn variable(name: &'static str, field: &'static str, kind: Kind, about: &'static str) -> Variable {
    Variable { name, field, about, kind }
}

/// Every environment variable that the mesh reads.
pub const VARIABLES: [Variable; 17] = [
    variable(
        "MESH_CONFIG",
        "",
        Kind::Path,
        "The path of the file. Without it there is no file, and `unknown_services` is `dns`.",
    ),
    variable(
        "MESH_UNKNOWN_SERVICES",
        "unknown_services",
        Kind::Scalar,
        "`refuse` or `dns`: what becomes of a name that is no service of the file.",
    ),
    variable(
        "MESH_TIMEOUT",
        "defaults.timeout",
        Kind::Scalar,
        "Bound of a whole request with all its retries, such as `2s`; `0s` for none.",
    ),
    variable(
        "MESH_RETRY_NUM_RETRIES",
        "defaults.retry.num_retries",
        Kind::NumRetries,
        "How many attempts may follow the first, 1 to 10; `0` for no retries. Where nobody says on what, it is on \
         `unavailable`, `connect-failure`, `refused-stream`, `gateway-error`.",
    ),
    variable(
        "MESH_RETRY_ON",
        "defaults.retry.on",
        Kind::Words,
        "The conditions for a retry with commas between them, such as `unavailable,connect-failure`.",
    ),
    variable(
        "MESH_CONNECT_TIMEOUT",
        "defaults.connect_timeout",
        Kind::Scalar,
        "Bound of one connection attempt, TLS included.",
    ),
    variable(
        "MESH_LOAD_BALANCER",
        "defaults.load_balancer",
        Kind::Scalar,
        "A balancer that needs no parameters, so any but `custom`: `least_request`, for example.",
    ),
    variable("MESH_PROTOCOL", "defaults.protocol", Kind::Scalar, "The HTTP version: `auto`, `http1`, `http2`."),
    variable("MESH_DNS_MIN_TTL", "dns.min_ttl", Kind::Scalar, "A name is looked up again no sooner than this."),
    variable("MESH_DNS_MAX_TTL", "dns.max_ttl", Kind::Scalar, "And no later than this."),
    variable("MESH_DNS_TIMEOUT", "dns.timeout", Kind::Scalar, "Bound of one lookup with all its queries."),
    variable(
        "MESH_LOCALITY",
        "locality",
        Kind::Text,
        "Where this process runs: `region`, `region/zone` or `region/zone/sub_zone`.",
    ),
    variable(
        "MESH_IDENTITY_CERTIFICATE",
        "identity.certificate",
        Kind::Text,
        "The PEM file with the certificate of this process. A relative path is relative to where the process runs, here and below.",
    ),
    variable("MESH_IDENTITY_KEY", "identity.key", Kind::Text, "The PEM file with its private key."),
    variable(
        "MESH_IDENTITY_TRUST_BUNDLE",
        "identity.trust_bundle",
        Kind::Text,
        "The PEM file with the authorities of its trust domain.",
    ),
    variable(
        "MESH_ADMIN_ADDRESS",
        "admin.address",
        Kind::Text,
        "Where the admin listener is, such as `127.0.0.1:15000`.",
    ),
    variable(
        "OTEL_PROPAGATORS",
        "telemetry.propagators",
        Kind::Propagators,
        "The formats of the trace context in any case with commas between them, or `none`. Those of OpenTelemetry that are not \
         known here are passed over with a warning.",
    ),
];

/// What a policy retries on if somebody said how often, and nobody on what.
pub(super) const DEFAULT_RETRY_ON: &str = "[unavailable, connect-failure, refused-stream, gateway-error]";

/// The propagators that OpenTelemetry's implementations know and this one does not.
const FOREIGN_PROPAGATORS: [&str; 5] = ["jaeger", "xray", "xray-lambda", "ottrace", "gcp"];

/// What an environment says.
#[derive(Debug, Clone, Default)]
pub(super) struct Environment {
    pub(super) overrides: Vec<Override>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Warning>,
}

impl Environment {
    /// Reads `variables`; of each name the last one counts.
    pub(super) fn read(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut environment = Self::default();
        let mut known: [Option<OsString>; VARIABLES.len()] = [const { None }; VARIABLES.len()];
        for (name, value) in variables {
            if value.is_empty() {
                continue;
            }
            match VARIABLES.iter().position(|variable| name == variable.name) {
                Some(index) => known[index] = Some(value),
                None => environment.warnings.extend(unknown(&name)),
            }
        }
        environment.warnings.sort_by(|a, b| a.message.cmp(&b.message));
        // In the order of the table: `0` retries end what was said of retries before.
        let known = VARIABLES.into_iter().zip(known).filter_map(|(variable, value)| Some((variable, value?)));
        let (last, first): (Vec<_>, Vec<_>) = known.partition(|(variable, _)| variable.kind == Kind::NumRetries);
        for (variable, value) in first.into_iter().chain(last) {
            environment.take(variable, &value);
        }
        environment
    }

    fn take(&mut self, variable: Variable, value: &OsStr) {
        let Variable { name, field, kind, .. } = variable;
        let writer = Writer(Position::Environment(name));
        if kind == Kind::Path {
            return;
        }
        let Some(text) = value.to_str() else {
            self.problems.push(Problem {
                origin: Origin::Environment { variable: name.into() },
                path: field.to_owned(),
                value: Some(shorten(&value.to_string_lossy())),
                message: "its value is not UTF-8".to_owned(),
                help: None,
            });
            return;
        };
        let (field, value) = match kind {
            Kind::NumRetries if text == "0" => ("defaults.retry", writer.text("none")),
            Kind::Path | Kind::Scalar | Kind::NumRetries => (field, Node::plain(text, writer.0)),
            Kind::Text => (field, writer.text(text)),
            Kind::Words => (field, writer.list(words(text).map(|word| writer.text(word)))),
            Kind::Propagators => (field, self.propagators(text, writer)),
        };
        self.overrides.push(Override { field, value });
    }

    fn propagators(&mut self, text: &str, writer: Writer) -> Node {
        // OpenTelemetry compares the names of its variables without regard to case.
        let text = text.to_ascii_lowercase();
        if text.trim() == "none" {
            return writer.text("none");
        }
        let mut taken: Vec<&str> = Vec::new();
        for word in words(&text) {
            // OpenTelemetry asks for duplicates to be dropped.
            if taken.contains(&word) {
                continue;
            }
            if FOREIGN_PROPAGATORS.contains(&word) {
                self.warnings.push(Warning {
                    code: "unknown-propagator",
                    origin: Origin::Environment { variable: "OTEL_PROPAGATORS".into() },
                    path: "telemetry.propagators".to_owned(),
                    message: format!("the propagator `{word}` is not known here and is passed over"),
                    help: "name one of `tracecontext`, `baggage`, `b3`, `b3multi` beside it".to_owned(),
                });
                continue;
            }
            taken.push(word);
        }
        writer.list(taken.into_iter().map(|word| writer.text(word)))
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

/// A warning about a variable that looks like one of the mesh and is none.
fn unknown(name: &OsStr) -> Option<Warning> {
    let name = name.to_str()?;
    if !name.starts_with("MESH_") || is_of_kubernetes(name) {
        return None;
    }
    let names = || VARIABLES.iter().map(|variable| variable.name);
    let help = match nearest(name, names()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => "the reference of the configuration lists those that there are".to_owned(),
    };
    Some(Warning {
        code: "unknown-variable",
        origin: Origin::Environment { variable: name.into() },
        path: String::new(),
        message: format!("there is no variable {}", shorten(name)),
        help,
    })
}

/// Kubernetes sets variables for each service of a namespace, also for one that is called `mesh` or `mesh-something`:
/// `MESH_SERVICE_HOST`, `MESH_SERVICE_PORT_HTTP`, `MESH_PORT`, `MESH_PORT_80_TCP_ADDR`.
fn is_of_kubernetes(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.split("_PORT_").nth(1).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}
