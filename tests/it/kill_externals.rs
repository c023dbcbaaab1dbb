//! The daemon, QEMU or both are killed in the midst of each operation on external snapshots, while the guest writes. After each: what
//! is recorded is so, the disks hold what they held or what the snapshot had, with every number that the guest was told is
//! written, no file is there that nobody names, QEMU writes to what the document names, and the guest starts with it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testkit::kill::Victim;
use testkit::skip::can_run_guests;
use testkit::{Sandbox, kill};
use virtqemud_client::proto as pb;

use crate::externals::image_holds;
use crate::grpc::{Answer, Grpc};
use crate::snapshots::{Stage, document, run};

/// How long a daemon that came back may take until all is at rest.
const AT_REST: Duration = Duration::from_secs(40);

/// What the daemon is killed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    DeleteFirst,
    DeleteLast,
    DeleteFirstOff,
    DeleteLastOff,
    RevertToDisks,
    RevertToMemory,
    Create,
    CreateWithMemory,
    CreateOff,
}

/// A state of the guest: what is recorded, what its first disk holds, whether it runs.
type Outcome = (&'static str, [u8; 3], bool);

impl Operation {
    const ALL: [Self; 9] = [
        Self::DeleteFirst,
        Self::DeleteLast,
        Self::DeleteFirstOff,
        Self::DeleteLastOff,
        Self::RevertToDisks,
        Self::RevertToMemory,
        Self::Create,
        Self::CreateWithMemory,
        Self::CreateOff,
    ];

    fn is_off(self) -> bool {
        matches!(self, Self::DeleteFirstOff | Self::DeleteLastOff | Self::CreateOff)
    }

    /// Two snapshots with a piece written before each, and one after. What the guest was told until each is given.
    async fn prepare(self, stage: &Stage) -> Result<[u32; 2]> {
        stage.counter.forget()?;
        stage.grpc.start("g").await?;
        stage.write_piece(0, 1).await?;
        let first = stage.counter.goes_on()?.last;
        stage.with_memory("s1", false).await?;
        stage.write_piece(1, 2).await?;
        let second = stage.counter.goes_on()?.last;
        stage.of_disks("s2").await?;
        stage.write_piece(2, 3).await?;
        stage.counter.goes_on()?;
        if self.is_off() {
            stage.grpc.power_off("g").await?;
        }
        Ok([first, second])
    }

    async fn carry_out(self, stage: &Stage) -> Answer<()> {
        match self {
            Self::DeleteFirst | Self::DeleteFirstOff => stage.delete("s1", |_| {}).await.map(drop),
            Self::DeleteLast | Self::DeleteLastOff => stage.delete("s2", |_| {}).await.map(drop),
            Self::RevertToDisks => stage.revert("s2", |_| {}).await.map(drop),
            Self::RevertToMemory => stage.revert("s1", |_| {}).await.map(drop),
            Self::CreateWithMemory => {
                let file = stage.images[0].with_file_name("s3.mem");
                let inside = format!(
                    "<name>s3</name><memory snapshot='external' file='{}'/>",
                    file.display()
                );
                stage.create(&inside, |_| {}).await.map(drop)
            }
            Self::Create | Self::CreateOff => {
                let inside = "<name>s3</name>";
                stage.create(inside, |r| r.disk_only = true).await.map(drop)
            }
        }
    }

    fn outcomes(self) -> [Outcome; 2] {
        let both = "s1< s2*<s1";
        let held = [1, 2, 3];
        match self {
            Self::DeleteFirst => [(both, held, true), ("s2*<", held, true)],
            Self::DeleteLast => [(both, held, true), ("s1*<", held, true)],
            Self::DeleteFirstOff => [(both, held, false), ("s2*<", held, false)],
            Self::DeleteLastOff => [(both, held, false), ("s1*<", held, false)],
            Self::RevertToDisks => [(both, held, true), (both, [1, 2, 0], false)],
            Self::RevertToMemory => [(both, held, true), ("s1*< s2<s1", [1, 0, 0], true)],
            Self::Create | Self::CreateWithMemory => [(both, held, true), ("s1< s2<s1 s3*<s2", held, true)],
            Self::CreateOff => [(both, held, false), ("s1< s2<s1 s3*<s2", held, false)],
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_killed_in_the_midst_of_a_removal_of_overlays_loses_nothing() -> Result<()> {
    cut_all_off("removals of overlays", &Operation::ALL[..4]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_killed_in_the_midst_of_an_external_snapshot_loses_nothing() -> Result<()> {
    cut_all_off("external snapshots", &Operation::ALL[4..]).await
}

/// Who comes before what was under way is set right is not told that a guest does not run which is shown as running.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_at_once_finds_the_removal_done_or_does_it() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut stage = Stage::counting().await?;
    let (operation, tries, until) = (Operation::DeleteLastOff, kill::tries(), kill::until());
    operation.prepare(&stage).await?;
    let begun = Instant::now();
    operation.carry_out(&stage).await?;
    let whole = begun.elapsed();
    clear(&stage).await?;
    for number in 1..=tries {
        if until.is_some_and(|until| Instant::now() > until) {
            break;
        }
        operation.prepare(&stage).await?;
        let moment = whole.mul_f64(f64::from(number) / f64::from(tries + 1));
        let killer = kill::later(stage.sandbox.pid().context("no daemon")?, moment);
        let _ = operation.carry_out(&stage).await;
        killer
            .join()
            .map_err(|_| anyhow::anyhow!("the killer panicked"))?;
        stage.sandbox.kill()?;
        stage.sandbox.start()?;
        stage.grpc = Grpc::of(&stage.sandbox).await?;
        let what = || format!("killed {moment:?} of {whole:?}");
        if number % 2 == 0 && stage.grpc.get("g").await?.id != 0 {
            // It may end by itself meanwhile, but not be shown afterwards.
            if let Err(error) = stage.grpc.power_off("g").await {
                let domain = stage.grpc.get("g").await?;
                ensure!(
                    domain.id == 0,
                    "{}: {error}, and it is {:?}",
                    what(),
                    domain.state()
                );
            }
        }
        match operation.carry_out(&stage).await {
            Ok(()) => {}
            Err(error) => ensure!(
                error.code() == tonic::Code::NotFound,
                "{}: removed once more: {error}",
                what()
            ),
        }
        let done = at_rest(&stage, operation, None).await.with_context(what)?;
        ensure!(done, "{}: it is still there", what());
        clear(&stage).await?;
    }
    Ok(())
}

async fn cut_all_off(name: &str, operations: &[Operation]) -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    kill::cut_off::<Externals>(name, operations, &kill::VICTIMS, kill::tries()).await
}

/// A guest with external snapshots.
struct Externals {
    stage: Stage,
    /// What it was told until each of the first two.
    told: [u32; 2],
}

impl kill::Place for Externals {
    type Operation = Operation;

    async fn make() -> Result<Self> {
        let stage = Stage::counting().await?;
        Ok(Self { stage, told: [0; 2] })
    }

    fn sandbox(&mut self) -> &mut Sandbox {
        &mut self.stage.sandbox
    }

    async fn prepare(&mut self, operation: Operation) -> Result<()> {
        self.told = operation.prepare(&self.stage).await?;
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
        at_rest(&self.stage, operation, killed).await
    }

    async fn afterwards(&mut self, operation: Operation, done: bool, _: Victim) -> Result<()> {
        let stage = &self.stage;
        let (_, held, _) = operation.outcomes()[usize::from(done)];
        let mut least = match operation {
            Operation::RevertToMemory if done => self.told[0],
            Operation::RevertToDisks if done => self.told[1],
            _ => stage.counter.told()?.last,
        };
        if stage.grpc.get("g").await?.id != 0 {
            stage.counts(least).await?;
            stage.grpc.power_off("g").await?;
            // What it counted since is on the disks it has now.
            least = stage.counter.told()?.last;
        }
        stage.pieces(&held).await.context("off")?;
        stage.starts_with(least).await.context("the next start")?;
        stage.pieces(&held).await.context("after the next start")
    }

    async fn clear(&mut self) -> Result<()> {
        clear(&self.stage).await
    }
}

/// Waits until all agree; whether the operation was finished.
async fn at_rest(stage: &Stage, operation: Operation, killed: Option<Victim>) -> Result<bool> {
    let end = Instant::now() + AT_REST;
    loop {
        let agreed = agree(stage, operation, killed).await;
        match agreed {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn agree(stage: &Stage, operation: Operation, killed: Option<Victim>) -> Result<bool> {
    let tree = stage.tree().await?;
    let domain = stage.grpc.get("g").await?;
    let runs = match domain.state() {
        pb::State::Running => true,
        pb::State::Shutoff => false,
        other => anyhow::bail!("the guest is {other:?}"),
    };
    let notes = stage.sandbox.intents()?;
    ensure!(notes.is_empty(), "it is not over: {notes:?}");
    let outcomes = operation.outcomes();
    // A guest whose QEMU was killed is off, and what its disks hold says where it is in that.
    let ended = killed.is_some_and(Victim::is_of_qemu) && !runs;
    let held = |at: usize| {
        let (known, held, running) = outcomes[at];
        (known == tree && (running == runs || ended)).then_some((at, held))
    };
    let mut known: Vec<_> = [1, 0].into_iter().filter_map(held).collect();
    if known.len() > 1 {
        let top = stage.top().await?;
        known.retain(|(_, held)| image_holds(&top, held).is_ok());
    }
    let (at, held) = *known
        .first()
        .with_context(|| format!("neither before nor after: {tree}, it runs: {runs}"))?;
    if runs {
        let jobs = stage.qmp("{\"execute\":\"query-jobs\"}").await?;
        ensure!(
            jobs.replace(' ', "").contains("\"return\":[]"),
            "QEMU has jobs: {jobs}"
        );
        let disks = stage.qmp("{\"execute\":\"query-block\"}").await?;
        for top in stage.tops().await? {
            ensure!(
                disks.replace(' ', "").contains(&format!("\"file\":\"{top}\"")),
                "QEMU does not write to {top}: {disks}"
            );
        }
    }
    stage.pieces(&held).await?;
    let named = named(stage, &tree).await?;
    for file in files(stage)? {
        ensure!(named.contains(&file), "nobody names '{file}'");
    }
    for name in ["s1", "s3"] {
        let recorded = tree.split(' ').any(|word| word.starts_with(name));
        let has_memory = name == "s1" || operation == Operation::CreateWithMemory;
        let file = stage.images[0].with_file_name(format!("{name}.mem"));
        ensure!(
            file.exists() == (recorded && has_memory),
            "{}: recorded {recorded}",
            file.display()
        );
    }
    Ok(at == 1)
}

/// All files beside the images that the guest began with.
fn files(stage: &Stage) -> Result<Vec<String>> {
    let dir = stage.images[0].parent().context("no directory")?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        found.push(entry?.path().to_string_lossy().into_owned());
    }
    Ok(found)
}

/// All documents of the guest and of its snapshots.
async fn named(stage: &Stage, tree: &str) -> Result<String> {
    let mut all = stage.grpc.xml("g").await?;
    for word in tree.split_whitespace() {
        let name = word.split(['*', '<']).next().unwrap_or_default();
        all.push_str(&stage.xml(name).await?);
    }
    Ok(all)
}

/// As at the beginning.
async fn clear(stage: &Stage) -> Result<()> {
    if stage.grpc.get("g").await?.id != 0 {
        stage.grpc.power_off("g").await?;
    }
    for name in ["s1", "s2", "s3"] {
        // It may be gone already.
        let _ = stage.delete(name, |r| r.metadata_only = true).await;
    }
    ensure!(stage.tree().await?.is_empty(), "snapshots are left");
    for file in files(stage)? {
        std::fs::remove_file(file)?;
    }
    for image in &stage.images {
        let path = image.to_string_lossy();
        run("qemu-img", &["create", "-q", "-f", "qcow2", &path, "8M"])?;
    }
    stage
        .defined_as(&stage.counter.within(&document(&stage.images))?)
        .await
}
