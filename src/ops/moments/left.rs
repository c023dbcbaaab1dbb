//! What a daemon that was killed in the midst of an external snapshot of a running guest has left.

use std::{path::PathBuf, sync::Arc};

use domxml::{
    devices::{Device, Disk, SnapshotMode, Source},
    moment::{Snapshot, SnapshotDisk},
    status,
};
use qemu_plan::block::{self, Chain};
use qmp::commands;

use super::{
    external::{documents_after, remove},
    overlays, records,
};
use crate::{
    domain::{Domain, Effects, View, intents::Intent},
    error::Result,
    ops::{
        Driver,
        graph::{self, truth::Truth},
        run::guest::Guest,
    },
};

/// What a daemon left half done that was putting overlays on.
pub(crate) struct Left<'a> {
    pub(crate) snapshot: Option<&'a str>,
    pub(crate) disks: &'a [String],
    pub(crate) nodes: &'a [String],
    pub(crate) files: &'a [PathBuf],
    /// Whether QEMU may have got the overlays.
    pub(crate) handed: bool,
}

impl<'a> Left<'a> {
    /// What the intent to put overlays on tells; nothing, of another.
    pub(crate) fn of(intent: &'a Intent) -> Option<Self> {
        let Intent::SnapshotDisks {
            snapshot,
            disks,
            nodes,
            files,
            handed,
            ..
        } = intent
        else {
            return None;
        };
        Some(Self {
            snapshot: snapshot.as_deref(),
            disks,
            nodes,
            files,
            handed: *handed,
        })
    }

    /// The disks as they are with the overlays.
    fn parsed(&self) -> Result<Vec<Disk>> {
        let mut disks = Vec::new();
        for text in self.disks {
            if let Device::Disk(disk) = Device::parse(text, status::PARSE)? {
                disks.push(*disk);
            }
        }
        Ok(disks)
    }
}

/// The same once QEMU has ended. Overlays that it may have written to stay, and the documents follow: on top of the others
/// they hold what the disks held, whether it had written to them or not. What it can't have written to goes.
///
/// # Errors
/// The files can't be read, written or removed.
pub(crate) async fn without_qemu(driver: &Arc<Driver>, domain: &Domain, left: Left<'_>) -> Result<()> {
    let view = domain.view();
    let disks = left.parsed()?;
    let made = left.files.to_vec();
    let are_there = move || Ok(made.iter().all(|file| file.exists()));
    let are_there = crate::blocking::file("looking for images", are_there).await?;
    if left.handed && are_there && !disks.is_empty() {
        return adopt(driver, domain, &view, (disks, left.snapshot)).await;
    }
    let snapshot = left.snapshot.map(Snapshot::parse_file).transpose()?;
    let is_recorded =
        snapshot.is_some_and(|(snapshot, _)| view.snapshots.get(&snapshot.moment.name).is_some());
    match is_recorded {
        true => Ok(()),
        false => remove_unnamed(&view, left.files).await,
    }
}

/// Removes images that no document of the guest has on top of a disk.
///
/// # Errors
/// A document can't be read; a file can't be removed.
pub(crate) async fn remove_unnamed(view: &View, files: &[PathBuf]) -> Result<()> {
    let stored = match &view.config {
        Some(config) => Some(config.domain()?),
        None => None,
    };
    let run = view.run.as_ref().map(|run| &*run.document.domain);
    let named = overlays::files_of(stored.as_deref().into_iter().chain(run));
    for file in files.iter().filter(|file| !named.contains(*file)) {
        remove(file.clone()).await?;
    }
    Ok(())
}

