//! QEMU: what a binary can do, how a process is started and held, how a guest's monitor is spoken to.
//!
//! Used by `ops`. Knows nothing of domains: it takes command lines, paths and descriptors, and gives a [`Live`] QEMU
//! with its [`Monitor`] and [`Events`]. What can be decided without a process is in the crate `qemu-plan`.
//!
//! ```text
//! Prober ─ Caps ─▶ (qemu-plan: command line) ─▶ Prepared ─hold─▶ Held ─run─▶ Live { Process, Monitor, Events }
//!                                                                 a restarted daemon: Live::attach ──▲
//! ```

mod error;
mod event;
mod log;
mod monitor;
pub mod probe;
mod process;
mod start;

pub use event::{Events, GuestEvent, Notice};
pub use log::LogTail;
pub use monitor::{Monitor, VncAddress};
pub use probe::{Prober, ProberConfig};
pub use process::{Process, Stop};
pub use start::{Held, Live, Prepared, RunAs, Start};

use crate::error::{Error, Result};

/// Runs what may block (a fork, a small local file) off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let failed =
        |error| Error::internal("a thread that starts or probes QEMU failed").caused_by(error);
    tokio::task::spawn_blocking(work).await.map_err(failed)
}
