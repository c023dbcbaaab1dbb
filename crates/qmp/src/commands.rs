//! The commands, one line each: seconds it may take, name, arguments, reply.
//!
//! A query that QEMU's main loop answers from memory has 5 s; what may flush disks or wait for the guest's
//! hardware has 30 s; what copies or formats has more.

use serde_json::{Map, Value};

use crate::command::commands;
use crate::types::*;

commands! {
    /// Ends negotiation; the handshake does it.
    30 QmpCapabilities "qmp_capabilities" {
        /// Capabilities to enable, of those offered.
        #[serde(skip_serializing_if = "Option::is_none")]
        enable: Option<Vec<String>>
    } -> Empty;

    /// Version.
    5 QueryVersion "query-version" {} -> crate::Version;
    /// Whether it runs, and why not.
    5 QueryStatus "query-status" {} -> StatusInfo;
    /// Lets CPUs run.
    30 Cont "cont" {} -> Empty;
    /// Stops CPUs, and flushes disks.
    30 Stop "stop" {} -> Empty;
    /// Presses the power button.
    10 SystemPowerdown "system_powerdown" {} -> Empty;
    /// Presses the reset button.
    10 SystemReset "system_reset" {} -> Empty;
    /// Wakes a suspended guest.
    10 SystemWakeup "system_wakeup" {} -> Empty;
    /// Ends QEMU.
    10 Quit "quit" {} -> Empty;
    /// What QEMU does when these things happen; absent: as it was.
    10 SetAction "set-action" {
        /// `reset`, `shutdown`.
        #[serde(skip_serializing_if = "Option::is_none")]
        reboot: Option<String>,
        /// `poweroff`, `pause`.
        #[serde(skip_serializing_if = "Option::is_none")]
        shutdown: Option<String>,
        /// `none`, `pause`, `shutdown`, `exit-failure`.
        #[serde(skip_serializing_if = "Option::is_none")]
        panic: Option<String>,
        /// `reset`, `shutdown`, `poweroff`, `pause`, `debug`, `none`, `inject-nmi`.
        #[serde(skip_serializing_if = "Option::is_none")]
        watchdog: Option<String>
    } -> Empty;
    /// Injects a non-maskable interrupt.
    10 InjectNmi "inject-nmi" {} -> Empty;
    /// Runs a command of the human monitor; what it prints.
    30 HumanMonitorCommand "human-monitor-command" {
        /// The line.
        command_line: String
    } -> String;

    /// Virtual CPUs and their threads.
    5 QueryCpusFast "query-cpus-fast" {} -> Vec<CpuInfoFast>;
    /// Slots of CPUs.
    5 QueryHotpluggableCpus "query-hotpluggable-cpus" {} -> Vec<HotpluggableCpu>;
    /// Threads for I/O.
    5 QueryIothreads "query-iothreads" {} -> Vec<IoThreadInfo>;

    /// Memory that the balloon leaves.
    5 QueryBalloon "query-balloon" {} -> BalloonInfo;
    /// Asks the guest for another size.
    10 Balloon "balloon" {
        /// Bytes.
        value: u64
    } -> Empty;
    /// Sizes of memory.
    5 QueryMemorySizeSummary "query-memory-size-summary" {} -> MemorySizeSummary;
    /// Memory devices.
    5 QueryMemoryDevices "query-memory-devices" {} -> Vec<MemoryDevice>;

    /// Disks.
    5 QueryBlock "query-block" {} -> Vec<BlockInfo>;
    /// Counters of disks, or of all nodes.
    5 QueryBlockstats "query-blockstats" {
        /// All nodes instead of disks.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        query_nodes: bool
    } -> Vec<BlockStats>;
    /// Nodes with names.
    5 QueryNamedBlockNodes "query-named-block-nodes" {
        /// Without their backing chains.
        flat: bool
    } -> Vec<BlockDeviceInfo>;
    /// Jobs.
    5 QueryJobs "query-jobs" {} -> Vec<JobInfo>;

    /// Character devices' back ends.
    5 QueryChardev "query-chardev" {} -> Vec<ChardevInfo>;
    /// VNC server.
    5 QueryVnc "query-vnc" {} -> VncInfo;
    /// PCI buses.
    5 QueryPci "query-pci" {} -> Vec<PciInfo>;
    /// What interfaces receive, and tell of the next change again.
    5 QueryRxFilter "query-rx-filter" {
        /// One interface's device id.
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<String>
    } -> Vec<RxFilterInfo>;
    /// What could be yanked.
    5 QueryYank "query-yank" {} -> Vec<Value>;

    /// Reads a property.
    5 QomGet "qom-get" {
        /// Object's path.
        path: String,
        /// Its name.
        property: String
    } -> Value;
    /// Writes a property.
    10 QomSet "qom-set" {
        /// Object's path.
        path: String,
        /// Its name.
        property: String,
        /// Its value.
        value: Value
    } -> Empty;
    /// Lists an object's properties and children.
    5 QomList "qom-list" {
        /// Object's path.
        path: String
    } -> Vec<ObjectPropertyInfo>;

    /// Names the descriptor that goes with it.
    10 Getfd "getfd" {
        /// Its name.
        fdname: String
    } -> Empty;
    /// Closes a named descriptor.
    10 Closefd "closefd" {
        /// Its name.
        fdname: String
    } -> Empty;
    /// Adds the descriptor that goes with it to a set.
    10 AddFd "add-fd" {
        /// The set; none: a new one.
        #[serde(skip_serializing_if = "Option::is_none")]
        fdset_id: Option<i64>,
        /// Free text.
        #[serde(skip_serializing_if = "Option::is_none")]
        opaque: Option<String>
    } -> AddfdInfo;
    /// Removes a descriptor, or a whole set.
    10 RemoveFd "remove-fd" {
        /// The set.
        fdset_id: i64,
        /// One number of it.
        #[serde(skip_serializing_if = "Option::is_none")]
        fd: Option<i64>
    } -> Empty;

    /// Plugs a device; the guest may take its time to use it.
    30 DeviceAdd "device_add" {
        /// `driver`, `id` and properties.
        #[serde(flatten)]
        properties: Map<String, Value>
    } -> Empty;
    /// Asks the guest to give a device up; done at `DEVICE_DELETED`.
    10 DeviceDel "device_del" {
        /// Device's id.
        id: String
    } -> Empty;
    /// Makes an object.
    30 ObjectAdd "object-add" {
        /// `qom-type`, `id` and properties.
        #[serde(flatten)]
        properties: Map<String, Value>
    } -> Empty;
    /// Removes an object.
    10 ObjectDel "object-del" {
        /// Its id.
        id: String
    } -> Empty;
    /// Opens a block node.
    60 BlockdevAdd "blockdev-add" {
        /// `driver`, `node-name` and options.
        #[serde(flatten)]
        options: Map<String, Value>
    } -> Empty;
    /// Closes a block node, flushing it.
    60 BlockdevDel "blockdev-del" {
        /// Its name.
        node_name: String
    } -> Empty;
    /// Makes a character device's back end.
    10 ChardevAdd "chardev-add" {
        /// Its id.
        id: String,
        /// `type` and `data`.
        backend: Value
    } -> Value;
    /// Removes a character device's back end.
    10 ChardevRemove "chardev-remove" {
        /// Its id.
        id: String
    } -> Empty;
    /// Makes an interface's back end.
    10 NetdevAdd "netdev_add" {
        /// `type`, `id` and options.
        #[serde(flatten)]
        options: Map<String, Value>
    } -> Empty;
    /// Removes an interface's back end.
    10 NetdevDel "netdev_del" {
        /// Its id.
        id: String
    } -> Empty;
    /// Gives a display its password.
    10 SetPassword "set_password" {
        /// `vnc` or `spice`.
        protocol: String,
        /// The password.
        password: String
    } -> Empty;
    /// Says until when a display's password is good.
    10 ExpirePassword "expire_password" {
        /// `vnc` or `spice`.
        protocol: String,
        /// `now`, `never`, `+SECONDS` or seconds since 1970.
        time: String
    } -> Empty;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_declared_once() {
        let mut names = NAMES.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), NAMES.len());
    }

    fn json(command: &impl serde::Serialize) -> String {
        serde_json::to_string(command).unwrap()
    }

    #[test]
    fn arguments_have_qemus_names_and_absent_ones_are_not_sent() {
        assert_eq!(
            json(&AddFd {
                fdset_id: None,
                opaque: Some("x".into())
            }),
            r#"{"opaque":"x"}"#
        );
        assert_eq!(
            json(&RemoveFd {
                fdset_id: 3,
                fd: Some(4)
            }),
            r#"{"fdset-id":3,"fd":4}"#
        );
        assert_eq!(
            json(&HumanMonitorCommand {
                command_line: "info".into()
            }),
            r#"{"command-line":"info"}"#
        );
        assert_eq!(json(&QueryBlockstats { query_nodes: false }), "{}");
        assert_eq!(json(&QueryStatus {}), "{}");
        let properties = serde_json::from_str(r#"{"driver":"pc-dimm","id":"d","size":1}"#).unwrap();
        assert_eq!(
            json(&DeviceAdd { properties }),
            r#"{"driver":"pc-dimm","id":"d","size":1}"#
        );
    }
}
