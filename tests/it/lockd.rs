//! Leases of disks through libvirt's virtlockd.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_RDLCK, F_UNLCK, F_WRLCK, SEEK_SET, flock};
use nix::sys::signal::Signal;
use serde_json::json;
use testkit::fake_qemu::program::install;
use testkit::place::{program, script};
use testkit::skip::can_run_guests;
use testkit::{Sandbox, Virsh, process, skip, wait_until};

use crate::grpc::{QEMU, daemon, small};

const SOON: Duration = Duration::from_secs(20);
/// How long an operation may take that needs a virtlockd that hangs.
const HUNG: Duration = Duration::from_secs(15);

/// virtlockd in a sandbox; killed with the test.
struct Lockd(Child);

impl Lockd {
    fn beside(sandbox: &Sandbox) -> Result<Option<Self>> {
        let Some(virtlockd) = program("virtlockd") else {
            skip("virtlockd is not installed");
            return Ok(None);
        };
        let mut command = Command::new(script("sandbox.sh"));
        command
            .arg(sandbox.dir())
            .arg(virtlockd)
            .args(["-p", "/run/libvirt/virtlockd.pid"]);
        let lockd = Self(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?,
        );
        wait_until("virtlockd's socket", SOON, || {
            std::os::unix::net::UnixStream::connect(socket(sandbox)).is_ok()
        })?;
        Ok(Some(lockd))
    }

    fn signal(&self, signal: Signal) {
        process::signal(self.0.id().cast_signed(), signal);
    }
}

impl Drop for Lockd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn socket(sandbox: &Sandbox) -> PathBuf {
    sandbox.path("run/libvirt/virtlockd-sock")
}

/// A daemon with leases, a virtlockd, and an emulator that leaves the locks on images to them.
struct Place {
    sandbox: Sandbox,
    lockd: Option<Lockd>,
    emulator: PathBuf,
}

impl Place {
    /// `settings` are those of qemu-lockd.conf.
    fn make(settings: &str) -> Result<Option<Self>> {
        if !can_run_guests() {
            return Ok(None);
        }
        let mut sandbox = Sandbox::new(daemon())?;
        let conf = sandbox.path("etc/libvirt");
        fs::create_dir_all(&conf)?;
        let lines = "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\nstdio_handler = \"file\"\nlock_manager = \"lockd\"\n";
        fs::write(conf.join("qemu.conf"), lines)?;
        fs::write(conf.join("qemu-lockd.conf"), settings)?;
        fs::write(
            conf.join("virtqemud.conf"),
            "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n",
        )?;
        sandbox.start()?;
        let Some(lockd) = Lockd::beside(&sandbox)? else {
            return Ok(None);
        };
        let emulator = sandbox.dir().join("qemu-without-locks");
        let file = "\\\"driver\\\":\\\"file\\\",";
        let script =
            format!("#!/bin/bash\nexec {QEMU} \"${{@//{file}/{file}\\\"locking\\\":\\\"off\\\",}}\"\n");
        fs::write(&emulator, script)?;
        fs::set_permissions(&emulator, fs::Permissions::from_mode(0o755))?;
        Ok(Some(Self {
            sandbox,
            lockd: Some(lockd),
            emulator,
        }))
    }

    fn virsh(&self) -> Virsh {
        self.sandbox.virsh()
    }

    /// An image of one mebibyte.
    fn image(&self, name: &str) -> Result<PathBuf> {
        let path = self.sandbox.dir().join(name);
        File::create(&path)?.set_len(1 << 20)?;
        Ok(path)
    }

    fn define(&self, name: &str, devices: &str) -> Result<()> {
        let xml = small(name, &self.emulator, "").replace("<controller", &format!("{devices}<controller"));
        self.virsh().define(&xml)
    }

    /// Nothing of a start that failed is left.
    fn nothing_is_left(&self, name: &str) -> Result<()> {
        ensure!(self.virsh().ok(&["domstate", "--reason", name])?.trim() == "shut off (failed)");
        for place in [
            "run/libvirt/qemu",
            "var/lib/libvirt/qemu",
            "run/libvirt/qemu/channel",
        ] {
            let entries = fs::read_dir(self.sandbox.path(place))?
                .flatten()
                .map(|e| e.file_name().to_string_lossy().into_owned());
            let left: Vec<_> = entries.filter(|file| file.contains(name)).collect();
            ensure!(left.is_empty(), "left in {place}: {left:?}");
        }
        Ok(())
    }
}

