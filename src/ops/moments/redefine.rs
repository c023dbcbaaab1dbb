//! Recording a snapshot that is there already: what its document must fit, and what becomes of it.
//!
//! Nobody looks whether the images have it. What is checked is what would make the guest's tree of snapshots nonsense:
//! loops, another guest's documents, a snapshot that changes into one of another kind.

use std::sync::Arc;

use domxml::{
    Domain as Document,
    devices::SnapshotMode,
    moment::{Snapshot, SnapshotState},
};
use qemu_plan::address::Age;

use super::{align, create::How, records};
use crate::{
    domain::{Effects, View},
    error::{Area, Code, Error, Result},
    ops::{
        Driver,
        document::{abi, batch, plan},
        operation::{Context, Operation},
    },
};

fn argument(text: String) -> Error {
    Error::argument(text).in_area(Area::Snapshot)
}

/// Records what the document tells.
///
/// # Errors
/// What does not fit.
pub(super) async fn redefine(
    driver: &Arc<Driver>,
    operation: Operation,
    mut snapshot: Snapshot,
    how: How,
) -> Result<Arc<View>> {
    let view = operation.view();
    check_state(&snapshot)?;
    for domain in [&mut snapshot.moment.domain, &mut snapshot.inactive]
        .into_iter()
        .flatten()
    {
        let given = std::mem::take(domain);
        *domain = plan::complete(driver, given, Age::Known).await?.domain;
    }
    batch::check_descent(&view.snapshots, &snapshot.moment)?;
    check_flag(&snapshot, how)?;
    check_owner(&view, &snapshot)?;
    let name = snapshot.moment.name.clone();
    let former = match view.snapshots.get(&name) {
        Some(_) => Some(records::document(driver, &view, &name).await?),
        None => None,
    };
    if let Some(former) = &former {
        check_former(former, &snapshot)?;
    }
    let snapshot = fit(snapshot, former)?;
    let mut batch = records::Batch::of(driver, &view);
    batch.put(snapshot);
    if how.current {
        batch.make_current(&name);
    }
    let change = batch.finish().await?;
    if operation.is_trial() {
        return Ok(view);
    }
    let work = |context: Arc<Context>| async move {
        let commit = move |view: &mut View| {
            change.apply(view)?;
            Ok(Effects::none())
        };
        context.commit_with(commit).await
    };
    operation.carry_out(work).await
}

/// Refuses states in which no snapshot is made.
fn check_state(snapshot: &Snapshot) -> Result<()> {
    match snapshot.state {
        SnapshotState::PmSuspended => Err(Error::new(
            Code::OperationUnsupported,
            "qemu doesn't support taking snapshots of PMSUSPENDED guests",
        )),
        SnapshotState::NoState | SnapshotState::Blocked => Err(Error::internal(format!(
            "Invalid domain state {}",
            snapshot.state.as_str()
        ))),
        _ => Ok(()),
    }
}

fn check_flag(snapshot: &Snapshot, how: How) -> Result<()> {
    if how.disk_only && snapshot.state != SnapshotState::DiskSnapshot {
        return Err(argument(format!(
            "disk-only flag for snapshot {} requires disk-snapshot state",
            snapshot.moment.name
        )));
    }
    Ok(())
}

/// Refuses the documents of another guest.
fn check_owner(view: &View, snapshot: &Snapshot) -> Result<()> {
    let uuid = snapshot.moment.domain.as_ref().and_then(|domain| domain.uuid);
    match uuid.filter(|uuid| *uuid != view.uuid) {
        Some(_) => Err(argument(format!(
            "definition for snapshot {} must use uuid {}",
            snapshot.moment.name, view.uuid
        ))),
        None => Ok(()),
    }
}

/// Refuses what would make another kind of snapshot of one.
fn check_former(former: &Snapshot, snapshot: &Snapshot) -> Result<()> {
    let name = &snapshot.moment.name;
    let online = |state| matches!(state, SnapshotState::Running | SnapshotState::Paused);
    if online(former.state) != online(snapshot.state) {
        return Err(argument(format!(
            "cannot change between online and offline snapshot state in snapshot {name}"
        )));
    }
    let disk_only = |state| state == SnapshotState::DiskSnapshot;
    if disk_only(former.state) != disk_only(snapshot.state) {
        return Err(argument(format!(
            "cannot change between disk only and full system in snapshot {name}"
        )));
    }
    match (&former.moment.domain, &snapshot.moment.domain) {
        (Some(source), Some(target)) => abi::check(target, source),
        _ => Ok(()),
    }
}

/// Completes the new document with what the former one had, and says of each disk how it takes part.
fn fit(mut snapshot: Snapshot, former: Option<Snapshot>) -> Result<Snapshot> {
    if snapshot.moment.domain.is_none()
        && let Some(former) = former
    {
        snapshot.moment.domain = former.moment.domain;
        snapshot.inactive = snapshot.inactive.or(former.inactive);
    }
    let external = snapshot.state == SnapshotState::DiskSnapshot || snapshot.is_external();
    let default = match external {
        true => SnapshotMode::External,
        false => SnapshotMode::Internal,
    };
    let missing = || Error::internal("missing domain in snapshot").in_area(Area::Snapshot);
    let domain: &Document = snapshot.moment.domain.as_deref().ok_or_else(missing)?;
    let disks = domain.devices.disks.clone();
    align::align(&mut snapshot, &disks, default, &|path| {
        std::path::Path::new(path).is_file()
    })?;
    Ok(snapshot)
}

#[cfg(test)]
mod tests {
    use domxml::moment::Summary;

    use super::*;
    use crate::domain::snapshots::Snapshots;

    fn snapshot(name: &str, parent: &str) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.moment.name = name.to_owned();
        snapshot.moment.parent = Some(parent.to_owned());
        snapshot.state = SnapshotState::Running;
        snapshot
    }

    #[test]
    fn a_parent_must_be_there_and_before_it() {
        let links = [("a", None), ("b", Some("a"))].map(|(name, parent)| Summary {
            name: name.to_owned(),
            parent: parent.map(str::to_owned),
            ..Summary::default()
        });
        let (tree, _) = Snapshots::found(links.to_vec());
        let said = |name, parent| {
            batch::check_descent(&tree, &snapshot(name, parent).moment).map_err(|e| e.message.into_owned())
        };
        assert_eq!(said("c", "b"), Ok(()));
        assert_eq!(
            said("a", "a").unwrap_err(),
            "cannot set moment a as its own parent"
        );
        assert_eq!(said("c", "z").unwrap_err(), "parent z for moment c not found");
        assert_eq!(said("a", "b").unwrap_err(), "parent b would create cycle to a");
    }

    #[test]
    fn a_snapshot_stays_of_its_kind() {
        let with = |state| Snapshot {
            state,
            ..snapshot("s", "p")
        };
        let said = |from, to| check_former(&with(from), &with(to)).map_err(|e| e.message.into_owned());
        use SnapshotState::{DiskSnapshot, Paused, Running, Shutoff};
        assert_eq!(said(Running, Paused), Ok(()));
        assert!(said(Running, Shutoff).unwrap_err().contains("online and offline"));
        assert!(
            said(Shutoff, DiskSnapshot)
                .unwrap_err()
                .contains("disk only and full system")
        );
    }
}
