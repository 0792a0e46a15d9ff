//! SPIRE: a server that issues identities, and an agent that hands them to workloads by the SPIFFE Workload API.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::{PATIENCE, Process, program, run, until};

/// The trust domain of every SPIRE here.
const TRUST_DOMAIN: &str = "cluster.local";

/// A SPIRE server and an agent, the programs that `MESH_PEER_SPIRE_SERVER` and `MESH_PEER_SPIRE_AGENT` name, of the trust
/// domain `cluster.local`. To the agent every process of this user is the same workload. They end when dropped.
#[derive(Debug)]
pub struct Spire {
    // In the order in which they end: each needs what comes after it.
    agent: Process,
    server: Process,
    directory: TempDir,
}

/// What SPIRE's own client of the Workload API got.
#[derive(Debug, Clone)]
pub struct Svid {
    /// The SPIFFE id.
    pub identity: String,
    /// The certificate, and those between it and the root, in PEM.
    pub certificate_pem: String,
    /// The roots of its trust domain, in PEM.
    pub bundle_pem: String,
}

impl Spire {
    /// Starts both, and returns when the agent serves workloads. There are no identities for them yet.
    ///
    /// # Panics
    /// If a variable is not set, or a program does not come up.
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let (server, address) = start_server(&directory).await;
        let token = server_command(&directory, &["token", "generate", "-spiffeID", &agent_identity()]).await;
        let token = token["value"].as_str().unwrap_or_else(|| panic!("no token in {token}"));
        let config = format!(
            "
agent {{
  server_address = \"{}\"
  server_port = \"{}\"
  socket_path = \"{}\"
  trust_domain = \"{TRUST_DOMAIN}\"
  data_dir = \"{}\"
  insecure_bootstrap = true
  join_token = \"{token}\"
  # How often it asks the server for what has changed.
  experimental {{ sync_interval = \"200ms\" }}
}}
plugins {{
  KeyManager \"memory\" {{ plugin_data {{}} }}
  NodeAttestor \"join_token\" {{ plugin_data {{}} }}
  WorkloadAttestor \"unix\" {{ plugin_data {{}} }}
}}
",
            address.ip(),
            address.port(),
            directory.path().join("agent.sock").display(),
            directory.path().join("agent").display(),
        );
        let path = directory.path().join("agent.conf");
        std::fs::write(&path, config).expect("the directory can be written to");
        let mut command = Command::new(program("MESH_PEER_SPIRE_AGENT"));
        command.arg("run").arg("-config").arg(path);
        let agent = Process::start("spire-agent", command);
        agent
            .said("that it serves workloads", |line| line.contains("Starting Workload and SDS APIs").then_some(()))
            .await;
        Self { agent, server, directory }
    }

    /// Where the agent serves the Workload API: a Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    /// The agent itself.
    pub fn agent(&self) -> &Process {
        &self.agent
    }

    /// The server itself.
    pub fn server(&self) -> &Process {
        &self.server
    }

    /// Gives this user's processes the identity `path`, as in `ns/default/sa/shop`, with certificates that are valid for
    /// `ttl`, which the agent renews after half of it. The agent learns of it soon after. What names the registration.
    ///
    /// # Panics
    /// If the server refuses that.
    pub async fn register(&self, path: &str, ttl: Duration) -> String {
        let identity = format!("spiffe://{TRUST_DOMAIN}/{path}");
        let (selector, ttl) = (format!("unix:uid:{}", nix::unistd::getuid()), ttl.as_secs().to_string());
        let arguments = ["entry", "create", "-parentID", &agent_identity(), "-spiffeID", &identity];
        let more = ["-selector", &selector, "-x509SVIDTTL", &ttl];
        let told = server_command(&self.directory, &[&arguments[..], &more].concat()).await;
        let id = told["results"][0]["entry"]["id"].as_str();
        id.unwrap_or_else(|| panic!("{identity} was not registered: {told}")).to_owned()
    }

    /// Takes a registration back. The agent learns of it soon after.
    ///
    /// # Panics
    /// If the server refuses that.
    pub async fn unregister(&self, registration: &str) {
        server_command(&self.directory, &["entry", "delete", "-entryID", registration]).await;
    }

    /// What SPIRE's own client gets from the agent now.
    ///
    /// # Errors
    /// What the agent has against it: there is no identity for this user, perhaps.
    ///
    /// # Panics
    /// If the client cannot be run.
    pub async fn fetch(&self) -> Result<Vec<Svid>, String> {
        let written = tempfile::tempdir().expect("a temporary directory can be made");
        let (socket, into) = (self.socket().display().to_string(), written.path().display().to_string());
        let arguments = ["api", "fetch", "x509", "-socketPath", &socket, "-timeout", "10s", "-write", &into];
        let ran = run("MESH_PEER_SPIRE_AGENT", arguments, b"", PATIENCE).await;
        if ran.code != Some(0) {
            return Err(ran.said());
        }
        let read = |name: String| std::fs::read_to_string(written.path().join(name)).expect("it was written");
        let identities = ran.output.lines().filter_map(|line| line.strip_prefix("SPIFFE ID:"));
        let svid = |(index, identity): (usize, &str)| Svid {
            identity: identity.trim().to_owned(),
            certificate_pem: read(format!("svid.{index}.pem")),
            bundle_pem: read(format!("bundle.{index}.pem")),
        };
        Ok(identities.enumerate().map(svid).collect())
    }

    /// Waits until the agent gives out just these identities, by their paths.
    ///
    /// # Panics
    /// If it does not within a minute.
    pub async fn gives(&self, paths: &[&str]) {
        let wanted: Vec<_> = paths.iter().map(|path| format!("spiffe://{TRUST_DOMAIN}/{path}")).collect();
        until("such identities", async || {
            let got = match self.fetch().await {
                Err(error) if error.contains("PermissionDenied") => Vec::new(),
                other => other?,
            };
            let mut got: Vec<_> = got.into_iter().map(|svid| svid.identity).collect();
            got.sort();
            if got == wanted { Ok(()) } else { Err(format!("they are {got:?}")) }
        })
        .await;
    }
}

/// What registrations have the agent by: its token stands for this identity.
fn agent_identity() -> String {
    format!("spiffe://{TRUST_DOMAIN}/agent")
}

/// SPIRE takes port 0 for its default. So the kernel is asked for a port that nobody has, and asked again if somebody was
/// faster.
async fn start_server(directory: &TempDir) -> (Process, SocketAddr) {
    let socket = directory.path().join("server.sock");
    for _ in 0..5 {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let address = free.expect("there are ports of the loopback interface");
        let config = format!(
            "
server {{
  bind_address = \"{}\"
  bind_port = \"{}\"
  socket_path = \"{}\"
  trust_domain = \"{TRUST_DOMAIN}\"
  data_dir = \"{}\"
}}
plugins {{
  DataStore \"sql\" {{ plugin_data {{ database_type = \"sqlite3\" connection_string = \"{}\" }} }}
  KeyManager \"memory\" {{ plugin_data {{}} }}
  NodeAttestor \"join_token\" {{ plugin_data {{}} }}
}}
",
            address.ip(),
            address.port(),
            socket.display(),
            directory.path().join("server").display(),
            directory.path().join("data.sqlite3").display(),
        );
        let path = directory.path().join("server.conf");
        std::fs::write(&path, config).expect("the directory can be written to");
        let mut command = Command::new(program("MESH_PEER_SPIRE_SERVER"));
        command.arg("run").arg("-config").arg(path);
        let process = Process::start("spire-server", command);
        let ready = tokio::select! {
            () = until("SPIRE server", async || healthy(&socket.display().to_string()).await) => true,
            () = process.ended() => false,
        };
        if ready {
            return (process, address);
        }
        assert!(process.output().contains("address already in use"), "spire-server: {}", process.output());
    }
    panic!("five ports that were free were taken at once");
}

async fn healthy(socket: &str) -> Result<(), String> {
    let ran = run("MESH_PEER_SPIRE_SERVER", ["healthcheck", "-socketPath", socket], b"", PATIENCE).await;
    if ran.code == Some(0) { Ok(()) } else { Err(ran.said()) }
}

/// Asks the server by its socket, which belongs to whoever runs it.
async fn server_command(directory: &TempDir, words: &[&str]) -> Value {
    let socket = directory.path().join("server.sock").display().to_string();
    let arguments = words.iter().copied().chain(["-socketPath", &socket, "-output", "json"]);
    let ran = run("MESH_PEER_SPIRE_SERVER", arguments, b"", PATIENCE).await;
    assert_eq!(ran.code, Some(0), "{words:?}: {}", ran.said());
    serde_json::from_str(&ran.output).unwrap_or_else(|error| panic!("{words:?}: {error}: {}", ran.output))
}
