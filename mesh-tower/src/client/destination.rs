//! Where a connection goes that somebody else sends requests on.

use std::sync::Arc;

use http::{Request, Uri};
use mesh_core::model::Metadata;

use super::context::{demand, draw};
use super::head::Head;
use super::target::Target;
use crate::error::{Error, ErrorKind};
use crate::mesh::Core;
use crate::net::Backend;

/// See the [module](self).
pub(crate) struct Destination {
    pub(crate) backend: Arc<Backend>,
    /// Which part of the backend serves it.
    pub(crate) subset: Option<Arc<Metadata>>,
    /// `backend v1 of service greeter`.
    pub(crate) place: String,
    /// Whether TLS was asked for.
    pub(crate) secure: bool,
}

/// Where a `GET` of `uri` without headers goes. A service that is made on demand is waited for.
pub(crate) async fn destination(core: &Core, uri: Uri) -> Result<Destination, Error> {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.uri = uri;
    let head = Head::new(parts, &Target::Uri)?;
    match drawn(core, &head) {
        Err(error) if error.kind() == ErrorKind::UnknownService => {
            demand(core, &head, error).await?;
            drawn(core, &head)
        }
        drawn => drawn,
    }
}

fn drawn(core: &Core, head: &Head) -> Result<Destination, Error> {
    if core.shared.tasks.is_stopping() {
        return Err(Error::new(ErrorKind::Shutdown, "the mesh is shut down"));
    }
    let snapshot = core.snapshot.load();
    let (routed, backend) = draw(&snapshot, head)?;
    Ok(Destination {
        backend: Arc::clone(backend),
        subset: routed.target.subset().cloned(),
        place: format!("backend {} of service {}", backend.id().name, routed.virtual_host.name()),
        secure: head.is_secure(),
    })
}
