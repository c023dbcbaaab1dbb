//! What character devices have of the host: sockets that they listen at, and files that they write to, which are what a
//! device of type `file` sends and the log of any.
//!
//! Both are opened here and handed to QEMU, which need not be able to open them; files through virtlogd where that writes
//! the guests' logs, so that they are rotated with those.

use std::{
    fs,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use domxml::Domain;
use domxml::devices::{
    Chardev, ChardevKind, ChardevMode, Console, ConsoleTargetKind, Device, DeviceRef, DeviceSeclabel,
    Devices, OnOff,
};
use qemu_plan::command::Resources;

use crate::{
    config::StdioHandler,
    error::{Area, Error, Result},
    ops::{
        Driver,
        document::prepared::Prepared,
        holdings::{handover::Handover, log, storage::owners::Rules},
        host::{files, identity::Identity},
        operation::undo::Undo,
    },
    peers::{LogFile, LogStart},
    qemu,
};

/// Mode of a socket: who may enter its directory may use it.
const SOCKET_MODE: u32 = 0o775;
/// Longest path of a socket, without the byte that ends it.
const SOCKET_PATH_MAX: usize = 107;

/// Files that a running QEMU gets with commands, which name them by their numbers here.
#[derive(Debug, Default)]
pub(crate) struct Files(Vec<OwnedFd>);

impl Files {
    /// Keeps a file; the number that commands name it by.
    pub(crate) fn keep(&mut self, file: OwnedFd) -> i32 {
        let number = file.as_raw_fd();
        self.0.push(file);
        number
    }

    /// The file of that number; once.
    pub(crate) fn take(&mut self, number: i32) -> Option<OwnedFd> {
        let at = self.0.iter().position(|file| file.as_raw_fd() == number)?;
        Some(self.0.swap_remove(at))
    }
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Source,
    Log,
}

/// A file to be opened for a device.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    alias: String,
    purpose: Purpose,
    path: PathBuf,
    start: LogStart,
}

/// Opens all files that the guest's character devices write to.
///
/// # Errors
/// The file's, or virtlogd's where that is wanted.
pub(crate) async fn open(
    driver: &Arc<Driver>,
    prepared: &Prepared,
    qemu: &mut qemu::Prepared,
    resources: &mut Resources,
) -> Result<()> {
    for wanted in wanted(&prepared.document.devices) {
        let fd = qemu.pass(open_one(driver, &prepared.document, &wanted).await?)?;
        let given = resources.devices.entry(wanted.alias).or_default();
        match wanted.purpose {
            Purpose::Source => given.fd = Some(fd),
            Purpose::Log => given.log_fd = Some(fd),
        }
    }
    Ok(())
}

/// Opens what one character device of a running guest has; other devices have nothing of it.
///
/// # Errors
/// A file or a socket can't be opened, or there is none to connect to.
pub(crate) async fn acquire(
    driver: &Driver,
    document: &domxml::Domain,
    device: &Device,
    (handover, given, undo): (&mut impl Handover, &mut Resources, &mut Undo),
    files: &mut Files,
) -> Result<()> {
    let Some((alias, chardev)) = chardev_of(device.as_ref()) else {
        return Ok(());
    };
    let place = given.devices.entry(alias.to_owned()).or_default();
    if let Some(path) = bound_by_us(device) {
        let owner = SocketOwners::new(driver, document)?.of(chardev)?;
        let socket = path.clone();
        let listener = crate::blocking::file("making a socket", move || listen(&socket, owner)).await?;
        undo.push("the socket of a character device", remove_socket(path));
        let name = format!("{alias}-source");
        place.listener = Some(handover.pass(name, listener, undo).await?);
    } else if let Some(path) = dialled(chardev) {
        stat(path).await?;
    }
    for wanted in of_device(alias, chardev) {
        let fd = files.keep(open_one(driver, document, &wanted).await?);
        match wanted.purpose {
            Purpose::Source => place.fd = Some(fd),
            Purpose::Log => place.log_fd = Some(fd),
        }
    }
    Ok(())
}

