//! Reaching a monitor socket that may not be there yet.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout_at};

use crate::Error;

/// Between two tries; doubled each time up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Connects to the socket at `path`, trying again up to `within` while it is not there or nobody listens.
///
/// # Errors
/// [`Error::Connect`] with the last reason.
pub async fn connect(path: &Path, within: Duration) -> Result<UnixStream, Error> {
    let end = Instant::now() + within;
    let mut pause = FIRST_PAUSE;
    loop {
        let failed = |why: &dyn std::fmt::Display| Error::Connect(format!("{}: {why}", path.display()));
        // A listener whose queue is full (a stopped QEMU's) makes connect wait.
        let error = match timeout_at(end, UnixStream::connect(path)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error,
            Err(_) => return Err(failed(&"nobody accepts")),
        };
        if !may_come(&error) || Instant::now() + pause >= end {
            return Err(failed(&error));
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn may_come(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock
    )
}
