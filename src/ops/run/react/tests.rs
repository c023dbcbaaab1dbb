//! What follows from each event of QEMU in each state of the view, as a table.

use domxml::ParseFlags;
use serde_json::{Value, json};

use crate::{domain::Run, ops::run::react::*};

const RUNNING: Condition = Condition::RUNNING_BOOTED;

/// A guest's view before the event.
#[derive(Clone, Copy)]
struct Before {
    condition: Condition,
    starting: bool,
    fake_reboot: bool,
    /// Elements of the document, such as what follows a crash.
    xml: &'static str,
}

fn before(condition: Condition) -> Before {
    Before {
        condition,
        starting: false,
        fake_reboot: false,
        xml: "",
    }
}

impl Before {
    fn view(self) -> View {
        let text = format!(
            "<domain type='qemu' id='3'><name>a</name><memory>1024</memory><os><type>hvm</type></os>{}<devices>
             <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/><alias name='channel0'/></channel>
             <channel type='unix'><target type='virtio' name='other'/><alias name='channel1'/></channel>
             <disk type='file' device='disk'><source file='/images/a.img'/><target dev='vda' bus='virtio'/><alias name='virtio-disk0'/></disk>
             </devices></domain>",
            self.xml
        );
        let document = domxml::Domain::parse(&text, ParseFlags::NONE).unwrap();
        let mut view = View::new(uuid::Uuid::from_u128(1), "a".into(), 1);
        view.condition = self.condition;
        view.run = Some(Run {
            starting: self.starting,
            fake_reboot: self.fake_reboot,
            ..crate::domain::fixture::run(document)
        });
        view
    }
}

fn event(name: &str, data: Value) -> GuestEvent {
    let data = (!data.is_null()).then(|| serde_json::value::to_raw_value(&data).unwrap());
    let event = GuestEvent::of(&qmp::Event {
        name: name.to_owned(),
        seconds: 0,
        microseconds: 0,
        data,
    });
    assert_ne!(event, GuestEvent::Other, "{name} is not understood");
    event
}

/// The events in a line each, short.
fn shown(effects: &Effects) -> Vec<String> {
    let one = |(kind, detail): &(EventKind, Option<Detail>)| match detail {
        Some(Detail::Lifecycle(l)) => format!("lifecycle {}/{}", l.r#type, l.detail),
        Some(Detail::RtcChange(c)) => format!("rtc {}", c.offset),
        Some(Detail::Watchdog(w)) => format!("watchdog {}", w.action),
        Some(Detail::IoError(e)) => format!("io-error {} {} {} {}", e.path, e.device, e.action, e.reason),
        Some(Detail::TrayChange(t)) => format!("tray {} {}", t.alias, t.reason),
        Some(Detail::BalloonChange(b)) => format!("balloon {}", b.actual),
        Some(Detail::AgentLifecycle(a)) => format!("agent {}/{}", a.state, a.reason),
        Some(Detail::Device(d)) => format!("{} {}", kind.as_str_name(), d.alias),
        Some(Detail::PmReason(reason)) => format!("{} {reason}", kind.as_str_name()),
        None => kind.as_str_name().to_owned(),
        other => panic!("{other:?}"),
    };
    effects.events.iter().map(one).collect()
}

struct Case {
    what: &'static str,
    before: Before,
    event: GuestEvent,
    events: &'static [&'static str],
    after: Condition,
    then: Then,
}

/// `decide`, where somebody asked for a pause.
fn check(case: Case) {
    let mut view = case.before.view();
    let (effects, then) = decide(&mut view, &case.event, || Condition::PAUSED_USER);
    assert_eq!(shown(&effects), case.events, "{}: events", case.what);
    assert_eq!(view.condition, case.after, "{}: state", case.what);
    assert_eq!(then, case.then, "{}: then", case.what);
}

macro_rules! cases {
    ($($what:literal: $before:expr, $name:literal $data:tt => $events:expr, $after:ident, $then:expr;)*) => {
        [$(Case { what: $what, before: $before, event: event($name, json!($data)), events: &$events, after: Condition::$after, then: $then },)*]
    };
}

