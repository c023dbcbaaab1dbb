//! Front ends of character devices: serial and parallel ports, channels, consoles, smart cards, USB
//! redirection. Their host side is in `chardev`.

use domxml::devices::address::{Address, VirtioSerialAddress};
use domxml::devices::chardev::{
    Channel, ChannelTargetKind, ChardevKind, Console, ConsoleTargetKind, Parallel, Serial, SerialModel,
    SerialTargetKind,
};
use domxml::devices::common::YesNo;
use domxml::devices::controller::ControllerKind;
use domxml::devices::redirect::{RedirRule, Redirdev, Smartcard, SmartcardMode};
use serde_json::json;

use super::address;
use super::chardev::{self, CharSource};
use super::context::{Context, alias};
use super::line::CommandLine;
use crate::error::{Area, Code};
use crate::props::Props;
use crate::{Error, Result};

/// Default name of the SPICE agent's port.
const SPICE_AGENT_PORT: &str = "com.redhat.spice.0";

/// Appends a serial port.
///
/// # Errors
/// When QEMU has no such port.
pub fn build_serial(cx: Context<'_>, serial: &Serial, line: &mut CommandLine) -> Result<()> {
    chardev::build(cx, (&serial.chardev).into(), alias(&serial.info)?, line)?;
    if let Some(props) = serial_props(cx, serial)? {
        line.device(props);
    }
    Ok(())
}

/// Front end of a serial port; `None` for ports a board has built in.
///
/// # Errors
/// When the address cannot be used.
pub fn serial_props(cx: Context<'_>, serial: &Serial) -> Result<Option<Props>> {
    let target = serial.target.clone().unwrap_or_default();
    let driver = match target.model {
        Some(SerialModel::Pl011 | SerialModel::U16550a) => return Ok(None),
        Some(model) => model.as_str(),
        None => match target.kind.unwrap_or_default() {
            SerialTargetKind::IsaSerial => "isa-serial",
            SerialTargetKind::UsbSerial => "usb-serial",
            SerialTargetKind::PciSerial => "pci-serial",
            SerialTargetKind::IsaDebug => "isa-debugcon",
            other => {
                return Err(Error::unsupported(format!(
                    "unsupported serial port '{}'",
                    other.as_str()
                )));
            }
        },
    };
    let id = alias(&serial.info)?;
    let mut props = Props::driver(driver)
        .with("chardev", format!("char{id}"))
        .with("id", id);
    if driver == "isa-serial" {
        props.opt("index", target.port);
    }
    address::put(cx, &serial.info, &mut props)?;
    Ok(Some(props))
}

/// Appends a parallel port.
///
/// # Errors
/// When QEMU has no such back end.
pub fn build_parallel(cx: Context<'_>, parallel: &Parallel, line: &mut CommandLine) -> Result<()> {
    let id = alias(&parallel.info)?;
    chardev::build(cx, (&parallel.chardev).into(), id, line)?;
    let mut props = Props::driver("isa-parallel")
        .with("chardev", format!("char{id}"))
        .with("id", id);
    address::put(cx, &parallel.info, &mut props)?;
    line.device(props);
    Ok(())
}

/// Appends a channel.
///
/// # Errors
/// When QEMU has no such channel.
pub fn build_channel(cx: Context<'_>, channel: &Channel, line: &mut CommandLine) -> Result<()> {
    let id = alias(&channel.info)?;
    let target = channel.target.clone().unwrap_or_default();
    let path = format!("{}/{}", cx.res.dirs.channel, socket_name(channel));
    let source = CharSource {
        default_path: Some(&path),
        channel: "vdagent",
        ..(&channel.chardev).into()
    };
    match target.kind.unwrap_or_default() {
        ChannelTargetKind::Guestfwd => {
            chardev::build(cx, source, id, line)?;
            line.push("-netdev", guestfwd(channel, id));
        }
        ChannelTargetKind::Virtio => {
            chardev::build(cx, source, id, line)?;
            line.device(channel_props(cx, channel)?);
        }
        ChannelTargetKind::Xen => {}
        ChannelTargetKind::None => {
            let text = "a channel of type none leads nowhere in the guest";
            return Err(Error::new(Code::Internal, Area::None, text));
        }
    }
    Ok(())
}

