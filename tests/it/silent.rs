//! Guests that do not answer, and what a daemon finds of them when it comes back: nobody else waits, nobody is killed.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pb::StateReason as Reason;
use testkit::skip::can_run_guests;
use testkit::{Sandbox, process};
use tonic::Code;
use virtqemud_client::proto as pb;

use crate::grpc::{Grpc, QEMU, SOON, by_name, daemon, reason, refused, small};
use crate::host::processes;

/// What others may take while one guest is silent, and what may be asked of that one.
const OTHERS: Duration = Duration::from_millis(50);
const ITSELF: Duration = Duration::from_millis(200);
/// What one call may take that finds out that it is silent: five seconds, and what a loaded machine adds.
const ONCE: Duration = Duration::from_secs(8);
/// A machine that runs all tests at once is slower.
const LOADED: u32 = 3;

/// A daemon with running guests, "a" to "e".
async fn with_guests() -> Result<(Sandbox, Grpc)> {
    let sandbox = Sandbox::started(daemon())?;
    let grpc = Grpc::of(&sandbox).await?;
    for name in ["a", "b", "c", "d", "e"] {
        grpc.define(&small(name, Path::new(QEMU), "")).await?;
        // CPUs that do not run leave the machine to what is measured.
        grpc.start_paused(name).await?;
    }
    Ok((sandbox, grpc))
}

/// The median of five, after one for what is made at first.
async fn median<T, F: Future<Output = Result<T>>>(mut call: impl FnMut() -> F) -> Result<Duration> {
    call().await?;
    let mut times = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        call().await?;
        times.push(begun.elapsed());
    }
    times.sort();
    Ok(times[2])
}

/// All reads of one guest, and those of all.
async fn reads(grpc: &Grpc, name: &str) -> Result<Vec<(String, Duration)>> {
    let mut times = Vec::new();
    times.push(("get", median(|| async { Ok(grpc.get(name).await?) }).await?));
    times.push(("xml", median(|| async { Ok(grpc.xml(name).await?) }).await?));
    times.push((
        "stats",
        median(|| async { Ok(grpc.stats(Some(name)).await?) }).await?,
    ));
    times.push(("list", median(|| async { Ok(grpc.names().await?) }).await?));
    Ok(times
        .into_iter()
        .map(|(what, time)| (format!("{what} of {name}"), time))
        .collect())
}

