//! Going back to a snapshot.
//!
//! ```text
//!  checks, of the images too ─▶ a note that outlives the run ─▶ the run ends
//!     with memory:  a new QEMU, CPUs standing ─▶ QEMU's job loads ─▶ CPUs run ─▶ told
//!     without:      qemu-img, one image after the other ─▶ told, or a cold start
//!     external:     see `overlaid`
//! ```
//!
//! There is no way back from the end of the run, so everything that can be looked at is looked at before: libvirt finds
//! a missing part of a snapshot only when the guest is gone. A return that is cut off is finished by the next daemon: a
//! guest whose images are set back in part must not be started as it is.

use std::sync::Arc;

use domxml::{
    devices::SnapshotMode,
    moment::{Snapshot, SnapshotState},
};

use super::overlaid::{self, Overlaid};
use crate::{
    domain::{
        Condition, Domain, Effects, Stored, View,
        intents::Intent,
        jobs::{Long, Want},
    },
    error::{Code, Error, Result},
    ops::{
        Conditions, Driver,
        document::plan,
        moments::{
            back::Back,
            choose::{self, Kind},
            create, delete, find,
            images::{self, Deed},
            records, without_block_jobs,
        },
        operation::{Ask, Context, Operation},
        run::{cause::Cause, stop},
        start,
    },
};

/// How to go back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct How {
    /// The CPUs run afterwards, whatever they did then.
    pub running: bool,
    /// They stand.
    pub paused: bool,
    /// Also where that may lose something.
    pub force: bool,
    /// Begin with fresh firmware variables.
    pub reset_nvram: bool,
}

/// The words of a note.
const WORDS: [&str; 4] = ["running", "paused", "force", "reset-nvram"];

impl How {
    fn words(self) -> String {
        let set = [self.running, self.paused, self.force, self.reset_nvram];
        let words = WORDS.iter().zip(set).filter(|(_, set)| *set);
        words.map(|(word, _)| *word).collect::<Vec<_>>().join(" ")
    }

    pub(super) fn of_words(text: &str) -> Self {
        let has = |word| text.split(' ').any(|w| w == word);
        let [running, paused, force, reset_nvram] = WORDS.map(has);
        Self {
            running,
            paused,
            force,
            reset_nvram,
        }
    }
}

