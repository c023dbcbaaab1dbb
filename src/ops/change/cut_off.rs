//! What was under way on guests that are off, or whose run was to end, when the daemon ended: finished or undone.

use std::sync::Arc;

use super::{overlaid, remove, revert};
use crate::{
    domain::{
        Domain, View,
        intents::{Intent, Note},
    },
    error::{Error, Result},
    ops::{
        Conditions, Driver,
        moments::resolve,
        recover::{resolve::taken_back, run_over},
    },
};

/// Finishes, at start-up, what was under way.
pub async fn finish_all(driver: &Arc<Driver>) {
    let notes = driver.registry.store().intents();
    for domain in driver.registry.all() {
        for note in notes.of(domain.uuid(), Note::OFF) {
            // What a run has left was seen to before, or stays.
            if run_over::is_of_run(&note.intent) || driver.operations.is_under_way(note.operation) {
                continue;
            }
            // An operation of ours that has ended while another note was seen to has cleared its own.
            if !notes.of(domain.uuid(), Note::OFF).contains(&note) {
                continue;
            }
            let (driver, domain) = (Arc::clone(driver), domain.clone());
            if takes_long(&domain.view(), &note.intent) {
                let tracker = driver.tracker.clone();
                tracker.spawn(finish_note(driver, domain, note));
            } else {
                finish_note(driver, domain, note).await;
            }
        }
    }
}

/// Whether nobody else is to wait for it: images have to be merged.
fn takes_long(view: &View, intent: &Intent) -> bool {
    match intent {
        Intent::DeleteSnapshot { name } => view.snapshots.get(name).is_some_and(|entry| entry.external),
        _ => false,
    }
}

async fn finish_note(driver: Arc<Driver>, domain: Domain, note: Note) {
    let view = domain.view();
    tracing::warn!(guest = %view.name, intent = ?note.intent, "this was under way when the daemon ended");
    let result = Box::pin(finish(&driver, &domain, &note.intent)).await;
    run_over::tell(&driver, &domain, &note, &result);
    // What was merged by then stays so: the note tells it to whoever removes the snapshot later.
    if result.is_ok() || !takes_long(&domain.view(), &note.intent) {
        driver.registry.store().intents().clear(&note).await;
    }
}

/// Finishes one; the error that whoever asks for the operation gets.
async fn finish(driver: &Arc<Driver>, domain: &Domain, intent: &Intent) -> Result<Option<Error>> {
    match intent {
        Intent::RevertSnapshot {
            name,
            how,
            made,
            left,
        } => {
            let view = domain.view();
            let is_current = view
                .snapshots
                .current()
                .is_some_and(|current| *current.name == **name);
            // It was not begun, or has been finished.
            let is_over = view.active() || overlaid::is_on(&view, made)?;
            if !is_over {
                let wish = (name.clone(), revert::How::of_words(how));
                revert::revert(driver, domain, wish, &Conditions::default()).await?;
            }
            let is_back = !is_over || is_current;
            let others = left.iter().filter(|_| is_back);
            let files = made.iter().chain(others).cloned().collect();
            overlaid::remove_unused(driver, domain, files).await?;
            Ok((!is_back).then(taken_back))
        }
        Intent::CreateSnapshot { name, .. } | Intent::SnapshotImages { name, .. } => {
            resolve::off(driver, domain, intent).await?;
            Ok(domain.view().snapshots.get(name).is_none().then(taken_back))
        }
        Intent::DeleteSnapshot { name } if takes_long(&domain.view(), intent) => {
            remove::go_on(driver, domain, name).await?;
            Ok(None)
        }
        other => resolve::off(driver, domain, other).await.map(|()| None),
    }
}
