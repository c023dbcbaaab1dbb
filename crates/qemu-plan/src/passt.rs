//! Command lines of `passt`, which connects an interface without privileges: word for word what libvirt has.

use domxml::devices::Interface;
use domxml::devices::common::YesNo;
use domxml::devices::interface::{InterfaceKind, NetBackendKind};
use domxml::devices::netparts::{PortForward, PortRange};

/// Whether an interface is connected by a passt that the daemon runs.
#[must_use]
pub fn is_run(card: &Interface) -> bool {
    let passt = card.backend.as_ref().and_then(|backend| backend.kind) == Some(NetBackendKind::Passt);
    passt && matches!(card.kind, InterfaceKind::User | InterfaceKind::Vhostuser)
}

/// Arguments of the program for an interface, which listens at `socket` and writes its number into `pid_file`.
#[must_use]
pub fn arguments(card: &Interface, socket: &str, pid_file: &str) -> Vec<String> {
    let mut line = vec!["--one-off".to_owned()];
    let mut add = |name: &str, value: String| line.extend([name.to_owned(), value]);
    add("--socket", socket.to_owned());
    add("--pid", pid_file.to_owned());
    if let Some(mtu) = card.mtu {
        add("--mtu", mtu.to_string());
    }
    if let Some(dev) = card.source.as_ref().and_then(|source| source.dev.clone()) {
        add("--interface", dev);
    }
    if let Some(file) = card.backend.as_ref().and_then(|backend| backend.log_file.clone()) {
        add("--log-file", file);
    }
    for ip in &card.ips {
        add("--address", ip.address.clone());
        let is_v4 = !ip.address.contains(':');
        if let Some(prefix) = ip.prefix.filter(|prefix| *prefix != 0 && is_v4) {
            add("--netmask", prefix.to_string());
        }
    }
    for forward in &card.port_forwards {
        let protocol = if forward.proto == "udp" {
            "--udp-ports"
        } else {
            "--tcp-ports"
        };
        add(protocol, ports(forward));
    }
    if card.kind == InterfaceKind::Vhostuser {
        line.push("--vhost-user".to_owned());
    }
    line
}

fn ports(forward: &PortForward) -> String {
    let address = forward.address.clone().unwrap_or_default();
    let device = forward
        .dev
        .as_ref()
        .map(|dev| format!("%{dev}"))
        .unwrap_or_default();
    let slash = if address.is_empty() && device.is_empty() {
        ""
    } else {
        "/"
    };
    let ranges: Vec<_> = forward.ranges.iter().map(range).collect();
    let ranges = match ranges.is_empty() {
        true => "all".to_owned(),
        false => ranges.join(","),
    };
    format!("{address}{device}{slash}{ranges}")
}

fn range(range: &PortRange) -> String {
    let span = |start: u32| {
        let end = range
            .end
            .map(|end| start.saturating_add(end.saturating_sub(range.start)));
        end.map_or_else(|| start.to_string(), |end| format!("{start}-{end}"))
    };
    let excluded = if range.exclude == Some(YesNo::Yes) {
        "~"
    } else {
        ""
    };
    let to = range.to.map(|to| format!(":{}", span(to))).unwrap_or_default();
    format!("{excluded}{}{to}", span(range.start))
}

#[cfg(test)]
mod tests {
    use domxml::Domain;

    use super::*;

    #[test]
    fn lines_are_libvirts() {
        let cases = [
            ("", ""),
            (
                "<mtu size='1400'/><source dev='no9'/>",
                "--mtu 1400 --interface no9",
            ),
            (
                "<ip address='10.0.0.2' prefix='24'/>",
                "--address 10.0.0.2 --netmask 24",
            ),
            (
                "<ip family='ipv6' address='fd00::1' prefix='64'/>",
                "--address fd00::1",
            ),
            (
                "<portForward proto='tcp' dev='lo'><range start='1'/></portForward>",
                "--tcp-ports %lo/1",
            ),
            ("<portForward proto='tcp' address='::1'/>", "--tcp-ports ::1/all"),
            ("<portForward proto='tcp'/>", "--tcp-ports all"),
            (
                "<portForward proto='udp' address='::1' dev='lo'><range start='5' end='9' exclude='yes'/></portForward>",
                "--udp-ports ::1%lo/~5-9",
            ),
            (
                "<portForward proto='tcp'><range start='5' end='9' to='5'/><range start='7' to='7'/>\
                 <range start='10' end='10' to='12'/></portForward>",
                "--tcp-ports 5-9:5-9,7:7,10-10:12-12",
            ),
            (
                "<portForward proto='tcp'><range start='3000' end='3010' to='4000'/></portForward>",
                "--tcp-ports 3000-3010:4000-4010",
            ),
        ];
        for (more, expected) in cases {
            let text = format!(
                "<domain type='qemu'><name>a</name><os><type>hvm</type></os><devices>\
                 <interface type='user'><backend type='passt'/>{more}</interface></devices></domain>"
            );
            let domain = Domain::parse(&text, domxml::ParseFlags::NONE).unwrap();
            let card = &domain.devices.interfaces[0];
            assert!(is_run(card));
            let line = arguments(card, "/s", "/p").join(" ");
            let usual = "--one-off --socket /s --pid /p";
            assert_eq!(
                line.strip_prefix(usual).map(str::trim_start),
                Some(expected),
                "{more}"
            );
        }
    }
}
