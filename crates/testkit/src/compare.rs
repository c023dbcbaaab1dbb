//! The same command to two daemons: ours and libvirt's own must answer alike.

use anyhow::{Result, ensure};

use crate::client::Answer;
use crate::golden::difference;
use crate::sandbox::Sandbox;

/// Runs a virsh command on both daemons and compares status, output and messages. Paths of the sandboxes count as equal.
///
/// # Errors
/// With the lines that differ (`-` the second daemon's, `+` the first's), or when virsh cannot be run.
pub fn same_answer(ours: &Sandbox, theirs: &Sandbox, args: &[&str]) -> Result<()> {
    let (got, wanted) = (report(ours, args)?, report(theirs, args)?);
    ensure!(
        got == wanted,
        "virsh {} differs {}",
        args.join(" "),
        difference(&wanted, &got)
    );
    Ok(())
}

fn report(sandbox: &Sandbox, args: &[&str]) -> Result<String> {
    let Answer {
        status,
        stdout,
        stderr,
    } = sandbox.virsh().run(args)?;
    let text = format!("status {status:?}\n{stdout}\n{stderr}");
    Ok(text
        .replace(&sandbox.uri(), "URI")
        .replace(&*sandbox.dir().to_string_lossy(), "SANDBOX"))
}
