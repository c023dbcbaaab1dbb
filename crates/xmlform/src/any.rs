//! An element that no struct describes, written in the usual layout.
//!
//! Unlike [`crate::RawXml`] it is not verbatim: attributes, children and text are kept, and
//! come out as the printer writes everything else.

use crate::{Error, Node, Writer, Xml};

/// What is in an element.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnyXml {
    /// Attributes in order.
    pub attrs: Vec<(String, String)>,
    /// Child elements in order, with their local names.
    pub children: Vec<(String, AnyXml)>,
    /// Text of an element without children.
    pub text: String,
}

impl AnyXml {
    /// The attribute's value.
    #[must_use]
    pub fn attr(&self, name: &str) -> Option<&str> {
        let found = self.attrs.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The first child of a name.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<&Self> {
        let found = self.children.iter().find(|(n, _)| n == name);
        found.map(|(_, child)| child)
    }
}

impl Xml for AnyXml {
    fn read(node: Node<'_>) -> Result<Self, Error> {
        node.keep();
        let attrs = node.attrs().map(|(n, v)| (n.to_owned(), v.to_owned()));
        let children = node.children().map(|c| {
            let child = Self::read(c)?;
            Ok((c.name().to_owned(), child))
        });
        Ok(Self {
            attrs: attrs.collect(),
            children: children.collect::<Result<_, Error>>()?,
            text: node.text().to_owned(),
        })
    }

    fn write_attrs(&self, w: &mut Writer) {
        for (name, value) in &self.attrs {
            w.attr_str(name, value);
        }
    }

    fn write_content(&self, w: &mut Writer) {
        for (name, child) in &self.children {
            w.element(name, child);
        }
        if self.children.is_empty() {
            w.text::<crate::codec::Plain, String>(&self.text);
        }
    }
}
