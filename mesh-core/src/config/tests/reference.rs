//! The reference of the schema is made from the declarations: it cannot fall behind.

use std::fmt::Write as _;
use std::sync::Arc;

use super::super::origin::Position;
use super::super::problem::{Path, Problem};
use super::super::schema;
use super::super::section::{FieldSpec, Presence, Section};
use super::super::shape::{Context, Shape};
use super::super::tree::{Node, Value};
use super::good;
use crate::config::{VARIABLES, Variable, WARNINGS};

struct Described {
    title: &'static str,
    form: &'static str,
    fields: &'static [FieldSpec],
    not_yet: &'static [&'static str],
    read_empty: fn() -> Vec<Problem>,
}

fn describe<S: Section + Shape>(title: &'static str) -> Described {
    Described { title, form: S::FORM, fields: S::FIELDS, not_yet: S::NOT_YET, read_empty: read_empty::<S> }
}

fn read_empty<S: Shape>() -> Vec<Problem> {
    let mut context = Context::new("empty");
    let node = Node { value: Value::Map(Arc::default()), at: Position::FILE };
    assert!(S::read(&node, Path::TOP, &mut context).is_some());
    context.problems.into_result(Some(())).map_or_else(|error| error.problems().to_vec(), |()| Vec::new())
}

fn sections() -> Vec<Described> {
    vec![
        describe::<schema::File>("top of the file"),
        describe::<schema::Defaults>("defaults"),
        describe::<schema::Dns>("dns"),
        describe::<schema::Telemetry>("telemetry"),
        describe::<schema::HomeSection>("locality, as a section"),
        describe::<schema::IdentitySection>("identity"),
        describe::<schema::WorkloadApi>("identity.workload_api"),
        describe::<schema::Server>("servers[]"),
        describe::<schema::ServerTlsSection>("servers[].tls, as a section"),
        describe::<schema::ForwardedIdentity>("servers[].forwarded_identity"),
        describe::<schema::ServerLimits>("servers[].limits"),
        describe::<schema::Drain>("servers[].drain"),
        describe::<schema::Admin>("admin"),
        describe::<schema::Service>("services.NAME"),
        describe::<schema::RetryThrottling>("retry_throttling"),
        describe::<schema::Route>("routes[]"),
        describe::<schema::WeightedBackend>("routes[].backends[]"),
        describe::<schema::Match>("matches[]"),
        describe::<schema::PathMatch>("matches[].path"),
        describe::<schema::HeaderMatch>("matches[].headers[], retriable_headers[]"),
        describe::<schema::Range>("headers[].range"),
        describe::<schema::QueryMatch>("matches[].query[]"),
        describe::<schema::Fraction>("matches[].fraction"),
        describe::<schema::Retry>("retry"),
        describe::<schema::Backoff>("retry.backoff"),
        describe::<schema::Hedging>("hedging"),
        describe::<schema::HashPolicy>("hash_policy[]"),
        describe::<schema::HashCookie>("hash_policy[].cookie"),
        describe::<schema::SessionAffinity>("session_affinity"),
        describe::<schema::SessionCookie>("session_affinity.cookie"),
        describe::<schema::Backend>("backends.NAME"),
        describe::<schema::EndpointSection>("endpoints[], as a section"),
        describe::<schema::LocalitySection>("backends.NAME.localities[]"),
        describe::<schema::LocalityPolicy>("backends.NAME.locality_policy"),
        describe::<schema::SrvSection>("backends.NAME.dns, as a section"),
        describe::<schema::DiscoverySection>("backends.NAME.discovery"),
        describe::<schema::BalancerSection>("load_balancer, as a section"),
        describe::<schema::SlowStart>("slow_start"),
        describe::<schema::ConnectBackoff>("connect_backoff"),
        describe::<schema::RetryBudget>("retry_budget"),
        describe::<schema::CircuitBreaker>("circuit_breaker"),
        describe::<schema::OutlierDetection>("outlier_detection"),
        describe::<schema::ConsecutiveSection>("outlier_detection.consecutive_*, as a section"),
        describe::<schema::SuccessRate>("outlier_detection.success_rate"),
        describe::<schema::FailurePercentage>("outlier_detection.failure_percentage"),
        describe::<schema::AdmissionControl>("admission_control"),
        describe::<schema::HealthCheck>("health_check"),
        describe::<schema::HttpProbe>("health_check.http"),
        describe::<schema::StatusSection>("health_check.http.expected, as a section"),
        describe::<schema::Keepalive>("keepalive"),
        describe::<schema::Tls>("tls"),
        describe::<schema::PeerSection>("identities[], trusted_proxies[], as a section"),
    ]
}

