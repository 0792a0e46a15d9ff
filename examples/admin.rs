//! The admin pages over real HTTP: what a kubelet, Prometheus and a person in a hurry ask for.
//!
//! ```sh
//! cargo run --example admin             # asks for each page and ends
//! cargo run --example admin -- --serve  # serves them until it is interrupted
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::convert::Infallible;
use std::error::Error;

use examples::certs::Authority;
use http::{Request, Response};
use mesh_tonic::Mesh;
use mesh_tonic::mesh_tower::Body;
use serde_json::Value;
use tower::{ServiceExt, service_fn};

const SHOP: &str = "spiffe://cluster.local/ns/default/sa/shop";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let identity = Authority::new("cluster.local")?.identity_section(directory.path(), SHOP)?;
    // The server is strict; the pages are plaintext on a port of their own, for this machine alone.
    let config = identity
        + "unknown_services: dns
servers: [{ name: public, address: '127.0.0.1:0', drain: { delay: 0s } }]
admin: { address: '127.0.0.1:0', allow_drain: true }";
    let mesh = Mesh::builder().text(config).build().await?;
    let address = mesh.admin_address().ok_or("the configuration has an admin listener")?;
    println!("http://{address}/");
    let admin = Admin::of(&address.to_string()).await?;

    let (status, ready) = admin.json("GET", "/ready").await?;
    println!("not served yet: {status} {}", ready["failed"][0]["reason"]);
    assert_eq!((status, &ready["failed"][0]["gate"]), (503, &Value::from("server")));

    let hello = service_fn(async |_: Request<_>| Ok::<_, Infallible>(Response::new("hello".to_owned())));
    let serving = tokio::spawn(mesh.serve(mesh.listener("public").await?, hello));
    // What a probe would find out by and by.
    let mut readiness = mesh.watch_readiness();
    while !readiness.last().is_ready() {
        readiness.changed().await.ok_or("the mesh is gone")?;
    }
    assert_eq!(admin.json("GET", "/ready").await?.0, 200);

    if std::env::args().any(|argument| argument == "--serve") {
        mesh.drain_on_signals();
        serving.await?;
        return Ok(());
    }
    let (_, certs) = admin.json("GET", "/certs").await?;
    println!("certificate of {}: {} days left", certs["certificate"]["id"], certs["certificate"]["days_left"]);
    assert_eq!(certs["certificate"]["id"], SHOP);
    let (_, config) = admin.text("GET", "/config").await?;
    config.lines().filter(|line| line.contains("allow_drain")).for_each(|line| println!("{line}"));
    assert!(config.contains("allow_drain: true  # config:"), "{config}");
    let (status, metrics) = admin.text("GET", "/metrics").await?;
    metrics.lines().filter(|line| line.starts_with("mesh_config")).take(3).for_each(|line| println!("{line}"));
    assert!(status == 200 && metrics.contains("# TYPE"), "{metrics}");

    let (status, _) = admin.text("GET", "/drain").await?;
    assert_eq!(status, 405, "nothing is changed by a GET");
    let (status, drain) = admin.json("POST", "/drain").await?;
    println!("{status} {drain}");
    assert_eq!((status, serving.await?.cut), (202, 0));
    let (status, ready) = admin.json("GET", "/ready").await?;
    println!("drained: {status} {}", ready["failed"]);
    assert_eq!((status, admin.text("GET", "/live").await?.0), (503, 200));
    mesh.shutdown().await;
    Ok(())
}

/// Who asks for the pages: a client of a mesh of its own.
struct Admin {
    mesh: Mesh,
    address: String,
}

impl Admin {
    async fn of(address: &str) -> Result<Self, Box<dyn Error>> {
        let backend = format!("{{ endpoints: ['{address}'], protocol: http1 }}");
        let config = format!("services: {{ admin: {{ hosts: ['{address}'], backends: {{ it: {backend} }} }} }}");
        Ok(Self { mesh: Mesh::builder().text(config).build().await?, address: address.to_owned() })
    }

    async fn text(&self, method: &str, path: &str) -> Result<(u16, String), Box<dyn Error>> {
        let request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        let response = self.mesh.http_client().oneshot(request.body(Body::default())?).await?;
        Ok((response.status().as_u16(), response.into_body().string().await?))
    }

    async fn json(&self, method: &str, path: &str) -> Result<(u16, Value), Box<dyn Error>> {
        let (status, text) = self.text(method, path).await?;
        Ok((status, serde_json::from_str(&text)?))
    }
}
