//! The daemon, QEMU or both are killed in the midst of each operation on snapshots, while the guest writes. After each: what is
//! recorded is in every image, what is not recorded is in none, the guest does what it did before or is to do after, QEMU has
//! no job left, and the disks have every number that the guest was told is written.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testkit::kill::Victim;
use testkit::skip::can_run_guests;
use testkit::{Sandbox, kill};
use virtqemud_client::proto as pb;

use crate::grpc::{Answer, Grpc};
use crate::snapshots::Stage;

/// Most images that are put on each other.
const OVERLAYS: u32 = 40;

/// How long a daemon that came back may take until all is at rest.
const AT_REST: Duration = Duration::from_secs(30);

/// What the daemon is killed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    CreateOff,
    DeleteOff,
    RevertOff,
    Create,
    CreateAndHalt,
    Delete,
    Revert,
    RevertToOff,
}

impl Operation {
    const ALL: [Self; 8] = [
        Self::CreateOff,
        Self::DeleteOff,
        Self::RevertOff,
        Self::Create,
        Self::CreateAndHalt,
        Self::Delete,
        Self::Revert,
        Self::RevertToOff,
    ];

    fn runs_before(self) -> bool {
        !matches!(self, Self::CreateOff | Self::DeleteOff | Self::RevertOff)
    }

    fn runs_after(self) -> bool {
        matches!(self, Self::Create | Self::Delete | Self::Revert)
    }

    /// Brings about what it begins from: "old" is there, and the guest's first disk holds 2 where "old" has 1.
    /// What the guest was told until "old" is given.
    async fn prepare(self, stage: &Stage) -> Result<u32> {
        stage.counter.forget()?;
        stage.write(0, 1)?;
        let of_run = matches!(self, Self::Delete | Self::Revert);
        if of_run {
            stage.grpc.start("g").await?;
            stage.counter.goes_on()?;
        }
        let told = stage.counter.told()?.last;
        stage.named("old").await?;
        match of_run {
            true => {
                stage.disk("write -P 2 0 64k").await?;
                // What was not written out may go with QEMU.
                stage.disk("flush").await?;
            }
            false => stage.write(0, 2)?,
        }
        if self.runs_before() && !of_run {
            stage.grpc.start("g").await?;
        }
        if self.runs_before() {
            stage.counter.goes_on()?;
        }
        Ok(told)
    }

    async fn carry_out(self, stage: &Stage) -> Answer<()> {
        match self {
            Self::CreateOff | Self::Create => stage.named("new").await.map(drop),
            Self::CreateAndHalt => stage
                .create("<name>new</name>", |r| r.halt = true)
                .await
                .map(drop),
            Self::DeleteOff | Self::Delete => stage.delete("old", |_| {}).await.map(drop),
            Self::RevertOff | Self::Revert | Self::RevertToOff => stage.revert("old", |_| {}).await.map(drop),
        }
    }

    /// Whether the guest goes back to "old".
    fn goes_back(self) -> bool {
        matches!(self, Self::RevertOff | Self::Revert | Self::RevertToOff)
    }

