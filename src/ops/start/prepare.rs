//! The first stage of a start: the document as the run will have it.

use std::sync::Arc;

use qemu_plan::{
    address::{self, Age},
    alias, block, command,
};

use super::{advice, label, live};
use crate::{
    error::Result,
    hooks::Script,
    ops::{
        Driver,
        document::{plan, prepared::Prepared, resources::line_config},
        holdings::{
            listen,
            storage::{chain, transient, volumes},
        },
        host::{self, identity::file_user_of},
    },
};

/// The first stage: nothing of the host is touched.
pub(super) async fn prepare(driver: &Arc<Driver>, document: Box<domxml::Domain>) -> Result<Prepared> {
    let planned = plan::complete(driver, document, Age::Known).await?;
    let mut document = planned.domain;
    address::connect_usb(&mut document.devices)?;
    let caps = planned.caps.as_wanted_by(&document)?;
    let cpu = document.cpu.clone();
    let id = driver.registry.new_id();
    document.id = Some(id);
    label::check(&document, driver.host.scope)?;
    advice::check(&document)?;
    host::cpu::check(driver, &caps, &document)?;
    listen::find(driver, &mut document).await?;
    let told = driver.hooks.has(Script::Qemu).then(|| document.clone());
    command::tls::settle(&mut document, &line_config(&driver.config()));
    command::memory::round_sizes(&mut document);
    alias::assign(&mut document.devices);
    document
        .devices
        .disks
        .iter_mut()
        .for_each(command::disk::settle_cache);
    volumes::find(driver, &mut document).await?;
    let as_user = file_user_of(&driver.config(), &document)?;
    let uuid = document.uuid.unwrap_or_default();
    let handed = driver
        .groups
        .named_by(uuid, document.devices.disks.iter().rev())?;
    let (document, next_node, missing) = crate::blocking::file("following the chains of images", move || {
        let missing = chain::without_missing(&mut document);
        let next = block::number_guest(&mut document, 1);
        chain::follow_all(&mut document, &as_user, &handed)?;
        let next_node = block::number_found(&mut document, next);
        let next_node = transient::put_on_all(&mut document, next_node);
        live::empty_drives(&mut document);
        block::name_guest(&mut document)?;
        block::number_sets_of_guest(&mut document, 0);
        Ok((document, next_node, missing))
    })
    .await?;
    let short_name = plan::short_name(id, &document.name);
    Ok(Prepared {
        document,
        caps,
        id,
        short_name,
        next_node,
        missing,
        cpu,
        planned: told,
    })
}
