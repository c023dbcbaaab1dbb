//! CPUs: compared with the host's or the hypervisor's, and put together.

use wire::consts::*;
use wire::remote::*;
use wire::xdr::Text;
use wire::{ErrorCode, ErrorDomain, WireError};

use super::Reply;
use super::args::{self, Must};
use super::flags::Flags;
use crate::ctx::Ctx;
use crate::proto::compare_cpu_response::Result as Compared;
use crate::proto::{BaselineCpuRequest, CompareCpuRequest, Hypervisor};

pub(crate) async fn compare(ctx: &Ctx, args: ConnectCompareCpu, flags: Flags) -> Reply<ConnectCompareCpuRet> {
    let flags = flags.checked()?;
    let result = compared(ctx, args.xml, None, flags).await?;
    Ok(ConnectCompareCpuRet { result })
}

pub(crate) async fn compare_hypervisor(
    ctx: &Ctx,
    args: ConnectCompareHypervisorCpu,
    flags: Flags,
) -> Reply<ConnectCompareHypervisorCpuRet> {
    let flags = flags.checked()?;
    let hypervisor = hypervisor(args.emulator, args.arch, args.machine, args.virttype);
    let result = compared(ctx, args.xml_cpu, Some(hypervisor), flags).await?;
    Ok(ConnectCompareHypervisorCpuRet { result })
}

pub(crate) async fn baseline(
    ctx: &Ctx,
    args: ConnectBaselineCpu,
    flags: Flags,
) -> Reply<ConnectBaselineCpuRet> {
    args::check(ctx, "xmlCPUs", Must::NotBeNull, !args.xml_cp_us.is_empty())?;
    let flags = flags.checked()?;
    let cpu = common(ctx, args.xml_cp_us.into_iter().collect(), None, flags).await?;
    Ok(ConnectBaselineCpuRet { cpu })
}

pub(crate) async fn baseline_hypervisor(
    ctx: &Ctx,
    args: ConnectBaselineHypervisorCpu,
    flags: Flags,
) -> Reply<ConnectBaselineHypervisorCpuRet> {
    args::check(ctx, "xmlCPUs", Must::NotBeNull, !args.xml_cp_us.is_empty())?;
    let flags = flags.checked()?;
    let hypervisor = hypervisor(args.emulator, args.arch, args.machine, args.virttype);
    let cpu = common(ctx, args.xml_cp_us.into_iter().collect(), Some(hypervisor), flags).await?;
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
        validate: flags & VIR_CONNECT_COMPARE_CPU_VALIDATE_XML != 0,
    };
    let answer = ctx.host().compare_cpu(request).await?;
    match answer.result() {
        Compared::Identical => Ok(VIR_CPU_COMPARE_IDENTICAL),
        Compared::Superset => Ok(VIR_CPU_COMPARE_SUPERSET),
        _ if flags & VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE == 0 => Ok(VIR_CPU_COMPARE_INCOMPATIBLE),
        _ => Err(WireError::new(ErrorCode::CPU_INCOMPATIBLE, ErrorDomain::CPU, &answer.reason).into()),
    }
}

async fn common(ctx: &Ctx, documents: Vec<Text>, hypervisor: Option<Hypervisor>, flags: u32) -> Reply<Text> {
    let request = BaselineCpuRequest {
        xml: documents.into_iter().map(Text::into_string).collect(),
        hypervisor,
        expand_features: flags & VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES != 0,
        migratable: flags & VIR_CONNECT_BASELINE_CPU_MIGRATABLE != 0,
    };
    Ok(ctx.host().baseline_cpu(request).await?.xml.into())
}
