//! From a guest's document to QEMU's command line, token for token what libvirt makes of it.
//!
//! [`build`] is called by the start of a guest and by the native conversion. The document must have
//! its defaults, addresses and aliases; nothing is looked up here: what the world gives is in
//! [`Resources`]. A family of devices is a file; each has `build`, which appends switches, and
//! `props`, which is what `device_add` takes. The order of the parts is libvirt's, as other
//! programs and saved images depend on it.

pub mod address;
pub mod audio;
mod backend;
pub mod boot;
pub mod chardev;
pub mod clock;
pub mod context;
pub mod controller;
pub mod cpu;
pub mod disk;
pub mod filesystem;
pub mod graphics;
pub mod host_model;
pub mod hostdev;
pub mod input;
mod line;
mod live_cpu;
pub mod machine;
pub mod memory;
pub mod native;
pub mod net;
pub mod numa;
pub mod plug;
pub mod serial;
pub mod small;
pub mod smbios;
pub mod tls;
pub mod topology;
pub mod tpm;
pub mod video;

use std::collections::BTreeMap;

use domxml::Domain;
use domxml::devices::common::YesNo;
use domxml::devices::disk::DiskBus;
use domxml::qemu::DeprecationBehavior;

pub use crate::props::{Keyval, Props};
pub use crate::resources::{
    Config, CpuExpansion, DeviceResources, Dirs, FdRef, Purpose, Resources, Secret, TlsFiles,
};
pub use context::Context;
pub use line::{Arg, CommandLine, Switch, shell_quote};
pub use live_cpu::{ConfirmedCpu, LiveCpu, live_cpu};
pub use serial::socket_name as channel_socket;

use crate::block::{self, Image, SecretNeed, Sources, group_object};
use crate::caps::Caps;
use crate::validate::start;
use crate::{Error, Result};

/// The command line of a guest.
///
/// # Errors
/// When QEMU, or this daemon, cannot do what the document asks for; or when an earlier pass or the
/// caller left something out that is needed.
pub fn build(def: &Domain, caps: &Caps, res: &Resources) -> Result<CommandLine> {
    let (line, needs) = assemble(def, caps, res)?;
    match needs.iter().find(|need| !res.secrets.contains_key(&need.id)) {
        Some(need) => Err(Error::internal_qemu(format!(
            "secret for '{}' was not prepared",
            need.id
        ))),
        None => Ok(line),
    }
}

/// The secrets that [`build`] will want to have in [`Resources::secrets`].
///
/// # Errors
/// What no command line can be made of, and what is wrong with images; of what else is wrong, [`build`] tells.
pub fn needed_secrets(def: &Domain, caps: &Caps, res: &Resources) -> Result<Vec<SecretNeed>> {
    let boot = check(def, caps, res)?;
    let cx = Context {
        def,
        caps,
        res,
        boot: &boot,
    };
    let mut sources = Sources::new(res, 1);
    images(cx, &mut sources)?;
    let mut line = CommandLine::default();
    // What is wrong with these, `build` tells.
    let _ = build_streams(cx, &mut line);
    let _ = build_screens(cx, &mut line);
    let _ = build_host_devices(cx, &mut sources, &mut line);
    sources.needs.append(&mut line.needs);
    Ok(sources.needs)
}

/// Refuses what no command line can be made of; otherwise what is booted from.
fn check(def: &Domain, caps: &Caps, res: &Resources) -> Result<BTreeMap<String, u32>> {
    start::start(def, caps)?;
    if res.purpose == Purpose::Start {
        start::cards(def, caps)?;
    }
    Ok(boot::order(def))
}

/// Images of disks and of firmware.
fn images(cx: Context<'_>, sources: &mut Sources<'_>) -> Result<Plan> {
    Ok(Plan {
        disks: disk_images(cx.def, sources)?,
        pflash: machine::pflash(cx, sources)?,
    })
}

/// What is worked out once and used in several places of the line.
struct Plan {
    pflash: Vec<Image>,
    /// One an entry of `<devices><disk>`.
    disks: Vec<Option<Image>>,
}

