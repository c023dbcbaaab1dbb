//! What a run needs of the host: directories, sockets, ports, key, log, files that change hands.

use std::{
    fs,
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use domxml::devices::{Chardev, ChardevKind, ChardevMode, Graphics, GraphicsKind, ListenKind};
use nix::unistd::{Gid, Uid, chown};
use qemu_plan::command::{self, Config, DeviceResources, Dirs, Purpose, Resources};

use super::{
    Prepared, files, live, network, owners::Identity, owners::Owners, secrets, tpm, undo_dir, virtiofs,
};
use crate::{
    config::{CoreLimit, QemuConfig},
    error::{Code, Error, Result},
    ops::{Driver, hostdev, plan, plan::Lease, ports, undo::Undo},
    qemu::{self, MasterKey},
};

/// Mode of a channel's socket: who may enter its directory may use it.
const SOCKET_MODE: u32 = 0o775;
/// The first security model in force, for labels that name none.
const SECURITY_MODEL: &str = "none";
/// Where distributions keep firmware that no descriptor tells of, when qemu.conf has no list: code and variables.
// table
const LEGACY_FIRMWARE: &[(&str, &str)] = &[
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    (
        "/usr/share/OVMF/OVMF_CODE.secboot.fd",
        "/usr/share/OVMF/OVMF_VARS.fd",
    ),
    ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
    (
        "/usr/share/AAVMF/AAVMF32_CODE.fd",
        "/usr/share/AAVMF/AAVMF32_VARS.fd",
    ),
];

/// What was reserved.
pub(super) struct Reserved {
    pub(super) resources: Resources,
    pub(super) monitor: PathBuf,
    qemu: Mutex<Option<qemu::Prepared>>,
    leases: Vec<Lease>,
}

impl Reserved {
    /// The process to be; once.
    pub(super) fn take_qemu(&self) -> Result<qemu::Prepared> {
        let mut place = self.qemu.lock().unwrap_or_else(PoisonError::into_inner);
        place
            .take()
            .ok_or_else(|| Error::internal("the process was made already"))
    }
    /// What the run goes on holding.
    pub(super) fn into_leases(self) -> Vec<Lease> {
        self.leases
    }
}

/// The second stage.
pub(super) async fn reserve(
    driver: &Arc<Driver>,
    prepared: &mut Prepared,
    reset_nvram: bool,
    undo: &mut Undo,
) -> Result<Reserved> {
    let config = driver.config();
    let identity = Identity::of(&config)?;
    prepared
        .document
        .seclabels
        .retain(|s| s.model.as_deref().is_some_and(|m| m != "dac"));
    prepared
        .document
        .seclabels
        .push(live::label(&identity, config.identity.dynamic_ownership));
    let leases = choose_ports(driver, &config, &mut prepared.document)?;
    let dirs = dirs(driver, &prepared.short_name);
    for dir in [&dirs.lib, &dirs.channel] {
        make_directory(dir, identity).await?;
        undo_dir(undo, dir);
    }
    let nvram = prepare_nvram(&prepared.document, identity, reset_nvram);
    let key = PathBuf::from(&dirs.lib).join("master-key.aes");
    let key = crate::blocking::file("preparing the guest's files", move || {
        let key = write_key(&key, identity)?;
        nvram()?;
        Ok(key)
    })
    .await?;
    let owners = Arc::new(Owners::of(driver, &prepared.document));
    let taken = Arc::clone(&owners);
    crate::blocking::file("giving the guest's files to QEMU", move || taken.take()).await?;
    undo.push("owners of the guest's files", async move {
        owners.restore();
        Ok(())
    });
    let monitor = super::monitor_path(&dirs.lib);
    let emulator = prepared.document.devices.emulator.clone().unwrap_or_default();
    let mut qemu = qemu::Prepared::new(Path::new(&emulator), &monitor)?;
    let mut resources = Resources {
        monitor_fd: Some(qemu.monitor_fd()),
        ..resources(driver, &prepared.document, dirs)
    };
    open_sockets(prepared, &mut qemu, &mut resources, identity)?;
    network::refuse_what_is_missing(&prepared.document)?;
    ports::take(driver, &mut prepared.document, undo).await?;
    network::refuse_what_is_missing(&prepared.document)?;
    network::check(&prepared.document)?;
    network::plug(driver, prepared, &mut qemu, &mut resources, undo).await?;
    tpm::plug(driver, prepared, &mut qemu, &mut resources, undo).await?;
    virtiofs::plug(driver, prepared, &mut resources, undo).await?;
    hostdev::take(driver, &mut prepared.document, undo).await?;
    hostdev::plug(driver, &prepared.document, &mut qemu, &mut resources)?;
    give_nodes(driver, &prepared.document, undo).await?;
    files::open(driver, prepared, &mut qemu, &mut resources).await?;
    secrets::fetch(driver, prepared, &key, &mut resources).await?;
    Ok(Reserved {
        resources,
        monitor,
        qemu: Mutex::new(Some(qemu)),
        leases,
    })
}

/// Gives the nodes of the guest's host devices to QEMU's user.
async fn give_nodes(driver: &Arc<Driver>, document: &domxml::Domain, undo: &mut Undo) -> Result<()> {
    let owners = Arc::new(Owners::of_hostdevs(driver, document));
    let taken = Arc::clone(&owners);
    crate::blocking::file("giving the guest's devices to QEMU", move || taken.take()).await?;
    undo.push("owners of the guest's devices", async move {
        owners.restore();
        Ok(())
    });
    Ok(())
}

/// Directories of a run.
fn dirs(driver: &Driver, short_name: &str) -> Dirs {
    let paths = driver.registry.store().paths();
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    Dirs {
        lib: text(paths.domains.join(format!("domain-{short_name}"))),
        channel: text(paths.state.join("channel").join(short_name)),
        memory: text(paths.lib.join("ram").join(short_name)),
        hugepages: Vec::new(),
        dbus_socket: text(paths.state.join("dbus").join(format!("{short_name}-dbus.sock"))),
    }
}

/// The resources of a command line that is only shown.
pub(in crate::ops) fn native_resources(
    driver: &Driver,
    document: &domxml::Domain,
    short_name: &str,
) -> Resources {
    Resources {
        purpose: Purpose::Native,
        ..resources(driver, document, dirs(driver, short_name))
    }
}

/// What every command line takes of the world.
fn resources(driver: &Driver, document: &domxml::Domain, dirs: Dirs) -> Resources {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let east = unixfd::local_offset(i64::try_from(now).unwrap_or(0));
    let rtc_base = command::clock::start_time(document, now, east);
    Resources {
        dirs,
        env: environment(),
        config: line_config(&driver.config()),
        rtc_base,
        ..Resources::default()
    }
}

/// What completing a document takes from the daemon's configuration.
pub(in crate::ops) fn plan_config(driver: &Driver) -> qemu_plan::postparse::Config {
    let paths = driver.registry.store().paths();
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    qemu_plan::postparse::Config {
        channel_dir: text(paths.state.join("channel")),
        nvram_dir: text(paths.lib.join("nvram")),
        firmware: driver.firmware.known().to_vec(),
        legacy_firmware: legacy_firmware(&driver.config()),
        security_model: SECURITY_MODEL.to_owned(),
    }
}

/// Firmware that qemu.conf names by path: code and variables.
pub(in crate::ops) fn legacy_firmware(config: &QemuConfig) -> Vec<(String, String)> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    match &config.nvram {
        Some(pairs) => pairs
            .iter()
            .map(|(code, variables)| (text(code), text(variables)))
            .collect(),
        None => LEGACY_FIRMWARE
            .iter()
            .map(|(code, variables)| ((*code).to_owned(), (*variables).to_owned()))
            .collect(),
    }
}

