use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;
use mesh_tower::BoxError;
use mesh_tower::server::{Peer, RequestBody};
use mesh_tower::testing::watched;
use tokio::sync::watch;

/// A handler that does as the path says, and as the test says.
///
/// | path | does |
/// | --- | --- |
/// | `/hold` | answers once the test lets it |
/// | `/stream` | answers at once, and its body begins; it ends once the test lets it |
/// | `/bytes/N` | answers N bytes, in one piece |
/// | `/echo` | answers what it is sent |
/// | `/fail` | fails |
/// | `/panic` | panics |
/// | `/upgrade`, or a CONNECT | speaks another protocol: it sends back what it gets |
/// | any other | says the version, the path and the caller |
#[derive(Clone, Default)]
pub(crate) struct App(Arc<Inner>);

#[derive(Default)]
struct Inner {
    held: watch::Sender<usize>,
    open: watch::Sender<bool>,
    upgraded: watch::Sender<usize>,
    /// Requests so far, of HTTP/1.1 and of HTTP/2.
    served: watch::Sender<[usize; 2]>,
}

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// A count that is one more for as long as it lives.
struct Counted<'a>(&'a watch::Sender<usize>);

impl<'a> Counted<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl App {
    /// Waits until `count` requests are held.
    pub(crate) async fn held(&self, count: usize) {
        watched(async { self.0.held.subscribe().wait_for(|held| *held == count).await.map(drop) }).await.unwrap();
    }

    /// Waits until `count` connections speak another protocol.
    pub(crate) async fn upgraded(&self, count: usize) {
        watched(async { self.0.upgraded.subscribe().wait_for(|now| *now == count).await.map(drop) }).await.unwrap();
    }

    /// Waits until there were `count` requests of each version of HTTP.
    pub(crate) async fn served(&self, count: usize) {
        let enough = |served: &[usize; 2]| served.iter().all(|served| *served >= count);
        watched(async { self.0.served.subscribe().wait_for(enough).await.map(drop) }).await.unwrap();
    }

    /// Lets the requests that are held go on, and all that come later.
    pub(crate) fn open(&self) {
        self.0.open.send_replace(true);
    }

    /// Has requests held again.
    pub(crate) fn close(&self) {
        self.0.open.send_replace(false);
    }

    async fn opened(&self) {
        let _held = Counted::new(&self.0.held);
        let _ = self.0.open.subscribe().wait_for(|open| *open).await;
    }

    pub(super) async fn answer(self, mut request: Request<RequestBody>) -> Result<Answer, BoxError> {
        let path = request.uri().path().to_owned();
        let version = usize::from(request.version() == Version::HTTP_2);
        self.0.served.send_modify(|served| served[version] += 1);
        match path.as_str() {
            "/fail" => return Err("as asked".into()),
            "/panic" => panic!("as asked"),
            "/echo" => return Ok(Response::new(request.into_body().map_err(Into::into).boxed_unsync())),
            "/hold" => self.opened().await,
            "/stream" => {
                let (sender, pieces) = tokio::sync::mpsc::channel(1);
                tokio::spawn(async move {
                    let piece = |text| Ok::<_, BoxError>(http_body::Frame::data(Bytes::from_static(text)));
                    let _ = sender.send(piece(b"begin ")).await;
                    tokio::select! {
                        () = self.opened() => {}
                        () = sender.closed() => {}
                    }
                    let _ = sender.send(piece(b"end")).await;
                });
                return Ok(Response::new(Pieces(pieces).boxed_unsync()));
            }
            "/upgrade" | "" => {
                let is_connect = request.method() == Method::CONNECT;
                let upgrade = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    let Ok(upgraded) = upgrade.await else { return };
                    let _upgraded = Counted::new(&self.0.upgraded);
                    let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
                let mut response = Response::new(Empty::new().map_err(Into::into).boxed_unsync());
                if is_connect {
                    return Ok(response);
                }
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                for (name, value) in [("connection", "upgrade"), ("upgrade", "echo")] {
                    response.headers_mut().insert(name, value.parse()?);
                }
                return Ok(response);
            }
            _ => {}
        }
        let text = match path.strip_prefix("/bytes/") {
            Some(count) => "x".repeat(count.parse()?),
            None => {
                let peer = request.extensions().get::<Arc<Peer>>().ok_or("nobody says who calls")?;
                let caller = peer.identity().map_or_else(|| "nobody".to_owned(), ToString::to_string);
                format!("{:?} {path} {caller}", request.version())
            }
        };
        Ok(Response::new(Full::from(text).map_err(Into::into).boxed_unsync()))
    }
}

/// The frames of a body, as they come.
struct Pieces(tokio::sync::mpsc::Receiver<Result<http_body::Frame<Bytes>, BoxError>>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        self.0.poll_recv(cx)
    }
}
