//! Devices come, go and change.

use wire::consts::VIR_DOMAIN_DEVICE_MODIFY_FORCE;
use wire::remote::DomainUpdateDeviceFlags;

use super::{Reply, args, by_uuid};
use crate::ctx::Ctx;
use crate::proto::UpdateDeviceRequest;

pub(crate) async fn update(ctx: &Ctx, args: DomainUpdateDeviceFlags) -> Reply<()> {
    args::flags(ctx, args.flags)?;
    let request = UpdateDeviceRequest {
        domain: by_uuid(&args.dom),
        xml: args.xml.into_string(),
        scope: args::scope(args.flags).into(),
        force: args.flags & VIR_DOMAIN_DEVICE_MODIFY_FORCE != 0,
        options: None,
    };
    ctx.devices().update_device(request).await?;
    Ok(())
}
