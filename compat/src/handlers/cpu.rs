//! CPUs: compared with the host's or the hypervisor's, and put together.

use wire::remote::*;
use wire::xdr::Text;
use wire::{ErrorCode, ErrorDomain, WireError};

use super::{Reply, args};
use crate::ctx::Ctx;
use crate::proto::compare_cpu_response::Result as Compared;
use crate::proto::{BaselineCpuRequest, CompareCpuRequest, Hypervisor};

/// `VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE`: what is incompatible is an error.
const FAIL_INCOMPATIBLE: u32 = 1;
/// `VIR_CONNECT_COMPARE_CPU_VALIDATE_XML`.
const VALIDATE: u32 = 2;
/// `VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES`.
const EXPAND: u32 = 1;
/// `VIR_CONNECT_BASELINE_CPU_MIGRATABLE`.
const MIGRATABLE: u32 = 2;

pub(crate) async fn compare(ctx: &Ctx, args: ConnectCompareCpu) -> Reply<ConnectCompareCpuRet> {
    args::flags(ctx, args.flags)?;
    let result = compared(ctx, args.xml, None, args.flags).await?;
    Ok(ConnectCompareCpuRet { result })
}

pub(crate) async fn compare_hypervisor(
    ctx: &Ctx,
    args: ConnectCompareHypervisorCpu,
) -> Reply<ConnectCompareHypervisorCpuRet> {
    args::flags(ctx, args.flags)?;
    let hypervisor = hypervisor(args.emulator, args.arch, args.machine, args.virttype);
    let result = compared(ctx, args.xml_cpu, Some(hypervisor), args.flags).await?;
    Ok(ConnectCompareHypervisorCpuRet { result })
}

pub(crate) async fn baseline(ctx: &Ctx, args: ConnectBaselineCpu) -> Reply<ConnectBaselineCpuRet> {
    args::flags(ctx, args.flags)?;
    let cpu = common(ctx, args.xml_cp_us.into_iter().collect(), None, args.flags).await?;
    Ok(ConnectBaselineCpuRet { cpu })
}

pub(crate) async fn baseline_hypervisor(
    ctx: &Ctx,
    args: ConnectBaselineHypervisorCpu,
) -> Reply<ConnectBaselineHypervisorCpuRet> {
    args::flags(ctx, args.flags)?;
    let hypervisor = hypervisor(args.emulator, args.arch, args.machine, args.virttype);
    let cpu = common(
        ctx,
        args.xml_cp_us.into_iter().collect(),
        Some(hypervisor),
        args.flags,
    )
    .await?;
    Ok(ConnectBaselineHypervisorCpuRet { cpu })
}

fn hypervisor(
    emulator: Option<Text>,
    arch: Option<Text>,
    machine: Option<Text>,
    virt_type: Option<Text>,
) -> Hypervisor {
    let [emulator, arch, machine, virt_type] = [emulator, arch, machine, virt_type].map(args::text);
    Hypervisor {
        emulator,
        arch,
        machine,
        virt_type,
    }
}

/// libvirt's number of the result.
async fn compared(ctx: &Ctx, xml: Text, hypervisor: Option<Hypervisor>, flags: u32) -> Reply<i32> {
    let request = CompareCpuRequest {
        xml: xml.into_string(),
        hypervisor,
        validate: flags & VALIDATE != 0,
    };
    let answer = ctx.host().compare_cpu(request).await?.into_inner();
    match answer.result() {
        Compared::Identical => Ok(1),
        Compared::Superset => Ok(2),
        _ if flags & FAIL_INCOMPATIBLE == 0 => Ok(0),
        _ => Err(WireError::new(ErrorCode::CPU_INCOMPATIBLE, ErrorDomain::CPU, &answer.reason).into()),
    }
}

async fn common(ctx: &Ctx, documents: Vec<Text>, hypervisor: Option<Hypervisor>, flags: u32) -> Reply<Text> {
    if documents.is_empty() {
        let text = format!("xmlCPUs in {} must not be NULL", ctx.info.api);
        return Err(WireError::new(ErrorCode::INVALID_ARG, ctx.info.area(), &text)
            .with_message(&text)
            .into());
    }
    let request = BaselineCpuRequest {
        xml: documents.into_iter().map(Text::into_string).collect(),
        hypervisor,
        expand_features: flags & EXPAND != 0,
        migratable: flags & MIGRATABLE != 0,
    };
    Ok(ctx.host().baseline_cpu(request).await?.into_inner().xml.into())
}
