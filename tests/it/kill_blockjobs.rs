//! The daemon, QEMU or both are killed in the midst of each block job, while the guest writes. After each: QEMU has the images that
//! the document names and no others, no job and no note is left, the chain is as before or as wanted, and nothing that was
//! on the disk is missing, nor any number that the guest was told is written.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use testkit::counter::{self, Counter};
use testkit::kill::Victim;
use testkit::skip::can_run_guests;
use testkit::{Sandbox, kill, wait_until};

use crate::blockjobs::{LATE, PART, Place, run};
use crate::grpc::daemon;

/// How long a daemon that came back may take until all is at rest.
const AT_REST: Duration = Duration::from_secs(30);

/// The images that a try begins with.
const IMAGES: [&str; 4] = ["a", "top", "mid", "base"];

/// What the daemon is killed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Pull,
    PullPart,
    Commit,
    CommitActive,
    Copy,
    CopyShallow,
    CopyAbort,
}

impl Operation {
    const ALL: [Self; 7] = [
        Self::Pull,
        Self::PullPart,
        Self::Commit,
        Self::CommitActive,
        Self::Copy,
        Self::CopyShallow,
        Self::CopyAbort,
    ];

    /// What is asked for, from the beginning of the job to its end.
    fn carry_out(self, place: &Place) -> Result<()> {
        let virsh = place.virsh();
        let (top, mid, copy) = (place.path("top"), place.path("mid"), place.path("copy"));
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
            Self::PullPart => virsh
                .ok(&["blockpull", "g", "vda", "--base", &mid, "--wait"])
                .map(drop),
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
            Self::PullPart => [before, "a mid base"],
            Self::Commit => [before, "a base"],
            Self::CommitActive => [before, "base"],
            Self::Copy => [before, "copy"],
            Self::CopyShallow => [before, "copy top mid base"],
            Self::CopyAbort => [before, before],
        }
    }
}

#[tokio::test]
async fn who_is_killed_in_the_midst_of_a_block_job_leaves_every_block() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    // A try takes seconds: the short form has fewer.
    let tries = match kill::tries() {
        5 => 4,
        more => more,
    };
    kill::cut_off::<Jobs>("block jobs", &Operation::ALL, &kill::VICTIMS, tries).await
}

/// QEMU keeps the tables of what it has pulled in memory, and the guest does not flush.
#[tokio::test]
async fn what_was_pulled_is_in_the_image_once_the_job_is_over() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let place = Place::started(daemon())?;
    let mid = place.path("mid");
    for part in [&["--base", mid.as_str()][..], &[]] {
        let words = [&["blockpull", "g", "vda", "--wait"], part].concat();
        place.virsh().ok(&words)?;
        end_qemu(&place)?;
        place.virsh().ok(&["start", "g", "--paused"])?;
        place.has_everything(None)?;
    }
    ensure!(place.chain()? == ["a"], "{:?}", place.chain()?);
    Ok(())
}

/// QEMU ends with a job before the daemon hears of the job's end: the image names the one below again, as it did before.
#[tokio::test]
async fn a_merge_that_nobody_saw_end_is_as_if_not_begun() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let place = Place::started(daemon())?;
    let daemon = place.sandbox.pid().context("no daemon")?;
    place.virsh().ok(&["destroy", "g"])?;
    let (a, mid, top) = (place.path("a"), place.path("mid"), place.path("top"));
    // One that is named by its path, and one that is named as beside the other.
    let beside = "top.qcow2";
    for (below, words) in [
        (top.as_str(), &["blockpull", "g", "vda"][..]),
        (beside, &["blockpull", "g", "vda", "--base", &mid]),
        (
            beside,
            &["blockcommit", "g", "vda", "--top", &top, "--base", &mid],
        ),
    ] {
        run(
            "qemu-img",
            &["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", below, &a],
        )?;
        place.virsh().ok(&["start", "g", "--paused"])?;
        let before = place.chain()?;
        place
            .virsh()
            .ok(&[words, &["--bandwidth", "300000", "--bytes"]].concat())?;
        testkit::process::signal(daemon, Signal::SIGSTOP);
        let ended = wait_until("the end of the job", AT_REST, || {
            place
                .named_below()
                .is_ok_and(|name| name.as_deref() != Some(below))
        });
        let killed = place.sandbox.guest_pid("g").context("no guest").map(|pid| {
            testkit::process::signal(pid, Signal::SIGKILL);
        });
        testkit::process::signal(daemon, Signal::SIGCONT);
        ended?;
        killed?;
        place.ended()?;
        ensure!(
            place.named_below()?.as_deref() == Some(below),
            "{words:?}: {:?}",
            place.named_below()?
        );
        place.virsh().ok(&["start", "g", "--paused"])?;
        place.has_everything(None)?;
        ensure!(place.chain()? == before, "{words:?}: {:?}", place.chain()?);
        place.virsh().ok(&["destroy", "g"])?;
    }
    Ok(())
}

