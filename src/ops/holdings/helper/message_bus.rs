//! `dbus-daemon`, the bus on which a D-Bus display is reached: one a guest, which is started before its QEMU and ends with the
//! run. A display whose document names an address, or that speaks with one peer, has none.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::PathBuf,
    time::Duration,
};

use domxml::devices::{Graphics, GraphicsKind, common::YesNo};
use nix::unistd::{Gid, Uid, chown};

use crate::{
    error::{Area, Code, Error, Result},
    ops::{
        Driver,
        document::{plan, resources::dirs},
        host::{files, identity::Identity, programs},
        operation::undo::Undo,
    },
    qemu::{Helper, RunAs},
};

/// Where the program is beside `PATH`.
// table
const DIRECTORIES: &[&str] = &["/usr/bin", "/usr/libexec"];
/// How long its socket may take.
const STARTING: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Whether a display is on the guest's own bus.
fn is_on_bus(display: &Graphics) -> bool {
    display.kind == GraphicsKind::Dbus && display.p2p != Some(YesNo::Yes) && display.address.is_none()
}

/// Whether a document that was read needs a bus.
pub(crate) fn is_needed(document: &domxml::Domain) -> bool {
    document.devices.graphics.iter().any(is_on_bus)
}

/// Whether a running guest has a bus of its own there.
pub(crate) fn is_at(document: &domxml::Domain, socket: &str) -> bool {
    let mut displays = document.devices.graphics.iter();
    let address = |display: &Graphics| {
        display
            .address
            .as_ref()?
            .strip_prefix("unix:path=")
            .map(|path| path == socket)
    };
    displays.any(|display| display.kind == GraphicsKind::Dbus && address(display) == Some(true))
}

/// The files of one guest's bus.
#[derive(Clone, Debug)]
struct Place {
    socket: PathBuf,
    configuration: PathBuf,
    pid_file: PathBuf,
    log: PathBuf,
}

impl Place {
    fn of(driver: &Driver, document: &domxml::Domain) -> Self {
        let short = plan::short_name(document.id.unwrap_or_default(), &document.name);
        let socket = PathBuf::from(dirs(driver, &short).dbus_socket);
        let beside = |end: &str| socket.with_file_name(format!("{short}{end}"));
        Self {
            configuration: beside("-dbus.conf"),
            pid_file: beside("-dbus.pid"),
            log: beside(".log"),
            socket,
        }
    }

    /// Where QEMU finds it.
    fn address(&self) -> String {
        format!("unix:path={}", self.socket.display())
    }

    /// Whoever may open the socket may say and hear anything.
    fn configuration(&self) -> String {
        format!(
            "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\"\n  \
             \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n<busconfig>\n  \
             <type>org.libvirt.qemu</type>\n  <listen>{}</listen>\n  <auth>EXTERNAL</auth>\n  \
             <policy context='default'>\n    <allow send_destination='*' eavesdrop='true'/>\n    \
             <allow eavesdrop='true'/>\n    <allow own='*'/>\n    <allow user='root'/>\n  </policy>\n  \
             <include if_selinux_enabled='yes' selinux_root_relative='yes'>contexts/dbus_contexts</include>\n\
             </busconfig>\n",
            self.address()
        )
    }

    /// Makes the directory and the files, which are QEMU's user's, and removes a former socket. May block on files.
    fn make_ready(&self, user: Option<&RunAs>) -> Result<fs::File> {
        let failed = |path: &PathBuf, error| {
            Error::system(format_args!("Failed to write '{}'", path.display()), error).in_area(Area::None)
        };
        let give = |path: &PathBuf| match user {
            Some(user) => chown(path, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))
                .map_err(|error| failed(path, error.into())),
            None => Ok(()),
        };
        if let Some(dir) = self.socket.parent().map(PathBuf::from) {
            match fs::DirBuilder::new().mode(0o770).create(&dir) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(failed(&dir, error));
                }
                _ => give(&dir)?,
            }
        }
        files::remove(&self.socket)?;
        let make = |path: &PathBuf| {
            let mut options = fs::OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let file = options.open(path).map_err(|error| failed(path, error))?;
            give(path)?;
            Ok::<_, Error>(file)
        };
        let written = make(&self.configuration)?.write_all(self.configuration().as_bytes());
        written.map_err(|error| failed(&self.configuration, error))?;
        make(&self.log)
    }

    /// Sees to it that the bus has ended, and removes its files.
    async fn end(self) -> Result<()> {
        super::end_program(
            "dbus-daemon",
            self.pid_file,
            vec![self.socket, self.configuration, self.log],
        )
        .await
    }
}

