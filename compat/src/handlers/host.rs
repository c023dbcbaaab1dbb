//! The host: versions, CPUs, memory, documents about what it can do.

use wire::remote::*;

use super::Reply;
use crate::ctx::Ctx;
use crate::proto::{
    GetCapabilitiesRequest, GetDomainCapabilitiesRequest, GetHypervisorVersionRequest, GetInfoRequest, GetNodeRequest, GetNodeResponse,
};

/// Asks for a document without what QEMU means to drop.
const DISABLE_DEPRECATED_FEATURES: u32 = 1;

pub(crate) async fn get_version(ctx: &Ctx, _: ConnectGetVersion) -> Reply<ConnectGetVersionRet> {
    let answer = ctx.host().get_hypervisor_version(GetHypervisorVersionRequest {}).await?.into_inner();
    Ok(ConnectGetVersionRet { hv_ver: answer.version })
}

pub(crate) async fn get_capabilities(ctx: &Ctx, _: ConnectGetCapabilities) -> Reply<ConnectGetCapabilitiesRet> {
    let answer = ctx.host().get_capabilities(GetCapabilitiesRequest {}).await?.into_inner();
    Ok(ConnectGetCapabilitiesRet { capabilities: answer.xml.into() })
}

pub(crate) async fn get_domain_capabilities(ctx: &Ctx, args: ConnectGetDomainCapabilities) -> Reply<ConnectGetDomainCapabilitiesRet> {
    if args.flags & !DISABLE_DEPRECATED_FEATURES != 0 {
        return Err(ctx.invalid_arg(&format!("unsupported flags (0x{:x}) in function virQEMUDriverGetDomainCapabilities", args.flags)).into());
    }
    let text = |value: Option<wire::xdr::Text>| value.map(wire::xdr::Str::into_string).unwrap_or_default();
    let request = GetDomainCapabilitiesRequest {
        emulator: text(args.emulatorbin),
        arch: text(args.arch),
        machine: text(args.machine),
        virt_type: text(args.virttype),
        disable_deprecated_features: args.flags & DISABLE_DEPRECATED_FEATURES != 0,
    };
    let answer = ctx.host().get_domain_capabilities(request).await?.into_inner();
    Ok(ConnectGetDomainCapabilitiesRet { capabilities: answer.xml.into() })
}

async fn node(ctx: &Ctx) -> Reply<GetNodeResponse> {
    Ok(ctx.host().get_node(GetNodeRequest {}).await?.into_inner())
}

pub(crate) async fn node_info(ctx: &Ctx, _: NodeGetInfo) -> Reply<NodeGetInfoRet> {
    let node = node(ctx).await?;
    let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let mut model = [0; 32];
    // The last byte stays NUL.
    for (to, from) in model.iter_mut().take(31).zip(node.model.bytes()) {
        *to = from.cast_signed();
    }
    Ok(NodeGetInfoRet {
        model,
        memory: node.memory_kib,
        cpus: number(node.cpus),
        mhz: number(node.mhz),
        nodes: number(node.nodes),
        sockets: number(node.sockets),
        cores: number(node.cores),
        threads: number(node.threads),
    })
}

pub(crate) async fn free_memory(ctx: &Ctx, _: NodeGetFreeMemory) -> Reply<NodeGetFreeMemoryRet> {
    Ok(NodeGetFreeMemoryRet { free_mem: node(ctx).await?.free_memory_kib.saturating_mul(1024) })
}

pub(crate) async fn security_model(ctx: &Ctx, _: NodeGetSecurityModel) -> Reply<NodeGetSecurityModelRet> {
    let info = ctx.host().get_info(GetInfoRequest {}).await?.into_inner();
    // With the NUL at the end.
    let text = |text: &str| text.bytes().chain([0]).map(u8::cast_signed).collect::<Vec<i8>>();
    Ok(NodeGetSecurityModelRet { model: text(&info.security_model).into(), doi: text(&info.security_doi).into() })
}
