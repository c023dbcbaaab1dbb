//! Jobs that move the blocks of a running guest's disk: in a real QEMU, with the documents, its nodes and what is on the
//! images compared after each; over a killed daemon; refused; and taken over from libvirt's own daemon and given back.
//!
//! Each image of the chain has a pattern of its own, and the top one is written to while a job is at work, so that a block
//! that a job loses shows.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use testkit::skip::can_run_guests;
use testkit::{Daemon, Sandbox, Virsh, libvirtd, wait_until};
use virtqemud_client::proto as pb;

use crate::grpc::{Grpc, by_name, daemon, refused};

const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const SOON: Duration = Duration::from_secs(30);
/// Bytes of each image's own pattern.
pub(crate) const PART: u64 = 1 << 20;
/// What the images of the chain are filled with, the lowest first, and what is written while a job is at work.
const CHAIN: [(&str, u8); 4] = [("base", 0x11), ("mid", 0x22), ("top", 0x33), ("a", 0x44)];
pub(crate) const LATE: u8 = 0x55;

/// A guest with a chain of four images, in a sandbox.
pub(crate) struct Place {
    pub(crate) sandbox: Sandbox,
}

pub(crate) fn run(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output()?;
    ensure!(
        output.status.success(),
        "{program} {}: {}{}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Place {
    pub(crate) fn new(daemon: Daemon) -> Result<Self> {
        let place = Self {
            sandbox: Sandbox::new(daemon)?,
        };
        place.make_images()?;
        Ok(place)
    }

    /// Makes the images of the chain.
    pub(crate) fn make_images(&self) -> Result<()> {
        let place = self;
        let mut below: Option<PathBuf> = None;
        for (at, (name, pattern)) in CHAIN.into_iter().enumerate() {
            let path = place.image(name);
            let shown = path.display().to_string();
            match &below {
                None => run("qemu-img", &["create", "-q", "-f", "qcow2", &shown, "8M"])?,
                Some(below) => {
                    let below = below.display().to_string();
                    run(
                        "qemu-img",
                        &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &below, &shown],
                    )?
                }
            };
            let write = format!("write -P {pattern} {} {PART}", at as u64 * PART);
            run("qemu-io", &["-f", "qcow2", "-c", &write, &shown])?;
            below = Some(path);
        }
        Ok(())
    }

    pub(crate) fn started(daemon: Daemon) -> Result<Self> {
        let mut place = Self::new(daemon)?;
        place.sandbox.start()?;
        let virsh = place.virsh();
        virsh.define(&place.xml())?;
        virsh.ok(&["start", "g", "--paused"])?;
        Ok(place)
    }

    pub(crate) fn image(&self, name: &str) -> PathBuf {
        self.sandbox.dir().join(format!("{name}.qcow2"))
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.image(name).display().to_string()
    }

    pub(crate) fn xml(&self) -> String {
        format!(
            "<domain type='qemu'><name>g</name><uuid>7b1f1e52-30d5-4e3c-9d5e-0c7f2d6b7a12</uuid>
             <memory unit='MiB'>32</memory><vcpu>1</vcpu>
             <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
             <devices><emulator>{QEMU}</emulator><controller type='usb' model='none'/><memballoon model='none'/>
             <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>
             <target dev='vda' bus='virtio'/></disk></devices></domain>",
            self.path("a")
        )
    }

    pub(crate) fn virsh(&self) -> Virsh {
        self.sandbox.virsh()
    }

    /// The images of the disk, as the document of the run has them.
    pub(crate) fn chain(&self) -> Result<Vec<String>> {
        let document = self.live()?;
        let mut names = Vec::new();
        let disk = &document.devices.disks[0];
        for layer in qemu_plan::block::Chain::of(disk).layers {
            let path = layer.path().context("an image without a path")?;
            let name = Path::new(&path).file_stem().context("a name")?;
            names.push(name.to_string_lossy().into_owned());
        }
        Ok(names)
    }

    pub(crate) fn live(&self) -> Result<domxml::Domain> {
        let text = self.virsh().ok(&["dumpxml", "g", "--security-info"])?;
        Ok(domxml::Domain::parse(&text, domxml::ParseFlags::NONE)?)
    }

    /// Path of the image that the stored configuration names.
    pub(crate) fn stored(&self) -> Result<String> {
        let text = self.virsh().ok(&["dumpxml", "g", "--inactive"])?;
        let document = domxml::Domain::parse(&text, domxml::ParseFlags::INACTIVE)?;
        let source = document.devices.disks[0].source.clone().context("a source")?;
        source.file.context("a file")
    }

    pub(crate) fn ask(&self, command: &str) -> Result<Value> {
        let answer = self.virsh().ok(&["qemu-monitor-command", "g", command])?;
        let mut answer: Value = serde_json::from_str(&answer)?;
        Ok(answer["return"].take())
    }

    /// The nodes that QEMU has, but for jobs' own.
    pub(crate) fn nodes(&self) -> Result<BTreeSet<String>> {
        let all = self.ask(r#"{"execute": "query-named-block-nodes", "arguments": {"flat": true}}"#)?;
        let names = all.as_array().context("a list")?.iter();
        let names = names.filter_map(|node| node["node-name"].as_str());
        Ok(names
            .filter(|name| name.starts_with("libvirt-"))
            .map(str::to_owned)
            .collect())
    }

    /// The nodes that the document says there are.
    pub(crate) fn expected_nodes(&self) -> Result<BTreeSet<String>> {
        let document = self.live()?;
        let layers = document.devices.disks.iter().flat_map(|disk| {
            let mirror = disk.mirror.iter();
            let mirror = mirror.flat_map(|m| qemu_plan::block::Chain::of_mirror(m).layers);
            let own = qemu_plan::block::Chain::of(disk).layers;
            own.into_iter().chain(mirror)
        });
        let mut names = BTreeSet::new();
        for layer in layers {
            let index = layer.index.context("an image without a number")?;
            names.insert(format!("libvirt-{index}-storage"));
            if layer.format == Some(domxml::devices::StorageFormat::Qcow2) {
                names.insert(format!("libvirt-{index}-format"));
            }
        }
        Ok(names)
    }

    /// QEMU has what the document says, no more, and no job.
    pub(crate) fn is_whole(&self) -> Result<()> {
        let (nodes, expected) = (self.nodes()?, self.expected_nodes()?);
        ensure!(nodes == expected, "QEMU has {nodes:?}, the document {expected:?}");
        let jobs = self.ask(r#"{"execute": "query-jobs"}"#)?;
        ensure!(
            jobs.as_array().is_some_and(Vec::is_empty),
            "jobs are left: {jobs}"
        );
        let status = std::fs::read_to_string(self.sandbox.path("/run/libvirt/qemu/g.xml"))?;
        ensure!(
            !status.contains("<blockjob "),
            "the status file has a job: {status}"
        );
        let notes = std::fs::read_dir(self.sandbox.path("/run/libvirt/qemu/virtqemud"))?;
        for note in notes {
            let name = note?.file_name().to_string_lossy().into_owned();
            ensure!(!name.starts_with("intent-"), "a note is left: {name}");
        }
        Ok(())
    }

    /// Writes to the disk as the guest would.
    pub(crate) fn write(&self, pattern: u8, offset: u64) -> Result<()> {
        self.tell_disk(&format!("write -P {pattern} {offset} {PART}"))
    }

    /// Has QEMU do something to the image that the guest writes to, in the words of qemu-io.
    pub(crate) fn tell_disk(&self, what: &str) -> Result<()> {
        let line = format!("qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend \"{what}\"");
        let said = self.virsh().ok(&["qemu-monitor-command", "g", "--hmp", &line])?;
        ensure!(!said.to_lowercase().contains("error"), "{line}: {said}");
        Ok(())
    }

    /// What the guest sees has the patterns of all images; `late`: the offset of what was written last.
    pub(crate) fn has_everything(&self, late: Option<u64>) -> Result<()> {
        // What QEMU keeps of an image's tables is not in the file before.
        self.tell_disk("flush")?;
        let (image, format) = {
            let document = self.live()?;
            let disk = &document.devices.disks[0];
            let chain = qemu_plan::block::Chain::of(disk);
            let top = chain.layers.first().context("an image")?;
            let format = top.format.context("a format")?;
            (top.path().context("a path")?, format)
        };
        for (at, (name, pattern)) in CHAIN.into_iter().enumerate() {
            let at = at as u64 * PART;
            let pattern = if late == Some(at) { LATE } else { pattern };
            let read = format!("read -P {pattern} {at} {PART}");
            let said = run(
                "qemu-io",
                &["-U", "-r", "-f", format.as_str(), "-c", &read, &image],
            )?;
            ensure!(
                !said.contains("failed"),
                "the pattern of {name} is not in {image}: {said}"
            );
        }
        if let Some(at) = late.filter(|at| *at >= CHAIN.len() as u64 * PART) {
            let read = format!("read -P {LATE} {at} {PART}");
            let said = run(
                "qemu-io",
                &["-U", "-r", "-f", format.as_str(), "-c", &read, &image],
            )?;
            ensure!(
                !said.contains("failed"),
                "what was written last is not in {image}"
            );
        }
        Ok(())
    }

    /// Waits until the disk has no job.
    pub(crate) fn settled(&self) -> Result<()> {
        wait_until("the job is over", SOON, || {
            let said = self.virsh().ok(&["blockjob", "g", "vda", "--raw"]);
            said.is_ok_and(|said| !said.contains("type="))
        })?;
        self.is_whole()
    }

    /// Waits until the job is ready.
    pub(crate) fn ready(&self) -> Result<()> {
        wait_until("the job is ready", SOON, || {
            let said = self.virsh().ok(&["dumpxml", "g"]);
            said.is_ok_and(|said| said.contains("ready='yes'"))
        })
    }
}

#[test]
fn what_is_pulled_is_whole_and_the_chain_is_shorter() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    for (base, left) in [
        (Some("mid"), vec!["a", "mid", "base"]),
        (Some("base"), vec!["a", "base"]),
        (None, vec!["a"]),
    ] {
        let place = Place::started(daemon())?;
        let virsh = place.virsh();
        let path = base.map(|base| place.path(base));
        let mut args = vec!["blockpull", "g", "vda", "--wait", "--verbose"];
        if let Some(path) = &path {
            args.extend(["--base", path]);
        }
        virsh.ok(&args)?;
        place.settled()?;
        assert_eq!(place.chain()?, left, "{base:?}");
        place.has_everything(None)?;
        assert_eq!(place.stored()?, place.path("a"));
        // A guest that starts anew finds the same.
        virsh.ok(&["destroy", "g"])?;
        virsh.ok(&["start", "g", "--paused"])?;
        assert_eq!(place.chain()?, left, "{base:?} after another start");
    }
    Ok(())
}

#[test]
fn what_is_committed_is_whole_and_files_go_if_they_are_to() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let place = Place::started(daemon())?;
    let virsh = place.virsh();
    let (top, mid) = (place.path("top"), place.path("mid"));
    virsh.ok(&["blockcommit", "g", "vda", "--top", &top, "--base", &mid, "--wait"])?;
    place.settled()?;
    assert_eq!(place.chain()?, ["a", "mid", "base"]);
    place.has_everything(None)?;
    assert!(place.image("top").exists());
    virsh.ok(&["blockcommit", "g", "vda", "--top", &mid, "--delete", "--wait"])?;
    place.settled()?;
    assert_eq!(place.chain()?, ["a", "base"]);
    assert!(!place.image("mid").exists());
    place.has_everything(None)?;
    virsh.ok(&["blockcommit", "g", "vda", "--active"])?;
    place.ready()?;
    place.write(LATE, 6 * PART)?;
    virsh.ok(&["blockjob", "g", "vda", "--abort"])?;
    place.is_whole()?;
    assert_eq!(place.chain()?, ["a", "base"]);
    place.has_everything(Some(6 * PART))?;
    virsh.ok(&["blockcommit", "g", "vda", "--active", "--wait", "--pivot"])?;
    place.settled()?;
    assert_eq!(place.chain()?, ["base"]);
    assert_eq!(place.stored()?, place.path("base"));
    place.has_everything(Some(6 * PART))?;
    place.write(LATE, 0)?;
    virsh.ok(&["destroy", "g"])?;
    virsh.ok(&["start", "g", "--paused"])?;
    assert_eq!(place.chain()?, ["base"]);
    place.has_everything(Some(0))
}

