//! TLS handshakes per second, full and resumed: the mesh's acceptor and connector against tokio-rustls with the same
//! certificates. Both ends live in this process, and each caller waits for both.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use benches::Result;
use benches::args::Args;
use benches::client::Call;
use benches::credentials::{Credentials, HOST, SERVER};
use benches::measure::{candidate, interleave, median, two_workers};
use benches::report::{self, Comparison};
use http::Uri;
use mesh_tonic::Mesh;
use mesh_tonic::mesh_tower::MeshConnector;
use mesh_tonic::server::Acceptor;
use rustls::HandshakeKind;
use rustls::client::Resumption;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tower::{Service, ServiceExt};

const CALLERS: u64 = 8;
/// Handshakes of a run that only prepares.
const WARM_UP: u64 = 2_000;
const PAIRS: usize = 11;

/// Who is at an end of the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Bare,
    Mesh,
}

/// Client and server of the candidate; those of the baseline are bare. And whether sessions are resumed.
const COMPARISONS: &[(&str, End, End, bool)] = &[
    // Bare against bare: what the measure is worth on this machine at this time.
    ("tokio-rustls, full", End::Bare, End::Bare, false),
    ("mesh's acceptor and connector, full", End::Mesh, End::Mesh, false),
    ("mesh's acceptor, full", End::Bare, End::Mesh, false),
    ("mesh's connector, full", End::Mesh, End::Bare, false),
    ("mesh's acceptor and connector, resumed", End::Mesh, End::Mesh, true),
    ("mesh's acceptor, resumed", End::Bare, End::Mesh, true),
    ("mesh's connector, resumed", End::Mesh, End::Bare, true),
];

fn main() -> Result<()> {
    let args = Args::from_env()?;
    let runtime = two_workers()?;
    let credentials = Credentials::issue()?;
    let title = format!("TLS handshakes, both ends in one process: {CALLERS} callers, 2 workers; RPC: a handshake");
    let mut out = report::table(&args, &title)?;

    let mut comparisons = Vec::new();
    for (name, client, server, resumed) in COMPARISONS {
        let baseline_name = if *resumed { "tokio-rustls, resumed" } else { "tokio-rustls, full" };
        if !args.wants(&format!("{name} against {baseline_name}")) {
            continue;
        }
        let handshakes = |client, server| runtime.block_on(Handshakes::new(&credentials, client, server, *resumed));
        let baseline = candidate("tokio-rustls", handshakes(End::Bare, End::Bare)?);
        let candidate = candidate("mesh", handshakes(*client, *server)?);
        let count = match args.rpcs {
            Some(count) => count,
            None => (1.5 * baseline.run(&runtime, CALLERS, WARM_UP)?.rate()) as u64,
        };
        let pairs = interleave(&runtime, &*baseline, &*candidate, CALLERS, count, args.pairs_or(PAIRS))?;
        let comparison = Comparison {
            candidate: (*name).to_owned(),
            baseline: baseline_name.to_owned(),
            connections: None,
            rpcs: count,
            median_ratio: median(pairs.iter().map(|pair| pair.ratio)),
            pairs,
        };
        comparison.write(&mut *out)?;
        let rates = comparison.pairs.iter().map(|pair| pair.candidate_rate / pair.baseline_rate);
        writeln!(out, "handshakes per second, B/A: {:.3}", median(rates))?;
        comparisons.push(comparison);
    }
    report::json(&args, &title, &comparisons)
}

/// What shakes hands, as [`Call`]s. A caller has a lane of its own.
#[derive(Clone)]
struct Handshakes {
    lanes: Arc<Mutex<Vec<Lane>>>,
    resumed: bool,
    /// Whose the servers of the lanes are.
    _serving: Option<Mesh>,
}

/// A listener, and both ends of what is connected to it.
struct Lane {
    listener: TcpListener,
    client: Client,
    /// Two that know nothing of each other's sessions: a client that has last seen the other one resumes nothing.
    servers: [Server; 2],
    /// How many handshakes there were.
    count: usize,
}

enum Client {
    Bare(TlsConnector, SocketAddr),
    /// With the mesh that the connector is of.
    Mesh(MeshConnector, Uri),
}

#[derive(Clone)]
enum Server {
    Bare(TlsAcceptor),
    Mesh(Acceptor),
}

