//! Internal snapshots of guests with real images: what they hold is what was there, and what is told of them is so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use pb::StateReason as Reason;
use testkit::counter::{self, Counter};
use testkit::skip::can_run_guests;
use testkit::{Daemon, Sandbox};
use tonic::Code;
use virtqemud_client::proto as pb;

use crate::grpc::{Answer, Grpc, QEMU, by_name, daemon, refused, small};

/// A daemon, a guest "g" and its two images.
pub(crate) struct Stage {
    pub(crate) sandbox: Sandbox,
    pub(crate) grpc: Grpc,
    _dir: tempfile::TempDir,
    pub(crate) images: [PathBuf; 2],
    /// Of a guest that counts.
    pub(crate) counter: Counter,
}

pub(crate) fn run(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .context(program.to_owned())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{program} {args:?}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said)
}

impl Stage {
    /// None where guests can't be run.
    pub(crate) async fn set() -> Result<Option<Self>> {
        Self::under(daemon()).await
    }

    /// The same with a daemon of one's own.
    pub(crate) async fn under(daemon: Daemon) -> Result<Option<Self>> {
        if !can_run_guests() {
            return Ok(None);
        }
        let dir = tempfile::tempdir()?;
        let image = |name: &str| dir.path().join(name);
        let images = [image("a.qcow2"), image("b.qcow2")];
        for image in &images {
            let path = image.to_string_lossy();
            run("qemu-img", &["create", "-q", "-f", "qcow2", &path, "8M"])?;
        }
        let sandbox = Sandbox::started(daemon)?;
        let grpc = Grpc::of(&sandbox).await?;
        grpc.define(&document(&images)).await?;
        Ok(Some(Self {
            counter: Counter::new(sandbox.dir().join("count.log")),
            sandbox,
            grpc,
            _dir: dir,
            images,
        }))
    }

    /// The same with a guest that counts.
    pub(crate) async fn counting() -> Result<Self> {
        let stage = Self::set().await?.context("guests can't be run")?;
        let document = stage.counter.within(&document(&stage.images))?;
        stage.defined_as(&document).await?;
        Ok(stage)
    }

    /// Gives the guest another document.
    pub(crate) async fn defined_as(&self, document: &str) -> Result<()> {
        let uuid = self.grpc.get("g").await?.uuid;
        let named = format!("<name>g</name><uuid>{uuid}</uuid>");
        self.grpc
            .define(&document.replace("<name>g</name>", &named))
            .await?;
        Ok(())
    }

    /// The guest goes on counting, and its disks have what it was told is written, `least` or more.
    pub(crate) async fn counts(&self, least: u32) -> Result<()> {
        let told = self.counter.goes_on()?;
        for top in self.tops().await? {
            counter::holds(Path::new(&top), "qcow2", told.last.max(least))?;
        }
        Ok(())
    }

    /// Starts the guest, which finds what it was told is written.
    pub(crate) async fn starts_with(&self, least: u32) -> Result<()> {
        let told = self.counter.told()?;
        self.grpc.start("g").await?;
        self.counter.found(&told, least)
    }

    /// Fills the beginning of an image of a guest that is off.
    pub(crate) fn write(&self, image: usize, pattern: u8) -> Result<()> {
        let command = format!("write -P {pattern} 0 64k");
        run(
            "qemu-io",
            &["-c", &command, &self.images[image].to_string_lossy()],
        )
        .map(drop)
    }

    /// Whether the beginning of an image has this pattern.
    pub(crate) fn has(&self, image: usize, pattern: u8) -> Result<bool> {
        holds(&self.images[image], pattern)
    }

    /// The same for the first image of a running guest.
    pub(crate) async fn disk_has(&self, pattern: u8) -> Result<bool> {
        self.disk("flush").await?;
        self.has(0, pattern)
    }

    /// Has QEMU do something to the first disk of the running guest.
    pub(crate) async fn disk(&self, command: &str) -> Result<String> {
        // Through the device: a node by itself may not be written to beside it.
        let line = format!("qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend \"{command}\"");
        self.hmp(&line).await
    }

    pub(crate) async fn hmp(&self, line: &str) -> Result<String> {
        let request = pb::ExecuteRequest {
            domain: by_name("g"),
            command: line.to_owned(),
            human: true,
            ..Default::default()
        };
        Ok(self.grpc.monitor().execute(request).await?.into_inner().reply)
    }

    /// QEMU's answer to a command.
    pub(crate) async fn qmp(&self, command: &str) -> Result<String> {
        let request = pb::ExecuteRequest {
            domain: by_name("g"),
            command: command.to_owned(),
            ..Default::default()
        };
        Ok(self.grpc.monitor().execute(request).await?.into_inner().reply)
    }

