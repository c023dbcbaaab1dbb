//! What one disk of a backup takes: an image with its nodes, a bitmap of what was written, a job.

use std::{path::PathBuf, sync::Arc};

use domxml::{
    devices::{Disk, StorageFormat},
    moment::{BackupDisk, BackupExtent, BackupState},
    status::{BlockJob, BlockJobDisk, BlockJobKind, BlockJobState, BlockJobStore, Open},
};
use qemu_plan::block::{self, Chain, Layer};
use qmp::types::BlockDeviceInfo;
use serde_json::{Value, json};

use super::{bare, store};
use crate::{
    domain::View,
    error::{Code, Error, Result},
    ops::{
        Driver,
        graph::{
            self,
            bitmaps::{self, Bitmaps},
            images::{self, Fresh, Planned},
            lookup,
        },
        holdings::storage::chain::local_path,
        run::guest::Guest,
    },
};

/// What all disks of a backup are planned by.
pub(super) struct Plans<'a> {
    pub(super) driver: &'a Arc<Driver>,
    pub(super) guest: &'a Guest,
    pub(super) view: &'a View,
    pub(super) nodes: Vec<BlockDeviceInfo>,
    pub(super) bitmaps: Bitmaps,
    pub(super) pulls: bool,
    /// The images are there.
    pub(super) reuse: bool,
}

/// One disk of a backup.
pub(super) struct Part {
    /// The disk's target.
    pub(super) target: String,
    /// The job's id.
    pub(super) job: String,
    /// The disk's topmost node.
    node: String,
    /// The image that is written.
    store: Layer,
    planned: Planned,
    /// How it is made, if it is.
    fresh: Option<Fresh>,
    since: Option<Since>,
    pulls: bool,
}

/// What was written since a checkpoint.
struct Since {
    /// The node that gets the bitmap of it, and the bitmap's name.
    node: String,
    name: String,
    granularity: u32,
    /// Bitmaps of the images that have it.
    merged: Vec<Value>,
}

fn config(said: String) -> Error {
    Error::new(Code::ConfigUnsupported, said)
}

impl Plans<'_> {
    /// Plans one disk, and says in its part of the document what was decided. Answers the next free number of a node, too.
    ///
    /// # Errors
    /// In libvirt's words and order.
    pub(super) async fn part(&self, part: &mut BackupDisk, next: u32) -> Result<(Part, u32)> {
        let run = self.view.running()?;
        let disk = graph::disk(&run.document.domain, &part.name)?;
        lookup::check_supported(disk)?;
        let format = *part.format.get_or_insert(StorageFormat::Qcow2);
        if self.pulls && format != StorageFormat::Qcow2 {
            let name = &part.name;
            return Err(config(format!(
                "pull mode backup for disk '{name}' requires qcow2 driver"
            )));
        }
        let (image, next) = self.image(part, disk, next)?;
        let layers = Chain::of(&image).layers;
        let store = layers
            .into_iter()
            .next()
            .ok_or_else(|| Error::internal("a backup has no image"))?;
        let since = self.since(part, disk, &store)?;
        if graph::job_of(self.view, &part.name).is_some() || disk.mirror.is_some() {
            return Err(Error::internal(format!(
                "disk '{}' has a blockjob assigned",
                part.name
            )));
        }
        let top = Chain::of(disk).layers.into_iter().next();
        let node = top
            .as_ref()
            .and_then(|top| top.node().map(str::to_owned))
            .unwrap_or_default();
        let fresh = match self.reuse {
            true => None,
            false => Some(self.fresh(part, (top.as_ref(), &node), format)?),
        };
        part.index = store.index;
        part.state = Some(Open::Known(BackupState::Running));
        *place(part) = Some(store.source.clone());
        if self.pulls {
            part.exportname.get_or_insert_with(|| part.name.clone());
            part.exportbitmap = since.as_ref().map(|since| since.name.clone());
        }
        let planned = images::plan(self.driver, self.guest, image).await?;
        let part = Part {
            target: part.name.clone(),
            job: format!("backup-{}-{node}", part.name),
            node,
            store,
            planned,
            fresh,
            since,
            pulls: self.pulls,
        };
        Ok((part, next))
    }

    /// The image that is written, numbered and named, as the disk that it is the topmost of.
    fn image(&self, part: &BackupDisk, disk: &Disk, next: u32) -> Result<(Disk, u32)> {
        let mut layers = Vec::from_iter(store(part));
        let has_backing = part.format == Some(StorageFormat::Qcow2);
        if has_backing && (self.pulls || part.backupmode == Some(BackupExtent::Incremental)) {
            layers.extend(Chain::of(disk).layers);
        }
        let mut image = bare(&part.name);
        let chain = Chain {
            layers,
            ended: true,
            end_is_given: true,
        };
        chain.put(&mut image);
        let next = block::number_disk(&mut image, next);
        self.guest.gave_nodes(next);
        block::name_disk(&mut image)?;
        Ok((image, next))
    }

    /// The bitmap that says what was written since the checkpoint that the document names.
    fn since(&self, part: &BackupDisk, disk: &Disk, store: &Layer) -> Result<Option<Since>> {
        let Some(checkpoint) = part.incremental.as_deref() else {
            return Ok(None);
        };
        let target = &part.name;
        if self.view.checkpoints.get(checkpoint).is_none() {
            let said =
                format!("Checkpoint '{checkpoint}' for incremental backup of disk '{target}' not found");
            return Err(Error::new(Code::NoDomainCheckpoint, said));
        }
        let chain = Chain::of(disk).top_nodes();
        let top = chain
            .first()
            .filter(|_| self.bitmaps.is_valid(&chain, checkpoint));
        let found = top.and_then(|top| Some((top, self.bitmaps.find(top, checkpoint)?)));
        let Some((top, bitmap)) = found else {
            let said = format!("missing or broken bitmap '{checkpoint}' for disk '{target}'");
            return Err(Error::new(Code::CheckpointInconsistent, said));
        };
        let usual = || format!("backup-{target}");
        Ok(Some(Since {
            node: match self.pulls {
                true => store.node().unwrap_or_default().to_owned(),
                false => top.clone(),
            },
            name: part
                .exportbitmap
                .clone()
                .filter(|_| self.pulls)
                .unwrap_or_else(usual),
            granularity: bitmap.granularity,
            merged: self.bitmaps.having(&chain, checkpoint),
        }))
    }

    fn fresh(
        &self,
        part: &BackupDisk,
        (top, node): (Option<&Layer>, &str),
        format: StorageFormat,
    ) -> Result<Fresh> {
        let mut fresh = Fresh::like(Some(node), &self.nodes)?;
        fresh.cluster = fresh.cluster.filter(|_| format == StorageFormat::Qcow2);
        let has_backing = self.pulls || part.backupmode == Some(BackupExtent::Incremental);
        if has_backing && format == StorageFormat::Qcow2 {
            let of = |top: &Layer| Some((top.path()?, top.format.unwrap_or(StorageFormat::Raw)));
            fresh.backing = top.and_then(of);
        }
        Ok(fresh)
    }
}

