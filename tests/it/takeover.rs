//! Two daemons, one directory: a guest that one has started goes on under the other, with every operation.
//!
//! The guest is never run: its CPUs stay stopped, so that nothing here waits for a boot. What the status file says is
//! compared with what libvirt's own daemon says of the same guest, and then put to use.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use domxml::{ParseFlags, StatusDocument};
use testkit::skip::can_run_guests;
use testkit::{Daemon, Sandbox, libvirtd, wait_until};

const QEMU: &str = "/usr/bin/qemu-system-x86_64";
/// How long a daemon may take to reach a guest that runs.
const REACHED: Duration = Duration::from_secs(20);

fn virtqemud() -> Daemon {
    Daemon::virtqemud(env!("CARGO_BIN_EXE_virtqemud"))
}

/// A directory with the images of one guest, and the daemon that starts it.
fn place(daemon: Daemon) -> Result<Sandbox> {
    let sandbox = Sandbox::new(daemon)?;
    let images = sandbox.dir().join("images");
    fs::create_dir(&images)?;
    for (name, size) in [
        ("raw.img", 4 << 20),
        ("scsi.img", 4 << 20),
        ("one.iso", 1 << 20),
        ("two.iso", 1 << 20),
    ] {
        fs::File::create(images.join(name))?.set_len(size)?;
    }
    image(&images, &["base.qcow2", "8M"])?;
    image(&images, &["-b", "base.qcow2", "-F", "qcow2", "top.qcow2"])?;
    image(&images, &["plugged.qcow2", "8M"])?;
    Ok(sandbox)
}

fn image(dir: &Path, args: &[&str]) -> Result<()> {
    let mut make = Command::new("qemu-img");
    make.current_dir(dir)
        .args(["create", "-q", "-f", "qcow2"])
        .args(args);
    ensure!(make.status()?.success(), "qemu-img create {}", args.join(" "));
    Ok(())
}

fn document(sandbox: &Sandbox) -> String {
    let disk = |device: &str, driver: &str, file: &str, target: &str| {
        format!(
            "<disk type='file' device='{device}'><driver name='qemu' {driver}/><source file='{}'/>{target}</disk>",
            sandbox.dir().join("images").join(file).display()
        )
    };
    let disks = [
        disk(
            "disk",
            "type='qcow2'",
            "top.qcow2",
            "<target dev='vda' bus='virtio'/>",
        ),
        disk(
            "disk",
            "type='raw' copy_on_read='on'",
            "raw.img",
            "<target dev='vdb' bus='virtio'/>",
        ),
        disk("disk", "type='raw'", "scsi.img", "<target dev='sdc' bus='scsi'/>"),
        disk("cdrom", "type='raw'", "one.iso", "<target dev='sda' bus='sata'/>"),
        "<disk type='file' device='cdrom'><target dev='sdb' bus='sata'/></disk>".to_owned(),
    ];
    format!(
        "<domain type='qemu'><name>g</name><uuid>7b1f1e52-30d5-4e3c-9d5e-0c7f2d6b7a12</uuid>
         <memory unit='MiB'>32</memory><vcpu>1</vcpu>
         <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features><cpu mode='host-model'/>
         <devices><emulator>{QEMU}</emulator>{}
         <controller type='scsi' index='0' model='virtio-scsi'/>
         <serial type='pty'><log file='{}'/></serial><console type='pty'/>
         <console type='pty'><target type='virtio'/></console>
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
         <graphics type='vnc' port='-1' websocket='-1'/>
         <panic model='isa'/></devices></domain>",
        disks.concat(),
        sandbox.dir().join("serial.log").display()
    )
}

fn start(sandbox: &Sandbox) -> Result<()> {
    let virsh = sandbox.virsh();
    virsh.define(&document(sandbox))?;
    virsh.ok(&["start", "g", "--paused"]).map(drop)
}

fn status(sandbox: &Sandbox) -> Result<StatusDocument> {
    let text = fs::read_to_string(sandbox.path("/run/libvirt/qemu/g.xml"))?;
    StatusDocument::parse(&text).context(text)
}

