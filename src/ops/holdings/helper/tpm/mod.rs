//! Emulated TPMs beside a run: where their state is, how their emulator ends, and when the state goes with the guest.
//!
//! `start` brings an emulator up. It ends by itself when QEMU closes its connection; `stop` makes sure of it, also for an
//! emulator that a former daemon started: it is found by its PID file and by the control socket in its command line,
//! which no other run has. One that belongs to no run (the daemon was killed before the run was written down) is ended
//! when the daemon starts.

pub(crate) mod emulator;

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use domxml::devices::{TpmBackend, YesNo};
use qemu_plan::swtpm::{self, State};
use uuid::Uuid;

use crate::{
    domain::View,
    error::{Error, Result},
    ops::{Driver, document::plan, host::files},
    paths::Paths,
    qemu::{Process, Stop},
};

/// How long an emulator may take to end once QEMU has.
const LAST_MOMENT: Duration = Duration::from_secs(2);
/// End of the names of a run's files.
const SUFFIX: &str = "-swtpm.pid";

/// What becomes of a TPM's state when its guest is forgotten.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Forget {
    /// It goes, whatever its document says.
    pub(crate) tpm: bool,
    /// It stays, whatever its document says.
    pub(crate) keep_tpm: bool,
}

/// The files of a guest's TPM.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The guest's own directory for state.
    pub(crate) directory: PathBuf,
    /// Directory of the sockets.
    pub(crate) run: PathBuf,
    /// Control socket of this run.
    pub(crate) socket: PathBuf,
    /// PID file of this run.
    pub(crate) pid_file: PathBuf,
    /// Log of all runs.
    pub(crate) log: PathBuf,
}

impl Place {
    /// Those of a run.
    pub(crate) fn of(paths: &Paths, uuid: Uuid, name: &str, id: i32) -> Self {
        let run = runs(paths);
        let short = plan::short_name(id, name);
        Self {
            directory: directory(paths, uuid),
            socket: run.join(format!("{short}-swtpm.sock")),
            pid_file: run.join(format!("{short}{SUFFIX}")),
            log: paths.swtpm_log.join(format!("{name}-swtpm.log")),
            run,
        }
    }

    fn process(&self) -> Option<Process> {
        Process::find_helper(&self.pid_file, &swtpm::control(&self.socket.to_string_lossy()))
    }

    /// Sees to it that the emulator has ended, and removes the files of the run.
    ///
    /// # Errors
    /// The process does not end, or the files can't be removed.
    pub(crate) async fn end(self) -> Result<()> {
        let place = self.clone();
        let process =
            crate::blocking::file("looking for the TPM emulator", move || Ok(place.process())).await?;
        if let Some(process) = process
            && tokio::time::timeout(LAST_MOMENT, process.exited()).await.is_err()
        {
            process.stop(Stop::Surely).await?;
        }
        crate::blocking::file("removing the TPM emulator's files", move || {
            files::remove(&self.socket)?;
            files::remove(&self.pid_file)
        })
        .await
    }
}

/// Where runs have sockets and PID files.
fn runs(paths: &Paths) -> PathBuf {
    paths.state.join("swtpm")
}

/// Where a guest's state is, unless its document says where.
pub(crate) fn directory(paths: &Paths, uuid: Uuid) -> PathBuf {
    paths.swtpm.join(uuid.to_string())
}

/// A note in a guest's directory that its state is being made: what is found with it is half made.
pub(crate) fn unfinished(directory: &Path) -> PathBuf {
    directory.join(".virtqemud-setup")
}

/// After a run: ends the emulator, and removes the state of a guest that is not stored.
pub(crate) async fn unplug(driver: &Arc<Driver>, view: &View, document: &domxml::Domain, id: i32) {
    if swtpm::emulated(&document.devices.tpms).is_none() {
        return;
    }
    let place = Place::of(driver.registry.store().paths(), view.uuid, &view.name, id);
    if let Err(error) = place.end().await {
        tracing::error!(guest = %view.name, %error, "the TPM emulator is left behind");
    }
    if view.config.is_none() {
        forget(driver, view.uuid, document, Forget::default()).await;
    }
}

/// The guest is not known any more: its state goes, unless it is to stay. What can't be removed is logged.
pub(crate) async fn forget(driver: &Arc<Driver>, uuid: Uuid, document: &domxml::Domain, what: Forget) {
    let Some((_, backend)) = swtpm::emulated(&document.devices.tpms) else {
        return;
    };
    if !goes(backend, what) {
        return;
    }
    let directory = directory(driver.registry.store().paths(), uuid);
    let state = State::of(backend, &directory.to_string_lossy());
    let removed = crate::blocking::file("removing the TPM's state", move || {
        remove_state(&state, &directory)
    })
    .await;
    if let Err(error) = removed {
        tracing::error!(%uuid, %error, "state of a TPM is left behind");
    }
}