#[test]
fn a_copy_has_what_was_written_meanwhile() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let place = Place::started(daemon())?;
    let virsh = place.virsh();
    let copy = |name: &str, more: &[&str]| {
        let path = place.path(name);
        let mut args = vec!["blockcopy", "g", "vda", &path, "--transient-job"];
        args.extend(more);
        virsh.ok(&args)
    };
    // Given up: the copy stays where it is, and nothing refers to it.
    copy("given-up", &["--wait", "--finish"])?;
    place.settled()?;
    assert_eq!(place.chain()?, ["a", "top", "mid", "base"]);
    let error = copy("given-up", &[]).unwrap_err().to_string();
    assert!(
        error.contains("already exists and is not a block device"),
        "{error}"
    );
    // Only the top image is copied.
    copy("shallow", &["--shallow"])?;
    place.ready()?;
    place.write(LATE, 5 * PART)?;
    virsh.ok(&["blockjob", "g", "vda", "--pivot"])?;
    place.is_whole()?;
    assert_eq!(place.chain()?, ["shallow", "top", "mid", "base"]);
    assert_eq!(place.stored()?, place.path("shallow"));
    place.has_everything(Some(5 * PART))?;
    // All is copied, into another format, slowly, while the guest writes.
    copy(
        "whole",
        &["--format", "raw", "--bandwidth", "2", "--synchronous-writes"],
    )?;
    place.write(LATE, 6 * PART)?;
    virsh.ok(&["blockjob", "g", "vda", "--bandwidth", "0"])?;
    place.ready()?;
    place.write(LATE, 7 * PART)?;
    virsh.ok(&["blockjob", "g", "vda", "--pivot"])?;
    place.is_whole()?;
    assert_eq!(place.chain()?, ["whole"]);
    place.has_everything(Some(7 * PART))?;
    // An image that somebody made is used, with the images below it.
    let (below, upper) = (place.path("whole"), place.path("made"));
    run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &below, &upper],
    )?;
    copy("reused", &["--format", "qcow2"])?;
    place.ready()?;
    virsh.ok(&["blockjob", "g", "vda", "--pivot"])?;
    place.is_whole()?;
    assert_eq!(place.chain()?, ["reused"]);
    place.has_everything(Some(7 * PART))
}

