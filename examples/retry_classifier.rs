//! A retry classifier of the application. A replica that lags behind says 404 and that it lags: another may know better.
//! One that sheds load says 503 and that it does: to ask again would add to the load.
//!
//! ```sh
//! cargo run --example retry_classifier
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use mesh_tonic::Mesh;
use mesh_tonic::core::classify::Attempt;
use mesh_tonic::core::resilience::retry::{Attempted, RetryClassifier, Verdict};
use tokio::net::TcpListener;

struct Replicas;

impl RetryClassifier for Replicas {
    fn classify(&self, attempted: &Attempted<'_>) -> Verdict {
        let Attempt::Response { status, headers, .. } = *attempted.attempt else { return Verdict::Policy };
        match status {
            StatusCode::NOT_FOUND if headers.contains_key("x-replica-lags") => Verdict::Retry,
            StatusCode::SERVICE_UNAVAILABLE if headers.contains_key("x-shed") => Verdict::Return,
            _ => Verdict::Policy,
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let asked = Arc::new(AtomicU32::new(0));
    let (new, busy) = (asked.clone(), asked.clone());
    let count = |asked: &AtomicU32| asked.fetch_add(1, Ordering::Relaxed) + 1;
    let server = Router::new()
        .route(
            "/new",
            get(async move || match count(&new) {
                1 => (StatusCode::NOT_FOUND, [("x-replica-lags", "3 s")], "unknown"),
                _ => (StatusCode::OK, [("x-replica-lags", "0 s")], "an apple"),
            }),
        )
        .route(
            "/busy",
            get(async move || {
                count(&busy);
                (StatusCode::SERVICE_UNAVAILABLE, [("x-shed", "true")])
            }),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let config = format!(
        "services:
           catalog:
             routes:
               - backends: [{{ name: v1 }}]
                 retry: {{ num_retries: 3, on: [5xx] }}
             backends:
               v1: {{ endpoints: [{}] }}",
        listener.local_addr()?
    );
    tokio::spawn(axum::serve(listener, server).into_future());
    let mesh = Mesh::builder().text(config).retry_classifier(Replicas).build().await?;

    for (path, status, attempts) in [("/new", StatusCode::OK, 2), ("/busy", StatusCode::SERVICE_UNAVAILABLE, 1)] {
        let response = mesh.http_client().get(format!("http://catalog{path}")).await?;
        let made = asked.swap(0, Ordering::Relaxed);
        println!("{path}: {} after {made} attempts", response.status());
        assert_eq!((response.status(), made), (status, attempts));
    }
    mesh.shutdown().await;
    Ok(())
}
