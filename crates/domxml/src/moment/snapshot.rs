//! `<domainsnapshot>`: a snapshot of a guest, as clients give it, as they are shown it, and as its file has it.
//!
//! A client's document of a new snapshot says little: the rest is what the guest is now. One that tells of a snapshot
//! that is there already has all of it. Both are checked by libvirt's rules in the order in which it reads
//! ([`Snapshot::given`]); a file is read as it is ([`Snapshot::parse_file`]).

use xmlform::codec::Plain;
use xmlform::{Document, Empty, FormatFlags, Node, ParseFlags, Writer, field};

use super::{Moment, text};
use crate::devices::common::words;
use crate::devices::{SnapshotMode, Source, StorageFormat, StorageKind, storage::MetadataCache};
use crate::qemu::NAMESPACE;
use crate::{Area, Domain, Error, Kind, SaveCookie, reading};

words! {
    /// What the guest did when the snapshot was taken.
    SnapshotState {
        NoState "nostate", Running "running", Blocked "blocked", Paused "paused",
        Shutdown "shutdown", Shutoff "shutoff", Crashed "crashed", PmSuspended "pmsuspended",
        DiskSnapshot "disk-snapshot",
    }
}

impl SnapshotState {
    /// Whether it has no memory.
    #[must_use]
    pub fn is_offline(self) -> bool {
        matches!(self, Self::Shutoff | Self::DiskSnapshot)
    }
}

/// The guest's memory in a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryPart {
    /// Where it is; none if that is not said.
    pub mode: Option<SnapshotMode>,
    /// The file it is in.
    pub file: Option<String>,
}

/// A disk in a snapshot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SnapshotDisk {
    /// The disk's target; a client may say its path.
    pub name: String,
    /// How the disk takes part.
    pub mode: Option<SnapshotMode>,
    /// Kind of the image that is written to from then on.
    pub kind: StorageKind,
    /// A later snapshot that is being deleted is merged into it.
    pub deleting: bool,
    /// Format of that image.
    pub format: Option<StorageFormat>,
    /// Cache of the image's own tables.
    pub metadata_cache: Option<MetadataCache>,
    /// That image.
    pub source: Option<Source>,
}

/// A snapshot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// What every point in time has.
    pub moment: Moment,
    /// What the guest did.
    pub state: SnapshotState,
    /// The guest's memory.
    pub memory: MemoryPart,
    /// How each disk takes part.
    pub disks: Vec<SnapshotDisk>,
    /// Images that are written to since the guest was reverted to it.
    pub revert_disks: Vec<SnapshotDisk>,
    /// The stored configuration at that time.
    pub inactive: Option<Box<Domain>>,
    /// What a start from its memory must know.
    pub cookie: Option<SaveCookie>,
}

/// What a client's document is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Of a snapshot that is there already.
    pub redefine: bool,
    /// Of a guest that is off, or of its disks alone.
    pub offline: bool,
}

/// What lists of snapshots show; cheap to read and to keep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Its name.
    pub name: String,
    /// The one before it.
    pub parent: Option<String>,
    /// What the guest did.
    pub state: SnapshotState,
    /// Seconds since 1970.
    pub created: i64,
    /// Some of it is in files of its own.
    pub external: bool,
    /// The guest's present state follows from it.
    pub current: bool,
}

fn snapshot(kind: Kind, message: impl Into<String>) -> Error {
    Error::new(kind, message).in_area(Area::Snapshot)
}

impl Snapshot {
    /// Reads a client's document.
    ///
    /// # Errors
    /// The first thing that is wrong with it, in libvirt's order and words.
    pub fn given(text: &str, given: Given) -> Result<Self, Error> {
        let mut document = Document::parse(text, &[NAMESPACE], ParseFlags::INACTIVE)?;
        rooted(&document)?;
        document.judge(|root| check(root, given))?;
        let root = document.root();
        let mut read = Self::read_parts(root, given.redefine)?;
        for domain in [&mut read.moment.domain, &mut read.inactive]
            .into_iter()
            .flatten()
        {
            domain.settle();
            domain.normalize();
        }
        if given.redefine {
            read.memory.mode = read.memory.mode.or(Some(match read.state.is_offline() {
                true => SnapshotMode::No,
                false => SnapshotMode::Internal,
            }));
        }
        let offline = read.state.is_offline() && given.redefine || given.offline;
        if offline {
            read.cookie = None;
        }
        Ok(read)
    }

