//! What a disk looks like once a job on it has ended: pure functions of the disk and the job's entry.

use domxml::{
    devices::Disk,
    status::{BlockJob, BlockJobKind},
};
use qemu_plan::block::{Chain, Layer};

use crate::ops::graph::lookup;

/// libvirt's flags of a pull or rebase, and of a commit, for relative names.
const REBASE_RELATIVE: u32 = 0x10;
const COMMIT_RELATIVE: u32 = 0x8;
/// libvirt's flag of a commit whose files go.
const COMMIT_DELETE: u32 = 0x2;
/// libvirt's flags of a copy.
pub(super) const COPY_SHALLOW: u32 = 0x1;
pub(super) const COPY_REUSE: u32 = 0x2;

/// What a job that has ended leaves.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct After {
    /// The images that the disk has.
    pub(super) chain: Chain,
    /// Images that nothing refers to any more.
    pub(super) gone: Vec<Layer>,
    /// The files of those that went go, too.
    pub(super) deletes: bool,
}

/// The flags of the call that began a job.
pub(super) fn flags(job: &BlockJob) -> u32 {
    let text = job.jobflags.as_deref().unwrap_or("0x0");
    u32::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or(0)
}

/// The disk after the job has done what it was to do. A copy or a commit of the top image was swapped in.
pub(super) fn done(job: &BlockJob, disk: &Disk) -> After {
    let mut chain = Chain::of(disk);
    let at = |node: &Option<String>| node.as_deref().and_then(|node| chain.with_node(node));
    let (base, top) = (at(&job.base), at(&job.top));
    let flags = flags(job);
    match job.kind.known() {
        Some(BlockJobKind::Pull) => {
            let end = base.unwrap_or(chain.layers.len());
            let name = lookup::relative_name(&chain, 0, end).ok();
            let gone = chain.cut(1, end);
            rename(&mut chain, 1, name.filter(|_| flags & REBASE_RELATIVE != 0));
            After {
                chain,
                gone,
                deletes: false,
            }
        }
        Some(BlockJobKind::Commit) => {
            let (Some(base), Some(top)) = (base, top) else {
                return After {
                    chain,
                    ..After::default()
                };
            };
            let name = lookup::relative_name(&chain, top.saturating_sub(1), base).ok();
            let gone = chain.cut(top, base);
            rename(&mut chain, top, name.filter(|_| flags & COMMIT_RELATIVE != 0));
            After {
                chain,
                gone,
                deletes: flags & COMMIT_DELETE != 0,
            }
        }
        Some(BlockJobKind::ActiveCommit) => {
            let gone = chain.cut(0, base.unwrap_or(0));
            if let Some(top) = chain.layers.first_mut() {
                top.detected = false;
                top.set_relative(None);
            }
            After {
                chain,
                gone,
                deletes: flags & COMMIT_DELETE != 0,
            }
        }
        Some(BlockJobKind::Copy) => {
            let new = disk.mirror.as_ref().map(Chain::of_mirror).unwrap_or_default();
            if new.layers.is_empty() {
                return After {
                    chain,
                    ..After::default()
                };
            }
            let gone = left_by(&chain, &new);
            After {
                chain: new,
                gone,
                deletes: false,
            }
        }
        _ => After {
            chain,
            ..After::default()
        },
    }
}

/// The disk after the job was given up.
pub(super) fn undone(job: &BlockJob, disk: &Disk) -> After {
    let chain = Chain::of(disk);
    let gone = match (job.kind.known(), &disk.mirror) {
        (Some(BlockJobKind::Copy), Some(mirror)) => left_by(&Chain::of_mirror(mirror), &chain),
        _ => Vec::new(),
    };
    After {
        chain,
        gone,
        deletes: false,
    }
}

/// The images of a chain whose nodes another chain does not have.
fn left_by(old: &Chain, new: &Chain) -> Vec<Layer> {
    let kept = new.top_nodes();
    let layers = old
        .layers
        .iter()
        .filter(|layer| layer.node().is_none_or(|node| !kept.iter().any(|k| k == node)));
    layers.cloned().collect()
}

fn rename(chain: &mut Chain, at: usize, name: Option<String>) {
    if let Some(layer) = chain.layers.get_mut(at) {
        layer.set_relative(name);
    }
}

