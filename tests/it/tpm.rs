//! Guests with an emulated TPM: its emulator lives as long as the run, its state as long as the guest.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::skip::{can_run_guests, skip};
use testkit::wait::wait_until;
use testkit::{Sandbox, place, process};

use crate::grpc::daemon;

const UUID: &str = "11111111-2222-3333-4444-0000000000";
/// How long what belongs to a run may take to go with it.
const GONE: Duration = Duration::from_secs(20);

/// A guest that does nothing, with a TPM.
fn guest(number: u8, attributes: &str, more: &str) -> String {
    format!(
        "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>t{number}</name><uuid>{UUID}{number:02}</uuid>\
         <memory unit='MiB'>16</memory><os><type arch='x86_64' machine='pc'>hvm</type></os><devices>\
         <emulator>{}</emulator><tpm model='tpm-crb'><backend type='emulator' version='2.0' {attributes}/></tpm>\
         <controller type='usb' model='none'/><memballoon model='none'/></devices>{more}</domain>",
        crate::grpc::QEMU
    )
}

/// Our daemon where TPMs can be emulated.
struct Place {
    sandbox: Sandbox,
}

impl Place {
    fn make() -> Result<Option<Self>> {
        if !can_run_guests() {
            return Ok(None);
        }
        if ["swtpm", "swtpm_setup"]
            .iter()
            .any(|program| place::program(program).is_none())
        {
            skip("no emulator of TPMs: scripts/install-deps.sh was not run");
            return Ok(None);
        }
        Ok(Some(Self {
            sandbox: Sandbox::started(daemon())?,
        }))
    }

    fn state(&self, number: u8) -> PathBuf {
        self.sandbox
            .path(format!("var/lib/libvirt/swtpm/{UUID}{number:02}"))
    }

    /// Names of the files of all runs.
    fn run_files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.sandbox.path("run/libvirt/qemu/swtpm"))
            .into_iter()
            .flatten()
            .flatten();
        let mut names: Vec<String> = entries
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// The emulator's process of a run.
    fn emulator(&self, run: &str) -> Result<i32> {
        let file = self
            .sandbox
            .path(format!("run/libvirt/qemu/swtpm/{run}-swtpm.pid"));
        Ok(fs::read_to_string(&file)
            .with_context(|| file.display().to_string())?
            .trim()
            .parse()?)
    }

    fn nothing_runs(&self, emulator: i32) -> Result<()> {
        wait_until("the end of the emulator", GONE, || !process::alive(emulator))?;
        wait_until("the end of the run's files", GONE, || self.run_files().is_empty())
    }
}

