//! `<graphics>`: how the guest's screens are shown.

use domxml::devices::common::YesNo;
use domxml::devices::graphics::{
    Graphics, GraphicsKind, Listen, ListenKind, MouseMode, SpiceChannelMode, VncSharePolicy,
};

use super::audio;
use super::context::Context;
use super::line::CommandLine;
use crate::block::End;
use crate::props::{Keyval, on_off};
use crate::{Error, Result};

/// Ports that a native conversion shows for displays which choose theirs at start.
mod native {
    pub(super) const VNC: i32 = 5900;
    pub(super) const SPICE: i32 = 5901;
    pub(super) const SPICE_TLS: i32 = 5902;
    pub(super) const WEBSOCKET: i32 = -1;
}

/// Number of the first VNC port; displays count from it.
const VNC_BASE: i32 = 5900;

/// Appends all displays.
///
/// # Errors
/// When QEMU has no such display, or a port was not chosen.
pub fn build(cx: Context<'_>, line: &mut CommandLine) -> Result<()> {
    for graphics in &cx.def.devices.graphics {
        match graphics.kind {
            GraphicsKind::Sdl => sdl(graphics, line),
            GraphicsKind::Vnc => vnc(cx, graphics, line)?,
            GraphicsKind::Spice => spice(cx, graphics, line)?,
            GraphicsKind::EglHeadless => egl_headless(cx, graphics, line),
            GraphicsKind::Dbus => dbus(cx, graphics, line)?,
            GraphicsKind::Rdp | GraphicsKind::Desktop => {
                return Err(Error::unsupported(format!(
                    "unsupported graphics type '{}'",
                    graphics.kind.as_str()
                )));
            }
        }
    }
    Ok(())
}

fn gl(graphics: &Graphics) -> Option<YesNo> {
    graphics.gl.as_ref().and_then(|gl| gl.enable)
}

fn rendernode(graphics: &Graphics) -> Option<&str> {
    graphics.gl.as_ref().and_then(|gl| gl.rendernode.as_deref())
}

fn sdl(graphics: &Graphics, line: &mut CommandLine) {
    line.opt_env("XAUTHORITY", graphics.xauth.as_deref());
    line.opt_env("DISPLAY", graphics.display.as_deref());
    if graphics.fullscreen == Some(YesNo::Yes) {
        line.flag("-full-screen");
    }
    let mut display = Keyval::implied("sdl");
    display.opt("gl", gl(graphics).map(|gl| on_off(gl.is_yes())));
    line.push("-display", display);
}

fn egl_headless(cx: Context<'_>, graphics: &Graphics, line: &mut CommandLine) {
    let mut display = Keyval::implied("egl-headless");
    display.opt(
        "rendernode",
        rendernode(graphics).or(cx.res.rendernode.as_deref()),
    );
    line.push("-display", display);
}

fn dbus(cx: Context<'_>, graphics: &Graphics, line: &mut CommandLine) -> Result<()> {
    let mut display = Keyval::implied("dbus");
    if graphics.p2p == Some(YesNo::Yes) {
        display.set("p2p", "on");
    } else {
        let own = format!("unix:path={}", cx.res.dirs.dbus_socket);
        display.set("addr", graphics.address.as_deref().unwrap_or(&own));
    }
    if let Some(gl) = gl(graphics) {
        display.set("gl", on_off(gl.is_yes()));
        display.opt("rendernode", rendernode(graphics));
    }
    if graphics.audio.is_some_and(|id| id != 0) {
        display.set(
            "audiodev",
            audio::audiodev_id(audio::find(cx, graphics.audio)?.id),
        );
    }
    line.push("-display", display);
    Ok(())
}

/// A port as given; one that is chosen at start must have been chosen.
fn chosen(cx: Context<'_>, port: Option<i32>, auto: bool, native: i32) -> Result<i32> {
    match port.unwrap_or_default() {
        port if port > 0 && !(auto && cx.res.is_native()) => Ok(port),
        _ if cx.res.is_native() => Ok(native),
        _ => Err(Error::internal_qemu("the port of a display was not chosen")),
    }
}

fn auto(graphics: &Graphics) -> bool {
    graphics.autoport == Some(YesNo::Yes)
}

fn listen(graphics: &Graphics) -> Listen {
    graphics.listens.first().cloned().unwrap_or_default()
}

/// Path of a display's socket: as given, or in the guest's directory.
fn socket_path(cx: Context<'_>, listen: &Listen, name: &str) -> String {
    listen.socket.clone().unwrap_or_else(|| cx.res.lib_file(name))
}

