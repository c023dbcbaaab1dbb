//! Interfaces of guests: their links and limits while they run, in the stored configuration, and over a restart of the
//! daemon.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use testkit::skip::{can_run_guests, skip};
use testkit::{Sandbox, Virsh};

use crate::grpc::{QEMU, daemon, small};

const CARDS: &str = "<interface type='user'><mac address='52:54:00:aa:00:01'/><model type='virtio'/></interface>\
    <interface type='user'><mac address='52:54:00:aa:00:02'/><model type='e1000'/><link state='down'/></interface>";
const FIRST: &str = "52:54:00:aa:00:01";
const SECOND: &str = "52:54:00:aa:00:02";

fn guest(name: &str) -> String {
    small(name, Path::new(QEMU), "").replacen("<memballoon", &format!("{CARDS}<memballoon"), 1)
}

/// How a link stands in the document of the run and in the stored one.
fn links(virsh: &Virsh, mac: &str) -> Result<[String; 2]> {
    let state = |more: &[&str]| -> Result<String> {
        let answer = virsh.ok(&[&["domif-getlink", "g", mac], more].concat())?;
        Ok(answer.split_whitespace().last().unwrap_or_default().to_owned())
    };
    Ok([state(&[])?, state(&["--config"])?])
}

#[test]
fn a_link_is_set_while_the_guest_runs_and_for_its_next_start() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut sandbox = Sandbox::started(daemon())?;
    let virsh = sandbox.virsh();
    virsh.define(&guest("g"))?;
    virsh.ok(&["start", "g"])?;
    assert_eq!(
        (links(&virsh, FIRST)?, links(&virsh, SECOND)?),
        (["up", "up"].map(String::from), ["down", "down"].map(String::from))
    );
    virsh.ok(&["domif-setlink", "g", FIRST, "down"])?;
    virsh.ok(&["domif-setlink", "g", SECOND, "up", "--config"])?;
    assert_eq!(
        (links(&virsh, FIRST)?, links(&virsh, SECOND)?),
        (["down", "up"].map(String::from), ["down", "up"].map(String::from))
    );
    let status = fs::read_to_string(sandbox.path("/run/libvirt/qemu/g.xml"))?;
    ensure!(status.matches("<link state='down'/>").count() == 2, "{status}");
    sandbox.restart()?;
    assert_eq!(
        (links(&virsh, FIRST)?, links(&virsh, SECOND)?),
        (["down", "up"].map(String::from), ["down", "up"].map(String::from))
    );
    virsh.ok(&["domif-setlink", "g", FIRST, "up"])?;
    assert_eq!(links(&virsh, FIRST)?, ["up", "up"]);
    // What is changed besides the link is refused, and nothing is changed.
    let file = sandbox.dir().join("card.xml");
    fs::write(
        &file,
        format!(
            "<interface type='user'><mac address='{FIRST}'/><model type='e1000'/><link state='down'/></interface>"
        ),
    )?;
    let refused = virsh.run(&[
        "update-device",
        "g",
        &file.to_string_lossy(),
        "--live",
        "--config",
    ])?;
    ensure!(
        refused
            .stderr
            .contains("cannot modify network device model from virtio to e1000"),
        "{}",
        refused.stderr
    );
    assert_eq!(links(&virsh, FIRST)?, ["up", "up"]);
    virsh.ok(&["destroy", "g"])?;
    Ok(())
}

/// Bridges of the host, as long as a test has them.
struct Bridges(&'static [&'static str]);

impl Bridges {
    fn make(names: &'static [&'static str]) -> Option<Self> {
        let made = Self(names);
        let all = names
            .iter()
            .all(|name| ip(&["link", "add", name, "type", "bridge"]));
        if !all {
            skip("no bridges can be made here");
        }
        all.then_some(made)
    }
}

