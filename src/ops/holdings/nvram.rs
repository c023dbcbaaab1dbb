//! The file of a guest's firmware variables: a copy of its template, made before anything has need of it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use domxml::{Domain, devices::StorageKind, os::Nvram};

use crate::{
    error::{Code, Error, Result},
    ops::{document::plan, host::identity::Identity},
};

/// A file of variables that is to be made.
#[derive(Debug)]
pub(crate) struct Copy {
    /// Where.
    pub(crate) path: PathBuf,
    template: String,
    identity: Identity,
}

/// What is to be made: nothing, if the guest has no variables, or has them and they are not to begin afresh.
///
/// # Errors
/// They can't be there, or there is no template that they can be made from.
pub(crate) fn missing(document: &Domain, identity: Identity, reset: bool) -> Result<Option<Copy>> {
    let Some(nvram) = document.os.nvram.as_ref() else {
        return Ok(None);
    };
    check_place(nvram, reset)?;
    let Some(path) = plan::nvram_path(document).filter(|path| reset || !path.exists()) else {
        return Ok(None);
    };
    let Some(template) = nvram.template.clone() else {
        let loader = document
            .os
            .loader
            .as_ref()
            .and_then(|loader| loader.path.as_deref());
        let loader = loader.unwrap_or_default();
        let message = format!("unable to find any master var store for loader: {loader}");
        return Err(Error::new(Code::OperationFailed, message));
    };
    // One that does not say is raw.
    let format = |said: &Option<String>| said.clone().unwrap_or_else(|| "raw".to_owned());
    if format(&nvram.template_format) != format(&nvram.format) {
        let message = "conversion of the nvram template to another target format is not supported";
        return Err(Error::new(Code::OperationUnsupported, message));
    }
    Ok(Some(Copy {
        path,
        template,
        identity,
    }))
}

impl Copy {
    /// Makes it, the guest's.
    ///
    /// # Errors
    /// `System`.
    pub(crate) fn make(&self) -> Result<()> {
        let copy = || {
            self.path.parent().map_or(Ok(()), fs::create_dir_all)?;
            let content = fs::read(&self.template)?;
            crate::domain::store::write(&self.path, &content, true)?;
            self.identity.give(&self.path)
        };
        copy().map_err(|e| {
            let (template, path) = (&self.template, self.path.display());
            Error::system(format_args!("cannot copy '{template}' to '{path}'"), e)
        })
    }
}

/// Refuses variables that are in no file where they can't be there, or can't begin afresh.
fn check_place(nvram: &Nvram, reset: bool) -> Result<()> {
    let kind = nvram.kind.unwrap_or(StorageKind::File);
    if reset && !matches!(kind, StorageKind::File | StorageKind::Block) {
        let text = format!(
            "resetting of nvram is not supported with nvram device backed by '{}'",
            kind.as_str()
        );
        return Err(Error::new(Code::OperationUnsupported, text));
    }
    let device = nvram.source.as_ref().and_then(|source| source.dev.as_deref());
    match device.filter(|device| kind == StorageKind::Block && !Path::new(device).exists()) {
        Some(device) => Err(Error::new(
            Code::InvalidArg,
            format!("'block' nvram backing device '{device}' doesn't exist"),
        )),
        None => Ok(()),
    }
}