/// The daemon's own variables that QEMU gets.
fn environment() -> Vec<(String, String)> {
    std::env::var("PATH")
        .map(|path| ("PATH".to_owned(), path))
        .into_iter()
        .collect()
}

/// What of qemu.conf is on the command line.
fn line_config(config: &QemuConfig) -> Config {
    Config {
        vnc_listen: config.vnc.listen.clone(),
        vnc_password: config.vnc.password.is_some(),
        vnc_sasl: config.vnc.sasl,
        dump_guest_core: config.limits.dump_guest_core.then_some(true),
        seccomp_sandbox: config.guard.seccomp_sandbox.unwrap_or(true),
        log_timestamp: config.log_timestamp,
        set_process_name: config.set_process_name,
        ..Config::default()
    }
}

/// Limits of the process.
pub(super) fn limits(config: &QemuConfig, document: &domxml::Domain) -> confine::Limits {
    let locked = confine::LockedMemory {
        memory: crate::domain::facts::Facts::of(document)
            .memory_kib
            .saturating_mul(1024),
        hard_limit: document.memtune.and_then(|m| m.hard_limit).map(|k| k.bytes()),
        locked: document.memory_backing.as_ref().is_some_and(|m| m.locked),
        vfio: hostdev::of_vfio(document),
        iommu: document.devices.iommu.is_some(),
        ..confine::LockedMemory::default()
    };
    confine::Limits {
        processes: config.limits.processes,
        open_files: config.limits.files,
        core: match config.limits.core {
            CoreLimit::Unlimited => None,
            CoreLimit::Bytes(bytes) => Some(bytes),
        },
        locked_memory: confine::memlock(&locked),
    }
}

async fn make_directory(path: &str, identity: Identity) -> Result<()> {
    let path = PathBuf::from(path);
    crate::blocking::file("making the guest's directories", move || {
        // One that is left of a former run of this number is of no use to anybody.
        super::stop::remove_all(&path)?;
        let made = path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::DirBuilder::new().mode(0o750).create(&path));
        made.and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o750)))
            .and_then(|()| give(&path, identity))
            .map_err(|e| Error::system(format_args!("cannot create directory '{}'", path.display()), e))
    })
    .await
}

