//! `qemu-pr-helper`, which makes persistent reservations of SCSI disks for a guest that may not: one a guest, started before
//! its QEMU or with the first disk that needs it, and ended with the run.
//!
//! QEMU says when the connection is gone; a helper that ended is started anew then.

use std::{path::PathBuf, sync::Arc, time::Duration};

use domxml::devices::{Disk, common::YesNo};
use nix::unistd::{Gid, Uid, chown};
use qemu_plan::command::Props;

use crate::{
    error::{Code, Error, Result},
    ops::{
        Driver,
        document::{plan, resources::dirs},
        host::{files, identity::Identity, programs},
        operation::undo::Undo,
    },
    qemu::{Helper, Process, RunAs},
};

/// QEMU's object that speaks to the helper.
pub(crate) const MANAGER: &str = "pr-helper0";
/// Where the helper is beside `PATH`.
// table
const DIRECTORIES: &[&str] = &["/usr/bin", "/usr/libexec", "/usr/lib/qemu"];
/// How long its socket may take.
const STARTING: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Whether the helper makes a disk's reservations.
pub(crate) fn is_managed(disk: &Disk) -> bool {
    let source = disk.source.as_ref();
    let reservations = source.and_then(|source| source.reservations.as_ref());
    reservations.is_some_and(|reservations| reservations.managed == Some(YesNo::Yes))
}

/// Whether a document has such a disk.
pub(crate) fn is_needed(document: &domxml::Domain) -> bool {
    document.devices.disks.iter().any(is_managed)
}

/// The files of one guest's helper.
#[derive(Clone, Debug)]
struct Place {
    socket: PathBuf,
    pid_file: PathBuf,
}

impl Place {
    fn of(driver: &Driver, document: &domxml::Domain) -> Self {
        let short = plan::short_name(document.id.unwrap_or_default(), &document.name);
        let lib = PathBuf::from(dirs(driver, &short).lib);
        Self {
            socket: lib.join(format!("{MANAGER}.sock")),
            pid_file: driver
                .registry
                .store()
                .paths()
                .state
                .join(format!("{short}-{MANAGER}.pid")),
        }
    }

    fn is_served(&self) -> bool {
        Process::find_locker(&self.pid_file).is_some_and(|process| !process.has_exited())
    }

    /// Sees to it that the helper has ended, and removes its files.
    async fn end(self) -> Result<()> {
        super::end_program("qemu-pr-helper", self.pid_file, vec![self.socket]).await
    }
}

/// Starts the helper of a guest that is to start, if its document needs one.
///
/// # Errors
/// The program is missing, or does not start.
pub(crate) async fn plug(driver: &Arc<Driver>, document: &domxml::Domain, undo: &mut Undo) -> Result<()> {
    match is_needed(document) {
        true => plug_one(driver, document, undo).await,
        false => Ok(()),
    }
}

/// Starts the helper of a guest that gets its first disk of this kind, unless it runs.
///
/// # Errors
/// As [`plug`].
pub(crate) async fn plug_one(driver: &Arc<Driver>, document: &domxml::Domain, undo: &mut Undo) -> Result<()> {
    let place = Place::of(driver, document);
    if place.is_served() {
        return Ok(());
    }
    undo.push("the helper of reservations", place.clone().end());
    start(driver, document, &place).await
}

/// What QEMU has to be told of the helper.
pub(crate) fn object(driver: &Driver, document: &domxml::Domain) -> Props {
    let socket = Place::of(driver, document).socket;
    Props::object("pr-manager-helper", MANAGER).with("path", socket.to_string_lossy().into_owned())
}

async fn start(driver: &Arc<Driver>, document: &domxml::Domain, place: &Place) -> Result<()> {
    let config = driver.config();
    let named = config.pr_helper.clone();
    let socket = place.socket.clone();
    let program = crate::blocking::file("preparing qemu-pr-helper", move || {
        files::remove(&socket)?;
        let missing = || {
            let error = std::io::Error::from_raw_os_error(nix::libc::ENOENT);
            Error::system(format!("'{named}' is not a suitable pr helper"), error)
        };
        programs::find(&named, DIRECTORIES).ok_or_else(missing)
    })
    .await?;
    let arguments = vec!["-k".to_owned(), place.socket.to_string_lossy().into_owned()];
    // It opens nothing: QEMU hands it the disk. What it does there, only the daemon's user may.
    let helper = Helper::new(&program, None::<RunAs>);
    let process = helper.start(arguments, &place.pid_file).await?;
    let socket = place.socket.clone();
    let shown = async {
        while !socket.exists() && !process.has_exited() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    if tokio::time::timeout(STARTING, shown).await.is_err() {
        return Err(Error::new(
            Code::OperationTimeout,
            "pr helper socked did not show up",
        ));
    }
    if process.has_exited() {
        let text = "pr helper died and reported: nothing";
        return Err(Error::new(Code::OperationFailed, text));
    }
    let Some(user) = Identity::of_guest(&config, document)?.run_as() else {
        return Ok(());
    };
    let socket = place.socket.clone();
    crate::blocking::file("giving QEMU the socket of qemu-pr-helper", move || {
        let owner = (Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)));
        let given = chown(&socket, owner.0, owner.1);
        given.map_err(|error| {
            Error::system(
                format_args!("cannot give away '{}'", socket.display()),
                error.into(),
            )
        })
    })
    .await
}

/// Starts the helper of a running guest again, if it is needed and is no more.
///
/// # Errors
/// As [`plug`].
pub(crate) async fn again(driver: &Arc<Driver>, document: &domxml::Domain) -> Result<()> {
    let place = Place::of(driver, document);
    if !is_needed(document) || place.is_served() {
        return Ok(());
    }
    start(driver, document, &place).await
}

/// After a run: ends its helper. What fails is logged.
pub(crate) async fn unplug(driver: &Driver, document: &domxml::Domain) {
    let place = Place::of(driver, document);
    if !place.pid_file.exists() {
        return;
    }
    if let Err(error) = place.end().await {
        tracing::error!(guest = document.name, %error, "the helper of reservations is left behind");
    }
}
