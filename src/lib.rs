//! virtqemud: the daemon that manages the QEMU guests of a host.
