//! `<input>` and `<hub>`: keyboards, pointers, host event devices.

use domxml::devices::common::OnOff;
use domxml::devices::small::{GrabToggle, Hub, Input, InputBus, InputGrab, InputKind};

use super::address::{self, Virtio};
use super::context::{Context, alias};
use super::line::CommandLine;
use crate::props::Props;
use crate::{Error, Result};

/// Appends an input device; what a machine has built in adds nothing.
///
/// # Errors
/// When QEMU has no such device.
pub fn build(cx: Context<'_>, input: &Input, line: &mut CommandLine) -> Result<()> {
    if input.kind == InputKind::Evdev {
        line.object(evdev(input)?);
    } else if let Some(props) = props(cx, input)? {
        line.device(props);
    }
    Ok(())
}

fn evdev(input: &Input) -> Result<Props> {
    let source = input.source.clone().unwrap_or_default();
    let device = source.dev.ok_or_else(|| Error::null("evdev"))?;
    Ok(Props::object("input-linux", alias(&input.info)?)
        .with("evdev", device)
        .with_opt("repeat", source.repeat.map(OnOff::is_on))
        .with_opt("grab_all", source.grab.map(|grab| grab == InputGrab::All))
        .with_opt("grab-toggle", source.grab_toggle.map(GrabToggle::as_str)))
}

/// Front end of an input device; `None` when the machine has it.
///
/// # Errors
/// When QEMU has no such device.
pub fn props(cx: Context<'_>, input: &Input) -> Result<Option<Props>> {
    let mut props = match input.bus.unwrap_or_default() {
        InputBus::Usb => usb(input)?,
        InputBus::Virtio => virtio(input)?,
        _ => return Ok(None),
    };
    props.set("id", alias(&input.info)?);
    if input.kind == InputKind::Passthrough {
        props.opt(
            "evdev",
            input.source.as_ref().and_then(|source| source.evdev.clone()),
        );
    }
    address::put(cx, &input.info, &mut props)?;
    Ok(Some(props))
}

fn usb(input: &Input) -> Result<Props> {
    match input.kind {
        InputKind::Mouse => Ok(Props::driver("usb-mouse")),
        InputKind::Tablet => Ok(Props::driver("usb-tablet")),
        InputKind::Keyboard => Ok(Props::driver("usb-kbd")),
        other => Err(Error::unsupported(format!(
            "unsupported input type '{}' on bus 'usb'",
            other.as_str()
        ))),
    }
}

fn virtio(input: &Input) -> Result<Props> {
    let base = match input.kind {
        InputKind::Mouse => "virtio-mouse",
        InputKind::Tablet => "virtio-tablet",
        InputKind::Keyboard => "virtio-keyboard",
        InputKind::Passthrough => "virtio-input-host",
        InputKind::Evdev => return Err(Error::internal_qemu("evdev input has no front end")),
    };
    let options = input.driver.as_ref().map(|driver| &driver.virtio);
    address::virtio(base, &input.info, Virtio::new(input.model, options))
}

/// Front end of a hub.
///
/// # Errors
/// When its bus is not there.
pub fn hub_props(cx: Context<'_>, hub: &Hub) -> Result<Props> {
    let mut props = Props::driver("usb-hub").with("id", alias(&hub.info)?);
    address::put(cx, &hub.info, &mut props)?;
    Ok(props)
}
