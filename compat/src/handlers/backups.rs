//! Backups: begun, and shown while they are under way.

use wire::consts::*;
use wire::remote::*;

use super::flags::Flags;
use super::{Reply, args, by_uuid};
use crate::ctx::Ctx;
use crate::proto::{BeginBackupRequest, GetBackupXmlRequest};

pub(crate) async fn begin(ctx: &Ctx, args: DomainBackupBegin, flags: Flags) -> Reply<()> {
    let flags = flags.checked()?;
    let request = BeginBackupRequest {
        domain: by_uuid(&args.dom),
        xml: args.backup_xml.into_string(),
        checkpoint_xml: args::text(args.checkpoint_xml),
        reuse_images: flags & VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL != 0,
        options: None,
    };
    ctx.backups().begin(request).await?;
    Ok(())
}

pub(crate) async fn get_xml(
    ctx: &Ctx,
    args: DomainBackupGetXmlDesc,
    flags: Flags,
) -> Reply<DomainBackupGetXmlDescRet> {
    flags.checked()?;
    let request = GetBackupXmlRequest {
        domain: by_uuid(&args.dom),
    };
    let xml = ctx.backups().get_xml(request).await?.xml;
    Ok(DomainBackupGetXmlDescRet { xml: xml.into() })
}
