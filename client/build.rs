//! Generates the client side of `proto/`, and nothing of the server side: clients of a connection, and calls in process.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use heck::{ToSnakeCase, ToUpperCamelCase};
use prost_types::FileDescriptorSet;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let descriptors = protox::compile(files(&root.join("virtqemud/v1"))?, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("direct.rs"), direct(&descriptors)?)?;
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}

fn files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let paths = std::fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path()));
    let mut files: Vec<_> = paths.collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "proto"));
    files.sort();
    Ok(files)
}

/// A line for each service, with its calls of one request and one answer.
fn direct(set: &FileDescriptorSet) -> Result<String, std::fmt::Error> {
    let mut out = "services! {\n".to_owned();
    for file in set.file.iter().filter(|file| file.package() == "virtqemud.v1") {
        for service in &file.service {
            let methods = service.method.iter();
            let methods: Vec<_> = methods
                .filter(|method| !method.client_streaming() && !method.server_streaming())
                .collect();
            if methods.is_empty() {
                continue;
            }
            writeln!(out, "    {} {{", service.name())?;
            for method in methods {
                writeln!(
                    out,
                    "        {}({}) -> {} = \"/{}.{}/{}\";",
                    method.name().to_snake_case(),
                    message(method.input_type()),
                    message(method.output_type()),
                    file.package(),
                    service.name(),
                    method.name(),
                )?;
            }
            out.push_str("    }\n");
        }
    }
    out.push_str("}\n");
    Ok(out)
}

/// The generated name of a message.
fn message(name: &str) -> String {
    name.rsplit('.').next().unwrap_or(name).to_upper_camel_case()
}
