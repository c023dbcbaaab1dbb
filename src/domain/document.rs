//! A guest's documents: of its run, kept as it is, and the stored one, kept as text.
//!
//! A host has many guests and few at work. What is stored of the others takes the room of its text and of the few facts
//! that lists and statistics show; it is parsed when an operation needs more, which takes less than a tenth of a millisecond.

use std::sync::{Arc, OnceLock};

use domxml::{FormatFlags, ParseFlags};

use super::facts::Facts;
use crate::error::Result;

/// The form that is kept.
const SECURE: FormatFlags = FormatFlags::SECURE.with(FormatFlags::INACTIVE);

/// The document of a run.
pub struct Document {
    /// The document itself.
    pub domain: Arc<domxml::Domain>,
    /// What lists show of it.
    pub facts: Facts,
    text: OnceLock<Arc<str>>,
}

impl Document {
    /// Keeps a document.
    pub fn live(domain: impl Into<Arc<domxml::Domain>>) -> Arc<Self> {
        let domain = domain.into();
        Arc::new(Self {
            facts: Facts::of(&domain),
            domain,
            text: OnceLock::new(),
        })
    }

    fn text(&self) -> Arc<str> {
        Arc::clone(self.text.get_or_init(|| self.format(FormatFlags::NONE).into()))
    }

    fn format(&self, flags: FormatFlags) -> String {
        let mut shown = domxml::Domain::clone(&self.domain);
        if flags.has(FormatFlags::INACTIVE) {
            // A run without a stored configuration.
            shown.drop_state();
            let secure = flags.has(FormatFlags::SECURE);
            let flags = if secure {
                FormatFlags::SECURE
            } else {
                FormatFlags::NONE
            };
            return shown.format(flags);
        }
        shown.devices.show_actual();
        shown.format(flags)
    }
}

/// A stored configuration.
pub struct Stored {
    /// What lists show of it.
    pub facts: Facts,
    /// The text with secrets, as the file has it.
    secure: Arc<str>,
    /// The text without them; the same text if there are none.
    plain: OnceLock<Arc<str>>,
}

impl Stored {
    /// Keeps a document's text.
    pub fn new(domain: &domxml::Domain) -> Arc<Self> {
        let secure = domain.format(SECURE).into();
        Arc::new(Self {
            facts: Facts::of(domain),
            secure,
            plain: OnceLock::new(),
        })
    }

    /// The document, parsed from its text.
    ///
    /// # Errors
    /// None that is known: the text was written by us. It is an error rather than a panic should that fail.
    pub fn domain(&self) -> Result<Arc<domxml::Domain>> {
        Ok(Arc::new(domxml::Domain::parse(
            &self.secure,
            ParseFlags::INACTIVE,
        )?))
    }

    /// The text with secrets.
    pub fn secure_text(&self) -> Arc<str> {
        Arc::clone(&self.secure)
    }

    fn text(&self) -> Result<Arc<str>> {
        if let Some(text) = self.plain.get() {
            return Ok(Arc::clone(text));
        }
        let domain = self.domain()?;
        let text = domain.format(FormatFlags::INACTIVE);
        // What was read again may say less than what was written: whether there are secrets is all that is asked here.
        let has_secrets =
            *text != *self.secure && text != domain.format(FormatFlags::INACTIVE | FormatFlags::SECURE);
        let text = if !has_secrets {
            Arc::clone(&self.secure)
        } else {
            text.into()
        };
        Ok(Arc::clone(self.plain.get_or_init(|| text)))
    }
}

/// One of a guest's documents.
#[derive(Clone, Copy)]
pub enum Either<'a> {
    /// Of the run.
    Live(&'a Arc<Document>),
    /// The stored one.
    Stored(&'a Arc<Stored>),
}

impl<'a> Either<'a> {
    /// What lists show of it.
    pub fn facts(self) -> &'a Facts {
        match self {
            Either::Live(document) => &document.facts,
            Either::Stored(stored) => &stored.facts,
        }
    }
    /// The document.
    ///
    /// # Errors
    /// As [`Stored::domain`].
    pub fn domain(self) -> Result<Arc<domxml::Domain>> {
        match self {
            Either::Live(document) => Ok(Arc::clone(&document.domain)),
            Either::Stored(stored) => stored.domain(),
        }
    }
    /// The text without secrets; formatted once.
    ///
    /// # Errors
    /// As [`Stored::domain`].
    pub fn text(self) -> Result<Arc<str>> {
        match self {
            Either::Live(document) => Ok(document.text()),
            Either::Stored(stored) => stored.text(),
        }
    }
    /// The text in another form.
    ///
    /// # Errors
    /// As [`Stored::domain`].
    pub fn format(self, flags: FormatFlags) -> Result<String> {
        match self {
            Either::Live(document) => Ok(document.format(flags)),
            Either::Stored(stored) if flags | FormatFlags::INACTIVE == SECURE => {
                Ok(stored.secure_text().to_string())
            }
            Either::Stored(stored) => Ok(stored.domain()?.format(flags | FormatFlags::INACTIVE)),
        }
    }
    /// Whether both are the same document of the same guest.
    pub fn is_live(self) -> bool {
        matches!(self, Either::Live(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_shown_as_it_was_written() {
        let mut drive = domxml::Domain::given(
            "<domain type='qemu'><name>a</name><os><type>hvm</type></os><devices><disk type='block' device='cdrom'>\
             <source/><target dev='sda'/></disk></devices></domain>",
        )
        .unwrap();
        drive.devices.disks[0].source = None;
        let stored = Stored::new(&drive);
        for text in [stored.secure_text(), stored.text().unwrap()] {
            assert!(text.contains("<disk type='block' device='cdrom'>"), "{text}");
        }
    }
}
