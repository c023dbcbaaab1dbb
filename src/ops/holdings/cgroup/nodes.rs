//! The device nodes that a guest may open: those of every guest, and those of its own devices.

use std::path::Path;

use confine::cgroup::{Access, DeviceNode};
use domxml::{
    Domain,
    devices::{Chardev, ChardevKind, Disk, Graphics, GraphicsKind, common::YesNo},
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
    let node = |path: Option<std::path::PathBuf>, access| Some((DeviceNode::at(&path?)?, access));
    let mut nodes: Vec<Allowed> = node(chain::local_path(disk.kind, disk.source.as_ref()), access)
        .into_iter()
        .collect();
    let mut below = disk.backing.as_deref();
    while let Some(backing) = below {
        nodes.extend(node(
            chain::local_path(backing.kind.unwrap_or_default(), backing.source.as_ref()),
            Access::Read,
        ));
        below = backing.backing.as_deref();
    }
    nodes
}

/// Paths of devices other than disks that may be nodes.
fn paths(document: &Domain) -> Vec<&str> {
    let devices = &document.devices;
    let serials = devices.serials.iter().map(|d| &d.chardev);
    let chardevs = serials
        .chain(devices.parallels.iter().map(|d| &d.chardev))
        .chain(devices.channels.iter().map(|d| &d.chardev));
    let chardevs = chardevs
        .filter(|c| c.kind == ChardevKind::Dev)
        .filter_map(of_chardev);
    let rngs = devices
        .rngs
        .iter()
        .filter_map(|r| r.backend.as_ref())
        .map(|b| b.path.as_str());
    let inputs = devices
        .inputs
        .iter()
        .filter_map(|i| i.source.as_ref())
        .filter_map(|s| s.evdev.as_deref().or(s.dev.as_deref()));
    let tpms = devices
        .tpms
        .iter()
        .filter_map(|t| t.backend.as_ref()?.device.as_ref()?.path.as_deref());
    let displays = devices
        .graphics
        .iter()
        .filter_map(|g| g.gl.as_ref()?.rendernode.as_deref());
    let cards = devices
        .videos
        .iter()
        .filter_map(|v| v.model.as_ref()?.acceleration.as_ref()?.rendernode.as_deref());
    chardevs
        .chain(rngs)
        .chain(inputs)
        .chain(tpms)
        .chain(displays)
        .chain(cards)
        .filter(|path| !path.is_empty())
        .collect()
}

fn of_chardev(chardev: &Chardev) -> Option<&str> {
    chardev.source()?.path.as_deref()
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