#[test]
fn a_shallow_copy_into_an_image_that_is_there_gets_its_own_chain() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let place = Place::started(daemon())?;
    let virsh = place.virsh();
    let twin = place.path("twin");
    std::fs::copy(place.image("top"), place.image("twin"))?;
    let made = place.path("made");
    run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &twin, &made],
    )?;
    virsh.ok(&[
        "blockcopy",
        "g",
        "vda",
        &made,
        "--transient-job",
        "--shallow",
        "--reuse-external",
        "--wait",
        "--pivot",
    ])?;
    place.settled()?;
    assert_eq!(place.chain()?, ["made", "twin", "mid", "base"]);
    place.has_everything(None)
}

#[test]
fn jobs_go_on_when_the_daemon_is_killed() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut place = Place::started(daemon())?;
    let again = |place: &mut Place| -> Result<()> {
        place.sandbox.kill()?;
        place.sandbox.start()
    };
    let virsh = place.virsh();
    // One that runs on.
    virsh.ok(&["blockcommit", "g", "vda", "--active", "--bandwidth", "1"])?;
    again(&mut place)?;
    place.write(LATE, 6 * PART)?;
    let shown = virsh.ok(&["blockjob", "g", "vda", "--raw"])?;
    assert!(shown.contains("type=Active Block Commit"), "{shown}");
    virsh.ok(&["blockjob", "g", "vda", "--bandwidth", "0"])?;
    place.ready()?;
    // One that is ready, and one that becomes so while nobody looks.
    again(&mut place)?;
    virsh.ok(&["blockjob", "g", "vda", "--abort"])?;
    place.is_whole()?;
    virsh.ok(&["blockcommit", "g", "vda", "--active", "--bandwidth", "4"])?;
    place.sandbox.kill()?;
    testkit::wait::pause(Duration::from_secs(4));
    place.sandbox.start()?;
    place.ready()?;
    virsh.ok(&["blockjob", "g", "vda", "--pivot"])?;
    place.is_whole()?;
    assert_eq!(place.chain()?, ["base"]);
    place.has_everything(Some(6 * PART))?;
    // One that ends while nobody looks.
    let over = place.path("over");
    virsh.ok(&[
        "blockcopy",
        "g",
        "vda",
        &over,
        "--transient-job",
        "--wait",
        "--pivot",
    ])?;
    virsh.ok(&["destroy", "g"])?;
    run(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "qcow2",
            "-b",
            &over,
            &place.path("last"),
        ],
    )?;
    let text = virsh
        .ok(&["dumpxml", "g"])?
        .replace(&over, &place.path("last"))
        .replace("<backingStore/>", "");
    virsh.define(&text)?;
    virsh.ok(&["start", "g", "--paused"])?;
    assert_eq!(place.chain()?, ["last", "over"]);
    virsh.ok(&["blockpull", "g", "vda", "--bandwidth", "4"])?;
    place.sandbox.kill()?;
    testkit::wait::pause(Duration::from_secs(4));
    place.sandbox.start()?;
    place.settled()?;
    assert_eq!(place.chain()?, ["last"]);
    place.has_everything(Some(6 * PART))
}

