//! What becomes of a checkpoint that was being made or removed when the daemon ended.
//!
//! What is recorded decides of one that was made: if it is not, its bitmaps go. One that was being removed goes to the end
//! if its bitmaps are gone, which went all at once, and stays if they are there.

use std::sync::Arc;

use qmp::commands;

use super::{create::recorded, delete::forgetting, nodes_of, read};
use crate::{
    domain::{Effects, View, intents::Intent},
    error::Result,
    ops::{
        Driver,
        graph::{self, bitmaps},
        run::guest::Guest,
    },
};

/// Sees to what was under way on a running guest.
///
/// # Errors
/// QEMU does not answer, or refuses.
pub(crate) async fn running(driver: &Arc<Driver>, guest: &Arc<Guest>, intent: &Intent) -> Result<()> {
    let nodes = guest
        .execute(commands::QueryNamedBlockNodes { flat: true })
        .await?;
    let known = bitmaps::Bitmaps::of(nodes);
    let view = guest.domain.view();
    match intent {
        Intent::CreateCheckpoint { name, nodes } if view.checkpoints.get(name).is_none() => {
            let left = nodes.iter().filter(|node| known.find(node, name).is_some());
            let actions: Vec<_> = left.map(|node| bitmaps::remove(node, name)).collect();
            if !actions.is_empty() {
                guest.execute(commands::Transaction { actions }).await?;
            }
            Ok(())
        }
        Intent::DeleteCheckpoint { name } if view.checkpoints.get(name).is_some() => {
            let checkpoint = read(driver, &view, name).await?;
            let document = &view.running()?.document.domain;
            let there = recorded(&checkpoint).any(|part| {
                let bitmap = part.bitmap.as_deref().unwrap_or(name);
                let disk = graph::disk(document, &part.name);
                disk.is_ok_and(|disk| {
                    nodes_of(disk)
                        .iter()
                        .any(|node| known.find(node, bitmap).is_some())
                })
            });
            if there {
                return Ok(());
            }
            let change = forgetting(driver, &view, name).await?;
            let commit = move |view: &mut View| {
                change.apply(view)?;
                Ok(Effects::none())
            };
            guest.domain.commit(commit).await.map(drop)
        }
        _ => Ok(()),
    }
}
