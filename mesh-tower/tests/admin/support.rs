//! Meshes with an admin listener, and what is said to it.

use std::net::SocketAddr;

use mesh_tower::Mesh;
use mesh_tower::core::model::{Admin, Config, Settings};
use mesh_tower::testing::watched;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A listener on a port of its own.
pub(crate) fn admin() -> Admin {
    Admin::new("127.0.0.1:0".parse().unwrap())
}

pub(crate) fn settings(admin: Admin) -> Settings {
    let mut settings = Settings::default();
    settings.admin = Some(admin);
    settings
}

/// A mesh of `config` with the admin listener, and where that is.
pub(crate) async fn start(config: Config, admin: Admin) -> (Mesh, SocketAddr) {
    let mesh = Mesh::builder().config(config.with_settings(settings(admin))).build().await.unwrap();
    let address = mesh.admin_address().unwrap();
    (mesh, address)
}

/// What was answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In lower case.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        assert!(self.head.contains("content-type: application/json"), "{}", self.head);
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Whether there is a line `name: value` in the head.
    pub(crate) fn has(&self, line: &str) -> bool {
        self.head.lines().any(|one| one == line)
    }
}

/// Sends `request`, a head without its end, as a browser or a probe would write it.
pub(crate) async fn send(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{}\r\nconnection: close\r\n\r\n", request.replace('\n', "\r\n"));
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    watched(stream.read_to_end(&mut answer)).await.unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut body = answer[end + 4..].to_vec();
    if head.contains("transfer-encoding: chunked") {
        body = unchunked(&body);
    }
    Answer { status, head, body }
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    send(address, &format!("GET {path} HTTP/1.1\nhost: {address}")).await
}

pub(crate) async fn post(address: SocketAddr, path: &str) -> Answer {
    send(address, &format!("POST {path} HTTP/1.1\nhost: {address}\ncontent-length: 0")).await
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let line = body.windows(2).position(|two| two == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&body[..line]).unwrap(), 16).unwrap();
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&body[line + 2..line + 2 + size]);
        body = &body[line + 4 + size..];
    }
}
