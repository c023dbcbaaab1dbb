//! Numbers of block nodes. QEMU's names are made from them, block jobs find an image by them, and the
//! live document shows them, so they are given once and kept.

use domxml::Domain;
use domxml::devices::disk::{Disk, DiskBus};
use domxml::devices::storage::{BackingStore, Source, StorageKind};
use domxml::devices::{FdSet, SourcePrivate};

use super::throttle::{highest_filter, number_filters};

/// What of a source its set of descriptors is for.
const STORAGE: &str = "storage";

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
    // A program beside QEMU has it: no node is made of it.
    if disk.kind == StorageKind::VhostUser {
        return first;
    }
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

/// The sources of a disk's images from the top down, each data file after its image.
pub fn sources(disk: &Disk) -> Vec<&Source> {
    let mut found = Vec::new();
    let mut next = disk.source.as_ref();
    let mut below = disk.backing.as_deref();
    loop {
        while let Some(source) = next {
            found.push(source);
            next = source.data_store.as_deref().and_then(|data| data.source.as_ref());
        }
        let Some(store) = below else { return found };
        next = store.source.as_ref();
        below = store.backing.as_deref();
    }
}

/// The set of descriptors that a source is opened by, if it is.
pub fn set_of(source: &Source) -> Option<u32> {
    source.fdgroup.as_ref()?;
    let sets = &source.private_data.as_ref()?.fdsets;
    sets.iter().find(|set| set.kind == STORAGE).map(|set| set.id)
}

/// The highest number of a disk's sets of descriptors.
pub fn highest_set(disk: &Disk) -> Option<u32> {
    sources(disk).into_iter().filter_map(set_of).max()
}

/// Gives every source of a guest that names a group of descriptors the number of a set, from `first` on, in the order of
/// [`number_guest`]. Answers the next free number.
pub fn number_sets_of_guest(def: &mut Domain, first: u32) -> u32 {
    let disks = def.devices.disks.iter_mut().rev();
    disks.fold(first, |next, disk| number_sets(disk, next))
}

/// The same for one disk.
pub fn number_sets(disk: &mut Disk, first: u32) -> u32 {
    let mut next = disk
        .source
        .as_mut()
        .map_or(first, |source| number_set(source, first));
    let mut below = disk.backing.as_deref_mut();
    while let Some(store) = below {
        if let Some(source) = &mut store.source {
            next = number_set(source, next);
        }
        below = store.backing.as_deref_mut();
    }
    next
}

fn number_set(source: &mut Source, mut next: u32) -> u32 {
    if source.fdgroup.is_some() && set_of(source).is_none() {
        let private = source.private_data.get_or_insert_with(SourcePrivate::default);
        private.fdsets.push(FdSet {
            kind: STORAGE.to_owned(),
            id: next,
        });
        next += 1;
    }
    let data = source
        .data_store
        .as_deref_mut()
        .and_then(|data| data.source.as_mut());
    data.map_or(next, |data| number_set(data, next))
}
