//! TPMs of a run: the host's own, or an emulator that is started before QEMU and ends with it.
//!
//! The state is made by `swtpm_setup` at the first start and kept. Should that fail, or the daemon be killed meanwhile,
//! nothing that is half made is taken for a TPM.

use std::{
    fs,
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use domxml::devices::{Tpm, TpmBackendKind};
use nix::unistd::{Gid, Uid, chown};
use qemu_plan::{
    command::{DeviceResources, Resources},
    swtpm::{self, Emulator, State},
};
use uuid::Uuid;

use crate::{
    error::{Area, Code, Error, Result},
    ops::{
        Driver,
        document::{plan, prepared::Prepared},
        holdings::helper::tpm::{self, Place},
        host::{identity::Identity, programs},
        operation::undo::Undo,
    },
    peers::SecretValue,
    qemu::{self, Helper, LogTail, Process},
};

/// How long making a TPM's keys and certificates may take.
const SETUP_DEADLINE: Duration = Duration::from_secs(120);
/// How long an emulator may take until it listens.
const LISTEN_DEADLINE: Duration = Duration::from_secs(15);
/// Between two looks whether it does.
const LOOK: Duration = Duration::from_millis(20);
/// Where the kernel has the file that cancels a command of a TPM.
// table
const CANCEL_FILES: &[&str] = &[
    "/sys/class/tpm/NAME/device/cancel",
    "/sys/class/misc/NAME/device/cancel",
];

/// The programs.
#[derive(Clone, Debug)]
struct Programs {
    swtpm: PathBuf,
    setup: PathBuf,
    /// What `swtpm_setup` can do, in its own words.
    features: Vec<String>,
}

/// One start of an emulator.
struct Attempt<'a> {
    place: Place,
    emulator: Emulator<'a>,
    programs: Programs,
    /// Whom it runs as.
    user: Identity,
    secret: Option<SecretValue>,
    /// "NAME:UUID".
    vm: String,
}

/// Opens the host's TPM, or starts an emulator.
///
/// # Errors
/// What is missing on the host, what the programs say, or that they hang.
pub(crate) async fn plug(
    driver: &Arc<Driver>,
    prepared: &Prepared,
    qemu: &mut qemu::Prepared,
    resources: &mut Resources,
    undo: &mut Undo,
) -> Result<()> {
    open_host(prepared, qemu, resources).await?;
    let document = &prepared.document;
    let Some((device, backend)) = swtpm::emulated(&document.devices.tpms) else {
        return Ok(());
    };
    let (uuid, name) = plan::identity(document)?;
    let place = Place::of(driver.registry.store().paths(), uuid, &name, prepared.id);
    let state = State::of(backend, &place.directory.to_string_lossy());
    let log = place.log.to_string_lossy().into_owned();
    let config = driver.config();
    let attempt = Attempt {
        emulator: Emulator {
            backend,
            state: &state,
            log: &log,
        },
        programs: crate::blocking::file("looking for swtpm", Programs::find).await?,
        user: Identity::of_tpms(&config)?,
        secret: secret(driver, backend.encryption.as_ref().map(|e| e.secret.as_str())).await?,
        vm: format!("{name}:{uuid}"),
        place,
    };
    let socket = attempt.place.socket.to_string_lossy().into_owned();
    forget_if_unfinished(driver, prepared, uuid, undo);
    attempt.carry_out(Identity::of(&config)?, undo).await?;
    let alias = device.info.alias.clone().unwrap_or_default();
    resources.devices.insert(
        alias,
        DeviceResources {
            socket: Some(socket),
            ..DeviceResources::default()
        },
    );
    Ok(())
}

/// The state of a guest that is not stored goes if it never was.
fn forget_if_unfinished(driver: &Arc<Driver>, prepared: &Prepared, uuid: Uuid, undo: &mut Undo) {
    let is_stored = driver
        .registry
        .by_uuid(uuid)
        .is_ok_and(|domain| domain.view().config.is_some());
    if !is_stored {
        let (driver, document) = (Arc::clone(driver), prepared.document.clone());
        undo.push("the state of the TPM", async move {
            tpm::forget(&driver, uuid, &document, tpm::Forget::default()).await;
            Ok(())
        });
    }
}

