//! Changing the medium of a removable drive, in a running guest, its stored configuration, or both.
//!
//! Called by `device`. The stored document is completed and checked as a whole before QEMU is told anything; a
//! running drive is then changed in steps, each with its undo, and both documents follow in one commit:
//!
//! ```text
//!  file given to QEMU ─▶ new nodes ─▶ tray open ─▶ old medium out ─▶ new one in ─▶ tray closed ─▶ commit ─▶ old nodes gone
//! ```
//!
//! The hard thing is a tray that the guest has locked: QEMU only asks it to let go and says nothing about it. That it did
//! comes as an event, which the live document shows, and is waited for.

use std::{sync::Arc, time::Duration};

use domxml::devices::{
    Device, DeviceRef, Disk, DiskDevice, Family, Place, Source, StorageFormat, Tray, disk::SnapshotMode,
};
use qemu_plan::{
    block::{self, Image, Sources},
    command::{
        Resources,
        plug::{Part, Step},
    },
    hotplug,
};
use qmp::commands;
use serde_json::{Map, Value};

use super::{
    change::{self, Change, Live},
    plugging,
};
use crate::{
    domain::{Domain, Edit, Effects, View, intents::Intent},
    error::{Code, Error, Result},
    ops::{
        Conditions, Driver,
        document::{plan, scope::Scope},
        graph::lookup,
        holdings::{
            chardev::Files,
            storage::{chain, descriptors::Handed, disk},
        },
        operation::{Context, undo::Undo},
        run::{cpus, guest::Guest},
    },
};

/// How long a guest may take to let go of its tray.
const TRAY: Duration = Duration::from_secs(5);

/// What of a tray that the guest has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Ask the guest to let go.
    Respect,
    /// Open it all the same.
    Break,
}

/// How a device is to be changed.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Which configuration.
    pub scope: Scope,
    /// What of a locked tray.
    pub lock: Lock,
}

/// Changes a disk.
///
/// # Errors
/// What is wrong with the document, `OperationUnsupported` or `ConfigUnsupported` for what can't be changed, `System` for
/// an image that can't be opened, what QEMU refuses. Nothing is changed then.
pub(crate) async fn update(
    driver: &Arc<Driver>,
    domain: &Domain,
    new: Disk,
    how: How,
    conditions: &Conditions,
) -> Result<()> {
    let change = Medium {
        disk: new,
        lock: how.lock,
        is_whole: true,
    };
    change::make(driver, domain, &change, how.scope, conditions).await
}

/// Gives a drive of the running guest another medium: that of a disk which is attached in its place. What else the disk says
/// is not looked at.
///
/// # Errors
/// As [`update`].
pub(crate) async fn insert(
    driver: &Arc<Driver>,
    domain: &Domain,
    new: Disk,
    scope: Scope,
    conditions: &Conditions,
) -> Result<()> {
    let change = Medium {
        disk: new,
        lock: Lock::Respect,
        is_whole: false,
    };
    change::make(driver, domain, &change, scope, conditions).await
}

/// A disk as it is to be.
struct Medium {
    disk: Disk,
    lock: Lock,
    /// All of the disk is meant, not its medium alone.
    is_whole: bool,
}

impl Change for Medium {
    type Live = Swap;

    const KIND: &'static str = "change-medium";

    async fn in_stored(
        &self,
        _: &Arc<Driver>,
        mut document: Box<domxml::Domain>,
    ) -> Result<Box<domxml::Domain>> {
        let name = &self.disk.target.dev;
        let place = document.devices.disks.iter_mut().find(|d| d.target.dev == *name);
        let place = place.ok_or_else(|| Error::argument(format!("target {name} doesn't exist.")))?;
        *place = self.disk.clone();
        // Names that a run made up are in no stored document.
        if !place.info.has_user_alias() {
            place.info.alias = None;
        }
        Ok(document)
    }

    async fn in_live(&self, driver: &Arc<Driver>, view: &View) -> Result<Swap> {
        Swap::of(driver, view, self).await
    }
}

