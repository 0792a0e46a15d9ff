//! Envoy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::{PATIENCE, Process, Ran, client, program, run, until};

/// Port 0 here too: the kernel chooses, and Envoy writes it into a file.
const ADMIN: &str = "\nadmin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\n";

/// An Envoy, the program that `MESH_PEER_ENVOY` names. It ends when dropped, without draining.
#[derive(Debug)]
pub struct Envoy {
    // Before the directory that it writes into, so that it ends first.
    process: Process,
    _directory: TempDir,
    admin: SocketAddr,
    listeners: BTreeMap<String, SocketAddr>,
}

impl Envoy {
    /// Starts one, and returns when it is ready. `config` is its bootstrap in YAML, without `admin`; its listeners have
    /// names, and are on port 0 of loopback addresses.
    ///
    /// # Panics
    /// If the variable is not set, or the program does not come up.
    pub async fn start(config: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let path = directory.path().join("envoy.yaml");
        std::fs::write(&path, format!("{config}{ADMIN}")).expect("the directory can be written to");
        let admin = directory.path().join("admin");
        let mut command = Command::new(program("MESH_PEER_ENVOY"));
        command.arg("-c").arg(&path).arg("--admin-address-path").arg(&admin);
        // Two Envoys must not take each other for a predecessor. Access logs are written at once.
        command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]);
        command.args(["--file-flush-interval-msec", "20"]);
        let process = Process::start("envoy", command);
        let admin = tokio::select! {
            admin = until("address of Envoy's admin interface", async || written(&admin)) => admin,
            () = process.ended() => panic!("envoy ended before it was ready"),
        };
        let mut envoy = Self { process, _directory: directory, admin, listeners: BTreeMap::new() };
        until("ready Envoy", async || match envoy.admin_get("/ready").await? {
            ready if ready.trim() == "LIVE" => Ok(()),
            other => Err(other),
        })
        .await;
        let listeners = envoy.admin_get("/listeners?format=json").await.expect("it has just answered");
        envoy.listeners = listening(&listeners).unwrap_or_else(|| panic!("no addresses in {listeners}"));
        envoy
    }

    /// What Envoy has against a bootstrap, if anything, which it reads as [`start`](Self::start) does; it opens no port.
    ///
    /// # Errors
    /// What is wrong with it.
    ///
    /// # Panics
    /// If the variable is not set, or the program cannot be run.
    pub async fn validate(config: &str) -> Result<(), String> {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let path = directory.path().join("envoy.yaml");
        std::fs::write(&path, format!("{config}{ADMIN}")).expect("the directory can be written to");
        let arguments = ["--mode".as_ref(), "validate".as_ref(), "-l".as_ref(), "error".as_ref(), "-c".as_ref()];
        let arguments = arguments.into_iter().chain([path.as_os_str()]);
        let ran: Ran = run("MESH_PEER_ENVOY", arguments, b"", PATIENCE).await;
        if ran.code == Some(0) { Ok(()) } else { Err(ran.said()) }
    }

    /// Where the listener of that name listens.
    ///
    /// # Panics
    /// If there is none.
    pub fn listener(&self, name: &str) -> SocketAddr {
        *self.listeners.get(name).unwrap_or_else(|| panic!("no listener {name}: there are {:?}", self.listeners))
    }

    /// Where its admin interface is.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The program itself.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The body of its answer to `GET <path>` of the admin interface.
    ///
    /// # Errors
    /// What went wrong on the way.
    pub async fn admin_get(&self, path: &str) -> Result<String, String> {
        let answer = client::get(self.admin, path).await.map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(answer.body()).into_owned())
    }

    /// The counter or gauge of that name, such as `listener.admin.downstream_cx_total`; 0 if there is none, as Envoy makes
    /// some of them when they are first counted.
    ///
    /// # Errors
    /// What went wrong on the way.
    pub async fn stat(&self, name: &str) -> Result<u64, String> {
        let stats = self.admin_get("/stats").await?;
        let value = stats.lines().find_map(|line| line.split_once(": ").filter(|(found, _)| *found == name));
        let Some((_, value)) = value else { return Ok(0) };
        value.parse().map_err(|_| format!("{name} is no number: {value}"))
    }
}

fn written(path: &Path) -> Result<SocketAddr, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    text.trim().parse().map_err(|_| format!("it is {text:?}"))
}

fn listening(answer: &str) -> Option<BTreeMap<String, SocketAddr>> {
    let answer: Value = serde_json::from_str(answer).ok()?;
    let Some(listeners) = answer["listener_statuses"].as_array() else { return Some(BTreeMap::new()) };
    let listener = |status: &Value| {
        let at = &status["local_address"]["socket_address"];
        let address =
            SocketAddr::new(at["address"].as_str()?.parse().ok()?, at["port_value"].as_u64()?.try_into().ok()?);
        Some((status["name"].as_str()?.to_owned(), address))
    };
    listeners.iter().map(listener).collect()
}