async fn secret(driver: &Driver, uuid: Option<&str>) -> Result<Option<SecretValue>> {
    let Some(text) = uuid else { return Ok(None) };
    let uuid = Uuid::try_parse(text)
        .map_err(|_| Error::new(Code::Xml, format!("malformed secret uuid '{text}'")))?;
    driver.peers.secrets().await?.by_uuid(uuid).await.map(Some)
}

impl Programs {
    /// Looks on the daemon's path. May block on files.
    fn find() -> Result<Self> {
        let (swtpm, setup) = (on_path("swtpm")?, on_path("swtpm_setup")?);
        let output = Command::new(&setup)
            .arg("--print-capabilities")
            .stdin(Stdio::null())
            .output();
        let output =
            output.map_err(|error| Error::system(format_args!("cannot run {}", setup.display()), error))?;
        let answer: Option<serde_json::Value> = serde_json::from_slice(&output.stdout).ok();
        let features = answer
            .as_ref()
            .and_then(|a| a.get("features")?.as_array())
            .map(Vec::as_slice)
            .unwrap_or_default();
        let features = features
            .iter()
            .filter_map(|f| f.as_str().map(str::to_owned))
            .collect();
        Ok(Self {
            swtpm,
            setup,
            features,
        })
    }
}

fn on_path(program: &str) -> Result<PathBuf> {
    let missing = || {
        Error::system(
            format_args!("Unable to find '{program}' binary in $PATH"),
            io::Error::from_raw_os_error(nix::libc::ENOENT),
        )
    };
    programs::find(program, &[]).ok_or_else(|| missing().in_area(Area::None))
}

impl Attempt<'_> {
    async fn carry_out(&self, qemu: Identity, undo: &mut Undo) -> Result<()> {
        let (place, user) = (self.place.clone(), self.user);
        crate::blocking::file("preparing the TPM's files", move || {
            prepare_files(&place, qemu, user)
        })
        .await?;
        self.make_state().await?;
        let mut helper = self.helper(&self.programs.swtpm);
        let keys = self.key(&mut helper)?.zip(self.key(&mut helper)?);
        let args = self.emulator.run(&self.place.socket.to_string_lossy(), keys);
        let said = LogTail::from_here(self.place.log.clone());
        let place = self.place.clone();
        undo.push("the TPM emulator", place.end());
        let process = helper.start(args, &self.place.pid_file).await?;
        self.listens(&process, &said).await?;
        let socket = self.place.socket.clone();
        crate::blocking::file("giving the TPM emulator's socket to QEMU", move || {
            give(&socket, qemu)
        })
        .await
    }

    fn helper(&self, program: &Path) -> Helper {
        Helper::new(
            program,
            self.user.run_as().map(|run_as| qemu::RunAs {
                groups: vec![run_as.gid],
                ..run_as
            }),
        )
    }

    /// The number of a descriptor that the passphrase can be read from, once.
    fn key(&self, helper: &mut Helper) -> Result<Option<i32>> {
        let Some(secret) = &self.secret else {
            return Ok(None);
        };
        let file = unixfd::sealed_memfd("tpm-key", secret.as_bytes())
            .map_err(|error| Error::system("cannot pass a secret", error))?;
        Ok(Some(helper.pass(OwnedFd::from(file))))
    }

    /// Makes the state if there is none, and activates the PCR banks.
    async fn make_state(&self) -> Result<()> {
        let (state, directory, user) = (
            self.emulator.state.clone(),
            self.place.directory.clone(),
            self.user,
        );
        let is_new = crate::blocking::file("preparing the TPM's state", move || {
            prepare_state(&state, &directory, user)
        })
        .await?;
        if is_new {
            let mut helper = self.helper(&self.programs.setup);
            let key = self.key(&mut helper)?;
            let made = match self.emulator.setup(&self.vm, key, &self.programs.features) {
                Ok(args) => self.set_up(helper, args).await,
                Err(error) => Err(error.into()),
            };
            let (state, directory, failed) = (
                self.emulator.state.clone(),
                self.place.directory.clone(),
                made.is_err(),
            );
            crate::blocking::file("finishing the TPM's state", move || {
                finish_state(&state, &directory, failed)
            })
            .await?;
            made?;
        }
        let mut helper = self.helper(&self.programs.setup);
        let key = self.key(&mut helper)?;
        match self.emulator.reconfigure(key, &self.programs.features) {
            Some(args) => self.set_up(helper, args).await,
            None => Ok(()),
        }
    }

    /// Runs `swtpm_setup`.
    async fn set_up(&self, helper: Helper, args: Vec<String>) -> Result<()> {
        let said = LogTail::from_here(self.place.log.clone());
        let anew = args.iter().any(|arg| arg == "--reconfigure");
        let option = if anew { " --reconfigure" } else { "" };
        let ended = helper.run(args, SETUP_DEADLINE).await?;
        let how = match ended.status {
            Some(0) => return Ok(()),
            Some(status) => format!("exitstatus: {status}"),
            None => "it was killed".to_owned(),
        };
        let logged = said.read().await;
        let words = if logged.is_empty() { ended.words } else { logged };
        let (program, log) = (self.programs.setup.display(), self.place.log.display());
        let message =
            format!("Could not run '{program}{option}'. {how}; Check error log '{log}' for details. {words}");
        let error = Error::internal(message.trim_end().to_owned()).in_area(Area::None);
        Err(error.because("TPM_NOT_MADE"))
    }

    /// Waits until the emulator can be connected to; connecting to see would end it.
    async fn listens(&self, process: &Process, said: &LogTail) -> Result<()> {
        let look = async {
            while !is_listening(&self.place.socket) {
                tokio::time::sleep(LOOK).await;
            }
        };
        let error = tokio::select! {
            biased;
            () = look => return Ok(()),
            _ended = process.exited() => format!("swtpm died and reported: {}", said.read().await),
            () = tokio::time::sleep(LISTEN_DEADLINE) => {
                process.kill();
                format!("swtpm does not listen at '{}' after {} s", self.place.socket.display(), LISTEN_DEADLINE.as_secs())
            }
        };
        Err(Error::internal(error)
            .in_area(Area::None)
            .because("TPM_NOT_STARTED"))
    }
}

