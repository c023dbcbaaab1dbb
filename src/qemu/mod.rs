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
mod firmware;
mod helper;
mod log;
mod monitor;
pub mod probe;
mod process;
mod secret;
mod start;

pub use event::{Events, GuestEvent, Notice};
pub use firmware::FirmwareStore;
pub use helper::{Ended, Helper};
pub use log::LogTail;
pub use monitor::{Monitor, VncAddress};
pub use probe::{Prober, ProberConfig};
pub use process::{Process, Stop};
pub use secret::MasterKey;
pub use start::{Held, Live, Prepared, RunAs, Start};

use std::time::Duration;

use crate::{
    error::{Code, Error, Result},
    tasks,
};

/// Longer than anything that is run so may take by itself: a file system that hangs.
const BLOCKING_DEADLINE: Duration = Duration::from_secs(60);

/// Runs what may block (a fork, a small local file) off the runtime's threads, for a bounded time.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    match tokio::time::timeout(BLOCKING_DEADLINE, tasks::block(work)).await {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(panic)) => Err(Error::internal("a thread that starts or probes QEMU failed").caused_by(panic)),
        Err(_) => {
            let message = format!(
                "the file system did not answer within {} s",
                BLOCKING_DEADLINE.as_secs()
            );
            Err(Error::new(Code::OperationTimeout, message))
        }
    }
}
