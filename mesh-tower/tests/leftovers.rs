//! RL-12: what is left of meshes that have ended. A test binary of its own, since it counts what the process has open.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::convert::Infallible;
use std::fs;
use std::path::Path;

use http::{Request, Response};
use mesh_tower::Mesh;
use mesh_tower::server::RequestBody;
use mesh_tower::testing::{Authority, watched};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};
use tower::service_fn;

const CATALOG: &str = "spiffe://cluster.local/ns/shop/sa/catalog";
const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

/// What this process has open; nothing where the system does not say.
fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Writes who somebody is, and a configuration that says so and `rest`.
fn write(home: &Path, authority: &Authority, id: &str, rest: &str) -> std::path::PathBuf {
    fs::create_dir_all(home).unwrap();
    let issued = authority.issue(id);
    let file = |name: &str, text: &str| {
        let path = home.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let certificate = file("tls.crt", issued.certificate_pem());
    let (key, bundle) = (file("tls.key", &issued.key_pem()), file("ca.crt", authority.root_pem()));
    let text =
        format!("identity: {{ certificate: '{certificate}', key: '{key}', trust_bundle: '{bundle}' }}\n{rest}\n");
    file("mesh.yaml", &text).into()
}

/// Two meshes with all that they may have, that call each other and end; with callers who do not know of it.
async fn day(home: &Path) {
    let authority = Authority::new("cluster.local");
    // Nobody has to wait for those who say nothing.
    let servers = "servers: [{ name: public, drain: { delay: 0s }, limits: { first_request_timeout: 500ms } }]";
    let server = write(&home.join("catalog"), &authority, CATALOG, servers);
    let server = Mesh::builder().file(server).build().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ok = service_fn(async |_: Request<RequestBody>| Ok::<_, Infallible>(Response::new("ok".to_owned())));
    let serving = tokio::spawn(server.serve(server.adopt("public", listener).unwrap(), ok));

    // One endpoint refuses, one is nowhere: both are tried again for as long as the mesh is.
    let services = format!(
        "services: {{ catalog: {{ backends: {{ v1: {{ endpoints: ['{address}', '127.0.0.1:1', '192.0.2.1:1'], \
         tls: {{ mode: mutual, identities: ['{CATALOG}'] }}, health_check: {{ http: {{ path: / }} }}, \
         outlier_detection: {{}} }} }} }} }}"
    );
    let client = Mesh::builder().file(write(&home.join("cart"), &authority, CART, &services)).build().await.unwrap();
    for _ in 0..20 {
        let answer = watched(client.http_client().get("http://catalog/")).await.unwrap();
        assert_eq!(watched(answer.into_body().string()).await.unwrap(), "ok");
    }
    let silent = TcpStream::connect(address).await.unwrap();
    let mut rubbish = TcpStream::connect(address).await.unwrap();
    rubbish.write_all(b"\x16\x03\x01").await.unwrap();

    client.shutdown().await;
    watched(server.drain()).await;
    watched(serving).await.unwrap();
    server.shutdown().await;
    assert_eq!((client.live_tasks(), server.live_tasks()), (0, 0));
    drop((client, server, silent, rubbish));
    // Those that nobody tracks, too: ours, hyper's and rustls' end with what they are for.
    watched(async {
        while Handle::current().metrics().num_alive_tasks() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[test]
fn rl_12_no_task_and_no_descriptor_is_left() {
    let home = tempfile::tempdir().unwrap();
    let day = |number: usize| {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(day(&home.path().join(number.to_string())));
    };
    // What is opened once for the process is open.
    day(0);
    let before = descriptors();
    (1..4).for_each(day);
    assert_eq!(descriptors(), before);
}
