//! What all jobs have in common when they begin: an entry in the status file before QEMU is told, and after.

use std::sync::Arc;

use domxml::{
    devices::{Disk, Mirror},
    status::{BlockJob, BlockJobDisk, BlockJobKind, BlockJobState, Open},
};
use qemu_plan::caps::Flag;
use qmp::{Command, commands};
use serde_json::{Map, Value, json};

use super::{change_entries, set_state};
use crate::{
    domain::{Edit, Effects, View},
    error::{Error, Result},
    ops::{
        Driver,
        document::plan,
        graph,
        operation::Context,
        run::{guest::Guest, jobs::CONCLUDED},
    },
};

/// A job that is about to begin.
pub(super) struct Beginning {
    /// Its entry.
    pub(super) entry: BlockJob,
    /// Where it writes, as the document of the run has it.
    pub(super) mirror: Option<Mirror>,
    /// The first number of a node that is free afterwards.
    pub(super) next_number: Option<u32>,
}

/// The entry of a job on a disk.
pub(super) fn entry(kind: BlockJobKind, name: String, disk: &Disk, flags: u32) -> BlockJob {
    BlockJob {
        name,
        kind: Open::Known(kind),
        state: Open::Known(BlockJobState::New),
        jobflags: Some(format!("{flags:#x}")),
        disk: Some(BlockJobDisk {
            dst: disk.target.dev.clone(),
            ..BlockJobDisk::default()
        }),
        ..BlockJob::default()
    }
}

/// Arguments that every job gets, with its own: those come first.
pub(super) async fn arguments(driver: &Arc<Driver>, view: &View, own: Value) -> Result<Map<String, Value>> {
    let document = &view.running()?.document.domain;
    let masks = plan::with_caps(driver, document, |caps, _| {
        Ok(caps.flags().has(Flag::BlockjobBackingMaskProtocol))
    })
    .await?;
    let mut all = graph::images::object(ending());
    all.extend(graph::images::object(own));
    if masks {
        all.insert("backing-mask-protocol".to_owned(), true.into());
    }
    Ok(all)
}

/// A job makes its changes by itself and is kept until it is dismissed.
pub(super) fn ending() -> Value {
    json!({ "auto-finalize": true, "auto-dismiss": false })
}

/// Begins a job: its entry, QEMU's command, and the entry again. The intent is noted.
///
/// # Errors
/// The status file can't be written, what QEMU refuses.
pub(super) async fn begin<C: Command + Send + Sync + 'static>(
    context: &Context,
    guest: &Arc<Guest>,
    beginning: Beginning,
    command: C,
) -> Result<()> {
    let Beginning {
        entry,
        mirror,
        next_number,
    } = beginning;
    let id = entry.name.clone();
    guest.block_jobs.begins(&id);
    let target = entry
        .disk
        .as_ref()
        .map(|disk| disk.dst.clone())
        .unwrap_or_default();
    let enter = {
        let target = target.clone();
        let edit = Edit::live(move |document| {
            if let Some(mirror) = &mirror {
                graph::disk_mut(document, &target)?.mirror = Some(mirror.clone());
            }
            Ok(())
        });
        move |view: &mut View| {
            view.running()?;
            edit.apply(view)?;
            if let Some(next) = next_number {
                graph::took_numbers(view, next);
            }
            change_entries(view, |all| all.push(entry));
            Ok(Effects::none())
        }
    };
    let leave = leave(Arc::clone(guest), id.clone(), target);
    context
        .step("the job's entry", guest.domain.commit(enter), leave)
        .await?;
    let cancel = {
        let (guest, id) = (Arc::clone(guest), id.clone());
        async move {
            match give_up(&guest, &id).await {
                Err(error) if guest.ended_with(&error).await => Ok(()),
                result => result,
            }
        }
    };
    context.step("the job", guest.execute(command), cancel).await?;
    context
        .commit_with(move |view| {
            // It may be ready by now.
            let is_new =
                super::entry(view, &id).is_some_and(|job| job.state.known() == Some(BlockJobState::New));
            if is_new {
                set_state(view, &id, BlockJobState::Running);
            }
            Ok(Effects::none())
        })
        .await
        .map(drop)
}

/// Forgets a job that did not begin. The end of a run sees to the images of jobs that are known, and QEMU may have ended at work
/// on this one.
async fn leave(guest: Arc<Guest>, id: String, target: String) -> Result<()> {
    if guest.has_ended().await {
        return Ok(());
    }
    let change = move |view: &mut View| forget(view, &id, &target);
    guest.domain.commit(change).await.map(drop)
}

fn forget(view: &mut View, id: &str, target: &str) -> Result<Effects> {
    change_entries(view, |all| all.retain(|job| job.name != id));
    let target = target.to_owned();
    let edit = Edit::live(move |document| {
        graph::disk_mut(document, &target)?.mirror = None;
        Ok(())
    });
    edit.apply(view)?;
    Ok(Effects::none())
}

/// Ends a job of which it is not known whether it has begun.
///
/// # Errors
/// QEMU does not answer.
pub(crate) async fn give_up(guest: &Guest, id: &str) -> Result<()> {
    let mut waiting = guest.jobs.expect(id);
    let jobs = guest.execute(commands::QueryJobs {}).await?;
    let Some(job) = jobs.iter().find(|job| job.id == id) else {
        return Ok(());
    };
    if job.status != CONCLUDED {
        let device = id.to_owned();
        let cancelled = guest
            .execute(commands::BlockJobCancel { device, force: true })
            .await;
        // It may have ended meanwhile.
        if cancelled.is_err() && graph::jobs::find(guest, id).await?.status != CONCLUDED {
            cancelled?;
        }
    }
    graph::jobs::reached(guest, &mut waiting, &[CONCLUDED]).await?;
    guest
        .execute(commands::JobDismiss { id: id.to_owned() })
        .await
        .map(drop)
}

/// The node that QEMU begins a job at: the topmost of a disk's images.
///
/// # Errors
/// `Internal` for a drive that is empty, in libvirt's words.
pub(super) fn device_node(disk: &Disk) -> Result<String> {
    let chain = qemu_plan::block::Chain::of(disk);
    let node = chain.layers.first().and_then(|top| top.node());
    node.map(str::to_owned)
        .ok_or_else(|| Error::internal("argument key 'device' must not have null value"))
}
