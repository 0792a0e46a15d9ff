//! A server that tells what it was asked, over HTTP/1.1, HTTP/2 and gRPC on one port.
//!
//! ```sh
//! cargo run --example echo_server -- --addr 127.0.0.1:8080                       # plaintext
//! MESH_CONFIG=mesh.yaml cargo run --example echo_server -- --server public       # as the configuration says
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a program")]

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use examples::echo::{self, PeerInfo};
use mesh_tonic::prelude::*;
use mesh_tonic::server::{Listener, Peer};
use tokio::net::TcpListener;

const USAGE: &str = "\
usage: echo_server [OPTIONS]

Serves HTTP/1.1, HTTP/2 and gRPC on one port. MESH_CONFIG names the configuration: who gets in, and the limits.

  --addr A        where to listen (default: where the configuration says, or 127.0.0.1:8080)
  --server NAME   which server of the configuration it is (default: its only one; without one, the defaults)
  --server-id S   what it calls itself in its answers (default echo)

HTTP: any path answers JSON { method, path, headers, peer, protocol, server_id };
      /status/CODE, /delay/DURATION, /bytes/N and /fail?percent=P do as they say
gRPC: grpc.testing.TestService, health, reflection

SIGTERM or SIGINT drains it; a second one ends it at once
exit code: 0; 1 if it cannot listen or the configuration is bad; 2 if the arguments are bad";

#[derive(Debug, Default, PartialEq)]
struct Args {
    address: Option<SocketAddr>,
    server: Option<String>,
    server_id: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = match parse(std::env::args().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("{problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // What the mesh has to say, beside the access log.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
        .init();
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Box<dyn Error>> {
    // The access log, where the configuration turns it on.
    let mesh = Mesh::builder().env().access_log(|line: &str| println!("{line}")).build().await?;
    mesh.drain_on_signals();
    let listener = listen(&mesh, &args).await?;
    for address in listener.local_addresses() {
        println!("listening on {address}");
    }
    let mut options = echo::Options::new(args.server_id.unwrap_or_else(|| "echo".to_owned()));
    options.peer = |extensions| {
        let Some(peer) = extensions.get::<Arc<Peer>>() else { return PeerInfo::default() };
        PeerInfo {
            identity: peer.identity().map(ToString::to_string),
            mutual: peer.is_mutual(),
            address: peer.remote_address().map(|address| address.to_string()),
        }
    };
    // It is healthy while the process is ready, and whoever watches it holds up no drain.
    let health = mesh.health_service(&[echo::TEST_SERVICE]);
    let drained = mesh.serve(listener, echo::app(options, health)).await;
    if drained.cut > 0 {
        eprintln!("{} connections were cut", drained.cut);
    }
    Ok(())
}

async fn listen(mesh: &Mesh, args: &Args) -> Result<Listener, Box<dyn Error>> {
    let names = mesh.server_names();
    let name = match (&args.server, &*names) {
        (Some(name), _) => Some(name.as_str()),
        (None, [only]) => Some(&**only),
        (None, []) => None,
        (None, _) => return Err(format!("say which server it is: --server {}", names.join("|")).into()),
    };
    Ok(match (name, args.address) {
        (None, address) => mesh.bind(address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)))).await?,
        (Some(name), None) => mesh.listener(name).await?,
        (Some(name), Some(address)) => {
            let bound = TcpListener::bind(address).await;
            mesh.adopt(name, bound.map_err(|error| format!("--addr {address}: {error}"))?)?
        }
    })
}

/// Reads `words`, the arguments without the program's name. `None` if help is wanted.
fn parse(words: impl IntoIterator<Item = String>) -> Result<Option<Args>, String> {
    let mut args = Args::default();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let (flag, inline) = match word.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        let mut value = || inline.clone().or_else(|| words.next()).ok_or_else(|| format!("{flag} needs a value"));
        match flag {
            "--help" | "-h" => return Ok(None),
            "--addr" => {
                let text = value()?;
                let address = text.parse();
                let address = address.map_err(|_| format!("--addr: {text:?} is no address such as 127.0.0.1:8080"))?;
                args.address = Some(address);
            }
            "--server" => args.server = Some(value()?),
            "--server-id" => args.server_id = Some(value()?),
            _ => return Err(format!("unknown argument {word:?}")),
        }
    }
    Ok(Some(args))
}

#[cfg(test)]
mod tests {
    use super::{Args, parse};

    fn read(line: &str) -> Result<Option<Args>, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments() {
        let args = read("--addr 127.0.0.1:1 --server=public --server-id a").unwrap().unwrap();
        assert_eq!(args.address, Some("127.0.0.1:1".parse().unwrap()));
        assert_eq!((args.server.as_deref(), args.server_id.as_deref()), (Some("public"), Some("a")));
        assert_eq!(read("").unwrap(), Some(Args::default()));
        assert_eq!(read("--help").unwrap(), None);
        assert!(read("--addr here").unwrap_err().contains("\"here\""));
        assert!(read("--server").unwrap_err().contains("needs a value"));
        assert!(read("extra").unwrap_err().contains("extra"));
    }
}