fn tables() -> String {
    let mut text = String::new();
    for section in sections() {
        let Described { title, form, fields, not_yet, .. } = section;
        write!(
            text,
            "\n## `{title}`: {form}\n\n| field | type and range | default | meaning |\n| --- | --- | --- | --- |\n"
        )
        .unwrap();
        for FieldSpec { name, form, presence, about, .. } in fields {
            let default = match presence {
                Presence::Required => "required".to_owned(),
                Presence::Optional => String::new(),
                Presence::Follows(default, _) => (*default).to_owned(),
                Presence::DefaultsTo(default) => format!("`{default}`"),
                Presence::Inherits => "that of `defaults`".to_owned(),
                Presence::InheritsUnless(other) => format!("that of `defaults`, unless there is `{other}`"),
            };
            writeln!(text, "| `{name}` | {} | {default} | {} |", form(), about.trim()).unwrap();
        }
        if !not_yet.is_empty() {
            let names: Vec<_> = not_yet.iter().map(|name| format!("`{name}`")).collect();
            writeln!(text, "\nNot supported in this version: {}.", names.join(", ")).unwrap();
        }
    }
    text.push_str("\n# The environment\n\n| variable | field | meaning |\n| --- | --- | --- |\n");
    for Variable { name, field, about, .. } in VARIABLES {
        let field = if field.is_empty() { String::new() } else { format!("`{field}`") };
        writeln!(text, "| `{name}` | {field} | {about} |").unwrap();
    }
    text.push_str(
        "\n# The warnings\n\nWhat is legal and probably wrong is told when the mesh is built, with each version of the \
         file, and by\n`cargo run --example check`.\n\n| code | meaning |\n| --- | --- |\n",
    );
    for (code, about) in WARNINGS {
        writeln!(text, "| `{code}` | {about} |").unwrap();
    }
    text
}

#[test]
fn reference_shows_what_is_declared() {
    const HEADING: &str = "# The sections\n";
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/reference.md");
    let text = std::fs::read_to_string(file).unwrap();
    let (introduction, written) = text.split_once(HEADING).unwrap();
    let expected = tables();
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(file, format!("{introduction}{HEADING}{expected}")).unwrap();
        return;
    }
    assert_eq!(written, expected, "run this test with UPDATE_REFERENCE=1 to write {file} anew");
}

#[test]
fn example_of_the_reference_is_valid() {
    let text = include_str!("../reference.md");
    let example = text.split("```").nth(1).unwrap().trim_start_matches("yaml");
    assert_eq!(good(example).backends.len(), 2);
}

#[test]
fn declarations_are_sound() {
    for section in sections() {
        let mut names: Vec<_> = section.fields.iter().map(|field| field.name).collect();
        names.extend(section.not_yet);
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "a name twice in {}", section.title);
        for field in section.fields {
            assert!(field.about.trim().ends_with('.'), "{}.{}", section.title, field.name);
        }
    }
}

/// Every default is a text that its own shape reads: all that an empty section lacks is what is required.
#[test]
fn defaults_are_valid() {
    for section in sections() {
        let required = section.fields.iter().filter(|field| matches!(field.presence, Presence::Required));
        let expected: Vec<_> = required.map(|field| field.name.to_owned()).collect();
        let missing: Vec<_> = (section.read_empty)().into_iter().map(|problem| problem.path).collect();
        assert_eq!(missing, expected, "{}", section.title);
    }
}

/// CF-05: users read when a ConfigMap follows, and that one by `subPath` never does.
#[test]
fn cf_05_the_reference_says_when_a_config_map_follows() {
    let reference = include_str!("../reference.md").replace('\n', " ");
    assert!(reference.contains("the kubelet's sync period and cache, one to two minutes in all"));
    assert!(reference.contains("one that is mounted by `subPath` never changes"));
}
