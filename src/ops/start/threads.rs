//! Where the threads of a guest that starts run, and by which policy of the host's scheduler.
//!
//! Its first thread is placed before it becomes QEMU: all others inherit that. Where the guest has control groups each
//! thread gets one, and is placed anew, as the move makes it forget its place; without them, only threads of which the
//! document says something else are placed.

use domxml::{Bitmap, Domain, status::VcpuThread};

use crate::{
    error::Result,
    ops::{
        Driver,
        holdings::cgroup::thread::Thread,
        tuning::{
            cores, enclose,
            pinning::{self, every_cpu, ids, numbered},
            policy,
        },
    },
    qemu::Monitor,
};

/// Places the process that is to become QEMU: where the document says, or anywhere, however the daemon is placed itself.
///
/// # Errors
/// None of the CPUs that the document names is there; the kernel refuses its policy.
pub(crate) async fn place_emulator(driver: &Driver, document: &Domain, pid: i32) -> Result<()> {
    cores::of_emulator(driver, pid)?;
    policy::set(document, Thread::Emulator, pid)?;
    if let Some(cpus) = pinning::of(document, Thread::Emulator) {
        return pinning::set(pid, cpus);
    }
    // The daemon's own place may be all that it is allowed to give.
    if let Err(error) = pinning::set(pid, &every_cpu(driver).await?) {
        tracing::debug!(%error, "QEMU runs where the daemon does");
    }
    Ok(())
}

/// Places the threads of CPUs and for I/O of the process `pid`.
///
/// # Errors
/// None of the CPUs that the document names is there; the kernel refuses a policy; QEMU does not answer.
pub(crate) async fn place(
    driver: &Driver,
    monitor: &Monitor,
    document: &Domain,
    qemu: (i32, &[VcpuThread]),
) -> Result<()> {
    let (pid, vcpus) = qemu;
    cores::of_vcpus(driver, None, vcpus.iter().map(|v| v.pid).collect()).await?;
    let mut threads: Vec<(Thread, i32)> = vcpus.iter().map(|v| (Thread::Vcpu(v.id), v.pid)).collect();
    if !ids(document).is_empty() {
        let iothreads = numbered(&monitor.iothreads().await?);
        threads.extend(iothreads.into_iter().map(|(id, tid)| (Thread::Io(id), tid)));
    }
    let grouped = enclose::enclose_threads(driver, document, pid, threads.clone()).await?;
    let every = every_cpu(driver).await?;
    let of_emulator = pinning::of(document, Thread::Emulator);
    for (thread, tid) in threads {
        place_one(pinning::of(document, thread), (of_emulator, grouped), &every, tid)?;
        policy::set(document, thread, tid)?;
    }
    Ok(())
}

/// Places one thread, unless it is where it is to be.
fn place_one(
    cpus: Option<&Bitmap>,
    inherited: (Option<&Bitmap>, bool),
    every: &Bitmap,
    tid: i32,
) -> Result<()> {
    let (of_emulator, grouped) = inherited;
    match cpus {
        cpus if cpus == of_emulator && !grouped => Ok(()),
        Some(cpus) => pinning::set(tid, cpus),
        None => {
            if let Err(error) = pinning::set(tid, every) {
                tracing::debug!(%error, "a thread runs where the daemon does");
            }
            Ok(())
        }
    }
}
