//! Block jobs that were under way when the daemon ended, ours or libvirt's.
//!
//! Called whenever a guest is reached. QEMU says which jobs it has; one that ended meanwhile is finished as usual, one that
//! became ready is told, and one that QEMU does not have is judged by the images that it has.

use std::sync::Arc;

use domxml::status::{BlockJob, BlockJobKind, BlockJobState};
use qmp::types::JobInfo;

use super::{change_entries, end, entries, set_state};
use crate::{
    domain::{Effects, View},
    error::Result,
    ops::{
        Driver,
        graph::truth::Truth,
        run::{guest::Guest, jobs, streams},
    },
};

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It goes on.
    Keep,
    /// QEMU has begun it, and the entry says so from now on.
    Begun,
    /// It became ready.
    Ready,
    /// It has ended, or is gone.
    Finish,
    /// It was no job of a disk, or was never begun.
    Forget,
}

fn fate(job: &BlockJob, known: Option<&JobInfo>) -> Fate {
    use BlockJobState as S;
    let kind = job.kind.known();
    // What a backup comes to is seen to by whoever has the backup.
    if matches!(kind, Some(BlockJobKind::Backup)) {
        return Fate::Keep;
    }
    if job.disk.is_none()
        || !matches!(
            kind,
            Some(BlockJobKind::Pull | BlockJobKind::Copy | BlockJobKind::Commit | BlockJobKind::ActiveCommit)
        )
    {
        return if known.is_some() { Fate::Keep } else { Fate::Forget };
    }
    let Some(info) = known else { return Fate::Finish };
    match (info.status.as_str(), job.state.known()) {
        (jobs::CONCLUDED, _) => Fate::Finish,
        // It was to be swapped in, or cancelled, and QEMU has not heard of it.
        ("ready" | "standby", Some(S::Pivoting | S::Aborting | S::Ready)) => Fate::Ready,
        ("ready" | "standby", _) => Fate::Ready,
        (_, Some(S::New)) => Fate::Begun,
        _ => Fate::Keep,
    }
}

/// Sees to the block jobs of a guest that was just reached.
pub(crate) async fn recover(driver: &Arc<Driver>, guest: &Arc<Guest>) -> Result<()> {
    let view = guest.domain.view();
    let Some(run) = view.run.as_ref().filter(|run| run.launched.id == guest.id) else {
        return Ok(());
    };
    let all = entries(run);
    if all.is_empty() {
        return Ok(());
    }
    let truth = Truth::read(guest).await?;
    for job in all {
        let fate = fate(job, truth.job(&job.name));
        tracing::info!(guest = %view.name, job = job.name, ?fate, "a block job was under way");
        let id = job.name.clone();
        match fate {
            Fate::Keep => {
                guest.streams.is_gone(&id);
                if stands(truth.job(&id)) {
                    // A daemon that ended had it stand while it asked about nodes.
                    streams::go_on(&guest.monitor()?, id).await;
                }
            }
            Fate::Begun => {
                guest.streams.is_gone(&id);
                if stands(truth.job(&id)) {
                    streams::go_on(&guest.monitor()?, id.clone()).await;
                }
                set(guest, id, BlockJobState::Running).await?;
            }
            Fate::Ready => {
                if job.state.known() != Some(BlockJobState::Ready) {
                    set(guest, id.clone(), BlockJobState::Running).await?;
                    end::ready(guest, &id).await?;
                }
            }
            Fate::Finish => {
                end::dismiss_pull(guest, &id).await;
                end::conclude_now(driver, guest, &id).await;
            }
            Fate::Forget => {
                let forget = move |view: &mut View| {
                    change_entries(view, |all| all.retain(|job| job.name != id));
                    Ok(Effects::none())
                };
                guest.domain.commit(forget).await?;
            }
        }
    }
    Ok(())
}

/// Whether a pull stands.
fn stands(known: Option<&JobInfo>) -> bool {
    known.is_some_and(|job| job.status == "paused" && job.r#type == "stream")
}

async fn set(guest: &Guest, id: String, state: BlockJobState) -> Result<()> {
    let change = move |view: &mut View| {
        set_state(view, &id, state);
        Ok(Effects::none())
    };
    guest.domain.commit(change).await.map(drop)
}

#[cfg(test)]
mod tests {
    use domxml::status::{BlockJobDisk, Open};

    use super::*;

    #[test]
    fn each_entry_follows_qemu() {
        use BlockJobKind as K;
        use BlockJobState as S;
        let job = |kind, state| BlockJob {
            kind: Open::Known(kind),
            state: Open::Known(state),
            disk: Some(BlockJobDisk::default()),
            ..BlockJob::default()
        };
        let info = |status: &str| JobInfo {
            id: "x".into(),
            r#type: "stream".into(),
            status: status.into(),
            current_progress: 0,
            total_progress: 0,
            error: None,
        };
        let table = [
            (K::Pull, S::New, Some("running"), Fate::Begun),
            (K::Pull, S::Running, Some("running"), Fate::Keep),
            (K::Pull, S::Running, Some("concluded"), Fate::Finish),
            (K::Pull, S::New, None, Fate::Finish),
            (K::Copy, S::Running, Some("ready"), Fate::Ready),
            (K::Copy, S::Pivoting, Some("ready"), Fate::Ready),
            (K::Copy, S::Pivoting, Some("waiting"), Fate::Keep),
            (K::Copy, S::Pivoting, None, Fate::Finish),
            (K::Backup, S::Running, Some("running"), Fate::Keep),
            (K::Backup, S::Running, None, Fate::Keep),
        ];
        for (kind, state, known, expected) in table {
            let known = known.map(info);
            assert_eq!(
                fate(&job(kind, state), known.as_ref()),
                expected,
                "{kind:?} {state:?} {known:?}"
            );
        }
        let mut create = job(K::Create, S::Running);
        create.disk = None;
        assert_eq!(fate(&create, None), Fate::Forget);
    }
}
