//! What is under way on the guests, for a daemon that finds it half done.
//!
//! An operation notes its intent before it touches QEMU or the host, and is refused where it can't: a daemon that is
//! killed leaves the note, and the next one compares it with what QEMU says and finishes or undoes it
//! (`ops::recover`). A guest has as many as operations are under way, each in a file of its own, named after the guest,
//! the run and the operation; the file goes when the operation is over.
//!
//! A note need not survive the host: the guests do not either.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::store::{Store, discard, remove, write};
use crate::{
    blocking,
    error::{Error, Result},
};

/// The version of the notes that this daemon writes and reads.
const VERSION: u32 = 1;
/// How the names of notes begin.
const FILES: &str = "intent-";
/// Longest note, bytes.
const NOTE_MAX: u64 = 1 << 20;

/// What is about to be done to a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Intent {
    /// End it.
    PowerOff,
    /// Change the medium of a drive.
    ChangeMedium {
        /// The drive's target.
        target: String,
        /// Block nodes that are made for the new medium, the lowest first.
        new_nodes: Vec<String>,
        /// Block nodes of the old medium, the lowest first: they go with it.
        old_nodes: Vec<String>,
    },
    /// Set an interface's link.
    SetLink {
        /// The interface's alias.
        alias: String,
    },
    /// Stop the CPUs.
    Pause,
    /// Let the CPUs run.
    Resume,
    /// Change what the guest uses of the host, or how it uses it.
    Tune {
        /// The change, in the words of `ops::tuning::live`.
        change: String,
        /// What takes it back, in the same words.
        before: String,
    },
    /// Change the limits of an interface's traffic.
    LimitInterface {
        /// The interface's device on the host.
        device: String,
    },
    /// Put an interface on another bridge or network, or give it another filter or other limits.
    Rewire {
        /// The interface's alias.
        alias: String,
    },
    /// Tell a display its password.
    SetPassword {
        /// The display's type.
        display: String,
    },
    /// Have the guest take more or less of a virtio-mem device.
    ResizeMemory {
        /// The device's alias.
        alias: String,
    },
    /// Make a disk that is a part of its file the whole file, for it to get another size.
    DropSlice {
        /// The disk's name in the guest.
        target: String,
    },
    /// Give the guest other CPUs.
    SetVcpus {
        /// What is wanted, in the words of `ops::device::vcpus`.
        wanted: String,
        /// The stored configuration gets them, too.
        stored: bool,
    },
    /// Begin a job on a disk's blocks, with nodes and files that are made for it.
    BeginBlockJob {
        /// The job's id.
        job: String,
        /// Block nodes that are made, the topmost of each image first.
        nodes: Vec<String>,
        /// Files that are made.
        files: Vec<PathBuf>,
    },
    /// Cancel a job on a disk's blocks, or have it finish.
    SteerBlockJob {
        /// The job's id.
        job: String,
        /// The CPUs stand meanwhile, and run afterwards.
        #[serde(default)]
        resume: bool,
    },
    /// Have the documents follow a job on a disk's blocks that has ended.
    EndBlockJob {
        /// The job's id.
        job: String,
        /// The disk before, as a status file has it.
        disk: String,
        /// The files of images that the disk has no more go, too.
        #[serde(default)]
        deletes: bool,
        /// The CPUs stand meanwhile, and run afterwards.
        #[serde(default)]
        resume: bool,
    },
    /// Plug a device in.
    AttachDevice {
        /// The device, as a status file has it.
        device: String,
        /// The device as the client gave it, if the stored configuration gets it, too.
        stored: Option<String>,
    },
    /// Put a snapshot into the guest's images.
    CreateSnapshot {
        /// Its name.
        name: String,
        /// The nodes that get a part of it, of a guest that runs.
        nodes: Vec<String>,
        /// The images that do, of one that is off.
        images: Vec<String>,
        /// The CPUs run again afterwards.
        resume: bool,
    },
    /// Record from now on which blocks are written, under this name.
    CreateCheckpoint {
        /// Its name, and that of the bitmaps.
        name: String,
        /// The nodes that get a bitmap.
        nodes: Vec<String>,
    },
    /// Take a checkpoint's bitmaps out of the guest's images, and forget it.
    DeleteCheckpoint {
        /// Its name.
        name: String,
    },
    /// Begin a backup, with nodes and files that are made for it.
    Backup {
        /// Ids of the jobs.
        jobs: Vec<String>,
        /// Bitmaps that are made, with their nodes.
        bitmaps: Vec<(String, String)>,
        /// Block nodes that are made, the topmost of each image first.
        nodes: Vec<String>,
        /// Files that are made.
        files: Vec<PathBuf>,
        /// A server is started.
        serves: bool,
        /// Objects that are made for it, those that refer to others first.
        objects: Vec<String>,
    },
    /// Put new images on those of a running guest.
    SnapshotDisks {
        /// What is recorded of it, if anything is: the snapshot's file.
        snapshot: Option<String>,
        /// The disks as they are then, as a status file has them.
        disks: Vec<String>,
        /// Block nodes that are made, the topmost of each image first.
        nodes: Vec<String>,
        /// Files that are made.
        files: Vec<PathBuf>,
        /// The CPUs run if it comes to nothing.
        resume: bool,
        /// They run afterwards in any case.
        #[serde(default)]
        goes_on: bool,
        /// QEMU is told to write to them from now on: whether it does is not known if it ends.
        #[serde(default)]
        handed: bool,
    },
    /// Make images on those of a guest that is off.
    SnapshotImages {
        /// The snapshot's name.
        name: String,
        /// Files that are made.
        files: Vec<PathBuf>,
    },
    /// Take a snapshot out of the guest's images, and forget it.
    DeleteSnapshot {
        /// Its name.
        name: String,
    },
    /// Go back to a snapshot: the run ends, the images change, another run may begin.
    RevertSnapshot {
        /// Its name.
        name: String,
        /// How, in the words of `ops::change::revert`.
        how: String,
        /// Overlays that are made for it.
        #[serde(default)]
        made: Vec<PathBuf>,
        /// Overlays that the guest leaves.
        #[serde(default)]
        left: Vec<PathBuf>,
    },
    /// Save the guest into an image, and end it.
    Save {
        /// The image.
        path: String,
        /// It was not there before.
        created: bool,
        /// What was there before is gone.
        #[serde(default)]
        begun: bool,
    },
    /// Dump the guest into a file.
    Dump {
        /// The file.
        path: String,
    },
    /// Go on from an image that was loaded.
    Restore {
        /// The image, if it goes when the guest goes on.
        managed: Option<String>,
        /// The CPUs are to run.
        runs: bool,
    },
    /// Take a device out, or see to what is left of one that has gone.
    DetachDevice {
        /// The device, as a status file has it.
        device: String,
        /// It leaves the stored configuration, too.
        stored: bool,
    },
}

