//! A guest that needs no system and is there within a second of emulation: it counts, writes each number to all its disks,
//! and tells it when they have it (`guest/counter.s`). What it has told must be on its disks, whatever was killed since.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::place;
use crate::wait::wait_for;

/// Where on a disk the numbers are, bytes; each place has one sector of its 4 KiB.
const FIRST: usize = 15_360 * 512;
const PLACES: u32 = 64;
const APART: usize = 4096;
/// How often an image is read that is written to meanwhile.
const READS: u32 = 4;
/// How long emulation may take to come to the guest's first number on a busy machine.
const BOOT: Duration = Duration::from_secs(60);

/// Where a guest tells its numbers.
#[derive(Debug, Clone)]
pub struct Counter {
    log: PathBuf,
}

/// What it has told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// The number that it told last; 0 before the first.
    pub last: u32,
    /// At each boot: the highest number on each disk.
    pub boots: Vec<Vec<u32>>,
    /// How many numbers it has told.
    pub count: usize,
}

impl Counter {
    /// A guest that tells its numbers in a file.
    pub fn new(log: impl Into<PathBuf>) -> Self {
        Self { log: log.into() }
    }

    /// A guest's document, so that it counts.
    ///
    /// # Errors
    /// When its program can't be assembled.
    pub fn within(&self, document: &str) -> Result<String> {
        let kernel = format!("<kernel>{}</kernel></os>", kernel()?.display());
        let log = self.log.display();
        let serial = format!("<serial type='file'><source path='{log}' append='on'/></serial></devices>");
        let document = document
            .replacen("</os>", &kernel, 1)
            .replacen("</devices>", &serial, 1);
        // The BIOS serves only what it might boot from.
        let mut parts = document.split("bus='virtio'/>");
        let mut numbered = parts.next().unwrap_or_default().to_owned();
        for (at, part) in parts.enumerate() {
            let _ = write!(numbered, "bus='virtio'/><boot order='{}'/>{part}", at + 1);
        }
        Ok(numbered)
    }

    /// Forgets what it has told.
    ///
    /// # Errors
    /// When the file can't be emptied.
    pub fn forget(&self) -> Result<()> {
        match fs::File::options().write(true).truncate(true).open(&self.log) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// What it has told so far.
    ///
    /// # Errors
    /// When a disk failed, or a number was left out.
    pub fn told(&self) -> Result<Told> {
        told(&fs::read_to_string(&self.log).unwrap_or_default())
    }

    /// Waits until it has told some numbers more; what it has told then.
    ///
    /// # Errors
    /// When it does not go on counting.
    pub fn goes_on(&self) -> Result<Told> {
        let before = self.told()?.count;
        wait_for("the guest's next numbers", BOOT, || {
            self.told().ok().filter(|told| told.count > before + 2)
        })
    }

    /// Waits until it has booted once more; what it has told then.
    ///
    /// # Errors
    /// When it does not.
    pub fn boots(&self, before: &Told) -> Result<Told> {
        let boots = before.boots.len();
        wait_for("the guest's boot", BOOT, || {
            self.told().ok().filter(|told| told.boots.len() > boots)
        })
    }

    /// Checks that a guest that has booted since `before` found on each disk what it had told until then.
    ///
    /// # Errors
    /// When it does not boot, or a number is missing.
    pub fn found(&self, before: &Told, least: u32) -> Result<()> {
        let told = self.boots(before)?;
        let found = told.boots.last().cloned().unwrap_or_default();
        ensure!(
            !found.is_empty() && found.iter().all(|number| *number >= least),
            "the guest was told that {least} is written, and finds {found:x?} of it at its boot"
        );
        Ok(())
    }
}

/// Checks that an image, with all below it, has every number up to `least` that was not written over.
///
/// # Errors
/// When one is missing.
pub fn holds(image: &Path, format: &str, least: u32) -> Result<()> {
    let mut attempts = 1..READS;
    loop {
        match has(image, format, least) {
            // What an image has grown by since it was opened is read as zeroes; what is missing stays so.
            Err(_) if attempts.next().is_some() => {}
            result => return result,
        }
    }
}

fn has(image: &Path, format: &str, least: u32) -> Result<()> {
    let raw = tempfile::NamedTempFile::new()?;
    let size = APART * usize::try_from(PLACES)?;
    let what = format!(
        "driver=raw,offset={FIRST},size={size},file.driver={format},file.file.filename={}",
        image.display()
    );
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-U", "--image-opts", &what, "-O", "raw"]);
    let done = convert.arg(raw.path()).output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "qemu-img: {said}");
    let bytes = fs::read(raw.path())?;
    for number in least.saturating_sub(PLACES - 1).max(1)..=least {
        let at = usize::try_from(number % PLACES)? * APART;
        let sector = bytes.get(at..at + 512).context("a short image")?;
        let found = u32::from_le_bytes(sector[..4].try_into()?);
        ensure!(
            found >= number && found % PLACES == number % PLACES,
            "{number:x} of {least:x} was told, and {} has {found:x} there",
            image.display()
        );
        ensure!(
            sector.chunks_exact(4).all(|word| word == found.to_le_bytes()),
            "{} has half of {found:x}",
            image.display()
        );
    }
    Ok(())
}

