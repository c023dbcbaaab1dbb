//! What of a running guest's interface no update changes, in libvirt's order and words.
//!
//! Called by `link`, once the wanted interface is complete and has been checked by itself. What is neither refused here nor
//! can be changed is refused by `rewire`: libvirt ignores some of it, and who asked would take it for done.

use domxml::devices::{Interface, InterfaceKind, common::VirtioOptions, interface::InterfaceDriver};
use qemu_plan::command::net::kind;

use super::rewire;
use crate::{
    error::{Code, Error, Result},
    ops::holdings::net::{openvswitch::vlan, traffic_control::limits_of},
};

/// Kinds of which QEMU has the whole device.
fn is_given_whole(kind: InterfaceKind) -> bool {
    matches!(kind, InterfaceKind::Hostdev | InterfaceKind::Vdpa)
}

/// Refuses what can't be changed while the guest runs, in libvirt's words.
// table: one check a part of the interface
pub(super) fn check(old: &Interface, wanted: &Interface) -> Result<()> {
    let mac = |i: &Interface| {
        i.mac
            .as_ref()
            .map(|mac| mac.address.to_ascii_lowercase())
            .unwrap_or_default()
    };
    let model = |i: &Interface| i.model.clone().unwrap_or_else(|| "<null>".to_owned());
    let is_virtio = old
        .model
        .as_deref()
        .is_some_and(|model| model.starts_with("virtio"));
    let rom = |i: &Interface| i.info.rom.clone().unwrap_or_default();
    let portgroup = |i: &Interface| i.source.as_ref().and_then(|source| source.portgroup.clone());
    let target = |i: &Interface| i.target.as_ref().and_then(|t| t.dev.clone());
    let driver = |i: &Interface| InterfaceDriver {
        virtio: VirtioOptions::default(),
        ..i.driver.clone().unwrap_or_default()
    };
    let options = |i: &Interface| {
        i.driver
            .as_ref()
            .map(|driver| driver.virtio.clone())
            .unwrap_or_default()
    };
    let fixed = [
        (
            is_given_whole(kind(old)),
            format!(
                "cannot change config of '{}' network interface type",
                kind(old).as_str()
            ),
        ),
        (
            mac(old) != mac(wanted),
            format!(
                "cannot change network interface mac address from {} to {}",
                mac(old),
                mac(wanted)
            ),
        ),
        (
            wanted.model != old.model,
            format!(
                "cannot modify network device model from {} to {}",
                model(old),
                model(wanted)
            ),
        ),
        (
            is_virtio && driver(old) != driver(wanted),
            "cannot modify virtio network device driver attributes".to_owned(),
        ),
        (
            is_virtio && options(old) != options(wanted),
            "cannot modify virtio network device driver options".to_owned(),
        ),
        (
            old.script != wanted.script,
            "cannot modify network device script attribute".to_owned(),
        ),
        (
            target(wanted).is_some() && target(wanted) != target(old),
            "cannot modify network device tap name".to_owned(),
        ),
        (
            rom(old).bar != rom(wanted).bar,
            "cannot modify network device rom bar setting".to_owned(),
        ),
        (
            rom(old).file != rom(wanted).file,
            "cannot modify network rom file".to_owned(),
        ),
        (
            old.info.boot != wanted.info.boot,
            "cannot modify network device boot index setting".to_owned(),
        ),
        (
            rom(old).enabled != rom(wanted).enabled,
            "cannot modify network device rom enabled setting".to_owned(),
        ),
        (old.mtu != wanted.mtu, "cannot modify MTU".to_owned()),
        (
            old.backend != wanted.backend,
            "cannot modify network device backend settings".to_owned(),
        ),
        (
            is_given_whole(wanted.kind),
            format!(
                "cannot change network interface type to '{}'",
                wanted.kind.as_str()
            ),
        ),
        (
            [old.kind, wanted.kind] == [InterfaceKind::Network; 2] && portgroup(old) != portgroup(wanted),
            "cannot modify network device portgroup attribute".to_owned(),
        ),
    ];
    match fixed.into_iter().find(|(differs, _)| *differs) {
        Some((_, text)) => Err(Error::new(Code::OperationUnsupported, text)),
        None => Ok(()),
    }
}

/// Refuses a change of the kind of plug, but from a bridge or network to another.
///
/// # Errors
/// `OperationUnsupported`.
pub(super) fn check_kind(old: &Interface, wanted: &Interface) -> Result<()> {
    let now = old.actual.as_ref().map(|actual| actual.kind);
    let stays = wanted.kind == old.kind || now == Some(wanted.kind);
    match stays || rewire::can_move(old.kind) && rewire::can_move(wanted.kind) {
        true => Ok(()),
        false => Err(rewire::not_so(wanted)),
    }
}

/// Refuses changes of the host's end of an interface that has none, or one that other daemons look after.
///
/// # Errors
/// `OperationUnsupported`, and what libvirt says of VLANs.
pub(super) fn check_host_end(old: &Interface, wanted: &Interface) -> Result<()> {
    if rewire::can_change(old) {
        return match vlan(old) != vlan_of(wanted) && !rewire::can_move(kind(old)) {
            true => Err(Error::internal("Missing bridge name")),
            false => Ok(()),
        };
    }
    let is_named = old.target.as_ref().is_some_and(|target| target.dev.is_some());
    if limits_of(old) != wanted.bandwidth.as_ref() && !is_named {
        let text = "Unable to set bandwidth for interface because device name is unknown";
        return Err(Error::new(Code::OperationUnsupported, text));
    }
    if vlan(old) != vlan_of(wanted) {
        return Err(Error::internal("Missing bridge name"));
    }
    if old.filterref != wanted.filterref {
        let text = format!(
            "filters not supported on interfaces of type {}",
            kind(old).as_str()
        );
        return Err(Error::new(Code::ConfigUnsupported, text));
    }
    let isolated = old.actual.as_ref().map_or(old.isolated, |actual| actual.isolated);
    let stays = limits_of(old) == wanted.bandwidth.as_ref()
        && isolated == wanted.isolated
        && old.coalesce == wanted.coalesce;
    match stays {
        true => Ok(()),
        false => Err(rewire::not_so(wanted)),
    }
}

/// The tags that are wanted, of whatever kind the interface is.
fn vlan_of(wanted: &Interface) -> Option<&domxml::devices::Vlan> {
    wanted.vlan.as_ref().filter(|vlan| !vlan.tags.is_empty())
}
