//! Generates the protobuf messages from `proto/` with a compiler written in Rust, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["tidegate/v1/tidegate.proto"], ["proto"])?;
    prost_build::Config::new().bytes(["."]).enable_type_names().compile_fds(files)?;
    Ok(())
}
