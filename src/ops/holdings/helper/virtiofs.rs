//! Directories shared through `virtiofsd`: a program for each, which is started before QEMU and ends with it.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use domxml::devices::{Filesystem, FilesystemBinary, Video, VideoBackend};
use qemu_plan::{
    command::{DeviceResources, Resources},
    virtiofsd::{self, Features},
};
use serde::Deserialize;

use crate::{
    error::{Area, Code, Error, Result, os_text},
    ops::{
        Driver,
        document::{plan, prepared::Prepared},
        host::{files, identity::Identity},
        operation::undo::Undo,
    },
    qemu::{Helper, Process, RunAs},
};

/// Where programs that serve devices describe themselves; the first description of a name counts.
// table
const DESCRIPTIONS: &[&str] = &["/etc/qemu/vhost-user", "/usr/share/qemu/vhost-user"];
/// How long one has to end by itself once its QEMU has.
const LAST_MOMENT: Duration = Duration::from_millis(500);
/// Exit status of a child that could not become the program.
const EXEC_FAILED: i32 = 127;
/// Mode of a share's socket.
const SOCKET_MODE: u32 = 0o775;

/// What a program says of itself, or a description of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Description {
    #[serde(rename = "type")]
    kind: String,
    binary: PathBuf,
    features: Vec<String>,
}

/// The files of one share of a run.
#[derive(Clone, Debug)]
struct Place {
    socket: PathBuf,
    pid_file: PathBuf,
    log: PathBuf,
}

impl Place {
    fn of(driver: &Driver, document: &domxml::Domain, alias: &str) -> Self {
        let paths = driver.registry.store().paths();
        let short = plan::short_name(document.id.unwrap_or_default(), &document.name);
        Self {
            socket: paths
                .domains
                .join(format!("domain-{short}"))
                .join(format!("{alias}-fs.sock")),
            pid_file: paths.state.join(format!("{short}-{alias}-fs.pid")),
            log: paths.log.join(format!("{}-{alias}-virtiofsd.log", document.name)),
        }
    }

    /// Sees to it that the program has ended, and removes its files.
    async fn end(self) -> Result<()> {
        if let Some(process) = Process::find_locker(&self.pid_file)
            && tokio::time::timeout(LAST_MOMENT, process.exited()).await.is_err()
        {
            process.kill_group();
            process.exited().await?;
        }
        crate::blocking::file("removing the files of a shared directory", move || {
            files::remove(&self.socket)?;
            files::remove(&self.pid_file)
        })
        .await
    }
}

/// Starts the programs that share the guest's directories; the document shows which.
///
/// # Errors
/// A directory or a program is missing, or the program can't do what the document asks for.
pub(crate) async fn plug(
    driver: &Arc<Driver>,
    prepared: &mut Prepared,
    resources: &mut Resources,
    undo: &mut Undo,
) -> Result<()> {
    let document = prepared.document.clone();
    for share in &mut prepared.document.devices.filesystems {
        plug_one(driver, &document, share, (&mut *resources, &mut *undo)).await?;
    }
    Ok(())
}

/// Starts the program that shares one directory of a run, if one does; the document shows which.
///
/// # Errors
/// As [`plug`].
pub(crate) async fn plug_one(
    driver: &Driver,
    document: &domxml::Domain,
    share: &mut Filesystem,
    (resources, undo): (&mut Resources, &mut Undo),
) -> Result<()> {
    if !virtiofsd::is_run(share) {
        return Ok(());
    }
    let identity = Identity::of_guest(&driver.config(), document)?;
    let alias = share.info.alias.clone().unwrap_or_default();
    let place = Place::of(driver, document, &alias);
    let socket = place.socket.to_string_lossy().into_owned();
    let program = serve(share.clone(), place, identity, undo).await?;
    let binary = share.binary.get_or_insert_with(FilesystemBinary::default);
    binary.path = Some(program.to_string_lossy().into_owned());
    let given = DeviceResources {
        socket: Some(socket),
        ..DeviceResources::default()
    };
    resources.devices.insert(alias, given);
    Ok(())
}

/// Whether the programs are there that a document needs, for a line that is only shown.
///
/// # Errors
/// One is not.
pub(crate) async fn look(document: &domxml::Domain) -> Result<()> {
    for share in document
        .devices
        .filesystems
        .iter()
        .filter(|share| virtiofsd::is_run(share))
    {
        let named = share.binary.as_ref().and_then(|binary| binary.path.clone());
        crate::blocking::file("looking for virtiofsd", move || find(named).map(drop)).await?;
    }
    match other_screens(document).await? {
        Some(None) => Err(no_gpu()),
        _ => Ok(()),
    }
}

/// A screen that another program draws needs one; we run none yet.
///
/// # Errors
/// There is such a screen.
pub(crate) async fn refuse_other_screens(document: &domxml::Domain) -> Result<()> {
    match other_screens(document).await? {
        None => Ok(()),
        Some(None) => Err(no_gpu()),
        Some(Some(_)) => Err(Error::new(
            Code::ConfigUnsupported,
            "vhost-user-gpu is not supported yet",
        )),
    }
}

/// The program that draws the screens which QEMU does not, if there are any, and the program.
async fn other_screens(document: &domxml::Domain) -> Result<Option<Option<PathBuf>>> {
    let drawn = |video: &Video| {
        let driver = video.driver.as_ref();
        driver.is_some_and(|driver| driver.name == Some(VideoBackend::Vhostuser))
    };
    if !document.devices.videos.iter().any(drawn) {
        return Ok(None);
    }
    crate::blocking::file("looking for vhost-user-gpu", || Ok(Some(described("gpu")))).await
}

