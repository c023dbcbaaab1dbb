//! Removing checkpoints: their bitmaps from every image, and what is recorded of them.

use std::sync::Arc;

use domxml::moment::Checkpoint;
use qemu_plan::block::Chain;
use qmp::commands;

use super::{Batch, Change, create::recorded, find, nodes_of, read};
use crate::{
    domain::{
        Domain, Effects, View,
        intents::Intent,
        jobs::{Kind, Want},
        snapshots::{Filter, Part},
    },
    error::{Code, Error, Result},
    ops::{
        Conditions, Driver,
        graph::{self, bitmaps, images},
        operation::{Ask, Context, Operation},
        run::guest::Guest,
    },
};

/// Which checkpoints go, and what of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct How {
    /// Also all that come after it.
    pub children: bool,
    /// Those alone.
    pub children_only: bool,
    /// Only what is recorded.
    pub metadata_only: bool,
}

/// Removes checkpoints.
///
/// # Errors
/// There is no such checkpoint; a bitmap is not there; what QEMU refuses.
pub async fn delete(
    driver: &Arc<Driver>,
    domain: &Domain,
    (name, how): (String, How),
    conditions: &Conditions,
) -> Result<Arc<View>> {
    let ask = Ask {
        kind: "delete-checkpoint",
        job: Want::Plain(Kind::Modify),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    let view = operation.view();
    if !view.active() && !how.metadata_only {
        return Err(Error::new(
            Code::OperationUnsupported,
            "cannot delete checkpoint for inactive domain",
        ));
    }
    let names = chosen(&view, &name, how)?;
    if operation.is_trial() {
        return Ok(view);
    }
    let work = |context: Arc<Context>| async move {
        for name in names {
            Box::pin(delete_one(&context, &name, how.metadata_only)).await?;
        }
        Ok(context.view())
    };
    operation.carry_out(work).await
}

/// The checkpoints that go, those that come after others first.
fn chosen(view: &View, name: &str, how: How) -> Result<Vec<String>> {
    find(view, name)?;
    let mut names = Vec::new();
    if how.children || how.children_only {
        let after = view.checkpoints.list(Part::Descendants(name), Filter::default());
        names.extend(after.iter().rev().map(|entry| entry.name.to_string()));
    }
    if !how.children_only {
        names.push(name.to_owned());
    }
    Ok(names)
}

async fn delete_one(context: &Context, name: &str, metadata_only: bool) -> Result<()> {
    let view = context.view();
    let driver = context.driver();
    if !metadata_only {
        let checkpoint = read(driver, &view, name).await?;
        let guest = driver.guests.of(&view)?;
        context
            .intend(Intent::DeleteCheckpoint {
                name: name.to_owned(),
            })
            .await?;
        context.enter("the bitmaps");
        take_away(&guest, &view, &checkpoint).await?;
    }
    let change = forgetting(driver, &view, name).await?;
    let commit = move |view: &mut View| {
        change.apply(view)?;
        Ok(Effects::none())
    };
    context.commit_with(commit).await.map(drop)
}

/// The guest's checkpoints without one.
///
/// # Errors
/// A file of those that change can't be read.
pub(super) async fn forgetting(driver: &Driver, view: &View, name: &str) -> Result<Change> {
    let mut batch = Batch::of(driver, view);
    batch.remove(name).await?;
    batch.finish().await
}

/// Takes a checkpoint's bitmaps out of every image that has them, all or none. Images below the top one are opened for
/// writing meanwhile.
async fn take_away(guest: &Guest, view: &View, checkpoint: &Checkpoint) -> Result<()> {
    let run = view.running()?;
    let nodes = guest
        .execute(commands::QueryNamedBlockNodes { flat: true })
        .await?;
    let known = bitmaps::Bitmaps::of(nodes);
    let (mut actions, mut opened) = (Vec::new(), Vec::new());
    for part in recorded(checkpoint) {
        // A disk that has left took its bitmaps along.
        let Ok(disk) = graph::disk(&run.document.domain, &part.name) else {
            continue;
        };
        let bitmap = part.bitmap.as_deref().unwrap_or(&checkpoint.moment.name);
        let having: Vec<_> = nodes_of(disk)
            .into_iter()
            .filter(|node| known.find(node, bitmap).is_some())
            .collect();
        if having.is_empty() {
            let said = format!("bitmap '{bitmap}' not found in backing chain of '{}'", part.name);
            return Err(Error::internal(said));
        }
        let chain = Chain::of(disk);
        for node in having {
            match chain.with_node(&node) {
                Some(0) | None => {}
                Some(layer) => opened.push((disk, layer)),
            }
            actions.push(bitmaps::remove(&node, bitmap));
        }
    }
    if actions.is_empty() {
        return Ok(());
    }
    for (disk, layer) in &opened {
        images::reopen(guest, disk, *layer, true).await?;
    }
    let result = guest.execute(commands::Transaction { actions }).await;
    for (disk, layer) in opened {
        if let Err(error) = images::reopen(guest, disk, layer, false).await {
            tracing::warn!(guest = %view.name, %error, "an image below stays open for writing");
        }
    }
    result.map(drop)
}
