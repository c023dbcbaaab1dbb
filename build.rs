//! Compiles `proto/` for the server side, without protoc: message and service code and the descriptor set for reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut files = Vec::new();
    for entry in fs::read_dir("proto/virtqemud/v1")? {
        files.push(entry?.path());
    }
    files.sort();
    let set = protox::compile(&files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptor.bin"), set.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_server(true)
        .bytes(".virtqemud.v1.AttachRequest")
        .bytes(".virtqemud.v1.AttachResponse")
        .compile_fds(set)?;
    Ok(())
}