impl Drop for Bridges {
    fn drop(&mut self) {
        for name in self.0 {
            ip(&["link", "del", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> bool {
    let done = std::process::Command::new("ip").args(arguments).output();
    done.is_ok_and(|done| done.status.success())
}

#[test]
fn an_interface_moves_to_another_bridge_while_its_guest_runs() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let Some(_bridges) = Bridges::make(&["vqmove0", "vqmove1"]) else {
        return Ok(());
    };
    let mut sandbox = Sandbox::started(daemon())?;
    let virsh = sandbox.virsh();
    let card = |bridge: &str, more: &str| {
        format!(
            "<interface type='bridge'><mac address='{FIRST}'/><source bridge='{bridge}'/><model type='virtio'/>{more}</interface>"
        )
    };
    let xml = small("g", Path::new(QEMU), "");
    virsh.define(&xml.replacen("<memballoon", &format!("{}<memballoon", card("vqmove0", "")), 1))?;
    virsh.ok(&["start", "g"])?;
    let live = virsh.ok(&["dumpxml", "g"])?;
    let device = live
        .split("<target dev='")
        .nth(1)
        .and_then(|rest| rest.split('\'').next());
    let device = device.unwrap_or_default().to_owned();
    let port = Path::new("/sys/class/net").join(&device);
    let state = || -> Result<(String, String)> {
        let master = fs::read_link(port.join("master"))?;
        let name = master
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let isolated = fs::read_to_string(port.join("brport/isolated"))?;
        Ok((name, isolated.trim().to_owned()))
    };
    let file = sandbox.dir().join("card.xml");
    let update = |virsh: &Virsh, text: String, scope: &str| -> Result<String> {
        fs::write(&file, text)?;
        let done = virsh.run(&["update-device", "g", &file.to_string_lossy(), scope])?;
        Ok(done.stderr)
    };
    let is = |master: &str, isolated: &str| (master.to_owned(), isolated.to_owned());
    assert_eq!(state()?, is("vqmove0", "0"));
    let isolated = "<port isolated='yes'/>";
    assert_eq!(update(&virsh, card("vqmove1", isolated), "--live")?, "");
    assert_eq!(state()?, is("vqmove1", "1"));
    // What can't be is refused, and nothing is changed.
    let refused = update(&virsh, card("vqnone9", ""), "--live")?;
    let words = format!("cannot add domain g device {device} to nonexistent bridge vqnone9");
    ensure!(refused.contains(&words), "{refused}");
    assert_eq!(state()?, is("vqmove1", "1"));
    sandbox.restart()?;
    let (live, stored) = (
        virsh.ok(&["dumpxml", "g"])?,
        virsh.ok(&["dumpxml", "g", "--inactive"])?,
    );
    ensure!(
        live.contains("<source bridge='vqmove1'/>") && live.contains(isolated),
        "{live}"
    );
    ensure!(live.contains(&format!("<target dev='{device}'/>")), "{live}");
    ensure!(stored.contains("<source bridge='vqmove0'/>"), "{stored}");
    assert_eq!(
        update(&virsh, card("vqmove1", "<link state='down'/>"), "--live")?,
        ""
    );
    assert_eq!(state()?, is("vqmove1", "0"));
    assert_eq!(links(&virsh, FIRST)?, ["down", "up"]);
    virsh.ok(&["destroy", "g"])?;
    Ok(())
}

#[test]
fn limits_of_an_interface_are_stored_by_direction() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    let virsh = sandbox.virsh();
    virsh.define(&guest("g"))?;
    virsh.ok(&["start", "g"])?;
    let card = format!(
        "<interface type='network'><mac address='{FIRST}'/><source network='n'/></interface></devices>"
    );
    virsh.define(&small("n", Path::new(QEMU), "").replace("</devices>", &card))?;
    // What is set, and the element that is stored then.
    let steps = [
        (
            "--inbound 100,200,300 --outbound 128",
            "<inbound average='100' peak='200' burst='300'/>\n        <outbound average='128'/>",
        ),
        (
            "--inbound 5",
            "<inbound average='5'/>\n        <outbound average='128'/>",
        ),
        ("--outbound 0", "<inbound average='5'/>\n      </bandwidth>"),
        ("--inbound 0,0,0,7", "<inbound floor='7'/>"),
        ("--inbound 0", ""),
    ];
    for (set, stored) in steps {
        let words: Vec<&str> = ["domiftune", "n", FIRST, "--config"]
            .into_iter()
            .chain(set.split(' '))
            .collect();
        virsh.ok(&words)?;
        let xml = virsh.ok(&["dumpxml", "n", "--inactive"])?;
        ensure!(
            xml.contains(stored) && xml.contains("<bandwidth>") != stored.is_empty(),
            "after {set}: {xml}"
        );
    }
    let live = virsh.ok(&["domiftune", "g", FIRST])?;
    ensure!(
        live.lines().filter(|line| line.ends_with(": 0")).count() == 7,
        "{live}"
    );
    for scope in ["--live", "--config"] {
        let refused = virsh.run(&["domiftune", "g", FIRST, scope, "--inbound", "5"])?;
        let words = "setting bandwidth on interfaces of type 'user' is not implemented yet";
        ensure!(refused.stderr.contains(words), "{scope}: {}", refused.stderr);
    }
    let refused = virsh.run(&["domiftune", "g", "none", "--inbound", "5"])?;
    ensure!(
        refused.stderr.contains("'none' is not a known interface"),
        "{}",
        refused.stderr
    );
    virsh.ok(&["destroy", "g"])?;
    Ok(())
}
