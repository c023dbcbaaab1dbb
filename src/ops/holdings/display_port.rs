//! Ports of displays: chosen or noted at a start, adopted at a restart, free again when the run drops its lease.

use std::{
    collections::BTreeSet,
    net::{TcpListener, ToSocketAddrs},
    sync::{Arc, Mutex, PoisonError},
};

use domxml::devices::{Graphics, GraphicsKind, Listen, ListenKind};
use qemu_plan::command::graphics::spice_choice;

use crate::{
    config::PortRange,
    error::{Area, Code, Error, Result},
    ops::{Driver, QemuConfig},
};

/// What a run holds of the host; dropped, it is given back.
pub enum Lease {
    /// A port of a display.
    Port(PortLease),
}

/// Ports of displays in use by guests.
#[derive(Clone, Default)]
pub struct Ports {
    used: Arc<Mutex<BTreeSet<u16>>>,
}

/// One port in use.
pub struct PortLease {
    /// The port.
    pub port: u16,
    ports: Ports,
}

impl Ports {
    fn used(&self) -> std::sync::MutexGuard<'_, BTreeSet<u16>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first port of `range` that no guest of ours and nobody else on the host has, on `address`.
    ///
    /// # Errors
    /// `Internal` if there is none.
    pub fn take(&self, range: PortRange, address: &str) -> Result<PortLease> {
        let mut used = self.used();
        let free = (range.min..=range.max).find(|port| !used.contains(port) && can_bind(address, *port));
        let port = free.ok_or_else(|| {
            Error::internal(format!(
                "Unable to find an unused port in range 'display' ({}-{})",
                range.min, range.max
            ))
            .in_area(Area::None)
        })?;
        used.insert(port);
        Ok(PortLease {
            port,
            ports: self.clone(),
        })
    }

    /// Notes a port that a guest has already, or was given by its document.
    pub fn hold(&self, port: u16) -> PortLease {
        self.used().insert(port);
        PortLease {
            port,
            ports: self.clone(),
        }
    }
}

impl Drop for PortLease {
    fn drop(&mut self) {
        self.ports.used().remove(&self.port);
    }
}

pub(crate) fn can_bind(address: &str, port: u16) -> bool {
    let bind = |address: &str| {
        (address, port)
            .to_socket_addrs()
            .ok()
            .and_then(|mut a| a.next())
            .map(|a| TcpListener::bind(a).is_ok())
    };
    bind(address).or_else(|| bind("0.0.0.0")).unwrap_or(false)
}

/// Where each display is reached: addresses and sockets that the document leaves open are filled in. The status file tells
/// whether qemu.conf said so, and whether we made it up.
pub(crate) fn complete_listens(config: &QemuConfig, document: &mut domxml::Domain, lib_dir: &str) {
    for graphics in &mut document.devices.graphics {
        let usual = match graphics.kind {
            GraphicsKind::Vnc => Some((&config.vnc.listen, config.vnc.auto_unix_socket)),
            GraphicsKind::Spice => Some((&config.spice.listen, config.spice.auto_unix_socket)),
            _ => None,
        };
        let socket = format!("{lib_dir}/{}.sock", graphics.kind.as_str());
        let first = graphics.listens.first().map(|listen| listen.kind);
        for listen in &mut graphics.listens {
            complete(listen, usual, &socket);
        }
        let Some(listen) = graphics.listens.first() else {
            continue;
        };
        match listen.kind {
            ListenKind::Address => graphics.listen.clone_from(&listen.address),
            ListenKind::Socket => {
                if graphics.kind == GraphicsKind::Vnc {
                    graphics.socket.clone_from(&listen.socket);
                }
                if first == Some(ListenKind::Address) {
                    // It has no port, although the document left one open.
                    (graphics.port, graphics.tls_port, graphics.autoport) = (None, None, None);
                }
            }
            ListenKind::None | ListenKind::Network => {}
        }
    }
}

/// One place where a display is reached; `usual`: qemu.conf's address, and whether it wants a socket instead.
fn complete(listen: &mut Listen, usual: Option<(&String, bool)>, socket: &str) {
    let mut generated = false;
    match (listen.kind, usual) {
        (ListenKind::Address, Some((_, true))) if listen.address.is_none() => {
            (listen.kind, listen.from_config) = (ListenKind::Socket, Some(1));
            listen.socket = Some(socket.to_owned());
        }
        (ListenKind::Address, Some((address, false))) if listen.address.is_none() => {
            (listen.address, listen.from_config) = (Some(address.clone()), Some(1));
        }
        (ListenKind::Socket, _) if listen.socket.is_none() => {
            listen.socket = Some(socket.to_owned());
            generated = true;
        }
        _ => {}
    }
    listen.from_config.get_or_insert(0);
    listen.auto_generated.get_or_insert(generated.into());
}

