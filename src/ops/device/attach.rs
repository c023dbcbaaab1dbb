//! A device comes: into a running guest, its stored configuration, or both.
//!
//! ```text
//!  stored: complete, check, put in, plan the whole ─┐
//!  live:   complete, check, place, find the images ─┤ nothing is touched so far; a trial ends here
//!                                                   ▼
//!  intent ─▶ what it has of the host ─▶ back ends ─▶ device ─▶ one commit of both documents
//! ```
//!
//! A device is read once for each document, for they are two guests; an interface without a hardware address gets one that
//! serves both. SCSI controllers that a disk needs are plugged in before it, each as a device of its own that stays.
//! The intent holds the whole device: a daemon that finds it takes back what the document does not name (`recover`).

use std::sync::Arc;

use domxml::{
    Domain as Document, FormatFlags, ParseFlags,
    devices::{Device, Disk, InterfaceKind, interface::LinkState},
    status,
};
use qemu_plan::{
    address::Age,
    block,
    caps::Caps,
    command::{
        Purpose, Resources,
        disk::settle_cache,
        plug::{Given, Plan, plug},
        tls,
    },
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
    events::model::{self as pb, EventKind, event::Detail},
    ops::{
        Conditions, Driver,
        device::{holding, learnt, medium, plugging},
        document::{
            plan,
            resources::{dirs, line_config, resources},
            scope::{Scope, Which},
        },
        holdings::{
            net::{ports, traffic},
            storage::{disk, secrets, transient, volumes},
        },
        operation::{self, Ask, Context, Operation},
        run::{guest::Guest, react::lifecycle},
        tuning::locked,
    },
};

/// Attaches a device; as the guest has it then: the running one, if that was asked for.
///
/// # Errors
/// Libvirt's, for what is wrong with the device or in its way; what QEMU, the host or another daemon refuses. Nothing is
/// changed then, but for SCSI controllers that were plugged in for a disk.
pub(crate) async fn attach(
    driver: &Arc<Driver>,
    domain: &Domain,
    device: &Device,
    scope: Scope,
    conditions: &Conditions,
) -> Result<Device> {
    if let Some(disk) = new_medium(&domain.view(), device, scope)? {
        Box::pin(medium::insert(driver, domain, disk, scope, conditions)).await?;
        return Ok(device.clone());
    }
    operation::retrying(|| Box::pin(attempt(driver, domain, device, scope, conditions))).await
}

/// The disk, if attaching it to the running guest means that a drive gets a medium.
fn new_medium(view: &View, device: &Device, scope: Scope) -> Result<Option<domxml::devices::Disk>> {
    let which = Which::of(scope, view)?;
    let live = view.run.as_ref().filter(|_| which.live && !which.config);
    let is_medium = live.is_some_and(|run| hotplug::changes_medium(&run.document.domain, device));
    Ok(match device {
        Device::Disk(disk) if is_medium => Some(disk.as_ref().clone()),
        _ => None,
    })
}

