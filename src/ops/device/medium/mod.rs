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

use domxml::devices::{Disk, DiskDevice, Source, StorageFormat, Tray};
use qemu_plan::{
    address::Age,
    block::{self, Sources},
    command::Resources,
};
use qmp::commands;
use serde_json::{Map, Value};
use xmlform::ParseFlags;

use crate::{
    domain::{
        Document, Domain, Effects, Job, Stored, View,
        jobs::{Kind, Want},
    },
    error::{Code, Error, Result},
    ops::{
        Conditions, Driver,
        document::{
            plan,
            scope::{Scope, Which},
        },
        holdings::{
            cgroup::{self, DiskChange},
            storage::chain,
        },
        host::identity,
        operation::undo::Undo,
        run::{cpus, guest::Guest, refresh},
        start,
    },
};

/// The intent to change a medium.
const INTENT: &str = "change-media";
/// How long a guest may take to let go of its tray.
const TRAY: Duration = Duration::from_secs(10);

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
    conditions.check(&domain.view())?;
    let job = domain.job(Want::Plain(Kind::Modify)).await?;
    let view = job.view();
    conditions.check(&view)?;
    let which = Which::of(how.scope, &view)?;
    let stored = if which.config {
        Some(in_stored(driver, &view, new.clone()).await?)
    } else {
        None
    };
    let swap = if which.live {
        Some(Swap::of(driver, &view, &new).await?)
    } else {
        None
    };
    if conditions.trial {
        return Ok(());
    }
    let owned = Arc::clone(driver);
    driver
        .tracked(Box::pin(async move {
            match swap {
                Some(swap) => Box::pin(swap.carry_out(&owned, &job, stored, how.lock)).await,
                None => job
                    .commit(move |view| Ok(follow(view, stored, None)))
                    .await
                    .map(drop),
            }
        }))
        .await
}

/// The stored document with the disk replaced, complete and checked.
async fn in_stored(driver: &Arc<Driver>, view: &View, new: Disk) -> Result<Arc<Stored>> {
    let config = view
        .config
        .as_ref()
        .ok_or_else(|| Error::invalid("transient domains do not have any persistent config"))?;
    let mut document = Box::new(domxml::Domain::clone(&*config.domain()?));
    let name = new.target.dev.clone();
    let place = document.devices.disks.iter_mut().find(|d| d.target.dev == name);
    *place.ok_or_else(|| Error::argument(format!("target {name} doesn't exist.")))? = new;
    Ok(Stored::new(
        &plan::complete(driver, document, Age::New).await?.domain,
    ))
}

/// A drive of a running guest with its medium before and after.
struct Swap {
    guest: Arc<Guest>,
    old: Disk,
    new: Disk,
    /// The first number of a block node that is free afterwards.
    next_node: u32,
}

impl Swap {
    /// Checks that the change is one of the medium and finds the images of the new one.
    async fn of(driver: &Arc<Driver>, view: &View, wanted: &Disk) -> Result<Self> {
        let run = view.running()?;
        let guest = driver.guests.of(view)?;
        let name = &wanted.target.dev;
        let disks = &run.document.domain.devices.disks;
        let old = disks
            .iter()
            .find(|d| d.target.dev == *name)
            .ok_or_else(|| Error::internal(format!("disk '{name}' not found")))?
            .clone();
        only_the_medium(&old, wanted)?;
        let mut new = with_medium(&old, wanted);
        let first = u32::try_from(run.status.nodename.unwrap_or(0))
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        if same_medium(&old, &new) {
            return Ok(Self {
                guest,
                new: keeping_nodes(&old, new),
                old,
                next_node: first,
            });
        }
        if !matches!(old.device, DiskDevice::Cdrom | DiskDevice::Floppy) {
            return Err(Error::new(
                Code::ConfigUnsupported,
                "disk source can be changed only in removable drives",
            ));
        }
        let (new, next_node) = {
            let as_user = identity::file_user(&driver.config())?;
            crate::blocking::file("following the chain of the new image", move || {
                chain::follow(&mut new, &as_user)?;
                new.source.get_or_insert_default();
                let next = block::number_disk(&mut new, first);
                Ok((new, next))
            })
            .await?
        };
        Ok(Self {
            guest,
            old,
            new,
            next_node,
        })
    }

