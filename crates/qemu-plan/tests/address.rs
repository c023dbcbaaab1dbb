//! Properties of PCI places: nothing is given twice, nothing is given that the bus does not take, and no document,
//! however damaged, makes the rules panic.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]
#![allow(dead_code, reason = "shared with other tests")]

mod support;

use std::collections::HashSet;
use std::path::Path;

use proptest::prelude::*;
use qemu_plan::address::{Age, BusKind, Chosen, Connect, Growth, LegacyBridge, PciSet, Place};

fn wanted() -> impl Strategy<Value = Connect> {
    prop_oneof![
        Just(Connect::PCI),
        Just(Connect::PCIE),
        Just(Connect::PCI | Connect::HOTPLUGGABLE),
        Just(Connect::PCIE | Connect::HOTPLUGGABLE),
    ]
}

fn given() -> impl Strategy<Value = Place> {
    (0..4u32, 0..40u32, 0..10u32).prop_map(|(bus, slot, function)| Place {
        domain: 0,
        bus,
        slot,
        function,
    })
}

proptest! {
    #[test]
    fn a_place_is_given_once(
        pcie in any::<bool>(),
        taken in proptest::collection::vec(given(), 0..20),
        wanted in proptest::collection::vec(wanted(), 0..60),
    ) {
        let root = if pcie { BusKind::PcieRoot } else { BusKind::PciRoot };
        let mut set = PciSet::new([root], Growth::Allowed, LegacyBridge::PcieToPci);
        let mut used = HashSet::new();
        for place in taken {
            if set.reserve(place, Connect::ENDPOINTS, Chosen::ByUser).is_ok() {
                prop_assert!(used.insert(place));
            }
        }
        for wanted in wanted {
            if let Ok(place) = set.reserve_next(wanted, 0) {
                prop_assert!(used.insert(place));
                let rule = set.kinds().nth(place.bus as usize).unwrap().rule();
                prop_assert!((rule.min_slot..=rule.max_slot).contains(&place.slot));
                prop_assert!(place.function < 8);
            }
        }
        prop_assert!(set.len() <= 256);
    }
}

#[test]
fn damaged_documents_never_panic() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/define");
    for (at, case) in support::cases(&dir).iter().enumerate() {
        let lines: Vec<String> = case.input().lines().map(str::to_owned).collect();
        for drop in (at % 29..lines.len()).step_by(29) {
            let mut damaged = lines.clone();
            let line = damaged.remove(drop);
            let _ = support::define_as(&damaged.join("\n"), false, Age::New);
            damaged.insert(drop, line.replace(['0', '1', '2'], "4294967295"));
            let _ = support::define_as(&damaged.join("\n"), false, Age::New);
        }
    }
}
