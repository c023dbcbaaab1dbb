//! Interfaces that are virtual functions of a network card: the card gives the function the guest's address and VLAN, and
//! what it had before is kept in libvirt's file for it until the guest gives it back.
//!
//! [`configure`] comes after the function was taken from its driver, [`restore`] before the driver gets it back. The hard
//! thing is a daemon that is killed in between: whoever gives the device back finds the file by the device's address alone.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use domxml::devices::{Interface, InterfaceKind};
use hostinfo::{PciAddress, VirtualFunction};
use qemu_plan::command::net;
use serde_json::{Value, json};
use unixfd::FunctionConfig;

use crate::{
    domain::store,
    error::{Area, Code, Error, Result},
    ops::{
        Driver,
        holdings::{
            hostdev::{DEADLINE, told, want},
            net::openvswitch::{virtual_port, vlan},
        },
        operation::undo::Undo,
    },
};

/// Where libvirt keeps what cards had set for their functions: beside the directory of the guests' states.
const KEPT: &str = "hostdevmgr";

/// Refuses interfaces that are no virtual functions, or that ask for what a card can't be told.
///
/// # Errors
/// `ConfigUnsupported`.
pub(super) fn check(driver: &Driver, interfaces: &[Interface]) -> Result<()> {
    let unsupported = |text: String| Err(Error::new(Code::ConfigUnsupported, text).in_area(Area::None));
    for interface in interfaces
        .iter()
        .filter(|card| net::kind(card) == InterfaceKind::Hostdev)
    {
        let Some(address) = want::of_interface(interface).as_ref().and_then(want::pci) else {
            return unsupported(
                "Interface type hostdev is currently supported on SR-IOV Virtual Functions only".into(),
            );
        };
        function(driver, address)?;
        if let Some(kind) = virtual_port(interface).and_then(|port| port.kind) {
            let kind = kind.as_str();
            return unsupported(format!(
                "virtualport type {kind} is currently not supported on interfaces of type hostdev"
            ));
        }
        let tags = vlan(interface).map_or(0, |vlan| vlan.tags.len());
        let is_trunk = vlan(interface).is_some_and(|vlan| vlan.trunk == Some(domxml::devices::YesNo::Yes));
        if tags > 1 || is_trunk {
            return unsupported("vlan trunking is not supported by SR-IOV network devices".into());
        }
    }
    Ok(())
}

/// The function at an address, with its card's interface.
fn function(driver: &Driver, address: PciAddress) -> Result<(VirtualFunction, String)> {
    let found = hostinfo::virtual_function(driver.hostdevs.root(), address).map_err(told)?;
    let Some(found) = found else {
        let text = "Interface type hostdev is currently supported on SR-IOV Virtual Functions only";
        return Err(Error::new(Code::ConfigUnsupported, text).in_area(Area::None));
    };
    let card = found.card.clone().ok_or_else(|| {
        let text = format!("The card of virtual function {address} has no network interface");
        Error::internal(text).in_area(Area::None)
    })?;
    Ok((found, card))
}

/// Has the card of the function that an interface is set the guest's address and VLAN.
///
/// # Errors
/// The card refuses, or what it had can't be kept.
pub(super) async fn configure(driver: &Arc<Driver>, interface: &Interface, undo: &mut Undo) -> Result<()> {
    let Some(address) = want::of_interface(interface).as_ref().and_then(want::pci) else {
        return Ok(());
    };
    let (function, card) = function(driver, address)?;
    let wanted = wanted(interface)?;
    let file = file(driver, &card, function.number);
    let owned = Arc::clone(driver);
    undo.push("a virtual function's address", async move {
        restore(&owned, vec![address]).await;
        Ok(())
    });
    crate::blocking::within(DEADLINE, "setting a virtual function's address", move || {
        let failed = |error| {
            let number = function.number;
            let what = format_args!(
                "Cannot set interface MAC/vlanid to {}/{} for ifname {card} vf {number}",
                shown(wanted.mac),
                wanted.vlan
            )
            .to_string();
            Error::system(what, error).in_area(Area::None)
        };
        // What is kept already was so before any guest had it.
        if !file.exists() {
            let before = unixfd::function_config(&card, function.number).map_err(failed)?;
            let own = function.own.as_deref().and_then(|own| unixfd::mac(own).ok());
            keep(&file, before, own)?;
        }
        unixfd::configure_function(&card, function.number, wanted).map_err(failed)
    })
    .await
}

