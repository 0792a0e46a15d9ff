//! hyper-util's client over the connections of a mesh: mutual TLS and endpoints by the mesh's configuration, pooling by
//! hyper-util.
//!
//! ```sh
//! cargo run --example connector_hyper
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;

use examples::certs::Authority;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use mesh_tonic::Mesh;
use mesh_tonic::server::Peer;
use tokio::net::TcpListener;
use tower::service_fn;

const CATALOG: &str = "spiffe://cluster.local/ns/default/sa/catalog";
const SHOP: &str = "spiffe://cluster.local/ns/default/sa/shop";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let authority = Authority::new("cluster.local")?;
    let identity = |name: &str, id: &str| authority.identity_section(&directory.path().join(name), id);

    // The server: lets in who has a certificate, and greets them by name.
    let catalog = Mesh::builder().text(format!("{}servers: [{{ name: public }}]", identity("catalog", CATALOG)?));
    let catalog = catalog.build().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let greet = service_fn(async |request: Request<_>| {
        let peer = request.extensions().get::<Arc<Peer>>().and_then(|peer| peer.identity().cloned());
        Ok::<_, Infallible>(Response::new(peer.map_or("who are you?".to_owned(), |id| format!("hello, {id}"))))
    });
    let serving = tokio::spawn(catalog.serve(catalog.adopt("public", listener)?, greet));

    // The client: `http://` all the same, since what is spoken is the backend's affair.
    let config = format!(
        "{}services:
           catalog:
             backends:
               v1: {{ endpoints: ['{address}'], tls: {{ mode: mutual, identities: ['{CATALOG}'] }} }}",
        identity("shop", SHOP)?
    );
    let shop = Mesh::builder().text(config).build().await?;
    let client = Client::builder(TokioExecutor::new()).build::<_, Empty<bytes::Bytes>>(shop.connector());
    let response = client.get("http://catalog/".parse()?).await?;
    let version = response.version();
    let text = String::from_utf8(response.into_body().collect().await?.to_bytes().into())?;
    println!("{version:?}: {text}");
    assert_eq!((version, text), (Version::HTTP_2, format!("hello, {SHOP}")), "ALPN agreed on HTTP/2");

    let error = client.get("http://orders/".parse()?).await.err().ok_or("nobody has configured `orders`")?;
    println!("{error}: {}", error.source().ok_or("it says why")?);
    drop(client);
    catalog.drain().await;
    serving.await?;
    Ok(())
}
