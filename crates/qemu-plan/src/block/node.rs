//! An image as QEMU's block layer opens it: a storage node (how the bytes are reached), at times a
//! slice of it, at times a format on top, and below that a data file and the backing chain. What
//! makes this hard is which layer carries which option: the topmost ("effective") node of an image
//! says what the guest may do, those below it open read-only or not as they need.

use domxml::devices::common::OnOff;
use domxml::devices::disk::Disk;
use serde_json::Value;

use crate::props::Props;

/// One image of a chain, with everything below it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Image {
    /// Stem of the node names: `libvirt-3`.
    pub stem: String,
    /// Driver and driver's own options of the storage node, before the node name.
    pub storage: Props,
    /// A part of the storage that holds the image.
    pub slice: Option<Slice>,
    /// The format on top; `None` when the storage itself is what the guest sees.
    pub format: Option<Format>,
    /// What may be done with the image.
    pub access: Access,
    /// Objects that must exist before the nodes (secrets, TLS credentials), in order.
    pub objects: Vec<Props>,
    /// What the file is opened by, if not by its path.
    pub descriptors: Option<Descriptors>,
    /// An external data file of a qcow2 image.
    pub data_file: Option<Box<Image>>,
    /// What is below.
    pub backing: Backing,
}

/// Descriptors that a client handed over for one image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Descriptors {
    /// Number of QEMU's set of them.
    pub set: u32,
    /// The descriptors: the caller's numbers.
    pub numbers: Vec<i32>,
    /// Whether there is but one: a file that is opened by it can't be opened another way later.
    pub single: bool,
}

/// What an image has below it.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Backing {
    /// Not said: QEMU follows what the image names.
    #[default]
    Unknown,
    /// Said to be nothing.
    End,
    /// Another image.
    Image(Box<Image>),
}

/// A part of a storage, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// First byte.
    pub offset: u64,
    /// Length.
    pub size: u64,
}

/// A format node's own options.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Format {
    /// Driver and options, in order, after the common ones and before `file`.
    pub options: Props,
}

/// Options that every node understands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// The guest must not write.
    pub read_only: bool,
    /// `discard=` as in the document.
    pub discard: Option<String>,
    /// `detect-zeroes` as QEMU takes it.
    pub detect_zeroes: Option<String>,
    /// Cache mode, if one is given.
    pub cache: Option<Cache>,
}

/// What a cache mode means for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cache {
    /// Bypass the host's page cache.
    pub direct: bool,
    /// Ignore the guest's flushes.
    pub no_flush: bool,
    /// The front end shows a write-back cache.
    pub writeback: bool,
}

impl Cache {
    /// Reads libvirt's name of a cache mode; `default` and unknown names are `None`.
    pub fn from_mode(mode: &str) -> Option<Self> {
        const MODES: [(&str, bool, bool, bool); 5] = [
            ("none", true, false, true),
            ("writethrough", false, false, false),
            ("writeback", false, false, true),
            ("directsync", true, false, false),
            ("unsafe", false, true, true),
        ];
        MODES
            .iter()
            .find(|(name, ..)| *name == mode)
            .map(|&(_, direct, no_flush, writeback)| Self {
                direct,
                no_flush,
                writeback,
            })
    }

    fn props(self) -> Props {
        Props::new()
            .with("direct", self.direct)
            .with("no-flush", self.no_flush)
    }
}

impl Image {
    /// Name of the storage node.
    pub fn storage_node(&self) -> String {
        format!("{}-storage", self.stem)
    }

    /// Name of the slice node.
    pub fn slice_node(&self) -> String {
        format!("{}-slice-sto", self.stem)
    }

    /// Name of the format node.
    pub fn format_node(&self) -> String {
        format!("{}-format", self.stem)
    }

    /// Name of the topmost node: what a device or another node refers to.
    pub fn node(&self) -> String {
        match (&self.format, &self.slice) {
            (Some(_), _) => self.format_node(),
            (None, Some(_)) => self.slice_node(),
            (None, None) => self.storage_node(),
        }
    }

    /// Gives the image a format node even if its storage would do.
    pub fn require_format(&mut self, driver: &str) {
        if self.format.is_none() {
            self.format = Some(Format {
                options: Props::driver(driver),
            });
        }
    }

    /// All images of the chain in the order they must be opened: the bottom first, a data file
    /// before its image.
    pub fn chain(&self) -> Vec<&Image> {
        let mut images = Vec::new();
        let mut next = Some(self);
        while let Some(image) = next {
            images.push(image);
            images.extend(image.data_file.as_deref());
            next = match &image.backing {
                Backing::Image(below) => Some(below),
                Backing::Unknown | Backing::End => None,
            };
        }
        images.reverse();
        images
    }

    /// The nodes of this image alone, bottom first: arguments of `-blockdev` or `blockdev-add`.
    pub fn nodes(&self) -> Vec<Props> {
        let mut nodes = vec![self.storage_props()];
        nodes.extend(self.slice.map(|slice| self.slice_props(slice)));
        nodes.extend(self.format.as_ref().map(|format| self.format_props(format)));
        nodes
    }

