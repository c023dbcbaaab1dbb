//! What QEMU would be run with: the text of `domxml-to-native`.

use std::sync::Arc;

use qemu_plan::{address::Age, command};

use crate::{
    domain::View,
    error::{Error, Result},
    ops::{Driver, document::plan},
};

/// For a client's document.
///
/// # Errors
/// What is wrong with it.
pub async fn of_text(driver: &Arc<Driver>, xml: String) -> Result<String> {
    text(driver, plan::from_text(driver, xml, false).await?)
}

/// For a guest: its stored configuration.
///
/// # Errors
/// What is wrong with it.
pub async fn of_guest(driver: &Arc<Driver>, view: &View) -> Result<String> {
    let document = view
        .inactive()
        .ok_or_else(|| Error::internal("the domain has no document"))?;
    text(
        driver,
        plan::complete(
            driver,
            Box::new(domxml::Domain::clone(&*document.domain()?)),
            Age::Known,
        )
        .await?,
    )
}

fn text(driver: &Driver, planned: plan::Planned) -> Result<String> {
    let mut domain = planned.domain;
    command::native::prepare(&mut domain, &planned.caps)?;
    let name = domain.name.clone();
    let resources =
        crate::ops::document::resources::native_resources(driver, &domain, &plan::short_name(-1, &name));
    Ok(command::build(&domain, &planned.caps, &resources)?.to_native())
}
