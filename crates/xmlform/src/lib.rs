//! XML to structs and back from one definition: reader, libvirt-style printer.
//!
//! `domxml` declares a struct an element and derives [`Xml`]; nobody writes a parser or a
//! formatter. The hard thing is that the bytes must be libvirt's: quotes, indentation,
//! escaping and the words of errors.
//!
//! A document becomes a tree that borrows from its text ([`Document`]), so fields look up what
//! they need in any order; output is streamed ([`Writer`]). The derive emits one call a field.
//!
//! ```
//! use xmlform::{Document, FormatFlags, ParseFlags, Writer, Xml, XmlEnum};
//!
//! #[derive(XmlEnum, Clone, Copy, Debug, PartialEq, Eq)]
//! enum Bus {
//!     #[xml("virtio")]
//!     Virtio,
//!     #[xml("scsi")]
//!     Scsi,
//! }
//!
//! #[derive(Xml, Clone, Debug, Default, PartialEq)]
//! struct Target {
//!     #[xml(attr)]
//!     dev: Option<String>,
//!     #[xml(attr)]
//!     bus: Option<Bus>,
//! }
//!
//! #[derive(Xml, Clone, Debug, Default, PartialEq)]
//! struct Disk {
//!     #[xml(attr)]
//!     r#type: Option<String>,
//!     #[xml(child)]
//!     target: Option<Target>,
//!     #[xml(flag)]
//!     readonly: bool,
//! }
//!
//! let text = "<disk type='file'>\n  <target dev='vda' bus='virtio'/>\n  <readonly/>\n</disk>\n";
//! let document = Document::parse(text, &[], ParseFlags::NONE)?;
//! let disk = Disk::read(document.root())?;
//! let mut writer = Writer::new(FormatFlags::NONE);
//! writer.element("disk", &disk);
//! assert_eq!(writer.finish(), text);
//! # Ok::<(), xmlform::Error>(())
//! ```
//!
//! # Fields
//!
//! | attribute | type | XML |
//! |---|---|---|
//! | `attr`, `attr = "n"` | `Option<T>`, `T` | attribute; `T` alone must be there |
//! | `child`, `child = "n"` | `Option<T>`, `T` | child element; left out when nothing is in it |
//! | `children = "n"` | `Vec<T>` | repeated child elements |
//! | `text_child` | `Option<T>`, `T`, `Vec<T>` | child element with text only |
//! | `attr = "n", wrap = "child"` | `Option<T>`, `T` | attribute of a child element that has nothing else |
//! | `text` | `Option<T>`, `T` | the element's own text |
//! | `flag` | `bool` | empty child element, there or not |
//! | `raw` | `Option<RawXml>` | child element kept as it is |
//! | `choice` | `Option<T>`, `Vec<T>` | children of several names, in document order ([`XmlChoice`]) |
//! | `flatten` | `T` | the fields of another struct |
//! | `rest` | [`Rest`] | attributes and children that no other field names; not beside `choice` or `flatten` |
//! | `skip` | any | not in the document |
//!
//! and beside them: `default` (an absent `T` is its default, and the default is not written
//! but for `always`),
//! `merge` (repeated children count as one, else the first counts), `keep_empty` (an empty child is written `<x/>`),
//! `paired` (one without children has its end tag on a line of its own), `format = "hex4"` (see [`codec`]),
//! `wrap = "devices"` (inside a group element), `when = "live"` (only in this form, see [`When`]),
//! `error = "unsupported configuration: unknown offset '{}'"` (what is said of a wrong or absent
//! value; see [`Error::worded`]), `missing = "..."` (what is said of an absent or empty one),
//! `blank` (an empty value counts as absent), `lax` (so does a wrong one).

mod any;
mod builder;
mod document;
mod error;
mod flags;
mod lexical;
mod marks;
mod raw;
mod rest;
mod value;
mod writer;

/// What the derive's output calls.
pub mod field;

pub mod codec;

pub use any::AnyXml;
pub use document::{Document, Namespace, Node};
pub use error::{Area, Error, ErrorKind};
pub use flags::{FormatFlags, ParseFlags, When};
pub use marks::{Unread, Unwanted};
pub use raw::{RawNode, RawXml};
pub use rest::Rest;
pub use value::{Expected, Value, word};
pub use writer::{Empty, Writer};
pub use xmlform_derive::{Xml, XmlChoice, XmlEnum};

/// A value that is one XML element. The element's name belongs to the field that holds it.
pub trait Xml: Sized {
    /// Reads the value from an element.
    ///
    /// # Errors
    /// When an attribute or a text is not of its type, or something required is absent.
    fn read(node: Node<'_>) -> Result<Self, Error>;
    /// Writes the attributes into the open tag.
    fn write_attrs(&self, w: &mut Writer);
    /// Writes the children, or the text.
    fn write_content(&self, w: &mut Writer);
}

/// A value that is an element of one of several names.
pub trait XmlChoice: Sized {
    /// Reads an element, or `None` when its name is not one of the choice.
    ///
    /// # Errors
    /// As [`Xml::read`].
    fn read_choice(node: Node<'_>) -> Result<Option<Self>, Error>;
    /// Writes the element.
    fn write_choice(&self, w: &mut Writer);
}

impl<T: Xml> Xml for Box<T> {
    fn read(node: Node<'_>) -> Result<Self, Error> {
        T::read(node).map(Box::new)
    }
    fn write_attrs(&self, w: &mut Writer) {
        (**self).write_attrs(w);
    }
    fn write_content(&self, w: &mut Writer) {
        (**self).write_content(w);
    }
}
