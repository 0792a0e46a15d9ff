//! Metrics for Prometheus: any server can hand out the page. This one is hyper's.
//!
//! ```sh
//! cargo run --example metrics             # calls a service, reads the page and ends
//! cargo run --example metrics -- --serve  # serves the page until it is interrupted
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use examples::backend::Backend;
use http::{Response, header};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_tonic::Mesh;
use mesh_tonic::mesh_tower::telemetry::prometheus::CONTENT_TYPE;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let backend = Backend::start("v1", Duration::ZERO)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let page = listener.local_addr()?;
    let config = format!(
        "services:
           catalog: {{ backends: {{ v1: {{ endpoints: [{}] }} }} }}
           metrics: {{ backends: {{ me: {{ endpoints: [{page}] }} }} }}",
        backend.address()
    );
    let mesh = Mesh::builder().text(config).prometheus().build().await?;
    let server = tokio::spawn(serve(listener, mesh.clone()));

    for _ in 0..10 {
        mesh.http_client().get("http://catalog/items").await?.into_body().string().await?;
    }
    if std::env::args().any(|argument| argument == "--serve") {
        println!("http://{page}/metrics");
        tokio::signal::ctrl_c().await?;
    } else {
        let text = mesh.http_client().get("http://metrics/metrics").await?.into_body().string().await?;
        let of_catalog = |line: &&str| line.contains("catalog") && !line.contains("_bucket{");
        text.lines().filter(of_catalog).for_each(|line| println!("{line}"));
        let counted = text.lines().any(|line| line.starts_with("mesh_client_requests_total{") && line.ends_with(" 10"));
        assert!(counted, "ten requests were made");
    }
    server.abort();
    mesh.shutdown().await;
    Ok(())
}

/// Answers every request with the page as it is at that moment.
async fn serve(listener: TcpListener, mesh: Mesh) {
    while let Ok((stream, _)) = listener.accept().await {
        let mesh = mesh.clone();
        let page = service_fn(move |_| {
            let response = Response::builder().header(header::CONTENT_TYPE, CONTENT_TYPE).body(mesh.prometheus_text());
            async { Ok::<_, Infallible>(response.expect("the header is well-formed")) }
        });
        // A client that goes away is no concern of ours.
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), page));
    }
}