/// Ends QEMU without a word, and waits until the guest is off.
fn end_qemu(place: &Place) -> Result<()> {
    let pid = place.sandbox.guest_pid("g").context("no guest")?;
    testkit::process::signal(pid, Signal::SIGKILL);
    place.ended()
}

/// A guest on a chain of images, that counts.
struct Jobs {
    place: Place,
    counter: Counter,
}

impl kill::Place for Jobs {
    type Operation = Operation;

    async fn make() -> Result<Self> {
        let mut place = Place::new(daemon())?;
        for name in IMAGES {
            std::fs::copy(place.image(name), kept(&place, name))?;
        }
        place.sandbox.start()?;
        let counter = Counter::new(place.sandbox.dir().join("count.log"));
        Ok(Self { place, counter })
    }

    fn sandbox(&mut self) -> &mut Sandbox {
        &mut self.place.sandbox
    }

    /// The images as they were, and the guest on them.
    async fn prepare(&mut self, _operation: Operation) -> Result<()> {
        let (place, virsh) = (&self.place, self.place.virsh());
        // It may be off.
        let _ = virsh.ok(&["destroy", "g"]);
        self.counter.forget()?;
        let _ = std::fs::remove_file(place.image("copy"));
        for name in IMAGES {
            std::fs::copy(kept(place, name), place.image(name))?;
        }
        virsh.define(&self.counter.within(&place.xml())?)?;
        virsh.ok(&["start", "g"])?;
        place.write(LATE, 6 * PART)?;
        // What was not written out may go with QEMU.
        place.tell_disk("flush")?;
        self.counter.goes_on().map(drop)
    }

    async fn carry_out(&mut self, operation: Operation) -> Result<()> {
        operation.carry_out(&self.place)
    }

    async fn rest(&mut self, operation: Operation, killed: Option<Victim>) -> Result<bool> {
        let qemu_killed = killed.is_some_and(Victim::is_of_qemu);
        if qemu_killed {
            self.place.ended()?;
            self.starts_anew()?;
        } else {
            rest(&self.place)?;
        }
        let [_, wanted] = operation.chains();
        let chain = self.check(&operation.chains())?;
        if operation == Operation::Commit && chain == wanted {
            let left: Vec<_> = ["top", "mid"]
                .into_iter()
                .filter(|name| self.place.image(name).exists())
                .collect();
            ensure!(left.is_empty(), "images that were to go are left: {left:?}");
        }
        let told = self.counter.goes_on()?;
        counter::holds(&self.place.top()?, "qcow2", told.last)?;
        if !qemu_killed {
            self.place.virsh().ok(&["destroy", "g"])?;
            self.starts_anew()?;
            self.place.has_everything(Some(6 * PART))?;
        }
        Ok(chain == wanted)
    }
}

/// The image as it was.
fn kept(place: &Place, name: &str) -> std::path::PathBuf {
    place.image(name).with_extension("kept")
}

impl Place {
    /// What the image that the guest writes to names below it.
    fn named_below(&self) -> Result<Option<String>> {
        let info = ["info", "-U", "--output", "json", &self.path("a")];
        let info: serde_json::Value = serde_json::from_str(&run("qemu-img", &info)?)?;
        Ok(info["backing-filename"].as_str().map(str::to_owned))
    }

    /// Waits until the guest is off and nothing is noted of it.
    pub(crate) fn ended(&self) -> Result<()> {
        let status = self.sandbox.path("/run/libvirt/qemu/g.xml");
        wait_until("the guest's end", AT_REST, || {
            let state = self.virsh().state("g");
            state.is_ok_and(|state| state == "shut off") && !status.exists()
        })?;
        wait_until("what was under way is over", AT_REST, || {
            self.sandbox.intents().is_ok_and(|n| n.is_empty())
        })
        .or_else(|_| {
            let notes = self.sandbox.intents()?;
            ensure!(notes.is_empty(), "notes are left: {notes:?}");
            Ok(())
        })
    }

    /// The image that the guest writes to.
    pub(crate) fn top(&self) -> Result<std::path::PathBuf> {
        let chain = self.chain()?;
        Ok(self.image(chain.first().context("no image")?))
    }
}

impl Jobs {
    /// Starts the guest, which finds what it was told is written.
    fn starts_anew(&self) -> Result<()> {
        let told = self.counter.told()?;
        self.place.virsh().ok(&["start", "g"])?;
        self.counter.found(&told, told.last)
    }

    /// Checks that the chain is one of those, and all that belongs to it; which it is.
    fn check(&self, chains: &[&str]) -> Result<String> {
        let place = &self.place;
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
        Ok(chain)
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
