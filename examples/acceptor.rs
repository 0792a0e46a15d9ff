//! An accept loop of one's own: the mesh only lets connections in, and says who is at the other end.
//!
//! ```sh
//! cargo run --example acceptor
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::error::Error;

use axum::Router;
use axum::routing::get;
use examples::certs::Authority;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use mesh_tonic::Mesh;
use mesh_tonic::server::Acceptor;
use tokio::net::TcpListener;

const CATALOG: &str = "spiffe://cluster.local/ns/default/sa/catalog";
const SHOP: &str = "spiffe://cluster.local/ns/default/sa/shop";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let authority = Authority::new("cluster.local")?;
    let identity = |name: &str, id: &str| authority.identity_section(&directory.path().join(name), id);

    let server = "unknown_services: dns\nservers: [{ name: public, drain: { delay: 0s, grace: 1s } }]";
    let catalog = Mesh::builder().text(identity("catalog", CATALOG)? + server).build().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (acceptor, draining) = (catalog.acceptor("public")?, catalog.draining());
    let accepting = tokio::spawn(async move {
        tokio::select! {
            () = draining => {}
            () = accept(listener, acceptor) => {}
        }
    });

    let backend = format!("{{ endpoints: ['{address}'], tls: {{ mode: mutual, identities: ['{CATALOG}'] }} }}");
    let config = format!("{}services: {{ catalog: {{ backends: {{ v1: {backend} }} }} }}", identity("shop", SHOP)?);
    let shop = Mesh::builder().text(config).build().await?;
    let text = shop.http_client().get("http://catalog/").await?.into_body().string().await?;
    println!("{text}");
    assert_eq!(text, format!("hello, {SHOP}"));

    // Whoever knows nothing of TLS gets no byte.
    let plain = format!("services: {{ catalog: {{ backends: {{ v1: {{ endpoints: ['{address}'] }} }} }} }}");
    let refused = Mesh::builder().text(plain).build().await?.http_client().get("http://catalog/").await;
    println!("{}", refused.err().ok_or("plaintext is not let in")?);

    // What the loop let in ends within the grace.
    catalog.drain().await;
    accepting.await?;
    Ok(())
}

/// Limits of the number of connections would be this loop's; of how long each may take to come in, they are the mesh's.
async fn accept(listener: TcpListener, acceptor: Acceptor) {
    while let Ok((stream, remote)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let stream = match acceptor.accept(stream, Some(remote), None).await {
                Ok(stream) => stream,
                Err(error) => return println!("{remote}: {error}"),
            };
            let caller = stream.peer().identity().map_or_else(|| "nobody".to_owned(), ToString::to_string);
            let app = TowerToHyperService::new(Router::new().route("/", get(async move || format!("hello, {caller}"))));
            // It is of no interest here how a connection ends.
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), app).await;
        });
    }
}
