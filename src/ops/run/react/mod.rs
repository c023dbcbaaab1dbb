//! What follows from what QEMU says by itself.
//!
//! [`decide`] is a pure function of the guest's view and the event; `supervise` calls it inside the guest's owner and starts
//! what is to be done besides, in its own task.

mod threshold;

use domxml::clock::{Adjustment, ClockOffset};

use crate::{
    domain::{Condition, Effects, RunState, View},
    events::model::{self as pb, EventKind, event::Detail},
    ops::{
        holdings::helper::reservations::MANAGER,
        run::{cause, slots},
    },
    qemu::GuestEvent,
};

/// libvirt's lifecycle events.
pub(crate) mod lifecycle {
    pub(crate) const DEFINED_UPDATED: (i32, i32) = (0, 1);
    pub(crate) const STARTED: (i32, i32) = (2, 0);
    pub(crate) const STARTED_RESTORED: (i32, i32) = (2, 2);
    pub(crate) const STARTED_WAKEUP: (i32, i32) = (2, 4);
    pub(crate) const SUSPENDED: (i32, i32) = (3, 0);
    pub(crate) const SUSPENDED_IOERROR: (i32, i32) = (3, 2);
    pub(crate) const SUSPENDED_WATCHDOG: (i32, i32) = (3, 3);
    pub(crate) const SUSPENDED_RESTORED: (i32, i32) = (3, 4);
    pub(crate) const RESUMED: (i32, i32) = (4, 0);
    pub(crate) const RESUMED_FROM_SNAPSHOT: (i32, i32) = (4, 2);
    pub(crate) const SHUTDOWN_GUEST: (i32, i32) = (6, 1);
    pub(crate) const SHUTDOWN_HOST: (i32, i32) = (6, 2);
    pub(crate) const PMSUSPENDED_MEMORY: (i32, i32) = (7, 0);
    pub(crate) const PMSUSPENDED_DISK: (i32, i32) = (7, 1);
    pub(crate) const CRASHED_PANICKED: (i32, i32) = (8, 0);
}

/// What is to be done besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing.
    Nothing,
    /// End the run for this reason.
    Stop(cause::Cause),
    /// Reset the machine and let it run: a shutdown that is to be a reboot.
    Restart,
    /// Dump its memory, and then end it.
    DumpAndStop,
    /// Dump its memory, reset it and let it run.
    DumpAndRestart,
    /// Dump its memory and let it go on.
    DumpAndResume,
    /// See to what is left of the device of this alias, which QEMU has no more.
    Departed(String),
    /// A job of QEMU's is in another state.
    Job {
        /// Its id.
        id: String,
        /// The state, in QEMU's word.
        state: String,
    },
    /// The guest keeps the device of this alias: whoever wants it to go is told.
    Kept(String),
    /// The helper that makes reservations is gone.
    Unreserved,
    /// The interface of this alias has lost the program that it is connected to.
    Disconnected(String),
}

/// The word of an action in a document.
fn action(
    view: &View,
    of: impl Fn(&domxml::Domain) -> Option<domxml::clock::LifecycleAction>,
    default: domxml::clock::LifecycleAction,
) -> domxml::clock::LifecycleAction {
    view.run
        .as_ref()
        .and_then(|r| of(&r.document.domain))
        .unwrap_or(default)
}

