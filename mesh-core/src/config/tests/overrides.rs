//! CF-07, CF-08: builder over environment over file over default.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};

use super::super::{File, Parsed, Reader, VARIABLES};
use crate::model::{
    Admin, Backoff, Defaults, DnsSettings, HeaderMatch, Identity, IdentityFiles, IdentityFrom, LoadBalancer, Maglev,
    Pattern, PeakEwma, Place, Propagator, Protocol, RetryMethods, RetryOn, RetryPolicy, RingHash, StringMatch,
    TrustFile, UnknownServices, ValueMatch, WeightedRoundRobin,
};

fn environment(variables: &[(&str, &str)]) -> Reader {
    Reader::new().with_environment(variables.iter().map(|(name, value)| (name.into(), value.into())))
}

fn parsed(reader: &Reader, text: &str) -> Parsed {
    let file = File { text: text.as_bytes(), name: "mesh.yaml", directory: Path::new("/etc/mesh") };
    reader.read(Some(file)).unwrap_or_else(|error| panic!("{error}\nin\n{text}"))
}

fn problems(reader: &Reader, text: &str) -> Vec<String> {
    let file = File { text: text.as_bytes(), name: "mesh.yaml", directory: Path::new("/etc/mesh") };
    let error = reader.read(Some(file)).expect_err("there are problems");
    error.problems().iter().map(ToString::to_string).collect()
}

fn defaults(reader: &Reader, text: &str) -> Defaults {
    parsed(reader, text).config.settings.defaults.clone()
}

const FILE: &str = "services: { s: { backends: { b: { dns: b:80 } } } }\n";

#[test]
fn cf_07_each_later_source_wins() {
    let file = format!("{FILE}defaults: {{ timeout: 2s, connect_timeout: 1s }}\n");
    let timeouts = |reader: &Reader, text: &str| {
        let defaults = defaults(reader, text);
        (defaults.timeout.map(|timeout| timeout.as_secs()), defaults.connect_timeout.as_secs())
    };
    let nothing = Reader::new();
    let variable = environment(&[("MESH_TIMEOUT", "3s")]);
    let program = variable.clone().with_default_timeout(Some(Duration::from_secs(4)));
    assert_eq!(timeouts(&nothing, FILE), (None, 5));
    assert_eq!(timeouts(&nothing, &file), (Some(2), 1));
    assert_eq!(timeouts(&variable, FILE), (Some(3), 5));
    assert_eq!(timeouts(&variable, &file), (Some(3), 1));
    assert_eq!(timeouts(&program, &file), (Some(4), 1));
    assert_eq!(timeouts(&program.with_default_timeout(None), &file), (None, 1));
    assert_eq!(timeouts(&environment(&[("MESH_TIMEOUT", "0s")]), &file), (None, 1));
}

/// What holds by default reaches the routes and backends, wherever it comes from.
#[test]
fn cf_07_overridden_defaults_are_applied() {
    let reader = environment(&[("MESH_TIMEOUT", "3s"), ("MESH_RETRY_NUM_RETRIES", "2"), ("MESH_PROTOCOL", "http1")]);
    let config = parsed(&reader, FILE).config;
    let crate::model::RouteAction::Forward(forward) = &config.virtual_hosts[0].routes[0].action else { panic!() };
    assert_eq!(forward.policy.timeout, Some(Duration::from_secs(3)));
    assert_eq!(forward.policy.retry.as_ref().map(|retry| retry.num_retries), Some(2));
    assert_eq!(config.backends.values().next().unwrap().protocol, Protocol::Http1);
}

