//! Devices that a client describes: what is wrong with a description is told before the device that is meant is looked for,
//! what it leaves out is filled in, and what only a run has is not stored.

use std::path::Path;

use anyhow::{Result, ensure};
use testkit::Sandbox;
use testkit::skip::can_run_guests;

use crate::grpc::{QEMU, daemon, small};

/// Calls, scopes, documents and libvirt's words.
// table
const REFUSED: &[(&str, &str, &str, &str)] = &[
    (
        "detach-device",
        "--config",
        "<rng model='virtio'><rate bytes='9'/></rng>",
        "only one RNG backend is supported",
    ),
    (
        "detach-device",
        "--config",
        "<redirdev bus='usb'/>",
        "missing type in redirdev",
    ),
    (
        "detach-device",
        "--live",
        "<controller type='ide' index='9'/>",
        "'ide' controller cannot be hot unplugged.",
    ),
    (
        "detach-device",
        "--live",
        "<hostdev mode='capabilities' type='misc'><source><char>/dev/null</char></source></hostdev>",
        "hot unplug is not supported for hostdev mode 'capabilities'",
    ),
    (
        "update-device",
        "--config",
        "<disk type='file' device='disk'><source file='/x'/></disk>",
        "missing target information for device /x",
    ),
    (
        "update-device",
        "--config",
        "<disk type='file' device='floppy'><target dev='vdt' bus='virtio'/></disk>",
        "Invalid bus type 'virtio' for floppy disk",
    ),
    (
        "update-device",
        "--live",
        "<disk type='file' device='disk'><source file='/x'/><mirror type='file'/><target dev='sda' bus='scsi'/></disk>",
        "mirror requires source element",
    ),
    (
        "attach-device",
        "--live",
        "<audio id='1' type='none'/>",
        "audio ID 1 is used multiple times",
    ),
    (
        "update-device",
        "--config",
        "<audio id='1' type='none'/>",
        "audio ID 1 is used multiple times",
    ),
    (
        "attach-device",
        "--live",
        "<audio id='2' type='none'/>",
        "live attach of device 'audio' is not supported",
    ),
];

/// Documents that are stored and then taken out as they were given.
const THERE_AND_BACK: &[&str] = &[
    "<serial type='pty'/>",
    "<vsock model='virtio'/>",
    "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
    "<channel type='unix'><target type='virtio' name='org.x.1'/></channel>",
];

#[test]
fn a_description_is_judged_and_filled_in_before_the_device_is_looked_for() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut sandbox = Sandbox::new(daemon())?;
    sandbox.start()?;
    let virsh = sandbox.virsh();
    let more = "<serial type='pty'/><controller type='virtio-serial' index='0'/><audio id='1' type='none'/></devices>";
    virsh.define(&small("told", Path::new(QEMU), "").replace("</devices>", more))?;
    virsh.ok(&["start", "told", "--paused"])?;
    let file = sandbox.dir().join("device.xml");
    let name = file.to_string_lossy().into_owned();
    for (call, scope, xml, text) in REFUSED {
        std::fs::write(&file, xml)?;
        let error = virsh.refused(&[call, "told", &name, scope])?;
        ensure!(error.contains(text), "{call} {scope} {xml}: {error}");
    }
    let stored = || virsh.ok(&["dumpxml", "told", "--inactive"]);
    for xml in THERE_AND_BACK {
        std::fs::write(&file, xml)?;
        let before = stored()?.matches("<address ").count();
        virsh.ok(&["attach-device", "told", &name, "--config"])?;
        virsh.ok(&["detach-device", "told", &name, "--config"])?;
        let after = stored()?;
        ensure!(after.matches("<serial ").count() == 1, "{xml}: {after}");
        // A controller that came with a device stays.
        ensure!(after.matches("<address ").count() <= before + 2, "{xml}: {after}");
    }
    std::fs::write(
        &file,
        "<interface type='network'><source network='n' bridge='made-up'/></interface>",
    )?;
    virsh.ok(&["attach-device", "told", &name, "--config"])?;
    let shown = stored()?;
    ensure!(shown.contains("<source network='n'/>"), "{shown}");
    Ok(())
}
