//! Libvirt's domain documents as types. Pure.

pub mod devices;
