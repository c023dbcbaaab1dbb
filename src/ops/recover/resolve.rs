//! What becomes of an operation that was under way when the daemon ended.
//!
//! [`intents`] is called whenever a guest is reached. The document of the run says whether the operation was committed;
//! QEMU says what was done. [`decide`] is a pure function of both: it makes QEMU and the host follow the document, and
//! touches only what the operation itself had named. An operation that is under way in this daemon is left alone.

use std::{path::Path, sync::Arc};

use domxml::{
    devices::{Device, Disk, DiskDevice, Graphics, Memory, interface::LinkState},
    status,
};
use qemu_plan::{
    block::{Chain, Layer},
    command::plug::{Part, has_front_end},
};
use qmp::commands;

use super::truth::Truth;
use crate::{
    domain::{Effects, View, intents::Intent},
    error::{Code, Error, Result},
    ops::{
        Driver, backups, checkpoints,
        device::{attach, detach, holding, images, limits, link, medium, plugging, rewire, update, vcpus},
        graph,
        holdings::{net::traffic, storage::disk},
        host::files,
        moments,
        run::{cpus, guest::Guest, password, refresh, still},
        saves::left,
        tuning::live::Live,
    },
};

/// One thing that is done so that QEMU or the host follow the document.
#[derive(Clone, Debug, PartialEq)]
enum Action {
    /// Set a link.
    SetLink { alias: String, up: bool },
    /// Have the host's end of an interface follow the document.
    Rewire { alias: String },
    /// Let the host's ends of interfaces follow the CPUs.
    FollowCpus,
    /// A guest that was restored goes on.
    GoOn { runs: bool },
    /// CPUs that stood for a moment run.
    RunCpus,
    /// Take a change of the running guest back.
    Tune(Live),
    /// Tell QEMU the password of a display.
    SetPassword(Box<Graphics>),
    /// Tell QEMU how much the guest is to have of a virtio-mem device.
    Resize(Box<Memory>),
    /// Open a disk again as the part of its file that it is.
    Slice(Box<Disk>),
    /// Let the documents follow the CPUs that QEMU has.
    CountCpus { wanted: String, stored: bool },
    /// Put the document's limits on a device.
    Limit { device: String },
    /// Give a drive the medium of its document.
    Insert(Insert),
    /// Take a block node away.
    DropNode(String),
    /// Remove a file that was made for an image that the guest does not have.
    RemoveFile(std::path::PathBuf),
    /// Remove an image that was merged into another, unless it is a device.
    RemoveImage(std::path::PathBuf),
    /// Give back what an image had of the host that the guest has no more.
    ReleaseImage(Box<Disk>),
    /// Take a part of a device away.
    Drop(Part),
    /// Give back what a device had of the host.
    Release(Box<Device>),
    /// Let the documents follow a device that QEMU has.
    Adopt {
        device: Box<Device>,
        stored: Option<String>,
    },
    /// See to what is left of a device that QEMU has no more.
    Depart(Box<Device>),
    /// Take a device out of the stored configuration.
    Unstore(Box<Device>),
}

/// A drive and its medium.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Insert {
    id: String,
    /// It has a tray that is opened first and closed after.
    tray: bool,
    /// Something is in it now.
    occupied: bool,
    /// What is to be in it.
    node: Option<String>,
}

/// Resolves what was under way on a guest that was just reached.
pub(super) async fn intents(driver: &Arc<Driver>, guest: &Arc<Guest>) {
    let notes = driver.registry.store().intents();
    let view = guest.domain.view();
    let found = notes.of(view.uuid, guest.id);
    let left = found
        .into_iter()
        .filter(|note| note.intent != Intent::PowerOff && !driver.operations.is_under_way(note.operation));
    for note in left {
        tracing::warn!(guest = %view.name, intent = ?note.intent, "this was under way when the daemon ended; the guest follows its document");
        match resolve(driver, guest, &note.intent).await {
            Ok(()) => {
                let view = guest.domain.view();
                let error = undone(&note.intent, &view);
                let what = (&*view, note.intent.kind());
                driver
                    .operations
                    .recovered(note.operation, what, "recovered", error.as_ref());
                notes.clear(&note).await;
            }
            // The note stays, and is seen to when the guest is reached again.
            Err(error) => {
                tracing::error!(guest = %view.name, %error, "what was under way could not be set right");
                degrade(guest, error.to_string()).await;
            }
        }
    }
}

