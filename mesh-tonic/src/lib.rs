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
//! [`Mesh::serve`] takes tonic's `Routes`: callers are known by mutual TLS, limits hold, and what is under way ends when the
//! process is told to stop. The feature `server` brings connections for tonic's own server, `health` the health service.
//!
//! Everything else is `mesh-tower`, which this crate re-exports. The [guide] says what is particular to gRPC; the
//! [guide of `mesh-tower`](mesh_tower::guide) leads from the first call to production.

mod channel;
#[doc = include_str!("guide.md")]
pub mod guide {}
#[cfg(feature = "health")]
mod health;
mod layer;
#[cfg(any(feature = "health", feature = "server"))]
mod serving;
mod status;

pub use channel::{Channel, MeshExt, ResponseBody, ResponseFuture};
#[cfg(feature = "health")]
pub use health::{HealthWatch, MeshHealth};
pub use layer::{StatusBody, StatusFuture, StatusLayer, StatusService};
pub use mesh_tower;
#[cfg(feature = "test-util")]
pub use mesh_tower::testing;
pub use mesh_tower::{Mesh, core, identity, server};
#[cfg(any(feature = "health", feature = "server"))]
pub use serving::MeshServerExt;
#[cfg(feature = "server")]
pub use serving::{TonicIncoming, TonicStream};
pub use status::to_status;

/// What a gRPC user imports.
pub mod prelude {
    pub use mesh_tower::Mesh;

    pub use crate::MeshExt as _;
    #[cfg(any(feature = "health", feature = "server"))]
    pub use crate::MeshServerExt as _;
}

/// Compiles the code of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
