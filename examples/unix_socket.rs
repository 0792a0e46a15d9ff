//! A service behind a Unix socket, by its path and by a name of the configuration.
//!
//! ```sh
//! cargo run --example unix_socket
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::error::Error;

#[cfg(unix)]
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    use axum::{Router, routing::get};
    use mesh_tonic::Mesh;
    use tower::ServiceExt;

    let directory = tempfile::tempdir()?;
    let path = directory.path().join("catalog.sock");
    let server = Router::new().route("/items", get(async || "[]"));
    tokio::spawn(axum::serve(tokio::net::UnixListener::bind(&path)?, server).into_future());

    let socket = format!("unix:{}", path.display());
    let config = format!("services: {{ catalog: {{ backends: {{ v1: {{ endpoints: [\"{socket}\"] }} }} }} }}");
    let mesh = Mesh::builder().text(config).build().await?;

    let response = mesh.http_client().get("http://catalog/items").await?;
    assert_eq!(response.into_body().string().await?, "[]");

    // The client of one target; a gRPC user writes mesh.channel(&socket)?.
    let client = mesh.service(&socket)?;
    let request = http::Request::get("/items").body(http_body_util::Empty::new())?;
    let response = client.oneshot(request).await?;
    println!("{socket}: {}", response.status());
    assert_eq!(response.into_body().string().await?, "[]");
    mesh.shutdown().await;
    Ok(())
}

#[cfg(not(unix))]
fn main() -> Result<(), Box<dyn Error>> {
    println!("there are no Unix sockets here");
    Ok(())
}
