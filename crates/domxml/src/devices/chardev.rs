//! Character devices: `<serial>`, `<parallel>`, `<console>`, `<channel>`, and the host's side
//! of them, which smart cards, USB redirection and random sources share.

use xmlform::Xml;

use super::common::{DeviceSeclabel, OnOff, Reconnect, YesNo, words};
use super::graphics::{Clipboard, MouseMode};
use super::info::DeviceInfo;

words! {
    /// What a character device is on the host.
    ChardevKind {
        Null "null", Vc "vc", Pty "pty", Dev "dev", File "file", Pipe "pipe",
        Stdio "stdio", Udp "udp", Tcp "tcp", Unix "unix", Spicevmc "spicevmc",
        Spiceport "spiceport", Nmdm "nmdm", QemuVdagent "qemu-vdagent", Dbus "dbus",
    }
    /// Which side dials.
    ChardevMode { Connect "connect", Bind "bind" }
    /// What is spoken on a TCP connection.
    ChardevProtocol { Raw "raw", Telnet "telnet", Telnets "telnets", Tls "tls" }
    /// Bus of a serial port.
    SerialTargetKind {
        IsaSerial "isa-serial", UsbSerial "usb-serial", PciSerial "pci-serial",
        SpaprVioSerial "spapr-vio-serial", SystemSerial "system-serial",
        SclpSerial "sclp-serial", IsaDebug "isa-debug",
    }
    /// QEMU device behind a serial port.
    SerialModel {
        IsaSerial "isa-serial", UsbSerial "usb-serial", PciSerial "pci-serial",
        SpaprVty "spapr-vty", Pl011 "pl011", U16550a "16550a", Sclpconsole "sclpconsole",
        Sclplmconsole "sclplmconsole", IsaDebugcon "isa-debugcon",
    }
    /// What a console is in the guest.
    ConsoleTargetKind {
        Serial "serial", Xen "xen", Uml "uml", Virtio "virtio", Lxc "lxc", Openvz "openvz",
        Sclp "sclp", Sclplm "sclplm",
    }
    /// What a channel is in the guest.
    ChannelTargetKind { Guestfwd "guestfwd", Virtio "virtio", Xen "xen", None "none" }
    /// Whether the guest has the channel open.
    ChannelState { Disconnected "disconnected", Connected "connected" }
}

/// The host's side of a character device.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Chardev {
    #[xml(attr = "type", default = "ChardevKind::Pty", always)]
    pub kind: ChardevKind,
    /// Up to two: kind `udp` has one a direction, told apart by their mode.
    #[xml(children = "source")]
    pub sources: Vec<ChardevSource>,
    #[xml(attr = "type", wrap = "protocol")]
    pub protocol: Option<ChardevProtocol>,
    #[xml(child)]
    pub log: Option<ChardevLog>,
}

impl Chardev {
    /// The first `<source>`.
    #[must_use]
    pub fn source(&self) -> Option<&ChardevSource> {
        self.sources.first()
    }

    /// The first `<source>`, made when there is none.
    pub fn source_mut(&mut self) -> &mut ChardevSource {
        if self.sources.is_empty() {
            self.sources.push(ChardevSource::default());
        }
        &mut self.sources[0]
    }

    /// The `<source>` of a mode, for kind `udp`.
    #[must_use]
    pub fn source_of(&self, mode: ChardevMode) -> Option<&ChardevSource> {
        self.sources.iter().find(|source| source.mode == Some(mode))
    }

    /// Path of the first source.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        self.source()?.path.as_deref()
    }
}

/// `<source>` of a character device. Which fields count follows from [`ChardevKind`].
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct ChardevSource {
    #[xml(attr)]
    pub mode: Option<ChardevMode>,
    #[xml(attr)]
    pub path: Option<String>,
    #[xml(attr)]
    pub append: Option<OnOff>,
    #[xml(attr)]
    pub host: Option<String>,
    #[xml(attr)]
    pub service: Option<String>,
    #[xml(attr)]
    pub tls: Option<YesNo>,
    #[xml(attr = "tlsFromConfig", when = "status")]
    pub tls_from_config: Option<u32>,
    #[xml(attr)]
    pub channel: Option<String>,
    #[xml(attr)]
    pub master: Option<String>,
    #[xml(attr)]
    pub slave: Option<String>,
    #[xml(children = "seclabel")]
    pub seclabels: Vec<DeviceSeclabel>,
    #[xml(child)]
    pub reconnect: Option<Reconnect>,
    #[xml(child)]
    pub clipboard: Option<Clipboard>,
    #[xml(attr = "mode", wrap = "mouse")]
    pub mouse: Option<MouseMode>,
}

/// `<log>`: a copy of what the guest writes.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct ChardevLog {
    #[xml(attr)]
    pub file: Option<String>,
    #[xml(attr)]
    pub append: Option<OnOff>,
}

/// `<serial>`: a serial port.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Serial {
    #[xml(flatten)]
    pub chardev: Chardev,
    #[xml(child)]
    pub target: Option<SerialTarget>,
    #[xml(flatten)]
    pub info: DeviceInfo,
}

/// `<target>` of a serial port.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct SerialTarget {
    #[xml(attr = "type", lax)]
    pub kind: Option<SerialTargetKind>,
    #[xml(attr, lax)]
    pub port: Option<u32>,
    #[xml(attr = "name", wrap = "model", lax)]
    pub model: Option<SerialModel>,
}

/// `<parallel>`: a parallel port.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Parallel {
    #[xml(flatten)]
    pub chardev: Chardev,
    #[xml(child)]
    pub target: Option<ParallelTarget>,
    #[xml(flatten)]
    pub info: DeviceInfo,
}

/// `<target>` of a parallel port.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct ParallelTarget {
    #[xml(attr = "type", lax)]
    pub kind: Option<String>,
    #[xml(attr, lax)]
    pub port: Option<u32>,
}

/// `<console>`. The first one of kind `serial` is the first serial port under another name.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Console {
    #[xml(flatten)]
    pub chardev: Chardev,
    /// The pty again, for old clients.
    #[xml(attr, when = "live")]
    pub tty: Option<String>,
    #[xml(child)]
    pub target: Option<ConsoleTarget>,
    #[xml(flatten)]
    pub info: DeviceInfo,
}

/// `<target>` of a console.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsoleTarget {
    #[xml(attr = "type", lax)]
    pub kind: Option<ConsoleTargetKind>,
    #[xml(attr, lax)]
    pub port: Option<u32>,
}

/// `<channel>`: a byte stream between host and guest.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Channel {
    #[xml(flatten)]
    pub chardev: Chardev,
    #[xml(child)]
    pub target: Option<ChannelTarget>,
    #[xml(flatten)]
    pub info: DeviceInfo,
}

/// `<target>` of a channel.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelTarget {
    #[xml(attr = "type")]
    pub kind: Option<ChannelTargetKind>,
    /// Name of the port in the guest.
    #[xml(attr)]
    pub name: Option<String>,
    #[xml(attr, when = "live")]
    pub state: Option<ChannelState>,
    /// Address the guest dials, of kind `guestfwd`.
    #[xml(attr)]
    pub address: Option<String>,
    /// Port the guest dials, of kind `guestfwd`.
    #[xml(attr)]
    pub port: Option<u32>,
}
