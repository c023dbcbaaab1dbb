//! What makes no sense on any host: called when everything left out is filled in.
//!
//! The words are libvirt's, for clients match on them. What depends on a host, on QEMU or on
//! more than the devices is checked elsewhere.

use crate::error::{Error, Kind};

use super::{
    ChardevKind, ChardevMode, ChardevSource, Device, DeviceRef, Devices, Disk, DiskDevice,
    Graphics, Hostdev, HostdevKind, Listen, ListenKind, NetProtocol, SecretUse, Source,
    StorageKind, YesNo,
};

type Outcome = Result<(), Error>;

impl Devices {
    /// Checks every device, and that no host device is given twice.
    ///
    /// # Errors
    /// The first that is found, in output order.
    pub fn check(&self) -> Outcome {
        for (index, hostdev) in self.hostdevs.iter().enumerate() {
            if self.hostdevs[..index]
                .iter()
                .any(|other| same_host_device(other, hostdev))
            {
                return Err(xml("Hostdev already exists in the domain configuration"));
            }
        }
        self.iter().try_for_each(check)
    }
}

impl Device {
    /// Checks the device by itself.
    ///
    /// # Errors
    /// The first that is found.
    pub fn check(&self) -> Outcome {
        check(self.as_ref())
    }
}

fn check(device: DeviceRef<'_>) -> Outcome {
    match device {
        DeviceRef::Disk(disk) => check_disk(disk),
        DeviceRef::Graphics(graphics) => check_graphics(graphics),
        DeviceRef::Hostdev(hostdev) => check_hostdev(hostdev),
        DeviceRef::Serial(serial) => check_chardev(serial.chardev.kind, &serial.chardev.sources),
        DeviceRef::Parallel(port) => check_chardev(port.chardev.kind, &port.chardev.sources),
        DeviceRef::Console(console) => {
            check_chardev(console.chardev.kind, &console.chardev.sources)
        }
        DeviceRef::Channel(channel) => {
            check_channel(channel.chardev.kind, &channel.chardev.sources)
        }
        DeviceRef::Redirdev(device) => check_chardev(device.chardev.kind, &device.chardev.sources),
        DeviceRef::Smartcard(card) => match card.kind {
            Some(kind) => check_chardev(kind, &card.sources),
            None => Ok(()),
        },
        DeviceRef::Rng(rng) => match rng.backend.as_ref().and_then(|b| Some((b, b.kind?))) {
            Some((backend, kind)) => check_chardev(kind, &backend.sources),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

fn xml(message: impl Into<String>) -> Error {
    Error::new(Kind::Xml, message)
}

fn unsupported(message: impl Into<String>) -> Error {
    Error::new(Kind::Unsupported, message)
}

fn internal(message: impl Into<String>) -> Error {
    Error::new(Kind::Internal, message)
}

fn require(present: bool, error: impl FnOnce() -> Error) -> Outcome {
    if present { Ok(()) } else { Err(error()) }
}

/// A channel's socket may be without a path: one is made up at start.
fn check_channel(kind: ChardevKind, sources: &[ChardevSource]) -> Outcome {
    let pathless = sources.iter().all(|source| source.path.is_none());
    if kind == ChardevKind::Unix && pathless {
        return sources.iter().try_for_each(check_reconnect);
    }
    check_chardev(kind, sources)
}

fn check_chardev(kind: ChardevKind, sources: &[ChardevSource]) -> Outcome {
    use ChardevKind::{Dev, File, Nmdm, Pipe, Spiceport, Tcp, Udp, Unix};
    let most = if kind == Udp { 2 } else { 1 };
    require(sources.len() <= most, || match kind {
        Udp => xml("only two source elements are allowed for character device"),
        _ => xml("only one source element is allowed for character device"),
    })?;
    let all: &[&str] = match kind {
        Dev | File | Pipe | Unix => &["path"],
        Tcp => &["host", "service"],
        Udp => &["service"],
        Nmdm => &["master", "slave"],
        Spiceport => &["channel"],
        _ => &[],
    };
    let by_mode = |mode| sources.iter().find(|source| source.mode == Some(mode));
    let source = match kind {
        Udp => by_mode(ChardevMode::Connect),
        _ => sources.first(),
    };
    for name in all {
        let found = source.and_then(|source| part(source, name)).is_some();
        require(found, || match kind {
            Nmdm => internal(format!("Missing {name} path attribute for nmdm device")),
            _ => internal(format!("Missing source {name} attribute for char device")),
        })?;
    }
    sources.iter().try_for_each(check_reconnect)
}

fn part<'a>(source: &'a ChardevSource, name: &str) -> Option<&'a str> {
    let value = match name {
        "path" => &source.path,
        "host" => &source.host,
        "service" => &source.service,
        "master" => &source.master,
        "slave" => &source.slave,
        _ => &source.channel,
    };
    value.as_deref()
}

fn check_reconnect(source: &ChardevSource) -> Outcome {
    let Some(reconnect) = &source.reconnect else {
        return Ok(());
    };
    if reconnect.enabled != Some(YesNo::Yes) {
        return Ok(());
    }
    require(source.mode != Some(ChardevMode::Bind), || {
        internal("chardev reconnect is possible only for connect mode")
    })?;
    require(reconnect.timeout != Some(0), || {
        let message = "chardev reconnect source timeout cannot be '0'";
        Error::new(Kind::InvalidArg, message)
    })
}

fn check_graphics(graphics: &Graphics) -> Outcome {
    let named = |listen: &Listen| listen.kind != ListenKind::Network || listen.network.is_some();
    require(graphics.listens.iter().all(named), || {
        xml("'network' attribute is required for listen type 'network'")
    })
}

fn check_disk(disk: &Disk) -> Outcome {
    let network = |p: NetProtocol| disk.source.as_ref().is_some_and(|s| s.protocol == Some(p));
    let is_block = matches!(disk.kind, StorageKind::Block | StorageKind::Volume)
        || network(NetProtocol::Iscsi);
    require(disk.device != DiskDevice::Lun || is_block, || {
        unsupported("disk device='lun' is only valid for block type disk source")
    })?;
    let Some(source) = &disk.source else {
        return Ok(());
    };
    require(disk.auth.is_none() || source.auth.is_none(), || {
        unsupported("an <auth> definition already found for disk source")
    })?;
    require(
        disk.encryption.is_none() || source.encryption.is_none(),
        || unsupported("an <encryption> definition already found for disk source"),
    )?;
    let encryptions = disk.encryption.iter().chain(&source.encryption);
    require(encryptions.into_iter().all(|e| e.cipher.is_none()), || {
        unsupported("supplying <cipher> for domain disk definition is unnecessary")
    })?;
    check_secret_use(disk, source)?;
    check_seclabels(source)
}

fn check_secret_use(disk: &Disk, source: &Source) -> Outcome {
    let expected = match source.protocol {
        Some(NetProtocol::Iscsi) => SecretUse::Iscsi,
        Some(NetProtocol::Rbd) => SecretUse::Ceph,
        _ => return Ok(()),
    };
    for auth in disk.auth.iter().chain(&source.auth) {
        let kind = auth.secret.as_ref().and_then(|secret| secret.kind);
        if let Some(kind) = kind.filter(|kind| *kind != expected) {
            return Err(unsupported(format!("invalid secret type '{kind}'")));
        }
    }
    Ok(())
}

fn check_seclabels(source: &Source) -> Outcome {
    for label in &source.seclabels {
        if label.relabel == Some(YesNo::Yes) && label.label.is_none() {
            let model = label.model.as_deref().unwrap_or_default();
            let message = "Cannot specify relabel if label is missing. model=";
            return Err(xml(format!("{message}{model}")));
        }
    }
    Ok(())
}

fn check_hostdev(hostdev: &Hostdev) -> Outcome {
    let is_scsi = hostdev.kind == HostdevKind::Scsi;
    require(is_scsi || hostdev.sgio.is_none(), || {
        xml("sgio is only supported for scsi host device")
    })?;
    require(is_scsi || hostdev.rawio.is_none(), || {
        xml("rawio is only supported for scsi host device")
    })
}

fn same_host_device(a: &Hostdev, b: &Hostdev) -> bool {
    let (Some(left), Some(right)) = (&a.source, &b.source) else {
        return false;
    };
    let place = (&left.address, &left.vendor, &left.product, &left.adapter);
    let name = (&left.protocol, &left.name, &left.wwpn);
    let other_place = (
        &right.address,
        &right.vendor,
        &right.product,
        &right.adapter,
    );
    let other_name = (&right.protocol, &right.name, &right.wwpn);
    let on_host = (&left.block, &left.char, &left.interface);
    let other_on_host = (&right.block, &right.char, &right.interface);
    let same = place == other_place && name == other_name && on_host == other_on_host;
    a.mode == b.mode && a.kind == b.kind && same && left.hosts == right.hosts
}
