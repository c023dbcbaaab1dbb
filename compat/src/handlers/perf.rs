//! Which events of performance are counted for a guest.

use wire::params::*;
use wire::remote::*;
use wire::typed::{Param, TypedValue};

use super::args::{self, Must};
use super::flags::Flags;
use super::{Reply, by_uuid, info};
use crate::ctx::Ctx;
use crate::proto::{ListPerfEventsRequest, SetPerfEventsRequest};

/// All events, in libvirt's order.
const EVENTS: [Param; 22] = [
    VIR_PERF_PARAM_CMT,
    VIR_PERF_PARAM_MBMT,
    VIR_PERF_PARAM_MBML,
    VIR_PERF_PARAM_CPU_CYCLES,
    VIR_PERF_PARAM_INSTRUCTIONS,
    VIR_PERF_PARAM_CACHE_REFERENCES,
    VIR_PERF_PARAM_CACHE_MISSES,
    VIR_PERF_PARAM_BRANCH_INSTRUCTIONS,
    VIR_PERF_PARAM_BRANCH_MISSES,
    VIR_PERF_PARAM_BUS_CYCLES,
    VIR_PERF_PARAM_STALLED_CYCLES_FRONTEND,
    VIR_PERF_PARAM_STALLED_CYCLES_BACKEND,
    VIR_PERF_PARAM_REF_CPU_CYCLES,
    VIR_PERF_PARAM_CPU_CLOCK,
    VIR_PERF_PARAM_TASK_CLOCK,
    VIR_PERF_PARAM_PAGE_FAULTS,
    VIR_PERF_PARAM_CONTEXT_SWITCHES,
    VIR_PERF_PARAM_CPU_MIGRATIONS,
    VIR_PERF_PARAM_PAGE_FAULTS_MIN,
    VIR_PERF_PARAM_PAGE_FAULTS_MAJ,
    VIR_PERF_PARAM_ALIGNMENT_FAULTS,
    VIR_PERF_PARAM_EMULATION_FAULTS,
];

pub(crate) async fn get_events(
    ctx: &Ctx,
    args: DomainGetPerfEvents,
    flags: Flags,
) -> Reply<DomainGetPerfEventsRet> {
    let scope = info::one_state(ctx, &args.dom, flags.checked()?).await?;
    let request = ListPerfEventsRequest {
        domain: by_uuid(&args.dom),
        scope: scope.into(),
    };
    let counted = ctx.perf_events().list(request).await?.events;
    let params = EVENTS.iter().map(|event| {
        let is_counted = counted.iter().any(|name| name == event.field);
        event.with(is_counted)
    });
    Ok(DomainGetPerfEventsRet {
        params: params.collect(),
    })
}

pub(crate) async fn set_events(ctx: &Ctx, args: DomainSetPerfEvents, flags: Flags) -> Reply<()> {
    args::check(ctx, "params", Must::NotBeNull, !args.params.is_empty())?;
    let scope = args::scope(flags.checked()?);
    args::params(&args.params, &EVENTS)?;
    let params = &args.params;
    let named = |counted: bool| {
        let is_so = |event: &&Param| match event.find(params) {
            Some(TypedValue::Boolean(value)) => *value == counted,
            _ => false,
        };
        EVENTS
            .iter()
            .filter(is_so)
            .map(|event| event.field.to_owned())
            .collect()
    };
    let request = SetPerfEventsRequest {
        domain: by_uuid(&args.dom),
        scope: scope.into(),
        enable: named(true),
        disable: named(false),
        options: None,
    };
    ctx.perf_events().set(request).await?;
    Ok(())
}
