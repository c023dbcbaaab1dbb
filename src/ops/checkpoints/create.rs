//! Making a checkpoint, and recording one that is there already.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use domxml::{
    devices::{Disk, StorageFormat},
    moment::{Checkpoint, CheckpointDisk, CheckpointMode},
};
use qemu_plan::{address::Age, block};
use qmp::commands;
use serde_json::{Value, json};

use super::{Batch, Change, find, nodes_of, read, refused};
use crate::{
    domain::{
        Domain, Effects, View,
        intents::Intent,
        jobs::{Kind, Want},
    },
    error::{Area, Code, Error, Result},
    ops::{
        Conditions, Driver,
        document::{batch, copy, plan, schema},
        graph::{self, bitmaps, lookup},
        operation::{Ask, Context, Operation},
        run::guest::Guest,
    },
};

/// Longest document, bytes.
const XML_MAX: usize = 8 << 20;

/// How a checkpoint is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct How {
    /// The document tells of a checkpoint that is there already.
    pub redefine: bool,
    /// And its bitmaps must be as they should.
    pub validate: bool,
}

/// Makes a checkpoint, or records one. Answers the guest and the checkpoint's name.
///
/// # Errors
/// What is wrong with the document, what can't be recorded, what QEMU refuses. Nothing is left of it then.
pub async fn create(
    driver: &Arc<Driver>,
    domain: &Domain,
    (document, how): (String, How),
    conditions: &Conditions,
) -> Result<(Arc<View>, String)> {
    if !domain.view().active() && !how.redefine {
        return Err(Error::new(
            Code::OperationUnsupported,
            "cannot create checkpoint for inactive domain",
        ));
    }
    let checkpoint = given(document, how.redefine).await?;
    let name = checkpoint.moment.name.clone();
    let ask = Ask {
        kind: if how.redefine {
            "redefine-checkpoint"
        } else {
            "create-checkpoint"
        },
        job: Want::Plain(Kind::Modify),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    let view = operation.view();
    if how.redefine {
        let change = redefined(driver, &view, checkpoint, how).await?;
        if operation.is_trial() {
            return Ok((view, name));
        }
        let work = |context: Arc<Context>| async move {
            let commit = move |view: &mut View| {
                change.apply(view)?;
                Ok(Effects::none())
            };
            context.commit_with(commit).await
        };
        return Ok((operation.carry_out(work).await?, name));
    }
    let guest = driver.guests.of(&view)?;
    let new = New::of(driver, &view, checkpoint).await?;
    if operation.is_trial() {
        return Ok((view, name));
    }
    let work = |context: Arc<Context>| async move { new.carry_out(&context, &guest).await };
    Ok((operation.carry_out(work).await?, name))
}

/// Reads a client's document.
///
/// # Errors
/// What is wrong with it.
pub(crate) async fn given(document: String, redefine: bool) -> Result<Checkpoint> {
    if document.len() > XML_MAX {
        return Err(Error::argument(format!(
            "the document has {} bytes; the most is {XML_MAX}",
            document.len()
        )));
    }
    schema::check_other(&document, schema::Other::Checkpoint).await?;
    let read = move || Ok(Checkpoint::given(&document, redefine)?);
    let mut checkpoint = crate::blocking::file("reading the document of a checkpoint", read).await?;
    if !redefine {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        checkpoint.moment.created = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if checkpoint.moment.name.is_empty() {
            checkpoint.moment.name = now.as_secs().to_string();
        }
    }
    domxml::moment::check_name(&checkpoint.moment.name, "checkpoint")?;
    Ok(checkpoint)
}

/// A checkpoint that can be made.
pub(crate) struct New {
    /// Its name.
    pub(crate) name: String,
    /// The nodes that get a bitmap.
    pub(crate) nodes: Vec<String>,
    change: Change,
}

impl New {
    /// Completes a checkpoint with what the guest is, and checks everything.
    ///
    /// # Errors
    /// In libvirt's words and order.
    pub(crate) async fn of(driver: &Arc<Driver>, view: &View, mut checkpoint: Checkpoint) -> Result<Self> {
        let run = view.running()?;
        let disks = &run.document.domain.devices.disks;
        let name = checkpoint.moment.name.clone();
        align(&mut checkpoint, disks)?;
        let mut nodes = Vec::new();
        for part in recorded(&checkpoint) {
            let disk = graph::disk(&run.document.domain, &part.name)?;
            if part.bitmap.as_deref() != Some(&name) {
                return Err(refused(
                    Code::ConfigUnsupported,
                    format!(
                        "bitmap for disk '{}' must match checkpoint name '{name}'",
                        part.name
                    ),
                )
                .in_area(Area::Qemu));
            }
            check_format(disk)?;
            lookup::check_supported(disk)?;
            nodes.extend(nodes_of(disk).into_iter().next());
        }
        if view.checkpoints.get(&name).is_some() {
            let said = format!("domain moment {name} already exists");
            return Err(Error::new(Code::OperationFailed, said).in_area(Area::Domain));
        }
        checkpoint.moment.parent = view.checkpoints.current().map(|current| current.name.to_string());
        checkpoint.moment.domain = Some(copy::of_next_start(driver, view).await?);
        let mut batch = Batch::of(driver, view);
        batch.put(checkpoint);
        batch.make_current(&name);
        let change = batch.finish().await?;
        Ok(Self { name, nodes, change })
    }

    /// What QEMU is told, for its transaction.
    pub(crate) fn actions(&self) -> Vec<Value> {
        self.nodes.iter().map(|node| added(node, &self.name)).collect()
    }

    /// The intent of making it.
    pub(crate) fn intent(&self) -> Intent {
        Intent::CreateCheckpoint {
            name: self.name.clone(),
            nodes: self.nodes.clone(),
        }
    }

    /// What takes its bitmaps back.
    pub(crate) fn reversal(&self) -> Vec<Value> {
        self.nodes
            .iter()
            .map(|node| bitmaps::remove(node, &self.name))
            .collect()
    }

    /// Applies it to a view.
    ///
    /// # Errors
    /// As [`Change::apply`].
    pub(crate) fn apply(self, view: &mut View) -> Result<()> {
        self.change.apply(view)
    }

    async fn carry_out(self, context: &Context, guest: &Arc<Guest>) -> Result<Arc<View>> {
        context.intend(self.intent()).await?;
        let actions = self.actions();
        if !actions.is_empty() {
            let add = guest.execute(commands::Transaction { actions });
            let (guest, actions) = (Arc::clone(guest), self.reversal());
            let remove = async move { guest.execute(commands::Transaction { actions }).await.map(drop) };
            context.step("the bitmaps", add, remove).await?;
        }
        let commit = move |view: &mut View| {
            self.apply(view)?;
            Ok(Effects::none())
        };
        context.commit_with(commit).await
    }
}

fn added(node: &str, name: &str) -> Value {
    json!({
        "type": "block-dirty-bitmap-add",
        "data": { "node": node, "name": name, "persistent": true, "disabled": false },
    })
}

/// The disks whose writes are recorded.
pub(crate) fn recorded(checkpoint: &Checkpoint) -> impl Iterator<Item = &CheckpointDisk> {
    checkpoint
        .disks
        .iter()
        .filter(|disk| disk.mode == Some(CheckpointMode::Bitmap))
}

fn check_format(disk: &Disk) -> Result<()> {
    let format = disk
        .driver
        .as_ref()
        .and_then(|driver| driver.kind)
        .unwrap_or(StorageFormat::Raw);
    match format {
        StorageFormat::Qcow2 => Ok(()),
        other => Err(Error::new(
            Code::ConfigUnsupported,
            format!(
                "checkpoint for disk {} unsupported for storage type {}",
                disk.target.dev,
                other.as_str()
            ),
        )),
    }
}

/// Says of each disk of a guest whether its writes are recorded.
fn align(checkpoint: &mut Checkpoint, disks: &[Disk]) -> Result<()> {
    let refuse = |said: String| Err(refused(Code::ConfigUnsupported, said));
    let name = checkpoint.moment.name.clone();
    let given = std::mem::take(&mut checkpoint.disks);
    if given.len() > disks.len() {
        return refuse("too many disk checkpoint requests for domain".to_owned());
    }
    if disks.is_empty() {
        return refuse("domain must have at least one disk to perform checkpoints".to_owned());
    }
    let takes_part = |disk: &Disk| !block::is_empty(disk) && !disk.readonly;
    let mut parts: Vec<Option<CheckpointDisk>> = vec![None; disks.len()];
    for mut part in given.iter().cloned() {
        let Some(at) = disks.iter().position(|disk| is_named(disk, &part.name)) else {
            return refuse(format!("no disk named '{}'", part.name));
        };
        if parts[at].is_some() {
            return refuse(format!("disk '{}' specified twice", part.name));
        }
        if part.mode == Some(CheckpointMode::Bitmap) {
            if !takes_part(&disks[at]) {
                return refuse(format!("disk '{}' is empty or readonly", part.name));
            }
            part.bitmap.get_or_insert_with(|| name.clone());
        }
        part.name.clone_from(&disks[at].target.dev);
        parts[at] = Some(part);
    }
    let all = given.is_empty();
    let parts = parts.into_iter().zip(disks).map(|(part, disk)| {
        part.unwrap_or_else(|| {
            let recorded = all && takes_part(disk);
            CheckpointDisk {
                name: disk.target.dev.clone(),
                mode: Some(if recorded {
                    CheckpointMode::Bitmap
                } else {
                    CheckpointMode::No
                }),
                bitmap: recorded.then(|| name.clone()),
                size: None,
            }
        })
    });
    checkpoint.disks = parts.collect();
    Ok(())
}

fn is_named(disk: &Disk, name: &str) -> bool {
    let path = block::Chain::of(disk).layers.first().and_then(|top| top.path());
    disk.target.dev == name || (!name.is_empty() && path.as_deref() == Some(name))
}

/// The change by a document that tells of a checkpoint that is there already.
async fn redefined(
    driver: &Arc<Driver>,
    view: &View,
    mut checkpoint: Checkpoint,
    how: How,
) -> Result<Change> {
    let name = checkpoint.moment.name.clone();
    batch::check_descent(&view.checkpoints, &checkpoint.moment)?;
    let uuid = checkpoint
        .moment
        .domain
        .as_ref()
        .and_then(|domain| domain.uuid)
        .or(checkpoint.moment.uuid);
    if uuid.is_some_and(|uuid| uuid != view.uuid) {
        let said = format!("definition for checkpoint {name} must use uuid {}", view.uuid);
        return Err(refused(Code::InvalidArg, said));
    }
    let former = match find(view, &name) {
        Ok(_) => Some(read(driver, view, &name).await?),
        Err(_) => None,
    };
    match (&checkpoint.moment.domain, former) {
        (Some(_), _) => {
            let domain = checkpoint.moment.domain.take().unwrap_or_default();
            let domain = plan::complete(driver, domain, Age::Known).await?.domain;
            align(&mut checkpoint, &domain.devices.disks)?;
            checkpoint.moment.domain = Some(domain);
        }
        (None, former) => {
            checkpoint.moment.domain = former.and_then(|former| former.moment.domain);
            name_bitmaps(&mut checkpoint);
        }
    }
    if how.validate {
        validate(driver, view, &checkpoint).await?;
    }
    let current = view.checkpoints.current().map(|current| current.name.to_string());
    let follows =
        current.is_none() || checkpoint.moment.parent == current || current.as_deref() == Some(&name);
    let mut batch = Batch::of(driver, view);
    batch.put(checkpoint);
    if follows {
        batch.make_current(&name);
    }
    batch.finish().await
}

fn name_bitmaps(checkpoint: &mut Checkpoint) {
    let name = checkpoint.moment.name.clone();
    for disk in &mut checkpoint.disks {
        if disk.mode == Some(CheckpointMode::Bitmap) {
            disk.bitmap.get_or_insert_with(|| name.clone());
        }
    }
}

/// Refuses a checkpoint whose bitmaps are not there, or not as they should be.
async fn validate(driver: &Arc<Driver>, view: &View, checkpoint: &Checkpoint) -> Result<()> {
    let run = view.running()?;
    let guest = driver.guests.of(view)?;
    let nodes = guest
        .execute(commands::QueryNamedBlockNodes { flat: true })
        .await?;
    let known = bitmaps::Bitmaps::of(nodes);
    for part in recorded(checkpoint) {
        let bitmap = part.bitmap.as_deref().unwrap_or(&checkpoint.moment.name);
        let disk = graph::disk(&run.document.domain, &part.name);
        let valid = disk.is_ok_and(|disk| known.is_valid(&nodes_of(disk), bitmap));
        if !valid {
            let said = format!("missing or broken bitmap '{bitmap}' for disk '{}'", part.name);
            return Err(Error::new(Code::CheckpointInconsistent, said));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disks() -> Vec<Disk> {
        let text = "<domain type='qemu' id='1'><name>a</name><os><type>hvm</type></os><devices>
            <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/a'/><target dev='vda'/></disk>
            <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/b'/><target dev='vdb'/></disk>
            <disk type='file' device='cdrom'><target dev='sda'/><readonly/></disk></devices></domain>";
        let document = domxml::Domain::parse(text, domxml::ParseFlags::NONE).unwrap();
        document.devices.disks
    }

    fn aligned(inside: &str) -> Result<Vec<String>, String> {
        let text = format!("<domaincheckpoint><name>c</name>{inside}</domaincheckpoint>");
        let mut checkpoint = Checkpoint::given(&text, false).unwrap();
        align(&mut checkpoint, &disks()).map_err(|error| error.message.into_owned())?;
        let shown = |disk: &CheckpointDisk| {
            let mode = disk.mode.map_or("", |mode| mode.as_str());
            format!("{} {mode} {}", disk.name, disk.bitmap.as_deref().unwrap_or("-"))
        };
        Ok(checkpoint.disks.iter().map(shown).collect())
    }

    #[test]
    fn every_disk_takes_part_or_is_said_not_to() {
        let all = ["vda bitmap c", "vdb bitmap c", "sda no -"]
            .map(str::to_owned)
            .to_vec();
        assert_eq!(aligned("").unwrap(), all);
        let one = ["vda no -", "vdb bitmap c", "sda no -"]
            .map(str::to_owned)
            .to_vec();
        assert_eq!(aligned("<disks><disk name='/b'/></disks>").unwrap(), one);
        let refused = |inside: &str| aligned(&format!("<disks>{inside}</disks>")).unwrap_err();
        assert_eq!(refused("<disk name='vdz'/>"), "no disk named 'vdz'");
        assert_eq!(
            refused("<disk name='vda'/><disk name='vda'/>"),
            "disk 'vda' specified twice"
        );
        assert_eq!(refused("<disk name='sda'/>"), "disk 'sda' is empty or readonly");
    }
}