async fn attempt(
    driver: &Arc<Driver>,
    domain: &Domain,
    device: &Device,
    scope: Scope,
    conditions: &Conditions,
) -> Result<Device> {
    let ask = Ask {
        kind: "attach-device",
        job: Want::Plain(Kind::Modify),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    let view = operation.view();
    let which = Which::of(scope, &view)?;
    let mut device = device.clone();
    let mut follows = Follows::default();
    if which.config {
        follows.edit = in_stored(driver, &view, &mut device).await?;
        follows.effects = defined();
        follows.stored = Some(device.format(STORED));
    }
    let coming = match which.live {
        true => Some(Box::pin(Coming::of(driver, &view, device.clone())).await?),
        false => None,
    };
    follows.edit.check(&view)?;
    if operation.is_trial() {
        return Ok(device);
    }
    let work = async move |context: Arc<Context>| match coming {
        Some(coming) => Box::pin(coming.carry_out(&context, follows)).await,
        None => {
            let Follows { edit, effects, .. } = follows;
            context.commit(edit, effects).await.map(|_| device)
        }
    };
    operation.carry_out(|context| Box::pin(work(context))).await
}

/// How a device of a client is noted for the stored configuration.
const STORED: FormatFlags = FormatFlags::INACTIVE.with(FormatFlags::SECURE);

/// What follows once a device is plugged in.
#[derive(Default)]
struct Follows {
    /// The device as the client gave it, if the stored configuration gets it, too.
    stored: Option<String>,
    /// The stored document with it.
    edit: Edit,
    /// What is told.
    effects: Effects,
}

/// The event of a stored document that was changed.
pub(super) fn defined() -> Effects {
    Effects::none().lifecycle(lifecycle::DEFINED_UPDATED.0, lifecycle::DEFINED_UPDATED.1)
}

/// The stored document with the device, complete and checked. What was made up for the device is written into it.
async fn in_stored(driver: &Arc<Driver>, view: &View, device: &mut Device) -> Result<Edit> {
    let config = view
        .config
        .as_ref()
        .ok_or_else(|| Error::invalid("transient domains do not have any persistent config"))?;
    let mut document = Box::new(Document::clone(&*config.domain()?));
    document.number_consoles();
    let (def, wanted) = (&*document, device.clone());
    let completed = plan::with_caps(driver, def, move |caps, context| {
        let completed = hotplug::complete(def, wanted, caps, context)?;
        hotplug::check(def, &completed, Side::Stored)?;
        Ok(completed)
    })
    .await?;
    if let (Device::Interface(given), Device::Interface(completed)) = (&mut *device, &completed) {
        given.mac.clone_from(&completed.mac);
    }
    if let Device::Disk(disk) = &completed {
        // The pool is asked, and asked again by each start.
        volumes::find_one(driver, &mut disk.clone()).await?;
    }
    hotplug::enter(&mut document, completed)?;
    let complete = plan::complete(driver, document, Age::New).await?;
    Ok(Edit::replacing(Arc::clone(config), Stored::new(&complete.domain)))
}

/// A device that is to be plugged in.
struct Coming {
    guest: Arc<Guest>,
    caps: Caps,
    /// What must be there before it.
    controllers: Vec<Device>,
    device: Device,
    /// The first number of a block node that is free afterwards.
    next_node: u32,
}

/// Numbers that are free once a device has come.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    node: u32,
    fdset: u32,
    /// What QEMU might lock before the first device that needs its memory locked.
    memlock: Option<u64>,
}

impl Coming {
    /// Checks that a running guest can take the device, and finds it a place and its images.
    async fn of(driver: &Arc<Driver>, view: &View, device: Device) -> Result<Self> {
        let run = view.running()?;
        let guest = driver.guests.of(view)?;
        let def = &run.document.domain;
        let channels = dirs(driver, &plan::short_name(guest.id, &def.name)).channel;
        let config = line_config(&driver.config());
        let found = plan::with_caps(driver, def, move |caps, context| {
            let mut device = hotplug::complete(def, device, caps, context)?;
            hotplug::give_path(&mut device, &channels);
            tls::settle_device(device.as_mut(), &config);
            hotplug::check(def, &device, Side::Live)?;
            Ok((
                hotplug::place(def, device.clone(), caps, context),
                device,
                caps.clone(),
            ))
        })
        .await?;
        let (placed, caps) = match (found.0, &found.1) {
            (Ok(placed), _) => (placed, found.2),
            (Err(error), Device::Interface(card)) => {
                ports::look_up(driver, card).await?;
                return Err(error.into());
            }
            (Err(error), _) => return Err(error.into()),
        };
        let first = u32::try_from(run.status.nodename.unwrap_or(0))
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        let first = guest.first_node(first);
        let (device, next_node) = match placed.device {
            Device::Disk(disk) => {
                let mut disk = disk;
                settle_cache(&mut disk);
                guest.gave_nodes(first.saturating_add(1));
                let mut disk = Box::pin(found_images(driver, view.uuid, *disk)).await?;
                let next = block::number_disk(&mut disk, first);
                let next = transient::put_on(&mut disk, &def.name, next);
                guest.gave_nodes(next);
                block::name_disk(&mut disk)?;
                block::number_sets(&mut disk, plugging::next_fdset(view));
                (Device::Disk(Box::new(disk)), next)
            }
            other => (other, first),
        };
        Ok(Self {
            guest,
            caps,
            controllers: placed.controllers,
            device,
            next_node,
        })
    }

    async fn carry_out(mut self, context: &Context, mut follows: Follows) -> Result<Device> {
        for controller in std::mem::take(&mut self.controllers) {
            self.plug_in(context, controller, Follows::default()).await?;
        }
        let device = self.device.clone();
        follows.effects = added(&device, follows.effects);
        self.plug_in(context, device, follows).await
    }

