//! reqwest over the connections of a mesh.
//!
//! reqwest's `connector_layer` wraps the connector that it brings; the types of its requests and its streams are its
//! own, so that no layer can put another stream in their place. What it can use is a socket in the file system: here one
//! that leads to the mesh. Where the mesh is to see requests, and not only to carry them, `reqwest_types` shows how.
//!
//! ```sh
//! cargo run --example connector_reqwest
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::error::Error;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    #[cfg(unix)]
    unix::run().await?;
    #[cfg(not(unix))]
    println!("there are no Unix sockets here");
    Ok(())
}

#[cfg(unix)]
mod unix {
    use std::convert::Infallible;
    use std::error::Error;
    use std::sync::Arc;

    use examples::certs::Authority;
    use http::{Request, Response, Uri};
    use mesh_tonic::Mesh;
    use mesh_tonic::server::Peer;
    use tokio::io::copy_bidirectional;
    use tokio::net::{TcpListener, UnixListener};
    use tower::{Service, service_fn};

    const CATALOG: &str = "spiffe://cluster.local/ns/default/sa/catalog";
    const SHOP: &str = "spiffe://cluster.local/ns/default/sa/shop";

    pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
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

        let config = format!(
            "{}services:
           catalog:
             backends:
               v1: {{ endpoints: ['{address}'], protocol: http1, tls: {{ mode: mutual, identities: ['{CATALOG}'] }} }}",
            identity("shop", SHOP)?
        );
        let shop = Mesh::builder().text(config).build().await?;

        // The bridge: what comes over the socket goes over a stream of the mesh. Nobody else may open the directory.
        let socket = directory.path().join("catalog.sock");
        let bridge = UnixListener::bind(&socket)?;
        let connector = shop.connector();
        let bridging = tokio::spawn(async move {
            while let Ok((mut near, _)) = bridge.accept().await {
                let mut connector = connector.clone();
                tokio::spawn(async move {
                    match connector.call(Uri::from_static("http://catalog")).await {
                        // However it ends: reqwest sees the end of its connection.
                        Ok(mut far) => drop(copy_bidirectional(&mut near, &mut far).await),
                        Err(error) => println!("no connection: {error}"),
                    }
                });
            }
        });

        let client = reqwest::Client::builder().unix_socket(socket).build()?;
        let response = client.get("http://catalog/").send().await?.error_for_status()?;
        let text = response.text().await?;
        println!("{text}");
        assert_eq!(text, format!("hello, {SHOP}"));
        bridging.abort();
        drop(client);
        catalog.drain().await;
        serving.await?;
        Ok(())
    }
}
