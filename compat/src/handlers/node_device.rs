//! Devices of the host taken from it and given back. All else about them is their own daemon's.

use wire::remote::*;

use super::flags::Flags;
use super::{Reply, args};
use crate::ctx::Ctx;
use crate::proto::{DetachNodeDeviceRequest, ReattachNodeDeviceRequest, ResetNodeDeviceRequest};

pub(crate) async fn dettach(ctx: &Ctx, args: NodeDeviceDettach) -> Reply<()> {
    let request = DetachNodeDeviceRequest {
        name: args.name.into_string(),
        driver: String::new(),
        options: None,
    };
    ctx.node_devices().detach(request).await?;
    Ok(())
}

pub(crate) async fn detach_flags(ctx: &Ctx, args: NodeDeviceDetachFlags, flags: Flags) -> Reply<()> {
    flags.checked()?;
    let request = DetachNodeDeviceRequest {
        name: args.name.into_string(),
        driver: args::text(args.driver_name),
        options: None,
    };
    ctx.node_devices().detach(request).await?;
    Ok(())
}

pub(crate) async fn reattach(ctx: &Ctx, args: NodeDeviceReAttach) -> Reply<()> {
    ctx.node_devices()
        .reattach(ReattachNodeDeviceRequest {
            name: args.name.into_string(),
            options: None,
        })
        .await?;
    Ok(())
}

pub(crate) async fn reset(ctx: &Ctx, args: NodeDeviceReset) -> Reply<()> {
    ctx.node_devices()
        .reset(ResetNodeDeviceRequest {
            name: args.name.into_string(),
            options: None,
        })
        .await?;
    Ok(())
}
