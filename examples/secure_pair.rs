//! Two services that talk strict mutual TLS while their certificates, which live 10 s, are replaced all the time; a third
//! one that is not expected, and a caller without TLS. Nothing to set up.
//!
//! ```sh
//! cargo run --example secure_pair
//! ```
//!
//! Ends by itself, after 30 s; the exit code is 0 if no request of the expected caller failed, and nobody else got in.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a program")]

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use examples::certs::{Authority, Leaf, Swap};
use http::{Request, Response};
use mesh_tonic::prelude::*;
use mesh_tonic::server::Peer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until, timeout};
use tower::service_fn;

const DURATION: Duration = Duration::from_secs(30);
/// How long a certificate lives, and after which time it is replaced.
const LIFE: Duration = Duration::from_secs(10);
const RENEWED: Duration = Duration::from_secs(3);
/// Between two requests.
const PACE: Duration = Duration::from_millis(10);
const SERVER: &str = "spiffe://cluster.local/ns/default/sa/catalog";
const EXPECTED: &str = "spiffe://cluster.local/ns/default/sa/shop";
const STRANGER: &str = "spiffe://cluster.local/ns/default/sa/stranger";

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(problems) if problems.is_empty() => {
            println!("everything as expected");
            ExitCode::SUCCESS
        }
        Ok(problems) => {
            problems.iter().for_each(|problem| eprintln!("NOT as expected: {problem}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What did not go as it should.
async fn run() -> Result<Vec<String>, Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let authority = Arc::new(Authority::new("cluster.local")?);
    let renewals = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for id in [SERVER, EXPECTED, STRANGER] {
        let home = home(directory.path(), id);
        renew(&authority, id, &home)?;
        let (authority, renewals) = (Arc::clone(&authority), Arc::clone(&renewals));
        tasks.spawn(async move {
            let mut ticks = interval(RENEWED);
            ticks.tick().await;
            loop {
                ticks.tick().await;
                match renew(&authority, id, &home) {
                    Ok(()) => renewals.fetch_add(1, Ordering::Relaxed),
                    Err(error) => panic!("the certificate of {id} cannot be renewed: {error}"),
                };
            }
        });
    }

    let server = Mesh::builder().text(server_config(directory.path())).build().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let seen = Arc::new(Seen::default());
    let handler = {
        let seen = Arc::clone(&seen);
        service_fn(move |request: Request<_>| {
            let peer = request.extensions().get::<Arc<Peer>>().cloned();
            seen.note(peer.as_deref());
            async { Ok::<_, Infallible>(Response::new("hello".to_owned())) }
        })
    };
    let serving = tokio::spawn(server.serve(server.adopt("public", listener)?, handler));

    println!("{SERVER} serves on {address}, to {EXPECTED} alone, for {} s", DURATION.as_secs());
    let until = Instant::now() + DURATION;
    let shop = Mesh::builder().text(client_config(directory.path(), EXPECTED, address)).build().await?;
    let stranger = Mesh::builder().text(client_config(directory.path(), STRANGER, address)).build().await?;
    let (expected, strange, plain) =
        tokio::join!(call(&shop, until), call_as_stranger(&stranger, until), call_in_plaintext(address, until));

    let identity = server.identity().ok_or("the server has lost its identity")?;
    println!("requests of the expected caller: {} answered, {} failed", expected.answered, expected.failures.len());
    println!("requests of the stranger: {} answered, {} refused", strange.answered, strange.failures.len());
    if let Some(refusal) = strange.failures.first() {
        println!("  as in: {refusal}");
    }
    println!("callers in plaintext: {} answered, {} turned away", plain.answered, plain.failures.len());
    println!(
        "certificates: renewed {} times, {} identities of the server so far, {} certificates of the caller seen",
        renewals.load(Ordering::Relaxed),
        identity.generation(),
        seen.serials().len()
    );
    server.drain().await;
    let drained = serving.await?;
    shop.shutdown().await;
    stranger.shutdown().await;
    server.shutdown().await;

    let mut problems: Vec<_> =
        expected.failures.iter().take(5).map(|error| format!("a request failed: {error}")).collect();
    let mut expect = |holds: bool, what: &str| {
        if !holds {
            problems.push(what.to_owned());
        }
    };
    expect(
        expected.answered as u128 >= DURATION.as_millis() / PACE.as_millis() * 9 / 10,
        "too few requests were answered",
    );
    expect(strange.answered == 0 && !strange.failures.is_empty(), "the stranger got in, or did not try");
    expect(plain.answered == 0 && !plain.failures.is_empty(), "plaintext was answered, or not tried");
    expect(seen.others() == 0, "the server has seen somebody else than the expected caller");
    expect(seen.serials().len() >= 3, "the connections did not follow the certificates");
    expect(drained.cut == 0, "the server had to cut connections");
    Ok(problems)
}

/// What became of requests.
#[derive(Default)]
struct Calls {
    answered: u64,
    failures: Vec<String>,
}

/// A hundred requests a second, over HTTP/1.1 and HTTP/2 by turns.
async fn call(mesh: &Mesh, until: Instant) -> Calls {
    let client = mesh.http_client();
    let mut running = JoinSet::new();
    let mut ticks = interval(PACE);
    let mut urls = ["http://catalog-h1/", "http://catalog-h2/"].iter().cycle();
    while Instant::now() < until {
        ticks.tick().await;
        if let Some(url) = urls.next() {
            let request = client.get(*url);
            running.spawn(async move {
                let response = request.await.map_err(|error| error.to_string())?;
                let text = response.into_body().string().await.map_err(|error| error.to_string())?;
                if text == "hello" { Ok(()) } else { Err(format!("another answer: {text}")) }
            });
        }
    }
    let mut calls = Calls::default();
    for ended in running.join_all().await {
        match ended {
            Ok(()) => calls.answered += 1,
            Err(error) => calls.failures.push(error),
        }
    }
    calls
}

async fn call_as_stranger(mesh: &Mesh, until: Instant) -> Calls {
    let mut calls = Calls::default();
    while Instant::now() < until {
        match mesh.http_client().get("http://catalog-h2/").await {
            Ok(_) => calls.answered += 1,
            Err(error) => calls.failures.push(error.to_string()),
        }
        sleep_until(until.min(Instant::now() + Duration::from_secs(1))).await;
    }
    calls
}

async fn call_in_plaintext(address: SocketAddr, until: Instant) -> Calls {
    let mut calls = Calls::default();
    while Instant::now() < until {
        let answer = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(b"GET / HTTP/1.1\r\nhost: catalog\r\n\r\n").await?;
            let mut answer = Vec::new();
            // A reset is an answer of no bytes, too.
            let _ = stream.read_to_end(&mut answer).await;
            std::io::Result::Ok(answer)
        };
        match timeout(Duration::from_secs(5), answer).await {
            Ok(Ok(answer)) if answer.is_empty() => calls.failures.push("no answer".to_owned()),
            Ok(Err(error)) => calls.failures.push(error.to_string()),
            Ok(Ok(_)) | Err(_) => calls.answered += 1,
        }
        sleep_until(until.min(Instant::now() + Duration::from_secs(1))).await;
    }
    calls
}

/// Whom the server has seen.
#[derive(Default)]
struct Seen {
    serials: Mutex<BTreeSet<String>>,
    others: AtomicU64,
}

impl Seen {
    fn note(&self, peer: Option<&Peer>) {
        match peer
            .and_then(Peer::certified)
            .filter(|certified| certified.id().is_some_and(|id| id.as_str() == EXPECTED))
        {
            Some(certified) => {
                let mut serials = self.serials.lock().unwrap_or_else(PoisonError::into_inner);
                if !serials.contains(certified.serial()) {
                    serials.insert(certified.serial().to_owned());
                }
            }
            None => {
                self.others.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn serials(&self) -> BTreeSet<String> {
        self.serials.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn others(&self) -> u64 {
        self.others.load(Ordering::Relaxed)
    }
}

/// Where the files of an identity are.
fn home(directory: &Path, id: &str) -> PathBuf {
    directory.join(id.rsplit('/').next().unwrap_or(id))
}

/// Puts a new certificate there: both files at once where there are symlinks, else one after the other.
fn renew(authority: &Authority, id: &str, home: &Path) -> Result<(), examples::certs::Error> {
    #[cfg(unix)]
    let swap = Swap::Symlink;
    #[cfg(not(unix))]
    let swap = Swap::Files;
    authority.issue(&Leaf::new(id).ttl(LIFE))?.write_to(home, swap)
}

fn identity(directory: &Path, id: &str) -> String {
    let home = home(directory, id);
    let file = |name: &str| home.join(name).display().to_string();
    format!(
        "identity: {{ certificate: '{}', key: '{}', trust_bundle: '{}', refresh_interval: 250ms }}\n",
        file("tls.crt"),
        file("tls.key"),
        file("ca.crt")
    )
}

fn server_config(directory: &Path) -> String {
    format!(
        "{}servers:\n- name: public\n  tls: {{ mode: strict, identities: ['{EXPECTED}'] }}\n  drain: {{ delay: 0s, grace: 5s }}\n",
        identity(directory, SERVER)
    )
}

fn client_config(directory: &Path, id: &str, address: SocketAddr) -> String {
    let service = |name: &str, protocol: &str| {
        format!(
            "  {name}:\n    backends:\n      it:\n        endpoints: ['{address}']\n        protocol: {protocol}\n        \
             tls: {{ mode: mutual, identities: ['{SERVER}'] }}\n"
        )
    };
    format!(
        "{}services:\n{}{}",
        identity(directory, id),
        service("catalog-h1", "http1"),
        service("catalog-h2", "http2")
    )
}
