use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use examples::greeter::greeter_server::{Greeter, GreeterServer};
use examples::greeter::{HelloReply, HelloRequest};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::tokio_stream::Empty;
use tonic::{Status, Streaming};

use super::manner::Conduct;

/// Answers `greeter.v1.Greeter/SayHello` and, on every path that is no gRPC method it knows, HTTP with five bytes.
#[derive(Clone)]
pub(super) struct App {
    greeter: GreeterServer<Hello>,
    #[cfg(feature = "peers")]
    control_plane: Option<super::control_plane::ControlPlane>,
}

impl App {
    pub(super) fn new(conduct: Arc<Conduct>) -> Self {
        Self {
            greeter: GreeterServer::new(Hello(conduct)),
            #[cfg(feature = "peers")]
            control_plane: None,
        }
    }

    #[cfg(feature = "peers")]
    pub(super) fn with_control_plane(endpoints: &[std::net::SocketAddr]) -> Self {
        Self { control_plane: Some(super::control_plane::control_plane(endpoints)), ..Self::new(Arc::default()) }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl hyper::service::Service<Request<Incoming>> for App {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        if request.uri().path().starts_with("/greeter.v1.Greeter/") {
            return self.greeter.clone().call(request);
        }
        #[cfg(feature = "peers")]
        if let Some(control_plane) = &self.control_plane {
            return control_plane.clone().call(request);
        }
        Box::pin(ready(Ok(Response::new(Body::new(Full::new(Bytes::from_static(b"hello")))))))
    }
}

/// A greeter as cheap as can be, so that the machine is left to the client, unless it is told to take its time.
#[derive(Default)]
pub(crate) struct Hello(Arc<Conduct>);

#[tonic::async_trait]
impl Greeter for Hello {
    async fn say_hello(&self, request: tonic::Request<HelloRequest>) -> Result<tonic::Response<HelloReply>, Status> {
        self.0.serve().await?;
        let HelloRequest { name, .. } = request.into_inner();
        Ok(tonic::Response::new(HelloReply { message: name, served_by: String::new() }))
    }

    type WatchStream = Empty<Result<HelloReply, Status>>;

    async fn watch(&self, _: tonic::Request<HelloRequest>) -> Result<tonic::Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("the benchmarks call SayHello only"))
    }

    async fn collect(&self, _: tonic::Request<Streaming<HelloRequest>>) -> Result<tonic::Response<HelloReply>, Status> {
        Err(Status::unimplemented("the benchmarks call SayHello only"))
    }

    type ChatStream = Empty<Result<HelloReply, Status>>;

    async fn chat(
        &self,
        _: tonic::Request<Streaming<HelloRequest>>,
    ) -> Result<tonic::Response<Self::ChatStream>, Status> {
        Err(Status::unimplemented("the benchmarks call SayHello only"))
    }
}