/// Changes the view by the event, and says what else is to be done. `pause` is why the CPUs stop if somebody asked.
pub(crate) fn decide(
    view: &mut View,
    event: &GuestEvent,
    pause: impl FnOnce() -> Condition,
) -> (Effects, Then) {
    let none = || (Effects::none(), Then::Nothing);
    let Some(run) = view.run.as_mut() else {
        return none();
    };
    match event {
        GuestEvent::Shutdown(s) => shutdown(view, s.guest),
        GuestEvent::Reset(_) => (Effects::none().event(EventKind::Reboot, None), Then::Nothing),
        GuestEvent::Stop => (paused(view, pause()), Then::Nothing),
        GuestEvent::Resume => (resumed(view), Then::Nothing),
        GuestEvent::GuestPanicked(_) => panicked(view),
        GuestEvent::RtcChange(change) => (clock_set(view, change.offset), Then::Nothing),
        GuestEvent::Watchdog(w) => watchdog(view, &w.action),
        GuestEvent::BlockIoError(error) => (
            Effects::none().event(EventKind::IoError, Some(io_error(run, error))),
            Then::Nothing,
        ),
        GuestEvent::JobStatusChange(job) => (
            Effects::none(),
            Then::Job {
                id: job.id.clone(),
                state: job.status.clone(),
            },
        ),
        GuestEvent::BlockWriteThreshold(told) => (threshold::reached(view, told), Then::Nothing),
        GuestEvent::TrayMoved(tray) => (
            tray_moved(view, &alias_of(&tray.id), tray.tray_open),
            Then::Nothing,
        ),
        GuestEvent::BalloonChange(balloon) => {
            let kib = balloon.actual / 1024;
            run.seen.balloon_kib = Some(kib);
            let detail = Detail::BalloonChange(pb::event::BalloonChange { actual: kib });
            (
                Effects::none().event(EventKind::BalloonChange, Some(detail)),
                Then::Nothing,
            )
        }
        GuestEvent::VserportChange(port) => (channel(view, &port.id, port.open), Then::Nothing),
        GuestEvent::DeviceDeleted(deleted) => left(deleted).map_or_else(none, departed),
        GuestEvent::UnplugRefused(refused) => refused.device.as_deref().map_or_else(none, kept),
        GuestEvent::DeviceOst(ost) if refuses_unplug(&ost.info) => {
            ost.info.device.as_deref().map_or_else(none, kept)
        }
        GuestEvent::MemoryDeviceSizeChange(change) => {
            let id = change.id.as_deref().unwrap_or(&change.qom_path);
            (
                memory_resized(view, &alias_of(id), change.size / 1024),
                Then::Nothing,
            )
        }
        GuestEvent::PrManagerStatusChanged(of) if of.id == MANAGER && !of.connected => {
            (Effects::none(), Then::Unreserved)
        }
        GuestEvent::NetdevStreamDisconnected(lost) => disconnected(&lost.netdev_id),
        GuestEvent::MigrationPass(pass) => (iterated(pass.pass), Then::Nothing),
        GuestEvent::Suspend => (
            pm_suspended(view, EventKind::PmSuspend, lifecycle::PMSUSPENDED_MEMORY),
            Then::Nothing,
        ),
        GuestEvent::SuspendDisk => (
            pm_suspended(view, EventKind::PmSuspendDisk, lifecycle::PMSUSPENDED_DISK),
            Then::Nothing,
        ),
        GuestEvent::Wakeup => (woken(view), Then::Nothing),
        _ => none(),
    }
}

/// The guest set its clock. One of its own keeps what it is ahead by, of which QEMU tells only what came since the start.
fn clock_set(view: &mut View, offset: i64) -> Effects {
    let mut offset = offset;
    if let Some(run) = &mut view.run
        && let Some(clock) = &run.document.domain.clock
        && clock.offset == ClockOffset::Variable
    {
        offset = offset.saturating_add(clock.adjustment0.unwrap_or(0));
        let mut document = domxml::Domain::clone(&run.document.domain);
        if let Some(clock) = &mut document.clock {
            clock.adjustment = Some(Adjustment::Seconds(offset));
        }
        run.document = crate::domain::Document::live(document);
    }
    let detail = Detail::RtcChange(pb::event::RtcChange { offset });
    Effects::none().event(EventKind::RtcChange, Some(detail))
}

/// An interface has lost the program that its back end is connected to.
fn disconnected(back_end: &str) -> (Effects, Then) {
    let alias = back_end.strip_prefix("host").unwrap_or(back_end);
    (Effects::none(), Then::Disconnected(alias.to_owned()))
}

