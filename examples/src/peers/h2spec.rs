//! h2spec, which asks a server of HTTP/2 for what the standard says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::run;

/// How a test of h2spec ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The server did what the standard says.
    Passed,
    /// The server has no such feature.
    Skipped,
    /// It did something else, which this tells.
    Failed(String),
}

/// The tests, by section and name (`http2/5.1`, `idle: Sends a DATA frame`).
pub type Outcomes = BTreeMap<(String, String), Outcome>;

/// Runs h2spec, the program that `MESH_PEER_H2SPEC` names, against a server: all its tests, or those of `sections`. Each
/// waits at most `pause` for the server; two seconds are good for all, and take a minute. `arguments` are further ones, as
/// `["-t", "-k"]` for TLS. The server has to answer `GET` of `path`.
///
/// # Panics
/// If the variable is not set, or h2spec cannot be run.
pub async fn h2spec(
    server: SocketAddr,
    path: &str,
    pause: Duration,
    arguments: &[&str],
    sections: &[&str],
) -> Outcomes {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let report = directory.path().join("report.xml");
    let mut all =
        ["-h", &server.ip().to_string(), "-p", &server.port().to_string(), "-P", path].map(str::to_owned).to_vec();
    all.extend(["-o".to_owned(), pause.as_secs().max(1).to_string(), "-j".to_owned(), report.display().to_string()]);
    all.extend(arguments.iter().chain(sections).map(|word| (*word).to_owned()));
    // There are 145, most of which do not wait, and some that do so twice.
    let ran = run("MESH_PEER_H2SPEC", all, b"", Duration::from_secs(60) + 100 * pause).await;
    let report = std::fs::read(report).unwrap_or_else(|error| panic!("no report of h2spec: {error}: {}", ran.said()));
    let outcomes = outcomes(&String::from_utf8_lossy(&report));
    assert!(!outcomes.is_empty(), "h2spec has tested nothing: {}", ran.said());
    outcomes
}

/// Reads JUnit's format, as far as h2spec uses it.
fn outcomes(report: &str) -> Outcomes {
    let mut outcomes = Outcomes::new();
    for test in report.split("<testcase ").skip(1) {
        let Some((head, rest)) = test.split_once('>') else { continue };
        let (Some(section), Some(name)) = (attribute(head, "package"), attribute(head, "classname")) else { continue };
        let told = rest.split("</testcase>").next().unwrap_or_default();
        let outcome = if told.contains("<skipped") {
            Outcome::Skipped
        } else if told.contains("<error") || told.contains("<failure") {
            let told =
                told.split(['<', '>']).filter(|part| !matches!(*part, "error" | "/error" | "failure" | "/failure"));
            Outcome::Failed(unescape(&told.collect::<Vec<_>>().join(" ")).trim().to_owned())
        } else {
            Outcome::Passed
        };
        outcomes.insert((section, name), outcome);
    }
    outcomes
}

fn attribute(head: &str, name: &str) -> Option<String> {
    let (_, rest) = head.split_once(&format!("{name}=\""))?;
    rest.split('"').next().map(unescape)
}

/// The ampersand last: what it has escaped is no escape.
fn unescape(text: &str) -> String {
    let escapes = [("&#34;", "\""), ("&#39;", "'"), ("&#xA;", "\n"), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")];
    escapes.into_iter().fold(text.to_owned(), |text, (escape, meant)| text.replace(escape, meant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let report = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites>
  <testsuite name="3.1. DATA" package="generic/3.1" id="3.1" tests="3" skipped="1" failures="0" errors="1">
    <testcase package="generic/3.1" classname="Sends a DATA frame" time="0.0037"></testcase>
    <testcase package="generic/3.1" classname="Sends &#34;:path&#34; &amp;lt;" time="0.0002">
        <error>GOAWAY Frame
Timeout</error>
    </testcase>
    <testcase package="generic/3.1" classname="Skips" time="0.0003"><skipped></skipped></testcase>
  </testsuite>
</testsuites>"#;
        let key = |name: &str| ("generic/3.1".to_owned(), name.to_owned());
        let expected = [
            (key("Sends a DATA frame"), Outcome::Passed),
            (key("Sends \":path\" &lt;"), Outcome::Failed("GOAWAY Frame\nTimeout".to_owned())),
            (key("Skips"), Outcome::Skipped),
        ];
        assert_eq!(outcomes(report), expected.into());
    }
}
