//! The libvirt RPC front: a client of `proto/` that speaks libvirt's protocol.