impl After {
    /// Writes it into the disk of the run.
    pub(super) fn put(&self, disk: &mut Disk) {
        self.chain.put(disk);
        disk.mirror = None;
    }

    /// Has the stored configuration's disk follow, if it is the same as `before`, the disk of the run.
    pub(super) fn put_stored(&self, job: &BlockJob, before: &Disk, stored: &mut Disk) {
        let (old, mut kept) = (Chain::of(before), Chain::of(stored));
        let same_top = match (old.layers.first(), kept.layers.first()) {
            (Some(one), Some(other)) => one.is_same_place(other),
            _ => false,
        };
        if !same_top {
            return;
        }
        let follows = kept.layers.len() > 1 && kept.is_same_places(&old);
        let new = self.chain.stored();
        match job.kind.known() {
            Some(BlockJobKind::Pull | BlockJobKind::Commit) if kept.layers.len() > 1 || kept.ended => {
                if !follows {
                    // It can't be said what is below now: the images say it themselves.
                    stored.backing = None;
                    return;
                }
                kept.layers
                    .retain(|layer| new.layers.iter().any(|new| new.is_same_place(layer)));
                kept.put(stored);
            }
            Some(BlockJobKind::ActiveCommit) => {
                let detached = Chain {
                    layers: new.layers.into_iter().take(1).collect(),
                    ..Chain::default()
                };
                let rest = kept.layers.split_off(1.min(kept.layers.len()));
                let below = rest
                    .iter()
                    .position(|l| detached.layers.first().is_some_and(|top| top.is_same_place(l)));
                let chain = match below.filter(|_| follows) {
                    Some(at) => Chain {
                        layers: detached
                            .layers
                            .into_iter()
                            .chain(rest.into_iter().skip(at + 1))
                            .collect(),
                        ..kept
                    },
                    None => detached,
                };
                chain.put(stored);
            }
            Some(BlockJobKind::Copy) => {
                let is_shallow = flags(job) & COPY_SHALLOW != 0 && old.layers.len() > 1;
                let layers = new.layers.into_iter().take(1);
                let chain = match is_shallow {
                    true if follows => Chain {
                        layers: layers.chain(kept.layers.drain(1..)).collect(),
                        ..kept
                    },
                    true => Chain {
                        layers: layers.collect(),
                        ..Chain::default()
                    },
                    false => Chain {
                        layers: layers.collect(),
                        ended: true,
                        end_is_given: true,
                    },
                };
                chain.put(stored);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use domxml::{devices::Mirror, status::Open};
    use qemu_plan::block;

    use super::*;

    fn disk(chain: &[(&str, u32)]) -> Disk {
        let below = chain[1..].iter().rev().fold("<backingStore/>".to_owned(), |inner, (path, n)| {
            format!(
                "<backingStore type='file' index='{n}'><format type='qcow2'/><source file='{path}'/>{inner}</backingStore>"
            )
        });
        let (top, n) = chain[0];
        let text = format!(
            "<domain type='qemu' id='1'><name>a</name><os><type>hvm</type></os><devices><disk type='file' device='disk'>
            <driver name='qemu' type='qcow2'/><source file='{top}' index='{n}'/>{below}
            <target dev='vda' bus='virtio'/><alias name='virtio-disk0'/></disk></devices></domain>"
        );
        let mut document = domxml::Domain::parse(&text, domxml::ParseFlags::NONE).unwrap();
        let mut disk = document.devices.disks.remove(0);
        block::name_disk(&mut disk).unwrap();
        disk
    }

    fn job(kind: BlockJobKind, base: Option<u32>, top: Option<u32>, flags: u32) -> BlockJob {
        let node = |n: u32| format!("libvirt-{n}-storage");
        BlockJob {
            kind: Open::Known(kind),
            base: base.map(node),
            top: top.map(node),
            jobflags: Some(format!("{flags:#x}")),
            ..BlockJob::default()
        }
    }

    fn paths(layers: &[Layer]) -> Vec<String> {
        layers.iter().map(|layer| layer.path().unwrap()).collect()
    }

    const CHAIN: [(&str, u32); 4] = [("/t", 2), ("/m", 3), ("/l", 4), ("/b", 5)];

    #[test]
    fn each_kind_cuts_what_it_merged() {
        use BlockJobKind as K;
        // The kind, base and top, what is left, what goes.
        type Row = (
            K,
            Option<u32>,
            Option<u32>,
            &'static [&'static str],
            &'static [&'static str],
        );
        let table: &[Row] = &[
            (K::Pull, None, None, &["/t"], &["/m", "/l", "/b"]),
            (K::Pull, Some(5), None, &["/t", "/b"], &["/m", "/l"]),
            (K::Pull, Some(3), None, &["/t", "/m", "/l", "/b"], &[]),
            (K::Commit, Some(4), Some(3), &["/t", "/l", "/b"], &["/m"]),
            (K::Commit, Some(5), Some(3), &["/t", "/b"], &["/m", "/l"]),
            (K::ActiveCommit, Some(5), Some(2), &["/b"], &["/t", "/m", "/l"]),
            (K::ActiveCommit, Some(3), Some(2), &["/m", "/l", "/b"], &["/t"]),
        ];
        let disk = disk(&CHAIN);
        for (kind, base, top, left, gone) in table {
            let after = done(&job(*kind, *base, *top, 0), &disk);
            assert_eq!(paths(&after.chain.layers), *left, "{kind:?} {base:?}");
            assert_eq!(paths(&after.gone), *gone, "{kind:?} {base:?}");
            assert!(after.chain.ended);
        }
    }

    #[test]
    fn a_copy_takes_the_place_of_what_it_copied() {
        let mut disk = disk(&CHAIN);
        let copy = self::disk(&[("/c", 9)]);
        disk.mirror = Some(Chain::of(&copy).as_mirror("copy"));
        let job = job(BlockJobKind::Copy, None, None, 0);
        let after = done(&job, &disk);
        assert_eq!(paths(&after.chain.layers), ["/c"]);
        assert_eq!(paths(&after.gone), ["/t", "/m", "/l", "/b"]);
        assert_eq!(paths(&undone(&job, &disk).gone), ["/c"]);
        let mut shallow = Chain::of(&disk);
        shallow.layers[0] = Chain::of(&copy).layers[0].clone();
        disk.mirror = Some(Mirror {
            ..shallow.as_mirror("copy")
        });
        let after = done(&job, &disk);
        assert_eq!(paths(&after.gone), ["/t"]);
        assert_eq!(paths(&undone(&job, &disk).gone), ["/c"]);
        after.put(&mut disk);
        assert!(disk.mirror.is_none() && disk.source.as_ref().unwrap().index == Some(9));
    }

    #[test]
    fn the_stored_disk_follows_if_it_is_the_same() {
        use BlockJobKind as K;
        let live = disk(&CHAIN);
        let plain = |top: &str| {
            let mut plain = disk(&[(top, 1)]);
            plain.backing = None;
            plain.source.as_mut().unwrap().index = None;
            plain.source.as_mut().unwrap().private_data = None;
            plain
        };
        let stored = |kind, base, stored: &Disk| {
            let job = job(kind, base, Some(2), 0);
            let mut stored = stored.clone();
            done(&job, &live).put_stored(&job, &live, &mut stored);
            (paths(&Chain::of(&stored).layers), stored.backing.is_some())
        };
        assert_eq!(stored(K::Pull, None, &plain("/t")), (vec!["/t".into()], false));
        assert_eq!(
            stored(K::ActiveCommit, Some(5), &plain("/t")),
            (vec!["/b".into()], false)
        );
        assert_eq!(
            stored(K::ActiveCommit, Some(5), &plain("/x")),
            (vec!["/x".into()], false)
        );
        // One that spells its chain out follows image by image, or forgets it where it is another one.
        assert_eq!(
            stored(K::Pull, Some(5), &live),
            (vec!["/t".into(), "/b".into()], true)
        );
        assert_eq!(
            stored(K::Pull, None, &disk(&[("/t", 1), ("/z", 2)])),
            (vec!["/t".into()], false)
        );
        assert_eq!(
            stored(K::ActiveCommit, Some(4), &live),
            (vec!["/l".into(), "/b".into()], true)
        );
    }
}