fn disk(image: &Path, target: &str, more: &str) -> String {
    let kind = if target.starts_with("fd") {
        "floppy"
    } else {
        "disk"
    };
    format!(
        "<disk type='file' device='{kind}'><driver name='qemu' type='raw'/><source file='{}'/><target dev='{target}'/>{more}</disk>",
        image.display()
    )
}

/// How an image is locked by others: 'w' for one alone, 'r' for several, '-' for nobody.
fn lock_on(image: &Path) -> Result<char> {
    let file = File::options().read(true).write(true).open(image)?;
    let mut lock = flock {
        l_type: F_WRLCK as i16,
        l_whence: SEEK_SET as i16,
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_GETLK(&mut lock))?;
    Ok(match i32::from(lock.l_type) {
        F_RDLCK => 'r',
        F_UNLCK => '-',
        _ => 'w',
    })
}

fn locks_on(images: &[&Path]) -> Result<String> {
    images.iter().map(|image| lock_on(image)).collect()
}

#[test]
fn a_guest_holds_its_disks_while_its_cpus_run() -> Result<()> {
    let Some(place) = Place::make("")? else {
        return Ok(());
    };
    let (own, shared, read) = (place.image("own")?, place.image("shared")?, place.image("read")?);
    let images = [&*own, &*shared, &*read];
    let disks = [
        disk(&own, "vda", ""),
        disk(&shared, "vdb", "<shareable/>"),
        disk(&read, "vdc", "<readonly/>"),
    ]
    .concat();
    let virsh = place.virsh();
    place.define("one", &disks)?;
    place.define("two", &disks)?;
    virsh.ok(&["start", "--paused", "one"])?;
    ensure!(
        locks_on(&images)? == "---",
        "a guest that is paused holds nothing"
    );
    virsh.ok(&["resume", "one"])?;
    ensure!(locks_on(&images)? == "wr-", "{}", locks_on(&images)?);
    let refused = virsh.refused(&["start", "two"])?;
    ensure!(
        refused.contains(&format!(
            "resource busy: Lockspace resource '{}' is locked",
            own.display()
        )),
        "{refused}"
    );
    place.nothing_is_left("two")?;
    ensure!(
        locks_on(&images)? == "wr-",
        "the refused start has changed what is held"
    );

    virsh.ok(&["suspend", "one"])?;
    ensure!(locks_on(&images)? == "---");
    virsh.ok(&["start", "two"])?;
    let refused = virsh.refused(&["resume", "one"])?;
    ensure!(refused.contains("is locked"), "{refused}");
    ensure!(virsh.ok(&["domstate", "--reason", "one"])?.trim() == "paused (user)");
    virsh.ok(&["destroy", "two"])?;
    wait_until("the images are free", SOON, || {
        locks_on(&images).is_ok_and(|l| l == "---")
    })?;
    virsh.ok(&["resume", "one"])?;
    ensure!(locks_on(&images)? == "wr-");
    // QEMU stops the CPUs by itself: the guest's leases follow.
    virsh.ok(&["qemu-monitor-command", "--hmp", "one", "stop"])?;
    wait_until("the images are free", SOON, || {
        locks_on(&images).is_ok_and(|l| l == "---")
    })?;
    virsh.ok(&["resume", "one"])?;
    virsh.ok(&["reset", "one"])?;
    ensure!(locks_on(&images)? == "wr-");
    virsh.ok(&["destroy", "one"])?;
    wait_until("the images are free", SOON, || {
        locks_on(&images).is_ok_and(|l| l == "---")
    })
}

/// Stops a guest's CPUs behind the daemon's back.
fn stop_cpus(monitor: &Path) -> Result<()> {
    let mut stream = std::os::unix::net::UnixStream::connect(monitor)?;
    stream.write_all(b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"stop\",\"id\":1}")?;
    stream.set_read_timeout(Some(SOON))?;
    let answered = BufReader::new(stream)
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains("\"id\": 1"));
    ensure!(answered, "QEMU does not answer");
    Ok(())
}

