//! Serial ports, consoles and channels: targets, numbers, and the console that is the first serial port.

use domxml::devices::{
    Channel, Chardev, ChardevKind, ChardevMode, ChardevProtocol, Console, ConsoleTarget, ConsoleTargetKind,
    DeviceInfo, Devices, Serial, SerialModel, SerialTarget, SerialTargetKind,
};

/// Fills in serial ports, consoles and channels.
pub(super) fn fill(devices: &mut Devices, channel_dirs: &[String]) {
    fill_backends(devices);
    fill_serials(&mut devices.serials);
    pair_console(devices);
    fill_targets(devices, channel_dirs);
}

/// Fills in targets, numbers and names.
pub(super) fn fill_targets(devices: &mut Devices, channel_dirs: &[String]) {
    fill_backends(devices);
    fill_serials(&mut devices.serials);
    fill_parallels(devices);
    fill_consoles(devices);
    name_spice(devices);
    drop_generated_paths(devices, channel_dirs);
}

/// Takes away the sockets of channels that were made for a run.
pub fn drop_generated_paths(devices: &mut Devices, channel_dirs: &[String]) {
    devices
        .channels
        .iter_mut()
        .for_each(|c| drop_generated_path(c, channel_dirs));
}

fn name_spice(devices: &mut Devices) {
    let spice = |c: &&mut Channel| c.chardev.kind == ChardevKind::Spicevmc;
    for channel in devices.channels.iter_mut().filter(spice) {
        if let Some(target) = &mut channel.target {
            target.name.get_or_insert_with(|| SPICE_AGENT.to_owned());
        }
    }
}

/// What connects, and in which words; a protocol is for TCP only.
fn fill_backends(devices: &mut Devices) {
    let all = devices.serials.iter_mut().map(|c| &mut c.chardev);
    let all = all.chain(devices.parallels.iter_mut().map(|c| &mut c.chardev));
    let all = all.chain(devices.consoles.iter_mut().map(|c| &mut c.chardev));
    let all = all.chain(devices.channels.iter_mut().map(|c| &mut c.chardev));
    for chardev in all.chain(devices.redirdevs.iter_mut().map(|c| &mut c.chardev)) {
        if matches!(chardev.kind, ChardevKind::Tcp | ChardevKind::Udp)
            && let Some(source) = chardev.sources.first_mut()
        {
            source.mode.get_or_insert(ChardevMode::Connect);
        }
        if chardev.kind == ChardevKind::Tcp {
            chardev.protocol.get_or_insert(ChardevProtocol::Raw);
        } else {
            chardev.protocol = None;
        }
    }
    for card in devices
        .smartcards
        .iter_mut()
        .filter(|c| c.kind != Some(ChardevKind::Tcp))
    {
        card.protocol = None;
    }
}

/// Name of the port of SPICE's agent.
const SPICE_AGENT: &str = "com.redhat.spice.0";

fn is_serial(console: &Console) -> bool {
    matches!(
        console.target.as_ref().and_then(|t| t.kind),
        None | Some(ConsoleTargetKind::Serial)
    )
}

/// The first console of kind `serial` is the first serial port: either may be written down, both are kept.
fn pair_console(devices: &mut Devices) {
    let serial_console = devices.consoles.first().is_some_and(is_serial);
    if serial_console && devices.serials.is_empty() {
        let chardev = devices.consoles[0].chardev.clone();
        let address = devices.consoles[0].info.address.take();
        let info = DeviceInfo {
            address,
            ..devices.consoles[0].info.clone()
        };
        let target = Some(SerialTarget {
            port: Some(0),
            ..SerialTarget::default()
        });
        devices.serials.push(Serial {
            chardev,
            target,
            info,
        });
    }
    let Some(first) = devices.serials.first() else {
        return;
    };
    if serial_console {
        devices.consoles[0].chardev = first.chardev.clone();
        devices.consoles[0].info = first.info.clone();
        let port = first.target.as_ref().and_then(|t| t.port);
        let target = devices.consoles[0].target.get_or_insert_default();
        target.port = port.or(target.port);
    } else if has_console(first) {
        let info = first.info.clone();
        let target = Some(ConsoleTarget {
            kind: Some(ConsoleTargetKind::Serial),
            port: first.target.as_ref().and_then(|t| t.port),
        });
        let console = Console {
            chardev: first.chardev.clone(),
            target,
            info,
            ..Console::default()
        };
        devices.consoles.insert(0, console);
        // The others are one further back now.
        for (port, console) in (0..).zip(&mut devices.consoles).skip(1) {
            console.target.get_or_insert_default().port = Some(port);
        }
    }
}

/// The console that is a serial port is seen where that is.
pub(super) fn mirror_console(devices: &mut Devices) {
    if let (Some(first), Some(console)) = (devices.serials.first(), devices.consoles.first_mut())
        && is_serial(console)
    {
        console.info = first.info.clone();
    }
}

