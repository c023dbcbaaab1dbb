//! What migrations of a guest may take: bandwidth, downtime, the cache of pages that were sent.

use virtqemud_client::time::milliseconds;
use wire::consts::*;
use wire::remote::*;
use wire::{ErrorCode, ErrorDomain, WireError};

use super::flags::Flags;
use super::info::running;
use super::{Reply, by_uuid};
use crate::ctx::Ctx;
use crate::proto::{GetMigrationSettingsRequest, MigrationSettings, SetMigrationSettingsRequest};

const MIB: u64 = 1 << 20;

async fn settings(ctx: &Ctx, dom: &NonnullDomain) -> Reply<MigrationSettings> {
    let request = GetMigrationSettingsRequest { domain: by_uuid(dom) };
    Ok(ctx.migrations().get_migration_settings(request).await?)
}

async fn set(ctx: &Ctx, dom: &NonnullDomain, settings: MigrationSettings) -> Reply<()> {
    let request = SetMigrationSettingsRequest {
        domain: by_uuid(dom),
        settings: Some(settings),
        options: None,
    };
    ctx.migrations().set_migration_settings(request).await?;
    Ok(())
}

/// What is known of a guest that runs.
async fn of_run<T>(ctx: &Ctx, dom: &NonnullDomain, value: Option<T>) -> Reply<T> {
    if value.is_none() {
        running(ctx, dom).await?;
    }
    let text = "the guest does not tell what migrations may take";
    Ok(value.ok_or_else(|| WireError::new(ErrorCode::INTERNAL_ERROR, ErrorDomain::QEMU, text))?)
}

pub(crate) async fn max_speed(
    ctx: &Ctx,
    args: DomainMigrateGetMaxSpeed,
    flags: Flags,
) -> Reply<DomainMigrateGetMaxSpeedRet> {
    let flags = flags.checked()?;
    let settings = settings(ctx, &args.dom).await?;
    let bytes = match flags & VIR_DOMAIN_MIGRATE_MAX_SPEED_POSTCOPY {
        0 => settings.bandwidth.unwrap_or(0),
        _ => of_run(ctx, &args.dom, settings.postcopy_bandwidth).await?,
    };
    Ok(DomainMigrateGetMaxSpeedRet {
        bandwidth: bytes.div_ceil(MIB),
    })
}

pub(crate) async fn set_max_speed(ctx: &Ctx, args: DomainMigrateSetMaxSpeed, flags: Flags) -> Reply<()> {
    let flags = flags.checked()?;
    // What is too much is the service's to say.
    let bytes = Some(args.bandwidth.saturating_mul(MIB));
    let settings = match flags & VIR_DOMAIN_MIGRATE_MAX_SPEED_POSTCOPY {
        0 => MigrationSettings {
            bandwidth: bytes,
            ..MigrationSettings::default()
        },
        _ => MigrationSettings {
            postcopy_bandwidth: bytes,
            ..MigrationSettings::default()
        },
    };
    set(ctx, &args.dom, settings).await
}

pub(crate) async fn max_downtime(
    ctx: &Ctx,
    args: DomainMigrateGetMaxDowntime,
    flags: Flags,
) -> Reply<DomainMigrateGetMaxDowntimeRet> {
    flags.checked()?;
    let downtime = settings(ctx, &args.dom).await?.downtime;
    let downtime = of_run(ctx, &args.dom, downtime).await?;
    Ok(DomainMigrateGetMaxDowntimeRet {
        downtime: milliseconds(Some(&downtime)),
    })
}

pub(crate) async fn set_max_downtime(
    ctx: &Ctx,
    args: DomainMigrateSetMaxDowntime,
    flags: Flags,
) -> Reply<()> {
    flags.checked()?;
    let settings = MigrationSettings {
        downtime: Some(prost_types::Duration {
            seconds: i64::try_from(args.downtime / 1000).unwrap_or(i64::MAX),
            nanos: i32::try_from(args.downtime % 1000).unwrap_or(0) * 1_000_000,
        }),
        ..MigrationSettings::default()
    };
    set(ctx, &args.dom, settings).await
}

pub(crate) async fn compression_cache(
    ctx: &Ctx,
    args: DomainMigrateGetCompressionCache,
    flags: Flags,
) -> Reply<DomainMigrateGetCompressionCacheRet> {
    flags.checked()?;
    let cache = settings(ctx, &args.dom).await?.compression_cache;
    Ok(DomainMigrateGetCompressionCacheRet {
        cache_size: of_run(ctx, &args.dom, cache).await?,
    })
}

pub(crate) async fn set_compression_cache(
    ctx: &Ctx,
    args: DomainMigrateSetCompressionCache,
    flags: Flags,
) -> Reply<()> {
    flags.checked()?;
    let settings = MigrationSettings {
        compression_cache: Some(args.cache_size),
        ..MigrationSettings::default()
    };
    set(ctx, &args.dom, settings).await
}
