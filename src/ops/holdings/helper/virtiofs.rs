//! Directories shared through `virtiofsd`: a program for each, which is started before QEMU and ends with it.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use domxml::devices::{Filesystem, FilesystemBinary};
use qemu_plan::{
    command::{DeviceResources, Resources},
    virtiofsd::{self, Features},
};

use crate::{
    error::{Code, Error, Result},
    ops::{
        Driver,
        document::{plan, prepared::Prepared},
        holdings::helper::described,
        host::{files, identity::Identity},
        operation::undo::Undo,
    },
    qemu::{Helper, Process, RunAs},
};

/// How long one has to end by itself once its QEMU has.
const LAST_MOMENT: Duration = Duration::from_millis(500);
/// Mode of a share's socket.
const SOCKET_MODE: u32 = 0o775;

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
    let debug = driver.config().virtiofsd_debug;
    let program = serve((share.clone(), debug), place, identity, undo).await?;
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
    Ok(())
}

/// Starts one; the program that was found.
async fn serve(
    (share, debug): (Filesystem, bool),
    place: Place,
    identity: Identity,
    undo: &mut Undo,
) -> Result<PathBuf> {
    let named = share.binary.as_ref().and_then(|binary| binary.path.clone());
    let directory = PathBuf::from(virtiofsd::directory(&share));
    let (program, mut features) = crate::blocking::file("looking for virtiofsd", move || {
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
    features.debug = debug;
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
        None => described::find("fs", |_| true)?
            .ok_or_else(|| Error::new(Code::OperationFailed, "Unable to find a satisfying virtiofsd"))?,
    };
    let told = described::ask(&program)?;
    let features = Features {
        separate_options: told.features.iter().any(|feature| feature == "separate-options"),
        debug: false,
    };
    Ok((program, features))
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
