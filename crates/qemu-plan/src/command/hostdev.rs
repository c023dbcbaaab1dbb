//! `<hostdev>`: devices of the host given to the guest.

use domxml::devices::address::Address;
use domxml::devices::common::{OnOff, StorageHost, YesNo};
use domxml::devices::hostdev::{
    GuestReset, Hostdev, HostdevAddress, HostdevKind, HostdevMode, HostdevModel, HostdevProtocol,
    HostdevSource,
};
use domxml::devices::interface::{Interface, InterfaceKind};
use domxml::devices::storage::{NetProtocol, Source, StorageKind};

use super::address::{self, Virtio};
use super::context::{Context, alias};
use super::disk::put_scsi_place;
use super::line::CommandLine;
use crate::block::{Common, Link, SecretFrom, Sources};
use crate::props::Props;
use crate::resources::FdRef;
use crate::{Error, Result};
use domxml::devices::common::VirtioModel;

/// Appends a host device.
///
/// # Errors
/// When QEMU has no such device, or the caller has not found it on the host.
pub fn build(
    cx: Context<'_>,
    device: &Hostdev,
    sources: &mut Sources<'_>,
    line: &mut CommandLine,
) -> Result<()> {
    if device.mode != HostdevMode::Subsystem {
        return Err(Error::unsupported(
            "hostdev mode 'capabilities' is not supported in this QEMU driver",
        ));
    }
    let props = match device.kind {
        HostdevKind::Usb => usb(cx, device)?,
        HostdevKind::Pci => pci(cx, device)?,
        HostdevKind::Mdev => mdev(cx, device)?,
        HostdevKind::ScsiHost => vhost_scsi(cx, device)?,
        HostdevKind::Scsi => {
            let node = scsi_backend(cx, device, sources, line)?;
            scsi(cx, device, &node)?
        }
        other => {
            return Err(Error::unsupported(format!(
                "unsupported hostdev type '{}'",
                other.as_str()
            )));
        }
    };
    line.device(props);
    Ok(())
}

fn source(device: &Hostdev) -> HostdevSource {
    device.source.clone().unwrap_or_default()
}

fn usb(cx: Context<'_>, device: &Hostdev) -> Result<Props> {
    let id = alias(&device.info)?;
    let source = source(device);
    let path = match (cx.res.device(id).path, source.address) {
        (Some(path), _) => Some(path),
        // It may be plugged in later; the guest has a place for it.
        _ if source.missing == Some(YesNo::Yes) => None,
        (None, Some(HostdevAddress::Usb { bus, device })) if bus != 0 || device != 0 => {
            Some(format!("/dev/bus/usb/{bus:03}/{device:03}"))
        }
        _ => {
            return Err(Error::internal_qemu(
                "USB host device is missing bus/device information",
            ));
        }
    };
    let reset = source.guest_reset;
    let mut props = Props::driver("usb-host")
        .with_opt("hostdevice", path)
        .with("id", id)
        .with_opt("guest-reset", reset.map(|reset| reset != GuestReset::Off))
        .with_opt("guest-resets-all", resets_all(reset))
        .with_opt("bootindex", cx.boot_index(&device.info));
    address::put(cx, &device.info, &mut props)?;
    Ok(props)
}

fn resets_all(reset: Option<GuestReset>) -> Option<bool> {
    match reset? {
        GuestReset::Off => None,
        GuestReset::Uninitialized => Some(false),
        GuestReset::On => Some(true),
    }
}

fn vfio_driver(device: &Hostdev) -> &'static str {
    if device.ramfb == Some(OnOff::On) {
        "vfio-pci-nohotplug"
    } else {
        "vfio-pci"
    }
}

fn pci(cx: Context<'_>, device: &Hostdev) -> Result<Props> {
    let Some(HostdevAddress::Pci {
        domain,
        bus,
        slot,
        function,
    }) = source(device).address
    else {
        return Err(Error::internal_qemu("PCI host device without an address"));
    };
    let pair = device.teaming.as_ref().and_then(|team| team.persistent.clone());
    let mut props = Props::driver(vfio_driver(device))
        .with("host", format!("{domain:04x}:{bus:02x}:{slot:02x}.{function}"))
        .with("id", alias(&device.info)?)
        .with_opt("bootindex", cx.boot_index(&device.info))
        .with_opt("failover_pair_id", pair)
        .with_opt("display", device.display.map(OnOff::as_str))
        .with_opt("ramfb", (device.ramfb == Some(OnOff::On)).then_some(true));
    address::put(cx, &device.info, &mut props)?;
    address::put_rom(&device.info, &mut props);
    Ok(props)
}

