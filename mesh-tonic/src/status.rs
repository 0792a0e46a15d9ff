use std::sync::Arc;

use tonic::{Code, Status};

/// The status a gRPC user sees for a failure of the mesh: the code gRPC prescribes, the whole chain of reasons as its
/// message, and the error itself as its source.
///
/// ```
/// # async fn run(mesh: mesh_tower::Mesh) {
/// if let Err(error) = mesh.service("greter") {
///     let status = mesh_tonic::to_status(error);
///     assert_eq!(status.code(), tonic::Code::Unavailable);
///     println!("{}", status.message()); // no service has the host "greter"; did you mean `greeter`?
/// }
/// # }
/// ```
pub fn to_status(error: mesh_tower::Error) -> Status {
    let mut status = Status::new(Code::from_i32(error.grpc_code() as i32), error.report());
    status.set_source(Arc::new(error));
    status
}

#[cfg(test)]
mod tests {
    use mesh_tower::core::grpc;

    use super::*;

    #[test]
    fn every_code_is_tonics_code_of_the_same_name() {
        for code in grpc::Code::ALL {
            let tonic = Code::from_i32(code as i32);
            let name = format!("{tonic:?}").to_uppercase();
            assert_eq!(name, code.name().replace('_', ""), "{code:?}");
        }
    }
}
