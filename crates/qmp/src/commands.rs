//! The commands, one line each: seconds it may take, name, arguments, reply.
//!
//! A query that QEMU's main loop answers from memory has 5 s; what may flush disks or wait for the guest's
//! hardware has 30 s; what copies or formats has more.

use serde_json::{Map, Value};

use crate::command::{commands, open_commands};
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
    /// What the machine can do.
    5 QueryCurrentMachine "query-current-machine" {} -> CurrentMachine;
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
    /// Writes memory to a file, by the first CPU's addresses.
    30 Memsave "memsave" {
        /// First address.
        val: i64,
        /// Bytes.
        size: u64,
        /// The file.
        filename: String
    } -> Empty;
    /// Writes memory to a file, by the machine's addresses.
    30 Pmemsave "pmemsave" {
        /// First address.
        val: i64,
        /// Bytes.
        size: u64,
        /// The file.
        filename: String
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
    /// What is exported.
    5 QueryBlockExports "query-block-exports" {} -> Vec<BlockExportInfo>;
    /// Begins to measure how fast memory is written.
    10 CalcDirtyRate "calc-dirty-rate" {
        /// Seconds that it takes.
        calc_time: i64,
        /// `dirty-bitmap` or `dirty-ring`; none: by samples.
        #[serde(skip_serializing_if = "Option::is_none")]
        mode: Option<String>
    } -> Empty;
    /// How fast memory is written, as last measured.
    5 QueryDirtyRate "query-dirty-rate" {} -> DirtyRateInfo;
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
    /// Sets of descriptors.
    5 QueryFdsets "query-fdsets" {} -> Vec<FdsetInfo>;
    /// Removes a descriptor, or a whole set.
    10 RemoveFd "remove-fd" {
        /// The set.
        fdset_id: i64,
        /// One number of it.
        #[serde(skip_serializing_if = "Option::is_none")]
        fd: Option<i64>
    } -> Empty;

    /// Asks the guest to give a device up; done at `DEVICE_DELETED`.
    10 DeviceDel "device_del" {
        /// Device's id.
        id: String
    } -> Empty;
    /// Removes an object.
    10 ObjectDel "object-del" {
        /// Its id.
        id: String
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
        password: String,
        /// What becomes of who is connected: `keep`, `fail`, `disconnect`.
        #[serde(skip_serializing_if = "Option::is_none")]
        connected: Option<String>
    } -> Empty;
    /// Says until when a display's password is good.
    10 ExpirePassword "expire_password" {
        /// `vnc` or `spice`.
        protocol: String,
        /// `now`, `never`, `+SECONDS` or seconds since 1970.
        time: String
    } -> Empty;

    /// Reads what belongs to a display anew.
    10 DisplayReload "display-reload" {
        /// `vnc`.
        r#type: String,
        /// Its certificates.
        tls_certs: bool
    } -> Empty;

    /// Sets a link up or down.
    10 SetLink "set_link" {
        /// Device's or back end's id.
        name: String,
        /// Up.
        up: bool
    } -> Empty;
    /// Hands a client's connection to a display or character device.
    10 AddClient "add_client" {
        /// `vnc`, `spice` or a character device's id.
        protocol: String,
        /// Name given by `getfd`.
        fdname: String,
        /// Without authentication.
        skipauth: bool
    } -> Empty;
    /// Where VNC listens, all of it.
    5 QueryVncServers "query-vnc-servers" {} -> Vec<Value>;

    /// Gives a disk another size.
    60 BlockResize "block_resize" {
        /// Node.
        node_name: String,
        /// Bytes.
        size: u64
    } -> Empty;
    /// Opens a tray.
    10 BlockdevOpenTray "blockdev-open-tray" {
        /// Device's id or QOM path.
        id: String,
        /// Though the guest has locked it.
        force: bool
    } -> Empty;
    /// Closes a tray.
    10 BlockdevCloseTray "blockdev-close-tray" {
        /// Device's id or QOM path.
        id: String
    } -> Empty;
    /// Takes the medium out of an open tray.
    30 BlockdevRemoveMedium "blockdev-remove-medium" {
        /// Device's id or QOM path.
        id: String
    } -> Empty;
    /// Puts a medium into an open tray.
    10 BlockdevInsertMedium "blockdev-insert-medium" {
        /// Device's id or QOM path.
        id: String,
        /// Node.
        node_name: String
    } -> Empty;
    /// Reports writes above an offset, once.
    10 BlockSetWriteThreshold "block-set-write-threshold" {
        /// Node.
        node_name: String,
        /// Bytes; 0: none.
        write_threshold: u64
    } -> Empty;
    /// All or nothing of several changes of disks.
    60 Transaction "transaction" {
        /// `type` and `data` each.
        actions: Vec<Value>
    } -> Empty;
    /// Writes the guest's memory and state, and that of disks, into its images. A job; CPUs stand meanwhile.
    30 SnapshotSave "snapshot-save" {
        /// Id of the job.
        job_id: String,
        /// Name of the snapshot.
        tag: String,
        /// Node that gets the memory.
        vmstate: String,
        /// Nodes of all disks that take part.
        devices: Vec<String>
    } -> Empty;
    /// Sets the guest's memory and state, and disks, back. A job.
    30 SnapshotLoad "snapshot-load" {
        /// Id of the job.
        job_id: String,
        /// Name of the snapshot.
        tag: String,
        /// Node that has the memory.
        vmstate: String,
        /// Nodes of all disks that take part.
        devices: Vec<String>
    } -> Empty;
    /// Removes a snapshot from images. A job.
    30 SnapshotDelete "snapshot-delete" {
        /// Id of the job.
        job_id: String,
        /// Name of the snapshot.
        tag: String,
        /// Nodes that it is removed from.
        devices: Vec<String>
    } -> Empty;
    /// Block jobs.
    5 QueryBlockJobs "query-block-jobs" {} -> Vec<BlockJobInfo>;
    /// Limits a block job.
    10 BlockJobSetSpeed "block-job-set-speed" {
        /// Id.
        device: String,
        /// Bytes a second; 0: none.
        speed: u64
    } -> Empty;
    /// Cancels a block job.
    10 BlockJobCancel "block-job-cancel" {
        /// Id.
        device: String,
        /// Even if that leaves the copy unfinished.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        force: bool
    } -> Empty;
    /// Cancels a job.
    10 JobCancel "job-cancel" {
        /// Id.
        id: String
    } -> Empty;
    /// Lets a ready job finish.
    10 JobComplete "job-complete" {
        /// Id.
        id: String
    } -> Empty;
    /// Forgets a concluded job.
    10 JobDismiss "job-dismiss" {
        /// Id.
        id: String
    } -> Empty;
    /// Has a job stand at its next pause point, which may come after the answer.
    10 JobPause "job-pause" {
        /// Id.
        id: String
    } -> Empty;
    /// Lets a job go on that was paused so.
    10 JobResume "job-resume" {
        /// Id.
        id: String
    } -> Empty;
    /// Lets a pending job make its changes.
    30 JobFinalize "job-finalize" {
        /// Id.
        id: String
    } -> Empty;

    /// Goes elsewhere.
    30 Migrate "migrate" {
        /// Answer at once.
        detach: bool,
        /// Go on with one that was interrupted.
        resume: bool,
        /// Such as `fd:NAME`.
        uri: String
    } -> Empty;
    /// Comes from elsewhere, after a start with `-incoming defer`.
    30 MigrateIncoming "migrate-incoming" {
        /// Such as `fd:NAME`.
        uri: String,
        /// End QEMU when it fails; none, where QEMU does so anyway.
        #[serde(skip_serializing_if = "Option::is_none")]
        exit_on_error: Option<bool>
    } -> Empty;
    /// Stays.
    10 MigrateCancel "migrate_cancel" {} -> Empty;
    /// Goes on with a migration that waits.
    10 MigrateContinue "migrate-continue" {
        /// State it waits in.
        state: String
    } -> Empty;
    /// Runs elsewhere from now on, memory following.
    10 MigrateStartPostcopy "migrate-start-postcopy" {} -> Empty;
    /// Progress of a migration.
    5 QueryMigrate "query-migrate" {} -> Value;
    /// What migrations can do and are to do.
    5 QueryMigrateCapabilities "query-migrate-capabilities" {} -> Vec<MigrationCapability>;
    /// Says what migrations are to do.
    10 MigrateSetCapabilities "migrate-set-capabilities" {
        /// Those to change.
        capabilities: Vec<MigrationCapability>
    } -> Empty;
    /// Numbers of migrations.
    5 QueryMigrateParameters "query-migrate-parameters" {} -> Map<String, Value>;

    /// Formats in which memory can be dumped.
    5 QueryDumpGuestMemoryCapability "query-dump-guest-memory-capability" {} -> DumpGuestMemoryCapability;
    /// Progress of a memory dump.
    5 QueryDump "query-dump" {} -> DumpQueryResult;
    /// Presses keys together.
    10 SendKey "send-key" {
        /// `type` and `data` each.
        keys: Vec<Value>,
        /// Milliseconds that they are held.
        #[serde(skip_serializing_if = "Option::is_none")]
        hold_time: Option<u64>
    } -> Empty;
    /// Makes up for lost clock ticks no more.
    10 RtcResetReinjection "rtc-reset-reinjection" {} -> Empty;
    /// Features of a CPU model.
    10 QueryCpuModelExpansion "query-cpu-model-expansion" {
        /// `static` or `full`.
        r#type: String,
        /// `name` and `props`.
        model: Value
    } -> Value;
}