/// QEMU's migration began another pass over memory.
fn iterated(pass: i64) -> Effects {
    let detail = Detail::MigrationIteration(i32::try_from(pass).unwrap_or(i32::MAX));
    Effects::none().event(EventKind::MigrationIteration, Some(detail))
}

/// The device that has left. Of some CPUs QEMU tells only that a part has gone.
fn left(deleted: &qmp::events::DeviceDeleted) -> Option<&str> {
    let alias = deleted.device.as_deref();
    alias.or_else(|| slots::alias_in(&deleted.path))
}

/// A device has left: told when its back ends are gone and the document has it no more.
fn departed(alias: &str) -> (Effects, Then) {
    (Effects::none(), Then::Departed(alias.to_owned()))
}

/// The guest keeps a device.
fn kept(alias: &str) -> (Effects, Then) {
    let detail = Detail::Device(pb::event::DeviceChange {
        alias: alias.to_owned(),
    });
    (
        Effects::none().event(EventKind::DeviceRemovalFailed, Some(detail)),
        Then::Kept(alias.to_owned()),
    )
}

/// Whether a guest's firmware says that it keeps a memory module or a CPU. What is still under way is no refusal.
fn refuses_unplug(ost: &qmp::events::AcpiOst) -> bool {
    const EJECT: [i64; 2] = [0x3, 0x103];
    let failed = ost.status == 1 || (0x80..=0x83).contains(&ost.status);
    matches!(ost.slot_type.as_str(), "DIMM" | "CPU") && EJECT.contains(&ost.source) && failed
}

/// The guest has more or less of a virtio-mem device.
fn memory_resized(view: &mut View, alias: &str, kib: u64) -> Effects {
    let Some(run) = view.run.as_mut() else {
        return Effects::none();
    };
    let mut document = domxml::Domain::clone(&run.document.domain);
    let mut modules = document.devices.memories.iter_mut();
    if let Some(module) = modules.find(|m| m.info.alias.as_deref() == Some(alias)) {
        let size = domxml::devices::common::Size {
            unit: Some("KiB".to_owned()),
            value: kib,
        };
        let before = module.target.get_or_insert_default().current.replace(size);
        let before = before.map_or(0, |size| size.value);
        let grown = |all: u64| all.saturating_sub(before).saturating_add(kib);
        if let Some(current) = &mut document.current_memory {
            current.0 = grown(current.0);
        }
        run.seen.balloon_kib = run.seen.balloon_kib.map(grown);
        run.document = crate::domain::Document::live(document);
    }
    let detail = Detail::MemoryDeviceSizeChange(pb::event::MemoryDeviceSizeChange {
        alias: alias.to_owned(),
        size_kib: kib,
    });
    Effects::none().event(EventKind::MemoryDeviceSizeChange, Some(detail))
}

/// A tray was opened or closed, by the guest or by us.
pub(crate) fn tray_moved(view: &mut View, alias: &str, open: bool) -> Effects {
    let Some(run) = view.run.as_mut() else {
        return Effects::none();
    };
    let mut document = domxml::Domain::clone(&run.document.domain);
    if let Some(disk) = document
        .devices
        .disks
        .iter_mut()
        .find(|d| d.info.alias.as_deref() == Some(alias))
    {
        disk.target.tray = open.then_some(domxml::devices::Tray::Open);
        run.document = crate::domain::Document::live(document);
    }
    let detail = Detail::TrayChange(pb::event::TrayChange {
        alias: alias.to_owned(),
        reason: i32::from(!open),
    });
    Effects::none().event(EventKind::TrayChange, Some(detail))
}

