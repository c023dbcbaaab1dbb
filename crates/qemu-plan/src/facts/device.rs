//! What names and addresses of single devices say.

use domxml::devices::{Address, Controller, Disk, DiskBus};

/// Which bus a disk's name speaks for, and how long the part before the letters is.
pub const DISK_PREFIXES: &[(&str, DiskBus)] = &[
    ("fd", DiskBus::Fdc),
    ("hd", DiskBus::Ide),
    ("vd", DiskBus::Virtio),
    ("sd", DiskBus::Scsi),
    ("xvd", DiskBus::Xen),
    ("ubd", DiskBus::Uml),
];

/// Longest name of a disk, behind its prefix.
const MAX_NAME: usize = 6;

/// Number of a disk by its name: `vda` is 0, `vdz` 25, `vdaa` 26. A partition number behind it is skipped.
pub fn disk_index(name: &str) -> Option<u32> {
    let (prefix, _) = DISK_PREFIXES.iter().find(|(p, _)| name.starts_with(p))?;
    let rest = &name[prefix.len()..];
    if rest.len() > MAX_NAME {
        return None;
    }
    let letters = rest.trim_end_matches(|c: char| c.is_ascii_digit());
    if letters.is_empty() || rest[letters.len()..].starts_with('0') {
        return None;
    }
    letters
        .bytes()
        .try_fold(0u32, |index, c| {
            let digit = c.is_ascii_lowercase().then(|| u32::from(c - b'a'))?;
            index.checked_mul(26)?.checked_add(digit + 1)
        })?
        .checked_sub(1)
}

/// The word of an address's `type`.
pub const fn address_kind(address: &Address) -> &'static str {
    match address {
        Address::Pci(_) => "pci",
        Address::Drive(_) => "drive",
        Address::VirtioSerial(_) => "virtio-serial",
        Address::Ccid(_) => "ccid",
        Address::Usb(_) => "usb",
        Address::SpaprVio(_) => "spapr-vio",
        Address::Ccw(_) => "ccw",
        Address::VirtioMmio => "virtio-mmio",
        Address::Isa(_) => "isa",
        Address::Dimm(_) => "dimm",
        Address::Unassigned => "unassigned",
    }
}

/// Puts a controller behind those of its kind with lower indexes; a new kind goes to the end.
pub fn insert_controller(all: &mut Vec<Controller>, new: Controller) {
    all.insert(controller_position(all, &new), new);
}

/// Where a controller goes among the others: before the first of its kind with a higher index, as far as there is one.
pub fn controller_position(all: &[Controller], new: &Controller) -> usize {
    let same = |c: &Controller| c.kind == new.kind;
    let higher = |c: &Controller| same(c) && c.index.unwrap_or(0) > new.index.unwrap_or(0);
    let at = all.iter().position(higher);
    at.or_else(|| all.iter().rposition(same).map(|last| last + 1))
        .unwrap_or(all.len())
}

/// Where a disk goes among the others: before those of its bus with later names, as far as that moves it forward; buses
/// stay mixed as they are.
pub fn disk_position(all: &[Disk], new: &Disk) -> usize {
    let index = disk_index(&new.target.dev);
    let same = |d: &Disk| d.target.bus == new.target.bus;
    let later = all
        .iter()
        .position(|d| same(d) && disk_index(&d.target.dev) > index);
    let at = later.or_else(|| all.iter().rposition(same).map(|last| last + 1));
    at.unwrap_or(all.len())
}
