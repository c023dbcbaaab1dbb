//! One guest: handle, owner task, jobs, view, registry, files.
//!
//! Used by `ops`, which knows what a change means; nothing here calls QEMU. A [`Domain`] is a cheap handle. Whoever wants
//! to know reads its [`View`]; whoever wants to change something takes a [`Job`], does his work, and commits.
//!
//! The hard thing is that a job outlives who asked for it: jobs run on the daemon's tracker, the guard gives the job back
//! when it is dropped, and a commit that is on its way is carried out even if nobody waits for its answer.

mod condition;
mod document;
mod edit;
pub mod facts;
#[cfg(test)]
pub(crate) mod fixture;
pub mod intents;
pub mod jobs;
pub mod long_job;
mod mailbox;
mod owner;
mod registry;
pub mod snapshots;
pub mod status;
pub mod store;
mod view;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{oneshot, watch};
use uuid::Uuid;
use wire::procedure::ProcedureInfo;

pub use condition::{Condition, RunState};
pub use document::{Document, Either, Stored};
pub use edit::{Edit, STALE};
pub use owner::{Change, Effects, GONE};
pub use registry::Registry;
pub use view::{Launched, Run, Seen, View};

use crate::error::{Code, Error, Result};
use jobs::{Answer, JobId, Jobs, Want};
use mailbox::Mailbox;
use owner::{Message, Owner, World};

/// How long a job is waited for: libvirt's 30 seconds.
pub const JOB_WAIT: Duration = Duration::from_secs(30);

/// A guest. Cheap to clone; all clones are one guest.
#[derive(Clone)]
pub struct Domain {
    inner: Arc<Inner>,
}

struct Inner {
    uuid: Uuid,
    mailbox: Arc<Mailbox>,
    view: watch::Receiver<Arc<View>>,
    board: Mutex<Board>,
    long_jobs: long_job::LongJobs,
    migration_bandwidth: AtomicU64,
}

/// Jobs and who waits for them.
struct Board {
    jobs: Jobs,
    waiting: HashMap<JobId, oneshot::Sender<()>>,
    /// Which calls of libvirt's protocol the jobs are of.
    calls: HashMap<JobId, &'static ProcedureInfo>,
}

impl Board {
    /// Asks for a job for the call that runs now.
    fn ask(&mut self, want: Want) -> Answer {
        let answer = self.jobs.ask(want);
        let call = crate::peers::current().and_then(|caller| caller.call);
        if let (Answer::Granted(id) | Answer::Queued(id), Some(call)) = (&answer, call) {
            self.calls.insert(*id, call);
        }
        answer
    }

    /// Ends a job; who is granted now.
    fn done(&mut self, id: JobId) -> Vec<JobId> {
        self.calls.remove(&id);
        self.jobs.done(id)
    }

    /// Who stands in the way of `want`: libvirt's clients know it by its call.
    fn holder(&self, want: Want) -> String {
        let (id, word) = self.jobs.holder(want);
        let slot = if want == Want::Agent { "agent" } else { "monitor" };
        match id.and_then(|id| self.calls.get(&id)) {
            Some(call) => format!("{slot}={}", call.dispatcher()),
            None => word.to_owned(),
        }
    }
}

impl Domain {
    /// Starts the owner task of a guest.
    fn spawn(world: Arc<World>, view: View, max_queued: usize) -> Self {
        let mailbox = Arc::new(Mailbox::new());
        let view = Arc::new(view);
        let (publish, receiver) = watch::channel(Arc::clone(&view));
        let uuid = view.uuid;
        tokio::spawn(
            Owner {
                world,
                view,
                publish,
                mailbox: Arc::clone(&mailbox),
            }
            .run(),
        );
        let board = Mutex::new(Board {
            jobs: Jobs::new(max_queued),
            waiting: HashMap::new(),
            calls: HashMap::new(),
        });
        Self {
            inner: Arc::new(Inner {
                uuid,
                mailbox,
                view: receiver,
                board,
                long_jobs: long_job::LongJobs::default(),
                migration_bandwidth: AtomicU64::new(long_job::NO_LIMIT),
            }),
        }
    }

