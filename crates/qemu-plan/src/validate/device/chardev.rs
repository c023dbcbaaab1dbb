//! Character devices: where they lead, and whether a port fits the machine.

use domxml::devices::{
    Channel, ChannelTargetKind, Chardev, ChardevKind, ChardevMode, ChardevProtocol, ChardevSource,
    GraphicsKind, Parallel, Redirdev, Rng, Serial, SerialModel, SerialTargetKind, Smartcard, YesNo,
};

use super::super::Guest;
use super::super::rule::{check, rules};
use crate::caps::Flag;
use crate::error::{Error, Result};
use crate::facts::address_kind;

/// One character device, whatever carries it.
pub(in crate::validate) struct End<'a> {
    kind: ChardevKind,
    sources: &'a [ChardevSource],
    protocol: Option<ChardevProtocol>,
    /// Whether the daemon makes up a path when there is none.
    makes_path: bool,
}

impl<'a> From<&'a Chardev> for End<'a> {
    fn from(device: &'a Chardev) -> Self {
        Self {
            kind: device.kind,
            sources: &device.sources,
            protocol: device.protocol,
            makes_path: false,
        }
    }
}

impl<'a> From<&'a Channel> for End<'a> {
    fn from(channel: &'a Channel) -> Self {
        let target = channel.target.as_ref().and_then(|t| t.kind);
        Self {
            makes_path: target != Some(ChannelTargetKind::Guestfwd),
            ..Self::from(&channel.chardev)
        }
    }
}

/// The far end of a smart card reader that passes things through.
pub(super) fn of_card(card: &Smartcard) -> Option<End<'_>> {
    Some(End {
        kind: card.kind?,
        sources: &card.sources,
        protocol: card.protocol,
        makes_path: false,
    })
}

/// The daemon that a random number generator asks.
pub(super) fn of_rng(rng: &Rng) -> Option<End<'_>> {
    let backend = rng.backend.as_ref()?;
    Some(End {
        kind: backend.kind?,
        sources: &backend.sources,
        protocol: backend.protocol,
        makes_path: false,
    })
}

/// Redirected devices need a bus; then where they come from.
pub(super) fn redirected(guest: &Guest<'_>, device: &Redirdev) -> Result<()> {
    let none = guest.def.devices.controllers.iter().all(|c| {
        c.kind != domxml::devices::ControllerKind::Usb
            || c.usb_model() == Some(domxml::devices::UsbModel::None)
    });
    if none {
        return Err(Error::conflicting(
            "cannot add redirected USB device: USB is disabled for this domain",
        ));
    }
    generic(guest, &End::from(&device.chardev))
}

/// What leads nowhere for any hypervisor.
pub(super) fn generic(guest: &Guest<'_>, end: &End<'_>) -> Result<()> {
    check(GENERIC, guest, end)
}

/// What QEMU can't connect.
pub(super) fn qemu(guest: &Guest<'_>, end: &End<'_>) -> Result<()> {
    check(QEMU, guest, end)
}

rules! {
    /// What leads nowhere.
    GENERIC(guest, end: End<'_>) {
        internal "Missing source path attribute for char device"
            if matches!(end.kind, ChardevKind::File | ChardevKind::Dev | ChardevKind::Pipe)
                && !has(end, |s| s.path.as_ref());
        internal "Should define both master and slave path attributes for nmdm device"
            if end.kind == ChardevKind::Nmdm
                && has(end, |s| s.master.as_ref()) != has(end, |s| s.slave.as_ref());
        internal "Missing source host attribute for char device"
            if end.kind == ChardevKind::Tcp && !has(end, |s| s.host.as_ref());
        internal "Missing source service attribute for char device"
            if end.kind == ChardevKind::Tcp && !has(end, |s| s.service.as_ref());
        internal "Missing source service attribute for char device"
            if end.kind == ChardevKind::Udp && service(end).is_none();
        internal "Missing source path attribute for char device"
            if end.kind == ChardevKind::Unix && !end.makes_path && !has(end, |s| s.path.as_ref());
        internal "chardev reconnect is possible only for connect mode"
            if matches!(end.kind, ChardevKind::Tcp | ChardevKind::Unix) && reconnects(end) && !connects(end);
        conflicting "Missing source channel attribute for char device"
            if names_channel(end) && !has(end, |s| s.channel.as_ref());
        argument "Invalid character in source channel for char device"
            if names_channel(end) && first(end).and_then(|s| s.channel.as_deref()).is_some_and(|c| !c.chars().all(is_name));
        conflicting "label overrides require relabeling to be enabled at the domain level"
            if end.sources.iter().any(|s| guest.forbids_relabel(&s.seclabels));
    }
}

rules! {
    /// What QEMU can't connect.
    QEMU(guest, end: End<'_>) {
        unsupported "tcp chardev protocol '{}' not supported" (end.protocol.map_or("", |p| p.as_str()))
            if end.kind == ChardevKind::Tcp
                && matches!(end.protocol, Some(ChardevProtocol::Telnets | ChardevProtocol::Tls));
        unsupported "chardev '{}' not supported in this QEMU binary" (end.kind.as_str())
            if end.kind == ChardevKind::QemuVdagent && !guest.caps.has(Flag::ChardevQemuVdagent);
        unsupported "chardev '{}' not supported without spice graphics" (end.kind.as_str())
            if matches!(end.kind, ChardevKind::Spicevmc | ChardevKind::Spiceport)
                && !guest.def.devices.graphics.iter().any(|g| g.kind == GraphicsKind::Spice);
        argument_qemu "chardev reconnect source timeout cannot be '0'"
            if matches!(end.kind, ChardevKind::Tcp | ChardevKind::Unix) && reconnects(end)
                && first(end).and_then(|s| s.reconnect.as_ref()).is_some_and(|r| r.timeout == Some(0));
    }
}

