use std::io::{self, BufRead, Write};
use std::path::Path;
use std::sync::Arc;

use mesh_tonic::core::balance::{Balance, Candidates, PickRequest};
use mesh_tonic::core::config;
use mesh_tonic::core::model::{self, LoadBalancer};
use mesh_tonic::core::snapshot::{Compiler, RequestDescription, Snapshot, explain};
use serde_json::{Value, json};

/// The snapshot of a configuration, or all that is wrong with it, a line each.
pub(crate) fn compile(text: &[u8], name: &str, directory: &Path) -> Result<Arc<Snapshot<()>>, String> {
    let config = config::parse(text, name, directory).map_err(|problems| problems.to_string())?;
    let mut compiler = Compiler::new(());
    for backend in config.backends.values() {
        // The program that uses the file has it; which endpoint it chooses is not asked here.
        if let LoadBalancer::Custom(name) = &backend.load_balancer {
            compiler = compiler.with_balance(Arc::clone(name), Arc::new(stand_in));
        }
    }
    let update = compiler.compile(&Snapshot::empty(), &config, &mut rand::rng(), std::time::Instant::now());
    update.map(|update| update.snapshot).map_err(|error| format!("{name}: {error}"))
}

fn stand_in(_: &model::Backend) -> Arc<dyn Balance> {
    struct Chance;
    impl Balance for Chance {
        fn pick(&self, _: &dyn Candidates, _: &PickRequest, _: &mut dyn rand::Rng) -> Option<usize> {
            None
        }
    }
    Arc::new(Chance)
}

/// Answers each line of `questions` but blank ones with a line, at once. Returns how many were bad.
pub(crate) fn all(snapshot: &Snapshot<()>, mut questions: impl BufRead, mut answers: impl Write) -> io::Result<usize> {
    let mut bad = 0;
    let mut line = Vec::new();
    while questions.read_until(b'\n', &mut line)? > 0 {
        if !line.trim_ascii().is_empty() {
            let answer = one(snapshot, &line).unwrap_or_else(|error| {
                bad += 1;
                json!({ "error": error })
            });
            writeln!(answers, "{answer}")?;
            answers.flush()?;
        }
        line.clear();
    }
    Ok(bad)
}