/// Sets a guest back to a snapshot.
///
/// # Errors
/// `NoDomainSnapshot`, what stands against it, what QEMU or qemu-img fail at: the guest is off then.
pub async fn revert(
    driver: &Arc<Driver>,
    domain: &Domain,
    (name, how): (String, How),
    conditions: &Conditions,
) -> Result<Arc<View>> {
    without_block_jobs(&domain.view())?;
    let ask = Ask {
        kind: "revert-snapshot",
        job: Want::Long(Long::Snapshot),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    let planned = plan_return(driver, &operation.view(), &name, how).await?;
    if operation.is_trial() {
        return Ok(operation.view());
    }
    operation
        .carry_out(move |context| Box::pin(carry_out(context, planned, how)))
        .await
}

/// A return that can be made.
pub(super) struct Planned {
    pub(super) back: Back,
    /// The guest as it will be.
    pub(super) document: Box<domxml::Domain>,
    /// What it has to do with overlays, if it is one to an external snapshot.
    pub(super) overlaid: Option<Overlaid>,
}

/// Whether the CPUs ran or stood when a snapshot was taken, memory included.
pub(super) fn has_memory(state: SnapshotState) -> bool {
    matches!(state, SnapshotState::Running | SnapshotState::Paused)
}

async fn plan_return(driver: &Arc<Driver>, view: &View, name: &str, how: How) -> Result<Planned> {
    find(view, name)?;
    let mut snapshot = records::document(driver, view, name).await?;
    check(view, &snapshot, how)?;
    let lacks = || {
        let said = format!("snapshot '{name}' lacks domain '{}' rollback info", view.name);
        Error::new(Code::SnapshotRevertRisky, said)
    };
    // A guest that was renamed keeps its new name.
    let mut document = snapshot.moment.domain.take().ok_or_else(lacks)?;
    document.name = view.name.to_string();
    let mut inactive = snapshot.inactive.take().unwrap_or_else(|| document.clone());
    inactive.name = view.name.to_string();
    snapshot.moment.domain = Some(document.clone());
    if snapshot.is_external() {
        return overlaid::plan(driver, view, snapshot, (document, inactive), how).await;
    }
    check_images(&snapshot).await?;
    let memory = has_memory(snapshot.state);
    if memory || how.running || how.paused {
        document = startable(driver, view, document).await?;
    }
    let mut batch = records::Batch::of(driver, view);
    batch.make_current(name);
    let back = Back {
        memory: memory.then_some(Kind::Internal),
        overlays: None,
        change: batch.finish().await?,
        config: view.config.as_ref().map(|_| Stored::new(&inactive)),
        snapshot,
    };
    Ok(Planned {
        back,
        document,
        overlaid: None,
    })
}

/// Completes a document that the guest is to be started with.
pub(super) async fn startable(
    driver: &Arc<Driver>,
    view: &View,
    document: Box<domxml::Domain>,
) -> Result<Box<domxml::Domain>> {
    let planned = plan::complete(driver, document, qemu_plan::address::Age::Known).await?;
    if !view.active() {
        start::trial(driver, planned.domain.clone()).await?;
    }
    Ok(planned.domain)
}

/// Refuses what a snapshot or the guest stand against.
fn check(view: &View, snapshot: &Snapshot, how: How) -> Result<()> {
    let name = &snapshot.moment.name;
    let memory = has_memory(snapshot.state);
    if view.config.is_none() && snapshot.state.is_offline() && !how.running && !how.paused {
        return Err(Error::invalid(
            "transient domain needs to request run or pause to revert to inactive snapshot",
        ));
    }
    if snapshot.moment.domain.is_none() {
        let said = format!("snapshot '{name}' lacks domain '{}' rollback info", view.name);
        return Err(Error::new(Code::SnapshotRevertRisky, said));
    }
    if !how.force && view.managed_save && !memory {
        return Err(Error::new(
            Code::SnapshotRevertRisky,
            "snapshot without memory state, removal of existing managed saved state strongly recommended to avoid corruption",
        ));
    }
    if snapshot.is_external() {
        overlaid::check(snapshot)?;
    }
    match snapshot.state {
        SnapshotState::PmSuspended => Err(Error::new(
            Code::OperationUnsupported,
            "qemu doesn't support reversion of snapshot taken in PMSUSPENDED state",
        )),
        SnapshotState::NoState | SnapshotState::Blocked => Err(Error::internal(format!(
            "Invalid target domain state '{}'. Refusing snapshot reversion",
            snapshot.state.as_str()
        ))),
        _ => Ok(()),
    }
}

/// Looks whether every image has its part of the snapshot, while the guest still runs.
async fn check_images(snapshot: &Snapshot) -> Result<()> {
    let name = &snapshot.moment.name;
    let failed = |text: String| Err(Error::new(Code::OperationFailed, text));
    let Some(document) = snapshot.moment.domain.as_deref() else {
        return Ok(());
    };
    let missing = |what: &str| {
        failed(format!(
            "image of {what} does not have internal snapshot '{name}'"
        ))
    };
    let mut memories = 0_usize;
    for (part, disk) in choose::parts(snapshot, document)? {
        let path = choose::image_path(disk).filter(|_| part.mode == Some(SnapshotMode::Internal));
        let Some(path) = path else { continue };
        match images::find(path, name).await? {
            Some(found) => memories += usize::from(found.has_memory),
            None => return missing(&format!("disk '{}'", part.name)),
        }
    }
    // Those of a run go back with its memory: QEMU has a part in them, or none.
    let variables = create::qcow2_nvram(document).filter(|_| !has_memory(snapshot.state));
    if let Some(path) = variables
        && images::find(path, name).await?.is_none()
    {
        return missing("the firmware's variables");
    }
    match (has_memory(snapshot.state), memories) {
        (true, 0) => failed(format!(
            "missing vmstate section when reverting active internal snapshot '{name}'"
        )),
        (true, 2..) => failed(format!(
            "two disks images contain vm state section for internal snapshot '{name}'"
        )),
        _ => Ok(()),
    }
}

async fn carry_out(context: Arc<Context>, mut planned: Planned, how: How) -> Result<Arc<View>> {
    let name = planned.back.snapshot.moment.name.clone();
    let overlaid = planned.overlaid.take();
    let (made, left) = overlaid.as_ref().map(Overlaid::files).unwrap_or_default();
    let intent = Intent::RevertSnapshot {
        name,
        how: how.words(),
        made: made.clone(),
        left: left.clone(),
    };
    context.intend_off(intent).await?;
    end_run(&context).await?;
    let result = match overlaid {
        Some(overlaid) => overlaid::go_back(&context, planned, overlaid, how).await,
        None => go_back(&context, planned, how).await,
    };
    if result.is_err() {
        // A guest that is neither stored nor runs is no more.
        let let_go = |view: &mut View| {
            view.kept = false;
            Ok(Effects::none())
        };
        let _ = context.commit_with(let_go).await;
    }
    // Of a return that failed, what the guest had is still the guest's.
    let files = if result.is_ok() { left } else { made };
    if let Err(error) = overlaid::remove_unused(context.driver(), context.domain(), files).await {
        tracing::warn!(%error, "images are left that nothing uses");
    }
    result
}

/// Ends the run, if there is one, and keeps the guest over it.
async fn end_run(context: &Arc<Context>) -> Result<()> {
    let view = context.view();
    if !view.active() {
        return Ok(());
    }
    let keep = |view: &mut View| {
        view.kept = true;
        Ok(Effects::none())
    };
    context.commit_with(keep).await?;
    let guest = context.driver().guests.of(&view)?;
    guest.end_because(Cause::FromSnapshot);
    stop::terminate(context.driver(), &guest, stop::Patience::Usual).await
}

async fn go_back(context: &Arc<Context>, planned: Planned, how: How) -> Result<Arc<View>> {
    let Planned { back, document, .. } = planned;
    if back.memory.is_none() {
        for image in delete::images_of(&back.snapshot) {
            images::carry_out(Deed::Apply, &back.snapshot.moment.name, &image).await?;
        }
    }
    set_going(context, (back, document), None, how).await
}

/// The guest is where it was, and runs if it is to.
pub(super) async fn set_going(
    context: &Arc<Context>,
    (back, document): (Back, Box<domxml::Domain>),
    source: Option<Arc<start::restore::Source>>,
    how: How,
) -> Result<Arc<View>> {
    let memory = back.memory.is_some();
    let then_paused = back.snapshot.state == SnapshotState::Paused;
    if memory || how.running || how.paused {
        let how = start::How {
            paused: how.paused || memory && then_paused && !how.running,
            reset_nvram: how.reset_nvram,
            back: Some(Arc::new(back)),
            source,
            ..start::How::default()
        };
        return start::from_snapshot(Arc::clone(context), document, how).await;
    }
    if how.reset_nvram {
        start::renew_nvram(context.driver(), &document).await?;
    }
    let commit = move |view: &mut View| {
        view.condition = Condition::SHUTOFF_FROM_SNAPSHOT;
        back.settle(view, Effects::none())
    };
    context.commit_with(commit).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_says_how() {
        for bits in 0..16 {
            let how = How {
                running: bits & 1 != 0,
                paused: bits & 2 != 0,
                force: bits & 4 != 0,
                reset_nvram: bits & 8 != 0,
            };
            assert_eq!(How::of_words(&how.words()), how);
        }
    }
}
