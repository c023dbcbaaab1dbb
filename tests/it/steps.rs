//! Each operation on a running guest, each of its steps, each way in which a step goes wrong: nothing is left, and
//! nothing is lost.
//!
//! The scripted QEMU records what it was told. From that a model of its devices is made: it is as before after a change
//! that failed, and as wanted after one that succeeded. A daemon that is killed at a step, and the one that comes after
//! it, leave one or the other, and the document says which.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use testkit::fake_qemu::program::read_record;
use testkit::fake_qemu::script::Asked;
use testkit::skip::can_run_guests;
use virtqemud_client::proto as pb;

use crate::grpc::{Answer, Grpc, SOON, by_name};
use crate::host::root;
use crate::stage::{FAULTS, Small, Stage};

const NIC: &str =
    "<interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>";
const CHANNEL: &str = "<channel type='unix'><target type='virtio' name='org.example.port'/></channel>";
pub(crate) const SCSI: &str = "<controller type='scsi' index='0' model='virtio-scsi'/>";
const BALLOON: &str = "<memballoon model='virtio'/>";
/// Slots for devices that come.
const SLOTS: &str = "<controller type='pci' index='0' model='pcie-root'/><controller type='pci' model='pcie-root-port'/>\
    <controller type='pci' model='pcie-root-port'/>";

/// A call that a row makes itself.
pub(crate) type Asking = fn(Grpc, String) -> std::pin::Pin<Box<dyn Future<Output = Answer<()>> + Send>>;

/// How an operation is asked for.
#[derive(Clone)]
pub(crate) enum Call {
    /// With the device as it is to be.
    Update(String),
    /// With the device that comes.
    Attach(String),
    /// With the alias of the device that goes.
    Detach(&'static str),
    /// Between two looks at the memory statistics, in seconds.
    Period(i64),
    Suspend,
    Resume,
    /// Another call, of the guest of a name.
    Other(Asking),
}

/// What shows that it is done.
#[derive(Clone, Copy)]
pub(crate) enum Done {
    /// The document has this.
    Shown(&'static str),
    /// The document with its secrets has this.
    Secret(&'static str),
    /// The document does not have it any more.
    Gone(&'static str),
    State(pb::State),
}

/// One operation on a running guest.
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    pub(crate) devices: String,
    /// What the guest has instead of its one CPU.
    pub(crate) cpus: &'static str,
    pub(crate) call: Call,
    pub(crate) done: Done,
    /// What QEMU has of it before, in the words of [`Model`].
    pub(crate) had: &'static [(&'static str, &'static str)],
    /// QEMU's commands that belong to it.
    pub(crate) commands: &'static [&'static str],
}

/// The one CPU of a guest.
pub(crate) const CPU: &str = "<vcpu>1</vcpu>";

/// QEMU's devices and state.
type Model = BTreeMap<String, String>;

/// What there is after what QEMU was told.
fn model(had: &[(&str, &str)], asked: &[Asked]) -> Model {
    let mut model: Model = had
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    for Asked {
        execute, arguments, ..
    } in asked
    {
        let text = |name: &str| arguments.get(name).and_then(Value::as_str).unwrap_or_default();
        let (key, value) = match execute.as_str() {
            "set_link" => ("link".to_owned(), arguments["up"].to_string()),
            "blockdev-add" => (format!("node {}", text("node-name")), "there".to_owned()),
            "blockdev-del" => (format!("node {}", text("node-name")), String::new()),
            "netdev_add" => (format!("netdev {}", text("id")), "there".to_owned()),
            "netdev_del" => (format!("netdev {}", text("id")), String::new()),
            "device_add" => (format!("device {}", text("id")), "there".to_owned()),
            "device_del" => (format!("device {}", text("id")), String::new()),
            "blockdev-open-tray" => ("tray".to_owned(), "open".to_owned()),
            "blockdev-close-tray" => ("tray".to_owned(), "closed".to_owned()),
            "blockdev-remove-medium" => ("medium".to_owned(), "none".to_owned()),
            "blockdev-insert-medium" => ("medium".to_owned(), text("node-name").to_owned()),
            "object-add" => (format!("object {}", text("id")), "there".to_owned()),
            "object-del" => (format!("object {}", text("id")), String::new()),
            "block_set_io_throttle" => ("operations a second".to_owned(), arguments["iops"].to_string()),
            "blockdev-reopen" => {
                let offset = arguments["options"][0].get("offset");
                let part = if offset.is_some() { "part" } else { "whole" };
                ("the file's".to_owned(), part.to_owned())
            }
            "set_password" => ("password".to_owned(), text("password").to_owned()),
            "expire_password" => ("expiry".to_owned(), text("time").to_owned()),
            "stop" => ("run".to_owned(), "paused".to_owned()),
            "cont" => ("run".to_owned(), "running".to_owned()),
            "qom-set" => (text("property").to_owned(), arguments["value"].to_string()),
            _ => continue,
        };
        if value.is_empty() {
            model.remove(&key);
        } else {
            model.insert(key, value);
        }
    }
    model
}

/// A guest of a stage that is about to be changed.
struct Trial<'a> {
    operation: &'a Operation,
    name: String,
    /// How often a start asks for the commands of the operation.
    earlier: BTreeMap<String, u64>,
}

impl Trial<'_> {
    fn record(&self, stage: &Stage) -> PathBuf {
        stage.sandbox.dir().join(format!("fake/{}.record", self.name))
    }