/// Whether somebody listens at `path`, as the kernel tells: a socket that is bound may not listen yet.
fn is_listening(path: &Path) -> bool {
    const ACCEPTS: &str = "00010000";
    let there = fs::symlink_metadata(path).is_ok();
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let path = path.to_string_lossy();
    there
        && sockets
            .lines()
            .any(|line| line.ends_with(&*path) && line.split_whitespace().nth(3) == Some(ACCEPTS))
}

/// Directories of logs and sockets, and the log.
fn prepare_files(place: &Place, qemu: Identity, user: Identity) -> Result<()> {
    let of_log = place.log.parent().unwrap_or(Path::new("/"));
    directory(of_log, 0o711)?;
    give(of_log, user)?;
    mode(of_log, 0o730)?;
    let log = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(&place.log)
        .and_then(|mut file| file.flush());
    log.map_err(|error| Error::system(format_args!("failed to open '{}'", place.log.display()), error))?;
    give(&place.log, user)?;
    directory(&place.run, 0o770)?;
    let mut of_both = qemu;
    of_both.gid = user.gid;
    give(&place.run, of_both)?;
    mode(&place.run, 0o770)?;
    crate::ops::host::files::remove(&place.socket)
}

/// Makes the directory of a state, with its owner; whether there is no state in it.
fn prepare_state(state: &State, own: &Path, user: Identity) -> Result<bool> {
    let State::Directory { path, ours } = state else {
        let State::File(path) = state else { return Ok(true) };
        if Path::new(path).exists() {
            give(Path::new(path), user)?;
        }
        return Ok(true);
    };
    let path = Path::new(path);
    let unfinished = tpm::unfinished(own);
    if *ours {
        directory(own, 0o711)?;
        if unfinished.exists() {
            crate::ops::host::files::remove_all(path)?;
        }
    }
    directory(path, 0o700)?;
    give(path, user)?;
    mode(path, 0o700)?;
    let failed = |error| Error::system(format_args!("cannot read directory '{}'", path.display()), error);
    let files: Vec<PathBuf> = fs::read_dir(path)
        .map_err(failed)?
        .flatten()
        .map(|e| e.path())
        .collect();
    files.iter().try_for_each(|file| give(file, user))?;
    if files.is_empty() && *ours {
        fs::write(&unfinished, "")
            .map_err(|error| Error::system(format_args!("cannot write '{}'", unfinished.display()), error))?;
    }
    Ok(files.is_empty())
}

