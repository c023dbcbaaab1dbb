//! What a run needs of the host: directories, sockets, ports, key, log, files that change hands.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use domxml::devices::Chardev;
use qemu_plan::{
    alias, block,
    command::{DeviceResources, Dirs, FdRef, Resources},
};

use crate::{
    config::{CoreLimit, QemuConfig},
    error::{Error, Result},
    ops::{
        Driver,
        document::{
            prepared::Prepared,
            resources::{dirs, find_huge_pages, of_memory, resources},
        },
        holdings::{
            chardev,
            display_port::{Lease, choose_ports, complete_listens},
            helper::{message_bus, passt, reservations, screen, tpm::emulator, virtiofs},
            hostdev, memory,
            net::{interface, ports},
            nvram, render_node,
            storage::{owners::Owners, secrets, transient},
            vsock,
        },
        host::identity::Identity,
        operation::undo::Undo,
        start::label,
        tuning::{locked, numa},
    },
    qemu::{self, MasterKey},
};

/// What was reserved.
pub(crate) struct Reserved {
    pub(crate) resources: Resources,
    pub(crate) monitor: PathBuf,
    pub(super) qemu: Mutex<Option<qemu::Prepared>>,
    leases: Vec<Lease>,
}

impl Reserved {
    /// The process to be; once.
    pub(crate) fn take_qemu(&self) -> Result<qemu::Prepared> {
        let mut place = self.qemu.lock().unwrap_or_else(PoisonError::into_inner);
        place
            .take()
            .ok_or_else(|| Error::internal("the process was made already"))
    }
    /// What the run goes on holding.
    pub(crate) fn into_leases(self) -> Vec<Lease> {
        self.leases
    }
}

/// What the document leaves to the host is found out, and what the host lacks is refused.
async fn look_around(driver: &Driver, prepared: &mut Prepared) -> Result<()> {
    numa::check(driver, &prepared.document)?;
    numa::check_modules(driver, &prepared.document)?;
    screen::look(&prepared.document).await?;
    render_node::find(&mut prepared.document, &prepared.caps).await
}

/// The second stage.
pub(crate) async fn reserve(
    driver: &Arc<Driver>,
    prepared: &mut Prepared,
    reset_nvram: bool,
    undo: &mut Undo,
) -> Result<Reserved> {
    let config = driver.config();
    let identity = label::put(&mut prepared.document, &config)?;
    look_around(driver, prepared).await?;
    let mut dirs = dirs(driver, &prepared.short_name);
    find_huge_pages(driver, &prepared.document, &mut dirs, &prepared.short_name).await?;
    complete_listens(&config, &mut prepared.document, &dirs.lib);
    let leases = choose_ports(driver, &config, &mut prepared.document)?;
    make_directories(&prepared.document, &dirs, identity, undo).await?;
    let nvram = prepare_nvram(&prepared.document, identity, reset_nvram);
    let pstore = prepare_pstore(&prepared.document, identity);
    let key = secrets::key_of_run(Some(&dirs.lib));
    let key = crate::blocking::file("preparing the guest's files", move || {
        let key = write_key(&key, identity)?;
        nvram()?;
        pstore()?;
        Ok(key)
    })
    .await?;
    transient::make(&prepared.document.devices.disks, &prepared.document.name, undo).await?;
    give(Owners::of(driver, &prepared.document), undo).await?;
    let monitor = monitor_path(&dirs.lib);
    let emulator = prepared.document.devices.emulator.clone().unwrap_or_default();
    let mut qemu = qemu::Prepared::new(Path::new(&emulator), &monitor)?;
    let mut resources = Resources {
        monitor_fd: Some(qemu.monitor_fd()),
        ..resources(driver, &prepared.document, dirs)
    };
    hand_over(driver, &prepared.document, &mut qemu, &mut resources)?;
    open_sockets(driver, prepared, &mut qemu, &mut resources)?;
    interface::refuse_what_is_missing(driver, &prepared.document)?;
    ports::take(driver, &mut prepared.document, undo).await?;
    alias::rename_passed(&mut prepared.document.devices);
    interface::refuse_what_is_missing(driver, &prepared.document)?;
    interface::check(&prepared.document)?;
    interface::plug(driver, prepared, &mut qemu, &mut resources, undo).await?;
    screen::plug(driver, prepared, &mut qemu, &mut resources, undo).await?;
    message_bus::plug(driver, &mut prepared.document, undo).await?;
    emulator::plug(driver, prepared, &mut qemu, &mut resources, undo).await?;
    virtiofs::plug(driver, prepared, &mut resources, undo).await?;
    passt::plug(driver, prepared, &mut resources, undo).await?;
    reservations::plug(driver, &prepared.document, undo).await?;
    hostdev::take(driver, &mut prepared.document, undo).await?;
    hostdev::plug(
        driver,
        &prepared.document,
        &mut qemu,
        (&mut resources, &mut *undo),
    )
    .await?;
    if let Some(vsock) = &mut prepared.document.devices.vsock {
        vsock::plug(vsock, &mut qemu, (&mut resources, &mut *undo)).await?;
    }
    give(Owners::of_hostdevs(driver, &prepared.document), undo).await?;
    chardev::open(driver, prepared, &mut qemu, &mut resources).await?;
    give(Owners::of_chardevs(driver, &prepared.document), undo).await?;
    secrets::fetch(driver, prepared, &key, &mut resources).await?;
    Ok(Reserved {
        resources,
        monitor,
        qemu: Mutex::new(Some(qemu)),
        leases,
    })
}

