//! A document as a tree that borrows from its text.
//!
//! The tree keeps elements, attributes and direct text; comments and the like are only there
//! for [`crate::RawXml`], which reads its piece of the text again. Size, depth and the number
//! of elements are bounded before anything is kept.

use std::borrow::Cow;
use std::ops::Range;

use quick_xml::Reader;
use quick_xml::events::attributes::AttrError;
use quick_xml::events::{BytesEnd, BytesRef, BytesStart, Event};

use crate::{Error, ParseFlags};

/// A namespace whose elements are known by a fixed prefix, whatever the document calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace {
    /// What the declaration says.
    pub uri: &'static str,
    /// What fields are named with (`child = "qemu:commandline"`).
    pub prefix: &'static str,
}

/// Most bytes of a document.
const MAX_BYTES: usize = 32 << 20;
/// Deepest nesting, libxml2's own limit.
const MAX_DEPTH: usize = 256;
/// Most elements and attributes together.
const MAX_NODES: usize = 1 << 17;
/// Most attributes of an element: duplicates are looked for one by one.
const MAX_ATTRS: usize = 256;
/// Most namespace declarations that hold at one place: names are resolved one by one.
const MAX_DECLARED: usize = 256;

/// A whole document.
#[derive(Debug)]
pub struct Document<'a> {
    text: &'a str,
    elements: Vec<Element<'a>>,
    attrs: Vec<(&'a str, Cow<'a, str>)>,
    flags: ParseFlags,
}

#[derive(Debug)]
struct Element<'a> {
    /// The name as it stands in the text.
    qname: &'a str,
    /// Canonical prefix; empty when there is none.
    prefix: &'a str,
    name: &'a str,
    text: Cow<'a, str>,
    attrs: Range<u32>,
    first_child: u32,
    last_child: u32,
    next: u32,
    parent: u32,
    span: Range<usize>,
}

/// No element; the root is nobody's child.
const NONE: u32 = 0;

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
    pub fn parse(
        text: &'a str,
        namespaces: &[Namespace],
        flags: ParseFlags,
    ) -> Result<Self, Error> {
        if text.len() > MAX_BYTES {
            return Err(Error::malformed("document is too large"));
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut builder = Builder {
            document: Self {
                text,
                elements: Vec::with_capacity(text.len() / 48 + 4),
                attrs: Vec::with_capacity(text.len() / 32 + 4),
                flags,
            },
            open: Vec::new(),
            scope: Vec::new(),
            namespaces: namespaces
                .iter()
                .map(|n| Namespace {
                    uri: n.uri,
                    prefix: n.prefix,
                })
                .collect(),
        };
        builder.run()?;
        Ok(builder.document)
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
        let element = self.element();
        if element.prefix.is_empty() {
            return element.name == name;
        }
        let rest = name.strip_prefix(element.prefix);
        rest.and_then(|r| r.strip_prefix(':')) == Some(element.name)
    }

    /// The attribute's value, unescaped.
    #[must_use]
    pub fn attr(self, name: &str) -> Option<&'d str> {
        let of = |node: Self| node.attrs().find(|(n, _)| *n == name);
        let found = self.parts().find_map(of);
        found.map(|(_, value)| value)
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

struct Builder<'a> {
    document: Document<'a>,
    open: Vec<u32>,
    /// Declared prefixes, innermost last, with the depth they hold from.
    scope: Vec<Declared<'a>>,
    namespaces: Vec<Namespace>,
}

struct Declared<'a> {
    depth: usize,
    prefix: &'a str,
    known: Option<&'static str>,
}

