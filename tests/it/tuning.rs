//! What a guest may use of the host, told and changed over gRPC while a real one runs, and seen in the kernel.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use confine::cgroup::{Bandwidth, Controller, Group, Host, Part, machine_name};
use pb::set_pinning_request::{Emulator, Thread};
use testkit::skip::{can_run_guests, skip};
use testkit::{Sandbox, process};
use tonic::Code;
use virtqemud_client::{proto as pb, time};

use crate::grpc::{Grpc, QEMU, by_name, daemon, refused, small};

/// A name that no other guest of this machine has: control groups are the machine's.
fn unique(name: &str) -> String {
    format!("tuning{}{name}", std::process::id())
}

fn started() -> Result<Sandbox> {
    let mut sandbox = Sandbox::new(daemon())?.with_groups()?;
    sandbox.start()?;
    Ok(sandbox)
}

fn guest(name: &str, more: &str) -> String {
    small(name, Path::new(QEMU), &format!("<iothreads>1</iothreads>{more}"))
}

/// The control groups of this machine, if a guest can have some.
fn groups() -> Result<Option<Host>> {
    let host = Host::detect(Path::new("/"))?;
    let probe = Group::of_guest(&host, "/machine", &machine_name(1, &unique("probe")));
    let made = probe.make(true);
    probe.remove()?;
    if made.is_ok() && probe.has(Controller::Cpu) {
        return Ok(Some(host));
    }
    skip("control groups can't be made here");
    Ok(None)
}

/// Directories of a guest's groups that are there.
fn left_of(name: &str) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let places = mounts
        .lines()
        .filter(|line| line.contains(" cgroup"))
        .filter_map(|line| line.split(' ').nth(1));
    let machines = places
        .filter_map(|place| fs::read_dir(Path::new(place).join("machine")).ok())
        .flatten();
    let paths = machines.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths
        .filter(|path| path.to_string_lossy().contains(&format!("-{name}.")))
        .collect())
}

/// The thread of a process with that name.
fn thread(pid: i32, name: &str) -> Result<i32> {
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = entry?.path();
        if fs::read_to_string(path.join("comm"))?.starts_with(name) {
            return Ok(path
                .file_name()
                .and_then(|n| n.to_str())
                .context("no number")?
                .parse()?);
        }
    }
    anyhow::bail!("no thread '{name}'")
}

