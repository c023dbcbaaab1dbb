//! Statistics of guests that answer late or not at all: who is alive is waited for, who hangs costs one wait, and nothing
//! is left out without a word.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testkit::fake_qemu::program::read_record;
use testkit::skip::can_run_guests;
use testkit::{Sandbox, process};
use virtqemud_client::proto as pb;

use crate::grpc::{QEMU, SOON, daemon, small};
use crate::stage::Stage;

/// How long a call about many guests waits for one.
const WAIT: Duration = Duration::from_secs(5);
/// What a call takes that waits for nobody, on a machine that runs all tests at once.
const QUICK: Duration = Duration::from_millis(1500);

/// Counters as `query-blockstats` tells them.
fn disk() -> Value {
    json!([{"qdev": "/machine/peripheral/virtio-disk0/virtio-backend", "node-name": "libvirt-1-format",
            "stats": {"rd_operations": 7, "rd_bytes": 3584}, "parent": {"stats": {"wr_highest_offset": 512}}}])
}

/// A guest with a disk and a balloon; `first` are rules that come before those of an ordinary guest.
fn script(first: &[Value]) -> Value {
    let image = json!({"filename": "x", "format": "raw", "virtual-size": 4096, "actual-size": 4096});
    let drive = json!({"device": "", "qdev": "/machine/peripheral/virtio-disk0/virtio-backend",
        "inserted": {"node-name": "libvirt-1-format", "file": "x", "drv": "raw", "ro": false, "image": image}});
    let ordinary = [
        json!({"execute": "query-blockstats", "return": disk()}),
        json!({"execute": "query-block", "return": [drive]}),
        json!({"execute": "qom-get", "arguments": {"property": "guest-stats"},
               "return": {"last-update": 9, "stats": {"stat-free-memory": 2048}}}),
        json!({"execute": "query-dirty-rate",
               "return": {"status": "unstarted", "start-time": 0, "calc-time": 0, "calc-time-unit": "second",
                          "sample-pages": 0}}),
    ];
    json!({"rules": first.iter().chain(&ordinary).collect::<Vec<_>>()})
}

impl Stage {
    async fn define_with_disk(&self, name: &str, script: &Value) -> Result<()> {
        let image = self.sandbox.dir().join(format!("{name}.raw"));
        std::fs::write(&image, [0; 4096])?;
        let disk = format!(
            "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>\
             <target dev='vda' bus='virtio'/></disk>",
            image.display()
        );
        self.script(name, script)?;
        let xml = self.xml(name, &disk);
        self.grpc
            .define(&xml.replace("<memballoon model='none'/>", "<memballoon model='virtio'/>"))
            .await?;
        Ok(())
    }

    async fn run_with_disk(&self, name: &str, first: &[Value]) -> Result<()> {
        self.define_with_disk(name, &script(first)).await?;
        self.grpc.start(name).await?;
        Ok(())
    }
}

/// Statistics of all guests, and how long they took.
async fn all(stage: &Stage) -> Result<(pb::GetStatsResponse, Duration)> {
    let begun = Instant::now();
    let stats = stage.grpc.stats(None).await?;
    Ok((stats, begun.elapsed()))
}

fn of<'a>(answer: &'a pb::GetStatsResponse, name: &str) -> Result<&'a pb::DomainStats> {
    answer
        .stats
        .iter()
        .find(|s| s.name == name)
        .context("it is left out")
}

