//! Guests on networks of a neighbour: what they are given, and that nothing of it is left, whatever happens.
//!
//! Each test lives in a network of its own, with all that it starts: bridges and filters never meet the host's.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use testkit::guest::Image;
use testkit::skip::{can_run_guests, skip};
use testkit::wait::wait_until;
use testkit::{GuestSpec, Neighbour, Sandbox, Virsh};

use crate::grpc::{QEMU, daemon, small};

const NETWORK: &str = "<network><name>n</name><bridge name='vqp0' stp='on' delay='0'/><ip address='192.168.217.1' netmask='255.255.255.0'>\
    <dhcp><range start='192.168.217.2' end='192.168.217.20'/></dhcp></ip></network>";
const BRIDGE: &str = "<network><name>b</name><forward mode='bridge'/><bridge name='vqp0'/></network>";
const FILTER: &str = "<filter name='f' chain='root'><rule action='drop' direction='out'><mac srcmacaddr='52:54:00:00:00:01'/></rule></filter>";
const CARDS: &str = "<interface type='network'><mac address='52:54:00:aa:00:01'/><source network='n'/><model type='virtio'/>\
    <filterref filter='f'><parameter name='IP' value='10.0.0.1'/></filterref></interface>\
    <interface type='network'><mac address='52:54:00:aa:00:02'/><source network='b'/><target dev='mytap'/><model type='e1000'/></interface>\
    <interface type='bridge'><mac address='52:54:00:aa:00:03'/><source bridge='vqp0'/><model type='virtio'/><filterref filter='f'/></interface>";
/// How long a neighbour that is there again may wait until it gets back what was owed.
pub(crate) const SETTLED: Duration = Duration::from_secs(20);

/// How long a guest may be powered off and refused its start beside a neighbour that hangs.
const HUNG: Duration = Duration::from_secs(20);

/// Our daemon and a neighbour with two networks and a filter.
pub(crate) struct Place {
    pub(crate) sandbox: Sandbox,
    pub(crate) neighbour: Neighbour,
}

impl Place {
    /// In a network that this thread alone is in; `None` where that cannot be.
    pub(crate) fn make() -> Result<Option<Self>> {
        Self::with(Neighbour::beside)
    }

    /// The same with another neighbour.
    pub(crate) fn with(neighbour: fn(&Sandbox) -> Result<Option<Neighbour>>) -> Result<Option<Self>> {
        if !can_run_guests() {
            return Ok(None);
        }
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
        ensure!(ip(&["link", "set", "lo", "up"])?.is_empty());
        let sandbox = Sandbox::started(daemon())?;
        let Some(neighbour) = neighbour(&sandbox)? else {
            return Ok(None);
        };
        let place = Self { sandbox, neighbour };
        for (driver, command, text) in [
            ("network", "net-define", NETWORK),
            ("network", "net-define", BRIDGE),
            ("nwfilter", "nwfilter-define", FILTER),
        ] {
            let file = place.sandbox.dir().join("document.xml");
            fs::write(&file, text)?;
            place
                .neighbour
                .virsh(driver)
                .ok(&[command, &file.to_string_lossy()])?;
        }
        for network in ["n", "b"] {
            let answer = place.neighbour.virsh("network").run(&["net-start", network])?;
            if !answer.success() {
                skip(&format!(
                    "networks cannot be started here: {}",
                    answer.stderr.trim()
                ));
                return Ok(None);
            }
        }
        Ok(Some(place))
    }

    pub(crate) fn virsh(&self) -> Virsh {
        self.sandbox.virsh()
    }

