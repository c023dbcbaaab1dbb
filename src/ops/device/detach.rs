//! A device goes: out of a running guest, its stored configuration, or both.
//!
//! ```text
//!  found, checked ─▶ intent ─▶ guest asked ─┬─ gone ─▶ back ends ─▶ one commit ─▶ what it had is given back
//!                                           ├─ refused: an error, nothing is changed
//!                                           └─ no answer in time: only the stored document is changed
//!  gone later, or found missing when the guest is reached: [`departed`], from the back ends on
//! ```
//!
//! The hard thing is that the guest decides when, if ever. A detach holds the guest's job while it waits, so one device
//! leaves at a time.

use std::{sync::Arc, time::Duration};

use domxml::{
    Domain as Document,
    devices::{Device, DeviceRef, Place, info::USER_ALIAS_PREFIX},
    status,
};
use qemu_plan::{
    address::Age,
    caps::Caps,
    command::plug::{Part, back_ends, has_front_end},
    hotplug::{self, Side},
    postparse,
};

use crate::{
    domain::{
        Domain, Edit, Effects, Stored, View,
        intents::Intent,
        jobs::{Kind, Want},
    },
    error::{Area, Error, Result},
    events::model::EventKind,
    ops::{
        Conditions, Driver,
        device::{
            attach::{about, alias_of, defined, know_devices},
            holding, learnt,
            plugging::{self, Unplugged},
        },
        document::{
            plan,
            scope::{Scope, Which},
        },
        graph::lookup,
        holdings::net::interface,
        operation::{self, Ask, Context, Operation, record::Followed},
        run::guest::Guest,
    },
};

/// How long a guest may take to let a device go where the client does not say.
pub const PATIENCE: Duration = plugging::LETTING_GO;
/// How long at most.
pub const PATIENCE_MAX: Duration = Duration::from_secs(600);

/// What a detach is called by logs and clients.
pub const KIND: &str = "detach-device";
/// The phases of a detach, in which clients follow it: QEMU is being told.
const REQUESTED: &str = "requested";
/// The guest was asked.
const ACKNOWLEDGED: &str = "acknowledged";
/// The device is gone.
const REMOVED: &str = "removed";
/// The guest keeps the device.
const REJECTED: &str = "rejected";
/// The guest has not answered in time.
pub const TIMED_OUT: &str = "timed-out";

/// Which device is to go.
#[derive(Clone, Debug)]
pub enum Meant {
    /// The one that a document describes: as libvirt looks it up, by few things.
    Document(Box<Device>),
    /// The one of that alias.
    Alias(String),
}

/// How a device is to go.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Out of which configuration.
    pub scope: Scope,
    /// How long the guest may take to let it go.
    pub patience: Duration,
}

/// How a detach has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The device is gone from every configuration that was asked for.
    Removed,
    /// The guest was asked and has not answered in time. The stored configuration was changed if that was asked for; the
    /// device leaves the run when the guest lets it go.
    Pending,
}

/// Detaches a device.
///
/// # Errors
/// `DeviceMissing` and the like if it can't be told which device is meant, libvirt's refusals, `OperationFailed` with
/// reason UNPLUG_REJECTED if the guest refuses. Nothing is changed then.
pub(crate) async fn detach(
    (driver, domain): (&Arc<Driver>, &Domain),
    meant: &Meant,
    how: How,
    conditions: &Conditions,
    followed: &Arc<Followed>,
) -> Result<Outcome> {
    let attempt = || Box::pin(attempt((driver, domain), meant, how, conditions, followed));
    operation::followed((driver, domain), followed, attempt).await
}

