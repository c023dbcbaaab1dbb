//! The messages and services of `proto/`, as generated for the server side.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated; the contract is documented in proto/"
)]

include!(concat!(env!("OUT_DIR"), "/virtqemud.v1.rs"));

/// The descriptors of all services, for reflection and for checks of tables.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