fn quota(quota: i64) -> pb::Scheduler {
    pb::Scheduler {
        vcpu: Some(pb::scheduler::Bandwidth {
            period: Some(time::of_microseconds(50_000)),
            quota: Some(time::of_microseconds(quota)),
        }),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_run_where_they_are_pinned() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let sandbox = started()?;
    let grpc = Grpc::of(&sandbox).await?;
    let name = unique("pin");
    grpc.define(&guest(&name, "<cputune><emulatorpin cpuset='0'/></cputune>"))
        .await?;
    grpc.start(&name).await?;
    let pid = sandbox.guest_pid(&name).context("no process")?;
    let all = confine::affinity(std::process::id().cast_signed())?;
    assert_eq!(
        confine::affinity(pid)?,
        [0],
        "as the document has it, from the first"
    );
    assert_eq!(
        confine::affinity(thread(pid, "CPU 0")?)?,
        all,
        "a CPU of which nothing is said runs anywhere"
    );

    let pin = |thread, scope: pb::Scope, cpus: Vec<u8>| pb::SetPinningRequest {
        domain: by_name(&name),
        scope: scope.into(),
        thread: Some(thread),
        cpus,
        options: None,
    };
    grpc.tuning()
        .set_pinning(pin(Thread::Vcpu(0), pb::Scope::LiveAndConfig, vec![1]))
        .await?;
    grpc.tuning()
        .set_pinning(pin(Thread::Iothread(1), pb::Scope::Live, vec![1]))
        .await?;
    assert_eq!(confine::affinity(thread(pid, "CPU 0")?)?, [0]);
    assert_eq!(confine::affinity(thread(pid, "IO iothread1")?)?, [0]);
    let asked = |scope: pb::Scope| pb::GetTuningRequest {
        domain: by_name(&name),
        scope: scope.into(),
    };
    for scope in [pb::Scope::Live, pb::Scope::Config] {
        assert_eq!(
            grpc.tuning().get_pinning(asked(scope)).await?.into_inner().vcpus,
            [[1]]
        );
    }
    let threads = grpc
        .tuning()
        .list_io_threads(asked(pb::Scope::Live))
        .await?
        .into_inner()
        .iothreads;
    assert_eq!(
        threads
            .iter()
            .map(|t| (t.id, t.cpus.as_slice()))
            .collect::<Vec<_>>(),
        [(1, [1].as_slice())]
    );
    assert!(grpc.xml(&name).await?.contains("<vcpupin vcpu='0' cpuset='0'/>"));

    let none = grpc
        .tuning()
        .set_pinning(pin(Thread::Vcpu(7), pb::Scope::Live, vec![1]))
        .await;
    refused(none, Code::InvalidArgument, "INVALID_ARG")?;
    let empty = grpc
        .tuning()
        .set_pinning(pin(Thread::Emulator(Emulator {}), pb::Scope::Live, vec![0]))
        .await;
    refused(empty, Code::InvalidArgument, "INVALID_ARG")?;
    grpc.power_off(&name).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_in_groups_of_its_own_that_outlive_the_daemon_and_go_with_it() -> Result<()> {
    let Some(host) = groups()?.filter(|_| can_run_guests()) else {
        return Ok(());
    };
    let mut sandbox = started()?;
    let grpc = Grpc::of(&sandbox).await?;
    let name = unique("group");
    grpc.define(&guest(
        &name,
        "<cputune><period>50000</period><quota>20000</quota></cputune>",
    ))
    .await?;
    grpc.start(&name).await?;
    let pid = sandbox.guest_pid(&name).context("no process")?;
    let group = Group::of_process(&host, pid)?.context("it is in no group")?;
    let vcpu = group.part(Part::Vcpu(0));
    assert_eq!(
        vcpu.bandwidth()?,
        Bandwidth {
            period: 50_000,
            quota: 20_000
        }
    );

    let set = |scheduler| pb::SetSchedulerRequest {
        domain: by_name(&name),
        scope: pb::Scope::Live.into(),
        scheduler: Some(scheduler),
        options: None,
    };
    grpc.tuning().set_scheduler(set(quota(30_000))).await?;
    assert_eq!(
        vcpu.bandwidth()?,
        Bandwidth {
            period: 50_000,
            quota: 30_000
        }
    );
    refused(
        grpc.tuning().set_scheduler(set(quota(5))).await,
        Code::InvalidArgument,
        "INVALID_ARG",
    )?;
    assert_eq!(
        vcpu.bandwidth()?,
        Bandwidth {
            period: 50_000,
            quota: 30_000
        },
        "nothing of a change that is refused"
    );

    sandbox.kill()?;
    sandbox.start()?;
    let grpc = Grpc::of(&sandbox).await?;
    let asked = || pb::GetTuningRequest {
        domain: by_name(&name),
        scope: pb::Scope::Live.into(),
    };
    let told = grpc.tuning().get_scheduler(asked()).await?.into_inner();
    assert_eq!(told.vcpu, quota(30_000).vcpu);
    let usage = grpc
        .tuning()
        .get_cpu_usage(pb::GetCpuUsageRequest {
            domain: by_name(&name),
            by_cpu: false,
        })
        .await?
        .into_inner();
    let [total, user] = [usage.total, usage.user].map(|span| time::nanoseconds(span.as_ref()));
    assert!(total > 0 && total >= user);
    assert!(!left_of(&name)?.is_empty());
    grpc.power_off(&name).await?;
    assert_eq!(left_of(&name)?, Vec::<PathBuf>::new());
    refused(
        grpc.tuning().get_scheduler(asked()).await,
        Code::FailedPrecondition,
        "OPERATION_INVALID",
    )?;

    grpc.start(&name).await?;
    let pid = sandbox.guest_pid(&name).context("no process")?;
    sandbox.kill()?;
    process::kill_and_wait(pid)?;
    assert!(!left_of(&name)?.is_empty());
    sandbox.start()?;
    let grpc = Grpc::of(&sandbox).await?;
    grpc.get(&name).await?;
    let end = tokio::time::Instant::now() + crate::grpc::SOON;
    while !left_of(&name)?.is_empty() && tokio::time::Instant::now() < end {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(
        left_of(&name)?,
        Vec::<PathBuf>::new(),
        "of a guest that died while nobody looked"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_leaves_no_group() -> Result<()> {
    if groups()?.is_none() || !can_run_guests() {
        return Ok(());
    }
    let sandbox = started()?;
    let grpc = Grpc::of(&sandbox).await?;
    let name = unique("fail");
    grpc.define(&guest(
        &name,
        "<qemu:commandline><qemu:arg value='-bogus'/></qemu:commandline>",
    ))
    .await?;
    assert!(grpc.start(&name).await.is_err());
    assert_eq!(left_of(&name)?, Vec::<PathBuf>::new());
    let name = unique("nowhere");
    // What is said of a CPU's thread shows only when QEMU has made it.
    let nowhere = "<cputune><vcpupin vcpu='0' cpuset='1000'/></cputune>";
    grpc.define(&guest(&name, nowhere)).await?;
    assert!(grpc.start(&name).await.is_err());
    assert_eq!(left_of(&name)?, Vec::<PathBuf>::new());
    Ok(())
}