/// Whether the state goes with the guest.
fn goes(backend: &TpmBackend, what: Forget) -> bool {
    what.tpm || (!what.keep_tpm && backend.persistent_state != Some(YesNo::Yes))
}

/// Removes a state. `directory` is the guest's own. Of a place that a document names only what is a TPM's goes: whatever else
/// is there, and what is no file, is somebody else's.
pub(crate) fn remove_state(state: &State, directory: &Path) -> Result<()> {
    match state {
        State::Directory { ours: true, .. } => files::remove_all(directory),
        State::Directory { path, ours: false } => remove_files_of_tpm(Path::new(path)),
        State::File(path) => files::remove_image(Path::new(path)),
    }
}

/// Removes swtpm's files from a directory, and the directory if nothing else is in it.
fn remove_files_of_tpm(directory: &Path) -> Result<()> {
    let failed = |error| Error::system(format_args!("cannot remove '{}'", directory.display()), error);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name == ".lock" || name.starts_with("tpm-00.") || name.starts_with("tpm2-00.") {
            files::remove_image(&entry.path())?;
        }
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Ends emulators that belong to none of the runs, by their short names. Called once, before anything is started.
pub(crate) fn sweep(paths: &Paths, runs_known: HashSet<String>) {
    let entries = fs::read_dir(runs(paths))
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path());
    for pid_file in entries {
        let name = pid_file
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.strip_suffix(SUFFIX));
        let Some(name) = name.filter(|name| !runs_known.contains(*name)) else {
            continue;
        };
        let socket = runs(paths).join(format!("{name}-swtpm.sock"));
        if let Some(process) = Process::find_helper(&pid_file, &swtpm::control(&socket.to_string_lossy())) {
            tracing::warn!(
                run = name,
                pid = process.pid(),
                "ending a TPM emulator that belongs to no guest"
            );
            process.kill();
        }
        for file in [socket, pid_file] {
            if let Err(error) = files::remove(&file) {
                tracing::warn!(%error, "a file is left that nobody needs");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_goes_with_the_guest_unless_it_is_to_stay() {
        let backend = |persistent_state| TpmBackend {
            persistent_state,
            ..TpmBackend::default()
        };
        let none = Forget::default();
        let (tpm, keep) = (
            Forget { tpm: true, ..none },
            Forget {
                keep_tpm: true,
                ..none
            },
        );
        let table = [
            (None, none, true),
            (Some(YesNo::No), none, true),
            (Some(YesNo::Yes), none, false),
            (Some(YesNo::Yes), tpm, true),
            (None, keep, false),
            (None, tpm, true),
        ];
        for (persistent, what, gone) in table {
            assert_eq!(goes(&backend(persistent), what), gone, "{persistent:?} {what:?}");
        }
    }

    #[test]
    fn of_a_place_that_a_document_names_only_the_state_goes() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("own");
        let place = dir.path().join("place");
        let state = State::Directory {
            path: place.to_string_lossy().into_owned(),
            ours: false,
        };
        let remove = || remove_state(&state, &own);
        remove().unwrap();
        fs::create_dir(&place).unwrap();
        for name in ["tpm2-00.permall", ".lock", "somebody's"] {
            fs::write(place.join(name), "").unwrap();
        }
        remove().unwrap();
        let left: Vec<_> = fs::read_dir(&place)
            .unwrap()
            .flatten()
            .map(|e| e.file_name())
            .collect();
        assert_eq!(left, ["somebody's"]);
        fs::remove_file(place.join("somebody's")).unwrap();
        remove().unwrap();
        assert!(!place.exists());
        // What is no file stays.
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let device = State::File(pipe.to_string_lossy().into_owned());
        remove_state(&device, &own).unwrap();
        assert!(pipe.exists());
    }

    #[tokio::test]
    async fn an_emulator_of_no_run_is_ended_and_others_are_left() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::system(dir.path());
        let run = runs(&paths);
        fs::create_dir_all(&run).unwrap();
        let start = |name: &str| {
            let place = Place::of(&paths, Uuid::nil(), name, 1);
            let control = swtpm::control(&place.socket.to_string_lossy());
            let launch =
                unixfd::Launch::new("/bin/sh", ["-c", "sleep 60; :", &control]).pid_file(&place.pid_file);
            fs::write(&place.socket, "").unwrap();
            (launch.start(Duration::from_secs(20)).unwrap().pidfd, place)
        };
        let ((orphan, of_orphan), (other, of_other)) = (start("orphan"), start("other"));
        sweep(&paths, HashSet::from(["1-other".to_owned()]));
        tokio::time::timeout(Duration::from_secs(20), orphan.exited())
            .await
            .unwrap()
            .unwrap();
        assert!(!of_orphan.pid_file.exists() && !of_orphan.socket.exists());
        assert!(!other.has_exited() && of_other.socket.exists());
        of_other.clone().end().await.unwrap();
        assert!(other.has_exited() && !of_other.pid_file.exists() && !of_other.socket.exists());
    }
}
