//! Servers under test, in a process of their own, so that what the process spends is what the server costs.
//!
//! ```text
//! benchmark                                              subject-server
//!   Subjects::spawn(exe, ..) ── argument: JSON ──────────▶ serves each kind on a port of its own
//!   addresses ◀── stdout: a line of JSON ───────────────── ["127.0.0.1:..", ..]
//!   drop ── stdin: end of file ──────────────────────────▶ exits
//! ```
//!
//! The servers that are compared share a process and its runtime of two workers; while one is called, the others idle.

mod handle;
mod kind;
mod load;
mod serve;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::Result;
use crate::credentials::Side;
use crate::measure::two_workers;

pub use handle::Subjects;
pub use kind::{Around, Framework, Kind};
pub use load::Load;

/// What the process is told.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    kinds: Vec<Kind>,
    /// The files of the server, if one of the kinds needs them.
    credentials: Option<PathBuf>,
}

/// Serves until standard input ends: the whole of the server's `main`.
///
/// # Errors
/// If the only argument is no order, or a server refuses to start.
pub fn run() -> Result<()> {
    let order: Order = serde_json::from_str(&std::env::args().nth(1).ok_or("the order is missing")?)?;
    let runtime = two_workers()?;
    let credentials = order.credentials.as_deref().map(Side::at);
    let start = |kind: &Kind| runtime.block_on(start(*kind, credentials.as_ref()));
    let addresses = order.kinds.iter().map(start).collect::<Result<Vec<_>>>()?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(&addresses)?)?;
    out.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Serves on tasks of this runtime, and says where.
///
/// # Errors
/// If there is no port, or the server refuses to start, such as for lack of the credentials that it needs.
pub async fn start(kind: Kind, credentials: Option<&Side>) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    serve::start(kind, listener, credentials).await?;
    Ok(address)
}