/// A drive of a running guest with its medium before and after.
struct Swap {
    guest: Arc<Guest>,
    lock: Lock,
    old: Disk,
    new: Disk,
    /// The first number of a block node that is free afterwards.
    next_node: u32,
    /// Descriptors that a client handed over for the new medium.
    handed: Handed,
}

impl Swap {
    /// Checks that the change is one of the medium and finds the images of the new one.
    async fn of(driver: &Arc<Driver>, view: &View, change: &Medium) -> Result<Self> {
        let (wanted, lock) = (&change.disk, change.lock);
        let run = view.running()?;
        let guest = driver.guests.of(view)?;
        let name = &wanted.target.dev;
        let disks = &run.document.domain.devices.disks;
        let old = disks
            .iter()
            .find(|d| d.target.dev == *name)
            .ok_or_else(|| Error::internal(format!("disk '{name}' not found")))?
            .clone();
        let (def, place) = (&run.document.domain, place_of(disks, name));
        let completed = plan::with_caps(driver, def, |caps, context| {
            let device = Device::Disk(Box::new(wanted.clone()));
            hotplug::complete_in_place(def, (device, place), caps, context)
        })
        .await?;
        if change.is_whole {
            nothing_else_changes(&old, wanted, completed)?;
        }
        if !same_medium(&old, wanted) {
            lookup::check_idle(view, &old)?;
        }
        let mut new = with_medium(&old, wanted);
        let first = u32::try_from(run.status.nodename.unwrap_or(0))
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        let first = guest.first_node(first);
        if same_medium(&old, &new) {
            return Ok(Self {
                guest,
                lock,
                new: Disk {
                    snapshot: shown_snapshot(&old, wanted),
                    ..keeping_nodes(&old, new)
                },
                old,
                next_node: first,
                handed: Handed::default(),
            });
        }
        if !matches!(old.device, DiskDevice::Cdrom | DiskDevice::Floppy) {
            return Err(Error::new(
                Code::ConfigUnsupported,
                "disk source can be changed only in removable drives",
            ));
        }
        let handed = driver.groups.named_by(view.uuid, [&new])?;
        let (given, first_set) = (handed.clone(), plugging::next_fdset(view));
        let (new, next_node) = {
            crate::blocking::file("following the chain of the new image", move || {
                // Libvirt does not say here as whom.
                chain::follow(&mut new, "", &given)?;
                new.source.get_or_insert_default();
                let next = block::number_disk(&mut new, first);
                block::name_disk(&mut new)?;
                block::number_sets(&mut new, first_set);
                Ok((new, next))
            })
            .await?
        };
        Ok(Self {
            guest,
            lock,
            old,
            new,
            next_node,
            handed,
        })
    }

    /// The document of the run has the new medium.
    fn put(&self) -> Edit {
        let new = self.new.clone();
        Edit::live(move |document| {
            let name = &new.target.dev;
            if let Some(disk) = document.devices.disks.iter_mut().find(|d| d.target.dev == *name) {
                put_medium(disk, &new);
                disk.snapshot = new.snapshot;
                disk.private_data.clone_from(&new.private_data);
            }
            Ok(())
        })
    }
}

impl Live for Swap {
    /// Changes the drive and lets the documents follow; undone if one of the steps fails.
    async fn carry_out(self, context: &Context, (stored, effects): (Edit, Effects)) -> Result<()> {
        let edit = stored.and(self.put());
        if same_medium(&self.old, &self.new) {
            return context.commit(edit, effects).await.map(drop);
        }
        let (old_nodes, new_nodes) = (nodes(&self.old)?, nodes(&self.new)?);
        let intent = Intent::ChangeMedium {
            target: self.old.target.dev.clone(),
            new_nodes: new_nodes.iter().map(name_of).collect(),
            old_nodes: old_nodes.iter().map(name_of).collect(),
        };
        context.intend(intent).await?;
        let steps = Steps {
            driver: context.driver(),
            guest: &self.guest,
            swap: &self,
        };
        let mut undo = context.steps("the medium").await?;
        steps.change(self.lock, &mut undo).await?;
        drop(undo);
        let (next_node, highest_set) = (self.next_node, block::highest_set(&self.new));
        let commit = move |view: &mut View| {
            edit.apply(view)?;
            if let Some(run) = &mut view.run {
                let mut status = domxml::StatusDocument::clone(&run.status);
                status.nodename = Some(u64::from(next_node.saturating_sub(1)));
                let next_set = highest_set.map(|highest| u64::from(highest).saturating_add(1));
                status.fdset = status.fdset.max(next_set);
                run.status = Arc::new(status);
            }
            Ok(effects)
        };
        context.commit_with(commit).await?;
        steps.forget_old(old_nodes).await;
        Ok(())
    }
}

