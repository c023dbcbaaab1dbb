//! Data of the events that somebody here reads, one line an event.

use serde::Deserialize;

use crate::EventData;

/// Declares events: documentation, type and name, data.
macro_rules! events {
    ($($(#[$doc:meta])* $name:ident $text:literal {
        $($(#[$fdoc:meta])* $field:ident: $type:ty),* $(,)?
    })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, PartialEq, Deserialize)]
            #[serde(rename_all = "kebab-case")]
            pub struct $name { $($(#[$fdoc])* pub $field: $type,)* }

            impl EventData for $name {
                const NAME: &'static str = $text;
            }
        )*
    };
}

events! {
    /// The guest, or somebody for it, is shutting down.
    Shutdown "SHUTDOWN" {
        /// The guest did it itself.
        guest: bool,
        /// QEMU's `ShutdownCause`, such as `guest-shutdown`, `host-signal`.
        #[serde(default)]
        reason: String,
    }
    /// The guest was reset.
    Reset "RESET" {
        /// The guest did it itself.
        guest: bool,
        /// QEMU's `ShutdownCause`, such as `guest-reset`, `host-qmp-system-reset`.
        #[serde(default)]
        reason: String,
    }
    /// The guest's system crashed.
    GuestPanicked "GUEST_PANICKED" {
        /// What QEMU does about it: `pause`, `poweroff`, `run`.
        action: String,
        /// What the guest told, by kind of device.
        info: Option<serde_json::Value>,
    }
    /// The guest has set its clock.
    RtcChange "RTC_CHANGE" {
        /// Seconds by which it is now off the base given at start.
        offset: i64,
    }
    /// The guest's watchdog expired.
    Watchdog "WATCHDOG" {
        /// What QEMU does about it: `reset`, `shutdown`, `poweroff`, `pause`, `debug`, `none`, `inject-nmi`.
        action: String,
    }
    /// A disk failed.
    BlockIoError "BLOCK_IO_ERROR" {
        /// Back end's old name; empty with `-blockdev`.
        #[serde(default)]
        device: String,
        /// Device's QOM path.
        qom_path: Option<String>,
        /// Node's name.
        node_name: Option<String>,
        /// `read` or `write`.
        operation: String,
        /// What QEMU does about it: `ignore`, `report`, `stop`.
        action: String,
        /// The host's disk is full.
        #[serde(default)]
        nospace: bool,
        /// For people.
        #[serde(default)]
        reason: String,
    }
    /// An interface's connection to another program is gone.
    NetdevStreamDisconnected "NETDEV_STREAM_DISCONNECTED" {
        /// The back end's id.
        netdev_id: String,
    }
    /// The connection to the helper that makes reservations came or went.
    PrManagerStatusChanged "PR_MANAGER_STATUS_CHANGED" {
        /// The object's id.
        id: String,
        /// There is one.
        connected: bool,
    }
    /// A device is gone.
    DeviceDeleted "DEVICE_DELETED" {
        /// Device's id, if it had one.
        device: Option<String>,
        /// QOM path.
        path: String,
    }
    /// The guest refused to give a device up.
    DeviceUnplugGuestError "DEVICE_UNPLUG_GUEST_ERROR" {
        /// Device's id, if it has one.
        device: Option<String>,
        /// QOM path.
        path: String,
    }
    /// A tray was opened or closed.
    DeviceTrayMoved "DEVICE_TRAY_MOVED" {
        /// Back end's old name; empty with `-blockdev`.
        #[serde(default)]
        device: String,
        /// Device's id or QOM path.
        id: String,
        /// Open now.
        tray_open: bool,
    }
    /// The guest has given back memory, or taken some.
    BalloonChange "BALLOON_CHANGE" {
        /// Bytes it has now.
        actual: u64,
    }
    /// The guest opened or closed a virtio-serial port.
    VserportChange "VSERPORT_CHANGE" {
        /// Port's device id.
        id: String,
        /// Open now.
        open: bool,
    }
    /// The guest changed what an interface receives; said once until asked for (`query-rx-filter`).
    NicRxFilterChanged "NIC_RX_FILTER_CHANGED" {
        /// Device's id, if it has one.
        name: Option<String>,
        /// QOM path.
        path: String,
    }
    /// A virtio-mem device has another size.
    MemoryDeviceSizeChange "MEMORY_DEVICE_SIZE_CHANGE" {
        /// Device's id, if it has one.
        id: Option<String>,
        /// Bytes.
        size: u64,
        /// QOM path.
        qom_path: String,
    }
    /// The guest's firmware said what became of a device.
    AcpiDeviceOst "ACPI_DEVICE_OST" {
        /// What it said.
        info: AcpiOst,
    }
    /// A job is in another state.
    JobStatusChange "JOB_STATUS_CHANGE" {
        /// Id.
        id: String,
        /// State, as in [`crate::types::JobInfo`].
        status: String,
    }
    /// A migration is in another state.
    Migration "MIGRATION" {
        /// QEMU's `MigrationStatus`.
        status: String,
    }
    /// A migration begins another pass over memory.
    MigrationPass "MIGRATION_PASS" {
        /// Counted from 1.
        pass: i64,
    }
    /// A dump of memory has ended.
    DumpCompleted "DUMP_COMPLETED" {
        /// How far it came.
        result: crate::types::DumpQueryResult,
        /// Why it failed.
        error: Option<String>,
    }
    /// A node was written above its threshold.
    BlockWriteThreshold "BLOCK_WRITE_THRESHOLD" {
        /// Node's name.
        node_name: String,
        /// Bytes above it.
        amount_exceeded: u64,
        /// The threshold, in bytes.
        write_threshold: u64,
    }
}

/// What a guest's firmware says of a device, in the words of ACPI's `_OST`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AcpiOst {
    /// Device's id, if it has one.
    pub device: Option<String>,
    /// Slot's number.
    pub slot: String,
    /// `DIMM`, `CPU` or newer.
    pub slot_type: String,
    /// What the guest was asked.
    pub source: i64,
    /// How it went.
    pub status: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Message, parse};

    #[test]
    fn data_is_decoded_on_demand_and_only_as_its_own_kind() {
        let line = r#"{"timestamp":{"seconds":1,"microseconds":2},"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown","new":1}}"#;
        let Ok(Message::Event(event)) = parse(line.into()) else {
            panic!()
        };
        let expected = Shutdown {
            guest: true,
            reason: "guest-shutdown".into(),
        };
        assert_eq!(event.decode::<Shutdown>().unwrap().unwrap(), expected);
        assert!(event.decode::<Reset>().is_none());
        let Ok(Message::Event(odd)) = parse(r#"{"event":"SHUTDOWN","data":{"guest":1}}"#.into()) else {
            panic!()
        };
        assert!(odd.decode::<Shutdown>().unwrap().is_err());
    }
}
