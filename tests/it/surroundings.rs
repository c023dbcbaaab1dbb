//! What surrounds the process of a real guest: scheduling policies, groups, counters, where its memory is, and what is told
//! of it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use testkit::Sandbox;
use testkit::skip::can_run_guests;
use tonic::Code;
use virtqemud_client::proto as pb;

use crate::grpc::{Grpc, QEMU, daemon, reason, small};
use crate::host::{Host, processes, root};

/// A guest with something more in its document.
fn guest(more: &str) -> String {
    small("g", Path::new(QEMU), more)
}

/// A daemon whose QEMUs run as root.
async fn started(config: &str) -> Result<(Sandbox, Grpc)> {
    let mut sandbox = Sandbox::new(daemon())?;
    let conf = sandbox.path("/etc/libvirt/qemu.conf");
    fs::create_dir_all(conf.parent().context("no directory")?)?;
    fs::write(conf, format!("user = \"root\"\ngroup = \"root\"\n{config}"))?;
    sandbox.start()?;
    let grpc = Grpc::of(&sandbox).await?;
    // Once it answers, it has made all its directories.
    grpc.stats(None).await?;
    Ok((sandbox, grpc))
}

/// The names of a process's threads with the numbers of their policies.
fn policies(pid: i32) -> Result<Vec<(String, u32)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = entry?.path();
        let name = fs::read_to_string(path.join("comm"))?.trim().to_owned();
        let stat = fs::read_to_string(path.join("stat"))?;
        let after = stat.rsplit(')').next().unwrap_or_default();
        found.push((
            name,
            after.split_whitespace().nth(38).context("no policy")?.parse()?,
        ));
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_have_the_policies_that_the_document_chooses() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    const BATCH: u32 = 3;
    const IDLE: u32 = 5;
    let (sandbox, grpc) = started("").await?;
    let more = "<iothreads>2</iothreads><cputune><emulatorsched scheduler='batch'/>
        <vcpusched vcpus='0' scheduler='idle'/><iothreadsched iothreads='2' scheduler='idle'/></cputune>";
    grpc.define(&guest(more)).await?;
    grpc.start("g").await?;
    let found = policies(sandbox.guest_pid("g").context("no process")?)?;
    let of = |name: &str| {
        found
            .iter()
            .find(|(known, _)| known.starts_with(name))
            .map(|(_, policy)| *policy)
    };
    assert_eq!(of("qemu-system"), Some(BATCH), "{found:?}");
    assert_eq!(of("CPU 0"), Some(IDLE), "{found:?}");
    assert_eq!(of("IO iothread2"), Some(IDLE), "{found:?}");
    assert_eq!(
        of("IO iothread1"),
        Some(BATCH),
        "a thread has what made it: {found:?}"
    );
    grpc.power_off("g").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_the_kernel_refuses_something_of_leaves_nothing_behind() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let (sandbox, grpc) = started("").await?;
    let before = Host::of(&sandbox)?;
    for (more, code, text) in [
        (
            "<cputune><emulatorsched scheduler='fifo' priority='200'/></cputune>",
            Code::FailedPrecondition,
            "unsupported configuration: Scheduler priority 200 out of range [1, 99]",
        ),
        (
            "<cputune><vcpusched vcpus='0' scheduler='rr' priority='-1'/></cputune>",
            Code::FailedPrecondition,
            "unsupported configuration: Scheduler priority -1 out of range [1, 99]",
        ),
        (
            "<perf><event name='mbmt' enabled='yes'/></perf>",
            Code::Unimplemented,
            "argument unsupported: unable to enable host cpu perf event for mbmt",
        ),
        (
            "<seclabel type='dynamic' model='selinux' relabel='yes'/>",
            Code::FailedPrecondition,
            "unsupported configuration: Security driver model 'selinux' is not available",
        ),
        (
            "<cpu mode='custom' match='exact' check='none'><model>qemu64</model>
             <feature policy='require' name='invtsc'/></cpu>",
            Code::FailedPrecondition,
            "unsupported configuration: host doesn't support invariant TSC",
        ),
    ] {
        let defined = grpc.define(&guest(more)).await.with_context(|| more.to_owned())?;
        let status = grpc.start("g").await.err().with_context(|| more.to_owned())?;
        assert_eq!((status.code(), status.message()), (code, text), "{more}");
        assert!(processes(&sandbox)?.is_empty(), "{more}");
        drop(defined);
        grpc.undefine("g").await?;
        before
            .is_same(&Host::of(&sandbox)?)
            .with_context(|| more.to_owned())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cpu_that_can_not_be_had_is_refused_before_qemu_is_started() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let (_sandbox, grpc) = started("").await?;
    let cpu = "<cpu mode='custom' match='exact' check='partial'><model fallback='forbid'>Skylake-Server</model></cpu>";
    grpc.define(&guest(cpu)).await?;
    let status = grpc.start("g").await.err().context("it started")?;
    assert_eq!(reason(&status), "CPU_INCOMPATIBLE");
    let begin = "the CPU is incompatible with host CPU: Host CPU does not provide required features: ";
    assert!(status.message().starts_with(begin), "{}", status.message());
    Ok(())
}

