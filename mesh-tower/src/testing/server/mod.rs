//! The server behind a [`TestBackend`](super::TestBackend).
//!
//! HTTP/1.1 is hyper's. HTTP/2 is spoken over `h2` itself: resets for any reason, a GOAWAY that disowns a request and a
//! connection that breaks after a certain byte need more than a service in a server can say.

mod faulty;
mod h1;
mod h2;
mod io;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::body::Payload;
use super::fault::{At, Fault};
use super::request::{Log, RequestBody, Wire};
use super::script::Script;
use super::{Reply, grpc, lock};
use crate::net::Io;
use faulty::Break;

pub(super) type Handler =
    Arc<dyn Fn(Request<RequestBody>) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync>;

/// What the connections of a backend share.
pub(super) struct Server {
    pub(super) handler: Handler,
    pub(super) max_concurrent_streams: u32,
    pub(super) script: Script,
    pub(super) log: Log,
    pub(super) accepted: watch::Sender<usize>,
    pub(super) open: watch::Sender<usize>,
    /// Ends the connections that are open.
    pub(super) connections: Mutex<CancellationToken>,
    /// Ends everything.
    pub(super) ended: CancellationToken,
}

impl Server {
    /// Serves a connection on a task of its own.
    pub(super) fn spawn(self: &Arc<Self>, io: impl Io, fault: Option<Fault>) {
        let open = Open::count(self);
        let closed = lock(&self.connections).clone();
        let server = Arc::clone(self);
        tokio::spawn(async move {
            let serving = async {
                match fault {
                    Some(Fault::Refused) => {}
                    Some(Fault::BlackHole) => swallow(io).await,
                    _ => serve(server, open.number, io).await,
                }
            };
            tokio::select! {
                // What has arrived by then is not looked at.
                biased;
                () = closed.cancelled() => {}
                () = serving => {}
            }
            drop(open);
        });
    }

    /// Closes what is open. Whatever arrives there from now on is not answered.
    pub(super) fn disconnect(&self) {
        let mut connections = lock(&self.connections);
        connections.cancel();
        *connections = self.ended.child_token();
    }
}

/// A connection that counts as open.
struct Open {
    server: Arc<Server>,
    number: usize,
}

impl Open {
    fn count(server: &Arc<Server>) -> Self {
        server.open.send_modify(|open| *open += 1);
        let mut number = 0;
        server.accepted.send_modify(|accepted| {
            *accepted += 1;
            number = *accepted;
        });
        Self { server: Arc::clone(server), number }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.server.open.send_modify(|open| *open -= 1);
    }
}

/// Reads until the client leaves, and says nothing.
async fn swallow(mut io: impl Io) {
    let mut buffer = vec![0; 8 * 1024];
    while io.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

async fn serve(server: Arc<Server>, number: usize, mut io: impl Io) {
    let Some((start, is_h2)) = io::detect(&mut io).await else { return };
    let io = io::Prefixed::new(start, io);
    let flushes = (!is_h2).then(|| io.flushes());
    let connection = Arc::new(Connection { server, number, served: AtomicUsize::new(0), flushes });
    if is_h2 { h2::serve(connection, io).await } else { h1::serve(connection, io).await }
}

/// One connection.
struct Connection {
    server: Arc<Server>,
    number: usize,
    served: AtomicUsize,
    /// Where a body that breaks must see for itself that what came before has left: HTTP/1.1.
    flushes: Option<watch::Receiver<u64>>,
}

/// What is sent for a request.
struct Answer {
    response: Response<Payload>,
    /// Whether the connection ends with it.
    last: bool,
}

impl Connection {
    async fn answer(&self, request: Request<Wire>) -> Result<Answer, Break> {
        let served = self.served.fetch_add(1, Ordering::SeqCst) + 1;
        let scripted = self.server.script.for_request();
        // A test that has seen the request arrive may release it.
        let mut hold = self.server.script.hold();
        let request = self.server.log.add(request, self.number);
        let (mut fault, mut response) = (scripted, None);
        match scripted {
            Some(Fault::Stall) => hold.released().await,
            Some(Fault::Status(_) | Fault::Grpc(_)) => {
                // Who breaks off gets no answer anyway.
                let _ = request.into_body().collect().await;
                return Ok(self.respond(scripted, None, served));
            }
            _ => {}
        }
        if scripted.is_none_or(Fault::lets_the_handler_answer) {
            let reply = (self.server.handler)(request).await;
            response = Some(reply.response);
            if scripted.is_none() {
                fault = reply.fault;
                match fault {
                    Some(Fault::Stall) => hold.released().await,
                    Some(Fault::BlackHole) => std::future::pending().await,
                    _ => {}
                }
            }
        }
        match fault {
            Some(Fault::Refused | Fault::Disconnect(At::BeforeHead)) => return Err(Break::Connection),
            Some(Fault::Reset(At::BeforeHead, reason)) => return Err(Break::Stream(reason)),
            Some(Fault::GoAway { processed: false }) => return Err(Break::Disowned),
            Some(Fault::Disconnect(at)) => response = response.map(|it| self.breaking(it, at, Break::Connection)),
            Some(Fault::Reset(at, reason)) => {
                response = response.map(|it| self.breaking(it, at, Break::Stream(reason)))
            }
            Some(Fault::SlowBody { chunk }) => response = response.map(|it| faulty::slow(it, chunk, hold)),
            _ => {}
        }
        Ok(self.respond(fault, response, served))
    }

    fn breaking(&self, response: Response<Payload>, at: At, how: Break) -> Response<Payload> {
        faulty::breaking(response, at, how, self.flushes.clone())
    }

    fn respond(&self, fault: Option<Fault>, response: Option<Response<Payload>>, served: usize) -> Answer {
        let last = match fault {
            Some(Fault::GoAway { .. }) => true,
            Some(Fault::CloseAfter(requests)) => served >= requests,
            _ => false,
        };
        let response = match fault {
            Some(Fault::Status(status)) => Reply::from(status).response,
            Some(Fault::Grpc(code)) => grpc::trailers_only(code, "as the test wants it"),
            _ => response.unwrap_or_else(|| Reply::from("").response),
        };
        Answer { response, last }
    }
}
