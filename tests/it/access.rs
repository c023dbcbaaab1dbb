//! Every RPC of the contract on the read-only socket: what the table of permissions says, and nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use prost::Message;
use testkit::skip::can_run_guests;
use testkit::{Sandbox, Virsh};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use virtqemud::access::PERMISSIONS;

use crate::grpc::{Grpc, QEMU, READ_ONLY_SOCKET, daemon, reason, refused, small};

/// Every RPC that the daemon says it serves, by path.
fn contract() -> Result<Vec<String>> {
    let set = prost_types::FileDescriptorSet::decode(virtqemud::pb::DESCRIPTORS)?;
    let mut paths = Vec::new();
    for file in &set.file {
        for service in &file.service {
            let prefix = format!("/{}.{}", file.package(), service.name());
            paths.extend(service.method.iter().map(|m| format!("{prefix}/{}", m.name())));
        }
    }
    Ok(paths)
}

/// Calls an RPC with an empty message, which none of ours serves in full.
async fn call(grpc: &Grpc, path: &str) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(grpc.channel());
    client
        .ready()
        .await
        .map_err(|e| Status::unavailable(e.to_string()))?;
    let path = PathAndQuery::try_from(path).map_err(|e| Status::internal(e.to_string()))?;
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    client.unary(Request::new(()), path, codec).await.map(drop)
}

fn is_denied(answer: &Result<(), Status>) -> bool {
    answer
        .as_ref()
        .is_err_and(|s| s.code() == Code::PermissionDenied && reason(s) == "OPERATION_DENIED")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_is_denied_or_not_as_the_table_says() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    let full = Grpc::of(&sandbox).await?;
    full.define(&small("a", Path::new(QEMU), "")).await?;
    let before = full.get("a").await?;
    let grpc = Grpc::at(sandbox.path(READ_ONLY_SOCKET)).await?;
    let contract = contract()?;
    assert!(contract.len() > 20, "the contract has lost its services");
    for path in &contract {
        let (_, permission) = PERMISSIONS
            .iter()
            .find(|(p, _)| p == path)
            .context("no permission")?;
        // Streams and reads that wait would not end by themselves.
        let answer = tokio::time::timeout(std::time::Duration::from_secs(5), call(&grpc, path)).await;
        let answer = answer.unwrap_or(Ok(()));
        assert_eq!(is_denied(&answer), permission.changes(), "{path}: {answer:?}");
    }
    assert_eq!(
        full.get("a").await?,
        before,
        "a read-only client changed something"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_reads_but_no_secrets() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    let secret = "<graphics type='vnc' port='-1' autoport='yes' passwd='hidden7'/></devices>";
    let xml = small("a", Path::new(QEMU), "").replace("</devices>", secret);
    Grpc::of(&sandbox).await?.define(&xml).await?;
    let grpc = Grpc::at(sandbox.path(READ_ONLY_SOCKET)).await?;
    assert_eq!(grpc.names().await?, ["a"]);
    assert!(!grpc.xml("a").await?.contains("hidden7"));
    let secure = virtqemud_client::proto::GetXmlRequest {
        domain: crate::grpc::by_name("a"),
        secure: true,
        ..Default::default()
    };
    let denied = grpc.domains().get_xml(secure.clone()).await;
    refused(denied, Code::PermissionDenied, "OPERATION_DENIED")?;
    let full = Grpc::of(&sandbox).await?.domains().get_xml(secure).await?;
    assert!(full.get_ref().xml.contains("hidden7"));
    // Watching is reading.
    let mut watch = grpc.watch().await?;
    Grpc::of(&sandbox).await?.undefine("a").await?;
    watch.expect(&["undefined/0"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_rpc_that_is_not_served_is_unimplemented() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    let grpc = Grpc::of(&sandbox).await?;
    for path in ["/virtqemud.v1.Domains/Nothing", "/nobody/Nothing"] {
        let status = call(&grpc, path).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
    }
    Ok(())
}

/// A program that is no QEMU and leaves a mark when it is run.
fn marking(dir: &Path) -> Result<(PathBuf, PathBuf)> {
    let (program, mark) = (dir.join("qemu-system-x86_64"), dir.join("mark"));
    fs::write(
        &program,
        format!("#!/bin/sh\necho run >> {}\nexit 1\n", mark.display()),
    )?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok((program, mark))
}

fn about(emulator: &Path) -> virtqemud_client::proto::GetDomainCapabilitiesRequest {
    virtqemud_client::proto::GetDomainCapabilitiesRequest {
        emulator: emulator.display().to_string(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_has_no_program_run_but_those_that_the_host_finds() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    let dir = tempfile::tempdir()?;
    let (program, mark) = marking(dir.path())?;
    let reader = Grpc::at(sandbox.path(READ_ONLY_SOCKET)).await?;
    for emulator in [&program, &dir.path().join("absent"), &PathBuf::from("/bin/sh")] {
        let denied = reader.host().get_domain_capabilities(about(emulator)).await;
        let status = refused(denied, Code::PermissionDenied, "EMULATOR_NOT_FOUND_BY_HOST")?;
        assert!(
            status.message().contains(&emulator.display().to_string()),
            "{}",
            status.message()
        );
    }
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(QEMU, &link)?;
    for emulator in [Path::new(QEMU), &link, Path::new("")] {
        let answer = reader.host().get_domain_capabilities(about(emulator)).await?;
        assert!(
            answer.get_ref().xml.contains(&format!("<path>{QEMU}</path>")),
            "{}",
            emulator.display()
        );
    }
    // libvirt gives no such answer to readers at all: its client refuses with -r, and the daemon one that does not know.
    let socket = sandbox.path("run/libvirt/virtqemud-sock-ro");
    let unaware = Virsh::new(format!("qemu+unix:///system?socket={}", socket.display()));
    let named = [
        "domcapabilities",
        "--emulatorbin",
        program.to_str().context("name")?,
    ];
    for (virsh, named) in [
        (unaware, named.to_vec()),
        (sandbox.virsh(), [&["--readonly"], &named[..]].concat()),
    ] {
        let said = virsh.refused(&named)?;
        assert!(
            said.contains("operation forbidden: read only access prevents virConnectGetDomainCapabilities"),
            "{said}"
        );
    }
    assert!(!mark.exists(), "it was run");
    Grpc::of(&sandbox)
        .await?
        .host()
        .get_domain_capabilities(about(&program))
        .await
        .unwrap_err();
    assert!(mark.exists(), "a full client may have it run");
    Ok(())
}
