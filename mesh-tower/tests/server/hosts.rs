//! AZ-16, on the wire.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::start;

/// What the server answers to `head`, as it is sent: the first line.
async fn told(head: &str) -> String {
    let server = start(|_| {}).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(head.replace('\n', "\r\n").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn az_16_a_host_is_named_once() {
    for (head, expected) in [
        ("GET / HTTP/1.1\nhost: a\nconnection: close\n\n", "HTTP/1.1 200 OK"),
        ("GET / HTTP/1.1\nhost: a\nhost: a\nconnection: close\n\n", "HTTP/1.1 400 Bad Request"),
        ("GET / HTTP/1.1\nconnection: close\n\n", "HTTP/1.1 400 Bad Request"),
        ("GET http://b/ HTTP/1.1\nhost: a\nconnection: close\n\n", "HTTP/1.1 400 Bad Request"),
        ("GET http://a/ HTTP/1.1\nhost: A\nconnection: close\n\n", "HTTP/1.1 200 OK"),
        ("GET / HTTP/1.0\n\n", "HTTP/1.0 200 OK"),
    ] {
        assert_eq!(told(head).await, expected, "{head:?}");
    }
}
