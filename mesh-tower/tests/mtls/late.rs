//! An identity that comes after the first request.

use std::sync::Arc;
use std::time::Duration;

use mesh_tower::core::model::TlsMode;
use mesh_tower::identity::MemoryIdentity;
use mesh_tower::testing::{Authority, Events, Seen, TestMesh};
use mesh_tower::{ConnectError, ErrorKind, Mesh};
use tokio::sync::watch;

use crate::auto::config;
use crate::support::{BOTH, CART, CATALOG, Server, ask, connect_error, somebody, strict};

/// MT-15: without an identity there is no connection at all; with one there is, at once, whatever the backoff.
#[tokio::test]
async fn mt_15_without_an_identity_there_is_no_connection() {
    let authority = Authority::new("cluster.local");
    for mode in [TlsMode::Mutual, TlsMode::Auto] {
        let server = Server::start("a", strict(&authority.issue(CATALOG), &authority, BOTH)).await;
        let mut first = (*config(&[(server.address, true)], mode, false)).clone();
        let long = Duration::from_secs(3600);
        for backend in first.backends.values_mut() {
            let backend = Arc::make_mut(backend);
            (backend.connect_backoff.base, backend.connect_backoff.max) = (long, long);
        }
        let mut second = first.clone();
        second.settings = Arc::clone(&config(&[], mode, true).settings);
        let (sender, configs) = watch::channel(Arc::new(first));
        let (events, identity) = (Events::new(), MemoryIdentity::new(somebody(&authority, CART)));
        let mesh = Mesh::builder().configs(configs).identity_source(identity).observer(events.clone());
        let mesh = TestMesh::start(mesh).await;
        let error = ask(&mesh).await.unwrap_err();
        assert_eq!((error.kind(), error.attempts()), (ErrorKind::NoHealthyEndpoint, 0));
        assert!(error.to_string().contains("no identity"), "{error}");
        assert!(matches!(connect_error(&error), ConnectError::NoIdentity { .. }), "{error:?}");
        // Once, and then the backoff.
        events.assert_count(1, "attempt to connect", |seen| matches!(seen, Seen::Connect { .. }));
        assert_eq!((server.backend.connections(), server.hellos().len()), (0, 0));
        sender.send_replace(Arc::new(second));
        crate::support::until_asked(&mesh, "the identity is there", Result::is_ok).await;
        mesh.end().await;
    }
}
