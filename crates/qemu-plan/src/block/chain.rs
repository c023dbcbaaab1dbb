//! The images of a disk as a list, from the one that the guest writes to down to the last.
//!
//! Documents nest the images below a disk's own and put the top one's format and number elsewhere than the others';
//! whoever cuts, joins or searches chains does it here on [`Layer`]s and puts the result back. Pure: node names come from
//! what the document keeps of them.

use domxml::devices::disk::Disk;
use domxml::devices::storage::{
    BackingStore, Format, MetadataCache, Mirror, Source, StorageFormat, StorageKind,
};
use domxml::devices::{NodeNames, SourcePrivate};

/// One image of a chain, with everything that the document has of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layer {
    /// Kind of its source.
    pub kind: StorageKind,
    /// Its format; none if nobody said.
    pub format: Option<StorageFormat>,
    /// Cache of its tables.
    pub cache: Option<MetadataCache>,
    /// Where it is. Its number stands in [`Layer::index`] alone.
    pub source: Source,
    /// Its number in the guest.
    pub index: Option<u32>,
    /// The image above named it, and no document did.
    pub detected: bool,
}

/// A disk's images, the top one first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chain {
    /// The images; none of a drive that is empty.
    pub layers: Vec<Layer>,
    /// It is known that nothing is below the last one; false where nobody has looked.
    pub ended: bool,
    /// What says so is part of the configuration.
    pub end_is_given: bool,
}

impl Layer {
    /// The names of its nodes in QEMU.
    #[must_use]
    pub fn nodes(&self) -> Option<&NodeNames> {
        self.source.private_data.as_ref()?.nodenames.as_ref()
    }

    /// Its topmost node: what a device, a job or the image above refers to.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        let names = self.nodes()?;
        let kinds = ["format", "slice-storage", "storage"];
        kinds.into_iter().find_map(|kind| names.of(kind))
    }

    /// Its lowest node, by which status files know it.
    #[must_use]
    pub fn storage_node(&self) -> Option<&str> {
        self.nodes()?.of("storage")
    }

    /// All its nodes from the topmost down: the order in which they can be taken away.
    #[must_use]
    pub fn nodes_down(&self) -> Vec<String> {
        let Some(names) = self.nodes() else {
            return Vec::new();
        };
        let kinds = ["format", "slice-storage", "storage"];
        let found = kinds.into_iter().filter_map(|kind| names.of(kind));
        found.map(str::to_owned).collect()
    }

    /// Path of the local file or device that it is.
    #[must_use]
    pub fn path(&self) -> Option<String> {
        let (kind, source) = self.source.located(self.kind);
        match kind {
            StorageKind::File => source.file.clone(),
            StorageKind::Block => source.dev.clone(),
            _ => None,
        }
    }

    /// How the image above names it, if not by an absolute path.
    #[must_use]
    pub fn relative(&self) -> Option<&str> {
        self.source.private_data.as_ref()?.rel_path.as_deref()
    }

    /// Whether both are the same image: the same place, whatever its number, nodes and format.
    #[must_use]
    pub fn is_same_place(&self, other: &Self) -> bool {
        self.kind == other.kind && place(&self.source) == place(&other.source)
    }

    /// A disk that has this image alone, for what is done to a disk's images one by one.
    #[must_use]
    pub fn as_disk(&self, disk: &Disk) -> Disk {
        let mut alone = disk.clone();
        alone.mirror = None;
        let chain = Chain {
            layers: vec![self.clone()],
            ended: true,
            end_is_given: false,
        };
        chain.put(&mut alone);
        alone
    }
}

/// A source without what does not say where it is.
fn place(source: &Source) -> Source {
    Source {
        index: None,
        startup_policy: None,
        seclabels: Vec::new(),
        private_data: None,
        ..source.clone()
    }
}

impl Chain {
    /// The images of a disk.
    #[must_use]
    pub fn of(disk: &Disk) -> Self {
        let mut chain = Self::default();
        let Some(source) = disk.source.as_ref().filter(|_| !super::is_empty(disk)) else {
            return chain;
        };
        let driver = disk.driver.as_ref();
        let mut top = source.clone();
        if top.auth.is_none() {
            top.auth.clone_from(&disk.auth);
        }
        if top.encryption.is_none() {
            top.encryption.clone_from(&disk.encryption);
        }
        chain.layers.push(Layer {
            kind: disk.kind,
            format: driver.and_then(|driver| driver.kind),
            cache: driver.and_then(|driver| driver.metadata_cache.clone()),
            index: top.index.take(),
            source: top,
            detected: false,
        });
        chain.descend(disk.backing.as_deref());
        chain
    }

