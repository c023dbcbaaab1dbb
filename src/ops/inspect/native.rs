//! What QEMU would be run with: the text of `domxml-to-native`.

use std::sync::Arc;

use qemu_plan::{address::Age, block::secrets_of, command};

use crate::{
    domain::View,
    error::{Error, Result},
    ops::{
        Driver,
        document::{
            plan,
            resources::{find_huge_pages, native_resources},
        },
        holdings::{
            helper::{screen, tpm::emulator as tpm, virtiofs},
            hostdev, listen,
            net::script,
            render_node,
            storage::{descriptors::Groups, secrets, volumes},
        },
        host::cpu,
        tuning::numa,
    },
    qemu::MasterKey,
};

/// For a client's document.
///
/// # Errors
/// What is wrong with it.
pub async fn of_text(driver: &Arc<Driver>, xml: String) -> Result<String> {
    text(driver, plan::from_text(driver, xml, false).await?).await
}

/// For a guest: its stored configuration.
///
/// # Errors
/// What is wrong with it.
pub async fn of_guest(driver: &Arc<Driver>, view: &View) -> Result<String> {
    let document = view
        .inactive()
        .ok_or_else(|| Error::internal("the domain has no document"))?;
    let document = Box::new(domxml::Domain::clone(&*document.domain()?));
    text(driver, plan::complete(driver, document, Age::Known).await?).await
}

/// What a start would find out of the host is found out, and what it would refuse is refused; nothing is taken.
async fn text(driver: &Arc<Driver>, planned: plan::Planned) -> Result<String> {
    let plan::Planned { mut domain, caps } = planned;
    let caps = caps.as_wanted_by(&domain)?;
    cpu::check(driver, &caps, &domain)?;
    let has_passed_cards = hostdev::has_passed_cards(&domain);
    command::native::prepare(&mut domain, &caps)?;
    listen::find(driver, &mut domain).await?;
    render_node::find(&mut domain, &caps).await?;
    domain
        .devices
        .disks
        .iter_mut()
        .for_each(command::disk::settle_cache);
    // Nobody has handed over descriptors for a guest that is only looked at.
    let none = Groups::default();
    none.named_by(domain.uuid.unwrap_or_default(), domain.devices.disks.iter().rev())?;
    let short_name = plan::short_name(-1, &domain.name);
    let mut resources = native_resources(driver, &domain, &short_name);
    let key = MasterKey::new().map_err(|error| Error::system("cannot make a key", error))?;
    for disk in domain.devices.disks.iter_mut().rev() {
        volumes::find_one(driver, disk).await?;
        let needs = secrets_of(disk, &resources);
        secrets::fetch_needed(driver, needs, &key, &mut resources).await?;
    }
    find_huge_pages(driver, &domain, &mut resources.dirs, &short_name).await?;
    hostdev::look(driver, &domain, has_passed_cards, &mut resources)?;
    let needs = command::needed_secrets(&domain, &caps, &resources)?;
    secrets::fetch_needed(driver, needs, &key, &mut resources).await?;
    tpm::look(&domain).await?;
    virtiofs::look(&domain).await?;
    screen::look(&domain).await?;
    numa::check(driver, &domain)?;
    domain.devices.interfaces.iter().try_for_each(script::look)?;
    let line = command::build(&domain, &caps, &resources)?;
    numa::check_modules(driver, &domain)?;
    Ok(line.to_native())
}