    /// Plugs one device in, and has the documents follow: the point of no return.
    async fn plug_in(&self, context: &Context, mut device: Device, follows: Follows) -> Result<Device> {
        let Follows {
            stored,
            edit,
            effects,
        } = follows;
        let intent = Intent::AttachDevice {
            device: device.format(status::FORMAT),
            stored,
        };
        context.intend(intent).await?;
        let view = context.view();
        let document = &view.running()?.document.domain;
        let names = plan::short_name(self.guest.id, &document.name);
        let mut given = Resources {
            purpose: Purpose::Plug,
            first_fdset: plugging::next_fdset(&view).max(after_sets(&device)),
            ..resources(context.driver(), document, dirs(context.driver(), &names))
        };
        let mut files = holding::acquire(context, &self.guest, &mut device, &mut given).await?;
        let memlock = self.lock_memory(context, &device).await?;
        let plan = self.steps(context, &device, &mut given).await?;
        let numbers = Numbers {
            node: self.next_node,
            fdset: plan.next_fdset,
            memlock,
        };
        for step in plan.steps {
            let (part, guest) = (step.makes(), Arc::clone(&self.guest));
            let reversal = async move {
                match part {
                    Some(part) => plugging::take_away(&guest, &part).await,
                    None => Ok(()),
                }
            };
            let what = plugging::phase(&step);
            let giving = plugging::give(&self.guest, step, &mut files);
            if let Some(pty) = context.step(what, giving, reversal).await? {
                learnt::put_terminal(&mut device, &pty);
            }
        }
        let balloon = learnt::of_memory(&self.guest, &mut device).await;
        self.switch(&view, &device).await?;
        // What QEMU calls its devices is for whoever comes after us; without an answer the new one is known all the same.
        let monitor = self.guest.monitor()?;
        let known = monitor.device_ids().await.ok();
        let new = device.clone();
        context
            .commit_with(move |view| {
                edit.apply(view)?;
                has_come(view, new, numbers)?;
                learnt::put_balloon(view, balloon);
                know_devices(view, known);
                Ok(effects)
            })
            .await?;
        Ok(device)
    }

    /// Has QEMU be able to lock its memory with the device; what is kept of what it could lock before.
    async fn lock_memory(&self, context: &Context, device: &Device) -> Result<Option<u64>> {
        let view = context.view();
        if !locked::counts(device) {
            return Ok(view.running()?.status.original_memlock);
        }
        let mut undo = context.steps("what it may lock").await?;
        let mut document = domxml::Domain::clone(&view.running()?.document.domain);
        hotplug::enter(&mut document, device.clone())?;
        locked::follow(&view, self.guest.process()?.pid(), &document, Some(&mut *undo))
    }

    /// The monitor's commands, with the secrets that they take.
    async fn steps(&self, context: &Context, device: &Device, given: &mut Resources) -> Result<Plan> {
        let view = context.view();
        let run = view.running()?;
        let plan = |given: &Resources| {
            let given = Given {
                caps: &self.caps,
                res: given,
                next_node: self.next_node,
            };
            plug(&run.document.domain, device, given)
        };
        let first = plan(given)?;
        if first.secrets.is_empty() {
            return Ok(first);
        }
        let dir = run.status.lib_dir.as_deref();
        secrets::fetch_for_run(context.driver(), dir, first.secrets, given).await?;
        Ok(plan(given)?)
    }

    /// Switches an interface on where the guest runs, and its link off where the document has it down.
    async fn switch(&self, view: &View, device: &Device) -> Result<()> {
        let Device::Interface(card) = device else {
            return Ok(());
        };
        if view.condition.state() == crate::domain::RunState::Running {
            traffic::allow_one(card).await?;
        }
        if card.link == Some(LinkState::Down) {
            let name = card.info.alias.clone().unwrap_or_default();
            self.guest.execute(commands::SetLink { name, up: false }).await?;
        }
        Ok(())
    }
}

/// The disk with its images. Of a disk whose secret is not there, that is what is told, whatever else is wrong.
async fn found_images(driver: &Arc<Driver>, guest: uuid::Uuid, disk: Disk) -> Result<Disk> {
    let needs = block::secrets_of(&disk, &Resources::default());
    match disk::resolve(driver, guest, disk).await {
        Err(error) => {
            secrets::look_up(driver, needs).await?;
            Err(error)
        }
        found => found,
    }
}

