//! What becomes of a snapshot that was being made or removed when the daemon ended.
//!
//! What is recorded decides: a snapshot that is not was not made, and what images have of it goes; one that was being
//! removed goes to the end.

use std::{path::PathBuf, sync::Arc};

use super::{
    create::resume_cpus,
    delete::{forgetting, from_files, from_images},
    images,
    internal::{self, Place},
    left,
};
use crate::{
    domain::{Domain, Effects, RunState, View, intents::Intent},
    error::Result,
    ops::{Driver, run::guest::Guest},
};

/// Sees to what was under way on a running guest.
///
/// # Errors
/// QEMU does not answer, or fails at it.
pub(crate) async fn running(driver: &Arc<Driver>, guest: &Arc<Guest>, intent: &Intent) -> Result<()> {
    let view = guest.domain.view();
    match intent {
        Intent::CreateSnapshot {
            name, nodes, resume, ..
        } => {
            internal::settle(guest, name).await?;
            if view.snapshots.get(name).is_none() {
                let place = Place {
                    vmstate: String::new(),
                    devices: nodes.clone(),
                };
                internal::take_back(guest, name, place).await?;
            }
            if *resume && guest.domain.view().condition.state() == RunState::Paused {
                resume_cpus(driver, guest).await?;
            }
            Ok(())
        }
        Intent::SnapshotDisks { resume, goes_on, .. } => {
            let Some(left) = left::Left::of(intent) else {
                return Ok(());
            };
            left::resolve(driver, guest, left).await?;
            // Where somebody else makes a part they stand until he says so; if it came to nothing he has no part.
            let came_to_nothing = guest.domain.view().snapshots == view.snapshots;
            let stands = guest.domain.view().condition.state() == RunState::Paused;
            if stands && (*goes_on || *resume && came_to_nothing) {
                resume_cpus(driver, guest).await?;
            }
            Ok(())
        }
        Intent::DeleteSnapshot { name } => {
            internal::settle(guest, name).await?;
            finish_removal(driver, &guest.domain, (name, false)).await
        }
        _ => Ok(()),
    }
}

/// Sees to what was under way on a guest that is off.
///
/// # Errors
/// An image can't be read or changed.
pub(crate) async fn off(driver: &Arc<Driver>, domain: &Domain, intent: &Intent) -> Result<()> {
    match intent {
        Intent::CreateSnapshot { name, images, .. } => {
            if domain.view().snapshots.get(name).is_some() {
                return Ok(());
            }
            let images: Vec<_> = images.iter().map(PathBuf::from).collect();
            images::take_back(name, &images).await
        }
        Intent::SnapshotImages { name, files } => {
            if domain.view().snapshots.get(name).is_some() {
                return Ok(());
            }
            left::remove_unnamed(&domain.view(), files).await
        }
        Intent::DeleteSnapshot { name } => finish_removal(driver, domain, (name, true)).await,
        _ => Ok(()),
    }
}

/// Sees to what was under way on a run that is over; the documents may not say so yet.
///
/// # Errors
/// An image can't be read or changed; the files can't be written.
pub(crate) async fn over(driver: &Arc<Driver>, domain: &Domain, intent: &Intent) -> Result<()> {
    match left::Left::of(intent) {
        Some(left) => left::without_qemu(driver, domain, left).await,
        None => off(driver, domain, intent).await,
    }
}

async fn finish_removal(driver: &Arc<Driver>, domain: &Domain, (name, is_over): (&str, bool)) -> Result<()> {
    let view = domain.view();
    if view.snapshots.get(name).is_none() {
        return Ok(());
    }
    match is_over {
        true => from_files(driver, &view, name).await?,
        false => from_images(driver, &view, name).await?,
    }
    let change = forgetting(driver, &view, name).await?;
    let commit = move |view: &mut View| {
        change.apply(view)?;
        Ok(Effects::none())
    };
    domain.commit(commit).await.map(drop)
}
