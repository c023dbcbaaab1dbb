//! Storing, forgetting and renaming guests.

use std::{path::PathBuf, sync::Arc};

use crate::{
    domain::{
        Domain, Edit, Effects, GONE, Stored, View,
        jobs::{Kind, Want},
    },
    error::{Error, Result},
    ops::{
        Conditions, Driver,
        document::plan,
        holdings::helper::tpm,
        operation::{self, Ask, Context, Operation},
    },
};

/// libvirt's lifecycle events and details.
const DEFINED: i32 = 0;
const UNDEFINED: i32 = 1;
const DEFINED_ADDED: i32 = 0;
const DEFINED_UPDATED: i32 = 1;
const DEFINED_RENAMED: i32 = 2;
const UNDEFINED_REMOVED: i32 = 0;
const UNDEFINED_RENAMED: i32 = 1;

/// Stores a document as a guest's configuration.
///
/// # Errors
/// What is wrong with the document, or who has its name or UUID.
pub async fn define(
    driver: &Arc<Driver>,
    xml: String,
    validate: bool,
    conditions: &Conditions,
) -> Result<Arc<View>> {
    let planned = plan::from_text(driver, xml, validate).await?;
    let (uuid, name) = plan::identity(&planned.domain)?;
    let document = readable(&planned.domain)?;
    if conditions.trial {
        return trial(driver, uuid, &name, document, conditions);
    }
    loop {
        let domain = driver.registry.claim(uuid, &name)?;
        match store(&domain, Arc::clone(&document), conditions.clone()).await {
            // The guest of that name left in this moment: it is a new one now.
            Err(error) if error.reason == Some(GONE) => {}
            other => return other,
        }
    }
}

/// A document's text, which is known to read back: what is stored must be readable for ever.
fn readable(domain: &domxml::Domain) -> Result<Arc<Stored>> {
    let document = Stored::new(domain);
    document.domain().map_err(|error| {
        let said = format!("the document would not be readable once stored: {error}");
        Error::internal(said).caused_by(error)
    })?;
    Ok(document)
}

async fn store(domain: &Domain, document: Arc<Stored>, conditions: Conditions) -> Result<Arc<View>> {
    domain
        .commit(move |view| {
            if view.exists() {
                conditions.check(view)?;
            }
            let detail = if view.config.is_some() {
                DEFINED_UPDATED
            } else {
                DEFINED_ADDED
            };
            view.config = Some(document);
            Ok(Effects::none().lifecycle(DEFINED, detail))
        })
        .await
}

/// What `define` would answer.
fn trial(
    driver: &Driver,
    uuid: uuid::Uuid,
    name: &str,
    document: Arc<Stored>,
    conditions: &Conditions,
) -> Result<Arc<View>> {
    let mut view = match (driver.registry.by_uuid(uuid), driver.registry.by_name(name)) {
        (Ok(domain), Ok(other)) if domain.uuid() == other.uuid() => {
            let view = domain.view();
            conditions.check(&view)?;
            View::clone(&view)
        }
        (Err(_), Err(_)) => View::new(uuid, name.into(), 0),
        _ => return Err(driver.registry.clash(uuid, name)),
    };
    view.config = Some(document);
    Ok(Arc::new(view))
}

/// What goes with the configuration when a guest is forgotten, or explicitly stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct Undefine {
    /// Remove the image of a managed save.
    pub managed_save: bool,
    /// Forget its snapshots.
    pub snapshots: bool,
    /// Forget its checkpoints.
    pub checkpoints: bool,
    /// Remove the firmware's variables.
    pub nvram: bool,
    /// Keep the firmware's variables.
    pub keep_nvram: bool,
    /// Remove the state of the emulated TPM.
    pub tpm: bool,
    /// Keep it.
    pub keep_tpm: bool,
}

/// Forgets a guest's configuration. A guest that runs goes on.
///
/// # Errors
/// `OperationInvalid` if the guest has none, or has firmware variables and `what` does not say what to do with them.
pub async fn undefine(
    driver: &Arc<Driver>,
    domain: &Domain,
    what: Undefine,
    conditions: &Conditions,
) -> Result<()> {
    if what.nvram && what.keep_nvram {
        return Err(Error::invalid("cannot both keep and delete nvram"));
    }
    if what.tpm && what.keep_tpm {
        return Err(Error::invalid("cannot both keep and delete TPM"));
    }
    let operation = begin(driver, domain, "undefine", conditions).await?;
    let view = operation.view();
    let document = forgettable(&view, what)?;
    if operation.is_trial() {
        return Ok(());
    }
    let work = |context: Arc<Context>| {
        Box::pin(async move {
            let view = context.view();
            if view.managed_save {
                let store = context.driver().registry.store();
                store.remove_managed_save(&view.name).await?;
            }
            if let Some(path) = nvram_of(&document).filter(|_| what.nvram) {
                remove_nvram(path).await?;
            }
            let forget = move |view: &mut View| {
                view.config = None;
                (view.autostart, view.autostart_once) = (false, false);
                view.managed_save = false;
                Ok(Effects::none().lifecycle(UNDEFINED, UNDEFINED_REMOVED))
            };
            let view = context.commit_with(forget).await?;
            // A guest that runs still needs its TPM; that goes with the run then.
            if !view.active() {
                let state = tpm::Forget {
                    tpm: what.tpm,
                    keep_tpm: what.keep_tpm,
                };
                tpm::forget(context.driver(), view.uuid, &document, state).await;
            }
            Ok(())
        })
    };
    operation.carry_out(work).await
}