/// Starts the bus of a guest that is to start, if its document needs one, and says in the document where it is.
///
/// # Errors
/// The program is missing, or does not start.
pub(crate) async fn plug(driver: &Driver, document: &mut domxml::Domain, undo: &mut Undo) -> Result<()> {
    if !is_needed(document) {
        return Ok(());
    }
    let place = Place::of(driver, document);
    undo.push("the guest's message bus", place.clone().end());
    start(driver, document, &place).await?;
    for display in document
        .devices
        .graphics
        .iter_mut()
        .filter(|display| is_on_bus(display))
    {
        display.address = Some(place.address());
    }
    Ok(())
}

async fn start(driver: &Driver, document: &domxml::Domain, place: &Place) -> Result<()> {
    let config = driver.config();
    let named = config.dbus_daemon.clone();
    let user = Identity::of_guest(&config, document)?.run_as();
    let (files, owner) = (place.clone(), user.clone());
    let (program, log) = crate::blocking::file("preparing dbus-daemon", move || {
        let missing = || {
            let error = std::io::Error::from_raw_os_error(nix::libc::ENOENT);
            Error::system(format!("'{named}' is not a suitable dbus-daemon"), error).in_area(Area::None)
        };
        let program = programs::find(&named, DIRECTORIES).ok_or_else(missing)?;
        Ok((program, files.make_ready(owner.as_ref())?))
    })
    .await?;
    let arguments = vec![format!("--config-file={}", place.configuration.display())];
    let helper = Helper::new(&program, user).output(log);
    let process = helper.start(arguments, &place.pid_file).await?;
    let shown = async {
        while !place.socket.exists() && !process.has_exited() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    if tokio::time::timeout(STARTING, shown).await.is_err() {
        let text = format!("dbus-daemon {} didn't show up", program.display());
        return Err(Error::new(Code::OperationTimeout, text).in_area(Area::None));
    }
    if process.has_exited() {
        let log = place.log.clone();
        let words = crate::blocking::file("reading what dbus-daemon said", move || {
            Ok(fs::read(&log).unwrap_or_default())
        });
        let text = format!(
            "dbus-daemon died and reported:\n{}",
            String::from_utf8_lossy(&words.await?)
        );
        return Err(Error::new(Code::OperationFailed, text).in_area(Area::None));
    }
    Ok(())
}

/// After a run: ends its bus. What fails is logged.
pub(crate) async fn unplug(driver: &Driver, document: &domxml::Domain) {
    let place = Place::of(driver, document);
    if !place.pid_file.exists() {
        return;
    }
    if let Err(error) = place.end().await {
        tracing::error!(guest = document.name, %error, "the guest's message bus is left behind");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_display_on_the_guests_own_bus_needs_one() {
        let needs = |attributes: &str| {
            let text = format!(
                "<domain type='qemu'><name>a</name><os><type>hvm</type></os><devices><graphics {attributes}/></devices></domain>"
            );
            is_needed(&domxml::Domain::parse(&text, domxml::ParseFlags::INACTIVE).unwrap())
        };
        assert!(needs("type='dbus'"));
        assert!(needs("type='dbus' p2p='no'"));
        assert!(!needs("type='dbus' p2p='yes'"));
        assert!(!needs("type='dbus' address='unix:path=/run/bus'"));
        assert!(!needs("type='vnc'"));
    }

    #[test]
    fn the_bus_listens_where_qemu_is_sent() {
        let place = Place {
            socket: "/run/qemu/dbus/1-a-dbus.sock".into(),
            configuration: "/run/qemu/dbus/1-a-dbus.conf".into(),
            pid_file: "/run/qemu/dbus/1-a-dbus.pid".into(),
            log: "/run/qemu/dbus/1-a.log".into(),
        };
        assert_eq!(place.address(), "unix:path=/run/qemu/dbus/1-a-dbus.sock");
        let listens = format!("<listen>{}</listen>", place.address());
        assert!(place.configuration().contains(&listens));
    }
}
