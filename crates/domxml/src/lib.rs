//! Libvirt's domain documents as types. Pure.