#[test]
fn libvirts_daemon_and_ours_go_on_with_each_others_jobs() -> Result<()> {
    let Some(libvirtd) = libvirtd().filter(|_| can_run_guests()) else {
        return Ok(());
    };
    // table: how the job begins, whether it is swapped in, the chain afterwards.
    let jobs: [(&str, bool, &[&str]); 4] = [
        (
            "blockcommit g vda --active --shallow",
            true,
            &["top", "mid", "base"],
        ),
        (
            "blockcopy g vda DIR/copy.qcow2 --transient-job --format qcow2",
            true,
            &["copy"],
        ),
        ("blockpull g vda --bandwidth 1", false, &["a"]),
        (
            "blockcommit g vda --top DIR/mid.qcow2 --bandwidth 1",
            false,
            &["a", "top", "base"],
        ),
    ];
    for (begin, swapped, chain) in jobs {
        for (first, then) in [(libvirtd.clone(), daemon()), (daemon(), libvirtd.clone())] {
            let mut place = Place::started(first)?;
            let dir = place.sandbox.dir().display().to_string();
            let words = begin.replace("DIR", &dir);
            place.virsh().ok(&words.split(' ').collect::<Vec<_>>())?;
            if swapped {
                place.ready()?;
            }
            let what = format!("{begin}, then {}", then.socket.display());
            place.sandbox.replace(then)?;
            let virsh = place.virsh();
            match swapped {
                true => drop(
                    virsh
                        .ok(&["blockjob", "g", "vda", "--pivot"])
                        .with_context(|| what.clone())?,
                ),
                // It may have ended while nobody looked.
                false => drop(virsh.run(&["blockjob", "g", "vda", "--bandwidth", "0"])?),
            }
            wait_until("the end of the job", SOON, || {
                let said = virsh.ok(&["blockjob", "g", "vda"]);
                said.is_ok_and(|said| !said.contains("Block "))
            })
            .with_context(|| what.clone())?;
            wait_until("the documents follow", SOON, || {
                place.chain().is_ok_and(|found| found == chain)
            })
            .with_context(|| format!("{what}: {:?}", place.chain()))?;
            place.has_everything(None).with_context(|| what.clone())?;
            let expected = place.expected_nodes()?;
            assert_eq!(place.nodes()?, expected, "{what}");
        }
    }
    Ok(())
}

