//! Interfaces of guests: their links and limits while they run, in the stored configuration, and over a restart of the
//! daemon.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use testkit::skip::can_run_guests;
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