    async fn start(&self, stage: &Stage, mut rule: Option<Value>) -> Result<()> {
        if let Some(rule) = &mut rule {
            let execute = rule["execute"].as_str().unwrap_or_default();
            let earlier = self.earlier.get(execute).copied().unwrap_or(0);
            rule["nth"] = json!(rule["nth"].as_u64().unwrap_or(1) + earlier);
        }
        let rules: Vec<_> = rule.into_iter().collect();
        stage.script(&self.name, &json!({"record": self.record(stage), "rules": rules}))?;
        let mut xml = stage.xml(&self.name, &format!("{}{CHANNEL}", self.operation.devices));
        if xml.contains(BALLOON) {
            xml = xml.replace("<memballoon model='none'/>", "");
        }
        xml = xml.replace(CPU, self.operation.cpus);
        if matches!(self.operation.call, Call::Resume) {
            stage.grpc.create_paused(&xml).await?;
        } else {
            stage.grpc.create(&xml).await?;
        }
        Ok(())
    }

    async fn change(&self, grpc: &Grpc) -> Answer<()> {
        let domain = by_name(&self.name);
        match self.operation.call.clone() {
            Call::Update(xml) => {
                let request = pb::UpdateDeviceRequest {
                    domain,
                    xml,
                    force: true,
                    scope: pb::Scope::Live.into(),
                    ..Default::default()
                };
                grpc.devices().update_device(request).await.map(drop)
            }
            Call::Attach(xml) => {
                let request = pb::AttachDeviceRequest {
                    domain,
                    xml,
                    scope: pb::Scope::Live.into(),
                    ..Default::default()
                };
                grpc.devices().attach_device(request).await.map(drop)
            }
            Call::Detach(alias) => {
                let request = pb::DetachDeviceRequest {
                    domain,
                    device: Some(pb::detach_device_request::Device::Alias(alias.to_owned())),
                    scope: pb::Scope::Live.into(),
                    ..Default::default()
                };
                grpc.detach(request).await.map(drop)
            }
            Call::Period(seconds) => grpc.set_stats_period(&self.name, pb::Scope::Live, seconds).await,
            Call::Suspend => grpc.suspend(&self.name).await.map(drop),
            Call::Resume => grpc.resume(&self.name).await.map(drop),
            Call::Other(asking) => asking(grpc.clone(), self.name.clone()).await,
        }
    }

    /// How many of the commands were the start's.
    fn begin(&self, all: &[Asked]) -> Result<usize> {
        // A guest that is started paused is not let run.
        let begin = all.iter().position(|a| a.execute == "cont");
        Ok(match self.operation.call {
            Call::Resume => 0,
            _ => begin.context("it was not let run")? + 1,
        })
    }