#[test]
fn what_can_not_be_done_is_refused_in_libvirts_words() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let place = Place::started(daemon())?;
    let virsh = place.virsh();
    let (a, mid, top) = (place.path("a"), place.path("mid"), place.path("top"));
    let refusals = |table: &[(&[&str], String)]| -> Result<()> {
        for (args, expected) in table {
            let mut all = vec![args[0], "g"];
            all.extend(&args[1..]);
            match virsh.ok(&all) {
                Ok(said) => bail!("{args:?} was accepted: {said}"),
                Err(error) => ensure!(error.to_string().contains(expected.as_str()), "{args:?}: {error}"),
            }
        }
        Ok(())
    };
    refusals(&[
        (&["blockpull", "vdz"], "disk 'vdz' not found in domain".into()),
        (
            &["blockpull", "vda", "--base", "/nosuch"],
            format!("could not find image '/nosuch' beneath '{a}' in chain for 'vda'"),
        ),
        (
            &["blockpull", "vda", "--base", &mid, "--keep-relative"],
            "can't keep relative backing relationship".into(),
        ),
        (
            &["blockpull", "vda", "--keep-relative"],
            "flag VIR_DOMAIN_BLOCK_REBASE_RELATIVE is valid only with non-null base".into(),
        ),
        (
            &["blockcommit", "vda"],
            "commit of 'vda' active layer requires active flag".into(),
        ),
        (
            &["blockcommit", "vda", "--top", &top, "--active"],
            format!("active commit requested but '{top}' is not active"),
        ),
        (
            &["blockcommit", "vda", "--active", "--shallow", "--base", &mid],
            format!("base '{mid}' is not immediately below '{a}' in chain for '{a}'"),
        ),
        (
            &["blockcommit", "vda", "--top", "vdb[1]"],
            "requested target 'vdb' does not match target 'vda'".into(),
        ),
        (
            &["blockcommit", "vda", "--top", "vda[99]"],
            "could not find backing store index '99' in chain for 'vda'".into(),
        ),
        (
            &["blockcommit", "vda", "--top", &place.path("base")],
            "could not find base image in chain for 'vda'".into(),
        ),
        (
            &["blockcommit", "vda", "--top", &place.path("base"), "--shallow"],
            format!(
                "top '{}' in chain for '{a}' has no backing file",
                place.path("base")
            ),
        ),
        (&["blockcopy", "vda", "/tmp/x"], "domain is not transient".into()),
        (
            &[
                "blockcopy",
                "vda",
                "/tmp/x",
                "--transient-job",
                "--granularity",
                "3000",
            ],
            "granularity must be power of 2".into(),
        ),
        (
            &["blockcopy", "vda", "/nosuch/x", "--transient-job"],
            "failed to create copy target: No such file or directory".into(),
        ),
        (
            &[
                "blockcopy",
                "vda",
                "/nosuch/x",
                "--transient-job",
                "--reuse-external",
            ],
            "missing destination file for disk vda: /nosuch/x: No such file or directory".into(),
        ),
        (
            &["blockjob", "vda", "--abort"],
            "disk vda does not have an active block job".into(),
        ),
    ])?;
    place.is_whole()?;
    virsh.ok(&["blockpull", "g", "vda", "--bandwidth", "1"])?;
    refusals(&[
        (
            &["blockpull", "vda"],
            "disk 'vda' already in active block job".into(),
        ),
        (&["blockjob", "vda", "--pivot"], "not ready for pivot yet".into()),
        (
            &["detach-disk", "vda"],
            "disk 'vda' already in active block job".into(),
        ),
    ])?;
    virsh.ok(&["blockjob", "g", "vda", "--abort"])?;
    place.is_whole()?;
    assert_eq!(place.chain()?, ["a", "top", "mid", "base"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn over_grpc_a_trial_changes_nothing_and_a_job_is_shown() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let place = Place::started(daemon())?;
    let grpc = Grpc::of(&place.sandbox).await?;
    let mut jobs = pb::block_jobs_client::BlockJobsClient::new(grpc.channel());
    let pull = |validate_only: bool| pb::PullBlocksRequest {
        domain: by_name("g"),
        disk: "vda".to_owned(),
        bytes_per_second: 1 << 20,
        options: Some(pb::MutationOptions {
            validate_only,
            ..Default::default()
        }),
        ..Default::default()
    };
    jobs.pull(pull(true)).await?;
    place.is_whole()?;
    jobs.pull(pull(false)).await?;
    let request = pb::GetDiskJobRequest {
        domain: by_name("g"),
        disk: "vda".to_owned(),
    };
    let shown = grpc
        .disks()
        .get_job(request)
        .await?
        .into_inner()
        .job
        .context("a job")?;
    assert_eq!(shown.kind(), pb::disk_job::Kind::Pull);
    assert_eq!(shown.bandwidth, 1 << 20);
    refused(
        jobs.pull(pull(true)).await,
        tonic::Code::Unimplemented,
        "OPERATION_UNSUPPORTED",
    )?;
    let end = |how: pb::end_block_job_request::How| pb::EndBlockJobRequest {
        domain: by_name("g"),
        disk: "vda".to_owned(),
        how: how.into(),
        ..Default::default()
    };
    use pb::end_block_job_request::How;
    refused(
        jobs.end(end(How::Pivot)).await,
        tonic::Code::FailedPrecondition,
        "BLOCK_COPY_ACTIVE",
    )?;
    refused(
        jobs.end(end(How::Unspecified)).await,
        tonic::Code::InvalidArgument,
        "INVALID_ARG",
    )?;
    jobs.end(end(How::Abort)).await?;
    place.is_whole()
}