async fn attempt(
    (driver, domain): (&Arc<Driver>, &Domain),
    meant: &Meant,
    how: How,
    conditions: &Conditions,
    followed: &Arc<Followed>,
) -> Result<Outcome> {
    let ask = Ask {
        kind: KIND,
        job: Want::Plain(Kind::Modify),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    let view = operation.view();
    let which = Which::of(how.scope, &view)?;
    let (mut edit, mut effects) = (Edit::none(), Effects::none());
    if which.config {
        edit = edit.and(out_of_stored(driver, &view, meant).await?);
        // A detach by alias is not told, as with libvirt.
        if matches!(meant, Meant::Document(_)) {
            effects = defined();
        }
    }
    let going = match which.live {
        true => Some(Going {
            stored: which.config,
            ..Going::of(driver, &view, meant).await?
        }),
        false => None,
    };
    edit.check(&view)?;
    if operation.is_trial() {
        return Ok(Outcome::Removed);
    }
    let patience = how.patience;
    let work = async move |context: Arc<Context>| match going {
        Some(going) => Box::pin(going.carry_out(&context, (edit, effects), patience)).await,
        None => {
            context.commit(edit, effects).await?;
            context.enter(REMOVED);
            Ok(Outcome::Removed)
        }
    };
    let operation = operation.in_record_of(followed);
    operation.carry_out(|context| Box::pin(work(context))).await
}

/// The stored document without the device, complete and checked.
async fn out_of_stored(driver: &Arc<Driver>, view: &View, meant: &Meant) -> Result<Edit> {
    let config = view
        .config
        .as_ref()
        .ok_or_else(|| Error::invalid("transient domains do not have any persistent config"))?;
    let mut document = Box::new(Document::clone(&*config.domain()?));
    document.number_consoles();
    // What is left out of the description is as it would be of a new device of the run, as with libvirt.
    let run = view.run.as_ref().map(|run| &*run.document.domain);
    let place = find(driver, (&document, run.unwrap_or(&document)), meant, Side::Stored).await?;
    hotplug::check_detach(&document, place, Side::Stored)?;
    hotplug::leave(&mut document, place);
    let complete = plan::complete(driver, document, Age::Known).await?;
    Ok(Edit::replacing(Arc::clone(config), Stored::new(&complete.domain)))
}

async fn find(
    driver: &Arc<Driver>,
    (document, of): (&Document, &Document),
    meant: &Meant,
    side: Side,
) -> Result<Place> {
    match meant {
        Meant::Document(device) => {
            let device = Device::clone(device);
            let find = move |caps: &Caps, context: &mut postparse::Context<'_>| {
                let device = hotplug::described(of, (device, side), caps, context)?;
                hotplug::find(document, &device, side)
            };
            plan::with_caps(driver, of, find).await
        }
        Meant::Alias(alias) => document.devices.by_alias(alias).ok_or_else(|| {
            Error::internal(format!("no device found with alias {alias}")).in_area(Area::Domain)
        }),
    }
}

/// A device that is to leave a running guest.
struct Going {
    guest: Arc<Guest>,
    device: Device,
    /// What it has in QEMU beside itself, in the order in which it goes.
    parts: Vec<Part>,
    /// It leaves the stored configuration, too.
    stored: bool,
}

impl Going {
    async fn of(driver: &Arc<Driver>, view: &View, meant: &Meant) -> Result<Self> {
        let document = &view.running()?.document.domain;
        let place = find(driver, (document, document), meant, Side::Live).await?;
        hotplug::check_detach(document, place, Side::Live)?;
        if let Some(DeviceRef::Disk(disk)) = document.devices.get(place) {
            lookup::check_idle(view, disk)?;
        }
        let found = document.devices.get(place).map(DeviceRef::to_device);
        let device = found.ok_or_else(|| Error::internal("the device got lost"))?;
        Self::leaving(driver, view, device).await
    }

    async fn leaving(driver: &Arc<Driver>, view: &View, device: Device) -> Result<Self> {
        let document = &view.running()?.document.domain;
        let parts = parts_of(driver, document, &device).await?;
        let guest = driver.guests.of(view)?;
        Ok(Self {
            guest,
            device,
            parts,
            stored: false,
        })
    }

