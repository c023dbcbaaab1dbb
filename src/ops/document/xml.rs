//! A guest's document in the forms that clients ask for.

use std::{path::Path, sync::Arc};

use domxml::FormatFlags;
use qemu_plan::{command::cpu, postparse::drop_generated_paths};

use crate::{
    domain::{Either, View},
    error::{Area, Error, Result},
    ops::{
        Driver,
        document::{config, plan},
    },
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
/// None for a guest that exists, but that its emulator can't be asked what CPU it would give.
pub async fn text(driver: &Driver, view: &View, form: Form) -> Result<Arc<str>> {
    // A migratable document of a running guest begins from the run, as libvirt's does.
    let document = if form.inactive {
        view.inactive()
    } else {
        view.current()
    };
    let document = document.ok_or_else(|| Error::internal("the domain has no document"))?;
    let given = match (form.update_cpu || form.migratable) && !document.is_live() {
        true => {
            let again = *plan::again(driver, &*document.domain()?).await?;
            Some(match form.update_cpu {
                true => with_cpu(driver, again).await?,
                false => again,
            })
        }
        false => None,
    };
    if form.migratable {
        return migratable(driver, view, document, given);
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
    if let Some(shown) = given {
        return Ok(shown.format(flags | FormatFlags::INACTIVE).into());
    }
    let made_for_it = form.secure || form.inactive && document.is_live();
    if !made_for_it {
        return document.text();
    }
    Ok(document.format(flags)?.into())
}

/// A stored document with the CPU that the host would give it now.
async fn with_cpu(driver: &Driver, mut stored: domxml::Domain) -> Result<domxml::Domain> {
    if let Some(model) = cpu::unknown_model(&stored) {
        return Err(Error::internal(format!("Unknown CPU model {model}")).in_area(Area::Cpu));
    }
    if !stored.cpu.as_ref().is_some_and(cpu::depends_on_host) {
        return Ok(stored);
    }
    let emulator = stored.devices.emulator.as_deref().unwrap_or_default();
    let caps = driver.prober.caps(Path::new(emulator)).await?;
    if let Some(cpu) = cpu::updated(&stored, &caps) {
        stored.cpu = Some(cpu);
    }
    Ok(stored)
}

/// The document for another host, which needs the secrets too.
fn migratable(
    driver: &Driver,
    view: &View,
    document: Either<'_>,
    given: Option<domxml::Domain>,
) -> Result<Arc<str>> {
    let run = view.run.as_ref().filter(|_| document.is_live());
    let mut shown = match given {
        Some(given) => given,
        None => domxml::Domain::clone(&*document.domain()?),
    };
    if document.is_live() {
        shown.drop_runtime();
        let dirs = config::plan_config(driver).channel_dirs;
        drop_generated_paths(&mut shown.devices, &dirs);
    }
    shown.make_migratable(run.and_then(|run| run.status.cpu.as_ref()));
    let flags = FormatFlags::INACTIVE | FormatFlags::SECURE | FormatFlags::MIGRATABLE;
    Ok(shown.format(flags).into())
}
