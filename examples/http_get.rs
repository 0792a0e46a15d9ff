//! HTTP through the mesh: `http://catalog/` is a service of the configuration, not a host of the DNS.
//!
//! ```sh
//! cargo run --example http_get
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::error::Error;
use std::time::Duration;

use examples::backend::Backend;
use mesh_tonic::Mesh;
use tower::ServiceExt;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (everyone, testers) = (Backend::start("v1", Duration::ZERO)?, Backend::start("v2", Duration::ZERO)?);

    let config = format!(
        r#"services:
             catalog:
               routes:
                 - name: testers
                   matches: [{{ headers: [{{ name: x-tester, exact: "true" }}] }}]
                   backends: [{{ name: v2 }}]
                 - backends: [{{ name: v1 }}]
                   timeout: 2s
                   retry: {{ on: [connect-failure, 5xx], num_retries: 2 }}
               backends:
                 v1: {{ endpoints: [{}] }}
                 v2: {{ endpoints: [{}] }}"#,
        everyone.address(),
        testers.address()
    );
    let mesh = Mesh::builder().text(config).build().await?;
    let client = mesh.http_client();

    let response = client.get("http://catalog/items").await?;
    println!("everyone: {} from {}", response.status(), response.into_body().string().await?.trim_end());

    // The client is a Tower service, so every request and every layer fits.
    let request = http::Request::get("http://catalog/items").header("x-tester", "true").body(String::new())?;
    let response = client.clone().oneshot(request).await?;
    println!("testers:  {} from {}", response.status(), response.into_body().string().await?.trim_end());

    // A failure names the service, the reason and the way out.
    if let Err(error) = client.get("http://catalogue/items").await {
        println!("a typo:   {error}");
    }
    mesh.shutdown().await;
    Ok(())
}
