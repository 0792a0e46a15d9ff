//! Prometheus, and promtool.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Seek as _, Write as _};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::{Process, client, program, until};

/// A Prometheus, the program that `MESH_PEER_PROMETHEUS` names. It scrapes its targets twice a second and ends when
/// dropped.
#[derive(Debug)]
pub struct Prometheus {
    // Before the directory that it writes into, so that it ends first.
    process: Process,
    _directory: TempDir,
    address: SocketAddr,
}

/// A series that a query found, and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its labels; the metric's name, if the query kept it, as `__name__`.
    pub labels: BTreeMap<String, String>,
    /// Its value at the time of the query.
    pub value: f64,
}

impl Prometheus {
    /// Starts one that scrapes `/metrics` at each target, as the job of that name, and returns when it takes queries.
    ///
    /// # Panics
    /// If the variable is not set, or the program does not come up.
    pub async fn start(targets: &[(&str, SocketAddr)]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut config = "global: { scrape_interval: 500ms, scrape_timeout: 500ms }\nscrape_configs:\n".to_owned();
        for (job, address) in targets {
            writeln!(config, "- {{ job_name: '{job}', static_configs: [{{ targets: ['{address}'] }}] }}")
                .expect("writing to a string cannot fail");
        }
        std::fs::write(directory.path().join("prometheus.yml"), config).expect("the directory can be written to");
        let mut command = Command::new(program("MESH_PEER_PROMETHEUS"));
        command.current_dir(directory.path()).args([
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            // Port 0: the kernel chooses, and Prometheus tells.
            "--web.listen-address=127.0.0.1:0",
            // How soon it turns to the targets of its configuration; five seconds, if not said.
            "--scrape.discovery-reload-interval=100ms",
        ]);
        let process = Process::start("prometheus", command);
        let address = process.said("where it listens", listening).await;
        process.said("that it is ready", |line| line.contains("Server is ready").then_some(())).await;
        Self { process, _directory: directory, address }
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The program itself.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The `data` of its answer to `GET <path>` of the HTTP API, such as `/api/v1/targets`.
    ///
    /// # Errors
    /// What it says is wrong, or what went wrong on the way.
    pub async fn api(&self, path: &str) -> Result<Value, String> {
        let answer = client::get(self.address, path).await.map_err(|error| error.to_string())?;
        let mut answer: Value = serde_json::from_slice(answer.body()).map_err(|error| format!("{path}: {error}"))?;
        if answer["status"] != "success" {
            return Err(format!("{path}: {answer}"));
        }
        Ok(answer["data"].take())
    }

    /// The series that `promql`, an instant query for a vector, finds now.
    ///
    /// # Errors
    /// What it says is wrong, or what went wrong on the way.
    pub async fn query(&self, promql: &str) -> Result<Vec<Sample>, String> {
        let data = self.api(&format!("/api/v1/query?query={}", percent_encoded(promql))).await?;
        let samples = data["result"].as_array().filter(|_| data["resultType"] == "vector").map(|series| {
            let samples = series.iter().map(sample);
            samples.collect::<Option<Vec<_>>>()
        });
        samples.flatten().ok_or_else(|| format!("{promql}: no vector: {data}"))
    }

    /// Asks `promql` until it finds what is `expected`: the first scrape comes some time after the start.
    ///
    /// # Panics
    /// If it has not found that after a minute; the message has what it found, and how its targets are.
    pub async fn query_until(&self, promql: &str, expected: impl Fn(&[Sample]) -> bool) -> Vec<Sample> {
        until(&format!("such answer to {promql}"), async || {
            let samples = self.query(promql).await?;
            if expected(&samples) {
                return Ok(samples);
            }
            let targets = self.api("/api/v1/targets?state=active").await?;
            Err(format!("it is {samples:?}, its targets are {targets:#}"))
        })
        .await
    }
}

fn sample(series: &Value) -> Option<Sample> {
    let labels = series["metric"].as_object()?.iter();
    let labels = labels.map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect::<Option<_>>()?;
    // A string, for `+Inf` and `NaN`.
    let value = series["value"][1].as_str()?.parse().ok()?;
    Some(Sample { labels, value })
}

fn listening(line: &str) -> Option<SocketAddr> {
    let (_, address) = line.contains("Listening on").then(|| line.rsplit_once("address="))??;
    address.trim().parse().ok()
}

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        write!(encoded, "%{byte:02X}").expect("writing to a string cannot fail");
        encoded
    })
}

/// Lets promtool, the program that `MESH_PEER_PROMTOOL` names, check a page of metrics in the text format.
///
/// # Errors
/// All that it finds wrong: with the format, or with the names and help texts.
///
/// # Panics
/// If the variable is not set, or promtool cannot be run.
pub fn promtool_check(text: &str) -> Result<(), String> {
    // A file for its input: it cannot fill up, as a pipe can.
    let mut input = tempfile::tempfile().expect("a temporary file can be made");
    input.write_all(text.as_bytes()).expect("the file can be written to");
    input.rewind().expect("a file can be rewound");
    let program = program("MESH_PEER_PROMTOOL");
    let ran = Command::new(&program).args(["check", "metrics"]).stdin(Stdio::from(input)).output();
    let ran = ran.unwrap_or_else(|error| panic!("promtool: {} does not start: {error}", program.display()));
    if ran.status.success() {
        return Ok(());
    }
    let said = [ran.stdout, ran.stderr].concat();
    Err(format!("promtool: {}\n{}", ran.status, String::from_utf8_lossy(&said)))
}