    /// The images of a mirror.
    #[must_use]
    pub fn of_mirror(mirror: &Mirror) -> Self {
        let mut chain = Self::default();
        if let Some(source) = &mirror.source {
            let mut source = source.clone();
            chain.layers.push(Layer {
                kind: mirror.kind.unwrap_or_default(),
                format: mirror.format.as_ref().and_then(|format| format.kind),
                cache: mirror.format.as_ref().and_then(|f| f.metadata_cache.clone()),
                index: source.index.take(),
                source,
                detected: false,
            });
        }
        chain.descend(mirror.backing.as_deref());
        chain
    }

    fn descend(&mut self, mut next: Option<&BackingStore>) {
        while let Some(store) = next {
            let (Some(kind), Some(source)) = (store.kind, store.source.as_ref()) else {
                (self.ended, self.end_is_given) = (true, !store.detected);
                return;
            };
            let mut source = source.clone();
            let index = source.index.take();
            self.layers.push(Layer {
                kind,
                format: store.format.as_ref().and_then(|format| format.kind),
                cache: store.format.as_ref().and_then(|f| f.metadata_cache.clone()),
                index: store.index.or(index),
                source,
                detected: store.detected,
            });
            next = store.backing.as_deref();
        }
    }

    /// Gives a disk these images.
    pub fn put(&self, disk: &mut Disk) {
        let Some((top, below)) = self.layers.split_first() else {
            disk.source = None;
            disk.backing = None;
            return;
        };
        let mut source = top.source.clone();
        source.index = top.index;
        if disk.auth.take().is_some() {
            disk.auth = source.auth.take();
        }
        if disk.encryption.take().is_some() {
            disk.encryption = source.encryption.take();
        }
        disk.kind = top.kind;
        disk.source = Some(source);
        if top.format.is_some() || top.cache.is_some() || disk.driver.is_some() {
            let driver = disk.driver.get_or_insert_default();
            driver.kind = top.format;
            driver.metadata_cache.clone_from(&top.cache);
        }
        disk.backing = self.nested(below);
    }

    /// As a mirror of a job has them.
    #[must_use]
    pub fn as_mirror(&self, job: &str) -> Mirror {
        let Some((top, below)) = self.layers.split_first() else {
            return Mirror::default();
        };
        let mut source = top.source.clone();
        source.index = top.index;
        let is_plain = job == "copy" && top.kind == StorageKind::File;
        Mirror {
            kind: Some(top.kind),
            file: source.file.clone().filter(|_| is_plain),
            file_format: top.format.filter(|_| is_plain),
            job: Some(job.to_owned()),
            ready: None,
            format: top.format_element(),
            source: Some(source),
            backing: self.nested(below),
        }
    }

    fn nested(&self, below: &[Layer]) -> Option<Box<BackingStore>> {
        let end = self.ended.then(|| {
            Box::new(BackingStore {
                detected: !self.end_is_given,
                ..BackingStore::default()
            })
        });
        below.iter().rev().fold(end, |inner, layer| {
            Some(Box::new(BackingStore {
                kind: Some(layer.kind),
                index: layer.index,
                format: layer.format_element(),
                source: Some(layer.source.clone()),
                backing: inner,
                detected: layer.detected,
            }))
        })
    }

    /// Where the image with this node is; any of its nodes will do.
    #[must_use]
    pub fn with_node(&self, node: &str) -> Option<usize> {
        let has = |layer: &Layer| {
            layer
                .nodes()
                .is_some_and(|all| all.names.iter().any(|n| n.name == node))
        };
        self.layers.iter().position(has)
    }

    /// Where the image with this number is.
    #[must_use]
    pub fn with_index(&self, index: u32) -> Option<usize> {
        self.layers.iter().position(|layer| layer.index == Some(index))
    }

    /// The topmost nodes of all images, the top one first.
    #[must_use]
    pub fn top_nodes(&self) -> Vec<String> {
        let nodes = self.layers.iter().filter_map(Layer::node);
        nodes.map(str::to_owned).collect()
    }

    /// Takes the images from `first` up to and without `end` out, and answers them.
    pub fn cut(&mut self, first: usize, end: usize) -> Vec<Layer> {
        let end = end.min(self.layers.len());
        if first >= end {
            return Vec::new();
        }
        self.layers.drain(first..end).collect()
    }