    async fn carry_out(
        self,
        context: &Context,
        stored: (Edit, Effects),
        patience: Duration,
    ) -> Result<Outcome> {
        let alias = alias_of(&self.device);
        self.intend(context).await?;
        // Nothing undoes it: the guest decides.
        let asked = async {
            match has_front_end(self.device.as_ref()) {
                true => plugging::ask(&self.guest, &alias).await,
                false => Ok(None),
            }
        };
        let unplugged = match context.step(REQUESTED, asked, async { Ok(()) }).await? {
            Some(asked) => answered(context, asked, patience).await?,
            None => Unplugged::Gone,
        };
        match unplugged {
            Unplugged::Gone => {
                self.depart(context, stored).await?;
                context.enter(REMOVED);
                Ok(Outcome::Removed)
            }
            Unplugged::Pending => {
                let (edit, effects) = stored;
                context.commit(edit, effects).await?;
                context.enter(TIMED_OUT);
                Ok(Outcome::Pending)
            }
        }
    }

    async fn intend(&self, context: &Context) -> Result<()> {
        let device = self.device.format(status::FORMAT);
        let stored = self.stored;
        context.intend(Intent::DetachDevice { device, stored }).await
    }

    /// QEMU has the device no more: the rest follows.
    async fn depart(&self, context: &Context, stored: (Edit, Effects)) -> Result<()> {
        drop_parts(&self.guest, &self.parts).await?;
        let vdpa = matches!(&self.device, Device::Interface(card) if interface::is_vdpa(card));
        if vdpa || self.parts.iter().any(|part| matches!(part, Part::Chardev(_))) {
            plugging::drop_fdsets(&self.guest, &alias_of(&self.device)).await?;
        }
        let balloon = learnt::balloon(&self.guest, &self.device).await;
        let known = self.guest.monitor()?.device_ids().await.ok();
        let (edit, effects) = stored;
        let mut told = removed(&self.device);
        told.events.extend(effects.events);
        let device = self.device.clone();
        context
            .commit_with(move |view| {
                edit.apply(view)?;
                has_gone(view, &device)?;
                learnt::put_balloon(view, balloon);
                know_devices(view, known);
                Ok(told)
            })
            .await?;
        holding::release(context.driver(), &self.guest, &self.device).await;
        Ok(())
    }
}

/// Waits for the guest's answer; whoever cancels the operation has it wait no longer, and the guest may let the device go
/// all the same.
async fn answered(context: &Context, asked: plugging::Asked, patience: Duration) -> Result<Unplugged> {
    context.enter(ACKNOWLEDGED);
    let waited = context.unless_cancelled(asked.answer(patience)).await;
    let answer =
        waited.map_err(|error| error.with_detail("the guest was asked and may still let the device go"))?;
    if answer
        .as_ref()
        .is_err_and(|error| error.reason == Some(plugging::REJECTED))
    {
        context.enter(REJECTED);
    }
    answer
}

/// What a device of a running guest has in QEMU beside itself.
///
/// # Errors
/// It is of no kind that can be plugged in.
pub(crate) async fn parts_of(
    driver: &Arc<Driver>,
    document: &Document,
    device: &Device,
) -> Result<Vec<Part>> {
    plan::with_caps(driver, document, |caps: &Caps, _| {
        back_ends(document, device, caps)
    })
    .await
}

/// Takes the back ends of a device that has gone out of QEMU. One that QEMU keeps is logged: the device has gone all the same.
///
/// # Errors
/// QEMU does not answer.
async fn drop_parts(guest: &Guest, parts: &[Part]) -> Result<()> {
    for part in parts {
        match plugging::take_away(guest, part).await {
            Err(error) if error.reason == Some("QEMU_REFUSED") => {
                tracing::warn!(guest = %guest.domain.view().name, ?part, %error, "QEMU keeps something of a device that has gone");
            }
            result => result?,
        }
    }
    Ok(())
}

/// The event of a device that has left; a lease is none that the guest sees.
fn removed(device: &Device) -> Effects {
    match device {
        Device::Lease(_) => Effects::none(),
        _ => Effects::none().event(EventKind::DeviceRemoved, Some(about(alias_of(device)))),
    }
}