fn vnc(cx: Context<'_>, graphics: &Graphics, line: &mut CommandLine) -> Result<()> {
    let config = &cx.res.config;
    let mut display = vnc_listen(cx, graphics)?;
    display.opt("share", graphics.share_policy.map(VncSharePolicy::as_str));
    if graphics.passwd.is_some() || config.vnc_password {
        display.set("password", "on");
    }
    if let Some(files) = &config.vnc_tls {
        let ids = ("vnc-tls-creds0", "vnc-tls-creds0-secret0");
        line.credentials(cx.res, files, ids, End::Server);
        display.set("tls-creds", ids.0);
    }
    if config.vnc_sasl {
        display.set("sasl", "on");
        line.opt_env("SASL_CONF_PATH", config.vnc_sasl_dir.as_deref());
    }
    display.opt(
        "power-control",
        graphics.power_control.map(|power| on_off(power.is_yes())),
    );
    display.set(
        "audiodev",
        audio::audiodev_id(audio::find(cx, graphics.audio)?.id),
    );
    line.push("-vnc", display);
    if let Some(keymap) = &graphics.keymap {
        line.push("-k", keymap.as_str());
    }
    Ok(())
}

fn vnc_listen(cx: Context<'_>, graphics: &Graphics) -> Result<Keyval> {
    let listen = listen(graphics);
    match listen.kind {
        ListenKind::Socket => {
            Ok(Keyval::new().with("vnc", format!("unix:{}", socket_path(cx, &listen, "vnc.sock"))))
        }
        ListenKind::None => Ok(Keyval::implied("none")),
        ListenKind::Address | ListenKind::Network => {
            let address = listen.address.as_deref().or(graphics.listen.as_deref());
            let address = address.unwrap_or(&cx.res.config.vnc_listen);
            let port = chosen(cx, graphics.port, auto(graphics), native::VNC)?;
            let display = format!("{}:{}", bracketed(address), port - VNC_BASE);
            let mut display = Keyval::implied(display);
            if graphics.websocket.is_some_and(|port| port != 0) {
                display.set(
                    "websocket",
                    chosen(cx, graphics.websocket, false, native::WEBSOCKET)?,
                );
            }
            Ok(display)
        }
    }
}

/// IPv6 addresses go in brackets.
fn bracketed(address: &str) -> String {
    if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    }
}

fn spice(cx: Context<'_>, graphics: &Graphics, line: &mut CommandLine) -> Result<()> {
    let config = &cx.res.config;
    let mut display = Keyval::new();
    let ports = spice_listen(cx, graphics, &mut display)?;
    if config.spice_sasl {
        display.set("sasl", "on");
        line.opt_env("SASL_CONF_PATH", config.spice_sasl_dir.as_deref());
    }
    display.opt(
        "agent-mouse",
        graphics.mouse.map(|mouse| on_off(mouse != MouseMode::Server)),
    );
    if graphics.passwd.is_none() && !config.spice_password {
        display.set("disable-ticketing", "on");
    }
    if let Some(files) = config.spice_tls.as_ref().filter(|_| ports.encrypted) {
        display.set("x509-dir", &files.dir);
    }
    spice_channels(graphics, ports, &mut display)?;
    spice_compression(graphics, &mut display);
    if gl(graphics) == Some(YesNo::Yes) {
        display.set("gl", "on").opt(
            "rendernode",
            rendernode(graphics).or(cx.res.rendernode.as_deref()),
        );
    }
    display.set("seamless-migration", "on");
    line.push("-spice", display);
    if let Some(keymap) = &graphics.keymap {
        line.push("-k", keymap.as_str());
    }
    Ok(())
}

/// Where a SPICE display is reached; which ports it has.
fn spice_listen(cx: Context<'_>, graphics: &Graphics, display: &mut Keyval) -> Result<SpiceChoice> {
    let none = SpiceChoice {
        plain: false,
        encrypted: false,
    };
    let listen = listen(graphics);
    match listen.kind {
        ListenKind::Socket => {
            display
                .set("unix", "on")
                .set("addr", socket_path(cx, &listen, "spice.sock"));
            Ok(none)
        }
        ListenKind::None => {
            display.set("port", 0);
            Ok(none)
        }
        ListenKind::Address | ListenKind::Network => {
            let ports = spice_ports(cx, graphics, display)?;
            let address = listen.address.as_deref().or(graphics.listen.as_deref());
            display.set("addr", address.unwrap_or(&cx.res.config.spice_listen));
            Ok(ports)
        }
    }
}

