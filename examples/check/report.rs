use std::fmt;

use mesh_tonic::core::config::{ConfigError, Parsed};
use serde_json::{Value, json};

/// What became of a file.
pub(crate) struct Report {
    pub(crate) name: String,
    pub(crate) result: Result<Parsed, ConfigError>,
}

impl Report {
    /// Whether the file can be in force; `strict`: and nothing about it is probably wrong.
    pub(crate) fn is_good(&self, strict: bool) -> bool {
        self.result.as_ref().is_ok_and(|parsed| !strict || parsed.warnings.is_empty())
    }

    pub(crate) fn json(&self) -> Value {
        let Self { name, result } = self;
        let (parsed, error) = (result.as_ref().ok(), result.as_ref().err());
        json!({
            "file": name,
            "valid": parsed.is_some(),
            "problems": error.map_or(&[][..], |error| error.problems()),
            "omitted": error.map_or(0, |error| error.omitted()),
            "warnings": parsed.map_or(&[][..], |parsed| &parsed.warnings),
            "settings": parsed.map_or_else(Vec::new, |parsed| parsed.effective.settings()),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parsed = match &self.result {
            Ok(parsed) => parsed,
            Err(error) => return writeln!(f, "{error}"),
        };
        write!(f, "{}", parsed.effective)?;
        if !parsed.warnings.is_empty() {
            f.write_str("\n")?;
        }
        parsed.warnings.iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use mesh_tonic::core::config::Reader;

    use super::*;

    fn report(text: &str) -> Report {
        crate::check(&Reader::new(), text.as_bytes(), Path::new("mesh.yaml"))
    }

    const GOOD: &str = include_str!("../quickstart/mesh.yaml");
    const DOUBTFUL: &str = "services: { s: { backends: { b: { dns: b:80, tls: { mode: disabled } } } } }\n";
    const BAD: &str = "services: { s: { backends: { b: { dns: b, protcol: http2 } } } }\n";

    /// CF-12.
    #[test]
    fn cf_12_tells_good_from_bad() {
        for (text, good, strictly) in [(GOOD, true, true), (DOUBTFUL, true, false), (BAD, false, false)] {
            let report = report(text);
            assert_eq!((report.is_good(false), report.is_good(true)), (good, strictly), "{report}");
        }
    }

    #[test]
    fn prints_what_is_in_force_then_warnings_or_all_problems() {
        let text = report(DOUBTFUL).to_string();
        assert!(text.contains("        dns: b:80  # mesh.yaml:1:40\n"), "{text}");
        let last = text.lines().last().unwrap();
        assert!(last.starts_with("warning: mesh.yaml:1:13: services.s: ") && last.ends_with("[no-timeout]"), "{last}");
        assert_eq!(report(BAD).to_string().lines().count(), 2);
        assert!(!report(GOOD).to_string().contains("warning"));
    }

    #[test]
    fn shows_what_protects_a_backend() {
        let text = report(
            "services: { s: { backends: { b: { dns: b:80, outlier_detection: {}, circuit_breaker: { max_requests: 9 } } } } }\n\
             defaults: { timeout: 1s, keepalive: { time: 1s }, tls: { mode: disabled } }\n",
        )
        .to_string();
        for line in [
            "          max_requests: 9  # mesh.yaml:1:102\n",
            "          consecutive_5xx: 5  # default\n",
            "        keepalive:\n          time: 1s  # mesh.yaml:2:45\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(text.ends_with("[frequent-keepalive]\n"), "{text}");
    }

    /// AD-06: of keys only the paths are shown.
    #[test]
    fn shows_who_the_process_is_and_what_it_serves() {
        let text = report(
            "servers: [{ name: public, address: '0.0.0.0:8443' }]\n\
             identity: { certificate: tls.crt, key: tls.key, trust_bundle: ca.crt }\n\
             services: { s: { backends: { b: { dns: b:80 } } } }\ndefaults: { timeout: 1s }\n",
        )
        .to_string();
        for line in [
            "        tls:\n          mode: mutual  # default\n",
            "  key: tls.key  # mesh.yaml:2:40\n",
            "  refresh_interval: 1s  # default\n",
            "    tls: strict  # default\n",
            "      max_concurrent_streams: 200  # default\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(text.ends_with("`identities: []` says that any is meant [any-identity]\n"), "{text}");
    }

    #[test]
    fn json_has_the_shape_that_the_usage_tells() {
        let bad = report(BAD).json();
        let expected = json!({
            "origin": { "kind": "file", "name": "mesh.yaml", "line": 1, "column": 43 },
            "path": "services.s.backends.b.protcol",
            "value": "protcol",
            "message": bad["problems"][1]["message"],
            "help": "did you mean `protocol`?",
        });
        assert_eq!((&bad["valid"], &bad["problems"][1]), (&json!(false), &expected));
        let doubtful = report(DOUBTFUL).json();
        assert_eq!(doubtful["valid"], true);
        assert_eq!(doubtful["warnings"][0]["code"], "no-timeout");
        let unknown = doubtful["settings"].as_array().unwrap().iter().find(|value| value["path"] == "unknown_services");
        let expected = json!({ "path": "unknown_services", "value": "refuse", "origin": { "kind": "default" } });
        assert_eq!(unknown, Some(&expected));
        for report in [bad, doubtful] {
            let mut keys: Vec<_> = report.as_object().unwrap().keys().map(String::as_str).collect();
            keys.sort_unstable();
            assert_eq!(keys, ["file", "omitted", "problems", "settings", "valid", "warnings"]);
        }
    }
}
