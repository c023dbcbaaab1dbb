//! Guests on macvtap devices: of their own choice or of a network's, and that nothing is left of one, whatever happens.
//!
//! Each test lives in a network of its own with a pair of devices. Nodes of macvtap devices are the whole machine's and
//! numbered by each network for itself: tests run one by one, and begin to count at a number that others hardly use.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::guest::Image;
use testkit::skip::{can_run_guests, skip};
use testkit::wait::wait_until;
use testkit::{GuestSpec, Neighbour, Sandbox, Virsh};

use crate::grpc::{QEMU, daemon, small};
use crate::network::{SETTLED, ip};

static ONE: Mutex<()> = Mutex::new(());

const MAC: &str = "52:54:00:bb:00:01";
const BELOW: &str = "52:54:00:bb:ff:01";
const NETWORK: &str =
    "<network><name>d</name><forward mode='passthrough'><interface dev='vqd0'/></forward></network>";

/// Our daemon in a network with `vqd0` and its other end, `vqd1`.
struct Place {
    sandbox: Sandbox,
    _alone: MutexGuard<'static, ()>,
}

impl Place {
    /// In a network that this thread alone is in; `None` where that cannot be.
    fn make() -> Result<Option<Self>> {
        if !can_run_guests() {
            return Ok(None);
        }
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
        ip(&["link", "set", "lo", "up"])?;
        count_up(5 + std::process::id() % 40)?;
        ip(&[
            "link", "add", "vqd0", "address", BELOW, "type", "veth", "peer", "name", "vqd1",
        ])?;
        if ip(&["link", "add", "link", "vqd0", "name", "probe", "type", "macvtap"]).is_err() {
            skip("the kernel has no macvtap");
            return Ok(None);
        }
        let node = format!("/dev/tap{}", index("probe")?);
        let there = wait_until("the device node of a macvtap", Duration::from_secs(2), || {
            Path::new(&node).exists()
        });
        ip(&["link", "del", "probe"])?;
        if there.is_err() {
            skip("nobody makes device nodes of macvtap devices here");
            return Ok(None);
        }
        Ok(Some(Self {
            sandbox: Sandbox::started(daemon())?,
            _alone: alone,
        }))
    }

    fn virsh(&self) -> Virsh {
        self.sandbox.virsh()
    }

    fn nothing_held(&self) -> Result<()> {
        let devices = macvtaps()?;
        ensure!(devices.is_empty(), "left: {devices}\n{}", self.sandbox.log());
        let below = ip(&["link", "show", "vqd0"])?;
        ensure!(
            below.contains(BELOW),
            "the device below has another address: {below}"
        );
        let state = self.sandbox.path("/run/libvirt/qemu");
        ensure!(!state.join("vqd0").exists());
        let notes: Vec<_> = fs::read_dir(state.join("virtqemud/owed"))
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        ensure!(notes.is_empty(), "notes are left: {notes:?}");
        Ok(())
    }
}

/// Uses up numbers of devices.
fn count_up(pairs: u32) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("ip is not installed")?;
    let mut input = child.stdin.take().context("no input")?;
    for _ in 0..pairs {
        input.write_all(b"link add vqn0 type veth peer name vqn1\nlink del vqn0\n")?;
    }
    drop(input);
    ensure!(child.wait()?.success(), "devices cannot be made");
    Ok(())
}

fn index(device: &str) -> Result<String> {
    let shown = ip(&["-o", "link", "show", device])?;
    Ok(shown.split(':').next().unwrap_or_default().to_owned())
}

fn macvtaps() -> Result<String> {
    ip(&["-d", "-o", "link", "show", "type", "macvtap"])
}

fn card(more: &str) -> String {
    format!("<interface type='direct'><mac address='{MAC}'/><source dev='vqd0' {more}</interface>")
}

fn guest(card: &str) -> String {
    small("g", Path::new(QEMU), "").replacen("<memballoon", &format!("{card}<memballoon"), 1)
}

