//! CL-02: the way out.

use std::time::Duration;

use crate::support::{client, start, text};

#[tokio::test]
async fn both_versions_of_http_are_served_on_one_port() {
    let server = start(|_| {}).await;
    let client = client(server.address).await.http_client();
    for (url, expected) in [
        ("http://h1/a", "HTTP/1.1 /a nobody"),
        ("http://h2/b", "HTTP/2.0 /b nobody"),
        ("http://h1/c", "HTTP/1.1 /c nobody"),
    ] {
        assert_eq!(text(client.get(url).await.unwrap()).await, expected);
    }
}

#[tokio::test]
async fn cl_02_requests_under_way_end_and_connections_go() {
    let server = start(|_| {}).await;
    let client = client(server.address).await.http_client();
    let before = server.mesh.live_tasks();
    let slow: Vec<_> =
        ["http://h1/slow", "http://h2/slow"].map(|url| tokio::spawn(client.get(url))).into_iter().collect();
    // They are there once both are counted.
    while server.mesh.live_tasks() < before + 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(server.mesh.is_ready());
    server.mesh.start_drain();
    assert!(!server.mesh.is_ready());
    for slow in slow {
        assert!(text(slow.await.unwrap().unwrap()).await.contains(" /slow "));
    }
    let drained = tokio::time::timeout(Duration::from_secs(10), server.task).await.unwrap().unwrap();
    assert_eq!(drained.cut, 0);
    assert!(tokio::net::TcpStream::connect(server.address).await.is_err());
}
