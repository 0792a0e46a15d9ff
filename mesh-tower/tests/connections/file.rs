//! CF-03, CF-04, CF-06: a configuration file is followed through everything that happens to files.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use mesh_tower::{ConfigStatus, Mesh};
use tempfile::TempDir;

use mesh_tower::testing::{Events, Seen, TestBackend, watched};

use crate::support::{finish, get};

/// Everything to `address`.
fn yaml(address: SocketAddr) -> String {
    format!("services:\n  svc:\n    backends:\n      b:\n        protocol: http2\n        endpoints: [\"{address}\"]\n")
}

/// A directory with a configuration file, a mesh that follows it, and two servers it may name.
struct Followed {
    directory: TempDir,
    path: PathBuf,
    mesh: Mesh,
    events: Events,
    first: TestBackend,
    second: TestBackend,
}

impl Followed {
    async fn start() -> Self {
        Self::start_in(|directory, content| {
            let path = directory.join("mesh.yaml");
            fs::write(&path, content).unwrap();
            path
        })
        .await
    }

    async fn start_in(lay: impl FnOnce(&Path, &str) -> PathBuf) -> Self {
        let (first, second) = (TestBackend::named("first").start(), TestBackend::named("second").start());
        let directory = tempfile::tempdir().unwrap();
        let path = lay(directory.path(), &yaml(first.address()));
        let events = Events::new();
        let mesh = Mesh::builder().file(&path).observer(events.clone()).build().await.unwrap();
        let this = Self { directory, path, mesh, events, first, second };
        this.answers("first").await;
        this
    }

    async fn answers(&self, name: &str) {
        assert_eq!(get(&self.mesh).await.unwrap(), name);
    }

    /// The status once `wanted` holds for it.
    async fn status(&self, wanted: impl FnMut(&ConfigStatus) -> bool) -> ConfigStatus {
        self.mesh.config_status().wait_for(wanted).await.unwrap().clone()
    }

    /// Waits for an error that holds `text`, while requests, also of clients made now, are served as before.
    async fn refuses(&self, version: u64, text: &str) {
        let status = self.status(|status| status.error.is_some()).await;
        let error = status.error.unwrap().to_string();
        assert!(error.contains(text) && error.contains("mesh.yaml"), "{text:?}: {error}");
        assert_eq!(status.version, version);
        self.answers("first").await;
        assert!(self.mesh.service("svc").is_ok());
    }

    /// Waits until version `version` is in force and `name` answers.
    async fn follows(&self, version: u64, name: &str) {
        let status = self.status(|status| status.version >= version && status.error.is_none()).await;
        assert_eq!(status.version, version);
        self.answers(name).await;
    }

    fn refusals(&self) -> usize {
        self.events.count(|seen| matches!(seen, Seen::Config { error: Some(_), .. }))
    }
}

#[tokio::test]
async fn cf_04_a_file_that_is_renamed_over() {
    watched(async {
        let followed = Followed::start().await;
        let next = followed.directory.path().join("next.yaml");
        fs::write(&next, yaml(followed.second.address())).unwrap();
        fs::rename(&next, &followed.path).unwrap();
        followed.follows(2, "second").await;
        // The endpoint that left is closed.
        followed.first.deserted().await;
        assert_eq!(followed.refusals(), 0);
        finish(followed.mesh).await;
    })
    .await;
}

/// Kubernetes' AtomicWriter: `mesh.yaml -> ..data/mesh.yaml`, `..data -> ..2024_01`; an update swaps `..data`.
#[tokio::test]
async fn cf_04_a_symlink_that_is_swapped() {
    watched(async {
        let followed = Followed::start_in(|directory, content| {
            fs::create_dir(directory.join("..2024_01")).unwrap();
            fs::write(directory.join("..2024_01/mesh.yaml"), content).unwrap();
            symlink("..2024_01", directory.join("..data")).unwrap();
            symlink("..data/mesh.yaml", directory.join("mesh.yaml")).unwrap();
            directory.join("mesh.yaml")
        })
        .await;
        let directory = followed.directory.path();
        fs::create_dir(directory.join("..2024_02")).unwrap();
        fs::write(directory.join("..2024_02/mesh.yaml"), yaml(followed.second.address())).unwrap();
        symlink("..2024_02", directory.join("..data_tmp")).unwrap();
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
        fs::remove_dir_all(directory.join("..2024_01")).unwrap();
        followed.follows(2, "second").await;
        assert_eq!(followed.refusals(), 0);
        finish(followed.mesh).await;
    })
    .await;
}

