//! What a document that somebody gives has to be, by libvirt's rules and in the order in which libvirt reads.
//!
//! The types of this crate know shapes only, and read leniently what is stored. A client's document is checked before:
//! each value that libvirt reads has its line in a table here, with the error that a wrong one gives. The first line
//! that fails is told, so the order of the lines is part of the rules. [`Domain::given`](crate::Domain::given) and
//! [`Device::given`](crate::devices::Device::given) call this.
//!
//! The hard thing is to say no more than libvirt does: what a device's type makes it overlook is not looked at here
//! either ([`rule::When`]).

mod chardevs;
mod cpu;
mod devices;
mod disks;
mod displays;
mod features;
mod filesystems;
mod form;
mod guest;
mod hostdevs;
mod info;
mod interfaces;
mod namespace;
mod resctrl;
mod rule;
mod size;
mod snapshots;
mod storage;
mod tuning;

use xmlform::Node;

use crate::Error;

/// Checks a whole document.
///
/// # Errors
/// The first thing that is wrong with it, in libvirt's order and words.
pub(crate) fn check_domain(root: Node<'_>) -> Result<(), Error> {
    rule::check(root, guest::DOMAIN)
}

/// Checks the memory of a snapshot.
///
/// # Errors
/// As [`check_domain`].
pub(crate) fn check_snapshot_memory(node: Node<'_>) -> Result<(), Error> {
    rule::check(node, snapshots::MEMORY)
}

/// Checks a disk of a snapshot.
///
/// # Errors
/// As [`check_domain`].
pub(crate) fn check_snapshot_disk(node: Node<'_>) -> Result<(), Error> {
    rule::check(node, snapshots::DISK)
}

/// Checks a device that stands alone.
///
/// # Errors
/// As [`check_domain`]; an element of an unknown name is left to whoever reads it.
pub(crate) fn check_device(root: Node<'_>) -> Result<(), Error> {
    guest::device(root.name()).map_or(Ok(()), |rules| rule::check(root, rules))
}
