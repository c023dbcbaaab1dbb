//! Dumps of guests, in every form, and what becomes of the guest.

use std::fs;
use std::path::Path;
use std::process::Command;
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
    let pipe = sandbox.dir().join("pipe");
    ensure!(Command::new("mkfifo").arg(&pipe).status()?.success());
    for (options, magic) in [(&[][..], &b"QEVM"[..]), (&["--memory-only"], b"\x7fELF")] {
        let reads = pipe.clone();
        let reader = std::thread::spawn(move || fs::read(reads));
        virsh.ok(&[&["dump", "g", &pipe.to_string_lossy()][..], options].concat())?;
        let read = reader.join().map_err(|_| anyhow::anyhow!("the reader"))??;
        ensure!(
            read.starts_with(magic),
            "{} bytes came out of the pipe",
            read.len()
        );
    }
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

#[test]
fn a_guest_that_crashes_is_dumped_and_begins_anew_if_its_document_says_so() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    let virsh = sandbox.virsh();
    let trace = sandbox.dir().join("trace");
    let traced = format!(
        "<qemu:commandline><qemu:arg value='-trace'/><qemu:arg value='enable=handle_qmp_command,file={}'/></qemu:commandline>",
        trace.display()
    );
    let xml = small("g", Path::new(QEMU), &traced).replace("</devices>", "<panic model='isa'/></devices>");
    virsh.define(&xml.replace("<devices>", "<on_crash>coredump-restart</on_crash><devices>"))?;
    virsh.ok(&["start", "g"])?;
    let panic = r#"{"execute":"human-monitor-command","arguments":{"command-line":"o/b 0x505 1"}}"#;
    virsh.ok(&["qemu-monitor-command", "g", panic])?;
    let told = || {
        let trace = fs::read_to_string(&trace).unwrap_or_default();
        let dumped = trace.split_once("\"dump-guest-memory\"").unwrap_or_default().1;
        let step = |line: &&str| {
            ["stop", "system_reset", "cont"]
                .into_iter()
                .find(|n| line.contains(&format!("\"{n}\"")))
        };
        dumped
            .lines()
            .filter_map(|line| step(&line))
            .collect::<Vec<_>>()
            .join(" ")
    };
    wait_until("the guest beginning anew", Duration::from_secs(30), || {
        told().ends_with("cont")
    })?;
    // Its CPUs run nowhere between the crash and the reset.
    ensure!(told() == "system_reset cont", "{}", told());
    let running = || virsh.state("g").is_ok_and(|state| state == "running");
    wait_until("the guest running", SOON, running)
}

#[test]
fn what_was_dumped_of_a_guest_that_dies_meanwhile_stays() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let (daemon, _dir) = crate::saves::slow(30)?;
    let mut sandbox = Sandbox::new(daemon)?;
    let conf = sandbox.path("/etc/libvirt/qemu.conf");
    fs::create_dir_all(sandbox.path("/etc/libvirt"))?;
    let text = "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\nstdio_handler = \"file\"\n";
    fs::write(conf, format!("{text}dump_image_format = \"gzip\"\n"))?;
    sandbox.start()?;
    let virsh = sandbox.virsh();
    virsh.define(&small("g", Path::new(QEMU), ""))?;
    virsh.ok(&["start", "g"])?;
    let file = sandbox.dir().join("dump");
    let mut dump = virsh.spawn(&["dump", "g", &file.to_string_lossy()])?;
    wait_until("the dump being under way", SOON, || file.exists())?;
    let pid = fs::read_to_string(sandbox.path("/run/libvirt/qemu/g.pid"))?;
    ensure!(Command::new("kill").args(["-9", pid.trim()]).status()?.success());
    ensure!(!dump.wait()?.success(), "the guest died");
    wait_until("the end of the guest", SOON, || {
        virsh.state("g").is_ok_and(|state| state == "shut off")
    })?;
    ensure!(file.exists(), "what was dumped is gone");
    Ok(())
}
