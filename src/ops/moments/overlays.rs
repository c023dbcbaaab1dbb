//! What the removal of an external snapshot does to images, and to what is recorded of the others. Pure.
//!
//! The snapshot is what an image held when another was put on top of it: the *overlay*. To remove it the overlay is merged
//! into the image below, and leaves every chain that had it. Of a snapshot that nothing follows from, and that the guest
//! has left, the image itself goes. No image goes that anybody else has in a chain.

use std::{collections::BTreeSet, path::PathBuf};

use domxml::{
    Domain,
    devices::{Disk, SnapshotMode},
    moment::{Snapshot, SnapshotDisk},
};
use qemu_plan::block::{Chain, Layer};

use super::external::{layer, parts_of};
use crate::error::{Code, Error, Result};

/// An overlay that goes with its snapshot.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Overlay {
    /// The disk's target.
    pub(crate) target: String,
    /// Where it is in the guest's chain; none if it was merged already.
    pub(crate) at: Option<usize>,
    /// The image.
    image: Layer,
    /// The one below, which takes its place.
    below: Layer,
}

/// How a snapshot is seen by the one that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The guest goes on from it, or from one after it.
    InUse,
    /// Nothing follows from it.
    Left,
}

fn failed(text: impl Into<String>) -> Error {
    Error::new(Code::OperationFailed, text.into())
}

fn disk_of<'a>(document: Option<&'a Domain>, target: &str) -> Option<&'a Disk> {
    let mut disks = document?.devices.disks.iter();
    disks.find(|disk| disk.target.dev == target)
}

/// The overlays that are to be merged. `guest` is the guest's document with whole chains; `is_there` tells which files are.
///
/// # Errors
/// The snapshot or the guest are not as they were when it was made; in libvirt's order and words.
pub(crate) fn merged(
    snapshot: &Snapshot,
    guest: &Domain,
    standing: Standing,
    is_there: &dyn Fn(&str) -> bool,
) -> Result<Vec<Overlay>> {
    let name = &snapshot.moment.name;
    let mut overlays = Vec::new();
    for part in parts_of(snapshot) {
        let target = &part.name;
        if part.deleting {
            return Err(Error::invalid(format!(
                "snapshot disk '{target}' was target of not completed snapshot delete"
            )));
        }
        let then = disk_of(snapshot.moment.domain.as_deref(), target)
            .ok_or_else(|| failed(format!("failed to find disk '{target}' in snapshot VM XML")))?;
        if standing == Standing::Left {
            continue;
        }
        let now = disk_of(Some(guest), target)
            .ok_or_else(|| failed(format!("failed to find disk '{target}' in VM XML")))?;
        let (wanted, chain) = (layer(part), Chain::of(now));
        let base = Chain::of(then).layers.into_iter().next();
        let base = base.ok_or_else(|| {
            failed(format!(
                "disk '{target}' has no image in the document of snapshot '{name}'"
            ))
        })?;
        let is = |layer: &Layer, other: &Layer| layer.is_same_place(other);
        let Some(at) = chain.layers.iter().position(|layer| is(layer, &wanted)) else {
            let is_gone = wanted.path().is_some_and(|path| !is_there(&path));
            if is_gone && chain.layers.iter().any(|layer| is(layer, &base)) {
                overlays.push(Overlay {
                    target: target.clone(),
                    at: None,
                    image: wanted,
                    below: base,
                });
                continue;
            }
            return Err(Error::argument(
                "could not find base disk source in disk source chain",
            ));
        };
        let Some(below) = chain.layers.get(at + 1) else {
            return Err(failed("failed to find parent disk source in backing chain"));
        };
        if !is(below, &base) {
            return Err(failed(
                "snapshot VM disk source and parent disk source are not the same",
            ));
        }
        overlays.push(Overlay {
            target: target.clone(),
            at: Some(at),
            image: chain.layers[at].clone(),
            below: below.clone(),
        });
    }
    Ok(overlays)
}