fn told(text: &str) -> Result<Told> {
    let mut told = Told::default();
    let mut after_boot = true;
    // A line that is not whole yet is none.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for line in whole.lines() {
        ensure!(
            !line.contains("fail"),
            "a disk fails the guest after {:x}",
            told.last
        );
        if let Some((_, found)) = line.split_once("boot") {
            let numbers = found.split_whitespace().map(|word| u32::from_str_radix(word, 16));
            told.boots.push(numbers.collect::<Result<_, _>>()?);
            after_boot = true;
            continue;
        }
        // Memory that goes back may do so in the midst of a line.
        let Some(number) = u32::from_str_radix(line, 16).ok().filter(|_| line.len() == 8) else {
            continue;
        };
        // It may begin anew, or go back with its memory.
        ensure!(
            after_boot || number <= told.last + 1,
            "after {:x} comes {number:x}",
            told.last
        );
        (told.last, after_boot) = (number, false);
        told.count += 1;
    }
    Ok(told)
}

/// The guest's program, assembled once.
fn kernel() -> Result<PathBuf> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let made = MADE.get_or_init(|| assembled().map_err(|error| format!("{error:#}")));
    made.clone().map_err(anyhow::Error::msg)
}

fn assembled() -> Result<PathBuf> {
    let source = place::repository().join("crates/testkit/guest/counter.s");
    let dir = place::target().join("guest");
    fs::create_dir_all(&dir)?;
    let work = tempfile::tempdir_in(&dir)?;
    let (object, program) = (work.path().join("counter.o"), work.path().join("counter"));
    run(Command::new("as").arg("--32").arg("-o").arg(&object).arg(&source))?;
    let mut copy = Command::new("objcopy");
    copy.args(["-O", "binary", "-j", ".text"])
        .arg(&object)
        .arg(&program);
    run(&mut copy)?;
    let whole = dir.join("counter");
    fs::rename(&program, &whole)?;
    Ok(whole)
}

fn run(command: &mut Command) -> Result<()> {
    let done = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{command:?}: {said}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_tells_is_read_whole_lines_only() {
        let text = "boot 00000000 00000000\n00000001\n00000002\nboot 00000002 00000001\n00000002\n000000";
        let told = told(text).unwrap();
        assert_eq!((told.last, told.count), (2, 3));
        assert_eq!(told.boots, [vec![0, 0], vec![2, 1]]);
    }

    #[test]
    fn a_number_that_is_left_out_or_a_disk_that_fails_is_an_error() {
        assert!(told("boot 00000000\n00000001\n00000003\n").is_err());
        assert!(told("boot 00000000\n00000001\nfail\n").is_err());
        // Memory that goes back counts from there.
        assert_eq!(
            told("boot 00000000\n00000001\n00000002\n00000001\n")
                .unwrap()
                .last,
            1
        );
    }
}
