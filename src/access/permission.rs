//! The permissions, named as libvirt names them, and the table of which RPC needs which.

macro_rules! permissions {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal $class:ident;)*) => {
        /// What a caller needs to make a call.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Permission { $($(#[doc = $doc])* $name,)* }

        impl Permission {
            /// The object and permission in libvirt's words.
            pub fn name(self) -> &'static str {
                match self { $(Permission::$name => $text,)* }
            }
            /// Whether read-only callers are refused.
            pub fn changes(self) -> bool {
                match self { $(Permission::$name => permissions!(@$class),)* }
            }
        }
    };
    (@reads) => { false };
    (@changes) => { true };
}

permissions! {
    /// Facts of the daemon and the host.
    ConnectGetattr = "connect:getattr" reads;
    /// Facts of the host's hardware.
    ConnectRead = "connect:read" reads;
    /// Which guests there are.
    ConnectSearchDomains = "connect:search_domains" reads;
    /// What happens on the host.
    ConnectEvents = "connect:search_domains" reads;
    /// Conversions that look at the host, and what changes the host itself.
    ConnectWrite = "connect:write" changes;
    /// Facts of the host's hardware that are not for readers.
    ConnectReadSecure = "connect:read" changes;
    /// Putting the host to sleep.
    ConnectPmControl = "connect:pm_control" changes;
    /// That a guest exists, and its state.
    DomainGetattr = "domain:getattr" reads;
    /// A guest's document and statistics. What is secret in it needs more, checked where it is formatted.
    DomainRead = "domain:read" reads;
    /// A guest's document with its secrets.
    DomainReadSecure = "domain:read_secure" changes;
    /// A guest's configuration.
    DomainWrite = "domain:write" changes;
    /// A guest's stored configuration.
    DomainSave = "domain:save" changes;
    /// Whether there is a stored configuration at all.
    DomainDelete = "domain:delete" changes;
    /// Starting.
    DomainStart = "domain:start" changes;
    /// Stopping hard.
    DomainStop = "domain:stop" changes;
    /// A guest's memory in an image that its next start goes on from.
    DomainHibernate = "domain:hibernate" changes;
    /// Asking the guest to shut down or reboot.
    DomainInitControl = "domain:init_control" changes;
    /// Interrupting the guest's CPUs.
    DomainInjectNmi = "domain:inject_nmi" changes;
    /// Resetting.
    DomainReset = "domain:reset" changes;
    /// Pausing and going on.
    DomainSuspend = "domain:suspend" changes;
    /// Consoles.
    DomainOpenDevice = "domain:open_device" changes;
    /// Displays.
    DomainOpenGraphics = "domain:open_graphics" changes;
    /// Pictures of screens.
    DomainScreenshot = "domain:screenshot" changes;
    /// What is on a guest's disks.
    DomainBlockRead = "domain:block_read" changes;
    /// Moving what is on a guest's disks.
    DomainBlockWrite = "domain:block_write" changes;
    /// Snapshots of a guest.
    DomainSnapshot = "domain:snapshot" changes;
    /// A guest's memory in a file.
    DomainCoreDump = "domain:core_dump" changes;
    /// Recording what is written to a guest's disks.
    DomainCheckpoint = "domain:checkpoint" changes;
    /// Moving guests to other hosts.
    DomainMigrate = "domain:migrate" changes;
    /// What is in a guest's memory.
    DomainMemRead = "domain:mem_read" changes;
    /// Pressing keys.
    DomainSendInput = "domain:send_input" changes;
    /// Putting the guest to sleep and waking it.
    DomainPmControl = "domain:pm_control" changes;
    /// The guest's clock.
    DomainSetTime = "domain:set_time" changes;
    /// Passwords of accounts in the guest.
    DomainSetPassword = "domain:set_password" changes;
    /// Freezing the guest's filesystems.
    DomainFsFreeze = "domain:fs_freeze" changes;
    /// Trimming the guest's filesystems.
    DomainFsTrim = "domain:fs_trim" changes;
    /// Taking devices from the host and giving them back.
    NodeDeviceDetach = "node_device:detach" changes;
    /// The daemon itself. Its own user alone has it.
    DaemonAdministrate = "daemon:administrate" changes;
}