/// Whether a socket is there: the kernel tells best.
async fn stat(path: PathBuf) -> Result<()> {
    crate::blocking::file("looking for a socket", move || {
        let message = format!("unable to stat: {}", path.display());
        let failed = |error| Error::system(message, error).in_area(Area::Security);
        fs::metadata(&path).map(drop).map_err(failed)
    })
    .await
}

/// The files of a character device that change hands with it, and its labels. Files that virtlogd writes stay its own,
/// and a socket that a guest listens at is made as QEMU's user's.
pub(crate) fn files_of<'a>(driver: &Driver, device: DeviceRef<'a>) -> (Vec<PathBuf>, &'a [DeviceSeclabel]) {
    let twin = |console: &Console| {
        let target = console.target.as_ref();
        target.is_some_and(|target| target.kind == Some(ConsoleTargetKind::Serial))
    };
    let chardev = match device {
        DeviceRef::Redirdev(_) => None,
        DeviceRef::Console(console) if twin(console) => None,
        device => chardev_of(device).map(|(_, chardev)| chardev),
    };
    let Some((chardev, source)) = chardev.and_then(|chardev| Some((chardev, chardev.source()?))) else {
        return Default::default();
    };
    let path = source.path.as_deref();
    let paths = match chardev.kind {
        ChardevKind::File if log::handler(driver) != StdioHandler::File => Vec::new(),
        ChardevKind::File | ChardevKind::Dev => path.into_iter().map(PathBuf::from).collect(),
        ChardevKind::Pipe => path.map(pipes).unwrap_or_default(),
        ChardevKind::Unix => dialled(chardev).into_iter().collect(),
        _ => Vec::new(),
    };
    (paths, &source.seclabels)
}

/// A pipe is two files, one for each way, or one for both.
fn pipes(path: &str) -> Vec<PathBuf> {
    let ways = ["in", "out"].map(|way| PathBuf::from(format!("{path}.{way}")));
    if ways.iter().all(|way| way.exists()) {
        ways.into()
    } else {
        vec![path.into()]
    }
}

/// Whose sockets become that the daemon makes for a guest's devices.
pub(crate) struct SocketOwners {
    /// Of one in the guest's own directory: QEMU's user's, whatever is to be labelled.
    own: Option<Identity>,
    rules: Rules,
}

impl SocketOwners {
    /// By a guest's document.
    ///
    /// # Errors
    /// As [`Identity::of_guest`].
    pub(crate) fn new(driver: &Driver, document: &Domain) -> Result<Self> {
        let config = driver.config();
        let own = Identity::of_guest(&config, document)?;
        Ok(Self {
            own: Some(own).filter(|_| config.identity.dynamic_ownership),
            rules: Rules::of(driver, document),
        })
    }

    /// Whose the socket of a device becomes.
    ///
    /// # Errors
    /// `InvalidArg` for a label that names nobody.
    pub(crate) fn of(&self, chardev: &Chardev) -> Result<Option<Identity>> {
        match chardev.source() {
            Some(source) if source.path.is_some() => self.rules.for_labels(&source.seclabels),
            _ => Ok(self.own),
        }
    }
}

/// Removes what is left of a character device that has gone. What fails is logged.
pub(crate) async fn release(device: &Device) {
    let Some(path) = bound_by_us(device) else { return };
    if let Err(error) = remove_socket(path).await {
        tracing::warn!(%error, "the socket of a device that has left is there still");
    }
}

async fn remove_socket(path: PathBuf) -> Result<()> {
    crate::blocking::file("removing a socket", move || files::remove(&path)).await
}

/// A character device with its alias.
fn chardev_of(device: DeviceRef<'_>) -> Option<(&str, &Chardev)> {
    let chardev = match device {
        DeviceRef::Serial(port) => &port.chardev,
        DeviceRef::Parallel(port) => &port.chardev,
        DeviceRef::Channel(channel) => &channel.chardev,
        DeviceRef::Console(console) => &console.chardev,
        DeviceRef::Redirdev(redirected) => &redirected.chardev,
        _ => return None,
    };
    Some((device.info()?.alias.as_deref().unwrap_or_default(), chardev))
}

