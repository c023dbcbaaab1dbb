//! A display gets another password, a virtio-mem device another size: in a running guest, its stored configuration, or
//! both. Everything else of them is kept, and other devices are refused here; disks and interfaces change elsewhere.
//!
//! The intent is noted before QEMU is told: a daemon that finds it tells QEMU what the document says.

use std::sync::Arc;

use domxml::{
    Domain as Document,
    devices::{Device, DeviceMut, DeviceRef, Graphics, Memory},
};
use qemu_plan::{
    address::Age,
    hotplug::{self, Side},
};
use qmp::commands;

use crate::{
    domain::{
        Domain, Edit, Effects, Stored, View,
        intents::Intent,
        jobs::{Kind, Want},
    },
    error::{Error, Result},
    ops::{
        Conditions, Driver,
        device::attach::defined,
        document::{
            plan,
            scope::{Scope, Which},
        },
        operation::{self, Ask, Context, Operation},
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
    operation::retrying(|| Box::pin(attempt(driver, domain, &device, scope, conditions))).await
}

async fn attempt(
    driver: &Arc<Driver>,
    domain: &Domain,
    device: &Device,
    scope: Scope,
    conditions: &Conditions,
) -> Result<()> {
    let ask = Ask {
        kind: "update-device",
        job: Want::Plain(Kind::Modify),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    let view = operation.view();
    let which = Which::of(scope, &view)?;
    let (mut edit, mut effects) = (Edit::none(), Effects::none());
    if which.config {
        edit = in_stored(driver, &view, device.clone()).await?;
        effects = defined();
    }
    let change = match which.live {
        true => Some(Change::of(driver, &view, device.clone()).await?),
        false => None,
    };
    edit.check(&view)?;
    if operation.is_trial() {
        return Ok(());
    }
    let work = async move |context: Arc<Context>| match change {
        Some(change) => Box::pin(change.carry_out(&context, (edit, effects))).await,
        None => context.commit(edit, effects).await.map(drop),
    };
    operation.carry_out(|context| Box::pin(work(context))).await
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

/// The stored document with the device replaced, complete and checked.
async fn in_stored(driver: &Arc<Driver>, view: &View, device: Device) -> Result<Edit> {
    let config = view
        .config
        .as_ref()
        .ok_or_else(|| Error::invalid("transient domains do not have any persistent config"))?;
    let mut document = Box::new(Document::clone(&*config.domain()?));
    let device = without_name(device);
    let (device, place) = find(driver, &document, device, Side::Stored).await?;
    hotplug::leave(&mut document, place);
    let inserted = document.devices.insert(device, place.at);
    inserted.map_err(|_| Error::internal("the device got lost"))?;
    let complete = plan::complete(driver, document, Age::New).await?;
    Ok(Edit::replacing(Arc::clone(config), Stored::new(&complete.domain)))
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
struct Change {
    guest: Arc<Guest>,
    old: Device,
    new: Device,
}

impl Change {
    async fn of(driver: &Arc<Driver>, view: &View, device: Device) -> Result<Self> {
        let document = &view.running()?.document.domain;
        let (new, place) = find(driver, document, device, Side::Live).await?;
        let old = document.devices.get(place).map(DeviceRef::to_device);
        let old = old.ok_or_else(|| Error::internal("the device got lost"))?;
        let guest = driver.guests.of(view)?;
        Ok(Self { guest, old, new })
    }

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