    /// Who it is.
    pub fn uuid(&self) -> Uuid {
        self.inner.uuid
    }
    /// The newest view.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.inner.view.borrow())
    }
    /// Waits until a view fulfils `condition`.
    pub async fn wait_for(&self, condition: impl FnMut(&Arc<View>) -> bool) -> Arc<View> {
        let mut receiver = self.inner.view.clone();
        match receiver.wait_for(condition).await {
            Ok(view) => Arc::clone(&view),
            Err(_) => self.view(),
        }
    }

    /// Commits a change and waits until it is published. See [`Effects`].
    ///
    /// # Errors
    /// What the change or writing its files gives; then nothing has changed. Reason [`GONE`] if the guest has left.
    pub async fn commit(
        &self,
        change: impl FnOnce(&mut View) -> Result<Effects> + Send + 'static,
    ) -> Result<Arc<View>> {
        let (answer, receiver) = oneshot::channel();
        let message = Message::Commit(Box::new(change), answer);
        self.inner
            .mailbox
            .send(message)
            .await
            .map_err(|_| owner::gone())?;
        receiver.await.map_err(|_| owner::gone())?
    }

    /// Hands over what QEMU has said, in order. Waits while the owner is behind.
    pub async fn from_monitor(&self, change: impl FnOnce(&mut View) -> Result<Effects> + Send + 'static) {
        // The owner ends only with the daemon or the guest: what QEMU says then is read back at the next start.
        self.inner.mailbox.send_event(Box::new(change)).await;
    }

    pub(super) async fn close(&self) {
        // An owner that has ended already needs no telling.
        let _ = self.inner.mailbox.send(Message::Close).await;
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.inner.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a job, waiting for others to end for at most [`JOB_WAIT`].
    ///
    /// # Errors
    /// `OperationTimeout` naming who holds it; `OperationFailed` if too many wait.
    pub async fn job(&self, want: Want) -> Result<Job> {
        self.job_within(want, JOB_WAIT).await
    }

    /// The same with another limit; zero does not wait at all.
    ///
    /// # Errors
    /// As [`job`](Self::job).
    pub async fn job_within(&self, want: Want, limit: Duration) -> Result<Job> {
        let (id, receiver) = {
            let mut board = self.board();
            match board.ask(want) {
                Answer::Granted(id) => {
                    return Ok(Job {
                        domain: self.clone(),
                        id,
                    });
                }
                Answer::Full => {
                    return Err(Error::new(
                        Code::OperationFailed,
                        "cannot acquire state change lock due to max_queued limit",
                    ));
                }
                Answer::Queued(id) => {
                    let (sender, receiver) = oneshot::channel();
                    board.waiting.insert(id, sender);
                    (id, receiver)
                }
            }
        };
        // From here the guard gives the place in the queue back, whatever happens.
        let job = Job {
            domain: self.clone(),
            id,
        };
        match tokio::time::timeout(limit, receiver).await {
            Ok(Ok(())) => Ok(job),
            _ => {
                let holder = self.board().holder(want);
                Err(Error::new(
                    Code::OperationTimeout,
                    format!("cannot acquire state change lock (held by {holder})"),
                ))
            }
        }
    }

    /// Its long job and the last one that ended.
    pub fn long_jobs(&self) -> &long_job::LongJobs {
        &self.inner.long_jobs
    }

    /// Bytes a second that a migration to another host may take. It is kept as long as the daemon runs.
    pub fn migration_bandwidth(&self) -> u64 {
        self.inner.migration_bandwidth.load(Ordering::Relaxed)
    }

    /// Sets [`Self::migration_bandwidth`].
    pub fn set_migration_bandwidth(&self, bytes: u64) {
        self.inner.migration_bandwidth.store(bytes, Ordering::Relaxed);
    }

    /// Whether a job is at work.
    pub fn busy(&self) -> bool {
        self.board().jobs.busy()
    }
}

impl std::fmt::Debug for Domain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.view().fmt(f)
    }
}

/// A job at work on a guest; dropped, it is over.
#[derive(Debug)]
pub struct Job {
    domain: Domain,
    id: JobId,
}

impl Job {
    /// The guest.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }
    /// The guest's newest view.
    pub fn view(&self) -> Arc<View> {
        self.domain.view()
    }
    /// The only way to change state; see [`Domain::commit`].
    ///
    /// # Errors
    /// As there.
    pub async fn commit(
        &self,
        change: impl FnOnce(&mut View) -> Result<Effects> + Send + 'static,
    ) -> Result<Arc<View>> {
        self.domain.commit(change).await
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let mut board = self.domain.board();
        board.waiting.remove(&self.id);
        let mut granted = board.done(self.id);
        while let Some(id) = granted.pop() {
            // Who was granted but has given up waiting gives it on.
            let taken = board
                .waiting
                .remove(&id)
                .is_some_and(|waiter| waiter.send(()).is_ok());
            if !taken {
                granted.extend(board.done(id));
            }
        }
    }
}

#[cfg(test)]
mod tests;
