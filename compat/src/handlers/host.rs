//! The host, its hypervisor, and documents about both.

use wire::remote::*;

use super::flags::Flags;
use super::{Reply, args, c_string};
use crate::ctx::Ctx;
use crate::proto::to_native_request::Source;
use crate::proto::{
    GetCapabilitiesRequest, GetDomainCapabilitiesRequest, GetHypervisorVersionRequest, GetInfoRequest,
    GetMaxVcpusRequest, GetNodeRequest, GetNodeResponse, ListCellsRequest, ListCpuModelsRequest,
    ToNativeRequest, list_cells_response::Cell,
};

async fn node(ctx: &Ctx) -> Reply<GetNodeResponse> {
    Ok(ctx.host().get_node(GetNodeRequest {}).await?)
}

pub(crate) async fn get_version(ctx: &Ctx, _: ConnectGetVersion) -> Reply<ConnectGetVersionRet> {
    let request = GetHypervisorVersionRequest {};
    let answer = ctx.host().get_hypervisor_version(request).await?;
    Ok(ConnectGetVersionRet {
        hv_ver: answer.version,
    })
}

pub(crate) async fn get_max_vcpus(ctx: &Ctx, args: ConnectGetMaxVcpus) -> Reply<ConnectGetMaxVcpusRet> {
    let request = GetMaxVcpusRequest {
        virt_type: args::text(args.r#type),
    };
    let answer = ctx.host().get_max_vcpus(request).await?;
    Ok(ConnectGetMaxVcpusRet {
        max_vcpus: i32::try_from(answer.max_vcpus).unwrap_or(i32::MAX),
    })
}

pub(crate) async fn get_cpu_model_names(
    ctx: &Ctx,
    args: ConnectGetCpuModelNames,
    flags: Flags,
) -> Reply<ConnectGetCpuModelNamesRet> {
    flags.checked()?;
    let request = ListCpuModelsRequest {
        arch: args.arch.into_string(),
    };
    let models = ctx.host().list_cpu_models(request).await?.models;
    let ret = i32::try_from(models.len()).unwrap_or(i32::MAX);
    let wanted = models.into_iter().filter(|_| args.need_results != 0);
    Ok(ConnectGetCpuModelNamesRet {
        models: wanted.map(Into::into).collect(),
        ret,
    })
}

/// What comes by a local socket is as safe as the host.
pub(crate) async fn is_secure(_: &Ctx, _: ConnectIsSecure) -> Reply<ConnectIsSecureRet> {
    Ok(ConnectIsSecureRet { secure: 1 })
}

pub(crate) async fn get_node_info(ctx: &Ctx, _: NodeGetInfo) -> Reply<NodeGetInfoRet> {
    let node = node(ctx).await?;
    let small = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let mut model = [0; 32];
    // The last byte stays: the name ends with a NUL.
    for (place, byte) in model.iter_mut().take(31).zip(node.model.bytes()) {
        *place = byte.cast_signed();
    }
    Ok(NodeGetInfoRet {
        model,
        memory: node.memory_kib,
        cpus: small(node.cpus),
        mhz: small(node.mhz),
        nodes: small(node.nodes),
        sockets: small(node.sockets),
        cores: small(node.cores),
        threads: small(node.threads),
    })
}

/// libvirt adds up what its NUMA cells have free, which is a little less than the kernel says of the whole host.
pub(crate) async fn get_free_memory(ctx: &Ctx, _: NodeGetFreeMemory) -> Reply<NodeGetFreeMemoryRet> {
    let host = ctx
        .host()
        .list_cells(ListCellsRequest { without_pages: true })
        .await?;
    Ok(NodeGetFreeMemoryRet {
        free_mem: free_bytes(&host.cells),
    })
}

pub(crate) async fn get_security_model(ctx: &Ctx, _: NodeGetSecurityModel) -> Reply<NodeGetSecurityModelRet> {
    let info = ctx.host().get_info(GetInfoRequest {}).await?;
    Ok(NodeGetSecurityModelRet {
        model: c_string(&info.security_model).into(),
        doi: c_string(&info.security_doi).into(),
    })
}

pub(crate) async fn get_capabilities(
    ctx: &Ctx,
    _: ConnectGetCapabilities,
) -> Reply<ConnectGetCapabilitiesRet> {
    let request = GetCapabilitiesRequest {};
    let answer = ctx.host().get_capabilities(request).await?;
    Ok(ConnectGetCapabilitiesRet {
        capabilities: answer.xml.into(),
    })
}

pub(crate) async fn get_domain_capabilities(
    ctx: &Ctx,
    args: ConnectGetDomainCapabilities,
    flags: Flags,
) -> Reply<ConnectGetDomainCapabilitiesRet> {
    // The one flag leaves out features that no CPU model of ours has.
    flags.checked()?;
    let request = GetDomainCapabilitiesRequest {
        emulator: args::text(args.emulatorbin),
        arch: args::text(args.arch),
        machine: args::text(args.machine),
        virt_type: args::text(args.virttype),
    };
    let answer = ctx.host().get_domain_capabilities(request).await?;
    Ok(ConnectGetDomainCapabilitiesRet {
        capabilities: answer.xml.into(),
    })
}

pub(crate) async fn to_native(
    ctx: &Ctx,
    args: ConnectDomainXmlToNative,
    flags: Flags,
) -> Reply<ConnectDomainXmlToNativeRet> {
    flags.checked()?;
    let request = ToNativeRequest {
        source: Some(Source::Xml(args.domain_xml.into_string())),
        format: args.native_format.into_string(),
    };
    let text = ctx.domains().to_native(request).await?.text;
    Ok(ConnectDomainXmlToNativeRet {
        native_config: text.into(),
    })
}

fn free_bytes(cells: &[Cell]) -> u64 {
    let free = cells.iter().map(|cell| cell.free_memory_kib.saturating_mul(1024));
    free.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_that_of_all_cells() {
        let cell = |free_memory_kib| Cell {
            free_memory_kib,
            ..Cell::default()
        };
        assert_eq!(free_bytes(&[]), 0);
        assert_eq!(free_bytes(&[cell(3), cell(4)]), 7 << 10);
        assert_eq!(free_bytes(&[cell(u64::MAX), cell(1)]), u64::MAX);
    }
}
