//! External snapshots of guests with real images: removed, gone back to, with memory. What images hold is compared with
//! what was written, by way of the whole chain.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use pb::StateReason as Reason;
use testkit::skip::can_run_guests;
use testkit::{Daemon, Sandbox, libvirtd, wait_until};
use tonic::Code;
use virtqemud_client::proto as pb;

use crate::grpc::{QEMU, refused, small};
use crate::snapshots::{Stage, run};

/// How long something may take that is under way.
const SOON: std::time::Duration = std::time::Duration::from_secs(20);

/// What each piece of a disk is to hold: a piece has 64 KiB.
type Pieces<'a> = &'a [u8];

pub(crate) fn overlay(stage: &Stage, image: usize, name: &str) -> PathBuf {
    stage.images[image].with_extension(name)
}

fn disk_only(request: &mut pb::CreateSnapshotRequest) {
    request.disk_only = true;
}

/// Only to be checked, or carried out.
fn checked(validate_only: bool) -> Option<pb::MutationOptions> {
    Some(pb::MutationOptions {
        validate_only,
        ..Default::default()
    })
}

fn read_of(at: usize, pattern: u8) -> String {
    format!("read -P {pattern} {}k 64k", at * 64)
}

/// An image holds this, with all below it.
pub(crate) fn image_holds(image: &Path, pieces: Pieces<'_>) -> Result<()> {
    let mut command = Command::new("qemu-io");
    command.args(["-U", "-r"]);
    for (at, pattern) in pieces.iter().enumerate() {
        command.args(["-c", &read_of(at, *pattern)]);
    }
    let output = command.arg(image).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let read = said.matches("65536/65536").count();
    ensure!(
        read == pieces.len() && !said.contains("verification failed"),
        "{} is not {pieces:?}: {said}{}",
        image.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

impl Stage {
    /// Writes a piece of a disk, running or off.
    pub(crate) async fn write_piece(&self, at: usize, pattern: u8) -> Result<()> {
        let command = format!("write -P {pattern} {}k 64k", at * 64);
        if self.grpc.get("g").await?.id != 0 {
            self.disk(&command).await?;
            self.disk("flush").await?;
            return Ok(());
        }
        let image = self.top().await?;
        run("qemu-io", &["-c", &command, &image.to_string_lossy()]).map(drop)
    }

    /// The image that the first disk is on.
    pub(crate) async fn top(&self) -> Result<PathBuf> {
        let xml = self.grpc.xml("g").await?;
        let from = xml.find("<source file='").context("no source")? + 14;
        let end = xml[from..].find('\'').context("no source")?;
        Ok(xml[from..from + end].into())
    }

    /// The first disk of the guest holds this.
    pub(crate) async fn pieces(&self, pieces: Pieces<'_>) -> Result<()> {
        if self.grpc.get("g").await?.id != 0 {
            // What QEMU has is in the images then.
            self.disk("flush").await?;
        }
        image_holds(&self.top().await?, pieces)
    }

    /// The files of the first image's directory that are its or on top of it, by their endings.
    pub(crate) fn endings(&self) -> Result<Vec<String>> {
        let dir = self.images[0].parent().context("no directory")?;
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            found.extend(name.strip_prefix("a.").map(str::to_owned));
        }
        found.sort();
        Ok(found)
    }

    /// A snapshot of the disks alone.
    pub(crate) async fn of_disks(&self, name: &str) -> Result<()> {
        let inside = format!("<name>{name}</name>");
        self.create(&inside, disk_only).await?;
        Ok(())
    }

    /// A snapshot with memory in a file.
    pub(crate) async fn with_memory(&self, name: &str, live: bool) -> Result<PathBuf> {
        let file = overlay(self, 0, "").with_file_name(format!("{name}.mem"));
        let inside = format!(
            "<name>{name}</name><memory snapshot='external' file='{}'/>",
            file.display()
        );
        self.create(&inside, |r| r.live = live).await?;
        Ok(file)
    }

    /// The count of the guest's timer, which its memory has.
    async fn ticks(&self) -> Result<u64> {
        let said = self.hmp("xp /1dw 0x46c").await?;
        let last = said.split_whitespace().last().context("nothing")?;
        Ok(last.parse()?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_snapshot_leaves_what_the_disks_hold() -> Result<()> {
    let Some(stage) = Stage::set().await? else {
        return Ok(());
    };
    for runs in [true, false] {
        stage.write(0, 0)?;
        if runs {
            stage.grpc.start("g").await?;
        }
        for (at, name) in ["s1", "s2", "s3"].iter().enumerate() {
            stage.write_piece(at, u8::try_from(at)? + 1).await?;
            stage.of_disks(name).await?;
        }
        stage.write_piece(3, 4).await?;
        let held: Pieces<'_> = &[1, 2, 3, 4];
        stage.pieces(held).await?;
        let before = stage.endings()?;
        stage.delete("s2", |r| r.options = checked(true)).await?;
        ensure!(stage.endings()? == before, "a trial has done something");
        // In the middle, the first, the one that the guest writes to.
        stage.delete("s2", |_| {}).await.context("s2")?;
        assert_eq!(stage.tree().await?, "s1< s3*<s1");
        assert_eq!(stage.endings()?, ["qcow2", "s1", "s3"]);
        stage.pieces(held).await.context("s2")?;
        let xml = stage.xml("s3").await?;
        ensure!(
            xml.contains("a.s1'") && !xml.contains("a.s2'"),
            "the document of s3: {xml}"
        );
        stage.delete("s1", |_| {}).await.context("s1")?;
        stage.pieces(held).await.context("s1")?;
        stage.delete("s3", |_| {}).await.context("s3")?;
        stage.pieces(held).await.context("s3")?;
        assert_eq!(
            (stage.tree().await?, stage.endings()?),
            (String::new(), vec!["qcow2".into()])
        );
        let state = stage.grpc.get("g").await?;
        if runs {
            ensure!(state.state() == pb::State::Running, "{:?}", state.state());
            let jobs = stage.qmp("{\"execute\":\"query-jobs\"}").await?;
            ensure!(jobs.replace(' ', "").contains("\"return\":[]"), "{jobs}");
            stage.grpc.power_off("g").await?;
        } else {
            ensure!(state.state() == pb::State::Shutoff, "{:?}", state.state());
        }
        image_holds(&stage.images[0], held)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_goes_back_to_what_its_disks_and_its_memory_held() -> Result<()> {
    let Some(stage) = Stage::set().await? else {
        return Ok(());
    };
    stage.grpc.start("g").await?;
    stage.write_piece(0, 1).await?;
    stage.grpc.suspend("g").await?;
    let then = stage.ticks().await?;
    let file = stage.with_memory("m", false).await?;
    stage.grpc.resume("g").await?;
    stage.write_piece(0, 2).await?;
    stage.of_disks("d").await?;
    stage.write_piece(0, 3).await?;
    let mut watch = stage.grpc.watch_kinds(&[pb::EventKind::Lifecycle]).await?;
    stage
        .revert("m", |r| r.options = checked(true))
        .await
        .context("a trial")?;
    assert_eq!(stage.grpc.state("g").await?, Reason::RunningUnpaused);
    // Without memory: off, on overlays of its own.
    stage.revert("d", |_| {}).await?;
    watch.expect(&["shutdown/2", "stopped/6", "defined/3"]).await?;
    assert_eq!(stage.grpc.state("g").await?, Reason::ShutoffFromSnapshot);
    stage.pieces(&[2]).await?;
    ensure!(
        !overlay(&stage, 0, "d").exists(),
        "the overlay that was left is there"
    );
    assert_eq!(stage.tree().await?, "m< d*<m");
    stage.write_piece(0, 4).await?;
    let back = stage.revert("d", |r| r.running = true).await?;
    assert_eq!(back.reason(), Reason::RunningBooted);
    watch.expect(&["resumed/0", "started/3", "defined/3"]).await?;
    stage.pieces(&[2]).await?;
    // With memory: as it stood.
    let back = stage.revert("m", |_| {}).await?;
    assert_eq!(back.reason(), Reason::PausedFromSnapshot);
    watch
        .expect(&["shutdown/2", "stopped/6", "started/3", "suspended/5", "defined/3"])
        .await?;
    assert_eq!(stage.ticks().await?, then);
    stage.pieces(&[1]).await?;
    ensure!(
        stage.xml("m").await?.contains("<revertDisks>"),
        "it has a follower"
    );
    ensure!(
        overlay(&stage, 0, "m").exists(),
        "what follows has lost its image"
    );
    // QEMU has its images as their last owner left them until its CPUs run.
    stage.grpc.resume("g").await?;
    stage.write_piece(0, 5).await?;
    let back = stage.revert("m", |r| r.running = true).await?;
    assert_eq!(back.reason(), Reason::RunningFromSnapshot);
    stage.pieces(&[1]).await?;
    // What follows from it goes, and then it itself: what the guest has stays.
    stage.write_piece(0, 6).await?;
    stage.delete("d", |_| {}).await?;
    ensure!(
        !overlay(&stage, 0, "m").exists(),
        "an image that nobody has is there"
    );
    ensure!(!stage.xml("m").await?.contains("<revertDisks>"));
    stage.delete("m", |_| {}).await?;
    ensure!(!file.exists(), "the memory is there");
    stage.pieces(&[6]).await?;
    assert_eq!(stage.endings()?, ["qcow2"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_needed_is_looked_at_while_the_guest_runs() -> Result<()> {
    let Some(stage) = Stage::set().await? else {
        return Ok(());
    };
    stage.grpc.start("g").await?;
    let file = stage.with_memory("m", true).await?;
    stage.of_disks("d").await?;
    for (name, lost) in [("m", &file), ("d", &stage.images[1])] {
        let aside = lost.with_extension("aside");
        std::fs::rename(lost, &aside)?;
        for validate_only in [true, false] {
            let answer = stage.revert(name, |r| r.options = checked(validate_only)).await;
            refused(answer, Code::Internal, "SYSTEM_ERROR").with_context(|| name.to_owned())?;
        }
        assert_eq!(stage.grpc.state("g").await?, Reason::RunningUnpaused);
        std::fs::rename(&aside, lost)?;
    }
    // A file that can't be made takes nothing along, and the guest runs.
    let bad = "<name>bad</name><memory snapshot='external' file='/nowhere/x'/>";
    refused(stage.create(bad, |_| {}).await, Code::Internal, "SYSTEM_ERROR")?;
    assert_eq!(stage.grpc.state("g").await?, Reason::RunningUnpaused);
    ensure!(!overlay(&stage, 0, "bad").exists());
    let both = "<name>bad</name><memory snapshot='external' file='/tmp/x'/><disks><disk name='vda' snapshot='internal'/></disks>";
    let answer = stage.create(both, |r| r.options = checked(true)).await;
    refused(answer, Code::FailedPrecondition, "CONFIG_UNSUPPORTED")?;
    // An internal snapshot in an overlay does not go with it.
    stage.named("in").await?;
    for validate_only in [true, false] {
        let answer = stage.delete("d", |r| r.options = checked(validate_only)).await;
        refused(answer, Code::Unimplemented, "OPERATION_UNSUPPORTED")?;
    }
    let answer = stage.delete("m", |r| r.children = true).await;
    refused(answer, Code::FailedPrecondition, "CONFIG_UNSUPPORTED")?;
    stage.delete("m", |_| {}).await?;
    assert_eq!(stage.tree().await?, "d< in*<d");
    Ok(())
}

/// One guest under both daemons, in one directory.
struct Pair {
    sandbox: Sandbox,
    _dir: tempfile::TempDir,
    image: PathBuf,
}

impl Pair {
    fn set(reference: Daemon) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let image = dir.path().join("a.qcow2");
        let path = image.to_string_lossy().into_owned();
        run("qemu-img", &["create", "-q", "-f", "qcow2", &path, "8M"])?;
        let sandbox = Sandbox::new(reference)?;
        Ok(Self {
            sandbox,
            _dir: dir,
            image,
        })
    }

    fn ask(&self, words: &[&str]) -> Result<String> {
        self.sandbox.virsh().ok(words).with_context(|| words.join(" "))
    }

    fn write(&self, pattern: u8) -> Result<()> {
        let line = format!(
            "qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend \"write -P {pattern} 0 64k\""
        );
        self.ask(&["qemu-monitor-command", "g", "--hmp", &line]).map(drop)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn either_daemon_goes_on_with_the_others_snapshots() -> Result<()> {
    let Some(reference) = libvirtd().filter(|_| can_run_guests()) else {
        return Ok(());
    };
    let ours = || Daemon::virtqemud(env!("CARGO_BIN_EXE_virtqemud"));
    let mut pair = Pair::set(reference)?;
    pair.sandbox.start()?;
    let path = pair.image.to_string_lossy().into_owned();
    let disk = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{path}'/>\
         <target dev='vda' bus='virtio'/></disk></devices>"
    );
    let text = small("g", Path::new(QEMU), "").replace("</devices>", &disk);
    let file = pair.image.with_file_name("g.xml");
    std::fs::write(&file, text)?;
    pair.ask(&["define", &file.to_string_lossy()])?;
    pair.ask(&["start", "g"])?;
    let memory = |name: &str| {
        format!(
            "file={}",
            pair.image.with_extension(format!("{name}.mem")).display()
        )
    };
    let spec = memory("l1");
    pair.write(1)?;
    pair.ask(&["snapshot-create-as", "g", "l1", "--memspec", &spec])?;
    pair.write(2)?;
    pair.ask(&["snapshot-create-as", "g", "l2", "--disk-only"])?;
    pair.write(3)?;
    let spec = memory("o1");
    pair.sandbox.replace(ours())?;
    pair.ask(&["snapshot-create-as", "g", "o1", "--memspec", &spec])?;
    pair.write(4)?;
    pair.ask(&["snapshot-revert", "g", "l1"])?;
    let state = pair.ask(&["domstate", "g", "--reason"])?;
    ensure!(state.contains("running"), "{state}");
    let Some(reference) = libvirtd() else {
        return Ok(());
    };
    pair.sandbox.replace(reference)?;
    pair.ask(&["snapshot-revert", "g", "o1"])?;
    let state = pair.ask(&["domstate", "g", "--reason"])?;
    ensure!(state.contains("running"), "{state}");
    pair.ask(&["destroy", "g"])?;
    let xml = pair.ask(&["dumpxml", "g"])?;
    let from = xml.find("<source file='").context("no source")? + 14;
    let end = xml[from..].find('\'').context("no source")?;
    image_holds(Path::new(&xml[from..from + end]), &[3])?;
    pair.sandbox.replace(ours())?;
    pair.ask(&["snapshot-delete", "g", "o1"])?;
    pair.ask(&["snapshot-delete", "g", "l2"])?;
    let xml = pair.ask(&["dumpxml", "g"])?;
    let from = xml.find("<source file='").context("no source")? + 14;
    let end = xml[from..].find('\'').context("no source")?;
    image_holds(Path::new(&xml[from..from + end]), &[3])?;
    Ok(())
}

/// Has snapshots' memory stored in a format.
fn stored_as(sandbox: &Sandbox, format: &str) -> Result<()> {
    let conf = sandbox.path("/etc/libvirt/qemu.conf");
    std::fs::create_dir_all(conf.parent().context("no directory")?)?;
    let text = "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\nstdio_handler = \"file\"\n";
    Ok(std::fs::write(
        &conf,
        format!("{text}snapshot_image_format = \"{format}\"\n"),
    )?)
}

#[test]
fn memory_in_any_format_is_gone_back_to() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut sandbox = Sandbox::new(Daemon::virtqemud(env!("CARGO_BIN_EXE_virtqemud")))?;
    for format in ["raw", "gzip", "sparse"] {
        stored_as(&sandbox, format)?;
        sandbox.start()?;
        crate::saves::guest(&sandbox)?;
        let virsh = sandbox.virsh();
        virsh.ok(&["start", "g"])?;
        let file = format!("file={}", sandbox.dir().join(format).display());
        virsh.ok(&["snapshot-create-as", "g", format, "--memspec", &file])?;
        let head = std::fs::read(sandbox.dir().join(format))?;
        ensure!(head.starts_with(b"LibvirtQemudSave"), "{format}: not complete");
        virsh.ok(&["destroy", "g"])?;
        virsh.ok(&["snapshot-revert", "g", format]).context(format)?;
        let state = virsh.ok(&["domstate", "g", "--reason"])?;
        ensure!(state.contains("running (from snapshot)"), "{format}: {state}");
        virsh.ok(&["destroy", "g"])?;
        virsh.ok(&["snapshot-delete", "g", format])?;
        ensure!(
            !sandbox.dir().join(format).exists(),
            "{format}: its file is there"
        );
        virsh.ok(&["undefine", "g"])?;
        sandbox.stop()?;
    }
    Ok(())
}

#[test]
fn memory_that_is_not_wanted_any_more_leaves_the_guest_running() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let (daemon, _dir) = crate::saves::slow(30)?;
    let mut sandbox = Sandbox::new(daemon)?;
    stored_as(&sandbox, "gzip")?;
    sandbox.start()?;
    crate::saves::guest(&sandbox)?;
    let virsh = sandbox.virsh();
    virsh.ok(&["start", "g"])?;
    let image = sandbox.dir().join("memory");
    let file = format!("file={}", image.display());
    let begin = |sandbox: &Sandbox| -> Result<std::process::Child> {
        let words = ["snapshot-create-as", "g", "m", "--memspec", &file];
        let child = sandbox.virsh().spawn(&words)?;
        wait_until("the memory being written", SOON, || {
            let state = sandbox.virsh().ok(&["domstate", "g", "--reason"]);
            state.is_ok_and(|state| state.contains("paused (creating snapshot)")) && image.exists()
        })?;
        Ok(child)
    };
    let mut child = begin(&sandbox)?;
    let info = virsh.ok(&["domjobinfo", "g"])?;
    ensure!(info.contains("Unbounded") && info.contains("Snapshot"), "{info}");
    let status = std::fs::read_to_string(sandbox.path("/run/libvirt/qemu/g.xml"))?;
    let job = "<job type='none' async='snapshot' flags='0x0' asyncStarted='";
    ensure!(status.contains(job), "{status}");
    virsh.ok(&["domjobabort", "g"])?;
    ensure!(!child.wait()?.success(), "it was cancelled");
    let at_rest = |sandbox: &Sandbox| {
        let state = sandbox.virsh().ok(&["domstate", "g", "--reason"]);
        state.is_ok_and(|state| state.contains("running"))
    };
    ensure!(at_rest(&sandbox) && !image.exists());
    ensure!(virsh.ok(&["snapshot-list", "g", "--name"])?.trim().is_empty());
    let _child = begin(&sandbox)?;
    sandbox.kill()?;
    sandbox.start()?;
    wait_until("the guest going on", SOON, || at_rest(&sandbox))?;
    wait_until("the file going", SOON, || !image.exists())?;
    let status = std::fs::read_to_string(sandbox.path("/run/libvirt/qemu/g.xml"))?;
    ensure!(!status.contains("<job"), "{status}");
    Ok(())
}
