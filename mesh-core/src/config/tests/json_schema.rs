//! CF-16: the JSON Schema says what the shapes say, and takes every file that is right.
//!
//! The validators that are kept for Rust bring seventy crates along, for the few keywords that are used here. A word that
//! this one does not know is a panic.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};

use regex::Regex;

use super::super::json_schema::{Schema, value_of, whole};
use super::super::problem::Problems;
use super::super::{json_schema, parse, tree};
use super::hostile::VALID;

/// Why `value` is not valid by `schema`; empty if it is.
fn errors(root: &Schema, schema: &Schema, value: &Schema, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut expect = |holds: bool, keyword: &str| {
        if !holds {
            found.push(format!("{path}: {keyword}"));
        }
    };
    let valid = |schema: &Schema| errors(root, schema, value, path).is_empty();
    let list = |schema: &Schema| schema.as_array().expect("a list of schemas").clone();
    let mut below = Vec::new();
    for (keyword, argument) in schema.as_object().expect("a schema is an object") {
        let number = argument.as_f64().unwrap_or_default();
        let at_least = |len: Option<usize>| len.is_none_or(|len| len as f64 >= number);
        match keyword.as_str() {
            "$schema" | "title" | "description" | "default" | "$defs" => {}
            "$ref" => {
                let pointer = argument.as_str().unwrap().strip_prefix('#').expect("a reference within the schema");
                below.extend(errors(root, root.pointer(pointer).expect("what is referred to"), value, path));
            }
            "type" => {
                let is_integer = value.as_f64().is_some_and(|value| value.fract() == 0.0);
                let holds = match argument.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "number" => value.is_number(),
                    "integer" => is_integer,
                    other => panic!("the type {other}"),
                };
                expect(holds, keyword);
            }
            "enum" => expect(argument.as_array().unwrap().contains(value), keyword),
            "const" => expect(argument == value, keyword),
            "pattern" => {
                let pattern = argument.as_str().unwrap();
                expect(value.as_str().is_none_or(|text| is_match(pattern, text)), keyword);
            }
            "minimum" => expect(value.as_f64().is_none_or(|value| value >= number), keyword),
            "maximum" => expect(value.as_f64().is_none_or(|value| value <= number), keyword),
            "minLength" => expect(at_least(value.as_str().map(|text| text.chars().count())), keyword),
            "maxLength" => expect(value.as_str().is_none_or(|text| text.chars().count() as f64 <= number), keyword),
            "minItems" => expect(at_least(value.as_array().map(Vec::len)), keyword),
            "minProperties" => expect(at_least(value.as_object().map(serde_json::Map::len)), keyword),
            "uniqueItems" => {
                let items: &[_] = value.as_array().map_or(&[], Vec::as_slice);
                expect((1..items.len()).all(|index| !items[..index].contains(&items[index])), keyword);
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    below.extend(errors(root, argument, item, &format!("{path}[{index}]")));
                }
            }
            "properties" => {
                for (name, schema) in argument.as_object().unwrap() {
                    if let Some(value) = value.get(name) {
                        below.extend(errors(root, schema, value, &format!("{path}.{name}")));
                    }
                }
            }
            "required" => {
                let is_there = |name: &Schema| value.get(name.as_str().unwrap()).is_some();
                expect(!value.is_object() || argument.as_array().unwrap().iter().all(is_there), keyword);
            }
            "additionalProperties" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    let is_known = schema.get("properties").is_some_and(|known| known.get(name).is_some());
                    if !is_known && argument == false {
                        expect(false, &format!("unknown field {name}"));
                    } else if !is_known {
                        below.extend(errors(root, argument, value, &format!("{path}.{name}")));
                    }
                }
            }
            "propertyNames" => {
                for name in value.as_object().into_iter().flat_map(|map| map.keys()) {
                    below.extend(errors(root, argument, &name.as_str().into(), &format!("{path}.{name}")));
                }
            }
            "anyOf" => expect(list(argument).iter().any(valid), keyword),
            "allOf" => expect(list(argument).iter().all(valid), keyword),
            "oneOf" => expect(list(argument).iter().filter(|schema| valid(schema)).count() == 1, keyword),
            "not" => expect(!valid(argument), keyword),
            other => panic!("the keyword {other}"),
        }
    }
    found.extend(below);
    found
}

