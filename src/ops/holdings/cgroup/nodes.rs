//! The device nodes that a guest may open: those of every guest, and those of its own devices.

use std::path::Path;

use confine::cgroup::{Access, DeviceNode};
use domxml::{
    Domain,
    devices::{Chardev, ChardevKind, DeviceRef, Disk, Graphics, GraphicsKind, Hostdev, common::YesNo},
};

use crate::{
    config::QemuConfig,
    ops::{
        Driver,
        holdings::{hostdev, storage::chain},
    },
};

/// Drivers by their major numbers: terminals, sound, graphics cards.
const TERMINALS: u32 = 136;
const SOUND: u32 = 116;
const GRAPHICS_CARDS: u32 = 226;

/// Nodes that all devices through VFIO are opened with.
const VFIO: [&str; 2] = ["/dev/vfio/vfio", "/dev/iommu"];

/// The node of a processor that encrypts memory.
const ENCRYPTION: &str = "/dev/sev";

/// A node and what may be done with it.
type Allowed = (DeviceNode, Access);

/// The nodes of a guest.
pub(crate) fn of_guest(driver: &Driver, document: &Domain) -> Vec<Allowed> {
    let config = driver.config();
    let devices = &document.devices;
    let both = |node| (node, Access::ReadWrite);
    let mut nodes: Vec<Allowed> = config
        .guard
        .device_acl
        .iter()
        .filter_map(|path| DeviceNode::at(path))
        .map(both)
        .collect();
    nodes.push(both(DeviceNode::driver(TERMINALS)));
    if !devices.sounds.is_empty() && has_host_audio(&config, &devices.graphics) {
        nodes.push(both(DeviceNode::driver(SOUND)));
    }
    nodes.extend(devices.disks.iter().flat_map(of_disk));
    nodes.extend(
        hostdev::nodes(driver.hostdevs.root(), document)
            .iter()
            .filter_map(|node| DeviceNode::at(&node.path))
            .map(both),
    );
    if hostdev::of_vfio(document) > 0 {
        nodes.extend(
            VFIO.iter()
                .filter_map(|path| DeviceNode::at(Path::new(path)))
                .map(both),
        );
    }
    if document.launch_security.is_some() {
        nodes.extend(DeviceNode::at(Path::new(ENCRYPTION)).map(both));
    }
    nodes.extend(
        paths(document)
            .into_iter()
            .filter_map(|path| DeviceNode::at(Path::new(path)))
            .map(both),
    );
    if devices.graphics.iter().any(|g| {
        g.gl.as_ref()
            .is_some_and(|gl| gl.enable != Some(YesNo::No) && gl.rendernode.is_none())
    }) {
        nodes.push(both(DeviceNode::driver(GRAPHICS_CARDS)));
    }
    nodes
}

/// The nodes of a disk and what it stands on, which is only read.
pub(crate) fn of_disk(disk: &Disk) -> Vec<Allowed> {
    let access = if disk.readonly {
        Access::Read
    } else {
        Access::ReadWrite
    };
    let of_image = |kind, source, access| {
        let paths = chain::files_of(kind, source).into_iter();
        paths.filter_map(move |path| Some((DeviceNode::at(&path)?, access)))
    };
    let mut nodes: Vec<Allowed> = of_image(disk.kind, disk.source.as_ref(), access).collect();
    let mut below = disk.backing.as_deref();
    while let Some(backing) = below {
        let kind = backing.kind.unwrap_or_default();
        nodes.extend(of_image(kind, backing.source.as_ref(), Access::Read));
        below = backing.backing.as_deref();
    }
    nodes
}

/// The nodes of a device.
pub(crate) fn of_device(driver: &Driver, device: DeviceRef<'_>) -> Vec<Allowed> {
    let both = |path: &Path| DeviceNode::at(path).map(|node| (node, Access::ReadWrite));
    match device {
        DeviceRef::Disk(disk) => of_disk(disk),
        DeviceRef::Hostdev(hostdev) => of_hostdev(driver, hostdev),
        DeviceRef::Interface(card) => {
            let passed = hostdev::of_interface(card);
            passed.map_or_else(Vec::new, |hostdev| of_hostdev(driver, &hostdev))
        }
        other => path_of(other)
            .and_then(|path| both(Path::new(path)))
            .into_iter()
            .collect(),
    }
}

fn of_hostdev(driver: &Driver, hostdev: &Hostdev) -> Vec<Allowed> {
    let both = |path: &Path| DeviceNode::at(path).map(|node| (node, Access::ReadWrite));
    let node = hostdev::node_of(driver.hostdevs.root(), hostdev);
    let vfio = VFIO.iter().filter(|_| hostdev::is_vfio(hostdev));
    let shared = vfio.filter_map(|path| both(Path::new(path)));
    node.and_then(|node| both(&node.path))
        .into_iter()
        .chain(shared)
        .collect()
}

/// Paths of devices other than disks that may be nodes.
fn paths(document: &Domain) -> Vec<&str> {
    document.devices.iter().filter_map(path_of).collect()
}

/// The path of a device that may be a node.
pub(crate) fn path_of(device: DeviceRef<'_>) -> Option<&str> {
    let path = match device {
        DeviceRef::Serial(port) => of_chardev(&port.chardev),
        DeviceRef::Parallel(port) => of_chardev(&port.chardev),
        DeviceRef::Channel(channel) => of_chardev(&channel.chardev),
        DeviceRef::Rng(rng) => rng.backend.as_ref().map(|backend| backend.path.as_str()),
        DeviceRef::Input(input) => {
            let source = input.source.as_ref()?;
            // An empty one is none that is there.
            return source.evdev.as_deref().or(source.dev.as_deref());
        }
        DeviceRef::Tpm(tpm) => tpm.backend.as_ref()?.device.as_ref()?.path.as_deref(),
        DeviceRef::Graphics(display) => display.gl.as_ref()?.rendernode.as_deref(),
        DeviceRef::Memory(memory) => memory.source.as_ref()?.path.as_deref(),
        DeviceRef::Video(card) => card.model.as_ref()?.acceleration.as_ref()?.rendernode.as_deref(),
        _ => None,
    };
    path.filter(|path| !path.is_empty())
}

fn of_chardev(chardev: &Chardev) -> Option<&str> {
    let source = chardev.source().filter(|_| chardev.kind == ChardevKind::Dev)?;
    source.path.as_deref()
}

/// Whether QEMU plays sound on the host itself.
fn has_host_audio(config: &QemuConfig, graphics: &[Graphics]) -> bool {
    let on_host = |g: &Graphics| match g.kind {
        GraphicsKind::Sdl => true,
        GraphicsKind::Vnc => config.audio.with_vnc,
        _ => false,
    };
    graphics.is_empty() || graphics.iter().any(on_host)
}
