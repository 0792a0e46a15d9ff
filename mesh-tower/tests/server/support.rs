//! A mesh that serves on a port of its own.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, Response};
use mesh_tower::core::model::{Config, Server};
use mesh_tower::server::Drained;
use mesh_tower::server::RequestBody;
use mesh_tower::{Body, Mesh};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tower::service_fn;

/// A server of a mesh, and where it is.
pub(crate) struct Running {
    pub(crate) mesh: Mesh,
    pub(crate) address: SocketAddr,
    pub(crate) task: JoinHandle<Drained>,
}

/// Serves `hello`, and after a while whoever asks for `/slow`.
pub(crate) async fn start(change: impl FnOnce(&mut Server)) -> Running {
    let mut server = Server::new("public");
    server.drain.delay = Duration::ZERO;
    change(&mut server);
    let mesh = Mesh::builder().config(Config::new().with_server(server)).build().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let listener = mesh.adopt("public", listener).unwrap();
    let task = tokio::spawn(mesh.serve(listener, service_fn(answer)));
    Running { mesh, address, task }
}

async fn answer(request: Request<RequestBody>) -> Result<Response<String>, Infallible> {
    if request.uri().path() == "/slow" {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(Response::new(format!("{:?} {}", request.version(), request.uri().path())))
}

/// A client of the server: `http://h1/` and `http://h2/`.
pub(crate) async fn client(address: SocketAddr) -> Mesh {
    let text = format!(
        "services:\n  h1: {{ backends: {{ it: {{ endpoints: ['{address}'], protocol: http1 }} }} }}\n  \
         h2: {{ backends: {{ it: {{ endpoints: ['{address}'], protocol: http2 }} }} }}\n"
    );
    Mesh::builder().text(text).build().await.unwrap()
}

pub(crate) async fn text(response: Response<Body>) -> String {
    response.into_body().string().await.unwrap()
}