#[test]
fn the_cpus() {
    let starting = Before {
        starting: true,
        ..before(Condition::PAUSED_STARTING_UP)
    };
    for case in cases! {
        "a pause": before(RUNNING), "STOP" null => ["lifecycle 3/0"], PAUSED_USER, Then::Nothing;
        "a pause of what is paused": before(Condition::PAUSED_USER), "STOP" null => [], PAUSED_USER, Then::Nothing;
        "a stop while it starts": starting, "STOP" null => [], PAUSED_STARTING_UP, Then::Nothing;
        "CPUs let run by the start": starting, "RESUME" null => [], PAUSED_STARTING_UP, Then::Nothing;
        "going on": before(Condition::PAUSED_USER), "RESUME" null => ["lifecycle 4/0"], RUNNING_UNPAUSED, Then::Nothing;
        "going on of what runs": before(RUNNING), "RESUME" null => [], RUNNING_BOOTED, Then::Nothing;
        "going on after a crash": before(Condition::CRASHED_PANICKED), "RESUME" null => ["lifecycle 4/0"], RUNNING_CRASHED, Then::Nothing;
        "the stop that follows a shutdown": before(Condition::SHUTDOWN_USER), "STOP" null => [], SHUTDOWN_USER, Then::Nothing;
        "the stop that follows a crash": before(Condition::CRASHED_PANICKED), "STOP" null => [], CRASHED_PANICKED, Then::Nothing;
    } {
        check(case);
    }
}

#[test]
fn the_end() {
    let reboots = Before {
        fake_reboot: true,
        ..before(RUNNING)
    };
    let restarts = Before {
        xml: "<on_poweroff>restart</on_poweroff>",
        ..before(RUNNING)
    };
    let preserved = Before {
        xml: "<on_poweroff>preserve</on_poweroff>",
        ..before(RUNNING)
    };
    let guest = Then::Stop(crate::ops::run::cause::Cause::Shutdown);
    for case in cases! {
        "the guest shuts down": before(RUNNING), "SHUTDOWN" {"guest": true, "reason": "guest-shutdown"} => ["lifecycle 6/1"], SHUTDOWN_USER, guest.clone();
        "the host ends it": before(RUNNING), "SHUTDOWN" {"guest": false, "reason": "host-signal"} => ["lifecycle 6/2"], SHUTDOWN_USER, guest.clone();
        "a paused one is ended": before(Condition::PAUSED_USER), "SHUTDOWN" {"guest": false, "reason": "host-signal"} => ["lifecycle 6/2"], SHUTDOWN_USER, guest.clone();
        "a reboot by shutdown": reboots, "SHUTDOWN" {"guest": true, "reason": "guest-shutdown"} => [], RUNNING_BOOTED, Then::Restart;
        "the host ends one that reboots": reboots, "SHUTDOWN" {"guest": false, "reason": "host-signal"} => ["lifecycle 6/2"], SHUTDOWN_USER, guest.clone();
        "on_poweroff restart": restarts, "SHUTDOWN" {"guest": true, "reason": "guest-shutdown"} => [], RUNNING_BOOTED, Then::Restart;
        "on_poweroff restart, ended by the host": restarts, "SHUTDOWN" {"guest": false, "reason": "host-signal"} => ["lifecycle 6/2"], SHUTDOWN_USER, guest.clone();
        "on_poweroff preserve": preserved, "SHUTDOWN" {"guest": true, "reason": "guest-shutdown"} => ["lifecycle 6/1"], SHUTDOWN_USER, Then::Nothing;
        "QEMU ends after the guest shut down": before(Condition::SHUTDOWN_USER), "SHUTDOWN" {"guest": false, "reason": "host-signal"} => [], SHUTDOWN_USER, Then::Nothing;
        "a reset": before(RUNNING), "RESET" {"guest": true, "reason": "guest-reset"} => ["EVENT_KIND_REBOOT"], RUNNING_BOOTED, Then::Nothing;
    } {
        check(case);
    }
}

