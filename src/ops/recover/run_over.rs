//! What was under way on a run that is over: QEMU has ended, and with it all that it was told; files are left.
//!
//! Called as a run ends, of what no operation of this daemon is at work on, and at start-up, before anybody can start the
//! guest. What becomes of it is what becomes of an operation whose QEMU ends while the daemon is there.

use std::{path::Path, sync::Arc};

use super::resolve::{taken_back, undone};
use crate::{
    domain::{
        Domain,
        intents::{Intent, Note},
    },
    error::{Error, Result},
    ops::{Driver, backups, moments, run::left_backup, saves::left},
};

/// Sees to all that runs have left which ended with the former daemon. Snapshots inside images are seen to with those of
/// guests that were off (`ops::change::cut_off`).
pub(crate) async fn before_all(driver: &Arc<Driver>) {
    for domain in driver.registry.all() {
        for note in notes_of_runs(driver, &domain) {
            see_to(driver, &domain, note).await;
        }
    }
}

/// Sees once more to images that were put on a guest's before its last run ended, and could not be entered in its documents:
/// before it runs again, or images of it are merged.
///
/// # Errors
/// They can't be entered now. What the guest wrote is in them, and what was written now would be below them later.
pub(crate) async fn before_images_change(driver: &Arc<Driver>, domain: &Domain) -> Result<()> {
    let view = domain.view();
    if view.active() || view.config.is_none() {
        return Ok(());
    }
    let are_put_on = |note: &Note| matches!(note.intent, Intent::SnapshotDisks { handed: true, .. });
    for note in notes_of_runs(driver, domain).into_iter().filter(are_put_on) {
        if let Err(error) = set_right(driver, domain, note).await {
            let text = format!(
                "the images that a snapshot has put on hold what domain '{}' wrote last, and its documents can't follow: {}",
                view.name, error.message
            );
            return Err(Error::new(error.code, text).caused_by(error));
        }
    }
    Ok(())
}

/// What runs of a guest have left that are over.
fn notes_of_runs(driver: &Driver, domain: &Domain) -> Vec<Note> {
    let mut notes = driver.registry.store().intents().of(domain.uuid(), Note::OFF);
    notes.retain(|note| is_of_run(&note.intent) && !driver.operations.is_under_way(note.operation));
    notes
}

/// Whether an operation is one on a run, of which only what is left is of a guest that is off.
pub(crate) fn is_of_run(intent: &Intent) -> bool {
    matches!(
        intent,
        Intent::SnapshotDisks { .. }
            | Intent::BeginBlockJob { .. }
            | Intent::Backup { .. }
            | Intent::Save { .. }
    )
}

/// Sees to one note. If that fails it stays, for the guest's next start and for the next daemon.
pub(crate) async fn see_to(driver: &Arc<Driver>, domain: &Domain, note: Note) {
    // It was told.
    let _ = set_right(driver, domain, note).await;
}

async fn set_right(driver: &Arc<Driver>, domain: &Domain, note: Note) -> Result<()> {
    let guest = Arc::clone(&domain.view().name);
    tracing::warn!(%guest, intent = ?note.intent, "this was under way when the run ended");
    let intents = driver.registry.store().intents();
    let result = Box::pin(resolve(driver, domain, &note)).await;
    tell(driver, domain, &note, &result);
    match result {
        Ok(_) => intents.clear(&note).await,
        Err(_) => intents.hand_on(note).await,
    }
    result.map(drop)
}

/// Tells whoever asks for the operation, and the log, what became of what a note is of.
pub(crate) fn tell(driver: &Driver, domain: &Domain, note: &Note, result: &Result<Option<Error>>) {
    let view = domain.view();
    let error = match result {
        Ok(error) => error.as_ref(),
        Err(error) => {
            tracing::error!(guest = %view.name, %error, "what was under way could not be set right");
            Some(error)
        }
    };
    let what = (&*view, note.intent.kind());
    driver
        .operations
        .recovered(note.operation, what, "recovered", error);
}

/// Finishes or undoes one; the error that whoever asks for the operation gets.
async fn resolve(driver: &Arc<Driver>, domain: &Domain, note: &Note) -> Result<Option<Error>> {
    let view = domain.view();
    if view.active() && view.id() != note.run {
        // Its images are another run's now.
        return Ok(Some(taken_back()));
    }
    match &note.intent {
        Intent::Save { .. } => {
            let Some((path, created)) = note.intent.image() else {
                return Ok(Some(taken_back()));
            };
            let done = left::without_guest(driver, domain, (Path::new(path), created)).await?;
            return Ok((!done).then(taken_back));
        }
        Intent::Backup { files, .. } => {
            if !backups::recover::has_begun(&view) {
                left_backup::remove(files.clone()).await;
            }
            return Ok(Some(taken_back()));
        }
        // Nobody was told that it has begun.
        Intent::BeginBlockJob { files, .. } => {
            moments::left::remove_unnamed(&view, files).await?;
            return Ok(Some(taken_back()));
        }
        other => moments::resolve::over(driver, domain, other).await?,
    }
    Ok(undone(&note.intent, &domain.view()))
}