/// Checks that the disk as it is to be differs from the drive in its medium only.
fn nothing_else_changes(old: &Disk, wanted: &Disk, completed: Device) -> Result<()> {
    hotplug::check_kept(DeviceRef::Disk(old), DeviceRef::Disk(wanted))?;
    let mut compared = wanted.clone();
    if let Device::Disk(completed) = completed {
        compared.target.bus = completed.target.bus;
    }
    only_the_medium(old, &compared)
}

/// Where the disk of a name is.
fn place_of(disks: &[Disk], name: &str) -> Place {
    let at = disks.iter().position(|d| d.target.dev == name);
    Place {
        family: Family::Disk,
        at: at.unwrap_or(disks.len()),
    }
}

/// The changes of one drive in QEMU.
struct Steps<'a> {
    driver: &'a Arc<Driver>,
    guest: &'a Arc<Guest>,
    swap: &'a Swap,
}

impl Steps<'_> {
    async fn change(&self, lock: Lock, undo: &mut Undo) -> Result<()> {
        let Self { guest, swap, .. } = *self;
        let id = swap
            .old
            .info
            .alias
            .clone()
            .ok_or_else(|| Error::internal("the drive has no alias"))?;
        let has_tray = swap.old.device == DiskDevice::Cdrom;
        self.take_lease(undo).await?;
        self.take_file(undo).await?;
        let given = self.hand_over(undo).await?;
        let (old_nodes, new_nodes) = (nodes(&swap.old)?, nodes_with(&swap.new, &given)?);
        for node in &new_nodes {
            guest.execute(commands::BlockdevAdd(node.clone())).await?;
            self.undo_by(
                undo,
                "a block node",
                commands::BlockdevDel {
                    node_name: name_of(node),
                },
            );
        }
        if has_tray {
            guest
                .execute(commands::BlockdevOpenTray {
                    id: id.clone(),
                    force: lock == Lock::Break,
                })
                .await?;
            self.undo_by(undo, "the tray", commands::BlockdevCloseTray { id: id.clone() });
            self.wait_for_tray(&id, lock).await?;
        }
        if let Some(node) = old_nodes.last() {
            guest
                .execute(commands::BlockdevRemoveMedium { id: id.clone() })
                .await?;
            self.undo_by(
                undo,
                "the old medium",
                commands::BlockdevInsertMedium {
                    id: id.clone(),
                    node_name: name_of(node),
                },
            );
        }
        if let Some(node) = new_nodes.last() {
            guest
                .execute(commands::BlockdevInsertMedium {
                    id: id.clone(),
                    node_name: name_of(node),
                })
                .await?;
            self.undo_by(
                undo,
                "the new medium",
                commands::BlockdevRemoveMedium { id: id.clone() },
            );
        }
        if has_tray {
            guest
                .execute(commands::BlockdevCloseTray { id: id.clone() })
                .await?;
            self.undo_by(undo, "the tray", commands::BlockdevOpenTray { id, force: true });
        }
        Ok(())
    }

    /// A medium that stays where it is keeps its lease.
    fn lease_of(&self, disk: &Disk, other: &Disk) -> Option<crate::ops::holdings::storage::claim::Claim> {
        crate::ops::holdings::storage::claim::of_disk(disk).filter(|_| {
            chain::local_path(disk.kind, disk.source.as_ref())
                != chain::local_path(other.kind, other.source.as_ref())
        })
    }

    async fn take_lease(&self, undo: &mut Undo) -> Result<()> {
        match self.lease_of(&self.swap.new, &self.swap.old) {
            Some(claim) => cpus::take(self.driver, self.guest, &claim, undo).await,
            None => Ok(()),
        }
    }

    /// Gives the new medium's file to QEMU's user.
    async fn take_file(&self, undo: &mut Undo) -> Result<()> {
        disk::acquire(self.driver, &self.guest.domain, &self.swap.new, undo).await
    }

    /// Gives QEMU the descriptors that the new medium is opened by.
    async fn hand_over(&self, undo: &mut Undo) -> Result<Resources> {
        let (mut given, mut files) = (Resources::default(), Files::default());
        let new = &self.swap.new;
        let keep = |fd| Ok(files.keep(fd));
        self.swap.handed.hand_over(new, keep, &mut given)?;
        for image in images(new, &given)?.iter().flat_map(Image::chain) {
            let Some(descriptors) = &image.descriptors else {
                continue;
            };
            let part = Part::FdSet(descriptors.set);
            for (at, number) in descriptors.numbers.iter().enumerate() {
                let name = format!("{}{at}", image.storage_node());
                let step = Step::AddFd(descriptors.set, *number, name);
                plugging::give(self.guest, step, &mut files).await?;
                if at == 0 {
                    let (guest, part) = (Arc::clone(self.guest), part.clone());
                    undo.push(
                        "descriptors",
                        async move { plugging::take_away(&guest, &part).await },
                    );
                }
            }
        }
        Ok(given)
    }

    /// QEMU says by event that a tray is open. If it does not come, the next command is refused in QEMU's words.
    ///
    /// # Errors
    /// The guest does not let go of it in time.
    async fn wait_for_tray(&self, id: &str, lock: Lock) -> Result<()> {
        let run = self.guest.id;
        let open = |view: &Arc<View>| {
            let disks = view
                .run
                .as_ref()
                .filter(|r| r.launched.id == run)
                .map(|r| &r.document.domain.devices.disks);
            disks.is_none_or(|d| {
                d.iter()
                    .any(|d| d.info.alias.as_deref() == Some(id) && d.target.tray == Some(Tray::Open))
            })
        };
        let opened = tokio::time::timeout(TRAY, self.guest.domain.wait_for(open)).await;
        match (opened, lock) {
            (Err(_), Lock::Respect) => {
                let text = format!("timed out waiting to open tray of '{}'", self.swap.old.target.dev);
                Err(Error::new(Code::OperationFailed, text))
            }
            _ => Ok(()),
        }
    }

    fn undo_by(
        &self,
        undo: &mut Undo,
        what: &'static str,
        command: impl qmp::Command + Send + Sync + 'static,
    ) {
        let guest = Arc::clone(self.guest);
        undo.push(what, async move { guest.execute(command).await.map(drop) });
    }

    /// What is left of the old medium. It can't undo the change any more, so failures are only logged.
    async fn forget_old(&self, nodes: Vec<Map<String, Value>>) {
        for node in nodes.iter().rev() {
            if let Err(error) = self
                .guest
                .execute(commands::BlockdevDel {
                    node_name: name_of(node),
                })
                .await
            {
                tracing::warn!(node = name_of(node), %error, "the block node of a medium that was taken out is left in QEMU");
            }
        }
        for set in block::sources(&self.swap.old)
            .into_iter()
            .filter_map(block::set_of)
        {
            if let Err(error) = plugging::take_away(self.guest, &Part::FdSet(set)).await {
                tracing::warn!(set, %error, "the descriptors of a medium that was taken out are left in QEMU");
            }
        }
        if let Some(claim) = self.lease_of(&self.swap.old, &self.swap.new) {
            cpus::give_back(self.driver, self.guest, &claim).await;
        }
        if let Some(run) = &self.guest.domain.view().run {
            disk::release(self.driver, run, &self.swap.old).await;
        }
    }
}

