//! What one device has of the host: taken before a running QEMU is told of it, given back once it has left.
//!
//! Called by attach, detach and recovery. A family has a line in [`acquire`] and one in [`release`], and its own file in
//! `holdings`; files that change hands and device nodes are the same for all. The hard thing is that the two must name
//! the same things, also when another daemon took them: nothing is looked up but in the device itself.

use std::{path::PathBuf, sync::Arc};

use confine::cgroup::Controller;
use domxml::{
    devices::{Device, DeviceRef, Disk, InputKind, Interface, InterfaceKind, Memory},
    status,
};
use qemu_plan::{alias, command::Resources, hotplug};
use qmp::commands;

use crate::{
    domain::intents::Intent,
    error::{Area, Error, Result},
    ops::{
        Driver,
        document::{
            plan,
            resources::{find_huge_pages, of_memory},
        },
        graph::images,
        holdings::{
            cgroup::{self, DeviceChange, nodes},
            chardev::{self, Files},
            helper::{passt, reservations, virtiofs},
            hostdev, memory,
            net::{interface, ports},
            storage::{claim, disk, owners::Owners, transient},
            vsock,
        },
        host::identity::Identity,
        operation::{Context, undo::Undo},
        run::{cpus, guest::Guest},
        tuning::locked,
    },
};

/// Takes what a device that comes has of the host and of other daemons; files that QEMU gets with a command.
///
/// # Errors
/// Another guest has it, it is not there, or the host or a daemon refuses. What was taken is undone with the operation.
pub(super) async fn acquire(
    context: &Context,
    guest: &Arc<Guest>,
    device: &mut Device,
    given: &mut Resources,
) -> Result<Files> {
    let driver = context.driver();
    let mut undo = context.steps("what it has of the host").await?;
    let undo = &mut *undo;
    let view = context.view();
    let document = &view.running()?.document.domain;
    let mut files = Files::default();
    match device {
        Device::Disk(disk) => {
            if let Some(claim) = claim::of_disk(disk) {
                cpus::take(driver, guest, &claim, undo).await?;
            }
            transient::make(std::slice::from_ref(&**disk), &document.name, undo).await?;
            disk::acquire(driver, &guest.domain, disk, undo).await?;
            if reservations::is_managed(disk) {
                make_reservations(driver, guest, document, undo).await?;
            }
            let handed = driver.groups.named_by(view.uuid, [&**disk])?;
            handed.hand_over(disk, |fd| Ok(files.keep(fd)), given)?;
        }
        Device::Interface(card) => {
            plug_interface(context, guest, card, (given, undo, &mut files)).await?;
        }
        Device::Lease(lease) if driver.config().lockd.is_some() => {
            cpus::take(driver, guest, &claim::of_lease(lease)?, undo).await?;
        }
        Device::Filesystem(share) => virtiofs::plug_one(driver, document, share, (given, undo)).await?,
        Device::Hostdev(hostdev) => {
            hostdev::take_one(driver, &document.name, hostdev, undo).await?;
            let mut monitor = guest.monitor()?;
            hostdev::plug_one(driver, hostdev, &mut monitor, (given, undo)).await?;
        }
        Device::Vsock(vsock) => {
            let mut monitor = guest.monitor()?;
            vsock::plug(vsock, &mut monitor, (given, undo)).await?;
        }
        Device::Memory(module) => make_memory(driver, document, module, given).await?,
        ref other => {
            let mut monitor = guest.monitor()?;
            chardev::acquire(driver, document, other, (&mut monitor, given, undo), &mut files).await?;
        }
    }
    if !matches!(device, Device::Disk(_)) {
        take_files(driver, guest, device, undo).await?;
    }
    Ok(files)
}

/// Starts the helper that makes reservations for the first disk that needs it, and tells QEMU of it.
async fn make_reservations(
    driver: &Arc<Driver>,
    guest: &Arc<Guest>,
    document: &domxml::Domain,
    undo: &mut Undo,
) -> Result<()> {
    reservations::plug_one(driver, document, undo).await?;
    if reservations::is_needed(document) {
        return Ok(());
    }
    let properties = images::object(reservations::object(driver, document).into_value());
    guest.execute(commands::ObjectAdd(properties)).await?;
    let guest = Arc::clone(guest);
    undo.push("the object of reservations", async move {
        let id = reservations::MANAGER.to_owned();
        guest.execute(commands::ObjectDel { id }).await.map(drop)
    });
    Ok(())
}