#[test]
fn the_emulator_ends_with_the_run_and_the_state_with_the_guest() -> Result<()> {
    let Some(mut place) = Place::make()? else {
        return Ok(());
    };
    let virsh = place.sandbox.virsh();
    virsh.define(&guest(1, "", ""))?;
    virsh.define(&guest(2, "persistent_state='yes'", ""))?;
    virsh.ok(&["start", "t1"])?;
    virsh.ok(&["start", "t2"])?;
    let (first, second) = (place.emulator("1-t1")?, place.emulator("2-t2")?);
    ensure!(place.run_files().len() == 4, "{:?}", place.run_files());
    ensure!(process::alive(first) && process::alive(second));
    let mode = |path: &str| {
        Ok::<_, anyhow::Error>(fs::metadata(place.sandbox.path(path))?.permissions().mode() & 0o7777)
    };
    ensure!(
        mode("run/libvirt/qemu/swtpm")? == 0o770 && mode("run/libvirt/qemu/swtpm/1-t1-swtpm.sock")? == 0o600
    );
    ensure!(mode("var/lib/libvirt/swtpm")? == 0o711);
    let permanent = place.state(1).join("tpm2/tpm2-00.permall");
    ensure!(
        permanent.is_file()
            && fs::metadata(place.state(1).join("tpm2"))?.permissions().mode() & 0o7777 == 0o700
    );
    let tpms = virsh.ok(&["qemu-monitor-command", "t1", r#"{"execute":"query-tpm"}"#])?;
    ensure!(tpms.contains("tpm-crb") && tpms.contains("emulator"), "{tpms}");

    virsh.ok(&["destroy", "t1"])?;
    ensure!(!process::alive(first) && process::alive(second));
    ensure!(permanent.is_file(), "the state went with the run");
    let inode =
        |path: &PathBuf| Ok::<_, anyhow::Error>(std::os::unix::fs::MetadataExt::ino(&fs::metadata(path)?));
    let made = inode(&place.state(1).join("tpm2"))?;
    virsh.ok(&["start", "t1"])?;
    ensure!(
        inode(&place.state(1).join("tpm2"))? == made,
        "the state was made anew"
    );
    // Killed and started again, the daemon finds both.
    place.sandbox.kill()?;
    place.sandbox.start()?;
    let (first, second) = (place.emulator("3-t1")?, place.emulator("2-t2")?);
    ensure!(process::alive(first) && process::alive(second));
    virsh.ok(&["destroy", "t1"])?;
    virsh.ok(&["destroy", "t2"])?;
    place.nothing_runs(first)?;
    place.nothing_runs(second)?;

    virsh.ok(&["undefine", "t1", "--keep-tpm"])?;
    ensure!(place.state(1).exists());
    virsh.define(&guest(1, "", ""))?;
    virsh.ok(&["undefine", "t1"])?;
    ensure!(!place.state(1).exists());
    virsh.ok(&["undefine", "t2"])?;
    ensure!(place.state(2).exists(), "the state is to be kept");
    virsh.define(&guest(2, "persistent_state='yes'", ""))?;
    virsh.ok(&["undefine", "t2", "--tpm"])?;
    ensure!(!place.state(2).exists());
    Ok(())
}

#[test]
fn a_start_that_fails_leaves_no_emulator() -> Result<()> {
    let Some(place) = Place::make()? else {
        return Ok(());
    };
    let virsh = place.sandbox.virsh();
    let bad = "<qemu:commandline><qemu:arg value='-no-such-option'/></qemu:commandline>";
    virsh.define(&guest(1, "", bad))?;
    let words = virsh.refused(&["start", "t1"])?;
    ensure!(words.contains("-no-such-option"), "{words}");
    ensure!(place.run_files().is_empty(), "{:?}", place.run_files());
    ensure!(
        place.state(1).exists(),
        "a state that was made stays with a stored guest"
    );
    // One that is not stored leaves nothing at all.
    let file = place.sandbox.dir().join("guest.xml");
    fs::write(&file, guest(2, "", bad))?;
    virsh.refused(&["create", &file.to_string_lossy()])?;
    ensure!(place.run_files().is_empty() && !place.state(2).exists());
    fs::write(&file, guest(2, "", ""))?;
    virsh.ok(&["create", &file.to_string_lossy()])?;
    ensure!(place.state(2).exists());
    virsh.ok(&["destroy", "t2"])?;
    ensure!(place.run_files().is_empty() && !place.state(2).exists());
    Ok(())
}

#[test]
fn an_emulator_ends_with_its_guest_while_no_daemon_is_there() -> Result<()> {
    let Some(mut place) = Place::make()? else {
        return Ok(());
    };
    let virsh = place.sandbox.virsh();
    virsh.define(&guest(1, "", ""))?;
    virsh.ok(&["start", "t1"])?;
    let emulator = place.emulator("1-t1")?;
    let qemu = place.sandbox.guest_pid("t1").context("no process")?;
    place.sandbox.kill()?;
    process::kill_and_wait(qemu)?;
    place.sandbox.start()?;
    place.nothing_runs(emulator)?;
    testkit::wait::wait_until("its end being told", GONE, || {
        virsh
            .ok(&["domstate", "t1"])
            .is_ok_and(|state| state.trim() == "shut off")
    })?;
    // An emulator dies under its guest: the guest is not lost, and powering off works.
    virsh.ok(&["start", "t1"])?;
    process::kill_and_wait(place.emulator("2-t1")?)?;
    virsh.ok(&["destroy", "t1"])?;
    ensure!(place.run_files().is_empty());
    Ok(())
}

#[test]
fn an_emulator_that_cannot_work_says_why() -> Result<()> {
    let Some(place) = Place::make()? else {
        return Ok(());
    };
    let virsh = place.sandbox.virsh();
    let missing = "<encryption secret='aaaaaaaa-2222-3333-4444-555555555501'/>";
    let xml = guest(1, "", "").replace("version='2.0' />", &format!("version='2.0'>{missing}</backend>"));
    ensure!(xml.contains("<encryption"), "{xml}");
    virsh.define(&xml)?;
    virsh.refused(&["start", "t1"])?;
    ensure!(!place.state(1).exists() && place.run_files().is_empty());
    // What is in the way of the state makes swtpm_setup fail; nothing half made is left.
    let source = "<source type='file' path='/proc/no-such-state'/>";
    virsh.define(
        &guest(2, "", "").replace("version='2.0' />", &format!("version='2.0'>{source}</backend>")),
    )?;
    let words = virsh.refused(&["start", "t2"])?;
    ensure!(
        words.contains("Could not run '/usr/bin/swtpm_setup'. exitstatus: 1; Check error log"),
        "{words}"
    );
    ensure!(place.run_files().is_empty());
    Ok(())
}

/// Programs that stand for swtpm's.
fn fakes(swtpm: &str) -> Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    for (name, text) in [("swtpm_setup", "echo '{\"features\": []}'"), ("swtpm", swtpm)] {
        let file = dir.path().join(name);
        fs::write(&file, format!("#!/bin/sh\n{text}\n"))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    }
    Ok(dir)
}

#[test]
fn an_emulator_that_dies_or_hangs_is_told_and_not_left() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let path = std::env::var("PATH").unwrap_or_default();
    for (program, wanted) in [
        ("echo no luck >>/dev/null; exit 4", "swtpm died and reported"),
        ("exec sleep 97531", "swtpm does not listen at"),
    ] {
        let fakes = fakes(program)?;
        let sandbox = Sandbox::started(daemon().env("PATH", &format!("{}:{path}", fakes.path().display())))?;
        let place = Place { sandbox };
        let virsh = place.sandbox.virsh();
        virsh.define(&guest(1, "", ""))?;
        let words = virsh.refused(&["start", "t1"])?;
        ensure!(words.contains(wanted), "{words}");
        ensure!(place.run_files().is_empty(), "{:?}", place.run_files());
        let left = process::find(|pid| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x0097531\x00")
        });
        ensure!(left.is_empty(), "{left:?}");
    }
    Ok(())
}