    /// Changes the drive and lets the documents follow; undone if one of the steps fails.
    async fn carry_out(
        self,
        driver: &Arc<Driver>,
        job: &Job,
        stored: Option<Arc<Stored>>,
        lock: Lock,
    ) -> Result<()> {
        if same_medium(&self.old, &self.new) {
            return job
                .commit(move |view| Ok(follow(view, stored, Some(&self))))
                .await
                .map(drop);
        }
        // Noted first: should the daemon end in the midst, the next one gives the drive the medium that the document names.
        let (store, uuid) = (driver.registry.store(), job.domain().uuid());
        // The two documents are two files: it has the former stored one, in case only that is replaced.
        let former = stored.as_ref().and(job.view().config.clone());
        let note = intent(&self.old, former.as_deref());
        store.note_intent(uuid, self.guest.id, note).await;
        let mut undo = Undo::default();
        let steps = Steps {
            driver,
            guest: &self.guest,
            swap: &self,
        };
        let old_nodes = nodes(&self.old)?;
        let result = async {
            steps.change(lock, &mut undo).await?;
            let (guest, old, new) = (Arc::clone(&self.guest), self.old.clone(), self.new.clone());
            let told = Self {
                guest,
                old,
                new,
                next_node: self.next_node,
            };
            job.commit(move |view| Ok(follow(view, stored, Some(&told))))
                .await
        };
        let result = result.await;
        match &result {
            Ok(_) => steps.forget_old(old_nodes).await,
            Err(_) => undo.unwind().await,
        }
        // A power-off that came meanwhile has noted its own.
        if store.has_intent(uuid, self.guest.id, INTENT) {
            store.clear_intent(uuid, self.guest.id).await;
        }
        result.map(drop)
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
        let Self { driver, guest, swap } = *self;
        let id = swap
            .old
            .info
            .alias
            .clone()
            .ok_or_else(|| Error::internal("the drive has no alias"))?;
        let has_tray = swap.old.device == DiskDevice::Cdrom;
        self.take_lease(undo).await?;
        self.take_file(undo).await?;
        let (old_nodes, new_nodes) = (nodes(&swap.old)?, nodes(&swap.new)?);
        for node in &new_nodes {
            guest.execute(driver, commands::BlockdevAdd(node.clone())).await?;
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
                .execute(
                    driver,
                    commands::BlockdevOpenTray {
                        id: id.clone(),
                        force: lock == Lock::Break,
                    },
                )
                .await?;
            self.undo_by(undo, "the tray", commands::BlockdevCloseTray { id: id.clone() });
            self.wait_for_tray(&id).await;
        }
        if let Some(node) = old_nodes.last() {
            guest
                .execute(driver, commands::BlockdevRemoveMedium { id: id.clone() })
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
                .execute(
                    driver,
                    commands::BlockdevInsertMedium {
                        id: id.clone(),
                        node_name: name_of(node),
                    },
                )
                .await?;
            self.undo_by(
                undo,
                "the new medium",
                commands::BlockdevRemoveMedium { id: id.clone() },
            );
        }
        if has_tray {
            guest
                .execute(driver, commands::BlockdevCloseTray { id: id.clone() })
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
        let owners = Arc::new(start::Owners::of_disk(self.driver, &self.swap.new));
        let taken = Arc::clone(&owners);
        crate::blocking::file("giving the image to QEMU", move || taken.take()).await?;
        let restore = crate::blocking::file("giving the image back", move || {
            owners.restore();
            Ok(())
        });
        undo.push("the owner of the image", restore);
        let view = self.guest.domain.view();
        cgroup::change_disk(self.driver, view.running()?, DiskChange::In(&self.swap.new))?;
        let (driver, guest, new) = (
            Arc::clone(self.driver),
            Arc::clone(self.guest),
            self.swap.new.clone(),
        );
        undo.push(
            "the nodes of the image",
            async move { forbid(&driver, &guest, &new) },
        );
        Ok(())
    }

    /// QEMU says by event that a tray is open. If it does not come, the next command is refused in QEMU's words.
    async fn wait_for_tray(&self, id: &str) {
        let run = self.guest.id;
        let open = |view: &Arc<View>| {
            let disks = view
                .run
                .as_ref()
                .filter(|r| r.id == run)
                .map(|r| &r.document.domain.devices.disks);
            disks.is_none_or(|d| {
                d.iter()
                    .any(|d| d.info.alias.as_deref() == Some(id) && d.target.tray == Some(Tray::Open))
            })
        };
        let _ = tokio::time::timeout(TRAY, self.guest.domain.wait_for(open)).await;
    }

    fn undo_by(
        &self,
        undo: &mut Undo,
        what: &'static str,
        command: impl qmp::Command + Send + Sync + 'static,
    ) {
        let (driver, guest) = (Arc::clone(self.driver), Arc::clone(self.guest));
        undo.push(
            what,
            async move { guest.execute(&driver, command).await.map(drop) },
        );
    }

    /// What is left of the old medium. It can't undo the change any more, so failures are only logged.
    async fn forget_old(&self, nodes: Vec<Map<String, Value>>) {
        for node in nodes.iter().rev() {
            if let Err(error) = self
                .guest
                .execute(
                    self.driver,
                    commands::BlockdevDel {
                        node_name: name_of(node),
                    },
                )
                .await
            {
                tracing::warn!(node = name_of(node), %error, "the block node of a medium that was taken out is left in QEMU");
            }
        }
        if let Some(claim) = self.lease_of(&self.swap.old, &self.swap.new) {
            cpus::give_back(self.driver, self.guest, &claim).await;
        }
        let owners = start::Owners::of_disk(self.driver, &self.swap.old);
        let restored = crate::blocking::file("giving the old image back", move || {
            owners.restore();
            Ok(())
        })
        .await;
        if let Err(error) = restored {
            tracing::warn!(%error, "the image of a medium that was taken out is left to QEMU's user");
        }
        if let Err(error) = forbid(self.driver, self.guest, &self.swap.old) {
            tracing::warn!(%error, "QEMU may still open the device of a medium that was taken out");
        }
    }
}

/// Forbids QEMU the nodes of a disk that the document has no more.
fn forbid(driver: &Driver, guest: &Guest, disk: &Disk) -> Result<()> {
    let view = guest.domain.view();
    cgroup::change_disk(driver, view.running()?, DiskChange::Out(disk))
}

/// Ends a change that another daemon left in the midst: undoes it, or what is left to do if it was written down.
pub(crate) async fn settle(driver: &Arc<Driver>, guest: &Arc<Guest>) {
    let (store, view) = (driver.registry.store(), guest.domain.view());
    let Some(noted) = store
        .intent(view.uuid, guest.id)
        .filter(|noted| noted.lines().next() == Some(INTENT))
    else {
        return;
    };
    tracing::warn!(guest = %view.name, "a change of a medium was under way when the daemon ended; the drives follow the document");
    let settled = async {
        take_back_stored(guest, &view, &noted).await?;
        follow_document(driver, guest, &view).await
    };
    match settled.await {
        Ok(()) => store.clear_intent(view.uuid, guest.id).await,
        // The intent stays, and is seen to when the guest is reached again.
        Err(error) => {
            tracing::error!(guest = %view.name, %error, "the media of its drives could not be set right")
        }
    }
}

/// Puts the former stored document back if the live one was not replaced any more.
async fn take_back_stored(guest: &Guest, view: &View, noted: &str) -> Result<()> {
    match former_stored(noted, &view.running()?.document.domain.devices.disks)? {
        Some(former) => guest
            .domain
            .commit(move |view| Ok(follow(view, Some(former), None)))
            .await
            .map(drop),
        None => Ok(()),
    }
}

/// What an intent holds: its name, the drive, the number of its image, and the former stored document if that was to change.
fn intent(old: &Disk, former: Option<&Stored>) -> String {
    let text = former.map(Stored::secure_text);
    format!(
        "{INTENT}\n{}\n{}\n{}",
        old.target.dev,
        index_of(old),
        text.as_deref().unwrap_or_default()
    )
}

/// The stored document that counts while the drive still has the image that was noted.
fn former_stored(noted: &str, disks: &[Disk]) -> Result<Option<Arc<Stored>>> {
    let mut parts = noted.splitn(4, '\n').skip(1);
    let (Some(target), Some(index), Some(text)) = (parts.next(), parts.next(), parts.next()) else {
        return Ok(None);
    };
    let unchanged = disks
        .iter()
        .any(|d| d.target.dev == target && index_of(d).to_string() == index);
    if text.is_empty() || !unchanged {
        return Ok(None);
    }
    Ok(Some(Stored::new(&domxml::Domain::parse(
        text,
        ParseFlags::INACTIVE,
    )?)))
}

/// The number of a disk's image, by which two media are told apart; 0 for an empty drive.
fn index_of(disk: &Disk) -> u32 {
    disk.source.as_ref().and_then(|s| s.index).unwrap_or(0)
}

async fn follow_document(driver: &Arc<Driver>, guest: &Arc<Guest>, view: &View) -> Result<()> {
    let disks = &view.running()?.document.domain.devices.disks;
    let drives = guest.execute(driver, commands::QueryBlock {}).await?;
    for disk in disks
        .iter()
        .filter(|d| matches!(d.device, DiskDevice::Cdrom | DiskDevice::Floppy))
    {
        let Some(id) = disk.info.alias.clone() else {
            continue;
        };
        let Some(drive) = refresh::drive_of(&id, &drives) else {
            continue;
        };
        let wanted = nodes(disk)?.last().map(name_of);
        let inserted = drive.inserted.as_ref().and_then(|i| i.node_name.clone());
        if wanted != inserted {
            if drive.tray_open.is_some() {
                guest
                    .execute(
                        driver,
                        commands::BlockdevOpenTray {
                            id: id.clone(),
                            force: true,
                        },
                    )
                    .await?;
            }
            if inserted.is_some() {
                guest
                    .execute(driver, commands::BlockdevRemoveMedium { id: id.clone() })
                    .await?;
            }
            if let Some(node_name) = wanted {
                guest
                    .execute(
                        driver,
                        commands::BlockdevInsertMedium {
                            id: id.clone(),
                            node_name,
                        },
                    )
                    .await?;
            }
        }
        if drive.tray_open.is_some() {
            guest.execute(driver, commands::BlockdevCloseTray { id }).await?;
        }
    }
    drop_unused_nodes(driver, guest, disks).await
}

/// Takes away the nodes of images that no disk has.
async fn drop_unused_nodes(driver: &Arc<Driver>, guest: &Arc<Guest>, disks: &[Disk]) -> Result<()> {
    let mut used = std::collections::BTreeSet::new();
    for disk in disks {
        used.extend(nodes(disk)?.iter().filter_map(|n| number_of(&name_of(n))));
    }
    let known = guest
        .execute(driver, commands::QueryNamedBlockNodes { flat: true })
        .await?;
    let names = known.into_iter().filter_map(|n| n.node_name);
    let mut unused: Vec<_> = names
        .filter_map(|name| number_of(&name).filter(|n| !used.contains(n)).map(|n| (n, name)))
        .collect();
    // From the top down: an image has a lower number than those below it, and its format stands on its storage.
    unused.sort();
    for (_, node_name) in unused {
        guest.execute(driver, commands::BlockdevDel { node_name }).await?;
    }
    Ok(())
}

/// The number of the image that a node is of: 3 of `libvirt-3-storage`.
fn number_of(node: &str) -> Option<u32> {
    node.strip_prefix("libvirt-")?.split('-').next()?.parse().ok()
}

/// Puts what was changed into the documents.
fn follow(view: &mut View, stored: Option<Arc<Stored>>, swap: Option<&Swap>) -> Effects {
    if let Some((swap, run)) = swap.zip(view.run.as_mut()) {
        let mut document = domxml::Domain::clone(&run.document.domain);
        if let Some(disk) = document
            .devices
            .disks
            .iter_mut()
            .find(|d| d.target.dev == swap.new.target.dev)
        {
            put_medium(disk, &swap.new);
        }
        run.document = Document::live(document);
        let mut status = domxml::StatusDocument::clone(&run.status);
        status.nodename = Some(u64::from(swap.next_node.saturating_sub(1)));
        run.status = Arc::new(status);
    }
    if stored.is_some() {
        view.config = stored;
    }
    match swap {
        Some(_) => Effects::none(),
        None => Effects::none().config_only(),
    }
}

/// The nodes of a disk's images, the lowest first; none for an empty drive.
fn nodes(disk: &Disk) -> Result<Vec<Map<String, Value>>> {
    if is_empty(disk) {
        return Ok(Vec::new());
    }
    let resources = Resources::default();
    let mut sources = Sources::new(&resources, 1);
    let Some(image) = sources.disk(disk)? else {
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

fn name_of(node: &Map<String, Value>) -> String {
    node.get("node-name")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

/// The drive with the medium that is wanted, not numbered yet.
fn with_medium(old: &Disk, wanted: &Disk) -> Disk {
    let mut new = old.clone();
    put_medium(&mut new, wanted);
    new.source = new.source.filter(|s| location(s) != Source::default());
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
    if let Some(format) = from.driver.as_ref().and_then(|d| d.kind) {
        disk.driver.get_or_insert_default().kind = Some(format);
    }
}

/// The same medium keeps the nodes and images that it has.
fn keeping_nodes(old: &Disk, mut new: Disk) -> Disk {
    let policy = new.source.as_ref().and_then(|s| s.startup_policy);
    new.source.clone_from(&old.source);
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
    macro_rules! fields {
        ($($name:literal $of:expr;)*) => { [$(($name, { let of: fn(&Disk) -> Option<String> = $of; differs(of(old), of(new)) })),*] };
    }
    fn differs(old: Option<String>, new: Option<String>) -> bool {
        new.is_some_and(|new| old.as_ref() != Some(&new))
    }
    fn shown<T: std::fmt::Debug>(value: Option<&T>) -> Option<String> {
        value.map(|v| format!("{v:?}"))
    }
    fn yes(flag: bool) -> Option<String> {
        flag.then(String::new)
    }
    macro_rules! driver {
        ($field:ident) => {
            |d| shown(d.driver.as_ref().and_then(|d| d.$field.as_ref()))
        };
    }
    // The words of libvirt's refusals.
    let changed = fields! {
        "device" |d| Some(d.device.as_str().to_owned());
        "bus" |d| d.target.bus.map(|b| b.as_str().to_owned());
        "removable" |d| shown(d.target.removable.as_ref());
        "rotation rate" |d| shown(d.target.rotation_rate.as_ref());
        "address" |d| shown(d.info.address.as_ref());
        "alias" |d| d.info.alias.clone();
        "boot order" |d| shown(d.info.boot.as_ref());
        "geometry" |d| shown(d.geometry.as_ref());
        "blockio" |d| shown(d.blockio.as_ref());
        "blkdeviotune" |d| shown(d.iotune.as_ref());
        "serial" |d| d.serial.clone();
        "wwn" |d| d.wwn.clone();
        "vendor" |d| d.vendor.clone();
        "product" |d| d.product.clone();
        "model" |d| shown(d.model.as_ref());
        "rawio" |d| shown(d.rawio.as_ref());
        "sgio" |d| shown(d.sgio.as_ref());
        "backenddomain" |d| d.backend_domain.clone();
        "readonly" |d| yes(d.readonly);
        "shared" |d| yes(d.shareable);
        "transient" |d| shown(d.transient.as_ref());
        "cache" driver!(cache);
        "error_policy" driver!(error_policy);
        "rerror_policy" driver!(rerror_policy);
        "io" driver!(io);
        "ioeventfd" driver!(ioeventfd);
        "event_idx" driver!(event_idx);
        "copy_on_read" driver!(copy_on_read);
        "discard" driver!(discard);
        "iothread" driver!(iothread);
        "detect_zeroes" driver!(detect_zeroes);
        "queues" driver!(queues);
        "queue_size" driver!(queue_size);
        "metadata_cache" driver!(metadata_cache);
    };
    match changed.iter().find(|(_, differs)| *differs) {
        Some((name, _)) => Err(Error::new(
            Code::OperationUnsupported,
            format!("cannot modify field '{name}' of the disk"),
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
