//! Random snapshots, returns, removals and block jobs of one guest, against a model of what its disks hold.
//!
//! The model knows no image: it has the pieces that each disk holds, and those that each snapshot has. After every step
//! the guest's disks are read through QEMU, or through the whole chain while it is off. `scripts/model-test.sh` runs many
//! steps; `MODEL_SEED` makes a run again.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use virtqemud_client::proto as pb;

use crate::externals::image_holds;
use crate::grpc::{Grpc, by_name};
use crate::snapshots::Stage;

/// Steps where the environment does not say how many.
const STEPS: u32 = 40;
/// Most images on top of each other.
const DEPTH: usize = 6;
/// Pieces of a disk, 64 KiB each.
const PIECES: usize = 4;
/// Most snapshots.
const SNAPSHOTS: usize = 8;

type Disks = [[u8; PIECES]; 2];

/// Numbers that look random: a linear congruence is enough to choose by.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % sides.max(1)
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Saved {
    parent: Option<String>,
    disks: Disks,
    /// The guest runs when it goes back to it.
    memory: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    disks: Disks,
    runs: bool,
    snapshots: BTreeMap<String, Saved>,
    current: Option<String>,
    /// Images were changed beside the snapshots: some of them can't be removed or gone back to any more.
    disturbed: bool,
    count: u32,
}

impl Model {
    fn children(&self, name: &str) -> Vec<String> {
        let of = |(_, saved): &(&String, &Saved)| saved.parent.as_deref() == Some(name);
        self.snapshots
            .iter()
            .filter(of)
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn is_before_current(&self, name: &str) -> bool {
        let mut at = self.current.clone();
        while let Some(here) = at {
            at = self.snapshots.get(&here).and_then(|saved| saved.parent.clone());
            if at.as_deref() == Some(name) {
                return true;
            }
        }
        false
    }

    /// Whether the rules allow that it is removed.
    fn may_go(&self, name: &str) -> bool {
        match self.children(name).len() {
            0 => true,
            1 => self.current.as_deref() != Some(name) && self.is_before_current(name),
            _ => false,
        }
    }

    fn take(&mut self, name: &str) {
        let Some(gone) = self.snapshots.remove(name) else {
            return;
        };
        for saved in self.snapshots.values_mut() {
            if saved.parent.as_deref() == Some(name) {
                saved.parent.clone_from(&gone.parent);
            }
        }
        if self.current.as_deref() == Some(name) {
            self.current = gone.parent;
        }
        self.disturbed &= !self.snapshots.is_empty();
    }
}

/// Reads and writes of both disks.
impl Stage {
    async fn io(&self, disk: usize, command: &str) -> Result<String> {
        let line = format!("qemu-io -d /machine/peripheral/virtio-disk{disk}/virtio-backend \"{command}\"");
        self.hmp(&line).await
    }

    /// The images that the disks are on.
    pub(crate) async fn tops(&self) -> Result<[String; 2]> {
        let xml = self.grpc.xml("g").await?;
        let mut found = Vec::new();
        for disk in xml.split("<disk ").skip(1) {
            let from = disk.find("<source file='").context("no source")? + 14;
            let end = disk[from..].find('\'').context("no source")?;
            found.push(disk[from..from + end].to_owned());
        }
        found.try_into().map_err(|_| anyhow::anyhow!("not two disks"))
    }

    /// How many images the first disk has.
    async fn depth(&self) -> Result<usize> {
        let xml = self.grpc.xml("g").await?;
        let first = xml.split("<disk ").nth(1).context("no disk")?;
        Ok(1 + first.matches("<backingStore type").count())
    }