/// Name of the socket of a channel whose document names none: as the port is called, or where it is.
pub fn socket_name(channel: &Channel) -> String {
    if let Some(name) = channel.target.as_ref().and_then(|target| target.name.clone()) {
        return name;
    }
    let at = match &channel.info.address {
        Some(Address::VirtioSerial(at)) => *at,
        _ => VirtioSerialAddress::default(),
    };
    format!("vioser-{:02}-{:02}-{:02}.sock", at.controller, at.bus, at.port)
}

fn guestfwd(channel: &Channel, id: &str) -> Props {
    let target = channel.target.clone().unwrap_or_default();
    let address = target.address.unwrap_or_default();
    let port = target.port.unwrap_or_default();
    let forward = format!("tcp:{address}:{port}-chardev:char{id}");
    Props::new()
        .with("type", "user")
        .with("guestfwd", json!([{"str": forward}]))
        .with("id", id)
}

/// Front end of a virtio channel.
///
/// # Errors
/// When its controller is not there.
pub fn channel_props(cx: Context<'_>, channel: &Channel) -> Result<Props> {
    let id = alias(&channel.info)?;
    let mut props = Props::driver("virtserialport");
    if let Some(Address::VirtioSerial(at)) = &channel.info.address {
        put_port(cx, *at, &mut props)?;
    }
    let name = channel.target.as_ref().and_then(|target| target.name.clone());
    let agent = channel.chardev.kind == ChardevKind::Spicevmc;
    let name = name.or_else(|| agent.then(|| SPICE_AGENT_PORT.to_owned()));
    props
        .set("chardev", format!("char{id}"))
        .set("id", id)
        .opt("name", name);
    Ok(props)
}

fn put_port(cx: Context<'_>, at: VirtioSerialAddress, props: &mut Props) -> Result<()> {
    let controller = cx.controller_alias(ControllerKind::VirtioSerial, at.controller)?;
    props
        .set("bus", format!("{controller}.{}", at.bus))
        .set("nr", at.port);
    Ok(())
}

/// Appends a console, unless it is a serial port under another name.
///
/// # Errors
/// When QEMU has no such console.
pub fn build_console(cx: Context<'_>, console: &Console, line: &mut CommandLine) -> Result<()> {
    match console
        .target
        .as_ref()
        .and_then(|target| target.kind)
        .unwrap_or_default()
    {
        ConsoleTargetKind::Serial => Ok(()),
        ConsoleTargetKind::Virtio => {
            let id = alias(&console.info)?;
            chardev::build(cx, (&console.chardev).into(), id, line)?;
            let mut props = Props::driver("virtconsole");
            if let Some(Address::VirtioSerial(at)) = &console.info.address {
                put_port(cx, *at, &mut props)?;
            }
            line.device(props.with("chardev", format!("char{id}")).with("id", id));
            Ok(())
        }
        kind @ (ConsoleTargetKind::Sclp | ConsoleTargetKind::Sclplm) => {
            let id = alias(&console.info)?;
            chardev::build(cx, (&console.chardev).into(), id, line)?;
            let props = Props::driver(format!("{}console", kind.as_str()));
            line.device(props.with("chardev", format!("char{id}")).with("id", id));
            Ok(())
        }
        other => Err(Error::unsupported(format!(
            "unsupported console target type {}",
            other.as_str()
        ))),
    }
}

