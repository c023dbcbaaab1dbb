//! Compiles `proto/` for the client side.

use std::{error::Error, fs};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../proto");
    let mut files = Vec::new();
    for entry in fs::read_dir("../proto/virtqemud/v1")? {
        files.push(entry?.path());
    }
    files.sort();
    let set = protox::compile(&files, ["../proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .bytes(".virtqemud.v1.AttachRequest")
        .bytes(".virtqemud.v1.AttachResponse")
        .compile_fds(set)?;
    Ok(())
}
