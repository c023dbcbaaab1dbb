//! A document as a tree that borrows from its text.
//!
//! The tree keeps elements, attributes and direct text; comments and the like are only there
//! for [`crate::RawXml`], which reads its piece of the text again. Size, depth and the number
//! of elements are bounded before anything is kept.

use std::borrow::Cow;
use std::ops::Range;

use crate::builder::build;
use crate::marks::{Mark, Marks};
use crate::{Error, ParseFlags};

/// A namespace whose elements are known by a fixed prefix, whatever the document calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace {
    /// What the declaration says.
    pub uri: &'static str,
    /// What fields are named with (`child = "qemu:commandline"`).
    pub prefix: &'static str,
}

/// A whole document.
#[derive(Debug)]
pub struct Document<'a> {
    pub(crate) text: &'a str,
    pub(crate) elements: Vec<Element<'a>>,
    pub(crate) attrs: Vec<(&'a str, Cow<'a, str>)>,
    pub(crate) flags: ParseFlags,
    /// What has been looked at, when that is wanted.
    pub(crate) marks: Option<Box<Marks>>,
    /// Whether the account is of a check that is over: see [`Document::judge`].
    pub(crate) judged: bool,
}

#[derive(Debug)]
pub(crate) struct Element<'a> {
    /// The name as it stands in the text.
    pub(crate) qname: &'a str,
    /// Canonical prefix; empty when there is none.
    pub(crate) prefix: &'a str,
    pub(crate) name: &'a str,
    pub(crate) text: Cow<'a, str>,
    pub(crate) attrs: Range<u32>,
    pub(crate) first_child: u32,
    pub(crate) last_child: u32,
    pub(crate) next: u32,
    pub(crate) parent: u32,
    pub(crate) span: Range<usize>,
}

/// No element; the root is nobody's child.
pub(crate) const NONE: u32 = 0;

/// An element of a document.
#[derive(Debug, Clone, Copy)]
pub struct Node<'d> {
    document: &'d Document<'d>,
    index: u32,
    extent: Extent,
}

/// What a node stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// One element.
    One,
    /// The element and its later siblings of the same name, as if they were one.
    Merged,
}

impl<'a> Document<'a> {
    /// Reads a document.
    ///
    /// # Errors
    /// When it is not well-formed, or over a limit.
    pub fn parse(text: &'a str, namespaces: &[Namespace], flags: ParseFlags) -> Result<Self, Error> {
        build(text, namespaces, flags)
    }

    /// From now on keeps account of what is read, for [`Self::unread`].
    pub fn track(&mut self) {
        let marks = Marks::new(self.elements.len(), self.attrs.len());
        self.marks = Some(Box::new(marks));
    }

    /// Checks the document by rules of one's own, and from then on reads it in their light: a value that they did not
    /// look at counts as absent when it is wrong, and what they did not miss is its default when it is absent.
    ///
    /// # Errors
    /// That of the rules.
    pub fn judge<E>(&mut self, rules: impl FnOnce(Node<'_>) -> Result<(), E>) -> Result<(), E> {
        self.track();
        self.judged = false;
        rules(self.root())?;
        self.judged = true;
        Ok(())
    }

    /// The outermost element.
    #[must_use]
    pub fn root(&self) -> Node<'_> {
        Node {
            document: self,
            index: 0,
            extent: Extent::One,
        }
    }
}

impl<'d> Node<'d> {
    fn element(self) -> &'d Element<'d> {
        &self.document.elements[self.index as usize]
    }

    fn at(self, index: u32) -> Option<Self> {
        let document = self.document;
        let extent = Extent::One;
        (index != NONE).then_some(Self {
            document,
            index,
            extent,
        })
    }