    /// Whether both consist of the same images in the same order.
    #[must_use]
    pub fn is_same_places(&self, other: &Self) -> bool {
        self.layers.len() == other.layers.len()
            && self
                .layers
                .iter()
                .zip(&other.layers)
                .all(|(one, other)| one.is_same_place(other))
    }

    /// The same chain for the stored configuration: without numbers, nodes and what a daemon keeps.
    #[must_use]
    pub fn stored(&self) -> Self {
        let mut chain = self.clone();
        for layer in &mut chain.layers {
            layer.index = None;
            layer.source.index = None;
            layer.source.private_data = None;
        }
        chain
    }
}

impl Layer {
    fn format_element(&self) -> Option<Format> {
        (self.format.is_some() || self.cache.is_some()).then(|| Format {
            kind: self.format,
            metadata_cache: self.cache.clone(),
        })
    }

    /// The name that the image above has of it, when it is not an absolute path.
    pub fn set_relative(&mut self, name: Option<String>) {
        if name.is_none() && self.source.private_data.is_none() {
            return;
        }
        let private = self.source.private_data.get_or_insert_default();
        private.rel_path = name;
        if *private == SourcePrivate::default() {
            self.source.private_data = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use domxml::{Domain, ParseFlags};

    use super::*;
    use crate::block::name_disk;

    const DISK: &str = "<driver name='qemu' type='qcow2' cache='none'/><source file='/top' index='1'/>
        <backingStore type='file' index='2'><format type='qcow2'/><source file='/mid'/>
        <backingStore type='block' index='4'><format type='raw'/><source dev='/dev/x'/><backingStore/>
        </backingStore></backingStore>";

    fn disk(inner: &str) -> Disk {
        let text = format!(
            "<domain type='qemu' id='1'><name>a</name><devices><disk type='file' device='disk'>{inner}
            <target dev='vda' bus='virtio'/><alias name='virtio-disk0'/></disk></devices></domain>"
        );
        let mut domain = Domain::parse(&text, ParseFlags::NONE).unwrap();
        domain.devices.disks.remove(0)
    }

    #[test]
    fn a_chain_that_is_taken_apart_and_put_back_is_the_same() {
        for inner in [
            DISK,
            "<source file='/top' index='1'/>",
            "<source file='/top'/><backingStore/>",
            "",
        ] {
            let mut before = disk(inner);
            name_disk(&mut before).unwrap();
            let mut after = before.clone();
            after.source = None;
            after.backing = None;
            Chain::of(&before).put(&mut after);
            assert_eq!(before, after, "{inner}");
        }
    }

    #[test]
    fn images_are_found_by_number_and_node() {
        let mut disk = disk(DISK);
        name_disk(&mut disk).unwrap();
        let chain = Chain::of(&disk);
        assert_eq!(chain.with_index(4), Some(2));
        assert_eq!(chain.with_node("libvirt-2-storage"), Some(1));
        assert_eq!(chain.with_node("libvirt-4-storage"), Some(2));
        assert_eq!(chain.with_node("libvirt-3-format"), None);
        assert_eq!(
            chain.top_nodes(),
            ["libvirt-1-format", "libvirt-2-format", "libvirt-4-storage"]
        );
        assert_eq!(
            chain.layers[1].nodes_down(),
            ["libvirt-2-format", "libvirt-2-storage"]
        );
        assert!(chain.ended && chain.layers[2].path().as_deref() == Some("/dev/x"));
    }

    #[test]
    fn what_is_cut_out_leaves_the_rest_joined() {
        let mut disk = disk(DISK);
        let mut chain = Chain::of(&disk);
        let gone = chain.cut(1, 2);
        assert_eq!(gone[0].path().as_deref(), Some("/mid"));
        chain.put(&mut disk);
        assert_eq!(disk.backing.as_ref().unwrap().index, Some(4));
        // The top image goes: the one below takes its place with its own format and kind.
        chain.cut(0, 1);
        chain.put(&mut disk);
        assert_eq!(disk.kind, StorageKind::Block);
        assert_eq!(disk.driver.as_ref().unwrap().kind, Some(StorageFormat::Raw));
        assert_eq!(disk.source.as_ref().unwrap().index, Some(4));
    }

    #[test]
    fn a_mirror_of_a_copy_names_its_file_twice() {
        let chain = Chain::of(&disk(DISK));
        let copy = chain.as_mirror("copy");
        assert_eq!(copy.file.as_deref(), Some("/top"));
        assert_eq!(Chain::of_mirror(&copy), chain);
        assert_eq!(chain.as_mirror("active-commit").file, None);
    }
}