/// The socket of a device at which it listens, if the daemon makes it. QEMU makes that of a redirected USB device.
fn bound_by_us(device: &Device) -> Option<PathBuf> {
    if matches!(device, Device::Redirdev(_)) {
        return None;
    }
    let (_, chardev) = chardev_of(device.as_ref())?;
    let source = chardev.source().filter(|_| chardev.kind == ChardevKind::Unix)?;
    let listens = source.mode.unwrap_or(ChardevMode::Bind) == ChardevMode::Bind;
    source.path.as_deref().filter(|_| listens).map(PathBuf::from)
}

/// The socket that a device connects to.
fn dialled(chardev: &Chardev) -> Option<PathBuf> {
    let source = chardev.source().filter(|_| chardev.kind == ChardevKind::Unix)?;
    let dials = source.mode == Some(ChardevMode::Connect);
    source.path.as_deref().filter(|_| dials).map(PathBuf::from)
}

/// Where a device listens, if it does; a channel without a path gets one.
pub(crate) fn socket_path(chardev: &mut Chardev, channel_dir: &str, name: Option<&str>) -> Option<String> {
    if chardev.kind != ChardevKind::Unix {
        return None;
    }
    let source = chardev.source_mut();
    if source.mode.unwrap_or(ChardevMode::Bind) != ChardevMode::Bind {
        return None;
    }
    if source.path.is_none() {
        source.mode = Some(ChardevMode::Bind);
        source.path = Some(format!("{channel_dir}/{}", name?));
    }
    source.path.clone()
}

/// Listens at a socket for QEMU. May block on files.
///
/// # Errors
/// It can't be made, or not be given to QEMU's user.
pub(crate) fn listen(path: &Path, owner: Option<Identity>) -> Result<OwnedFd> {
    let owner = owner.and_then(Identity::run_as).map(|user| unixfd::Owner {
        uid: user.uid,
        gid: user.gid,
    });
    if path.as_os_str().len() > SOCKET_PATH_MAX {
        let text = format!("UNIX socket path '{}' too long", path.display());
        return Err(Error::internal(text));
    }
    if path.as_os_str().is_empty() {
        let error = std::io::Error::from_raw_os_error(nix::libc::ENOENT);
        return Err(Error::system("cannot stat ''", error).in_area(Area::None));
    }
    if path.is_dir() {
        let error = std::io::Error::from_raw_os_error(nix::libc::EISDIR);
        return Err(Error::system(
            format_args!("Unable to unlink {}", path.display()),
            error,
        ));
    }
    let listener = unixfd::bind_listener(path, SOCKET_MODE, owner);
    let refused = |error| {
        let what = format_args!("Unable to bind to UNIX socket path '{}'", path.display());
        Error::system(what, error)
    };
    listener.map(OwnedFd::from).map_err(refused)
}

async fn open_one(driver: &Driver, document: &domxml::Domain, wanted: &Wanted) -> Result<OwnedFd> {
    let handler = log::handler(driver);
    if handler == StdioHandler::File {
        return open_file(wanted).await;
    }
    let file = LogFile {
        uuid: document.uuid.unwrap_or_default(),
        name: &document.name,
        path: &wanted.path,
    };
    match driver.peers.open_log_file(file, wanted.start).await {
        Err(error) if handler == StdioHandler::LogdIfThere => {
            tracing::warn!(guest = document.name, path = %wanted.path.display(), %error, "virtlogd does not take this file");
            open_file(wanted).await
        }
        opened => opened,
    }
}

