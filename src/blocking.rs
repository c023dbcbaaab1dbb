//! The one place where the daemon waits for a file system.
//!
//! Files may lie on a network mount that hangs: what may block runs on a thread of its own and is given up after a
//! deadline. The thread goes on; what it does then must be harmless, which atomic renames and removals are.

use std::time::Duration;

use crate::{
    error::{Code, Error, Result},
    tasks,
};

/// How long a local file may take.
pub(crate) const FILE_DEADLINE: Duration = Duration::from_secs(20);

/// Runs `work` on a thread that may block, for at most [`FILE_DEADLINE`].
///
/// # Errors
/// What `work` gives, or `OperationTimeout` naming `what`.
pub(crate) async fn file<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    within(FILE_DEADLINE, what, work).await
}

/// The same with another deadline.
///
/// # Errors
/// As [`file`].
pub(crate) async fn within<T: Send + 'static>(
    limit: Duration,
    what: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::time::timeout(limit, tasks::block(work)).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(Error::internal(format!("{what}: the work failed")).caused_by(panic)),
        Err(_) => Err(Error::new(
            Code::OperationTimeout,
            format!(
                "{what}: the file system did not answer within {} s",
                limit.as_secs()
            ),
        )),
    }
}
