//! Ports of displays: chosen or noted at a start, adopted at a restart, free again when the run drops its lease.

use std::{
    collections::BTreeSet,
    net::{TcpListener, ToSocketAddrs},
    sync::{Arc, Mutex, PoisonError},
};

use domxml::devices::{Graphics, GraphicsKind, ListenKind, SpiceChannelMode, YesNo};

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

/// Ports for displays that leave the choice to us; those that the document names are noted.
pub(crate) fn choose_ports(
    driver: &Driver,
    config: &QemuConfig,
    document: &mut domxml::Domain,
) -> Result<Vec<Lease>> {
    let mut leases = Vec::new();
    for graphics in &mut document.devices.graphics {
        match graphics.kind {
            GraphicsKind::Vnc => choose_vnc(driver, config, graphics, &mut leases)?,
            GraphicsKind::Spice => choose_spice(driver, config, graphics, &mut leases)?,
            _ => {}
        }
    }
    Ok(leases)
}

fn choose_vnc(
    driver: &Driver,
    config: &QemuConfig,
    graphics: &mut Graphics,
    leases: &mut Vec<Lease>,
) -> Result<()> {
    let Some(address) = listen_address(graphics, &config.vnc.listen) else {
        return Ok(());
    };
    graphics.websocket_generated = Some((graphics.websocket == Some(-1)).into());
    let lease = match named(graphics.port) {
        Some(port) => driver.ports.hold(port),
        None => driver.ports.take(config.display_ports, &address)?,
    };
    graphics.port = Some(i32::from(lease.port));
    leases.push(Lease::Port(lease));
    if graphics.websocket == Some(-1) {
        let lease = driver.ports.take(config.websocket_ports, &address)?;
        graphics.websocket = Some(i32::from(lease.port));
        leases.push(Lease::Port(lease));
    }
    Ok(())
}

/// Where SPICE listens that is not told where.
const SPICE_LISTEN: &str = "127.0.0.1";

/// One port for what may be plain, one for what must be encrypted.
fn choose_spice(
    driver: &Driver,
    config: &QemuConfig,
    graphics: &mut Graphics,
    leases: &mut Vec<Lease>,
) -> Result<()> {
    let Some(address) = listen_address(graphics, SPICE_LISTEN) else {
        return Ok(());
    };
    let auto = graphics.autoport == Some(YesNo::Yes);
    let modes = graphics.channels.iter().map(|channel| channel.mode);
    let mut modes = modes.chain([graphics.default_mode.unwrap_or_default()]);
    let (plain, secure) = (
        modes.clone().any(|mode| mode != SpiceChannelMode::Secure),
        modes.any(|mode| mode == SpiceChannelMode::Secure),
    );
    if auto && secure || graphics.tls_port == Some(-1) {
        let message = "Auto allocation of spice TLS port requested but spice TLS is disabled in qemu.conf";
        return Err(Error::new(Code::ConfigUnsupported, message));
    }
    for port in [named(graphics.port), named(graphics.tls_port)]
        .into_iter()
        .flatten()
    {
        leases.push(Lease::Port(driver.ports.hold(port)));
    }
    if auto && plain || graphics.port == Some(-1) {
        let lease = driver.ports.take(config.display_ports, &address)?;
        graphics.port = Some(i32::from(lease.port));
        leases.push(Lease::Port(lease));
    }
    Ok(())
}

/// A port that a document names.
fn named(port: Option<i32>) -> Option<u16> {
    port.and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
}

/// What the status file tells of every place where a display is reached: whether qemu.conf said so, and whether we made
/// it up; the path of a socket that the document leaves open is filled in.
pub(crate) fn complete_listens(document: &mut domxml::Domain, lib_dir: &str) {
    for graphics in &mut document.devices.graphics {
        let kind = graphics.kind;
        for listen in &mut graphics.listens {
            let generated = listen.kind == ListenKind::Socket && listen.socket.is_none();
            if generated {
                let socket = format!("{lib_dir}/{}.sock", kind.as_str());
                graphics.socket = Some(socket.clone());
                listen.socket = Some(socket);
            }
            listen.from_config.get_or_insert(0);
            listen.auto_generated.get_or_insert(generated.into());
        }
    }
}

/// The address that a display listens at, filled in where the document has none; none for a display without one.
pub(crate) fn listen_address(graphics: &mut Graphics, default: &str) -> Option<String> {
    let listen = graphics.listens.first_mut()?;
    match listen.kind {
        ListenKind::Address => {}
        ListenKind::Network => return listen.address.clone(),
        ListenKind::None | ListenKind::Socket => return None,
    }
    let address = listen.address.get_or_insert_with(|| {
        listen.from_config = Some(1);
        default.to_owned()
    });
    graphics.listen = Some(address.clone());
    Some(address.clone())
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

    #[test]
    fn the_status_file_tells_where_each_address_is_from() {
        let text = "<domain type='qemu' id='1'><name>a</name><devices>
            <graphics type='vnc'><listen type='address' address='::1'/></graphics>
            <graphics type='vnc'><listen type='socket'/></graphics>
            <graphics type='spice'><listen type='none'/></graphics></devices></domain>";
        let mut domain = domxml::Domain::parse(text, domxml::ParseFlags::NONE).unwrap();
        complete_listens(&mut domain, "/lib/1-a");
        let listens = domain.devices.graphics.iter().map(|g| &g.listens[0]);
        let told: Vec<_> = listens
            .map(|l| {
                (
                    l.from_config,
                    l.auto_generated.map(|yes| yes.as_str()),
                    l.socket.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                (Some(0), Some("no"), None),
                (Some(0), Some("yes"), Some("/lib/1-a/vnc.sock")),
                (Some(0), Some("no"), None)
            ]
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
