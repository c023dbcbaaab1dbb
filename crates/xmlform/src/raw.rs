//! XML that is kept as it is, such as `<metadata>`.
//!
//! libvirt prints it with libxml2, and so this follows libxml2: double quotes, declarations
//! before attributes, and indentation only where no text stands between elements. Blank text
//! between elements is dropped on reading, as libxml2 does.

use std::collections::BTreeSet;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use crate::lexical::resolve_entity;
use crate::{Node, Writer};

/// An element that is kept with everything in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawXml {
    /// Qualified name.
    pub name: String,
    /// Attributes in order, namespace declarations first.
    pub attrs: Vec<(String, String)>,
    /// What is in it.
    pub children: Vec<RawNode>,
}

/// A piece of kept XML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawNode {
    /// An element.
    Element(RawXml),
    /// Text, unescaped.
    Text(String),
    /// A CDATA section's content.
    CData(String),
    /// A comment's content.
    Comment(String),
    /// A processing instruction's content.
    Instruction(String),
}

impl RawXml {
    /// Keeps an element of a document. Prefixes it uses but does not declare are declared on it.
    #[must_use]
    pub fn of(node: Node<'_>) -> Self {
        node.keep();
        let mut kept = read(node.source()).unwrap_or_default();
        let mut missing = BTreeSet::new();
        kept.undeclared(&mut Vec::new(), &mut missing);
        // Of each prefix the innermost declaration counts.
        for outer in std::iter::successors(node.parent(), |n| n.parent()) {
            for (name, uri) in outer.attrs() {
                let prefix = name.strip_prefix("xmlns:").unwrap_or_default();
                if missing.remove(prefix) {
                    kept.attrs.insert(0, (name.to_owned(), uri.to_owned()));
                }
            }
        }
        kept
    }

    /// Reads one element with everything in it.
    ///
    /// # Errors
    /// When the text is not one well-formed element.
    pub fn parse(text: &str) -> Result<Self, crate::Error> {
        let document = crate::Document::parse(text, &[], crate::ParseFlags::NONE)?;
        Ok(Self::of(document.root()))
    }

    /// The attribute's value.
    #[must_use]
    pub fn attr(&self, name: &str) -> Option<&str> {
        let found = self.attrs.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The child elements.
    pub fn elements(&self) -> impl Iterator<Item = &Self> {
        self.children.iter().filter_map(|c| match c {
            RawNode::Element(element) => Some(element),
            _ => None,
        })
    }

    /// The namespace of the element itself, if it declares it.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        match self.name.split_once(':') {
            Some((prefix, _)) => self.attr(&format!("xmlns:{prefix}")),
            None => self.attr("xmlns"),
        }
    }

    /// Writes the element as a child.
    pub fn write(&self, w: &mut Writer) {
        let mut out = String::new();
        self.print(&mut out, w.depth(), Layout::Indented);
        w.line(&out);
    }

    /// The element as text of its own, `depth` levels deep.
    #[must_use]
    pub fn to_text(&self, depth: usize) -> String {
        let mut out = String::new();
        self.print(&mut out, depth, Layout::Indented);
        out
    }

    fn undeclared(&self, declared: &mut Vec<String>, missing: &mut BTreeSet<String>) {
        let known = declared.len();
        for (name, _) in &self.attrs {
            if let Some(prefix) = name.strip_prefix("xmlns:") {
                declared.push(prefix.to_owned());
            }
        }
        let names = std::iter::once(&self.name).chain(self.attrs.iter().map(|(n, _)| n));
        for name in names {
            let prefix = match name.split_once(':') {
                Some(("xmlns" | "xml", _)) => continue,
                Some((prefix, _)) => prefix,
                None => continue,
            };
            if !declared.iter().any(|d| d == prefix) {
                missing.insert(prefix.to_owned());
            }
        }
        for element in self.elements() {
            element.undeclared(declared, missing);
        }
        declared.truncate(known);
    }

    fn print(&self, out: &mut String, depth: usize, layout: Layout) {
        out.push('<');
        out.push_str(&self.name);
        for (name, value) in &self.attrs {
            out.push(' ');
            out.push_str(name);
            out.push_str("=\"");
            escape_attribute(out, value);
            out.push('"');
        }
        if self.children.is_empty() {
            out.push_str("/>");
            return;
        }
        out.push('>');
        let is_text = |c: &RawNode| matches!(c, RawNode::Text(_) | RawNode::CData(_));
        let inner = match self.children.iter().any(is_text) {
            true => Layout::Inline,
            false => layout,
        };
        for child in &self.children {
            inner.line(out, depth + 1);
            child.print(out, depth + 1, inner);
        }
        inner.line(out, depth);
        out.push_str("</");
        out.push_str(&self.name);
        out.push('>');
    }
}

