//! Files that character devices write to: what a device of type `file` sends, and the log of any.
//!
//! They are opened here and handed to QEMU, which need not be able to open them; through virtlogd where that writes the
//! guests' logs, so that they are rotated with those.

use std::{
    fs,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use domxml::devices::{Chardev, ChardevKind, ConsoleTargetKind, Devices, OnOff};
use qemu_plan::command::Resources;

use crate::{
    config::StdioHandler,
    error::{Area, Error, Result},
    ops::{Driver, document::prepared::Prepared, holdings::log},
    peers::{LogFile, LogStart},
    qemu,
};

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
        let failed = |path: &Path, error| {
            Error::system(format_args!("failed to open '{}'", path.display()), error).in_area(Area::None)
        };
        options
            .open(&path)
            .map(OwnedFd::from)
            .map_err(|error| failed(&path, error))
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
