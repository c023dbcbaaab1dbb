//! Points in time of a guest: what documents of snapshots and of checkpoints have in common.
//!
//! Each has a name, may come after another of its kind, and carries the guest's document of that time.

mod backup;
mod checkpoint;
mod snapshot;

pub use backup::{
    Backup, BackupDisk, BackupExtent, BackupMode, BackupPrivate, BackupServer, BackupState, BackupTransport,
};
pub use checkpoint::{Checkpoint, CheckpointDisk, CheckpointMode};
pub use snapshot::{Given, MemoryPart, Snapshot, SnapshotDisk, SnapshotState, Summary, check_schema};

use uuid::Uuid;
use xmlform::codec::Plain;
use xmlform::{Area, Document, Empty, FormatFlags, Node, Writer, Xml};

use crate::{Domain, Error, Kind};

/// What every point in time has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moment {
    /// Its name; also that of its file.
    pub name: String,
    /// What its owner says of it.
    pub description: Option<String>,
    /// Name of the one before it.
    pub parent: Option<String>,
    /// Seconds since 1970.
    pub created: i64,
    /// The guest as it was then.
    pub domain: Option<Box<Domain>>,
    /// Whose it is, where `domain` says no more.
    pub uuid: Option<Uuid>,
}

impl Moment {
    /// Writes name and description, which come first in every such document.
    fn write_head(&self, w: &mut Writer) {
        w.text_child::<Plain, _>("name", &self.name);
        if let Some(description) = &self.description {
            w.text_child::<Plain, _>("description", description);
        }
    }

    /// Writes who comes before it, and when it was made.
    fn write_descent(&self, w: &mut Writer) {
        if let Some(parent) = &self.parent {
            w.element_with("parent", Empty::Keep, |w| {
                w.text_child::<Plain, _>("name", parent)
            });
        }
        w.text_child::<Plain, _>("creationTime", &self.created);
    }

    /// Writes the guest's document, or whose it is.
    fn write_domain(&self, w: &mut Writer) {
        match (&self.domain, self.uuid) {
            (Some(domain), _) => w.element("domain", &**domain),
            (None, Some(uuid)) => w.element_with("domain", Empty::Keep, |w| {
                w.text_child::<Plain, _>("uuid", &uuid.hyphenated().to_string());
            }),
            (None, None) => {}
        }
    }

    /// What a client's document of a new one says of it.
    fn read_head(root: Node<'_>) -> Self {
        Self {
            name: text(root, "name").unwrap_or_default().to_owned(),
            description: text(root, "description").map(str::to_owned),
            ..Self::default()
        }
    }

    /// The rest, of one that is there already; `created` is when it was made.
    fn read_rest(&mut self, root: Node<'_>, created: i64) -> Result<(), xmlform::Error> {
        self.parent = parent(root);
        self.created = created;
        (self.domain, self.uuid) = Self::read_domain(root)?;
        Ok(())
    }

    /// The guest's document, of those documents that have a whole one.
    fn read_domain(node: Node<'_>) -> Result<(Option<Box<Domain>>, Option<Uuid>), xmlform::Error> {
        let Some(domain) = node.child("domain") else {
            return Ok((None, None));
        };
        let uuid = domain
            .child("uuid")
            .and_then(|uuid| Uuid::parse_str(uuid.text()).ok());
        if domain.attr("type").is_none() {
            return Ok((None, uuid));
        }
        Domain::read(domain).map(|domain| (Some(Box::new(domain)), uuid))
    }
}

/// Whether a point in time may have this name: it is a file's name, too.
///
/// # Errors
/// `XmlDetail`, in libvirt's words, counted to the QEMU driver.
pub fn check_name(name: &str, what: &str) -> Result<(), Error> {
    let wrong = |why: &str| {
        let said = format!("invalid {what} name '{name}': name can't {why}");
        Err(Error::new(Kind::XmlDetail, said).in_area(Area::Qemu))
    };
    if name.contains('/') {
        return wrong("contain '/'");
    }
    if name.starts_with('.') {
        return wrong("start with '.'");
    }
    Ok(())
}

/// Checks a document of a point in time against its schema.
///
/// # Errors
/// `XmlInvalidSchema` with the place that does not fit; `XmlDetail` when it is not XML.
pub fn check_grammar(text: &str, grammar: &crate::Grammar) -> Result<(), Error> {
    crate::schema::check_other(text, grammar)
}

/// The root of a document of a kind.
fn rooted<'d>(document: &'d Document<'_>, name: &str) -> Result<Node<'d>, Error> {
    let root = document.root();
    if root.is(name) {
        return Ok(root);
    }
    let message = format!("expecting root element of '{name}', not '{}'", root.name());
    Err(Error::xml(message).in_area(Area::Xml))
}

/// When one was made that is there already, if the document says it.
fn created(root: Node<'_>) -> Option<i64> {
    text(root, "creationTime").and_then(|time| time.trim().parse().ok())
}

/// Name of the one before it.
fn parent(root: Node<'_>) -> Option<String> {
    let parent = root.child("parent")?;
    text(parent, "name").map(str::to_owned)
}

/// How a document is written for clients, with secrets or without.
fn form(secure: bool) -> FormatFlags {
    match secure {
        true => FormatFlags::INACTIVE | FormatFlags::SECURE,
        false => FormatFlags::INACTIVE,
    }
}

/// The text of a child; an empty one counts as none.
fn text<'d>(node: Node<'d>, name: &str) -> Option<&'d str> {
    node.child(name).map(Node::text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_files_can_not_have_are_refused() {
        let said = |name| check_name(name, "snapshot").map_err(|e| e.message);
        assert_eq!(said("a b"), Ok(()));
        assert_eq!(
            said("a/b").unwrap_err(),
            "invalid snapshot name 'a/b': name can't contain '/'"
        );
        assert_eq!(
            said(".b").unwrap_err(),
            "invalid snapshot name '.b': name can't start with '.'"
        );
    }
}