/// Hands the directory over and waits until the guest is known to run under the other daemon.
fn hand_over(sandbox: &mut Sandbox, to: Daemon) -> Result<()> {
    sandbox.hand_over(to)?;
    let virsh = sandbox.virsh();
    wait_until("the guest under the other daemon", REACHED, || {
        virsh
            .run(&["qemu-monitor-command", "g", "--hmp", "info status"])
            .is_ok_and(|answer| answer.success())
    })
    .with_context(|| sandbox.log())
}

/// What the status file says that differs from run to run, or is not the same daemon's: taken away.
fn comparable(mut status: StatusDocument) -> StatusDocument {
    (status.pid, status.qemu_caps, status.namespaces) = (0, Vec::new(), None);
    status.vcpus.iter_mut().for_each(|vcpu| vcpu.pid = 0);
    status.devices.sort_by(|a, b| a.alias.cmp(&b.alias));
    let devices = &mut status.domain.devices;
    devices.graphics.iter_mut().for_each(|graphics| {
        graphics.port = graphics.port.map(|_| 0);
        graphics.websocket = graphics.websocket.map(|_| 0);
    });
    // Numbers of terminals.
    for chardev in devices
        .serials
        .iter_mut()
        .map(|serial| &mut serial.chardev)
        .chain(devices.consoles.iter_mut().map(|console| &mut console.chardev))
    {
        chardev.sources.iter_mut().for_each(|source| source.path = None);
    }
    devices
        .consoles
        .iter_mut()
        .for_each(|console| console.tty = console.tty.take().map(|_| String::new()));
    status
}

#[test]
fn the_status_file_says_what_libvirts_says() -> Result<()> {
    let Some(libvirtd) = libvirtd().filter(|_| can_run_guests()) else {
        return Ok(());
    };
    let mut sandbox = place(libvirtd)?;
    sandbox.start()?;
    start(&sandbox)?;
    let theirs = status(&sandbox)?;
    sandbox.virsh().ok(&["destroy", "g"])?;
    sandbox.hand_over(virtqemud())?;
    sandbox.virsh().ok(&["start", "g", "--paused"])?;
    let ours = status(&sandbox)?;
    let text = |status: StatusDocument| {
        let mut status = comparable(status);
        // Each daemon counts its runs by itself.
        let id = status.domain.id.replace(0).unwrap_or(0);
        status.format().replace(&format!("{id}-g"), "ID-g")
    };
    let (ours, theirs) = (text(ours), text(theirs));
    let differing: Vec<_> = diff(&theirs, &ours);
    ensure!(differing.is_empty(), "{}", differing.join("\n"));
    Ok(())
}

/// Lines that only one of the texts has, each as often as it has it more.
fn diff(theirs: &str, ours: &str) -> Vec<String> {
    let mut left: Vec<_> = ours.lines().collect();
    let mut lines = Vec::new();
    for line in theirs.lines() {
        match left.iter().position(|other| *other == line) {
            Some(at) => drop(left.remove(at)),
            None => lines.push(format!("- {line}")),
        }
    }
    lines.extend(left.into_iter().map(|line| format!("+ {line}")));
    lines
}

/// An operation in virsh's words, and what its answer must have.
type Step<'a> = (&'a str, &'a str);

