//! Whether the other end of a TCP connection is still there: asked by the kernel, whatever is spoken.

use std::time::Duration;

use mesh_core::model::ServerLimits;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// How often the kernel asks before it gives up: a probe may be lost.
const PROBES: u32 = 4;

/// Has the kernel end `stream` once nothing came over it for `keepalive_time`, and none of its questions was answered in
/// the `keepalive_timeout` after that.
///
/// `TCP_USER_TIMEOUT` (gRFC A18) would do the same for what is not acknowledged. But Linux takes a caller that pauses for
/// one that is gone, although it answers the probes of its closed window: that is the affair of `send_timeout`.
pub(super) fn probe(stream: &TcpStream, limits: &ServerLimits) {
    let Some(time) = limits.keepalive_time else { return };
    let timeout = limits.keepalive_timeout;
    let socket = SockRef::from(stream);
    let keepalive = with_probes(TcpKeepalive::new().with_time(seconds(time)), timeout);
    if let Err(error) = socket.set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, ?time, ?timeout, "the kernel was not asked to look after a connection");
    }
}

/// Elsewhere the kernel's own interval and number hold.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "freebsd", windows))]
fn with_probes(keepalive: TcpKeepalive, timeout: Duration) -> TcpKeepalive {
    keepalive.with_interval(seconds(timeout / PROBES)).with_retries(PROBES)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "freebsd", windows)))]
fn with_probes(keepalive: TcpKeepalive, _: Duration) -> TcpKeepalive {
    keepalive
}

/// Kernels count in whole seconds, and take no zero.
fn seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_millis().div_ceil(1000).max(1) as u64)
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use mesh_core::model::{Config, Server};

    use super::*;
    use crate::Mesh;
    use crate::net::io::Raw;

    /// CL-05: the kernel knows when a connection is dead that was accepted, however it is served.
    #[tokio::test]
    async fn cl_05_the_kernel_looks_after_connections_that_were_accepted() {
        let second = Duration::from_secs(1);
        for (time, timeout, idle, interval) in [
            (None, 20 * second, None, None),
            (Some(60 * second), 20 * second, Some(60), Some(5)),
            (Some(second), Duration::from_millis(1), Some(1), Some(1)),
        ] {
            let mut server = Server::new("public");
            server.limits.keepalive_time = time;
            server.limits.keepalive_timeout = timeout;
            let mesh = Mesh::builder().config(Config::new().with_server(server)).build().await.unwrap();
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let mut listener = mesh.adopt("public", listener).unwrap();
            let _caller = TcpStream::connect(address).await.unwrap();
            let Raw::Tcp(stream) = listener.accept().await.raw else { panic!("TCP was accepted") };
            let socket = SockRef::from(&stream);
            assert_eq!(socket.keepalive().unwrap(), time.is_some());
            if let (Some(idle), Some(interval)) = (idle, interval) {
                assert_eq!(socket.tcp_keepalive_time().unwrap().as_secs(), idle);
                assert_eq!(socket.tcp_keepalive_interval().unwrap().as_secs(), interval);
                assert_eq!(socket.tcp_keepalive_retries().unwrap(), PROBES);
            }
        }
    }
}
