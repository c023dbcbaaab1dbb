//! Random backups of one guest's disk, whole and since a checkpoint, while the guest writes, against a model of what the disk
//! holds. The daemon is killed meanwhile, QEMU is, the guest is reset, switched off and on.
//!
//! The model has the pattern of each piece of the disk. A backup that is there in the end is put back together from those
//! that it follows, and must hold what the disk held when it began; one that was not completed must be gone, and one that
//! can't be made must be refused. `scripts/backup-test.sh` makes many; `MODEL_SEED` makes a run again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use testkit::skip::can_run_guests;
use testkit::{kill, wait_until};

use crate::backups::run;
use crate::blockjobs::{PART, Place};
use crate::grpc::daemon;
use crate::model_externals::Dice;

/// Backups where the environment does not say how many.
const BACKUPS: u32 = 8;
/// Pieces of the disk.
const PIECES: usize = 8;
/// Most backups that follow each other before a whole one is made again.
const CHAIN: usize = 6;
/// How long a daemon that came back may take until all is at rest.
const AT_REST: Duration = Duration::from_secs(60);
/// Longest time after which the daemon or QEMU is killed in a backup, milliseconds.
const MOMENTS: usize = 400;

type Disk = [u8; PIECES];

/// What happens while a backup is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    Write,
    Reset,
    KillDaemon(u64),
    KillQemu(u64),
    SwitchOff,
}

impl Meanwhile {
    fn roll(dice: &mut Dice) -> Self {
        let moment = u64::try_from(dice.roll(MOMENTS)).unwrap_or(0);
        match dice.roll(12) {
            0 => Self::Reset,
            1..=4 => Self::KillDaemon(moment),
            5 => Self::KillQemu(moment),
            6 => Self::SwitchOff,
            7 | 8 => Self::Write,
            _ => Self::Nothing,
        }
    }
}

/// What became of the backups.
#[derive(Debug, Default)]
struct Tally {
    right: u32,
    gone: u32,
    refused: u32,
}

struct Backups {
    place: Place,
    dice: Dice,
    disk: Disk,
    /// Names of the backups that follow each other, the whole one first: each began with a checkpoint of that name.
    chain: Vec<String>,
    tally: Tally,
}

impl Backups {
    /// Writes some pieces.
    fn write(&mut self) -> Result<()> {
        for _ in 0..=self.dice.roll(3) {
            let (at, pattern) = (self.dice.roll(PIECES), self.dice.roll(255) + 1);
            let pattern = u8::try_from(pattern)?;
            self.place.write(pattern, at as u64 * PART)?;
            self.disk[at] = pattern;
        }
        Ok(())
    }

    /// The guest is there, whatever became of it. What QEMU had not written when it was killed nobody has been told of.
    fn bring_back(&mut self, has_ended: bool) -> Result<()> {
        if has_ended {
            wait_until("the end of the guest", AT_REST, || {
                self.place
                    .virsh()
                    .state("g")
                    .is_ok_and(|state| state == "shut off")
            })?;
            self.disk = contents(&self.place.path("a"), &self.place.shown("look.raw"))?;
            self.place.virsh().ok(&["start", "g", "--paused"])?;
        }
        // What a daemon that comes back takes away goes after it has told that there is no job.
        let at_rest = || self.place.backed_up();
        wait_until("what a backup had to be gone", AT_REST, || at_rest().is_ok()).or_else(|_| at_rest())
    }

    /// One backup, and what is looked at after.
    fn step(&mut self, at: u32) -> Result<String> {
        self.write()?;
        let name = format!("b{at}");
        let whole = self.chain.is_empty() || self.chain.len() > CHAIN || self.dice.roll(8) == 0;
        if whole {
            self.forget()?;
        }
        let since = match self.chain.last() {
            Some(last) => format!("<incremental>{last}</incremental>"),
            None => String::new(),
        };
        let inside = since + &self.place.target(&format!("{name}.qcow2"));
        let held = self.disk;
        let meanwhile = Meanwhile::roll(&mut self.dice);
        let killer = self.killer(meanwhile)?;
        let begun = self.place.back_up(&inside, Some(&name));
        if begun.is_ok() {
            self.meanwhile(meanwhile)?;
        }
        if let Some(killer) = killer {
            killer
                .join()
                .map_err(|_| anyhow::anyhow!("the killer panicked"))?;
        }
        if matches!(meanwhile, Meanwhile::KillDaemon(_)) {
            self.place.sandbox.kill()?;
            self.place.sandbox.start()?;
        }
        wait_until("the guest at rest", AT_REST, || {
            let virsh = self.place.virsh();
            let said = virsh.ok(&["domjobinfo", "g"]);
            said.is_ok_and(|said| said.contains("None"))
                || virsh.state("g").is_ok_and(|state| state == "shut off")
        })?;
        let has_ended = match meanwhile {
            Meanwhile::KillQemu(_) => true,
            Meanwhile::SwitchOff => begun.is_ok(),
            _ => false,
        };
        self.bring_back(has_ended)?;
        let verdict = self.judge(&name, (held, begun.as_ref().err(), meanwhile))?;
        Ok(format!("{name}: whole {whole}, {meanwhile:?}, {verdict}"))
    }

