//! `-chardev`: the host's side of serial ports, channels and all else that is a stream of bytes.

use domxml::devices::chardev::{
    Chardev, ChardevKind, ChardevLog, ChardevMode, ChardevProtocol, ChardevSource,
};
use domxml::devices::common::{OnOff, Reconnect, YesNo};
use domxml::devices::graphics::MouseMode;
use domxml::devices::redirect::Smartcard;
use domxml::devices::rng::RngBackend;

use super::context::Context;
use super::line::CommandLine;
use crate::block::End;
use crate::caps::Flag;
use crate::props::{Keyval, on_off};
use crate::resources::{DeviceResources, FdRef};
use crate::{Error, Result};

/// A character device's host side, whichever element it is in.
#[derive(Debug, Clone, Copy)]
pub struct CharSource<'a> {
    /// What it is.
    pub kind: ChardevKind,
    /// Its `<source>` elements.
    pub sources: &'a [ChardevSource],
    /// What is spoken over TCP.
    pub protocol: Option<ChardevProtocol>,
    /// Where a copy goes.
    pub log: Option<&'a ChardevLog>,
    /// Path to use when the source names none.
    pub default_path: Option<&'a str>,
    /// What a SPICE or D-Bus channel carries.
    pub channel: &'a str,
}

impl<'a> From<&'a Chardev> for CharSource<'a> {
    fn from(chardev: &'a Chardev) -> Self {
        Self {
            kind: chardev.kind,
            sources: &chardev.sources,
            protocol: chardev.protocol,
            log: chardev.log.as_ref(),
            default_path: None,
            channel: "",
        }
    }
}

impl<'a> From<&'a Smartcard> for CharSource<'a> {
    fn from(card: &'a Smartcard) -> Self {
        Self {
            kind: card.kind.unwrap_or(ChardevKind::Spicevmc),
            sources: &card.sources,
            protocol: card.protocol,
            log: card.log.as_ref(),
            default_path: None,
            channel: "smartcard",
        }
    }
}

impl<'a> From<&'a RngBackend> for CharSource<'a> {
    fn from(backend: &'a RngBackend) -> Self {
        Self {
            kind: backend.kind.unwrap_or_default(),
            sources: &backend.sources,
            protocol: backend.protocol,
            log: backend.log.as_ref(),
            default_path: None,
            channel: "",
        }
    }
}

static NO_SOURCE: ChardevSource = ChardevSource {
    mode: None,
    path: None,
    append: None,
    host: None,
    service: None,
    tls: None,
    tls_from_config: None,
    channel: None,
    master: None,
    slave: None,
    seclabels: Vec::new(),
    reconnect: None,
    clipboard: None,
    mouse: None,
};

impl<'a> CharSource<'a> {
    fn first(&self) -> &'a ChardevSource {
        self.sources.first().unwrap_or(&NO_SOURCE)
    }

    fn of(&self, mode: ChardevMode) -> Option<&'a ChardevSource> {
        self.sources
            .iter()
            .find(|source| source.mode.unwrap_or_default() == mode)
    }

    fn path(&self) -> &'a str {
        self.first()
            .path
            .as_deref()
            .or(self.default_path)
            .unwrap_or_default()
    }
}

/// Appends the character device `char<alias>` of a device, and what it needs before it.
///
/// # Errors
/// When QEMU has no such character device.
pub fn build(cx: Context<'_>, source: CharSource<'_>, alias: &str, line: &mut CommandLine) -> Result<()> {
    let given = cx.res.device(alias);
    let id = format!("char{alias}");
    let mut chardev = match source.kind {
        ChardevKind::Null | ChardevKind::Vc | ChardevKind::Pty | ChardevKind::Stdio => {
            Keyval::implied(source.kind.as_str()).with("id", id)
        }
        ChardevKind::Dev => {
            let driver = if alias.starts_with("parallel") {
                "parallel"
            } else {
                "serial"
            };
            Keyval::implied(driver).with("id", id).with("path", source.path())
        }
        ChardevKind::File => file(&given, source, &Named { alias, id }, line),
        ChardevKind::Pipe => Keyval::implied("pipe").with("id", id).with("path", source.path()),
        ChardevKind::Udp => udp(source, &id),
        ChardevKind::Tcp => tcp(cx, source, &id, line),
        ChardevKind::Unix => unix(cx, source, &id, given.listener.clone()),
        ChardevKind::Spicevmc => Keyval::implied("spicevmc")
            .with("id", id)
            .with("name", source.channel),
        ChardevKind::Spiceport => {
            let channel = source.first().channel.as_deref().unwrap_or_default();
            Keyval::implied("spiceport").with("id", id).with("name", channel)
        }
        ChardevKind::QemuVdagent => vdagent(source, &id),
        ChardevKind::Dbus => {
            let channel = source.first().channel.as_deref().unwrap_or(source.channel);
            Keyval::implied("dbus").with("id", id).with("name", channel)
        }
        ChardevKind::Nmdm => {
            return Err(Error::unsupported(format!(
                "unsupported chardev '{}'",
                source.kind.as_str()
            )));
        }
    };
    put_log(&given, source.log, alias, &mut chardev, line);
    line.push("-chardev", chardev);
    Ok(())
}

