//! Requests and responses of reqwest, sent through the mesh: an application keeps its types and changes the client.
//!
//! ```sh
//! cargo run --example reqwest_types
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::error::Error;
use std::time::Duration;

use examples::backend::Backend;
use mesh_tonic::Mesh;
use mesh_tonic::mesh_tower::HttpClient;
use reqwest::header::USER_AGENT;
use tower::ServiceExt;

/// In place of `reqwest::Client::execute`.
async fn execute(client: HttpClient, request: reqwest::Request) -> Result<reqwest::Response, Box<dyn Error>> {
    let request = http::Request::<reqwest::Body>::try_from(request)?;
    let response = client.oneshot(request).await?;
    Ok(response.map(reqwest::Body::wrap).into())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let backend = Backend::start("catalog-a", Duration::ZERO)?;
    let config = format!(
        "services:
           catalog:
             routes:
               - matches: [{{ path: {{ prefix: /items }} }}]
                 backends: [{{ name: v1 }}]
                 timeout: 2s
             backends:
               v1: {{ endpoints: [{}] }}",
        backend.address()
    );
    let mesh = Mesh::builder().text(config).build().await?;

    let builder = reqwest::Client::new(); // for its request builders alone
    let request = builder.post("http://catalog/items").header(USER_AGENT, "shop").body("an apple").build()?;
    let response = execute(mesh.http_client(), request).await?.error_for_status()?;
    let (status, text) = (response.status(), response.text().await?);
    println!("{status}: {}", text.trim_end());
    assert_eq!(text, "catalog-a\n");

    let request = builder.get("http://catalog/orders").build()?;
    let error = execute(mesh.http_client(), request).await.err().ok_or("no route takes /orders")?;
    println!("no reqwest::Error: {error}");
    mesh.shutdown().await;
    Ok(())
}