/// Each pattern is compiled once.
fn is_match(pattern: &str, text: &str) -> bool {
    static PATTERNS: LazyLock<Mutex<HashMap<String, Regex>>> = LazyLock::new(Mutex::default);
    let mut patterns = PATTERNS.lock().unwrap();
    patterns.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).unwrap()).is_match(text)
}

/// Why the file `text` is not valid by the schema.
fn validate(schema: &Schema, text: &str) -> Vec<String> {
    let mut problems = Problems::new("any");
    let node = tree::read(text, &mut problems).expect("the file is YAML");
    errors(schema, schema, &value_of(&node), "")
}

/// What the parser takes must be valid.
pub(super) fn check(text: &str) {
    static SCHEMA: LazyLock<Schema> = LazyLock::new(whole);
    let errors = validate(&SCHEMA, text);
    assert!(errors.is_empty(), "{errors:#?}\nin\n{text}");
}

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

#[test]
fn cf_16_the_schema_is_made_of_the_shapes() {
    let expected = format!("{:#}\n", whole());
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(in_repository("mesh-core/src/config/mesh.schema.json"), expected).unwrap();
        return;
    }
    assert!(json_schema() == expected, "run this test with UPDATE_REFERENCE=1 to write mesh.schema.json anew");
}

/// CF-16: every example is valid by the schema, and its first line leads editors to it.
#[test]
fn cf_16_every_example_is_valid_by_the_schema() {
    let mut count = 0;
    let mut folders = vec![in_repository("examples")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                let text = std::fs::read_to_string(&path).unwrap();
                let line = text.lines().next().unwrap_or_default();
                let schema = line.strip_prefix("# yaml-language-server: $schema=");
                let schema = schema.unwrap_or_else(|| panic!("{} does not name its schema", path.display()));
                let schema = std::fs::read_to_string(path.with_file_name("").join(schema)).unwrap();
                assert_eq!(schema, json_schema(), "{}", path.display());
                check(&text);
                count += 1;
            }
        }
    }
    assert!(count > 0);
    for readme in ["README.md", "mesh-tower/README.md", "mesh-tonic/README.md", "mesh-core/src/config/reference.md"] {
        let text = std::fs::read_to_string(in_repository(readme)).unwrap();
        let blocks: Vec<_> = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert!(!blocks.is_empty(), "{readme}");
        blocks.into_iter().for_each(check);
    }
    check(VALID);
}

