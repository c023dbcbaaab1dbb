//! Which handler serves which procedure, and which flags each takes.
// table: a line a procedure

use wire::consts::*;
use wire::procedure::{Procedure, ProcedureInfo, Program};
use wire::{qemu, remote};

use crate::handlers::flags::{AFFECT, Flags, Refuser};
use crate::handlers::{
    agent, config, connect, counters, cpu, device, domain, events, host, info, lifecycle, list, look,
    monitor, node, node_device, resources, stats, tuning,
};
use crate::neighbours;
use crate::route::{Route, admit, finish, handled, refuser, routes};

routes! { REMOTE: remote;
    AuthList => connect::auth_list,
    AuthPolkit => connect::auth_polkit,
    AuthSaslInit => connect::no_sasl_init,
    AuthSaslStart => connect::no_sasl_start,
    AuthSaslStep => connect::no_sasl_step,
    ConnectOpen [..] => connect::open,
    ConnectClose => connect::close,
    ConnectSupportsFeature => connect::supports_feature,
    ConnectSetIdentity [..] => connect::set_identity,
    ConnectGetType => connect::get_type,
    ConnectGetLibVersion => connect::get_lib_version,
    ConnectGetUri => connect::get_uri,
    ConnectGetHostname => connect::get_hostname,
    ConnectRegisterCloseCallback => connect::register_close_callback,
    ConnectUnregisterCloseCallback => connect::unregister_close_callback,
    ConnectDomainEventRegister => events::register,
    ConnectDomainEventDeregister => events::deregister,
    ConnectDomainEventRegisterAny => events::register_any,
    ConnectDomainEventDeregisterAny => events::deregister_any,
    ConnectDomainEventCallbackRegisterAny => events::callback_register_any,
    ConnectDomainEventCallbackDeregisterAny => events::callback_deregister_any,
    ConnectGetVersion => host::get_version,
    ConnectGetMaxVcpus => host::get_max_vcpus,
    ConnectGetCpuModelNames [] => host::get_cpu_model_names,
    ConnectIsSecure => host::is_secure,
    ConnectGetCapabilities => host::get_capabilities,
    ConnectGetDomainCapabilities [
        VIR_CONNECT_GET_DOMAIN_CAPABILITIES_DISABLE_DEPRECATED_FEATURES,
    ] => host::get_domain_capabilities,
    ConnectCompareCpu [
        VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE, VIR_CONNECT_COMPARE_CPU_VALIDATE_XML,
    ] => cpu::compare,
    ConnectCompareHypervisorCpu [
        VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE, VIR_CONNECT_COMPARE_CPU_VALIDATE_XML,
    ] => cpu::compare_hypervisor,
    ConnectBaselineCpu [
        VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES, VIR_CONNECT_BASELINE_CPU_MIGRATABLE,
    ] => cpu::baseline,
    ConnectBaselineHypervisorCpu [
        VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES, VIR_CONNECT_BASELINE_CPU_MIGRATABLE,
    ] => cpu::baseline_hypervisor,
    ConnectDomainXmlToNative [] => host::to_native,
    NodeGetInfo => host::get_node_info,
    NodeGetCpuMap [] in NONE "virHostCPUGetMap" => node::get_cpu_map,
    NodeGetCpuStats [] in NONE "virHostCPUGetStats" => node::get_cpu_stats,
    NodeGetMemoryStats [] in NONE "virHostMemGetStats" => node::get_memory_stats,
    NodeGetCellsFreeMemory => node::get_cells_free_memory,
    NodeGetFreePages [] => node::get_free_pages,
    NodeGetFreeMemory => host::get_free_memory,
    NodeAllocPages [VIR_NODE_ALLOC_PAGES_SET] => node::alloc_pages,
    NodeGetMemoryParameters [
        VIR_TYPED_PARAM_STRING_OKAY,
    ] in NONE "virHostMemGetParameters" => node::get_memory_parameters,
    NodeSetMemoryParameters [] in NONE "virHostMemSetParameters" => node::set_memory_parameters,
    NodeGetSevInfo [VIR_TYPED_PARAM_STRING_OKAY] => node::get_sev_info,
    NodeSuspendForDuration [] in NONE "virNodeSuspend" => node::suspend_for_duration,
    NodeDeviceDettach => node_device::dettach,
    NodeDeviceDetachFlags [] => node_device::detach_flags,
    NodeDeviceReAttach => node_device::reattach,
    NodeDeviceReset => node_device::reset,
    ConnectGetSysinfo [] => node::get_sysinfo,
    NodeGetSecurityModel => host::get_security_model,
    ConnectListAllDomains [
        VIR_CONNECT_LIST_DOMAINS_ACTIVE, VIR_CONNECT_LIST_DOMAINS_INACTIVE,
        VIR_CONNECT_LIST_DOMAINS_PERSISTENT, VIR_CONNECT_LIST_DOMAINS_TRANSIENT,
        VIR_CONNECT_LIST_DOMAINS_RUNNING, VIR_CONNECT_LIST_DOMAINS_PAUSED,
        VIR_CONNECT_LIST_DOMAINS_SHUTOFF, VIR_CONNECT_LIST_DOMAINS_OTHER,
        VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE, VIR_CONNECT_LIST_DOMAINS_NO_MANAGEDSAVE,
        VIR_CONNECT_LIST_DOMAINS_AUTOSTART, VIR_CONNECT_LIST_DOMAINS_NO_AUTOSTART,
        VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT, VIR_CONNECT_LIST_DOMAINS_NO_SNAPSHOT,
        VIR_CONNECT_LIST_DOMAINS_HAS_CHECKPOINT, VIR_CONNECT_LIST_DOMAINS_NO_CHECKPOINT,
    ] => list::list_all,
    ConnectListDomains => list::list_active,
    ConnectListDefinedDomains => list::list_inactive,
    ConnectNumOfDomains => list::number_of_active,
    ConnectNumOfDefinedDomains => list::number_of_inactive,
    ConnectGetAllDomainStats [
        VIR_CONNECT_LIST_DOMAINS_ACTIVE, VIR_CONNECT_LIST_DOMAINS_INACTIVE,
        VIR_CONNECT_LIST_DOMAINS_PERSISTENT, VIR_CONNECT_LIST_DOMAINS_TRANSIENT,
        VIR_CONNECT_LIST_DOMAINS_RUNNING, VIR_CONNECT_LIST_DOMAINS_PAUSED,
        VIR_CONNECT_LIST_DOMAINS_SHUTOFF, VIR_CONNECT_LIST_DOMAINS_OTHER,
        VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT, VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING,
        VIR_CONNECT_GET_ALL_DOMAINS_STATS_ENFORCE_STATS,
    ] => stats::get_all,
    DomainLookupByName => domain::lookup_by_name,
    DomainLookupByUuid => domain::lookup_by_uuid,
    DomainLookupById => domain::lookup_by_id,
    DomainOpenChannel [VIR_DOMAIN_CHANNEL_FORCE] => look::open_channel,
    DomainOpenGraphics [VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH] => look::open_graphics,
    DomainOpenGraphicsFd [VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH] => look::open_graphics_fd,
    DomainScreenshot [] => look::screenshot,
    DomainBlockPeek [] => look::block_peek,
    DomainMemoryPeek [VIR_MEMORY_VIRTUAL, VIR_MEMORY_PHYSICAL] => look::memory_peek,
    DomainGetDiskErrors [] => look::disk_errors,
    DomainGetHostname [VIR_DOMAIN_GET_HOSTNAME_LEASE, VIR_DOMAIN_GET_HOSTNAME_AGENT] => look::get_hostname,
    DomainOpenConsole [VIR_DOMAIN_CONSOLE_FORCE, VIR_DOMAIN_CONSOLE_SAFE] => domain::open_console,
    DomainGetInfo => info::get_info,
    DomainGetState [] => info::get_state,
    DomainIsActive => info::is_active,
    DomainIsPersistent => info::is_persistent,
    DomainIsUpdated => info::is_updated,
    DomainGetAutostart => info::get_autostart,
    DomainGetAutostartOnce => info::get_autostart_once,
    DomainHasManagedSaveImage [] => info::has_managed_save_image,
    DomainManagedSaveRemove [] => lifecycle::managed_save_remove,
    DomainGetOsType => info::get_os_type,
    DomainGetMaxMemory => info::get_max_memory,
    DomainGetMaxVcpus => info::get_max_vcpus,
    DomainGetVcpusFlags [AFFECT, VIR_DOMAIN_VCPU_MAXIMUM, VIR_DOMAIN_VCPU_GUEST] => info::get_vcpus_flags,
    DomainGetControlInfo [] => info::get_control_info,
    DomainGetSecurityLabel => info::get_security_label,
    DomainGetSecurityLabelList => info::get_security_label_list,
    DomainGetMessages [
        VIR_DOMAIN_MESSAGE_DEPRECATION, VIR_DOMAIN_MESSAGE_TAINTING, VIR_DOMAIN_MESSAGE_IOERRORS,
    ] => info::get_messages,
    DomainGetXmlDesc [
        VIR_DOMAIN_XML_SECURE, VIR_DOMAIN_XML_INACTIVE, VIR_DOMAIN_XML_UPDATE_CPU,
        VIR_DOMAIN_XML_MIGRATABLE,
    ] => info::get_xml,
    DomainGetJobInfo => info::get_job_info,
    DomainGetJobStats [
        VIR_DOMAIN_JOB_STATS_COMPLETED, VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED,
    ] => info::get_job_stats,
    DomainDefineXml => lifecycle::define,
    DomainDefineXmlFlags [VIR_DOMAIN_DEFINE_VALIDATE] => lifecycle::define_flags,
    DomainUndefine => lifecycle::undefine,
    DomainUndefineFlags [
        VIR_DOMAIN_UNDEFINE_MANAGED_SAVE, VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA,
        VIR_DOMAIN_UNDEFINE_NVRAM, VIR_DOMAIN_UNDEFINE_KEEP_NVRAM,
        VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA, VIR_DOMAIN_UNDEFINE_TPM, VIR_DOMAIN_UNDEFINE_KEEP_TPM,
    ] => lifecycle::undefine_flags,
    DomainCreateXml [
        VIR_DOMAIN_START_PAUSED, VIR_DOMAIN_START_AUTODESTROY, VIR_DOMAIN_START_VALIDATE,
        VIR_DOMAIN_START_RESET_NVRAM,
    ] => lifecycle::create_xml,
    DomainCreate => lifecycle::create,
    DomainCreateWithFlags [
        VIR_DOMAIN_START_PAUSED, VIR_DOMAIN_START_AUTODESTROY, VIR_DOMAIN_START_BYPASS_CACHE,
        VIR_DOMAIN_START_FORCE_BOOT, VIR_DOMAIN_START_RESET_NVRAM,
    ] => lifecycle::create_with_flags,
    DomainDestroy => lifecycle::destroy,
    DomainDestroyFlags [
        VIR_DOMAIN_DESTROY_GRACEFUL, VIR_DOMAIN_DESTROY_REMOVE_LOGS,
    ] => lifecycle::destroy_flags,
    DomainShutdown => lifecycle::shutdown,
    DomainShutdownFlags [
        VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN, VIR_DOMAIN_SHUTDOWN_GUEST_AGENT,
    ] => lifecycle::shutdown_flags,
    DomainReboot [VIR_DOMAIN_REBOOT_ACPI_POWER_BTN, VIR_DOMAIN_REBOOT_GUEST_AGENT] => lifecycle::reboot,
    DomainReset [] => lifecycle::reset,
    DomainInjectNmi [] => lifecycle::inject_nmi,
    DomainSetMemoryStatsPeriod [AFFECT] => config::set_memory_stats_period,
    DomainSuspend => lifecycle::suspend,
    DomainResume => lifecycle::resume,
    DomainRename [] => lifecycle::rename,
    DomainSetAutostart => config::set_autostart,
    DomainSetMemory => config::set_memory,
    DomainSetMaxMemory => config::set_max_memory,
    DomainSetMemoryFlags [AFFECT, VIR_DOMAIN_MEM_MAXIMUM] => config::set_memory_flags,
    DomainSetVcpus => config::set_vcpus,
    DomainSetVcpusFlags [
        AFFECT, VIR_DOMAIN_VCPU_MAXIMUM, VIR_DOMAIN_VCPU_GUEST,
        VIR_DOMAIN_VCPU_HOTPLUGGABLE,
    ] => config::set_vcpus_flags,
    DomainSetLifecycleAction [AFFECT] => config::set_lifecycle_action,
    DomainSetMemoryParameters [AFFECT] => resources::set_memory_parameters,
    DomainGetMemoryParameters [AFFECT, VIR_TYPED_PARAM_STRING_OKAY] => resources::get_memory_parameters,
    DomainGetSchedulerType => resources::get_scheduler_type,
    DomainGetSchedulerParameters => resources::get_scheduler_parameters,
    DomainGetSchedulerParametersFlags [
        AFFECT, VIR_TYPED_PARAM_STRING_OKAY,
    ] => resources::get_scheduler_parameters_flags,
    DomainSetSchedulerParameters => resources::set_scheduler_parameters,
    DomainSetSchedulerParametersFlags [AFFECT] => resources::set_scheduler_parameters_flags,
    DomainGetNumaParameters [AFFECT, VIR_TYPED_PARAM_STRING_OKAY] => resources::get_numa_parameters,
    DomainSetNumaParameters [AFFECT] => resources::set_numa_parameters,
    DomainGetBlkioParameters [AFFECT, VIR_TYPED_PARAM_STRING_OKAY] => resources::get_blkio_parameters,
    DomainSetBlkioParameters [AFFECT] => resources::set_blkio_parameters,
    DomainGetCpuStats [VIR_TYPED_PARAM_STRING_OKAY] => resources::get_cpu_stats,
    DomainPinVcpu => tuning::pin_vcpu,
    DomainPinVcpuFlags [AFFECT] => tuning::pin_vcpu_flags,
    DomainGetVcpuPinInfo [AFFECT] => tuning::get_vcpu_pin_info,
    DomainPinEmulator [AFFECT] => tuning::pin_emulator,
    DomainGetEmulatorPinInfo [AFFECT] => tuning::get_emulator_pin_info,
    DomainPinIothread [AFFECT] => tuning::pin_iothread,
    DomainGetIothreadInfo [AFFECT] => tuning::get_iothread_info,
    DomainAttachDevice => device::attach,
    DomainAttachDeviceFlags [AFFECT] => device::attach_flags,
    DomainDetachDevice => device::detach,
    DomainDetachDeviceFlags [AFFECT] => device::detach_flags,
    DomainDetachDeviceAlias [AFFECT] => device::detach_alias,
    DomainUpdateDeviceFlags [AFFECT, VIR_DOMAIN_DEVICE_MODIFY_FORCE] => device::update,
    DomainInterfaceAddresses [] => device::addresses,
    DomainGetInterfaceParameters [AFFECT, VIR_TYPED_PARAM_STRING_OKAY] => device::get_limits,
    DomainSetInterfaceParameters [AFFECT] => device::set_limits,
    DomainGetTime [] => agent::get_time,
    DomainFsfreeze [] => agent::freeze,
    DomainFsthaw [] => agent::thaw,
    DomainFstrim [] => agent::trim,
    DomainGetMetadata [AFFECT] in DOMAIN "virDomainObjGetMetadata" => config::get_metadata,
    DomainSetMetadata [AFFECT] => config::set_metadata,
    DomainMemoryStats [] => counters::memory_stats,
    DomainGetVcpus => counters::get_vcpus,
    DomainGetBlockInfo [] => counters::get_block_info,
    DomainBlockStats => counters::block_stats,
    DomainBlockStatsFlags [VIR_TYPED_PARAM_STRING_OKAY] => counters::block_stats_flags,
    DomainInterfaceStats => counters::interface_stats,
}

