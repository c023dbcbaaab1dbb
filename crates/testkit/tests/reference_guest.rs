//! The kit itself, tried on libvirt's own daemon: what fails here is a fault of the kit and not of ours.

use std::time::Duration;

use testkit::guest::Image;
use testkit::{GuestSpec, KillMatrix, reference, same_answer, wait_until};

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

#[test]
fn two_daemons_are_compared_and_a_difference_is_shown() -> anyhow::Result<()> {
    let (Some(one), Some(other)) = (reference()?, reference()?) else {
        return Ok(());
    };
    same_answer(&one, &other, &["list", "--all"])?;
    same_answer(&one, &other, &["domstate", "nobody"])?;
    let xml =
        "<domain type='qemu'><name>only-here</name><memory>1024</memory><os><type>hvm</type></os></domain>";
    one.virsh().define(xml)?;
    let error = same_answer(&one, &other, &["list", "--all", "--name"]).unwrap_err();
    assert!(error.to_string().contains("+ only-here"), "{error}");
    Ok(())
}

#[test]
fn a_daemon_killed_in_an_operation_is_back_for_the_check() -> anyhow::Result<()> {
    let Some(mut sandbox) = reference()? else {
        return Ok(());
    };
    let xml = "<domain type='qemu'><name>cut</name><memory>1024</memory><os><type>hvm</type></os></domain>";
    sandbox.virsh().define(xml)?;
    let matrix = KillMatrix {
        before: &[],
        operation: &["desc", "cut", "--config", "--title", "try-{}"],
        after: &[],
    };
    let mut checked = 0;
    matrix.run(&mut sandbox, |sandbox, _| {
        checked += 1;
        sandbox.virsh().ok(&["dumpxml", "cut"]).map(drop)
    })?;
    assert_eq!(checked, testkit::kill::tries() + 1);
    Ok(())
}