/// After the last disk of this kind has left: QEMU forgets the helper, and it ends. What fails is logged.
async fn forget_reservations(driver: &Driver, guest: &Guest, document: &domxml::Domain, left: &Disk) {
    let others = document.devices.disks.iter();
    let needs = |disk: &Disk| disk.target.dev != left.target.dev && reservations::is_managed(disk);
    if !reservations::is_managed(left) || others.into_iter().any(needs) {
        return;
    }
    let id = reservations::MANAGER.to_owned();
    if let Err(error) = guest.execute(commands::ObjectDel { id }).await {
        tracing::warn!(guest = document.name, %error, "QEMU keeps the helper of reservations");
    }
    reservations::unplug(driver, document).await;
}

/// Makes the directories that memory which comes is in, if it is in files. They go with the run.
async fn make_memory(
    driver: &Driver,
    document: &domxml::Domain,
    module: &Memory,
    given: &mut Resources,
) -> Result<()> {
    let mut with = document.clone();
    with.devices.memories.push(module.clone());
    let name = plan::short_name(document.id.unwrap_or_default(), &document.name);
    find_huge_pages(driver, &with, &mut given.dirs, &name).await?;
    let identity = Identity::of_guest(&driver.config(), document)?;
    for dir in of_memory(&with, &given.dirs) {
        let work = move || memory::make(&dir, identity);
        crate::blocking::file("making a directory for the guest's memory", work).await?;
    }
    Ok(())
}

async fn plug_interface(
    context: &Context,
    guest: &Arc<Guest>,
    card: &mut Interface,
    (given, undo, files): (&mut Resources, &mut Undo, &mut Files),
) -> Result<()> {
    let driver = context.driver();
    let view = context.view();
    let document = &view.running()?.document.domain;
    let (owner, kind) = (ports::owner(document), document.kind);
    if card.kind == InterfaceKind::Network {
        ports::take_one(driver, card, owner.clone(), undo).await?;
    }
    // Only now it is known what it is plugged into.
    hotplug::check_interface(card)?;
    interface::check_acquirable(driver, card)?;
    if hostdev::of_interface(card).is_some() {
        take_name(context, card, document).await?;
        return hostdev::take_card(driver, &document.name, card, undo).await;
    }
    passt::plug_one(driver, document, card, (&mut *given, &mut *undo)).await?;
    if interface::is_vdpa(card) {
        let fd = Some(files.keep(interface::open_vdpa(card).await?));
        let place = given.devices.entry(card.info.alias.clone().unwrap_or_default());
        place.or_default().fd = fd;
    }
    let mut monitor = guest.monitor()?;
    let handed = interface::acquire(driver, card, (&owner, kind), &mut monitor, undo).await?;
    let alias = card.info.alias.clone().unwrap_or_default();
    given.devices.extend(handed.map(|handed| (alias, handed)));
    Ok(())
}

/// A card that a network has made a device of the host goes by another name, and the note says so before QEMU knows it.
async fn take_name(context: &Context, card: &mut Interface, document: &domxml::Domain) -> Result<()> {
    let mut with = document.devices.clone();
    with.interfaces.push(card.clone());
    alias::rename_passed(&mut with);
    let named = with.interfaces.pop().unwrap_or_default();
    if named.info.alias == card.info.alias {
        return Ok(());
    }
    *card = named;
    let device = Device::Interface(Box::new(card.clone())).format(status::FORMAT);
    context
        .intend(Intent::AttachDevice { device, stored: None })
        .await
}

/// Gives the files of a device to QEMU's user and lets the guest open its nodes.
async fn take_files(
    driver: &Arc<Driver>,
    guest: &Arc<Guest>,
    device: &Device,
    undo: &mut Undo,
) -> Result<()> {
    look_at_node(driver, guest, device).await?;
    let document = Arc::clone(&guest.domain.view().running()?.document);
    let owners = Arc::new(Owners::of_device(driver, &document.domain, device.as_ref()));
    if !owners.is_empty() {
        let taken = Arc::clone(&owners);
        crate::blocking::file("giving a device's files to QEMU", move || taken.take()).await?;
        let restore = crate::blocking::file("giving a device's files back", move || {
            owners.restore();
            Ok(())
        });
        undo.push("the owner of a device's files", restore);
    }
    cgroup::change_device(
        driver,
        guest.domain.view().running()?,
        DeviceChange::In(device.as_ref()),
    )?;
    let (driver, domain, device) = (Arc::clone(driver), guest.domain.clone(), device.clone());
    undo.push("the nodes of a device", async move {
        cgroup::change_device(
            &driver,
            domain.view().running()?,
            DeviceChange::Out(device.as_ref()),
        )
    });
    Ok(())
}

