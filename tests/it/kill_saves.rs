//! The daemon, QEMU or both are killed in the midst of saves, returns from them and dumps, again and again: the guest is always there
//! once, running or in a complete image, never both and, unless its QEMU was killed, never neither. It counts on from where
//! it was, and its disk has every number that it was told is written.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::counter::{self, Counter, Told};
use testkit::kill::Victim;
use testkit::skip::can_run_guests;
use testkit::{Sandbox, kill, wait_until};

use crate::blockjobs::Place;
use crate::grpc::daemon;

const AT_REST: Duration = Duration::from_secs(40);

/// What the daemon is killed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    ManagedSave,
    StartSaved,
    Save,
    Restore,
    Dump,
}

impl Operation {
    const ALL: [Self; 5] = [
        Self::ManagedSave,
        Self::StartSaved,
        Self::Save,
        Self::Restore,
        Self::Dump,
    ];

    /// The guest is saved before.
    fn saved_before(self) -> bool {
        matches!(self, Self::StartSaved | Self::Restore)
    }

    /// The image is the guest's own.
    fn is_managed(self) -> bool {
        matches!(self, Self::ManagedSave | Self::StartSaved)
    }
}

#[tokio::test]
async fn who_is_killed_in_the_midst_of_a_save_leaves_the_guest_there_once() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    kill::cut_off::<Saves>("saves", &Operation::ALL, &kill::VICTIMS, kill::tries()).await
}

/// A guest that counts, and is saved.
struct Saves {
    place: Place,
    counter: Counter,
    /// What it had told when it was saved, or before the operation.
    told: Told,
}

impl kill::Place for Saves {
    type Operation = Operation;

    async fn make() -> Result<Self> {
        let mut place = Place::new(daemon())?;
        place.sandbox.start()?;
        let counter = Counter::new(place.sandbox.dir().join("count.log"));
        place.virsh().define(&counter.within(&place.xml())?)?;
        let told = Told::default();
        Ok(Self { place, counter, told })
    }

    fn sandbox(&mut self) -> &mut Sandbox {
        &mut self.place.sandbox
    }

    async fn prepare(&mut self, operation: Operation) -> Result<()> {
        let place = &self.place;
        self.counter.forget()?;
        if place.virsh().state("g")? == "shut off" {
            place.virsh().ok(&["start", "g"])?;
        }
        self.told = self.counter.goes_on()?;
        match operation {
            Operation::StartSaved => Operation::ManagedSave.ask(place)?,
            Operation::Restore => Operation::Save.ask(place)?,
            _ => return Ok(()),
        }
        self.told = self.counter.told()?;
        Ok(())
    }

    async fn carry_out(&mut self, operation: Operation) -> Result<()> {
        operation.ask(&self.place)
    }

    async fn rest(&mut self, operation: Operation, killed: Option<Victim>) -> Result<bool> {
        let place = &self.place;
        let qemu_killed = killed.is_some_and(Victim::is_of_qemu);
        let agreed = || is_once(place, operation, qemu_killed);
        wait_until("the guest being there once", AT_REST, || agreed().is_ok()).or_else(|_| agreed())?;
        let runs = place.virsh().state("g")? == "running";
        let image = is_complete(&operation.file(place));
        Ok(match operation {
            Operation::Dump => operation.file(place).exists(),
            Operation::ManagedSave | Operation::Save => !runs && image,
            // It may have run, and its QEMU been killed since.
            Operation::StartSaved => runs || !image,
            // The same; its image stays, and it may not have told a number yet.
            Operation::Restore => runs || qemu_killed || self.counter.told()?.count > self.told.count,
        })
    }

