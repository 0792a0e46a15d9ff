//! MT-02, MT-03, MT-04: certificates change under load, on both sides, and no request fails.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh_tower::Mesh;
use mesh_tower::core::identity::SanMatch;
use mesh_tower::core::model::{Config, Identity, IdentityFiles, IdentityFrom, Settings, Tls, TrustFile};
use mesh_tower::identity::{Bundles, MemoryIdentity};
use mesh_tower::testing::{Authority, Issued, watched};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::support::{CALLER, Running, SERVER, calling, identified, run_on, server};

const FILES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

/// How the files of an identity are replaced.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Swap {
    /// Each is renamed over the old one.
    Rename,
    /// They are in a directory that a symbolic link names, as Kubernetes mounts secrets.
    Link,
}

/// The files of an identity.
struct Files {
    folder: tempfile::TempDir,
    swap: Swap,
    generation: u32,
}

impl Files {
    fn new(swap: Swap, issued: &Issued, authority: &Authority) -> Self {
        let mut files = Self { folder: tempfile::tempdir().unwrap(), swap, generation: 0 };
        if swap == Swap::Link {
            for name in FILES {
                symlink(Path::new("..data").join(name), files.folder.path().join(name)).unwrap();
            }
        }
        files.write([issued.certificate_pem(), &issued.key_pem(), authority.root_pem()]);
        files
    }

    fn write(&mut self, texts: [&str; 3]) {
        self.generation += 1;
        let folder = self.folder.path();
        match self.swap {
            Swap::Rename => {
                for (name, text) in FILES.into_iter().zip(texts) {
                    let new = folder.join("new");
                    fs::write(&new, text).unwrap();
                    fs::rename(new, folder.join(name)).unwrap();
                }
            }
            Swap::Link => {
                let data = folder.join(format!("..{}", self.generation));
                fs::create_dir(&data).unwrap();
                for (name, text) in FILES.into_iter().zip(texts) {
                    fs::write(data.join(name), text).unwrap();
                }
                let link = folder.join("..data_tmp");
                symlink(data.file_name().unwrap(), &link).unwrap();
                fs::rename(link, folder.join("..data")).unwrap();
                let old = folder.join(format!("..{}", self.generation - 1));
                let _ = fs::remove_dir_all(old);
            }
        }
    }

    fn settings(&self) -> Settings {
        let path = |name: &str| -> PathBuf { self.folder.path().join(name) };
        let mut files = IdentityFiles::new(path(FILES[0]), path(FILES[1]), TrustFile::Pem(path(FILES[2])));
        files.refresh_interval = Duration::from_millis(50);
        let mut settings = Settings::default();
        settings.identity = Some(Arc::new(Identity::new(IdentityFrom::Files(files))));
        settings
    }
}

/// A server whose connections live for half a second: there are handshakes all the time.
fn brief() -> Config {
    Config::new().with_server(server(|server| server.limits.max_connection_age = Some(Duration::from_millis(500))))
}

async fn serve(mesh: Mesh) -> Running {
    run_on(mesh, TcpListener::bind("127.0.0.1:0").await.unwrap())
}

fn to(running: &Running) -> Config {
    calling(&[running.address], Some(Tls::mutual(vec![SanMatch::uri(SERVER)])))
}

/// Two hundred requests a second, half of them over each version of HTTP; none may fail.
struct Load {
    stop: CancellationToken,
    senders: Vec<JoinHandle<usize>>,
}

impl Load {
    fn new(mesh: &Mesh) -> Self {
        let stop = CancellationToken::new();
        let sender = |url: &'static str| {
            let (client, stop) = (mesh.http_client(), stop.clone());
            tokio::spawn(async move {
                let mut count = 0;
                while !stop.is_cancelled() {
                    let answer = client.get(url).await.unwrap_or_else(|error| panic!("{url}: {error:?}"));
                    assert_eq!(answer.status(), 200, "{url}");
                    let text = answer.into_body().string().await.unwrap_or_else(|error| panic!("{url}: {error:?}"));
                    assert!(text.ends_with(CALLER), "{text}");
                    count += 1;
                    sleep(Duration::from_millis(20)).await;
                }
                count
            })
        };
        let senders = ["http://h1/", "http://h2/"].into_iter().flat_map(|url| [sender(url), sender(url)]).collect();
        Self { stop, senders }
    }

    async fn end(self) -> usize {
        self.stop.cancel();
        let mut count = 0;
        for sender in self.senders {
            count += watched(sender).await.unwrap();
        }
        count
    }
}

