//! What a QEMU binary can do: asked once over QMP, kept on disk as raw replies, derived by `qemu-plan`.
//!
//! `ops` asks [`Prober::caps`] when a guest needs it, never at start-up. A binary is asked again when it, its modules,
//! the kernel, the CPU or the usability of KVM have changed; what cannot be read from the cache is asked again too.
//!
//! ```text
//! caps(path) ─ identity ─ in memory? ─▶ same Arc
//!                              │ no: one task, shared by all who ask meanwhile
//!                              ▼
//!                        on disk? ─▶ derive
//!                              │ no
//!                              ▼
//!                        ask, with KVM and without ─▶ identity the same still? ─▶ write, derive
//! ```
//!
//! The hard thing is a binary that hangs or lies: everything is bounded in time and bytes, its failure is told to all
//! who wait and not kept, and nothing of it is left running, not even by a daemon that was killed meanwhile.

mod ask;
mod family;
mod identity;
mod store;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use qemu_plan::caps::{Caps, Replies};
use tokio::sync::Semaphore;

use super::RunAs;
use crate::error::{Error, Result};
pub use ask::Deadlines;
use ask::Probe;
use identity::{Host, Identity};
use store::Store;

/// How long a binary that was just found unchanged is taken to be so.
const TRUSTED: Duration = Duration::from_secs(1);

/// Binaries that are asked at a time.
const AT_ONCE: usize = 8;
/// Binaries that are remembered.
const KNOWN_MAX: usize = 64;

/// How a prober works.
#[derive(Debug, Clone)]
pub struct ProberConfig {
    /// Directory for replies; made if it is not there.
    pub cache: PathBuf,
    /// Whom QEMU runs as; none: as the daemon.
    pub run_as: Option<RunAs>,
    /// How long a binary may take.
    pub deadlines: Deadlines,
}

/// Knows what QEMU binaries can do. One a daemon.
#[derive(Debug)]
pub struct Prober {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: ProberConfig,
    store: Store,
    host: tokio::sync::OnceCell<Host>,
    known: Mutex<HashMap<PathBuf, Known>>,
    turns: Semaphore,
    /// Binaries that were just found unchanged.
    checked: Mutex<HashMap<PathBuf, (Instant, Arc<Caps>)>>,
}

/// What is known of a binary, or being found out.
#[derive(Debug, Clone)]
struct Known {
    identity: Identity,
    outcome: Shared<BoxFuture<'static, Outcome>>,
}

/// Failures are told to many: hence the `Arc`.
type Outcome = std::result::Result<Arc<Caps>, Arc<Error>>;

impl Prober {
    /// A prober; it does nothing yet.
    #[must_use]
    pub fn new(config: ProberConfig) -> Self {
        let store = Store::new(config.cache.clone());
        let (host, known) = (tokio::sync::OnceCell::new(), Mutex::default());
        let (turns, checked) = (Semaphore::new(AT_ONCE), Mutex::default());
        Self {
            inner: Arc::new(Inner {
                config,
                store,
                host,
                known,
                turns,
                checked,
            }),
        }
    }

    /// What the binary at `path` can do, if it was looked at a moment ago.
    #[must_use]
    pub fn recent(&self, path: &Path) -> Option<Arc<Caps>> {
        self.inner.just_checked(path)
    }

    /// What the binary at `path` can do. Takes microseconds when it is known and unchanged, milliseconds from the
    /// cache, else the time of a probe: a third of a second, two minutes at most.
    ///
    /// Cancel safe: a probe that has begun goes on for the next one who asks.
    ///
    /// # Errors
    /// When the binary cannot be run, asked or understood; with its last words.
    pub async fn caps(&self, path: &Path) -> Result<Arc<Caps>> {
        if let Some(caps) = self.recent(path) {
            return Ok(caps);
        }
        let identity = self.inner.identify(path).await?;
        let known = self.inner.known_or_begin(identity);
        let caps = known.outcome.clone().await.map_err(|error| {
            self.inner.forget(&known);
            told(&error)
        })?;
        self.inner.note_checked(path, &caps);
        Ok(caps)
    }
}

impl Prober {
    /// Asks the binary at `path` now, whatever is known of it, and keeps nothing: for recordings.
    ///
    /// # Errors
    /// As [`caps`](Self::caps).
    pub async fn replies(&self, path: &Path) -> Result<Replies> {
        let identity = self.inner.identify(path).await?;
        self.inner.ask(&identity).await
    }
}