    async fn afterwards(&mut self, operation: Operation, _done: bool, _: Victim) -> Result<()> {
        let (place, virsh) = (&self.place, self.place.virsh());
        let file = operation.file(place);
        let told = self.counter.told()?;
        let is_saved = operation != Operation::Dump
            && is_complete(&file)
            && (!operation.saved_before() || told.count == self.told.count);
        match virsh.state("g")?.as_str() {
            "running" => self.goes_on_from(&told)?,
            _ if is_saved => {
                match operation.is_managed() {
                    true => virsh.ok(&["start", "g"])?,
                    false => virsh.ok(&["restore", &file.display().to_string()])?,
                };
                let state = virsh.ok(&["domstate", "g", "--reason"])?;
                ensure!(state.contains("running (restored)"), "{state}");
                self.goes_on_from(&told)?;
            }
            _ => {
                virsh.ok(&["start", "g"])?;
                self.counter.found(&told, told.last)?;
            }
        }
        let told = self.counter.goes_on()?;
        counter::holds(&place.top()?, "qcow2", told.last)?;
        virsh.ok(&["destroy", "g"])?;
        let told = self.counter.told()?;
        virsh.ok(&["start", "g"])?;
        self.counter.found(&told, told.last)
    }

    async fn clear(&mut self) -> Result<()> {
        let place = &self.place;
        for file in ["saved", "dumped"] {
            let _ = fs::remove_file(place.file(file));
        }
        if Operation::ManagedSave.file(place).exists() {
            place.virsh().ok(&["managedsave-remove", "g"])?;
        }
        Ok(())
    }
}

impl Operation {
    fn file(self, place: &Place) -> PathBuf {
        match self {
            Self::ManagedSave | Self::StartSaved => place.sandbox.path("/var/lib/libvirt/qemu/save/g.save"),
            Self::Save | Self::Restore => place.file("saved"),
            Self::Dump => place.file("dumped"),
        }
    }

    fn ask(self, place: &Place) -> Result<()> {
        let file = self.file(place).display().to_string();
        let words: &[&str] = match self {
            Self::ManagedSave => &["managedsave", "g"],
            Self::StartSaved => &["start", "g"],
            Self::Save => &["save", "g", &file],
            Self::Restore => &["restore", &file],
            Self::Dump => &["dump", "g", &file, "--memory-only", "--live"],
        };
        place.virsh().ok(words).map(drop)
    }
}

impl Saves {
    /// The guest counts on from there: it has neither booted nor gone back.
    fn goes_on_from(&self, told: &Told) -> Result<()> {
        let now = self.counter.goes_on()?;
        ensure!(now.boots.len() == told.boots.len(), "it has booted");
        let (more, higher) = (now.count - told.count, i64::from(now.last) - i64::from(told.last));
        // Of a line that was cut off nothing is known.
        ensure!(
            (i64::try_from(more)? - higher).abs() <= 1,
            "it was at {} and is at {} after {more} numbers",
            told.last,
            now.last
        );
        Ok(())
    }
}

fn is_complete(image: &std::path::Path) -> bool {
    let mut begin = [0; 16];
    let read = fs::File::open(image).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut begin));
    read.is_ok() && begin.starts_with(b"LibvirtQemudSave")
}

/// Whether the guest is there once, and nothing is under way.
fn is_once(place: &Place, operation: Operation, qemu_killed: bool) -> Result<()> {
    let image = operation.file(place);
    let status = fs::read_to_string(place.sandbox.path("/run/libvirt/qemu/g.xml")).unwrap_or_default();
    let is_saved = operation != Operation::Dump && is_complete(&image);
    match place.virsh().state("g")?.as_str() {
        "running" => {
            ensure!(!status.contains("<job"), "a job is left: {status}");
            ensure!(
                !operation.is_managed() || !image.exists(),
                "it runs beside its image"
            );
            ensure!(
                operation != Operation::Save || !is_saved,
                "it runs beside a complete image"
            );
            place.is_whole()
        }
        "shut off" => {
            ensure!(status.is_empty(), "a status file is left: {status}");
            ensure!(is_saved || qemu_killed, "it is neither there nor saved");
            ensure!(
                is_saved || !operation.is_managed() || !image.exists(),
                "a part of an image is left"
            );
            place.ended()
        }
        other => anyhow::bail!("it is {other}"),
    }
}
