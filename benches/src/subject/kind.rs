use std::fmt;

use serde::{Deserialize, Serialize};

/// A server under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kind {
    /// What handles requests.
    pub framework: Framework,
    /// What is around it.
    pub around: Around,
    /// Whether callers must prove who they are, by TLS.
    pub mutual: bool,
}

/// What handles requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Framework {
    /// A `Router` with one route, bare under `axum::serve`.
    Axum,
    /// tonic's `Routes` with one service, bare under tonic's own `Server`.
    Tonic,
    /// A function under hyper-util's `auto::Builder`, to which the mesh brings its layer alone.
    Hyper,
}

/// What is around a framework.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Around {
    /// Nothing; TLS is tokio-rustls under hyper-util's `auto::Builder`.
    Nothing,
    /// `mesh.serve` (for hyper over plaintext, `server_layer`), with every limit on.
    Mesh,
    /// The same with OpenTelemetry's metrics, collected every second.
    MeshMeasured,
}

impl Kind {
    /// Over plaintext.
    pub const fn plain(framework: Framework, around: Around) -> Self {
        Self { framework, around, mutual: false }
    }

    /// Over mutual TLS.
    pub const fn mutual(framework: Framework, around: Around) -> Self {
        Self { framework, around, mutual: true }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.framework {
            Framework::Axum => "axum",
            Framework::Tonic => "tonic",
            Framework::Hyper => "hyper",
        })?;
        f.write_str(match (self.around, self.framework, self.mutual) {
            (Around::Nothing, ..) => ", bare",
            (Around::Mesh, Framework::Hyper, false) => " + layer",
            (Around::MeshMeasured, Framework::Hyper, false) => " + layer with metrics",
            (Around::Mesh, ..) => " in the mesh",
            (Around::MeshMeasured, ..) => " in the mesh with metrics",
        })?;
        if self.mutual { f.write_str(", mTLS") } else { Ok(()) }
    }
}
