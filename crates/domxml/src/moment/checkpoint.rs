//! `<domaincheckpoint>`: a point in time since which the blocks that a guest writes are recorded, by dirty bitmaps in its
//! images.
//!
//! As with snapshots a client's document of a new one says little, and one that tells of a checkpoint that is there
//! already has all of it.

use xmlform::codec::Plain;
use xmlform::{Document, Empty, Node, ParseFlags, Writer, field};

use super::{Moment, Summary, text};
use crate::devices::common::words;
use crate::qemu::NAMESPACE;
use crate::{Area, Error, Kind, reading};

words! {
    /// Whether the writes to a disk are recorded.
    CheckpointMode { No "no", Bitmap "bitmap" }
}

/// A disk in a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointDisk {
    /// The disk's target.
    pub name: String,
    /// Whether its writes are recorded.
    pub mode: Option<CheckpointMode>,
    /// The bitmap in its image.
    pub bitmap: Option<String>,
    /// Bytes that were written since, as far as they are known.
    pub size: Option<u64>,
}

/// A checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// What every point in time has.
    pub moment: Moment,
    /// How each disk takes part.
    pub disks: Vec<CheckpointDisk>,
}

fn wrong(kind: Kind, message: impl Into<String>) -> Error {
    Error::new(kind, message).in_area(Area::Checkpoint)
}

impl Checkpoint {
    /// Reads a client's document, of a checkpoint that is there already if `redefine` says so.
    ///
    /// # Errors
    /// The first thing that is wrong with it, in libvirt's order and words.
    pub fn given(text: &str, redefine: bool) -> Result<Self, Error> {
        let mut document = Document::parse(text, &[NAMESPACE], ParseFlags::INACTIVE)?;
        rooted(&document)?;
        document.judge(|root| check(root, redefine))?;
        let mut read = Self::read_parts(document.root(), redefine)?;
        if let Some(domain) = &mut read.moment.domain {
            domain.settle();
            domain.normalize();
        }
        Ok(read)
    }

    /// Reads a checkpoint's file.
    ///
    /// # Errors
    /// It is not XML, has no time, or a value is not of its type.
    pub fn parse_file(text: &str) -> Result<Self, Error> {
        let document = Document::parse(text, &[NAMESPACE], ParseFlags::INACTIVE)?;
        Self::read_parts(rooted(&document)?, true)
    }

    fn read_parts(root: Node<'_>, whole: bool) -> Result<Self, Error> {
        let mut moment = Moment::read_head(root);
        if whole {
            moment.read_rest(root, created(root)?)?;
        }
        let disks = root.child("disks").into_iter().flat_map(Node::children);
        Ok(Self {
            moment,
            disks: disks.map(CheckpointDisk::read).collect::<Result<_, _>>()?,
        })
    }

    /// The document as clients are shown it, with secrets or without, and with the guest's document or without.
    #[must_use]
    pub fn format(&self, secure: bool, with_domain: bool) -> String {
        let flags = super::form(secure);
        let mut w = Writer::new(flags);
        w.element_with("domaincheckpoint", Empty::Keep, |w| {
            self.moment.write_head(w);
            self.moment.write_descent(w);
            if !self.disks.is_empty() {
                w.element_with("disks", Empty::Keep, |w| {
                    self.disks.iter().for_each(|disk| disk.write(w));
                });
            }
            if with_domain {
                self.moment.write_domain(w);
            }
        });
        w.finish()
    }

    /// What is in its file, below the comment.
    #[must_use]
    pub fn format_file(&self) -> String {
        self.format(true, true)
    }

    /// What lists show of it.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary {
            name: self.moment.name.clone(),
            parent: self.moment.parent.clone(),
            created: self.moment.created,
            ..Summary::default()
        }
    }

    /// Reads of a checkpoint's file what lists show. The guest's document in it is not looked at.
    ///
    /// # Errors
    /// It is not XML, or has no name or time.
    pub fn summary_of(text: &str) -> Result<Summary, Error> {
        let document = Document::parse(text, &[NAMESPACE], ParseFlags::INACTIVE)?;
        let root = rooted(&document)?;
        let name = super::text(root, "name").ok_or_else(nameless)?;
        Ok(Summary {
            name: name.to_owned(),
            parent: super::parent(root),
            created: created(root)?,
            ..Summary::default()
        })
    }
}

impl CheckpointDisk {
    fn read(node: Node<'_>) -> Result<Self, Error> {
        let mode = field::attr_opt::<Plain, CheckpointMode>(node, "checkpoint")?;
        Ok(Self {
            name: node.attr("name").unwrap_or_default().to_owned(),
            // One that is named takes part.
            mode: mode.or(Some(CheckpointMode::Bitmap)),
            bitmap: node.attr("bitmap").map(str::to_owned),
            size: None,
        })
    }