impl Intent {
    /// Begin a job that needs nothing new.
    pub fn begin_block_job(job: &str) -> Self {
        Self::BeginBlockJob {
            job: job.to_owned(),
            nodes: Vec::new(),
            files: Vec::new(),
        }
    }

    /// The same once QEMU is told to write to new images.
    #[must_use]
    pub fn handed(mut self) -> Self {
        if let Self::SnapshotDisks { handed, .. } = &mut self {
            *handed = true;
        }
        self
    }

    /// The image of a save, and whether it was made for it. None as long as the file may be the image of another save.
    pub fn image(&self) -> Option<(&str, bool)> {
        match self {
            Self::Save { path, created, begun } if *created || *begun => Some((path, *created)),
            _ => None,
        }
    }

    /// Whether something is left to be done if the run ends before the operation does: there are files.
    pub fn outlives_run(&self) -> bool {
        matches!(
            self,
            Self::CreateSnapshot { .. }
                | Self::DeleteSnapshot { .. }
                | Self::SnapshotDisks { .. }
                | Self::BeginBlockJob { .. }
                | Self::Backup { .. }
                | Self::Save { .. }
        )
    }

    /// What the operation does, as logs and clients name it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::PowerOff => "power-off",
            Self::Pause => "suspend",
            Self::Resume => "resume",
            Self::Tune { .. } => "configure",
            Self::SetPassword { .. } | Self::ResizeMemory { .. } => "update-device",
            Self::ChangeMedium { .. } => "change-medium",
            Self::DropSlice { .. } => "resize-disk",
            Self::SetLink { .. } | Self::Rewire { .. } => "set-link",
            Self::BeginBlockJob { .. } => "begin-block-job",
            Self::SteerBlockJob { .. } => "abort-block-job",
            Self::EndBlockJob { .. } => "end-block-job",
            Self::LimitInterface { .. } => "limit-interface",
            Self::SetVcpus { .. } => "set-vcpus",
            Self::AttachDevice { .. } => "attach-device",
            Self::DetachDevice { .. } => "detach-device",
            Self::CreateSnapshot { .. } | Self::SnapshotDisks { .. } | Self::SnapshotImages { .. } => {
                "create-snapshot"
            }
            Self::DeleteSnapshot { .. } => "delete-snapshot",
            Self::CreateCheckpoint { .. } => "create-checkpoint",
            Self::DeleteCheckpoint { .. } => "delete-checkpoint",
            Self::Backup { .. } => "backup",
            Self::RevertSnapshot { .. } => "revert-snapshot",
            Self::Save { .. } => "save",
            Self::Dump { .. } => "dump",
            Self::Restore { .. } => "restore",
        }
    }
}

