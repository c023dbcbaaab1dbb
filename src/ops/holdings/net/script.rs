//! Scripts of interfaces of type ethernet, which set up the host's end and take it down.

use std::{process::Stdio, time::Duration};

use domxml::devices::{Interface, InterfaceKind};

use crate::{
    error::{Error, Result},
    ops::operation::undo::Undo,
};

/// How long a script may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs the script of an interface, if it has one.
pub(crate) async fn run_up(interface: &Interface, device: &str, undo: &mut Undo) -> Result<()> {
    let Some(script) = interface
        .script
        .as_deref()
        .filter(|_| interface.kind == InterfaceKind::Ethernet)
    else {
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
    let is_ours = interface.kind == InterfaceKind::Ethernet;
    let script = interface.downscript.as_deref().filter(|_| is_ours);
    let device = interface.target.as_ref().and_then(|t| t.dev.as_deref());
    match (script, device) {
        (Some(script), Some(device)) => run(script, device).await,
        _ => Ok(()),
    }
}

async fn run(script: &str, device: &str) -> Result<()> {
    let child = tokio::process::Command::new(script)
        .arg(device)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let failed = |what: String| {
        Error::internal(format!(
            "the script '{script}' for the interface '{device}' {what}"
        ))
    };
    let output = tokio::time::timeout(DEADLINE, child)
        .await
        .map_err(|_| failed(format!("did not end within {} s", DEADLINE.as_secs())))?;
    let output = output.map_err(|error| failed("can't be run".to_owned()).caused_by(error))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!(
        "failed with {}: {}",
        output.status,
        words.trim().chars().take(200).collect::<String>()
    )))
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
        assert!(run("/nonexistent", "good").await.is_err());
    }
}