use Permission as P;

/// The permission of every RPC, by gRPC path.
pub const PERMISSIONS: &[(&str, Permission)] = &[
    ("/virtqemud.v1.Domains/Define", P::DomainWrite),
    ("/virtqemud.v1.Domains/Undefine", P::DomainDelete),
    ("/virtqemud.v1.Domains/Create", P::DomainStart),
    ("/virtqemud.v1.Domains/Get", P::DomainGetattr),
    ("/virtqemud.v1.Domains/List", P::ConnectSearchDomains),
    ("/virtqemud.v1.Domains/GetXml", P::DomainRead),
    ("/virtqemud.v1.Domains/Start", P::DomainStart),
    ("/virtqemud.v1.Domains/Shutdown", P::DomainInitControl),
    ("/virtqemud.v1.Domains/Reboot", P::DomainInitControl),
    ("/virtqemud.v1.Domains/Reset", P::DomainReset),
    ("/virtqemud.v1.Domains/InjectNmi", P::DomainInjectNmi),
    ("/virtqemud.v1.Domains/SendKeys", P::DomainSendInput),
    ("/virtqemud.v1.Domains/Wake", P::DomainPmControl),
    ("/virtqemud.v1.Domains/PowerOff", P::DomainStop),
    ("/virtqemud.v1.Domains/Suspend", P::DomainSuspend),
    ("/virtqemud.v1.Domains/Resume", P::DomainSuspend),
    ("/virtqemud.v1.Domains/Rename", P::DomainWrite),
    ("/virtqemud.v1.Domains/RemoveManagedSave", P::DomainHibernate),
    ("/virtqemud.v1.Domains/SetAutostart", P::DomainWrite),
    ("/virtqemud.v1.Domains/Configure", P::DomainWrite),
    ("/virtqemud.v1.Domains/MeasureDirtyRate", P::DomainWrite),
    ("/virtqemud.v1.Domains/GetMetadata", P::DomainRead),
    ("/virtqemud.v1.Domains/GetStats", P::DomainRead),
    ("/virtqemud.v1.Domains/ToNative", P::ConnectWrite),
    ("/virtqemud.v1.Domains/OpenSession", P::ConnectGetattr),
    ("/virtqemud.v1.Domains/AssociateDescriptors", P::DomainWrite),
    ("/virtqemud.v1.Events/Watch", P::ConnectEvents),
    ("/virtqemud.v1.Consoles/Attach", P::DomainOpenDevice),
    ("/virtqemud.v1.Consoles/Screenshot", P::DomainScreenshot),
    ("/virtqemud.v1.Consoles/OpenDisplay", P::DomainOpenGraphics),
    ("/virtqemud.v1.Host/GetVersions", P::ConnectGetattr),
    ("/virtqemud.v1.Host/GetHypervisorVersion", P::ConnectGetattr),
    ("/virtqemud.v1.Host/GetInfo", P::ConnectGetattr),
    ("/virtqemud.v1.Host/GetNode", P::ConnectRead),
    ("/virtqemud.v1.Host/GetMaxVcpus", P::ConnectGetattr),
    ("/virtqemud.v1.Host/ListCpuModels", P::ConnectGetattr),
    ("/virtqemud.v1.Host/GetCpuMap", P::ConnectRead),
    ("/virtqemud.v1.Host/GetCpuTimes", P::ConnectRead),
    ("/virtqemud.v1.Host/GetMemory", P::ConnectRead),
    ("/virtqemud.v1.Host/ListCells", P::ConnectRead),
    ("/virtqemud.v1.Host/AllocatePages", P::ConnectWrite),
    ("/virtqemud.v1.Host/GetPageMerging", P::ConnectRead),
    ("/virtqemud.v1.Host/SetPageMerging", P::ConnectWrite),
    ("/virtqemud.v1.Host/GetSev", P::ConnectReadSecure),
    ("/virtqemud.v1.Host/GetSysinfo", P::ConnectRead),
    ("/virtqemud.v1.Host/SuspendHost", P::ConnectPmControl),
    ("/virtqemud.v1.Host/GetCapabilities", P::ConnectRead),
    ("/virtqemud.v1.Host/GetDomainCapabilities", P::ConnectRead),
    ("/virtqemud.v1.Host/CompareCpu", P::ConnectRead),
    ("/virtqemud.v1.Host/BaselineCpu", P::ConnectRead),
    ("/virtqemud.v1.Devices/ListDevices", P::DomainRead),
    ("/virtqemud.v1.Devices/GetDevice", P::DomainRead),
    ("/virtqemud.v1.Devices/AttachDevice", P::DomainWrite),
    ("/virtqemud.v1.Devices/DetachDevice", P::DomainWrite),
    ("/virtqemud.v1.Devices/UpdateDevice", P::DomainWrite),
    ("/virtqemud.v1.Devices/GetInterfaceLimits", P::DomainRead),
    ("/virtqemud.v1.Devices/SetInterfaceLimits", P::DomainWrite),
    ("/virtqemud.v1.Devices/ReloadDisplay", P::DomainWrite),
    ("/virtqemud.v1.Devices/PeekDisk", P::DomainBlockRead),
    ("/virtqemud.v1.Devices/PeekMemory", P::DomainMemRead),
    ("/virtqemud.v1.Devices/ListDiskErrors", P::DomainRead),
    ("/virtqemud.v1.Devices/ListInterfaceAddresses", P::DomainRead),
    ("/virtqemud.v1.Operations/GetOperation", P::DomainRead),
    ("/virtqemud.v1.Operations/ListOperations", P::DomainRead),
    ("/virtqemud.v1.Operations/WaitOperation", P::DomainRead),
    ("/virtqemud.v1.Operations/WatchOperation", P::DomainRead),
    ("/virtqemud.v1.Operations/CancelOperation", P::DomainWrite),
    ("/virtqemud.v1.Disks/GetSizes", P::DomainRead),
    ("/virtqemud.v1.Disks/GetJob", P::DomainRead),
    ("/virtqemud.v1.Disks/GetLimits", P::DomainRead),
    ("/virtqemud.v1.Disks/SetLimits", P::DomainWrite),
    ("/virtqemud.v1.Disks/SetThrottleGroup", P::DomainWrite),
    ("/virtqemud.v1.Disks/RemoveThrottleGroup", P::DomainWrite),
    ("/virtqemud.v1.Disks/Resize", P::DomainWrite),
    ("/virtqemud.v1.Disks/SetThreshold", P::DomainWrite),
    ("/virtqemud.v1.BlockJobs/Pull", P::DomainBlockWrite),
    ("/virtqemud.v1.BlockJobs/Commit", P::DomainBlockWrite),
    ("/virtqemud.v1.BlockJobs/Copy", P::DomainBlockWrite),
    ("/virtqemud.v1.BlockJobs/End", P::DomainBlockWrite),
    ("/virtqemud.v1.BlockJobs/SetSpeed", P::DomainBlockWrite),
    ("/virtqemud.v1.Snapshots/List", P::DomainRead),
    ("/virtqemud.v1.Snapshots/Get", P::DomainRead),
    ("/virtqemud.v1.Snapshots/GetXml", P::DomainRead),
    ("/virtqemud.v1.Snapshots/Create", P::DomainSnapshot),
    ("/virtqemud.v1.Snapshots/Revert", P::DomainSnapshot),
    ("/virtqemud.v1.Snapshots/Delete", P::DomainSnapshot),
    ("/virtqemud.v1.Checkpoints/Get", P::DomainRead),
    ("/virtqemud.v1.Checkpoints/List", P::DomainRead),
    ("/virtqemud.v1.Checkpoints/GetXml", P::DomainRead),
    ("/virtqemud.v1.Checkpoints/Create", P::DomainCheckpoint),
    ("/virtqemud.v1.Checkpoints/Delete", P::DomainCheckpoint),
    ("/virtqemud.v1.Backups/Begin", P::DomainCheckpoint),
    ("/virtqemud.v1.Backups/GetXml", P::DomainRead),
    ("/virtqemud.v1.Jobs/GetJob", P::DomainRead),
    ("/virtqemud.v1.Jobs/CancelJob", P::DomainWrite),
    ("/virtqemud.v1.Migrations/GetMigrationSettings", P::DomainMigrate),
    ("/virtqemud.v1.Migrations/SetMigrationSettings", P::DomainMigrate),
    ("/virtqemud.v1.Saves/Save", P::DomainHibernate),
    ("/virtqemud.v1.Saves/Restore", P::DomainStart),
    ("/virtqemud.v1.Saves/GetImage", P::DomainRead),
    ("/virtqemud.v1.Saves/UpdateImage", P::DomainWrite),
    ("/virtqemud.v1.Saves/Dump", P::DomainCoreDump),
    ("/virtqemud.v1.PerfEvents/List", P::DomainRead),
    ("/virtqemud.v1.PerfEvents/Set", P::DomainWrite),
    ("/virtqemud.v1.LaunchSecurity/Get", P::DomainRead),
    ("/virtqemud.v1.LaunchSecurity/SetSecret", P::DomainWrite),
    ("/virtqemud.v1.NodeDevices/Detach", P::NodeDeviceDetach),
    ("/virtqemud.v1.NodeDevices/Reattach", P::NodeDeviceDetach),
    ("/virtqemud.v1.NodeDevices/Reset", P::NodeDeviceDetach),
    ("/virtqemud.v1.Tuning/GetPinning", P::DomainRead),
    ("/virtqemud.v1.Tuning/SetPinning", P::DomainWrite),
    ("/virtqemud.v1.Tuning/ListIoThreads", P::DomainRead),
    ("/virtqemud.v1.Tuning/AddIoThread", P::DomainWrite),
    ("/virtqemud.v1.Tuning/RemoveIoThread", P::DomainWrite),
    ("/virtqemud.v1.Tuning/SetIoThread", P::DomainWrite),
    ("/virtqemud.v1.Tuning/GetScheduler", P::DomainRead),
    ("/virtqemud.v1.Tuning/SetScheduler", P::DomainWrite),
    ("/virtqemud.v1.Tuning/GetMemoryLimits", P::DomainRead),
    ("/virtqemud.v1.Tuning/SetMemoryLimits", P::DomainWrite),
    ("/virtqemud.v1.Tuning/GetNumaPlacement", P::DomainRead),
    ("/virtqemud.v1.Tuning/SetNumaPlacement", P::DomainWrite),
    ("/virtqemud.v1.Tuning/GetBlockLimits", P::DomainRead),
    ("/virtqemud.v1.Tuning/SetBlockLimits", P::DomainWrite),
    ("/virtqemud.v1.Tuning/GetCpuUsage", P::DomainRead),
    ("/virtqemud.v1.Monitor/Execute", P::DomainWrite),
    ("/virtqemud.v1.GuestAgent/Execute", P::DomainWrite),
    ("/virtqemud.v1.GuestAgent/GetTime", P::DomainWrite),
    ("/virtqemud.v1.GuestAgent/FreezeFilesystems", P::DomainFsFreeze),
    ("/virtqemud.v1.GuestAgent/ThawFilesystems", P::DomainFsFreeze),
    ("/virtqemud.v1.GuestAgent/TrimFilesystems", P::DomainFsTrim),
    ("/virtqemud.v1.GuestAgent/ListInterfaces", P::DomainWrite),
    ("/virtqemud.v1.GuestAgent/GetHostname", P::DomainWrite),
    ("/virtqemud.v1.GuestAgent/GetInfo", P::DomainWrite),
    ("/virtqemud.v1.GuestAgent/ListFilesystems", P::DomainFsFreeze),
    ("/virtqemud.v1.GuestAgent/ListVcpus", P::DomainWrite),
    ("/virtqemud.v1.GuestAgent/SetVcpus", P::DomainWrite),
    ("/virtqemud.v1.GuestAgent/SetVcpuCount", P::DomainWrite),
    ("/virtqemud.v1.GuestAgent/SetTime", P::DomainSetTime),
    ("/virtqemud.v1.GuestAgent/SetUserPassword", P::DomainSetPassword),
    ("/virtqemud.v1.GuestAgent/ListAuthorizedKeys", P::DomainWrite),
    ("/virtqemud.v1.GuestAgent/SetAuthorizedKeys", P::DomainWrite),
    ("/virtqemud.v1.GuestAgent/Sleep", P::DomainPmControl),
    ("/virtqemud.v1.GuestAgent/SetTimeout", P::DomainWrite),
    ("/virtqemud.v1.Admin/ListServers", P::DaemonAdministrate),
    ("/virtqemud.v1.Admin/GetServer", P::DaemonAdministrate),
    ("/virtqemud.v1.Admin/SetClientLimits", P::DaemonAdministrate),
    ("/virtqemud.v1.Admin/SetWorkers", P::DaemonAdministrate),
    ("/virtqemud.v1.Admin/ListClients", P::DaemonAdministrate),
    ("/virtqemud.v1.Admin/GetClient", P::DaemonAdministrate),
    ("/virtqemud.v1.Admin/DisconnectClient", P::DaemonAdministrate),
    ("/virtqemud.v1.Admin/GetLogging", P::DaemonAdministrate),
    ("/virtqemud.v1.Admin/SetLogging", P::DaemonAdministrate),
    ("/virtqemud.v1.Admin/SetIdleLimit", P::DaemonAdministrate),
    ("/virtqemud.v1.Admin/UpdateTlsFiles", P::DaemonAdministrate),
    ("/virtqemud.v1.Admin/ShutDown", P::DaemonAdministrate),
    ("/grpc.health.v1.Health/Check", P::ConnectGetattr),
    ("/grpc.health.v1.Health/List", P::ConnectGetattr),
    ("/grpc.health.v1.Health/Watch", P::ConnectGetattr),
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        P::ConnectGetattr,
    ),
    (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        P::ConnectGetattr,
    ),
];

