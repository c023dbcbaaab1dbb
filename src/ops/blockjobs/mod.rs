//! Jobs that move the blocks of a running guest's disks: pull, commit, copy.
//!
//! ```text
//!  begin: checks ─▶ intent ─▶ (copy: its image) ─▶ entry "new" ─▶ QEMU's command ─▶ entry "running"
//!                                                    QEMU: ready ─▶ entry and mirror "ready", event
//!  control: abort ─▶ entry "aborting" ─▶ cancel      pivot ─▶ entry "pivoting" ─▶ complete
//!  end (QEMU: concluded): outcome ─▶ dismissed ─▶ bitmaps ─▶ documents, event ─▶ nodes, files of images that left
//! ```
//!
//! The entry in the status file is libvirt's, so either daemon goes on with the other's jobs. An entry is there before QEMU
//! is told, and goes with the very commit in which the documents follow: a daemon that is killed at any point leaves an
//! entry, and the next one compares it with QEMU's chain ([`recover`]). QEMU keeps a job that has ended until it is
//! dismissed.
//!
//! [`pull`], [`commit`] and [`copy`] begin jobs, [`control`] steers them, [`end`] sees to what QEMU says of them, and
//! [`after`] is what a disk looks like then, as a pure function.

mod after;
pub(crate) mod begin;
pub mod commit;
pub mod control;
pub mod copy;
pub(crate) mod end;
pub(crate) mod merge;
pub mod pull;
pub(crate) mod recover;

use domxml::{
    devices::{Disk, YesNo},
    status::{BlockJob, BlockJobKind, BlockJobState, Open},
};

use crate::{
    domain::{Effects, Run, View},
    error::{Code, Error, Result},
    events::model::{self as pb, EventKind, event::Detail},
};

/// Most MiB a second, as libvirt's protocol has them.
const MIB_MAX: u64 = 8_796_093_022_207;

/// How libvirt numbers what becomes of a job in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Completed = 0,
    Failed = 1,
    Cancelled = 2,
    Ready = 3,
}

/// Bytes a second from what a caller gives in MiB.
///
/// # Errors
/// `Overflow` if they are too many.
pub fn bytes_of_mib(mib: u64) -> Result<u64> {
    if mib > MIB_MAX {
        return Err(Error::new(
            Code::Overflow,
            format!("bandwidth must be less than {MIB_MAX}"),
        ));
    }
    Ok(mib << 20)
}

/// The entries of a run.
pub(crate) fn entries(run: &Run) -> &[BlockJob] {
    run.status.blockjobs.as_ref().map_or(&[], |all| &all.jobs)
}

/// The entry of a job.
pub(crate) fn entry<'a>(view: &'a View, id: &str) -> Option<&'a BlockJob> {
    entries(view.run.as_ref()?).iter().find(|job| job.name == id)
}

/// Changes the entries of a run.
pub(crate) fn change_entries(view: &mut View, change: impl FnOnce(&mut Vec<BlockJob>)) {
    let Some(run) = &mut view.run else { return };
    let mut status = domxml::StatusDocument::clone(&run.status);
    let all = status.blockjobs.get_or_insert_default();
    change(&mut all.jobs);
    let is_active = |job: &BlockJob| job.disk.is_some() && job.state.known() != Some(BlockJobState::New);
    all.active = match all.jobs.iter().any(is_active) {
        true => YesNo::Yes,
        false => YesNo::No,
    };
    run.status = std::sync::Arc::new(status);
}

/// Changes one entry, if it is there.
pub(crate) fn change_entry(view: &mut View, id: &str, change: impl FnOnce(&mut BlockJob)) {
    change_entries(view, |all| {
        if let Some(job) = all.iter_mut().find(|job| job.name == id) {
            change(job);
        }
    });
}

pub(crate) fn set_state(view: &mut View, id: &str, state: BlockJobState) {
    change_entry(view, id, |job| job.state = Open::Known(state));
}

/// libvirt's number of a kind; none of a kind that is not told.
fn number(kind: Option<BlockJobKind>) -> Option<i32> {
    Some(match kind? {
        BlockJobKind::Pull => 1,
        BlockJobKind::Copy => 2,
        BlockJobKind::Commit => 3,
        BlockJobKind::ActiveCommit => 4,
        BlockJobKind::Backup => 5,
        _ => return None,
    })
}

/// What clients are told of a job; `disk` as it is by then.
pub(crate) fn told(job: &BlockJob, disk: &Disk, what: Told) -> Effects {
    let Some(number) = number(job.kind.known()) else {
        return Effects::none();
    };
    let path = qemu_plan::block::Chain::of(disk)
        .layers
        .first()
        .and_then(|top| top.path());
    let detail = Detail::BlockJob(pb::event::BlockJob {
        path: path.unwrap_or_default(),
        target: disk.target.dev.clone(),
        r#type: number,
        status: what as i32,
    });
    Effects::none().event(EventKind::BlockJob, Some(detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn megabytes_have_a_limit() {
        assert_eq!(bytes_of_mib(2).unwrap(), 2 << 20);
        assert!(bytes_of_mib(MIB_MAX).is_ok());
        let error = bytes_of_mib(MIB_MAX + 1).unwrap_err();
        assert_eq!(error.message, "bandwidth must be less than 8796093022207");
    }
}
