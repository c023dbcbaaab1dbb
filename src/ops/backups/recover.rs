//! Backups that were under way when the daemon ended, ours or libvirt's.
//!
//! Called whenever a guest is reached. One that had begun goes on: the status file says so by `<backups>`. One that had not
//! is taken back: by the note that we made of it, or by the entries that another daemon left.

use std::{sync::Arc, time::SystemTime};

use domxml::status::{BlockJob, BlockJobKind};
use qemu_plan::block::Layer;
use qmp::commands;

use super::{bare, begin, of, serve, watch::Watch};
use crate::{
    domain::{
        Effects, View,
        intents::Intent,
        jobs::{Long, Want},
    },
    error::{Error, Result},
    ops::{
        Driver, blockjobs,
        graph::{
            bitmaps::{self, Bitmaps},
            images,
        },
        operation::{Context, Operation},
        run::{guest::Guest, left_backup, long_job::LongJob},
    },
};

/// Sees to the backup of a guest that was just reached.
///
/// # Errors
/// QEMU does not answer, or the status file can't be written.
pub(crate) async fn recover(driver: &Arc<Driver>, guest: &Arc<Guest>) -> Result<()> {
    let view = guest.domain.view();
    // One that this daemon carries out goes on by itself.
    if guest.domain.long_jobs().current().is_some() {
        return Ok(());
    }
    let Some(run) = view.run.as_ref().filter(|run| run.launched.id == guest.id) else {
        return Ok(());
    };
    if of(run).is_none() {
        return forget(driver, guest, &view).await;
    }
    tracing::info!(guest = %view.name, "a backup was under way; it goes on");
    let (owned, guest) = (Arc::clone(driver), Arc::clone(guest));
    driver.tracker.spawn(async move {
        if let Err(error) = go_on(&owned, &guest).await {
            tracing::warn!(guest = %guest.domain.view().name, %error, "the backup that was under way has ended");
        }
    });
    Ok(())
}

async fn go_on(driver: &Arc<Driver>, guest: &Arc<Guest>) -> Result<()> {
    let held = guest.take_kept_job();
    let job = match held {
        Some(job) => job,
        None => guest.domain.job(Want::Long(Long::Backup)).await?,
    };
    if guest.domain.view().run.as_ref().and_then(of).is_none() {
        return Ok(());
    }
    let operation = Operation::resumed(driver, job, "backup");
    let guest = Arc::clone(guest);
    let work = |context: Arc<Context>| async move {
        let view = context.view();
        let run = view.running()?;
        let backup = of(run).ok_or_else(Error::not_running)?;
        let started = run.status.job.as_ref().and_then(|job| job.async_started);
        let started = started.map(|at| SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(at));
        let what = begin::what(left_backup::flags(run));
        let job = LongJob::resumed(&context, what, started.unwrap_or_else(SystemTime::now))?;
        let mut watch = Watch::new(&context, &guest, job);
        if backup.is_pull() && backup.parts().all(|part| !part.is_over()) {
            let known = guest.execute(commands::QueryBlockExports {}).await?;
            let known: Vec<_> = known.into_iter().map(|export| export.id).collect();
            if let Err(error) = serve::export(&guest, backup, &known).await {
                tracing::error!(guest = %view.name, %error, "the disks of a backup can't be exported; it is given up");
                watch.cancel().await?;
            }
        }
        Box::pin(watch.run()).await
    };
    operation.carry_out(work).await
}

/// Takes back what another daemon had begun: it has an entry of each job, and nothing says that they are under way.
async fn forget(driver: &Arc<Driver>, guest: &Arc<Guest>, view: &View) -> Result<()> {
    let entries = view
        .run
        .iter()
        .flat_map(|run| &run.status.blockjobs)
        .flat_map(|all| &all.jobs);
    let left: Vec<BlockJob> = entries
        .filter(|job| job.kind.known() == Some(BlockJobKind::Backup))
        .cloned()
        .collect();
    if left.is_empty() {
        return Ok(());
    }
    tracing::warn!(guest = %view.name, "a backup had not begun when the daemon ended; it is taken back");
    let names: Vec<_> = left.iter().map(|job| job.name.clone()).collect();
    begin::give_up(Arc::clone(guest), names.clone(), Vec::new()).await?;
    stop_server(guest).await;
    for job in &left {
        let target = job
            .disk
            .as_ref()
            .map(|disk| disk.dst.as_str())
            .unwrap_or_default();
        let store = job
            .store
            .as_ref()
            .and_then(|store| Some((store, store.source.clone()?)));
        if let Some((store, source)) = store {
            let layer = Layer {
                kind: store.kind.unwrap_or_default(),
                format: store.file_format,
                source,
                ..Layer::default()
            };
            let layers = std::slice::from_ref(&layer);
            images::drop_layers(driver, guest, &bare(target), layers, false).await;
        }
    }
    forget_entries(guest, names).await
}

async fn stop_server(guest: &Guest) {
    if let Err(error) = guest.execute(commands::NbdServerStop(Default::default())).await {
        tracing::debug!(%error, "no server is left of a backup");
    }
}

async fn forget_entries(guest: &Guest, names: Vec<String>) -> Result<()> {
    let change = move |view: &mut View| {
        blockjobs::change_entries(view, |all| all.retain(|job| !names.contains(&job.name)));
        Ok(Effects::none())
    };
    guest.domain.commit(change).await.map(drop)
}

/// Sees to a backup of ours that was about to begin.
///
/// # Errors
/// QEMU does not answer, or refuses.
pub(crate) async fn resolve(guest: &Arc<Guest>, intent: &Intent) -> Result<()> {
    let Intent::Backup {
        jobs,
        bitmaps: made,
        nodes,
        files,
        serves,
        objects,
    } = intent
    else {
        return Ok(());
    };
    let view = guest.domain.view();
    // It has begun, and goes on or is over; or nothing was done yet.
    let is_entered = jobs.iter().any(|job| blockjobs::entry(&view, job).is_some());
    if has_begun(&view) || !is_entered {
        return Ok(());
    }
    images::settle(guest, nodes).await?;
    begin::give_up(Arc::clone(guest), jobs.clone(), Vec::new()).await?;
    if *serves {
        stop_server(guest).await;
        for id in objects.clone() {
            if let Err(error) = guest.execute(commands::ObjectDel { id }).await {
                tracing::debug!(%error, "no object of its server is left of a backup");
            }
        }
    }
    let known = guest
        .execute(commands::QueryNamedBlockNodes { flat: true })
        .await?;
    let there: Vec<_> = known.iter().filter_map(|node| node.node_name.clone()).collect();
    let known = Bitmaps::of(known);
    let left = made
        .iter()
        .filter(|(node, name)| known.find(node, name).is_some());
    let actions: Vec<_> = left.map(|(node, name)| bitmaps::remove(node, name)).collect();
    if !actions.is_empty() {
        guest.execute(commands::Transaction { actions }).await?;
    }
    for node_name in nodes.iter().filter(|node| there.contains(node)).cloned() {
        guest.execute(commands::BlockdevDel { node_name }).await?;
    }
    left_backup::remove(files.clone()).await;
    forget_entries(guest, jobs.clone()).await
}

/// Whether an intent was carried out.
pub(crate) fn has_begun(view: &View) -> bool {
    view.run.as_ref().and_then(of).is_some()
}