impl Inner {
    /// What the binary can do, if it was looked at a moment ago.
    fn just_checked(&self, path: &Path) -> Option<Arc<Caps>> {
        let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked
            .get(path)
            .filter(|(at, _)| at.elapsed() < TRUSTED)
            .map(|(_, caps)| Arc::clone(caps))
    }

    fn note_checked(&self, path: &Path, caps: &Arc<Caps>) {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        // Clients name paths: only a few are kept.
        checked.retain(|_, (at, _)| at.elapsed() < TRUSTED);
        checked.insert(path.to_owned(), (Instant::now(), Arc::clone(caps)));
    }

    async fn identify(&self, path: &Path) -> Result<Identity> {
        let host = self.host.get_or_try_init(Host::read).await?.clone();
        let (path, run_as) = (path.to_owned(), self.config.run_as.clone());
        super::blocking(move || Identity::of(&path, host, run_as)).await?
    }

    fn known_or_begin(self: &Arc<Self>, identity: Identity) -> Known {
        let mut known = self.lock();
        if let Some(same) = known
            .get(&identity.path)
            .filter(|known| known.identity == identity)
        {
            return same.clone();
        }
        // A task of its own: it outlives whoever asked first.
        let task = tokio::spawn(Arc::clone(self).find_out(identity.clone()));
        let outcome = async move { task.await.unwrap_or_else(|panic| Err(Arc::new(died(panic)))) };
        let entry = Known {
            identity,
            outcome: outcome.boxed().shared(),
        };
        if known.len() >= KNOWN_MAX {
            // Clients name paths. What is forgotten is on disk.
            known.retain(|_, known| known.outcome.peek().is_none());
        }
        known.insert(entry.identity.path.clone(), entry.clone());
        entry
    }

    async fn find_out(self: Arc<Self>, identity: Identity) -> Outcome {
        if let Some(caps) = self.store.load(&identity).await {
            return Ok(Arc::new(caps));
        }
        tracing::info!(binary = %identity.path.display(), "asking QEMU what it can do");
        self.probe(identity).await.map(Arc::new).map_err(Arc::new)
    }

    async fn probe(&self, identity: Identity) -> Result<Caps> {
        let replies = self.ask(&identity).await?;
        let caps = Caps::derive(&replies).map_err(|error| not_understood(&identity, error))?;
        if self.identify(&identity.path).await? != identity {
            let message = format!(
                "QEMU binary {} changed while it was probed",
                identity.path.display()
            );
            return Err(Error::internal(message).because("QEMU_BINARY_CHANGED"));
        }
        self.store.save(identity, replies).await;
        Ok(caps)
    }

    async fn ask(&self, identity: &Identity) -> Result<Replies> {
        let _turn = self
            .turns
            .acquire()
            .await
            .map_err(|closed| Error::internal("no more probes").caused_by(closed))?;
        let pid_files = self.store.prepare(identity).await?;
        let (run_as, deadlines) = (self.config.run_as.as_ref(), self.config.deadlines);
        Probe {
            binary: &identity.path,
            pid_files: &pid_files,
            run_as,
            deadlines,
        }
        .ask()
        .await
    }

    /// A failure is not kept: the next one who asks tries again.
    fn forget(&self, failed: &Known) {
        let mut known = self.lock();
        if known
            .get(&failed.identity.path)
            .is_some_and(|now| now.outcome.ptr_eq(&failed.outcome))
        {
            known.remove(&failed.identity.path);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn told(error: &Arc<Error>) -> Error {
    Error {
        code: error.code,
        area: error.area,
        message: error.message.clone(),
        reason: error.reason,
        field: None,
        errno: error.errno,
        source: None,
    }
}

fn died(panic: tokio::task::JoinError) -> Error {
    Error::internal("the probe of a QEMU binary failed").caused_by(panic)
}

fn not_understood(identity: &Identity, error: qemu_plan::caps::CapsError) -> Error {
    let message = format!("unsupported QEMU binary {}: {error}", identity.path.display());
    Error::internal(message)
        .because("QEMU_BINARY_UNSUPPORTED")
        .caused_by(error)
}

#[cfg(test)]
mod odd;
#[cfg(test)]
mod tests;
