//! Changing one thing of a guest's configuration: of the run, the stored one, or both.
//!
//! Each change is one variant of [`Change`] and one line in `apply`, which works on a document; what a running guest needs
//! besides goes to QEMU first.

use std::sync::Arc;

use domxml::{clock::LifecycleAction, tuning::VcpuState, units::Kib};

use crate::{
    domain::{
        Domain, Edit, Effects, View,
        facts::Facts,
        jobs::{Kind, Want},
    },
    error::{Area, Code, Error, Result},
    events::model::{self as pb, EventKind, event::Detail},
    ops::{
        Conditions, Driver,
        document::scope::{Scope, Which, read},
        operation::{Ask, Context, Operation},
        tuning::{self, live::Live},
    },
};

/// Something that happens to a guest and that its configuration has an answer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifecycleEvent {
    /// It shuts down.
    Poweroff,
    /// It reboots.
    Reboot,
    /// It crashes.
    Crash,
}

impl LifecycleEvent {
    /// libvirt's word.
    fn as_str(self) -> &'static str {
        match self {
            Self::Poweroff => "poweroff",
            Self::Reboot => "reboot",
            Self::Crash => "crash",
        }
    }
}

/// What to change.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The title, or none.
    Title(Option<String>),
    /// The description, or none.
    Description(Option<String>),
    /// One namespace's element, or none.
    Metadata {
        /// The namespace.
        uri: String,
        /// Its prefix in the document.
        key: String,
        /// The element.
        xml: Option<String>,
    },
    /// The balloon's size, KiB.
    Memory(u64),
    /// Most memory, KiB.
    MaxMemory(u64),
    /// Most CPUs.
    MaxVcpus(u32),
    /// What follows an event of the guest.
    Lifecycle {
        /// The event.
        event: LifecycleEvent,
        /// What follows.
        action: LifecycleAction,
    },
    /// Seconds between two looks at the guest's memory statistics; 0: none.
    MemoryStatsPeriod(u32),
    /// What it may use of the host.
    Tuning(tuning::Change),
}

