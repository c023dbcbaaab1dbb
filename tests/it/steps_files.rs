//! Each operation on a guest's storage, each change that the daemon makes to a directory: killed as it is about to make it,
//! the daemon comes back at one with the guest. Those changes are all that a next daemon can tell its files apart by, so no
//! moment is missed, as short as it may be.

use anyhow::{Context, Result, ensure};
use testkit::skip::can_run_guests;
use testkit::{DieAt, wait_until};

use crate::grpc::daemon;
use crate::steps_storage::{AT_REST, Operation, Trial, is_long};

/// Every how many of the changes the daemon is killed, if not at all of them.
const STRIDE: usize = 9;

fn every_file(operation: &Operation) -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let die = DieAt::new()?;
    let mut trial = Trial::of(die.on(daemon())?)?;
    let before = trial.begin(operation)?;
    ensure!(trial.carry_out(operation)?, "it fails undisturbed");
    trial.rests(&before)?;
    let after = trial.state()?;
    let stride = if is_long() { 1 } else { STRIDE };
    for nth in (1..).step_by(stride) {
        trial.begin(operation)?;
        die.arm(nth)?;
        let killed = is_killed(&trial, operation, &before)?;
        die.disarm()?;
        let what = || format!("{} killed at change {nth}", operation.name);
        if !killed {
            ensure!(nth > 1, "it changes nothing");
            trial.holds(&[&after]).with_context(what)?;
            return Ok(());
        }
        trial.place.sandbox.kill()?;
        trial.place.sandbox.start()?;
        trial.holds(&[&before, &after]).with_context(what)?;
    }
    Ok(())
}

/// Carries an operation out; whether the daemon died before all was at rest.
fn is_killed(trial: &Trial, operation: &Operation, before: &str) -> Result<bool> {
    let pid = trial.place.sandbox.pid().context("no daemon")?;
    let lives = || testkit::process::alive(pid);
    let all: Vec<_> = operation
        .commands
        .iter()
        .map(|line| trial.words(line).join(" "))
        .collect();
    let mut client = trial.place.virsh().spawn(&[&all.join("; ")])?;
    wait_until("the end of it", AT_REST, || {
        !lives() || client.try_wait().is_ok_and(|ended| ended.is_some())
    })?;
    if lives() {
        // It may do more beside.
        let _ = trial.rests(before);
    }
    let _ = client.kill();
    client.wait()?;
    Ok(!lives())
}

macro_rules! rows {
    ($($test:ident: $name:literal, [$($before:literal),*], [$($command:literal),+];)*) => {
        $(#[test]
        fn $test() -> Result<()> {
            every_file(&Operation { name: $name, before: &[$($before),*], commands: &[$($command),+] })
        })*
    };
}

rows! {
    a_pull_at_every_file: "pull", [], ["blockpull g vda --wait"];
    a_commit_at_every_file: "commit", [], ["blockcommit g vda --top TOP --delete --wait"];
    a_commit_of_the_top_at_every_file: "commit-active", [], ["blockcommit g vda --active --wait --pivot"];
    a_copy_at_every_file: "copy", [], ["blockcopy g vda COPY --transient-job --wait --pivot"];
    an_internal_snapshot_at_every_file: "snapshot", [], ["snapshot-create-as g s1"];
    an_external_snapshot_at_every_file: "snapshot-disks", [], ["snapshot-create-as g s1 --disk-only"];
    the_removal_of_an_internal_snapshot_at_every_file: "delete-snapshot", ["snapshot-create-as g s1"],
        ["snapshot-delete g s1"];
    the_removal_of_an_external_snapshot_at_every_file: "delete-overlay",
        ["snapshot-create-as g s1 --disk-only", "snapshot-create-as g s2 --disk-only"], ["snapshot-delete g s1"];
    the_removal_of_the_last_external_snapshot_at_every_file: "delete-last",
        ["snapshot-create-as g s1 --disk-only"], ["snapshot-delete g s1"];
    a_checkpoint_at_every_file: "checkpoint", [], ["checkpoint-create-as g c1"];
    the_removal_of_a_checkpoint_at_every_file: "delete-checkpoint",
        ["checkpoint-create-as g c1", "checkpoint-create-as g c2"], ["checkpoint-delete g c1"];
    a_backup_at_every_file: "backup", [], ["backup-begin g BACKUP"];
    a_backup_that_is_fetched_at_every_file: "pull-backup", [], ["backup-begin g PULL", "domjobabort g"];
}
