//! A change of a guest's documents, as a function that is applied to the newest ones.
//!
//! Made by operations, tried on copies before anything is done, and applied by the owner when it commits. The hard thing
//! is what happens in between: QEMU reports a tray, a balloon, a device that left, and each report changes the document.
//! An operation that put back the copy it had read would undo them, so an [`Edit`] holds no document, only what to do
//! with one.
//!
//! Where a whole stored document had to be completed by the planner, [`Edit::replacing`] names the document it was made
//! from and fails if another one has been stored since: the operation reads again.

use std::sync::Arc;

use super::{Document, Stored, View};
use crate::error::{Code, Error, Result};

/// The reason of the error for a stored document that was replaced while a change of it was prepared.
pub const STALE: &str = "CONFIG_CHANGED_MEANWHILE";

type Apply = dyn Fn(&mut domxml::Domain) -> Result<()> + Send + Sync;

/// What is done to one of the documents.
#[derive(Clone)]
enum Change {
    /// A function of the newest document.
    Apply(Arc<Apply>),
    /// Another stored document, made from `before`.
    Replace { before: Arc<Stored>, after: Arc<Stored> },
}

/// A change of the live document, the stored one, or both, in one commit.
#[derive(Clone, Default)]
pub struct Edit {
    live: Vec<Change>,
    stored: Vec<Change>,
}

impl Edit {
    /// Changes nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// A change of the live document.
    #[must_use]
    pub fn live(apply: impl Fn(&mut domxml::Domain) -> Result<()> + Send + Sync + 'static) -> Self {
        Self {
            live: vec![Change::Apply(Arc::new(apply))],
            stored: Vec::new(),
        }
    }

    /// A change of the stored document.
    #[must_use]
    pub fn stored(apply: impl Fn(&mut domxml::Domain) -> Result<()> + Send + Sync + 'static) -> Self {
        Self {
            live: Vec::new(),
            stored: vec![Change::Apply(Arc::new(apply))],
        }
    }

    /// Another stored document in the place of `before`.
    #[must_use]
    pub fn replacing(before: Arc<Stored>, after: Arc<Stored>) -> Self {
        Self {
            live: Vec::new(),
            stored: vec![Change::Replace { before, after }],
        }
    }

    /// Both changes, this one first.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.live.extend(other.live);
        self.stored.extend(other.stored);
        self
    }

    /// Tries the change on copies, so that a guest is told nothing that can't be written down.
    ///
    /// # Errors
    /// What the change gives; `OperationInvalid` if the guest has no such document.
    pub fn check(&self, view: &View) -> Result<()> {
        self.apply(&mut view.clone())
    }

    /// Applies the change to the documents of a view.
    ///
    /// # Errors
    /// As [`Self::check`]; reason [`STALE`] if the stored document was replaced meanwhile. The view is unusable then.
    pub fn apply(&self, view: &mut View) -> Result<()> {
        if !self.live.is_empty() {
            let run = view.run.as_mut().ok_or_else(Error::not_running)?;
            let mut document = domxml::Domain::clone(&run.document.domain);
            for change in &self.live {
                if let Change::Apply(apply) = change {
                    apply(&mut document)?;
                }
            }
            run.document = Document::live(document);
        }
        for change in &self.stored {
            let now = view.config.as_ref().ok_or_else(no_config)?;
            view.config = Some(match change {
                Change::Apply(apply) => {
                    let mut document = domxml::Domain::clone(&*now.domain()?);
                    apply(&mut document)?;
                    Stored::new(&document)
                }
                Change::Replace { before, after } if Arc::ptr_eq(before, now) => Arc::clone(after),
                Change::Replace { .. } => return Err(stale()),
            });
        }
        Ok(())
    }
}

impl std::fmt::Debug for Edit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edit")
            .field("live", &self.live.len())
            .field("stored", &self.stored.len())
            .finish()
    }
}

fn no_config() -> Error {
    Error::invalid("transient domains do not have any persistent config").in_area(crate::error::Area::Domain)
}

fn stale() -> Error {
    let message = "the stored configuration was changed by another call meanwhile; try again";
    Error::new(Code::OperationAborted, message).because(STALE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixture;

    fn title(domain: &mut domxml::Domain, title: &str) {
        domain.title = Some(title.to_owned());
    }

    #[test]
    fn an_edit_keeps_what_came_between_its_check_and_its_commit() {
        let mut view = fixture::running("<name>a</name><memory>1024</memory>");
        let edit = Edit::live(|d| {
            title(d, "new");
            Ok(())
        });
        edit.check(&view).unwrap();
        assert_eq!(view.run.as_ref().unwrap().document.domain.title, None);
        let reported = Edit::live(|d| {
            d.description = Some("reported meanwhile".to_owned());
            Ok(())
        });
        reported.apply(&mut view).unwrap();
        edit.apply(&mut view).unwrap();
        let document = &view.run.as_ref().unwrap().document.domain;
        assert_eq!(document.title.as_deref(), Some("new"));
        assert_eq!(document.description.as_deref(), Some("reported meanwhile"));
    }

    #[test]
    fn a_stored_document_that_was_replaced_meanwhile_is_not_replaced_again() {
        let mut view = fixture::defined("<name>a</name><memory>1024</memory>");
        let before = view.config.clone().unwrap();
        let mut other = domxml::Domain::clone(&*before.domain().unwrap());
        title(&mut other, "mine");
        let mine = Edit::replacing(Arc::clone(&before), Stored::new(&other));
        title(&mut other, "theirs");
        Edit::replacing(before, Stored::new(&other))
            .apply(&mut view)
            .unwrap();
        assert_eq!(mine.apply(&mut view).unwrap_err().reason, Some(STALE));
        let stored = view.config.as_ref().unwrap().domain().unwrap();
        assert_eq!(stored.title.as_deref(), Some("theirs"));
    }

    #[test]
    fn a_document_that_is_not_there_is_refused_before_anything_is_done() {
        let view = fixture::defined("<name>a</name><memory>1024</memory>");
        assert!(Edit::live(|_| Ok(())).check(&view).is_err());
        assert!(Edit::stored(|_| Ok(())).check(&view).is_ok());
    }
}