    /// What belonged to the operation, in order.
    fn asked(&self, stage: &Stage) -> Result<Vec<Asked>> {
        let all = read_record(&self.record(stage))?;
        let begin = self.begin(&all)?;
        let of_it = |a: &Asked| {
            let undoes = ["-del", "_del"].iter().any(|end| a.execute.ends_with(end));
            undoes || self.operation.commands.contains(&a.execute.as_str())
        };
        Ok(all.into_iter().skip(begin).filter(of_it).collect())
    }

    async fn is_done(&self, grpc: &Grpc) -> Result<bool> {
        Ok(match self.operation.done {
            Done::Shown(text) => grpc.xml(&self.name).await?.contains(text),
            Done::Secret(text) => grpc.secure_xml(&self.name).await?.contains(text),
            Done::Gone(text) => !grpc.xml(&self.name).await?.contains(text),
            Done::State(state) => grpc.get(&self.name).await?.state() == state,
        })
    }

    fn notes(stage: &Stage) -> Result<Vec<String>> {
        let dir = root(&stage.sandbox)?.join("run/libvirt/qemu/virtqemud");
        let names = std::fs::read_dir(dir)?.map(|e| Ok(e?.file_name().to_string_lossy().into_owned()));
        let names: Vec<String> = names.collect::<Result<_>>()?;
        Ok(names.into_iter().filter(|n| n.starts_with("intent-")).collect())
    }

