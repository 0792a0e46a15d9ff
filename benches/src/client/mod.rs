//! The clients under test, all behind [`Call`].
//!
//! | here | what it is |
//! | --- | --- |
//! | [`tonic`] | tonic's own `Channel`, to one endpoint and balanced over a list |
//! | [`hyper`] | hyper's connections and nothing else |
//! | [`hyper_util`] | hyper-util's pooled client, for HTTP |
//! | `xds` | `tonic-xds`, under the feature `peers` |
//! | [`mesh`] | ours |
//!
//! All set TCP_NODELAY and keep their defaults otherwise.

pub mod hyper;
pub mod hyper_util;
pub mod mesh;
pub mod tonic;
#[cfg(feature = "peers")]
pub mod xds;

use std::future::Future;

use ::tonic::body::Body as TonicBody;
use ::tonic::client::GrpcService;
use ::tonic::codegen::StdError;
use bytes::Bytes;
use examples::greeter::HelloRequest;
use examples::greeter::greeter_client::GreeterClient;
use http::{Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use tower::{Service, ServiceExt};

use crate::{Error, Result};

/// The name of the service, for the clients that know one.
pub const SERVICE: &str = "greeter";
/// The name under which the control plane tells of the same service without a retry policy.
pub const SERVICE_WITHOUT_RETRIES: &str = "greeter-without-retries";
/// The path prefix of the route that the clients with routes have.
pub const METHOD_PREFIX: &str = "/greeter.v1.Greeter/";
/// How often the clients with a retry policy would retry a call that ends as UNAVAILABLE.
pub const RETRIES: u32 = 2;
/// Whom the calls greet.
const NAME: &str = "benchmark";

/// A client that can be asked to make one call. A clone is another handle of the same client.
pub trait Call: Clone + Send + Sync + 'static {
    /// Makes one call and reads its answer to the end.
    ///
    /// # Errors
    /// If the call failed or the answer is not the one expected.
    fn call(&self) -> impl Future<Output = Result<()>> + Send;
}

/// The generated client over any channel, cloned for each call, as users of tonic do.
#[derive(Debug, Clone)]
pub struct Greeter<T>(GreeterClient<T>);

impl<T> Greeter<T>
where
    T: GrpcService<TonicBody>,
    T::Error: Into<StdError>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    /// The generated client over `channel`.
    pub fn new(channel: T) -> Self {
        Self(GreeterClient::new(channel))
    }
}

impl<T> Call for Greeter<T>
where
    T: GrpcService<TonicBody> + Clone + Send + Sync + 'static,
    T::Future: Send,
    T::Error: Into<StdError>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    async fn call(&self) -> Result<()> {
        let mut client = self.0.clone();
        let reply = client.say_hello(HelloRequest { name: NAME.to_owned(), count: 0 }).await?.into_inner();
        if reply.message == NAME { Ok(()) } else { Err("another greeting than asked for".into()) }
    }
}

/// An HTTP client that sends `GET` to each of its addresses in turn.
#[derive(Debug, Clone)]
pub struct Get<S> {
    service: S,
    targets: Turn<Uri>,
}

impl<S> Get<S> {
    /// Calls `targets` through `service`.
    pub fn new(service: S, targets: Vec<Uri>) -> Self {
        Self { service, targets: Turn::new(targets) }
    }
}

impl<S, B> Call for Get<S>
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<Error>,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Error>,
{
    async fn call(&self) -> Result<()> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.targets.next().clone();
        let response = self.service.clone().oneshot(request).await.map_err(Into::into)?;
        read_to_end(response).await
    }
}

/// Reads an answer to `GET`.
async fn read_to_end<B>(response: Response<B>) -> Result<()>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Error>,
{
    let (head, mut body) = response.into_parts();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.map_err(Into::into)?.data_ref().map_or(0, Bytes::len);
    }
    if head.status == StatusCode::OK && length == 5 { Ok(()) } else { Err("another answer than asked for".into()) }
}

/// Values handed out in turn to all clones alike.
#[derive(Debug)]
struct Turn<T>(std::sync::Arc<(std::sync::atomic::AtomicUsize, Vec<T>)>);

impl<T> Turn<T> {
    fn new(values: Vec<T>) -> Self {
        Self(std::sync::Arc::new((std::sync::atomic::AtomicUsize::new(0), values)))
    }

    fn next(&self) -> &T {
        let (count, values) = &*self.0;
        &values[count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % values.len()]
    }
}

impl<T> Clone for Turn<T> {
    fn clone(&self) -> Self {
        Self(std::sync::Arc::clone(&self.0))
    }
}
