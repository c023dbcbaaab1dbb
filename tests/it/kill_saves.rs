//! The daemon is killed in the midst of a managed save and of the start from it, again and again: the guest is always
//! there once, running or in a complete image, never both and never neither.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::kill::KillMatrix;
use testkit::skip::can_run_guests;
use testkit::{Sandbox, wait_until};

use crate::grpc::{QEMU, daemon, small};

const AT_REST: Duration = Duration::from_secs(40);

/// Whether the guest is there once, and nothing is under way.
fn is_once(sandbox: &Sandbox) -> bool {
    let Ok(state) = sandbox.virsh().state("g") else {
        return false;
    };
    let image = sandbox.path("/var/lib/libvirt/qemu/save/g.save");
    let complete = fs::read(&image).is_ok_and(|bytes| bytes.starts_with(b"LibvirtQemudSave"));
    let status = fs::read_to_string(sandbox.path("/run/libvirt/qemu/g.xml")).unwrap_or_default();
    match state.as_str() {
        "running" => !image.exists() && !status.contains("<job"),
        "shut off" => complete && status.is_empty(),
        _ => false,
    }
}

fn check(sandbox: &Sandbox, _try: u32) -> Result<()> {
    wait_until("the guest being there once", AT_REST, || is_once(sandbox))?;
    let virsh = sandbox.virsh();
    if virsh.state("g")? == "shut off" {
        virsh.ok(&["start", "g"])?;
        let state = virsh.ok(&["domstate", "g", "--reason"])?;
        ensure!(state.contains("running (restored)"), "{state}");
    }
    ensure!(is_once(sandbox));
    Ok(())
}

fn place() -> Result<Sandbox> {
    let sandbox = Sandbox::started(daemon())?;
    sandbox.virsh().define(&small("g", Path::new(QEMU), ""))?;
    sandbox.virsh().ok(&["start", "g"])?;
    Ok(sandbox)
}

#[test]
fn killed_in_a_managed_save() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let matrix = KillMatrix {
        before: &[],
        operation: &["managedsave", "g"],
        after: &[],
    };
    matrix.run(&mut place()?, check)
}

#[test]
fn killed_in_the_start_from_a_managed_save() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let matrix = KillMatrix {
        before: &[&["managedsave", "g"]],
        operation: &["start", "g"],
        after: &[],
    };
    matrix.run(&mut place()?, check)
}
