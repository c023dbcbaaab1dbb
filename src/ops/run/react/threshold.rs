//! An image that is written above its threshold: by which names clients are told.

use domxml::devices::{Source, YesNo};
use qmp::events::BlockWriteThreshold;

use crate::{
    domain::{Effects, View},
    events::model::{self as pb, EventKind, event::Detail},
    ops::run::left_backup,
};

/// The events; none if no disk has the node.
pub(super) fn reached(view: &View, told: &BlockWriteThreshold) -> Effects {
    let mut effects = Effects::none();
    let Some((targets, path)) = names_of(view, &told.node_name) else {
        return effects;
    };
    for target in targets {
        let detail = Detail::BlockThreshold(pb::event::BlockThreshold {
            target,
            path: path.clone(),
            threshold: told.write_threshold,
            excess: told.amount_exceeded,
        });
        effects = effects.event(EventKind::BlockThreshold, Some(detail));
    }
    effects
}

/// What is told of a node that was written above its threshold: names of the disk, and the path of its image.
fn names_of(view: &View, node: &str) -> Option<(Vec<String>, String)> {
    let run = view.run.as_ref()?;
    let disks = &run.document.domain.devices.disks;
    disks.iter().find_map(|disk| {
        let target = &disk.target.dev;
        let indexed = |index: Option<u32>| index.map(|index| format!("{target}[{index}]"));
        let is_it = |source: &Source| {
            let names = source
                .private_data
                .as_ref()
                .and_then(|private| private.nodenames.as_ref());
            names.is_some_and(|names| names.names.iter().any(|known| known.name == node))
        };
        let path = |source: &Source| {
            source
                .file
                .clone()
                .or_else(|| source.dev.clone())
                .unwrap_or_default()
        };
        if let Some(source) = disk.source.as_ref().filter(|source| is_it(source)) {
            let private = source.private_data.as_ref();
            let by_index = private.and_then(|private| private.threshold_event_by_index) == Some(YesNo::Yes);
            let plain = (!by_index).then(|| target.clone());
            return Some((
                plain.into_iter().chain(indexed(source.index)).collect(),
                path(source),
            ));
        }
        let mut next = disk.backing.as_deref();
        while let Some(store) = next {
            if let Some(source) = store.source.as_ref().filter(|source| is_it(source)) {
                return Some((indexed(store.index).into_iter().collect(), path(source)));
            }
            next = store.backing.as_deref();
        }
        let part = left_backup::part_of(run, target)?;
        let source = part.store().filter(|source| is_it(source))?;
        Some((indexed(part.index).into_iter().collect(), path(source)))
    })
}
