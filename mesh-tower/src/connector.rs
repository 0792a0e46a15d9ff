//! The connections of a mesh for other clients.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{self, ReadBufCursor};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use mesh_core::balance::{InFlight, Pick, PickRequest, Picker, State};
use mesh_core::model::{Address, Protocol};
use mesh_core::resilience::limits::Limit;
use pin_project::pin_project;
use rand::RngExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout_at};
use tower_service::Service;

use crate::apply::is_pending;
use crate::client::{Destination, destination};
use crate::error::{Error, ErrorKind};
use crate::mesh::{Core, Handle};
use crate::net::pool::{self, OpenStream};
use crate::net::{Claim, ConnectError, Endpoint, MAX_WAIT, Pool, Snapshot, Stream};

/// Opens byte streams as the mesh does for its own clients: for those who bring a client of their own, such as
/// hyper-util's `legacy::Client` and tonic's `Endpoint::connect_with_connector`.
///
/// A call opens one stream to an endpoint of the service that the URI names:
///
/// 1. The authority selects the service, as with [`HttpClient`](crate::HttpClient); the route is the one that a `GET` of
///    the URI without headers takes, with its weights. A service that may be made on demand is.
/// 2. An endpoint of the backend is chosen among those that its balancer uses: priorities, localities, health and outlier
///    detection count as far as the mesh knows of them, which it does by its own requests and health checks. Where it has
///    no connection, the one with fewer streams of two is taken. One that cannot be connected is followed by others.
/// 3. The stream is plaintext or TLS as the backend says, with the mesh's identity where it is mutual.
///    `https` insists on TLS; with `http` the stream is encrypted as well where the backend says so. The stream fails once
///    its peer is not trusted any more.
///
/// Each stream counts against `max_connections` and as something in flight at its endpoint.
///
/// What it does not give is all that needs to see requests: retries, timeouts, routing by request, outlier detection,
/// budgets, spans and metrics of requests. Nor does it decide how long a connection is kept: whoever pools the streams
/// does, and should give them a maximum age below the lifetime of the certificates.
///
/// The client at hand decides whether it speaks HTTP/2; hyper-util's is told what ALPN, or the backend's `protocol`, says.
/// One that speaks nothing else, such as tonic's, needs [`http2`](Self::http2).
///
/// reqwest's connector layers wrap the connector that it brings and cannot replace its streams, as the types of both are
/// its own; the example `connector_reqwest` shows a way.
///
/// ```no_run
/// use http_body_util::Empty;
/// use hyper_util::client::legacy::Client;
/// use hyper_util::rt::TokioExecutor;
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let mesh = mesh_tower::Mesh::from_env().await?;
/// let client = Client::builder(TokioExecutor::new()).build::<_, Empty<bytes::Bytes>>(mesh.connector());
/// let response = client.get("http://catalog/items".parse()?).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MeshConnector {
    handle: Arc<Handle>,
    http2: bool,
}

impl MeshConnector {
    pub(crate) fn new(handle: Arc<Handle>) -> Self {
        Self { handle, http2: false }
    }

    /// For a client that speaks nothing but HTTP/2: nothing else is offered by ALPN, and a backend of HTTP/1.1 is refused.
    #[must_use]
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }
}

impl fmt::Debug for MeshConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshConnector").field("http2", &self.http2).finish_non_exhaustive()
    }
}

/// Opens a stream. Dropping it gives the attempt up.
type Opening = Pin<Box<dyn Future<Output = Result<MeshStream, Error>> + Send>>;

impl Service<Uri> for MeshConnector {
    type Response = MeshStream;
    type Error = Error;
    type Future = Opening;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Opening {
        let Self { handle, http2 } = self.clone();
        Box::pin(async move {
            let deadline = Instant::now() + MAX_WAIT;
            let destination = timeout_at(deadline, destination(&handle.core, uri)).await.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::DeadlineExceeded, format!("the service was not found within {MAX_WAIT:?}")))
            })?;
            open(&handle.core, &destination, http2, deadline).await
        })
    }
}

async fn open(core: &Core, destination: &Destination, http2: bool, deadline: Instant) -> Result<MeshStream, Error> {
    let Destination { backend, place, secure, .. } = destination;
    let cluster = backend.transport();
    if *secure && !cluster.is_secure() {
        let text = format!("https was asked for and {place} speaks plaintext; set its `tls`, or write http://");
        return Err(Error::new(ErrorKind::InvalidRequest, text));
    }
    let protocol = match (cluster.protocol, http2) {
        (Protocol::Http1, true) => {
            let text = format!("HTTP/2 was asked for and {place} is configured as `protocol: http1`");
            return Err(Error::new(ErrorKind::Protocol, text));
        }
        (_, true) => Protocol::Http2,
        (protocol, false) => protocol,
    };
    let mut tried = Vec::new();
    let mut last = None;
    loop {
        let endpoint = match choose(core, destination, &tried, deadline).await? {
            Ok(endpoint) => endpoint,
            Err(known) => return Err(failed(place, last.or(known))),
        };
        let Some(in_flight) = endpoint.enter(None) else { return Err(full(place)) };
        match pool::open_stream(&endpoint, protocol).await {
            Ok(Some(stream)) => {
                let OpenStream { stream, h2, claim } = stream;
                return Ok(MeshStream { io: TokioIo::new(stream), h2, in_flight, _claim: claim });
            }
            Ok(None) => {
                cluster.overflow(Limit::Connections);
                return Err(full(place));
            }
            Err(error) => {
                last = Some(error);
                tried.push(endpoint);
            }
        }
    }
}