#[test]
fn each_mode_is_made_as_the_document_says() -> Result<()> {
    let Some(place) = Place::make()? else {
        return Ok(());
    };
    let virsh = place.virsh();
    let virtio = "/><model type='virtio'/>";
    // What the document says, what the kernel has, and the name.
    let table = [
        (format!("mode='vepa'{virtio}"), "macvtap mode vepa", "macvtap0"),
        (
            format!("mode='bridge'{virtio}<driver queues='2'/>"),
            "macvtap mode bridge",
            "macvtap1",
        ),
        (
            "mode='private'/><target dev='mine'/><model type='e1000'/>".to_owned(),
            "macvtap mode private",
            "mine",
        ),
        (
            format!("mode='passthrough'{virtio}"),
            "macvtap mode passthru",
            "macvtap2",
        ),
    ];
    for (says, mode, name) in table {
        virsh.define(&guest(&card(&says)))?;
        virsh.ok(&["start", "g"])?;
        let devices = macvtaps()?;
        for part in [mode, MAC, &format!("{name}@vqd0"), "UP"] {
            ensure!(devices.contains(part), "{says}: no {part}: {devices}");
        }
        let listed = virsh.ok(&["domiflist", "g"])?;
        let words: Vec<&str> = listed
            .lines()
            .find(|line| line.contains(MAC))
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        assert_eq!((words[0], words[1], words[2]), (name, "direct", "vqd0"));
        let status = fs::read_to_string(place.sandbox.path("/run/libvirt/qemu/g.xml"))?;
        ensure!(
            status.contains("<privateData>\n          <created value='yes'/>"),
            "{status}"
        );
        ensure!(
            virsh
                .ok(&["dumpxml", "g", "--inactive"])?
                .contains("<target dev=")
                == (name == "mine")
        );
        virsh.ok(&["suspend", "g"])?;
        ensure!(!macvtaps()?.contains(",UP"), "a paused guest's is on");
        virsh.ok(&["resume", "g"])?;
        ensure!(macvtaps()?.contains(",UP"), "a running guest's is off");
        virsh.ok(&["destroy", "g"])?;
        virsh.ok(&["undefine", "g"])?;
        place.nothing_held().context(says)?;
    }
    Ok(())
}

#[test]
fn a_guest_talks_through_its_macvtap_over_a_restart_of_the_daemon() -> Result<()> {
    let (Some(mut place), Some(image)) = (Place::make()?, Image::find()?) else {
        return Ok(());
    };
    ip(&["addr", "add", "10.219.0.1/24", "dev", "vqd1"])?;
    ip(&["link", "set", "vqd1", "up"])?;
    let virsh = place.virsh();
    let spec = GuestSpec::new("net").device(&card("mode='passthrough'/><model type='virtio'/>"));
    let mut console = spec.boot(&place.sandbox, &image)?;
    console.type_line("ip addr add 10.219.0.2/24 dev eth0; ip link set eth0 up")?;
    console.type_line("until ping -c 1 -W 1 10.219.0.1; do sleep 1; done; echo answer-$?")?;
    console.wait_printed("answer-0", Duration::from_secs(60))?;
    ensure!(
        ip(&["link", "show", "vqd0"])?.contains(MAC),
        "the device below has the guest's address"
    );
    let sent = |virsh: &Virsh| -> Result<u64> {
        let counters = virsh.ok(&["domifstat", "net", MAC])?;
        let line = counters
            .lines()
            .find(|line| line.contains("tx_packets"))
            .context(counters.clone())?;
        Ok(line.split_whitespace().last().unwrap_or_default().parse()?)
    };
    ensure!(sent(&virsh)? > 0, "what the guest sent is counted as sent");
    place.sandbox.kill()?;
    place.sandbox.start()?;
    console.type_line("ping -c 1 -W 5 10.219.0.1 >/dev/null; echo again-$?")?;
    console.wait_printed("again-0", Duration::from_secs(30))?;
    virsh.ok(&["destroy", "net"])?;
    place.nothing_held()?;
    // One whose guest ends while nobody looks.
    virsh.define(&guest(&card("mode='passthrough'/>")))?;
    virsh.ok(&["start", "g"])?;
    let pid = place.sandbox.guest_pid("g").context("no process")?;
    place.sandbox.kill()?;
    testkit::process::kill_and_wait(pid)?;
    ensure!(!macvtaps()?.is_empty());
    place.sandbox.start()?;
    wait_until("nothing that is held", SETTLED, || place.nothing_held().is_ok())
}

