//! For whom the other daemons are called.
//!
//! A call of a client runs with its caller at hand, and so does what the call goes on with on the driver's tracker
//! (`Driver::tracked`): the other daemons decide about that caller. What we do by ourselves, at a guest's end or after
//! a restart, we do as the daemon.

use std::{future::Future, pin::Pin};

use tokio::task::JoinError;
use tokio_util::task::TaskTracker;
use wire::Caller;

use crate::tasks;

tokio::task_local! {
    static CALLER: Option<Caller>;
}

/// Runs `work` for `caller`.
pub fn on_behalf<F: Future>(caller: Option<Caller>, work: F) -> impl Future<Output = F::Output> {
    CALLER.scope(caller, work)
}

/// Runs `work` on `tracker` for the caller for whom we run now; it goes on if nobody waits.
///
/// # Errors
/// The future gives that `work` panicked.
pub fn track<T: Send + 'static, W: Future<Output = T> + Send + 'static>(
    tracker: &TaskTracker,
    work: W,
) -> impl Future<Output = Result<T, JoinError>> + Send + use<T, W> {
    let work: Pin<Box<dyn Future<Output = T> + Send>> = Box::pin(work);
    tasks::track(tracker, on_behalf(current(), work))
}

/// The caller for whom we run now; none: the daemon itself.
pub fn current() -> Option<Caller> {
    CALLER.try_with(Clone::clone).ok().flatten()
}
