//! Guests with directories of the host: through QEMU itself, and through a program beside it, which is a made one here.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::skip::can_run_guests;
use testkit::wait::wait_until;
use testkit::{Sandbox, process};

use crate::grpc::{QEMU, daemon};

/// How long what belongs to a run may take to go with it.
const GONE: Duration = Duration::from_secs(20);

/// Runs QEMU without the device, whose other side does not talk.
const EMULATOR: &str = r#"#!/bin/bash
kept=()
while [ $# -gt 0 ]; do
  case "$1 ${2-}" in
    "-device "*'"vhost-user-fs'*) shift 2; SHARE=yes; continue ;;
  esac
  kept+=("$1"); shift
done
[ -z "${SHARE-}" ] || PAUSE
exec QEMU "${kept[@]}"
"#;

/// Says what it can do, and then stays as long as it is let.
const PROGRAM: &str = r#"#!/bin/bash
if [ "${1-}" = --print-capabilities ]; then
  echo '{"type": "fs", "features": ["migrate-precopy", "separate-options"]}'
  exit
fi
echo "$0 $*"
exec sleep 600
"#;

struct Place {
    sandbox: Sandbox,
}

impl Place {
    fn make() -> Result<Option<Self>> {
        if !can_run_guests() {
            return Ok(None);
        }
        let place = Self {
            sandbox: Sandbox::started(daemon())?,
        };
        place.script(
            "emulator",
            &EMULATOR.replace("QEMU", QEMU).replace("PAUSE", "true"),
        )?;
        place.script("virtiofsd", PROGRAM)?;
        fs::create_dir(place.path("share"))?;
        Ok(Some(place))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.sandbox.dir().join(name)
    }

    fn script(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.path(name), text)?;
        Ok(fs::set_permissions(
            self.path(name),
            Permissions::from_mode(0o755),
        )?)
    }

    /// Makes a guest with shares; `DIR` in them is the place's own.
    fn define(&self, name: &str, shares: &str) -> Result<()> {
        let emulator = if shares.contains("virtiofs") {
            self.path("emulator")
        } else {
            PathBuf::from(QEMU)
        };
        let text = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory>\
             <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>\
             <os><type arch='x86_64' machine='pc'>hvm</type></os><devices><emulator>{}</emulator>\
             <controller type='usb' model='none'/><memballoon model='none'/>{}</devices></domain>",
            emulator.display(),
            shares.replace("DIR", &self.sandbox.dir().to_string_lossy())
        );
        self.sandbox.virsh().define(&text)?;
        Ok(())
    }

    fn served_by(&self, run: &str) -> Result<i32> {
        let file = self.sandbox.path(format!("run/libvirt/qemu/{run}-fs0-fs.pid"));
        Ok(fs::read_to_string(&file)
            .with_context(|| file.display().to_string())?
            .trim()
            .parse()?)
    }

    fn nothing_is_left(&self, run: &str, pid: i32) -> Result<()> {
        let file = self.sandbox.path(format!("run/libvirt/qemu/{run}-fs0-fs.pid"));
        wait_until("the end of the share's program", GONE, || !process::alive(pid))?;
        wait_until("the end of its file", GONE, || !file.exists())
    }
}

const VIRTIOFS: &str = "<filesystem type='mount'><driver type='virtiofs'/><binary path='DIR/virtiofsd'><cache mode='always'/></binary>\
    <source dir='DIR/share'/><target dir='tag'/></filesystem>";