    fn write(&self, w: &mut Writer) {
        w.element_with("disk", Empty::Keep, |w| {
            w.attr_str("name", &self.name);
            if let Some(mode) = &self.mode {
                w.attr::<Plain, _>("checkpoint", mode);
            }
            if let Some(bitmap) = &self.bitmap {
                w.attr_str("bitmap", bitmap);
            }
            if let Some(size) = &self.size {
                w.attr::<Plain, _>("size", size);
            }
        });
    }
}

fn rooted<'d>(document: &'d Document<'_>) -> Result<Node<'d>, Error> {
    super::rooted(document, "domaincheckpoint")
}

fn nameless() -> Error {
    wrong(Kind::Xml, "a redefined checkpoint must have a name")
}

fn created(root: Node<'_>) -> Result<i64, Error> {
    super::created(root).ok_or_else(|| wrong(Kind::Internal, "missing creationTime from existing checkpoint"))
}

fn check(root: Node<'_>, redefine: bool) -> Result<(), Error> {
    if redefine {
        if text(root, "name").is_none() {
            return Err(nameless());
        }
        created(root)?;
        if let Some(domain) = root
            .child("domain")
            .filter(|domain| domain.attr("type").is_some())
        {
            reading::check_domain(domain)?;
        }
    }
    let disks = root.child("disks").into_iter().flat_map(Node::children);
    for disk in disks {
        if disk.attr("name").is_none_or(str::is_empty) {
            return Err(wrong(Kind::Internal, "missing name from disk checkpoint element"));
        }
        if let Some(word) = disk.attr("checkpoint")
            && word.parse::<CheckpointMode>().is_err()
        {
            let said = format!("unknown disk checkpoint setting '{word}'");
            return Err(wrong(Kind::Unsupported, said));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "<domaincheckpoint>
  <name>c2</name>
  <description>second</description>
  <parent>
    <name>c1</name>
  </parent>
  <creationTime>1795959306</creationTime>
  <disks>
    <disk name='vda' checkpoint='bitmap' bitmap='c2'/>
    <disk name='vdb' checkpoint='no'/>
  </disks>
  <domain type='qemu'>
    <name>a</name>
    <uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid>
    <os>
      <type arch='x86_64' machine='q35'>hvm</type>
    </os>
  </domain>
</domaincheckpoint>
";

    #[test]
    fn a_file_comes_back_as_it_was() {
        let read = Checkpoint::parse_file(FILE).unwrap();
        assert_eq!(read.format_file().replace("    <devices/>\n", ""), FILE);
        assert_eq!(Checkpoint::summary_of(FILE).unwrap(), read.summary());
        assert!(!read.format(false, false).contains("<domain "));
        let mut sized = read;
        sized.disks[0].size = Some(65_536);
        assert!(sized.format(false, false).contains("bitmap='c2' size='65536'/>"));
    }

    #[test]
    fn a_new_one_says_nothing_of_what_is_not_its_own() {
        let read = Checkpoint::given(FILE, false).unwrap();
        assert_eq!(
            (read.moment.parent, read.moment.created, read.moment.domain),
            (None, 0, None)
        );
        assert_eq!(read.disks.len(), 2);
        let bare = Checkpoint::given("<domaincheckpoint/>", false).unwrap();
        assert_eq!((bare.moment.name.as_str(), bare.disks.len()), ("", 0));
    }

    #[test]
    fn wrong_documents_are_refused_in_libvirts_words() {
        let cases: &[(&str, bool, u32, &str)] = &[
            ("", true, 27, "a redefined checkpoint must have a name"),
            (
                "<name>c</name>",
                true,
                1,
                "missing creationTime from existing checkpoint",
            ),
            (
                "<disks><disk/></disks>",
                false,
                1,
                "missing name from disk checkpoint element",
            ),
            (
                "<disks><disk name='vda' checkpoint='x'/></disks>",
                false,
                67,
                "unknown disk checkpoint setting 'x'",
            ),
        ];
        for (inside, redefine, code, said) in cases {
            let text = format!("<domaincheckpoint>{inside}</domaincheckpoint>");
            let error = Checkpoint::given(&text, *redefine).expect_err(inside);
            assert_eq!(
                (error.kind.number(), error.message.as_str()),
                (*code, *said),
                "{inside}"
            );
        }
        let error = Checkpoint::given("<checkpoint/>", false).unwrap_err();
        assert_eq!(
            error.message,
            "expecting root element of 'domaincheckpoint', not 'checkpoint'"
        );
    }
}