#[test]
fn a_reboot_by_shutdown_happens_once() {
    let mut view = Before {
        fake_reboot: true,
        ..before(RUNNING)
    }
    .view();
    let shutdown = event("SHUTDOWN", json!({"guest": true, "reason": "guest-shutdown"}));
    assert_eq!(decide(&mut view, &shutdown, || RUNNING).1, Then::Restart);
    assert_eq!(
        decide(&mut view, &shutdown, || RUNNING).1,
        Then::Stop(crate::ops::run::cause::Cause::Shutdown)
    );
}

#[test]
fn a_crash() {
    let on = |xml| Before {
        xml,
        ..before(RUNNING)
    };
    for case in cases! {
        "by default": before(RUNNING), "GUEST_PANICKED" {"action": "pause"} => ["lifecycle 8/0"], CRASHED_PANICKED, Then::Stop(crate::ops::run::cause::Cause::Crashed);
        "destroy": on("<on_crash>destroy</on_crash>"), "GUEST_PANICKED" {"action": "pause"} => ["lifecycle 8/0"], CRASHED_PANICKED, Then::Stop(crate::ops::run::cause::Cause::Crashed);
        "preserve": on("<on_crash>preserve</on_crash>"), "GUEST_PANICKED" {"action": "pause"} => ["lifecycle 8/0"], CRASHED_PANICKED, Then::Nothing;
        "a dump and the end": on("<on_crash>coredump-destroy</on_crash>"), "GUEST_PANICKED" {"action": "pause"} => ["lifecycle 3/0", "lifecycle 8/0"], CRASHED_PANICKED, Then::DumpAndStop;
        "a dump and a restart": on("<on_crash>coredump-restart</on_crash>"), "GUEST_PANICKED" {"action": "pause"} => ["lifecycle 3/0", "lifecycle 8/0"], CRASHED_PANICKED, Then::DumpAndRestart;
        "restart": on("<on_crash>restart</on_crash>"), "GUEST_PANICKED" {"action": "pause"} => ["lifecycle 8/0"], CRASHED_PANICKED, Then::Restart;
    } {
        check(case);
    }
}

#[test]
fn sleep() {
    for case in cases! {
        "in memory": before(RUNNING), "SUSPEND" null => ["EVENT_KIND_PM_SUSPEND 0", "lifecycle 7/0"], PMSUSPENDED_UNKNOWN, Then::Nothing;
        "on disk": before(RUNNING), "SUSPEND_DISK" null => ["EVENT_KIND_PM_SUSPEND_DISK 0", "lifecycle 7/1"], PMSUSPENDED_UNKNOWN, Then::Nothing;
        "waking up": before(Condition::PMSUSPENDED_UNKNOWN), "WAKEUP" null => ["EVENT_KIND_PM_WAKEUP 0", "lifecycle 2/4"], RUNNING_WAKEUP, Then::Nothing;
        "waking up of what is awake": before(RUNNING), "WAKEUP" null => ["EVENT_KIND_PM_WAKEUP 0"], RUNNING_BOOTED, Then::Nothing;
    } {
        check(case);
    }
}

