//! CF-07: the effective configuration, with the origin of each value.

use std::path::Path;

use super::super::json_schema::value_of;
use super::super::names::HttpMethod;
use super::super::problem::Path as At;
use super::super::section::Presence::Optional;
use super::super::section::section;
use super::super::shape::{Context, List, Shape};
use super::super::text::Secret;
use super::super::tree::{self, Entries};
use super::super::{Effective, File, Parsed, Reader, parse};
use super::hostile::VALID;

fn parsed(reader: &Reader, text: &str) -> Parsed {
    let file = File { text: text.as_bytes(), name: "mesh.yaml", directory: Path::new("/etc/mesh") };
    reader.read(Some(file)).unwrap_or_else(|error| panic!("{error}\nin\n{text}"))
}

fn reader() -> Reader {
    Reader::new()
        .with_environment([("MESH_TIMEOUT".into(), "3s".into()), ("MESH_RETRY_NUM_RETRIES".into(), "2".into())])
        .with_dns_timeout(std::time::Duration::from_secs(1))
}

#[test]
fn cf_07_every_value_has_its_origin() {
    let text = r#"services:
  greeter:
    hosts: [Greeter.example]
    backends:
      "5": { endpoints: ["10.0.0.1:80"], load_balancer: { policy: least_request } }
  shop:
    routes:
      - { name: "true", backends: [{ name: v1 }], timeout: 0s, retry: none }
      - { backends: [{ name: v1, retry: { on: [reset], backoff: { base: 1m } } }] }
    backends:
      v1: { dns: shop:80, connect_backoff: {}, protocol: http2 }
defaults: { connect_timeout: 1s }
telemetry: { propagators: [] }
"#;
    let expected = r#"services:
  greeter:
    hosts:
      - Greeter.example  # mesh.yaml:3:13
    routes:
      - backends:
          - name: "5"  # default
            weight: 1  # default
        timeout: 3s  # environment MESH_TIMEOUT
        retry:
          num_retries: 2  # environment MESH_RETRY_NUM_RETRIES
          on:
            - unavailable  # default
            - connect-failure  # default
            - refused-stream  # default
            - gateway-error  # default
          backoff:
            base: 25ms  # default
            max: 250ms  # default
          max_body_bytes: 65536  # default
    backends:
      "5":
        endpoints:
          - 10.0.0.1:80  # mesh.yaml:5:26
        protocol: auto  # default
        load_balancer:
          policy: least_request  # mesh.yaml:5:67
          choice_count: 2  # default
        locality_policy:
          overprovisioning_factor: 140  # default
          panic_threshold: 0  # default
          failover_timeout: 10s  # default
        connect_timeout: 1s  # mesh.yaml:12:30
        connect_backoff:
          base: 1s  # default
          max: 2m  # default
        retry_budget:
          percent: 20  # default
          min_concurrent: 3  # default
        idle_timeout: 30m  # default
        eager_endpoints: 100  # default
  shop:
    routes:
      - name: "true"  # mesh.yaml:8:17
        backends:
          - name: v1  # mesh.yaml:8:44
            weight: 1  # default
        timeout: 0s  # mesh.yaml:8:60
        retry: none  # mesh.yaml:8:71
      - backends:
          - name: v1  # mesh.yaml:9:30
            weight: 1  # default
            retry:
              num_retries: 1  # default
              on:
                - reset  # mesh.yaml:9:48
              backoff:
                base: 1m  # mesh.yaml:9:73
                max: 5m  # default
              max_body_bytes: 65536  # default
        timeout: 3s  # environment MESH_TIMEOUT
        retry:
          num_retries: 2  # environment MESH_RETRY_NUM_RETRIES
          on:
            - unavailable  # default
            - connect-failure  # default
            - refused-stream  # default
            - gateway-error  # default
          backoff:
            base: 25ms  # default
            max: 250ms  # default
          max_body_bytes: 65536  # default
    backends:
      v1:
        dns: shop:80  # mesh.yaml:11:18
        protocol: http2  # mesh.yaml:11:58
        load_balancer: round_robin  # default
        locality_policy:
          overprovisioning_factor: 140  # default
          panic_threshold: 0  # default
          failover_timeout: 10s  # default
        connect_timeout: 1s  # mesh.yaml:12:30
        connect_backoff:
          base: 1s  # default
          max: 2m  # default
        retry_budget:
          percent: 20  # default
          min_concurrent: 3  # default
        idle_timeout: 30m  # default
        eager_endpoints: 100  # default
unknown_services: refuse  # default
defaults:
  timeout: 3s  # environment MESH_TIMEOUT
  retry:
    num_retries: 2  # environment MESH_RETRY_NUM_RETRIES
    on:
      - unavailable  # default
      - connect-failure  # default
      - refused-stream  # default
      - gateway-error  # default
    backoff:
      base: 25ms  # default
      max: 250ms  # default
    max_body_bytes: 65536  # default
  connect_timeout: 1s  # mesh.yaml:12:30
  load_balancer: round_robin  # default
  protocol: auto  # default
dns:
  min_ttl: 5s  # default
  max_ttl: 5m  # default
  timeout: 1s  # builder dns_timeout
telemetry:
  propagators: []  # mesh.yaml:13:27
"#;
    let shown = parsed(&reader(), text).effective.to_string();
    for (shown, expected) in shown.lines().zip(expected.lines()) {
        assert_eq!(shown, expected);
    }
    assert_eq!(shown.len(), expected.len());
}

