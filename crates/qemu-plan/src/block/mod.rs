//! From a disk's sources to QEMU's block nodes. Used by the command line and, later, by hot-plug and
//! block jobs: a node is `serde_json` either way.

mod chain;
mod names;
mod node;
mod number;
mod protocol;
mod source;
mod throttle;

pub use chain::{Chain, Layer};
pub use names::{name_disk, name_guest, name_source, nodes, qom_name};
pub use node::{Access, Backing, Cache, Descriptors, Format, Image, Slice, copy_on_read, copy_on_read_node};
pub use number::{
    highest_number, highest_set, number_disk, number_found, number_guest, number_sets, number_sets_of_guest,
    set_of, sources,
};
pub use protocol::{Refs, storage_props};
pub use source::{
    Common, End, Link, SecretFrom, SecretNeed, Sources, credentials, is_empty, master_key, secrets_of,
};
pub use throttle::{Filter, filter_node, filters, group_id, group_object};
