//! Compiles the proto files in Rust alone: no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["proto/greeter.proto"], ["proto"])?;
    // No `connect()` in the generated client: the examples bring their own channel.
    tonic_prost_build::configure().build_transport(false).compile_fds(files)?;
    Ok(())
}
