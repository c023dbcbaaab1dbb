//! Threads that come to a running guest: of a CPU that is plugged in, of an I/O thread that is made.
//!
//! They inherit the place of QEMU's own thread; here each gets the group and the CPUs that the document has for it, as the
//! threads of a start do.

use std::sync::Arc;

use crate::{
    domain::Run,
    error::Result,
    ops::{
        Driver,
        holdings::cgroup::{
            self,
            thread::{Thread, part_of},
        },
        tuning::{
            cores, enclose,
            pinning::{self, every_cpu},
        },
    },
};

/// Places new threads of a run.
///
/// # Errors
/// None of the CPUs that the document names is there; the kernel refuses the group.
pub(crate) async fn place(driver: &Arc<Driver>, run: &Run, threads: Vec<(Thread, i32)>) -> Result<()> {
    let document = &run.document.domain;
    let cpus: Vec<i32> = threads
        .iter()
        .filter(|(thread, _)| matches!(thread, Thread::Vcpu(_)))
        .map(|(_, tid)| *tid)
        .collect();
    let running = run
        .status
        .vcpus
        .iter()
        .map(|cpu| cpu.pid)
        .find(|pid| !cpus.contains(pid));
    cores::of_vcpus(driver, running, cpus).await?;
    let grouped = enclose::enclose_threads(driver, document, run.launched.pid, threads.clone()).await?;
    let inherited = pinning::of(document, Thread::Emulator);
    for (thread, tid) in threads {
        match pinning::of(document, thread) {
            Some(cpus) => pinning::set(tid, cpus)?,
            None if grouped || inherited.is_some() => {
                if let Err(error) = pinning::set(tid, &every_cpu(driver).await?) {
                    tracing::debug!(%error, "a thread runs where the daemon does");
                }
            }
            None => {}
        }
    }
    Ok(())
}

/// Removes the group of a thread that has gone. One that stays is logged.
pub(crate) async fn forget(driver: &Arc<Driver>, run: &Run, thread: Thread) {
    let (driver, run) = (Arc::clone(driver), run.clone());
    let work = move || {
        let Some(group) = cgroup::of_run(&driver, &run)? else {
            return Ok(());
        };
        group.part(part_of(thread)).remove().map_err(cgroup::refused)
    };
    if let Err(error) = crate::blocking::file("removing the group of a thread", work).await {
        tracing::warn!(%error, ?thread, "the control group of a thread that has gone is left behind");
    }
}
