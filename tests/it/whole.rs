//! A guest that has something of every neighbour: a network with a filter, volumes, a secret. Whatever happens, nothing
//! of it is left.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::guest::Image;
use testkit::{GuestSpec, Neighbour, Sandbox, wait_until};

use crate::grpc::{QEMU, small};
use crate::network::{Place, SETTLED};
use crate::storage::{DISKS, furnish, luks_by_hand, luks_by_pool, nothing_left};

const CARD: &str = "<interface type='network'><mac address='52:54:00:aa:00:07'/><source network='n'/><model type='virtio'/>\
    <filterref filter='f'/></interface>";
const VOLUMES: [&str; 3] = ["raw", "cow", "luks"];
/// When the neighbour is killed after a start has begun, milliseconds.
const MOMENTS: [u64; 8] = [0, 5, 15, 30, 50, 80, 120, 200];

/// A kind of neighbour, who makes the encrypted image there, and the disks then.
struct Kind {
    start: fn(&Sandbox) -> Result<Option<Neighbour>>,
    encrypt: fn(&Sandbox, &Neighbour) -> Result<()>,
    disks: fn() -> String,
}

const ONE: Kind = Kind {
    start: Neighbour::beside,
    encrypt: luks_by_pool,
    disks: || DISKS.to_owned(),
};
const SIX: Kind = Kind {
    start: Neighbour::modular,
    encrypt: luks_by_hand,
    disks: with_a_file,
};

/// The volumes, and the encrypted one by its file.
fn with_a_file() -> String {
    let (before, luks) = DISKS.rsplit_once("type='volume'").unwrap_or_default();
    format!("{before}type='file'{luks}")
        .replace("pool='p' volume='luks'", "file='/var/lib/libvirt/pool/luks'")
}

fn place(kind: &Kind) -> Result<Option<Place>> {
    let Some(place) = Place::with(kind.start)? else {
        return Ok(None);
    };
    furnish(&place.sandbox, &place.neighbour)?;
    (kind.encrypt)(&place.sandbox, &place.neighbour)?;
    Ok(Some(place))
}

fn nothing(place: &Place) -> Result<()> {
    place.nothing_held()?;
    nothing_left(&place.sandbox)?;
    for volume in VOLUMES {
        let file = place.sandbox.path("/var/lib/libvirt/pool").join(volume);
        ensure!(fs::metadata(&file)?.uid() == 0, "{volume} has another owner");
    }
    Ok(())
}

fn guest() -> String {
    small("g", Path::new(QEMU), "").replacen("<memballoon", &format!("{DISKS}{CARD}<memballoon"), 1)
}

#[test]
fn a_guest_uses_it_all_and_leaves_nothing() -> Result<()> {
    uses_it_all(&ONE)
}

#[test]
fn a_guest_uses_a_daemon_for_each_thing_and_leaves_nothing() -> Result<()> {
    uses_it_all(&SIX)
}

fn uses_it_all(kind: &Kind) -> Result<()> {
    let (Some(place), Some(image)) = (place(kind)?, Image::find()?) else {
        return Ok(());
    };
    let mut spec = GuestSpec::new("all").device(CARD);
    for disk in (kind.disks)().split_inclusive("</disk>") {
        spec = spec.device(disk.trim());
    }
    let mut console = spec.boot(&place.sandbox, &image)?;
    console.type_line("until ping -c 1 -W 1 192.168.217.1; do sleep 1; done; echo answer-$?")?;
    console.wait_printed("answer-0", Duration::from_secs(60))?;
    // What is behind the secret is as large as what was asked for, without the head that is not.
    console.type_line("for d in vda vdb vdc; do echo $d-$(cat /sys/block/$d/size); done")?;
    for disk in ["vda-8192", "vdb-8192", "vdc-8192"] {
        console.wait_printed(disk, Duration::from_secs(30))?;
    }
    drop(console);
    place.virsh().ok(&["destroy", "all"])?;
    nothing(&place)
}

#[test]
#[expect(clippy::disallowed_methods, reason = "no runtime here")]
fn a_neighbour_that_is_killed_during_a_start_leaves_nothing() -> Result<()> {
    let Some(mut place) = place(&ONE)? else {
        return Ok(());
    };
    let virsh = place.virsh();
    virsh.define(&guest())?;
    for moment in MOMENTS {
        let mut start = virsh.spawn(&["start", "g"])?;
        thread::sleep(Duration::from_millis(moment));
        place.neighbour.kill()?;
        let started = start.wait()?.success();
        assert_eq!(
            virsh.state("g")?,
            if started { "running" } else { "shut off" },
            "after {moment} ms"
        );
        if started {
            virsh.ok(&["destroy", "g"])?;
        }
        place.neighbour.start()?;
        wait_until("nothing that is left", SETTLED, || nothing(&place).is_ok())?;
        // Networks and pools are as their daemon finds them again.
        for (driver, thing) in [("network", "net-start n"), ("storage", "pool-start p")] {
            let args: Vec<&str> = thing.split(' ').collect();
            place.neighbour.virsh(driver).run(&args)?;
        }
        virsh.ok(&["start", "g"])?;
        virsh.ok(&["destroy", "g"])?;
        nothing(&place)?;
    }
    Ok(())
}
