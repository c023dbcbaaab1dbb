//! The guest's log: who writes it, and what stands at the head of a run.

use std::{
    fs,
    io::{self, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use qemu_plan::command::{CommandLine, shell_quote};

use crate::{
    config::StdioHandler,
    error::{Area, Error, Result},
    ops::{
        Driver,
        document::prepared::Prepared,
        holdings::log::fs::OpenOptions,
        host::clock::{self, timestamp},
    },
    peers::LogFile,
    version,
};

/// Opens the guest's log and writes the head of a run into it.
///
/// # Errors
/// The file or virtlogd, where that is wanted, can't be used.
pub(crate) async fn open(
    driver: &Driver,
    path: &Path,
    prepared: &Prepared,
    line: &CommandLine,
) -> Result<OwnedFd> {
    let text = log_head(prepared, line);
    let handler = handler(driver);
    if handler == StdioHandler::File {
        return open_log_file(path, text).await;
    }
    let document = &prepared.document;
    let file = LogFile {
        uuid: document.uuid.unwrap_or_default(),
        name: &document.name,
        path,
    };
    match driver.peers.open_log(file, &text).await {
        Err(error) if handler == StdioHandler::LogdIfThere => {
            tracing::warn!(guest = %document.name, %error, "virtlogd does not take the guest's log: it is written directly");
            open_log_file(path, text).await
        }
        opened => opened,
    }
}

/// Who writes logs: virtlogd, if it is there or wanted in any case, or whoever has something to say.
pub(crate) fn handler(driver: &Driver) -> StdioHandler {
    match driver.config().stdio_handler {
        StdioHandler::LogdIfThere if !driver.peers.has_logd() => StdioHandler::File,
        configured => configured,
    }
}

async fn open_log_file(path: &Path, text: String) -> Result<OwnedFd> {
    let path = path.to_owned();
    crate::blocking::file("opening the guest's log", move || {
        let open = || {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            let mut file = fs::OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(text.as_bytes())?;
            Ok(file.into())
        };
        open().map_err(|e: io::Error| {
            Error::system(format_args!("failed to open '{}'", path.display()), e).in_area(Area::None)
        })
    })
    .await
}

/// What libvirt's logs say of a start: versions, environment, command line.
fn log_head(prepared: &Prepared, line: &CommandLine) -> String {
    let caps = &prepared.caps;
    let number = caps.version();
    let kernel = nix::sys::utsname::uname().ok();
    let field = |f: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
        kernel
            .as_ref()
            .map(|k| f(k).to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let mut text = format!(
        "{}: starting up libvirt version: {}, package: virtqemud {}, qemu version: {}.{}.{}{}, kernel: {}, hostname: {}\n",
        clock::timestamp(),
        version::API_VERSION,
        version::OWN_VERSION,
        number / 1_000_000,
        number / 1_000 % 1_000,
        number % 1_000,
        caps.package(),
        field(|k| k.release()),
        field(|k| k.nodename()),
    );
    let words = line
        .env
        .iter()
        .map(|(name, value)| format!("{name}={}", shell_quote(value)));
    let lines: Vec<String> = words.chain(by_switch(&line.argv())).collect();
    text.push_str(&lines.join(" \\\n"));
    text.push('\n');
    text
}

/// One line a switch: its name and its value.
fn by_switch(argv: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (index, word) in argv.iter().enumerate() {
        match lines.last_mut() {
            Some(last) if index > 1 && !word.starts_with('-') => {
                last.push(' ');
                last.push_str(&shell_quote(word));
            }
            _ => lines.push(shell_quote(word)),
        }
    }
    lines
}

/// Appends a line with the time to a guest's log. A log that can't be written is no reason to fail.
pub(crate) fn log_line(path: &Path, text: &str) {
    let line = format!("{}: {text}\n", timestamp());
    let written = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "the guest's log can't be written");
    }
}
