//! Scripts of the administrator: when they are called, with what, and what becomes of a guest whose script fails, hangs,
//! or outlives the daemon.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use testkit::skip::can_run_guests;
use testkit::wait::wait_until;
use testkit::{Sandbox, process};
use virtqemud_client::proto as pb;

use crate::grpc::{Answer, Grpc, QEMU, SOON, daemon, reason, small};
use crate::host::processes;
use crate::stage::Stage;

/// The calls of a start, in their order.
const OF_A_START: [&str; 3] = ["prepare", "start", "started"];

/// A daemon with scripted guests, and with a script of the administrator that writes down what it is called with.
struct Hooked {
    stage: Stage,
    /// What the script wrote.
    log: PathBuf,
    /// What it is to do beside that.
    orders: PathBuf,
}

impl Hooked {
    async fn new() -> Result<Self> {
        let stage = Stage::new().await?;
        let (log, orders) = (
            stage.sandbox.dir().join("calls"),
            stage.sandbox.dir().join("orders"),
        );
        fs::write(&orders, "")?;
        let text = format!(
            "document=$(cat)\necho \"$*\" >>{}\n. {}\n",
            log.display(),
            orders.display()
        );
        let mut hooked = Self { stage, log, orders };
        hooked.write("qemu", &text)?;
        hooked.stage.kill().await?;
        Ok(hooked)
    }

    /// Writes a script of the daemon's.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.stage.sandbox.path("/etc/libvirt/hooks").join(name);
        fs::create_dir_all(path.parent().context("no directory")?)?;
        fs::write(&path, format!("#!/bin/sh\n{text}"))?;
        Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?)
    }

    /// Has the script do something from now on; what it did before is forgotten.
    fn order(&self, text: &str) -> Result<()> {
        fs::write(&self.orders, text)?;
        Ok(fs::write(&self.log, "")?)
    }

    fn calls(&self) -> Result<Vec<String>> {
        Ok(fs::read_to_string(&self.log)?
            .lines()
            .map(str::to_owned)
            .collect())
    }

    fn grpc(&self) -> Grpc {
        self.stage.grpc.clone()
    }

    /// Waits until a guest does not run.
    async fn is_off(&self, guest: &str) -> Result<()> {
        let is_off = |guest: &pb::Domain| guest.state() == pb::State::Shutoff;
        self.grpc().wait(guest, "off", SOON, is_off).await.map(drop)
    }

    /// Begins a start that `operation` hangs in, and waits until it does; with the number of the script.
    async fn hang(
        &self,
        guest: &str,
        operation: &str,
    ) -> Result<(tokio::task::JoinHandle<Answer<pb::Domain>>, i32)> {
        let pid = self.stage.sandbox.dir().join("hanging");
        self.order(&hanging(guest, operation, &pid))?;
        let (grpc, name) = (self.grpc(), guest.to_owned());
        let starting = tokio::spawn(async move { grpc.start(&name).await });
        Ok((starting, number(&pid)?))
    }
}

/// Has one script hang that is called for a guest.
fn hanging(guest: &str, operation: &str, pid: &Path) -> String {
    let pid = pid.display();
    format!(
        "[ \"$1 $2\" = '{guest} {operation}' ] && {{ echo $$ >{pid}.new; mv {pid}.new {pid}; sleep 600; }}\ntrue\n"
    )
}

/// Has scripts of an operation fail.
fn failing(operation: &str) -> String {
    format!("[ $2 = {operation} ] && {{ echo said in $2 >&2; exit 3; }}\ntrue\n")
}

