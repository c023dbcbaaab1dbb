//! Dumps of guests, in every form, and what becomes of the guest.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::skip::can_run_guests;
use testkit::{Sandbox, wait_until};

use crate::grpc::{QEMU, SOON, daemon, small};

fn begins_with(path: &Path, magic: &[u8]) -> Result<()> {
    let bytes = fs::read(path)?;
    let found = &bytes[..magic.len().min(bytes.len())];
    ensure!(found == magic, "{}: {found:?}", path.display());
    Ok(())
}

#[test]
fn a_guest_is_dumped_and_goes_on() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    let virsh = sandbox.virsh();
    virsh.define(&small("g", Path::new(QEMU), ""))?;
    virsh.ok(&["start", "g"])?;
    let file = sandbox.dir().join("dump");
    let path = file.to_string_lossy().into_owned();
    // table: options, how the file begins.
    for (options, magic) in [
        (&[][..], &b"QEVM"[..]),
        (&["--live"], b"QEVM"),
        (&["--bypass-cache"], b"QEVM"),
        (&["--reset"], b"QEVM"),
        (&["--memory-only"], b"\x7fELF"),
        (&["--memory-only", "--live"], b"\x7fELF"),
        (&["--memory-only", "--format", "kdump-zlib"], b"makedumpfile"),
    ] {
        virsh.ok(&[&["dump", "g", &path][..], options].concat())?;
        begins_with(&file, magic)?;
        let running = || virsh.state("g").is_ok_and(|state| state == "running");
        wait_until("the guest going on", SOON, running)?;
        fs::remove_file(&file)?;
    }
    let completed = virsh.ok(&["domjobinfo", "g", "--completed"])?;
    ensure!(completed.contains("Dump"), "{completed}");
    let refused = virsh.refused(&["dump", "g", &path, "--memory-only", "--format", "kdump-snappy"])?;
    ensure!(
        refused.contains("unsupported dumpformat 'kdump-snappy' for this QEMU binary"),
        "{refused}"
    );
    let refused = virsh.refused(&["dump", "g", &path, "--live", "--crash"])?;
    ensure!(refused.contains("mutually exclusive"), "{refused}");
    let refused = virsh.refused(&["dump", "g", "/dev/full", "--memory-only"])?;
    ensure!(refused.contains("No space left on device"), "{refused}");
    ensure!(!file.exists() && virsh.state("g")? == "running");
    virsh.ok(&["dump", "g", &path, "--memory-only", "--crash"])?;
    ensure!(
        virsh
            .ok(&["domstate", "g", "--reason"])?
            .contains("shut off (crashed)")
    );
    begins_with(&file, b"\x7fELF")
}

#[test]
fn a_guest_that_crashes_is_dumped_if_its_document_says_so() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    let virsh = sandbox.virsh();
    let panics = "<panic model='isa'/></devices>";
    let xml = small("g", Path::new(QEMU), "").replace("</devices>", panics);
    let xml = xml.replace("<devices>", "<on_crash>coredump-destroy</on_crash><devices>");
    virsh.define(&xml)?;
    virsh.ok(&["start", "g"])?;
    // What the guest's kernel does when it panics.
    let panic = r#"{"execute":"human-monitor-command","arguments":{"command-line":"o/b 0x505 1"}}"#;
    virsh.ok(&["qemu-monitor-command", "g", panic])?;
    let crashed = || {
        let state = virsh.ok(&["domstate", "g", "--reason"]);
        state.is_ok_and(|state| state.contains("shut off (crashed)"))
    };
    wait_until("the guest having ended", Duration::from_secs(30), crashed)?;
    let dumps: Vec<_> = fs::read_dir(sandbox.path("/var/lib/libvirt/qemu/dump"))?
        .flatten()
        .collect();
    ensure!(dumps.len() == 1, "{dumps:?}");
    ensure!(
        dumps[0].file_name().to_string_lossy().contains("-g-"),
        "{dumps:?}"
    );
    begins_with(&dumps[0].path(), b"\x7fELF")
}
