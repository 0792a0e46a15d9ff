//! `axum::serve` on connections that the mesh let in: for those who keep their framework's accept loop.
//!
//! ```sh
//! cargo run --example axum_serve
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::error::Error;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use examples::certs::Authority;
use mesh_tonic::Mesh;
use mesh_tonic::server::Caller;
use tokio::net::TcpListener;

const CATALOG: &str = "spiffe://cluster.local/ns/default/sa/catalog";
const SHOP: &str = "spiffe://cluster.local/ns/default/sa/shop";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let authority = Authority::new("cluster.local")?;
    let identity = |name: &str, id: &str| authority.identity_section(&directory.path().join(name), id);

    let server = "unknown_services: dns\nservers: [{ name: public, drain: { delay: 0s } }]";
    let catalog = Mesh::builder().text(identity("catalog", CATALOG)? + server).build().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let incoming = catalog.incoming(catalog.adopt("public", listener)?);
    let draining = incoming.draining();
    // The connections are known; the layer does for requests what `mesh.serve` would.
    let app = Router::new().route("/items", get(items)).layer(catalog.server_layer("public")?);
    let service = app.into_make_service_with_connect_info::<Caller>();
    let serving = tokio::spawn(async move { axum::serve(incoming, service).with_graceful_shutdown(draining).await });

    let backend = format!("{{ endpoints: ['{address}'], tls: {{ mode: mutual, identities: ['{CATALOG}'] }} }}");
    let config = format!("{}services: {{ catalog: {{ backends: {{ v1: {backend} }} }} }}", identity("shop", SHOP)?);
    let shop = Mesh::builder().text(config).build().await?;
    let text = shop.http_client().get("http://catalog/items").await?.into_body().string().await?;
    println!("{text}");
    assert_eq!(text, format!("three items for {SHOP}"));

    // The mesh drains, and axum with it.
    catalog.drain().await;
    serving.await??;
    Ok(())
}

async fn items(ConnectInfo(Caller(peer)): ConnectInfo<Caller>) -> String {
    peer.identity().map_or_else(|| "nothing for nobody".to_owned(), |id| format!("three items for {id}"))
}