open_commands! {
    /// Plugs a device (`driver`, `id`, properties); the guest may take its time to use it.
    30 DeviceAdd "device_add" -> Empty;
    /// Makes an object: `qom-type`, `id`, properties.
    30 ObjectAdd "object-add" -> Empty;
    /// Makes an interface's back end: `type`, `id`, options.
    10 NetdevAdd "netdev_add" -> Empty;
    /// Opens a block node: `driver`, `node-name`, options.
    60 BlockdevAdd "blockdev-add" -> Empty;
    /// Changes options of block nodes: `options`.
    60 BlockdevReopen "blockdev-reopen" -> Empty;
    /// Formats an image, as a job: `job-id`, `options`.
    30 BlockdevCreate "blockdev-create" -> Empty;
    /// Puts a node on top of another: `node`, `overlay`.
    60 BlockdevSnapshot "blockdev-snapshot" -> Empty;
    /// Writes upper images into a lower one.
    30 BlockCommit "block-commit" -> Empty;
    /// Reads lower images into an upper one.
    30 BlockStream "block-stream" -> Empty;
    /// Copies to another node, and keeps it so.
    30 BlockdevMirror "blockdev-mirror" -> Empty;
    /// Copies as of now to another node.
    30 BlockdevBackup "blockdev-backup" -> Empty;
    /// Limits a disk's throughput; names as in [`IoThrottle`].
    10 BlockSetIoThrottle "block_set_io_throttle" -> Empty;
    /// Numbers writes from now on: `node`, `name`, `granularity`, `persistent`, `disabled`.
    30 BlockDirtyBitmapAdd "block-dirty-bitmap-add" -> Empty;
    /// Forgets a bitmap: `node`, `name`.
    30 BlockDirtyBitmapRemove "block-dirty-bitmap-remove" -> Empty;
    /// Adds bitmaps to one: `node`, `target`, `bitmaps`.
    30 BlockDirtyBitmapMerge "block-dirty-bitmap-merge" -> Empty;
    /// Serves block nodes over NBD: `addr` and TLS.
    10 NbdServerStart "nbd-server-start" -> Empty;
    /// Ends that: no arguments.
    10 NbdServerStop "nbd-server-stop" -> Empty;
    /// Exports a node: `type`, `id`, `node-name`, options.
    10 BlockExportAdd "block-export-add" -> Empty;
    /// Ends an export: `id`, `mode`.
    10 BlockExportDel "block-export-del" -> Empty;
    /// Sets numbers of migrations.
    10 MigrateSetParameters "migrate-set-parameters" -> Empty;
    /// Writes memory: `paging`, `protocol`, `detach`, `format`.
    600 DumpGuestMemory "dump-guest-memory" -> Empty;
    /// Writes a picture of the screen: `filename`, `device`, `head`, `format`.
    60 Screendump "screendump" -> Empty;
    /// Puts a secret into a protected guest's memory: `packet-header`, `secret`, `gpa`.
    10 SevInjectLaunchSecret "sev-inject-launch-secret" -> Empty;
    /// Moves, clicks, types: `device`, `head`, `events`.
    10 InputSendEvent "input-send-event" -> Empty;
    /// Tells the network where the guest is: `initial`, `max`, `rounds`, `step`.
    10 AnnounceSelf "announce-self" -> Empty;
}

/// Breaks connections that hang: what a hung command waits for. Out of band, since the hung one blocks the others.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Yank {
    /// As `query-yank` lists them.
    pub instances: Vec<Value>,
}

impl crate::Command for Yank {
    const NAME: &'static str = "yank";
    const DEADLINE: std::time::Duration = std::time::Duration::from_secs(5);
    const OUT_OF_BAND: bool = true;
    type Reply = Empty;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_declared_once() {
        let mut names = [NAMES, OPEN_NAMES].concat();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), NAMES.len() + OPEN_NAMES.len());
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
            json(&DeviceAdd(properties)),
            r#"{"driver":"pc-dimm","id":"d","size":1}"#
        );
    }
}