    fn killer(&self, meanwhile: Meanwhile) -> Result<Option<std::thread::JoinHandle<()>>> {
        let (pid, moment) = match meanwhile {
            Meanwhile::KillDaemon(moment) => (self.place.sandbox.pid(), moment),
            Meanwhile::KillQemu(moment) => (self.place.sandbox.guest_pid("g"), moment),
            _ => return Ok(None),
        };
        let pid = pid.context("there is no process")?;
        Ok(Some(kill::later(pid, Duration::from_millis(moment))))
    }

    fn meanwhile(&mut self, what: Meanwhile) -> Result<()> {
        let virsh = self.place.virsh();
        match what {
            Meanwhile::Write => self.write(),
            Meanwhile::Reset => virsh.ok(&["reset", "g"]).map(drop),
            Meanwhile::SwitchOff => virsh.ok(&["destroy", "g"]).map(drop),
            _ => Ok(()),
        }
    }

    /// What became of a backup that is over.
    fn judge(
        &mut self,
        name: &str,
        (held, refused, meanwhile): (Disk, Option<&anyhow::Error>, Meanwhile),
    ) -> Result<&'static str> {
        let image = self.place.file(&format!("{name}.qcow2"));
        let killed = matches!(meanwhile, Meanwhile::KillDaemon(_) | Meanwhile::KillQemu(_));
        if let Some(error) = refused.filter(|_| !killed) {
            // After QEMU was killed what was written since a checkpoint is not known any more.
            let text = error.to_string();
            let known = ["missing or broken bitmap", "not found"];
            ensure!(known.iter().any(|known| text.contains(known)), "{text}");
            ensure!(!image.exists(), "a refused backup left an image");
            self.tally.refused += 1;
            self.forget()?;
            return Ok("refused");
        }
        if !image.exists() {
            self.tally.gone += 1;
            // What its checkpoint says, if there is one, is since a moment of which there is no backup.
            let _ = self.place.virsh().ok(&["checkpoint-delete", "g", name]);
            return Ok("gone");
        }
        if let Some(below) = self.chain.last() {
            let below = self.place.shown(&format!("{below}.qcow2"));
            let image = image.display().to_string();
            run("qemu-img", &["rebase", "-u", "-F", "qcow2", "-b", &below, &image])?;
        }
        let restored = contents(&image.display().to_string(), &self.place.shown("look.raw"))?;
        ensure!(
            restored == held,
            "{name} holds {restored:?}, and the disk held {held:?}"
        );
        self.tally.right += 1;
        self.chain.push(name.to_owned());
        Ok("right")
    }

    /// The next backup is a whole one.
    fn forget(&mut self) -> Result<()> {
        let virsh = self.place.virsh();
        let names = virsh.ok(&["checkpoint-list", "g", "--name", "--topological"])?;
        for name in names.split_whitespace().rev() {
            // One whose bitmap is gone is only recorded.
            if virsh.ok(&["checkpoint-delete", "g", name]).is_err() {
                virsh.ok(&["checkpoint-delete", "g", name, "--metadata"])?;
            }
        }
        for name in self.chain.drain(..) {
            std::fs::remove_file(self.place.file(&format!("{name}.qcow2")))?;
        }
        Ok(())
    }
}

/// The pattern of each piece of an image with those below it.
fn contents(image: &str, raw: &str) -> Result<Disk> {
    run("qemu-img", &["convert", "-U", "-O", "raw", image, raw])?;
    let bytes = std::fs::read(raw)?;
    let mut disk = Disk::default();
    for (piece, part) in disk.iter_mut().zip(bytes.chunks(usize::try_from(PART)?)) {
        *piece = part[0];
        ensure!(part.iter().all(|byte| byte == piece), "{image} has half a piece");
    }
    Ok(disk)
}

#[test]
fn what_is_backed_up_is_what_the_disk_held() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let seed = number("MODEL_SEED").unwrap_or(u64::try_from(now % 1_000_000_007)?);
    let count = number("MODEL_BACKUPS").map_or(BACKUPS, |n| u32::try_from(n).unwrap_or(BACKUPS));
    let place = Place::started(daemon())?;
    let disk = [0x11, 0x22, 0x33, 0x44, 0, 0, 0, 0];
    let mut backups = Backups {
        place,
        dice: Dice(seed),
        disk,
        chain: Vec::new(),
        tally: Tally::default(),
    };
    let mut story = Vec::new();
    for at in 0..count {
        let done = backups.step(at);
        let last = story.len().saturating_sub(10);
        let words = done.with_context(|| {
            let log = backups.place.sandbox.log();
            format!(
                "seed {seed}, backup {at}; before it:\n{}\n{log}",
                story[last..].join("\n")
            )
        })?;
        story.push(words);
        if count > BACKUPS && at % 25 == 0 {
            println!("backup {at}: {:?}", backups.tally);
        }
    }
    println!("seed {seed}: {:?}", backups.tally);
    ensure!(backups.tally.right > 0, "none was completed");
    Ok(())
}
