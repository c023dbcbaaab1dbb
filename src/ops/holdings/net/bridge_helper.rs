//! A port of a bridge for a daemon that may make none itself: QEMU's helper program, which the administrator trusts with
//! the bridges that his list allows, makes it and hands it over.
//!
//! Called by `network` for the guests of one user.

use std::{io, os::fd::OwnedFd, path::PathBuf, process::Stdio, time::Duration};

use tokio::net::UnixStream;
use unixfd::QuietStream;

use crate::{
    error::{Error, Result},
    ops::{holdings::net::macvtap::failed, host::programs},
};

/// How long the program may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// Where it is, besides the directories of `PATH`.
const DIRS: &[&str] = &["/usr/libexec", "/usr/lib/qemu", "/usr/lib/qemu-kvm"];
/// Bytes of its messages that are shown.
const SAID_MAX: usize = 1_000;

/// What the helper is asked for.
pub(crate) struct Request<'a> {
    /// The program, as qemu.conf names it.
    pub(crate) helper: &'a str,
    pub(crate) bridge: &'a str,
    /// With headers for offloads.
    pub(crate) header: bool,
}

impl Request<'_> {
    /// Has a port made; its device and the device's name.
    ///
    /// # Errors
    /// The program is missing, takes too long, or hands over nothing: its own words.
    pub(crate) async fn carry_out(&self) -> Result<(OwnedFd, String)> {
        let program = find(self.helper)?;
        let (ours, theirs) = UnixStream::pair()
            .and_then(|(ours, theirs)| Ok((QuietStream::new(ours)?, theirs.into_std()?)))
            .map_err(|error| failed("Unable to create a pair of sockets", error))?;
        let mut args = Vec::from(["--use-vnet"].as_slice());
        args.retain(|_| self.header);
        let bridge = format!("--br={}", self.bridge);
        // The socket is its standard input.
        args.extend([bridge.as_str(), "--fd=0"]);
        let mut command = tokio::process::Command::new(&program);
        command
            .args(&args)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .kill_on_drop(true);
        let line = format!("{} {}", program.display(), args.join(" "));
        let ended = tokio::time::timeout(DEADLINE, command.output()).await;
        drop(command);
        let output = ended
            .map_err(|_| Error::internal(format!("{line}: no end within {} s", DEADLINE.as_secs())))?
            .map_err(|error| failed(format_args!("cannot execute binary {}", program.display()), error))?;
        // What it sent is there, or never comes.
        let mut byte = [0];
        let device = ours
            .try_recv(&mut byte)
            .ok()
            .and_then(|(_, fds)| fds.into_iter().next());
        let device = device.ok_or_else(|| {
            let said: String = String::from_utf8_lossy(&output.stderr)
                .chars()
                .take(SAID_MAX)
                .collect();
            let what = format!("{line}: failed to communicate with bridge helper: stderr={said}");
            failed(what, io::Error::from_raw_os_error(nix::libc::ENOTCONN))
        })?;
        let name =
            unixfd::tap_name(&device).map_err(|error| failed("Unable to query tap interface name", error))?;
        Ok((device, name))
    }
}

fn find(helper: &str) -> Result<PathBuf> {
    programs::find(helper, DIRS).ok_or_else(|| {
        Error::internal(format!("'{helper}' is not a suitable bridge helper"))
            .in_area(crate::error::Area::None)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_helper_that_hands_over_nothing_is_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let helper = dir.path().join("helper");
        std::fs::write(&helper, "#!/bin/sh\necho \"$@: denied\" >&2; exit 1\n").unwrap();
        std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
        let helper = helper.to_str().unwrap();
        let ask = async |helper, header| {
            Request {
                helper,
                bridge: "br0",
                header,
            }
            .carry_out()
            .await
            .err()
            .unwrap()
            .to_string()
        };
        let answers = [ask(helper, true).await, ask(helper, false).await];
        assert!(
            answers[0].contains("stderr=--use-vnet --br=br0 --fd=0: denied"),
            "{answers:?}"
        );
        assert!(
            answers[1].contains("stderr=--br=br0 --fd=0: denied"),
            "{answers:?}"
        );
        assert!(
            ask("no-such-helper", true)
                .await
                .contains("'no-such-helper' is not a suitable bridge helper")
        );
    }
}
