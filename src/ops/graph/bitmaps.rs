//! Dirty bitmaps when images are merged or replaced: what one transaction does so that none is lost.
//!
//! Pure functions of QEMU's nodes. A bitmap counts where all images from the top down have it without a gap, each of them
//! kept in its image, recording, and closed properly.

use std::collections::HashMap;

use qmp::types::{BlockDeviceInfo, BlockDirtyInfo};
use serde_json::{Value, json};

/// The bitmap that records what the guest writes while a copy is being swapped in.
pub(crate) const ACTIVE_WRITE: &str = "libvirt-tmp-activewrite";

/// The bitmaps of all nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bitmaps {
    nodes: HashMap<String, Vec<BlockDirtyInfo>>,
}

impl Bitmaps {
    /// What QEMU says.
    pub(crate) fn of(nodes: Vec<BlockDeviceInfo>) -> Self {
        let named = nodes
            .into_iter()
            .filter_map(|node| Some((node.node_name?, node.dirty_bitmaps)));
        Self {
            nodes: named.collect(),
        }
    }

    /// A bitmap of a node.
    pub(crate) fn find(&self, node: &str, name: &str) -> Option<&BlockDirtyInfo> {
        let of_node = self.nodes.get(node)?;
        of_node.iter().find(|bitmap| bitmap.name.as_deref() == Some(name))
    }

    /// Whether a chain has the bitmap as it should be: in the top image, and below without a gap.
    pub(crate) fn is_valid(&self, chain: &[String], name: &str) -> bool {
        let mut ended = false;
        for node in chain {
            match self.find(node, name) {
                None => ended = true,
                Some(_) if ended => return false,
                Some(found) if !found.persistent || !found.recording || found.inconsistent => return false,
                Some(_) => {}
            }
        }
        chain.first().is_some_and(|top| self.find(top, name).is_some())
    }

    /// The bitmaps that a chain has as they should be, in the order of its top image.
    fn valid(&self, chain: &[String]) -> Vec<&BlockDirtyInfo> {
        let top = chain.first().and_then(|top| self.nodes.get(top));
        let all = top.into_iter().flatten();
        all.filter(|bitmap| {
            bitmap
                .name
                .as_deref()
                .is_some_and(|name| self.is_valid(chain, name))
        })
        .collect()
    }

    /// The bitmaps of a top image that an overlay must go on with: each is made anew there.
    pub(crate) fn for_overlay(&self, top: &str, overlay: &str) -> Vec<Value> {
        let all = self.nodes.get(top).into_iter().flatten();
        let kept = all.filter(|b| b.persistent && b.recording && !b.inconsistent);
        kept.filter_map(|bitmap| Some(add(overlay, bitmap.name.as_deref()?, Some(bitmap.granularity))))
            .collect()
    }

    /// After a pull: the top image has everything that the `pulled` images below it recorded. `chain` is as it was.
    pub(crate) fn after_pull(&self, chain: &[String], pulled: usize) -> Vec<Value> {
        let Some(top) = chain.first() else {
            return Vec::new();
        };
        let sources = &chain[..chain.len().min(pulled + 1)];
        let merged = self.valid(chain).into_iter().filter_map(|bitmap| {
            let name = bitmap.name.as_deref()?;
            Some(merge(top, name, self.having(sources, name)))
        });
        merged.collect()
    }

    /// After images were written into another one: `target` has what all of `sources`, the top one first, recorded. With
    /// `writes` it has also what the guest wrote while it was swapped in. `chain` begins with `sources`.
    pub(crate) fn after_merge(
        &self,
        chain: &[String],
        sources: usize,
        target: &str,
        writes: bool,
    ) -> Vec<Value> {
        let from = &chain[..chain.len().min(sources)];
        let mut actions = Vec::new();
        let written = writes && self.find(target, ACTIVE_WRITE).is_some();
        for bitmap in self.valid(chain) {
            let Some(name) = bitmap.name.as_deref() else {
                continue;
            };
            if self.find(target, name).is_none() {
                actions.push(add(target, name, Some(bitmap.granularity)));
            }
            let mut merged = self.having(from, name);
            if written {
                merged.push(json!({ "node": target, "name": ACTIVE_WRITE }));
            }
            actions.push(merge(target, name, merged));
        }
        if written {
            actions.push(remove(target, ACTIVE_WRITE));
        }
        actions
    }