/// The kind of serial port that each model is, and the address it has, if it may have one.
// table
const SERIALS: &[(SerialModel, SerialTargetKind, Option<&str>)] = &[
    (SerialModel::IsaSerial, SerialTargetKind::IsaSerial, Some("isa")),
    (SerialModel::UsbSerial, SerialTargetKind::UsbSerial, Some("usb")),
    (SerialModel::PciSerial, SerialTargetKind::PciSerial, Some("pci")),
    (
        SerialModel::SpaprVty,
        SerialTargetKind::SpaprVioSerial,
        Some("spapr-vio"),
    ),
    (SerialModel::Pl011, SerialTargetKind::SystemSerial, None),
    (SerialModel::U16550a, SerialTargetKind::SystemSerial, None),
    (SerialModel::Sclpconsole, SerialTargetKind::SclpSerial, None),
    (SerialModel::Sclplmconsole, SerialTargetKind::SclpSerial, None),
    (SerialModel::IsaDebugcon, SerialTargetKind::IsaDebug, Some("isa")),
];

rules! {
    /// Ports that are no part of this machine.
    SERIAL(guest, serial: Serial) {
        unsupported "Target type '{}' requires address type '{}'"
            (kind(serial).map_or("", |k| k.as_str()), place(serial).flatten().unwrap_or_default())
            if place(serial).flatten().is_some_and(|wanted| serial.info.address.as_ref().is_some_and(|a| address_kind(a) != wanted));
        unsupported "Target type '{}' cannot have an associated address"
            (kind(serial).map_or("", |k| k.as_str()))
            if place(serial) == Some(None) && serial.info.address.is_some();
        unsupported "Target model '{}' requires target type '{}'"
            (model(serial).map_or("", |m| m.as_str()), wanted(serial).map_or("", |k| k.as_str()))
            if kind(serial).is_some() && wanted(serial).is_some_and(|w| Some(w) != kind(serial));
        unsupported "Serial device with target type '{}' and target model '{}' not compatible with guest architecture or machine type"
            (kind(serial).map_or("", |k| k.as_str()), model(serial).map_or("", |m| m.as_str()))
            if !fits_machine(guest, serial);
    }
}

pub(super) fn serial(guest: &Guest<'_>, serial: &Serial) -> Result<()> {
    qemu(guest, &End::from(&serial.chardev))?;
    check(SERIAL, guest, serial)
}

/// Parallel ports are a PC's.
pub(super) fn parallel(guest: &Guest<'_>, port: &Parallel) -> Result<()> {
    qemu(guest, &End::from(&port.chardev))?;
    if guest.is_s390() || guest.is_pseries() {
        return Err(Error::unsupported("parallel ports are not supported"));
    }
    Ok(())
}

/// Ports on the board of machines that are no PCs.
fn fits_machine(guest: &Guest<'_>, serial: &Serial) -> bool {
    match (kind(serial), model(serial)) {
        (Some(SerialTargetKind::SystemSerial), Some(SerialModel::Pl011)) => guest.is_arm_virt(),
        (Some(SerialTargetKind::SystemSerial), Some(SerialModel::U16550a)) => {
            guest.is_virt_of(&["riscv32", "riscv64", "loongarch64"])
        }
        (Some(SerialTargetKind::SpaprVioSerial), _) => guest.is_pseries(),
        (Some(SerialTargetKind::SclpSerial), _) => guest.is_s390(),
        _ => true,
    }
}

fn kind(serial: &Serial) -> Option<SerialTargetKind> {
    serial.target.as_ref()?.kind
}

fn model(serial: &Serial) -> Option<SerialModel> {
    serial.target.as_ref()?.model
}

/// The kind of port that its model is one of.
fn wanted(serial: &Serial) -> Option<SerialTargetKind> {
    let model = model(serial)?;
    SERIALS
        .iter()
        .find(|(m, ..)| *m == model)
        .map(|(_, kind, _)| *kind)
}

/// The address that a kind of port has.
fn place(serial: &Serial) -> Option<Option<&'static str>> {
    let kind = kind(serial)?;
    SERIALS
        .iter()
        .find(|(_, k, _)| *k == kind)
        .map(|(.., place)| *place)
}

fn first<'a>(end: &End<'a>) -> Option<&'a ChardevSource> {
    end.sources.first()
}

fn has(end: &End<'_>, value: fn(&ChardevSource) -> Option<&String>) -> bool {
    first(end).and_then(value).is_some()
}

fn service<'a>(end: &End<'a>) -> Option<&'a String> {
    let mut sources = end.sources.iter().filter(|s| s.mode != Some(ChardevMode::Bind));
    sources.find_map(|s| s.service.as_ref())
}

fn reconnects(end: &End<'_>) -> bool {
    first(end)
        .and_then(|s| s.reconnect.as_ref())
        .is_some_and(|r| r.enabled == Some(YesNo::Yes))
}

/// A socket whose path the daemon makes up is one that it binds.
fn connects(end: &End<'_>) -> bool {
    let made_up = end.kind == ChardevKind::Unix && end.makes_path && !has(end, |s| s.path.as_ref());
    first(end).is_some_and(|s| s.mode == Some(ChardevMode::Connect)) && !made_up
}

fn names_channel(end: &End<'_>) -> bool {
    matches!(end.kind, ChardevKind::Spiceport | ChardevKind::Dbus)
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-.".contains(c)
}