async fn open_file(wanted: &Wanted) -> Result<OwnedFd> {
    let (path, start) = (wanted.path.clone(), wanted.start);
    crate::blocking::file("opening a file for a character device", move || {
        let mut options = fs::OpenOptions::new();
        options.create(true).mode(0o600);
        match start {
            LogStart::Empty => options.write(true).truncate(true),
            LogStart::Kept => options.append(true),
        };
        let failed = |error| {
            let what = format!("Failed to create file '{}'", path.display());
            Error::system(what, error).in_area(Area::Qemu)
        };
        options.open(&path).map(OwnedFd::from).map_err(failed)
    })
    .await
}

fn wanted(devices: &Devices) -> Vec<Wanted> {
    let is_serial = |kind: Option<ConsoleTargetKind>| kind == Some(ConsoleTargetKind::Serial);
    let consoles = devices
        .consoles
        .iter()
        .filter(|c| c.target.as_ref().is_none_or(|t| !is_serial(t.kind)));
    let serials = devices.serials.iter().map(|d| (&d.info, &d.chardev));
    let parallels = devices.parallels.iter().map(|d| (&d.info, &d.chardev));
    let channels = devices.channels.iter().map(|d| (&d.info, &d.chardev));
    let consoles = consoles.map(|d| (&d.info, &d.chardev));
    let redirected = devices.redirdevs.iter().map(|d| (&d.info, &d.chardev));
    let all = serials
        .chain(parallels)
        .chain(channels)
        .chain(consoles)
        .chain(redirected);
    all.flat_map(|(info, chardev)| of_device(info.alias.as_deref().unwrap_or_default(), chardev))
        .collect()
}

fn of_device(alias: &str, chardev: &Chardev) -> Vec<Wanted> {
    let file = |purpose, path: &str, append: Option<OnOff>| {
        let start = if append == Some(OnOff::On) {
            LogStart::Kept
        } else {
            LogStart::Empty
        };
        Wanted {
            alias: alias.to_owned(),
            purpose,
            path: path.into(),
            start,
        }
    };
    let source = chardev
        .sources
        .first()
        .filter(|_| chardev.kind == ChardevKind::File);
    let source = source.and_then(|s| Some(file(Purpose::Source, s.path.as_deref()?, s.append)));
    let log = chardev
        .log
        .as_ref()
        .and_then(|log| Some(file(Purpose::Log, log.file.as_deref()?, log.append)));
    source.into_iter().chain(log).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_without_a_name_is_refused() {
        let refused = listen(Path::new(""), None).unwrap_err();
        assert_eq!(refused.message, "cannot stat '': No such file or directory");
        assert_eq!(refused.area, Area::None);
    }

    #[test]
    fn a_file_begins_empty_unless_it_is_appended_to() {
        let xml = "<domain type='qemu'><name>a</name><devices>\
            <serial type='pty'><log file='/l/0' append='off'/><alias name='serial0'/></serial>\
            <serial type='file'><source path='/s/1' append='on'/><log file='/l/1' append='on'/><alias name='serial1'/></serial>\
            <channel type='unix'><log file='/l/2'/><target type='virtio' name='x'/><alias name='channel0'/></channel>\
            <console type='file'><source path='/s/3'/><target type='serial'/><alias name='serial1'/></console>\
            <console type='file'><source path='/s/4'/><target type='virtio'/><alias name='console1'/></console></devices></domain>";
        let domain = domxml::Domain::parse(xml, domxml::ParseFlags::NONE).unwrap();
        let found: Vec<_> = wanted(&domain.devices)
            .into_iter()
            .map(|w| (w.alias, w.purpose, w.path, w.start))
            .collect();
        let file =
            |alias: &str, purpose, path: &str, start| (alias.to_owned(), purpose, PathBuf::from(path), start);
        let expected = [
            file("serial0", Purpose::Log, "/l/0", LogStart::Empty),
            file("serial1", Purpose::Source, "/s/1", LogStart::Kept),
            file("serial1", Purpose::Log, "/l/1", LogStart::Kept),
            file("channel0", Purpose::Log, "/l/2", LogStart::Empty),
            file("console1", Purpose::Source, "/s/4", LogStart::Empty),
        ];
        assert_eq!(found, expected);
    }
}
