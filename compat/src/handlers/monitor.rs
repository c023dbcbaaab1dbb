//! QEMU's own monitor, for who asks for it.

use wire::qemu::{DomainMonitorCommand, DomainMonitorCommandRet};

use super::{Reply, args, by_uuid};
use crate::ctx::Ctx;
use crate::proto::ExecuteRequest;

pub(crate) async fn execute(
    ctx: &Ctx,
    args: DomainMonitorCommand,
) -> Reply<DomainMonitorCommandRet> {
    args::flags(ctx, args.flags)?;
    let request = ExecuteRequest {
        domain: by_uuid(&args.dom),
        command: args.cmd.into_string(),
        human: args.flags & wire::consts::VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP != 0,
    };
    let reply = ctx.monitor().execute(request).await?.into_inner().reply;
    Ok(DomainMonitorCommandRet {
        result: reply.into(),
    })
}