/// The serial number that the server's certificate has in a new handshake.
async fn presented(running: &Running, caller: &Issued) -> Vec<u8> {
    let connector = tokio_rustls::TlsConnector::from(Arc::new(caller.careless_client(rustls::ALL_VERSIONS)));
    let stream = tokio::net::TcpStream::connect(running.address).await.unwrap();
    let tls = watched(connector.connect("server".try_into().unwrap(), stream)).await.unwrap();
    tls.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// Has both sides' files replaced `every` so often for as long as it `lasts`.
async fn rotate(swap: Swap, every: Duration, lasts: Duration) {
    let authority = Authority::new("cluster.local");
    let mut theirs = Files::new(swap, &authority.issue(SERVER), &authority);
    let mut ours = Files::new(swap, &authority.issue(CALLER), &authority);
    let config = brief().with_settings(theirs.settings());
    let running = serve(Mesh::builder().config(config).build().await.unwrap()).await;
    let config = to(&running).with_settings(ours.settings());
    let mesh = Mesh::builder().config(config).build().await.unwrap();
    let load = Load::new(&mesh);
    let began = Instant::now();
    let mut last = None;
    while began.elapsed() < lasts {
        sleep(every).await;
        for (files, id) in [(&mut theirs, SERVER), (&mut ours, CALLER)] {
            let issued = authority.issue(id);
            files.write([issued.certificate_pem(), &issued.key_pem(), authority.root_pem()]);
            if id == SERVER {
                last = Some(issued);
            }
        }
    }
    // The last one is in force, on new connections.
    let (last, caller) = (last.unwrap(), authority.issue(CALLER));
    watched(async {
        while presented(&running, &caller).await != last.chain[0].to_vec() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(load.end().await > 20);
    let status = running.mesh.identity_status().borrow().clone();
    assert!(status.generation > 2, "{swap:?}: {status:?}");
}

/// MT-02
#[tokio::test]
async fn mt_02_files_are_replaced_by_rename() {
    rotate(Swap::Rename, Duration::from_millis(200), Duration::from_secs(5)).await;
}

/// MT-02
#[tokio::test]
async fn mt_02_files_are_replaced_by_a_link() {
    rotate(Swap::Link, Duration::from_millis(200), Duration::from_secs(5)).await;
}

/// MT-02, as long as `MESH_ROTATION_SECONDS` says, or for ten minutes, every ten seconds.
#[tokio::test]
#[ignore = "takes ten minutes"]
async fn mt_02_for_ten_minutes() {
    let seconds = std::env::var("MESH_ROTATION_SECONDS").map_or(600, |text| text.parse().unwrap());
    let lasts = Duration::from_secs(seconds);
    tokio::join!(
        rotate(Swap::Rename, Duration::from_secs(10), lasts),
        rotate(Swap::Link, Duration::from_secs(10), lasts)
    );
}

/// MT-03: files that cannot be used change nothing, and are told; the next good ones heal.
#[tokio::test]
async fn mt_03_broken_files_keep_the_last_good_identity() {
    let authority = Authority::new("cluster.local");
    let first = authority.issue(SERVER);
    let mut files = Files::new(Swap::Link, &first, &authority);
    let running = serve(Mesh::builder().config(brief().with_settings(files.settings())).build().await.unwrap()).await;
    let caller = authority.issue(CALLER);
    let source = MemoryIdentity::new(caller.material(authority.bundles()));
    let config = to(&running).with_settings(identified());
    let mesh = Mesh::builder().config(config).identity_source(source).build().await.unwrap();
    let load = Load::new(&mesh);
    let mut status = running.mesh.identity_status();
    let other = authority.issue(SERVER);
    let half = &other.certificate_pem()[..other.certificate_pem().len() / 2];
    for (name, broken) in [
        ("half written", [half, &other.key_pem(), authority.root_pem()]),
        ("another one's key", [first.certificate_pem(), &other.key_pem(), authority.root_pem()]),
        ("empty", ["", "", ""]),
    ] {
        let failures = status.borrow().failures;
        files.write(broken);
        watched(status.wait_for(|status| status.failures > failures)).await.unwrap();
        let failure = status.borrow().failure.clone().unwrap().error;
        assert!(failure.contains("tls."), "{name}: {failure}");
        assert_eq!(presented(&running, &caller).await, first.chain[0].to_vec(), "{name}");
    }
    files.write([other.certificate_pem(), &other.key_pem(), authority.root_pem()]);
    watched(status.wait_for(|status| status.failure.is_none() && status.generation == 2)).await.unwrap();
    assert_eq!(presented(&running, &caller).await, other.chain[0].to_vec());
    assert!(load.end().await > 0);
}

/// MT-04: the authority changes: both trust both, the server goes first, then the client, then the old one is gone.
#[tokio::test]
async fn mt_04_a_new_authority_takes_over() {
    let (old, new) = (Authority::new("cluster.local"), Authority::new("cluster.local"));
    let both = || Bundles::new(vec![old.root().clone(), new.root().clone()]);
    let theirs = MemoryIdentity::new(old.issue(SERVER).material(old.bundles()));
    let ours = MemoryIdentity::new(old.issue(CALLER).material(old.bundles()));
    let config = brief().with_settings(identified());
    let builder = Mesh::builder().config(config).identity_source(theirs.clone());
    let running = serve(builder.build().await.unwrap()).await;
    let config = to(&running).with_settings(identified());
    let mesh = Mesh::builder().config(config).identity_source(ours.clone()).build().await.unwrap();
    let load = Load::new(&mesh);
    let in_force = async |mesh: &Mesh, generation| {
        watched(mesh.identity_status().wait_for(|status| status.generation == generation)).await.map(drop).unwrap();
        // Some requests, on new connections among others.
        sleep(Duration::from_millis(700)).await;
    };
    theirs.set(old.issue(SERVER).material(both()));
    in_force(&running.mesh, 2).await;
    ours.set(old.issue(CALLER).material(both()));
    in_force(&mesh, 2).await;
    theirs.set(new.issue(SERVER).material(both()));
    in_force(&running.mesh, 3).await;
    ours.set(new.issue(CALLER).material(both()));
    in_force(&mesh, 3).await;
    theirs.set(new.issue(SERVER).material(new.bundles()));
    in_force(&running.mesh, 4).await;
    ours.set(new.issue(CALLER).material(new.bundles()));
    in_force(&mesh, 4).await;
    assert!(load.end().await > 20);
}
