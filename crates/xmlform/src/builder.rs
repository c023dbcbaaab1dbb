//! From the tokenizer's events to the tree: nesting, names, limits.

use std::borrow::Cow;
use std::ops::Range;

use quick_xml::Reader;
use quick_xml::events::{BytesEnd, BytesStart, Event};

use crate::document::{Document, Element, NONE, Namespace};
use crate::lexical::{
    attribute_fault, attribute_value, cdata, check_characters, is_name, is_name_char, line_of, malformed,
    position, resolve, slice_of,
};
use crate::{Error, ParseFlags};

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

/// Reads a document.
pub(crate) fn build<'a>(
    text: &'a str,
    namespaces: &[Namespace],
    flags: ParseFlags,
) -> Result<Document<'a>, Error> {
    if text.len() > MAX_BYTES {
        return Err(Error::malformed("document is too large"));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder {
        document: Document {
            text,
            elements: Vec::with_capacity(text.len() / 48 + 4),
            attrs: Vec::with_capacity(text.len() / 32 + 4),
            flags,
            marks: None,
            judged: false,
        },
        open: Vec::new(),
        scope: Vec::new(),
        namespaces: namespaces.to_vec(),
    };
    builder.run()?;
    Ok(builder.document)
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
            let attr = attr.map_err(|e| self.malformed(at + 1 + tag.len(), &attribute_fault(tag, &e)))?;
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