fn full(place: &str) -> Error {
    Error::new(ErrorKind::Overflow, format!("{place} has as many connections as its `max_connections` allows"))
}

fn failed(place: &str, last: Option<ConnectError>) -> Error {
    let text = format!("no endpoint of {place} can be connected");
    match last {
        Some(last) => Error::new(ErrorKind::NoHealthyEndpoint, format!("{text}; last error: {last}")).with_source(last),
        None => Error::new(ErrorKind::NoHealthyEndpoint, text),
    }
}

/// An endpoint that was not tried, or why the last of those failed that the mesh has tried itself.
async fn choose(
    core: &Core,
    destination: &Destination,
    tried: &[Arc<Endpoint>],
    deadline: Instant,
) -> Result<Result<Arc<Endpoint>, Option<ConnectError>>, Error> {
    let mut published = core.subscribe();
    let cluster = destination.backend.transport();
    loop {
        let changed = cluster.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let looked = look(&core.snapshot.load(), destination, tried);
        let waited = match looked {
            Looked::Found(endpoint) => return Ok(Ok(endpoint)),
            Looked::Nobody(known) => return Ok(Err(known)),
            Looked::Empty => {
                let text = format!("{} has no endpoint", destination.place);
                return Err(Error::new(ErrorKind::NoEndpoint, text));
            }
            Looked::Wait => {
                let either = async {
                    tokio::select! {
                        _ = published.changed() => {}
                        () = changed => {}
                    }
                };
                timeout_at(deadline, either).await
            }
        };
        if waited.is_err() {
            let text = format!("no endpoint of {} was found or connected within {MAX_WAIT:?}", destination.place);
            return Err(Error::new(ErrorKind::NoHealthyEndpoint, text));
        }
    }
}

enum Looked {
    Found(Arc<Endpoint>),
    /// All were tried, here or by the mesh.
    Nobody(Option<ConnectError>),
    /// There is none.
    Empty,
    /// They are looked for, or the mesh connects them.
    Wait,
}

fn look(snapshot: &Snapshot, destination: &Destination, tried: &[Arc<Endpoint>]) -> Looked {
    let drawn = &destination.backend;
    // As it is by now; one that has left the configuration serves as it was.
    let newest = snapshot.backend(drawn.index()).filter(|backend| backend.id() == drawn.id());
    let backend = newest.unwrap_or(drawn);
    let Some(picker) = backend.picker_of(destination.subset.as_ref()) else { return Looked::Empty };
    let is_new = |endpoint: &Arc<Endpoint>| !tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint));
    let request = PickRequest::new(None, Instant::now().into_std());
    match picker.pick(&request, tried, &mut rand::rng()) {
        Pick::Ready(chosen) => {
            if chosen.probes {
                chosen.endpoint.release_probe();
            }
            if is_new(chosen.endpoint) {
                return Looked::Found(Arc::clone(chosen.endpoint));
            }
        }
        Pick::Await(endpoint) if is_new(endpoint) => return Looked::Found(Arc::clone(endpoint)),
        Pick::Failing => {
            return Looked::Nobody(picker.endpoints().iter().find_map(|endpoint| endpoint.transport().last_error()));
        }
        Pick::Empty if is_pending(backend) => return Looked::Wait,
        Pick::Empty => return Looked::Empty,
        _ => {}
    }
    match unconnected(picker, is_new) {
        Some(endpoint) => Looked::Found(endpoint),
        None if picker.endpoints().iter().any(|endpoint| endpoint.state() == State::Connecting) => Looked::Wait,
        None => Looked::Nobody(None),
    }
}

/// One of those that the balancer would connect: the first in its order, or the one with fewer streams of two.
fn unconnected(picker: &Picker<Pool>, is_new: impl Fn(&Arc<Endpoint>) -> bool) -> Option<Arc<Endpoint>> {
    let mut rng = rand::rng();
    let mut idle = picker.to_connect(Instant::now().into_std(), &mut rng);
    idle.retain(|endpoint| is_new(endpoint));
    if picker.connects_in_order() || idle.len() < 2 {
        return idle.first().copied().cloned();
    }
    let mut draw = || idle[rng.random_range(0..idle.len())];
    let (one, other) = (draw(), draw());
    Some(Arc::clone(if other.in_flight() < one.in_flight() { other } else { one }))
}

/// A stream to an endpoint of a mesh; see [`MeshConnector`]. Dropping it closes it; the end of the mesh does not.
///
/// It implements the traits of hyper, hyper-util and tokio.
#[pin_project]
pub struct MeshStream {
    #[pin]
    io: TokioIo<Stream>,
    h2: bool,
    in_flight: InFlight<Pool>,
    _claim: Claim,
}

impl MeshStream {
    /// Whether HTTP/2 is to be spoken: ALPN, or the configuration, says so.
    pub fn is_http2(&self) -> bool {
        self.h2
    }

    /// The endpoint.
    pub fn address(&self) -> &Address {
        self.in_flight.endpoint().address()
    }
}

impl fmt::Debug for MeshStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshStream").field("address", self.address()).field("http2", &self.h2).finish_non_exhaustive()
    }
}

impl Connection for MeshStream {
    fn connected(&self) -> Connected {
        if self.h2 { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl rt::Read for MeshStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_read(cx, buf)
    }
}

impl rt::Write for MeshStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.project().io.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().io.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl AsyncRead for MeshStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.io.inner_mut()).poll_read(cx, buf)
    }
}

impl AsyncWrite for MeshStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.io.inner_mut()).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.io.inner_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.io.inner_mut()).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.io.inner_mut()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.inner().is_write_vectored()
    }
}