/// A daemon that has just come up may not have reached the guest yet.
fn resume_when_reached(virsh: &Virsh, guest: &str) -> Result<()> {
    wait_until("the guest goes on", SOON, || {
        virsh.run(&["resume", guest]).is_ok_and(|answer| answer.success())
    })
}

#[test]
fn leases_outlive_the_daemon_and_what_it_left_half_done() -> Result<()> {
    let Some(mut place) = Place::make("")? else {
        return Ok(());
    };
    let (runs, paused) = (place.image("a")?, place.image("b")?);
    let images = [&*runs, &*paused];
    place.define("runs", &disk(&runs, "vda", ""))?;
    place.define("paused", &disk(&paused, "vda", ""))?;
    let virsh = place.virsh();
    virsh.ok(&["start", "runs"])?;
    virsh.ok(&["start", "paused"])?;
    let status = fs::read_to_string(place.sandbox.path("run/libvirt/qemu/paused.xml"))?;
    ensure!(!status.contains("lockstate"), "{status}");
    // As a daemon leaves it that ends after the CPUs have stopped.
    place.sandbox.kill()?;
    stop_cpus(
        &place
            .sandbox
            .path("var/lib/libvirt/qemu/domain-2-paused/monitor.sock"),
    )?;
    ensure!(locks_on(&images)? == "ww");
    place.sandbox.start()?;
    wait_until("what is paused holds nothing", SOON, || {
        locks_on(&images).is_ok_and(|l| l == "w-")
    })?;
    ensure!(virsh.state("paused")? == "paused");
    resume_when_reached(&virsh, "paused")?;
    for (operation, locks) in [("suspend", "--"), ("resume", "ww"), ("suspend", "--")] {
        for guest in ["runs", "paused"] {
            virsh.ok(&[operation, guest])?;
        }
        ensure!(locks_on(&images)? == locks, "after {operation}");
    }
    virsh.ok(&["resume", "runs"])?;
    place.sandbox.restart()?;
    ensure!(locks_on(&images)? == "w-");
    resume_when_reached(&virsh, "paused")?;
    for guest in ["runs", "paused"] {
        virsh.ok(&["destroy", guest])?;
    }
    wait_until("the images are free", SOON, || {
        locks_on(&images).is_ok_and(|l| l == "--")
    })
}

#[test]
fn without_virtlockd_nothing_is_started_and_nothing_that_runs_ends() -> Result<()> {
    let Some(mut place) = Place::make("")? else {
        return Ok(());
    };
    let image = place.image("a")?;
    place.define("runs", &disk(&image, "vda", ""))?;
    place.define("other", "")?;
    let virsh = place.virsh();
    virsh.ok(&["start", "runs"])?;

    let signal = |place: &Place, signal| place.lockd.iter().for_each(|lockd| lockd.signal(signal));
    signal(&place, Signal::SIGSTOP);
    let within = |words: &[&str]| {
        let since = Instant::now();
        let answer = virsh.run(words)?;
        ensure!(since.elapsed() < HUNG, "{words:?} took {:?}", since.elapsed());
        anyhow::Ok(answer)
    };
    let refused = within(&["start", "other"])?;
    ensure!(
        refused.stderr.contains("no answer from virtlockd"),
        "{}",
        refused.stderr
    );
    place.nothing_is_left("other")?;
    ensure!(within(&["suspend", "runs"])?.success() && virsh.state("runs")? == "paused");
    let refused = within(&["resume", "runs"])?;
    ensure!(
        refused.stderr.contains("no answer from virtlockd") && virsh.state("runs")? == "paused",
        "{}",
        refused.stderr
    );
    signal(&place, Signal::SIGCONT);
    // It was not asked to give the lease back in time: that is seen to now.
    virsh.ok(&["resume", "runs"])?;
    ensure!(lock_on(&image)? == 'w');

    place.lockd = None;
    ensure!(virsh.state("runs")? == "running");
    let refused = virsh.refused(&["start", "other"])?;
    ensure!(
        refused.contains("virtlockd-sock': Connection refused"),
        "{refused}"
    );
    fs::remove_file(socket(&place.sandbox))?;
    let refused = virsh.refused(&["start", "other"])?;
    ensure!(
        refused.contains("virtlockd-sock': No such file or directory"),
        "{refused}"
    );
    place.nothing_is_left("other")?;
    ensure!(within(&["suspend", "runs"])?.success());
    let refused = virsh.refused(&["resume", "runs"])?;
    ensure!(
        refused.contains("virtlockd-sock': No such file or directory"),
        "{refused}"
    );

    place.lockd = Lockd::beside(&place.sandbox)?;
    virsh.ok(&["resume", "runs"])?;
    ensure!(lock_on(&image)? == 'w');
    // This virtlockd has never seen the guest's own connection.
    virsh.ok(&["destroy", "runs"])?;
    wait_until("the image is free", SOON, || {
        lock_on(&image).is_ok_and(|l| l == '-')
    })
}

