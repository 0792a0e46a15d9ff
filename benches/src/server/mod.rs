//! The server that every benchmark calls, in a process of its own.
//!
//! ```text
//! benchmark                                          greeter-server
//!   Server::spawn(exe, n) ── argument n ──────────────▶ binds n ports
//!   endpoints, control_plane ◀── stdout: a line of JSON ── {"endpoints": [..], "control_plane": ..}
//!   connections() ── stdin: an empty line ────────────▶
//!                 ◀── stdout: a number ──────────────── connections accepted so far
//!   tell(endpoint, manner) ── stdin: a line of JSON ──▶ answers so from now on
//!                 ◀── stdout: a number ──────────────── as above
//!   drop ── stdin: end of file ───────────────────────▶ exits
//! ```

mod app;
#[cfg(feature = "peers")]
mod control_plane;
mod handle;
mod manner;

use std::io::{BufRead, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use self::manner::{Conduct, Order};
use crate::Result;

pub(crate) use app::Hello;
pub use handle::Server;
pub use manner::{Manner, WORKERS};

/// The most connections a port has open at once.
const MAX_CONNECTIONS: usize = 1024;

/// What the server says once it listens.
#[derive(Debug, Serialize, Deserialize)]
struct Listening {
    endpoints: Vec<SocketAddr>,
    control_plane: Option<SocketAddr>,
}

/// Serves until standard input ends: the whole of the server's `main`.
///
/// # Errors
/// If the only argument is not a number of ports, or a port cannot be bound.
pub fn run() -> Result<()> {
    let ports: usize = std::env::args().nth(1).ok_or("the number of ports is missing")?.parse()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;

    let accepted = Arc::new(AtomicU64::new(0));
    let conducts: Vec<_> = (0..ports).map(|_| Arc::<Conduct>::default()).collect();
    let listening = runtime.block_on(listen(&conducts, &accepted))?;

    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(&listening)?)?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if !line.is_empty() {
            let Order { endpoint, manner } = serde_json::from_str(&line)?;
            conducts.get(endpoint).ok_or("no such endpoint")?.set(manner)?;
        }
        writeln!(out, "{}", accepted.load(Ordering::Relaxed))?;
        out.flush()?;
    }
    Ok(())
}

async fn listen(conducts: &[Arc<Conduct>], accepted: &Arc<AtomicU64>) -> Result<Listening> {
    let mut endpoints = Vec::with_capacity(conducts.len());
    for conduct in conducts {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        endpoints.push(listener.local_addr()?);
        tokio::spawn(accept(listener, app::App::new(Arc::clone(conduct)), Arc::clone(accepted)));
    }
    let control_plane = control_plane(&endpoints).await?;
    Ok(Listening { endpoints, control_plane })
}

#[cfg(feature = "peers")]
async fn control_plane(endpoints: &[SocketAddr]) -> Result<Option<SocketAddr>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    // Its connections are not among those that the benchmarks compare.
    tokio::spawn(accept(listener, app::App::with_control_plane(endpoints), Arc::default()));
    Ok(Some(address))
}

#[cfg(not(feature = "peers"))]
#[allow(clippy::unused_async, reason = "the other one binds a port")]
async fn control_plane(_endpoints: &[SocketAddr]) -> Result<Option<SocketAddr>> {
    Ok(None)
}

async fn accept(listener: TcpListener, app: app::App, accepted: Arc<AtomicU64>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else { continue };
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        accepted.fetch_add(1, Ordering::Relaxed);
        let app = app.clone();
        tokio::spawn(async move {
            // A connection that breaks is the client's to report.
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), app).await;
            drop(place);
        });
    }
}