    /// Reads a snapshot's file: the snapshot, and whether it is the current one.
    ///
    /// # Errors
    /// It is not XML, has no name, or a value is not of its type.
    pub fn parse_file(text: &str) -> Result<(Self, bool), Error> {
        let document = Document::parse(text, &[NAMESPACE], ParseFlags::INACTIVE)?;
        let root = rooted(&document)?;
        let read = Self::read_parts(root, true)?;
        Ok((read, is_active(root)?))
    }

    fn read_parts(root: Node<'_>, whole: bool) -> Result<Self, Error> {
        let mut moment = Moment::read_head(root);
        let memory = match root.child("memory") {
            Some(node) => MemoryPart::read(node)?,
            None => MemoryPart::default(),
        };
        let disks = read_disks(root, "disks")?;
        if !whole {
            return Ok(Self {
                moment,
                memory,
                disks,
                ..Self::default()
            });
        }
        moment.read_rest(root, created(root)?)?;
        let inactive = field::child_opt::<Domain>(root, "inactiveDomain")?.map(Box::new);
        Ok(Self {
            moment,
            state: state(root)?,
            memory,
            disks,
            revert_disks: read_disks(root, "revertDisks")?,
            inactive,
            cookie: field::child_opt(root, "cookie")?,
        })
    }

    /// The document as clients are shown it, with secrets or without.
    #[must_use]
    pub fn format(&self, secure: bool) -> String {
        let flags = super::form(secure);
        self.write(flags, None)
    }

    /// What is in its file, below the comment.
    #[must_use]
    pub fn format_file(&self, current: bool) -> String {
        self.write(FormatFlags::INACTIVE | FormatFlags::SECURE, Some(current))
    }

    fn write(&self, flags: FormatFlags, current: Option<bool>) -> String {
        let mut w = Writer::new(flags);
        w.element_with("domainsnapshot", Empty::Keep, |w| {
            self.moment.write_head(w);
            w.text_child::<Plain, _>("state", &self.state);
            self.moment.write_descent(w);
            self.memory.write(w);
            write_disks(w, "disks", &self.disks);
            write_disks(w, "revertDisks", &self.revert_disks);
            self.moment.write_domain(w);
            if let Some(inactive) = &self.inactive {
                w.element("inactiveDomain", &**inactive);
            }
            if let Some(cookie) = &self.cookie {
                w.element("cookie", cookie);
            }
            if let Some(current) = current {
                w.text_child::<Plain, _>("active", &i32::from(current));
            }
        });
        w.finish()
    }

    /// Whether some of it is in files of its own.
    #[must_use]
    pub fn is_external(&self) -> bool {
        let external = Some(SnapshotMode::External);
        self.memory.mode == external || self.disks.iter().any(|disk| disk.mode == external)
    }

    /// The disk of a target.
    #[must_use]
    pub fn disk(&self, target: &str) -> Option<&SnapshotDisk> {
        self.disks.iter().find(|disk| disk.name == target)
    }

    /// What lists show of it.
    #[must_use]
    pub fn summary(&self, current: bool) -> Summary {
        Summary {
            name: self.moment.name.clone(),
            parent: self.moment.parent.clone(),
            state: self.state,
            created: self.moment.created,
            external: self.is_external(),
            current,
        }
    }
}