    /// All that guests hold: ports, filters, devices of the host, notes.
    fn held(&self) -> Result<Vec<String>> {
        let mut held = Vec::new();
        for network in ["n", "b"] {
            held.extend(words(
                &self.neighbour.virsh("network").ok(&["net-port-list", network])?,
                "port",
            ));
        }
        held.extend(words(
            &self.neighbour.virsh("nwfilter").ok(&["nwfilter-binding-list"])?,
            "filter",
        ));
        held.extend(taps()?);
        let notes = fs::read_dir(self.sandbox.path("/run/libvirt/qemu/virtqemud/owed"))
            .into_iter()
            .flatten()
            .flatten();
        held.extend(notes.map(|note| format!("note {}", note.file_name().display())));
        Ok(held)
    }

    pub(crate) fn nothing_held(&self) -> Result<()> {
        let held = self.held()?;
        ensure!(held.is_empty(), "left: {held:?}\n{}", self.sandbox.log());
        Ok(())
    }
}

/// The first word of each line, with what it names.
fn words(lines: &str, what: &str) -> Vec<String> {
    lines
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(|word| format!("{what} {word}"))
        .collect()
}

pub(crate) fn ip(args: &[&str]) -> Result<String> {
    let output = Command::new("ip")
        .args(args)
        .output()
        .context("ip is not installed")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

fn taps() -> Result<Vec<String>> {
    let links = ip(&["-o", "link", "show", "type", "tun"])?;
    Ok(links
        .lines()
        .map(|line| line.split(':').nth(1).unwrap_or_default().trim().to_owned())
        .collect())
}

fn guest(name: &str) -> String {
    small(name, Path::new(QEMU), "").replacen("<memballoon", &format!("{CARDS}<memballoon"), 1)
}

#[test]
fn a_guest_has_what_its_networks_give_and_leaves_nothing() -> Result<()> {
    let Some(place) = Place::make()? else {
        return Ok(());
    };
    let virsh = place.virsh();
    virsh.define(&guest("g"))?;
    for _ in 0..2 {
        virsh.ok(&["start", "g"])?;
        let held = place.held()?;
        let of = |what: &str| held.iter().filter(|thing| thing.starts_with(what)).count();
        assert_eq!(
            (of("port"), of("filter"), of("vnet") + of("mytap"), of("note")),
            (2, 2, 3, 4),
            "{held:?}"
        );
        let listed: Vec<Vec<String>> = virsh
            .ok(&["domiflist", "g"])?
            .lines()
            .map(|l| l.split_whitespace().map(str::to_owned).collect())
            .collect();
        let kinds: Vec<_> = listed
            .iter()
            .filter(|l| l.len() == 5)
            .map(|l| (l[1].as_str(), l[2].as_str()))
            .collect();
        assert_eq!(kinds, [("network", "n"), ("bridge", "b"), ("bridge", "vqp0")]);
        let (live, status) = (
            virsh.ok(&["dumpxml", "g"])?,
            fs::read_to_string(place.sandbox.path("/run/libvirt/qemu/g.xml"))?,
        );
        for port in held.iter().filter_map(|thing| thing.strip_prefix("port ")) {
            ensure!(
                live.contains(&format!("portid='{port}' bridge='vqp0'/>")),
                "{live}"
            );
            ensure!(status.contains(&format!("portid='{port}'/>")), "{status}");
        }
        for actual in ["network", "bridge"] {
            let actual =
                format!("<actual type='{actual}'>\n          <source bridge='vqp0'/>\n        </actual>\n");
            ensure!(status.contains(&actual), "{status}");
        }
        ensure!(!virsh.ok(&["dumpxml", "g", "--inactive"])?.contains("portid"));
        ensure!(ip(&["link", "show", "mytap"])?.contains("master vqp0"));
        for mac in ["52:54:00:aa:00:02", "52:54:00:aa:00:03"] {
            virsh.ok(&["domif-setlink", "g", mac, "down"])?;
        }
        assert_eq!(
            virsh
                .ok(&["dumpxml", "g"])?
                .matches("<link state='down'/>")
                .count(),
            2
        );
        virsh.ok(&["destroy", "g"])?;
        place.nothing_held()?;
    }
    Ok(())
}

#[test]
fn a_card_that_changes_its_network_or_filter_leaves_the_old_one() -> Result<()> {
    let Some(mut place) = Place::make()? else {
        return Ok(());
    };
    let virsh = place.virsh();
    virsh.define(&guest("g"))?;
    virsh.ok(&["start", "g"])?;
    let file = place.sandbox.dir().join("card.xml");
    let update = |place: &Place, network: &str, filter: &str| -> Result<String> {
        let card = format!(
            "<interface type='network'><mac address='52:54:00:aa:00:01'/><source network='{network}'/><model type='virtio'/>{filter}</interface>"
        );
        fs::write(&file, card)?;
        let done = place
            .virsh()
            .run(&["update-device", "g", &file.to_string_lossy(), "--live"])?;
        Ok(done.stderr.trim().to_owned())
    };
    // Ports of the two networks, filters, notes.
    let counts = |place: &Place| -> Result<[usize; 4]> {
        let list = |driver: &str, command: &[&str], what: &str| -> Result<usize> {
            Ok(words(&place.neighbour.virsh(driver).ok(command)?, what).len())
        };
        let notes = place
            .held()?
            .iter()
            .filter(|held| held.starts_with("note"))
            .count();
        Ok([
            list("network", &["net-port-list", "n"], "port")?,
            list("network", &["net-port-list", "b"], "port")?,
            list("nwfilter", &["nwfilter-binding-list"], "filter")?,
            notes,
        ])
    };
    assert_eq!(counts(&place)?, [1, 1, 2, 4]);
    // Where it goes, its filter, what is held then.
    let steps = [
        ("b", "", [0, 2, 1, 3]),
        ("n", "<filterref filter='f'/>", [1, 1, 2, 4]),
        ("n", "", [1, 1, 1, 3]),
    ];
    for (network, filter, held) in steps {
        assert_eq!(update(&place, network, filter)?, "", "{network} {filter}");
        assert_eq!(
            counts(&place)?,
            held,
            "{network} {filter}\n{}",
            place.sandbox.log()
        );
    }
    // Neither another network nor what it would need is left of a change that fails.
    let refused = update(&place, "b", "<filterref filter='none'/>")?;
    ensure!(
        refused.contains("failed to add new filter rules to 'vnet"),
        "{refused}"
    );
    ensure!(update(&place, "none", "")?.contains("Network not found"));
    assert_eq!(counts(&place)?, [1, 1, 1, 3], "{}", place.sandbox.log());
    let live = virsh.ok(&["dumpxml", "g"])?;
    ensure!(live.matches("<source network='n'").count() == 1, "{live}");
    place.sandbox.restart()?;
    assert_eq!(counts(&place)?, [1, 1, 1, 3]);
    virsh.ok(&["destroy", "g"])?;
    place.nothing_held()
}

#[test]
fn a_start_that_fails_at_any_step_leaves_nothing() -> Result<()> {
    let Some(place) = Place::make()? else {
        return Ok(());
    };
    let virsh = place.virsh();
    let networks = place.neighbour.virsh("network");
    let bad_option = "<qemu:commandline><qemu:arg value='-nonsense'/></qemu:commandline></domain>";
    // What is changed in the document, into what, and what is said then.
    let cases = [
        (
            "network='b'",
            "network='none'",
            "Network not found: no network with matching name 'none'",
        ),
        ("<filterref filter='f'/>", "<filterref filter='none'/>", "none"),
        ("</domain>", bad_option, "nonsense"),
        ("bridge='vqp0'", "bridge='nobridge'", "nobridge"),
    ];
    for (before, after, said) in cases {
        virsh.define(&guest("g").replace(before, after))?;
        let refused = virsh.refused(&["start", "g"])?;
        ensure!(refused.contains(said), "{before}: {refused}");
        place.nothing_held().context(before)?;
        virsh.ok(&["undefine", "g"])?;
    }
    virsh.define(&guest("g"))?;
    networks.ok(&["net-destroy", "b"])?;
    let refused = virsh.refused(&["start", "g"])?;
    ensure!(
        refused.contains("Requested operation is not valid: network 'b' is not active"),
        "{refused}"
    );
    networks.ok(&["net-start", "b"])?;
    place.nothing_held()
}

#[test]
fn a_daemon_that_is_killed_finds_it_all_again() -> Result<()> {
    let Some(mut place) = Place::make()? else {
        return Ok(());
    };
    let virsh = place.virsh();
    virsh.define(&guest("g"))?;
    virsh.ok(&["start", "g"])?;
    let (held, live) = (place.held()?, virsh.ok(&["dumpxml", "g"])?);
    place.sandbox.kill()?;
    // What the neighbour forgets meanwhile, it is told again.
    let device = held
        .iter()
        .find_map(|thing| thing.strip_prefix("filter "))
        .context("no filter")?
        .to_owned();
    place
        .neighbour
        .virsh("nwfilter")
        .ok(&["nwfilter-binding-delete", &device])?;
    // And what was being made when we were killed is given back.
    fs::write(
        place
            .sandbox
            .path("/run/libvirt/qemu/virtqemud/owed/port-11111111-2222-3333-4444-555555555555"),
        "n",
    )?;
    place.sandbox.start()?;
    wait_until("what was held before", SETTLED, || {
        place.held().is_ok_and(|now| now == held)
    })?;
    assert_eq!(virsh.ok(&["dumpxml", "g"])?, live);
    virsh.ok(&["destroy", "g"])?;
    place.nothing_held()?;
    virsh.ok(&["start", "g"])?;
    let pid = place.sandbox.guest_pid("g").context("no process")?;
    place.sandbox.kill()?;
    testkit::process::kill_and_wait(pid)?;
    place.sandbox.start()?;
    wait_until("nothing that is held", SETTLED, || place.nothing_held().is_ok())
}

#[test]
fn a_binding_that_has_outlived_its_device_keeps_no_guest_from_starting() -> Result<()> {
    let Some(place) = Place::make()? else {
        return Ok(());
    };
    let file = place.sandbox.dir().join("binding.xml");
    let binding = "<filterbinding><owner><name>gone</name><uuid>11111111-2222-3333-4444-555555555555</uuid></owner>\
        <portdev name='left7'/><mac address='52:54:00:aa:00:09'/><filterref filter='f'/></filterbinding>";
    fs::write(&file, binding)?;
    ip(&["tuntap", "add", "dev", "left7", "mode", "tap"])?;
    let filters = place.neighbour.virsh("nwfilter");
    filters.ok(&["nwfilter-binding-create", &file.to_string_lossy()])?;
    ip(&["link", "delete", "left7"])?;
    ensure!(filters.ok(&["nwfilter-binding-list"])?.contains("left7"));
    let card = "<interface type='bridge'><mac address='52:54:00:aa:00:09'/><source bridge='vqp0'/><target dev='left7'/>\
        <model type='virtio'/><filterref filter='f'/></interface></devices>";
    let virsh = place.virsh();
    virsh.define(&small("g", Path::new(QEMU), "").replace("</devices>", card))?;
    virsh.ok(&["start", "g"])?;
    let bound = filters.ok(&["nwfilter-binding-dumpxml", "left7"])?;
    ensure!(bound.contains("<name>g</name>"), "{bound}");
    virsh.ok(&["destroy", "g"])?;
    place.nothing_held()
}

#[test]
fn a_neighbour_that_is_killed_gets_everything_back_later() -> Result<()> {
    let Some(mut place) = Place::make()? else {
        return Ok(());
    };
    let virsh = place.virsh();
    virsh.define(&guest("g"))?;
    virsh.ok(&["start", "g"])?;
    place.neighbour.kill()?;
    virsh.ok(&["destroy", "g"])?;
    ensure!(taps()?.is_empty());
    let refused = virsh.refused(&["start", "g"])?;
    ensure!(refused.contains("Failed to connect socket"), "{refused}");
    place.neighbour.start()?;
    wait_until("nothing that is held", SETTLED, || place.nothing_held().is_ok())?;
    virsh.ok(&["start", "g"])?;
    // One that hangs holds up the end of a run for a while, and no start for ever.
    place.neighbour.signal(Signal::SIGSTOP)?;
    let begun = Instant::now();
    virsh.ok(&["destroy", "g"])?;
    let refused = virsh.refused(&["start", "g"])?;
    ensure!(
        refused.contains("no answer from network:///system to opening within 5 s"),
        "{refused}"
    );
    ensure!(begun.elapsed() < HUNG, "{:?}", begun.elapsed());
    place.neighbour.signal(Signal::SIGCONT)?;
    wait_until("nothing that is held", SETTLED, || place.nothing_held().is_ok())?;
    virsh.ok(&["start", "g"])?;
    virsh.ok(&["destroy", "g"])?;
    place.nothing_held()
}

#[test]
fn a_guest_reaches_its_network_and_its_address_is_known() -> Result<()> {
    let (Some(place), Some(image)) = (Place::make()?, Image::find()?) else {
        return Ok(());
    };
    let virsh = place.virsh();
    let card = "<interface type='network'><mac address='52:54:00:aa:00:07'/><source network='n'/><model type='virtio'/>\
        <filterref filter='f'/></interface>";
    let unplugged = "<interface type='network'><mac address='52:54:00:aa:00:08'/><source network='n'/><model type='virtio'/>\
        <link state='down'/></interface>";
    let mut console = GuestSpec::new("net")
        .device(card)
        .device(unplugged)
        .agent()
        .boot(&place.sandbox, &image)?;
    console.type_line("until ping -c 1 -W 1 192.168.217.1; do sleep 1; done; echo answer-$?")?;
    console.wait_printed("answer-0", Duration::from_secs(60))?;
    console.type_line("ip link set eth1 up; echo carrier-$(cat /sys/class/net/eth1/carrier)")?;
    console.wait_printed("carrier-0", Duration::from_secs(30))?;
    // The same from outside while it runs, and after it was stopped.
    for (link, carrier) in [("up", "carrier-1"), ("down", "carrier-0")] {
        virsh.ok(&["domif-setlink", "net", "52:54:00:aa:00:08", link])?;
        assert!(
            virsh
                .ok(&["domif-getlink", "net", "52:54:00:aa:00:08"])?
                .contains(link)
        );
        console.type_line(&format!(
            "sleep 1; cat /sys/class/net/eth1/carrier >/tmp/c; echo {link}-carrier-$(cat /tmp/c)"
        ))?;
        console.wait_printed(&format!("{link}-{carrier}"), Duration::from_secs(30))?;
    }
    virsh.ok(&["domif-setlink", "net", "52:54:00:aa:00:08", "up", "--config"])?;
    ensure!(
        virsh
            .ok(&["dumpxml", "net", "--inactive"])?
            .contains("<link state='up'/>")
    );
    // Each source knows the card that talked, and its address.
    let mut addresses = Vec::new();
    for (source, name) in [("lease", "vnet"), ("arp", "vnet"), ("agent", "eth0")] {
        let listed = virsh.ok(&["domifaddr", "net", "--source", source])?;
        let line = listed
            .lines()
            .find(|line| line.contains("52:54:00:aa:00:07") && line.contains("ipv4"))
            .context(listed.clone())?;
        let words: Vec<&str> = line.split_whitespace().collect();
        ensure!(words[0].starts_with(name), "{listed}");
        addresses.push(words[3].split('/').next().unwrap_or_default().to_owned());
    }
    ensure!(
        addresses
            .iter()
            .all(|address| *address == addresses[0] && address.starts_with("192.168.217.")),
        "{addresses:?}"
    );
    virsh.ok(&["destroy", "net"])?;
    place.nothing_held()
}