/// The number in a file, once it is there; the file is removed.
fn number(pid: &Path) -> Result<i32> {
    wait_until("a script that hangs", SOON, || pid.exists())?;
    let number = fs::read_to_string(pid)?.trim().parse()?;
    fs::remove_file(pid)?;
    Ok(number)
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_are_called_in_order_and_told_of_the_guest() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let hooked = Hooked::new().await?;
    hooked.stage.define("g", &json!({})).await?;
    // Whether the document has the number of a run, and an alias.
    hooked.order(&format!(
        "for what in \"domain type='qemu' id=\" 'alias name='; do
            case $document in *\"$what\"*) echo has \"${{what%% *}}\" >>{0};; esac
        done\n",
        hooked.log.display()
    ))?;
    hooked.grpc().start("g").await?;
    hooked.grpc().power_off("g").await?;
    let calls = hooked.calls()?;
    let without: Vec<_> = calls.iter().filter(|line| !line.starts_with("has")).collect();
    assert_eq!(
        without,
        [
            "g prepare begin -",
            "g start begin -",
            "g started begin -",
            "g stopped end -",
            "g release end destroyed"
        ]
    );
    let numbers = calls.iter().filter(|line| *line == "has domain").count();
    assert_eq!(numbers, 3, "{calls:?}");
    assert!(calls.iter().any(|line| line == "has alias"), "{calls:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_script_fails_leaves_nothing_behind() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let hooked = Hooked::new().await?;
    hooked.stage.define("g", &json!({})).await?;
    let before = hooked.stage.host()?;
    for (at, operation) in OF_A_START.iter().enumerate() {
        hooked.order(&failing(operation))?;
        let status = hooked.grpc().start("g").await.err().context("it started")?;
        assert_eq!(reason(&status), "HOOK_SCRIPT_FAILED", "{status:?}");
        let end = format!(
            "/etc/libvirt/hooks/qemu g {operation} begin -) unexpected exit status 3: said in {operation}"
        );
        assert!(status.message().ends_with(&end), "{}", status.message());
        let called = OF_A_START[..=at]
            .iter()
            .map(|operation| format!("g {operation} begin -"));
        let ended = ["g stopped end -", "g release end failed"].map(str::to_owned);
        assert_eq!(
            hooked.calls()?,
            called.chain(ended).collect::<Vec<_>>(),
            "{operation}"
        );
        let guest = hooked.grpc().get("g").await?;
        assert_eq!(
            (guest.state(), guest.reason()),
            (pb::State::Shutoff, pb::StateReason::ShutoffFailed),
            "{operation}"
        );
        assert!(processes(&hooked.stage.sandbox)?.is_empty(), "{operation}");
        before.is_same(&hooked.stage.host()?).context(*operation)?;
    }
    // What is told of an end changes nothing of it.
    hooked.order(&(failing("stopped") + &failing("release")))?;
    hooked.grpc().start("g").await?;
    hooked.grpc().power_off("g").await?;
    before.is_same(&hooked.stage.host()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_hangs_holds_up_its_guest_only_and_powering_off_ends_it() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let hooked = Hooked::new().await?;
    hooked.stage.define("g", &json!({})).await?;
    hooked.stage.define("other", &json!({})).await?;
    let before = hooked.stage.host()?;
    for operation in OF_A_START {
        let (starting, script) = hooked.hang("g", operation).await?;
        hooked.grpc().start("other").await.context(operation)?;
        hooked.grpc().power_off("other").await.context(operation)?;
        hooked.grpc().power_off("g").await.context(operation)?;
        let status = starting
            .await?
            .err()
            .with_context(|| format!("{operation}: it started"))?;
        assert!(!process::alive(script), "{operation}: {status:?}");
        let calls: Vec<_> = hooked
            .calls()?
            .into_iter()
            .filter(|line| line.starts_with("g "))
            .collect();
        assert_eq!(
            calls
                .iter()
                .filter(|line| line.contains(" stopped end -"))
                .count(),
            1,
            "{calls:?}"
        );
        let last = calls.last().context("no call")?;
        assert!(last.starts_with("g release end "), "{calls:?}");
        assert!(processes(&hooked.stage.sandbox)?.is_empty(), "{operation}");
        before.is_same(&hooked.stage.host()?).context(operation)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_a_script_holds_up_can_be_cancelled() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let hooked = Hooked::new().await?;
    hooked.stage.script("g", &json!({}))?;
    let pid = hooked.stage.sandbox.dir().join("hanging");
    hooked.order(&hanging("g", "prepare", &pid))?;
    // A guest that nobody can name yet: it is not defined.
    let (grpc, xml) = (hooked.grpc(), hooked.stage.xml("g", ""));
    let creating = tokio::spawn(async move { grpc.create(&xml).await });
    let script = number(&pid)?;
    let mut operations = hooked.grpc().operations();
    let listed = operations
        .list_operations(pb::ListOperationsRequest::default())
        .await?
        .into_inner();
    let can_be = |o: &pb::Operation| o.metadata.as_ref().is_some_and(|m| m.cancellable);
    let start = listed
        .operations
        .into_iter()
        .find(can_be)
        .context("none can be cancelled")?;
    let cancel = pb::CancelOperationRequest {
        id: start.id,
        ..Default::default()
    };
    operations.cancel_operation(cancel).await?;
    let status = creating.await?.err().context("it was created")?;
    assert_eq!(reason(&status), "OPERATION_ABORTED", "{status:?}");
    assert!(!process::alive(script));
    assert!(hooked.grpc().names().await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_run_waits_for_its_script_and_no_other_does() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let hooked = Hooked::new().await?;
    hooked.stage.define("g", &json!({})).await?;
    hooked.stage.define("other", &json!({})).await?;
    hooked.grpc().start("g").await?;
    let pid = hooked.stage.sandbox.dir().join("hanging");
    hooked.order(&hanging("g", "release", &pid))?;
    let grpc = hooked.grpc();
    let ending = tokio::spawn(async move { grpc.power_off("g").await });
    let script = number(&pid)?;
    hooked.grpc().start("other").await?;
    hooked.grpc().power_off("other").await?;
    assert!(!ending.is_finished());
    nix::sys::signal::killpg(nix::unistd::Pid::from_raw(script), Signal::SIGKILL)?;
    ending.await??;
    let guest = hooked.grpc().get("g").await?;
    assert_eq!(guest.reason(), pb::StateReason::ShutoffDestroyed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_in_a_script_leaves_no_start_half_done() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut hooked = Hooked::new().await?;
    hooked.stage.define("g", &json!({})).await?;
    let before = hooked.stage.host()?;
    for operation in OF_A_START {
        let (starting, script) = hooked.hang("g", operation).await?;
        hooked.stage.kill().await?;
        assert!(starting.await?.is_err());
        // The script is the administrator's: nobody ends it who does not know it.
        nix::sys::signal::killpg(nix::unistd::Pid::from_raw(script), Signal::SIGKILL)?;
        hooked.is_off("g").await.context(operation)?;
        assert!(processes(&hooked.stage.sandbox)?.is_empty(), "{operation}");
        before.is_same(&hooked.stage.host()?).context(operation)?;
        // It was begun, so its end is told where the next daemon knows of it.
        let told = hooked
            .calls()?
            .iter()
            .filter(|line| *line == "g release end failed")
            .count();
        assert_eq!(told, usize::from(operation == "started"), "{operation}");
        hooked.order("true\n")?;
        hooked.grpc().start("g").await.context(operation)?;
        hooked.grpc().power_off("g").await.context(operation)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_takes_guests_over_asks_its_script() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut hooked = Hooked::new().await?;
    for guest in ["kept", "refused"] {
        hooked.stage.define(guest, &json!({})).await?;
        hooked.grpc().start(guest).await?;
    }
    hooked.order("[ \"$1 $2\" = 'refused reconnect' ] && exit 1\ntrue\n")?;
    hooked.stage.kill().await?;
    let log = hooked.log.clone();
    let told = move |line: &str| {
        fs::read_to_string(&log)
            .unwrap_or_default()
            .lines()
            .any(|l| l == line)
    };
    wait_until("the call for the guest that is kept", SOON, || {
        told("kept reconnect begin -")
    })?;
    wait_until("the end of the other one", SOON, || {
        told("refused release end daemon")
    })?;
    hooked.is_off("refused").await?;
    let refused = hooked.grpc().get("refused").await?;
    assert_eq!(refused.reason(), pb::StateReason::ShutoffDaemon);
    ensure!(hooked.grpc().get("kept").await?.state() == pb::State::Running);
    assert_eq!(processes(&hooked.stage.sandbox)?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_tells_its_own_script_and_finds_new_ones_when_it_reloads() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut stage = Stage::new().await?;
    let log = stage.sandbox.dir().join("calls");
    let line = |name: &str| format!("#!/bin/sh\necho {name} \"$*\" \"$(cat)\" >>{}\n", log.display());
    let hooks = stage.sandbox.path("/etc/libvirt/hooks");
    fs::create_dir_all(hooks.join("qemu.d"))?;
    for name in ["daemon", "qemu.d/10"] {
        fs::write(hooks.join(name), line(name).replace("\"$(cat)\"", ""))?;
        fs::set_permissions(hooks.join(name), fs::Permissions::from_mode(0o755))?;
    }
    let calls = || fs::read_to_string(&log).unwrap_or_default();
    stage.define("g", &json!({})).await?;
    stage.grpc.start("g").await?;
    assert_eq!(calls(), "", "they were not there when the daemon started");
    process::signal(stage.sandbox.pid().context("no daemon")?, Signal::SIGHUP);
    wait_until("the call of a reload", SOON, || calls().contains("reload"))?;
    stage.grpc.power_off("g").await?;
    stage.sandbox.stop()?;
    stage.sandbox.start()?;
    // Its sockets are there before.
    wait_until("the call of a start", SOON, || calls().contains("start - start"))?;
    let lines = calls();
    let lines: Vec<_> = lines.lines().map(str::trim).collect();
    assert_eq!(
        lines,
        [
            "daemon - reload begin SIGHUP",
            "qemu.d/10 g stopped end -",
            "qemu.d/10 g release end destroyed",
            "daemon - shutdown - shutdown",
            "daemon - start - start"
        ]
    );
    Ok(())
}

/// A guest's script that leaves `left` of the document of a restore, and writes down its calls.
fn filter(sandbox: &Sandbox, left: &str) -> Result<()> {
    let path = sandbox.path("/etc/libvirt/hooks/qemu");
    fs::create_dir_all(path.parent().context("no directory")?)?;
    let log = sandbox.dir().join("calls");
    let text = format!(
        "#!/bin/sh\necho \"$*\" >>{}\nif [ \"$2\" = restore ]; then {left}; else cat >/dev/null; fi\n",
        log.display()
    );
    fs::write(&path, text)?;
    Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?)
}

#[test]
fn a_restore_goes_on_with_the_document_that_scripts_leave() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut sandbox = Sandbox::new(daemon())?;
    filter(&sandbox, "sed 's|</name>|</name><title>by a script</title>|'")?;
    sandbox.start()?;
    let virsh = sandbox.virsh();
    virsh.define(&small("g", Path::new(QEMU), ""))?;
    virsh.ok(&["start", "g"])?;
    virsh.ok(&["managedsave", "g"])?;
    fs::write(sandbox.dir().join("calls"), "")?;
    virsh.ok(&["start", "g"])?;
    let calls = fs::read_to_string(sandbox.dir().join("calls"))?;
    let expected = ["restore", "prepare", "start", "started"].map(|call| format!("g {call} begin -\n"));
    assert_eq!(calls, expected.concat());
    let xml = virsh.ok(&["dumpxml", "g"])?;
    ensure!(xml.contains("<title>by a script</title>"), "{xml}");
    let status = fs::read_to_string(sandbox.path("/run/libvirt/qemu/g.xml"))?;
    ensure!(status.contains("<taint flag='hook-script'/>"), "{status}");
    // A file is restored the same way; one that says no keeps the guest in its image.
    let image = sandbox.dir().join("image").display().to_string();
    virsh.ok(&["save", "g", &image])?;
    filter(&sandbox, "echo not now >&2; exit 3")?;
    let said = virsh.refused(&["restore", &image])?;
    ensure!(
        said.contains("Hook script execution failed") && said.contains("exit status 3: not now"),
        "{said}"
    );
    assert_eq!(virsh.state("g")?, "shut off");
    for (left, words) in [
        (
            "sed 's|<memory.*</memory>|<memory>4096</memory>|'",
            "Target domain max memory",
        ),
        ("sed 's|<name>g|<name>h|'", "Target domain name 'h'"),
        ("echo '<domain'", "error:"),
    ] {
        filter(&sandbox, left)?;
        let said = virsh.refused(&["restore", &image])?;
        ensure!(said.contains(words), "{left}: {said}");
    }
    filter(&sandbox, "cat >/dev/null")?;
    virsh.ok(&["restore", &image])?;
    let status = fs::read_to_string(sandbox.path("/run/libvirt/qemu/g.xml"))?;
    ensure!(!status.contains("hook-script"), "{status}");
    Ok(())
}