impl Handshakes {
    async fn new(credentials: &Credentials, client: End, server: End, resumed: bool) -> Result<Self> {
        let serving = match server {
            End::Bare => None,
            End::Mesh => Some(serving(credentials).await?),
        };
        let servers = match &serving {
            None => {
                let side = credentials.server();
                [side.bare_server()?, side.bare_server()?].map(|config| Server::Bare(Arc::new(config).into()))
            }
            Some(mesh) => [mesh.acceptor("one")?, mesh.acceptor("two")?].map(Server::Mesh),
        };
        let mut listeners = Vec::new();
        for _ in 0..CALLERS {
            listeners.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?);
        }
        let connector = match client {
            End::Bare => None,
            End::Mesh => Some(calling(credentials, &listeners).await?.connector().http2()),
        };
        let mut lanes = Vec::new();
        for (index, listener) in listeners.into_iter().enumerate() {
            let client = match &connector {
                Some(connector) => Client::Mesh(connector.clone(), format!("https://lane{index}/").parse()?),
                None => {
                    let config = credentials.client().bare_client(b"h2", Resumption::default())?;
                    Client::Bare(TlsConnector::from(Arc::new(config)), listener.local_addr()?)
                }
            };
            lanes.push(Lane { listener, client, servers: servers.clone(), count: 0 });
        }
        Ok(Self { lanes: Arc::new(Mutex::new(lanes)), resumed, _serving: serving })
    }
}

async fn serving(credentials: &Credentials) -> Result<Mesh> {
    let text = format!(
        "servers: [{{ name: one, tls: strict }}, {{ name: two, tls: strict }}]\n{}",
        credentials.server().identity()
    );
    Ok(Mesh::builder().text(text).build().await?)
}

async fn calling(credentials: &Credentials, listeners: &[TcpListener]) -> Result<Mesh> {
    let mut text = credentials.client().identity() + "services:\n";
    for (index, listener) in listeners.iter().enumerate() {
        let address = listener.local_addr()?;
        text += &format!(
            "  lane{index}: {{ backends: {{ all: {{ endpoints: [{address}], tls: {{ mode: mutual, identities: \
             [{SERVER:?}] }} }} }} }}\n"
        );
    }
    Ok(Mesh::builder().text(text).build().await?)
}

impl Call for Handshakes {
    async fn call(&self) -> Result<()> {
        let lane = self.lanes.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut lane = lane.ok_or("there are more callers than lanes")?;
        lane.shake_hands(self.resumed).await?;
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
        Ok(())
    }
}

impl Lane {
    async fn shake_hands(&mut self, resumed: bool) -> Result<()> {
        let expected = if resumed && self.count > 0 { HandshakeKind::Resumed } else { HandshakeKind::Full };
        let server = &self.servers[if resumed { 0 } else { self.count % 2 }];
        let client = async {
            match &mut self.client {
                Client::Bare(connector, address) => {
                    let stream = TcpStream::connect(*address).await?;
                    stream.set_nodelay(true)?;
                    let stream = connector.connect(ServerName::try_from(HOST)?, stream).await?;
                    check(stream.get_ref().1.handshake_kind(), expected)?;
                    take(stream).await
                }
                Client::Mesh(connector, uri) => take(connector.ready().await?.call(uri.clone()).await?).await,
            }
        };
        let server = async {
            let (stream, remote) = self.listener.accept().await?;
            stream.set_nodelay(true)?;
            match server {
                Server::Bare(acceptor) => {
                    let stream = acceptor.accept(stream).await?;
                    check(stream.get_ref().1.handshake_kind(), expected)?;
                    give(stream).await
                }
                Server::Mesh(acceptor) => give(acceptor.accept(stream, Some(remote), None).await?).await,
            }
        };
        tokio::try_join!(client, server)?;
        self.count += 1;
        Ok(())
    }
}

/// The end of the client. It reads what the server says, and the tickets before it.
async fn take(mut stream: impl AsyncRead + Unpin) -> Result<()> {
    stream.read_u8().await?;
    Ok(())
}

/// The end of the server.
async fn give(mut stream: impl AsyncWrite + Unpin) -> Result<()> {
    stream.write_u8(0).await?;
    stream.flush().await?;
    Ok(())
}

fn check(kind: Option<HandshakeKind>, expected: HandshakeKind) -> Result<()> {
    if kind == Some(expected) { Ok(()) } else { Err(format!("{kind:?} in place of {expected:?}").into()) }
}