/// Takes overlays that were merged out of the chains of another snapshot's documents. Whether it had any.
pub(crate) fn take_out(snapshot: &mut Snapshot, overlays: &[Overlay]) -> bool {
    let mut changed = false;
    let documents = [&mut snapshot.moment.domain, &mut snapshot.inactive];
    for document in documents.into_iter().flatten() {
        for disk in &mut document.devices.disks {
            for overlay in overlays {
                if overlay.target == disk.target.dev {
                    changed |= take_out_of(disk, overlay);
                }
            }
        }
    }
    changed
}

fn take_out_of(disk: &mut Disk, overlay: &Overlay) -> bool {
    let mut chain = Chain::of(disk);
    let found = chain
        .layers
        .iter()
        .position(|layer| layer.is_same_place(&overlay.image));
    let Some(at) = found else { return false };
    if at + 1 < chain.layers.len() {
        chain.cut(at, at + 1);
    } else {
        // The rest of the chain is not spelled out.
        let own = chain.layers[at].source.clone();
        let mut below = Chain {
            layers: vec![overlay.below.clone()],
            ..Chain::default()
        }
        .stored()
        .layers
        .remove(0);
        below.detected = false;
        below.source.seclabels = own.seclabels;
        chain.layers[at] = below;
    }
    chain.put(disk);
    true
}

/// An image that names an overlay as the one below, and is to name another instead.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rebase {
    /// The image.
    pub(crate) image: Layer,
    /// What is below it from then on.
    pub(crate) below: Layer,
}

/// Images beside the guest's own that are on top of overlays that go. `documents` have whole chains.
pub(crate) fn rebased(overlays: &[Overlay], guest: &Domain, documents: &[&Domain]) -> Vec<Rebase> {
    let mut found: Vec<Rebase> = Vec::new();
    for overlay in overlays {
        let own = disk_of(Some(guest), &overlay.target).map(Chain::of);
        let own = own.map(|chain| chain.layers).unwrap_or_default();
        for document in documents {
            let Some(disk) = disk_of(Some(document), &overlay.target) else {
                continue;
            };
            for pair in Chain::of(disk).layers.windows(2) {
                let [image, below] = pair else { continue };
                let is_known = own.iter().any(|layer| layer.is_same_place(image))
                    || found.iter().any(|known| known.image.is_same_place(image));
                if below.is_same_place(&overlay.image) && !is_known {
                    found.push(Rebase {
                        image: image.clone(),
                        below: overlay.below.clone(),
                    });
                }
            }
        }
    }
    found
}

/// The files of all images in documents.
pub(crate) fn files_of<'a>(documents: impl IntoIterator<Item = &'a Domain>) -> BTreeSet<PathBuf> {
    let disks = documents.into_iter().flat_map(|document| &document.devices.disks);
    let layers = disks.flat_map(|disk| Chain::of(disk).layers);
    layers
        .filter_map(|layer| layer.path().map(PathBuf::from))
        .collect()
}

/// The images that a snapshot that was left has for itself: what its disks held, if the one before it has them from then.
pub(crate) fn left_images(snapshot: &Snapshot, parent_is_external: bool) -> Vec<PathBuf> {
    if !parent_is_external {
        return Vec::new();
    }
    let document = snapshot.moment.domain.as_deref();
    parts_of(snapshot)
        .filter_map(|part| {
            let chain = Chain::of(disk_of(document, &part.name)?);
            chain.layers.first()?.path().map(PathBuf::from)
        })
        .collect()
}

/// Notes in the snapshot before it that its overlays are being merged into, or that this is over. Whether that is news.
pub(crate) fn mark(parent: &mut Snapshot, overlays: &[Overlay], deleting: bool) -> bool {
    let mut news = false;
    for part in &mut parent.disks {
        let is_meant = overlays.iter().any(|overlay| overlay.target == part.name);
        if is_meant && part.mode == Some(SnapshotMode::External) && part.deleting != deleting {
            part.deleting = deleting;
            news = true;
        }
    }
    news
}

/// What follows from a snapshot that has just lost one of those after it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct After<'a> {
    /// The one that is left after it, if there is one alone.
    pub(crate) only_child: Option<&'a Snapshot>,
    /// Whether there is any.
    pub(crate) has_children: bool,
    /// The guest's document, if the guest goes on from this snapshot now.
    pub(crate) guest: Option<&'a Domain>,
}