    /// The bitmaps of this name that nodes have, as sources of a merge.
    pub(crate) fn having(&self, nodes: &[String], name: &str) -> Vec<Value> {
        let have = nodes.iter().filter(|node| self.find(node, name).is_some());
        have.map(|node| json!({ "node": node, "name": name })).collect()
    }
}

/// Makes a bitmap; one that is kept in its image if it has a granularity, else one for the moment.
pub(crate) fn add(node: &str, name: &str, granularity: Option<u32>) -> Value {
    let mut data = json!({
        "node": node, "name": name, "persistent": granularity.is_some(), "disabled": false,
    });
    if let Some(granularity) = granularity {
        data["granularity"] = granularity.into();
    }
    json!({ "type": "block-dirty-bitmap-add", "data": data })
}

/// Takes a bitmap away.
pub(crate) fn remove(node: &str, name: &str) -> Value {
    json!({ "type": "block-dirty-bitmap-remove", "data": { "node": node, "name": name } })
}

/// Adds bitmaps to one of a node.
pub(crate) fn merge(node: &str, target: &str, bitmaps: Vec<Value>) -> Value {
    json!({
        "type": "block-dirty-bitmap-merge",
        "data": { "node": node, "target": target, "bitmaps": bitmaps },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(all: &[(&str, &[&str])]) -> Bitmaps {
        let bitmap = |name: &str| BlockDirtyInfo {
            name: Some(name.trim_start_matches('!').to_owned()),
            count: 0,
            granularity: 65_536,
            recording: true,
            busy: false,
            persistent: name != ACTIVE_WRITE,
            inconsistent: name.starts_with('!'),
        };
        Bitmaps {
            nodes: all
                .iter()
                .map(|(node, names)| ((*node).to_owned(), names.iter().map(|n| bitmap(n)).collect()))
                .collect(),
        }
    }

    fn short(actions: &[Value]) -> Vec<String> {
        let one = |action: &Value| {
            let data = &action["data"];
            let kind = action["type"]
                .as_str()
                .unwrap()
                .trim_start_matches("block-dirty-bitmap-");
            let of: Vec<_> = data["bitmaps"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|b| format!("{}/{}", b["node"].as_str().unwrap(), b["name"].as_str().unwrap()))
                .collect();
            let name = data["name"].as_str().or(data["target"].as_str()).unwrap();
            format!(
                "{kind} {}/{name} {}",
                data["node"].as_str().unwrap(),
                of.join(" ")
            )
            .trim_end()
            .to_owned()
        };
        actions.iter().map(one).collect()
    }

    fn chain(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_pull_gathers_what_the_pulled_images_recorded() {
        let all = nodes(&[("t", &["c1", "c4", "!bad"]), ("m", &["c1"]), ("b", &["c9"])]);
        assert_eq!(
            short(&all.after_pull(&chain(&["t", "m", "b"]), 1)),
            ["merge t/c1 t/c1 m/c1", "merge t/c4 t/c4"]
        );
    }

    #[test]
    fn a_commit_carries_bitmaps_down_and_makes_those_that_lack() {
        let all = nodes(&[("t", &["c1", "c4"]), ("b", &["c1", ACTIVE_WRITE])]);
        assert_eq!(
            short(&all.after_merge(&chain(&["t", "b"]), 1, "b", true)),
            [
                "merge b/c1 t/c1 b/libvirt-tmp-activewrite".to_owned(),
                "add b/c4".to_owned(),
                "merge b/c4 t/c4 b/libvirt-tmp-activewrite".to_owned(),
                format!("remove b/{ACTIVE_WRITE}"),
            ]
        );
    }

    #[test]
    fn a_bitmap_with_a_gap_or_an_open_end_is_none() {
        let all = nodes(&[("t", &["a", "b"]), ("m", &["b"]), ("l", &["a", "!b"])]);
        let chain = chain(&["t", "m", "l"]);
        assert!(!all.is_valid(&chain, "a") && !all.is_valid(&chain, "b"));
        assert!(all.is_valid(&chain[..2], "b") && all.is_valid(&chain[..2], "a"));
        assert!(all.after_pull(&chain, 2).is_empty());
    }
}