/// Runs the operations in turn; `DIR` stands for the images' directory.
fn all(sandbox: &Sandbox, steps: &[Step<'_>]) -> Result<()> {
    let virsh = sandbox.virsh();
    let dir = sandbox.dir().join("images");
    for (step, expected) in steps {
        let words: Vec<_> = step
            .split_whitespace()
            .map(|word| word.replace("DIR", &dir.to_string_lossy()))
            .collect();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let answer = virsh
            .ok(&words)
            .with_context(|| format!("after the guest was taken over: {step}"))?;
        ensure!(
            answer.contains(expected),
            "{step}: {answer:?} has no {expected:?}"
        );
    }
    Ok(())
}

/// What needs the names of disks in QEMU, in an order that leaves the guest as it was.
const MEDIA_AND_FIGURES: &[Step<'_>] = &[
    ("change-media g sda --eject --force", ""),
    ("change-media g sda DIR/two.iso --insert --live", ""),
    ("change-media g sdb DIR/one.iso --update --live --force", ""),
    ("change-media g sdb --eject --live --force", ""),
    ("change-media g sdb DIR/two.iso --insert --live", ""),
    ("domblkstat g vda", "vda rd_req"),
    ("domblkstat g sdc", "sdc rd_req"),
    ("domblkinfo g vda", "Capacity:       8388608"),
    ("domstats g --block", "block.0.rd.reqs="),
];

/// What is not served by us, and needs the nodes of the images, QEMU's events of migrations and the numbers of nodes.
const OF_LIBVIRT_ALONE: &[Step<'_>] = &[
    ("blkdeviotune g vda --total-iops-sec 1000", ""),
    ("blkdeviotune g vda", "total_iops_sec : 1000"),
    ("domblkthreshold g vda 1048576", ""),
    ("blockcopy g vdb DIR/copy.img --transient-job --wait --finish", ""),
    ("blockcopy g vdb DIR/copy2.img --transient-job --bandwidth 1", ""),
    ("blockjob g vdb --abort", ""),
    (
        "snapshot-create-as g s1 --disk-only --no-metadata --diskspec vda,file=DIR/overlay.qcow2 \
         --diskspec vdb,snapshot=no --diskspec sdc,snapshot=no",
        "",
    ),
    ("blockcommit g vda --active --pivot --wait", ""),
    ("blockpull g vda --wait", ""),
    ("blockresize g sdc 8M", ""),
    (
        "attach-disk g DIR/plugged.qcow2 sdd --targetbus scsi --driver qemu --subdriver qcow2 --live",
        "",
    ),
    ("domblkstat g sdd", "sdd rd_req"),
    ("detach-disk g sdd --live", ""),
    ("detach-disk g sdc --live", ""),
    ("managedsave g", ""),
    ("list --all --managed-save", "saved"),
    ("start g --paused", ""),
    ("domblkstat g vda", "vda rd_req"),
    ("dump g DIR/core", ""),
    ("destroy g", ""),
];

#[test]
fn libvirt_does_everything_with_a_guest_of_ours() -> Result<()> {
    let Some(libvirtd) = libvirtd().filter(|_| can_run_guests()) else {
        return Ok(());
    };
    let mut sandbox = place(virtqemud())?;
    sandbox.start()?;
    start(&sandbox)?;
    let before = comparable(status(&sandbox)?);
    // Names of a medium that we have changed count as much as those of the start.
    all(&sandbox, &MEDIA_AND_FIGURES[..2])?;
    hand_over(&mut sandbox, libvirtd)?;
    let cpu = |status: StatusDocument| status.domain.cpu;
    assert_eq!(
        cpu(comparable(status(&sandbox)?)),
        cpu(before),
        "libvirt makes up no other CPU"
    );
    all(&sandbox, MEDIA_AND_FIGURES)?;
    all(&sandbox, OF_LIBVIRT_ALONE).with_context(|| sandbox.log())
}

#[test]
fn a_guest_of_libvirts_goes_on_with_us_and_back() -> Result<()> {
    let Some(libvirtd) = libvirtd().filter(|_| can_run_guests()) else {
        return Ok(());
    };
    let mut sandbox = place(libvirtd.clone())?;
    sandbox.start()?;
    start(&sandbox)?;
    hand_over(&mut sandbox, virtqemud())?;
    all(&sandbox, MEDIA_AND_FIGURES)?;
    hand_over(&mut sandbox, libvirtd)?;
    all(&sandbox, MEDIA_AND_FIGURES)?;
    all(&sandbox, OF_LIBVIRT_ALONE).with_context(|| sandbox.log())
}

#[test]
fn a_saved_guest_is_not_booted_beside_its_image() -> Result<()> {
    let Some(libvirtd) = libvirtd().filter(|_| can_run_guests()) else {
        return Ok(());
    };
    let mut sandbox = place(libvirtd)?;
    sandbox.start()?;
    start(&sandbox)?;
    sandbox.virsh().ok(&["autostart", "g"])?;
    sandbox.virsh().ok(&["managedsave", "g"])?;
    let image = sandbox.path("/var/lib/libvirt/qemu/save/g.save");
    sandbox.hand_over(virtqemud())?;
    let virsh = sandbox.virsh();
    all(
        &sandbox,
        &[
            ("list --all --managed-save", "saved"),
            ("list --all --with-managed-save --name", "g"),
            ("dominfo g", "Managed save:   yes"),
            ("domstate g", "shut off"),
        ],
    )?;
    ensure!(
        virsh
            .ok(&["list", "--all", "--without-managed-save", "--name"])?
            .trim()
            .is_empty()
    );
    for (words, why) in [
        (
            &["undefine", "g"][..],
            "Refusing to undefine while domain managed save image exists",
        ),
        (
            &["domrename", "g", "h"],
            "domain with a managed saved state can't be renamed",
        ),
    ] {
        let refusal = virsh.refused(words)?;
        ensure!(refusal.contains(why), "{words:?}: {refusal}");
    }
    ensure!(image.exists(), "a refusal leaves the image");
    // As if the host had just started: the guest, which was saved paused, goes on.
    sandbox.stop()?;
    fs::remove_file(sandbox.path("/run/libvirt/qemu/autostarted"))?;
    sandbox.start()?;
    let restored = || {
        let state = virsh.ok(&["domstate", "g", "--reason"]);
        state.is_ok_and(|state| state.contains("paused (migrating)"))
    };
    wait_until("the guest being started with the host", REACHED, restored)?;
    ensure!(!image.exists(), "a start removes the image");
    virsh.ok(&["managedsave", "g"])?;
    virsh.ok(&["start", "g", "--force-boot", "--paused"])?;
    ensure!(!image.exists(), "a forced boot removes the image");
    virsh.ok(&["destroy", "g"])?;
    // As another daemon would have left it.
    for (words, what) in [
        (&["managedsave-remove", "g"][..], "its removal"),
        (&["undefine", "g", "--managed-save"], "the end of the guest"),
    ] {
        sandbox.stop()?;
        fs::write(&image, "")?;
        sandbox.start()?;
        virsh.ok(&["dominfo", "g"])?;
        virsh.ok(words)?;
        ensure!(!image.exists(), "{what} removes the image");
    }
    Ok(())
}

#[test]
fn a_save_that_a_daemon_died_in_is_given_up() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut sandbox = place(virtqemud())?;
    sandbox.start()?;
    start(&sandbox)?;
    sandbox.kill()?;
    let file = sandbox.path("/run/libvirt/qemu/g.xml");
    let text = fs::read_to_string(&file)?;
    let died = text.replace("reason='user'", "reason='save'").replace(
        "<devices>\n    <device ",
        "<job type='none' async='save' flags='0x0' asyncStarted='1'/>\n  <devices>\n    <device ",
    );
    ensure!(died.contains("async='save'"), "{text}");
    fs::write(&file, died)?;
    sandbox.start()?;
    let virsh = sandbox.virsh();
    let mut state = String::new();
    wait_until("the guest runs again", REACHED, || {
        state = virsh.ok(&["domstate", "--reason", "g"]).unwrap_or_default();
        state.trim() == "running (save canceled)"
    })
    .with_context(|| format!("{state}\n{}", sandbox.log()))?;
    ensure!(status(&sandbox)?.job.is_none(), "the job is forgotten");
    Ok(())
}

/// A document of ours is read by libvirt's rules, too: what it was read from is what it is written as.
#[test]
fn a_status_file_is_read_as_it_was_written() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut sandbox = place(virtqemud())?;
    sandbox.start()?;
    start(&sandbox)?;
    let read = status(&sandbox)?;
    ensure!(
        read.fdset == Some(1),
        "the set of the serial port's log is taken: {:?}",
        read.fdset
    );
    ensure!(read.nodename == Some(6), "{:?}", read.nodename);
    ensure!(StatusDocument::parse(&read.format())? == read);
    let live = sandbox.virsh().ok(&["dumpxml", "g"])?;
    for private in ["privateData", "nodename", "fromConfig", "websocketGenerated"] {
        ensure!(!live.contains(private), "{private} is for daemons alone: {live}");
    }
    domxml::Domain::parse(&live, ParseFlags::NONE)?;
    Ok(())
}