#[test]
fn files_stand_for_images_and_for_leases_that_a_document_names() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let space = directory.path().join("space");
    let Some(mut place) = Place::make(&format!("file_lockspace_dir = \"{}\"\n", space.display()))? else {
        return Ok(());
    };
    let image = place.image("a")?;
    let lease = |place: &Path, more: &str| {
        format!(
            "<lease><lockspace>space</lockspace><key>key</key><target path='{}'{more}/></lease>",
            place.display()
        )
    };
    place.define("disk", &disk(&image, "vda", ""))?;
    for name in ["one", "two"] {
        place.define(name, &lease(directory.path(), ""))?;
    }
    place.define("offset", &lease(directory.path(), " offset='512'"))?;
    place.define("elsewhere", &lease(Path::new("/nowhere"), ""))?;
    let virsh = place.virsh();
    let files = || -> Result<Vec<String>> {
        let mut files: Vec<_> = fs::read_dir(&space)?
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        files.sort();
        Ok(files)
    };
    virsh.ok(&["start", "disk"])?;
    let names = files()?;
    ensure!(
        names.len() == 1 && names[0].len() == 64 && lock_on(&space.join(&names[0]))? == 'w',
        "{names:?}"
    );
    ensure!(lock_on(&image)? == '-');
    let refused = virsh.refused(&["start", "one"])?;
    ensure!(
        refused.contains(&format!(
            "Unable to open resource {}/key: No such file or directory",
            space.display()
        )),
        "{refused}"
    );
    File::create(space.join("key"))?;
    virsh.ok(&["start", "one"])?;
    let refused = virsh.refused(&["start", "two"])?;
    ensure!(
        refused.contains("resource busy: Lockspace resource 'key' is locked"),
        "{refused}"
    );
    let refused = virsh.refused(&["start", "offset"])?;
    ensure!(
        refused.contains("Offset must be zero for this lock manager"),
        "{refused}"
    );
    let refused = virsh.refused(&["start", "elsewhere"])?;
    ensure!(
        refused.contains("Lockspace for path /nowhere/space does not exist"),
        "{refused}"
    );
    for name in ["two", "offset", "elsewhere"] {
        place.nothing_is_left(name)?;
    }
    virsh.ok(&["suspend", "one"])?;
    virsh.ok(&["start", "two"])?;

    // A virtlockd that was started anew does not know the directory.
    virsh.ok(&["suspend", "disk"])?;
    place.lockd = None;
    place.lockd = Lockd::beside(&place.sandbox)?;
    virsh.ok(&["resume", "disk"])?;
    ensure!(files()?.contains(&names[0]), "{:?}", files()?);
    virsh.ok(&["destroy", "disk"])?;
    wait_until("the file of the image is gone", SOON, || {
        files().is_ok_and(|f| f == ["key"])
    })
}

