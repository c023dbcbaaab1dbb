//! A schema in RELAX NG, and whether a document fits it.
//!
//! libvirt judges documents by its files of schema, wherever they are installed; so do we with the same files. What is
//! read of the language is all of its simple syntax and what libvirt's files use beside it: no mixed content, no parent
//! grammars, no external ones.
//!
//! A schema is a pattern; what is left of it after each event of the document (a start tag, an attribute, a text, an end
//! tag) is the derivative of the pattern by that event, as J. Clark describes the algorithm. The hard thing is that
//! derivatives grow: patterns that are equal are one ([`pattern::Patterns`]), and what would grow without end is given up.

mod compile;
mod datatype;
mod derive;
mod pattern;
mod regex;
mod validate;

use pattern::{Id, Patterns};

pub(super) use validate::Misfit;

/// A schema, read and put together.
#[derive(Debug, Clone)]
pub struct Grammar {
    patterns: Patterns,
    start: Id,
}

impl Grammar {
    /// Reads a schema. `read` gives the text of a file by the name that the schema calls it by.
    ///
    /// # Errors
    /// A file can't be read, or has something that is not understood, in words for a log.
    pub fn load(
        file: &str,
        read: &mut dyn FnMut(&str) -> std::result::Result<String, String>,
    ) -> Result<Self, String> {
        compile::load(file, read)
    }

    /// Whether a document fits; it is one without [`xmlform::Document::track`], or one of which no account is wanted.
    ///
    /// # Errors
    /// Where it does not, or that it is too intricate to say.
    pub fn check(&self, root: xmlform::Node<'_>) -> Result<(), Misfit> {
        validate::check(&self.patterns, self.start, root)
    }
}

#[cfg(test)]
mod tests;