/// Whether an operation was undone, of those that tell: the error that whoever asks for it gets.
pub(super) fn undone(intent: &Intent, view: &View) -> Option<Error> {
    if let Intent::CreateSnapshot { name, .. } = intent {
        return view.snapshots.get(name).is_none().then(taken_back);
    }
    if let Intent::CreateCheckpoint { name, .. } = intent {
        return view.checkpoints.get(name).is_none().then(taken_back);
    }
    if matches!(intent, Intent::Backup { .. }) {
        return (!backups::recover::has_begun(view)).then(taken_back);
    }
    if matches!(intent, Intent::Save { .. } | Intent::Dump { .. }) {
        let text = "the daemon ended in the middle of it, and the guest goes on";
        return Some(Error::new(Code::OperationAborted, text).because("OPERATION_UNDONE"));
    }
    let device = device_of(intent).ok().flatten()?;
    let alias = device.as_ref().info()?.alias.clone()?;
    let there = view
        .running()
        .ok()?
        .document
        .domain
        .devices
        .by_alias(&alias)
        .is_some();
    let attaches = matches!(intent, Intent::AttachDevice { .. });
    let is_done = there == attaches;
    let text = match attaches {
        true => "the daemon ended in the middle of it, and the next one has undone it",
        false => "the daemon ended in the middle of it; the guest may still let the device go",
    };
    (!is_done).then(|| Error::new(Code::OperationAborted, text).because("OPERATION_UNDONE"))
}

/// The error of an operation that was cut off and taken back.
pub(crate) fn taken_back() -> Error {
    let text = "the daemon ended in the middle of it, and the next one has undone it";
    Error::new(Code::OperationAborted, text).because("OPERATION_UNDONE")
}

async fn degrade(guest: &Guest, what: String) {
    let change = move |view: &mut View| {
        if let Some(run) = &mut view.run {
            run.seen.degraded = Some(what.into());
        }
        Ok(Effects::none())
    };
    // A guest that has gone has nothing half done.
    let _ = guest.domain.commit(change).await;
}

async fn resolve(driver: &Arc<Driver>, guest: &Arc<Guest>, intent: &Intent) -> Result<()> {
    if matches!(
        intent,
        Intent::CreateSnapshot { .. } | Intent::SnapshotDisks { .. } | Intent::DeleteSnapshot { .. }
    ) {
        return moments::resolve::running(driver, guest, intent).await;
    }
    if matches!(
        intent,
        Intent::CreateCheckpoint { .. } | Intent::DeleteCheckpoint { .. }
    ) {
        return checkpoints::resolve::running(driver, guest, intent).await;
    }
    if matches!(intent, Intent::Backup { .. }) {
        return backups::recover::resolve(guest, intent).await;
    }
    if let Intent::BeginBlockJob { nodes, .. } = intent {
        graph::images::settle(guest, nodes).await?;
    }
    let mut truth = Truth::read(guest).await?;
    let view = guest.domain.view();
    let document = &view.running()?.document.domain;
    if let Some(device) = device_of(intent)? {
        truth.parts = detach::parts_of(driver, document, &device).await?;
    }
    let actions = decide(intent, document, &truth)?;
    let unplugs = |action: &Action| matches!(action, Action::Drop(Part::Device(_)));
    let unplugged = actions.iter().any(unplugs);
    for action in actions {
        carry_out(driver, guest, action).await?;
    }
    let without = without_nodes(intent, document)?;
    if !without.is_empty() {
        plugging::drop_sets_of_nodes(guest, &without).await?;
    }
    if unplugged {
        // The list of what QEMU has was read before.
        let known = guest.monitor()?.device_ids().await?;
        let change = move |view: &mut View| {
            attach::know_devices(view, Some(known));
            Ok(Effects::none())
        };
        guest.domain.commit(change).await?;
    }
    Ok(())
}

