//! Meshes with identities: one serves, others call it.

use std::net::SocketAddr;

use mesh_tower::Mesh;
use mesh_tower::identity::MemoryIdentity;
use mesh_tower::server::Listener;
use mesh_tower::testing::{Authority, Issued};
use tokio::net::TcpListener;

pub(crate) const SERVER: &str = "spiffe://cluster.local/server";
pub(crate) const CALLER: &str = "spiffe://cluster.local/caller";

/// A mesh with a server `public` on a port of its own, which the test serves.
pub(crate) struct Served {
    pub(crate) mesh: Mesh,
    pub(crate) address: SocketAddr,
    pub(crate) authority: Authority,
    identity: MemoryIdentity,
    issued: Issued,
}

impl Served {
    /// `fields` of the server, behind its name.
    pub(crate) async fn new(fields: &str) -> (Self, Listener) {
        let authority = Authority::new("cluster.local");
        let issued = authority.issue(SERVER);
        let identity = MemoryIdentity::new(issued.material(authority.bundles()));
        let text =
            format!("unknown_services: dns\nidentity: {{ source: custom }}\nservers: [{{ name: public, {fields} }}]\n");
        let mesh = Mesh::builder().text(text).identity_source(identity.clone()).build().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let listener = mesh.adopt("public", listener).unwrap();
        (Self { mesh, address, authority, identity, issued }, listener)
    }

    /// A caller with `certificate`: `http://h1/` and `http://h2/`.
    pub(crate) async fn caller_with(&self, certificate: &Issued) -> Mesh {
        let source = MemoryIdentity::new(certificate.material(self.authority.bundles()));
        self.calling("{ mode: mutual }").identity_source(source).build().await.unwrap()
    }

    pub(crate) async fn caller(&self) -> Mesh {
        self.caller_with(&self.authority.issue(CALLER)).await
    }

    /// One without a certificate.
    pub(crate) async fn nobody(&self) -> Mesh {
        let source = MemoryIdentity::new(self.authority.issue(CALLER).material(self.authority.bundles()));
        self.calling("{ mode: disabled }").identity_source(source).build().await.unwrap()
    }

    fn calling(&self, tls: &str) -> mesh_tower::Builder {
        let service = |version: &str| {
            let address = self.address;
            format!("{{ backends: {{ it: {{ endpoints: ['{address}'], protocol: {version}, tls: {tls} }} }} }}")
        };
        let (h1, h2) = (service("http1"), service("http2"));
        Mesh::builder().text(format!("identity: {{ source: custom }}\nservices:\n  h1: {h1}\n  h2: {h2}\n"))
    }

    /// `certificate` is revoked from now on.
    pub(crate) fn revoke(&self, certificate: &Issued) {
        let list = self.authority.revocation_list(&[certificate]);
        let material = self.issued.material(self.authority.bundles());
        self.identity.set(material.with_revocation_lists(vec![list.der]));
    }
}
