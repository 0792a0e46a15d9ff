//! An axum `Router` behind strict mutual TLS: the mesh accepts, the handler knows who calls.
//!
//! ```sh
//! cargo run --example axum_server
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::error::Error;
use std::sync::Arc;

use axum::routing::get;
use axum::{Extension, Router};
use examples::certs::Authority;
use mesh_tonic::Mesh;
use mesh_tonic::server::Peer;
use tokio::net::TcpListener;

const CATALOG: &str = "spiffe://cluster.local/ns/default/sa/catalog";
const SHOP: &str = "spiffe://cluster.local/ns/default/sa/shop";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let authority = Authority::new("cluster.local")?;
    let identity = |name: &str, id: &str| authority.identity_section(&directory.path().join(name), id);

    // With an identity a server is strict: nobody gets in without a certificate, and of those only the shop.
    let server = "unknown_services: dns
servers: [{ name: public, tls: { mode: strict, identities: [spiffe://cluster.local/ns/default/sa/shop] }, drain: { delay: 0s } }]";
    let catalog = Mesh::builder().text(identity("catalog", CATALOG)? + server).build().await?;
    // In production the configuration says where it listens: `mesh.listener("public")`.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let app = Router::new().route("/items", get(items));
    let serving = tokio::spawn(catalog.serve(catalog.adopt("public", listener)?, app));

    let calling = |section: String| {
        let backend = format!("{{ endpoints: ['{address}'], tls: {{ mode: mutual, identities: ['{CATALOG}'] }} }}");
        Mesh::builder().text(format!("{section}services: {{ catalog: {{ backends: {{ v1: {backend} }} }} }}")).build()
    };
    let shop = calling(identity("shop", SHOP)?).await?;
    let response = shop.http_client().get("http://catalog/items").await?;
    println!("{:?} {}", response.version(), response.status());
    let text = response.into_body().string().await?;
    println!("{text}");
    assert_eq!(text, format!("three items for {SHOP}"));

    let stranger = calling(identity("stranger", "spiffe://cluster.local/ns/default/sa/stranger")?).await?;
    let refused = stranger.http_client().get("http://catalog/items").await.err().ok_or("a stranger is not let in")?;
    println!("{refused}");

    catalog.drain().await;
    assert_eq!(serving.await?.cut, 0, "every request has ended");
    Ok(())
}

async fn items(Extension(peer): Extension<Arc<Peer>>) -> String {
    peer.identity().map_or_else(|| "nothing for nobody".to_owned(), |id| format!("three items for {id}"))
}