/// Changes one thing.
///
/// # Errors
/// `OperationInvalid` if the guest has no such configuration, what is wrong with the change, what QEMU refuses.
pub async fn configure(
    driver: &Arc<Driver>,
    domain: &Domain,
    scope: Scope,
    change: Change,
    conditions: &Conditions,
) -> Result<()> {
    let ask = Ask {
        kind: "configure",
        job: Want::Plain(Kind::Modify),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    let view = operation.view();
    let which = Which::of(scope, &view)?;
    let live = if which.live { live_of(&change)? } else { None };
    let edit = edit(which, &change);
    edit.check(&view)?;
    if operation.is_trial() {
        return Ok(());
    }
    let event = event_of(&view, &change, which);
    let work = async move |context: Arc<Context>| {
        if let Some(live) = live {
            change_guest(&context, live).await?;
        }
        let effects = match event {
            Some((kind, detail)) => Effects::none().event(kind, Some(detail)),
            None => Effects::none(),
        };
        context.commit(edit, effects).await.map(drop)
    };
    operation.carry_out(|context| Box::pin(work(context))).await
}

/// The change of the documents that are meant.
fn edit(which: Which, change: &Change) -> Edit {
    let mut edit = Edit::none();
    if which.live {
        let change = change.clone();
        edit = edit.and(Edit::live(move |document| apply(document, &change)));
    }
    if which.config {
        let change = change.clone();
        edit = edit.and(Edit::stored(move |document| apply(document, &change)));
    }
    edit
}

/// The change in a document.
fn apply(domain: &mut domxml::Domain, change: &Change) -> Result<()> {
    match change {
        Change::Title(Some(title)) if title.contains('\n') => {
            return Err(Error::argument("metadata title can't contain newlines").in_area(Area::None));
        }
        Change::Title(title) => domain.title.clone_from(&title.clone().filter(|t| !t.is_empty())),
        Change::Description(text) => domain
            .description
            .clone_from(&text.clone().filter(|t| !t.is_empty())),
        Change::Metadata {
            uri,
            key,
            xml: Some(xml),
        } => domain.set_metadata_element(xml, key, uri)?,
        Change::Metadata { uri, .. } => drop(domain.remove_metadata_element(uri)),
        Change::Memory(kib) => set_memory(domain, *kib)?,
        Change::MaxMemory(kib) => set_max_memory(domain, *kib)?,
        Change::MemoryStatsPeriod(seconds) => {
            balloon(domain)?.stats_period = Some(*seconds).filter(|s| *s != 0)
        }
        Change::MaxVcpus(count) => set_max_vcpus(domain, *count)?,
        Change::Lifecycle { event, action } => {
            let place = match event {
                LifecycleEvent::Poweroff => &mut domain.on_poweroff,
                LifecycleEvent::Reboot => &mut domain.on_reboot,
                LifecycleEvent::Crash => &mut domain.on_crash,
            };
            *place = Some(allowed(*event, *action)?);
        }
        Change::Tuning(change) => tuning::apply(domain, change)?,
    }
    Ok(())
}

/// A dump is made of a guest that has crashed and of no other.
fn allowed(event: LifecycleEvent, action: LifecycleAction) -> Result<LifecycleAction> {
    let dumps = matches!(
        action,
        LifecycleAction::CoredumpDestroy | LifecycleAction::CoredumpRestart
    );
    let refused = match action {
        LifecycleAction::Preserve if event != LifecycleEvent::Crash => {
            Some("qemu driver doesn't support the 'preserve' action for 'on_reboot'/'on_poweroff'")
        }
        LifecycleAction::RenameRestart => Some(
            "qemu driver doesn't support the 'rename-restart' action for 'on_reboot'/'on_poweroff'/'on_crash'",
        ),
        _ => None,
    };
    if let Some(text) = refused {
        return Err(Error::new(Code::ConfigUnsupported, text));
    }
    if !dumps || event == LifecycleEvent::Crash {
        return Ok(action);
    }
    let (event, action) = (event.as_str(), action.as_str());
    let text = format!("Lifecycle event '{event}' doesn't support '{action}' action");
    Err(Error::new(Code::ConfigUnsupported, text).in_area(Area::Domain))
}

fn set_memory(domain: &mut domxml::Domain, kib: u64) -> Result<()> {
    let most = Facts::of(domain).memory_kib;
    if kib > most {
        return Err(Error::argument("cannot set memory higher than max memory"));
    }
    domain.current_memory = Some(Kib(kib));
    Ok(())
}

/// The balloon that tells of the guest's memory.
fn balloon(domain: &mut domxml::Domain) -> Result<&mut domxml::devices::Memballoon> {
    let balloon = domain
        .devices
        .memballoon
        .as_mut()
        .filter(|b| b.model.as_str() != "none");
    balloon.ok_or_else(|| {
        Error::internal("No memory balloon device configured, can not set the collection period")
    })
}

fn set_max_memory(domain: &mut domxml::Domain, kib: u64) -> Result<()> {
    if cells(domain) > 0 {
        return Err(Error::invalid(
            "initial memory size of a domain with NUMA nodes cannot be modified with this API",
        ));
    }
    if let Some(max) = domain.max_memory
        && kib > max.size.0
    {
        return Err(Error::argument(
            "cannot set initial memory size greater than the maximum memory size",
        ));
    }
    domain.memory.get_or_insert_default().size = Kib(kib);
    if domain.current_memory.is_none_or(|c| c.0 > kib) {
        domain.current_memory = Some(Kib(kib));
    }
    Ok(())
}

/// Most CPUs of a document that names each.
const MOST_NAMED: u32 = 65_536;

/// How many nodes of its own a guest has.
fn cells(domain: &domxml::Domain) -> usize {
    let numa = domain.cpu.as_ref().and_then(|cpu| cpu.numa.as_ref());
    numa.map_or(0, |numa| numa.cells.len())
}

fn set_max_vcpus(domain: &mut domxml::Domain, count: u32) -> Result<()> {
    let topology = domain.cpu.as_ref().and_then(|c| c.topology.as_ref()).map(|t| {
        [t.dies, t.clusters, t.cores, t.threads]
            .iter()
            .fold(u64::from(t.sockets), |n, f| n.saturating_mul(u64::from(*f)))
    });
    if topology.is_some_and(|t| t != u64::from(count)) {
        return Err(Error::argument(
            "CPU topology doesn't match the desired vcpu count",
        ));
    }
    if count == 0 {
        return Err(Error::argument("the number of vcpus must be 1 or more"));
    }
    let names_each = domain.vcpus.is_some() || cells(domain) > 0;
    if names_each && count > MOST_NAMED {
        return Err(Error::argument(format!(
            "at most {MOST_NAMED} vcpus can be named one by one"
        )));
    }
    fit_cells(domain, count)?;
    let vcpu = domain.vcpu.get_or_insert_default();
    let current = vcpu.current.unwrap_or(vcpu.count).min(count);
    vcpu.count = count;
    vcpu.current = (current != count).then_some(current);
    if let Some(vcpus) = &mut domain.vcpus {
        vcpus.all.retain(|v| v.id < count);
        let known = u32::try_from(vcpus.all.len()).unwrap_or(count);
        let new = |id| VcpuState {
            id,
            ..VcpuState::default()
        };
        vcpus.all.extend((known..count).map(new));
    }
    Ok(())
}

/// The guest's nodes have all CPUs: those that no node has are the first one's.
fn fit_cells(domain: &mut domxml::Domain, count: u32) -> Result<()> {
    let numa = domain.cpu.as_mut().and_then(|cpu| cpu.numa.as_mut());
    let Some(numa) = numa.filter(|numa| !numa.cells.is_empty()) else {
        return Ok(());
    };
    let placed = |cpu: u32| {
        numa.cells
            .iter()
            .flat_map(|cell| &cell.cpus)
            .any(|cpus| cpus.contains(cpu))
    };
    let all: usize = numa
        .cells
        .iter()
        .flat_map(|cell| &cell.cpus)
        .map(|cpus| cpus.len())
        .sum();
    if all > count as usize {
        return Err(Error::argument(
            "Number of CPUs in <numa> exceeds the desired maximum vcpu count",
        ));
    }
    let missing: Vec<u32> = (0..count).filter(|cpu| !placed(*cpu)).collect();
    if let Some(first) = numa.cells.first_mut().filter(|_| !missing.is_empty()) {
        let cpus = first.cpus.get_or_insert_default();
        missing.into_iter().for_each(|cpu| cpus.insert(cpu));
    }
    Ok(())
}

/// What of a change the running guest itself must have.
///
/// # Errors
/// It can't be changed while the guest runs.
fn live_of(change: &Change) -> Result<Option<Live>> {
    match change {
        Change::Memory(kib) => Ok(Some(Live::Memory(*kib))),
        Change::MemoryStatsPeriod(seconds) => Ok(Some(Live::MemoryStatsPeriod(*seconds))),
        Change::Tuning(change) => Ok(Some(Live::Tuning(change.clone()))),
        Change::MaxMemory(_) => Err(Error::invalid(
            "cannot resize the maximum memory on an active domain",
        )),
        Change::MaxVcpus(_) => Err(Error::new(
            Code::OperationUnsupported,
            "maximum vcpu count of a live domain can't be modified",
        )),
        // Of the others, QEMU need not know.
        Change::Lifecycle {
            event: LifecycleEvent::Reboot,
            action,
        } => Ok(Some(Live::OnReboot {
            resets: *action != LifecycleAction::Destroy,
        })),
        Change::Title(_) | Change::Description(_) | Change::Metadata { .. } | Change::Lifecycle { .. } => {
            Ok(None)
        }
    }
}

/// Changes the running guest, and remembers how that is taken back.
async fn change_guest(context: &Context, live: Live) -> Result<()> {
    let view = context.view();
    let Some(before) = live.before(context.driver(), &view).await? else {
        // What is not there yet has nothing to change: a CPU that is not plugged, say.
        return live.carry_out(context.driver(), &view).await;
    };
    context.intend(live.intent(&before)?).await?;
    let (driver, then) = (Arc::clone(context.driver()), Arc::clone(&view));
    context
        .step(
            "the running guest",
            live.carry_out(context.driver(), &view),
            async move { before.carry_out(&driver, &then).await },
        )
        .await
}

/// The event that tells of a change.
fn event_of(view: &View, change: &Change, which: Which) -> Option<(EventKind, Detail)> {
    let metadata = |kind: i32, uri: &str| {
        (
            EventKind::MetadataChange,
            Detail::MetadataChange(pb::event::MetadataChange {
                r#type: kind,
                uri: uri.to_owned(),
            }),
        )
    };
    match change {
        Change::Description(_) => Some(metadata(0, "")),
        Change::Title(_) => Some(metadata(1, "")),
        Change::Metadata { uri, .. } => Some(metadata(2, uri)),
        Change::Tuning(change) if which.live => {
            let run = view.run.as_ref()?;
            tuning::event_of(&run.document.domain, change)
        }
        _ => None,
    }
}

/// Says whether a guest starts with the host.
///
/// # Errors
/// `OperationInvalid` if it has no stored configuration.
pub async fn set_autostart(domain: &Domain, autostart: bool, conditions: &Conditions) -> Result<()> {
    let change = move |view: &mut View| view.autostart = autostart && view.config.is_some();
    change_autostart(domain, change, conditions).await
}

/// Says whether a guest starts with the host the next time, and only then.
///
/// # Errors
/// As [`set_autostart`].
pub async fn set_autostart_once(domain: &Domain, once: bool, conditions: &Conditions) -> Result<()> {
    let change = move |view: &mut View| view.autostart_once = once && view.config.is_some();
    change_autostart(domain, change, conditions).await
}

async fn change_autostart(
    domain: &Domain,
    change: impl FnOnce(&mut View) + Send + 'static,
    conditions: &Conditions,
) -> Result<()> {
    let view = domain.view();
    conditions.check(&view)?;
    if view.config.is_none() {
        return Err(Error::invalid("cannot set autostart for transient domain"));
    }
    if conditions.trial {
        return Ok(());
    }
    let change = move |view: &mut View| {
        change(view);
        Ok(Effects::none())
    };
    domain.commit(change).await.map(drop)
}

fn no_metadata() -> Error {
    Error::new(
        Code::NoDomainMetadata,
        "Requested metadata element is not present",
    )
    .in_area(Area::Domain)
}

/// The title.
///
/// # Errors
/// `NoDomainMetadata` if there is none.
pub fn title(view: &View, scope: Scope) -> Result<String> {
    read(view, scope)?
        .facts()
        .title
        .as_deref()
        .map(str::to_owned)
        .ok_or_else(no_metadata)
}

/// The description.
///
/// # Errors
/// As [`title`].
pub fn description(view: &View, scope: Scope) -> Result<String> {
    read(view, scope)?
        .facts()
        .description
        .as_deref()
        .map(str::to_owned)
        .ok_or_else(no_metadata)
}

/// One namespace's element.
///
/// # Errors
/// As [`title`].
pub fn metadata(view: &View, scope: Scope, uri: &str) -> Result<String> {
    read(view, scope)?
        .domain()?
        .metadata_element(uri)
        .ok_or_else(no_metadata)
}
