//! Guests where systemd-machined runs: registered as libvirt registers them, and none of it where it does not work.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::place::{program, script};
use testkit::skip::{can_run_guests, skip};
use testkit::{Daemon, Sandbox, process, wait_until};

use crate::bus::{Conduct, Created, Logind, Machined, MessageBus, remove_units, timed};
use crate::grpc::{QEMU, daemon, small};

const SOON: Duration = Duration::from_secs(20);
/// A machined that hangs keeps a start waiting for five seconds; the rest is the machine's load.
const PATIENT: Duration = Duration::from_secs(25);

/// A name that no other guest of this machine has: control groups are the machine's.
fn unique(name: &str) -> String {
    format!("mach{}{name}", std::process::id())
}

fn libvirtd() -> Option<Daemon> {
    let Some(program) = program("libvirtd") else {
        skip("libvirtd is not installed, nothing to compare with");
        return None;
    };
    Some(Daemon {
        program,
        args: ["-p", "/run/libvirt/libvirtd.pid"].map(str::to_owned).to_vec(),
        env: Vec::new(),
        socket: "/run/libvirt/libvirt-sock".into(),
    })
}

fn started(daemon: Daemon) -> Result<Sandbox> {
    let mut sandbox = Sandbox::new(daemon)?.with_groups()?;
    sandbox.start()?;
    Ok(sandbox)
}

/// The group of a process in the controller of CPU time.
fn cpu_group(pid: i32) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let of_cpu = |line: &&str| {
        line.split(':')
            .nth(1)
            .is_some_and(|c| c.split(',').any(|name| name == "cpu"))
    };
    let line = text
        .lines()
        .find(of_cpu)
        .or_else(|| text.lines().find(|line| line.starts_with("0::")));
    Ok(line
        .and_then(|line| line.splitn(3, ':').nth(2))
        .context("no group")?
        .to_owned())
}

/// The groups of a process in all controllers that libvirt uses.
fn groups_of(pid: i32) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let used = |line: &&str| line.contains("machine") && !line.contains("name=");
    Ok(text
        .lines()
        .filter(used)
        .map(|line| format!("{line}\n"))
        .collect())
}

/// Whether guests have control groups on this machine.
fn has_groups() -> bool {
    let probe = format!("/sys/fs/cgroup/cpu/{}", unique("probe"));
    let made = fs::create_dir(&probe).is_ok() || fs::create_dir("/sys/fs/cgroup/probe").is_ok();
    let _ = fs::remove_dir(&probe);
    let _ = fs::remove_dir("/sys/fs/cgroup/probe");
    if !made {
        skip("control groups can't be made here");
    }
    made
}