fn give(path: &Path, identity: Identity) -> io::Result<()> {
    if identity.run_as().is_none() {
        return Ok(());
    }
    chown(
        path,
        Some(Uid::from_raw(identity.uid)),
        Some(Gid::from_raw(identity.gid)),
    )
    .map_err(Into::into)
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
        give(path, identity)?;
        Ok(key)
    };
    make().map_err(|e: io::Error| {
        Error::system(
            format_args!("cannot write the guest's key '{}'", path.display()),
            e,
        )
    })
}

/// Copies the firmware's variables from their template if the guest has none yet, or is to begin afresh.
fn prepare_nvram(
    document: &domxml::Domain,
    identity: Identity,
    reset: bool,
) -> impl FnOnce() -> Result<()> + Send + 'static {
    let path = plan::nvram_path(document);
    let template = document.os.nvram.as_ref().and_then(|n| n.template.clone());
    move || {
        let Some(path) = path.filter(|p| reset || !p.exists()) else {
            return Ok(());
        };
        let Some(template) = template else {
            return Err(Error::new(
                Code::OperationFailed,
                format!(
                    "unable to find any master var store for the firmware of '{}'",
                    path.display()
                ),
            ));
        };
        let copy = || {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            let content = fs::read(&template)?;
            crate::domain::store::write(&path, &content, true)?;
            give(&path, identity)
        };
        copy().map_err(|e| {
            Error::system(
                format_args!("cannot copy '{template}' to '{}'", path.display()),
                e,
            )
        })
    }
}

/// Ports for displays that leave the choice to us; those that the document names are noted.
fn choose_ports(driver: &Driver, config: &QemuConfig, document: &mut domxml::Domain) -> Result<Vec<Lease>> {
    let mut leases = Vec::new();
    for graphics in document
        .devices
        .graphics
        .iter_mut()
        .filter(|g| g.kind == GraphicsKind::Vnc)
    {
        let Some(address) = listen_address(graphics, &config.vnc.listen) else {
            continue;
        };
        let lease = match graphics
            .port
            .and_then(|p| u16::try_from(p).ok())
            .filter(|p| *p != 0)
        {
            Some(port) => driver.ports.hold(port),
            None => driver.ports.take(config.display_ports, &address)?,
        };
        graphics.port = Some(i32::from(lease.port));
        leases.push(Lease::Port(lease));
        if graphics.websocket == Some(-1) {
            let lease = driver.ports.take(config.websocket_ports, &address)?;
            graphics.websocket = Some(i32::from(lease.port));
            leases.push(Lease::Port(lease));
        }
    }
    Ok(leases)
}

/// The address that a display listens at, filled in where the document has none; none for a display without one.
fn listen_address(graphics: &mut Graphics, default: &str) -> Option<String> {
    let listen = graphics.listens.first_mut()?;
    if listen.kind != ListenKind::Address {
        return None;
    }
    let address = listen.address.get_or_insert_with(|| {
        listen.from_config = Some(1);
        default.to_owned()
    });
    graphics.listen = Some(address.clone());
    Some(address.clone())
}

/// Ports that a run found at start-up has.
pub(in crate::ops) fn leases_of(driver: &Driver, document: &domxml::Domain) -> Vec<Lease> {
    let ports = document
        .devices
        .graphics
        .iter()
        .flat_map(|g| [g.port, g.websocket, g.tls_port]);
    let ports = ports
        .flatten()
        .filter_map(|p| u16::try_from(p).ok())
        .filter(|p| *p != 0);
    ports.map(|port| Lease::Port(driver.ports.hold(port))).collect()
}

/// Listening sockets of character devices: made by us, so that QEMU need not be able to.
fn open_sockets(
    prepared: &mut Prepared,
    qemu: &mut qemu::Prepared,
    resources: &mut Resources,
    identity: Identity,
) -> Result<()> {
    let channel_dir = resources.dirs.channel.clone();
    let devices = &mut prepared.document.devices;
    let mut open = |chardev: &mut Chardev, alias: Option<&str>, name: Option<&str>| -> Result<()> {
        let Some(path) = socket_path(chardev, &channel_dir, name) else {
            return Ok(());
        };
        let listener = unixfd::bind_listener(Path::new(&path), SOCKET_MODE, None)
            .map_err(|e| Error::system(format_args!("cannot listen at '{path}'"), e))?;
        give(Path::new(&path), identity)
            .map_err(|e| Error::system(format_args!("cannot give '{path}' to QEMU"), e))?;
        let fd = qemu.pass(OwnedFd::from(listener))?;
        resources.devices.insert(
            alias.unwrap_or_default().to_owned(),
            DeviceResources {
                fd: Some(fd),
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

/// Where a device listens, if it does; a channel without a path gets one.
fn socket_path(chardev: &mut Chardev, channel_dir: &str, name: Option<&str>) -> Option<String> {
    if chardev.kind != ChardevKind::Unix {
        return None;
    }
    let source = chardev.source_mut();
    if source.mode.unwrap_or(ChardevMode::Bind) != ChardevMode::Bind {
        return None;
    }
    if source.path.is_none() {
        source.mode = Some(ChardevMode::Bind);
        source.path = Some(format!("{channel_dir}/{}", name?));
    }
    source.path.clone()
}
