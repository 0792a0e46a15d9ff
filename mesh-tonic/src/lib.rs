//! An embeddable service mesh for tonic: an unchanged generated client over a routed, balanced, retried channel.
//!
//! ```no_run
//! # mod greeter { pub struct GreeterClient<T>(T); impl<T> GreeterClient<T> { pub fn new(inner: T) -> Self { Self(inner) } } }
//! # use greeter::GreeterClient;
//! use mesh_tonic::prelude::*;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let mesh = Mesh::from_env().await?; // MESH_CONFIG=mesh.yaml
//! let greeter = GreeterClient::new(mesh.channel("greeter")?);
//! # Ok(())
//! # }
//! ```
//!
//! Everything else is `mesh-tower`, which this crate re-exports. The [guide] says what is particular to gRPC; the
//! [guide of `mesh-tower`](mesh_tower::guide) leads from the first call to production.

mod channel;
#[doc = include_str!("guide.md")]
pub mod guide {}
mod layer;
mod status;

pub use channel::{Channel, MeshExt, ResponseBody, ResponseFuture};
pub use layer::{StatusBody, StatusFuture, StatusLayer, StatusService};
pub use mesh_tower;
#[cfg(feature = "test-util")]
pub use mesh_tower::testing;
pub use mesh_tower::{Mesh, core, identity, server};
pub use status::to_status;

/// What a gRPC user imports.
pub mod prelude {
    pub use mesh_tower::Mesh;

    pub use crate::MeshExt as _;
}

/// Compiles the code of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