impl Summary {
    /// Reads of a snapshot's file what lists show. The guest's documents in it are not looked at.
    ///
    /// # Errors
    /// It is not XML, has no name, state or time, or a word is none.
    pub fn read(text: &str) -> Result<Self, Error> {
        let document = Document::parse(text, &[NAMESPACE], ParseFlags::INACTIVE)?;
        let root = rooted(&document)?;
        let name = super::text(root, "name")
            .ok_or_else(|| snapshot(Kind::Xml, "a redefined snapshot must have a name"))?;
        let is_external = |node: Node<'_>| node.attr("snapshot") == Some(SnapshotMode::External.as_str());
        let mut disks = root.child("disks").into_iter().flat_map(Node::children);
        Ok(Self {
            name: name.to_owned(),
            parent: super::parent(root),
            state: state(root)?,
            created: created(root)?,
            external: root.child("memory").is_some_and(is_external) || disks.any(is_external),
            current: is_active(root)?,
        })
    }
}

impl MemoryPart {
    fn read(node: Node<'_>) -> Result<Self, Error> {
        let file = node.attr("file").map(str::to_owned);
        let mode = field::attr_opt::<Plain, SnapshotMode>(node, "snapshot")?;
        Ok(Self {
            mode: mode.or(file.is_some().then_some(SnapshotMode::External)),
            file,
        })
    }

    fn write(&self, w: &mut Writer) {
        let Some(mode) = self.mode else { return };
        w.element_with("memory", Empty::Keep, |w| {
            w.attr::<Plain, _>("snapshot", &mode);
            if let Some(file) = &self.file {
                w.attr_str("file", file);
            }
        });
    }
}

fn read_disks(root: Node<'_>, name: &str) -> Result<Vec<SnapshotDisk>, Error> {
    let disks = root.child(name).into_iter().flat_map(Node::children);
    disks.map(SnapshotDisk::read).collect()
}

fn write_disks(w: &mut Writer, name: &str, disks: &[SnapshotDisk]) {
    if disks.is_empty() {
        return;
    }
    w.element_with(name, Empty::Keep, |w| {
        for disk in disks {
            w.element_with("disk", Empty::Keep, |w| disk.write(w));
        }
    });
}

impl SnapshotDisk {
    fn read(node: Node<'_>) -> Result<Self, Error> {
        let driver = node.child("driver");
        let format = driver.map(|driver| field::attr_opt::<Plain, StorageFormat>(driver, "type"));
        let cache = driver.map(|driver| field::child_opt::<MetadataCache>(driver, "metadata_cache"));
        let mut disk = Self {
            name: node.attr("name").unwrap_or_default().to_owned(),
            mode: field::attr_opt::<Plain, _>(node, "snapshot")?,
            kind: field::attr_opt::<Plain, _>(node, "type")?.unwrap_or_default(),
            deleting: node.child("snapshotDeleteInProgress").is_some(),
            format: format.transpose()?.flatten(),
            metadata_cache: cache.transpose()?.flatten(),
            source: field::child_opt(node, "source")?,
        };
        if disk.mode.is_none() && disk.has_image() {
            disk.mode = Some(SnapshotMode::External);
        }
        Ok(disk)
    }

    /// Whether it says anything of an image.
    #[must_use]
    pub fn has_image(&self) -> bool {
        self.path().is_some() || self.format.is_some()
    }

    /// Where the image is: its path, or its name on a server.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        let source = self.source.as_ref()?;
        let path = match self.kind {
            StorageKind::File => &source.file,
            StorageKind::Block | StorageKind::VhostVdpa => &source.dev,
            StorageKind::Dir => &source.dir,
            StorageKind::Network => &source.name,
            StorageKind::Volume => &source.volume,
            StorageKind::VhostUser | StorageKind::Nvme => &source.path,
        };
        path.as_deref()
    }

    fn write(&self, w: &mut Writer) {
        w.attr_str("name", &self.name);
        if let Some(mode) = &self.mode {
            w.attr::<Plain, _>("snapshot", mode);
        }
        if !self.has_image() && self.metadata_cache.is_none() {
            return;
        }
        w.attr::<Plain, _>("type", &self.kind);
        if self.deleting {
            w.flag("snapshotDeleteInProgress");
        }
        w.element_with("driver", Empty::Drop, |w| {
            if let Some(format) = &self.format {
                w.attr::<Plain, _>("type", format);
            }
            if let Some(cache) = &self.metadata_cache {
                w.element_unless_empty("metadata_cache", cache);
            }
        });
        if let Some(source) = &self.source {
            w.element("source", source);
        }
    }
}

