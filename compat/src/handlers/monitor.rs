//! QEMU's own monitor and the guest's agent, for who asks for them.

use virtqemud_client::time;
use wire::WireError;
use wire::consts::*;
use wire::qemu::*;
use wire::remote::NonnullDomain;
use wire::xdr::Text;

use super::flags::Flags;
use super::{Reply, args, by_uuid};
use crate::ctx::Ctx;
use crate::proto::execute_agent_request::{Unlimited, Wait};
use crate::proto::{ExecuteAgentRequest, ExecuteRequest};

pub(crate) async fn execute(
    ctx: &Ctx,
    args: DomainMonitorCommand,
    flags: Flags,
) -> Reply<DomainMonitorCommandRet> {
    let result = told(ctx, (&args.dom, args.cmd), flags).await?;
    Ok(DomainMonitorCommandRet { result })
}

/// The descriptor goes with the request; QEMU gives none back.
pub(crate) async fn execute_with_files(
    ctx: &Ctx,
    args: DomainMonitorCommandWithFiles,
    flags: Flags,
) -> Reply<DomainMonitorCommandWithFilesRet> {
    let result = told(ctx, (&args.dom, args.cmd), flags).await?;
    Ok(DomainMonitorCommandWithFilesRet { result })
}

/// What QEMU's monitor says to a command.
async fn told(ctx: &Ctx, (dom, cmd): (&NonnullDomain, Text), flags: Flags) -> Reply<Text> {
    let flags = flags.checked()?;
    let request = ExecuteRequest {
        domain: by_uuid(dom),
        command: cmd.into_string(),
        human: flags & VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP != 0,
        options: None,
    };
    let reply = ctx.monitor().execute(request).await?.reply;
    Ok(reply.into())
}

pub(crate) async fn ask_agent(
    ctx: &Ctx,
    args: DomainAgentCommand,
    flags: Flags,
) -> Reply<DomainAgentCommandRet> {
    flags.checked()?;
    let request = ExecuteAgentRequest {
        domain: by_uuid(&args.dom),
        command: args.cmd.into_string(),
        wait: wait(args.timeout)?,
        options: None,
    };
    let reply = ctx.guest_agent().execute(request).await?.reply;
    Ok(DomainAgentCommandRet {
        result: Some(reply.into()),
    })
}

/// How long libvirt's `timeout` means to wait.
fn wait(timeout: i32) -> Result<Option<Wait>, WireError> {
    match timeout {
        VIR_DOMAIN_QEMU_AGENT_COMMAND_DEFAULT => Ok(None),
        VIR_DOMAIN_QEMU_AGENT_COMMAND_BLOCK => Ok(Some(Wait::Unlimited(Unlimited {}))),
        seconds => match u32::try_from(seconds) {
            Ok(seconds) => Ok(Some(Wait::Timeout(time::of_seconds(seconds.into())))),
            Err(_) => {
                let least = VIR_DOMAIN_QEMU_AGENT_COMMAND_MIN;
                let text = format!("guest agent timeout '{timeout}' is less than the minimum '{least}'");
                Err(args::invalid(&text))
            }
        },
    }
}