/// Ports for displays that leave the choice to us; those that the document names are noted. Displays must be told before
/// where they are reached.
///
/// # Errors
/// There is none left, or one that encrypts is asked for and qemu.conf has none encrypt.
pub(crate) fn choose_ports(
    driver: &Driver,
    config: &QemuConfig,
    document: &mut domxml::Domain,
) -> Result<Vec<Lease>> {
    let mut leases = Vec::new();
    for graphics in &mut document.devices.graphics {
        let Some(address) = address(graphics) else {
            continue;
        };
        let choice = Choice {
            ports: &driver.ports,
            config,
            address: &address,
        };
        let chosen = match graphics.kind {
            GraphicsKind::Vnc => choice.vnc(graphics)?,
            GraphicsKind::Spice => choice.spice(graphics)?,
            _ => Vec::new(),
        };
        leases.extend(chosen.into_iter().map(Lease::Port));
    }
    Ok(leases)
}

/// The address that a display listens at; none for one that is not reached by ports.
fn address(graphics: &Graphics) -> Option<String> {
    let listen = graphics.listens.first()?;
    let by_port = matches!(listen.kind, ListenKind::Address | ListenKind::Network);
    by_port.then(|| listen.address.clone().unwrap_or_default())
}

/// Choosing the ports of one display.
struct Choice<'a> {
    ports: &'a Ports,
    config: &'a QemuConfig,
    address: &'a str,
}

impl Choice<'_> {
    fn vnc(&self, graphics: &mut Graphics) -> Result<Vec<PortLease>> {
        graphics.websocket_generated = Some((graphics.websocket == Some(-1)).into());
        let mut leases = vec![self.port(&mut graphics.port)?];
        if graphics.websocket == Some(-1) {
            let lease = self.ports.take(self.config.websocket_ports, self.address)?;
            graphics.websocket = Some(i32::from(lease.port));
            leases.push(lease);
        } else {
            leases.extend(self.named(graphics.websocket));
        }
        Ok(leases)
    }

    fn spice(&self, graphics: &mut Graphics) -> Result<Vec<PortLease>> {
        let choice = spice_choice(graphics, self.config.spice.tls.on);
        if choice.encrypted && !self.config.spice.tls.on {
            let text = "Auto allocation of spice TLS port requested but spice TLS is disabled in qemu.conf";
            return Err(Error::new(Code::ConfigUnsupported, text));
        }
        let ports = [
            (choice.plain, &mut graphics.port),
            (choice.encrypted, &mut graphics.tls_port),
        ];
        let mut leases = Vec::new();
        for (is_chosen, port) in ports {
            if is_chosen {
                *port = None;
                leases.push(self.port(port)?);
            } else {
                leases.extend(self.named(*port));
            }
        }
        Ok(leases)
    }

    /// The port that the document names, or one that is free.
    fn port(&self, port: &mut Option<i32>) -> Result<PortLease> {
        let lease = match self.named(*port) {
            Some(lease) => lease,
            None => self.ports.take(self.config.display_ports, self.address)?,
        };
        *port = Some(i32::from(lease.port));
        Ok(lease)
    }

    fn named(&self, port: Option<i32>) -> Option<PortLease> {
        let port = u16::try_from(port?).ok().filter(|port| *port != 0)?;
        Some(self.ports.hold(port))
    }
}

