//! Compiles the proto files in Rust alone: no `protoc` has to be installed.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_file("grpc/testing/test.proto")?;
    // What the reflection service of the echo server tells.
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(out.join("grpc_testing.bin"), compiler.encode_file_descriptor_set())?;
    compiler.include_source_info(true).open_file("greeter.proto")?;
    // No `connect()` in the generated clients: the examples bring their own channel.
    tonic_prost_build::configure().build_transport(false).compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