/// The device that an intent is about.
fn device_of(intent: &Intent) -> Result<Option<Device>> {
    match intent {
        Intent::AttachDevice { device, .. } | Intent::DetachDevice { device, .. } => {
            Ok(Some(Device::parse(device, status::PARSE)?))
        }
        _ => Ok(None),
    }
}

/// What becomes of a device that was coming or going: the document says whether it is the guest's, and the stored one
/// follows where the device has gone and was to leave it. A device that comes is in both documents or in none.
fn of_device(intent: &Intent, device: Device, document: &domxml::Domain, truth: &Truth) -> Vec<Action> {
    let unstored = matches!(intent, Intent::DetachDevice { stored: true, .. });
    let unstore = unstored.then(|| Action::Unstore(Box::new(device.clone())));
    let info = device.as_ref().info();
    let alias = info.and_then(|info| info.alias.clone()).unwrap_or_default();
    let known = detach::place_in(document, &device).is_some();
    let there = match has_front_end(device.as_ref()) {
        true => truth.devices.contains(&alias),
        // The guest is not asked: such a device has come when the document has it, and goes when it is to.
        false => known && matches!(intent, Intent::AttachDevice { .. }),
    };
    match (known, there) {
        // It had come, or has not gone yet: the guest may still let it go.
        (true, true) => Vec::new(),
        (true, false) => [Action::Depart(Box::new(device))]
            .into_iter()
            .chain(unstore)
            .collect(),
        // It is the last that QEMU gets: all of it is there, and the guest might not let it go again.
        (false, true) if attach::can_adopt(&device) && adoption(intent).is_some() => {
            let stored = adoption(intent).flatten();
            vec![Action::Adopt {
                device: Box::new(device),
                stored,
            }]
        }
        (false, _) => {
            let front = there.then_some(Part::Device(alias));
            let parts = front.into_iter().chain(truth.parts.iter().cloned());
            let mut actions: Vec<_> = parts.map(Action::Drop).collect();
            actions.push(Action::Release(Box::new(device)));
            actions.extend(unstore);
            actions
        }
    }
}

/// What an attach was to put into the stored configuration; none if it is no attach.
fn adoption(intent: &Intent) -> Option<Option<String>> {
    match intent {
        Intent::AttachDevice { stored, .. } => Some(stored.clone()),
        _ => None,
    }
}

/// What is to be done.
fn decide(intent: &Intent, document: &domxml::Domain, truth: &Truth) -> Result<Vec<Action>> {
    Ok(match intent {
        // Seen to before QEMU is asked anything, or by those who make them.
        Intent::PowerOff
        | Intent::CreateSnapshot { .. }
        | Intent::SnapshotDisks { .. }
        | Intent::SnapshotImages { .. }
        | Intent::DeleteSnapshot { .. }
        | Intent::RevertSnapshot { .. }
        | Intent::CreateCheckpoint { .. }
        | Intent::DeleteCheckpoint { .. }
        | Intent::Backup { .. } => Vec::new(),
        // Its image was seen to before, and its job with those of other daemons.
        Intent::Save { .. } | Intent::Dump { .. } => Vec::new(),
        Intent::Restore { runs, .. } => vec![Action::GoOn { runs: *runs }],
        // Whether they run, the view knows from QEMU by now.
        Intent::Pause | Intent::Resume => vec![Action::FollowCpus],
        Intent::Tune { change, before } => Live::left_by(change, before, document)?
            .map(Action::Tune)
            .into_iter()
            .collect(),
        Intent::SetLink { alias } => {
            let interfaces = document.devices.interfaces.iter();
            let links = interfaces.filter(|i| i.info.alias.as_deref() == Some(alias));
            links
                .map(|i| Action::SetLink {
                    alias: alias.clone(),
                    up: i.link != Some(LinkState::Down),
                })
                .collect()
        }
        Intent::SteerBlockJob { .. } | Intent::BeginBlockJob { .. } | Intent::EndBlockJob { .. } => {
            of_block_job(intent, document, truth)?
        }
        Intent::Rewire { alias } => vec![Action::Rewire { alias: alias.clone() }],
        Intent::AttachDevice { .. } | Intent::DetachDevice { .. } => device_of(intent)?
            .map(|device| of_device(intent, device, document, truth))
            .unwrap_or_default(),
        Intent::LimitInterface { device } => vec![Action::Limit {
            device: device.clone(),
        }],
        Intent::SetVcpus { wanted, stored } => vec![Action::CountCpus {
            wanted: wanted.clone(),
            stored: *stored,
        }],
        Intent::SetPassword { display } => {
            let displays = document.devices.graphics.iter();
            let meant = displays.filter(|g| g.kind.as_str() == display).take(1);
            meant.map(|g| Action::SetPassword(Box::new(g.clone()))).collect()
        }
        Intent::ResizeMemory { alias } => {
            let modules = document.devices.memories.iter();
            let meant = modules.filter(|m| m.info.alias.as_deref() == Some(alias));
            meant.map(|m| Action::Resize(Box::new(m.clone()))).collect()
        }
        Intent::DropSlice { target } => {
            let disks = document.devices.disks.iter();
            let meant = disks.filter(|disk| disk.target.dev == *target);
            meant.map(|disk| Action::Slice(Box::new(disk.clone()))).collect()
        }
        Intent::ChangeMedium { .. } => of_medium(intent, document, truth)?,
    })
}