    /// Options that open the storage, or its part that holds the image, as one value for a program beside the guest's QEMU.
    pub fn place(&self) -> Value {
        let storage = self.storage.clone().into_value();
        let part = self.slice.map(|slice| {
            Props::driver("raw")
                .with("offset", slice.offset)
                .with("size", slice.size)
                .with("file", storage.clone())
        });
        part.map_or(storage, Props::into_value)
    }

    /// The same for the image in it; what is below is not said.
    pub fn alone(&self) -> Value {
        match &self.format {
            Some(format) => format.options.clone().with("file", self.place()).into_value(),
            None => self.place(),
        }
    }

    fn storage_props(&self) -> Props {
        let mut props = self.storage.clone();
        props.set("node-name", self.storage_node());
        let effective = self.slice.is_none() && self.format.is_none();
        self.put_storage_access(&mut props, effective);
        props
    }

    fn slice_props(&self, slice: Slice) -> Props {
        let mut props = Props::driver("raw");
        props
            .set("file", self.storage_node())
            .set("offset", slice.offset)
            .set("size", slice.size)
            .set("node-name", self.slice_node());
        self.put_storage_access(&mut props, self.format.is_none());
        props
    }

    fn format_props(&self, format: &Format) -> Props {
        let below = if self.slice.is_some() {
            self.slice_node()
        } else {
            self.storage_node()
        };
        let mut props = Props::new();
        props.set("node-name", self.format_node());
        self.put_effective_access(&mut props);
        self.put_cache(&mut props);
        props.extend(format.options.clone());
        props.opt("data-file", self.data_file.as_ref().map(|data| data.node()));
        props.set("file", below);
        match &self.backing {
            Backing::Unknown => {}
            Backing::End => {
                props.set("backing", serde_json::Value::Null);
            }
            Backing::Image(image) => {
                props.set("backing", image.node());
            }
        }
        props
    }

    fn put_storage_access(&self, props: &mut Props, effective: bool) {
        let single = self.descriptors.as_ref().is_some_and(|given| given.single);
        if effective {
            self.put_effective_access(props);
        } else if single {
            props
                .set("read-only", self.access.read_only)
                .set("discard", "unmap");
        } else {
            props.set("auto-read-only", true).set("discard", "unmap");
        }
        self.put_cache(props);
    }

    fn put_effective_access(&self, props: &mut Props) {
        props
            .set("read-only", self.access.read_only)
            .opt("discard", self.access.discard.clone())
            .opt("detect-zeroes", self.access.detect_zeroes.clone());
    }

    fn put_cache(&self, props: &mut Props) {
        props.opt("cache", self.access.cache.map(Cache::props));
    }
}

/// Name of a disk's copy-on-read filter; `None` for a disk without one.
#[must_use]
pub fn copy_on_read_node(disk: &Disk) -> Option<String> {
    let wanted = disk.driver.as_ref().and_then(|driver| driver.copy_on_read) == Some(OnOff::On);
    wanted.then(|| format!("libvirt-CoR-{}", disk.target.dev))
}

/// The filter that copies what is read from below into the top image.
pub fn copy_on_read(node: &str, below: &str) -> Props {
    Props::driver("copy-on-read")
        .with("node-name", node)
        .with("file", below)
        .with("discard", "unmap")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(stem: &str) -> Image {
        Image {
            stem: stem.into(),
            storage: Props::driver("file"),
            ..Image::default()
        }
    }

    fn qcow2() -> Option<Format> {
        Some(Format {
            options: Props::driver("qcow2"),
        })
    }

    fn text(props: &[Props]) -> Vec<String> {
        props.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_raw_image_is_its_storage_node() {
        let raw = image("libvirt-1");
        assert_eq!(raw.node(), "libvirt-1-storage");
        assert_eq!(
            text(&raw.nodes()),
            [r#"{"driver":"file","node-name":"libvirt-1-storage","read-only":false}"#]
        );
    }

    #[test]
    fn a_chain_opens_from_the_bottom_with_data_files_first() {
        let base = Image {
            format: qcow2(),
            backing: Backing::End,
            ..image("libvirt-3")
        };
        let top = Image {
            format: qcow2(),
            data_file: Some(Box::new(image("libvirt-2"))),
            backing: Backing::Image(Box::new(base)),
            ..image("libvirt-1")
        };
        let order: Vec<_> = top.chain().iter().map(|image| image.stem.as_str()).collect();
        assert_eq!(order, ["libvirt-3", "libvirt-2", "libvirt-1"]);
        assert_eq!(
            text(&top.nodes())[1],
            r#"{"node-name":"libvirt-1-format","read-only":false,"driver":"qcow2","data-file":"libvirt-2-storage","file":"libvirt-1-storage","backing":"libvirt-3-format"}"#
        );
    }
}