/// Has a snapshot that lost one after it name the overlays that are there. Whether that is news.
pub(crate) fn follow(parent: &mut Snapshot, after: After<'_>, is_there: &dyn Fn(&str) -> bool) -> bool {
    if !after.has_children && !parent.revert_disks.is_empty() {
        let in_use = std::mem::take(&mut parent.revert_disks);
        for part in in_use {
            put_part(&mut parent.disks, part);
        }
        return true;
    }
    let mut news = false;
    for at in 0..parent.disks.len() {
        let part = &parent.disks[at];
        if part.mode != Some(SnapshotMode::External) {
            continue;
        }
        let own = layer(part);
        let is_lost = own.path().is_none_or(|path| !is_there(&path));
        let follower = after
            .guest
            .or(after.only_child.and_then(|child| child.moment.domain.as_deref()));
        let image =
            disk_of(follower, &part.name).and_then(|disk| Chain::of(disk).stored().layers.into_iter().next());
        let Some(image) = image.filter(|image| !image.is_same_place(&own)) else {
            continue;
        };
        let new = SnapshotDisk {
            kind: image.kind,
            format: image.format,
            source: Some(image.source),
            deleting: false,
            ..part.clone()
        };
        if is_lost {
            parent.disks[at] = new;
        } else if after.guest.is_some() && after.has_children {
            put_part(&mut parent.revert_disks, new);
        } else {
            continue;
        }
        news = true;
    }
    news
}

/// Puts a part in the place of the one of its disk, or adds it.
pub(crate) fn put_part(parts: &mut Vec<SnapshotDisk>, part: SnapshotDisk) {
    match parts.iter_mut().find(|known| known.name == part.name) {
        Some(known) => *known = part,
        None => parts.push(part),
    }
}

/// The overlays that the guest leaves when it goes to another snapshot: those that were made for its present state alone.
pub(crate) fn in_use_of(current: &Snapshot) -> Vec<PathBuf> {
    let parts: Vec<&SnapshotDisk> = match current.revert_disks.is_empty() {
        true => parts_of(current).collect(),
        false => current.revert_disks.iter().collect(),
    };
    let paths = parts.into_iter().filter_map(|part| layer(part).path());
    paths.map(PathBuf::from).collect()
}