    pub(crate) async fn create(
        &self,
        inside: &str,
        change: impl FnOnce(&mut pb::CreateSnapshotRequest),
    ) -> Answer<pb::Snapshot> {
        let mut request = pb::CreateSnapshotRequest {
            domain: by_name("g"),
            xml: format!("<domainsnapshot>{inside}</domainsnapshot>"),
            ..Default::default()
        };
        change(&mut request);
        let made = self.grpc.snapshots().create(request).await?.into_inner();
        Ok(made.snapshot.unwrap_or_default())
    }

    pub(crate) async fn named(&self, name: &str) -> Answer<pb::Snapshot> {
        self.create(&format!("<name>{name}</name>"), |_| {}).await
    }

    pub(crate) async fn revert(
        &self,
        name: &str,
        change: impl FnOnce(&mut pb::RevertSnapshotRequest),
    ) -> Answer<pb::Domain> {
        let mut request = pb::RevertSnapshotRequest {
            domain: by_name("g"),
            name: name.to_owned(),
            ..Default::default()
        };
        change(&mut request);
        Ok(self.grpc.snapshots().revert(request).await?.into_inner())
    }

    pub(crate) async fn delete(
        &self,
        name: &str,
        change: impl FnOnce(&mut pb::DeleteSnapshotRequest),
    ) -> Answer<pb::Domain> {
        let mut request = pb::DeleteSnapshotRequest {
            domain: by_name("g"),
            name: name.to_owned(),
            ..Default::default()
        };
        change(&mut request);
        Ok(self.grpc.snapshots().delete(request).await?.into_inner())
    }

    /// Names with their parents, a star at the current one.
    pub(crate) async fn tree(&self) -> Result<String> {
        let request = pb::ListSnapshotsRequest {
            domain: by_name("g"),
            ..Default::default()
        };
        let found = self.grpc.snapshots().list(request).await?.into_inner();
        let shown = found.snapshots.iter().map(|s| {
            let star = if s.current { "*" } else { "" };
            format!("{}{star}<{}", s.name, s.parent)
        });
        Ok(shown.collect::<Vec<_>>().join(" "))
    }

    pub(crate) async fn xml(&self, name: &str) -> Result<String> {
        let request = pb::GetSnapshotXmlRequest {
            domain: by_name("g"),
            name: name.to_owned(),
            secure: true,
        };
        Ok(self.grpc.snapshots().get_xml(request).await?.into_inner().xml)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.sandbox
            .path(format!("/var/lib/libvirt/qemu/snapshot/g/{name}.xml"))
    }

    /// Names of the snapshots in an image.
    pub(crate) fn in_image(&self, image: usize) -> Result<Vec<String>> {
        let path = self.images[image].to_string_lossy();
        let said = run("qemu-img", &["info", "-U", "--output=json", &path])?;
        let info: serde_json::Value = serde_json::from_str(&said)?;
        let all = info
            .get("snapshots")
            .and_then(|all| all.as_array())
            .cloned()
            .unwrap_or_default();
        Ok(all
            .iter()
            .filter_map(|s| Some(s.get("name")?.as_str()?.to_owned()))
            .collect())
    }
}