fn assemble(def: &Domain, caps: &Caps, res: &Resources) -> Result<(CommandLine, Vec<SecretNeed>)> {
    let boot = check(def, caps, res)?;
    if res.purpose != Purpose::Start {
        start::native(def, caps)?;
    }
    let cx = Context {
        def,
        caps,
        res,
        boot: &boot,
    };
    let mut sources = Sources::new(res, 1);
    let plan = images(cx, &mut sources)?;
    let mut line = CommandLine {
        program: def.devices.emulator.clone().unwrap_or_default(),
        overrides: def.qemu.overrides.clone().unwrap_or_default(),
        next_fdset: res.first_fdset,
        ..CommandLine::default()
    };
    build_env(cx, &mut line);
    build_process(cx, &mut line);
    build_board(cx, &plan, &mut line)?;
    build_identity(cx, &mut line)?;
    build_behaviour(cx, &mut line)?;
    build_buses(cx, &mut line)?;
    build_storage(cx, &plan, &mut line)?;
    build_streams(cx, &mut line)?;
    build_screens(cx, &mut line)?;
    build_host_devices(cx, &mut sources, &mut line)?;
    build_rest(cx, &mut line)?;
    sources.needs.append(&mut line.needs);
    Ok((line, sources.needs))
}

/// Images of all disks. Nodes are numbered from the last disk to the first.
fn disk_images(def: &Domain, sources: &mut Sources<'_>) -> Result<Vec<Option<Image>>> {
    let mut images = Vec::new();
    for disk in def.devices.disks.iter().rev() {
        images.push(if disk::bus(disk) == DiskBus::Sd {
            None
        } else {
            sources.disk(disk)?
        });
    }
    images.reverse();
    Ok(images)
}

fn build_env(cx: Context<'_>, line: &mut CommandLine) {
    let own = &cx.res.dirs.lib;
    line.env.push(("LC_ALL".to_owned(), "C".to_owned()));
    line.env.extend(cx.res.env.iter().cloned());
    if !own.is_empty() {
        let homes = [
            ("HOME", ""),
            ("XDG_DATA_HOME", "/.local/share"),
            ("XDG_CACHE_HOME", "/.cache"),
            ("XDG_CONFIG_HOME", "/.config"),
        ];
        line.env
            .extend(homes.map(|(name, below)| (name.to_owned(), format!("{own}{below}"))));
    }
    if let Some(audio) = cx.def.devices.audios.first() {
        audio::put_env(audio, line);
    }
}

/// Name, stop at start, master key, helpers that block devices refer to.
fn build_process(cx: Context<'_>, line: &mut CommandLine) {
    let mut name = Keyval::new().with("guest", &cx.def.name);
    if cx.res.config.set_process_name {
        name.set("process", format!("qemu:{}", cx.def.name));
    }
    name.set("debug-threads", "on");
    line.push("-name", name);
    build_compat(cx, line);
    line.flag("-S");
    line.object(block::master_key(cx.res.lib_file("master-key.aes")));
    if needs_managed_reservations(cx.def) {
        line.object(
            Props::object("pr-manager-helper", "pr-helper0").with("path", cx.res.lib_file("pr-helper0.sock")),
        );
    }
}

fn needs_managed_reservations(def: &Domain) -> bool {
    let managed = |disk: &domxml::devices::disk::Disk| {
        disk.source
            .as_ref()?
            .reservations
            .as_ref()
            .map(|reservations| reservations.managed == Some(YesNo::Yes))
    };
    def.devices.disks.iter().any(|disk| managed(disk) == Some(true))
}

/// Machine, CPU, memory, threads.
fn build_board(cx: Context<'_>, plan: &Plan, line: &mut CommandLine) -> Result<()> {
    for image in &plan.pflash {
        disk::push_nodes(image, line);
    }
    machine::build(cx, &plan.pflash, line)?;
    machine::build_accel(cx, line)?;
    machine::build_tseg(cx, line);
    cpu::build(cx, line)?;
    machine::build_loader(cx, line);
    memory::build(cx, line)?;
    memory::build_overcommit(cx, line);
    topology::build_smp(cx, line);
    topology::build_iothreads(cx, line);
    numa::build(cx, line)?;
    Ok(())
}