fn wanted(interface: &Interface) -> Result<FunctionConfig> {
    let mac = interface.mac.as_ref().and_then(|mac| parsed(&mac.address));
    let mac = mac.ok_or_else(|| Error::internal("the interface has no address"))?;
    let tag = vlan(interface)
        .and_then(|vlan| vlan.tags.first())
        .map_or(0, |tag| tag.id);
    let vlan = u16::try_from(tag).map_err(|_| Error::internal("the tag of the VLAN is too large"))?;
    Ok(FunctionConfig { mac, vlan })
}

/// Has cards set what they had set for functions before guests got them, where that is kept. What fails is logged.
pub(super) async fn restore(driver: &Driver, addresses: Vec<PciAddress>) {
    for address in addresses {
        let found = hostinfo::virtual_function(driver.hostdevs.root(), address);
        let Ok(Some(VirtualFunction {
            number,
            card: Some(card),
            ..
        })) = found
        else {
            continue;
        };
        let file = file(driver, &card, number);
        let work = move || put_back(&file, &card, number);
        if let Err(error) =
            crate::blocking::within(DEADLINE, "setting a virtual function's address back", work).await
        {
            tracing::error!(%address, %error, "a virtual function keeps its guest's address");
        }
    }
}

fn put_back(file: &Path, card: &str, number: u32) -> Result<()> {
    let failed = |error| {
        Error::system(
            format_args!("cannot set virtual function {number} of {card} back"),
            error,
        )
    };
    let text = match fs::read(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read.map_err(failed)?,
    };
    let kept: Value = serde_json::from_slice(&text).unwrap_or_default();
    unixfd::configure_function(card, number, read(&kept)).map_err(failed)?;
    fs::remove_file(file).map_err(failed)
}

/// libvirt's file for what a card had set for a function.
fn file(driver: &Driver, card: &str, number: u32) -> PathBuf {
    let state = &driver.registry.store().paths().state;
    state.with_file_name(KEPT).join(format!("{card}_vf{number}"))
}

fn keep(file: &Path, before: FunctionConfig, own: Option<[u8; 6]>) -> Result<()> {
    let failed = |error| {
        Error::system(
            format_args!("Unable to preserve the state of {}", file.display()),
            error,
        )
    };
    let mut kept = json!({ "adminMac": shown(before.mac), "vlanTag": before.vlan });
    if let Some(own) = own {
        kept["mac"] = json!(shown(own));
    }
    let text = serde_json::to_vec_pretty(&kept).unwrap_or_default();
    file.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
    store::write(file, &text, true).map_err(failed)
}

/// What is to be set again. A card that had chosen no address gets the function's own.
fn read(kept: &Value) -> FunctionConfig {
    let mac = |name: &str| kept[name].as_str().and_then(parsed);
    let admin = mac("adminMac").filter(|mac| *mac != [0; 6]);
    FunctionConfig {
        mac: admin.or_else(|| mac("mac")).unwrap_or_default(),
        vlan: kept["vlanTag"]
            .as_u64()
            .and_then(|tag| u16::try_from(tag).ok())
            .unwrap_or(0),
    }
}

fn parsed(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

fn shown(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_set_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hostdevmgr/card0_vf1");
        let before = FunctionConfig {
            mac: [2, 0, 0, 0, 0, 1],
            vlan: 7,
        };
        let again = |own| {
            keep(&file, before, own).unwrap();
            read(&serde_json::from_slice(&fs::read(&file).unwrap()).unwrap())
        };
        assert_eq!(again(Some([2, 0, 0, 0, 0, 9])), before);
        let unset = FunctionConfig::default();
        keep(&file, unset, Some([2, 0, 0, 0, 0, 9])).unwrap();
        let kept = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(read(&kept).mac, [2, 0, 0, 0, 0, 9]);
        assert_eq!(read(&Value::Null), unset);
    }
}
