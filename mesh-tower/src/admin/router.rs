//! Which page is where.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::State;
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Router, body::Body};
use http::header::{self, HeaderMap, HeaderValue};
use http::{StatusCode, Uri};
use serde_json::json;
use tokio::sync::Semaphore;

use super::guard::guard;
use super::gzip::gzip;
use super::page;
use crate::mesh::{Core, Mesh};
use crate::server::Phase;
#[cfg(feature = "prometheus")]
use crate::telemetry::prometheus::Format;

/// How many large pages are made at once; who asks for another waits.
const AT_ONCE: usize = 2;

impl Mesh {
    /// The [admin pages](crate::admin), for a server of your own: all that the [listener](crate::admin#who-may) would say
    /// and refuse. `/drain` works, and names in `hosts` count, as `admin` in the configuration says; without it there is
    /// neither. It does not keep the mesh alive.
    ///
    /// ```
    /// # #[cfg(feature = "prometheus")]
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use mesh_tower::Mesh;
    ///
    /// let mesh = Mesh::builder().env().prometheus().build().await?;
    /// let app: axum::Router = axum::Router::new().nest("/mesh", mesh.admin_router());
    /// # Ok(())
    /// # }
    /// ```
    pub fn admin_router(&self) -> Router {
        router(Arc::clone(&self.handle.core))
    }
}

/// What the pages are made of.
pub(super) struct Pages {
    core: Arc<Core>,
    turns: Arc<Semaphore>,
}

impl Pages {
    /// The names by which they may be asked for.
    pub(super) fn hosts(&self) -> Vec<Arc<str>> {
        self.core.snapshot.load().settings().admin.as_ref().map(|admin| admin.hosts.clone()).unwrap_or_default()
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pages")
    }
}

pub(super) fn router(core: Arc<Core>) -> Router {
    let pages = Arc::new(Pages { core, turns: Arc::new(Semaphore::new(AT_ONCE)) });
    Router::new()
        .route("/", get(index))
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/stats/prometheus", get(metrics))
        .route("/config", get(config))
        .route("/certs", get(certs))
        .route("/drain", post(drain))
        .layer(from_fn_with_state(Arc::clone(&pages), guard))
        .with_state(pages)
}

async fn index(State(pages): State<Arc<Pages>>) -> Response {
    page::index(&pages.core)
}

async fn live() -> Response {
    page::text(StatusCode::OK, "live\n")
}

async fn ready(State(pages): State<Arc<Pages>>) -> Response {
    page::ready(&pages.core.readiness())
}

async fn certs(State(pages): State<Arc<Pages>>) -> Response {
    page::certs(&pages.core, SystemTime::now())
}

async fn config(State(pages): State<Arc<Pages>>, uri: Uri, headers: HeaderMap) -> Response {
    let accepts = |value: &HeaderValue| value.to_str().is_ok_and(|accept| accept.contains("application/json"));
    let as_json = has(&uri, "format=json") || headers.get_all(header::ACCEPT).iter().any(accepts);
    large(&pages, &headers, move |core| page::config(core, as_json)).await
}

#[cfg(feature = "prometheus")]
async fn metrics(State(pages): State<Arc<Pages>>, headers: HeaderMap) -> Response {
    let accept = joined(&headers, header::ACCEPT);
    large(&pages, &headers, move |core| {
        let format = Format::wanted(Some(&accept).filter(|accept| !accept.is_empty()).map(String::as_str));
        match core.metrics_page(format) {
            Some(page) => (StatusCode::OK, HeaderValue::from_static(format.content_type()), page),
            None => {
                let why = "No metrics are kept for a page: say `Builder::prometheus()`, or have `admin` in the \
                           configuration when the process starts.\n";
                (StatusCode::NOT_FOUND, HeaderValue::from_static("text/plain; charset=utf-8"), why.to_owned())
            }
        }
    })
    .await
}

#[cfg(not(feature = "prometheus"))]
async fn metrics() -> Response {
    let why = "This program was built without pages of metrics: turn on the feature `prometheus` of mesh-tower or \
               mesh-tonic.\n";
    page::text(StatusCode::NOT_FOUND, why)
}

async fn drain(State(pages): State<Arc<Pages>>, uri: Uri) -> Response {
    let servers = &pages.core.servers;
    if !pages.core.snapshot.load().settings().admin.as_ref().is_some_and(|admin| admin.allow_drain) {
        return page::text(StatusCode::FORBIDDEN, "Set `admin.allow_drain` to let this page drain the mesh.\n");
    }
    // Nothing is cut by a first word.
    let forced = has(&uri, "force") && servers.phase() != Phase::Serving;
    servers.advance(if forced { Phase::Forced } else { Phase::Draining });
    let phase = if servers.phase() == Phase::Forced { "forced" } else { "draining" };
    page::json(StatusCode::ACCEPTED, &json!({ "phase": phase }))
}

/// Whether `part` is one of the query's.
fn has(uri: &Uri, part: &str) -> bool {
    uri.query().is_some_and(|query| query.split('&').any(|one| one == part))
}

/// All values of a header that is a list.
fn joined(headers: &HeaderMap, name: header::HeaderName) -> String {
    let values: Vec<_> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}

/// A page that may take its time, made where it keeps no request waiting (AD-08).
async fn large(
    pages: &Pages,
    headers: &HeaderMap,
    make: impl FnOnce(&Core) -> (StatusCode, HeaderValue, String) + Send + 'static,
) -> Response {
    // Nobody closes it.
    let turn = Arc::clone(&pages.turns).acquire_owned().await;
    let core = Arc::clone(&pages.core);
    let encodings = joined(headers, header::ACCEPT_ENCODING);
    let made = tokio::task::spawn_blocking(move || {
        // Also when whoever asked is gone: the work goes on.
        let _turn = turn;
        let (status, kind, page) = make(&core);
        let packed = gzip(page.as_bytes(), &encodings);
        let is_packed = packed.is_some();
        let mut response = page::answer(status, kind, packed.map_or_else(|| Body::from(page), Body::from));
        let headers = response.headers_mut();
        headers.insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
        if is_packed {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    });
    made.await.unwrap_or_else(|_| page::text(StatusCode::INTERNAL_SERVER_ERROR, "The page could not be made.\n"))
}
