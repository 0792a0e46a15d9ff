//! Who gets in: strict and permissive servers.

use mesh_tower::core::model::ServerTls;
use mesh_tower::testing::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{CALLER, OTHER, SERVER, client, client_as, start_as, text};

/// MT-13, MT-14
#[tokio::test]
async fn callers_prove_who_they_are() {
    let authority = Authority::new("cluster.local");
    let server = start_as(&authority, |_| {}).await;
    let mesh = client_as(&authority, CALLER, SERVER, server.address).await;
    for (url, expected) in [("http://h1/a", "HTTP/1.1 /a"), ("http://h2/b", "HTTP/2.0 /b")] {
        assert_eq!(text(mesh.http_client().get(url).await.unwrap()).await, format!("{expected} {CALLER}"));
    }
    let plain = client(server.address).await;
    for url in ["http://h1/", "http://h2/"] {
        assert!(plain.http_client().get(url).await.is_err(), "{url}");
    }
    // Not one byte is answered.
    for first in ["GET / HTTP/1.1\r\nhost: a\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(first.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "{}", answer.escape_ascii());
    }
}

/// MT-05, MT-11
#[tokio::test]
async fn the_wrong_ones_are_refused_on_both_sides() {
    let authority = Authority::new("cluster.local");
    let server = start_as(&authority, |server| {
        server.identities = vec![mesh_tower::core::identity::SanMatch::uri(CALLER)];
    })
    .await;
    let get = async |authority: &Authority, id: &str, expected: &str, url: &str| {
        client_as(authority, id, expected, server.address).await.http_client().get(url).await
    };
    for url in ["http://h1/", "http://h2/"] {
        assert!(get(&authority, CALLER, SERVER, url).await.is_ok(), "{url}");
        let stranger = get(&authority, OTHER, SERVER, url).await;
        assert!(stranger.is_err(), "{url}: {stranger:?}");
        let impostor = get(&authority, CALLER, OTHER, url).await;
        assert!(impostor.unwrap_err().to_string().contains(SERVER), "{url}");
        let foreign = Authority::new("cluster.local");
        assert!(get(&foreign, CALLER, SERVER, url).await.is_err(), "{url}");
    }
}

/// MT-14
#[tokio::test]
async fn mt_14_a_permissive_server_serves_both_on_one_port() {
    let authority = Authority::new("cluster.local");
    let server = start_as(&authority, |server| server.tls = Some(ServerTls::Permissive)).await;
    let mutual = client_as(&authority, CALLER, SERVER, server.address).await;
    let plain = client(server.address).await;
    for (url, expected) in [("http://h1/", "HTTP/1.1 /"), ("http://h2/", "HTTP/2.0 /")] {
        assert_eq!(text(mutual.http_client().get(url).await.unwrap()).await, format!("{expected} {CALLER}"));
        assert_eq!(text(plain.http_client().get(url).await.unwrap()).await, format!("{expected} nobody"));
    }
    // Byte by byte.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in b"GET /slowly HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n" {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("HTTP/1.1 /slowly nobody"), "{answer}");
}
