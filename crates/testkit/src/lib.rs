//! What the tests share: a daemon in a temporary place, clients to drive it, a real guest, libvirt's own daemon
//! to compare with, golden files. For tests only; nothing here is part of the daemon.
//!
//! Everything is blocking and bounded by a deadline. A test that cannot run on this machine says so with
//! [`skip`] and returns; `scripts/test.sh` counts it as skipped, not as passed.

pub mod client;
pub mod compare;
pub mod counter;
pub mod die_at;
pub mod fake_pci;
pub mod fake_qemu;
pub mod golden;
pub mod guest;
pub mod kill;
pub mod neighbour;
pub mod place;
pub mod process;
pub mod reference;
pub mod sandbox;
pub mod skip;
pub mod wait;

pub use client::{Answer, Grpcurl, Virsh};
pub use compare::same_answer;
pub use counter::Counter;
pub use die_at::DieAt;
pub use fake_qemu::FakeQemu;
pub use golden::check_golden;
pub use guest::GuestSpec;
pub use kill::KillMatrix;
pub use neighbour::Neighbour;
pub use reference::{libvirtd, reference};
pub use sandbox::{Daemon, Sandbox};
pub use skip::skip;
pub use wait::{wait_for, wait_until};