fn place(part: &mut BackupDisk) -> &mut Option<domxml::devices::Source> {
    match part.target.is_some() {
        true => &mut part.target,
        false => &mut part.scratch,
    }
}

impl Part {
    /// Its entry in the status file, before QEMU knows of it.
    pub(super) fn entry(&self) -> BlockJob {
        let mut source = self.store.source.clone();
        source.index = self.store.index;
        BlockJob {
            name: self.job.clone(),
            kind: Open::Known(BlockJobKind::Backup),
            state: Open::Known(BlockJobState::New),
            jobflags: Some("0x0".to_owned()),
            disk: Some(BlockJobDisk {
                dst: self.target.clone(),
                ..BlockJobDisk::default()
            }),
            bitmap: self
                .since
                .as_ref()
                .filter(|_| !self.pulls)
                .map(|since| since.name.clone()),
            store: Some(BlockJobStore {
                kind: Some(self.store.kind),
                file_format: self.store.format,
                source: Some(source),
                ..BlockJobStore::default()
            }),
            ..BlockJob::default()
        }
    }

    /// Block nodes that are made, the topmost first.
    pub(super) fn nodes(&self) -> Vec<String> {
        self.planned.nodes()
    }

    /// The file that is made.
    pub(super) fn file(&self) -> Option<PathBuf> {
        self.fresh.as_ref().and_then(|_| self.planned.new_file())
    }

    /// The bitmap that the disk's own image gets, with its node.
    pub(super) fn bitmap(&self) -> Option<(String, String)> {
        let since = self.since.as_ref().filter(|_| !self.pulls)?;
        Some((since.node.clone(), since.name.clone()))
    }

    /// Refuses to write over what is there.
    ///
    /// # Errors
    /// `InvalidArg`.
    pub(super) async fn check_place(&self) -> Result<()> {
        let path = local_path(self.store.kind, Some(&self.store.source));
        let is_file = self.store.kind == domxml::devices::StorageKind::File;
        let Some(path) = path.filter(|_| is_file && self.fresh.is_some()) else {
            return Ok(());
        };
        let (shown, target) = (path.display().to_string(), &self.target);
        let exists = crate::blocking::file("looking for an image", move || Ok(path.exists())).await?;
        if exists {
            return Err(Error::argument(format!(
                "store '{shown}' for backup of '{target}' exists"
            )));
        }
        Ok(())
    }

    /// Refuses, for a trial, what the making of the image's file would fail at.
    pub(super) async fn may_make(&self) -> Result<()> {
        match &self.fresh {
            Some(_) => self.planned.may_make(images::NOT_MADE).await,
            None => Ok(()),
        }
    }

    /// Makes the image and gives QEMU its nodes.
    ///
    /// # Errors
    /// The file can't be made, what the host or QEMU refuses.
    pub(super) async fn open(
        &self,
        context: &crate::ops::operation::Context,
        guest: &Arc<Guest>,
    ) -> Result<()> {
        self.check_place().await?;
        let wish = (images::NOT_MADE, self.fresh.clone());
        self.planned.open(context, guest, wish).await
    }

    /// What of the transaction it is.
    pub(super) fn actions(&self) -> Vec<Value> {
        let mut actions = Vec::new();
        let mut data = json!({
            "device": self.node, "job-id": self.job, "target": self.planned.node(), "sync": "full",
        });
        if let Some(since) = &self.since {
            actions.push(json!({
                "type": "block-dirty-bitmap-add",
                "data": { "node": since.node, "name": since.name, "persistent": false, "disabled": true,
                    "granularity": since.granularity },
            }));
            actions.push(bitmaps::merge(&since.node, &since.name, since.merged.clone()));
            data["sync"] = "incremental".into();
            data["bitmap"] = since.name.as_str().into();
        }
        if self.pulls {
            data["sync"] = "none".into();
            data.as_object_mut().map(|data| data.remove("bitmap"));
        }
        data["auto-finalize"] = true.into();
        data["auto-dismiss"] = false.into();
        actions.push(json!({ "type": "blockdev-backup", "data": data }));
        actions
    }
}
