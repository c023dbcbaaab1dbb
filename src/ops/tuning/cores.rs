//! Cores that a guest shares with nobody else, where `sched_core` of qemu.conf asks for them: the kernel lets only threads
//! with one cookie run beside each other on the hardware threads of a core.

use crate::{
    config::SchedCore,
    error::{Error, Result},
    ops::Driver,
};

/// Gives the process that is to become QEMU a cookie; all that it starts inherits it.
///
/// # Errors
/// The kernel refuses it.
pub(crate) fn of_emulator(driver: &Driver, pid: i32) -> Result<()> {
    match driver.config().sched_core {
        SchedCore::Emulator => unixfd::new_cookie_of_process(pid).map_err(not_set),
        SchedCore::None | SchedCore::Vcpus => Ok(()),
    }
}

/// Gives the threads of a guest's CPUs one cookie: a new one, or that of a CPU that runs already.
///
/// # Errors
/// The kernel refuses it.
pub(crate) async fn of_vcpus(driver: &Driver, running: Option<i32>, mut threads: Vec<i32>) -> Result<()> {
    if driver.config().sched_core != SchedCore::Vcpus || threads.is_empty() {
        return Ok(());
    }
    let share = move || {
        let first = match running {
            Some(first) => first,
            None => {
                let first = threads.remove(0);
                unixfd::new_cookie(first).map_err(not_set)?;
                first
            }
        };
        unixfd::share_cookie(first, threads).map_err(|error| {
            Error::system(
                format_args!("unable to share scheduling cookie from {first}"),
                error,
            )
        })
    };
    crate::blocking::file("sharing a cookie of scheduling", share).await
}

fn not_set(error: std::io::Error) -> Error {
    Error::system("Unable to set SCHED_CORE", error)
}
