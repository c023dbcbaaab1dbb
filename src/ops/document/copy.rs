//! A guest's document as points in time keep it: of its next start, were that now.

use std::sync::Arc;

use domxml::{ParseFlags, cpu::Cpu, devices::InterfaceKind};
use qemu_plan::address::Age;

use super::{plan, xml};
use crate::{domain::View, error::Result, ops::Driver};

/// The document of the run, as another host would be given it, or the stored one.
///
/// # Errors
/// The guest has no document, or it can't be completed.
pub(crate) async fn of_next_start(driver: &Arc<Driver>, view: &View) -> Result<Box<domxml::Domain>> {
    let form = xml::Form {
        migratable: true,
        ..xml::Form::default()
    };
    let text = xml::text(driver, view, form).await?;
    let document = Box::new(domxml::Domain::parse(&text, ParseFlags::INACTIVE)?);
    Ok(plan::complete(driver, document, Age::Known).await?.domain)
}

/// The CPU with everything that QEMU gave it, as what is saved of a run must know it. Its NUMA nodes are the document's.
pub(crate) fn cpu_of_run(document: &domxml::Domain) -> Option<Cpu> {
    let mut cpu = document.cpu.clone()?;
    cpu.numa = None;
    Some(cpu)
}

/// Whether user networks go along when memory is restored elsewhere: QEMU's own do not.
pub(crate) fn user_networks_go_along(document: &domxml::Domain) -> bool {
    let mut interfaces = document.devices.interfaces.iter();
    !interfaces.any(|card| card.kind == InterfaceKind::User)
}
