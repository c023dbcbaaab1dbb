//! The daemon is killed in the midst of each block job. After each: QEMU has the images that the document names and no
//! others, no job and no note is left, the chain is as before or as wanted, and nothing that was on the disk is missing.

use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::skip::can_run_guests;
use testkit::{Sandbox, kill, wait_until};

use crate::blockjobs::{LATE, PART, Place};
use crate::grpc::daemon;

/// How long a daemon that came back may take until all is at rest.
const AT_REST: Duration = Duration::from_secs(30);

/// What the daemon is killed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Pull,
    Commit,
    CommitActive,
    Copy,
    CopyShallow,
    CopyAbort,
}

impl Operation {
    const ALL: [Self; 6] = [
        Self::Pull,
        Self::Commit,
        Self::CommitActive,
        Self::Copy,
        Self::CopyShallow,
        Self::CopyAbort,
    ];

    /// What is asked for, from the beginning of the job to its end.
    fn carry_out(self, place: &Place) -> Result<()> {
        let virsh = place.virsh();
        let (top, copy) = (place.path("top"), place.path("copy"));
        let copied = |more: &[&'static str]| {
            let mut args = vec![
                "blockcopy",
                "g",
                "vda",
                copy.as_str(),
                "--transient-job",
                "--wait",
            ];
            args.extend(more);
            virsh.ok(&args).map(drop)
        };
        match self {
            Self::Pull => virsh.ok(&["blockpull", "g", "vda", "--wait"]).map(drop),
            Self::Commit => virsh
                .ok(&["blockcommit", "g", "vda", "--top", &top, "--delete", "--wait"])
                .map(drop),
            Self::CommitActive => virsh
                .ok(&["blockcommit", "g", "vda", "--active", "--wait", "--pivot"])
                .map(drop),
            Self::Copy => copied(&["--pivot"]),
            Self::CopyShallow => copied(&["--shallow", "--pivot"]),
            Self::CopyAbort => copied(&["--finish"]),
        }
    }

    /// The chains that there may be afterwards: the first if nothing came of it.
    fn chains(self) -> [&'static str; 2] {
        let before = "a top mid base";
        match self {
            Self::Pull => [before, "a"],
            Self::Commit => [before, "a base"],
            Self::CommitActive => [before, "base"],
            Self::Copy => [before, "copy"],
            Self::CopyShallow => [before, "copy top mid base"],
            Self::CopyAbort => [before, before],
        }
    }
}

#[tokio::test]
async fn a_daemon_killed_in_the_midst_of_a_block_job_leaves_every_block() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut place = Place::new(daemon())?;
    place.sandbox.start()?;
    place.virsh().define(&place.xml())?;
    // A try takes seconds: the short form has fewer.
    let tries = match kill::tries() {
        5 => 3,
        more => more,
    };
    kill::cut_off(&mut Jobs(place), &Operation::ALL, tries).await
}

/// A guest on a chain of images.
struct Jobs(Place);

impl kill::Place for Jobs {
    type Operation = Operation;

    fn sandbox(&mut self) -> &mut Sandbox {
        &mut self.0.sandbox
    }

    /// The images as they were, and the guest on them.
    async fn prepare(&mut self, _operation: Operation) -> Result<()> {
        let (place, virsh) = (&self.0, self.0.virsh());
        // It may be off.
        let _ = virsh.ok(&["destroy", "g"]);
        for name in ["copy", "a", "top", "mid", "base"] {
            let _ = std::fs::remove_file(place.image(name));
        }
        place.make_images()?;
        virsh.define(&place.xml())?;
        virsh.ok(&["start", "g", "--paused"])?;
        place.write(LATE, 6 * PART)
    }

    async fn carry_out(&mut self, operation: Operation) -> Result<()> {
        operation.carry_out(&self.0)
    }

    async fn connect(&mut self) -> Result<()> {
        Ok(())
    }

    async fn rest(&mut self, operation: Operation) -> Result<bool> {
        rest(&self.0)?;
        let [_, wanted] = operation.chains();
        Ok(check(&self.0, &operation.chains())? == wanted)
    }

    async fn clear(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Waits until the job is over; one that waits to be ended is given up.
fn rest(place: &Place) -> Result<()> {
    let virsh = place.virsh();
    wait_until("the job is over", AT_REST, || {
        let Ok(document) = virsh.ok(&["dumpxml", "g"]) else {
            return false;
        };
        if document.contains("<mirror ") {
            let _ = virsh.ok(&["blockjob", "g", "vda", "--abort"]);
        }
        place.is_whole().is_ok()
    })
    .or_else(|_| place.is_whole())
}

/// Checks that the chain is one of those, and all that belongs to it; which it is.
fn check(place: &Place, chains: &[&str]) -> Result<String> {
    place.is_whole()?;
    let chain = place.chain()?.join(" ");
    ensure!(
        chains.contains(&chain.as_str()),
        "the chain is {chain}, not one of {chains:?}"
    );
    place.has_everything(Some(6 * PART))?;
    let stored = place.stored()?;
    let top = chain.split(' ').next().unwrap_or_default();
    ensure!(stored == place.path(top), "{stored} is stored, {top} is used");
    // A guest that starts anew has the same.
    let virsh = place.virsh();
    virsh.ok(&["destroy", "g"])?;
    virsh.ok(&["start", "g", "--paused"])?;
    place.has_everything(Some(6 * PART))?;
    Ok(chain)
}