/// The files of overlays.
pub(crate) fn files_of_merged(overlays: &[Overlay]) -> Vec<PathBuf> {
    let paths = overlays.iter().filter_map(|overlay| overlay.image.path());
    paths.map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(chain: &[&str]) -> Domain {
        let (top, below) = chain.split_first().unwrap();
        let nested = below.iter().rev().fold(String::new(), |inner, path| {
            format!(
                "<backingStore type='file'><format type='qcow2'/><source file='{path}'/>{inner}</backingStore>"
            )
        });
        let text = format!(
            "<domain type='qemu'><name>a</name><devices><disk type='file' device='disk'>\
             <driver name='qemu' type='qcow2'/><source file='{top}'/>{nested}<target dev='vda' bus='virtio'/></disk>\
             </devices></domain>"
        );
        Domain::parse(&text, domxml::ParseFlags::INACTIVE).unwrap()
    }

    fn snapshot(name: &str, chain: &[&str], overlay: &str) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.moment.name = name.to_owned();
        snapshot.moment.domain = Some(Box::new(domain(chain)));
        snapshot.disks = vec![part(overlay)];
        snapshot
    }

    fn part(path: &str) -> SnapshotDisk {
        SnapshotDisk {
            name: "vda".to_owned(),
            mode: Some(SnapshotMode::External),
            format: Some(domxml::devices::StorageFormat::Qcow2),
            source: Some(domxml::devices::Source {
                file: Some(path.to_owned()),
                ..Default::default()
            }),
            ..SnapshotDisk::default()
        }
    }

    fn paths(document: &Domain) -> Vec<String> {
        let layers = Chain::of(&document.devices.disks[0]).layers;
        layers.iter().filter_map(Layer::path).collect()
    }

    fn found(snapshot: &Snapshot, guest: &[&str], there: bool) -> Result<Vec<Option<usize>>, String> {
        merged(snapshot, &domain(guest), Standing::InUse, &|_| there)
            .map(|all| all.iter().map(|overlay| overlay.at).collect())
            .map_err(|error| error.message.into_owned())
    }

    #[test]
    fn the_overlay_is_found_in_the_guests_chain() {
        let one = snapshot("one", &["/b"], "/o");
        assert_eq!(found(&one, &["/o", "/b"], true), Ok(vec![Some(0)]));
        assert_eq!(found(&one, &["/t", "/o", "/b"], true), Ok(vec![Some(1)]));
        // It was merged before, and its file is gone.
        assert_eq!(found(&one, &["/t", "/b"], false), Ok(vec![None]));
        for (guest, text) in [
            (
                &["/t", "/b"][..],
                "could not find base disk source in disk source chain",
            ),
            (&["/o"], "failed to find parent disk source in backing chain"),
            (
                &["/o", "/x"],
                "snapshot VM disk source and parent disk source are not the same",
            ),
        ] {
            assert_eq!(found(&one, guest, true), Err(text.to_owned()));
        }
        let mut marked = one.clone();
        marked.disks[0].deleting = true;
        let text = "snapshot disk 'vda' was target of not completed snapshot delete";
        assert_eq!(found(&marked, &["/o", "/b"], true), Err(text.to_owned()));
    }

    #[test]
    fn a_merged_overlay_leaves_every_chain() {
        let one = snapshot("one", &["/b"], "/o");
        let overlays = merged(&one, &domain(&["/t", "/o", "/b"]), Standing::InUse, &|_| true).unwrap();
        for (before, after) in [
            (&["/t", "/o", "/b"][..], &["/t", "/b"][..]),
            (&["/o"], &["/b"]),
            (&["/o", "/b"], &["/b"]),
            (&["/x", "/b"], &["/x", "/b"]),
        ] {
            let mut other = snapshot("other", before, "/y");
            assert_eq!(take_out(&mut other, &overlays), before != after);
            assert_eq!(paths(other.moment.domain.as_deref().unwrap()), after);
        }
        let beside = domain(&["/s", "/r", "/o", "/b"]);
        let guest = domain(&["/t", "/o", "/b"]);
        let rebases = rebased(&overlays, &guest, &[&beside, &guest, &beside]);
        let told: Vec<_> = rebases
            .iter()
            .map(|r| (r.image.path().unwrap(), r.below.path().unwrap()))
            .collect();
        assert_eq!(told, [("/r".to_owned(), "/b".to_owned())]);
    }

    #[test]
    fn who_lost_a_follower_names_the_overlays_that_are_there() {
        let there = |path: &str| path != "/gone";
        let mut parent = snapshot("p", &["/b"], "/gone");
        parent.revert_disks = vec![part("/in-use")];
        let after = After {
            only_child: None,
            has_children: false,
            guest: None,
        };
        assert!(follow(&mut parent, after, &there));
        assert_eq!(
            (parent.disks[0].path(), parent.revert_disks.len()),
            (Some("/in-use"), 0)
        );
        assert!(!follow(&mut parent, after, &there));
        // Another one follows, and the guest has an overlay of its own.
        let guest = domain(&["/new", "/b"]);
        let after = After {
            only_child: None,
            has_children: true,
            guest: Some(&guest),
        };
        assert!(follow(&mut parent, after, &there));
        assert_eq!(
            (parent.disks[0].path(), parent.revert_disks[0].path()),
            (Some("/in-use"), Some("/new"))
        );
        assert_eq!(in_use_of(&parent), [PathBuf::from("/new")]);
        let mut parent = snapshot("p", &["/b"], "/gone");
        let child = snapshot("c", &["/over", "/b"], "/x");
        let after = After {
            only_child: Some(&child),
            has_children: true,
            guest: None,
        };
        assert!(follow(&mut parent, after, &there));
        assert_eq!(parent.disks[0].path(), Some("/over"));
    }
}
