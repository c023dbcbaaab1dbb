//! Snapshots in the midst of which QEMU or qemu-img ends, at moments that are hit for certain.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testkit::fake_qemu::program::{install, read_record};
use testkit::kill::Victim;
use testkit::process;
use testkit::skip::can_run_guests;

use crate::grpc::{Grpc, QEMU, daemon};
use crate::snapshots::{Stage, document};

/// How long QEMU's answer to what it has done is held back, milliseconds.
const HELD_BACK: u64 = 1500;
/// How long each thing may take that is waited for.
const SOON: Duration = Duration::from_secs(40);

/// A guest that counts, whose QEMU's answers are held back as a script says.
struct Held {
    stage: Stage,
    emulator: PathBuf,
    record: PathBuf,
}

impl Held {
    async fn set() -> Result<Self> {
        let stage = Stage::counting().await?;
        let dir = stage.sandbox.dir().join("fake");
        fs::create_dir_all(&dir)?;
        let emulator = install(&dir, &json!({"real": QEMU}))?;
        let text = stage.counter.within(&document(&stage.images))?;
        let named = text.replace(QEMU, &emulator.display().to_string());
        stage.defined_as(&named).await?;
        let record = dir.join("record");
        Ok(Self {
            stage,
            emulator,
            record,
        })
    }

    fn say(&self, rules: &[Value]) -> Result<()> {
        let script = json!({"real": QEMU, "record": self.record, "rules": rules});
        Ok(fs::write(
            self.emulator.with_extension("json"),
            script.to_string(),
        )?)
    }

    /// Waits until QEMU has had a command, and the guest counts on from there.
    async fn counts_after(&self, command: &str) -> Result<()> {
        let asked = || {
            let asked = read_record(&self.record).unwrap_or_default();
            asked.iter().any(|asked| asked.execute == command)
        };
        until("the step", asked).await?;
        // It is carried out by then.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let before = self.stage.counter.told()?.count;
        let goes_on = || {
            let told = self.stage.counter.told();
            told.is_ok_and(|told| told.count > before + 3)
        };
        until("the guest's next numbers", goes_on).await
    }

    fn kill_qemu(&self) {
        for pid in self.stage.sandbox.emulators()() {
            process::signal(pid, Signal::SIGKILL);
        }
    }

    /// Kills them while a snapshot's answer is held back.
    async fn kill_in(&mut self, name: &str, (victim, apart): (Victim, Duration)) -> Result<()> {
        let inside = format!("<name>{name}</name>");
        let create = self.stage.create(&inside, |r| r.disk_only = true);
        let pid = self.stage.sandbox.pid().context("no daemon")?;
        let kill = async {
            self.counts_after("transaction").await?;
            self.kill_qemu();
            if victim == Victim::Both {
                tokio::time::sleep(apart).await;
                process::signal(pid, Signal::SIGKILL);
            }
            anyhow::Ok(())
        };
        let (answer, killed) = tokio::join!(create, kill);
        killed?;
        ensure!(
            victim == Victim::Both || answer.is_ok(),
            "it was made, and {answer:?}"
        );
        self.say(&[])?;
        if victim == Victim::Both {
            self.stage.sandbox.kill()?;
            self.stage.sandbox.start()?;
            self.stage.grpc = Grpc::of(&self.stage.sandbox).await?;
        }
        Ok(())
    }
}

async fn until(what: &str, done: impl Fn() -> bool) -> Result<()> {
    let waited = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, waited).await.context(what.to_owned())
}

/// QEMU writes to the new images once it has put them on, and nobody else knows of it yet.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_wrote_to_images_that_nobody_heard_of_is_there() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut held = Held::set().await?;
    let ends = [
        ("s1", Victim::Qemu, Duration::ZERO),
        ("s2", Victim::Both, Duration::ZERO),
        // The daemon has heard of the end, and may be at work on what follows.
        ("s3", Victim::Both, Duration::from_millis(5)),
        ("s4", Victim::Both, Duration::from_millis(40)),
    ];
    let mut tree = Vec::new();
    for (name, victim, apart) in ends {
        let what = || format!("{name}: {victim:?}, {apart:?} apart");
        held.stage.grpc.start("g").await?;
        held.stage.counter.goes_on()?;
        let _ = fs::remove_file(&held.record);
        held.say(&[json!({"execute": "transaction", "delay_ms": HELD_BACK})])?;
        held.kill_in(name, (victim, apart)).await.with_context(what)?;
        let stage = &held.stage;
        tree.push(name);
        until("nothing is under way", || {
            stage.sandbox.intents().is_ok_and(|notes| notes.is_empty())
        })
        .await
        .with_context(what)?;
        let told = stage.counter.told()?.last;
        stage.starts_with(told).await.with_context(what)?;
        let known = stage.tree().await?;
        let known: Vec<_> = known
            .split(' ')
            .map(|word| word.split(['*', '<']).next().unwrap_or_default())
            .collect();
        ensure!(known == tree, "{}: recorded is {known:?}", what());
        for top in stage.tops().await? {
            ensure!(top.ends_with(name), "{}: {top} is written to", what());
        }
        stage.grpc.power_off("g").await?;
    }
    Ok(())
}

