//! XML to structs and back from one definition: reader, libvirt-style printer.
//!
//! `domxml` declares a struct an element and derives [`Xml`]; nobody writes a parser or a
//! formatter. The hard thing is that the bytes must be libvirt's: quotes, indentation,
//! escaping and the words of errors.

pub use xmlform_derive::{Xml, XmlEnum};

/// A value that is one XML element. The element's name belongs to the field that holds it.
pub trait Xml: Sized {
    /// Reads the value from an element.
    fn read(node: Node<'_>) -> Result<Self, Error>;
    /// Writes the attributes into the open tag.
    fn write_attrs(&self, w: &mut Writer);
    /// Writes the children, or the text.
    fn write_content(&self, w: &mut Writer);
}

/// A scalar, in an attribute or in an element's text.
pub trait Value: Sized {
    /// Reads the value from unescaped text.
    fn parse(s: &str) -> Result<Self, Expected>;
    /// Writes the value, escaped.
    fn write(&self, w: &mut Writer);
}

/// What a scalar should have been; empty when any word of a fixed list would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected(pub &'static str);

/// An element of a document.
#[derive(Debug, Clone, Copy)]
pub struct Node<'d>(&'d ());

/// Why a document cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error;

/// Output of a document.
#[derive(Debug, Default)]
pub struct Writer {
    out: String,
}

impl Writer {
    /// Appends text as it is.
    pub fn push(&mut self, s: &str) {
        self.out.push_str(s);
    }
}

/// Kept verbatim XML, such as `<metadata>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawXml(String);

/// Looks a word up in a table.
pub fn word<T: Copy>(s: &str, all: &[T], words: &[&str]) -> Result<T, Expected> {
    match words.iter().position(|w| *w == s).and_then(|i| all.get(i)) {
        Some(v) => Ok(*v),
        None => Err(Expected("")),
    }
}
