//! What fails at a step of a change is undone: each operation, each of its steps, each way to fail.
//!
//! The scripted QEMU records what it was told. From that a model of its devices is made: it is as before after a change
//! that failed, and as wanted after one that succeeded. Nothing is left of an operation that is over, whatever became of
//! it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use testkit::fake_qemu::program::read_record;
use testkit::fake_qemu::script::Asked;
use testkit::skip::can_run_guests;
use virtqemud_client::proto as pb;

use crate::grpc::{SOON, by_name};
use crate::host::root;
use crate::stage::{FAULTS, Small, Stage};

const NIC: &str =
    "<interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>";
const CHANNEL: &str = "<channel type='unix'><target type='virtio' name='org.example.port'/></channel>";

/// One operation on a running guest.
struct Operation {
    name: &'static str,
    devices: String,
    /// The device as it is to be.
    wanted: String,
    /// QEMU's commands that belong to it.
    commands: &'static [&'static str],
    /// What the document says once it is done.
    shown: &'static str,
}

fn operations(dir: &Path) -> Vec<Operation> {
    let drive = |image: &str| {
        format!(
            "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{}'/>\
             <target dev='sda' bus='sata'/><readonly/></disk>",
            dir.join(image).display()
        )
    };
    vec![
        Operation {
            name: "link",
            devices: NIC.to_owned(),
            wanted: NIC.replace("</interface>", "<link state='down'/></interface>"),
            commands: &["set_link"],
            shown: "<link state='down'/>",
        },
        Operation {
            name: "medium",
            devices: drive("old.iso"),
            wanted: drive("new.iso"),
            commands: &[
                "blockdev-add",
                "blockdev-open-tray",
                "blockdev-remove-medium",
                "blockdev-insert-medium",
                "blockdev-close-tray",
            ],
            shown: "new.iso",
        },
    ]
}

/// QEMU's devices by what it was told, as far as it differs from what it began with.
fn model(asked: &[Asked]) -> BTreeMap<String, String> {
    let mut devices = BTreeMap::new();
    for Asked {
        execute, arguments, ..
    } in asked
    {
        let text = |name: &str| arguments.get(name).and_then(Value::as_str).unwrap_or_default();
        let (key, value, before) = match execute.as_str() {
            "set_link" => ("link".to_owned(), arguments["up"].to_string(), "true"),
            "blockdev-add" => (format!("node {}", text("node-name")), "made".to_owned(), ""),
            "blockdev-del" => (format!("node {}", text("node-name")), String::new(), ""),
            "blockdev-open-tray" => ("tray".to_owned(), "open".to_owned(), "closed"),
            "blockdev-close-tray" => ("tray".to_owned(), "closed".to_owned(), "closed"),
            "blockdev-remove-medium" => ("medium".to_owned(), "none".to_owned(), "libvirt-1-storage"),
            "blockdev-insert-medium" => (
                "medium".to_owned(),
                text("node-name").to_owned(),
                "libvirt-1-storage",
            ),
            _ => continue,
        };
        if value == before {
            devices.remove(&key);
        } else {
            devices.insert(key, value);
        }
    }
    devices
}

/// A guest of a stage that is about to be changed.
struct Trial<'a> {
    stage: &'a Stage,
    operation: &'a Operation,
    name: String,
}