/// What tells this guest from others, and the monitor.
fn build_identity(cx: Context<'_>, line: &mut CommandLine) -> Result<()> {
    let uuid = cx
        .def
        .uuid
        .ok_or_else(|| Error::internal_qemu("missing uuid of a domain"))?;
    line.push("-uuid", uuid.hyphenated().to_string());
    smbios::build(cx, line)?;
    if let Some(genid) = genid(cx) {
        line.device(
            Props::driver("vmgenid")
                .with("guid", genid)
                .with("id", "vmgenid0"),
        );
    }
    if cx.def.devices.graphics.is_empty() {
        line.push("-display", "none");
    }
    line.flag("-no-user-config");
    line.flag("-nodefaults");
    let mut monitor = Keyval::implied("socket").with("id", "charmonitor");
    match cx.res.monitor_fd {
        Some(fd) => monitor.set("fd", fd),
        None => monitor.set("path", cx.res.lib_file("monitor.sock")),
    };
    line.push("-chardev", monitor.with("server", "on").with("wait", "off"));
    line.push(
        "-mon",
        Keyval::new()
            .with("chardev", "charmonitor")
            .with("id", "monitor")
            .with("mode", "control"),
    );
    Ok(())
}

fn genid(cx: Context<'_>) -> Option<String> {
    let own = cx.def.genid?;
    cx.res
        .genid
        .clone()
        .or_else(|| own.value.map(|value| value.hyphenated().to_string()))
}

/// Time, power, boot.
fn build_behaviour(cx: Context<'_>, line: &mut CommandLine) -> Result<()> {
    clock::build(cx, line)?;
    line.flag("-no-shutdown");
    clock::build_power(cx, line);
    boot::build(cx, line);
    Ok(())
}

fn build_buses(cx: Context<'_>, line: &mut CommandLine) -> Result<()> {
    let iommu = cx
        .def
        .devices
        .iommu
        .as_ref()
        .map(|iommu| small::iommu_props(cx, iommu))
        .transpose()?;
    iommu.flatten().into_iter().for_each(|props| line.device(props));
    boot::build_root_hotplug(cx, line);
    controller::build(cx, line)?;
    // Smart card readers may sit on a hub.
    for hub in &cx.def.devices.hubs {
        line.device(input::hub_props(cx, hub)?);
    }
    controller::build_readers(cx, line)?;
    for module in &cx.def.devices.memories {
        memory::build_module(cx, module, line)?;
    }
    Ok(())
}

fn build_storage(cx: Context<'_>, plan: &Plan, line: &mut CommandLine) -> Result<()> {
    disk::build_floppy_controller(cx, line);
    for group in &cx.def.throttlegroups {
        line.object(group_object(group));
    }
    let disks = cx.def.devices.disks.iter().zip(&plan.disks);
    for (disk, image) in disks.filter(|(disk, _)| !disk::is_plugged_later(disk)) {
        disk::build(cx, disk, image.as_ref(), line)?;
    }
    for fs in &cx.def.devices.filesystems {
        filesystem::build(cx, fs, line)?;
    }
    Ok(())
}

/// Network, and all that is a stream of bytes.
fn build_streams(cx: Context<'_>, line: &mut CommandLine) -> Result<()> {
    let devices = &cx.def.devices;
    devices
        .interfaces
        .iter()
        .try_for_each(|net| net::build(cx, net, line))?;
    devices
        .smartcards
        .iter()
        .try_for_each(|card| serial::build_smartcard(cx, card, line))?;
    devices
        .serials
        .iter()
        .try_for_each(|port| serial::build_serial(cx, port, line))?;
    devices
        .parallels
        .iter()
        .try_for_each(|port| serial::build_parallel(cx, port, line))?;
    devices
        .channels
        .iter()
        .try_for_each(|channel| serial::build_channel(cx, channel, line))?;
    devices
        .consoles
        .iter()
        .try_for_each(|console| serial::build_console(cx, console, line))?;
    devices.tpms.iter().try_for_each(|tpm| tpm::build(cx, tpm, line))
}

/// Input, sound and displays.
fn build_screens(cx: Context<'_>, line: &mut CommandLine) -> Result<()> {
    let devices = &cx.def.devices;
    devices
        .inputs
        .iter()
        .try_for_each(|input| input::build(cx, input, line))?;
    for audio in &devices.audios {
        line.push("-audiodev", audio::audiodev(audio));
    }
    graphics::build(cx, line)?;
    video::build(cx, line)?;
    devices
        .sounds
        .iter()
        .try_for_each(|sound| audio::build_sound(cx, sound, line))?;
    small::build_watchdogs(cx, line)
}