/// The drive gets the medium of its document, and whatever was made for another one goes.
fn of_medium(intent: &Intent, document: &domxml::Domain, truth: &Truth) -> Result<Vec<Action>> {
    let Intent::ChangeMedium {
        target,
        new_nodes,
        old_nodes,
    } = intent
    else {
        return Ok(Vec::new());
    };
    let mut actions = Vec::new();
    let mut kept = Vec::new();
    let drives = document.devices.disks.iter();
    for disk in drives.filter(|d| d.target.dev == *target) {
        kept.extend(medium::nodes(disk)?.iter().map(medium::name_of));
        actions.extend(insert(disk, kept.last().cloned(), truth).map(Action::Insert));
    }
    // From the top of each chain down: a format stands on its storage.
    let made = new_nodes.iter().rev().chain(old_nodes.iter().rev());
    let unused = made.filter(|node| truth.nodes.contains(*node) && !kept.contains(node));
    actions.extend(unused.cloned().map(Action::DropNode));
    Ok(actions)
}

/// The nodes of a change of medium that the drive's document does not have.
fn without_nodes(intent: &Intent, document: &domxml::Domain) -> Result<Vec<String>> {
    let Intent::ChangeMedium {
        target,
        new_nodes,
        old_nodes,
    } = intent
    else {
        return Ok(Vec::new());
    };
    let mut kept = Vec::new();
    for disk in document.devices.disks.iter().filter(|d| d.target.dev == *target) {
        kept.extend(medium::nodes(disk)?.iter().map(medium::name_of));
    }
    let all = new_nodes.iter().chain(old_nodes);
    Ok(all.filter(|node| !kept.contains(node)).cloned().collect())
}

/// What is left of a block job: of what was made for it, if the document does not have it, or of images that left. What the
/// job itself is at, QEMU and the status file have said by now.
fn of_block_job(intent: &Intent, document: &domxml::Domain, truth: &Truth) -> Result<Vec<Action>> {
    Ok(match intent {
        Intent::BeginBlockJob { nodes, files, .. } => {
            let kept = images_in(document);
            let unused = nodes
                .iter()
                .filter(|node| truth.nodes.contains(*node) && !has_node(&kept, node));
            let mut actions: Vec<_> = unused.cloned().map(Action::DropNode).collect();
            let left = files.iter().filter(|file| !has_file(&kept, file));
            actions.extend(left.cloned().map(Action::RemoveFile));
            actions
        }
        Intent::SteerBlockJob { resume, .. } => resume.then_some(Action::RunCpus).into_iter().collect(),
        Intent::EndBlockJob {
            disk,
            deletes,
            resume,
            ..
        } => {
            let left = match Device::parse(disk, status::PARSE)? {
                Device::Disk(before) => images_that_left(&before, document, truth, *deletes),
                _ => Vec::new(),
            };
            resume
                .then_some(Action::RunCpus)
                .into_iter()
                .chain(left)
                .collect()
        }
        _ => Vec::new(),
    })
}