pub(crate) fn document(images: &[PathBuf; 2]) -> String {
    let disk = |target: &str, path: &Path| {
        format!(
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>\
             <target dev='{target}' bus='virtio'/></disk>",
            path.display()
        )
    };
    let disks = format!("{}{}</devices>", disk("vda", &images[0]), disk("vdb", &images[1]));
    small("g", Path::new(QEMU), "").replace("</devices>", &disks)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_off_goes_back_to_what_its_disks_held() -> Result<()> {
    let Some(stage) = Stage::set().await? else {
        return Ok(());
    };
    let mut watch = stage.grpc.watch_kinds(&[pb::EventKind::Lifecycle]).await?;
    stage.write(0, 1)?;
    stage.write(1, 1)?;
    let one = stage
        .create(
            "<name>one</name><description>first &amp; last</description>",
            |_| {},
        )
        .await?;
    assert_eq!(
        (one.state(), one.current, one.external),
        (pb::SnapshotState::Shutoff, true, false)
    );
    stage.write(0, 2)?;
    stage.write(1, 2)?;
    stage.named("two").await?;
    assert_eq!(stage.tree().await?, "one< two*<one");
    assert!(fs::read_to_string(stage.file("one"))?.contains("<active>0</active>"));
    refused(stage.named("two").await, Code::Internal, "OPERATION_FAILED")?;
    stage.revert("one", |_| {}).await?;
    watch.expect(&["defined/3"]).await?;
    assert!(
        stage.has(0, 1)? && stage.has(1, 1)?,
        "the disks hold something else"
    );
    assert_eq!(stage.tree().await?, "one*< two<one");
    assert_eq!(stage.grpc.state("g").await?, Reason::ShutoffFromSnapshot);
    let started = stage.revert("two", |r| r.running = true).await?;
    assert_eq!(started.reason(), Reason::RunningBooted);
    watch.expect(&["resumed/0", "started/3", "defined/3"]).await?;
    stage.grpc.power_off("g").await?;
    assert!(stage.has(0, 2)? && stage.has(1, 2)?);

    stage.grpc.rename("g", "h").await?;
    stage.grpc.rename("h", "g").await?;
    assert_eq!(stage.tree().await?, "one< two*<one");
    let undefine = |snapshots| pb::UndefineRequest {
        domain: by_name("g"),
        snapshots,
        ..Default::default()
    };
    let answer = stage.grpc.domains().undefine(undefine(false)).await;
    refused(answer, Code::FailedPrecondition, "OPERATION_INVALID")?;
    stage.delete("one", |_| {}).await?;
    assert_eq!(stage.tree().await?, "two*<");
    assert_eq!(stage.in_image(1)?, ["two"]);
    stage.grpc.domains().undefine(undefine(true)).await?;
    assert!(!stage.file("two").exists(), "what is recorded of it stays");
    assert_eq!(stage.in_image(0)?, ["two"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_guest_goes_back_to_memory_and_disks() -> Result<()> {
    let Some(stage) = Stage::set().await? else {
        return Ok(());
    };
    stage.grpc.start("g").await?;
    stage.disk("write -P 1 0 64k").await?;
    let mut watch = stage.grpc.watch_kinds(&[pb::EventKind::Lifecycle]).await?;
    let one = stage.named("one").await?;
    assert_eq!((one.state(), one.current), (pb::SnapshotState::Running, true));
    watch.expect(&["suspended/0", "resumed/0"]).await?;
    stage.disk("write -P 2 0 64k").await?;
    assert!(stage.disk_has(2).await?);
    let xml = stage.xml("one").await?;
    for part in [
        "<memory snapshot='internal'/>",
        "<inactiveDomain type='qemu'>",
        "<slirpHelper/>",
    ] {
        assert!(xml.contains(part), "no {part} in {xml}");
    }
    let back = stage.revert("one", |_| {}).await?;
    assert_eq!(back.reason(), Reason::RunningFromSnapshot);
    watch
        .expect(&["shutdown/2", "stopped/6", "started/3", "resumed/2", "defined/3"])
        .await?;
    assert!(stage.disk_has(1).await?, "the disk holds something else");

    stage.grpc.suspend("g").await?;
    stage.named("two").await?;
    assert_eq!(stage.tree().await?, "one< two*<one");
    stage.create("<name>three</name>", |r| r.halt = true).await?;
    assert_eq!(stage.grpc.state("g").await?, Reason::ShutoffFromSnapshot);
    let back = stage.revert("two", |_| {}).await?;
    assert_eq!(back.reason(), Reason::PausedFromSnapshot);
    let back = stage.revert("two", |r| r.running = true).await?;
    assert_eq!(back.reason(), Reason::RunningFromSnapshot);
    stage.delete("one", |_| {}).await?;
    assert_eq!(stage.tree().await?, "two*< three<two");
    stage.delete("two", |r| r.children_only = true).await?;
    assert_eq!(stage.tree().await?, "two*<");
    assert_eq!(stage.in_image(0)?, ["two"]);
    // What is not in the images is found before the guest ends.
    stage.hmp("delvm two").await?;
    refused(
        stage.revert("two", |_| {}).await,
        Code::Internal,
        "OPERATION_FAILED",
    )?;
    assert_eq!(stage.grpc.state("g").await?, Reason::RunningFromSnapshot);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlay_takes_the_writes_and_the_documents_name_it() -> Result<()> {
    let Some(stage) = Stage::set().await? else {
        return Ok(());
    };
    let disk_only = |r: &mut pb::CreateSnapshotRequest| r.disk_only = true;
    stage.write(0, 1)?;
    let off = stage.create("<name>off</name>", disk_only).await?;
    assert_eq!((off.state(), off.external), (pb::SnapshotState::Shutoff, true));
    let overlay = |image: usize, name: &str| stage.images[image].with_extension(name);
    let xml = stage.grpc.xml("g").await?;
    assert!(
        xml.contains(&format!("<source file='{}'/>", overlay(0, "off").display())),
        "{xml}"
    );
    stage.grpc.start("g").await?;
    stage.disk("write -P 2 0 64k").await?;
    let on = stage
        .create(
            "<name>on</name><disks><disk name='vdb' snapshot='no'/></disks>",
            disk_only,
        )
        .await?;
    assert_eq!(
        (on.state(), on.parent.as_str()),
        (pb::SnapshotState::DiskSnapshot, "off")
    );
    stage.disk("write -P 3 0 64k").await?;
    stage.disk("flush").await?;
    let live = stage.grpc.xml("g").await?;
    assert!(
        live.contains(&format!("<source file='{}'", overlay(0, "on").display())),
        "{live}"
    );
    assert!(
        live.contains(&format!("<source file='{}'", overlay(1, "off").display())),
        "{live}"
    );
    assert!(holds(&stage.images[0], 1)? && holds(&overlay(0, "off"), 2)? && holds(&overlay(0, "on"), 3)?);
    // Nothing is left of what can't be made.
    let bad = "<name>bad</name><disks><disk name='vda'><source file='/nowhere/x'/></disk></disks>";
    refused(stage.create(bad, disk_only).await, Code::Internal, "SYSTEM_ERROR")?;
    assert!(!overlay(1, "bad").exists());
    refused(
        stage.create("<name>on</name>", disk_only).await,
        Code::FailedPrecondition,
        "CONFIG_UNSUPPORTED",
    )?;
    stage.grpc.power_off("g").await?;
    stage.grpc.start("g").await?;
    stage.disk("flush").await?;
    assert!(
        holds(&overlay(0, "on"), 3)?,
        "the stored configuration names another image"
    );
    Ok(())
}

/// Whether the beginning of an image has this pattern.
pub(crate) fn holds(image: &Path, pattern: u8) -> Result<bool> {
    let command = format!("read -P {pattern} 0 64k");
    let said = Command::new("qemu-io")
        .args(["-U", "-r", "-c", &command])
        .arg(image)
        .output()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(said.contains("read 65536/65536 bytes"), "not read: {said}");
    Ok(!said.contains("verification failed"))
}

/// Somebody else who has an image.
fn lock(image: &Path) -> Result<std::process::Child> {
    let mut command = Command::new("qemu-io");
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let other = piped.arg(image).spawn()?;
    testkit::wait::pause(std::time::Duration::from_millis(500));
    Ok(other)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_fails_takes_the_others_parts_along() -> Result<()> {
    let Some(stage) = Stage::set().await? else {
        return Ok(());
    };
    let mut other = lock(&stage.images[1])?;
    let answer = stage.named("one").await;
    other.kill()?;
    other.wait()?;
    let status = refused(answer, Code::Internal, "INTERNAL_ERROR")?;
    assert!(status.message().contains("lock"), "{}", status.message());
    assert_eq!(stage.in_image(0)?, Vec::<String>::new());
    assert_eq!(stage.tree().await?, "");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_watches_learns_what_becomes_of_snapshots_also_while_no_daemon_is_there() -> Result<()> {
    let Some(mut stage) = Stage::set().await? else {
        return Ok(());
    };
    let kinds = vec![pb::EventKind::Snapshot.into()];
    let mut watch = stage.grpc.watch_kinds(&[pb::EventKind::Snapshot]).await?;
    stage.named("a").await?;
    watch.expect(&["created a*<"]).await?;
    stage.named("b").await?;
    watch.expect(&["changed a<", "created b*<a"]).await?;
    stage.revert("a", |_| {}).await?;
    watch.expect(&["changed a*<", "changed b<a"]).await?;
    stage.delete("a", |_| {}).await?;
    watch.expect(&["deleted a<", "changed b<"]).await?;
    let since = stage.grpc.get("g").await?.version;
    stage.sandbox.kill()?;
    fs::remove_file(stage.file("b"))?;
    stage.sandbox.start()?;
    stage.grpc = Grpc::of(&stage.sandbox).await?;
    let resumed = pb::WatchRequest {
        since_version: since,
        kinds,
        ..Default::default()
    };
    let mut watch = stage.grpc.watch_for(resumed).await?;
    watch.expect(&["deleted b<"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_recorded_outlives_the_daemon_and_a_broken_file_hurts_nothing() -> Result<()> {
    let Some(mut stage) = Stage::set().await? else {
        return Ok(());
    };
    for name in ["a", "b", "c"] {
        stage.named(name).await?;
    }
    let trial = stage
        .create("<name>d</name>", |r| {
            r.options = Some(pb::MutationOptions {
                validate_only: true,
                ..Default::default()
            });
        })
        .await?;
    assert_eq!((trial.name.as_str(), stage.in_image(0)?.len()), ("d", 3));
    let redefined = stage
        .xml("b")
        .await?
        .replace("<name>b</name>", "<name>b</name><description>new</description>");
    let redefine = |xml: String| pb::CreateSnapshotRequest {
        domain: by_name("g"),
        xml,
        redefine: true,
        ..Default::default()
    };
    stage.grpc.snapshots().create(redefine(redefined.clone())).await?;
    assert!(stage.xml("b").await?.contains("<description>new</description>"));
    let looped = redefined.replace("<name>a</name>", "<name>c</name>");
    let answer = stage.grpc.snapshots().create(redefine(looped)).await;
    refused(answer, Code::InvalidArgument, "INVALID_ARG")?;
    let broken = stage.file("broken");
    fs::write(&broken, "<domainsnapshot>")?;
    stage.sandbox.stop()?;
    stage.sandbox.start()?;
    stage.grpc = Grpc::of(&stage.sandbox).await?;
    assert_eq!(stage.tree().await?, "a< b<a c*<b");
    refused(stage.named("broken").await, Code::Internal, "OPERATION_FAILED")?;
    assert_eq!(
        stage.in_image(1)?.len(),
        3,
        "the images keep what came to nothing"
    );
    stage.delete("a", |r| r.children = true).await?;
    assert_eq!(
        (stage.tree().await?, stage.in_image(0)?.len()),
        (String::new(), 0)
    );
    assert_eq!(fs::read_to_string(&broken)?, "<domainsnapshot>");
    Ok(())
}

/// Where firmware is that nobody runs, and its variables.
async fn with_firmware(stage: &Stage, template: &Path, template_format: &str) -> Result<(String, PathBuf)> {
    let code = stage.sandbox.dir().join("code.fd");
    fs::write(&code, [0; 4096])?;
    let variables = stage.sandbox.dir().join("variables");
    let system = format!(
        "<loader readonly='yes' type='pflash'>{}</loader>\
         <nvram template='{}' templateFormat='{template_format}' format='qcow2'>{}</nvram></os><features><acpi/></features>",
        code.display(),
        template.display(),
        variables.display()
    );
    let known = format!("<name>g</name><uuid>{}</uuid>", stage.grpc.get("g").await?.uuid);
    let document = document(&stage.images).replace("<name>g</name>", &known);
    Ok((document.replace("</os>", &system), variables))
}

#[tokio::test(flavor = "multi_thread")]
async fn firmware_variables_that_are_not_there_yet_are_made_for_a_snapshot() -> Result<()> {
    let Some(mut stage) = Stage::set().await? else {
        return Ok(());
    };
    let template = stage.sandbox.dir().join("template");
    run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", &template.to_string_lossy(), "1M"],
    )?;
    // What they can't be made from is refused before an image has anything.
    let (other, variables) = with_firmware(&stage, &template, "raw").await?;
    stage.grpc.define(&other).await?;
    let answer = stage.named("one").await;
    refused(answer, Code::Unimplemented, "OPERATION_UNSUPPORTED")?;
    assert!(stage.in_image(0)?.is_empty() && !variables.exists());

    let (good, variables) = with_firmware(&stage, &template, "qcow2").await?;
    stage.grpc.define(&good).await?;
    stage.named("one").await?;
    stage.images[1] = variables.clone();
    assert_eq!(stage.in_image(1)?, ["one"]);
    // An image that fails takes along variables that were made for it.
    fs::remove_file(&variables)?;
    let mut other = lock(&stage.images[0].with_file_name("b.qcow2"))?;
    let answer = stage.named("two").await;
    other.kill()?;
    other.wait()?;
    refused(answer, Code::Internal, "INTERNAL_ERROR")?;
    assert!(!variables.exists() && stage.in_image(0)? == ["one"]);

    stage.named("two").await?;
    run(
        "qemu-img",
        &["snapshot", "-d", "two", &variables.to_string_lossy()],
    )?;
    stage.write(0, 7)?;
    // Nothing goes back if not all can.
    assert!(stage.revert("two", |_| {}).await.is_err());
    assert!(stage.has(0, 7)?, "a disk has gone back");
    stage.delete("two", |_| {}).await?;
    assert_eq!(stage.in_image(0)?, ["one"]);
    Ok(())
}