/// Appends a smart card.
///
/// # Errors
/// When its reader is not there, or certificates are not three.
pub fn build_smartcard(cx: Context<'_>, card: &Smartcard, line: &mut CommandLine) -> Result<()> {
    let id = alias(&card.info)?;
    let mut props = match card.mode {
        SmartcardMode::Host => Props::driver("ccid-card-emulated").with("backend", "nss-emulated"),
        SmartcardMode::HostCertificates => certificates(card)?,
        SmartcardMode::Passthrough => {
            chardev::build(cx, card.into(), id, line)?;
            Props::driver("ccid-card-passthru").with("chardev", format!("char{id}"))
        }
    };
    let Some(Address::Ccid(ccid)) = &card.info.address else {
        return Err(Error::unsupported("smartcard with multiple types of controllers"));
    };
    let reader = cx.controller_alias(ControllerKind::Ccid, ccid.controller)?;
    props.set("id", id).set("bus", format!("{reader}.{}", ccid.slot));
    line.device(props);
    Ok(())
}

fn certificates(card: &Smartcard) -> Result<Props> {
    const DATABASE: &str = "/etc/pki/nssdb";
    let [first, second, third] = card.certificates.as_slice() else {
        return Err(Error::xml(
            "host-certificates mode needs exactly three certificates",
        ));
    };
    Ok(Props::driver("ccid-card-emulated")
        .with("backend", "certificates")
        .with("cert1", first.name.clone())
        .with("cert2", second.name.clone())
        .with("cert3", third.name.clone())
        .with("db", card.database.clone().unwrap_or_else(|| DATABASE.to_owned())))
}

/// Appends a redirected USB device.
///
/// # Errors
/// When QEMU has no such back end.
pub fn build_redirdev(cx: Context<'_>, device: &Redirdev, line: &mut CommandLine) -> Result<()> {
    let channel = if device.chardev.kind == ChardevKind::Dbus {
        "org.qemu.usbredir"
    } else {
        "usbredir"
    };
    let source = CharSource {
        channel,
        ..(&device.chardev).into()
    };
    chardev::build(cx, source, alias(&device.info)?, line)?;
    line.device(redirdev_props(cx, device)?);
    Ok(())
}

/// Front end of a redirected USB device.
///
/// # Errors
/// When its controller is not there.
pub fn redirdev_props(cx: Context<'_>, device: &Redirdev) -> Result<Props> {
    let id = alias(&device.info)?;
    let rules = cx
        .def
        .devices
        .redirfilter
        .as_ref()
        .map(|filter| filter.rules.as_slice())
        .unwrap_or_default();
    let filter: Vec<_> = rules.iter().map(filter_rule).collect();
    let mut props = Props::driver("usb-redir")
        .with("chardev", format!("char{id}"))
        .with("id", id)
        .with_opt("filter", (!filter.is_empty()).then(|| filter.join("|")))
        .with_opt("bootindex", cx.boot_index(&device.info));
    address::put(cx, &device.info, &mut props)?;
    Ok(props)
}

/// `class:vendor:product:version:allow`; -1 fits anything.
fn filter_rule(rule: &RedirRule) -> String {
    let class = hex(rule.class, 2);
    let vendor = hex(rule.vendor, 4);
    let product = hex(rule.product, 4);
    let version = rule
        .version
        .as_deref()
        .and_then(bcd)
        .map_or("-1".to_owned(), |bcd| format!("0x{bcd:04X}"));
    let allow = u8::from(rule.allow == YesNo::Yes);
    format!("{class}:{vendor}:{product}:{version}:{allow}")
}

fn hex(value: Option<i32>, digits: usize) -> String {
    match value {
        Some(value) if value >= 0 => format!("0x{value:0digits$X}"),
        _ => "-1".to_owned(),
    }
}

/// A version `1.10` as binary-coded decimal; `None` for anything else.
fn bcd(version: &str) -> Option<u16> {
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    let minor = if minor.len() == 1 {
        format!("{minor}0")
    } else {
        minor.to_owned()
    };
    let major = u16::from_str_radix(major, 16)
        .ok()
        .filter(|major| *major <= 0xff)?;
    let minor = u16::from_str_radix(&minor, 16)
        .ok()
        .filter(|minor| *minor <= 0xff)?;
    Some(major << 8 | minor)
}