/// QEMU ends before it has put the new images on: nothing is left of them.
#[tokio::test(flavor = "multi_thread")]
async fn images_that_qemu_never_wrote_to_go() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut held = Held::set().await?;
    for victim in [Victim::Qemu, Victim::Both] {
        held.stage.grpc.start("g").await?;
        held.stage.counter.goes_on()?;
        let _ = fs::remove_file(&held.record);
        // The first image is made, and the second is not yet QEMU's.
        held.say(&[json!({"execute": "blockdev-add", "nth": 3, "delay_ms": HELD_BACK})])?;
        let create = held.stage.create("<name>s1</name>", |r| r.disk_only = true);
        let pid = held.stage.sandbox.pid().context("no daemon")?;
        let record = held.record.clone();
        let kill = async {
            let asked = || {
                let asked = read_record(&record).unwrap_or_default();
                asked.iter().filter(|a| a.execute == "blockdev-add").count() == 3
            };
            until("the step", asked).await?;
            held.kill_qemu();
            if victim == Victim::Both {
                process::signal(pid, Signal::SIGKILL);
            }
            anyhow::Ok(())
        };
        let (answer, killed) = tokio::join!(create, kill);
        killed?;
        ensure!(answer.is_err(), "{victim:?}: it is said to be made");
        held.say(&[])?;
        if victim == Victim::Both {
            held.stage.sandbox.kill()?;
            held.stage.sandbox.start()?;
            held.stage.grpc = Grpc::of(&held.stage.sandbox).await?;
        }
        let stage = &held.stage;
        let left = || {
            let mut images = stage.images.iter().map(|image| image.with_extension("s1"));
            images.any(|image| image.exists())
        };
        until("the images being gone", || !left())
            .await
            .with_context(|| format!("{victim:?}"))?;
        ensure!(stage.tree().await?.is_empty(), "{victim:?}: it is recorded");
        let told = stage.counter.told()?.last;
        stage.starts_with(told).await?;
        stage.grpc.power_off("g").await?;
    }
    Ok(())
}

/// A directory with a qemu-img that is killed once it has done what has `word` in it, if the file "die" is there.
fn mortal(dir: &Path, word: &str) -> Result<PathBuf> {
    let (program, die) = (dir.join("qemu-img"), dir.join("die"));
    let text = format!(
        "#!/bin/sh\nPATH=\"${{PATH#*:}}\" qemu-img \"$@\"\nstatus=$?\ncase \"$*\" in *{word}*)\n\
         if rm {} 2>/dev/null; then kill -9 $$; fi\nesac\nexit $status\n",
        die.display()
    );
    fs::write(&program, text)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(die)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_qemu_img_has_made_goes() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let path = format!(
        "{}:{}",
        dir.path().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let Some(stage) = Stage::under(daemon().env("PATH", &path)).await? else {
        return Ok(());
    };
    // Of each kind: the second image, so that there is a first.
    for (word, disk_only) in [("b.s1", true), ("snapshot*-c*b.qcow2", false)] {
        let die = mortal(dir.path(), word)?;
        fs::write(&die, "")?;
        let made = stage.create("<name>s1</name>", |r| r.disk_only = disk_only).await;
        ensure!(
            made.is_err() && !die.exists(),
            "{word}: it was not killed: {made:?}"
        );
        for (at, image) in stage.images.iter().enumerate() {
            let left = image.with_extension("s1");
            ensure!(!left.exists(), "{} is left", left.display());
            ensure!(stage.in_image(at)?.is_empty(), "{word}: image {at} has it");
        }
        ensure!(stage.tree().await?.is_empty(), "{word}: it is recorded");
        stage
            .create("<name>s1</name>", |r| r.disk_only = disk_only)
            .await?;
        stage.delete("s1", |r| r.metadata_only = disk_only).await?;
        if disk_only {
            stage.defined_as(&document(&stage.images)).await?;
            for image in &stage.images {
                fs::remove_file(image.with_extension("s1"))?;
            }
        }
    }
    Ok(())
}