/// The document of the run has the device no more.
fn has_gone(view: &mut View, device: &Device) -> Result<()> {
    let device = device.clone();
    let edit = Edit::live(move |document| {
        if let Some(place) = place_in(document, &device) {
            hotplug::leave(document, place);
        }
        Ok(())
    });
    edit.apply(view)
}

/// Where a device of a run is in its document: by alias, or by what it is where it has none.
pub(crate) fn place_in(document: &Document, device: &Device) -> Option<Place> {
    match device {
        Device::Lease(_) => hotplug::find(document, device, Side::Live).ok(),
        _ => document.devices.by_alias(&alias_of(device)),
    }
}

/// Takes a device that has left a run out of the stored configuration, if it is there: the daemon ended between the two.
///
/// # Errors
/// The file can't be written.
pub(crate) async fn unstore(guest: &Guest, device: &Device) -> Result<()> {
    let mut device = device.clone();
    // Place and name are those of the run; the stored ones may be others.
    if let Some(info) = device.as_mut().into_info() {
        info.address = None;
        info.alias = info
            .alias
            .take()
            .filter(|alias| alias.starts_with(USER_ALIAS_PREFIX));
    }
    let is_there = move |document: &Document| hotplug::find(document, &device, Side::Stored).ok();
    let change = move |view: &mut View| {
        let Some(config) = view.config.as_ref() else {
            return Ok(Effects::none());
        };
        let mut document = Document::clone(&*config.domain()?);
        let Some(place) = is_there(&document) else {
            return Ok(Effects::none());
        };
        hotplug::leave(&mut document, place);
        view.config = Some(Stored::new(&document));
        Ok(defined())
    };
    guest.domain.commit(change).await.map(drop)
}

/// A device has left QEMU while nobody waited for it: the documents follow, and what it had is given back. What it has left
/// is seen to again when the guest is reached. Another device may have come by its name meanwhile: that one stays.
pub(crate) async fn departed(driver: Arc<Driver>, guest: Arc<Guest>, alias: String) {
    let meant = |document: &Document| document.devices.by_alias(&alias);
    let result = follow(&driver, &guest, meant, Some(&alias)).await;
    if let Err(error) = result
        && guest.ending().is_none()
    {
        let name = Arc::clone(&guest.domain.view().name);
        tracing::error!(guest = %name, alias, %error, "a device has left QEMU and is in the document still");
    }
}

/// Sees a detach through that was cut off: QEMU has the device no more, or nobody is asked whether it may go.
///
/// # Errors
/// QEMU does not answer, or the files can't be written.
pub(crate) async fn finish(driver: &Arc<Driver>, guest: &Arc<Guest>, device: &Device) -> Result<()> {
    follow(driver, guest, |document| place_in(document, device), None).await
}

async fn follow(
    driver: &Arc<Driver>,
    guest: &Arc<Guest>,
    meant: impl FnOnce(&Document) -> Option<Place>,
    gone: Option<&str>,
) -> Result<()> {
    let conditions = Conditions::default();
    let ask = Ask {
        kind: "device-departed",
        job: Want::Plain(Kind::Modify),
        conditions: &conditions,
    };
    let operation = Operation::begin(driver, &guest.domain, ask).await?;
    let view = operation.view();
    let Some(run) = view.run.as_ref().filter(|run| run.launched.id == guest.id) else {
        return Ok(());
    };
    let document = &run.document.domain;
    let found = meant(document).and_then(|place| document.devices.get(place));
    // Whoever unplugged it has seen to it.
    let Some(device) = found.map(DeviceRef::to_device) else {
        return Ok(());
    };
    if let Some(alias) = gone
        && guest.monitor()?.device_ids().await?.contains(alias)
    {
        return Ok(());
    }
    let going = Going::leaving(driver, &view, device).await?;
    let work = async move |context: Arc<Context>| {
        let going = going;
        going.intend(&context).await?;
        going.depart(&context, (Edit::none(), Effects::none())).await
    };
    operation.carry_out(|context| Box::pin(work(context))).await
}