#[tokio::test]
async fn cf_04_a_file_that_is_written_in_pieces() {
    watched(async {
        let followed = Followed::start().await;
        let content = yaml(followed.second.address());
        let (head, tail) = content.split_at(content.len() / 2);
        let mut file = fs::File::create(&followed.path).unwrap();
        std::io::Write::write_all(&mut file, head.as_bytes()).unwrap();
        file.sync_all().unwrap();
        std::io::Write::write_all(&mut file, tail.as_bytes()).unwrap();
        drop(file);
        followed.follows(2, "second").await;
        // Neither the empty nor the half file was taken for one.
        assert_eq!(followed.refusals(), 0);
        finish(followed.mesh).await;
    })
    .await;
}

/// CF-03 and CF-04: the last good one stays until there is a better one.
#[tokio::test]
async fn cf_04_a_file_that_goes_away_and_comes_back() {
    watched(async {
        let followed = Followed::start().await;
        let same = fs::read(&followed.path).unwrap();
        fs::remove_file(&followed.path).unwrap();
        followed.refuses(1, "No such file").await;
        // As it was: the error is gone, and no connection was touched.
        fs::write(&followed.path, &same).unwrap();
        followed.follows(2, "first").await;
        assert_eq!(followed.first.connections(), 1);
        // A directory in its place cannot be read.
        fs::remove_file(&followed.path).unwrap();
        fs::create_dir(&followed.path).unwrap();
        followed.refuses(2, "directory").await;
        fs::remove_dir(&followed.path).unwrap();
        fs::write(&followed.path, &same).unwrap();
        followed.follows(3, "first").await;
        // Its whole directory may go.
        let away = followed.directory.path().with_extension("away");
        fs::rename(followed.directory.path(), &away).unwrap();
        followed.refuses(3, "No such file").await;
        fs::rename(&away, followed.directory.path()).unwrap();
        fs::write(&followed.path, yaml(followed.second.address())).unwrap();
        followed.status(|status| status.version >= 4 && status.error.is_none()).await;
        while get(&followed.mesh).await.unwrap() != "second" {
            tokio::task::yield_now().await;
        }
        assert_eq!(followed.refusals(), 3);
        finish(followed.mesh).await;
    })
    .await;
}

/// CF-03 and CF-06: what is no configuration is refused, and told with its place.
#[tokio::test]
async fn cf_03_bad_content_keeps_the_last_good_one() {
    watched(async {
        let followed = Followed::start().await;
        let good = fs::read(&followed.path).unwrap();
        let mut version = 1;
        for (bad, text) in [
            ("services: [", ":1:"),
            ("services:\n  svc:\n    backends:\n      b: { endpoints: [\"127.0.0.1:1\"], nonsense: 1 }\n", "nonsense"),
            ("services: {}\n", "services"),
            // CF-06: nothing is no configuration, and does not delete all.
            ("", "empty"),
            ("# only a comment\n\n", "empty"),
            ("\u{0}\u{1}\u{2}", "mesh.yaml"),
        ] {
            fs::write(&followed.path, bad).unwrap();
            followed.refuses(version, text).await;
            fs::write(&followed.path, &good).unwrap();
            version += 1;
            followed.follows(version, "first").await;
        }
        assert_eq!(followed.first.connections(), 1);
        finish(followed.mesh).await;
    })
    .await;
}

/// At the start there is no last good one: the mesh is not built.
#[tokio::test]
async fn cf_06_no_mesh_starts_without_a_configuration() {
    watched(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mesh.yaml");
        let error = Mesh::builder().file(&path).build().await.unwrap_err();
        assert!(error.to_string().contains("mesh.yaml"), "{error}");
        for content in ["", "# nothing\n", "services: ["] {
            fs::write(&path, content).unwrap();
            let error = Mesh::builder().file(&path).build().await.unwrap_err();
            assert!(error.to_string().contains("mesh.yaml"), "{content:?}: {error}");
        }
    })
    .await;
}

/// CF-14: a file that changes all the time is read all the same, and its last state wins.
#[tokio::test]
async fn cf_14_the_last_of_many_writes_wins() {
    watched(async {
        let followed = Followed::start().await;
        let mut status = followed.mesh.config_status();
        // It changes at least once between any two looks: the writer stops only after it was read in between.
        let mut restless = true;
        let mut round = 0;
        while restless {
            round += 1;
            let content = format!("{}# {round}\n", yaml(followed.first.address()));
            fs::write(&followed.path, content).unwrap();
            tokio::select! {
                changed = status.changed() => restless = changed.is_err(),
                () = tokio::task::yield_now() => {}
            }
        }
        fs::write(&followed.path, yaml(followed.second.address())).unwrap();
        while get(&followed.mesh).await.unwrap() != "second" {
            tokio::task::yield_now().await;
        }
        assert!(followed.mesh.config_status().borrow().error.is_none());
        finish(followed.mesh).await;
    })
    .await;
}
