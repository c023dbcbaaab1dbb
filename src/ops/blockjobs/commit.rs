//! Writes images of a disk's chain into one below them.

use std::sync::Arc;

use domxml::{devices::Disk, status::BlockJobKind};
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
    error::{Code, Error, Result},
    ops::{
        Conditions, Driver,
        graph::lookup,
        holdings::storage::disk,
        operation::{Ask, Context, Operation},
        run::guest::Guest,
    },
};

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// The disk's target or the path of its image.
    pub disk: String,
    /// The image that is written to; none: the lowest one.
    pub base: Option<String>,
    /// The highest image that is written down; none: the one that the guest writes to.
    pub top: Option<String>,
    /// Bytes a second at most; 0: no limit.
    pub speed: u64,
    /// The base is the image right below `top`.
    pub shallow: bool,
    /// Files of images that are merged are removed.
    pub delete: bool,
    /// The image that the guest writes to may be committed.
    pub active: bool,
    /// The image above names its new base by a relative name.
    pub relative: bool,
}

impl Commit {
    /// As libvirt numbers them.
    fn flags(&self) -> u32 {
        let bits = [
            (self.shallow, 1),
            (self.delete, 2),
            (self.active, 4),
            (self.relative, 8),
        ];
        bits.into_iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum()
    }
}

/// A commit that was checked.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(super) beginning: Beginning,
    pub(super) arguments: serde_json::Value,
    /// Disks that consist of the images that are written to.
    writes: Vec<Disk>,
}

impl std::fmt::Debug for Beginning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Beginning").field(&self.entry.name).finish()
    }
}

/// Begins to commit.
///
/// # Errors
/// There is no such disk or image; the disk is at work; what QEMU refuses.
pub async fn commit(
    driver: &Arc<Driver>,
    domain: &Domain,
    wanted: &Commit,
    conditions: &Conditions,
) -> Result<()> {
    let ask = Ask {
        kind: "commit-blocks",
        job: Want::Plain(Kind::Modify),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    let view = operation.view();
    let plan = plan(&view, wanted)?;
    let guest = driver.guests.of(&view)?;
    if operation.is_trial() {
        return Ok(());
    }
    let work = |context: Arc<Context>| async move { begin_planned(&context, &guest, plan).await };
    operation.carry_out(work).await
}

/// Begins a commit that was planned, within an operation.
///
/// # Errors
/// What the host or QEMU refuses.
pub(crate) async fn begin_planned(context: &Context, guest: &Arc<Guest>, plan: Plan) -> Result<()> {
    let Plan {
        beginning,
        arguments,
        writes,
    } = plan;
    context
        .intend(Intent::begin_block_job(&beginning.entry.name))
        .await?;
    let arguments = begin::arguments(context.driver(), &context.view(), arguments).await?;
    {
        let mut undo = context.steps("the images that are written to").await?;
        for image in &writes {
            disk::acquire(context.driver(), &guest.domain, image, &mut undo).await?;
        }
    }
    begin::begin(context, guest, beginning, commands::BlockCommit(arguments)).await
}

/// Checks a commit, in libvirt's order.
///
/// # Errors
/// As [`commit`].
pub(crate) fn plan(view: &View, wanted: &Commit) -> Result<Plan> {
    let document = view.current().ok_or_else(Error::not_running)?.domain()?;
    let disk = named(&document.devices.disks, &wanted.disk)?;
    let target = &disk.target.dev;
    let chain = Chain::of(disk);
    if chain.layers.is_empty() {
        let text = format!("disk {target} has no source file to be committed");
        return Err(Error::new(Code::ConfigUnsupported, text));
    }
    let top = match wanted.top.as_deref().filter(|top| *top != target.as_str()) {
        Some(name) => lookup::image(disk, &chain, name, None)?,
        None => 0,
    };
    let base = match &wanted.base {
        Some(name) => lookup::image(disk, &chain, name, Some(top))?,
        // With nothing below it libvirt first looks at what else is wrong.
        None if wanted.shallow && top + 1 >= chain.layers.len() => top,
        None => lookup::base_of(disk, &chain, top, !wanted.shallow)?,
    };
    view.running()?;
    lookup::check_free(view, disk)?;
    check_flags(wanted, target, &chain, (top, base))?;
    let path = |at: usize| chain.layers[at].path().unwrap_or_default();
    let node = |at: usize| chain.layers[at].node().map(str::to_owned);
    let storage = |at: usize| chain.layers[at].storage_node().map(str::to_owned);
    let kind = if top == 0 {
        BlockJobKind::ActiveCommit
    } else {
        BlockJobKind::Commit
    };
    let name = format!("commit-{target}-{}", node(top).unwrap_or_default());
    let mut entry = begin::entry(kind, name, disk, wanted.flags());
    entry.base = storage(base);
    entry.top = storage(top);
    let mut arguments = json!({
        "device": begin::device_node(disk)?,
        "job-id": entry.name,
        "top-node": node(top),
        "base-node": node(base),
    });
    let mut writes = vec![chain.layers[base].as_disk(disk)];
    let mut mirror = None;
    if let Some(above) = top.checked_sub(1) {
        entry.top_parent = storage(above);
        arguments["backing-file"] = match wanted.relative {
            true => lookup::relative_name(&chain, above, base)?.into(),
            false => path(base).into(),
        };
        if above > 0 {
            writes.push(chain.layers[above].as_disk(disk));
        }
    } else {
        let alone = Chain {
            layers: vec![chain.layers[base].clone()],
            ..Chain::default()
        };
        mirror = Some(alone.as_mirror("active-commit"));
    }
    if wanted.speed > 0 {
        arguments["speed"] = wanted.speed.into();
    }
    let beginning = Beginning {
        entry,
        mirror,
        next_number: None,
    };
    Ok(Plan {
        beginning,
        arguments,
        writes,
    })
}

fn named<'a>(disks: &'a [Disk], name: &str) -> Result<&'a Disk> {
    let has_path = |disk: &&Disk| {
        Chain::of(disk)
            .layers
            .first()
            .and_then(|top| top.path())
            .as_deref()
            == Some(name)
    };
    let found = disks
        .iter()
        .find(|disk| disk.target.dev == name)
        .or_else(|| disks.iter().find(has_path));
    found.ok_or_else(|| Error::argument(format!("disk '{name}' not found in domain")))
}

fn check_flags(wanted: &Commit, target: &str, chain: &Chain, (top, base): (usize, usize)) -> Result<()> {
    let path = |at: usize| chain.layers[at].path().unwrap_or_default();
    if top == 0 && !wanted.active {
        return Err(Error::argument(format!(
            "commit of '{target}' active layer requires active flag"
        )));
    }
    if top > 0 && wanted.active {
        return Err(Error::argument(format!(
            "active commit requested but '{}' is not active",
            path(top)
        )));
    }
    if base == top {
        return Err(Error::argument(format!(
            "top '{}' in chain for '{}' has no backing file",
            path(top),
            path(0)
        )));
    }
    if wanted.shallow && base != top + 1 {
        return Err(Error::argument(format!(
            "base '{}' is not immediately below '{}' in chain for '{}'",
            path(base),
            path(top),
            path(0)
        )));
    }
    Ok(())
}
