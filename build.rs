//! Compiles `proto/` for the server side, without protoc: message and service code and the descriptor set for reflection.

use std::{env, error::Error, fs, path::PathBuf};

use heck::ToSnakeCase;
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
    // Reflection shows the contract as it is; the code below may hold a part of it as bytes.
    fs::write(out.join("descriptor.bin"), set.encode_to_vec())?;
    fs::write(out.join("calls.rs"), calls(&set))?;
    let set = with_encoded_lists(set);
    tonic_prost_build::configure()
        .build_client(false)
        .build_server(true)
        .bytes(".virtqemud.v1.ListResponse.domains")
        .bytes(".virtqemud.v1.AttachRequest")
        .bytes(".virtqemud.v1.AttachResponse")
        .bytes(".virtqemud.v1.OpenDisplayRequest")
        .bytes(".virtqemud.v1.OpenDisplayResponse")
        .bytes(".virtqemud.v1.ScreenshotResponse")
        .compile_fds(set)?;
    Ok(())
}

/// The guests of a list as bytes: on the wire the same, and each is encoded once a view instead of once a call.
fn with_encoded_lists(mut set: prost_types::FileDescriptorSet) -> prost_types::FileDescriptorSet {
    let messages = set.file.iter_mut().flat_map(|file| &mut file.message_type);
    let lists = messages.filter(|message| message.name() == "ListResponse");
    for field in lists
        .flat_map(|message| &mut message.field)
        .filter(|field| field.name() == "domains")
    {
        field.set_type(prost_types::field_descriptor_proto::Type::Bytes);
        field.type_name = None;
    }
    set
}

/// A line for each call of one request and one answer: its path, its service's module and trait, its method.
fn calls(set: &prost_types::FileDescriptorSet) -> String {
    let mut out = "calls! {\n".to_owned();
    for file in set.file.iter().filter(|file| file.package() == "virtqemud.v1") {
        for service in &file.service {
            let methods = service.method.iter();
            for method in methods.filter(|method| !method.client_streaming() && !method.server_streaming()) {
                let (package, name) = (file.package(), service.name());
                let module = format!("{}_server", name.to_snake_case());
                let call = method.name().to_snake_case();
                out += &format!(
                    "    \"/{package}.{name}/{}\" = {module}::{name}::{call};\n",
                    method.name()
                );
            }
        }
    }
    out + "}\n"
}