    async fn holds(&self, model: &Model) -> Result<()> {
        let runs = self.grpc.get("g").await?.id != 0;
        ensure!(runs == model.runs, "it runs: {runs}");
        for (disk, top) in self.tops().await?.iter().enumerate() {
            if runs {
                self.io(disk, "flush").await?;
            }
            image_holds(Path::new(top), &model.disks[disk])?;
        }
        Ok(())
    }
}

/// One step, in words.
async fn step(stage: &mut Stage, model: &mut Model, dice: &mut Dice) -> Result<String> {
    let names: Vec<String> = model.snapshots.keys().cloned().collect();
    let any = |dice: &mut Dice| names.get(dice.roll(names.len())).cloned();
    match dice.roll(20) {
        0..=4 => write(stage, model, dice).await,
        5..=8 => snapshot(stage, model, dice).await,
        9..=11 => match any(dice) {
            Some(name) => revert(stage, model, dice, name).await,
            None => Ok("nothing".to_owned()),
        },
        12..=14 => match any(dice) {
            Some(name) => delete(stage, model, name).await,
            None => Ok("nothing".to_owned()),
        },
        15 if model.runs => pull(stage, model).await,
        16 if model.runs => copy(stage, model).await,
        17 if model.runs && model.snapshots.is_empty() => commit(stage).await,
        18 => power(stage, model).await,
        19 => {
            stage.sandbox.kill()?;
            stage.sandbox.start()?;
            stage.grpc = Grpc::of(&stage.sandbox).await?;
            Ok("the daemon is killed".to_owned())
        }
        _ => write(stage, model, dice).await,
    }
}

async fn write(stage: &Stage, model: &mut Model, dice: &mut Dice) -> Result<String> {
    let (disk, at) = (dice.roll(2), dice.roll(PIECES));
    let pattern = u8::try_from(dice.roll(200)).unwrap_or(0) + 1;
    let command = format!("write -P {pattern} {}k 64k", at * 64);
    if model.runs {
        stage.io(disk, &command).await?;
        stage.io(disk, "flush").await?;
    } else {
        let tops = stage.tops().await?;
        let said = Command::new("qemu-io")
            .args(["-c", &command, &tops[disk]])
            .output()?;
        ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    }
    model.disks[disk][at] = pattern;
    Ok(format!("write disk {disk} piece {at} pattern {pattern}"))
}

async fn snapshot(stage: &Stage, model: &mut Model, dice: &mut Dice) -> Result<String> {
    if stage.depth().await? >= DEPTH || model.snapshots.len() >= SNAPSHOTS {
        return Ok("no more snapshots".to_owned());
    }
    model.count += 1;
    let name = format!("n{}", model.count);
    let memory = model.runs && dice.roll(2) == 0;
    let file = stage.images[0].with_file_name(format!("{name}.mem"));
    let inside = match memory {
        true => format!(
            "<name>{name}</name><memory snapshot='external' file='{}'/>",
            file.display()
        ),
        false => format!("<name>{name}</name>"),
    };
    stage.create(&inside, |r| r.disk_only = !memory).await?;
    let saved = Saved {
        parent: model.current.replace(name.clone()),
        disks: model.disks,
        memory,
    };
    model.snapshots.insert(name.clone(), saved);
    Ok(format!("snapshot {name}, memory {memory}"))
}

async fn revert(stage: &Stage, model: &mut Model, dice: &mut Dice, name: String) -> Result<String> {
    let running = dice.roll(2) == 0;
    let what = format!("revert to {name}, running {running}");
    match stage.revert(&name, |r| r.running = running).await {
        Ok(_) => {
            let saved = &model.snapshots[&name];
            (model.disks, model.runs) = (saved.disks, saved.memory || running);
            model.current = Some(name);
            Ok(what)
        }
        Err(error) if model.disturbed => Ok(format!("{what}: {}", error.message())),
        Err(error) => Err(error).context(what),
    }
}

async fn delete(stage: &Stage, model: &mut Model, name: String) -> Result<String> {
    let may = model.may_go(&name);
    let what = format!("delete {name}, allowed {may}");
    match stage.delete(&name, |_| {}).await {
        Ok(_) => {
            ensure!(may, "{what}");
            model.take(&name);
            Ok(what)
        }
        Err(error) if !may || model.disturbed => Ok(format!("{what}: {}", error.message())),
        Err(error) => Err(error).context(what),
    }
}

fn jobs(stage: &Stage) -> pb::block_jobs_client::BlockJobsClient<tonic::transport::Channel> {
    pb::block_jobs_client::BlockJobsClient::new(stage.grpc.channel())
}

/// Waits until the disk has no job.
async fn no_job(stage: &Stage) -> Result<()> {
    for _ in 0..600 {
        let jobs = stage.qmp("{\"execute\":\"query-jobs\"}").await?;
        if jobs.replace(' ', "").contains("\"return\":[]") && !stage.grpc.xml("g").await?.contains("<mirror")
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("a job does not end")
}

async fn pull(stage: &Stage, model: &mut Model) -> Result<String> {
    let request = pb::PullBlocksRequest {
        domain: by_name("g"),
        disk: "vda".to_owned(),
        ..Default::default()
    };
    jobs(stage).pull(request).await?;
    no_job(stage).await?;
    model.disturbed |= !model.snapshots.is_empty();
    Ok("pull".to_owned())
}

/// Waits until a job is ready, and has it swapped in.
async fn pivot(stage: &Stage) -> Result<()> {
    for _ in 0..600 {
        if stage.grpc.xml("g").await?.contains("ready='yes'") {
            let request = pb::EndBlockJobRequest {
                domain: by_name("g"),
                disk: "vda".to_owned(),
                how: pb::end_block_job_request::How::Pivot.into(),
                ..Default::default()
            };
            jobs(stage).end(request).await?;
            return no_job(stage).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("a job does not become ready")
}

async fn copy(stage: &Stage, model: &mut Model) -> Result<String> {
    model.count += 1;
    let file = stage.images[0].with_extension(format!("copy{}", model.count));
    let xml = format!(
        "<disk type='file'><source file='{}'/><driver type='qcow2'/></disk>",
        file.display()
    );
    let request = pb::CopyBlocksRequest {
        domain: by_name("g"),
        disk: "vda".to_owned(),
        destination: Some(pb::copy_blocks_request::Destination::Xml(xml)),
        transient_job: true,
        ..Default::default()
    };
    jobs(stage).copy(request).await?;
    pivot(stage).await?;
    model.disturbed |= !model.snapshots.is_empty();
    Ok("copy".to_owned())
}

async fn commit(stage: &Stage) -> Result<String> {
    if stage.depth().await? < 2 {
        return Ok("nothing to commit".to_owned());
    }
    let request = pb::CommitBlocksRequest {
        domain: by_name("g"),
        disk: "vda".to_owned(),
        active: true,
        shallow: true,
        ..Default::default()
    };
    jobs(stage).commit(request).await?;
    pivot(stage).await?;
    Ok("commit".to_owned())
}

async fn power(stage: &Stage, model: &mut Model) -> Result<String> {
    match model.runs {
        true => drop(stage.grpc.power_off("g").await?),
        false => drop(stage.grpc.start("g").await?),
    }
    model.runs = !model.runs;
    Ok(format!("power, it runs: {}", model.runs))
}

#[tokio::test(flavor = "multi_thread")]
async fn random_steps_leave_what_the_model_says() -> Result<()> {
    let Some(mut stage) = Stage::set().await? else {
        return Ok(());
    };
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let seed = number("MODEL_SEED").unwrap_or(u64::try_from(now % 1_000_000_007)?);
    let steps = number("MODEL_STEPS").map_or(STEPS, |n| u32::try_from(n).unwrap_or(STEPS));
    let (mut model, mut dice) = (Model::default(), Dice(seed));
    let mut story = Vec::new();
    for at in 0..steps {
        let done = step(&mut stage, &mut model, &mut dice).await;
        let checked = match done {
            Ok(words) => {
                story.push(words);
                stage.holds(&model).await
            }
            Err(error) => Err(error),
        };
        let last = story.len().saturating_sub(25);
        checked.with_context(|| {
            format!(
                "seed {seed}, step {at}; before it:\n{}\n{model:?}",
                story[last..].join("\n")
            )
        })?;
        if steps > STEPS && at % 100 == 0 {
            println!("step {at}: {} snapshots", model.snapshots.len());
        }
    }
    Ok(())
}
