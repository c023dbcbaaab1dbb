//! Where the threads of a guest that starts run.
//!
//! Its first thread is placed before it becomes QEMU: all others inherit that, and only those of which the document says
//! something else are placed by themselves.

use domxml::{Bitmap, Domain, status::VcpuThread};

use crate::{
    error::Result,
    ops::{
        Driver,
        tuning::{
            Thread,
            pinning::{self, every_cpu, ids, numbered},
        },
    },
    qemu::Monitor,
};

/// Places the process that is to become QEMU: where the document says, or anywhere, however the daemon is placed itself.
///
/// # Errors
/// None of the CPUs that the document names is there.
pub(super) async fn place_emulator(driver: &Driver, document: &Domain, pid: i32) -> Result<()> {
    if let Some(cpus) = pinning::of(document, Thread::Emulator) {
        return pinning::set(pid, cpus);
    }
    // The daemon's own place may be all that it is allowed to give.
    if let Err(error) = pinning::set(pid, &every_cpu(driver).await?) {
        tracing::debug!(%error, "QEMU runs where the daemon does");
    }
    Ok(())
}

/// Places the threads of CPUs and for I/O.
///
/// # Errors
/// None of the CPUs that the document names is there; QEMU does not answer.
pub(super) async fn place(driver: &Driver, monitor: &Monitor, document: &Domain, vcpus: &[VcpuThread]) -> Result<()> {
    let of_emulator = pinning::of(document, Thread::Emulator);
    let every = every_cpu(driver).await?;
    let elsewhere = |thread| elsewhere(document, thread, of_emulator, &every);
    for vcpu in vcpus {
        elsewhere(Thread::Vcpu(vcpu.id)).map_or(Ok(()), |cpus| pinning::set(vcpu.pid, cpus))?;
    }
    if ids(document).into_iter().all(|id| elsewhere(Thread::Io(id)).is_none()) {
        return Ok(());
    }
    for (id, tid) in numbered(&monitor.iothreads().await?) {
        elsewhere(Thread::Io(id)).map_or(Ok(()), |cpus| pinning::set(tid, cpus))?;
    }
    Ok(())
}

/// Where a thread is to run, if that is not where it runs anyhow.
fn elsewhere<'a>(document: &'a Domain, thread: Thread, of_emulator: Option<&'a Bitmap>, every: &'a Bitmap) -> Option<&'a Bitmap> {
    let cpus = pinning::of(document, thread);
    if cpus == of_emulator { None } else { Some(cpus.unwrap_or(every)) }
}