/// Ports on plug-in cards are no console.
fn has_console(serial: &Serial) -> bool {
    let kind = serial
        .target
        .as_ref()
        .and_then(|t| t.kind)
        .unwrap_or(SerialTargetKind::IsaSerial);
    !matches!(
        kind,
        SerialTargetKind::UsbSerial | SerialTargetKind::PciSerial | SerialTargetKind::IsaDebug
    )
}

/// QEMU device of each kind of serial port.
const MODELS: &[(SerialTargetKind, SerialModel)] = &[
    (SerialTargetKind::IsaSerial, SerialModel::IsaSerial),
    (SerialTargetKind::UsbSerial, SerialModel::UsbSerial),
    (SerialTargetKind::PciSerial, SerialModel::PciSerial),
    (SerialTargetKind::SpaprVioSerial, SerialModel::SpaprVty),
    (SerialTargetKind::SclpSerial, SerialModel::Sclpconsole),
    (SerialTargetKind::IsaDebug, SerialModel::IsaDebugcon),
];

fn fill_serials(serials: &mut [Serial]) {
    let mut next = Numbers::after(serials.iter().map(|s| s.target.as_ref().and_then(|t| t.port)));
    for serial in serials {
        let target = serial.target.get_or_insert_with(SerialTarget::default);
        let kind = *target.kind.get_or_insert(SerialTargetKind::IsaSerial);
        next.fill(&mut target.port);
        if target.model.is_none() {
            target.model = MODELS.iter().find(|(k, _)| *k == kind).map(|(_, m)| *m);
        }
    }
}

fn fill_parallels(devices: &mut Devices) {
    // Of parallel ports only those before count.
    let mut next = Numbers(0);
    for parallel in &mut devices.parallels {
        let port = &mut parallel.target.get_or_insert_default().port;
        next.fill(port);
        next = Numbers::after([Some(next.0.saturating_sub(1)).filter(|_| next.0 > 0), *port].into_iter());
    }
}

fn fill_consoles(devices: &mut Devices) {
    let given = devices
        .consoles
        .iter()
        .map(|console| console.target.as_ref().and_then(|target| target.port));
    let mut next = Numbers::after(given);
    for console in &mut devices.consoles {
        let target = console.target.get_or_insert_default();
        target.kind.get_or_insert(ConsoleTargetKind::Serial);
        next.fill(&mut target.port);
    }
}

/// Numbers for those that have none: one more than the highest so far.
struct Numbers(u32);

impl Numbers {
    fn after(given: impl Iterator<Item = Option<u32>>) -> Self {
        Self(given.flatten().max().map_or(0, |m| m.saturating_add(1)))
    }

    fn fill(&mut self, number: &mut Option<u32>) {
        if number.is_none() {
            *number = Some(self.0);
            self.0 = self.0.saturating_add(1);
        }
    }
}

/// A socket below the daemon's own directory is made anew at each start, and not kept.
fn drop_generated_path(channel: &mut Channel, channel_dirs: &[String]) {
    if channel.chardev.kind != ChardevKind::Unix {
        return;
    }
    let name = channel.target.as_ref().and_then(|t| t.name.clone());
    if let Some(name) = name
        && channel
            .chardev
            .path()
            .is_some_and(|p| is_generated(p, channel_dirs, &name))
        && let Some(source) = channel.chardev.sources.first_mut()
    {
        source.path = None;
    }
    let empty = |c: &Chardev| {
        c.source()
            .is_some_and(|s| s.path.is_none() && s.reconnect.is_none())
    };
    if empty(&channel.chardev) {
        channel.chardev.sources.clear();
    }
}

/// Below `DIR/[target/]`: `DOMAIN.NAME`, `domain-ID-DOMAIN/NAME` or `ID-DOMAIN/NAME`, for any domain.
fn is_generated(path: &str, channel_dirs: &[String], name: &str) -> bool {
    let mut below = channel_dirs
        .iter()
        .filter_map(|dir| path.strip_prefix(dir.as_str()));
    let Some(rest) = below.find_map(|rest| rest.strip_prefix('/')) else {
        return false;
    };
    let rest = rest.strip_prefix("target/").unwrap_or(rest);
    let Some(owner) = rest.strip_suffix(name) else {
        return false;
    };
    let (owner, end) = owner.split_at(owner.len().saturating_sub(1));
    let numbered = |o: &str| {
        o.split_once('-')
            .is_some_and(|(n, _)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    !owner.is_empty()
        && !owner.contains('/')
        && (end == "." || end == "/" && (owner.starts_with("domain-") || numbered(owner)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_were_made_for_a_run_are_known_by_where_they_are() {
        let dirs = ["/run/c".to_owned(), "/lib/c".to_owned()];
        for (path, generated) in [
            ("/run/c/3-web/agent", true),
            ("/lib/c/target/domain-3-web/agent", true),
            ("/lib/c/target/web.agent", true),
            ("/lib/c/web/agent", false),
            ("/run/c/3-web/other", false),
            ("/tmp/c/3-web/agent", false),
        ] {
            assert_eq!(is_generated(path, &dirs, "agent"), generated, "{path}");
        }
    }
}