impl Trial<'_> {
    fn record(&self) -> std::path::PathBuf {
        self.stage
            .sandbox
            .dir()
            .join(format!("fake/{}.record", self.name))
    }

    async fn start(&self, rule: Option<Value>) -> Result<()> {
        let rules: Vec<_> = rule.into_iter().collect();
        let script = json!({"record": self.record(), "rules": rules});
        self.stage.script(&self.name, &script)?;
        let xml = self.stage.xml(&self.name, &self.operation.devices);
        self.stage.grpc.create(&xml).await?;
        Ok(())
    }

    async fn change(&self) -> Result<(), tonic::Status> {
        let request = pb::UpdateDeviceRequest {
            domain: by_name(&self.name),
            xml: self.operation.wanted.clone(),
            scope: pb::Scope::Current.into(),
            force: true,
            ..Default::default()
        };
        self.stage.grpc.devices().update_device(request).await.map(drop)
    }

    /// What belonged to the operation, in order.
    fn asked(&self) -> Result<Vec<Asked>> {
        let all = read_record(&self.record())?;
        let names = self.operation.commands;
        Ok(all
            .into_iter()
            .filter(|a| names.contains(&a.execute.as_str()) || a.execute == "blockdev-del")
            .collect())
    }

    fn notes(&self) -> Result<Vec<String>> {
        let dir = root(&self.stage.sandbox)?.join("run/libvirt/qemu/virtqemud");
        let names = std::fs::read_dir(dir)?.map(|e| Ok(e?.file_name().to_string_lossy().into_owned()));
        let names: Vec<String> = names.collect::<Result<_>>()?;
        Ok(names.into_iter().filter(|n| n.starts_with("intent-")).collect())
    }

    async fn end(&self) -> Result<()> {
        // A QEMU that ended by itself is off already.
        let _ = self.stage.grpc.power_off(&self.name).await;
        // The notes go right after the end is told.
        let end = std::time::Instant::now() + SOON;
        while !self.notes()?.is_empty() && std::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_at_a_step_of_a_change_is_undone() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let stage = Stage::new().await?;
    let dir = stage.sandbox.dir().join("images");
    std::fs::create_dir_all(&dir)?;
    for image in ["old.iso", "new.iso"] {
        std::fs::write(dir.join(image), [0; 4096])?;
    }
    for operation in &operations(&dir) {
        let before = stage.host()?;
        let undisturbed = Trial {
            stage: &stage,
            operation,
            name: format!("{}-ok", operation.name),
        };
        undisturbed.start(None).await?;
        undisturbed.change().await?;
        let xml = stage.grpc.xml(&undisturbed.name).await?;
        ensure!(xml.contains(operation.shown), "{}: {xml}", operation.name);
        let steps = undisturbed.asked()?;
        let steps: Vec<_> = steps.iter().filter(|a| a.execute != "blockdev-del").collect();
        ensure!(!steps.is_empty() && undisturbed.notes()?.is_empty(), "{steps:?}");
        undisturbed.end().await?;
        for (at, step) in steps.iter().enumerate() {
            for (fault, rule) in FAULTS.iter().filter(|(fault, _)| is_tried(fault, operation.name)) {
                let trial = Trial {
                    stage: &stage,
                    operation,
                    name: format!("{}-{at}-{fault}", operation.name),
                };
                let mut rule: Value = serde_json::from_str(rule)?;
                let same = steps[..at].iter().filter(|s| s.execute == step.execute).count();
                rule["execute"] = json!(step.execute);
                rule["nth"] = json!(same + 1);
                let what = format!("{} at {} ({fault})", operation.name, step.execute);
                fails(&trial, rule).await.context(what)?;
            }
        }
        before.is_same(&stage.host()?)?;
    }
    Ok(())
}

/// A command that is not answered costs its whole deadline, so a long operation fails in two ways only; `STEPS=long`
/// tries them all.
fn is_tried(fault: &str, operation: &str) -> bool {
    let patient = std::env::var_os("STEPS").is_some_and(|s| s == "long");
    patient || operation == "link" || matches!(fault, "refused" | "eof")
}

