//! Libvirt's RPC protocol: frames, XDR, procedure tables, typed parameters, server side and client.
