//! From a disk's sources to QEMU's block nodes. Used by the command line and, later, by hot-plug and
//! block jobs: a node is `serde_json` either way.

mod node;
mod number;
mod protocol;
mod source;

pub use node::{Access, Backing, Cache, Format, Image, Slice, copy_on_read};
pub use number::{number_disk, number_guest};
pub use protocol::{Refs, storage_props};
pub use source::{Common, Link, SecretFrom, SecretNeed, Sources};
