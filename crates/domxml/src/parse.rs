//! From text to [`Domain`] and back.

use xmlform::{Document, FormatFlags, ParseFlags, Writer, Xml};

use crate::qemu::NAMESPACE;
use crate::{Area, Domain, Error};

impl Domain {
    /// Reads a domain document.
    ///
    /// # Errors
    /// When it is not XML, its root is not `<domain>`, or a value is not of its type.
    pub fn parse(text: &str, flags: ParseFlags) -> Result<Self, Error> {
        read_root(text, "domain", flags)
    }

    /// The document, in the given form.
    #[must_use]
    pub fn format(&self, flags: FormatFlags) -> String {
        let mut w = Writer::new(flags);
        w.element("domain", self);
        w.finish()
    }
}

/// Reads a document whose root has a name.
pub(crate) fn read_root<T: Xml>(text: &str, name: &str, flags: ParseFlags) -> Result<T, Error> {
    let document = Document::parse(text, &[NAMESPACE], flags)?;
    let root = document.root();
    if !root.is(name) {
        let found = root.name();
        let message = format!("expecting root element of '{name}', not '{found}'");
        return Err(Error::xml(message).in_area(Area::Xml));
    }
    Ok(T::read(root)?)
}