/// Gives QEMU the descriptors that clients handed over for disks.
fn hand_over(
    driver: &Driver,
    document: &domxml::Domain,
    qemu: &mut qemu::Prepared,
    resources: &mut Resources,
) -> Result<()> {
    let disks = || document.devices.disks.iter().rev();
    let uuid = document.uuid.unwrap_or_default();
    let handed = driver.groups.named_by(uuid, disks())?;
    for disk in disks() {
        handed.hand_over(disk, |fd| qemu.pass(fd), resources)?;
        let taken = block::highest_set(disk).map_or(0, |highest| highest.saturating_add(1));
        resources.first_fdset = resources.first_fdset.max(taken);
    }
    Ok(())
}

/// Gives files to QEMU's user.
async fn give(owners: Owners, undo: &mut Undo) -> Result<()> {
    let owners = Arc::new(owners);
    let taken = Arc::clone(&owners);
    crate::blocking::file("giving the guest's files to QEMU", move || taken.take()).await?;
    undo.push("owners of the guest's files", async move {
        owners.restore();
        Ok(())
    });
    Ok(())
}

/// Limits of the process.
pub(crate) fn limits(config: &QemuConfig, document: &domxml::Domain) -> confine::Limits {
    confine::Limits {
        processes: config.limits.processes,
        open_files: config.limits.files,
        core: match config.limits.core {
            // A user's daemon may not raise what it has.
            CoreLimit::Unlimited => nix::unistd::geteuid().is_root().then_some(u64::MAX),
            CoreLimit::Bytes(bytes) => Some(bytes),
        },
        locked_memory: locked::wanted(document),
    }
}

/// Makes the directories of a run.
async fn make_directories(
    document: &domxml::Domain,
    dirs: &Dirs,
    identity: Identity,
    undo: &mut Undo,
) -> Result<()> {
    for dir in [&dirs.lib, &dirs.channel] {
        make_directory(dir, identity).await?;
        undo_dir(undo, dir);
    }
    for dir in of_memory(document, dirs) {
        undo_dir(undo, &dir.to_string_lossy());
        let work = move || memory::make(&dir, identity);
        crate::blocking::file("making a directory for the guest's memory", work).await?;
    }
    Ok(())
}

async fn make_directory(path: &str, identity: Identity) -> Result<()> {
    let path = PathBuf::from(path);
    crate::blocking::file("making the guest's directories", move || {
        // One that is left of a former run of this number is of no use to anybody.
        crate::ops::host::files::remove_all(&path)?;
        let made = path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::DirBuilder::new().mode(0o750).create(&path));
        made.and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o750)))
            .and_then(|()| identity.give(&path))
            .map_err(|e| Error::system(format_args!("cannot create directory '{}'", path.display()), e))
    })
    .await
}