fn build_host_devices(cx: Context<'_>, sources: &mut Sources<'_>, line: &mut CommandLine) -> Result<()> {
    let devices = &cx.def.devices;
    devices
        .redirdevs
        .iter()
        .try_for_each(|device| serial::build_redirdev(cx, device, line))?;
    for net in &devices.interfaces {
        hostdev::interface_props(cx, net)?
            .into_iter()
            .for_each(|props| line.device(props));
    }
    devices
        .hostdevs
        .iter()
        .try_for_each(|device| hostdev::build(cx, device, sources, line))?;
    if let Some(incoming) = &cx.res.incoming {
        line.push("-incoming", incoming.as_str());
    }
    Ok(())
}

/// Memory the host takes back, randomness, crash records of the firmware; what is passed through.
fn build_rest(cx: Context<'_>, line: &mut CommandLine) -> Result<()> {
    let devices = &cx.def.devices;
    let balloon = devices
        .memballoon
        .as_ref()
        .map(|balloon| small::balloon_props(cx, balloon));
    balloon
        .transpose()?
        .flatten()
        .into_iter()
        .for_each(|props| line.device(props));
    devices
        .rngs
        .iter()
        .try_for_each(|rng| small::build_rng(cx, rng, line))?;
    let features = cx.def.features.as_ref();
    if features
        .and_then(|features| features.vmcoreinfo)
        .is_some_and(|switch| switch.state.is_on())
    {
        line.device(Props::driver("vmcoreinfo"));
    }
    machine::build_launch_security(cx, line);
    build_passthrough(cx, line);
    build_sandbox(cx, line);
    build_last(cx, line)?;
    if features
        .and_then(|features| features.async_teardown)
        .is_some_and(|teardown| teardown.enabled.is_yes())
    {
        line.push("-run-with", "async-teardown=on");
    }
    if cx.res.config.log_timestamp {
        line.push("-msg", "timestamp=on");
    }
    Ok(())
}

/// The devices that come after the sandbox.
fn build_last(cx: Context<'_>, line: &mut CommandLine) -> Result<()> {
    let devices = &cx.def.devices;
    for panic in &devices.panics {
        small::panic_props(cx, panic)?
            .into_iter()
            .for_each(|props| line.device(props));
    }
    devices
        .shmems
        .iter()
        .try_for_each(|shmem| small::build_shmem(cx, shmem, line))?;
    if let Some(vsock) = &devices.vsock {
        line.device(small::vsock_props(cx, vsock)?);
    }
    devices
        .cryptos
        .iter()
        .try_for_each(|crypto| small::build_crypto(cx, crypto, line))?;
    devices
        .pstore
        .iter()
        .try_for_each(|pstore| small::build_pstore(cx, pstore, line))
}

/// Arguments and environment that the document hands to QEMU past libvirt's model.
fn build_passthrough(cx: Context<'_>, line: &mut CommandLine) {
    if let Some(extra) = &cx.def.qemu.commandline {
        for argument in &extra.args {
            line.flag(&argument.value);
        }
        for one in &extra.env {
            let value = one.value.clone().unwrap_or_default();
            // A variable has one value, the last, and the place of the first.
            match line.env.iter_mut().find(|(name, _)| *name == one.name) {
                Some((_, old)) => *old = value,
                None => line.env.push((one.name.clone(), value)),
            }
        }
    }
}

/// What QEMU does when something deprecated is used.
fn build_compat(cx: Context<'_>, line: &mut CommandLine) {
    let behavior = cx
        .def
        .qemu
        .deprecation
        .and_then(|deprecation| deprecation.behavior);
    let input = match behavior {
        None | Some(DeprecationBehavior::None) => return,
        Some(DeprecationBehavior::Omit) => None,
        Some(DeprecationBehavior::Reject) => Some("reject"),
        Some(DeprecationBehavior::Crash) => Some("crash"),
    };
    let compat = Props::new()
        .with("deprecated-output", "hide")
        .with_opt("deprecated-input", input);
    line.push("-compat", compat);
}

fn build_sandbox(cx: Context<'_>, line: &mut CommandLine) {
    if cx.res.config.seccomp_sandbox {
        line.push(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        );
    } else {
        line.push("-sandbox", "off");
    }
}
