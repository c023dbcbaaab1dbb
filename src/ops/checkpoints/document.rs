//! The document of a checkpoint as clients are shown it, with how much was written since if they want to know.

use std::sync::Arc;

use domxml::moment::Checkpoint;
use qmp::commands;
use serde_json::{Value, json};

use super::{create::recorded, nodes_of, read};
use crate::{
    domain::{
        Domain, View,
        jobs::{Kind, Want},
    },
    error::Result,
    ops::{
        Driver,
        graph::{
            self,
            bitmaps::{self, Bitmaps},
        },
        run::guest::Guest,
    },
};

/// The bitmap that gathers what was written.
const GATHERED: &str = "libvirt-tmp-size-xml";

/// What of a checkpoint is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// With passwords.
    pub secure: bool,
    /// Without the guest's document.
    pub no_domain: bool,
    /// With how much was written since.
    pub size: bool,
}

/// The document of a checkpoint.
///
/// # Errors
/// `NoDomainCheckpoint`; with sizes also `OperationInvalid` if the guest does not run, what QEMU refuses.
pub async fn text(driver: &Arc<Driver>, domain: &Domain, name: &str, form: Form) -> Result<String> {
    let mut checkpoint = read(driver, &domain.view(), name).await?;
    if form.size {
        let job = domain.job(Want::Plain(Kind::Modify)).await?;
        let view = job.view();
        view.running()?;
        let guest = driver.guests.of(&view)?;
        measure(&guest, &view, &mut checkpoint).await?;
    }
    Ok(checkpoint.format(form.secure, !form.no_domain))
}

/// A disk and the node on which its bitmaps are gathered.
struct Gathering {
    disk: String,
    node: String,
    actions: [Value; 2],
}

/// Finds out how much was written to each disk whose bitmaps are as they should be.
async fn measure(guest: &Guest, view: &View, checkpoint: &mut Checkpoint) -> Result<()> {
    let known = asked(guest).await?;
    let gatherings = gatherings(view, checkpoint, &known);
    if gatherings.is_empty() {
        return Ok(());
    }
    let actions = gatherings.iter().flat_map(|one| one.actions.clone()).collect();
    guest.execute(commands::Transaction { actions }).await?;
    let gathered = asked(guest).await;
    // They go whatever became of the question.
    let actions = gatherings
        .iter()
        .map(|one| bitmaps::remove(&one.node, GATHERED))
        .collect();
    guest.execute(commands::Transaction { actions }).await?;
    let gathered = gathered?;
    for Gathering { disk, node, .. } in gatherings {
        let part = checkpoint.disks.iter_mut().find(|part| part.name == disk);
        if let Some((part, bitmap)) = part.zip(gathered.find(&node, GATHERED)) {
            part.size = Some(bitmap.count);
        }
    }
    Ok(())
}

async fn asked(guest: &Guest) -> Result<Bitmaps> {
    let nodes = guest
        .execute(commands::QueryNamedBlockNodes { flat: true })
        .await?;
    Ok(Bitmaps::of(nodes))
}

fn gatherings(view: &View, checkpoint: &Checkpoint, known: &Bitmaps) -> Vec<Gathering> {
    let Some(run) = &view.run else { return Vec::new() };
    let of = |part: &domxml::moment::CheckpointDisk| {
        let disk = graph::disk(&run.document.domain, &part.name).ok()?;
        let nodes = nodes_of(disk);
        let name = part.bitmap.as_deref().unwrap_or(&checkpoint.moment.name);
        if !known.is_valid(&nodes, name) {
            return None;
        }
        let top = nodes.first()?.clone();
        let granularity = known.find(&top, name)?.granularity;
        let having = nodes.iter().filter(|node| known.find(node, name).is_some());
        let all: Vec<_> = having.map(|node| json!({ "node": node, "name": name })).collect();
        let add = json!({
            "type": "block-dirty-bitmap-add",
            "data": {
                "node": top, "name": GATHERED, "persistent": false, "disabled": true, "granularity": granularity,
            },
        });
        let merge = json!({
            "type": "block-dirty-bitmap-merge",
            "data": { "node": top, "target": GATHERED, "bitmaps": all },
        });
        Some(Gathering {
            disk: part.name.clone(),
            node: top,
            actions: [add, merge],
        })
    };
    recorded(checkpoint).filter_map(of).collect()
}