/// Makes the key that the run's secrets are encrypted with, and gives it to QEMU in a file.
fn write_key(path: &Path, identity: Identity) -> Result<MasterKey> {
    let make = || {
        let key = MasterKey::new()?;
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?
            .write_all(key.as_bytes())?;
        identity.give(path)?;
        Ok(key)
    };
    make().map_err(|e: io::Error| {
        Error::system(
            format_args!("cannot write the guest's key '{}'", path.display()),
            e,
        )
    })
}

/// Makes the file that a guest keeps records of its crashes in.
fn prepare_pstore(
    document: &domxml::Domain,
    identity: Identity,
) -> impl FnOnce() -> Result<()> + Send + use<> {
    let pstore = document.devices.pstore.clone();
    move || {
        let Some((path, size)) = pstore.and_then(|pstore| {
            let size = qemu_plan::command::small::pstore_size(&pstore);
            Some((PathBuf::from(pstore.path?), size?))
        }) else {
            return Ok(());
        };
        let mut options = fs::OpenOptions::new();
        let options = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let file = options
            .open(&path)
            .map_err(|e| Error::system(format_args!("cannot create file '{}'", path.display()), e))?;
        file.set_len(size)
            .map_err(|e| Error::system(format_args!("Failed to truncate file '{}'", path.display()), e))?;
        identity
            .give(&path)
            .map_err(|e| Error::system(format_args!("cannot give away '{}'", path.display()), e))
    }
}

/// Copies the firmware's variables from their template if the guest has none yet, or is to begin afresh.
pub(super) fn prepare_nvram(
    document: &domxml::Domain,
    identity: Identity,
    reset: bool,
) -> impl FnOnce() -> Result<()> + Send + use<> {
    let document = document.os.nvram.is_some().then(|| document.clone());
    move || {
        let missing = document.map(|document| nvram::missing(&document, identity, reset));
        missing.transpose()?.flatten().map_or(Ok(()), |copy| copy.make())
    }
}

/// Listening sockets of character devices: made by us, so that QEMU need not be able to.
fn open_sockets(
    driver: &Driver,
    prepared: &mut Prepared,
    qemu: &mut qemu::Prepared,
    resources: &mut Resources,
) -> Result<()> {
    let owners = chardev::SocketOwners::new(driver, &prepared.document)?;
    let channel_dir = resources.dirs.channel.clone();
    let devices = &mut prepared.document.devices;
    let mut open = |device: &mut Chardev, alias: Option<&str>, name: Option<&str>| -> Result<()> {
        let owner = owners.of(device)?;
        let Some(path) = chardev::socket_path(device, &channel_dir, name) else {
            return Ok(());
        };
        let fd = qemu.pass(chardev::listen(Path::new(&path), owner)?)?;
        resources.devices.insert(
            alias.unwrap_or_default().to_owned(),
            DeviceResources {
                listener: Some(FdRef::Number(fd)),
                ..DeviceResources::default()
            },
        );
        Ok(())
    };
    for channel in &mut devices.channels {
        let name = channel.target.as_ref().and_then(|t| t.name.clone());
        open(
            &mut channel.chardev,
            channel.info.alias.as_deref(),
            name.as_deref(),
        )?;
    }
    for serial in &mut devices.serials {
        open(&mut serial.chardev, serial.info.alias.as_deref(), None)?;
    }
    for parallel in &mut devices.parallels {
        open(&mut parallel.chardev, parallel.info.alias.as_deref(), None)?;
    }
    for console in devices.consoles.iter_mut().filter(|c| {
        c.target
            .as_ref()
            .is_none_or(|t| t.kind != Some(domxml::devices::ConsoleTargetKind::Serial))
    }) {
        open(&mut console.chardev, console.info.alias.as_deref(), None)?;
    }
    Ok(())
}

/// Path of a run's file for the monitor.
fn monitor_path(lib_dir: &str) -> PathBuf {
    PathBuf::from(lib_dir).join("monitor.sock")
}

/// A directory of the run goes with it.
fn undo_dir(undo: &mut Undo, path: &str) {
    let path = PathBuf::from(path);
    undo.push(
        "a directory of the guest",
        crate::blocking::file("removing the guest's directory", move || {
            crate::ops::host::files::remove_all(&path)
        }),
    );
}
