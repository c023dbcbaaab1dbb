//! A daemon in a temporary place, a scripted QEMU, a virsh runner, golden files (dev only).