struct Named<'a> {
    alias: &'a str,
    id: String,
}

fn file(
    given: &DeviceResources,
    source: CharSource<'_>,
    named: &Named<'_>,
    line: &mut CommandLine,
) -> Keyval {
    let chardev = Keyval::implied("file").with("id", &named.id);
    if let Some(fd) = given.fd {
        let path = line.add_fd(fd, &format!("{}-source", named.alias));
        return chardev.with("path", path).with("append", "on");
    }
    let mut chardev = chardev.with("path", source.path());
    chardev.opt("append", source.first().append.map(|append| append.as_str()));
    chardev
}

fn put_log(
    given: &DeviceResources,
    log: Option<&ChardevLog>,
    alias: &str,
    chardev: &mut Keyval,
    line: &mut CommandLine,
) {
    let Some(log) = log else { return };
    if let Some(fd) = given.log_fd {
        let path = line.add_fd(fd, &format!("{alias}-log"));
        chardev.set("logfile", path).set("logappend", "on");
        return;
    }
    chardev
        .opt("logfile", log.file.as_deref())
        .opt("logappend", log.append.map(OnOff::as_str));
}

fn udp(source: CharSource<'_>, id: &str) -> Keyval {
    let near = source.of(ChardevMode::Bind).unwrap_or(&NO_SOURCE);
    let far = source.of(ChardevMode::Connect).unwrap_or(&NO_SOURCE);
    let text = |text: &Option<String>, default: &str| text.clone().unwrap_or_else(|| default.to_owned());
    Keyval::implied("udp")
        .with("id", id)
        .with("host", text(&far.host, ""))
        .with("port", text(&far.service, ""))
        .with("localaddr", text(&near.host, ""))
        .with("localport", text(&near.service, "0"))
}

fn tcp(cx: Context<'_>, source: CharSource<'_>, id: &str, line: &mut CommandLine) -> Keyval {
    let first = source.first();
    let mut chardev = Keyval::implied("socket").with("id", id);
    chardev
        .set("host", first.host.as_deref().unwrap_or_default())
        .set("port", first.service.as_deref().unwrap_or_default());
    if source.protocol == Some(ChardevProtocol::Telnet) {
        chardev.set("telnet", "on");
    }
    put_listen(first.mode == Some(ChardevMode::Bind), &mut chardev);
    put_reconnect(cx, first.reconnect.as_ref(), &mut chardev);
    if let Some(credentials) = tls(cx, first, id, line) {
        chardev.set("tls-creds", credentials);
    }
    chardev
}

/// Appends the TLS credentials of a TCP device; answers their id.
fn tls(cx: Context<'_>, source: &ChardevSource, id: &str, line: &mut CommandLine) -> Option<String> {
    let config = &cx.res.config;
    if !source.tls.map_or(config.chardev_tls, YesNo::is_yes) {
        return None;
    }
    let end = match source.mode {
        Some(ChardevMode::Bind) => End::Server,
        _ => End::Client,
    };
    let credentials = format!("obj{id}_tls0");
    let secret = format!("{id}-secret0");
    line.credentials(cx.res, &config.chardev_files, (&credentials, &secret), end);
    Some(credentials)
}

fn unix(cx: Context<'_>, source: CharSource<'_>, id: &str, listener: Option<FdRef>) -> Keyval {
    let first = source.first();
    let mut chardev = Keyval::implied("socket").with("id", id);
    match listener {
        Some(fd) => chardev.set("fd", fd.to_string()),
        None => chardev.set("path", source.path()),
    };
    // A socket whose path the daemon chose is one that it connects to.
    put_listen(
        first.mode == Some(ChardevMode::Bind) || first.path.is_none(),
        &mut chardev,
    );
    put_reconnect(cx, first.reconnect.as_ref(), &mut chardev);
    chardev
}

fn put_listen(listens: bool, chardev: &mut Keyval) {
    if listens {
        chardev.set("server", "on").set("wait", "off");
    }
}

/// Appends how soon to dial again.
pub fn put_reconnect(cx: Context<'_>, reconnect: Option<&Reconnect>, chardev: &mut Keyval) {
    let Some(reconnect) = reconnect else { return };
    let seconds = match reconnect.enabled {
        Some(YesNo::Yes) => reconnect.timeout.unwrap_or_default(),
        Some(YesNo::No) => 0,
        None => return,
    };
    if cx.caps.has(Flag::ChardevReconnectMiliseconds) {
        chardev.set("reconnect-ms", u64::from(seconds) * 1000);
    } else {
        chardev.set("reconnect", seconds);
    }
}

fn vdagent(source: CharSource<'_>, id: &str) -> Keyval {
    let first = source.first();
    let clipboard = first.clipboard.as_ref().and_then(|clipboard| clipboard.copypaste);
    let mut chardev = Keyval::implied("qemu-vdagent")
        .with("id", id)
        .with("name", "vdagent");
    chardev.opt("clipboard", clipboard.map(|copy| on_off(copy.is_yes())));
    chardev.opt("mouse", first.mouse.map(|mode| on_off(mode == MouseMode::Client)));
    chardev
}
