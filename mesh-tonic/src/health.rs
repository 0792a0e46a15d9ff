//! gRPC's health service, which says what the mesh knows.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use mesh_tower::Mesh;
use mesh_tower::server::{NotReady, Readiness, ReadinessWatch};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// The health service of a mesh: [`MeshServerExt::health_service`](crate::MeshServerExt::health_service). It asks the mesh
/// at each call, and needs no task.
#[derive(Debug)]
pub struct MeshHealth {
    mesh: Mesh,
    services: HashSet<Box<str>>,
}

impl MeshHealth {
    pub(crate) fn new(mesh: Mesh, services: &[&str]) -> Self {
        Self { mesh, services: services.iter().map(|&name| name.into()).collect() }
    }

    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.services.contains(service)
    }
}

#[tonic::async_trait]
impl Health for MeshHealth {
    type WatchStream = HealthWatch;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !self.knows(&service) {
            return Err(Status::not_found(format!("no service {service:?} has a health here")));
        }
        Ok(Response::new(answer(status(&self.mesh.readiness()))))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthWatch>, Status> {
        let known = self.knows(&request.into_inner().service);
        Ok(Response::new(HealthWatch { known, told: None, next: Next::Now(self.mesh.watch_readiness()) }))
    }
}

fn status(readiness: &Readiness) -> ServingStatus {
    if readiness.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

/// The answers to one who watches: the first at once, then one for each change, until the mesh drains.
pub struct HealthWatch {
    /// Whether it is of a service that is known here.
    known: bool,
    told: Option<ServingStatus>,
    next: Next,
}

enum Next {
    Now(ReadinessWatch),
    Later(Pin<Box<dyn Future<Output = ReadinessWatch> + Send>>),
    /// Nobody is served any more.
    Goodbye,
    End,
}

impl Stream for HealthWatch {
    type Item = Result<HealthCheckResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let watch = match std::mem::replace(&mut self.next, Next::End) {
                Next::Now(watch) => watch,
                Next::Later(mut changed) => {
                    let Poll::Ready(watch) = changed.as_mut().poll(cx) else {
                        self.next = Next::Later(changed);
                        return Poll::Pending;
                    };
                    watch
                }
                Next::Goodbye => return Poll::Ready(Some(Err(Status::unavailable("the server drains")))),
                Next::End => return Poll::Ready(None),
            };
            let now = if self.known { status(watch.last()) } else { ServingStatus::ServiceUnknown };
            self.next = if watch.last().failed().contains(&NotReady::Draining) {
                Next::Goodbye
            } else {
                Next::Later(Box::pin(changed(watch)))
            };
            if self.told.replace(now) != Some(now) {
                return Poll::Ready(Some(Ok(answer(now))));
            }
        }
    }
}

/// `watch` at its next change.
async fn changed(mut watch: ReadinessWatch) -> ReadinessWatch {
    // Without a mesh it says that nothing is ready.
    let _ = watch.changed().await;
    watch
}

impl fmt::Debug for HealthWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthWatch").field("told", &self.told).finish_non_exhaustive()
    }
}