impl<'a> Builder<'a> {
    fn run(&mut self) -> Result<(), Error> {
        let text = self.document.text;
        check_characters(text)?;
        let mut reader = Reader::from_str(text);
        reader.config_mut().check_end_names = false;
        loop {
            let start = position(&reader);
            let event = reader.read_event().map_err(|e| self.syntax(start, &e))?;
            let end = position(&reader);
            let piece = text.get(start..end).unwrap_or_default();
            match event {
                Event::Start(tag) => self.start(&tag, start, end)?,
                Event::Empty(tag) => {
                    self.start(&tag, start, end)?;
                    self.end(end);
                }
                Event::End(tag) => {
                    self.check_end(&tag, end)?;
                    self.end(end);
                }
                Event::Text(_) => self.text(Cow::Borrowed(piece), start)?,
                Event::CData(_) => self.text(Cow::Borrowed(cdata(piece)), start)?,
                Event::GeneralRef(reference) => {
                    let c = resolve(&reference).map_err(|m| self.malformed(start, &m))?;
                    self.text(Cow::Owned(c.to_string()), start)?;
                }
                Event::Eof => break,
                Event::Comment(_) | Event::PI(_) | Event::Decl(_) | Event::DocType(_) => {}
            }
        }
        match (self.open.is_empty(), self.document.elements.is_empty()) {
            (true, false) => Ok(()),
            (true, true) if text.is_empty() => {
                Err(Error::malformed("at line 1: Document is empty\n(null)\n^"))
            }
            (true, true) => Err(self.malformed(text.len(), "Start tag expected, '<' not found")),
            (false, _) => Err(self.unfinished()),
        }
    }

    /// What the tokenizer cannot read.
    fn syntax(&self, at: usize, error: &quick_xml::Error) -> Error {
        let text = self.document.text;
        let rest = text.get(at..).unwrap_or_default();
        let name: String = match rest.strip_prefix('<') {
            Some(tag) => tag.chars().take_while(|c| is_name_char(*c)).collect(),
            None => String::new(),
        };
        if name.is_empty() {
            return self.malformed(at, &error.to_string());
        }
        let line = line_of(text, at);
        let message = format!("Couldn't find end of Start Tag {name} line {line}");
        self.malformed(text.trim_end().len(), &message)
    }

    fn unfinished(&self) -> Error {
        let index = self.open.last().copied().unwrap_or_default();
        let element = &self.document.elements[index as usize];
        let line = line_of(self.document.text, element.span.start);
        let message = format!("Premature end of data in tag {} line {line}", element.qname);
        self.malformed(self.document.text.len(), &message)
    }

    fn start(&mut self, tag: &BytesStart<'_>, start: usize, end: usize) -> Result<(), Error> {
        if self.open.len() >= MAX_DEPTH {
            return Err(self.malformed(start, "Excessive depth in document: 256"));
        }
        if self.open.is_empty() && !self.document.elements.is_empty() {
            return Err(self.malformed(start, "Extra content at the end of the document"));
        }
        if self.document.elements.len() + self.document.attrs.len() > MAX_NODES {
            return Err(self.malformed(start, "too many elements"));
        }
        let name_start = start + 1;
        let name_end = name_start + tag.name().as_ref().len();
        let qname = self.document.text.get(name_start..name_end);
        let qname = qname.unwrap_or_default();
        if !is_name(qname) {
            return Err(self.malformed(start, "StartTag: invalid element name"));
        }
        let attrs = self.attributes(tag, start)?;
        let (prefix, name) = self.resolve_name(qname);
        let index = self.document.elements.len() as u32;
        let parent = self.open.last().copied().unwrap_or(NONE);
        self.document.elements.push(Element {
            qname,
            prefix,
            name,
            text: Cow::Borrowed(""),
            attrs,
            first_child: NONE,
            last_child: NONE,
            next: NONE,
            parent,
            span: start..end,
        });
        if index != 0 {
            self.link(parent, index);
        }
        self.open.push(index);
        Ok(())
    }

    fn check_end(&self, tag: &BytesEnd<'_>, at: usize) -> Result<(), Error> {
        let Some(index) = self.open.last() else {
            return Err(self.malformed(at, "Extra content at the end of the document"));
        };
        let element = &self.document.elements[*index as usize];
        if tag.name().as_ref() == element.qname.as_bytes() {
            return Ok(());
        }
        let line = line_of(self.document.text, element.span.start);
        let found = String::from_utf8_lossy(tag.name().as_ref()).into_owned();
        let message = format!(
            "Opening and ending tag mismatch: {} line {line} and {found}",
            element.qname
        );
        Err(self.malformed(at, &message))
    }

    fn link(&mut self, parent: u32, index: u32) {
        let elements = &mut self.document.elements;
        let last = std::mem::replace(&mut elements[parent as usize].last_child, index);
        if last == NONE {
            let parent = &mut elements[parent as usize];
            parent.first_child = index;
            // Only indentation, so not what the element says.
            if parent.text.bytes().all(|b| b.is_ascii_whitespace()) {
                parent.text = Cow::Borrowed("");
            }
        } else {
            elements[last as usize].next = index;
        }
    }