    /// The notes go right after what they are of.
    async fn without_notes(stage: &Stage) -> Result<()> {
        let end = Instant::now() + SOON;
        loop {
            let notes = Self::notes(stage)?;
            if notes.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < end, "left: {notes:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn end(&self, stage: &Stage) -> Result<()> {
        // A QEMU that ended by itself is off already.
        let _ = stage.grpc.power_off(&self.name).await;
        Self::without_notes(stage).await.context("of a run that is over")
    }

    /// The change succeeds, and QEMU has what the document shows; what it has then.
    async fn succeeds(&self, stage: &Stage, rule: Option<Value>) -> Result<(Vec<Asked>, Model)> {
        self.start(stage, rule).await?;
        self.change(&stage.grpc).await?;
        ensure!(self.is_done(&stage.grpc).await?, "it is not done");
        Self::without_notes(stage).await?;
        let asked = self.asked(stage)?;
        let after = model(self.operation.had, &asked);
        Ok((asked, after))
    }

    /// The change fails: what was refused leaves nothing, and a connection that ends or errs ends with the run.
    async fn fails(&self, stage: &Stage, rule: Value) -> Result<()> {
        let refused = rule.get("error").is_some();
        let execute = rule["execute"].as_str().unwrap_or_default().to_owned();
        let nth = usize::try_from(rule["nth"].as_u64().unwrap_or(1))?;
        self.start(stage, Some(rule)).await?;
        let error = match self.change(&stage.grpc).await {
            Err(error) => error,
            Ok(()) => bail!("the change succeeded"),
        };
        if refused {
            let mut told = self.asked(stage)?;
            let same = told.iter().enumerate().filter(|(_, a)| a.execute == execute);
            let at = same.map(|(at, _)| at).nth(nth - 1).context("it was not asked")?;
            // What was refused was not done.
            told.remove(at);
            let left = model(self.operation.had, &told);
            ensure!(
                left == model(self.operation.had, &[]),
                "QEMU has {left:?}: {told:?}"
            );
            ensure!(Self::notes(stage)?.is_empty(), "a note is left");
            ensure!(!self.is_done(&stage.grpc).await?, "{error}: the document has it");
        }
        self.end(stage).await
    }

    /// The daemon is killed while QEMU works on a step: the next one leaves the change done or undone.
    async fn is_cut_off(&self, stage: &mut Stage, mut rule: Value, after: &Model) -> Result<()> {
        rule["delay_ms"] = json!(300);
        let (execute, nth) = (rule["execute"].clone(), rule["nth"].as_u64().unwrap_or(1));
        self.start(stage, Some(rule)).await?;
        let (grpc, name) = (stage.grpc.clone(), self.name.clone());
        let call = self.operation.call.clone();
        let asking = {
            let operation = Operation {
                call,
                devices: String::new(),
                ..*self.operation
            };
            tokio::spawn(async move {
                let trial = Trial {
                    operation: &operation,
                    name,
                    earlier: BTreeMap::new(),
                };
                trial.change(&grpc).await
            })
        };
        let end = Instant::now() + SOON;
        let asked = |trial: &Self, stage: &Stage| -> Result<usize> {
            let asked = trial.asked(stage)?;
            Ok(asked.iter().filter(|a| a.execute == execute).count())
        };
        while asked(self, stage)? < usize::try_from(nth)? {
            ensure!(Instant::now() < end, "it was not asked");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let begun = self.under_way(&stage.grpc).await?;
        stage.kill().await?;
        ensure!(asking.await?.is_err(), "it was answered");
        Self::without_notes(stage).await?;
        self.is_told_of(&stage.grpc, begun).await?;
        // A device that has left is told of right after.
        let end = Instant::now() + SOON;
        loop {
            let told = model(self.operation.had, &self.asked(stage)?);
            let done = self.is_done(&stage.grpc).await?;
            let wanted = if done {
                after.clone()
            } else {
                model(self.operation.had, &[])
            };
            if told == wanted {
                break;
            }
            ensure!(Instant::now() < end, "done: {done}, QEMU has {told:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.end(stage).await
    }
}

impl Trial<'_> {
    /// The id of the operation that is under way.
    async fn under_way(&self, grpc: &Grpc) -> Result<String> {
        let request = pb::ListOperationsRequest {
            domain: by_name(&self.name),
            ..Default::default()
        };
        let all = grpc
            .operations()
            .list_operations(request)
            .await?
            .into_inner()
            .operations;
        let begun = all.into_iter().find(|operation| !operation.done);
        Ok(begun.context("no operation is under way")?.id)
    }

    /// The daemon that comes after tells under the same id what has become of it. What QEMU itself tells of, whether CPUs
    /// run, leaves nothing to be resolved.
    async fn is_told_of(&self, grpc: &Grpc, id: String) -> Result<()> {
        if matches!(self.operation.call, Call::Suspend | Call::Resume) {
            return Ok(());
        }
        let found = grpc
            .operations()
            .get_operation(pb::GetOperationRequest { id })
            .await?;
        let found = found.into_inner();
        let kind = found.metadata.unwrap_or_default().domain_name;
        ensure!(found.done && kind == self.name, "it is not told of: {kind}");
        Ok(())
    }
}

/// Every step of an operation goes wrong in every way.
pub(crate) async fn every_step(operation: Operation) -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut stage = Stage::new().await?;
    let before = stage.host()?;
    let mut earlier = BTreeMap::new();
    let trial = |name: String, earlier: &BTreeMap<String, u64>| Trial {
        operation: &operation,
        name: format!("{}-{name}", operation.name),
        earlier: earlier.clone(),
    };
    let undisturbed = trial("ok".to_owned(), &earlier);
    let (asked, after) = undisturbed.succeeds(&stage, None).await?;
    let all = read_record(&undisturbed.record(&stage))?;
    for Asked { execute, .. } in &all[..undisturbed.begin(&all)?] {
        *earlier.entry(execute.clone()).or_insert(0) += 1;
    }
    let is_step = |a: &&Asked| operation.commands.contains(&a.execute.as_str());
    let steps: Vec<_> = asked.iter().filter(is_step).collect();
    ensure!(!steps.is_empty(), "{asked:?}");
    undisturbed.end(&stage).await?;
    for (at, step) in steps.iter().enumerate() {
        let same = steps[..at].iter().filter(|s| s.execute == step.execute).count();
        let rule = json!({"execute": step.execute, "nth": same + 1});
        let what = |fault: &str| format!("{} at {} ({fault})", operation.name, step.execute);
        for (fault, more) in FAULTS.iter().filter(|(fault, _)| is_tried(fault, operation.name)) {
            let mut rule = rule.clone();
            let more: BTreeMap<String, Value> = serde_json::from_str(more)?;
            more.into_iter().for_each(|(key, value)| rule[key] = value);
            let trial = trial(format!("{at}-{fault}"), &earlier);
            trial.fails(&stage, rule).await.with_context(|| what(fault))?;
        }
        let told = trial(format!("{at}-told"), &earlier);
        told.hears(&stage, rule.clone(), step)
            .await
            .with_context(|| what("event"))?;
        let killed = trial(format!("{at}-killed"), &earlier);
        let cut_off = killed.is_cut_off(&mut stage, rule, &after);
        cut_off.await.with_context(|| what("killed"))?;
    }
    before.is_same(&stage.host()?)
}

impl Trial<'_> {
    /// An event that comes before the answer of a step is not lost, and disturbs nothing.
    async fn hears(&self, stage: &Stage, mut rule: Value, step: &Asked) -> Result<()> {
        rule["before"] = json!([{"event": "VSERPORT_CHANGE", "data": {"open": true, "id": "channel0"}}]);
        if step.execute == "device_del" {
            let id = &step.arguments["id"];
            rule["after"] = json!([{"event": "DEVICE_DELETED", "data": {"device": id, "path": ""}}]);
        }
        self.succeeds(stage, Some(rule)).await?;
        // It is taken in beside the operation.
        let end = Instant::now() + SOON;
        loop {
            let xml = stage.grpc.xml(&self.name).await?;
            if xml.contains("state='connected'") {
                break;
            }
            ensure!(Instant::now() < end, "the report was lost: {xml}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ensure!(self.is_done(&stage.grpc).await?, "the report undid the change");
        self.end(stage).await
    }
}

/// A command that is not answered costs its whole deadline, so a long operation fails in two ways only; `STEPS=long`
/// tries them all.
fn is_tried(fault: &str, operation: &str) -> bool {
    let patient = std::env::var_os("STEPS").is_some_and(|s| s == "long");
    patient || operation == "link" || matches!(fault, "refused" | "eof")
}

pub(crate) fn image(name: &str) -> Result<PathBuf> {
    let path = std::env::temp_dir().join(format!("steps-{}-{name}", std::process::id()));
    std::fs::write(&path, [0; 4096])?;
    Ok(path)
}

fn drive(image: &Path) -> String {
    format!(
        "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{}'/>\
         <target dev='sda' bus='sata'/><readonly/></disk>",
        image.display()
    )
}

pub(crate) fn disk(image: &Path) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>\
         <target dev='sda' bus='scsi'/></disk>",
        image.display()
    )
}

fn link() -> Operation {
    Operation {
        name: "link",
        devices: NIC.to_owned(),
        cpus: CPU,
        call: Call::Update(NIC.replace("</interface>", "<link state='down'/></interface>")),
        done: Done::Shown("<link state='down'/>"),
        had: &[("link", "true")],
        commands: &["set_link"],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_set_at_every_step() -> Result<()> {
    every_step(link()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_medium_that_is_changed_at_every_step() -> Result<()> {
    every_step(Operation {
        name: "medium",
        devices: drive(&image("old.iso")?),
        cpus: CPU,
        call: Call::Update(drive(&image("new.iso")?)),
        done: Done::Shown("new.iso"),
        had: &[
            ("tray", "closed"),
            ("medium", "libvirt-1-storage"),
            ("node libvirt-1-storage", "there"),
        ],
        commands: &[
            "blockdev-add",
            "blockdev-open-tray",
            "blockdev-remove-medium",
            "blockdev-insert-medium",
            "blockdev-close-tray",
        ],
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_comes_at_every_step() -> Result<()> {
    every_step(Operation {
        name: "attach-disk",
        devices: SCSI.to_owned(),
        cpus: CPU,
        call: Call::Attach(disk(&image("comes.img")?)),
        done: Done::Shown("comes.img"),
        had: &[],
        commands: &["blockdev-add", "device_add"],
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_goes_at_every_step() -> Result<()> {
    every_step(Operation {
        name: "detach-disk",
        devices: format!("{SCSI}{}", disk(&image("goes.img")?)),
        cpus: CPU,
        call: Call::Detach("scsi0-0-0-0"),
        done: Done::Gone("goes.img"),
        had: &[
            ("device scsi0-0-0-0", "there"),
            ("node libvirt-1-storage", "there"),
        ],
        commands: &["device_del"],
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_that_comes_at_every_step() -> Result<()> {
    every_step(Operation {
        name: "attach-interface",
        devices: SLOTS.to_owned(),
        cpus: CPU,
        call: Call::Attach(NIC.to_owned()),
        done: Done::Shown("52:54:00:00:00:01"),
        had: &[],
        commands: &["netdev_add", "device_add"],
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_period_of_statistics_at_every_step() -> Result<()> {
    every_step(Operation {
        name: "period",
        devices: BALLOON.to_owned(),
        cpus: CPU,
        call: Call::Period(7),
        done: Done::Shown("<stats period='7'/>"),
        had: &[("guest-stats-polling-interval", "0")],
        commands: &["qom-set"],
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_changed_at_every_step() -> Result<()> {
    let listen = "<listen type='address' address='127.0.0.1'/>";
    let display = |more: &str| {
        format!("<graphics type='vnc' port='-1' autoport='yes' passwd='{more}'>{listen}</graphics>")
    };
    every_step(Operation {
        name: "password",
        devices: display("old"),
        cpus: CPU,
        call: Call::Update(display("new' passwdValidTo='2100-01-01T00:00:00")),
        done: Done::Secret("passwd='new'"),
        had: &[("password", "old"), ("expiry", "never")],
        commands: &["set_password", "expire_password"],
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_and_its_end_at_every_step() -> Result<()> {
    every_step(Operation {
        name: "suspend",
        devices: String::new(),
        cpus: CPU,
        call: Call::Suspend,
        done: Done::State(pb::State::Paused),
        had: &[("run", "running")],
        commands: &["stop", "cont"],
    })
    .await?;
    every_step(Operation {
        name: "resume",
        devices: String::new(),
        cpus: CPU,
        call: Call::Resume,
        done: Done::State(pb::State::Running),
        had: &[("run", "paused")],
        commands: &["stop", "cont"],
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_intent_can_not_be_noted_is_refused() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let stage = Stage::new().await?;
    let operation = link();
    let trial = Trial {
        operation: &operation,
        earlier: BTreeMap::new(),
        name: "unnoted".to_owned(),
    };
    trial.start(&stage, None).await?;
    let full = Small::mount(&stage.sandbox, "/run/libvirt/qemu/virtqemud")?;
    full.fill()?;
    let error = trial
        .change(&stage.grpc)
        .await
        .err()
        .context("the change went on")?;
    ensure!(
        error.message().contains("cannot note what is about to be done"),
        "{error:?}"
    );
    ensure!(trial.asked(&stage)?.is_empty(), "QEMU was told all the same");
    full.empty()?;
    trial.change(&stage.grpc).await?;
    trial.end(&stage).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_off_that_is_refused_leaves_other_notes_alone() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let stage = Stage::new().await?;
    let operation = link();
    let trial = Trial {
        operation: &operation,
        earlier: BTreeMap::new(),
        name: "refused".to_owned(),
    };
    trial
        .start(&stage, Some(json!({"execute": "set_link", "then": "silent"})))
        .await?;
    let pid = stage.sandbox.guest_pid(&trial.name).context("no process")?;
    let signal = |signal: &str| {
        std::process::Command::new("kill")
            .args([signal, &pid.to_string()])
            .status()
    };
    // A process that is stopped does not end when it is asked to.
    ensure!(signal("-STOP")?.success());
    let changing = trial.change(&stage.grpc);
    let refused = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let noted = Trial::notes(&stage)?;
        ensure!(noted.len() == 1, "{noted:?}");
        let request = pb::PowerOffRequest {
            domain: by_name(&trial.name),
            graceful: true,
            ..Default::default()
        };
        let answer = stage.grpc.domains().power_off(request).await;
        ensure!(answer.is_err(), "the power-off was not refused");
        let left = Trial::notes(&stage)?;
        ensure!(left == noted, "{left:?} instead of {noted:?}");
        Ok(())
    };
    let (changed, refused) = tokio::join!(changing, refused);
    refused?;
    let error = changed.err().context("the change succeeded")?;
    ensure!(error.message().contains("could not be undone"), "{error:?}");
    trial.end(&stage).await?;
    ensure!(
        Trial::notes(&stage)?.is_empty(),
        "a note is left of a run that is over"
    );
    Ok(())
}