fn rooted<'d>(document: &'d Document<'_>) -> Result<Node<'d>, Error> {
    super::rooted(document, "domainsnapshot")
}

/// The elements of a snapshot's document, and those of its disks.
const ELEMENTS: &[&str] = &[
    "name",
    "description",
    "state",
    "creationTime",
    "memory",
    "disks",
    "active",
    "domain",
    "inactiveDomain",
    "parent",
    "cookie",
    "revertDisks",
];
const OF_DISKS: &[&str] = &["source", "driver", "snapshotDeleteInProgress"];

/// Checks that a document has what its schema knows, and nothing else. The guest's documents in it are checked when they
/// are read.
///
/// # Errors
/// `XmlInvalidSchema`, in the words of libvirt's validator; as [`Snapshot::given`] when it is not XML.
pub fn check_schema(text: &str) -> Result<(), Error> {
    let document = Document::parse(text, &[NAMESPACE], ParseFlags::INACTIVE)?;
    let root = document.root();
    let misfit = |part: &str| {
        let said = format!(
            "Extra element {part} in interleave\nElement {} failed to validate content\n",
            root.name()
        );
        Err(Error::new(Kind::XmlInvalidSchema, said))
    };
    if !root.is("domainsnapshot") {
        return misfit(root.name());
    }
    let odd = |node: &Node<'_>| !ELEMENTS.contains(&node.name());
    let has_slash = root.child("name").is_some_and(|name| name.text().contains('/'));
    if let Some(part) = root
        .children()
        .find(odd)
        .or(root.child("name").filter(|_| has_slash))
    {
        return misfit(part.name());
    }
    for disks in ["disks", "revertDisks"]
        .into_iter()
        .filter_map(|name| root.child(name))
    {
        let mut all = disks.children();
        let wrong = |disk: Node<'_>| {
            !disk.is("disk")
                || disk.attr("name").is_none()
                || disk.children().any(|part| !OF_DISKS.contains(&part.name()))
        };
        if all.any(wrong) {
            return misfit(disks.name());
        }
    }
    Ok(())
}

fn created(root: Node<'_>) -> Result<i64, Error> {
    super::created(root)
        .ok_or_else(|| snapshot(Kind::Internal, "missing creationTime from existing snapshot"))
}

fn state(root: Node<'_>) -> Result<SnapshotState, Error> {
    let word =
        text(root, "state").ok_or_else(|| snapshot(Kind::Xml, "missing state from existing snapshot"))?;
    let state = word.parse::<SnapshotState>().ok();
    state
        .filter(|state| *state != SnapshotState::NoState)
        .ok_or_else(|| {
            snapshot(
                Kind::Unsupported,
                format!("Invalid state '{word}' in domain snapshot XML"),
            )
        })
}

fn is_active(root: Node<'_>) -> Result<bool, Error> {
    let active = text(root, "active").and_then(|active| active.trim().parse::<i32>().ok());
    active
        .map(|active| active != 0)
        .ok_or_else(|| snapshot(Kind::Internal, "Could not find 'active' element"))
}

/// Checks a client's document, in the order in which libvirt reads it.
fn check(root: Node<'_>, given: Given) -> Result<(), Error> {
    let mut offline = given.offline;
    if given.redefine {
        if text(root, "name").is_none() {
            return Err(snapshot(Kind::Xml, "a redefined snapshot must have a name"));
        }
        created(root)?;
        offline = state(root)?.is_offline();
        if let Some(domain) = root
            .child("domain")
            .filter(|domain| domain.attr("type").is_some())
        {
            reading::check_domain(domain)?;
        }
        if let Some(inactive) = root.child("inactiveDomain") {
            reading::check_domain(inactive)?;
        }
    }
    check_memory(root.child("memory"), offline)?;
    for disks in ["disks", "revertDisks"] {
        if given.redefine || disks == "disks" {
            let disks = root.child(disks).into_iter().flat_map(Node::children);
            disks.into_iter().try_for_each(reading::check_snapshot_disk)?;
        }
    }
    Ok(())
}