/// A schema that takes everything would be of no use.
#[test]
fn refuses_what_the_parser_refuses() {
    let schema: Schema = serde_json::from_str(json_schema()).unwrap();
    let backend = |fields: &str| format!("services: {{ s: {{ backends: {{ b: {{ {fields} }} }} }} }}");
    let route = |fields: &str| {
        format!(
            "services: {{ s: {{ backends: {{ b: {{ dns: b:80 }} }}, routes: [{{ backends: [{{ name: b }}], {fields} }}] }} }}"
        )
    };
    let cases = [
        "{}".to_owned(),
        "services: {}".to_owned(),
        "services: { 'a b': { backends: { b: { dns: b:80 } } } }".to_owned(),
        "unknown_services: refuse".to_owned(),
        "unknown_services: maybe".to_owned(),
        "{ unknown_services: dns, locality: eu//rack }".to_owned(),
        "{ unknown_services: dns, locality: { zone: a } }".to_owned(),
        "{ unknown_services: dns, xds: {} }".to_owned(),
        "{ unknown_services: dns, dns: { min_ttl: 5 } }".to_owned(),
        "{ unknown_services: dns, dns: { min_ttl: 1.5s } }".to_owned(),
        "{ unknown_services: dns, dns: { min_ttl: } }".to_owned(),
        "{ unknown_services: dns, telemetry: { propagators: [b3, b3] } }".to_owned(),
        "{ unknown_services: dns, telemetry: { propagators: [jaeger] } }".to_owned(),
        backend(""),
        backend("dns: b:80, endpoints: []"),
        backend("dns: b"),
        backend("dns: { srv: 'b:80' }"),
        backend("endpoints: [localhost:80]"),
        backend("endpoints: [10.0.0.1]"),
        backend("endpoints: ['::1:80']"),
        backend("dns: b:80, protcol: http2"),
        backend("dns: b:80, protocol: h2"),
        backend("dns: b:80, load_balancer: magellan"),
        backend("dns: b:80, load_balancer: { policy: maglev, min_size: 7 }"),
        backend("dns: b:80, load_balancer: { policy: maglev, table_size: 5000012 }"),
        backend("dns: b:80, load_balancer: { policy: weighted_round_robin, utilization_metrics: [cpu] }"),
        backend("dns: b:80, localities: [{ endpoints: [] }]"),
        backend("localities: []"),
        backend("localities: [{ region: eu }]"),
        backend("localities: [{ zone: a, endpoints: [] }]"),
        backend("endpoints: [{ weight: 1 }]"),
        backend("endpoints: [{ address: '10.0.0.1:80', metadata: { a: 1 } }]"),
        backend("endpoints: [{ address: '10.0.0.1:80', health: ill }]"),
        backend("dns: b:80, circuit_breaker: { max_requests: 0 }"),
        backend("dns: b:80, outlier_detection: { consecutive_5xx: never }"),
        backend("dns: b:80, outlier_detection: { consecutive_5xx: { enforcement: 5 } }"),
        backend("dns: b:80, health_check: {}"),
        backend("dns: b:80, health_check: { grpc: '', http: { path: / } }"),
        backend("dns: b:80, idle_timeout: never"),
        backend("dns: b:80, keepalive: {}"),
        backend("dns: b:80, load_balancer: custom"),
        backend("dns: b:80, load_balancer: { policy: custom }"),
        backend("dns: b:80, load_balancer: { policy: random, choice_count: 2 }"),
        backend("dns: b:80, load_balancer: { policy: least_request, choice_count: 11 }"),
        backend("dns: b:80, tls: {}"),
        backend("dns: b:80, retry_budget: { percent: 101 }"),
        route("timeout: 5"),
        route("timeout: 100us"),
        route("retry: never"),
        route("retry: {}"),
        route("retry: { on: [] }"),
        route("retry: { on: [5XX] }"),
        route("retry: { on: [reset], num_retries: 0 }"),
        route("retry: { on: [reset], num_retries: 1.5 }"),
        route("retry: { on: [reset], methods: any }"),
        route("matches: [{ path: /x }]"),
        route("matches: [{ path: {} }]"),
        route("matches: [{ path: { exact: x } }]"),
        route("matches: [{ path: { exact: /x, prefix: /y } }]"),
        route("matches: [{ percent: 5, fraction: { numerator: 1 } }]"),
        route("matches: [{ headers: [{ name: 'x y', exact: a }] }]"),
        route("matches: [{ headers: [{ name: x, exact: true }] }]"),
        route("hash_policy: [{}]"),
        route("hash_policy: [{ source_ip: false }]"),
        route("hash_policy: [{ cookie: { name: a, path: / } }]"),
        route("hedging: {}"),
        route("hedging: { delay: 1s, non_fatal: [reset] }"),
        route("session_affinity: {}"),
    ];
    for text in cases {
        assert!(parse(text.as_bytes(), "any", Path::new("")).is_err(), "{text} is no mistake");
        assert!(!validate(&schema, &text).is_empty(), "{text} is valid by the schema");
    }
}
