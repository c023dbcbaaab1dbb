//! What of a document has been read, and so what no field knows.
//!
//! Reading is lenient: what nobody asks for is dropped. A document that keeps account
//! ([`Document::track`]) tells afterwards what was dropped: elements beyond the first of a name
//! count where only one is read. Other documents pay one comparison a lookup.

use std::cell::Cell;
use std::fmt::Write;

use crate::{Document, Node};

/// Account of what is read: a byte an element, a byte an attribute.
#[derive(Debug)]
pub(crate) struct Marks {
    elements: Vec<Cell<u8>>,
    attrs: Vec<Cell<bool>>,
}

/// What happened to an element.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mark {
    /// Somebody asked for it.
    Seen = 1,
    /// Its text was read.
    Text = 2,
    /// It was kept with everything in it.
    Kept = 4,
}

impl Marks {
    pub(crate) fn new(elements: usize, attrs: usize) -> Self {
        Self {
            elements: vec![Cell::new(0); elements],
            attrs: vec![Cell::new(false); attrs],
        }
    }

    pub(crate) fn element(&self, index: u32, mark: Mark) {
        if let Some(cell) = self.elements.get(index as usize) {
            cell.set(cell.get() | mark as u8);
        }
    }

    pub(crate) fn attr(&self, index: u32) {
        if let Some(cell) = self.attrs.get(index as usize) {
            cell.set(true);
        }
    }

    pub(crate) fn has(&self, index: u32, mark: Mark) -> bool {
        let cell = self.elements.get(index as usize);
        cell.is_some_and(|c| c.get() & mark as u8 != 0)
    }

    pub(crate) fn has_attr(&self, index: u32) -> bool {
        self.attrs.get(index as usize).is_some_and(Cell::get)
    }
}

/// Something that nobody read.
#[derive(Debug, Clone, Copy)]
pub struct Unread<'d> {
    /// The element it is in, or that it is.
    pub node: Node<'d>,
    /// What of the element.
    pub what: Unwanted<'d>,
}

/// What of an element nobody read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwanted<'d> {
    /// The whole element.
    Element,
    /// The attribute of a name.
    Attribute(&'d str),
    /// Text between its tags.
    Text,
}

impl Unread<'_> {
    /// Where it is: `/domain/devices/disk[2]/@foo`.
    #[must_use]
    pub fn path(&self) -> String {
        let mut path = self.node.path();
        match self.what {
            Unwanted::Element => {}
            Unwanted::Attribute(name) => {
                let _ = write!(path, "/@{name}");
            }
            Unwanted::Text => path.push_str("/text()"),
        }
        path
    }
}

impl<'d> Node<'d> {
    /// Where the element is: `/domain/devices/disk[2]`, counted where there are several.
    #[must_use]
    pub fn path(self) -> String {
        let mut path = self.parent().map(Node::path).unwrap_or_default();
        let _ = write!(path, "/{}", self.qualified_name());
        let Some(parent) = self.parent() else {
            return path;
        };
        let same = parent
            .children()
            .filter(|c| c.qualified_name() == self.qualified_name());
        let places: Vec<u32> = same.map(Node::index).collect();
        if places.len() > 1 {
            let place = places.iter().position(|p| *p == self.index());
            let _ = write!(path, "[{}]", place.unwrap_or_default() + 1);
        }
        path
    }
}

impl Document<'_> {
    /// What nobody has read, in document order; of an element that nobody asked for, only the
    /// element. Nothing unless the document keeps account. Namespace declarations do not count.
    #[must_use]
    pub fn unread(&self) -> Vec<Unread<'_>> {
        let mut found = Vec::new();
        if let Some(marks) = &self.marks {
            marks.element(0, Mark::Seen);
            visit(self.root(), marks, &mut found);
        }
        found
    }
}

/// Depth is bounded by that of documents.
fn visit<'d>(node: Node<'d>, marks: &Marks, found: &mut Vec<Unread<'d>>) {
    let index = node.index();
    if marks.has(index, Mark::Kept) {
        return;
    }
    if !marks.has(index, Mark::Seen) {
        let what = Unwanted::Element;
        return found.push(Unread { node, what });
    }
    for ((name, _), at) in node.attrs().zip(node.attr_range()) {
        let declares = name == "xmlns" || name.starts_with("xmlns:");
        if !declares && !marks.has_attr(at) {
            let what = Unwanted::Attribute(name);
            found.push(Unread { node, what });
        }
    }
    let text = node.peek().bytes().any(|b| !b.is_ascii_whitespace());
    if text && !marks.has(index, Mark::Text) {
        let what = Unwanted::Text;
        found.push(Unread { node, what });
    }
    for child in node.children() {
        visit(child, marks, found);
    }
}