/// A note of an intent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    version: u32,
    /// The operation.
    pub operation: Uuid,
    /// The guest.
    pub guest: Uuid,
    /// The number of its run.
    pub run: i32,
    /// The number of the run that it was of, which is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    former: Option<i32>,
    /// What is about to be done.
    pub intent: Intent,
}

impl Note {
    /// The number of no run, in the notes of guests that are off.
    pub const OFF: i32 = 0;

    /// An intent of an operation.
    pub fn new(operation: Uuid, guest: Uuid, run: i32, intent: Intent) -> Self {
        Self {
            version: VERSION,
            operation,
            guest,
            run,
            former: None,
            intent,
        }
    }

    fn file_name(&self) -> String {
        let name = format!("{}{}", prefix(self.guest, self.run), self.operation);
        match self.former {
            // The operation may have noted something of the guest that is off, too.
            Some(run) => format!("{name}.{run}"),
            None => name,
        }
    }

    fn put_off(&mut self) {
        if self.run != Self::OFF {
            self.former = Some(self.run);
            self.run = Self::OFF;
        }
    }
}

fn prefix(guest: Uuid, run: i32) -> String {
    format!("{FILES}{guest}.{run}.")
}

/// The notes, in the directory of what the daemon keeps beside libvirt's own files.
#[derive(Clone, Debug)]
pub struct Intents {
    dir: PathBuf,
    in_memory: bool,
}

impl Intents {
    pub(super) fn new(dir: PathBuf, in_memory: bool) -> Self {
        Self { dir, in_memory }
    }

    /// Notes what is about to be done.
    ///
    /// # Errors
    /// The note can't be written: the operation must not begin.
    pub async fn write(&self, note: &Note) -> Result<()> {
        let path = self.dir.join(note.file_name());
        let text = serde_json::to_vec(note)
            .map_err(|e| Error::internal("an intent can't be put into words").caused_by(e))?;
        let work = move || {
            write(&path, &text, false).map_err(|e| Error::system("cannot note what is about to be done", e))
        };
        blocking::light(self.in_memory, "noting an intent", work).await
    }

    /// It is done, or undone. A note that stays is resolved when the guest is reached again.
    pub async fn clear(&self, note: &Note) {
        let path = self.dir.join(note.file_name());
        let work = move || remove(&path).map_err(|e| Error::system("cannot clear an intent", e));
        if let Err(error) = blocking::light(self.in_memory, "clearing an intent", work).await {
            tracing::warn!(guest = %note.guest, %error, "an intent is left that is done");
        }
    }

