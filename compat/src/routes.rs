//! Which handler serves which procedure.

use futures_util::future::BoxFuture;
use wire::frame::{Header, put_reply};
use wire::procedure::{Procedure, ProcedureInfo, Program};
use wire::xdr::{Encode, Reader, TooLong};
use wire::{WireError, admin, qemu, remote};

use crate::ctx::{Ctx, Effect, Failure, not_open};
use crate::handlers::{
    agent, config, connect, counters, cpu, device, domain, events, host, info, lifecycle, list, look,
    monitor, node, node_device, resources, stats, tuning,
};
use crate::neighbours;

/// A handler's answer: the whole reply packet and what else to do, or an error.
pub(crate) type Outcome = Result<(Vec<u8>, Vec<Effect>), Failure>;

/// Decodes the arguments, checks that the call may be made, and begins it.
pub(crate) type Route = fn(Header, Ctx, &[u8]) -> Result<BoxFuture<'static, Outcome>, WireError>;

/// Declares which function serves which procedure: `Procedure => module::function,`.
macro_rules! routes {
    ($table:ident: $program:ident; $( $name:ident => $handler:path, )*) => {
        static $table: [Option<Route>; $program::PROGRAM.procedures.len()] = {
            let mut table: [Option<Route>; $program::PROGRAM.procedures.len()] = [None; _];
            $( table[<$program::$name as Procedure>::INFO.number as usize - 1] = Some(|header, ctx, args| {
                let args: $program::$name = admit(&ctx, args)?;
                Ok(Box::pin(async move {
                    let reply = $handler(&ctx, args).await?;
                    finish(&header, &ctx, &reply)
                }))
            }); )*
            table
        };
    };
}

