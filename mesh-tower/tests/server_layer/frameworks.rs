//! axum's routers inside of the layer, and the layer inside of axum's routers.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use http::Response;
use mesh_tower::core::model::{Server, ServerTls};
use tower::{Layer, ServiceExt};

use super::support::{Told, layer};

fn router() -> Router {
    let panics = || async {
        if true {
            panic!("no luck");
        }
    };
    let headers = |request: Request| async move { format!("{}", request.headers().len()) };
    Router::new()
        .route("/echo", post(async |body: String| body))
        .route("/headers", get(headers))
        .route("/panic", get(panics))
        .route("/stuck", get(std::future::pending::<String>))
}

fn limits(server: &mut Server) {
    server.limits.max_body_bytes = Some(10);
    server.limits.request_timeout = Some(std::time::Duration::from_secs(1));
}

fn request(method: &str, path: &str, body: Body) -> Request {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "catalog")
        .header("l5d-client-id", "admin")
        .body(body)
        .unwrap()
}

/// Of unknown length.
fn pieces(pieces: &[&'static str]) -> Body {
    Body::new(mesh_tower::testing::Pieces::new(pieces.iter().copied()))
}

/// The same, whichever way round.
#[tokio::test(start_paused = true)]
async fn axum_inside_and_outside() {
    let (_mesh, layer) = layer(limits).await;
    for (method, path, body, told) in [
        ("POST", "/echo", Body::from("0123456789"), Told::http(200, "0123456789")),
        ("POST", "/echo", Body::from("0123456789a"), Told::http(413, "the request is too large")),
        ("POST", "/echo", pieces(&["01234", "56789a"]), Told::http(413, "the request is too large")),
        ("GET", "/headers", Body::empty(), Told::http(200, "1")),
        ("GET", "/panic", Body::empty(), Told::http(500, "internal error")),
        ("GET", "/stuck", Body::empty(), Told::http(504, "the time is up")),
    ] {
        let (outside, inside) = twice(body).await;
        let response = layer.layer(router()).oneshot(request(method, path, outside)).await.into_response();
        assert_eq!(Told::read(response).await, told, "around the router: {method} {path}");
        let response: Response<Body> =
            router().layer(layer.clone()).oneshot(request(method, path, inside)).await.unwrap();
        assert_eq!(Told::read(response).await, told, "inside of the router: {method} {path}");
    }
}

/// The same body two times; one whose length is not known stays so.
async fn twice(body: Body) -> (Body, Body) {
    use http_body::Body as _;

    let known = body.size_hint().exact().is_some();
    let whole = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let make =
        || if known { Body::from(whole.clone()) } else { Body::new(mesh_tower::testing::Pieces::new([whole.clone()])) };
    (make(), make())
}

/// Under `axum::serve` without the adapter's connect info nobody says who calls.
#[tokio::test]
async fn a_strict_layer_under_a_foreign_accept_loop_lets_nobody_in() {
    let (_mesh, layer) = layer(|server| server.tls = Some(ServerTls::Strict)).await;
    let response = router().layer(layer).oneshot(request("GET", "/headers", Body::empty())).await.unwrap();
    assert_eq!(Told::read(response).await, Told::http(403, "the caller is not let in"));
}

/// The adapter's connect info says who calls, and the handler finds it where it is under any other server.
#[cfg(feature = "axum")]
#[tokio::test]
async fn the_callers_of_axum_serve_are_found() {
    use std::sync::Arc;

    use axum::Extension;
    use axum::extract::ConnectInfo;
    use mesh_tower::server::{Caller, Peer};

    let (_mesh, layer) = layer(|_| {}).await;
    let remote = async |Extension(peer): Extension<Arc<Peer>>| peer.remote_address().unwrap().to_string();
    let router: Router = Router::new().route("/", get(remote)).layer(layer);
    let mut request = request("GET", "/", Body::empty());
    let peer = Peer::plaintext(Some("10.0.0.7:1234".parse().unwrap()));
    request.extensions_mut().insert(ConnectInfo(Caller(Arc::new(peer))));
    assert_eq!(Told::read(router.oneshot(request).await.unwrap()).await, Told::http(200, "10.0.0.7:1234"));
}