/// A device that came is told before what else is.
fn added(device: &Device, rest: Effects) -> Effects {
    let alias = match device {
        // The guest does not see it.
        Device::Lease(_) => return rest,
        // libvirt tells the name of the back end.
        Device::Memory(_) => format!("mem{}", alias_of(device)),
        _ => alias_of(device),
    };
    let mut told = Effects::none().event(EventKind::DeviceAdded, Some(about(alias)));
    told.events.extend(rest.events);
    told
}

/// Whether an attach that was cut off once QEMU had the device can be finished: it has nothing of the host that was made
/// for it and is known to the former daemon only.
pub(crate) fn can_adopt(device: &Device) -> bool {
    match device {
        Device::Disk(_) | Device::Controller(_) => true,
        Device::Rng(_) | Device::Input(_) | Device::Watchdog(_) | Device::Shmem(_) | Device::Memory(_) => {
            true
        }
        Device::Interface(card) => card.kind == InterfaceKind::User,
        _ => false,
    }
}

/// Finishes an attach that was cut off once QEMU had the device: the documents follow.
///
/// # Errors
/// The stored document can't take it any more, or the files can't be written.
pub(crate) async fn adopt(
    driver: &Arc<Driver>,
    guest: &Arc<Guest>,
    mut device: Device,
    stored: Option<String>,
) -> Result<()> {
    let view = guest.domain.view();
    let (mut edit, mut effects) = (Edit::none(), Effects::none());
    if let Some(text) = stored {
        let mut wanted = Device::parse(&text, ParseFlags::INACTIVE)?;
        edit = in_stored(driver, &view, &mut wanted).await?;
        effects = defined();
    }
    let taken = view.running()?.status.nodename.unwrap_or(0);
    let highest = match &device {
        Device::Disk(disk) => block::highest_number(disk).map_or(taken, |n| taken.max(u64::from(n))),
        _ => taken,
    };
    let numbers = Numbers {
        node: u32::try_from(highest).unwrap_or(u32::MAX).saturating_add(1),
        fdset: plugging::next_fdset(&view).max(after_sets(&device)),
        memlock: view.running()?.status.original_memlock,
    };
    let balloon = learnt::of_memory(guest, &mut device).await;
    let known = guest.monitor()?.device_ids().await.ok();
    let effects = added(&device, effects);
    let change = move |view: &mut View| {
        edit.apply(view)?;
        has_come(view, device, numbers)?;
        learnt::put_balloon(view, balloon);
        know_devices(view, known);
        Ok(effects)
    };
    guest.domain.commit(change).await.map(drop)
}

/// The document of the run has the device.
fn has_come(view: &mut View, device: Device, numbers: Numbers) -> Result<()> {
    let edit = Edit::live(move |document| {
        hotplug::enter(document, device.clone())?;
        Ok(())
    });
    edit.apply(view)?;
    if let Some(run) = &mut view.run {
        let mut status = domxml::StatusDocument::clone(&run.status);
        status.nodename = Some(u64::from(numbers.node.saturating_sub(1)));
        status.fdset = Some(u64::from(numbers.fdset));
        status.original_memlock = numbers.memlock;
        run.status = Arc::new(status);
    }
    Ok(())
}

/// The first number after those of a device's own sets of descriptors.
fn after_sets(device: &Device) -> u32 {
    let highest = match device {
        Device::Disk(disk) => block::highest_set(disk),
        _ => None,
    };
    highest.map_or(0, |highest| highest.saturating_add(1))
}

/// The devices that QEMU has, as the status file lists them.
pub(crate) fn know_devices(view: &mut View, known: Option<std::collections::BTreeSet<String>>) {
    let Some((run, known)) = view.run.as_mut().zip(known) else {
        return;
    };
    let mut status = domxml::StatusDocument::clone(&run.status);
    let devices = known.into_iter();
    status.devices = devices.map(|alias| status::DeviceAlias { alias }).collect();
    run.status = Arc::new(status);
}

/// The alias of a device of a running guest.
pub(super) fn alias_of(device: &Device) -> String {
    let info = device.as_ref().info();
    info.and_then(|info| info.alias.clone()).unwrap_or_default()
}

/// What an event says of a device.
pub(super) fn about(alias: String) -> Detail {
    Detail::Device(pb::event::DeviceChange { alias })
}