routes! { REMOTE: remote;
    AuthList => connect::auth_list,
    AuthPolkit => connect::auth_polkit,
    AuthSaslInit => connect::no_sasl_init,
    AuthSaslStart => connect::no_sasl_start,
    AuthSaslStep => connect::no_sasl_step,
    ConnectOpen => connect::open,
    ConnectClose => connect::close,
    ConnectSupportsFeature => connect::supports_feature,
    ConnectSetIdentity => connect::set_identity,
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
    ConnectGetCpuModelNames => host::get_cpu_model_names,
    ConnectIsSecure => host::is_secure,
    ConnectGetCapabilities => host::get_capabilities,
    ConnectGetDomainCapabilities => host::get_domain_capabilities,
    ConnectCompareCpu => cpu::compare,
    ConnectCompareHypervisorCpu => cpu::compare_hypervisor,
    ConnectBaselineCpu => cpu::baseline,
    ConnectBaselineHypervisorCpu => cpu::baseline_hypervisor,
    ConnectDomainXmlToNative => host::to_native,
    NodeGetInfo => host::get_node_info,
    NodeGetCpuMap => node::get_cpu_map,
    NodeGetCpuStats => node::get_cpu_stats,
    NodeGetMemoryStats => node::get_memory_stats,
    NodeGetCellsFreeMemory => node::get_cells_free_memory,
    NodeGetFreePages => node::get_free_pages,
    NodeGetFreeMemory => host::get_free_memory,
    NodeAllocPages => node::alloc_pages,
    NodeGetMemoryParameters => node::get_memory_parameters,
    NodeSetMemoryParameters => node::set_memory_parameters,
    NodeGetSevInfo => node::get_sev_info,
    NodeSuspendForDuration => node::suspend_for_duration,
    NodeDeviceDettach => node_device::dettach,
    NodeDeviceDetachFlags => node_device::detach_flags,
    NodeDeviceReAttach => node_device::reattach,
    NodeDeviceReset => node_device::reset,
    ConnectGetSysinfo => node::get_sysinfo,
    NodeGetSecurityModel => host::get_security_model,
    ConnectListAllDomains => list::list_all,
    ConnectListDomains => list::list_active,
    ConnectListDefinedDomains => list::list_inactive,
    ConnectNumOfDomains => list::number_of_active,
    ConnectNumOfDefinedDomains => list::number_of_inactive,
    ConnectGetAllDomainStats => stats::get_all,
    DomainLookupByName => domain::lookup_by_name,
    DomainLookupByUuid => domain::lookup_by_uuid,
    DomainLookupById => domain::lookup_by_id,
    DomainOpenChannel => look::open_channel,
    DomainOpenGraphics => look::open_graphics,
    DomainOpenGraphicsFd => look::open_graphics_fd,
    DomainScreenshot => look::screenshot,
    DomainBlockPeek => look::block_peek,
    DomainMemoryPeek => look::memory_peek,
    DomainGetDiskErrors => look::disk_errors,
    DomainGetHostname => look::get_hostname,
    DomainOpenConsole => domain::open_console,
    DomainGetInfo => info::get_info,
    DomainGetState => info::get_state,
    DomainIsActive => info::is_active,
    DomainIsPersistent => info::is_persistent,
    DomainIsUpdated => info::is_updated,
    DomainGetAutostart => info::get_autostart,
    DomainGetAutostartOnce => info::get_autostart_once,
    DomainHasManagedSaveImage => info::has_managed_save_image,
    DomainGetOsType => info::get_os_type,
    DomainGetMaxMemory => info::get_max_memory,
    DomainGetMaxVcpus => info::get_max_vcpus,
    DomainGetVcpusFlags => info::get_vcpus_flags,
    DomainGetControlInfo => info::get_control_info,
    DomainGetSecurityLabel => info::get_security_label,
    DomainGetSecurityLabelList => info::get_security_label_list,
    DomainGetMessages => info::get_messages,
    DomainGetXmlDesc => info::get_xml,
    DomainGetJobInfo => info::get_job_info,
    DomainGetJobStats => info::get_job_stats,
    DomainDefineXml => lifecycle::define,
    DomainDefineXmlFlags => lifecycle::define_flags,
    DomainUndefine => lifecycle::undefine,
    DomainUndefineFlags => lifecycle::undefine_flags,
    DomainCreateXml => lifecycle::create_xml,
    DomainCreate => lifecycle::create,
    DomainCreateWithFlags => lifecycle::create_with_flags,
    DomainDestroy => lifecycle::destroy,
    DomainDestroyFlags => lifecycle::destroy_flags,
    DomainShutdown => lifecycle::shutdown,
    DomainShutdownFlags => lifecycle::shutdown_flags,
    DomainReboot => lifecycle::reboot,
    DomainReset => lifecycle::reset,
    DomainInjectNmi => lifecycle::inject_nmi,
    DomainSetMemoryStatsPeriod => config::set_memory_stats_period,
    DomainSuspend => lifecycle::suspend,
    DomainResume => lifecycle::resume,
    DomainRename => lifecycle::rename,
    DomainSetAutostart => config::set_autostart,
    DomainSetMemory => config::set_memory,
    DomainSetMaxMemory => config::set_max_memory,
    DomainSetMemoryFlags => config::set_memory_flags,
    DomainSetVcpus => config::set_vcpus,
    DomainSetVcpusFlags => config::set_vcpus_flags,
    DomainSetLifecycleAction => config::set_lifecycle_action,
    DomainSetMemoryParameters => resources::set_memory_parameters,
    DomainGetMemoryParameters => resources::get_memory_parameters,
    DomainGetSchedulerType => resources::get_scheduler_type,
    DomainGetSchedulerParameters => resources::get_scheduler_parameters,
    DomainGetSchedulerParametersFlags => resources::get_scheduler_parameters_flags,
    DomainSetSchedulerParameters => resources::set_scheduler_parameters,
    DomainSetSchedulerParametersFlags => resources::set_scheduler_parameters_flags,
    DomainGetNumaParameters => resources::get_numa_parameters,
    DomainSetNumaParameters => resources::set_numa_parameters,
    DomainGetBlkioParameters => resources::get_blkio_parameters,
    DomainSetBlkioParameters => resources::set_blkio_parameters,
    DomainGetCpuStats => resources::get_cpu_stats,
    DomainPinVcpu => tuning::pin_vcpu,
    DomainPinVcpuFlags => tuning::pin_vcpu_flags,
    DomainGetVcpuPinInfo => tuning::get_vcpu_pin_info,
    DomainPinEmulator => tuning::pin_emulator,
    DomainGetEmulatorPinInfo => tuning::get_emulator_pin_info,
    DomainPinIothread => tuning::pin_iothread,
    DomainGetIothreadInfo => tuning::get_iothread_info,
    DomainUpdateDeviceFlags => device::update,
    DomainInterfaceAddresses => device::addresses,
    DomainGetInterfaceParameters => device::get_limits,
    DomainSetInterfaceParameters => device::set_limits,
    DomainGetTime => agent::get_time,
    DomainFsfreeze => agent::freeze,
    DomainFsthaw => agent::thaw,
    DomainFstrim => agent::trim,
    DomainGetMetadata => config::get_metadata,
    DomainSetMetadata => config::set_metadata,
    DomainMemoryStats => counters::memory_stats,
    DomainGetVcpus => counters::get_vcpus,
    DomainGetBlockInfo => counters::get_block_info,
    DomainBlockStats => counters::block_stats,
    DomainBlockStatsFlags => counters::block_stats_flags,
    DomainInterfaceStats => counters::interface_stats,
}

