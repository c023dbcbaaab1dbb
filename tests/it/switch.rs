//! Guests on a bridge of Open vSwitch: what its database is told of a port, and that nothing is left of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::place::program;
use testkit::skip::{can_run_guests, skip};
use testkit::wait::wait_until;
use testkit::{Sandbox, Virsh};

use crate::grpc::{QEMU, daemon, small};
use crate::network::{SETTLED, ip};

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const SOON: Duration = Duration::from_secs(10);
const INTERFACE: &str = "09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f";

/// A switch that moves packets by itself, in a network that this thread alone is in.
struct Switch {
    dir: tempfile::TempDir,
    children: Vec<Child>,
}

impl Switch {
    fn start() -> Result<Option<Self>> {
        let programs = ["ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl"];
        if let Some(missing) = programs.into_iter().find(|name| program(name).is_none()) {
            skip(&format!("{missing} is not installed"));
            return Ok(None);
        }
        let mut switch = Self {
            dir: tempfile::tempdir()?,
            children: Vec::new(),
        };
        let (database, socket) = (switch.path("conf.db"), switch.path("db.sock"));
        let made = Command::new("ovsdb-tool")
            .arg("create")
            .arg(&database)
            .arg(SCHEMA)
            .output()?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        switch.run(
            "ovsdb-server",
            &[
                &database.to_string_lossy(),
                &format!("--remote=punix:{}", socket.display()),
            ],
        )?;
        wait_until("the switch's database", SOON, || socket.exists())?;
        switch.tell(&["--no-wait", "init"])?;
        switch.run(
            "ovs-vswitchd",
            &[&format!("unix:{}", socket.display()), "--disable-system"],
        )?;
        switch.tell(&[
            "--timeout=20",
            "add-br",
            "vqo0",
            "--",
            "set",
            "bridge",
            "vqo0",
            "datapath_type=netdev",
        ])?;
        Ok(Some(switch))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&mut self, program: &str, arguments: &[&str]) -> Result<()> {
        let log = fs::File::create(self.path(&format!("{program}.log")))?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("OVS_RUNDIR", self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.children.push(command.spawn().context(program.to_owned())?);
        Ok(())
    }

    fn tell(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new("ovs-vsctl")
            .args(arguments)
            .env("OVS_RUNDIR", self.dir.path())
            .output()?;
        ensure!(
            output.status.success(),
            "ovs-vsctl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Ports and shapes of guests that the database knows.
    fn held(&self) -> Result<String> {
        let shapes =
            ["qos", "queue"].map(|table| self.tell(&["--no-heading", "--columns=_uuid", "list", table]));
        let [shapes, queues] = shapes;
        Ok([self.tell(&["list-ports", "vqo0"])?, shapes?, queues?]
            .concat()
            .trim()
            .to_owned())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn place() -> Result<Option<(Sandbox, Switch)>> {
    if !can_run_guests() {
        return Ok(None);
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
    ip(&["link", "set", "lo", "up"])?;
    let Some(switch) = Switch::start()? else {
        return Ok(None);
    };
    let daemon = daemon().env("OVS_RUNDIR", &switch.dir.path().to_string_lossy());
    Ok(Some((Sandbox::started(daemon)?, switch)))
}

fn card(more: &str) -> String {
    format!(
        "<interface type='bridge'><mac address='52:54:00:cc:00:01'/><source bridge='vqo0'/>{more}<virtualport type='openvswitch'>\
         <parameters interfaceid='{INTERFACE}' profileid='prof'/></virtualport><target dev='vqport'/><model type='virtio'/></interface>"
    )
}

fn define(virsh: &Virsh, card: &str, more: &str) -> Result<()> {
    let xml = small("g", Path::new(QEMU), "").replacen("<memballoon", &format!("{card}<memballoon"), 1);
    virsh.define(&xml.replace("</domain>", &format!("{more}</domain>")))?;
    Ok(())
}

#[test]
fn a_switch_knows_a_guests_port_until_it_ends() -> Result<()> {
    let Some((mut sandbox, switch)) = place()? else {
        return Ok(());
    };
    let virsh = sandbox.virsh();
    let tags = "<vlan trunk='yes'><tag id='42'/><tag id='47' nativeMode='untagged'/></vlan>";
    define(
        &virsh,
        &card(&format!(
            "{tags}<bandwidth><inbound average='100'/><outbound average='200' burst='3'/></bandwidth>"
        )),
        "",
    )?;
    virsh.ok(&["start", "g"])?;
    let uuid = virsh.ok(&["domuuid", "g"])?.trim().to_owned();
    let port = switch.tell(&[
        "--columns=tag,trunks,vlan_mode,other_config",
        "list",
        "port",
        "vqport",
    ])?;
    for part in [
        ": 47\n",
        ": [42, 47]\n",
        ": native-untagged\n",
        "transient=\"true\"",
    ] {
        ensure!(port.contains(part), "no {part}: {port}");
    }
    let interface = switch.tell(&[
        "--columns=external_ids,ingress_policing_rate,ingress_policing_burst",
        "list",
        "interface",
        "vqport",
    ])?;
    for part in [
        "attached-mac=\"52:54:00:cc:00:01\"",
        INTERFACE,
        &uuid,
        "port-profile=prof",
        "iface-status=active",
        ": 1600",
        ": 24",
    ] {
        ensure!(interface.contains(part), "no {part}: {interface}");
    }
    ensure!(
        switch
            .tell(&["--columns=other_config", "list", "qos"])?
            .contains("min-rate=\"800000\"")
    );
    ensure!(virsh.ok(&["domiflist", "g"])?.contains("vqo0"));
    ensure!(virsh.ok(&["domifstat", "g", "vqport"])?.contains("rx_bytes"));
    virsh.ok(&["domiftune", "g", "vqport", "--inbound", "50", "--live"])?;
    ensure!(
        switch
            .tell(&["--columns=other_config", "list", "qos"])?
            .contains("min-rate=\"400000\"")
    );
    sandbox.kill()?;
    sandbox.start()?;
    virsh.ok(&["destroy", "g"])?;
    wait_until("nothing that the switch knows", SETTLED, || {
        switch.held().is_ok_and(|held| held.is_empty())
    })?;
    // One that ends while nobody looks.
    virsh.ok(&["start", "g"])?;
    let pid = sandbox.guest_pid("g").context("no process")?;
    sandbox.kill()?;
    testkit::process::kill_and_wait(pid)?;
    sandbox.start()?;
    wait_until("nothing that the switch knows", SETTLED, || {
        switch.held().is_ok_and(|held| held.is_empty())
    })
}

#[test]
fn a_start_that_fails_leaves_no_port() -> Result<()> {
    let Some((sandbox, switch)) = place()? else {
        return Ok(());
    };
    ip(&["link", "add", "vqk0", "type", "bridge"])?;
    let virsh = sandbox.virsh();
    let bad_option = "<qemu:commandline><qemu:arg value='-nonsense'/></qemu:commandline>";
    let no_bridge = "Unable to add port vqport to OVS bridge vqk0: ovs-vsctl: no bridge named vqk0";
    // The card, what is added to the document, and what is said then.
    let table = [
        (card(""), bad_option, "nonsense"),
        (card("").replace("vqo0", "vqk0"), "", no_bridge),
        (
            card("").replace("vqo0", "none"),
            "",
            "Cannot get interface MTU on 'none': No such device",
        ),
    ];
    for (card, more, said) in table {
        define(&virsh, &card, more)?;
        let refused = virsh.refused(&["start", "g"])?;
        ensure!(refused.contains(said), "{said}: {refused}");
        let held = switch.held()?;
        ensure!(held.is_empty(), "after {said}: {held}");
        virsh.ok(&["undefine", "g"])?;
    }
    Ok(())
}
