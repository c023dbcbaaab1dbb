//! A real guest's agent, asked through both fronts; keys that a guest gets; a guest that sleeps.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::guest::{Console, Image};
use testkit::wait::wait_until;
use testkit::{GuestSpec, Sandbox, Virsh};
use virtqemud_client::proto as pb;

use crate::grpc::{Grpc, by_name, daemon, reason};

/// A guest whose agent listens.
fn with_agent(sandbox: &Sandbox, image: &Image) -> Result<Console> {
    let console = GuestSpec::new("g").agent().boot(sandbox, image)?;
    let virsh = sandbox.virsh();
    let ping = ["qemu-agent-command", "g", r#"{"execute":"guest-ping"}"#];
    wait_until("the agent", Duration::from_secs(60), || {
        virsh.run(&ping).is_ok_and(|answer| answer.success())
    })?;
    Ok(console)
}

/// The words of a refusal.
fn refused(virsh: &Virsh, args: &[&str], words: &str) -> Result<()> {
    let told = virsh.refused(args)?;
    ensure!(told.contains(words), "{args:?}: {told}");
    Ok(())
}

#[test]
fn a_guest_tells_about_itself_and_is_changed_from_inside() -> Result<()> {
    let Some(image) = Image::find()? else {
        return Ok(());
    };
    let sandbox = Sandbox::started(daemon())?;
    let virsh = sandbox.virsh();
    let _console = with_agent(&sandbox, &image)?;
    let tainted = virsh.ok(&["dominfo", "g"])?;
    ensure!(
        tainted.contains("custom guest agent control commands issued"),
        "{tainted}"
    );

    let info = virsh.ok(&["guestinfo", "g"])?;
    for name in [
        "user.count",
        "os.machine",
        "timezone.offset",
        "hostname",
        "if.count",
    ] {
        ensure!(info.contains(name), "{name} in {info}");
    }
    let os = virsh.ok(&["guestinfo", "g", "--os"])?;
    ensure!(
        os.contains("os.kernel-release") && !os.contains("if.count"),
        "{os}"
    );
    let cpus = virsh.ok(&["guestvcpus", "g"])?;
    ensure!(cpus.contains("vcpus          : 0"), "{cpus}");
    ensure!(virsh.ok(&["vcpucount", "g", "--guest"])?.trim() == "1");
    virsh.ok(&["setvcpus", "g", "1", "--guest"])?;
    refused(
        &virsh,
        &["setvcpus", "g", "2", "--guest"],
        "count of enabled vcpus in the domain: 2 > 1",
    )?;
    let disable = ["guestvcpus", "g", "--cpulist", "0", "--disable"];
    refused(&virsh, &disable, "vCPU '0' is not offlinable")?;
    let enable = ["guestvcpus", "g", "--cpulist", "7", "--enable"];
    refused(&virsh, &enable, "guest is missing vCPUs '7'")?;

    refused(
        &virsh,
        &["get-user-sshkeys", "g", "nobody9"],
        "guest-ssh-get-authorized-keys",
    )?;
    let password = ["set-user-password", "g", "root", "secret"];
    refused(
        &virsh,
        &password,
        "unable to execute QEMU agent command 'guest-set-user-password'",
    )?;

    virsh.ok(&["guest-agent-timeout", "g", "--timeout", "0"])?;
    refused(
        &virsh,
        &["domtime", "g"],
        "guest agent didn't respond to command within '0' seconds",
    )?;
    virsh.ok(&["guest-agent-timeout", "g", "--timeout", "5"])?;
    virsh.ok(&["domtime", "g"])?;
    let least = ["guest-agent-timeout", "g", "--timeout", "-3"];
    refused(
        &virsh,
        &least,
        "guest agent timeout '-3' is less than the minimum '-2'",
    )?;

    virsh.ok(&["send-key", "g", "KEY_LEFTCTRL", "KEY_A"])?;
    virsh.ok(&["send-key", "g", "--codeset", "win32", "--holdtime", "20", "65"])?;
    let unknown = ["send-key", "g", "--codeset", "linux", "9999"];
    refused(
        &virsh,
        &unknown,
        "cannot translate keycode 9999 of linux codeset to qnum keycode",
    )?;
    refused(&virsh, &["dompmwakeup", "g"], "guest is not in suspended state")?;

    virsh.ok(&["suspend", "g"])?;
    refused(&virsh, &["guestinfo", "g"], "domain is not running")?;
    virsh.ok(&["destroy", "g"])?;
    refused(&virsh, &["send-key", "g", "30"], "domain is not running")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_sleeps_until_it_is_woken() -> Result<()> {
    let Some(image) = Image::find()? else {
        return Ok(());
    };
    let sandbox = Sandbox::started(daemon())?;
    let grpc = Grpc::of(&sandbox).await?;
    let _console = tokio::task::block_in_place(|| with_agent(&sandbox, &image))?;
    let mut agent = pb::guest_agent_client::GuestAgentClient::new(grpc.channel());
    let unknown = pb::GetGuestInfoRequest {
        domain: by_name("g"),
        parts: vec![99],
    };
    let status = agent.get_info(unknown).await.err().context("refused")?;
    ensure!(reason(&status) == "INVALID_ARG", "{status:?}");
    let info = pb::GetGuestInfoRequest {
        domain: by_name("g"),
        parts: vec![pb::get_guest_info_request::Part::Os.into()],
    };
    let told = agent.get_info(info).await?.into_inner();
    ensure!(told.os.is_some_and(|os| os.machine == "x86_64") && told.users.is_none());
    let sleep = |validate_only| pb::SleepRequest {
        domain: by_name("g"),
        kind: pb::sleep_request::Kind::Memory.into(),
        options: Some(pb::MutationOptions {
            validate_only,
            ..Default::default()
        }),
    };
    agent.sleep(sleep(true)).await?;
    ensure!(grpc.get("g").await?.state() == pb::State::Running);
    agent.sleep(sleep(false)).await?;
    ensure!(grpc.get("g").await?.state() == pb::State::Pmsuspended);
    let wake = pb::WakeRequest {
        domain: by_name("g"),
        options: None,
    };
    grpc.domains().wake(wake).await?;
    for _ in 0..100 {
        if grpc.get("g").await?.state() == pb::State::Running {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("the guest does not wake up")
}