    fn end(&mut self, end: usize) {
        if let Some(index) = self.open.pop() {
            self.document.elements[index as usize].span.end = end;
        }
        let depth = self.open.len();
        while self.scope.last().is_some_and(|d| d.depth >= depth) {
            self.scope.pop();
        }
    }

    fn attributes(&mut self, tag: &BytesStart<'_>, at: usize) -> Result<Range<u32>, Error> {
        let first = self.document.attrs.len();
        let whole = self.document.text;
        // The tag's bytes lie in the text, behind the `<`: offsets give slices that outlive it.
        let base = at + 1;
        let bytes: &[u8] = tag;
        for attr in tag.attributes() {
            let attr =
                attr.map_err(|e| self.malformed(at + 1 + tag.len(), &attribute_fault(tag, &e)))?;
            let name = slice_of(whole, base, bytes, attr.key.as_ref());
            let value = match &attr.value {
                Cow::Borrowed(value) => slice_of(whole, base, bytes, value),
                Cow::Owned(_) => None,
            };
            let (Some(name), Some(value)) = (name, value) else {
                return Err(self.malformed(at, "attributes construct error"));
            };
            if value.contains('<') {
                return Err(self.malformed(
                    at,
                    &format!("Unescaped '<' not allowed in attributes values of '{name}'"),
                ));
            }
            let value = attribute_value(value).map_err(|m| self.malformed(at, &m))?;
            self.declare(name, &value);
            self.document.attrs.push((name, value));
            let count = self.document.attrs.len() - first;
            if count > MAX_ATTRS || self.scope.len() > MAX_DECLARED {
                return Err(self.malformed(at, "too many attributes or namespaces"));
            }
        }
        Ok(first as u32..self.document.attrs.len() as u32)
    }

    fn declare(&mut self, name: &'a str, value: &str) {
        let prefix = match name.strip_prefix("xmlns") {
            Some("") => "",
            Some(rest) => match rest.strip_prefix(':') {
                Some(prefix) => prefix,
                None => return,
            },
            None => return,
        };
        let known = self.namespaces.iter().find(|n| n.uri == value);
        self.scope.push(Declared {
            depth: self.open.len(),
            prefix,
            known: known.map(|n| n.prefix),
        });
    }

    fn resolve_name(&self, qname: &'a str) -> (&'a str, &'a str) {
        let (prefix, name) = qname.split_once(':').unwrap_or(("", qname));
        if self.scope.is_empty() && prefix.is_empty() {
            return ("", qname);
        }
        let declared = self.scope.iter().rev().find(|d| d.prefix == prefix);
        match declared.map(|d| d.known) {
            Some(Some(known)) => (known, name),
            _ if prefix.is_empty() => ("", name),
            // Not a prefix any field can ask for.
            _ => ("?", name),
        }
    }

    fn text(&mut self, piece: Cow<'a, str>, at: usize) -> Result<(), Error> {
        let blank = piece.bytes().all(|b| b.is_ascii_whitespace());
        let Some(index) = self.open.last() else {
            return if blank {
                Ok(())
            } else if self.document.elements.is_empty() {
                Err(self.malformed(at, "Start tag expected, '<' not found"))
            } else {
                Err(self.malformed(at, "Extra content at the end of the document"))
            };
        };
        let element = &mut self.document.elements[*index as usize];
        if blank && element.first_child != NONE {
            return Ok(());
        }
        let piece = match piece.contains('\r') {
            true => Cow::Owned(piece.replace("\r\n", "\n").replace('\r', "\n")),
            false => piece,
        };
        if element.text.is_empty() {
            element.text = piece;
        } else {
            element.text.to_mut().push_str(&piece);
        }
        Ok(())
    }

    fn malformed(&self, at: usize, message: &str) -> Error {
        malformed(self.document.text, at, message)
    }
}

fn position(reader: &Reader<&[u8]>) -> usize {
    usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX)
}