/// Whether the node of a device is there. Who of libvirt's says that it is not depends on whether the guest has groups: they
/// are told of a node before its owner is set.
///
/// # Errors
/// It is not.
async fn look_at_node(driver: &Driver, guest: &Guest, device: &Device) -> Result<()> {
    let view = guest.domain.view();
    let group = cgroup::of_run(driver, view.running()?)?;
    let is_grouped = group.is_some_and(|group| group.has(Controller::Devices));
    let Some(path) = nodes::path_of(device.as_ref()).map(PathBuf::from) else {
        let lacks_its = matches!(device, Device::Input(input) if input.kind == InputKind::Passthrough);
        return match lacks_its && is_grouped {
            true => {
                let error = std::io::Error::from_raw_os_error(nix::libc::EFAULT);
                Err(Error::system("Path '(null)' is not accessible", error).in_area(Area::Cgroup))
            }
            false => Ok(()),
        };
    };
    let has_owner = !matches!(device, Device::Rng(_));
    crate::blocking::file("looking at a device's node", move || {
        let (what, area) = match is_grouped {
            true => (
                format!("Path '{}' is not accessible", path.display()),
                Area::Cgroup,
            ),
            false => (format!("unable to stat: {}", path.display()), Area::Security),
        };
        match std::fs::metadata(&path) {
            Err(error) if is_grouped || has_owner => Err(Error::system(what, error).in_area(area)),
            // QEMU says it.
            _ => Ok(()),
        }
    })
    .await
}

/// Gives back what a device that has left had of the host. Nothing depends on it any more: what fails is logged.
pub(crate) async fn release(driver: &Arc<Driver>, guest: &Arc<Guest>, device: &Device) {
    let view = guest.domain.view();
    let Some(run) = &view.run else { return };
    match device {
        Device::Disk(disk) => {
            if let Some(claim) = claim::of_disk(disk) {
                cpus::give_back(driver, guest, &claim).await;
            }
            forget_reservations(driver, guest, &run.document.domain, disk).await;
            return disk::release(driver, run, disk).await;
        }
        Device::Interface(card) => {
            if let Some(device) = hostdev::of_interface(card) {
                hostdev::give_back_one(driver, &view.name, &device).await;
            }
            passt::unplug_one(driver, &run.document.domain, card).await;
            interface::release(driver, card, view.uuid).await;
        }
        Device::Lease(lease) => {
            if let (Some(_), Ok(claim)) = (&driver.config().lockd, claim::of_lease(lease)) {
                cpus::give_back(driver, guest, &claim).await;
            }
        }
        Device::Filesystem(share) => virtiofs::unplug_one(driver, &run.document.domain, share).await,
        Device::Hostdev(hostdev) => hostdev::give_back_one(driver, &view.name, hostdev).await,
        other => chardev::release(other).await,
    }
    give_files(driver, run, device.as_ref()).await;
    if locked::counts(device)
        && let Err(error) = unlock_memory(guest).await
    {
        tracing::warn!(guest = %view.name, %error, "QEMU may lock more memory than it needs");
    }
}

/// What a device that has left had QEMU lock, it need not lock any more.
async fn unlock_memory(guest: &Arc<Guest>) -> Result<()> {
    let view = guest.domain.view();
    let Some(run) = &view.run else { return Ok(()) };
    let before = run.status.original_memlock;
    let original = locked::follow(&view, guest.process()?.pid(), &run.document.domain, None)?;
    if original == before {
        return Ok(());
    }
    let keep = move |view: &mut crate::domain::View| Ok(locked::keep(view, original));
    guest.domain.commit(keep).await.map(drop)
}

async fn give_files(driver: &Arc<Driver>, run: &crate::domain::Run, device: DeviceRef<'_>) {
    let owners = Owners::of_device(driver, &run.document.domain, device);
    let restored = crate::blocking::file("giving a device's files back", move || {
        owners.restore();
        Ok(())
    });
    if let Err(error) = restored.await {
        tracing::warn!(%error, "files of a device that has left are QEMU's user's still");
    }
    if let Err(error) = cgroup::change_device(driver, run, DeviceChange::Out(device)) {
        tracing::warn!(%error, "QEMU may still open the node of a device that has left");
    }
}
