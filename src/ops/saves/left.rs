//! What a daemon that was killed in the midst of a save, a dump or a restore has left.
//!
//! Called by `recover` when a guest that runs is reached, before its CPUs may run again: a guest that goes on must have no
//! image that a later start would set it back to.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use super::image;
use crate::{
    blocking,
    domain::{Domain, Effects, RunState, View, intents::Intent},
    error::Result,
    ops::{
        Driver,
        run::{cpus, guest::Guest, react},
    },
};

/// Sees to the images of a guest that goes on. Without notes of a save or a restore, a managed save beside a guest that
/// runs is older than the guest: it is put aside.
///
/// # Errors
/// An image can't be made invalid: the guest must not go on.
pub(crate) async fn images(driver: &Arc<Driver>, guest: &Arc<Guest>) -> Result<()> {
    let view = guest.domain.view();
    let store = driver.registry.store();
    let notes = store.intents().of(view.uuid, guest.id);
    let left = notes
        .into_iter()
        .filter(|note| !driver.operations.is_under_way(note.operation));
    let mut managed = Some(store.managed_save_path(&view.name)).filter(|_| view.managed_save);
    let mut known = false;
    for note in left {
        let (path, created) = match note.intent {
            Intent::Save { .. } => match note.intent.image() {
                Some((path, created)) => (path.to_owned(), created),
                None => continue,
            },
            Intent::Restore {
                managed: Some(path), ..
            } => (path, true),
            Intent::Dump { path } => {
                tracing::warn!(guest = %view.name, file = path,
                    "the daemon ended in the midst of a dump: this file may be incomplete");
                continue;
            }
            _ => continue,
        };
        known |= managed.as_deref() == Some(Path::new(&path));
        blocking::file("seeing to an image that was left", move || {
            let path = Path::new(&path);
            if !path.exists() {
                return Ok(());
            }
            tracing::warn!(image = %path.display(), created, "the daemon ended in the midst of it: this is no image");
            image::discard(path, created)
        })
        .await?;
    }
    // While this daemon saves it, its image is its own matter.
    let at_work = guest.domain.busy();
    if let Some(path) = managed.take().filter(|_| !at_work) {
        if !known {
            let guest = Arc::clone(&view.name);
            blocking::file("putting an image aside", move || {
                if path.exists() {
                    let aside = image::put_aside(&path, "stale")?;
                    tracing::warn!(%guest, image = %aside.display(),
                        "the guest runs: the image of its managed save is older, and kept under this name");
                }
                Ok(())
            })
            .await?;
        }
        let gone = |view: &mut View| {
            view.managed_save = false;
            Ok(Effects::none())
        };
        guest.domain.commit(gone).await?;
    }
    Ok(())
}

/// Sees to the image of a guest whose run has ended in the midst of a save: one that is complete is the guest. Whether it is.
///
/// # Errors
/// It can't be read, or removed.
pub(crate) async fn without_guest(
    driver: &Driver,
    domain: &Domain,
    (path, created): (&Path, bool),
) -> Result<bool> {
    let (path, view) = (path.to_owned(), domain.view());
    let is_managed = driver.registry.store().managed_save_path(&view.name) == path;
    let is_whole = blocking::file("seeing to an image that was left", move || {
        if image::is_sealed(&path)? {
            return Ok(true);
        }
        if path.exists() {
            tracing::warn!(image = %path.display(), created, "the run ended in the midst of it: this is no image");
            image::discard(&path, created)?;
        }
        Ok(false)
    })
    .await?;
    if is_managed && view.managed_save != is_whole {
        let follow = move |view: &mut View| {
            view.managed_save = is_whole;
            Ok(Effects::none())
        };
        domain.commit(follow).await?;
    }
    Ok(is_whole)
}

/// A guest that was loaded from an image goes on, if it was to.
///
/// # Errors
/// Its CPUs can't run.
pub(crate) async fn go_on(driver: &Arc<Driver>, guest: &Arc<Guest>, runs: bool) -> Result<()> {
    if !runs || guest.domain.view().condition.state() != RunState::Paused {
        return Ok(());
    }
    let monitor = guest.monitor()?;
    let run = async {
        guest.is_told.store(true, Ordering::Release);
        monitor.cont().await?;
        let change = |view: &mut View| Ok(react::restored(view));
        guest.domain.commit(change).await.map(drop)
    };
    cpus::run_cpus(driver, guest, run).await
}