#[test]
fn devices() {
    for case in cases! {
        "the clock": before(RUNNING), "RTC_CHANGE" {"offset": -5} => ["rtc -5"], RUNNING_BOOTED, Then::Nothing;
        "a watchdog that resets": before(RUNNING), "WATCHDOG" {"action": "reset"} => ["watchdog 2"], RUNNING_BOOTED, Then::Nothing;
        "a watchdog that pauses": before(RUNNING), "WATCHDOG" {"action": "pause"} => ["watchdog 1", "lifecycle 3/3"], PAUSED_WATCHDOG, Then::Nothing;
        "a watchdog with a new action": before(RUNNING), "WATCHDOG" {"action": "dance"} => ["watchdog 0"], RUNNING_BOOTED, Then::Nothing;
        "a disk that is full": before(RUNNING), "BLOCK_IO_ERROR" {"qom-path": "/machine/peripheral/virtio-disk0/virtio-backend", "operation": "write", "action": "stop", "nospace": true, "reason": "No space"}
            => ["io-error /images/a.img virtio-disk0 1 enospc"], RUNNING_BOOTED, Then::Nothing;
        "a disk of no known device": before(RUNNING), "BLOCK_IO_ERROR" {"operation": "read", "action": "report"} => ["io-error   2 "], RUNNING_BOOTED, Then::Nothing;
        "a tray opens": before(RUNNING), "DEVICE_TRAY_MOVED" {"id": "/machine/peripheral/ide0-0-0", "tray-open": true} => ["tray ide0-0-0 0"], RUNNING_BOOTED, Then::Nothing;
        "a tray closes": before(RUNNING), "DEVICE_TRAY_MOVED" {"id": "ide0-0-0", "tray-open": false} => ["tray ide0-0-0 1"], RUNNING_BOOTED, Then::Nothing;
        "the balloon": before(RUNNING), "BALLOON_CHANGE" {"actual": 104857600} => ["balloon 102400"], RUNNING_BOOTED, Then::Nothing;
        "a device is gone": before(RUNNING), "DEVICE_DELETED" {"device": "net0", "path": "/machine/peripheral/net0"} => [], RUNNING_BOOTED, Then::Departed("net0".to_owned());
        "a guest keeps a device": before(RUNNING), "DEVICE_UNPLUG_GUEST_ERROR" {"device": "net0", "path": "/machine/peripheral/net0"} => ["EVENT_KIND_DEVICE_REMOVAL_FAILED net0"], RUNNING_BOOTED, Then::Kept("net0".to_owned());
        "part of a device is gone": before(RUNNING), "DEVICE_DELETED" {"path": "/machine/peripheral/net0/virtio-backend"} => [], RUNNING_BOOTED, Then::Nothing;
        "the agent comes": before(RUNNING), "VSERPORT_CHANGE" {"id": "channel0", "open": true} => ["agent 1/2"], RUNNING_BOOTED, Then::Nothing;
        "the agent goes": before(RUNNING), "VSERPORT_CHANGE" {"id": "channel0", "open": false} => ["agent 2/2"], RUNNING_BOOTED, Then::Nothing;
        "another port opens": before(RUNNING), "VSERPORT_CHANGE" {"id": "channel1", "open": true} => [], RUNNING_BOOTED, Then::Nothing;
        "a port of no known device": before(RUNNING), "VSERPORT_CHANGE" {"id": "channel9", "open": true} => [], RUNNING_BOOTED, Then::Nothing;
    } {
        check(case);
    }
}

#[test]
fn a_pause_takes_its_reason_from_who_asked() {
    for (condition, told) in [
        (Condition::PAUSED_IOERROR, "lifecycle 3/2"),
        (Condition::PAUSED_WATCHDOG, "lifecycle 3/3"),
        (Condition::PAUSED_UNKNOWN, "lifecycle 3/0"),
    ] {
        let mut view = before(RUNNING).view();
        let (effects, _) = decide(&mut view, &GuestEvent::Stop, || condition);
        assert_eq!(
            (shown(&effects), view.condition),
            (vec![told.to_owned()], condition)
        );
    }
}

#[test]
fn the_state_of_a_channel_is_in_the_document() {
    let mut view = before(RUNNING).view();
    decide(
        &mut view,
        &event("VSERPORT_CHANGE", json!({"id": "channel1", "open": true})),
        || RUNNING,
    );
    let text = view.current().unwrap().text().unwrap();
    assert!(text.contains("name='other' state='connected'"), "{text}");
}

#[test]
fn nothing_follows_for_a_guest_that_does_not_run() {
    let mut view = View::new(uuid::Uuid::from_u128(1), "a".into(), 1);
    let (effects, then) = decide(
        &mut view,
        &event("SHUTDOWN", json!({"guest": true, "reason": ""})),
        || RUNNING,
    );
    assert_eq!(
        (shown(&effects), then, view.condition),
        (vec![], Then::Nothing, Condition::SHUTOFF_UNKNOWN)
    );
}