#[test]
fn a_disk_without_a_lease_is_refused_where_one_is_required() -> Result<()> {
    let Some(place) = Place::make("auto_disk_leases = 0\n")? else {
        return Ok(());
    };
    let image = place.image("a")?;
    place.define("own", &disk(&image, "vda", ""))?;
    place.define("shared", &disk(&image, "vda", "<shareable/>"))?;
    let refused = place.virsh().refused(&["start", "own"])?;
    let words = "unsupported configuration: Read/write, exclusive access, disks were present, but no leases specified";
    ensure!(refused.contains(words), "{refused}");
    place.nothing_is_left("own")?;
    place.virsh().ok(&["start", "shared"])?;
    ensure!(lock_on(&image)? == '-');
    Ok(())
}

#[test]
fn a_medium_is_held_while_it_is_in_its_drive() -> Result<()> {
    let Some(place) = Place::make("")? else {
        return Ok(());
    };
    let (first, second) = (place.image("a")?, place.image("b")?);
    let images = [&*first, &*second];
    place.define("drive", &disk(&first, "fda", ""))?;
    place.define("other", &disk(&second, "vda", ""))?;
    let virsh = place.virsh();
    virsh.ok(&["start", "drive"])?;
    virsh.ok(&["start", "other"])?;
    let insert = ["change-media", "drive", "fda", &second.to_string_lossy()].map(str::to_owned);
    let insert: Vec<&str> = insert.iter().map(String::as_str).collect();
    let refused = virsh.refused(&insert)?;
    ensure!(refused.contains("is locked"), "{refused}");
    ensure!(
        virsh
            .ok(&["domblklist", "drive"])?
            .contains(&*first.to_string_lossy())
            && locks_on(&images)? == "ww"
    );
    virsh.ok(&["destroy", "other"])?;
    wait_until("the image is free", SOON, || {
        lock_on(&second).is_ok_and(|l| l == '-')
    })?;
    virsh.ok(&insert)?;
    ensure!(locks_on(&images)? == "-w", "{}", locks_on(&images)?);
    virsh.ok(&["change-media", "drive", "fda", "--eject"])?;
    ensure!(locks_on(&images)? == "--", "{}", locks_on(&images)?);
    Ok(())
}

#[test]
fn a_guest_that_qemu_does_not_let_run_holds_nothing() -> Result<()> {
    let Some(mut place) = Place::make("")? else {
        return Ok(());
    };
    let fake = place.sandbox.dir().join("fake");
    fs::create_dir_all(&fake)?;
    let refusal = json!({"rules": [{"execute": "cont", "error": {"class": "GenericError", "desc": "injected refusal"}}]});
    place.emulator = install(&fake, &refusal)?;
    let image = place.image("a")?;
    place.define("tame", &disk(&image, "vda", ""))?;
    let virsh = place.virsh();
    let refused = virsh.refused(&["start", "tame"])?;
    ensure!(refused.contains("injected refusal"), "{refused}");
    place.nothing_is_left("tame")?;
    wait_until("the image is free", SOON, || {
        lock_on(&image).is_ok_and(|l| l == '-')
    })?;
    virsh.ok(&["start", "--paused", "tame"])?;
    let refused = virsh.refused(&["resume", "tame"])?;
    ensure!(
        refused.contains("injected refusal") && virsh.state("tame")? == "paused",
        "{refused}"
    );
    ensure!(lock_on(&image)? == '-');
    Ok(())
}

#[test]
fn what_is_asked_for_and_can_not_be_had_is_refused_at_the_start() -> Result<()> {
    for (line, words) in [
        (
            "lock_manager = \"sanlock\"",
            "\"sanlock\" is not supported; set \"lockd\", or \"nop\"",
        ),
        (
            "lock_manager = \"lockd\"",
            "qemu-lockd.conf:1: auto_disk_leases: expected 0 or 1",
        ),
    ] {
        let mut sandbox = Sandbox::new(daemon())?;
        let conf = sandbox.path("etc/libvirt");
        fs::create_dir_all(&conf)?;
        fs::write(conf.join("qemu.conf"), line)?;
        fs::write(conf.join("qemu-lockd.conf"), "auto_disk_leases = 3\n")?;
        let refused = sandbox
            .start()
            .err()
            .map(|error| format!("{error:#}"))
            .unwrap_or_default();
        ensure!(refused.contains(words), "{line}: {refused}");
    }
    Ok(())
}
