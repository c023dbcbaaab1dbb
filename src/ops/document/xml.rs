//! A guest's document in the forms that clients ask for.

use std::sync::Arc;

use domxml::FormatFlags;

use crate::{
    domain::{Either, View},
    error::{Error, Result},
};

/// Which form.
#[derive(Clone, Copy, Debug, Default)]
pub struct Form {
    /// The stored configuration even if the guest runs.
    pub inactive: bool,
    /// With secrets.
    pub secure: bool,
    /// Fit for another host, and so with secrets.
    pub migratable: bool,
    /// With the CPU as the host would give it.
    pub update_cpu: bool,
}

/// The document of a guest. Answered from the view: it never waits for the guest.
///
/// # Errors
/// None for a guest that exists.
pub fn text(view: &View, form: Form) -> Result<Arc<str>> {
    // A migratable document of a running guest begins from the run, as libvirt's does.
    let document = if form.inactive {
        view.inactive()
    } else {
        view.current()
    };
    let document = document.ok_or_else(|| Error::internal("the domain has no document"))?;
    if form.migratable {
        return migratable(view, document);
    }
    let made_for_it = form.secure || form.inactive && document.is_live();
    if !made_for_it {
        return document.text();
    }
    let mut flags = FormatFlags::NONE;
    for (wanted, flag) in [
        (form.inactive, FormatFlags::INACTIVE),
        (form.secure, FormatFlags::SECURE),
    ] {
        if wanted {
            flags |= flag;
        }
    }
    Ok(document.format(flags)?.into())
}

/// The document for another host, which needs the secrets too.
fn migratable(view: &View, document: Either<'_>) -> Result<Arc<str>> {
    let run = view.run.as_ref().filter(|_| document.is_live());
    let mut shown = domxml::Domain::clone(&*document.domain()?);
    if document.is_live() {
        shown.drop_runtime();
    }
    shown.make_migratable(run.and_then(|run| run.status.cpu.as_ref()));
    let flags = FormatFlags::INACTIVE | FormatFlags::SECURE | FormatFlags::MIGRATABLE;
    Ok(shown.format(flags).into())
}