/// CF-07: what a section that is switched on implies is shown with it, and what hedging takes the place of is not.
#[test]
fn cf_07_what_protects_a_backend_is_shown_with_its_defaults() {
    let text = r#"defaults: { retry: { on: [reset] }, circuit_breaker: { max_requests: 5 } }
locality: eu/a
services:
  s:
    routes: [{ backends: [{ name: b }], hedging: { delay: 1s } }]
    backends:
      b:
        endpoints: [{ address: "10.0.0.1:80" }]
        load_balancer: { policy: ring_hash, max_size: 512 }
        outlier_detection: { base_ejection_time: 10m, failure_percentage: {} }
        keepalive: none
"#;
    let settings = parsed(&Reader::new(), text).effective.settings();
    let shown = |path: &str| {
        let setting = settings.iter().find(|setting| setting.path == path);
        setting.map(|setting| (setting.value.as_str(), setting.origin.to_string()))
    };
    let default = |value| Some((value, "default".to_owned()));
    let file = |value, place: &str| Some((value, format!("mesh.yaml:{place}")));
    let b = |field: &str| shown(&format!("services.s.backends.b.{field}"));
    assert_eq!(shown("services.s.routes[0].hedging.max_attempts"), default("2"));
    assert_eq!(shown("services.s.routes[0].retry.num_retries"), None);
    assert_eq!(b("endpoints[0].weight"), default("1"));
    assert_eq!(b("load_balancer.max_size"), file("512", "9:55"));
    assert_eq!(b("load_balancer.min_size"), default("512"));
    assert_eq!(b("load_balancer.table_size"), None);
    assert_eq!(b("outlier_detection.base_ejection_time"), file("10m", "10:50"));
    assert_eq!(b("outlier_detection.max_ejection_time"), default("10m"));
    assert_eq!(b("outlier_detection.consecutive_5xx"), default("5"));
    assert_eq!(b("outlier_detection.failure_percentage.threshold"), default("85"));
    assert_eq!(b("outlier_detection.success_rate.stdev_factor"), None);
    assert_eq!(b("circuit_breaker.max_requests"), file("5", "1:70"));
    assert_eq!(b("keepalive"), file("none", "11:20"));
    assert_eq!(b("idle_timeout"), default("30m"));
    assert_eq!(shown("locality"), file("eu/a", "2:11"));
}

#[test]
fn what_is_shown_is_the_same_configuration() {
    for reader in [Reader::new(), reader()] {
        let Parsed { config, effective, .. } = parsed(&reader, VALID);
        let text = effective.to_string();
        let again =
            parse(text.as_bytes(), "effective", Path::new("/etc/mesh")).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(again, config, "{text}");
    }
    let Parsed { config, effective, .. } = Reader::new().read(None).unwrap();
    assert_eq!(parse(effective.to_string().as_bytes(), "effective", Path::new("")).unwrap(), config);
}

/// Names and texts that YAML would take for something else.
#[test]
fn what_needs_quotes_gets_them() {
    for text in
        ["true", "5", "0x1", "~", "", " a", "a ", "a: b", "a #b", "- a", "[a]", "*a", "é", "\u{feff}\u{85}", "\t\"\\"]
    {
        let escaped: String = text.chars().map(|c| format!("\\U{:08x}", u32::from(c))).collect();
        let file = format!(
            "services: {{ s: {{ backends: {{ b: {{ endpoints: [] }} }}, routes: [{{ backends: [{{ name: b }}], \
             matches: [{{ query: [{{ name: n, exact: \"{escaped}\" }}] }}] }}] }} }}"
        );
        let Parsed { config, effective, .. } = parsed(&Reader::new(), &file);
        let shown = effective.to_string();
        assert_eq!(parse(shown.as_bytes(), "effective", Path::new("")).as_ref(), Ok(&config), "{shown}");
    }
}