routes! { QEMU: qemu;
    ConnectDomainMonitorEventRegister [
        VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_REGEX,
        VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_NOCASE,
    ] in NONE "virDomainQemuMonitorEventStateRegisterID" => events::monitor_register,
    ConnectDomainMonitorEventDeregister => events::monitor_deregister,
    DomainMonitorCommand [VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP] in QEMU "qemuDomainQemuMonitorCommandWithFiles" => monitor::execute,
    DomainAgentCommand [] => monitor::ask_agent,
}

/// What serves `info`, if anything does.
pub(crate) fn find(info: &ProcedureInfo) -> Option<Route> {
    let table: &[Option<Route>] = match info.program {
        remote::PROGRAM_NUMBER => &REMOTE,
        qemu::PROGRAM_NUMBER => &QEMU,
        _ => &[],
    };
    let index = usize::try_from(info.number - 1).ok()?;
    table.get(index).copied().flatten()
}

/// Names of the procedures that are served, by program and number.
pub fn served() -> impl Iterator<Item = (&'static Program, &'static ProcedureInfo)> {
    let all = |program: &'static Program| program.procedures.iter().map(move |info| (program, info));
    wire::PROGRAMS
        .into_iter()
        .flat_map(all)
        .filter(|(_, info)| find(info).is_some() || neighbours::serve(info))
}