    /// Local name.
    #[must_use]
    pub fn name(self) -> &'d str {
        self.element().name
    }

    /// Whether the element has this name, its known prefix included.
    #[must_use]
    pub fn is(self, name: &str) -> bool {
        let same = self.has_name(name);
        if let (true, Some(marks)) = (same, self.account()) {
            marks.element(self.index, Mark::Seen);
        }
        same
    }

    fn has_name(self, name: &str) -> bool {
        let element = self.element();
        if element.prefix.is_empty() {
            return element.name == name;
        }
        let rest = name.strip_prefix(element.prefix);
        rest.and_then(|r| r.strip_prefix(':')) == Some(element.name)
    }

    /// Whether the document keeps account of what is read: then nothing in it is overlooked.
    #[must_use]
    pub const fn is_tracked(self) -> bool {
        self.document.marks.is_some() && !self.document.judged
    }

    /// Whether rules have checked the document.
    pub(crate) const fn is_judged(self) -> bool {
        self.document.judged
    }

    /// Whether the rules that have checked the document did not look at this attribute of it.
    pub(crate) fn overlooks_attr(self, name: &str) -> bool {
        let unseen = |marks: &Marks| self.find_attr(name).is_some_and(|at| !marks.has_attr(at));
        self.document.judged && self.document.marks.as_deref().is_some_and(unseen)
    }

    /// Whether the rules that have checked the document did not look at the element's text.
    pub(crate) fn overlooks_text(self) -> bool {
        let unseen = |marks: &Marks| !marks.has(self.index, Mark::Text);
        self.document.judged && self.document.marks.as_deref().is_some_and(unseen)
    }

    /// The account, while it is kept.
    fn account(self) -> Option<&'d Marks> {
        self.document.marks.as_deref().filter(|_| !self.document.judged)
    }

    /// Takes the element and all in it as read.
    pub fn keep(self) {
        if let Some(marks) = self.account() {
            marks.element(self.index, Mark::Kept);
        }
    }

    /// Whether both are the same element of one document.
    #[must_use]
    pub fn is_same(self, other: Self) -> bool {
        self.index == other.index && std::ptr::eq(self.document, other.document)
    }

    /// The name as it stands in the text.
    #[must_use]
    pub fn qualified_name(self) -> &'d str {
        self.element().qname
    }

    pub(crate) const fn index(self) -> u32 {
        self.index
    }

    pub(crate) fn attr_range(self) -> Range<u32> {
        self.element().attrs.clone()
    }

    /// The attribute's value, unescaped.
    #[must_use]
    pub fn attr(self, name: &str) -> Option<&'d str> {
        let found = self.find_attr(name)?;
        if let Some(marks) = self.account() {
            marks.attr(found);
        }
        let (_, value) = self.document.attrs.get(found as usize)?;
        Some(value)
    }

    fn find_attr(self, name: &str) -> Option<u32> {
        let of = |node: Self| {
            let at = node.attrs().position(|(n, _)| n == name)?;
            Some(node.element().attrs.start + at as u32)
        };
        self.parts().find_map(of)
    }

    /// Whether the attribute is there with a value; looking does not count as reading.
    #[must_use]
    pub fn has_value(self, name: &str) -> bool {
        let found = self.find_attr(name);
        let value = found.and_then(|at| self.document.attrs.get(at as usize));
        value.is_some_and(|(_, value)| !value.is_empty())
    }

    /// All attributes in order, namespace declarations included.
    pub fn attrs(self) -> impl Iterator<Item = (&'d str, &'d str)> {
        let Range { start, end } = self.element().attrs;
        let all = &self.document.attrs[start as usize..end as usize];
        all.iter().map(|(name, value)| (*name, &**value))
    }

    /// The element's direct text, unescaped.
    #[must_use]
    pub fn text(self) -> &'d str {
        if let Some(marks) = self.account() {
            marks.element(self.index, Mark::Text);
        }
        &self.element().text
    }

    /// The text, of which nobody is told.
    pub(crate) fn peek(self) -> &'d str {
        &self.element().text
    }

    /// The first child of a name.
    #[must_use]
    pub fn child(self, name: &str) -> Option<Self> {
        self.children().find(|c| c.is(name))
    }

    /// All children of a name as if they were one: its attributes and children are theirs.
    #[must_use]
    pub fn child_merged(self, name: &str) -> Option<Self> {
        let extent = Extent::Merged;
        self.child(name).map(|c| Self { extent, ..c })
    }

    /// All children.
    pub fn children(self) -> impl Iterator<Item = Self> {
        self.parts().flat_map(|part| {
            let first = part.at(part.element().first_child);
            std::iter::successors(first, |c| c.at(c.element().next))
        })
    }

    /// The elements it stands for.
    fn parts(self) -> impl Iterator<Item = Self> {
        std::iter::successors(Some(self), move |part| match self.extent {
            Extent::One => None,
            Extent::Merged => {
                let next = |c: &Self| c.at(c.element().next);
                let mut later = std::iter::successors(next(part), next);
                later.find(|c| c.element().qname == self.element().qname)
            }
        })
    }

    /// All children of a name.
    pub fn children_named(self, name: &str) -> impl Iterator<Item = Self> {
        self.children().filter(move |c| c.is(name))
    }

    /// The element this one is in.
    #[must_use]
    pub fn parent(self) -> Option<Self> {
        (self.index != 0).then(|| Self {
            document: self.document,
            index: self.element().parent,
            extent: Extent::One,
        })
    }

    /// Which form of the document is read.
    #[must_use]
    pub const fn flags(self) -> ParseFlags {
        self.document.flags
    }

    /// Whether a field is part of this form.
    #[must_use]
    pub const fn reads(self, when: crate::When) -> bool {
        when.reads(self.document.flags)
    }

    /// The element's own piece of the text, from its start tag to its end tag.
    #[must_use]
    pub fn source(self) -> &'d str {
        let text = self.document.text;
        text.get(self.element().span.clone()).unwrap_or_default()
    }
}