#[test]
fn cf_08_every_variable_sets_its_field() {
    let reader = environment(&[
        ("MESH_CONFIG", "read by whoever opens the file"),
        ("MESH_UNKNOWN_SERVICES", "dns"),
        ("MESH_TIMEOUT", "1s"),
        ("MESH_RETRY_NUM_RETRIES", "3"),
        ("MESH_RETRY_ON", "reset, 5xx,"),
        ("MESH_CONNECT_TIMEOUT", "2s"),
        ("MESH_LOAD_BALANCER", "pick_first"),
        ("MESH_PROTOCOL", "http2"),
        ("MESH_DNS_MIN_TTL", "3s"),
        ("MESH_DNS_MAX_TTL", "4s"),
        ("MESH_DNS_TIMEOUT", "500ms"),
        ("MESH_LOCALITY", "1/2"),
        ("MESH_IDENTITY_CERTIFICATE", "tls.crt"),
        ("MESH_IDENTITY_KEY", "/run/tls.key"),
        ("MESH_IDENTITY_TRUST_BUNDLE", "5"),
        ("MESH_ADMIN_ADDRESS", "127.0.0.1:0"),
        ("OTEL_PROPAGATORS", "b3, baggage,b3"),
        ("PATH", "/bin"),
    ]);
    let Parsed { config, warnings, .. } = parsed(&reader, FILE);
    assert_eq!(warnings.iter().map(|warning| warning.code).collect::<Vec<_>>(), ["any-identity"]);
    let settings = &config.settings;
    assert_eq!(settings.unknown_services, UnknownServices::Dns);
    // Whoever sets a variable is where the process runs.
    let files = IdentityFiles::new("tls.crt", "/run/tls.key", TrustFile::Pem("5".into()));
    assert_eq!(settings.identity.as_deref(), Some(&Identity::new(IdentityFrom::Files(files))));
    assert_eq!(settings.admin, Some(Admin::new("127.0.0.1:0".parse().unwrap())));
    let seconds = Duration::from_secs;
    assert_eq!((settings.defaults.timeout, settings.defaults.connect_timeout), (Some(seconds(1)), seconds(2)));
    let retry = settings.defaults.retry.as_deref().unwrap();
    assert_eq!(retry, &RetryPolicy::new(RetryOn::RESET | RetryOn::SERVER_ERROR).with_num_retries(3));
    assert_eq!(settings.defaults.load_balancer, LoadBalancer::PickFirst { shuffle: false });
    assert_eq!(settings.defaults.protocol, Protocol::Http2);
    let DnsSettings { min_ttl, max_ttl, timeout } = settings.dns;
    assert_eq!((min_ttl, max_ttl, timeout), (seconds(3), seconds(4), Duration::from_millis(500)));
    assert_eq!(settings.telemetry.propagators, [Propagator::B3, Propagator::Baggage]);
    assert_eq!(settings.locality, Place::new("1", "2", ""));
}