/// Ports of a SPICE display, those that are chosen when its guest starts say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpiceChoice {
    /// The plain one.
    pub plain: bool,
    /// The encrypted one.
    pub encrypted: bool,
}

/// Which ports of a SPICE display are chosen; `tls`: whether qemu.conf has SPICE encrypt.
#[must_use]
pub fn spice_choice(graphics: &Graphics, tls: bool) -> SpiceChoice {
    let usual = graphics.default_mode.unwrap_or(SpiceChannelMode::Any);
    let channels = graphics.channels.iter().map(|channel| channel.mode);
    let modes: Vec<_> = channels.chain([usual]).collect();
    let any = usual == SpiceChannelMode::Any;
    let wants = |mode| auto(graphics) && modes.contains(&mode);
    SpiceChoice {
        plain: graphics.port == Some(-1) || wants(SpiceChannelMode::Insecure) || auto(graphics) && any,
        encrypted: graphics.tls_port == Some(-1)
            || wants(SpiceChannelMode::Secure)
            || auto(graphics) && any && tls,
    }
}

/// The ports that a display has.
fn spice_ports(cx: Context<'_>, graphics: &Graphics, display: &mut Keyval) -> Result<SpiceChoice> {
    let tls = cx.res.config.spice_tls.is_some();
    let choice = spice_choice(graphics, tls);
    let shown = |port: Option<i32>, is_chosen: bool, native: i32| match is_chosen && cx.res.is_native() {
        true => Some(native),
        false => port.filter(|port| *port > 0),
    };
    let plain = shown(graphics.port, choice.plain, native::SPICE);
    display.opt("port", plain);
    let encrypted = shown(graphics.tls_port, choice.encrypted, native::SPICE_TLS);
    if encrypted.is_some() && !tls {
        return Err(Error::unsupported(
            "spice TLS port set in XML configuration, but TLS is disabled in qemu.conf",
        ));
    }
    display.opt("tls-port", encrypted);
    Ok(SpiceChoice {
        plain: plain.is_some(),
        encrypted: encrypted.is_some(),
    })
}

/// What channels ask for must be there.
fn spice_mode(mode: SpiceChannelMode, ports: SpiceChoice, [secure, insecure]: [&str; 2]) -> Result<()> {
    match mode {
        SpiceChannelMode::Secure if !ports.encrypted => Err(Error::unsupported(format!(
            "spice {secure} in XML configuration, but TLS connection is not available"
        ))),
        SpiceChannelMode::Insecure if !ports.plain => Err(Error::unsupported(format!(
            "spice {insecure} in XML configuration, but plaintext connection is not available"
        ))),
        _ => Ok(()),
    }
}

fn spice_channels(graphics: &Graphics, ports: SpiceChoice, display: &mut Keyval) -> Result<()> {
    let key = |mode: SpiceChannelMode| match mode {
        SpiceChannelMode::Secure => Some("tls-channel"),
        SpiceChannelMode::Insecure => Some("plaintext-channel"),
        SpiceChannelMode::Any => None,
    };
    if let Some(mode) = graphics.default_mode {
        let words = ["defaultMode secure requested", "defaultMode insecure requested"];
        spice_mode(mode, ports, words)?;
        if let Some(key) = key(mode) {
            display.set(key, "default");
        }
    }
    for channel in &graphics.channels {
        spice_mode(
            channel.mode,
            ports,
            ["secure channels set", "insecure channels set"],
        )?;
        if let Some(key) = key(channel.mode) {
            display.set(key, channel.name.as_str());
        }
    }
    Ok(())
}

fn spice_compression(graphics: &Graphics, display: &mut Keyval) {
    display
        .opt("image-compression", graphics.image.map(|mode| mode.as_str()))
        .opt("jpeg-wan-compression", graphics.jpeg.map(|mode| mode.as_str()))
        .opt(
            "zlib-glz-wan-compression",
            graphics.zlib.map(|mode| mode.as_str()),
        )
        .opt(
            "playback-compression",
            graphics.playback.map(|mode| mode.as_str()),
        )
        .opt("streaming-video", graphics.streaming.map(|mode| mode.as_str()));
    let copy = graphics
        .clipboard
        .as_ref()
        .and_then(|clipboard| clipboard.copypaste);
    if copy == Some(YesNo::No) {
        display.set("disable-copy-paste", "on");
    }
    if graphics.filetransfer == Some(YesNo::No) {
        display.set("disable-agent-file-xfer", "on");
    }
}