/// Ports that a run found at start-up has.
pub(crate) fn leases_of(driver: &Driver, document: &domxml::Domain) -> Vec<Lease> {
    let ports = document
        .devices
        .graphics
        .iter()
        .flat_map(|g| [g.port, g.websocket, g.tls_port]);
    let ports = ports
        .flatten()
        .filter_map(|p| u16::try_from(p).ok())
        .filter(|p| *p != 0);
    ports.map(|port| Lease::Port(driver.ports.hold(port))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_lent_once_and_comes_back() {
        let ports = Ports::default();
        let range = PortRange {
            min: 47_100,
            max: 47_140,
        };
        let first = ports.take(range, "127.0.0.1").unwrap();
        let second = ports.take(range, "127.0.0.1").unwrap();
        assert_ne!(first.port, second.port);
        let port = first.port;
        drop(first);
        assert_eq!(ports.take(range, "127.0.0.1").unwrap().port, port);
    }

    fn displays(devices: &str) -> domxml::Domain {
        let text = format!("<domain type='qemu' id='1'><name>a</name><devices>{devices}</devices></domain>");
        domxml::Domain::parse(&text, domxml::ParseFlags::NONE).unwrap()
    }

    #[test]
    fn the_status_file_tells_where_each_address_is_from() {
        let mut domain = displays(
            "<graphics type='vnc'><listen type='address' address='::1'/></graphics>
            <graphics type='vnc'><listen type='address'/></graphics>
            <graphics type='vnc'><listen type='socket'/></graphics>
            <graphics type='spice'><listen type='none'/></graphics>",
        );
        complete_listens(&QemuConfig::usual(), &mut domain, "/lib/1-a");
        let listens = domain.devices.graphics.iter().map(|g| &g.listens[0]);
        let told: Vec<_> = listens
            .map(|l| {
                (
                    l.from_config,
                    l.auto_generated.map(|yes| yes.as_str()),
                    l.address.as_deref().or(l.socket.as_deref()),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                (Some(0), Some("no"), Some("::1")),
                (Some(1), Some("no"), Some("127.0.0.1")),
                (Some(0), Some("yes"), Some("/lib/1-a/vnc.sock")),
                (Some(0), Some("no"), None)
            ]
        );
    }

    #[test]
    fn a_display_may_be_a_socket_because_the_configuration_says_so() {
        let mut config = QemuConfig::usual();
        config.spice.auto_unix_socket = true;
        let mut domain =
            displays("<graphics type='spice' autoport='yes'><listen type='address'/></graphics>");
        complete_listens(&config, &mut domain, "/lib/1-a");
        let display = &domain.devices.graphics[0];
        assert_eq!(display.listens[0].socket.as_deref(), Some("/lib/1-a/spice.sock"));
        assert_eq!(display.socket, None, "only VNC's is told twice");
        assert_eq!(address(display), None);
    }

    #[test]
    fn the_ports_of_a_display_are_those_that_its_channels_need() {
        let mut config = QemuConfig::usual();
        let ports = Ports::default();
        config.display_ports = PortRange {
            min: 47_200,
            max: 47_299,
        };
        let mut chosen = |tls, attributes: &str, channels: &str| -> Result<(usize, bool, bool), String> {
            config.spice.tls.on = tls;
            let mut domain = displays(&format!(
                "<graphics type='spice' {attributes}><listen type='address' address='127.0.0.1'/>{channels}</graphics>"
            ));
            let display = &mut domain.devices.graphics[0];
            let choice = Choice {
                ports: &ports,
                config: &config,
                address: "127.0.0.1",
            };
            let leases = choice.spice(display).map_err(|error| error.to_string())?;
            let is_chosen = |port: Option<i32>| port.is_some_and(|port| port >= 47_200);
            Ok((leases.len(), is_chosen(display.port), is_chosen(display.tls_port)))
        };
        assert_eq!(chosen(false, "autoport='yes'", ""), Ok((1, true, false)));
        assert_eq!(chosen(true, "autoport='yes'", ""), Ok((2, true, true)));
        assert_eq!(
            chosen(true, "autoport='yes' defaultMode='insecure'", ""),
            Ok((1, true, false))
        );
        assert_eq!(
            chosen(true, "autoport='yes' defaultMode='secure'", ""),
            Ok((1, false, true))
        );
        let channel = "<channel name='main' mode='insecure'/>";
        assert_eq!(
            chosen(true, "autoport='yes' defaultMode='secure'", channel),
            Ok((2, true, true))
        );
        assert_eq!(
            chosen(false, "port='5999' autoport='no'", ""),
            Ok((1, false, false))
        );
        let refused = "unsupported configuration: Auto allocation of spice TLS port requested but spice TLS is disabled \
                       in qemu.conf";
        assert_eq!(
            chosen(false, "port='5999' tlsPort='-1' autoport='no'", ""),
            Err(refused.to_owned())
        );
    }

    #[test]
    fn a_port_of_somebody_else_is_passed_over() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let range = PortRange { min: port, max: port };
        assert!(Ports::default().take(range, "127.0.0.1").is_err());
    }
}
