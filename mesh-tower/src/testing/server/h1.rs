//! HTTP/1.1, by hyper.

use std::sync::Arc;

use http::header::CONNECTION;
use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::Connection;
use crate::net::Io;
use crate::testing::request::Wire;

pub(super) async fn serve(connection: Arc<Connection>, io: impl Io) {
    let service = service_fn(move |request: Request<Incoming>| {
        let connection = Arc::clone(&connection);
        async move {
            // An error closes the connection, which is all that HTTP/1.1 can do.
            let mut answer = connection.answer(request.map(Wire::H1)).await?;
            if answer.last {
                answer.response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, super::Break>(answer.response)
        }
    });
    // A connection that breaks is what many tests are about.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
}
