//! Network cards: address, model, and settings that the kind or model does not have.

use domxml::devices::{Interface, InterfaceDriver, InterfaceKind, Mac};

use super::Ids;

/// Model of a card that names none.
const DEFAULT_MODEL: &str = "rtl8139";

/// Fills in one card.
pub(super) fn fill(card: &mut Interface, ids: &mut dyn Ids) {
    match &mut card.mac {
        Some(mac) => mac.address.make_ascii_lowercase(),
        None => {
            card.mac = Some(Mac {
                address: ids.mac(),
                ..Mac::default()
            })
        }
    }
    if card.model.is_none() {
        card.model = match card.kind {
            InterfaceKind::Hostdev => None,
            InterfaceKind::Vdpa | InterfaceKind::Vhostuser => Some("virtio".to_owned()),
            _ => Some(DEFAULT_MODEL.to_owned()),
        };
    }
    drop_foreign(card);
}

/// Settings of virtio cards mean nothing elsewhere and are not kept.
fn drop_foreign(card: &mut Interface) {
    let virtio = card
        .model
        .as_deref()
        .is_some_and(|m| m.starts_with("virtio"));
    if !virtio && card.kind != InterfaceKind::Hostdev {
        card.driver = None;
        if let Some(backend) = &mut card.backend {
            backend.vhost = None;
        }
    }
    if let Some(driver) = &mut card.driver {
        driver.queues = driver.queues.filter(|q| *q > 1);
        if *driver == InterfaceDriver::default() {
            card.driver = None;
        }
    }
    if card.kind == InterfaceKind::Hostdev {
        card.filterref = None;
        card.driver = card.driver.take().filter(|d| d.hostdev_name().is_some());
    }
}
