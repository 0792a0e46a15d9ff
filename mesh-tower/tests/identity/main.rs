//! A mesh begins with its identity, follows it, and says what becomes of it. What single sources do is tested beside
//! them.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mesh_tower::core::model::{Config, Identity, IdentityFiles, IdentityFrom, Settings, TrustFile};
use mesh_tower::identity::{MemoryIdentity, NoIdentity};
use mesh_tower::testing::{Authority, Events, Issued, Seen, watched};
use mesh_tower::{BuildError, Mesh};

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

fn config(identity: Identity) -> Config {
    let mut settings = Settings::default();
    settings.identity = Some(Arc::new(identity));
    let mut config = Config::default();
    config.settings = Arc::new(settings);
    config
}

fn files(directory: &Path) -> Identity {
    let trust = TrustFile::Pem(directory.join("ca.pem"));
    let mut files = IdentityFiles::new(directory.join("tls.crt"), directory.join("tls.key"), trust);
    files.refresh_interval = Duration::from_millis(20);
    Identity::new(IdentityFrom::Files(files))
}

fn put(directory: &Path, issued: &Issued) {
    fs::write(directory.join("tls.crt"), issued.certificate_pem()).unwrap();
    fs::write(directory.join("tls.key"), issued.key_pem()).unwrap();
}

/// MT-03: the mesh tells observers and its status what becomes of its files, and keeps the last good pair.
#[tokio::test]
async fn mt_03_a_mesh_follows_its_files() {
    let directory = tempfile::tempdir().unwrap();
    let (path, authority, events) = (directory.path(), Authority::new("cluster.local"), Events::new());
    fs::write(path.join("ca.pem"), authority.root_pem()).unwrap();
    let first = authority.issue(CART);
    put(path, &first);
    let mesh = Mesh::builder().config(config(files(path))).observer(events.clone()).build().await.unwrap();
    let identity = mesh.identity().unwrap();
    assert_eq!((identity.chain(), identity.id().unwrap().as_str()), (&first.chain[..], CART));
    let status = mesh.identity_status().borrow().clone();
    assert_eq!((status.generation, status.failures, status.failure), (1, 0, None));
    assert!(status.source.starts_with("files "), "{}", status.source);

    fs::write(path.join("tls.crt"), &first.certificate_pem()[..200]).unwrap();
    let failed = events.wait_for(|seen| matches!(seen, Seen::Identity { what: "failed", .. })).await;
    let Seen::Identity { error: Some(error), .. } = failed else { panic!("{failed:?}") };
    assert!(error.contains("tls.crt: PEM without an END line"), "{error}");
    assert_eq!(mesh.identity().unwrap().chain(), first.chain);

    let second = authority.issue(CART);
    put(path, &second);
    let changed = |seen: &Seen| matches!(seen, Seen::Identity { what: "changed", generation: Some(2), .. });
    events.wait_for(changed).await;
    assert_eq!(mesh.identity().unwrap().chain(), second.chain);
    watched(mesh.identity_status().wait_for(|status| status.failure.is_none())).await.unwrap();
    mesh.shutdown().await;
    assert_eq!(mesh.live_tasks(), 0);
}

/// Without its identity a mesh is not built: the error names the source, the file and the way out.
#[tokio::test]
async fn a_mesh_without_its_identity_is_not_built() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("cluster.local");
    put(directory.path(), &authority.issue(CART));
    let mut identity = files(directory.path());
    identity.startup_timeout = Duration::from_millis(300);
    let error = Mesh::builder().config(config(identity)).build().await.unwrap_err();
    assert!(matches!(error, BuildError::Identity(NoIdentity::TimedOut { .. })), "{error}");
    let text = error.to_string();
    for part in ["identity: files ", "within 300ms", "ca.pem: No such file", "raise `identity.startup_timeout`"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let error = Mesh::builder().config(config(Identity::new(IdentityFrom::Custom))).build().await.unwrap_err();
    assert!(error.to_string().contains("the builder was given none"), "{error}");
}

#[tokio::test]
async fn an_application_brings_the_identity() {
    let authority = Authority::new("cluster.local");
    let (first, second) = (authority.issue(CART), authority.issue(CART));
    let memory = MemoryIdentity::new(first.material(authority.bundles()));
    let settings = config(Identity::new(IdentityFrom::Custom));
    let mesh = Mesh::builder().config(settings).identity_source(memory.clone()).build().await.unwrap();
    assert_eq!(mesh.identity().unwrap().chain(), first.chain);
    memory.set(second.material(authority.bundles()));
    watched(mesh.identity_status().wait_for(|status| status.generation == 2)).await.unwrap();
    assert_eq!(mesh.identity().unwrap().chain(), second.chain);
    mesh.shutdown().await;
    assert_eq!(mesh.live_tasks(), 0);
}