fn no_gpu() -> Error {
    Error::new(
        Code::OperationFailed,
        "Unable to find a satisfying vhost-user-gpu",
    )
}

/// Starts one; the program that was found.
async fn serve(share: Filesystem, place: Place, identity: Identity, undo: &mut Undo) -> Result<PathBuf> {
    let named = share.binary.as_ref().and_then(|binary| binary.path.clone());
    let directory = PathBuf::from(virtiofsd::directory(&share));
    let (program, features) = crate::blocking::file("looking for virtiofsd", move || {
        let found = find(named)?;
        if !directory.exists() {
            return Err(Error::internal(format!(
                "the virtiofs export directory '{}' does not exist",
                directory.display()
            )));
        }
        Ok(found)
    })
    .await?;
    undo.push("the program of a shared directory", place.clone().end());
    let files = place.clone();
    let (socket, log) =
        crate::blocking::file("preparing a shared directory", move || files.open(identity)).await?;
    // It gives the guest's files their owners, and confines itself.
    let mut helper = Helper::new(&program, None::<RunAs>).output(log);
    let socket = helper.pass(socket.into());
    let process = helper
        .start(virtiofsd::arguments(&share, features, socket)?, &place.pid_file)
        .await?;
    if process.has_exited() {
        return Err(Error::system(
            "virtiofsd died unexpectedly",
            io::Error::from_raw_os_error(nix::libc::ESRCH),
        ));
    }
    Ok(program)
}

impl Place {
    fn open(&self, identity: Identity) -> Result<(std::os::unix::net::UnixListener, fs::File)> {
        let owner = identity.run_as().map(|user| unixfd::Owner {
            uid: user.uid,
            gid: user.gid,
        });
        let listener = unixfd::bind_listener(&self.socket, SOCKET_MODE, owner);
        let listener = listener.map_err(|error| {
            Error::system(
                format_args!("cannot listen at '{}'", self.socket.display()),
                error,
            )
        })?;
        let log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.log)
            .and_then(|mut file| file.flush().map(|()| file));
        let log = log.map_err(|error| {
            Error::system(
                format_args!("failed to create logfile {}", self.log.display()),
                error,
            )
        })?;
        Ok((listener, log))
    }
}

/// The program that the document names, or the first that the host describes; and what it can do. May block on files.
fn find(named: Option<String>) -> Result<(PathBuf, Features)> {
    let program = match named {
        Some(path) => PathBuf::from(path),
        None => described("fs")
            .ok_or_else(|| Error::new(Code::OperationFailed, "Unable to find a satisfying virtiofsd"))?,
    };
    let failed = |why: String| {
        Error::internal(format!(
            "Child process ({} --print-capabilities) {why}",
            program.display()
        ))
        .in_area(Area::None)
    };
    let output = Command::new(&program)
        .arg("--print-capabilities")
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|error| {
        let why = os_text(&error);
        let (status, path) = (EXEC_FAILED, program.display());
        failed(format!(
            "unexpected exit status {status}: libvirt:  error : cannot execute binary {path}: {why}\n"
        ))
    })?;
    if let Some(status) = output.status.code().filter(|status| *status != 0) {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(format!(
            "unexpected exit status {status}: {}",
            said.trim().chars().take(200).collect::<String>()
        )));
    }
    let unreadable = |_| {
        Error::internal(format!(
            "unable to parse json capabilities '{}'",
            program.display()
        ))
    };
    let told: Description = serde_json::from_slice(&output.stdout).map_err(unreadable)?;
    let features = Features {
        separate_options: told.features.iter().any(|feature| feature == "separate-options"),
    };
    Ok((program, features))
}

/// The first program that is described as one of a kind: `fs` shares directories, `gpu` draws screens.
fn described(kind: &str) -> Option<PathBuf> {
    let mut files: Vec<PathBuf> = Vec::new();
    for directory in DESCRIPTIONS {
        let entries = fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        let known: Vec<_> = files
            .iter()
            .filter_map(|file| file.file_name().map(ToOwned::to_owned))
            .collect();
        files.extend(entries.filter(|path| !known.iter().any(|name| path.file_name() == Some(name))));
    }
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    let read = |path: &PathBuf| -> Option<Description> { serde_json::from_slice(&fs::read(path).ok()?).ok() };
    files
        .iter()
        .filter_map(read)
        .find(|d| d.kind == kind && d.binary.is_file())
        .map(|d| d.binary)
}

/// After a run: ends what served its directories. What fails is logged.
pub(crate) async fn unplug(driver: &Driver, document: &domxml::Domain) {
    for share in &document.devices.filesystems {
        unplug_one(driver, document, share).await;
    }
}

/// Ends what served one directory of a run, if something did. What fails is logged.
pub(crate) async fn unplug_one(driver: &Driver, document: &domxml::Domain, share: &Filesystem) {
    if !virtiofsd::is_run(share) {
        return;
    }
    let place = Place::of(driver, document, share.info.alias.as_deref().unwrap_or_default());
    if let Err(error) = place.end().await {
        tracing::error!(guest = document.name, %error, "the program of a shared directory is left behind");
    }
}