/// Has the documents follow if QEMU put the overlays on, and takes them away if not.
///
/// # Errors
/// QEMU does not answer; the files can't be written.
pub(crate) async fn resolve(driver: &Arc<Driver>, guest: &Arc<Guest>, left: Left<'_>) -> Result<()> {
    let view = guest.domain.view();
    let run = view.running()?;
    let disks = left.parsed()?;
    graph::images::settle(guest, left.nodes).await?;
    if disks.is_empty() {
        return remove_unrecorded(&view, left).await;
    }
    let top = |disk: &Disk| {
        Chain::of(disk)
            .layers
            .first()
            .and_then(|top| top.node().map(str::to_owned))
    };
    let known = |after: &Disk| {
        let now = graph::disk(&run.document.domain, &after.target.dev);
        now.is_ok_and(|now| {
            Chain::of(now)
                .top_nodes()
                .contains(&top(after).unwrap_or_default())
        })
    };
    if disks.iter().all(known) {
        return Ok(());
    }
    let truth = Truth::read(guest).await?;
    let on = |after: &Disk| {
        let node = top(after).unwrap_or_default();
        truth.chain_of(after).is_some_and(|nodes| nodes.contains(&node))
    };
    if !disks.iter().any(on) {
        let known = guest
            .execute(commands::QueryNamedBlockNodes { flat: true })
            .await?;
        let is_there = |node: &&String| {
            known
                .iter()
                .any(|n| n.node_name.as_deref() == Some(node.as_str()))
        };
        for node_name in left.nodes.iter().filter(is_there) {
            let command = commands::BlockdevDel {
                node_name: node_name.clone(),
            };
            guest.execute(command).await?;
        }
        for file in left.files {
            remove(file.clone()).await?;
        }
        return Ok(());
    }
    adopt(driver, &guest.domain, &view, (disks, left.snapshot)).await
}

/// The documents follow what QEMU did.
async fn adopt(
    driver: &Arc<Driver>,
    domain: &Domain,
    view: &View,
    (disks, snapshot): (Vec<Disk>, Option<&str>),
) -> Result<()> {
    let snapshot = snapshot
        .map(Snapshot::parse_file)
        .transpose()?
        .map(|(snapshot, _)| snapshot);
    let parts = match &snapshot {
        Some(snapshot) => snapshot.disks.clone(),
        None => disks.iter().map(part_of).collect(),
    };
    let highest = disks.iter().filter_map(block::highest_number).max().unwrap_or(0);
    let follow = documents_after(disks, parts, view.config.is_some());
    let change = match snapshot {
        Some(snapshot) if view.snapshots.get(&snapshot.moment.name).is_none() => {
            let mut batch = records::Batch::of(driver, view);
            let name = snapshot.moment.name.clone();
            batch.put(snapshot);
            batch.make_current(&name);
            if let Some(former) = view.snapshots.current().filter(|former| former.external) {
                // Their images are of the new one's past now.
                batch.edit(&former.name).await?.revert_disks.clear();
            }
            Some(batch.finish().await?)
        }
        _ => None,
    };
    let commit = move |view: &mut View| {
        follow(view)?;
        graph::took_numbers(view, highest.saturating_add(1));
        if let Some(change) = change {
            change.apply(view)?;
        }
        Ok(Effects::none())
    };
    domain.commit(commit).await.map(drop)
}

/// The overlay on top of a disk, as the stored configuration has it.
fn part_of(disk: &Disk) -> SnapshotDisk {
    let top = Chain::of(disk)
        .stored()
        .layers
        .into_iter()
        .next()
        .unwrap_or_default();
    SnapshotDisk {
        name: disk.target.dev.clone(),
        mode: Some(SnapshotMode::External),
        kind: top.kind,
        format: top.format,
        metadata_cache: top.cache,
        source: Some(Source {
            index: None,
            ..top.source
        }),
        ..SnapshotDisk::default()
    }
}

/// Of a snapshot that has no overlays there is only its file, and what is recorded.
async fn remove_unrecorded(view: &View, left: Left<'_>) -> Result<()> {
    let snapshot = left.snapshot.map(Snapshot::parse_file).transpose()?;
    let is_recorded =
        snapshot.is_some_and(|(snapshot, _)| view.snapshots.get(&snapshot.moment.name).is_some());
    if !is_recorded {
        for file in left.files {
            remove(file.clone()).await?;
        }
    }
    Ok(())
}
