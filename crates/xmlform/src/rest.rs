//! What an element has beside the fields of its struct.
//!
//! A file that several programs write may say more than one of them knows. A field with `rest` keeps it, so that
//! reading and writing the file again loses nothing.

use crate::{AnyXml, Error, Node, Writer, Xml};

/// The attributes and child elements that no other field of the struct names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rest {
    /// Attributes in document order.
    pub attrs: Vec<(String, String)>,
    /// Child elements in document order, with their names and prefixes.
    pub children: Vec<(String, AnyXml)>,
}

impl Rest {
    /// Reads what is not among the names that the struct knows.
    ///
    /// # Errors
    /// Never; the document was checked when it became a tree.
    pub fn read(node: Node<'_>, attrs: &[&str], children: &[&str]) -> Result<Self, Error> {
        let unknown = node
            .children()
            .filter(|child| !children.iter().any(|known| child.is(known)));
        let unknown = unknown.map(|child| Ok((child.qualified_name().to_owned(), AnyXml::read(child)?)));
        Ok(Self {
            attrs: node
                .attrs()
                .filter(|(name, _)| !attrs.contains(name))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            children: unknown.collect::<Result<_, Error>>()?,
        })
    }

    /// The first child element of a name.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<&AnyXml> {
        let found = self.children.iter().find(|(known, _)| known == name);
        found.map(|(_, child)| child)
    }

    /// Writes the attributes into the open tag.
    pub fn write_attrs(&self, w: &mut Writer) {
        for (name, value) in &self.attrs {
            w.attr_str(name, value);
        }
    }

    /// Writes the child elements.
    pub fn write_content(&self, w: &mut Writer) {
        for (name, child) in &self.children {
            w.element(name, child);
        }
    }
}
