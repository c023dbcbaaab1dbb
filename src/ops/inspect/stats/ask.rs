//! What only QEMU knows of a guest, added to its statistics.
//!
//! Called by `collect`, for all guests at the same time. How long it waits is decided by `patience`.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use domxml::{
    devices::{Disk, Source},
    moment::BackupDisk,
};
use qmp::types::{BlockStats, ImageInfo};

use super::{
    Block, Stats, Wanted,
    patience::{self, Contact, Left, Next},
    without_qemu,
};
use crate::{
    domain::{
        Domain, Run,
        jobs::{Kind, Want},
    },
    ops::{
        Driver,
        holdings::storage::chain,
        run::{
            counters::{self, Disks, Images, Questions, Sample},
            left_backup, react,
        },
    },
};

/// How soon a guest that can't be asked yet is looked at again.
const LOOK: Duration = Duration::from_millis(20);

/// Adds what QEMU tells of one guest.
pub(super) async fn ask(driver: &Arc<Driver>, domain: &Domain, stats: &mut Stats, wanted: Wanted) {
    let begun = Instant::now();
    loop {
        let view = Arc::clone(&stats.view);
        let Some(run) = &view.run else { return };
        let questions = questions(run, wanted);
        if questions.is_empty() {
            fill(stats, run, &Sample::default(), wanted);
            return;
        }
        let busy = wanted.call == patience::Call::NoWait && is_busy(domain).await;
        match patience::next(wanted.call, contact(driver, stats, run), busy, begun.elapsed()) {
            Next::Ask(limit) => {
                if let Ok(guest) = driver.guests.of(&view)
                    && let Some(sample) = counters::ask(&guest, questions, limit).await
                {
                    fill(stats, run, &sample, wanted);
                    return;
                }
                // It was silent, or its connection has ended: which, shows in a moment.
                look_again(domain, stats, wanted).await;
            }
            Next::Look => look_again(domain, stats, wanted).await,
            Next::Leave(left) => {
                leave(driver, stats, run, (left, wanted));
                return;
            }
        }
    }
}

async fn look_again(domain: &Domain, stats: &mut Stats, wanted: Wanted) {
    tokio::time::sleep(LOOK).await;
    *stats = without_qemu(&domain.view(), wanted.groups);
}

/// What a run is to be asked. What it has no device for is not asked.
fn questions(run: &Run, wanted: Wanted) -> Questions {
    let groups = wanted.groups;
    let domain = &run.document.domain;
    let balloon = domain.devices.memballoon.as_ref();
    let balloon = balloon.filter(|b| groups.balloon && b.model.as_str() != "none");
    Questions {
        balloon: balloon.map(|b| {
            let alias = b.info.alias.as_deref().unwrap_or("balloon0");
            format!("/machine/peripheral/{alias}")
        }),
        disks: (groups.block && !domain.devices.disks.is_empty()).then_some(match wanted.backing_chain {
            true => Images::All,
            false => Images::Top,
        }),
        iothreads: groups.iothread && domain.iothreads.is_some(),
        dirty_rate: groups.dirty_rate,
    }
}

/// Whether a question would have to wait for a job. The question itself needs none: it changes nothing.
async fn is_busy(domain: &Domain) -> bool {
    domain
        .job_within(Want::Plain(Kind::Query), Duration::ZERO)
        .await
        .is_err()
}

fn contact(driver: &Driver, stats: &Stats, run: &Run) -> Contact {
    if run.seen.unreachable.is_some() {
        return Contact::Unreachable;
    }
    let guest = driver.guests.of(&stats.view).ok();
    match guest.filter(|guest| !run.starting && guest.monitor().is_ok()) {
        Some(guest) if guest.counters.overdue() => Contact::Overdue,
        Some(_) => Contact::Ready,
        None if driver.guests.absent.has(stats.view.uuid, run.launched.id) => Contact::Absent,
        None => Contact::Coming,
    }
}

/// Tells of a guest without a new answer of QEMU's: with its last one, if that will do.
fn leave(driver: &Driver, stats: &mut Stats, run: &Run, (left, wanted): (Left, Wanted)) {
    stats.unreachable = left == Left::Silent;
    let guest = driver.guests.of(&stats.view).ok();
    if stats.unreachable && guest.as_ref().is_none_or(|guest| guest.monitor().is_err()) {
        let current = |uuid, id| driver.registry.by_uuid(uuid).is_ok_and(|d| d.view().id() == id);
        driver
            .guests
            .absent
            .note(stats.view.uuid, run.launched.id, current);
    }
    let sample = guest.map(|guest| guest.counters.last()).unwrap_or_default();
    let age = sample.since(&questions(run, wanted)).map(|at| at.elapsed());
    stats.age = patience::instead(left, age, wanted.oldest);
    let sample = if stats.age.is_some() {
        sample
    } else {
        Sample::default()
    };
    fill(stats, run, &sample, wanted);
}

