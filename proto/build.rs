//! Compiles the contract with protox, so that a build needs no protoc.

use std::path::PathBuf;
use std::{env, error, fs};

use prost::Message as _;

/// One file per service.
const FILES: [&str; 3] = [
    "sqlrep/v1/agent.proto",
    "sqlrep/v1/databases.proto",
    "sqlrep/v1/replicas.proto",
];

fn main() -> Result<(), Box<dyn error::Error>> {
    println!("cargo::rerun-if-changed=sqlrep");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?).join("sqlrep.v1.bin");
    fs::write(out, descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".sqlrep.v1.RestoreResponse.chunk")
        .compile_fds(descriptors)?;
    Ok(())
}