    /// What is recorded before and after.
    fn outcomes(self) -> [&'static str; 2] {
        match self {
            Self::CreateOff | Self::Create | Self::CreateAndHalt => ["old*<", "old< new*<old"],
            Self::DeleteOff | Self::Delete => ["old*<", ""],
            Self::RevertOff | Self::Revert | Self::RevertToOff => ["old*<", "old*<"],
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_killed_in_the_midst_of_a_snapshot_leaves_all_of_it_or_none() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    kill::cut_off::<Snapshots>("snapshots", &Operation::ALL, &kill::VICTIMS, kill::tries()).await
}

/// A guest with internal snapshots.
struct Snapshots {
    stage: Stage,
    /// What it was told until "old".
    old: u32,
}

impl kill::Place for Snapshots {
    type Operation = Operation;

    async fn make() -> Result<Self> {
        let stage = Stage::counting().await?;
        Ok(Self { stage, old: 0 })
    }

    fn sandbox(&mut self) -> &mut Sandbox {
        &mut self.stage.sandbox
    }

    async fn prepare(&mut self, operation: Operation) -> Result<()> {
        self.old = operation.prepare(&self.stage).await?;
        Ok(())
    }

    async fn carry_out(&mut self, operation: Operation) -> Result<()> {
        Ok(operation.carry_out(&self.stage).await?)
    }

    async fn connect(&mut self) -> Result<()> {
        self.stage.grpc = Grpc::of(&self.stage.sandbox).await?;
        Ok(())
    }

    async fn rest(&mut self, operation: Operation, killed: Option<Victim>) -> Result<bool> {
        check(&self.stage, operation, killed).await
    }

    async fn afterwards(&mut self, operation: Operation, done: bool, _: Victim) -> Result<()> {
        let stage = &self.stage;
        let went_back = done && operation.goes_back();
        let least = |told: u32| if went_back { self.old } else { told };
        if stage.grpc.get("g").await?.id != 0 {
            stage.counts(least(stage.counter.told()?.last)).await?;
            stage.grpc.power_off("g").await?;
            // What it counted since is on the disks it has now.
            let told = stage.counter.told()?.last;
            return stage.starts_with(told).await;
        }
        stage.starts_with(least(stage.counter.told()?.last)).await
    }

    async fn clear(&mut self) -> Result<()> {
        clear(&self.stage).await
    }
}

/// Waits until all agree; whether the operation was finished.
async fn check(stage: &Stage, operation: Operation, killed: Option<Victim>) -> Result<bool> {
    let end = Instant::now() + AT_REST;
    loop {
        match agree(stage, operation, killed).await {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn agree(stage: &Stage, operation: Operation, killed: Option<Victim>) -> Result<bool> {
    // Until then a guest that runs may be about to go back.
    let notes = stage.sandbox.intents()?;
    ensure!(notes.is_empty(), "it is not over: {notes:?}");
    let tree = stage.tree().await?;
    let [before, after] = operation.outcomes();
    ensure!(
        tree == before || tree == after,
        "neither before nor after: {tree}"
    );
    let mut recorded: Vec<_> = tree
        .split_whitespace()
        .map(|word| word.split(['*', '<']).next().unwrap_or_default())
        .collect();
    recorded.sort_unstable();
    for image in [0, 1] {
        let mut found = stage.in_image(image)?;
        found.sort_unstable();
        ensure!(
            found == recorded,
            "image {image} has {found:?}, recorded is {recorded:?}"
        );
    }
    let state = stage.grpc.get("g").await?.state();
    let runs = match state {
        pb::State::Running => true,
        pb::State::Shutoff => false,
        other => anyhow::bail!("the guest is {other:?}"),
    };
    let known = [operation.runs_before(), operation.runs_after()];
    let qemu_killed = killed.is_some_and(Victim::is_of_qemu);
    ensure!(
        known.contains(&runs) || !runs && qemu_killed,
        "the guest runs: {runs}"
    );
    if runs {
        let jobs = stage.qmp("{\"execute\":\"query-jobs\"}").await?;
        ensure!(
            jobs.replace(" ", "").contains("\"return\":[]"),
            "QEMU has jobs: {jobs}"
        );
        let is_old = stage.disk_has(1).await?;
        ensure!(
            operation == Operation::Revert || !is_old,
            "the disk went back by itself"
        );
        return Ok(match operation {
            Operation::Revert => is_old,
            Operation::RevertToOff | Operation::CreateAndHalt => false,
            _ => tree == after,
        });
    }
    let is_old = stage.has(0, 1)?;
    ensure!(operation.goes_back() || !is_old, "the disk went back by itself");
    Ok(if operation.goes_back() {
        is_old
    } else {
        tree == after
    })
}

async fn clear(stage: &Stage) -> Result<()> {
    if stage.grpc.get("g").await?.id != 0 {
        stage.grpc.power_off("g").await?;
    }
    for name in ["old", "new"] {
        // It may be gone already.
        let _ = stage.delete(name, |_| {}).await;
    }
    ensure!(stage.tree().await?.is_empty(), "snapshots are left");
    ensure!(stage.in_image(0)?.is_empty(), "an image keeps snapshots");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_while_overlays_are_put_on_leaves_documents_that_name_what_is_written_to()
-> Result<()> {
    let Some(mut stage) = Stage::set().await? else {
        return Ok(());
    };
    stage.grpc.start("g").await?;
    let begun = Instant::now();
    overlay(&stage, "n0").await?;
    let whole = begun.elapsed();
    // Each may put an image on top of the others; `kill_externals` has the long form.
    let tries = kill::tries().min(OVERLAYS);
    for number in 1..=tries {
        let name = format!("n{number}");
        let moment = whole.mul_f64(1.15 * f64::from(number) / f64::from(tries));
        let pid = stage.sandbox.pid().context("no daemon")?;
        let killer = kill::later(pid, moment);
        let answered = overlay(&stage, &name).await.is_ok();
        killer
            .join()
            .map_err(|_| anyhow::anyhow!("the killer panicked"))?;
        stage.sandbox.kill()?;
        stage.sandbox.start()?;
        stage.grpc = Grpc::of(&stage.sandbox).await?;
        let end = Instant::now() + AT_REST;
        let done = loop {
            match at_one(&stage, &name).await {
                Ok(done) => break done,
                Err(error) if Instant::now() > end => {
                    return Err(error.context(format!("killed {moment:?} of {whole:?}, try {number}")));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        ensure!(
            done || !answered,
            "the client was told that it is done, and it is not"
        );
    }
    Ok(())
}

async fn overlay(stage: &Stage, name: &str) -> Answer<()> {
    let inside = format!("<name>{name}</name>");
    stage.create(&inside, |r| r.disk_only = true).await.map(drop)
}

/// Whether the snapshot was made, if documents, record and QEMU agree about it.
async fn at_one(stage: &Stage, name: &str) -> Result<bool> {
    let recorded = stage
        .tree()
        .await?
        .split_whitespace()
        .any(|word| word.starts_with(&format!("{name}*")));
    let said = stage.hmp("info block").await?;
    let xml = stage.grpc.xml("g").await?;
    for image in &stage.images {
        let file = image.with_extension(name).to_string_lossy().into_owned();
        let written = said
            .lines()
            .any(|line| line.contains("-format") && line.contains(&file));
        ensure!(
            written == recorded,
            "{file}: recorded {recorded}, QEMU writes to it: {written}: {said}"
        );
        ensure!(
            xml.contains(&file) == recorded,
            "{file}: recorded {recorded}: {xml}"
        );
        ensure!(
            image.with_extension(name).exists() == recorded,
            "{file} is left, or gone"
        );
    }
    Ok(recorded)
}
