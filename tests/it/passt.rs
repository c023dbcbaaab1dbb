//! Interfaces that passt connects: one comes with its guest and one while it runs, one that ends is started again, another
//! daemon goes on with them, and they end with the guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use testkit::skip::{can_run_guests, skip};
use testkit::{Sandbox, place, process, wait_until};

use crate::grpc::{QEMU, SOON, daemon, small};

/// A passt that is not passt: it writes its number, listens at its socket, and lives as long as one connection.
const STAND_IN: &str = include_str!("../data/passt.py");

fn card(number: u8) -> String {
    format!(
        "<interface type='user'><mac address='52:54:00:dd:00:0{number}'/><model type='virtio'/>\
         <backend type='passt'/><portForward proto='tcp'><range start='2022' to='22'/></portForward></interface>"
    )
}

/// The number of the process of an interface, if it lives.
fn passt(sandbox: &Sandbox, alias: &str) -> Option<i32> {
    let file = sandbox.path(format!("/run/libvirt/qemu/passt/1-g-{alias}-passt.pid"));
    let pid = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    process::alive(pid).then_some(pid)
}

#[test]
fn interfaces_of_passt_come_go_and_are_started_again() -> Result<()> {
    if !can_run_guests() || place::program("python3").is_none() {
        skip("no guests, or no Python for the stand-in of passt");
        return Ok(());
    }
    let bin = tempfile::tempdir()?;
    write_program(&bin.path().join("passt"))?;
    let path = format!("{}:{}", bin.path().display(), std::env::var("PATH")?);
    let mut sandbox = Sandbox::started(daemon().env("PATH", &path))?;
    let virsh = sandbox.virsh();
    let ports = "<controller type='pci' model='pcie-root'/><controller type='pci' model='pcie-root-port'/>\
        <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>";
    let xml = small("g", Path::new(QEMU), "").replace("</devices>", &format!("{ports}{}</devices>", card(1)));
    virsh.define(&xml)?;
    virsh.ok(&["start", "g"])?;
    let first = passt(&sandbox, "net0").context("no passt of the start")?;
    let line = fs::read_to_string(format!("/proc/{first}/cmdline"))?.replace('\0', " ");
    ensure!(
        line.contains("--one-off --socket /run/libvirt/qemu/passt/1-g-net0.socket --pid"),
        "{line}"
    );
    ensure!(line.contains("--tcp-ports 2022:22"), "{line}");

    // It is started again when it ends.
    process::signal(first, Signal::SIGKILL);
    let again = |old: i32| passt(&sandbox, "net0").is_some_and(|new| new != old);
    wait_until("another passt", SOON, || again(first))?;

    let file: PathBuf = sandbox.dir().join("card.xml");
    fs::write(&file, card(2))?;
    let file = file.to_string_lossy().into_owned();
    virsh.ok(&["attach-device", "g", &file, "--live"])?;
    let second = passt(&sandbox, "net1").context("no passt of the attach")?;
    let alive = passt(&sandbox, "net0").context("no passt")?;
    sandbox.restart()?;
    ensure!(
        process::alive(alive) && process::alive(second),
        "they ended with the daemon"
    );
    virsh.ok(&["detach-device", "g", &file, "--live"])?;
    // No system answers in this guest; a reset lets the interface go.
    virsh.ok(&["reset", "g"])?;
    wait_until("its end", SOON, || !process::alive(second))?;
    wait_until("the card to go", SOON, || {
        virsh
            .ok(&["dumpxml", "g"])
            .is_ok_and(|xml| !xml.contains("52:54:00:dd:00:02"))
    })?;
    virsh.ok(&["destroy", "g"])?;
    wait_until("the end of the other", Duration::from_secs(10), || {
        !process::alive(alive)
    })?;
    let left = || fs::read_dir(sandbox.path("/run/libvirt/qemu/passt")).map_or(0, Iterator::count);
    wait_until("no file", SOON, || left() == 0)?;

    // One that does not start says why.
    fs::write(bin.path().join("passt"), "#!/bin/sh\necho no luck >&2\nexit 3\n")?;
    let refused = virsh.refused(&["start", "g"])?;
    ensure!(
        refused.contains("Child process (passt --one-off --socket")
            && refused.contains("exit status 3: no luck"),
        "{refused}"
    );
    Ok(())
}

fn write_program(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, STAND_IN)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
