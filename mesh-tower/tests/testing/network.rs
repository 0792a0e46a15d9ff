//! The network in memory.

use std::io::ErrorKind;
use std::time::Duration;

use mesh_tower::testing::{MemoryNetwork, ServiceConfig, TestBackend};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

#[tokio::test]
async fn nobody_listens_before_and_after() {
    let network = MemoryNetwork::new();
    let address = network.unused_address();
    assert_ne!(address, network.unused_address());
    let refused = || network.connect(address).unwrap_err().kind();
    assert_eq!(refused(), ErrorKind::ConnectionRefused);
    let mut listener = network.listen(address);
    assert_eq!(listener.address(), address);
    // It need not accept at once,
    let mut near = network.connect(address).unwrap();
    near.write_all(b"x").await.unwrap();
    let mut far = listener.accept().await;
    assert_eq!(far.read_u8().await.unwrap(), b'x');
    // what it does not accept is closed with it, and what it did accept lives on.
    let mut second = network.connect(address).unwrap();
    drop(listener);
    assert_eq!(second.read(&mut [0]).await.unwrap(), 0);
    far.write_all(b"y").await.unwrap();
    assert_eq!(near.read_u8().await.unwrap(), b'y');
    assert_eq!(refused(), ErrorKind::ConnectionRefused);
    assert_eq!((network.connects_to(address), network.connects()), (4, 4));
    // The address is free again.
    drop(network.listen(address));
}

#[tokio::test]
#[should_panic(expected = "somebody listens at 192.0.2.")]
async fn an_address_has_one_listener() {
    let network = MemoryNetwork::new();
    let backend = TestBackend::named("v1").start_in(&network);
    network.listen(backend.address());
}

#[tokio::test]
async fn a_backend_that_is_dropped_is_gone() {
    let network = MemoryNetwork::new();
    let backend = TestBackend::named("v1").start_in(&network);
    let address = backend.address();
    let mut stream = network.connect(address).unwrap();
    drop(backend);
    assert_eq!(network.connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    let _another = TestBackend::named("v2").at(address).start_in(&network);
}

#[tokio::test]
async fn a_port_that_is_dropped_is_free() {
    let backend = TestBackend::named("v1").start();
    let address = backend.address();
    drop(backend);
    let refused = tokio::net::TcpStream::connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let _another = TestBackend::named("v2").at(address).start();
}

/// The clock jumps over the connect timeout while a listener takes its time, and over nothing else.
#[tokio::test(start_paused = true)]
async fn a_mesh_on_a_paused_clock() {
    let network = MemoryNetwork::new();
    let listener = network.listen(network.unused_address());
    let mesh = ServiceConfig::new("s", [listener.address()])
        .backend("protocol: http2, connect_timeout: 3s")
        .mesh_over(&network)
        .await;
    let began = Instant::now();
    mesh.http_client().get("http://s/").await.unwrap_err();
    let elapsed = began.elapsed();
    assert!((Duration::from_secs(3)..Duration::from_millis(3010)).contains(&elapsed), "{elapsed:?}");
    assert_eq!(network.connects(), 1);
    mesh.end().await;
}