#[test]
fn qemu_shares_a_directory_itself() -> Result<()> {
    let Some(place) = Place::make()? else {
        return Ok(());
    };
    let virsh = place.sandbox.virsh();
    place.define(
        "plain",
        "<filesystem type='mount' accessmode='mapped'><source dir='DIR/share'/><target dir='tag'/><readonly/></filesystem>",
    )?;
    virsh.ok(&["start", "plain"])?;
    let live = virsh.ok(&["dumpxml", "plain"])?;
    ensure!(live.contains("<alias name='fs0'/>"), "{live}");
    place.define(
        "absent",
        "<filesystem type='mount'><source dir='DIR/absent'/><target dir='tag'/></filesystem>",
    )?;
    let refused = virsh.run(&["start", "absent"])?;
    ensure!(
        refused.stderr.contains("cannot initialize fsdev 'fsdev-fs0'"),
        "{refused:?}"
    );
    Ok(())
}

#[test]
fn a_program_shares_a_directory_as_long_as_its_guest_runs() -> Result<()> {
    let Some(mut place) = Place::make()? else {
        return Ok(());
    };
    let virsh = place.sandbox.virsh();
    place.define("one", VIRTIOFS)?;
    virsh.ok(&["start", "one"])?;
    let pid = place.served_by("1-one")?;
    let log = fs::read_to_string(place.sandbox.path("var/log/libvirt/qemu/one-fs0-virtiofsd.log"))?;
    let told = format!(" --shared-dir {} --cache always\n", place.path("share").display());
    ensure!(log.contains("/virtiofsd --fd=") && log.ends_with(&told), "{log}");
    place.sandbox.kill()?;
    place.sandbox.start()?;
    ensure!(process::alive(pid) && place.sandbox.guest_pid("one").is_some());
    virsh.ok(&["destroy", "one"])?;
    place.nothing_is_left("1-one", pid)
}

#[test]
fn a_start_that_is_never_finished_leaves_no_program() -> Result<()> {
    let Some(mut place) = Place::make()? else {
        return Ok(());
    };
    place.define("one", VIRTIOFS)?;
    place.script(
        "emulator",
        &EMULATOR.replace("QEMU", QEMU).replace("PAUSE", "exit 3"),
    )?;
    ensure!(!place.sandbox.virsh().run(&["start", "one"])?.success());
    ensure!(!place.sandbox.path("run/libvirt/qemu/1-one-fs0-fs.pid").exists());
    place.script(
        "emulator",
        &EMULATOR.replace("QEMU", QEMU).replace("PAUSE", "sleep 600"),
    )?;
    let mut starting = place.sandbox.virsh().spawn(&["start", "one"])?;
    let status = place.sandbox.path("run/libvirt/qemu/one.xml");
    wait_until("a start under way", GONE, || {
        status.exists() && place.served_by("2-one").is_ok()
    })?;
    let pid = place.served_by("2-one")?;
    place.sandbox.kill()?;
    starting.wait()?;
    place.sandbox.start()?;
    place.nothing_is_left("2-one", pid)
}

#[test]
fn what_can_not_be_shared_is_told_in_libvirts_words() -> Result<()> {
    let Some(place) = Place::make()? else {
        return Ok(());
    };
    let virsh = place.sandbox.virsh();
    let described = ["/etc/qemu/vhost-user", "/usr/share/qemu/vhost-user"]
        .iter()
        .any(|dir| Path::new(dir).exists());
    let unnamed = VIRTIOFS.replace("<binary path='DIR/virtiofsd'><cache mode='always'/></binary>", "");
    let locked = VIRTIOFS.replace("<cache mode='always'/>", "<lock posix='on' flock='on'/>");
    for (name, share, words) in [
        (
            "unnamed",
            unnamed,
            "operation failed: Unable to find a satisfying virtiofsd",
        ),
        (
            "absent",
            VIRTIOFS.replace("DIR/share", "/absent"),
            "internal error: the virtiofs export directory '/absent' does not exist",
        ),
        (
            "locked",
            locked,
            "unsupported configuration: locking options are not supported by this virtiofsd",
        ),
    ] {
        if name == "unnamed" && described {
            continue;
        }
        place.define(name, &share)?;
        let refused = virsh.run(&["start", name])?;
        ensure!(refused.stderr.contains(words), "{name}: {refused:?}");
    }
    Ok(())
}
