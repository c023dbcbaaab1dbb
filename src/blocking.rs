//! The one place where the daemon waits for a file system.
//!
//! Files may lie on a network mount that hangs: what may block runs on a thread of its own and is given up after a
//! deadline. The thread goes on; what it does then must be harmless, which atomic renames and removals are.

use std::{path::Path, time::Duration};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};

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

/// Whether the files of a directory lie in memory, as those of runs do: nothing is waited for then.
pub(crate) fn in_memory(dir: &Path) -> bool {
    statfs(dir).is_ok_and(|told| told.filesystem_type() == TMPFS_MAGIC)
}

/// [`file`], but here and now if all files that `work` touches lie in memory: the way to another thread and back takes
/// longer than such work.
///
/// # Errors
/// As [`file`].
pub(crate) async fn light<T: Send + 'static>(
    in_memory: bool,
    what: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if in_memory { work() } else { file(what, work).await }
}

/// The same as [`file`] with another deadline.
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

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn only_files_in_memory_are_touched_here_and_now() {
        assert!(!in_memory(Path::new("/proc")));
        assert!(!in_memory(Path::new("/nonexistent")));
        for here in [true, false] {
            let worker = light(here, "looking", || Ok(thread::current().id()))
                .await
                .unwrap();
            assert_eq!(worker == thread::current().id(), here);
        }
    }
}
