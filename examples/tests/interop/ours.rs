//! Our own server, and meshes with an identity from files: what the peers are tried on.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use examples::certs::{Authority, Leaf};
use examples::echo::{self, PeerInfo};
use examples::peers::Files;
use mesh_tonic::server::{Drained, Peer};
use mesh_tonic::{Mesh, MeshServerExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Who the server is.
pub(crate) const SERVER: &str = "spiffe://cluster.local/ns/default/sa/server";
/// Who calls it.
pub(crate) const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/client";

/// The files of an identity, as the authority issues it.
pub(crate) fn files(authority: &Authority, identity: &str) -> Files {
    Files::write(&authority.issue(&Leaf::new(identity)).unwrap())
}

/// The configuration's section for that identity.
pub(crate) fn identity(files: &Files) -> String {
    let (certificate, key, bundle) = (files.certificate(), files.key(), files.bundle());
    format!(
        "identity: {{ certificate: '{}', key: '{}', trust_bundle: '{}' }}\n",
        certificate.display(),
        key.display(),
        bundle.display()
    )
}

/// A mesh of that configuration.
pub(crate) async fn mesh(config: &str) -> Mesh {
    let built = Mesh::builder().text(config).build().await;
    built.unwrap_or_else(|error| panic!("{error}\n{config}"))
}

/// The echo service behind `mesh.serve`, as `echo_server` serves it. Its connections end when it is dropped.
pub(crate) struct Ours {
    pub(crate) mesh: Mesh,
    address: SocketAddr,
    serving: JoinHandle<Drained>,
}

impl Ours {
    /// Serves as the server `public` of `config`, on a loopback port of its own.
    pub(crate) async fn serve(config: &str) -> Self {
        Self::by(mesh(config).await, "one").await
    }

    /// In plaintext, by the defaults.
    pub(crate) async fn plain() -> Self {
        Self::serve("servers: [{ name: public, tls: disabled }]").await
    }

    /// With an identity, in that mode: `strict`, or a section.
    pub(crate) async fn with(files: &Files, tls: &str) -> Self {
        Self::serve(&format!("{}servers: [{{ name: public, tls: {tls} }}]", identity(files))).await
    }

    /// Serves as the server `public` of `mesh`, and calls itself `server_id`.
    pub(crate) async fn by(mesh: Mesh, server_id: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut options = echo::Options::new(server_id);
        options.peer = |extensions| {
            let Some(peer) = extensions.get::<Arc<Peer>>() else { return PeerInfo::default() };
            PeerInfo {
                identity: peer.identity().map(ToString::to_string),
                mutual: peer.is_mutual(),
                address: peer.remote_address().map(|address| address.to_string()),
            }
        };
        let listener = mesh.adopt("public", listener).unwrap();
        let health = mesh.health_service(&[echo::TEST_SERVICE]);
        let serving = tokio::spawn(mesh.serve(listener, echo::app(options, health)));
        Self { mesh, address, serving }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets it drain; how many connections had to be cut.
    pub(crate) async fn drained(mut self) -> usize {
        self.mesh.drain().await;
        (&mut self.serving).await.unwrap().cut
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
