//! What fails leaves nothing behind: each step of a start with each way to fail, and each lack of the host.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::process;
use testkit::skip::can_run_guests;
use tonic::Code;
use virtqemud_client::proto as pb;

use crate::grpc::SOON;
use crate::host::processes;
use crate::stage::{FAULTS, Small, Stage};

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_at_any_step_leaves_nothing_behind() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let stage = Stage::new().await?;
    let steps = stage.steps().await?;
    ensure!(
        steps.len() >= 4 && steps.last().is_some_and(|s| s == "cont"),
        "{steps:?}"
    );
    let mut cases = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        for (fault, rule) in FAULTS {
            let name = format!("{index}-{fault}");
            let mut rule: Value = serde_json::from_str(rule)?;
            rule["nth"] = json!(index + 1);
            stage.define(&name, &json!({"rules": [rule]})).await?;
            cases.push((name, step.clone(), fault));
        }
    }
    for (name, script) in [
        (
            "exits",
            json!({"start": {"stderr": "qemu: injected last words\n", "exit": 1}}),
        ),
        ("mute", json!({"start": {"mute": true}, "rules": []})),
    ] {
        if name == "exits" {
            stage.define(name, &script).await?;
            cases.push((name.to_owned(), String::new(), "exits"));
        }
    }
    let before = stage.host()?;
    let mut watch = stage.grpc.watch().await?;
    let attempts: Vec<_> = cases
        .iter()
        .map(|(name, ..)| {
            let (grpc, name) = (stage.grpc.clone(), name.clone());
            tokio::spawn(async move { grpc.start(&name).await })
        })
        .collect();
    let mut wrong = Vec::new();
    for ((name, step, fault), attempt) in cases.iter().zip(attempts) {
        match attempt.await? {
            Ok(_) => wrong.push(format!("{name} ({step}) started")),
            Err(status) => {
                let text = status.message();
                let clear = match *fault {
                    "refused" => text.contains("injected refusal"),
                    "exits" => text.contains("injected last words"),
                    "silent" | "hang" => {
                        text.contains("Timed out")
                            || text.contains("not answer")
                            || text.contains("no answer")
                            || text.contains("monitor")
                    }
                    _ => text.contains("monitor") || text.contains("QEMU"),
                };
                if !clear {
                    wrong.push(format!("{name} ({step}): {:?} {text}", status.code()));
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    before.is_same(&stage.host()?)?;
    for (name, ..) in &cases {
        let guest = stage.grpc.get(name).await?;
        assert_eq!(
            (guest.state(), guest.reason()),
            (pb::State::Shutoff, pb::StateReason::ShutoffFailed),
            "{name}"
        );
        stage.script(name, &json!({}))?;
        stage
            .grpc
            .start(name)
            .await
            .with_context(|| format!("{name}: the next start"))?;
    }
    for (name, ..) in &cases {
        stage.grpc.power_off(name).await?;
    }
    before.is_same(&stage.host()?)?;
    // Of those that failed nothing was told but that their monitor went wrong, or that the host ended a QEMU that had answered.
    for _ in &cases {
        for wanted in ["resumed/0", "started/0"] {
            let told = loop {
                let event = crate::grpc::word(&watch.event().await?);
                if !["control_error", "shutdown/2"].contains(&event.as_str()) {
                    break event;
                }
            };
            ensure!(told == wanted, "told {told}, not {wanted}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_monitor_does_a_guest_is_powered_off() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let stage = Stage::new().await?;
    let before = stage.host()?;
    for (fault, rule) in FAULTS {
        let mut rule: Value = serde_json::from_str(rule)?;
        rule["execute"] = json!("system_reset");
        let script = json!({"rules": [rule]});
        stage.define(fault, &script).await?;
        stage.grpc.start(fault).await.context(fault)?;
        let pid = stage.sandbox.guest_pid(fault).context("no process")?;
        let reset = pb::ResetRequest {
            domain: crate::grpc::by_name(fault),
            options: None,
        };
        let mut client = stage.grpc.domains();
        let resetting = tokio::spawn(async move { client.reset(reset).await });
        // In the midst of the command, or after it went wrong.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        match stage.grpc.power_off(fault).await {
            Ok(_) => {}
            // A QEMU that ended by itself is off already.
            Err(status) => assert_eq!(
                (
                    status.code(),
                    fault.starts_with("eof") || fault.starts_with("half")
                ),
                (Code::FailedPrecondition, true),
                "{fault}: {status:?}"
            ),
        }
        assert!(resetting.await?.is_err(), "{fault}");
        assert!(!process::alive(pid), "{fault}");
        stage.grpc.undefine(fault).await?;
    }
    let after = stage.host()?;
    assert!(processes(&stage.sandbox)?.is_empty());
    before.is_same(&after)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_lacks_is_named_and_the_next_start_works() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let stage =
        Stage::with_config("remote_display_port_min = 47321\nremote_display_port_max = 47321\n").await?;
    let image = stage.sandbox.dir().join("image.raw");
    let disk = format!(
        "<disk type='file' device='disk'><source file='{}'/><target dev='vda' bus='virtio'/></disk>",
        image.display()
    );
    let vnc = "<graphics type='vnc' port='-1' autoport='yes'/>";
    for (name, devices) in [
        ("emulator", ""),
        ("image", &*disk),
        ("port", vnc),
        ("log", ""),
        ("display", vnc),
    ] {
        stage.script(name, &json!({}))?;
        stage
            .grpc
            .define(&stage.xml(name, devices))
            .await
            .with_context(|| name.to_owned())?;
    }
    let fails = async |name: &str, wanted: &str| -> Result<()> {
        let before = stage.host()?;
        let status = stage
            .grpc
            .start(name)
            .await
            .err()
            .with_context(|| format!("{name}: it started"))?;
        ensure!(status.message().contains(wanted), "{name}: {}", status.message());
        before.is_same(&stage.host()?).with_context(|| name.to_owned())
    };
    let works = async |name: &str| -> Result<()> {
        let before = stage.host()?;
        stage.grpc.start(name).await.with_context(|| name.to_owned())?;
        stage.grpc.power_off(name).await?;
        before.is_same(&stage.host()?).with_context(|| name.to_owned())
    };

    let away = stage.emulator.with_extension("away");
    std::fs::rename(&stage.emulator, &away)?;
    fails("emulator", &stage.emulator.to_string_lossy()).await?;
    std::fs::rename(&away, &stage.emulator)?;
    works("emulator").await?;

    fails("image", &image.to_string_lossy()).await?;
    std::fs::write(&image, [0; 4096])?;
    works("image").await?;

    stage.grpc.start("display").await?;
    fails("port", "47321").await?;
    stage.grpc.power_off("display").await?;
    works("port").await?;

    let log = stage.sandbox.path("/var/log/libvirt/qemu");
    let away = log.with_extension("away");
    std::fs::rename(&log, &away)?;
    std::fs::write(&log, "")?;
    fails("log", "/var/log/libvirt/qemu/log.log").await?;
    std::fs::remove_file(&log)?;
    std::fs::rename(&away, &log)?;
    works("log").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_nothing() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let stage = Stage::new().await?;
    let config = Small::mount(&stage.sandbox, "/etc/libvirt/qemu")?;
    stage.define("a", &json!({})).await?;
    let (xml, before) = (stage.grpc.xml("a").await?, stage.grpc.get("a").await?);
    config.fill()?;
    let file = config.dir.join("a.xml");
    let text = std::fs::read_to_string(&file)?;
    let host = stage.host()?;
    let changed = xml.replace("</name>", &format!("</name><title>{}</title>", "x".repeat(8192)));
    for (what, answer) in [
        ("update", stage.grpc.define(&changed).await),
        ("define", stage.define_answer("b").await),
        ("rename", stage.grpc.rename("a", "c").await),
    ] {
        let status = answer.err().with_context(|| format!("{what}: not refused"))?;
        ensure!(
            status.message().contains("No space left on device"),
            "{what}: {}",
            status.message()
        );
        host.is_same(&stage.host()?).with_context(|| what.to_owned())?;
        assert_eq!(std::fs::read_to_string(&file)?, text, "{what}");
        assert_eq!(stage.grpc.get("a").await?, before, "{what}");
        assert_eq!(stage.grpc.names().await?, ["a"], "{what}");
    }
    config.empty()?;
    stage.grpc.define(&changed).await?;
    stage.grpc.rename("a", "c").await?;
    stage.grpc.rename("c", "a").await?;

    // The state of runs is elsewhere.
    let state = Small::mount(&stage.sandbox, "/run/libvirt/qemu")?;
    state.fill()?;
    let host = stage.host()?;
    let status = stage
        .grpc
        .start("a")
        .await
        .err()
        .context("it started with nothing to write its state to")?;
    ensure!(
        status.message().contains("No space left on device"),
        "{}",
        status.message()
    );
    host.is_same(&stage.host()?)?;
    state.empty()?;
    stage.grpc.start("a").await?;
    // One that runs goes on, whatever can be written.
    state.fill()?;
    stage.grpc.suspend("a").await?;
    stage.grpc.resume("a").await?;
    stage.grpc.power_off("a").await?;
    stage
        .grpc
        .wait("a", "its end", SOON, |d| d.state() == pb::State::Shutoff)
        .await?;
    state.empty()?;
    assert!(processes(&stage.sandbox)?.is_empty());
    Ok(())
}

impl Stage {
    async fn define_answer(&self, name: &str) -> crate::grpc::Answer<pb::Domain> {
        self.grpc.define(&self.xml(name, "")).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_document_outlives_a_start_that_fails() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let stage = Stage::new().await?;
    stage.define("a", &json!({"start": {"exit": 1}})).await?;
    let file = stage.sandbox.path("/etc/libvirt/qemu/a.xml");
    let (text, xml) = (std::fs::read_to_string(&file)?, stage.grpc.xml("a").await?);
    assert!(stage.grpc.start("a").await.is_err());
    assert!(
        stage.grpc.create(&stage.xml("t", "")).await.is_err(),
        "its script is missing"
    );
    assert_eq!(std::fs::read_to_string(&file)?, text);
    assert_eq!(stage.grpc.xml("a").await?, xml);
    assert_eq!(stage.grpc.names().await?, ["a"]);
    assert!(!Path::new(&stage.sandbox.path("/run/libvirt/qemu/a.pid")).exists());
    Ok(())
}
