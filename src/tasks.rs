//! Tasks that the runtime knows by one type.
//!
//! tokio makes code of some 20 KiB for each type of future or closure that it is given. The daemon has hundreds of them,
//! nearly all of which pass through a few functions: there they are boxed, which costs an allocation a task, and the code
//! exists once. Who spawns a type of his own once uses tokio itself.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::task::{JoinError, JoinHandle};
use tokio_util::task::TaskTracker;

/// Where a task leaves its result.
type Answer<T> = Arc<Mutex<Option<T>>>;
type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Waits for a task whose result lies in `answer` once it has ended.
async fn ended<T: Send>(task: JoinHandle<()>, answer: Answer<T>) -> Result<T, JoinError> {
    task.await?;
    let taken = answer.lock().unwrap_or_else(PoisonError::into_inner).take();
    #[expect(clippy::expect_used, reason = "the task's last act is to put it there")]
    Ok(taken.expect("a task that has ended has its result"))
}

/// Runs `work` on `tracker`; it goes on if nobody waits.
///
/// # Errors
/// The future gives that `work` panicked.
pub(crate) fn track<T: Send + 'static, W: Future<Output = T> + Send + 'static>(
    tracker: &TaskTracker,
    work: W,
) -> impl Future<Output = Result<T, JoinError>> + Send + use<T, W> {
    let work: Boxed<T> = Box::pin(work);
    let answer = Answer::default();
    let to = Arc::clone(&answer);
    let task: Boxed<()> = Box::pin(async move {
        let result = work.await;
        *to.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    });
    ended(tracker.spawn(task), answer)
}

/// Runs `work` on a thread that may block; it goes on if nobody waits.
///
/// # Errors
/// The future gives that `work` panicked.
pub(crate) fn block<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, JoinError>> + Send {
    let answer = Answer::default();
    let to = Arc::clone(&answer);
    let work: Box<dyn FnOnce() + Send> = Box::new(move || {
        let result = work();
        *to.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    });
    ended(tokio::task::spawn_blocking(work), answer)
}
