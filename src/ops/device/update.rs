//! A display gets another password, a virtio-mem device another size: in a running guest, its stored configuration, or
//! both. Everything else of them is kept, and other devices are refused here; disks and interfaces change elsewhere.
//!
//! The intent is noted before QEMU is told: a daemon that finds it tells QEMU what the document says.

use std::sync::Arc;

use domxml::{
    Domain as Document,
    devices::{Device, DeviceMut, DeviceRef, Graphics, Memory},
};
use qemu_plan::hotplug::{self, Side};
use qmp::commands;

use super::change::{self, Change, Live};
use crate::{
    domain::{Domain, Edit, Effects, View, intents::Intent},
    error::{Error, Result},
    ops::{
        Conditions, Driver,
        document::{plan, scope::Scope},
        operation::Context,
        run::{guest::Guest, password},
    },
};
/// Changes a device to what its document says.
///
/// # Errors
/// Libvirt's, for what can't be changed; what QEMU refuses. Nothing is changed then.
pub(crate) async fn update(
    driver: &Arc<Driver>,
    domain: &Domain,
    device: Device,
    scope: Scope,
    conditions: &Conditions,
) -> Result<()> {
    change::make(driver, domain, &Wanted(device), scope, conditions).await
}

/// A device as it is to be.
struct Wanted(Device);

impl Change for Wanted {
    type Live = Exchange;

    const KIND: &'static str = "update-device";

    async fn in_stored(&self, driver: &Arc<Driver>, mut document: Box<Document>) -> Result<Box<Document>> {
        let device = without_name(self.0.clone());
        let (device, place) = find(driver, &document, device, Side::Stored).await?;
        hotplug::leave(&mut document, place);
        let inserted = document.devices.insert(device, place.at);
        inserted.map_err(|_| Error::internal("the device got lost"))?;
        Ok(document)
    }

    async fn in_live(&self, driver: &Arc<Driver>, view: &View) -> Result<Exchange> {
        let document = &view.running()?.document.domain;
        let (new, place) = find(driver, document, self.0.clone(), Side::Live).await?;
        let old = document.devices.get(place).map(DeviceRef::to_device);
        let old = old.ok_or_else(|| Error::internal("the device got lost"))?;
        hotplug::check_kept(old.as_ref(), new.as_ref())?;
        let guest = driver.guests.of(view)?;
        Ok(Exchange { guest, old, new })
    }
}

/// Fills the device in and finds the one that it is to replace.
async fn find(
    driver: &Arc<Driver>,
    def: &Document,
    device: Device,
    side: Side,
) -> Result<(Device, domxml::devices::Place)> {
    let pass = move |caps: &qemu_plan::caps::Caps, context: &mut qemu_plan::postparse::Context<'_>| {
        let device = hotplug::complete(def, device, caps, context)?;
        let place = hotplug::check_update(def, &device, side)?;
        Ok((device, place))
    };
    plan::with_caps(driver, def, pass).await
}

/// A name that the run made up is in no stored document.
fn without_name(mut device: Device) -> Device {
    if let Some(info) = device.as_mut().into_info()
        && !info.has_user_alias()
    {
        info.alias = None;
    }
    device
}

/// What changes in a running guest.
struct Exchange {
    guest: Arc<Guest>,
    old: Device,
    new: Device,
}

impl Live for Exchange {
    async fn carry_out(self, context: &Context, stored: (Edit, Effects)) -> Result<()> {
        let Self { guest, old, new } = self;
        match (old, new) {
            (Device::Graphics(old), Device::Graphics(new)) => {
                change_password(context, &guest, (*old, *new.clone())).await?;
                commit(context, Device::Graphics(new), stored).await
            }
            (Device::Memory(old), Device::Memory(mut new)) => {
                new.info.alias.clone_from(&old.info.alias);
                change_size(context, &guest, (*old, *new.clone())).await?;
                commit(context, Device::Memory(new), stored).await
            }
            _ => Err(Error::internal("the device can't change where it is")),
        }
    }
}

async fn change_password(
    context: &Context,
    guest: &Arc<Guest>,
    (old, new): (Graphics, Graphics),
) -> Result<()> {
    if !password::differs(&old, &new) {
        return Ok(());
    }
    let intent = Intent::SetPassword {
        display: new.kind.as_str().to_owned(),
    };
    context.intend(intent).await?;
    let (driver, again) = (Arc::clone(context.driver()), Arc::clone(guest));
    let reversal = async move { password::set(&driver, &again, &old).await };
    let Some((word, expiry)) = password::commands_of(context.driver(), &new) else {
        return Ok(());
    };
    let setting = async { guest.execute(word).await.map(drop) };
    context.step("the password", setting, reversal).await?;
    // The reversal of the password sets the time again, too.
    let expiring = async { guest.execute(expiry).await.map(drop) };
    context
        .step("the time of the password", expiring, async { Ok(()) })
        .await
}

async fn change_size(context: &Context, guest: &Arc<Guest>, (old, new): (Memory, Memory)) -> Result<()> {
    let alias = new.info.alias.clone().unwrap_or_default();
    context.intend(Intent::ResizeMemory { alias }).await?;
    let again = Arc::clone(guest);
    let reversal = async move { resize(&again, &old).await };
    context.step("the size", resize(guest, &new), reversal).await
}

/// Tells QEMU how much a guest is to have of a virtio-mem device.
///
/// # Errors
/// What QEMU refuses, or that it does not answer.
pub(crate) async fn resize(guest: &Guest, module: &Memory) -> Result<()> {
    let alias = module.info.alias.as_deref().unwrap_or_default();
    let bytes = hotplug::requested_kib(module).saturating_mul(1024);
    let command = commands::QomSet {
        path: format!("/machine/peripheral/{alias}"),
        property: "requested-size".to_owned(),
        value: bytes.into(),
    };
    guest.execute(command).await.map(drop)
}

async fn commit(context: &Context, new: Device, (edit, effects): (Edit, Effects)) -> Result<()> {
    let live = Edit::live(move |document| {
        put(document, &new);
        Ok(())
    });
    context.commit(edit.and(live), effects).await.map(drop)
}

/// Puts what has changed into the newest document of the run.
fn put(document: &mut Document, new: &Device) {
    for device in document.devices.iter_mut() {
        match (device, new) {
            (DeviceMut::Graphics(display), Device::Graphics(new)) if display.kind == new.kind => {
                display.passwd.clone_from(&new.passwd);
                display.passwd_valid_to.clone_from(&new.passwd_valid_to);
                display.connected = new.connected;
                return;
            }
            (DeviceMut::Memory(module), Device::Memory(new)) if module.info.alias == new.info.alias => {
                let requested = new.target.as_ref().and_then(|target| target.requested.clone());
                module.target.get_or_insert_default().requested = requested;
                return;
            }
            _ => {}
        }
    }
}