/// CF-08: a malformed value is an error with the variable's name, and an empty one is no value.
#[test]
fn cf_08_problems_name_the_variable() {
    for variable in VARIABLES.iter().filter(|variable| !variable.field.is_empty()) {
        // A file may have any name, and what is wrong with one alone is tested below.
        if !variable.field.starts_with("identity.") {
            let found = problems(&environment(&[(variable.name, "?")]), FILE);
            let [problem] = &found[..] else { panic!("{found:#?}") };
            assert!(problem.starts_with(&format!("{}: \"?\" is not ", variable.name)), "{problem}");
        }
        let reader = environment(&[(variable.name, "")]);
        assert!(reader.is_empty());
        assert_eq!(parsed(&reader, FILE).config, parsed(&Reader::new(), FILE).config);
    }
    let cases = [
        ("MESH_TIMEOUT", "5", "MESH_TIMEOUT: 5 is not a duration: "),
        ("MESH_RETRY_NUM_RETRIES", "11", "MESH_RETRY_NUM_RETRIES: 11 is out of range: write an integer from 1 to 10"),
        ("MESH_RETRY_ON", "reset,5XX", "MESH_RETRY_ON: \"5XX\" is not a retry condition: "),
        ("MESH_RETRY_ON", ",", "MESH_RETRY_ON: the list is empty"),
        ("MESH_LOAD_BALANCER", "magellan", "MESH_LOAD_BALANCER: \"magellan\" is not a balancer"),
        ("MESH_LOCALITY", "eu/a/b/c", "MESH_LOCALITY: \"eu/a/b/c\" is not a locality: write `region`"),
        ("MESH_LOAD_BALANCER", "custom", "MESH_LOAD_BALANCER: `custom` needs the `name`"),
        ("MESH_DNS_MIN_TTL", "6m", "MESH_DNS_MIN_TTL: 6m is more than `max_ttl`"),
        ("OTEL_PROPAGATORS", "tracecontxt", "OTEL_PROPAGATORS: \"tracecontxt\" is not a propagator"),
        ("MESH_ADMIN_ADDRESS", "10.0.0.1:15000", "MESH_ADMIN_ADDRESS: 10.0.0.1:15000 is no loopback address"),
        ("MESH_ADMIN_ADDRESS", "15000", "MESH_ADMIN_ADDRESS: \"15000\" is not an address to listen on"),
    ];
    for (name, value, expected) in cases {
        let found = problems(&environment(&[(name, value)]), FILE);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{found:#?}");
    }
}

/// A part of an identity is told by the variable that says it, whatever it does not go with.
#[test]
fn cf_08_an_identity_of_variables_is_complete_or_a_problem() {
    let all = ["MESH_IDENTITY_CERTIFICATE", "MESH_IDENTITY_KEY", "MESH_IDENTITY_TRUST_BUNDLE"].map(|name| (name, "f"));
    for (left_out, field) in ["certificate", "key", "trust_bundle"].into_iter().enumerate() {
        let some: Vec<_> =
            all.iter().enumerate().filter(|(index, _)| *index != left_out).map(|(_, all)| *all).collect();
        let found = problems(&environment(&some), FILE);
        let [problem] = &found[..] else { panic!("{found:#?}") };
        assert!(problem.starts_with(some[0].0) && problem.contains(&format!("`{field}`")), "{problem}");
    }
    let other = format!("{FILE}identity: {{ workload_api: {{}} }}\n");
    let found = problems(&environment(&all), &other);
    let expected = "MESH_IDENTITY_CERTIFICATE: `certificate`, `workload_api` exclude each other: write one of them";
    assert_eq!(found, [expected]);
    // One variable replaces one file of the identity that the file has.
    let files = format!("{FILE}identity: {{ certificate: c, key: k, trust_bundle: t }}\n");
    let identity = parsed(&environment(&all[1..2]), &files).config.settings.identity.clone().unwrap();
    let expected = IdentityFiles::new("/etc/mesh/c", "f", TrustFile::Pem("/etc/mesh/t".into()));
    assert_eq!(identity.source, IdentityFrom::Files(expected));
}

/// Problems of the file and of the environment are told together; what is overridden is not in force and not read.
#[test]
fn cf_02_problems_of_all_sources_come_at_once() {
    let found = problems(
        &environment(&[("MESH_TIMEOUT", "x"), ("MESH_PROTOCOL", "h2")]).with_dns_timeout(Duration::from_micros(1500)),
        "services: { s: { backends: { b: { endpoints: [x] } } } }\n",
    );
    let beginnings = ["MESH_TIMEOUT: ", "MESH_PROTOCOL: ", "builder dns_timeout: \"1.5ms\" is not", "mesh.yaml:1:47: "];
    assert_eq!(found.len(), beginnings.len(), "{found:#?}");
    for beginning in beginnings {
        assert!(found.iter().any(|problem| problem.starts_with(beginning)), "{found:#?}");
    }
    let wrong = format!("{FILE}defaults: 5\n");
    assert_eq!(problems(&environment(&[("MESH_TIMEOUT", "1s")]), &wrong).len(), 1);
    let nothing = problems(&environment(&[("MESH_TIMEOUT", "1s")]), "# empty");
    assert!(nothing[0].starts_with("mesh.yaml: there is no configuration"), "{nothing:?}");
}

#[cfg(unix)]
#[test]
fn cf_08_a_value_that_is_not_text_is_a_problem() {
    use std::os::unix::ffi::OsStringExt;
    let value = OsString::from_vec(vec![b'1', 0xff]);
    let found = problems(&Reader::new().with_environment([("MESH_TIMEOUT".into(), value)]), FILE);
    assert_eq!(found, ["MESH_TIMEOUT: its value is not UTF-8"]);
}

#[test]
fn retries_of_the_environment_need_one_variable() {
    let policy = |variables: &[(&str, &str)], text: &str| defaults(&environment(variables), text).retry;
    let usual = RetryOn::UNAVAILABLE | RetryOn::CONNECT_FAILURE | RetryOn::REFUSED_STREAM | RetryOn::GATEWAY_ERROR;
    let number = ("MESH_RETRY_NUM_RETRIES", "3");
    let retry = policy(&[number], FILE).unwrap();
    assert_eq!(*retry, RetryPolicy::new(usual).with_num_retries(3));
    let retry = policy(&[("MESH_RETRY_ON", "reset")], FILE).unwrap();
    assert_eq!(*retry, RetryPolicy::new(RetryOn::RESET));

    // The file's policy keeps what the variables do not say.
    let file = format!("{FILE}defaults: {{ retry: {{ on: [cancelled], max_body_bytes: 5 }} }}\n");
    let retry = policy(&[number], &file).unwrap();
    assert_eq!((retry.on, retry.num_retries, retry.max_body_bytes), (RetryOn::CANCELLED, 3, 5));
    let none = format!("{FILE}defaults: {{ retry: none }}\n");
    assert_eq!(policy(&[number], &none).unwrap().on, usual);

    let zero = ("MESH_RETRY_NUM_RETRIES", "0");
    for text in [FILE, &file, &none] {
        assert_eq!(policy(&[zero], text), None);
        assert_eq!(policy(&[zero, ("MESH_RETRY_ON", "reset")], text), None);
    }
    let found = problems(&environment(&[zero, ("MESH_RETRY_ON", "often")]), FILE);
    assert!(found.len() == 1 && found[0].starts_with("MESH_RETRY_ON: \"often\" is not a retry condition"), "{found:?}");
}

/// OpenTelemetry's variable is for all of the process: what only others know is no mistake.
#[test]
fn propagators_of_others_are_passed_over() {
    let reader = environment(&[("OTEL_PROPAGATORS", "jaeger,tracecontext,xray")]);
    let Parsed { config, warnings, .. } = reader.read(None).unwrap();
    assert_eq!(config.settings.telemetry.propagators, [Propagator::TraceContext]);
    let codes: Vec<_> = warnings.iter().map(|warning| warning.code).collect();
    assert_eq!(codes, ["unknown-propagator"; 2]);
    for (text, propagator) in [("TraceContext", Propagator::TraceContext), ("B3Multi,b3multi", Propagator::B3Multi)] {
        let config = parsed(&environment(&[("OTEL_PROPAGATORS", text)]), FILE).config;
        assert_eq!(config.settings.telemetry.propagators, [propagator]);
    }
    for none in ["none", "None", "jaeger", "Jaeger"] {
        let config = parsed(&environment(&[("OTEL_PROPAGATORS", none)]), FILE).config;
        assert_eq!(config.settings.telemetry.propagators, []);
    }
}

#[test]
fn unknown_variables_are_warnings() {
    let reader = environment(&[
        ("MESH_TIMEUOT", "1s"),
        ("MESH_RETRY_MAX", "abc"),
        ("MESH_EMPTY", ""),
        ("MESHED", "1"),
        ("MESH_SERVICE_HOST", "10.0.0.1"),
        ("MESH_SERVICE_PORT_HTTP", "80"),
        ("MESH_PORT", "tcp://10.0.0.1:80"),
        ("MESH_GATEWAY_PORT_80_TCP_ADDR", "10.0.0.1"),
    ]);
    let warnings: Vec<_> = reader.read(None).unwrap().warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "MESH_RETRY_MAX: there is no variable MESH_RETRY_MAX; did you mean `MESH_RETRY_ON`? [unknown-variable]",
            "MESH_TIMEUOT: there is no variable MESH_TIMEUOT; did you mean `MESH_TIMEOUT`? [unknown-variable]",
        ]
    );
}