fn check_memory(node: Option<Node<'_>>, offline: bool) -> Result<(), Error> {
    let Some(node) = node else { return Ok(()) };
    reading::check_snapshot_memory(node)?;
    let memory = MemoryPart::read(node)?;
    let wrong = |message: String| Err(snapshot(Kind::Xml, message));
    let file = memory.file.as_deref();
    match (memory.mode, file) {
        (Some(SnapshotMode::Manual), _) => wrong("'manual' memory snapshot mode not supported".to_owned()),
        (Some(SnapshotMode::External), None) => {
            wrong("external memory snapshots require a filename".to_owned())
        }
        (mode, Some(file)) if mode != Some(SnapshotMode::External) => {
            wrong(format!("memory filename '{file}' requires external snapshot"))
        }
        (Some(mode), _) if offline && mode != SnapshotMode::No => {
            wrong("memory state cannot be saved with offline or disk-only snapshot".to_owned())
        }
        (_, Some(file)) if !file.starts_with('/') => {
            wrong(format!("memory snapshot file path ({file}) must be absolute"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "<domainsnapshot>
  <name>s&amp;1</name>
  <description>before</description>
  <state>running</state>
  <parent>
    <name>s0</name>
  </parent>
  <creationTime>1795959087</creationTime>
  <memory snapshot='external' file='/m'/>
  <disks>
    <disk name='vda' snapshot='external' type='file'>
      <snapshotDeleteInProgress/>
      <driver type='qcow2'>
        <metadata_cache>
          <max_size unit='bytes'>4096</max_size>
        </metadata_cache>
      </driver>
      <source file='/tmp/a.s1'/>
    </disk>
    <disk name='vdb' snapshot='no'/>
  </disks>
  <revertDisks>
    <disk name='vda' snapshot='external' type='block'>
      <driver type='qcow2'/>
      <source dev='/dev/x'/>
    </disk>
  </revertDisks>
  <domain type='qemu'>
    <name>a</name>
    <uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid>
    <os>
      <type arch='x86_64' machine='q35'>hvm</type>
    </os>
    <devices>
      <graphics type='vnc' port='-1' autoport='yes' passwd='x'/>
    </devices>
  </domain>
  <inactiveDomain type='qemu'>
    <name>a</name>
    <os>
      <type arch='x86_64' machine='q35'>hvm</type>
    </os>
    <devices/>
  </inactiveDomain>
  <cookie>
    <cpu mode='custom' match='exact' check='full'>
      <model fallback='forbid'>qemu64</model>
    </cpu>
    <slirpHelper/>
  </cookie>
  <active>1</active>
</domainsnapshot>
";

    #[test]
    fn a_file_comes_back_as_it_was() {
        let (read, current) = Snapshot::parse_file(FILE).unwrap();
        assert!(current && read.is_external());
        let again = read.format_file(current);
        let shown = |text: &str| {
            text.replace("    <devices/>\n", "")
                .replace("    <devices>\n    </devices>\n", "")
        };
        assert_eq!(shown(&again), shown(FILE));
        assert_eq!(Summary::read(FILE).unwrap(), read.summary(true));
        let plain = read.format(false);
        assert!(
            !plain.contains("passwd") && !plain.contains("<active>"),
            "{plain}"
        );
        assert!(read.format(true).contains("passwd='x'"));
    }

    #[test]
    fn a_new_one_says_nothing_of_what_is_not_its_own() {
        let text = "<domainsnapshot><name>n</name><state>paused</state><parent><name>p</name></parent>\
            <creationTime>5</creationTime><disks><disk name='vda'><driver type='qed'/></disk></disks>\
            <domain><uuid>x</uuid></domain></domainsnapshot>";
        let read = Snapshot::given(text, Given::default()).unwrap();
        assert_eq!(read.moment.parent, None);
        assert_eq!((read.moment.created, read.state), (0, SnapshotState::NoState));
        assert_eq!(read.disks[0].mode, Some(SnapshotMode::External));
        assert_eq!(read.disks[0].format, Some(StorageFormat::Qed));
    }

    #[test]
    fn what_no_schema_knows_is_named() {
        let said = |inside: &str| {
            let text = format!("<domainsnapshot>{inside}</domainsnapshot>");
            check_schema(&text).map_err(|e| e.message)
        };
        assert_eq!(
            said("<name>a</name><disks><disk name='a'><source file='/x'/></disk></disks>"),
            Ok(())
        );
        assert!(
            said("<foo/>")
                .unwrap_err()
                .contains("Extra element foo in interleave")
        );
        assert!(
            said("<name>a/b</name>")
                .unwrap_err()
                .contains("Extra element name in")
        );
        assert!(
            said("<disks><disk name='a'><x/></disk></disks>")
                .unwrap_err()
                .contains("Extra element disks in")
        );
    }

    /// What is refused, and how: the inside of a document, whether it is of one that is there, and the words.
    #[test]
    fn wrong_documents_are_refused_in_libvirts_words() {
        let new = Given::default();
        let off = Given { offline: true, ..new };
        let redefine = Given {
            redefine: true,
            ..new
        };
        let head = "<name>a</name><creationTime>1</creationTime>";
        let cases: &[(String, Given, u32, &str)] = &[
            (
                "<memory snapshot='external'/>".into(),
                new,
                27,
                "external memory snapshots require a filename",
            ),
            (
                "<memory snapshot='external' file='rel'/>".into(),
                new,
                27,
                "memory snapshot file path (rel) must be absolute",
            ),
            (
                "<memory snapshot='internal' file='/x'/>".into(),
                new,
                27,
                "memory filename '/x' requires external snapshot",
            ),
            (
                "<memory snapshot='foo'/>".into(),
                new,
                27,
                "Invalid value for attribute 'snapshot' in element 'memory': 'foo'.",
            ),
            (
                "<memory file='/x'/>".into(),
                off,
                27,
                "memory state cannot be saved with offline or disk-only snapshot",
            ),
            (
                "<disks><disk snapshot='no'/></disks>".into(),
                new,
                1,
                "missing name from disk snapshot element",
            ),
            (
                "<disks><disk name='a' type='volume'/></disks>".into(),
                new,
                27,
                "unsupported disk snapshot type 'volume'",
            ),
            (
                "<disks><disk name='a'><driver type='z'/></disk></disks>".into(),
                new,
                67,
                "unknown disk snapshot driver 'z'",
            ),
            (
                "<disks><disk name='a'><source file='r'/></disk></disks>".into(),
                new,
                27,
                "disk snapshot image path 'r' must be absolute",
            ),
            (
                String::new(),
                redefine,
                27,
                "a redefined snapshot must have a name",
            ),
            (
                "<name>a</name>".into(),
                redefine,
                1,
                "missing creationTime from existing snapshot",
            ),
            (head.into(), redefine, 27, "missing state from existing snapshot"),
            (
                format!("{head}<state>foo</state>"),
                redefine,
                67,
                "Invalid state 'foo' in domain snapshot XML",
            ),
            (
                format!("{head}<state>shutoff</state><memory snapshot='internal'/>"),
                redefine,
                27,
                "memory state cannot be saved with offline or disk-only snapshot",
            ),
        ];
        for (inside, given, code, said) in cases {
            let text = format!("<domainsnapshot>{inside}</domainsnapshot>");
            let error = Snapshot::given(&text, *given).expect_err(inside);
            assert_eq!(
                (error.kind.number(), error.message.as_str()),
                (*code, *said),
                "{inside}"
            );
        }
        let error = Snapshot::given("<snapshot/>", new).unwrap_err();
        assert_eq!(
            error.message,
            "expecting root element of 'domainsnapshot', not 'snapshot'"
        );
    }
}
