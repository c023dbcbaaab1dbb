//! Whether the host's ends of a guest's interfaces take part in the network: they do while its CPUs run.
//!
//! A macvtap has the guest's own address, so one that is on while the guest can't answer misleads the network; and an
//! address in the table of a bridge that libvirt's daemons keep belongs there while the guest sends from it. Called when
//! CPUs are let run and when they were stopped.

use std::sync::Arc;

use domxml::devices::{Interface, InterfaceKind, interface::MacTableManager};
use qemu_plan::command::net::kind;

use crate::{
    domain::View,
    error::Result,
    ops::holdings::net::macvtap::{failed, parse, plug_source},
};

/// What is done for one interface.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// A macvtap, and the device below.
    Switch { device: String, below: Option<String> },
    /// An address behind a port of a bridge.
    Address { port: String, mac: [u8; 6] },
}

impl Step {
    fn of(interface: &Interface) -> Option<Self> {
        let device = interface.target.as_ref().and_then(|t| t.dev.clone())?;
        let source = plug_source(interface);
        let by_us = source.is_some_and(|s| s.mac_table_manager == Some(MacTableManager::Libvirt));
        match kind(interface) {
            InterfaceKind::Direct => Some(Self::Switch {
                device,
                below: source.and_then(|s| s.dev.clone()),
            }),
            InterfaceKind::Network | InterfaceKind::Bridge if by_us => Some(Self::Address {
                port: device,
                mac: interface.mac.as_ref().and_then(|m| parse(&m.address))?,
            }),
            _ => None,
        }
    }

    fn allow(&self) -> Result<()> {
        match self {
            Self::Switch { device, below } => {
                let is_on = |below: &String| {
                    unixfd::is_up(below).map_err(|error| {
                        failed(format_args!("Cannot get interface flags on '{below}'"), error)
                    })
                };
                if let Some(below) = below
                    && !is_on(below)?
                {
                    switch(below, unixfd::set_up)?;
                }
                switch(device, unixfd::set_up)
            }
            Self::Address { port, mac } => match unixfd::add_bridge_address(port, *mac) {
                // It was there from before.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
                result => {
                    result.map_err(|error| failed(format_args!("error adding fdb entry for {port}"), error))
                }
            },
        }
    }

    fn hold_back(&self) -> Result<()> {
        match self {
            Self::Switch { device, .. } => switch(device, unixfd::set_down),
            Self::Address { port, mac } => unixfd::remove_bridge_address(port, *mac)
                .map_err(|error| failed(format_args!("error deleting fdb entry for {port}"), error)),
        }
    }
}

fn switch(device: &str, change: fn(&str) -> std::io::Result<()>) -> Result<()> {
    change(device).map_err(|error| failed(format_args!("Cannot set interface flags on '{device}'"), error))
}

/// The CPUs are about to run.
///
/// # Errors
/// The kernel's, of the first interface that can't.
pub(crate) async fn allow(document: &domxml::Domain) -> Result<()> {
    let steps = steps(document);
    if steps.is_empty() {
        return Ok(());
    }
    crate::blocking::file("switching interfaces on", move || {
        steps.iter().try_for_each(Step::allow)
    })
    .await
}

/// One interface has come to a guest whose CPUs run.
///
/// # Errors
/// The kernel refuses.
pub(crate) async fn allow_one(interface: &Interface) -> Result<()> {
    match Step::of(interface) {
        Some(step) => crate::blocking::file("switching an interface on", move || step.allow()).await,
        None => Ok(()),
    }
}

/// The CPUs of a run were stopped. What fails is logged: the guest is paused all the same.
pub(crate) async fn hold_back(view: &Arc<View>) {
    let Some(run) = &view.run else { return };
    let steps = steps(&run.document.domain);
    if steps.is_empty() {
        return;
    }
    let work = move || {
        for step in steps {
            if let Err(error) = step.hold_back() {
                tracing::warn!(?step, %error, "an interface of a paused guest could not be taken off the network");
            }
        }
        Ok(())
    };
    if let Err(error) = crate::blocking::file("switching interfaces off", work).await {
        tracing::warn!(guest = %view.name, %error, "interfaces of the paused guest may be on");
    }
}

fn steps(document: &domxml::Domain) -> Vec<Step> {
    document.devices.interfaces.iter().filter_map(Step::of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_the_guests_address_is_switched() {
        let interface = |xml: &str| {
            let text = format!("<domain type='qemu'><name>a</name><devices>{xml}</devices></domain>");
            domxml::Domain::parse(&text, domxml::ParseFlags::ACTUAL_NET)
                .unwrap()
                .devices
                .interfaces
                .remove(0)
        };
        let mac = "<mac address='52:54:00:01:02:03'/>";
        let direct = format!(
            "<interface type='direct'>{mac}<source dev='eth0' mode='vepa'/><target dev='mine'/></interface>"
        );
        let given = |manager: &str| {
            format!(
                "<interface type='network'>{mac}<source network='n'/><actual type='network'><source bridge='b' {manager}/></actual>\
                 <target dev='tap1'/></interface>"
            )
        };
        let switch = Step::Switch {
            device: "mine".to_owned(),
            below: Some("eth0".to_owned()),
        };
        let address = Step::Address {
            port: "tap1".to_owned(),
            mac: [0x52, 0x54, 0, 1, 2, 3],
        };
        let table = [
            (direct.clone(), Some(switch)),
            (direct.replace("<target dev='mine'/>", ""), None),
            (given("macTableManager='libvirt'"), Some(address)),
            (given("macTableManager='kernel'"), None),
            (given(""), None),
            (format!("<interface type='user'>{mac}</interface>"), None),
        ];
        for (xml, step) in table {
            assert_eq!(Step::of(&interface(&xml)), step, "{xml}");
        }
    }
}
