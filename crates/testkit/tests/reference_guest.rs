//! The kit itself, tried on libvirt's own daemon: what fails here is a fault of the kit and not of ours.

use std::time::Duration;

use testkit::guest::Image;
use testkit::{GuestSpec, reference, wait_until};

#[test]
fn a_guest_boots_answers_and_survives_its_daemon() -> anyhow::Result<()> {
    let Some(image) = Image::find()? else {
        return Ok(());
    };
    let Some(mut sandbox) = reference()? else {
        return Ok(());
    };
    let virsh = sandbox.virsh();
    let minute = Duration::from_secs(60);

    let mut console = GuestSpec::new("kit").agent().boot(&sandbox, &image)?;
    console.type_line("echo $((6 * 7))-typed")?;
    console.wait_printed("42-typed", minute)?;
    let ping = ["qemu-agent-command", "kit", r#"{"execute":"guest-ping"}"#];
    wait_until("the agent", minute, || {
        virsh.run(&ping).is_ok_and(|answer| answer.success())
    })?;

    let guest = sandbox.guest_pid("kit");
    assert!(guest.is_some());
    sandbox.kill()?;
    sandbox.start()?;
    assert_eq!(virsh.state("kit")?, "running");
    assert_eq!(sandbox.guest_pid("kit"), guest);

    virsh.ok(&["shutdown", "kit", "--mode", "acpi"])?;
    wait_until("the guest's end", minute, || {
        virsh.state("kit").is_ok_and(|s| s == "shut off")
    })?;
    assert_eq!(sandbox.guest_pid("kit"), None);
    assert!(virsh.refused(&["domstate", "nobody"])?.contains("nobody"));
    Ok(())
}