#[test]
fn a_start_that_fails_leaves_no_macvtap() -> Result<()> {
    let Some(mut place) = Place::make()? else {
        return Ok(());
    };
    let virsh = place.virsh();
    let good = guest(&card("mode='passthrough'/>"));
    let taken = "error creating macvtap interface vqd1@vqd0 (52:54:00:bb:00:01): File exists";
    // What is changed in the document, into what, and what is said then.
    let table = [
        (
            "dev='vqd0' mode='passthrough'",
            "dev='none' mode='vepa'",
            "Unable to get index for interface none: No such device",
        ),
        (
            "dev='vqd0'",
            "dev='none'",
            "Cannot get interface MAC on 'none': No such device",
        ),
        (
            "mode='passthrough'/>",
            "mode='bridge'/><target dev='vqd1'/>",
            taken,
        ),
        (
            "mode='passthrough'/>",
            "mode='bridge'/><target dev='sixteen-letters-'/>",
            "Numerical result out of range",
        ),
        (
            "</domain>",
            "<qemu:commandline><qemu:arg value='-nonsense'/></qemu:commandline></domain>",
            "nonsense",
        ),
    ];
    for (before, after, said) in table {
        virsh.define(&good.replace(before, after))?;
        let refused = virsh.refused(&["start", "g"])?;
        ensure!(refused.contains(said), "{after}: {refused}");
        place.nothing_held().context(after)?;
        ensure!(ip(&["link", "show", "vqd1"]).is_ok());
        virsh.ok(&["undefine", "g"])?;
    }
    // A daemon that was killed in the midst of a start left a note, and the device.
    place.sandbox.kill()?;
    ip(&[
        "link", "add", "link", "vqd0", "name", "macvtap7", "type", "macvtap", "mode", "bridge",
    ])?;
    let notes = place.sandbox.path("/run/libvirt/qemu/virtqemud/owed");
    fs::create_dir_all(&notes)?;
    fs::write(notes.join("macvtap-macvtap7"), "vqd0")?;
    // And a note of one that was not made, because the name was somebody else's.
    fs::write(notes.join("macvtap-vqd1"), "vqd0")?;
    place.sandbox.start()?;
    wait_until("nothing that is held", SETTLED, || place.nothing_held().is_ok())?;
    ensure!(ip(&["link", "show", "vqd1"]).is_ok());
    Ok(())
}

#[test]
fn a_network_gives_a_device_to_one_guest_at_a_time() -> Result<()> {
    let Some(place) = Place::make()? else {
        return Ok(());
    };
    let Some(neighbour) = Neighbour::beside(&place.sandbox)? else {
        return Ok(());
    };
    let (networks, virsh) = (neighbour.virsh("network"), place.virsh());
    let file = place.sandbox.dir().join("direct.xml");
    fs::write(&file, NETWORK)?;
    networks.ok(&["net-define", &file.to_string_lossy()])?;
    networks.ok(&["net-start", "d"])?;
    let card = format!(
        "<interface type='network'><mac address='{MAC}'/><source network='d'/><model type='virtio'/></interface>"
    );
    virsh.define(&guest(&card))?;
    let second = card.replace(MAC, "52:54:00:bb:00:02");
    virsh.define(&guest(&second).replace("<name>g</name>", "<name>h</name>"))?;
    virsh.ok(&["start", "g"])?;
    let status = fs::read_to_string(place.sandbox.path("/run/libvirt/qemu/g.xml"))?;
    let actual = "<actual type='direct'>\n          <source dev='vqd0' mode='passthrough'/>\n        </actual>\n        <target dev='macvtap0'/>";
    ensure!(status.contains(actual), "{status}");
    ensure!(
        virsh
            .ok(&["dumpxml", "g"])?
            .contains("dev='vqd0' mode='passthrough'/>")
    );
    ensure!(virsh.ok(&["domiflist", "g"])?.contains("direct"));
    let refused = virsh.refused(&["start", "h"])?;
    ensure!(
        refused.contains("network 'd' requires exclusive access to interfaces, but none are available"),
        "{refused}"
    );
    virsh.ok(&["destroy", "g"])?;
    place.nothing_held()?;
    virsh.ok(&["start", "h"])?;
    virsh.ok(&["destroy", "h"])?;
    place.nothing_held()
}