fn one(snapshot: &Snapshot<()>, line: &[u8]) -> Result<Value, String> {
    let request: RequestDescription = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let explanation = explain(snapshot, &request)?;
    serde_json::to_value(explanation).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"
services:
  greeter:
    hosts: ["*.greeter.test"]
    routes:
      - name: testers
        matches: [{ path: { prefix: /api }, headers: [{ name: x-canary, exact: "true" }] }]
        backends: [{ name: v2 }]
      - matches: [{ path: { exact: /some }, percent: 25 }]
        backends: [{ name: v2 }]
        hash_policy: [{ header: x-user }]
      - matches: [{ path: { prefix: /api } }, { path: { exact: /some } }]
        backends: [{ name: v1, weight: 90 }, { name: v2, weight: 10 }]
        timeout: 2s
        retry: { num_retries: 2, on: [unavailable, connect-failure] }
    backends:
      v1: { endpoints: [127.0.0.1:50051] }
      v2: { endpoints: [127.0.0.1:50052] }
"#;

    /// The answers to `lines`, and how many of them were bad.
    fn answers(lines: &[u8]) -> (Vec<Value>, usize) {
        let snapshot = compile(CONFIG.as_bytes(), "mesh.yaml", Path::new("")).unwrap();
        let mut output = Vec::new();
        let bad = all(&snapshot, lines, &mut output).unwrap();
        let lines = output.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n');
        (lines.map(|line| serde_json::from_slice(line).unwrap()).collect(), bad)
    }

    #[test]
    fn every_request_gets_the_route_that_would_serve_it() {
        let table = [
            (json!({ "authority": "greeter", "path": "/api/x" }), json!("greeter"), json!("#2"), "forward"),
            (
                json!({ "authority": "a.greeter.test", "path": "/api", "headers": [["X-Canary", "true"]] }),
                json!("greeter"),
                json!("testers"),
                "forward",
            ),
            (
                json!({ "authority": "greeter:80", "path": "/api", "headers": [["x-canary", "false"]] }),
                json!("greeter"),
                json!("#2"),
                "forward",
            ),
            (
                json!({ "authority": "a.greeter.test", "path": "/api", "headers": { "X-Canary": "true" } }),
                json!("greeter"),
                json!("testers"),
                "forward",
            ),
            (json!({ "authority": "greeter", "path": "/some?q=1" }), json!("greeter"), json!("#1"), "forward"),
            (
                json!({ "authority": "greeter", "path": "/some", "draw": 249_999 }),
                json!("greeter"),
                json!("#1"),
                "forward",
            ),
            (
                json!({ "authority": "greeter", "path": "/some", "draw": 250_000 }),
                json!("greeter"),
                json!("#2"),
                "forward",
            ),
            (json!({ "method": "POST", "authority": "greeter" }), json!("greeter"), Value::Null, "none"),
            (json!({ "authority": "greter", "path": "/api" }), Value::Null, Value::Null, "none"),
        ];
        let input: String = table.iter().map(|(request, ..)| format!("{request}\n")).collect();
        let (answers, bad) = answers(input.as_bytes());
        assert_eq!((answers.len(), bad), (table.len(), 0));
        for ((request, virtual_host, route, action), answer) in table.iter().zip(&answers) {
            assert_eq!(
                (&answer["virtual_host"], &answer["route"], &answer["action"]),
                (virtual_host, route, &json!(action)),
                "{request}"
            );
            assert!(answer["reason"].is_string(), "{request}");
        }
    }

    #[test]
    fn an_answer_has_every_field() {
        let (answers, _) =
            answers(br#"{"authority": "greeter", "path": "/some", "headers": [["x-user", "ada"]], "draw": 999999}"#);
        let answer = answers[0].as_object().unwrap();
        let share = |name: &str, weight: u32| json!({ "name": name, "weight": weight, "subset": {}, "load_balancer": "round_robin", "in_force": [] });
        for (field, expected) in [
            ("status", Value::Null),
            ("backends", json!([share("v1", 90), share("v2", 10)])),
            ("hedging", Value::Null),
            ("session_affinity", Value::Null),
            ("hash_policy", json!([])),
            ("timeout_ms", json!(2000)),
            ("hash", Value::Null),
            ("session", Value::Null),
        ] {
            assert_eq!(answer[field], expected, "{field}");
        }
        assert_eq!(answer["retry"]["num_retries"], json!(2));
        assert_eq!(answer["retry"]["on"], json!(["unavailable", "connect-failure"]));
    }

    #[test]
    fn a_request_without_a_service_is_a_404_that_says_so() {
        let (answers, _) = answers(br#"{"authority": "greter"}"#);
        assert_eq!(answers[0]["status"], json!(404));
        assert_eq!(answers[0]["backends"], json!([]));
        assert!(answers[0]["reason"].as_str().unwrap().contains("did you mean `greeter`?"), "{}", answers[0]);
    }

    #[test]
    fn a_bad_line_is_an_error_and_the_next_one_is_answered() {
        let bad_lines: [&[u8]; 10] = [
            b"not json",
            b"{}",
            b"[1, 2]",
            b"{\"authority\": \"greeter\", \"pth\": \"/\"}",
            b"{\"authority\": \"greeter\", \"path\": \"api\"}",
            b"{\"authority\": \"greeter\", \"method\": \"G E T\"}",
            b"{\"authority\": \"greeter\", \"headers\": [[\"a b\", \"c\"]]}",
            b"{\"authority\": \"greeter\", \"headers\": \"a: b\"}",
            b"{\"authority\": \"greeter\", \"draw\": 1000000}",
            b"{\"authority\": \"gr\xffeter\"}",
        ];
        for line in bad_lines {
            let input = [line, b"\n\n  \n{\"authority\": \"greeter\", \"path\": \"/api\"}\n"].concat();
            let (answers, bad) = answers(&input);
            let line = String::from_utf8_lossy(line);
            assert_eq!((answers.len(), bad), (2, 1), "{line}");
            assert!(answers[0]["error"].as_str().is_some_and(|text| !text.is_empty()), "{line}");
            assert_eq!(answers[1]["route"], json!("#2"), "{line}");
        }
    }

    #[test]
    fn balancers_of_the_program_stand_in_nobodys_way() {
        let custom = "load_balancer: { policy: custom, name: rendezvous }";
        let text = CONFIG.replace("[127.0.0.1:50051]", &format!("[127.0.0.1:50051], {custom}"))
            + "defaults: { load_balancer: { policy: custom, name: another } }\n";
        let snapshot = compile(text.as_bytes(), "mesh.yaml", Path::new("")).unwrap();
        let answer = one(&snapshot, br#"{"authority": "greeter", "path": "/api"}"#).unwrap();
        assert_eq!(answer["route"], json!("#2"));
    }

    #[test]
    fn an_answer_tells_who_is_expected() {
        let tls = "tls: { mode: mutual, identities: [\"spiffe://a/v1\", { dns: v1.example }] }";
        let text = CONFIG.replace("[127.0.0.1:50051]", &format!("[127.0.0.1:50051], {tls}"))
            + "identity: { source: custom }\n";
        let snapshot = compile(text.as_bytes(), "mesh.yaml", Path::new("")).unwrap();
        let answer = one(&snapshot, br#"{"authority": "greeter", "path": "/api"}"#).unwrap();
        let in_force = |backend: usize| answer["backends"][backend]["in_force"].clone();
        let own = "tls: mutual, trusts whom the identity trusts, expects spiffe://a/v1 or dns v1.example";
        assert_eq!(in_force(0), json!([own]));
        assert_eq!(in_force(1), json!(["tls: mutual, trusts whom the identity trusts, expects anybody"]));
    }

    #[test]
    fn a_bad_configuration_is_refused_with_all_its_problems() {
        let text = CONFIG.replace("timeout: 2s", "timeout: 2").replace("num_retries: 2", "num_retries: 99");
        let problems = compile(text.as_bytes(), "mesh.yaml", Path::new("")).err().unwrap();
        assert_eq!(problems.lines().count(), 2, "{problems}");
        assert!(problems.lines().all(|line| line.starts_with("mesh.yaml:")), "{problems}");
    }
}
