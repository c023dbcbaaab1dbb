//! Disks of which nothing is kept: a run, and a disk that comes, write to an image of their own, which goes with them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::Sandbox;
use testkit::skip::can_run_guests;
use testkit::wait::wait_until;

use crate::grpc::{QEMU, daemon, small};

const SOON: Duration = Duration::from_secs(20);

struct Place {
    sandbox: Sandbox,
}

impl Place {
    fn image(&self, name: &str) -> PathBuf {
        self.sandbox.dir().join(name)
    }

    fn make(&self, name: &str) -> Result<()> {
        Ok(fs::write(self.image(name), vec![7; 1 << 20])?)
    }

    fn own(&self, name: &str, guest: &str) -> PathBuf {
        self.image(&format!("{name}.TRANSIENT-{guest}"))
    }

    fn disk(&self, name: &str, target: &str, more: &str) -> String {
        let image = self.image(name);
        format!(
            "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>\
             <target dev='{target}' bus='scsi'/><transient{more}/></disk>",
            image.display()
        )
    }
}

#[test]
fn a_run_writes_to_images_of_its_own() -> Result<()> {
    starts_and_ends("")?;
    starts_and_ends(" shareBacking='yes'")
}

fn starts_and_ends(how: &str) -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let place = Place {
        sandbox: Sandbox::started(daemon())?,
    };
    place.make("kept.raw")?;
    place.make("comes.raw")?;
    let devices = format!(
        "<controller type='scsi' model='virtio-scsi'/>{}",
        place.disk("kept.raw", "sda", how)
    );
    let xml = small("own", Path::new(QEMU), "").replace("</devices>", &format!("{devices}</devices>"));
    let file = place.image("own.xml");
    fs::write(&file, xml)?;
    let virsh = place.sandbox.virsh();
    virsh.ok(&["define", &file.to_string_lossy()])?;
    // What a run that ended before has left there is replaced.
    let own = place.own("kept.raw", "own");
    fs::write(&own, "left")?;
    virsh.ok(&["start", "own"])?;
    ensure!(fs::read(&own)?.starts_with(b"QFI"), "no image of its own");
    let nodes = virsh.ok(&[
        "qemu-monitor-command",
        "own",
        r#"{"execute":"query-named-block-nodes"}"#,
    ])?;
    ensure!(nodes.contains("kept.raw.TRANSIENT-own"), "{nodes}");
    let live = virsh.ok(&["dumpxml", "own"])?;
    ensure!(live.contains("kept.raw.TRANSIENT-own' index='2'"), "{live}");
    ensure!(live.contains("<backingStore type='file' index='1'>"), "{live}");
    let stored = virsh.ok(&["dumpxml", "--inactive", "own"])?;
    ensure!(!stored.contains("TRANSIENT"), "{stored}");
    let disk = place.image("comes.xml");
    fs::write(&disk, place.disk("comes.raw", "sdb", ""))?;
    virsh.ok(&["attach-device", "own", &disk.to_string_lossy()])?;
    let coming = place.own("comes.raw", "own");
    ensure!(coming.exists(), "no image of its own");
    virsh.ok(&["detach-disk", "own", "sdb"])?;
    wait_until("the image that goes", SOON, || !coming.exists())?;
    virsh.ok(&["destroy", "own"])?;
    wait_until("the image of the run", SOON, || !own.exists())?;
    ensure!(fs::read(place.image("kept.raw"))?.iter().all(|byte| *byte == 7));
    Ok(())
}
