//! Every client under test by name, ready to be built.

use tokio::runtime::Runtime;

use crate::Result;
#[cfg(feature = "peers")]
use crate::client::{SERVICE, xds};
use crate::client::{hyper, hyper_util, mesh, tonic};
use crate::measure::{Candidate, candidate};
use crate::server::Server;

/// A client under test, not yet built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// gRPC by the mesh, to all endpoints.
    Mesh,
    /// gRPC by the mesh, with metrics and one trace in a hundred.
    MeshMeasured,
    /// gRPC by the mesh, with metrics and with traces none of which is sampled.
    MeshUnsampled,
    /// gRPC by the mesh, with outlier detection, limits and localities.
    MeshProtected,
    /// gRPC by a bare tonic `Channel`, to the first endpoint.
    Channel,
    /// gRPC by tonic's `Channel::balance_list`, to all endpoints.
    BalanceList,
    /// gRPC by the generated client over bare hyper connections, one to each endpoint.
    Hyper,
    /// gRPC by hand over bare hyper connections, one to each endpoint.
    HyperRaw,
    /// gRPC by `tonic-xds`, to all endpoints.
    #[cfg(feature = "peers")]
    TonicXds,
    /// `GET` by the mesh over h1.
    MeshHttp1,
    /// `GET` by hyper-util over h1.
    HyperUtilHttp1,
    /// `GET` over a stack of bare h1 connections.
    HyperHttp1,
    /// `GET` by the mesh over h2.
    MeshHttp2,
    /// `GET` by hyper-util over h2.
    HyperUtilHttp2,
    /// `GET` over bare h2 connections, one to each endpoint.
    HyperHttp2,
}

impl Contender {
    /// What reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::MeshMeasured => "mesh, metrics and traces",
            Self::MeshUnsampled => "mesh, metrics, no trace sampled",
            Self::MeshProtected => "mesh, protected",
            Self::Channel => "tonic Channel",
            Self::BalanceList => "tonic balance_list",
            Self::Hyper => "bare hyper h2, generated client",
            Self::HyperRaw => "bare hyper h2",
            #[cfg(feature = "peers")]
            Self::TonicXds => "tonic-xds",
            Self::MeshHttp1 => "mesh, HTTP/1.1",
            Self::HyperUtilHttp1 => "hyper-util, HTTP/1.1",
            Self::HyperHttp1 => "bare hyper, HTTP/1.1",
            Self::MeshHttp2 => "mesh, HTTP/2",
            Self::HyperUtilHttp2 => "hyper-util, HTTP/2",
            Self::HyperHttp2 => "bare hyper, HTTP/2",
        }
    }

    /// Builds it on `runtime` for the endpoints of `server`.
    ///
    /// # Errors
    /// If it refuses its configuration or cannot connect.
    pub fn build(self, runtime: &Runtime, server: &Server) -> Result<Box<dyn Candidate>> {
        let name = self.name();
        let endpoints = server.endpoints();
        runtime.block_on(async {
            Ok(match self {
                Self::Mesh => candidate(name, mesh::grpc(endpoints).await?),
                Self::MeshMeasured => candidate(name, mesh::measured_grpc(endpoints, 0.01).await?),
                Self::MeshUnsampled => candidate(name, mesh::measured_grpc(endpoints, 0.0).await?),
                Self::MeshProtected => candidate(name, mesh::protected_grpc(endpoints).await?),
                Self::Channel => {
                    candidate(name, tonic::channel(*endpoints.first().ok_or("the server has no endpoint")?).await?)
                }
                Self::BalanceList => candidate(name, tonic::balance_list(endpoints, None)?),
                Self::Hyper => candidate(name, hyper::generated(endpoints).await?),
                Self::HyperRaw => candidate(name, hyper::raw_grpc(endpoints).await?),
                #[cfg(feature = "peers")]
                Self::TonicXds => {
                    let control_plane = server.control_plane().ok_or("the server has no control plane")?;
                    candidate(name, xds::channel(control_plane, SERVICE)?)
                }
                Self::MeshHttp1 => candidate(name, mesh::http1(endpoints).await?),
                Self::HyperUtilHttp1 => candidate(name, hyper_util::http1(endpoints)?),
                Self::HyperHttp1 => candidate(name, hyper::http1(endpoints)?),
                Self::MeshHttp2 => candidate(name, mesh::http2(endpoints).await?),
                Self::HyperUtilHttp2 => candidate(name, hyper_util::http2(endpoints)?),
                Self::HyperHttp2 => candidate(name, hyper::http2(endpoints).await?),
            })
        })
    }
}