async fn quick(grpc: &Grpc, name: &str, limit: Duration) -> Result<()> {
    for (what, time) in reads(grpc, name).await? {
        ensure!(time < limit * LOADED, "{what} took {time:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_qemu_costs_nobody_anything_and_recovers() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let (sandbox, grpc) = with_guests().await?;
    grpc.resume("a").await?;
    let pid = sandbox.guest_pid("a").context("no process")?;
    process::signal(pid, Signal::SIGSTOP);
    for name in ["b", "e"] {
        quick(&grpc, name, OTHERS).await?;
    }
    // It costs one call about all a wait, which is bounded, and the next ones none.
    let begun = Instant::now();
    grpc.stats(None).await?;
    ensure!(
        begun.elapsed() < ONCE,
        "the first wait took {:?}",
        begun.elapsed()
    );
    let everybody = median(|| async { Ok(grpc.stats(None).await?) }).await?;
    ensure!(
        everybody < ITSELF * LOADED,
        "statistics of all took {everybody:?}"
    );
    let all = grpc.stats(None).await?;
    let uuid = grpc.get("a").await?.uuid;
    assert_eq!((all.stats.len(), &all.unreachable), (5, &vec![uuid]));
    // Others are worked with meanwhile.
    grpc.resume("b").await?;
    grpc.suspend("b").await?;
    let shown = grpc
        .wait("a", "shown as unreachable", SOON, |d| d.unreachable)
        .await?;
    ensure!(
        !shown.unreachable_cause.is_empty() && shown.state() == pb::State::Running,
        "{shown:?}"
    );
    assert!(process::alive(pid), "it was killed");
    quick(&grpc, "a", ITSELF).await?;

    // Somebody pauses it while it can't hear: it does when it can, and that is seen.
    let suspending = tokio::spawn({
        let grpc = grpc.clone();
        async move { grpc.suspend("a").await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    quick(&grpc, "a", ITSELF).await?;
    process::signal(pid, Signal::SIGCONT);
    suspending.await??;
    let back = grpc
        .wait("a", "reachable again", SOON, |d| !d.unreachable)
        .await?;
    assert_eq!(back.reason(), Reason::PausedUser);
    grpc.resume("a").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_qemu_is_powered_off() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let (sandbox, grpc) = with_guests().await?;
    let pid = sandbox.guest_pid("c").context("no process")?;
    process::signal(pid, Signal::SIGSTOP);
    // Also when others wait for it already.
    let waiting = tokio::spawn({
        let grpc = grpc.clone();
        async move { grpc.resume("c").await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut watch = grpc.watch().await?;
    let begun = Instant::now();
    grpc.power_off("c").await?;
    ensure!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(!process::alive(pid));
    assert!(waiting.await?.is_err());
    assert_eq!(grpc.state("c").await?, Reason::ShutoffDestroyed);
    watch.expect(&["stopped/1"]).await?;
    grpc.start("c").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_whose_monitor_is_gone_is_kept_until_it_is_back() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let (mut sandbox, grpc) = with_guests().await?;
    let pids: Vec<_> = ["a", "b", "c"]
        .iter()
        .map(|n| sandbox.guest_pid(n))
        .collect::<Option<_>>()
        .context("no process")?;
    let uuid = grpc.get("a").await?.uuid;
    sandbox.kill()?;
    // Of one the monitor's socket is away, of one the pid file, of one both the file and its lock are another's.
    let socket = monitor_of(&sandbox, "a")?;
    let away = socket.with_extension("away");
    std::fs::rename(&socket, &away)?;
    let pid_file = sandbox.path("/run/libvirt/qemu/b.pid");
    std::fs::remove_file(&pid_file)?;
    sandbox.start()?;
    let grpc = Grpc::of(&sandbox).await?;
    let lost = grpc
        .wait("a", "shown as unreachable", SOON, |d| d.unreachable)
        .await?;
    assert_eq!((lost.state(), &lost.uuid), (pb::State::Paused, &uuid));
    let status = grpc
        .resume("a")
        .await
        .err()
        .context("resumed without a monitor")?;
    assert_eq!(reason(&status), "UNREACHABLE", "{status:?}");
    for name in ["b", "c"] {
        let found = grpc.wait(name, "reachable", SOON, |d| !d.unreachable).await?;
        assert_eq!(found.state(), pb::State::Paused, "{name}");
        wait_resumed(&grpc, name).await?;
    }
    assert!(pids.iter().all(|pid| process::alive(*pid)), "a guest was killed");
    std::fs::rename(&away, &socket)?;
    grpc.wait("a", "reachable again", SOON, |d| !d.unreachable)
        .await?;
    grpc.resume("a").await?;
    assert_eq!(processes(&sandbox)?.len(), 5);
    for name in ["a", "b"] {
        grpc.power_off(name).await?;
    }
    assert!(!process::alive(pids[0]) && !process::alive(pids[1]));
    Ok(())
}

/// A guest may be seen before its monitor is connected.
async fn wait_resumed(grpc: &Grpc, name: &str) -> Result<()> {
    let end = Instant::now() + SOON;
    loop {
        match grpc.resume(name).await {
            Ok(_) => return Ok(()),
            Err(status) if Instant::now() > end => return Err(status.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn monitor_of(sandbox: &Sandbox, name: &str) -> Result<std::path::PathBuf> {
    let status = std::fs::read_to_string(sandbox.path(format!("/run/libvirt/qemu/{name}.xml")))?;
    let (_, rest) = status.split_once("<monitor path='").context("no monitor")?;
    let (path, _) = rest.split_once('\'').context("no monitor")?;
    Ok(sandbox.path(path))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_number_that_is_anothers_by_now_is_left_alone() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let (mut sandbox, grpc) = with_guests().await?;
    let pid = sandbox.guest_pid("a").context("no process")?;
    let mut watch = grpc.watch().await?;
    grpc.suspend("a").await?;
    let version = grpc
        .list(pb::ListRequest::default())
        .await?
        .version
        .context("no version")?;
    drop(watch);
    sandbox.kill()?;
    process::kill_and_wait(pid)?;
    // Somebody else has the number, as the files have it.
    let mut stranger = std::process::Command::new("sleep").arg("600").spawn()?;
    let number = stranger.id().to_string();
    let status = sandbox.path("/run/libvirt/qemu/a.xml");
    let text = std::fs::read_to_string(&status)?;
    std::fs::write(
        &status,
        text.replace(&format!("pid='{pid}'"), &format!("pid='{number}'")),
    )?;
    std::fs::write(sandbox.path("/run/libvirt/qemu/a.pid"), format!("{number}\n"))?;
    sandbox.start()?;
    let grpc = Grpc::of(&sandbox).await?;
    grpc.wait("a", "its end noticed", SOON, |d| d.state() == pb::State::Shutoff)
        .await?;
    let lives = process::alive(stranger.id().cast_signed());
    stranger.kill()?;
    stranger.wait()?;
    ensure!(lives, "a stranger was killed");
    watch = grpc.watch_since(version).await?;
    watch.expect(&["stopped/5"]).await?;
    assert_eq!(grpc.state("a").await?, Reason::ShutoffCrashed);
    grpc.start("a").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_ended_while_the_daemon_was_away_is_told_of_once() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let (mut sandbox, grpc) = with_guests().await?;
    let version = grpc
        .list(pb::ListRequest::default())
        .await?
        .version
        .context("no version")?;
    let pid = |sandbox: &Sandbox, name: &str| sandbox.guest_pid(name).context("no process");
    let (a, b) = (pid(&sandbox, "a")?, pid(&sandbox, "b")?);
    sandbox.kill()?;
    process::kill_and_wait(a)?;
    sandbox.start()?;
    let grpc = Grpc::of(&sandbox).await?;
    grpc.wait("a", "its end noticed", SOON, |d| d.state() == pb::State::Shutoff)
        .await?;
    let mut watch = grpc.watch_since(version).await?;
    watch.expect(&["stopped/5"]).await?;
    // Neither told again, nor forgotten, by the next daemons.
    for _ in 0..2 {
        sandbox.restart()?;
        let grpc = Grpc::of(&sandbox).await?;
        grpc.watch_since(version).await?.expect(&["stopped/5"]).await?;
    }
    // One that dies under the daemon's eyes.
    let grpc = Grpc::of(&sandbox).await?;
    wait_resumed(&grpc, "b").await?;
    let mut watch = grpc.watch().await?;
    process::kill_and_wait(b)?;
    watch.expect(&["stopped/5"]).await?;
    assert_eq!(grpc.state("b").await?, Reason::ShutoffCrashed);
    let request = pb::GetRequest {
        domain: by_name("nobody"),
        ..Default::default()
    };
    refused(grpc.domains().get(request).await, Code::NotFound, "NO_DOMAIN")?;
    Ok(())
}