#[test]
fn settings_are_json_with_paths_and_origins() {
    let text = "services: { s: { backends: { b: { endpoints: [], retry_budget: { percent: 0.5 } } } } }\n";
    let effective = parsed(&reader(), text).effective;
    let json = serde_json::to_value(&effective).unwrap();
    let setting = |path: &str| json.as_array().unwrap().iter().find(|setting| setting["path"] == path).unwrap().clone();
    let file = |column: u32| serde_json::json!({ "kind": "file", "name": "mesh.yaml", "line": 1, "column": column });
    let cases = [
        ("services.s.backends.b.endpoints", serde_json::json!([]), file(46)),
        ("services.s.backends.b.retry_budget.percent", serde_json::json!(0.5), file(75)),
        ("services.s.routes[0].backends[0].weight", serde_json::json!(1), serde_json::json!({ "kind": "default" })),
        (
            "services.s.routes[0].timeout",
            serde_json::json!("3s"),
            serde_json::json!({ "kind": "environment", "name": "MESH_TIMEOUT" }),
        ),
        ("dns.timeout", serde_json::json!("1s"), serde_json::json!({ "kind": "builder", "name": "dns_timeout" })),
    ];
    for (path, value, origin) in cases {
        assert_eq!(setting(path), serde_json::json!({ "path": path, "value": value, "origin": origin }));
    }
    assert_eq!(json.as_array().unwrap().len(), effective.settings().len());
}

section! {
    /// What no section of this version has.
    Vault: "a vault" {
        /// Nobody is to see it.
        keys: List<Secret<HttpMethod>> = Optional,
    } not yet {}
}

/// CF-07: what is secret is shown neither as effective, nor in a problem.
#[test]
fn cf_07_secrets_are_redacted() {
    let mut context = Context::new("mesh.yaml");
    let node = tree::read("keys: [SESAME, 'open sesame', 5, sesame]", &mut context.problems).unwrap();
    let section = Vault::read(&node, At::TOP, &mut context).unwrap();
    assert_eq!(section.keys.value().unwrap()[0].value().unwrap(), "SESAME");
    let error = context.problems.into_result(None::<()>).unwrap_err().to_string();
    assert_eq!(
        error,
        "mesh.yaml:1:16: keys[1]: this is not an HTTP method\nmesh.yaml:1:31: keys[2]: this is not an HTTP method"
    );
    let shown = value_of(&Vault::complete(&node, &Entries::default()));
    assert_eq!(shown, serde_json::json!({ "keys": vec!["<redacted>"; 4] }));
    assert!(!format!("{:?}", Effective::new(node, "mesh.yaml")).to_lowercase().contains("sesame"));
}

/// CF-07: what a match compares with a credential is shown neither as text nor as JSON, and nothing else is left out.
#[test]
fn cf_07_credentials_of_matches_are_redacted() {
    let of = |conditions: &str| {
        format!(
            "services: {{ s: {{ backends: {{ b: {{ endpoints: [] }} }}, routes: [{{ backends: [{{ name: b }}], {conditions} }}] }} }}\n"
        )
    };
    for name in [
        "authorization",
        "Proxy-Authorization",
        "cookie",
        "set-cookie",
        "x-api-key",
        "X_Api_Key",
        "x-csrf-token",
        "client-secret",
        "db.password",
    ] {
        for kind in ["exact", "prefix", "suffix", "contains", "regex"] {
            let condition = format!("name: {name}, {kind}: hunter2");
            for (conditions, path) in [
                (format!("matches: [{{ headers: [{{ {condition} }}] }}]"), "matches[0].headers[0]"),
                (format!("matches: [{{ query: [{{ {condition} }}] }}]"), "matches[0].query[0]"),
                (
                    format!("retry: {{ on: [retriable-headers], retriable_headers: [{{ {condition} }}] }}"),
                    "retry.retriable_headers[0]",
                ),
            ] {
                let effective = parsed(&Reader::new(), &of(&conditions)).effective;
                let (text, json) = (effective.to_string(), serde_json::to_string(&effective).unwrap());
                assert!(!text.contains("hunter2") && !json.contains("hunter2"), "{text}");
                let path = format!("services.s.routes[0].{path}.{kind}");
                let setting = effective.settings().into_iter().find(|setting| setting.path == path).unwrap();
                assert_eq!(setting.value, "\"<redacted>\"");
                assert!(setting.origin.to_string().starts_with("mesh.yaml:1:"), "{text}");
            }
        }
    }
    let shown = |conditions: &str| parsed(&Reader::new(), &of(conditions)).effective.to_string();
    assert!(shown("matches: [{ headers: [{ name: x-canary, exact: hunter2 }] }]").contains("exact: hunter2 "));
    assert!(shown("matches: [{ headers: [{ name: cookie, present: true }] }]").contains("present: true "));
    for (field, value) in [("regex", "'(hunter2'"), ("exact", "0x123456"), ("prefix", "[hunter2]"), ("suffix", "''")] {
        let text = of(&format!("matches: [{{ headers: [{{ name: Authorization, {field}: {value} }}] }}]"));
        let error = parse(text.as_bytes(), "mesh.yaml", Path::new("")).unwrap_err();
        let message = format!("this is not what `{field}` may be; it is not shown, for it may be a secret");
        assert_eq!((error.problems().len(), &*error.problems()[0].message), (1, &*message), "{error}");
        let json = serde_json::to_string(error.problems()).unwrap();
        assert!(!json.contains("hunter2") && !json.contains("0x123456"), "{json}");
    }
}