/// CF-15: nothing at all is a configuration that knows DNS and retries nothing.
#[test]
fn cf_15_no_file_is_dns_with_safe_defaults() {
    let config = Reader::new().read(None).unwrap().config;
    assert!(config.virtual_hosts.is_empty() && config.backends.is_empty());
    assert_eq!(config.settings.unknown_services, UnknownServices::Dns);
    assert_eq!(config.settings.defaults, Defaults::default());
    assert_eq!((config.settings.defaults.timeout, &config.settings.defaults.retry), (None, &None));

    let error = environment(&[("MESH_UNKNOWN_SERVICES", "refuse")]).read(None).unwrap_err();
    assert!(error.to_string().starts_with("MESH_UNKNOWN_SERVICES: `services` is missing"), "{error}");
    let error = Reader::new().with_unknown_services(UnknownServices::Refuse).read(None).unwrap_err();
    assert!(error.to_string().starts_with("builder unknown_services: `services` is missing"), "{error}");
}

/// What a program says in the model's words comes out as it went in.
#[test]
fn a_program_says_all_that_a_file_can() {
    let mut retry = RetryPolicy::new(RetryOn::RESET | RetryOn::RETRIABLE_STATUS_CODES | RetryOn::RETRIABLE_HEADERS);
    retry.num_retries = 4;
    retry.status_codes = vec![StatusCode::CONFLICT];
    let text = |value| ValueMatch::String(value);
    let name = |name: &'static str| HeaderName::from_static(name);
    retry.headers = vec![
        HeaderMatch::new(name("a"), text(StringMatch::Exact { value: "true".into(), ignore_case: true })).inverted(),
        HeaderMatch::new(name("b"), text(StringMatch::Prefix { value: "5".into(), ignore_case: false })),
        HeaderMatch::new(name("c"), text(StringMatch::Suffix { value: "x".into(), ignore_case: true })),
        HeaderMatch::new(name("d"), text(StringMatch::Contains { value: "x".into(), ignore_case: false })),
        HeaderMatch::new(name("e"), text(StringMatch::Regex(Pattern::new("a+").unwrap()))),
        HeaderMatch::new(name("f"), ValueMatch::Range { start: i64::MIN, end: 5 }),
        HeaderMatch::new(name("g"), ValueMatch::Present(false)),
    ];
    retry.per_try_timeout = Some(Duration::from_millis(1500));
    retry.backoff = Backoff { base: Duration::from_millis(10), max: Duration::from_secs(61) };
    retry.methods = RetryMethods::Only(vec![Method::PATCH]);
    retry.max_body_bytes = 7;
    let mut all = RetryPolicy::new(RetryOn::RESET);
    all.methods = RetryMethods::All;
    for policy in [Some(retry), Some(all), Some(RetryPolicy::new(RetryOn::GRPC)), None] {
        let read = defaults(&Reader::new().with_default_retry(policy.as_ref()), FILE).retry;
        assert_eq!(read.as_deref(), policy.as_ref());
    }
    let reported = WeightedRoundRobin {
        out_of_band: true,
        out_of_band_period: Duration::from_secs(1),
        error_utilization_penalty: 0.125,
        utilization_metrics: vec!["named_metrics.queue".into()],
        ..WeightedRoundRobin::default()
    };
    let balancers = [
        LoadBalancer::RoundRobin,
        LoadBalancer::Random,
        LoadBalancer::LeastRequest { choice_count: 7 },
        LoadBalancer::PeakEwma(PeakEwma::default()),
        LoadBalancer::WeightedRoundRobin(WeightedRoundRobin::default()),
        LoadBalancer::WeightedRoundRobin(reported),
        LoadBalancer::RingHash(RingHash { min_size: 5000, max_size: 6000 }),
        LoadBalancer::Maglev(Maglev { table_size: 7 }),
        LoadBalancer::PickFirst { shuffle: true },
        LoadBalancer::Custom("mine".into()),
    ];
    for balancer in balancers {
        assert_eq!(defaults(&Reader::new().with_default_load_balancer(&balancer), FILE).load_balancer, balancer);
    }
    let reader = Reader::new()
        .with_unknown_services(UnknownServices::Dns)
        .with_default_connect_timeout(Duration::from_millis(123_456))
        .with_default_protocol(Protocol::Http1)
        .with_dns_min_ttl(Duration::from_secs(1))
        .with_dns_max_ttl(Duration::from_secs(2))
        .with_dns_timeout(Duration::from_secs(3))
        .with_locality(&Place::new("eu", "a", ""))
        .with_propagators(&[Propagator::GrpcTraceBin, Propagator::B3Multi]);
    let settings = parsed(&reader, FILE).config.settings;
    assert_eq!(settings.unknown_services, UnknownServices::Dns);
    assert_eq!(settings.defaults.connect_timeout, Duration::from_millis(123_456));
    assert_eq!(settings.defaults.protocol, Protocol::Http1);
    assert_eq!([settings.dns.min_ttl, settings.dns.max_ttl, settings.dns.timeout].map(|ttl| ttl.as_secs()), [1, 2, 3]);
    assert_eq!(settings.telemetry.propagators, [Propagator::GrpcTraceBin, Propagator::B3Multi]);
    assert_eq!(settings.locality, Place::new("eu", "a", ""));
    let nowhere = format!("{FILE}locality: eu/a\n");
    assert_eq!(
        parsed(&reader.clone().with_locality(&Place::default()), &nowhere).config.settings.locality,
        Place::default()
    );
    let reader = reader.with_propagators(&[]);
    assert_eq!(parsed(&reader, FILE).config.settings.telemetry.propagators, []);
}

/// A program is held to the rules of the file.
#[test]
fn a_program_is_told_what_it_did_wrong() {
    let reader = Reader::new()
        .with_default_connect_timeout(Duration::ZERO)
        .with_default_load_balancer(&LoadBalancer::LeastRequest { choice_count: 1 })
        .with_locality(&Place::new("eu/a", "", ""))
        .with_default_retry(Some(&RetryPolicy::new(RetryOn::none())));
    let found = problems(&reader, FILE);
    let expected = [
        "builder default_retry: the list is empty: at least one item is required",
        "builder default_connect_timeout: \"0s\" is out of range: write a duration from 1ms to 5m",
        "builder default_load_balancer: 1 is out of range: write an integer from 2 to 10",
        "builder locality: \"eu/a\" is not the name of a place: write 1 to 253 letters, digits, `-`, `_`, `.`",
    ];
    assert_eq!(found, expected);
}