/// KVM need not be asked as guests will ask it: what the host's CPU has counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_cpu_that_the_host_has_is_not_refused() -> Result<()> {
    let kvm = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if !can_run_guests() || kvm.is_err() {
        return Ok(());
    }
    let (sandbox, _grpc) = started("").await?;
    let cpu = "<cpu mode='custom' match='exact' check='partial'><model fallback='forbid'>kvm64</model></cpu>";
    let file = sandbox.dir().join("guest.xml");
    fs::write(&file, guest(cpu).replace("type='qemu'", "type='kvm'"))?;
    let file = file.to_string_lossy().into_owned();
    let virsh = sandbox.virsh();
    let line = tokio::task::spawn_blocking(move || virsh.ok(&["domxml-to-native", "qemu-argv", &file]));
    assert!(line.await??.contains("-cpu kvm64"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_counts_what_the_document_asks_for() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let (mut sandbox, grpc) = started("").await?;
    let event =
        "<perf><event name='task_clock' enabled='yes'/><event name='page_faults' enabled='no'/></perf>";
    grpc.define(&guest(event)).await?;
    if let Err(status) = grpc.start("g").await {
        // Not every kernel counts for everybody.
        let begin = "unable to open host cpu perf event for task_clock: ";
        assert!(status.message().starts_with(begin), "{status:?}");
        return Ok(());
    }
    let counted = async |grpc: &Grpc| -> Result<Vec<String>> {
        let stats = grpc.stats(Some("g")).await?.stats;
        let perf = &stats.first().context("no statistics")?.perf;
        Ok(perf.iter().map(|stat| stat.event.clone()).collect())
    };
    assert_eq!(counted(&grpc).await?, ["task_clock"]);
    sandbox.restart()?;
    let grpc = Grpc::of(&sandbox).await?;
    // The next daemon has them counted anew once it has reached the guest.
    let end = Instant::now() + Duration::from_secs(20);
    while counted(&grpc).await?.is_empty() && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(counted(&grpc).await?, ["task_clock"]);
    grpc.power_off("g").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_in_files_has_a_directory_as_long_as_the_guest_runs() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let (sandbox, grpc) = started("").await?;
    let before = Host::of(&sandbox)?;
    let backing = "<memoryBacking><source type='file'/></memoryBacking>";
    let defined = grpc.define(&guest(backing)).await?;
    grpc.start("g").await?;
    let ram = root(&sandbox)?.join("var/lib/libvirt/qemu/ram");
    assert_eq!(fs::read_dir(&ram)?.count(), 1);
    grpc.power_off("g").await?;
    assert_eq!(fs::read_dir(&ram)?.count(), 0);
    drop(defined);
    grpc.undefine("g").await?;
    before.is_same(&Host::of(&sandbox)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_qemu_means_to_drop_is_told() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let (mut sandbox, grpc) = started("").await?;
    let old = guest("").replace("machine='q35'", "machine='pc-q35-4.2'");
    grpc.define(&old).await?;
    grpc.start("g").await?;
    let told = |guest: pb::Domain| (guest.taints, guest.deprecations);
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let expected = (
        words(&["deprecated-config", "high-privileges"]),
        words(&["machine type 'pc-q35-4.2'"]),
    );
    assert_eq!(told(grpc.get("g").await?), expected);
    sandbox.restart()?;
    let grpc = Grpc::of(&sandbox).await?;
    assert_eq!(told(grpc.get("g").await?), expected, "from the status file");
    let log = fs::read_to_string(root(&sandbox)?.join("var/log/libvirt/qemu/g.log"))?;
    assert!(log.contains("is tainted: deprecated-config"), "{log}");
    grpc.power_off("g").await?;
    Ok(())
}