/// Whether there is what only QEMU knows.
fn whole(stats: &pb::DomainStats) -> bool {
    let disks = stats.block.as_ref().map_or(&[][..], |block| &block.blocks);
    let memory = stats.balloon.as_ref().and_then(|b| b.unused);
    disks.len() == 1
        && disks[0].rd_requests == Some(7)
        && disks[0].capacity == Some(4096)
        && memory == Some(2)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_late_is_waited_for() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let stage = Stage::new().await?;
    let late = [
        json!({"execute": "query-blockstats", "delay_ms": 700, "return": disk()}),
        json!({"execute": "qom-get", "arguments": {"property": "guest-stats"}, "delay_ms": 400,
               "return": {"last-update": 9, "stats": {"stat-free-memory": 2048}}}),
    ];
    stage.run_with_disk("late", &late).await?;
    stage.run_with_disk("other", &[]).await?;
    let virsh = stage.sandbox.virsh();
    // What is asked, and what must be told.
    let cases: [(&[&str], &str); 6] = [
        (&["domstats"], "block.0.rd.reqs=7"),
        (&["domstats", "--block", "--raw", "late"], "block.0.capacity=4096"),
        (&["domstats", "--balloon", "late"], "balloon.unused=2"),
        (&["domblkstat", "late", "vda"], "vda rd_req 7"),
        (&["domblkinfo", "late", "vda"], "Capacity:       4096"),
        (&["dommemstat", "late"], "unused 2"),
    ];
    for (command, expected) in cases {
        let told = virsh.ok(command)?;
        ensure!(told.contains(expected), "{command:?}: {told}");
    }
    let (answer, _) = all(&stage).await?;
    for name in ["late", "other"] {
        let stats = of(&answer, name)?;
        ensure!(whole(stats) && stats.age.is_none(), "{stats:?}");
    }
    ensure!(answer.unreachable.is_empty(), "{:?}", answer.unreachable);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_costs_one_wait_and_is_told_of_as_it_was() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let stage = Stage::new().await?;
    // The first round of questions has one of these.
    let hangs = [json!({"execute": "query-blockstats", "nth": 2, "then": "hang"})];
    stage.run_with_disk("hangs", &hangs).await?;
    stage.run_with_disk("b", &[]).await?;
    stage.run_with_disk("c", &[]).await?;
    let uuid = stage.grpc.get("hangs").await?.uuid;
    let (answer, _) = all(&stage).await?;
    ensure!(
        answer.unreachable.is_empty() && whole(of(&answer, "hangs")?),
        "{answer:?}"
    );

    let (answer, took) = all(&stage).await?;
    ensure!(
        took >= WAIT && took < WAIT + 2 * QUICK,
        "the first wait took {took:?}"
    );
    for round in 0..3 {
        let (answer, took) = if round == 0 {
            (answer.clone(), QUICK / 2)
        } else {
            all(&stage).await?
        };
        ensure!(took < QUICK, "round {round}: it was waited for again, {took:?}");
        assert_eq!(answer.unreachable, [uuid.as_str()], "round {round}");
        let stats = of(&answer, "hangs")?;
        let age = stats.age.context("its values have no age")?;
        ensure!(
            age.seconds >= 5 && age.seconds < 30 && whole(stats),
            "round {round}: {stats:?}"
        );
        for name in ["b", "c"] {
            let stats = of(&answer, name)?;
            ensure!(whole(stats) && stats.age.is_none(), "round {round}: {stats:?}");
        }
    }
    // libvirt's clients would take such values for new: they get what libvirt tells of a guest that can't be asked.
    let virsh = stage.sandbox.virsh();
    let told = virsh.ok(&["domstats", "--block", "--state"])?;
    assert_eq!(told.matches("block.0.rd.reqs=7").count(), 2, "{told}");
    assert_eq!(told.matches("state.state=1").count(), 3, "{told}");
    assert_eq!(told.matches("block.0.name=vda").count(), 3, "{told}");
    stage
        .grpc
        .wait("hangs", "shown as unreachable", SOON, |d| d.unreachable)
        .await?;
    for command in [
        &["domblkstat", "hangs", "vda"][..],
        &["domblkinfo", "hangs", "vda"],
        &["dommemstat", "hangs"],
    ] {
        let begun = Instant::now();
        let told = virsh.refused(command)?;
        ensure!(told.contains("Timed out during operation"), "{command:?}: {told}");
        ensure!(
            begun.elapsed() < 2 * QUICK,
            "{command:?} took {:?}",
            begun.elapsed()
        );
    }
    stage.grpc.power_off("hangs").await?;
    let (answer, took) = all(&stage).await?;
    ensure!(
        answer.unreachable.is_empty() && took < QUICK,
        "{took:?} {answer:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_is_asked_at_once() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let stage = Stage::new().await?;
    stage.run_with_disk("a", &[]).await?;
    let pid = stage.sandbox.guest_pid("a").context("no process")?;
    // It is stopped for less than a call waits: nothing is missing.
    for name in [Some("a"), None] {
        process::signal(pid, Signal::SIGSTOP);
        let waking = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            process::signal(pid, Signal::SIGCONT);
        };
        let (answer, ()) = tokio::join!(stage.grpc.stats(name), waking);
        let answer = answer?;
        ensure!(
            whole(of(&answer, "a")?) && answer.unreachable.is_empty(),
            "{answer:?}"
        );
    }
    // And for longer: a call about it alone still waits, and so does no other.
    process::signal(pid, Signal::SIGSTOP);
    let alone = tokio::spawn({
        let grpc = stage.grpc.clone();
        async move { grpc.stats(Some("a")).await }
    });
    stage
        .grpc
        .wait("a", "shown as unreachable", SOON, |d| d.unreachable)
        .await?;
    let (answer, took) = all(&stage).await?;
    ensure!(
        answer.unreachable.len() == 1 && took < QUICK,
        "{took:?} {answer:?}"
    );
    process::signal(pid, Signal::SIGCONT);
    let begun = Instant::now();
    let answer = alone.await??;
    ensure!(
        whole(of(&answer, "a")?) && answer.unreachable.is_empty(),
        "{answer:?}"
    );
    stage
        .grpc
        .wait("a", "reachable again", SOON, |d| !d.unreachable)
        .await?;
    ensure!(
        begun.elapsed() < 2 * QUICK,
        "it was noticed after {:?}",
        begun.elapsed()
    );
    let (answer, _) = all(&stage).await?;
    let stats = of(&answer, "a")?;
    ensure!(whole(stats) && stats.age.is_none(), "{stats:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_keeps_nobody_from_asking_but_who_wants_no_wait() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let stage = Stage::new().await?;
    let record = stage.sandbox.dir().join("fake/asked");
    let mut script = script(&[json!({"execute": "query-name", "then": "silent"})]);
    script["record"] = json!(record);
    stage.define_with_disk("busy", &script).await?;
    stage.grpc.start("busy").await?;
    let virsh = stage.sandbox.virsh();
    let mut holder = virsh.spawn(&["qemu-monitor-command", "busy", r#"{"execute":"query-name"}"#])?;
    let end = Instant::now() + SOON;
    while !read_record(&record)?
        .iter()
        .any(|asked| asked.execute == "query-name")
    {
        ensure!(Instant::now() < end, "nobody holds a job");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let told = virsh.ok(&["domstats", "--block"])?;
    ensure!(told.contains("block.0.rd.reqs=7"), "{told}");
    ensure!(virsh.ok(&["domblkstat", "busy", "vda"])?.contains("rd_req 7"));
    let told = virsh.ok(&["domstats", "--block", "--nowait"])?;
    ensure!(
        told.contains("block.0.name=vda") && !told.contains("rd.reqs"),
        "{told}"
    );
    holder.kill()?;
    holder.wait()?;
    stage.grpc.power_off("busy").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_being_started_is_waited_for() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let stage = Stage::new().await?;
    let mut script = script(&[]);
    script["start"] = json!({"delay_ms": 1500});
    stage.define_with_disk("a", &script).await?;
    let starting = tokio::spawn({
        let grpc = stage.grpc.clone();
        async move { grpc.start("a").await }
    });
    stage.grpc.wait("a", "its start", SOON, |d| d.id > 0).await?;
    let (answer, _) = all(&stage).await?;
    ensure!(
        whole(of(&answer, "a")?) && answer.unreachable.is_empty(),
        "{answer:?}"
    );
    starting.await??;
    Ok(())
}

#[test]
fn an_image_that_is_missing_is_named() -> Result<()> {
    let sandbox = Sandbox::started(daemon())?;
    let virsh = sandbox.virsh();
    let missing = sandbox.dir().join("missing.qcow2");
    let disk = format!(
        "<devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>\
         <target dev='vda' bus='virtio'/></disk>",
        missing.display()
    );
    virsh.define(&small("g", QEMU.as_ref(), "").replace("<devices>", &disk))?;
    let told = virsh.refused(&["domblkinfo", "g", "vda"])?;
    let expected = format!(
        "error: Failed to open file '{}': No such file or directory",
        missing.display()
    );
    assert_eq!(told.trim(), expected);
    let told = virsh.ok(&["domstats", "--block", "g"])?;
    ensure!(
        told.contains("block.0.path=") && !told.contains("block.0.capacity"),
        "{told}"
    );
    Ok(())
}