/// Begins an operation on what is stored of a guest.
async fn begin(
    driver: &Arc<Driver>,
    domain: &Domain,
    kind: &'static str,
    conditions: &Conditions,
) -> Result<Operation> {
    let ask = Ask {
        kind,
        job: Want::Plain(Kind::Modify),
        conditions,
    };
    Operation::begin(driver, domain, ask).await
}

/// The configuration of a guest that may be forgotten.
fn forgettable(view: &View, what: Undefine) -> Result<Arc<domxml::Domain>> {
    let Some(config) = &view.config else {
        return Err(Error::invalid("cannot undefine transient domain"));
    };
    // A document that can't be read says nothing of files, and must not keep its guest for ever.
    let document = config.domain().unwrap_or_else(|error| {
        tracing::warn!(guest = %view.name, %error, "forgetting a guest whose document can't be read");
        Arc::default()
    });
    let snapshots = view.snapshots.len();
    if snapshots > 0 && !view.active() && !what.snapshots {
        return Err(Error::invalid(format!(
            "cannot delete inactive domain with {snapshots} snapshots"
        )));
    }
    let checkpoints = view.checkpoints.len();
    if checkpoints > 0 && !view.active() && !what.checkpoints {
        return Err(Error::invalid(format!(
            "cannot delete inactive domain with {checkpoints} checkpoints"
        )));
    }
    if nvram_of(&document).is_some() && !view.active() && !what.nvram && !what.keep_nvram {
        return Err(Error::invalid("cannot undefine domain with nvram"));
    }
    if view.managed_save && !what.managed_save {
        return Err(Error::invalid(
            "Refusing to undefine while domain managed save image exists",
        ));
    }
    Ok(document)
}

/// The file of a guest's firmware variables, if there is one.
fn nvram_of(document: &domxml::Domain) -> Option<PathBuf> {
    plan::nvram_path(document).filter(|path| path.exists())
}

async fn remove_nvram(path: PathBuf) -> Result<()> {
    let remove = move || match std::fs::metadata(&path) {
        // What a document names as variables may be a device of the host.
        Ok(found) if !found.is_file() => Ok(()),
        _ => std::fs::remove_file(&path)
            .map_err(|e| Error::system(format_args!("failed to remove nvram: {}", path.display()), e)),
    };
    crate::blocking::file("removing the nvram", remove).await
}

/// Removes the image of a guest's managed save: its next start boots.
///
/// # Errors
/// `System` if there is none, or it can't be removed.
pub async fn remove_managed_save(
    driver: &Arc<Driver>,
    domain: &Domain,
    conditions: &Conditions,
) -> Result<Arc<View>> {
    let operation = begin(driver, domain, "remove-managed-save", conditions).await?;
    if operation.is_trial() {
        return Ok(operation.view());
    }
    let work = |context: Arc<Context>| {
        Box::pin(async move {
            let store = context.driver().registry.store();
            store.remove_managed_save(&context.view().name).await?;
            let gone = |view: &mut View| {
                view.managed_save = false;
                Ok(Effects::none())
            };
            context.commit_with(gone).await
        })
    };
    operation.carry_out(work).await
}

/// Gives a guest that is shut off another name.
///
/// # Errors
/// `OperationInvalid` if the guest runs or is transient, or the name is taken; `Xml` if the name can't be one.
pub async fn rename(
    driver: &Arc<Driver>,
    domain: &Domain,
    new_name: String,
    conditions: &Conditions,
) -> Result<Arc<View>> {
    plan::check_name(&new_name)?;
    operation::retrying(|| Box::pin(try_rename(driver, domain, new_name.clone(), conditions))).await
}

async fn try_rename(
    driver: &Arc<Driver>,
    domain: &Domain,
    new_name: String,
    conditions: &Conditions,
) -> Result<Arc<View>> {
    let operation = begin(driver, domain, "rename", conditions).await?;
    let view = operation.view();
    let edit = renaming(&view, &new_name)?;
    driver.registry.reserve_name(view.uuid, &new_name)?;
    if operation.is_trial() {
        driver.registry.release_name(&new_name);
        return Ok(view);
    }
    let work = |context: Arc<Context>| {
        Box::pin(async move {
            let name = new_name.clone();
            let change = move |view: &mut View| {
                edit.apply(view)?;
                view.name = new_name.into();
                Ok(Effects::none()
                    .lifecycle(UNDEFINED, UNDEFINED_RENAMED)
                    .lifecycle(DEFINED, DEFINED_RENAMED))
            };
            let registry = &context.driver().registry;
            let renamed = context.commit_with(change).await;
            renamed.inspect_err(|_| registry.release_name(&name))
        })
    };
    operation.carry_out(work).await
}

/// The stored document under another name.
fn renaming(view: &View, new_name: &str) -> Result<Edit> {
    if view.active() {
        return Err(Error::invalid("cannot rename active domain"));
    }
    let Some(config) = &view.config else {
        return Err(Error::invalid("cannot rename a transient domain"));
    };
    if view.managed_save {
        return Err(Error::invalid(
            "domain with a managed saved state can't be renamed",
        ));
    }
    if *view.name == *new_name {
        return Err(Error::new(
            crate::error::Code::InvalidArg,
            "Can't rename domain to itself",
        ));
    }
    let mut renamed = domxml::Domain::clone(&*config.domain()?);
    new_name.clone_into(&mut renamed.name);
    Ok(Edit::replacing(Arc::clone(config), Stored::new(&renamed)))
}
