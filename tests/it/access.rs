//! Every RPC of the contract on the read-only socket: what the table of permissions says, and nothing else.

use std::path::Path;

use anyhow::{Context, Result};
use prost::Message;
use testkit::Sandbox;
use testkit::skip::can_run_guests;
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
    client.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let path = PathAndQuery::try_from(path).map_err(|e| Status::internal(e.to_string()))?;
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    client.unary(Request::new(()), path, codec).await.map(drop)
}

fn is_denied(answer: &Result<(), Status>) -> bool {
    answer.as_ref().is_err_and(|s| s.code() == Code::PermissionDenied && reason(s) == "OPERATION_DENIED")
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
        let (_, permission) = PERMISSIONS.iter().find(|(p, _)| p == path).context("no permission")?;
        // Streams and reads that wait would not end by themselves.
        let answer = tokio::time::timeout(std::time::Duration::from_secs(5), call(&grpc, path)).await;
        let answer = answer.unwrap_or(Ok(()));
        assert_eq!(is_denied(&answer), permission.changes(), "{path}: {answer:?}");
    }
    assert_eq!(full.get("a").await?, before, "a read-only client changed something");
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
    let secure = compat::proto::GetXmlRequest { domain: crate::grpc::by_name("a"), secure: true, ..Default::default() };
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