/// The state is made, or goes.
fn finish_state(state: &State, own: &Path, failed: bool) -> Result<()> {
    match state {
        State::Directory { .. } if failed => tpm::remove_state(state, own),
        State::Directory { ours: true, .. } => crate::ops::host::files::remove(&tpm::unfinished(own)),
        // A file was there before: it is the administrator's.
        State::Directory { ours: false, .. } | State::File(_) => Ok(()),
    }
}

fn directory(path: &Path, mode: u32) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(|error| {
        Error::system(
            format_args!("Cannot create directory '{}'", path.display()),
            error,
        )
    })
}

fn mode(path: &Path, mode: u32) -> Result<()> {
    let changed = fs::set_permissions(path, fs::Permissions::from_mode(mode));
    changed.map_err(|error| Error::system(format_args!("cannot set the mode of '{}'", path.display()), error))
}

/// Gives a file to that user, as far as the daemon can.
fn give(path: &Path, to: Identity) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let given = chown(path, Some(Uid::from_raw(to.uid)), Some(Gid::from_raw(to.gid)));
    given.map_err(|error| {
        Error::system(
            format_args!("cannot give '{}' to '{to}'", path.display()),
            error.into(),
        )
    })
}

/// Opens the host's TPM for QEMU, which may not.
async fn open_host(prepared: &Prepared, qemu: &mut qemu::Prepared, resources: &mut Resources) -> Result<()> {
    for tpm in &prepared.document.devices.tpms {
        let Some(path) = host_device(tpm).map(str::to_owned) else {
            continue;
        };
        let (device, cancel) =
            crate::blocking::file("opening the host's TPM", move || open_device(Path::new(&path))).await?;
        let given = DeviceResources {
            fd: Some(qemu.pass(device)?),
            log_fd: Some(qemu.pass(cancel)?),
            ..DeviceResources::default()
        };
        resources
            .devices
            .insert(tpm.info.alias.clone().unwrap_or_default(), given);
    }
    Ok(())
}

/// Whether the host's TPMs of a document can be opened, for a line that is only shown.
///
/// # Errors
/// One can't.
pub(crate) async fn look(document: &domxml::Domain) -> Result<()> {
    for path in document.devices.tpms.iter().filter_map(host_device) {
        let path = path.to_owned();
        crate::blocking::file("opening the host's TPM", move || open_device(Path::new(&path))).await?;
    }
    Ok(())
}

/// The device of the host that a TPM is.
fn host_device(tpm: &Tpm) -> Option<&str> {
    let backend = tpm.backend.as_ref();
    let backend = backend.filter(|b| b.kind == TpmBackendKind::Passthrough)?;
    backend.device.as_ref()?.path.as_deref()
}

/// The device, and the file that cancels a command.
fn open_device(path: &Path) -> Result<(OwnedFd, OwnedFd)> {
    let open = |path: &Path, read: bool| fs::OpenOptions::new().read(read).write(true).open(path);
    let device = open(path, true).map_err(|error| {
        Error::system(
            format_args!("Could not open TPM device {}", path.display()),
            error,
        )
    })?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let files = CANCEL_FILES
        .iter()
        .map(|file| PathBuf::from(file.replace("NAME", &name)));
    // Without one QEMU gets a file that takes everything and does nothing.
    let cancel = files
        .into_iter()
        .find(|file| file.exists())
        .unwrap_or_else(|| PathBuf::from("/dev/null"));
    let opened = open(&cancel, false).map_err(|error| {
        Error::system(
            format_args!("Could not open TPM device's cancel path {}", cancel.display()),
            error,
        )
    })?;
    Ok((device.into(), opened.into()))
}