/// The permission that the RPC at `path` needs; none for an RPC that is not served.
pub fn permission_of(path: &str) -> Option<Permission> {
    // A page of strings: compared from the end, where they differ, a scan takes less than a hash.
    PERMISSIONS
        .iter()
        .find(|(p, _)| p.len() == path.len() && p.as_bytes().iter().rev().eq(path.as_bytes().iter().rev()))
        .map(|(_, permission)| *permission)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn served() -> Vec<String> {
        let set = prost_types::FileDescriptorSet::decode(crate::pb::DESCRIPTORS).expect("descriptors decode");
        let paths = |file: &prost_types::FileDescriptorProto| {
            let package = file.package().to_owned();
            let of = |s: &prost_types::ServiceDescriptorProto| {
                let service = s.name().to_owned();
                s.method
                    .iter()
                    .map(|m| format!("/{package}.{service}/{}", m.name()))
                    .collect::<Vec<_>>()
            };
            file.service.iter().flat_map(of).collect::<Vec<_>>()
        };
        set.file.iter().flat_map(paths).collect()
    }

    #[test]
    fn every_rpc_of_the_contract_has_a_permission() {
        let served = served();
        assert!(served.len() > 20, "the contract has lost its services");
        let without: Vec<_> = served.iter().filter(|p| permission_of(p).is_none()).collect();
        assert!(without.is_empty(), "no permission: {without:?}");
    }

    #[test]
    fn no_line_names_an_rpc_that_is_not_there() {
        let served = served();
        let stale: Vec<_> = PERMISSIONS
            .iter()
            .filter(|(p, _)| p.starts_with("/virtqemud.") && !served.iter().any(|s| s == p))
            .collect();
        assert!(stale.is_empty(), "{stale:?}");
    }
}
