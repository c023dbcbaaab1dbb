//! Slots of smart card readers.

use domxml::devices::{Address, CcidAddress, Devices};

/// Gives smart cards without a place the next free slot of the first reader.
pub(super) fn assign(devices: &mut Devices) {
    let mut next = 0;
    for card in &mut devices.smartcards {
        match &card.info.address {
            Some(Address::Ccid(a)) if a.controller == 0 => next = next.max(a.slot.saturating_add(1)),
            None => {
                card.info.address = Some(Address::Ccid(CcidAddress {
                    controller: 0,
                    slot: next,
                }));
                next = next.saturating_add(1);
            }
            Some(_) => {}
        }
    }
}
