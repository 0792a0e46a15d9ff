//! HTTP requests through the mesh of a configuration file, and what became of them.
//!
//! ```sh
//! MESH_CONFIG=mesh.yaml cargo run --example request -- --count 100 --concurrency 8 http://greeter/
//! ```
#![allow(clippy::print_stderr, reason = "this is a program")]

mod args;
mod report;

use std::cell::RefCell;
use std::ffi::OsString;
use std::future::Future;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use mesh_tonic::Mesh;
use mesh_tonic::mesh_tower::{self, BuildError, HttpClient};
use tokio::task::JoinSet;
use tower::ServiceExt;

use args::{Args, USAGE};
use report::{Report, TRACE, Trace, Tracer};

fn main() -> ExitCode {
    let words: Result<Vec<_>, _> = std::env::args_os().skip(1).map(OsString::into_string).collect();
    let parsed = words.map_err(|word| format!("{word:?} is not UTF-8")).and_then(args::parse);
    let args = match parsed {
        Ok(Some(args)) => args,
        Ok(None) => return print(USAGE, ExitCode::SUCCESS),
        Err(problem) => {
            eprintln!("{problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let json = args.json;
    match run(args) {
        Ok(report) => {
            let code = if report.all_answered() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
            let text = if json { report.to_json().to_string() } else { report.to_string() };
            print(&text, code)
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn print(text: &str, code: ExitCode) -> ExitCode {
    let written = writeln!(std::io::stdout().lock(), "{text}");
    if written.is_err() { ExitCode::FAILURE } else { code }
}

/// Sends what `args` asks for.
#[tokio::main]
async fn run(args: Args) -> Result<Report, BuildError> {
    let mesh = Mesh::builder().env().observer(Tracer).build().await?;
    let args = Arc::new(args);
    let started = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..args.concurrency.min(args.count) {
        callers.spawn(caller(mesh.http_client(), Arc::clone(&args), Arc::clone(&started)));
    }
    let mut report = Report::default();
    for caller in callers.join_all().await {
        report.merge(caller);
    }
    mesh.shutdown().await;
    Ok(report)
}

/// Sends one request after the other until all have been sent.
async fn caller(client: HttpClient, args: Arc<Args>, started: Arc<AtomicUsize>) -> Report {
    let mut report = Report::default();
    while started.fetch_add(1, Ordering::Relaxed) < args.count {
        let (result, trace, latency) = traced(send(&client, &args)).await;
        report.add(result, trace, latency);
    }
    report
}

/// Follows `request` through the mesh.
async fn traced<T>(request: impl Future<Output = T>) -> (T, Trace, Duration) {
    TRACE
        .scope(RefCell::default(), async {
            let began = Instant::now();
            let result = request.await;
            (result, TRACE.with(RefCell::take), began.elapsed())
        })
        .await
}

/// One request, to the end of its answer.
async fn send(client: &HttpClient, args: &Args) -> Result<StatusCode, String> {
    let exchange = async {
        let mut request = Request::new(args.data.clone());
        *request.method_mut() = args.method.clone();
        *request.uri_mut() = args.url.clone();
        request.headers_mut().extend(args.headers.iter().cloned());
        let response = client.clone().oneshot(request).await?;
        let status = response.status();
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            frame?;
        }
        Ok(status)
    };
    let answer: Result<_, mesh_tower::Error> = match args.timeout {
        None => exchange.await,
        Some(limit) => match tokio::time::timeout(limit, exchange).await {
            Ok(answer) => answer,
            Err(_) => return Err(format!("no answer within {limit:?}")),
        },
    };
    answer.map_err(|error| error.report())
}

#[cfg(test)]
mod tests {
    use examples::backend::Backend;

    use super::*;

    fn args(line: &str) -> Args {
        args::parse(line.split(' ').map(str::to_owned)).unwrap().unwrap()
    }

    async fn mesh(backend: &Backend) -> Mesh {
        let text =
            format!("services: {{ greeter: {{ backends: {{ v1: {{ endpoints: [{}] }} }} }} }}", backend.address());
        Mesh::builder().text(text).observer(Tracer).build().await.unwrap()
    }

    #[tokio::test]
    async fn a_request_is_followed_to_the_endpoint_that_answers() {
        let backend = Backend::start("v1-a", Duration::ZERO).unwrap();
        let mesh = mesh(&backend).await;
        let (result, trace, latency) = traced(send(&mesh.http_client(), &args("http://greeter/"))).await;
        let mut report = Report::default();
        report.add(result, trace, latency);
        let report = report.to_json();
        assert_eq!(report["by_status"]["200"], 1, "{report}");
        assert_eq!(report["by_backend"]["v1"], 1, "{report}");
        assert_eq!(report["by_endpoint"][backend.address().to_string()], 1, "{report}");
        assert_eq!(report["attempts"], 1, "{report}");
    }

    #[tokio::test]
    async fn a_request_without_an_answer_in_time_is_an_error() {
        let backend = Backend::start("v1-a", Duration::from_secs(3600)).unwrap();
        let mesh = mesh(&backend).await;
        let args = args("--timeout 20ms http://greeter/");
        let (result, trace, latency) = traced(send(&mesh.http_client(), &args)).await;
        assert!(latency >= Duration::from_millis(20));
        let mut report = Report::default();
        report.add(result, trace, latency);
        assert!(!report.all_answered());
        let report = report.to_json();
        assert_eq!(report["errors"]["no answer within 20ms"], 1, "{report}");
        assert_eq!(report["by_backend"], serde_json::json!({}), "{report}");
    }
}
