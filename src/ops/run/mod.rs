//! One run of a guest: its connection, agent, consoles, CPUs, power and end, and what QEMU reports.

pub mod agent;
pub mod cause;
pub mod console;
pub mod counters;
pub mod cpus;
pub(crate) mod departures;
pub mod found_job;
pub mod guest;
pub(crate) mod hooks;
pub(crate) mod jobs;
pub mod keys;
pub(crate) mod left_backup;
pub(crate) mod left_jobs;
pub(crate) mod long_job;
pub mod migration;
pub mod once;
pub(crate) mod password;
pub(crate) mod perf;
pub mod power;
pub mod react;
pub mod refresh;
pub mod sessions;
pub(crate) mod slots;
pub(crate) mod still;
pub mod stop;
pub(crate) mod streams;