/// libxml2's three lines: place and message, the line itself, and a pointer to the column.
fn malformed(text: &str, at: usize, message: &str) -> Error {
    let at = at.min(text.len());
    let before = text.as_bytes().get(..at).unwrap_or_default();
    let line = line_of(text, at);
    let from = before
        .iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |i| i + 1);
    let shown = text.get(from..).unwrap_or_default();
    let shown = shown.lines().next().unwrap_or_default();
    let shown: String = shown.chars().take(80).collect();
    let column = (at - from).min(shown.len());
    Error::malformed(format!(
        "at line {line}: {message}\n{shown}\n{:-<column$}^",
        ""
    ))
}

/// Lines count from 1.
fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or_default();
    before.iter().filter(|b| **b == b'\n').count() + 1
}

fn check_characters(text: &str) -> Result<(), Error> {
    let bad = |b: &u8| *b < 0x20 && !matches!(*b, b'\t' | b'\n' | b'\r');
    match text.as_bytes().iter().position(bad) {
        None => Ok(()),
        Some(at) => {
            let value = text.as_bytes()[at];
            Err(malformed(
                text,
                at,
                &format!("PCDATA invalid Char value {value}"),
            ))
        }
    }
}

fn is_name(name: &str) -> bool {
    let start = |c: char| c.is_alphabetic() || c == '_' || c == ':';
    name.starts_with(start) && name.chars().all(is_name_char)
}

fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | ':' | '-' | '.' | '\u{b7}')
}

fn attribute_fault(tag: &BytesStart<'_>, error: &AttrError) -> String {
    match error {
        AttrError::Duplicated(at, _) => {
            let rest = tag.get(*at..).unwrap_or_default();
            let end = |b: &u8| *b == b'=' || b.is_ascii_whitespace();
            let name = rest.split(end).next().unwrap_or_default();
            format!("Attribute {} redefined", String::from_utf8_lossy(name))
        }
        AttrError::UnquotedValue(_) | AttrError::ExpectedValue(_) => {
            "AttValue: \" or ' expected".to_owned()
        }
        AttrError::ExpectedEq(_) => "Specification mandates value for attribute".to_owned(),
        AttrError::ExpectedQuote(..) => "AttValue: ' expected".to_owned(),
    }
}

/// The same bytes in the whole text.
fn slice_of<'a>(whole: &'a str, base: usize, tag: &[u8], part: &[u8]) -> Option<&'a str> {
    let offset = (part.as_ptr() as usize).checked_sub(tag.as_ptr() as usize)?;
    let start = base.checked_add(offset)?;
    whole.get(start..start + part.len())
}

fn cdata(piece: &str) -> &str {
    let inner = piece.strip_prefix("<![CDATA[").unwrap_or(piece);
    inner.strip_suffix("]]>").unwrap_or(inner)
}

fn resolve(reference: &BytesRef<'_>) -> Result<char, String> {
    let name = reference.decode().map_err(|e| e.to_string())?;
    resolve_entity(&name)
}

/// One of the five named entities, or a character's number.
pub(crate) fn resolve_entity(name: &str) -> Result<char, String> {
    let code = match name {
        "lt" => return Ok('<'),
        "gt" => return Ok('>'),
        "amp" => return Ok('&'),
        "apos" => return Ok('\''),
        "quot" => return Ok('"'),
        _ => name.strip_prefix('#'),
    };
    let Some(code) = code else {
        return Err(format!("Entity '{name}' not defined"));
    };
    let number = match code.strip_prefix('x') {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => code.parse(),
    };
    let c = number.ok().and_then(char::from_u32);
    c.filter(|c| *c >= ' ' || matches!(c, '\t' | '\n' | '\r'))
        .ok_or_else(|| format!("xmlParseCharRef: invalid xmlChar value {code}"))
}

/// An attribute's value: white space normalised, references resolved.
fn attribute_value(raw: &str) -> Result<Cow<'_, str>, String> {
    if !raw.bytes().any(|b| b == b'&' || b < b' ') {
        return Ok(Cow::Borrowed(raw));
    }
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find(['&', '\t', '\n', '\r']) {
        out.push_str(&rest[..at]);
        let tail = &rest[at..];
        if let Some(entity) = tail.strip_prefix('&') {
            let Some((name, after)) = entity.split_once(';') else {
                return Err("EntityRef: expecting ';'".to_owned());
            };
            out.push(resolve_entity(name)?);
            rest = after;
        } else {
            out.push(' ');
            rest = tail.strip_prefix("\r\n").unwrap_or(&tail[1..]);
        }
    }
    out.push_str(rest);
    Ok(Cow::Owned(out))
}