fn fill(stats: &mut Stats, run: &Run, sample: &Sample, wanted: Wanted) {
    let told = sample.balloon.as_ref().and_then(|part| part.told());
    if let (Some(balloon), Some(told)) = (&mut stats.balloon, told) {
        let number = |v: &serde_json::Value| v.as_u64().filter(|n| *n != u64::MAX);
        let values = told
            .get("stats")
            .and_then(|s| s.as_object())
            .into_iter()
            .flatten();
        balloon.guest = values
            .filter_map(|(name, v)| Some((name.clone(), number(v)?)))
            .collect();
        balloon.last_update = told.get("last-update").and_then(number);
    }
    if wanted.groups.block {
        let told = Told::of(sample.disks.as_ref().and_then(|part| part.told()));
        let disks = run.document.domain.devices.disks.iter();
        stats.blocks = Some(
            disks
                .flat_map(|disk| {
                    let mut blocks = blocks_of(disk, &told, wanted.backing_chain);
                    let part = left_backup::part_of(run, &disk.target.dev);
                    let part = part.filter(|_| wanted.backing_chain);
                    blocks.extend(part.and_then(|part| block_of_backup(part, &told)));
                    blocks
                })
                .collect(),
        );
    }
    let iothreads = sample.iothreads.as_ref().filter(|_| wanted.groups.iothread);
    stats.iothreads = iothreads
        .and_then(|part| part.told())
        .cloned()
        .unwrap_or_default();
    let dirty_rate = sample.dirty_rate.as_ref().filter(|_| wanted.groups.dirty_rate);
    stats.dirty_rate = dirty_rate.and_then(|part| part.told()).cloned();
}

/// What QEMU told of disks, to be found by name.
#[derive(Default)]
struct Told<'a> {
    /// Counters by the device's alias.
    devices: HashMap<String, &'a BlockStats>,
    /// Counters by node, of devices' nodes and of those that were asked for.
    nodes: HashMap<&'a str, &'a BlockStats>,
    images: HashMap<&'a str, &'a ImageInfo>,
}

impl<'a> Told<'a> {
    fn of(disks: Option<&'a Disks>) -> Self {
        let Some(disks) = disks else {
            return Self::default();
        };
        let named = |stats: &'a BlockStats| Some((stats.node_name.as_deref()?, stats));
        let of_device = |stats: &'a BlockStats| Some((react::alias_of(stats.qdev.as_deref()?), stats));
        Self {
            devices: disks.devices.iter().filter_map(of_device).collect(),
            nodes: disks
                .devices
                .iter()
                .chain(&disks.nodes)
                .filter_map(named)
                .collect(),
            images: disks
                .images
                .iter()
                .filter_map(|node| Some((node.node_name.as_deref()?, node.image.as_ref()?)))
                .collect(),
        }
    }

    fn sizes(&self, node: &str) -> Option<[u64; 3]> {
        let (stats, image) = (self.nodes.get(node)?, self.images.get(node)?);
        let highest = stats
            .parent
            .as_ref()
            .map_or(stats.stats.wr_highest_offset, |p| p.stats.wr_highest_offset);
        Some([highest, image.virtual_size, image.actual_size.unwrap_or(0)])
    }
}

/// One image, or with chains all of a disk's.
fn blocks_of(disk: &Disk, answers: &Told<'_>, chains: bool) -> Vec<Block> {
    let alias = disk.info.alias.as_deref().unwrap_or_default();
    let told = answers.devices.get(alias);
    let node = told.and_then(|d| d.node_name.as_deref());
    let top = Block {
        name: disk.target.dev.clone(),
        path: chain::local_path(disk.kind, disk.source.as_ref()).map(|p| p.to_string_lossy().into_owned()),
        index: disk.source.as_ref().and_then(|s| s.index),
        counters: told.map(|d| d.stats.clone()),
        sizes: node.and_then(|node| answers.sizes(node)),
        threshold: 0,
        unreadable: None,
    };
    let mut blocks = vec![top];
    let mut below = disk.backing.as_deref().filter(|_| chains);
    while let Some(store) = below {
        let Some(source) = &store.source else { break };
        blocks.push(Block {
            name: disk.target.dev.clone(),
            path: chain::local_path(store.kind.unwrap_or_default(), Some(source))
                .map(|p| p.to_string_lossy().into_owned()),
            index: store.index.or(source.index),
            sizes: below_sizes(source, answers),
            ..Block::default()
        });
        below = store.backing.as_deref();
    }
    blocks
}

/// The image that a backup of a disk writes.
fn block_of_backup(part: &BackupDisk, answers: &Told<'_>) -> Option<Block> {
    let source = part.store()?;
    Some(Block {
        name: part.name.clone(),
        path: chain::local_path(part.kind.unwrap_or_default(), Some(source))
            .map(|p| p.to_string_lossy().into_owned()),
        index: part.index,
        sizes: below_sizes(source, answers),
        ..Block::default()
    })
}

/// Sizes of an image below the top one, by the uppermost of its nodes that has any.
fn below_sizes(source: &Source, answers: &Told<'_>) -> Option<[u64; 3]> {
    let nodes = source.private_data.as_ref()?.nodenames.as_ref()?;
    let layer = |kind: &str| {
        let node = nodes.names.iter().find(|node| node.kind == kind)?;
        answers.sizes(&node.name)
    };
    layer("format").or_else(|| layer("storage"))
}
