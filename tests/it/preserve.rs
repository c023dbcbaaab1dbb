//! What becomes of guests when the administrator has the daemon preserve them, and when logind tells that the host goes down.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pb::admin_client::AdminClient;
use testkit::skip::can_run_guests;
use testkit::{Daemon, Sandbox, process, wait_until};
use virtqemud_client::proto as pb;

use crate::bus::{Logind, MessageBus};
use crate::grpc::{Grpc, QEMU, daemon, small};

/// Guests are saved and end within it, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A daemon with these lines in qemu.conf, and two guests that run: "kept", which is stored, and "passing", which is not.
fn two_guests(daemon: Daemon, lines: &str) -> Result<Sandbox> {
    let mut sandbox = Sandbox::new(daemon)?;
    let conf = sandbox.path("/etc/libvirt/qemu.conf");
    fs::create_dir_all(conf.parent().context("a directory")?)?;
    let before = fs::read_to_string(&conf).unwrap_or_default();
    fs::write(&conf, before + lines)?;
    sandbox.start()?;
    let virsh = sandbox.virsh();
    virsh.define(&small("kept", Path::new(QEMU), ""))?;
    virsh.ok(&["start", "kept"])?;
    let file = sandbox.dir().join("passing.xml");
    fs::write(&file, small("passing", Path::new(QEMU), ""))?;
    virsh.ok(&["create", &file.display().to_string()])?;
    Ok(sandbox)
}

fn is_saved(sandbox: &Sandbox) -> bool {
    sandbox.path("/var/lib/libvirt/qemu/save/kept.save").exists()
}

fn starts_once(sandbox: &Sandbox) -> bool {
    let links = fs::read_dir(sandbox.path("/etc/libvirt/qemu/autostart"));
    let mut names = links
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name());
    names.any(|name| name.to_string_lossy().starts_with("kept.xml"))
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_are_preserved_before_the_daemon_ends_and_are_back_with_the_host() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let lines = "auto_shutdown_try_save = \"persistent\"\nauto_shutdown_poweroff = \"all\"\n";
    let mut sandbox = two_guests(daemon(), lines)?;
    let grpc = Grpc::of(&sandbox).await?;
    let pid = sandbox.pid().context("no daemon")?;
    let preserve = |validate_only| pb::ShutDownRequest {
        preserve: true,
        options: Some(pb::MutationOptions {
            validate_only,
            ..Default::default()
        }),
    };
    let mut admin = AdminClient::new(grpc.channel());
    admin.shut_down(preserve(true)).await?;
    ensure!(
        sandbox.virsh().state("kept")? == "running",
        "a trial has ended a guest"
    );
    admin.shut_down(preserve(false)).await?;
    let end = || wait_until("the daemon's end", LIMIT, || !process::alive(pid));
    tokio::task::block_in_place(end)?;
    sandbox.stop()?;
    ensure!(is_saved(&sandbox), "the guest is not saved");
    ensure!(starts_once(&sandbox), "it would not be started");
    // The host was started since.
    fs::remove_file(sandbox.path("/run/libvirt/qemu/autostarted"))?;
    sandbox.start()?;
    let virsh = sandbox.virsh();
    let back = || {
        wait_until("the guest is back", LIMIT, || {
            let state = virsh.ok(&["domstate", "kept", "--reason"]);
            state.is_ok_and(|state| state.contains("running (restored)"))
        })
    };
    tokio::task::block_in_place(back)?;
    ensure!(!starts_once(&sandbox), "it would be started again");
    ensure!(
        !virsh.run(&["domstate", "passing"])?.success(),
        "the other one was not switched off"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn logind_waits_until_guests_are_saved() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let Some(bus) = MessageBus::started()? else {
        return Ok(());
    };
    let logind = Logind::on(&bus).await?;
    let lines = "auto_shutdown_try_save = \"persistent\"\nauto_shutdown_restore = 0\n";
    let sandbox = tokio::task::block_in_place(|| two_guests(bus.of(daemon()), lines))?;
    let waits = |many: usize| {
        let holds = || logind.waits_for() == many;
        tokio::task::block_in_place(|| wait_until("the host waits for as many", LIMIT, holds))
    };
    waits(1)?;
    logind.goes_down().await?;
    let saved = || {
        is_saved(&sandbox)
            && sandbox
                .virsh()
                .state("kept")
                .is_ok_and(|state| state == "shut off")
    };
    tokio::task::block_in_place(|| wait_until("the guest is saved", LIMIT, saved))?;
    ensure!(!starts_once(&sandbox), "it would be started, against qemu.conf");
    ensure!(
        sandbox.virsh().state("passing")? == "running",
        "a guest was ended that nobody wanted to end"
    );
    // It waits no longer for the one that has told, and would wait the next time.
    waits(1)
}
