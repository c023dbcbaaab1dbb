//! Programs that run beside QEMU for one device.

mod described;
pub mod message_bus;
pub mod passt;
pub mod reservations;
pub mod screen;
pub mod tpm;
pub mod virtiofs;

use std::{path::PathBuf, time::Duration};

use crate::{
    error::{Error, Result},
    ops::host::files,
    qemu::Process,
};

/// How long a program may take to end once it is killed.
const LAST_MOMENT: Duration = Duration::from_millis(500);

/// Sees to it that the program which holds a PID file has ended, and removes its other files, then that one.
async fn end_program(program: &str, pid_file: PathBuf, others: Vec<PathBuf>) -> Result<()> {
    if let Some(process) = Process::find_locker(&pid_file) {
        process.kill_group();
        if tokio::time::timeout(LAST_MOMENT, process.exited()).await.is_err() {
            return Err(Error::internal(format!("{program} does not end")));
        }
    }
    crate::blocking::file("removing the files of a program beside QEMU", move || {
        others.iter().try_for_each(|file| files::remove(file))?;
        files::remove(&pid_file)
    })
    .await
}
