//! An embeddable service mesh for Tower: what a sidecar does for a client and a server, inside the process.
//!
//! A [`Mesh`] is built from one YAML file. Its clients route by host, path, method, header and query, split by weight,
//! balance over endpoints, time out, retry within a budget, and follow every change of the file while they run.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use mesh_tower::Mesh;
//!
//! let mesh = Mesh::from_file("mesh.yaml").await?;
//! let response = mesh.http_client().get("http://catalog/items").await?;
//! println!("{}", response.into_body().string().await?);
//! # Ok(())
//! # }
//! ```
//!
//! The same mesh [serves](Mesh::serve) axum, tonic and any service of HTTP: it knows who calls, by mutual TLS, enforces the
//! limits of the [server], and [drains](Mesh::drain). Its [identity] is followed while certificates rotate, at both ends.
//!
//! ```no_run
//! # async fn run(app: axum::Router) -> Result<(), Box<dyn std::error::Error>> {
//! use mesh_tower::Mesh;
//!
//! let mesh = Mesh::from_file("mesh.yaml").await?;
//! mesh.drain_on_signals();
//! mesh.serve(mesh.listener("public").await?, app).await;
//! # Ok(())
//! # }
//! ```
//!
//! The [guide] leads from here to production. gRPC users take `mesh-tonic`, which puts an unchanged generated client on
//! top. The file's schema is documented in [`mesh_core::config`].
//!
//! # Failure
//!
//! A request ends in a response or in an [`Error`] that names the service, the backend, the reason and the way out; it
//! never waits without a bound. A configuration that is refused leaves the last good one in force for everybody, and so does
//! an identity. What is to be TLS is never plaintext. What that protects from whom is in the
//! [threat model](guide::chapter_16_threat_model).

pub mod admin;
pub mod guide;
pub mod identity;
pub mod layer;
pub mod observe;
pub mod server;
pub mod telemetry;
#[cfg(feature = "test-util")]
pub mod testing;

mod apply;
mod builder;
mod client;
mod connector;
mod contain;
mod demand;
mod discover;
mod error;
mod http_client;
mod mesh;
mod net;
mod options;
mod source;
mod upkeep;

pub use builder::Builder;
pub use client::Body;
pub use connector::{MeshConnector, MeshStream};
pub use error::{BoxError, Error, ErrorKind};
pub use http_client::{HttpClient, ResponseFuture, ServiceClient};
pub use mesh::{ConfigStatus, Mesh};
pub use mesh_core as core;
pub use net::tls::TlsConfigError;
pub use net::{Connect, ConnectError, Connecting, Io};
pub use opentelemetry;
pub use options::RequestOptions;
pub use source::BuildError;
pub use source::dns::{Answer, Resolve, ResolveError, Resolving};
pub use source::endpoints::{EndpointSource, Found};

/// Compiles the code of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