/// All images of a document's disks, those that jobs write to among them.
fn images_in(document: &domxml::Domain) -> Vec<Layer> {
    let disks = document.devices.disks.iter();
    disks.flat_map(images_of).collect()
}

fn images_of(disk: &Disk) -> Vec<Layer> {
    let mirror = disk
        .mirror
        .iter()
        .flat_map(|mirror| Chain::of_mirror(mirror).layers);
    Chain::of(disk).layers.into_iter().chain(mirror).collect()
}

fn has_node(images: &[Layer], node: &str) -> bool {
    images
        .iter()
        .any(|image| image.nodes_down().iter().any(|known| known == node))
}

fn has_file(images: &[Layer], file: &Path) -> bool {
    images
        .iter()
        .any(|image| image.path().is_some_and(|path| Path::new(&path) == file))
}

/// What is left of images that a disk has no more; with `delete` their files go, too.
fn images_that_left(before: &Disk, document: &domxml::Domain, truth: &Truth, delete: bool) -> Vec<Action> {
    let kept = images_in(document);
    let mut actions = Vec::new();
    for image in images_of(before) {
        if image.node().is_some_and(|node| has_node(&kept, node)) {
            continue;
        }
        let nodes = image
            .nodes_down()
            .into_iter()
            .filter(|node| truth.nodes.contains(node));
        actions.extend(nodes.map(Action::DropNode));
        if image
            .path()
            .is_some_and(|path| !has_file(&kept, Path::new(&path)))
        {
            actions.push(Action::ReleaseImage(Box::new(image.as_disk(before))));
            actions.extend(
                image
                    .path()
                    .filter(|_| delete)
                    .map(|path| Action::RemoveImage(path.into())),
            );
        }
    }
    actions
}

/// How a drive gets the medium that is wanted; none if it is as it should be.
fn insert(disk: &domxml::devices::Disk, wanted: Option<String>, truth: &Truth) -> Option<Insert> {
    let id = disk.info.alias.clone()?;
    let drive = refresh::drive_of(&id, &truth.drives)?;
    let inserted = drive.inserted.as_ref().and_then(|i| i.node_name.clone());
    let tray = disk.device == DiskDevice::Cdrom && drive.tray_open.is_some();
    let is_right = wanted == inserted && !(tray && drive.tray_open == Some(true));
    (!is_right).then_some(Insert {
        id,
        tray,
        occupied: inserted.is_some(),
        node: wanted,
    })
}

async fn carry_out(driver: &Arc<Driver>, guest: &Arc<Guest>, action: Action) -> Result<()> {
    match action {
        Action::Drop(part) => plugging::take_away(guest, &part).await,
        Action::Release(device) => {
            holding::release(driver, guest, &device).await;
            Ok(())
        }
        Action::Unstore(device) => detach::unstore(guest, &device).await,
        Action::Adopt { device, stored } => Box::pin(attach::adopt(driver, guest, *device, stored)).await,
        Action::Depart(device) => Box::pin(detach::finish(driver, guest, &device)).await,
        Action::SetLink { alias, up } => link::set(guest, alias, up).await,
        Action::Rewire { alias } => rewire::set_right(driver, guest, &alias).await,
        Action::GoOn { runs } => left::go_on(driver, guest, runs).await,
        Action::RunCpus => still::found(driver, guest).await,
        Action::FollowCpus => follow_cpus(&guest.domain.view()).await,
        Action::Tune(live) => live.carry_out(driver, &guest.domain.view()).await,
        Action::SetPassword(display) => password::set(driver, guest, &display).await,
        Action::Resize(module) => update::resize(guest, &module).await,
        Action::Slice(disk) => images::set_right(guest, &disk).await,
        Action::CountCpus { wanted, stored } => vcpus::finish(driver, guest, &wanted, stored).await,
        Action::Limit { device } => limits::set_right(&guest.domain.view(), &device).await,
        Action::DropNode(node_name) => guest.execute(commands::BlockdevDel { node_name }).await.map(drop),
        Action::RemoveFile(path) => {
            let work = move || files::remove(&path);
            crate::blocking::file("removing an image that was not finished", work).await
        }
        Action::RemoveImage(path) => {
            crate::blocking::file("removing an image that was merged into another", move || {
                files::remove_image(&path)
            })
            .await
        }
        Action::ReleaseImage(image) => {
            let view = guest.domain.view();
            disk::release(driver, view.running()?, &image).await;
            Ok(())
        }
        Action::Insert(insert) => put_in(guest, insert).await,
    }
}