impl RawNode {
    fn print(&self, out: &mut String, depth: usize, layout: Layout) {
        match self {
            Self::Element(element) => element.print(out, depth, layout),
            Self::Text(text) => escape_text(out, text),
            Self::CData(text) => wrap(out, "<![CDATA[", text, "]]>"),
            Self::Comment(text) => wrap(out, "<!--", text, "-->"),
            Self::Instruction(text) => wrap(out, "<?", text, "?>"),
        }
    }

    const fn is_text(&self) -> bool {
        matches!(self, Self::Text(_) | Self::CData(_))
    }
}

#[derive(Debug, Clone, Copy)]
enum Layout {
    Indented,
    Inline,
}

impl Layout {
    fn line(self, out: &mut String, depth: usize) {
        if matches!(self, Self::Indented) {
            out.push('\n');
            out.extend(std::iter::repeat_n("  ", depth));
        }
    }
}

fn wrap(out: &mut String, before: &str, text: &str, after: &str) {
    out.push_str(before);
    out.push_str(text);
    out.push_str(after);
}

fn escape_text(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\r' => out.push_str("&#13;"),
            c => out.push(c),
        }
    }
}

/// As libxml2 does for a document that states no encoding: beyond ASCII by number.
fn escape_attribute(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push_str("&#9;"),
            '\r' => out.push_str("&#13;"),
            c if c.is_ascii() => out.push(c),
            c => out.push_str(&format!("&#x{:X};", u32::from(c))),
        }
    }
}

/// Reads a piece that is known to be one well-formed element.
fn read(source: &str) -> Option<RawXml> {
    let mut reader = Reader::from_str(source);
    let mut open: Vec<RawXml> = Vec::new();
    loop {
        let event = reader.read_event().ok()?;
        let piece = match event {
            Event::Start(tag) => {
                open.push(element(&tag)?);
                continue;
            }
            Event::Empty(tag) => RawNode::Element(element(&tag)?),
            Event::End(_) => {
                let mut done = open.pop()?;
                if done.children.len() > 1 {
                    done.drop_blank();
                }
                RawNode::Element(done)
            }
            Event::Text(text) => RawNode::Text(text.xml10_content().ok()?.into_owned()),
            Event::GeneralRef(name) => {
                let c = resolve_entity(&name.decode().ok()?).ok()?;
                RawNode::Text(c.to_string())
            }
            Event::CData(text) => RawNode::CData(text.xml10_content().ok()?.into_owned()),
            Event::Comment(text) => RawNode::Comment(text.xml10_content().ok()?.into_owned()),
            Event::PI(text) => RawNode::Instruction(String::from_utf8(text.into_inner().into_owned()).ok()?),
            Event::Decl(_) | Event::DocType(_) => continue,
            Event::Eof => return None,
        };
        match (open.last_mut(), piece) {
            (None, RawNode::Element(root)) => return Some(root),
            (None, _) => {}
            (Some(parent), piece) => parent.append(piece),
        }
    }
}

impl RawXml {
    fn append(&mut self, piece: RawNode) {
        if let RawNode::Text(more) = &piece
            && let Some(RawNode::Text(text)) = self.children.last_mut()
        {
            text.push_str(more);
            return;
        }
        if !piece.is_text() {
            self.drop_blank();
        }
        self.children.push(piece);
    }

    /// Before another element: drops blank text, unless text came before it.
    fn drop_blank(&mut self) {
        let blank = |n: &RawNode| match n {
            RawNode::Text(t) => t.bytes().all(|b| b.is_ascii_whitespace()),
            _ => false,
        };
        let Some((last, before)) = self.children.split_last() else {
            return;
        };
        let mixed =
            before.first().is_some_and(RawNode::is_text) || before.last().is_some_and(RawNode::is_text);
        if blank(last) && !mixed {
            self.children.pop();
        }
    }
}

fn element(tag: &BytesStart<'_>) -> Option<RawXml> {
    let name = String::from_utf8(tag.name().as_ref().to_vec()).ok()?;
    let mut attrs = Vec::new();
    for attr in tag.attributes() {
        let attr = attr.ok()?;
        let key = String::from_utf8(attr.key.as_ref().to_vec()).ok()?;
        attrs.push((key, attr.unescape_value().ok()?.into_owned()));
    }
    attrs.sort_by_key(|(name, _)| !(name == "xmlns" || name.starts_with("xmlns:")));
    Some(RawXml {
        name,
        attrs,
        children: Vec::new(),
    })
}