/// Front end of an interface that is a host device; `None` for other interfaces.
///
/// # Errors
/// When its address is not known.
pub fn interface_props(cx: Context<'_>, net: &Interface) -> Result<Option<Props>> {
    if super::net::kind(net) != InterfaceKind::Hostdev {
        return Ok(None);
    }
    let source = match &net.actual {
        Some(actual) => actual.source.as_ref(),
        None => net.source.as_ref(),
    };
    let address = source.and_then(|source| source.host_device.clone());
    let device = Hostdev {
        kind: HostdevKind::Pci,
        source: Some(HostdevSource {
            address: address.map(|address| address.0),
            ..HostdevSource::default()
        }),
        teaming: net.teaming.clone(),
        info: net.info.clone(),
        ..Hostdev::default()
    };
    pci(cx, &device).map(Some)
}

fn mdev(cx: Context<'_>, device: &Hostdev) -> Result<Props> {
    let Some(HostdevAddress::Mdev { uuid }) = source(device).address else {
        return Err(Error::internal_qemu("mediated device without a uuid"));
    };
    let driver = match device.model {
        Some(HostdevModel::VfioCcw) => "vfio-ccw",
        Some(HostdevModel::VfioAp) => "vfio-ap",
        _ => vfio_driver(device),
    };
    let mut props = Props::driver(driver)
        .with("id", alias(&device.info)?)
        .with("sysfsdev", format!("/sys/bus/mdev/devices/{uuid}"))
        .with_opt("display", device.display.map(OnOff::as_str))
        .with_opt("ramfb", (device.ramfb == Some(OnOff::On)).then_some(true))
        .with_opt("bootindex", cx.boot_index(&device.info));
    address::put(cx, &device.info, &mut props)?;
    Ok(props)
}

fn vhost_scsi(cx: Context<'_>, device: &Hostdev) -> Result<Props> {
    let id = alias(&device.info)?;
    let generation = match device.model {
        Some(HostdevModel::VirtioTransitional) => VirtioModel::Transitional,
        Some(HostdevModel::VirtioNonTransitional) => VirtioModel::NonTransitional,
        _ => VirtioModel::Virtio,
    };
    let fd = cx.res.device(id).vhost_fds.first().cloned();
    let fd = fd
        .or(cx.res.is_native().then_some(FdRef::Number(-1)))
        .ok_or_else(|| Error::internal_qemu("no vhost-scsi descriptor"))?;
    let mut props = address::virtio("vhost-scsi", &device.info, Virtio::new(Some(generation), None))?
        .with_opt("wwpn", source(device).wwpn)
        .with("vhostfd", fd.to_string())
        .with("id", id)
        .with_opt("bootindex", cx.boot_index(&device.info));
    address::put(cx, &device.info, &mut props)?;
    Ok(props)
}

/// Appends the block node below a SCSI device; answers its name.
fn scsi_backend(
    cx: Context<'_>,
    device: &Hostdev,
    sources: &mut Sources<'_>,
    line: &mut CommandLine,
) -> Result<String> {
    let node = format!("libvirt-{}-backend", sources.take_number());
    let source = source(device);
    let mut refs = crate::block::Refs::default();
    let link_source;
    let (kind, read_only) = if source.protocol == Some(HostdevProtocol::Iscsi) {
        link_source = iscsi(&source);
        if let Some(secret) = source.auth.as_ref().and_then(|auth| auth.secret.as_ref()) {
            let id = format!("{node}-secret0");
            line.object(sources.secret(&id, SecretFrom::of(secret)));
            refs.auth = Some(id);
        }
        (StorageKind::Network, false)
    } else {
        let path = cx.res.device(alias(&device.info)?).path;
        let path =
            path.ok_or_else(|| Error::internal_qemu("the node of a SCSI host device was not found"))?;
        link_source = Source {
            dev: Some(path),
            ..Source::default()
        };
        (StorageKind::Block, device.readonly)
    };
    let common = Common::default();
    let link = Link::raw(kind, &link_source, &common, read_only);
    let mut props = crate::block::storage_props(&link, &refs)?;
    props.set("node-name", node.clone()).set("read-only", read_only);
    line.push("-blockdev", props);
    Ok(node)
}

fn iscsi(source: &HostdevSource) -> Source {
    let hosts: Vec<StorageHost> = source.hosts.clone();
    Source {
        protocol: Some(NetProtocol::Iscsi),
        name: source.name.clone(),
        hosts,
        auth: source.auth.clone(),
        initiator: source.initiator.clone(),
        ..Source::default()
    }
}

fn scsi(cx: Context<'_>, device: &Hostdev, node: &str) -> Result<Props> {
    let Some(Address::Drive(at)) = &device.info.address else {
        return Err(Error::internal_qemu("SCSI host device without a drive address"));
    };
    let mut props = Props::driver("scsi-generic")
        .with("drive", node)
        .with("id", alias(&device.info)?)
        .with_opt("bootindex", cx.boot_index(&device.info));
    put_scsi_place(cx, *at, &mut props)?;
    props.opt("share-rw", device.shareable.then_some(true));
    Ok(props)
}
