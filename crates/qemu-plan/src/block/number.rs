//! Numbers of block nodes. QEMU's names are made from them, block jobs find an image by them, and the
//! live document shows them, so they are given once and kept.

use domxml::Domain;
use domxml::devices::disk::{Disk, DiskBus};
use domxml::devices::storage::{BackingStore, Source};

use super::throttle::{highest_filter, number_filters};

/// Gives every image of a guest a number, from `first` on, as a start does: from the last disk to the
/// first, each from the top down, a data file after its image. Answers the next free number.
pub fn number_guest(def: &mut Domain, first: u32) -> u32 {
    let cards = |disk: &&mut Disk| disk.target.bus != Some(DiskBus::Sd);
    def.devices
        .disks
        .iter_mut()
        .rev()
        .filter(cards)
        .fold(first, |next, disk| number_disk(disk, next))
}

/// Gives every image a number that was found below or beside the images of the document, in the order of
/// [`number_guest`], whose answer is `first`. Answers the next free number.
pub fn number_found(def: &mut Domain, first: u32) -> u32 {
    let sources = |disk: &&mut Disk| disk.source.is_some() && disk.target.bus != Some(DiskBus::Sd);
    def.devices
        .disks
        .iter_mut()
        .rev()
        .filter(sources)
        .fold(first, |next, disk| number_disk(disk, next))
}

/// Gives every image of a disk that has none a number, from `first` on. Answers the next free number.
pub fn number_disk(disk: &mut Disk, first: u32) -> u32 {
    // An empty drive takes a number too.
    let next = match &mut disk.source {
        Some(source) => number_source(source, first),
        None => first + 1,
    };
    let next = number_backing(disk.backing.as_deref_mut(), next);
    number_filters(disk, next)
}

/// The highest number of a disk's images.
pub fn highest_number(disk: &Disk) -> Option<u32> {
    let of_source = |source: &Source| source.index;
    let mut highest = disk.source.as_ref().and_then(of_source);
    let mut below = disk.backing.as_deref();
    while let Some(store) = below {
        highest = highest
            .max(store.index)
            .max(store.source.as_ref().and_then(of_source));
        below = store.backing.as_deref();
    }
    highest.max(highest_filter(disk))
}

fn number_backing(store: Option<&mut BackingStore>, mut next: u32) -> u32 {
    let Some(store) = store.filter(|store| store.kind.is_some() && store.source.is_some()) else {
        return next;
    };
    if store.index.is_none() {
        store.index = Some(next);
        next += 1;
    }
    if let Some(source) = &mut store.source {
        next = number_data(source, next);
    }
    number_backing(store.backing.as_deref_mut(), next)
}

fn number_source(source: &mut Source, mut next: u32) -> u32 {
    if source.index.is_none() {
        source.index = Some(next);
        next += 1;
    }
    number_data(source, next)
}

fn number_data(source: &mut Source, next: u32) -> u32 {
    let data = source
        .data_store
        .as_deref_mut()
        .and_then(|data| data.source.as_mut());
    data.map_or(next, |data| number_source(data, next))
}
