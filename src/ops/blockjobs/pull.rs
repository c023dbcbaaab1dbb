//! Pulls the blocks of lower images into a disk's top image.

use std::sync::Arc;

use domxml::status::BlockJobKind;
use qemu_plan::block::Chain;
use qmp::commands;
use serde_json::json;

use super::begin::{self, Beginning};
use crate::{
    domain::{
        Domain, View,
        intents::Intent,
        jobs::{Kind, Want},
    },
    error::{Error, Result},
    ops::{
        Conditions, Driver,
        graph::lookup,
        operation::{Ask, Operation},
    },
};

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pull {
    /// The disk's target or the path of its image.
    pub disk: String,
    /// The image that stays below the top one; none: all are pulled.
    pub base: Option<String>,
    /// Bytes a second at most; 0: no limit.
    pub speed: u64,
    /// The top image names its new base by a relative name.
    pub relative: bool,
}

/// A pull that was checked.
struct Plan {
    entry: domxml::status::BlockJob,
    arguments: serde_json::Value,
}

/// Begins to pull.
///
/// # Errors
/// There is no such disk or image; the disk is at work; what QEMU refuses.
pub async fn pull(
    driver: &Arc<Driver>,
    domain: &Domain,
    wanted: &Pull,
    conditions: &Conditions,
) -> Result<()> {
    if wanted.relative && wanted.base.is_none() {
        return Err(Error::argument(
            "flag VIR_DOMAIN_BLOCK_REBASE_RELATIVE is valid only with non-null base",
        ));
    }
    let ask = Ask {
        kind: "pull-blocks",
        job: Want::Plain(Kind::Modify),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    let view = operation.view();
    let Plan { entry, arguments } = plan(&view, wanted)?;
    let arguments = begin::arguments(driver, &view, arguments).await?;
    let guest = driver.guests.of(&view)?;
    if operation.is_trial() {
        return Ok(());
    }
    let work = |context: Arc<crate::ops::operation::Context>| async move {
        context.intend(Intent::begin_block_job(&entry.name)).await?;
        let beginning = Beginning {
            entry,
            mirror: None,
            next_number: None,
        };
        begin::begin(&context, &guest, beginning, commands::BlockStream(arguments)).await
    };
    operation.carry_out(work).await
}

fn plan(view: &View, wanted: &Pull) -> Result<Plan> {
    let run = view.running()?;
    let disk = lookup::disk_named(run, &wanted.disk)?;
    lookup::check_free(view, disk)?;
    let chain = Chain::of(disk);
    let device = begin::device_node(disk)?;
    let name = format!("pull-{}-{device}", disk.target.dev);
    let flags = if wanted.relative { 0x10 } else { 0 };
    let mut entry = begin::entry(BlockJobKind::Pull, name, disk, flags);
    let mut arguments = json!({ "device": device, "job-id": entry.name });
    if let Some(base) = &wanted.base {
        let at = lookup::image(disk, &chain, base, Some(0))?;
        let layer = &chain.layers[at];
        arguments["base-node"] = layer.node().into();
        let name = match wanted.relative {
            true => Some(lookup::relative_name(&chain, 0, at)?),
            false => layer.path(),
        };
        if let Some(name) = name {
            arguments["backing-file"] = name.into();
        }
        entry.base = layer.storage_node().map(str::to_owned);
    }
    if wanted.speed > 0 {
        arguments["speed"] = wanted.speed.into();
    }
    Ok(Plan { entry, arguments })
}