    /// The run is over, and all that was under way on it but what outlives it: that is cleared by who sees to it.
    pub async fn clear_run(&self, guest: Uuid, run: i32) {
        let (prefix, paths) = (prefix(guest, run), self.paths());
        let work = move || {
            let of_run = paths.filter(|p| name(p).starts_with(&prefix));
            let outlives = |path: &PathBuf| read(path).is_some_and(|note| note.intent.outlives_run());
            of_run
                .filter(|path| !outlives(path))
                .for_each(|path| discard(&path));
            Ok(())
        };
        if let Err(error) = blocking::file("clearing intents", work).await {
            tracing::warn!(%guest, %error, "intents are left of a run that is over");
        }
    }

    /// The notes of a run, in the order of their operations' ids. One that can't be read is logged and kept: it may be a
    /// newer daemon's.
    pub fn of(&self, guest: Uuid, run: i32) -> Vec<Note> {
        let prefix = prefix(guest, run);
        let mut paths: Vec<_> = self.paths().filter(|p| name(p).starts_with(&prefix)).collect();
        paths.sort();
        paths.iter().filter_map(|path| read(path)).collect()
    }

    /// Makes a note of a run that is over one of the guest that is off, for the next daemon.
    pub async fn hand_on(&self, note: Note) {
        let (path, own) = (self.dir.join(note.file_name()), self.clone());
        let work = move || own.put_off(&path, note);
        if let Err(error) = blocking::light(self.in_memory, "keeping an intent", work).await {
            tracing::error!(%error, "what was under way when a run ended is not known any more");
        }
    }

    fn put_off(&self, path: &Path, mut note: Note) -> Result<()> {
        note.put_off();
        let text = serde_json::to_vec(&note)
            .map_err(|e| Error::internal("an intent can't be put into words").caused_by(e))?;
        let to = self.dir.join(note.file_name());
        write(&to, &text, false).map_err(|e| Error::system("cannot keep an intent", e))?;
        if to != path {
            discard(path);
        }
        Ok(())
    }

    /// Forgets the notes of runs that are not among `runs`: their numbers come again. What outlives a run becomes a note of
    /// the guest that is off. For a daemon that starts.
    pub fn keep_only(&self, runs: &[(Uuid, i32)]) {
        let kept: HashSet<String> = runs.iter().map(|(guest, run)| prefix(*guest, *run)).collect();
        // One that was not written to its end is of an operation that did not begin.
        let unfinished = |path: &PathBuf| name(path).ends_with(".new");
        let stale: Vec<_> = self
            .paths()
            .filter(|p| unfinished(p) || !kept.iter().any(|prefix| name(p).starts_with(prefix)))
            .collect();
        for path in stale {
            let left = Some(&path)
                .filter(|path| !unfinished(path))
                .and_then(|path| read(path))
                .filter(|note| note.intent.outlives_run() && runs.contains(&(note.guest, Note::OFF)));
            match left.map(|note| self.put_off(&path, note)) {
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::error!(path = %path.display(), %error,
                    "what was under way when a run ended is not followed"),
                None => discard(&path),
            }
        }
    }

    fn paths(&self) -> impl Iterator<Item = PathBuf> + use<> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries
            .map(|e| e.path())
            .filter(|path| name(path).starts_with(FILES))
    }
}

impl Store {
    /// The notes of what is under way.
    pub fn intents(&self) -> Intents {
        Intents::new(self.own_dir(), self.runs_in_memory())
    }
}

fn name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