/// An interface takes part in the network while the guest's CPUs run.
async fn follow_cpus(view: &Arc<View>) -> Result<()> {
    if cpus::is_stopped(view) {
        traffic::hold_back(view).await;
        return Ok(());
    }
    traffic::allow(&view.running()?.document.domain).await
}

async fn put_in(guest: &Guest, insert: Insert) -> Result<()> {
    let Insert {
        id,
        tray,
        occupied,
        node,
    } = insert;
    if tray {
        let id = id.clone();
        guest
            .execute(commands::BlockdevOpenTray { id, force: true })
            .await?;
    }
    if occupied {
        let id = id.clone();
        guest.execute(commands::BlockdevRemoveMedium { id }).await?;
    }
    if let Some(node_name) = node {
        let id = id.clone();
        guest
            .execute(commands::BlockdevInsertMedium { id, node_name })
            .await?;
    }
    if tray {
        guest.execute(commands::BlockdevCloseTray { id }).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixture;

    const CDROM: &str = "<name>a</name><memory>1024</memory><devices>
        <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='/a.iso' index='2'/>
        <backingStore/><target dev='sda' bus='sata'/><readonly/><alias name='sata0-0-0'/>
        <address type='drive' controller='0' bus='0' target='0' unit='0'/></disk>
        <interface type='user'><mac address='52:54:00:00:00:01'/><link state='down'/><alias name='net0'/></interface>
        </devices>";

    fn truth(nodes: &[&str], inserted: Option<&str>, open: bool) -> Truth {
        let inserted = inserted.map(|node| serde_json::json!({"node-name": node, "file": "", "drv": "raw",
            "ro": true, "encrypted": false, "detect_zeroes": "off", "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0,
            "iops_rd": 0, "iops_wr": 0, "image": {"filename": "", "format": "raw", "virtual-size": 0},
            "cache": {"writeback": true, "direct": false, "no-flush": false}, "write_threshold": 0}));
        let mut drive = serde_json::json!({"device": "", "qdev": "sata0-0-0", "removable": true, "locked": false,
            "type": "unknown", "tray_open": open});
        if let Some(inserted) = inserted {
            drive["inserted"] = inserted;
        }
        Truth {
            nodes: nodes.iter().map(|n| (*n).to_owned()).collect(),
            drives: vec![serde_json::from_value(drive).unwrap()],
            ..Truth::default()
        }
    }

    fn decided(intent: &Intent, truth: &Truth) -> Vec<String> {
        let view = fixture::running(CDROM);
        let document = &view.run.as_ref().unwrap().document.domain;
        let shown = decide(intent, document, truth).unwrap();
        shown.iter().map(|action| format!("{action:?}")).collect()
    }

    #[test]
    fn the_drive_follows_the_document_and_only_named_nodes_go() {
        let nodes = |name: &str| vec![name.to_owned()];
        let intent = Intent::ChangeMedium {
            target: "sda".to_owned(),
            new_nodes: nodes("libvirt-3-storage"),
            old_nodes: nodes("libvirt-2-storage"),
        };
        // The document has number 2: the change was not committed. Number 9 is a backup's.
        let all = ["libvirt-2-storage", "libvirt-3-storage", "libvirt-9-storage"];
        let undone = decided(&intent, &truth(&all, Some("libvirt-3-storage"), false));
        assert_eq!(undone.len(), 2, "{undone:?}");
        assert!(
            undone[0].contains(r#"node: Some("libvirt-2-storage")"#),
            "{undone:?}"
        );
        assert_eq!(undone[1], r#"DropNode("libvirt-3-storage")"#);
        let not_begun = decided(&intent, &truth(&all[..1], Some("libvirt-2-storage"), false));
        assert!(not_begun.is_empty(), "{not_begun:?}");
        let open = decided(&intent, &truth(&all[..1], None, true));
        assert!(open.len() == 1 && open[0].contains("occupied: false"), "{open:?}");
    }

    #[test]
    fn a_link_is_as_the_document_says() {
        let intent = Intent::SetLink {
            alias: "net0".to_owned(),
        };
        let actions = decided(&intent, &Truth::default());
        assert_eq!(actions, [r#"SetLink { alias: "net0", up: false }"#]);
        let gone = Intent::SetLink {
            alias: "net7".to_owned(),
        };
        assert!(decided(&gone, &Truth::default()).is_empty());
    }

    #[test]
    fn a_disk_is_the_part_of_its_file_that_the_document_says() {
        let slice = |target: &str| Intent::DropSlice {
            target: target.to_owned(),
        };
        let actions = decided(&slice("sda"), &Truth::default());
        assert!(
            actions.len() == 1 && actions[0].starts_with("Slice("),
            "{actions:?}"
        );
        assert!(decided(&slice("sdz"), &Truth::default()).is_empty());
    }

    #[test]
    fn a_device_is_the_guests_if_the_document_names_it() {
        let device = |alias: &str| {
            format!(
                "<interface type='user'><mac address='52:54:00:00:00:01'/><alias name='{alias}'/></interface>"
            )
        };
        let truth = |devices: &[&str]| Truth {
            devices: devices.iter().map(|d| (*d).to_owned()).collect(),
            parts: vec![Part::Netdev("hostnet1".to_owned())],
            ..Truth::default()
        };
        let attach = |alias| Intent::AttachDevice {
            device: device(alias),
            stored: None,
        };
        let bridged = Intent::AttachDevice {
            device: device("net1").replace("user", "bridge"),
            stored: None,
        };
        let detach = |alias| Intent::DetachDevice {
            device: device(alias),
            stored: false,
        };
        // table: the intent, the devices that QEMU has, how the actions begin. The document has net0 only.
        for (intent, devices, expected) in [
            // Committed, or not begun: nothing is to be done.
            (attach("net0"), &["net0"][..], &[][..]),
            (detach("net0"), &["net0"], &[]),
            // Gone while nobody looked.
            (detach("net0"), &[], &["Depart("]),
            (
                Intent::DetachDevice {
                    device: device("net0"),
                    stored: true,
                },
                &[],
                &["Depart(", "Unstore("],
            ),
            // All of it is there: it stays.
            (attach("net1"), &["net0", "net1"], &["Adopt {"]),
            // Not committed: what there is of it goes, the device first.
            (
                bridged,
                &["net0", "net1"],
                &[
                    r#"Drop(Device("net1"))"#,
                    r#"Drop(Netdev("hostnet1"))"#,
                    "Release(",
                ],
            ),
            (
                attach("net1"),
                &["net0"],
                &[r#"Drop(Netdev("hostnet1"))"#, "Release("],
            ),
            // Committed: only what it had of the host may be left.
            (
                detach("net1"),
                &["net0"],
                &[r#"Drop(Netdev("hostnet1"))"#, "Release("],
            ),
        ] {
            let decided = decided(&intent, &truth(devices));
            assert_eq!(decided.len(), expected.len(), "{intent:?}: {decided:?}");
            let fits = decided
                .iter()
                .zip(expected)
                .all(|(action, begins)| action.starts_with(begins));
            assert!(fits, "{intent:?}: {decided:?}");
        }
    }
}
