//! What completing, checking, addressing and the command line all have to know of a document, and none of
//! them decides: the kind of its machine, its accelerator, sizes, the numbers of disks. Nothing here calls them.

mod arch;
mod device;
mod machine;
pub mod size;

pub use arch::ARCHES;
pub use device::{
    DISK_PREFIXES, address_kind, controller_position, disk_index, disk_position, insert_controller,
};
pub use machine::{Age, MachineKind, accel_of};
