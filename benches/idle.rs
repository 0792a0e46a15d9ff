//! Memory of a server per idle connection: TLS by both sides, one request each, then silence.
//!
//! The clients live in this process, and each of the two has a file for every connection: `ulimit -n` must allow for
//! that, or there are fewer connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use benches::args::Args;
use benches::credentials::{Credentials, HOST};
use benches::measure::{median, two_workers};
use benches::subject::{Around, Framework, Kind, Subjects};
use benches::{Result, process, report};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::client::Resumption;
use rustls_pki_types::ServerName;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const CONNECTIONS: u64 = 10_000;
/// Connections before those that count: the server's tables, buffers and threads have grown by then.
const FIRST: u64 = 200;
/// Connections that are made at once.
const AT_ONCE: u64 = 64;
/// Files beside those of connections.
const OTHER_FILES: u64 = 100;
const ROUNDS: usize = 3;
/// How long the servers are left alone before they are measured.
const SETTLE: Duration = Duration::from_secs(2);

const KINDS: [Kind; 2] =
    [Kind::mutual(Framework::Hyper, Around::Nothing), Kind::mutual(Framework::Hyper, Around::Mesh)];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

#[derive(Serialize)]
struct Row {
    protocol: &'static str,
    connections: u64,
    /// Bytes of a connection, round by round.
    bare: Vec<f64>,
    mesh: Vec<f64>,
    ratio: f64,
}

fn main() -> Result<()> {
    let args = Args::from_env()?;
    let runtime = two_workers()?;
    let credentials = Credentials::issue()?;
    let connections = args.rpcs.unwrap_or(CONNECTIONS).min(allowed()?);
    let title = format!("resident memory of a server per idle TLS connection, {connections} of them");
    let mut out = report::table(&args, &title)?;
    if connections < args.rpcs.unwrap_or(CONNECTIONS) {
        writeln!(out, "fewer than asked for: no more files may be open (`ulimit -n`)")?;
    }
    let mut rows = Vec::new();
    for protocol in [Protocol::Http1, Protocol::Http2].into_iter().filter(|protocol| args.wants(protocol.name())) {
        let mut row = Row { protocol: protocol.name(), connections, bare: vec![], mesh: vec![], ratio: f64::NAN };
        writeln!(out, "\n{}\n   round   bare bytes   mesh bytes      B/A", row.protocol)?;
        for round in 1..=args.pairs_or(ROUNDS) {
            let each = |kind| runtime.block_on(bytes(kind, protocol, &credentials, connections));
            let (bare, mesh) = (each(KINDS[0])?, each(KINDS[1])?);
            writeln!(out, "  {round:>6} {bare:>12.0} {mesh:>12.0} {:>8.3}", mesh / bare)?;
            row.bare.push(bare);
            row.mesh.push(mesh);
        }
        row.ratio = median(row.mesh.iter().zip(&row.bare).map(|(mesh, bare)| mesh / bare));
        writeln!(out, "  median ratio {:.3}", row.ratio)?;
        rows.push(row);
    }
    report::json(&args, &title, &rows)
}

/// How many connections the limits on files allow for; a server inherits that of this process, and uses one more of them
/// for each connection in flight.
fn allowed() -> Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard.saturating_sub(FIRST + AT_ONCE + OTHER_FILES))
}

/// What a connection to a server of this kind takes, in a process of its own.
async fn bytes(kind: Kind, protocol: Protocol, credentials: &Credentials, connections: u64) -> Result<f64> {
    let subjects = Subjects::spawn(env!("CARGO_BIN_EXE_subject-server"), &[kind], Some(credentials))?;
    let address = *subjects.addresses().first().ok_or("the server has no port")?;
    let config = credentials.client().bare_client(protocol.alpn(), Resumption::disabled())?;
    let connector = TlsConnector::from(Arc::new(config));
    let first = protocol.open(address, &connector, FIRST).await?;
    tokio::time::sleep(SETTLE).await;
    let before = process::resident(subjects.id())?;
    let open = protocol.open(address, &connector, connections).await?;
    tokio::time::sleep(SETTLE).await;
    let after = process::resident(subjects.id())?;
    if first.iter().chain(&open).any(Idle::is_closed) {
        return Err("a connection did not stay open".into());
    }
    Ok(after.saturating_sub(before) as f64 / connections as f64)
}

/// A connection that is kept.
enum Idle {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Idle {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }

    fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }

    async fn open(self, address: SocketAddr, connector: &TlsConnector, count: u64) -> Result<Vec<Idle>> {
        let mut open = Vec::new();
        let mut opening = JoinSet::new();
        for started in 0..count {
            if started >= AT_ONCE {
                open.extend(opening.join_next().await.transpose()?.transpose()?);
            }
            let connector = connector.clone();
            opening.spawn(async move { self.one(address, &connector).await });
        }
        while let Some(connection) = opening.join_next().await {
            open.push(connection??);
        }
        Ok(open)
    }

    async fn one(self, address: SocketAddr, connector: &TlsConnector) -> Result<Idle> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream: TlsStream<TcpStream> = connector.connect(ServerName::try_from(HOST)?, stream).await?;
        let io = TokioIo::new(stream);
        match self {
            Self::Http1 => {
                let (mut sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                let request = Request::get("/hello").header("host", HOST).body(Empty::new())?;
                read(sender.send_request(request).await?.into_body()).await?;
                Ok(Idle::Http1(sender))
            }
            Self::Http2 => {
                let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                let request = Request::get(format!("https://{HOST}/hello")).body(Empty::new())?;
                read(sender.send_request(request).await?.into_body()).await?;
                Ok(Idle::Http2(sender))
            }
        }
    }
}

async fn read(body: Incoming) -> Result<()> {
    if body.collect().await?.to_bytes() == "hello" { Ok(()) } else { Err("another answer than asked for".into()) }
}
