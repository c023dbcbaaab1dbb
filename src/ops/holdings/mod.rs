//! What the devices of a run have of the host: ports, filters, TAPs, host devices, owners of files, leases, helpers.
//!
//! One file a kind. A start acquires for all devices, a change for one; the end of a run releases in reverse; a restart
//! adopts what the live document names. What must not be lost is noted in the [`ledger`] before it is acquired.

pub mod cgroup;
pub mod chardev;
pub mod display_port;
pub(crate) mod handover;
pub mod helper;
pub mod hostdev;
pub mod ledger;
pub(crate) mod listen;
pub mod log;
pub(crate) mod memory;
pub mod net;
pub(crate) mod nvram;
pub mod release;
pub(crate) mod render_node;
pub mod storage;
pub(crate) mod vsock;