/// Starts a guest, looks at it, ends it; what machined was told.
fn one_run(sandbox: &Sandbox, machined: &Machined, name: &str) -> Result<(Created, String)> {
    let before = machined.told().created.len();
    let document = small(
        name,
        QEMU.as_ref(),
        "<uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid>",
    );
    sandbox.virsh().define(&document)?;
    sandbox.virsh().ok(&["start", name])?;
    let pid = sandbox.guest_pid(name).context("no process")?;
    let group = groups_of(pid)?;
    let created = machined
        .told()
        .created
        .get(before..)
        .map(<[_]>::to_vec)
        .unwrap_or_default();
    ensure!(created.len() == 1, "{created:?}");
    assert_eq!(created[0].leader, pid.cast_unsigned());
    sandbox.virsh().ok(&["schedinfo", name])?;
    sandbox.virsh().ok(&["destroy", name])?;
    wait_until("machined forgets it", SOON, || {
        machined.told().terminated.contains(&created[0].name)
    })?;
    Ok((created[0].clone(), group))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_registered_as_libvirt_registers_it() -> Result<()> {
    if !can_run_guests() || !has_groups() {
        return Ok(());
    }
    let Some(bus) = MessageBus::started()? else {
        return Ok(());
    };
    let machined = Machined::on(&bus, Conduct::Moves).await?;
    let name = unique("reg");
    let ours = started(bus.of(daemon()))?;
    let (created, group) = tokio::task::block_in_place(|| one_run(&ours, &machined, &name))?;
    let unit = format!("machine.slice/machine-qemu\\x2d1\\x2d{name}.scope");
    assert!(group.contains(&unit), "{group}");
    assert_eq!(
        (
            created.name.as_str(),
            created.service.as_str(),
            created.class.as_str(),
            created.interfaces
        ),
        (format!("qemu-1-{name}").as_str(), "libvirt-qemu", "vm", 0)
    );
    remove_units(&name);
    let Some(libvirtd) = libvirtd() else { return Ok(()) };
    let theirs = started(bus.of(libvirtd))?;
    let (reference, place) = tokio::task::block_in_place(|| one_run(&theirs, &machined, &name))?;
    remove_units(&name);
    let leader = created.leader;
    assert_eq!(created, Created { leader, ..reference });
    assert_eq!(group, place);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registered_guest_survives_that_libvirt_takes_it_over() -> Result<()> {
    if !can_run_guests() || !has_groups() {
        return Ok(());
    }
    let (Some(bus), Some(libvirtd)) = (MessageBus::started()?, libvirtd()) else {
        return Ok(());
    };
    let _machined = Machined::on(&bus, Conduct::Moves).await?;
    let name = unique("take");
    let mut sandbox = started(bus.of(daemon()))?;
    sandbox.virsh().define(&small(&name, QEMU.as_ref(), ""))?;
    sandbox.virsh().ok(&["start", &name])?;
    let pid = sandbox.guest_pid(&name).context("no process")?;
    sandbox.stop()?;
    let mut child = Command::new(script("sandbox.sh"))
        .arg(sandbox.dir())
        .arg(&libvirtd.program)
        .args(&libvirtd.args)
        .env("DBUS_SYSTEM_BUS_ADDRESS", bus.address())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let uri = format!(
        "qemu+unix:///system?socket={}",
        sandbox.path("/run/libvirt/libvirt-sock").display()
    );
    let virsh = testkit::Virsh::new(uri);
    let taken = wait_until("libvirtd has taken it over", SOON, || {
        virsh
            .run(&["domstats", "--balloon", &name])
            .is_ok_and(|answer| answer.success())
    });
    let state = virsh.ok(&["domstate", &name]);
    // It decides within a second or two.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let lives = process::alive(pid);
    let later = virsh.ok(&["domstate", &name]);
    let _ = virsh.run(&["destroy", &name]);
    process::signal(child.id().cast_signed(), nix::sys::signal::Signal::SIGTERM);
    let _ = child.wait();
    remove_units(&name);
    taken?;
    assert_eq!(state?.trim(), "running");
    assert_eq!(later?.trim(), "running");
    assert!(lives);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_machined_keeps_a_guest_from_starting() -> Result<()> {
    if !can_run_guests() || !has_groups() {
        return Ok(());
    }
    for conduct in [Conduct::Stays, Conduct::Refuses, Conduct::Hangs] {
        let Some(bus) = MessageBus::started()? else {
            return Ok(());
        };
        let machined = Machined::on(&bus, conduct).await?;
        let name = unique(&format!("{conduct:?}"));
        let sandbox = started(bus.of(daemon()))?;
        sandbox.virsh().define(&small(&name, QEMU.as_ref(), ""))?;
        let ((), took) = timed(PATIENT, || sandbox.virsh().ok(&["start", &name]).map(drop))?;
        assert!(
            conduct != Conduct::Hangs || took >= Duration::from_secs(5),
            "{took:?}"
        );
        assert_eq!(machined.told().created.len(), 1);
        let pid = sandbox.guest_pid(&name).context("no process")?;
        let group = cpu_group(pid)?;
        assert!(
            group.contains(&format!("machine/qemu-1-{name}.libvirt-qemu")),
            "{conduct:?}: {group}"
        );
        sandbox.virsh().ok(&["destroy", &name])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn logind_says_how_the_host_sleeps_and_has_it_sleep() -> Result<()> {
    let Some(bus) = MessageBus::started()? else {
        return Ok(());
    };
    let logind = Logind::on(&bus).await?;
    let programs = tempfile::tempdir()?;
    let alarm = programs.path().join("rtcwake");
    fs::write(&alarm, "#!/bin/sh\nexit 0\n")?;
    fs::set_permissions(&alarm, fs::Permissions::from_mode(0o755))?;
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH")?);
    let ours = Sandbox::started(bus.of(daemon()).env("PATH", &path))?;
    let management = |sandbox: &Sandbox| -> Result<String> {
        let text = sandbox.virsh().ok(&["capabilities"])?;
        let (_, rest) = text
            .split_once("<power_management")
            .context("no power management")?;
        Ok(rest
            .split_once("</power_management>")
            .context("none")?
            .0
            .to_owned())
    };
    let told = management(&ours)?;
    assert!(
        told.contains("<suspend_mem/>") && told.contains("<suspend_hybrid/>"),
        "{told}"
    );
    assert!(!told.contains("<suspend_disk/>"), "{told}");
    if let Some(libvirtd) = libvirtd() {
        assert_eq!(told, management(&Sandbox::started(bus.of(libvirtd))?)?);
    }
    if program("pm-suspend").is_some() {
        return Ok(());
    }
    ours.virsh().ok(&["nodesuspend", "mem", "60"])?;
    tokio::task::block_in_place(|| {
        wait_until("logind puts the host to sleep", SOON, || {
            !logind.slept().is_empty()
        })
    })?;
    assert_eq!(logind.slept(), [false], "nobody is to be asked for a password");
    Ok(())
}
