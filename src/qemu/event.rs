//! What a guest's QEMU tells by itself: events by meaning, with the raw one beside, and the end.

use qmp::{Closed, Event, EventData, Incoming, events as data};
use tokio::sync::mpsc;

/// Declares [`GuestEvent`]: events with data first, then those without.
macro_rules! guest_events {
    (
        data { $($(#[$doc:meta])* $name:ident($payload:ty),)* }
        plain { $($(#[$pdoc:meta])* $plain:ident = $text:literal,)* }
    ) => {
        /// Something that happened in a guest's QEMU. Names are QEMU's.
        #[derive(Debug, Clone, PartialEq)]
        pub enum GuestEvent {
            $($(#[$doc])* $name($payload),)*
            $($(#[$pdoc])* $plain,)*
            /// One that nobody here needs to know, or whose data is not understood.
            Other,
        }

        impl GuestEvent {
            /// What `raw` means.
            #[must_use]
            pub fn of(raw: &Event) -> Self {
                match raw.name.as_str() {
                    $(<$payload>::NAME => understood(raw, Self::$name),)*
                    $($text => Self::$plain,)*
                    _ => Self::Other,
                }
            }
        }
    };
}

guest_events! {
    data {
        /// Shuts down.
        Shutdown(data::Shutdown),
        /// Was reset.
        Reset(data::Reset),
        /// Its system crashed.
        GuestPanicked(data::GuestPanicked),
        /// Set its clock.
        RtcChange(data::RtcChange),
        /// Its watchdog expired.
        Watchdog(data::Watchdog),
        /// A disk failed.
        BlockIoError(data::BlockIoError),
        /// A disk was written above its threshold.
        BlockWriteThreshold(data::BlockWriteThreshold),
        /// A device is gone.
        DeviceDeleted(data::DeviceDeleted),
        /// The guest keeps a device.
        UnplugRefused(data::DeviceUnplugGuestError),
        /// Its firmware said what became of a device.
        DeviceOst(data::AcpiDeviceOst),
        /// A tray opened or closed.
        TrayMoved(data::DeviceTrayMoved),
        /// Its memory changed.
        BalloonChange(data::BalloonChange),
        /// A virtio-serial port was opened or closed inside.
        VserportChange(data::VserportChange),
        /// An interface receives something else.
        NicRxFilterChanged(data::NicRxFilterChanged),
        /// A virtio-mem device changed its size.
        MemoryDeviceSizeChange(data::MemoryDeviceSizeChange),
        /// A job changed its state.
        JobStatusChange(data::JobStatusChange),
        /// A migration changed its state.
        Migration(data::Migration),
        /// A migration began another pass.
        MigrationPass(data::MigrationPass),
        /// A dump of memory has ended.
        DumpCompleted(data::DumpCompleted),
        /// The connection to the helper that makes reservations came or went.
        PrManagerStatusChanged(data::PrManagerStatusChanged),
        /// An interface lost the program that it was connected to.
        NetdevStreamDisconnected(data::NetdevStreamDisconnected),
    }
    plain {
        /// Its CPUs stopped.
        Stop = "STOP",
        /// Its CPUs run.
        Resume = "RESUME",
        /// Its power button was pressed.
        PowerDown = "POWERDOWN",
        /// Sleeps, in memory.
        Suspend = "SUSPEND",
        /// Sleeps, on disk.
        SuspendDisk = "SUSPEND_DISK",
        /// Woke up.
        Wakeup = "WAKEUP",
        /// Its crash kernel was loaded.
        GuestCrashloaded = "GUEST_CRASHLOADED",
        /// Shuts down by its pvpanic device.
        GuestPvshutdown = "GUEST_PVSHUTDOWN",
    }
}

fn understood<T: EventData>(raw: &Event, make: impl FnOnce(T) -> GuestEvent) -> GuestEvent {
    match raw.decode::<T>() {
        Some(Ok(data)) => make(data),
        Some(Err(error)) => {
            tracing::warn!(event = raw.name, %error, "event of QEMU not understood");
            GuestEvent::Other
        }
        None => GuestEvent::Other,
    }
}

/// What [`Events`] gives.
#[derive(Debug)]
pub enum Notice {
    /// Something happened.
    Event {
        /// By meaning.
        event: GuestEvent,
        /// As it came, for those who watch the monitor itself.
        raw: Event,
    },
    /// The monitor's connection is over. QEMU itself may live on: its process tells.
    Closed(Closed),
}

/// Events of one connection, in order. Nothing is lost: when nobody takes them, the monitor is not read any
/// more, so whoever takes them must not wait for a command in between.
#[derive(Debug)]
pub struct Events {
    incoming: mpsc::Receiver<Incoming>,
}

impl Events {
    pub(super) fn new(incoming: mpsc::Receiver<Incoming>) -> Self {
        Self { incoming }
    }

    /// The next one; after [`Notice::Closed`] there is none. Cancel safe.
    pub async fn next(&mut self) -> Option<Notice> {
        Some(match self.incoming.recv().await? {
            Incoming::Event(raw) => Notice::Event {
                event: GuestEvent::of(&raw),
                raw,
            },
            Incoming::Closed(closed) => Notice::Closed(closed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(line: &str) -> GuestEvent {
        match qmp::parse(line.to_owned()) {
            Ok(qmp::Message::Event(raw)) => GuestEvent::of(&raw),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn events_are_told_apart_and_odd_ones_kept() {
        let shutdown = data::Shutdown {
            guest: false,
            reason: "host-signal".into(),
        };
        assert_eq!(
            event(r#"{"event":"SHUTDOWN","data":{"guest":false,"reason":"host-signal"}}"#),
            GuestEvent::Shutdown(shutdown)
        );
        assert_eq!(event(r#"{"event":"STOP"}"#), GuestEvent::Stop);
        assert_eq!(event(r#"{"event":"NEVER_SEEN","data":{}}"#), GuestEvent::Other);
        assert_eq!(
            event(r#"{"event":"RTC_CHANGE","data":{"offset":"odd"}}"#),
            GuestEvent::Other
        );
    }
}