routes! { QEMU: qemu;
    ConnectDomainMonitorEventRegister => events::monitor_register,
    ConnectDomainMonitorEventDeregister => events::monitor_deregister,
    DomainMonitorCommand => monitor::execute,
    DomainAgentCommand => monitor::ask_agent,
}

/// Procedures that need no open connection, authentication's aside.
const BEFORE_OPEN: [i32; 3] = [
    remote::ConnectOpen::INFO.number,
    remote::ConnectClose::INFO.number,
    remote::ConnectSupportsFeature::INFO.number,
];

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

/// Reads the arguments and checks what libvirt checks, in its order: arguments, open connection, read-only.
fn admit<P: Procedure>(ctx: &Ctx, args: &[u8]) -> Result<P, WireError> {
    let args = P::decode(&mut Reader::new(args)).map_err(|_| undecodable())?;
    may_call(ctx, ctx.info.read_only && !args.needs_write())?;
    Ok(args)
}

/// Checks that a call with readable arguments may be made on this connection.
pub(crate) fn may_call(ctx: &Ctx, read_only: bool) -> Result<(), WireError> {
    let info = ctx.info;
    let early = info.program == admin::PROGRAM_NUMBER
        || info.before_auth
        || (info.program == remote::PROGRAM_NUMBER && BEFORE_OPEN.contains(&info.number));
    if early {
        return Ok(());
    }
    if !ctx.conn.is_open() {
        return Err(not_open());
    }
    if ctx.peer().read_only && !read_only {
        return Err(info.denied());
    }
    Ok(())
}

/// The error of arguments that are none.
pub(crate) fn undecodable() -> WireError {
    WireError::rpc("Unable to decode message payload")
}

fn finish(header: &Header, ctx: &Ctx, reply: &impl Encode) -> Outcome {
    let effects = ctx.take_effects();
    let fds = effects.iter().find_map(|effect| match effect {
        Effect::Reply(fds) => Some(fds.len()),
        _ => None,
    });
    let mut packet = Vec::with_capacity(64);
    put_reply(&mut packet, header, reply, fds.unwrap_or(0)).map_err(|error| too_long(ctx, error))?;
    Ok((packet, effects))
}

fn too_long(ctx: &Ctx, error: TooLong) -> WireError {
    WireError::rpc(&format!("reply of {} is too large: {error}", ctx.info.api))
}