/// The id of a device from its id or its path in QEMU's tree.
pub(crate) fn alias_of(id: &str) -> String {
    id.strip_prefix("/machine/peripheral/")
        .unwrap_or(id)
        .split('/')
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn io_error(run: &crate::domain::Run, error: &qmp::events::BlockIoError) -> Detail {
    let alias = error.qom_path.as_deref().map(alias_of).unwrap_or_default();
    let disk = run
        .document
        .domain
        .devices
        .disks
        .iter()
        .find(|d| d.info.alias.as_deref() == Some(alias.as_str()));
    let path = disk
        .and_then(|d| crate::ops::holdings::storage::chain::local_path(d.kind, d.source.as_ref()))
        .map(|p| p.to_string_lossy().into_owned());
    let action = match error.action.as_str() {
        "stop" => 1,
        "report" => 2,
        _ => 0,
    };
    let reason = if error.nospace { "enospc" } else { "" };
    Detail::IoError(pb::event::IoError {
        path: path.unwrap_or_default(),
        device: alias,
        action,
        reason: reason.to_owned(),
    })
}

/// The guest or the host ends the machine; QEMU waits to be told what to do.
fn shutdown(view: &mut View, by_guest: bool) -> (Effects, Then) {
    use domxml::clock::LifecycleAction as A;
    // Told already: it is only that QEMU ends now.
    if matches!(view.condition.state(), RunState::Shutdown) {
        return (Effects::none(), Then::Nothing);
    }
    let Some(run) = view.run.as_mut() else {
        return (Effects::none(), Then::Nothing);
    };
    let fake_reboot = std::mem::take(&mut run.fake_reboot);
    let on_poweroff = run.document.domain.on_poweroff.unwrap_or(A::Destroy);
    if by_guest && (fake_reboot || on_poweroff == A::Restart) {
        return (Effects::none(), Then::Restart);
    }
    let (kind, detail) = if by_guest {
        lifecycle::SHUTDOWN_GUEST
    } else {
        lifecycle::SHUTDOWN_HOST
    };
    view.condition = Condition::SHUTDOWN_USER;
    let effects = Effects::none().lifecycle(kind, detail);
    match on_poweroff {
        A::Preserve if by_guest => (effects, Then::Nothing),
        _ => (effects, Then::Stop(cause::Cause::Shutdown)),
    }
}

/// The CPUs have stopped.
pub(crate) fn paused(view: &mut View, condition: Condition) -> Effects {
    let starting = view.run.as_ref().is_none_or(|r| r.starting);
    if starting || view.condition.state() != RunState::Running {
        return Effects::none();
    }
    view.condition = condition;
    let (kind, detail) = match condition {
        Condition::PAUSED_IOERROR => lifecycle::SUSPENDED_IOERROR,
        Condition::PAUSED_WATCHDOG => lifecycle::SUSPENDED_WATCHDOG,
        _ => lifecycle::SUSPENDED,
    };
    Effects::none().lifecycle(kind, detail)
}

/// The CPUs run again.
pub(crate) fn resumed(view: &mut View) -> Effects {
    let starting = view.run.as_ref().is_none_or(|r| r.starting);
    if starting || matches!(view.condition.state(), RunState::Running) {
        return Effects::none();
    }
    view.condition = if view.condition.state() == RunState::Crashed {
        Condition::RUNNING_CRASHED
    } else {
        Condition::RUNNING_UNPAUSED
    };
    Effects::none().lifecycle(lifecycle::RESUMED.0, lifecycle::RESUMED.1)
}

/// The CPUs of a guest that was restored run.
pub(crate) fn restored(view: &mut View) -> Effects {
    view.condition = Condition::RUNNING_RESTORED;
    let (kind, detail) = lifecycle::RESUMED_FROM_SNAPSHOT;
    Effects::none().lifecycle(kind, detail)
}

/// The guest's system has crashed and told so.
fn panicked(view: &mut View) -> (Effects, Then) {
    use domxml::clock::LifecycleAction as A;
    let on_crash = action(view, |d| d.on_crash, A::Destroy);
    let runs = view.condition.state() == RunState::Running;
    view.condition = Condition::CRASHED_PANICKED;
    let effects = match on_crash {
        // It is stopped for its dump, and that is told.
        A::CoredumpRestart | A::CoredumpDestroy if runs => {
            Effects::none().lifecycle(lifecycle::SUSPENDED.0, lifecycle::SUSPENDED.1)
        }
        _ => Effects::none(),
    };
    let effects = effects.lifecycle(lifecycle::CRASHED_PANICKED.0, lifecycle::CRASHED_PANICKED.1);
    let then = match on_crash {
        A::Preserve => Then::Nothing,
        A::Restart | A::RenameRestart => Then::Restart,
        A::CoredumpRestart => Then::DumpAndRestart,
        A::CoredumpDestroy => Then::DumpAndStop,
        A::Destroy => Then::Stop(cause::Cause::Crashed),
    };
    (effects, then)
}

/// The guest's watchdog has expired; what QEMU does about it may stop the CPUs.
fn watchdog(view: &mut View, action: &str) -> (Effects, Then) {
    const ACTIONS: &[(&str, i32)] = &[
        ("none", 0),
        ("pause", 1),
        ("reset", 2),
        ("poweroff", 3),
        ("shutdown", 4),
        ("debug", 5),
        ("inject-nmi", 6),
    ];
    let number = ACTIONS
        .iter()
        .find(|(name, _)| *name == action)
        .map_or(0, |(_, n)| *n);
    let mut effects = Effects::none().event(
        EventKind::Watchdog,
        Some(Detail::Watchdog(pb::event::Watchdog { action: number })),
    );
    if action == "pause" {
        effects
            .events
            .extend(paused(view, Condition::PAUSED_WATCHDOG).events);
        let run = view.run.as_ref();
        let mut watchdogs = run
            .into_iter()
            .flat_map(|run| &run.document.domain.devices.watchdogs);
        if watchdogs.any(|watchdog| watchdog.action == Some(domxml::devices::WatchdogAction::Dump)) {
            return (effects, Then::DumpAndResume);
        }
    }
    (effects, Then::Nothing)
}

fn pm_suspended(view: &mut View, kind: EventKind, (lifecycle, detail): (i32, i32)) -> Effects {
    view.condition = Condition::PMSUSPENDED_UNKNOWN;
    Effects::none()
        .event(kind, Some(Detail::PmReason(0)))
        .lifecycle(lifecycle, detail)
}

fn woken(view: &mut View) -> Effects {
    let effects = Effects::none().event(EventKind::PmWakeup, Some(Detail::PmReason(0)));
    if view.condition.state() != RunState::PmSuspended {
        return effects;
    }
    view.condition = Condition::RUNNING_WAKEUP;
    effects.lifecycle(lifecycle::STARTED_WAKEUP.0, lifecycle::STARTED_WAKEUP.1)
}

/// The guest has opened or closed a port.
pub(crate) fn channel(view: &mut View, alias: &str, open: bool) -> Effects {
    use domxml::devices::ChannelState as S;
    let Some(run) = view.run.as_mut() else {
        return Effects::none();
    };
    let mut document = domxml::Domain::clone(&run.document.domain);
    let Some(channel) = document
        .devices
        .channels
        .iter_mut()
        .find(|c| c.info.alias.as_deref() == Some(alias))
    else {
        return Effects::none();
    };
    let Some(target) = channel.target.as_mut() else {
        return Effects::none();
    };
    let state = if open { S::Connected } else { S::Disconnected };
    let agent = target.name.as_deref() == Some("org.qemu.guest_agent.0");
    if target.state.replace(state) == Some(state) && !agent {
        return Effects::none();
    }
    run.document = crate::domain::Document::live(document);
    match agent {
        true => Effects::none().event(EventKind::AgentLifecycle, Some(agent_lifecycle(open, 2))),
        false => Effects::none(),
    }
}

/// The agent's event; reason 1 is the start of the guest, 2 the channel.
pub(crate) fn agent_lifecycle(connected: bool, reason: i32) -> Detail {
    Detail::AgentLifecycle(pb::event::AgentLifecycle {
        state: if connected { 1 } else { 2 },
        reason,
    })
}

#[cfg(test)]
mod tests;
