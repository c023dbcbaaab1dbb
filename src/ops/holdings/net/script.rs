//! Scripts of interfaces of type ethernet, which set up the host's end and take it down.

use std::{path::Path, process::Stdio, time::Duration};

use domxml::devices::{Interface, InterfaceKind};

use crate::{
    error::{Area, Error, Result, os_text},
    ops::operation::undo::Undo,
};

/// How long a script may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// A script of an interface, if it is of the type whose scripts we run.
fn ours<'a>(interface: &Interface, script: Option<&'a String>) -> Option<&'a str> {
    let runs = interface.kind == InterfaceKind::Ethernet;
    script.filter(|_| runs).map(String::as_str)
}

/// Runs the script of an interface, if it has one.
pub(crate) async fn run_up(interface: &Interface, device: &str, undo: &mut Undo) -> Result<()> {
    let Some(script) = ours(interface, interface.script.as_ref()) else {
        return Ok(());
    };
    run(script, device).await?;
    if let Some(down) = interface.downscript.clone() {
        let device = device.to_owned();
        undo.push("what an interface's script did", async move {
            run(&down, &device).await
        });
    }
    Ok(())
}

/// Runs the scripts that undo what was done for the interfaces of a guest that has ended. The first error is told, all run.
pub(crate) async fn unplug(document: &domxml::Domain) -> Result<()> {
    let mut outcome = Ok(());
    for interface in &document.devices.interfaces {
        outcome = outcome.and(run_down(interface).await);
    }
    outcome
}

/// Runs the script that undoes what was done for one interface, if it has one.
pub(crate) async fn run_down(interface: &Interface) -> Result<()> {
    let script = ours(interface, interface.downscript.as_ref());
    let device = interface.target.as_ref().and_then(|t| t.dev.as_deref());
    match (script, device) {
        (Some(script), Some(device)) => run(script, device).await,
        _ => Ok(()),
    }
}

/// Checks that the script of an interface can be run, for a line that is only shown: it is not run then.
///
/// # Errors
/// As of one that is run and can't be.
pub(crate) fn look(interface: &Interface) -> Result<()> {
    let Some(script) = ours(interface, interface.script.as_ref()) else {
        return Ok(());
    };
    let device = interface.target.as_ref().and_then(|target| target.dev.as_deref());
    let call = Call::new(script, device.unwrap_or("vnet0"));
    match nix::unistd::access(Path::new(script), nix::unistd::AccessFlags::X_OK) {
        Ok(()) => Ok(()),
        Err(errno) => Err(call.cannot_run(errno.into())),
    }
}

/// A script as it is called: what it knows of the daemon's environment is little.
struct Call<'a> {
    script: &'a str,
    device: &'a str,
    env: Vec<(&'static str, String)>,
}

impl<'a> Call<'a> {
    fn new(script: &'a str, device: &'a str) -> Self {
        let passed = ["PATH", "HOME", "USER", "LOGNAME", "TMPDIR"].into_iter();
        let passed = passed.filter_map(|name| Some((name, std::env::var(name).ok()?)));
        let env = [("LC_ALL", "C".to_owned())].into_iter().chain(passed).collect();
        Self { script, device, env }
    }

    fn failed(&self, what: &str) -> Error {
        let env: String = self
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value} "))
            .collect();
        let text = format!("Child process ({env}{} {}) {what}", self.script, self.device);
        Error::internal(text).in_area(Area::None)
    }

    fn cannot_run(&self, error: std::io::Error) -> Error {
        let (script, why) = (self.script, os_text(&error));
        self.failed(&format!(
            "unexpected exit status 127: libvirt:  error : cannot execute binary {script}: {why}\n"
        ))
        .caused_by(error)
    }
}

async fn run(script: &str, device: &str) -> Result<()> {
    let call = Call::new(script, device);
    let child = tokio::process::Command::new(script)
        .arg(device)
        .env_clear()
        .envs(call.env.iter().map(|(name, value)| (*name, value)))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(DEADLINE, child)
        .await
        .map_err(|_| call.failed(&format!("did not end within {} s", DEADLINE.as_secs())))?;
    let output = output.map_err(|error| call.cannot_run(error))?;
    if output.status.success() {
        return Ok(());
    }
    let how = match output.status.code() {
        Some(code) => format!("exit status {code}"),
        None => output.status.to_string(),
    };
    let words = String::from_utf8_lossy(&output.stderr);
    let words: String = words.chars().take(200).collect();
    let words = if words.is_empty() {
        words
    } else {
        format!(": {words}")
    };
    Err(call.failed(&format!("unexpected {how}{words}")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_script_that_fails_is_told_with_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("up");
        std::fs::write(&script, "#!/bin/sh\necho no $1 here >&2\n[ $1 = good ]\n").unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let script = script.to_str().unwrap();
        run(script, "good").await.unwrap();
        let error = run(script, "bad").await.unwrap_err();
        assert!(error.message.contains("no bad here"), "{}", error.message);
        assert!(
            error.message.starts_with("Child process (LC_ALL=C PATH="),
            "{}",
            error.message
        );
        assert!(
            error.message.contains(" bad) unexpected exit status 1: no bad"),
            "{}",
            error.message
        );
        let missing = run("/nonexistent", "good").await.unwrap_err();
        let end = "/nonexistent good) unexpected exit status 127: libvirt:  error : cannot execute binary /nonexistent: \
                   No such file or directory\n";
        assert!(missing.message.ends_with(end), "{}", missing.message);
        assert_eq!(missing.area, Area::None);
        let with = |path: &str| Interface {
            kind: InterfaceKind::Ethernet,
            script: Some(path.to_owned()),
            ..Interface::default()
        };
        assert!(look(&with(script)).is_ok() && look(&Interface::default()).is_ok());
        assert!(
            look(&with("/nonexistent"))
                .unwrap_err()
                .message
                .contains("/nonexistent vnet0)")
        );
    }
}