/// The nodes of a disk's images, the lowest first; none for an empty drive.
pub(crate) fn nodes(disk: &Disk) -> Result<Vec<Map<String, Value>>> {
    nodes_with(disk, &Resources::default())
}

/// The images of a disk; none for an empty drive.
fn images(disk: &Disk, given: &Resources) -> Result<Option<Image>> {
    match is_empty(disk) {
        true => Ok(None),
        false => Ok(Sources::new(given, 1).disk(disk)?),
    }
}

fn nodes_with(disk: &Disk, given: &Resources) -> Result<Vec<Map<String, Value>>> {
    let Some(image) = images(disk, given)? else {
        return Ok(Vec::new());
    };
    if image.chain().iter().any(|i| !i.objects.is_empty()) {
        return Err(Error::new(
            Code::ConfigUnsupported,
            "a medium that needs secrets is not supported yet",
        ));
    }
    let all = image
        .chain()
        .into_iter()
        .flat_map(|i| i.nodes())
        .map(|props| match props.into_value() {
            Value::Object(map) => map,
            _ => Map::new(),
        });
    Ok(all.collect())
}

pub(crate) fn name_of(node: &Map<String, Value>) -> String {
    node.get("node-name")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

/// The drive with the medium that is wanted, not numbered yet.
fn with_medium(old: &Disk, wanted: &Disk) -> Disk {
    let mut new = old.clone();
    put_medium(&mut new, wanted);
    let says = |s: &Source| location(s) != Source::default() || s.startup_policy.is_some();
    new.source = new.source.filter(says);
    let format = wanted
        .driver
        .as_ref()
        .and_then(|d| d.kind)
        .unwrap_or(StorageFormat::Raw);
    new.driver.get_or_insert_default().kind = Some(format);
    new
}

/// What of a disk is its medium.
fn put_medium(disk: &mut Disk, from: &Disk) {
    disk.kind = from.kind;
    disk.source.clone_from(&from.source);
    disk.backing.clone_from(&from.backing);
    disk.shareable = from.shareable;
    if let Some(format) = from.driver.as_ref().and_then(|d| d.kind) {
        disk.driver.get_or_insert_default().kind = Some(format);
    }
}

/// Whether snapshots take the disk, as documents say it: what can't be written, they leave out anyway.
fn shown_snapshot(old: &Disk, wanted: &Disk) -> Option<SnapshotMode> {
    let is_usual = |how: &SnapshotMode| old.readonly && *how == SnapshotMode::No;
    wanted.snapshot.filter(|how| !is_usual(how))
}

/// The same medium keeps the nodes and images that it has.
fn keeping_nodes(old: &Disk, mut new: Disk) -> Disk {
    let policy = new.source.as_ref().and_then(|s| s.startup_policy);
    new.source.clone_from(&old.source);
    new.driver.clone_from(&old.driver);
    new.backing.clone_from(&old.backing);
    if let Some(source) = &mut new.source {
        source.startup_policy = policy;
    }
    new
}

fn is_empty(disk: &Disk) -> bool {
    disk.source
        .as_ref()
        .is_none_or(|s| location(s) == Source::default())
}

/// A source without what does not say where it is.
fn location(source: &Source) -> Source {
    Source {
        index: None,
        // Who opens it does not make it another one.
        fdgroup: None,
        startup_policy: None,
        seclabels: Vec::new(),
        private_data: None,
        ..source.clone()
    }
}

fn same_medium(old: &Disk, new: &Disk) -> bool {
    match (is_empty(old), is_empty(new)) {
        (true, true) => true,
        (false, false) => {
            old.kind == new.kind && old.source.as_ref().map(location) == new.source.as_ref().map(location)
        }
        _ => false,
    }
}

/// Whether all but the medium is left as it is. What the new document does not say stays.
fn only_the_medium(old: &Disk, new: &Disk) -> Result<()> {
    match hotplug::changed_field(old, new) {
        Some(text) => Err(Error::new(Code::OperationUnsupported, text)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