async fn fails(trial: &Trial<'_>, rule: Value) -> Result<()> {
    let refused = rule.get("error").is_some();
    let execute = rule["execute"].as_str().unwrap_or_default().to_owned();
    let nth = usize::try_from(rule["nth"].as_u64().unwrap_or(1))?;
    trial.start(Some(rule)).await?;
    let error = match trial.change().await {
        Err(error) => error,
        Ok(()) => bail!("the change succeeded"),
    };
    if refused {
        let mut told = trial.asked()?;
        let same = |(_, a): &(usize, &Asked)| a.execute == execute;
        let at = told
            .iter()
            .enumerate()
            .filter(same)
            .nth(nth - 1)
            .map(|(at, _)| at);
        // What was refused was not done.
        told.remove(at.context("it was not asked")?);
        ensure!(
            model(&told).is_empty(),
            "QEMU is left with {:?}: {told:?}",
            model(&told)
        );
        ensure!(trial.notes()?.is_empty(), "a note is left");
        let xml = trial.stage.grpc.xml(&trial.name).await?;
        ensure!(!xml.contains(trial.operation.shown), "{error}: {xml}");
    }
    trial.end().await?;
    ensure!(trial.notes()?.is_empty(), "a note is left of a run that is over");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_qemu_reports_while_a_change_works_is_kept() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let stage = Stage::new().await?;
    let operation = Operation {
        devices: format!("{NIC}{CHANNEL}"),
        ..operations(Path::new("/")).swap_remove(0)
    };
    let trial = Trial {
        stage: &stage,
        operation: &operation,
        name: "reports".to_owned(),
    };
    let event = json!({"event": "VSERPORT_CHANGE", "data": {"open": true, "id": "channel0"}});
    trial
        .start(Some(
            json!({"execute": "set_link", "before": [event], "delay_ms": 200}),
        ))
        .await?;
    trial.change().await?;
    let xml = stage.grpc.xml(&trial.name).await?;
    ensure!(xml.contains("<link state='down'/>"), "{xml}");
    ensure!(xml.contains("state='connected'"), "the report was lost: {xml}");
    trial.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_intent_can_not_be_noted_is_refused() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let stage = Stage::new().await?;
    let operation = operations(Path::new("/")).swap_remove(0);
    let trial = Trial {
        stage: &stage,
        operation: &operation,
        name: "unnoted".to_owned(),
    };
    trial.start(None).await?;
    let full = Small::mount(&stage.sandbox, "/run/libvirt/qemu/virtqemud")?;
    full.fill()?;
    let error = trial.change().await.err().context("the change went on")?;
    ensure!(
        error.message().contains("cannot note what is about to be done"),
        "{error:?}"
    );
    ensure!(trial.asked()?.is_empty(), "QEMU was told all the same");
    full.empty()?;
    trial.change().await?;
    trial.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_off_that_is_refused_leaves_other_notes_alone() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let stage = Stage::new().await?;
    let operation = operations(Path::new("/")).swap_remove(0);
    let trial = Trial {
        stage: &stage,
        operation: &operation,
        name: "refused".to_owned(),
    };
    trial
        .start(Some(json!({"execute": "set_link", "then": "silent"})))
        .await?;
    let pid = stage.sandbox.guest_pid(&trial.name).context("no process")?;
    let signal = |signal: &str| {
        std::process::Command::new("kill")
            .args([signal, &pid.to_string()])
            .status()
    };
    // A process that is stopped does not end when it is asked to.
    ensure!(signal("-STOP")?.success());
    let changing = trial.change();
    let refused = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let noted = trial.notes()?;
        ensure!(noted.len() == 1, "{noted:?}");
        let request = pb::PowerOffRequest {
            domain: by_name(&trial.name),
            graceful: true,
            ..Default::default()
        };
        let answer = stage.grpc.domains().power_off(request).await;
        ensure!(answer.is_err(), "the power-off was not refused");
        let left = trial.notes()?;
        ensure!(left == noted, "{left:?} instead of {noted:?}");
        Ok(())
    };
    let (changed, refused) = tokio::join!(changing, refused);
    refused?;
    let error = changed.err().context("the change succeeded")?;
    ensure!(error.message().contains("could not be undone"), "{error:?}");
    trial.end().await?;
    ensure!(trial.notes()?.is_empty(), "a note is left of a run that is over");
    Ok(())
}