fn read(path: &Path) -> Option<Note> {
    let read = || {
        let length = fs::metadata(path)?.len();
        if length > NOTE_MAX {
            return Err(std::io::Error::other(format!("it has {length} bytes")));
        }
        let note: Note = serde_json::from_slice(&fs::read(path)?)?;
        if note.version != VERSION {
            return Err(std::io::Error::other(format!("it has version {}", note.version)));
        }
        Ok(note)
    };
    read()
        .inspect_err(
            |error| tracing::error!(path = %path.display(), %error, "an intent can't be read; it is kept"),
        )
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_guest_has_as_many_as_operations_are_under_way() {
        for in_memory in [false, true] {
            keeps_notes(in_memory).await;
        }
    }

    async fn keeps_notes(in_memory: bool) {
        let dir = tempfile::tempdir().unwrap();
        let intents = Intents::new(dir.path().join("intents"), in_memory);
        let guest = Uuid::from_u128(7);
        let note = |operation, run, intent| Note::new(Uuid::from_u128(operation), guest, run, intent);
        let alias = "net0".to_owned();
        let link = note(1, 3, Intent::SetLink { alias });
        let off = note(2, 3, Intent::PowerOff);
        let later = note(3, 31, Intent::PowerOff);
        for one in [&link, &off, &later] {
            intents.write(one).await.unwrap();
        }
        assert_eq!(intents.of(guest, 3), [link.clone(), off.clone()]);
        intents.clear(&off).await;
        assert_eq!(intents.of(guest, 3), [link]);
        let unfinished = intents.dir.join(format!("{}x.new", prefix(guest, 31)));
        fs::write(&unfinished, "{").unwrap();
        intents.keep_only(&[(guest, 31)]);
        assert!(!unfinished.exists());
        assert!(intents.of(guest, 3).is_empty());
        assert_eq!(intents.of(guest, 31), [later]);
        outlives_runs(&intents, guest).await;
    }

    async fn outlives_runs(intents: &Intents, guest: Uuid) {
        let files = Vec::new();
        let disks = Intent::SnapshotDisks {
            snapshot: None,
            disks: Vec::new(),
            nodes: Vec::new(),
            files,
            resume: false,
            goes_on: false,
            handed: true,
        };
        let left = Note::new(Uuid::from_u128(4), guest, 5, disks);
        intents.write(&left).await.unwrap();
        intents.clear_run(guest, 5).await;
        assert_eq!(intents.of(guest, 5), std::slice::from_ref(&left));
        let mut off = left.clone();
        off.put_off();
        // What the same operation has noted of the guest that is off stays beside it.
        let name = "s".to_owned();
        let removal = Note::new(left.operation, guest, Note::OFF, Intent::DeleteSnapshot { name });
        intents.write(&removal).await.unwrap();
        intents.keep_only(&[(guest, Note::OFF)]);
        assert!(intents.of(guest, 5).is_empty());
        assert_eq!(intents.of(guest, Note::OFF), [removal.clone(), off.clone()]);
        intents.clear(&off).await;
        assert_eq!(intents.of(guest, Note::OFF), std::slice::from_ref(&removal));
        intents.clear(&removal).await;
        intents.write(&left).await.unwrap();
        intents.hand_on(left).await;
        assert_eq!(intents.of(guest, Note::OFF), std::slice::from_ref(&off));
        intents.hand_on(off.clone()).await;
        assert_eq!(intents.of(guest, Note::OFF), [off]);
        // Of a guest that is not known nothing is left to be done.
        intents.keep_only(&[]);
        assert!(intents.of(guest, Note::OFF).is_empty());
    }

    #[test]
    fn an_image_that_a_save_has_not_begun_is_not_its_own() {
        for (created, begun, expected) in [
            (false, false, None),
            (false, true, Some(("/i", false))),
            (true, false, Some(("/i", true))),
            (true, true, Some(("/i", true))),
        ] {
            let path = "/i".to_owned();
            let save = Intent::Save { path, created, begun };
            assert_eq!(save.image(), expected);
        }
        assert_eq!(
            Intent::Dump {
                path: "/i".to_owned()
            }
            .image(),
            None
        );
    }

    #[tokio::test]
    async fn a_note_that_can_not_be_written_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("state"), "in the way").unwrap();
        let intents = Intents::new(dir.path().join("state"), false);
        let note = Note::new(Uuid::nil(), Uuid::nil(), 1, Intent::PowerOff);
        assert!(intents.write(&note).await.is_err());
    }

    #[test]
    fn a_note_of_another_version_is_kept_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(format!("{}x", prefix(Uuid::nil(), 1)));
        let text = r#"{"version":2,"operation":"00000000-0000-0000-0000-000000000000","guest":"00000000-0000-0000-0000-000000000000","run":1,"intent":{"do":"power-off"}}"#;
        fs::write(&path, text).unwrap();
        assert!(
            Intents::new(dir.path().to_owned(), false)
                .of(Uuid::nil(), 1)
                .is_empty()
        );
        assert!(path.exists());
    }
}
