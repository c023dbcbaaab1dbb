//! The guest as a whole, as QEMU sees it. These rules come before those of devices.

use domxml::Domain;
use domxml::clock::{ClockOffset, LifecycleAction, TickPolicy, Timer, TimerName, TimerTrack};
use domxml::cpu::{CpuCacheMode, CpuMode, MaxPhysAddrMode};
use domxml::devices::{
    Address, ConsoleTargetKind, Memory, MemoryModel, OnOff, Panic, PanicModel, TpmModel, WatchdogModel, YesNo,
};
use domxml::features::Features;
use domxml::os::{AcpiTableType, LoaderType, OsFirmware};
use domxml::security::LaunchSecurity;
use domxml::sysinfo::SysinfoType;
use domxml::tuning::{MemoryAllocation, MemorySource};

use super::Guest;
use super::rule::{check, rules};
use crate::caps::{Accel, Flag};
use crate::error::{Error, Result};
use crate::facts::{MachineKind, accel_of};

/// Latest time that a clock can be started with: the end of the year 9999.
const LATEST: u64 = 253_402_300_799;
/// vCPUs that the old interrupt controller has numbers for.
const OLD_APIC: u32 = 255;

/// Checks the guest as a whole.
pub(super) fn domain(guest: &Guest<'_>) -> Result<()> {
    let def = guest.def;
    check(MACHINE, guest, def)?;
    check(CPU, guest, def)?;
    def.devices
        .memories
        .iter()
        .try_for_each(|module| check(MODULE, guest, module))?;
    check(THREADS, guest, def)?;
    let timers = def.clock.iter().flat_map(|c| &c.timers);
    timers
        .into_iter()
        .try_for_each(|timer| check(TIMER, guest, timer))?;
    check(BOOT, guest, def)?;
    super::nvram::nvram(guest)?;
    check(VCPUS, guest, def)?;
    if let Some(features) = &def.features {
        check(FEATURES, guest, features)?;
    }
    check(BACKING, guest, def)?;
    consoles(guest)?;
    check(SYSINFO, guest, def)?;
    def.devices
        .panics
        .iter()
        .try_for_each(|panic| check(PANIC, guest, panic))?;
    check(SINGLES, guest, def)
}

rules! {
    /// Machine, firmware and life cycle.
    MACHINE(guest, def: Domain) {
        unsupported "Emulator '{}' does not support os type '{}'" (guest.emulator(), os_type(def))
            if os_type(def) != "hvm";
        unsupported "Emulator '{}' does not support arch '{}'" (guest.emulator(), guest.arch())
            if !guest.caps.runs_arch(guest.arch());
        unsupported "Emulator '{}' does not support virt type '{}'" (guest.emulator(), def.kind.as_str())
            if accel_of(def).is_none_or(|a| guest.caps.accel(a).is_none());
        unsupported "Emulator '{}' does not support machine type '{}'"
            (guest.emulator(), guest.machine_name())
            if guest.caps.machine(guest.accel, guest.machine_name()).is_none();
        unsupported "Parameter 'min_guarantee' not supported by QEMU."
            if def.memtune.and_then(|m| m.min_guarantee).is_some_and(|m| m.0 > 0);
        unsupported "UEFI requires ACPI on this architecture"
            if guest.is_x86() && has_uefi(def) && !has_acpi(def);
        unsupported "ACPI requires UEFI on this architecture"
            if guest.arch() == "aarch64" && !has_uefi(def) && has_acpi(def);
        unsupported "this QEMU does not support the 'genid' capability"
            if def.genid.is_some() && !guest.caps.has(Flag::Vmgenid);
        unsupported "BIOS serial console only supported on x86 architectures"
            if serial_output(def) && !guest.is_x86();
        xml_qemu "need at least one serial port to use BIOS serial output"
            if serial_output(def) && def.devices.serials.is_empty();
        unsupported "qemu driver doesn't support the 'rename-restart' action for 'on_reboot'/'on_poweroff'/'on_crash'"
            if [def.on_poweroff, def.on_reboot, def.on_crash].contains(&Some(LifecycleAction::RenameRestart));
        unsupported "qemu driver doesn't support the 'preserve' action for 'on_reboot'/'on_poweroff'"
            if [def.on_poweroff, def.on_reboot].contains(&Some(LifecycleAction::Preserve));
        unsupported "qemu driver doesn't support 'onReboot' set to 'destroy and 'onPoweroff' set to 'reboot'"
            if def.on_reboot == Some(LifecycleAction::Destroy)
                && def.on_poweroff == Some(LifecycleAction::Restart);
    }
}

rules! {
    /// The CPU.
    CPU(guest, def: Domain) {
        unsupported "CPU maximum physical address bits specification is not supported for '{}' architecture"
            (guest.arch())
            if address_bits(def).is_some() && !guest.is_x86();
        unsupported "CPU maximum physical address bits number specification cannot be used with mode='{}'"
            (MaxPhysAddrMode::Passthrough.as_str())
            if address_bits(def).is_some_and(|b| b.mode == MaxPhysAddrMode::Passthrough
                && b.bits.is_some_and(|n| n > 0));
        unsupported "CPU cache specification is not supported for '{}' architecture" (guest.arch())
            if cache(def).is_some() && !guest.is_x86();
        unsupported "CPU cache mode '{}' can only be used with level='3'" (CpuCacheMode::Emulate.as_str())
            if cache(def).is_some_and(|(mode, level)| mode == CpuCacheMode::Emulate && level != Some(3));
        unsupported "CPU cache mode '{}' can only be used with '{}' / '{}' CPUs"
            (CpuCacheMode::Passthrough.as_str(), CpuMode::HostPassthrough.as_str(), CpuMode::Maximum.as_str())
            if cache(def).is_some_and(|(mode, _)| mode == CpuCacheMode::Passthrough) && !is_host(def);
        unsupported "unsupported CPU cache level for mode '{}'"
            (cache(def).map_or("", |(mode, _)| mode.as_str()))
            if cache(def).is_some_and(|(mode, level)| mode != CpuCacheMode::Emulate && level.is_some());
        unsupported "Migratable attribute for host-passthrough CPU is not supported by this QEMU binary"
            if cpu_mode(def) == CpuMode::HostPassthrough
                && def.cpu.as_ref().is_some_and(|c| c.migratable == Some(OnOff::On))
                && !guest.caps.has(Flag::CpuMigratable);
        unsupported "maximum CPU is not supported by QEMU binary"
            if cpu_mode(def) == CpuMode::Maximum && !guest.caps.has(Flag::CpuMax);
        unsupported "cannot use/hotplug a memory device when domain 'maxMemory' is not defined"
            if !def.devices.memories.is_empty() && def.max_memory.is_none_or(|m| m.size.0 == 0
                && m.slots.unwrap_or(0) == 0);
    }
}

rules! {
    /// Memory that can be plugged in.
    MODULE(guest, module: Memory) {
        unsupported "memory device slot '{}' exceeds slots count '{}'"
            (dimm_slot(module).unwrap_or_default(), slots(guest.def))
            if dimm_slot(module).is_some_and(|s| s >= slots(guest.def));
        unsupported "only 'pci' addresses are supported for the virtio-pmem device"
            if module.model == MemoryModel::VirtioPmem
                && module.info.address.as_ref().is_some_and(|a| !matches!(a, Address::Pci(_)));
        unsupported "only 'pci' and 'ccw' addresses are supported for the {} device" (module.model.as_str())
            if module.model == MemoryModel::VirtioMem
                && module.info.address.as_ref().is_some_and(|a| !matches!(a, Address::Pci(_) | Address::Ccw(_)));
        unsupported "target NUMA node needs to be specified for memory device"
            if matches!(module.model, MemoryModel::Dimm | MemoryModel::Nvdimm | MemoryModel::VirtioMem)
                && !guest.cells().is_empty() && module.target.as_ref().is_none_or(|t| t.node.is_none());
    }
}

rules! {
    /// Threads of I/O.
    THREADS(guest, def: Domain) {
        unsupported "thread_pool_min and thread_pool_max is not supported by this QEMU binary"
            if pools(def).any(|p| p.thread_pool_min.is_some() || p.thread_pool_max.is_some())
                && !guest.caps.has(Flag::IothreadThreadPoolMax);
    }
}

rules! {
    /// Timers.
    TIMER(guest, timer: Timer) {
        unsupported "unsupported timer type (name) '{}'" (timer.name.as_str())
            if timer.name == TimerName::Platform;
        unsupported "Configuring the '{}' timer is not supported for virtType={} arch={} machine={} guests"
            (timer.name.as_str(), guest.def.kind.as_str(), guest.arch(), guest.machine_name())
            if matches!(timer.name, TimerName::Tsc | TimerName::Kvmclock | TimerName::Hypervclock)
                && timer.present == Some(YesNo::Yes) && !guest.is_x86();
        unsupported "unsupported rtc timer track '{}'" (TimerTrack::Boot.as_str())
            if timer.name == TimerName::Rtc && timer.track == Some(TimerTrack::Boot);
        unsupported "unsupported rtc timer tickpolicy '{}'" (policy(timer))
            if timer.name == TimerName::Rtc
                && matches!(timer.tickpolicy, Some(TickPolicy::Merge | TickPolicy::Discard));
        unsupported "unsupported pit tickpolicy '{}'" (policy(timer))
            if timer.name == TimerName::Pit && timer.tickpolicy == Some(TickPolicy::Catchup)
                && !guest.caps.has(Flag::KvmPitLostTickPolicy);
        unsupported "unsupported pit tickpolicy '{}'" (policy(timer))
            if timer.name == TimerName::Pit && timer.tickpolicy == Some(TickPolicy::Merge);
        unsupported "hpet timer is not supported by this architecture"
            if timer.name == TimerName::Hpet && timer.present == Some(YesNo::Yes) && !guest.is_x86();
        unsupported "Configuring the '{}' timer is not supported for virtType={} arch={} machine={} guests"
            (timer.name.as_str(), guest.def.kind.as_str(), guest.arch(), guest.machine_name())
            if timer.name == TimerName::Armvtimer && !(guest.accel == Accel::Kvm && guest.is_arm_virt());
        unsupported "The '{}' timer can't be disabled" (timer.name.as_str())
            if timer.name == TimerName::Armvtimer && timer.present == Some(YesNo::No);
        unsupported "Configuring the '{}' timer is not supported with this QEMU binary" (timer.name.as_str())
            if timer.name == TimerName::Armvtimer && !guest.caps.has(Flag::CpuKvmNoAdjvtime);
        unsupported "The '{}' timer does not support tickpolicy '{}'" (timer.name.as_str(), policy(timer))
            if timer.name == TimerName::Armvtimer
                && matches!(timer.tickpolicy, Some(TickPolicy::Catchup | TickPolicy::Merge));
    }
}

rules! {
    /// What the guest boots from.
    BOOT(guest, def: Domain) {
        unsupported "The maximum 'start' value for <clock offset='absolute'> is {}" (LATEST)
            if def.clock.as_ref().is_some_and(|c| c.offset == ClockOffset::Absolute
                && c.start.is_some_and(|s| s > LATEST));
        unsupported "setting ACPI S3/S4 not supported"
            if def.pm.is_some_and(|p| p.suspend_to_mem.is_some() || p.suspend_to_disk.is_some())
                && !guest.is_x86();
        unsupported "bootloader is not supported by QEMU"
            if def.bootloader.is_some() || def.bootloader_args.is_some();
        unsupported "Secure boot is supported with q35 machine types only"
            if is_secure(def) && guest.machine != MachineKind::Q35;
        unsupported "Secure boot is supported for x86_64 architecture only"
            if is_secure(def) && guest.arch() != "x86_64";
        unsupported "Secure boot requires SMM feature enabled"
            if is_secure(def) && def.os.firmware.is_none() && !has_smm(def);
        unsupported "ACPI table type '{}' is not supported" (AcpiTableType::Rawset.as_str())
            if def.os.acpi_tables.iter().any(|t| t.kind == AcpiTableType::Rawset);
        unsupported "shim is not supported by this QEMU binary"
            if def.os.shim.is_some() && !guest.caps.has(Flag::Shim);
    }
}

rules! {
    /// How many CPUs, and how they are told apart.
    VCPUS(guest, def: Domain) {
        unsupported "Domain requires at least 1 vCPU"
            if def.vcpu.as_ref().is_some_and(|v| v.current == Some(0));
        unsupported "Maximum CPUs greater than specified machine type limit {}"
            (limit(guest).unwrap_or_default())
            if limit(guest).is_some_and(|l| vcpus(def) > l);
        conflicting "cpu topology results in more than 4294967295 cpus"
            if def.cpu.as_ref().and_then(|c| c.topology).is_some_and(|t| product(t).is_none());
        unsupported "CPU topology doesn't match maximum vcpu count"
            if def.cpu.as_ref().and_then(|c| c.topology).is_some_and(|t| product(t) != Some(vcpus(def)));
        unsupported "more than {} vCPUs are only supported on q35-based machine types" (OLD_APIC)
            if guest.is_x86() && vcpus(def) > OLD_APIC && guest.machine != MachineKind::Q35;
        unsupported "more than {} vCPUs require extended interrupt mode enabled on the iommu device"
            (OLD_APIC)
            if guest.is_x86() && vcpus(def) > OLD_APIC
                && def.devices.iommu.as_ref().is_none_or(|i| i.driver.as_ref().is_none_or(|d| d.eim != Some(OnOff::On)));
        unsupported "cachetune is only supported for KVM domains"
            if guest.accel != Accel::Kvm && def.cputune.as_ref().is_some_and(|t| !t.cachetune.is_empty()
                || !t.memorytune.is_empty());
    }
}

rules! {
    /// Features.
    FEATURES(guest, f: Features) {
        unsupported "The '{}' feature is not supported for architecture '{}' or machine type '{}'"
            (pseries_feature(f).unwrap_or_default(), guest.arch(), guest.machine_name())
            if pseries_feature(f).is_some() && !guest.is_pseries();
        unsupported "The '{}' feature is not supported for architecture '{}' or machine type '{}'"
            ("ioapic", guest.arch(), guest.machine_name())
            if f.ioapic.is_some() && !guest.is_x86();
        unsupported "The '{}' feature is not supported for architecture '{}' or machine type '{}'"
            ("gic", guest.arch(), guest.machine_name())
            if f.gic.is_some() && !guest.is_arm_virt();
        unsupported "vmport is not available with this QEMU binary"
            if f.vmport.is_some() && !(guest.caps.has(Flag::MachineVmportOpt) && is_pc(guest));
        unsupported "vmport feature requires the ps2 feature not to be disabled"
            if f.vmport.is_some_and(|v| v.state == OnOff::On) && guest.ps2_is_off();
        unsupported "vmcoreinfo is not available with this QEMU binary"
            if f.vmcoreinfo.is_some_and(|v| v.state == OnOff::On) && !guest.caps.has(Flag::Vmcoreinfo);
        unsupported "The 'eoi' attribute of the '{}' feature is not supported for architecture '{}' or machine type '{}'"
            ("apic", guest.arch(), guest.machine_name())
            if f.apic.is_some_and(|a| a.eoi.is_some()) && !guest.is_x86();
        unsupported "The '{}' feature is not supported for architecture '{}' or machine type '{}'"
            ("pvspinlock", guest.arch(), guest.machine_name())
            if f.pvspinlock.is_some() && !guest.is_x86();
        unsupported "Hyperv features are not supported for architecture '{}' or machine type '{}'"
            (guest.arch(), guest.machine_name())
            if f.hyperv.is_some() && !guest.is_x86() && !guest.is_arm_virt();
        unsupported "PMU is always enabled for architecture '{}'" (guest.arch())
            if f.pmu.is_some_and(|p| p.state == OnOff::Off) && guest.is_ppc64();
        unsupported "TCG features are incompatible with domain type '{}'" (guest.def.kind.as_str())
            if f.tcg.is_some_and(|t| t.tb_cache.is_some()) && guest.accel == Accel::Kvm;
        unsupported "tb-cache size must be an integer multiple of MiB"
            if f.tcg.and_then(|t| t.tb_cache).is_some_and(|kib| kib.0 % 1024 != 0);
        unsupported "asynchronous teardown is not available with this QEMU binary"
            if f.async_teardown.is_some_and(|a| a.enabled == YesNo::Yes)
                && !guest.caps.has(Flag::RunWithAsyncTeardown);
        unsupported "ras feature is only supported with ARM Virt machines"
            if f.ras.is_some() && !guest.is_arm_virt();
        unsupported "ras feature is not available with this QEMU binary"
            if f.ras.is_some() && !guest.caps.has(Flag::MachineVirtRas);
        unsupported "ps2 feature is not available with this QEMU binary"
            if f.ps2.is_some() && !(guest.caps.has(Flag::I8042) && is_pc(guest));
        unsupported "ps2 feature state cannot be controlled with this QEMU binary"
            if f.ps2.is_some() && !guest.caps.has(Flag::MachineI8042Opt);
        unsupported "aia feature is only supported with RISC-V Virt machines"
            if f.aia.is_some() && !guest.is_virt_of(&["riscv32", "riscv64"]);
        unsupported "aia feature is not available with this QEMU binary"
            if f.aia.is_some() && !guest.caps.has(Flag::MachineVirtAia);
    }
}

rules! {
    /// Where memory comes from.
    BACKING(guest, def: Domain) {
        unsupported "hugepages are not allowed with memory allocation ondemand"
            if huge(def) && allocation(def) == Some(MemoryAllocation::Ondemand);
        unsupported "preallocation threads are unsupported with this QEMU"
            if huge(def) && def.memory_backing.as_ref().and_then(|m| m.allocation).is_some_and(|a| a.threads.is_some_and(|n| n > 0))
                && !guest.caps.has(Flag::MemoryBackendFilePreallocThreads);
        unsupported "hugepages are not allowed with anonymous memory source"
            if huge(def) && source(def) == Some(MemorySource::Anonymous);
        unsupported "hugepages is not supported with memfd memory source"
            if huge(def) && source(def) == Some(MemorySource::Memfd)
                && !guest.caps.has(Flag::MemoryBackendMemfdHugetlb);
        unsupported "HMAT is not supported with this QEMU"
            if !guest.caps.has(Flag::NumaHmat)
                && def.cpu.as_ref().and_then(|c| c.numa.as_ref()).is_some_and(|n| {
                n.interconnects.as_ref().is_some_and(|i| !i.all.is_empty())
                || n.cells.iter().any(|c| !c.caches.is_empty())
            });
    }
}

rules! {
    /// Files of the firmware.
    SYSINFO(guest, def: Domain) {
        unsupported "Invalid firmware name" if firmware_files(def).any(|name| !name.starts_with("opt/"));
        unsupported "That firmware name is reserved"
            if firmware_files(def).any(|name| ["opt/ovmf/", "opt/org.qemu/"].iter().any(|p| name.starts_with(p)));
    }
}

rules! {
    /// Where a guest tells of its crash.
    PANIC(guest, panic: Panic) {
        unsupported "only S390 guests support panic device of model 's390'"
            if panic.model == Some(PanicModel::S390) && !guest.is_s390();
        unsupported "setting the panic device address is not supported for model '{}'"
            (panic.model.map_or("", |m| m.as_str()))
            if panic.model == Some(PanicModel::S390) && panic.info.address.is_some();
        unsupported "only i686 and x86_64 guests support panic device of model 'hyperv'"
            if panic.model == Some(PanicModel::Hyperv) && !guest.is_x86();
        unsupported "setting the panic device address is not supported for model '{}'"
            (panic.model.map_or("", |m| m.as_str()))
            if panic.model == Some(PanicModel::Hyperv) && panic.info.address.is_some();
        unsupported "only pSeries guests support panic device of model 'pseries'"
            if panic.model == Some(PanicModel::Pseries) && !guest.is_pseries();
        unsupported "setting the panic device address is not supported for model '{}'"
            (panic.model.map_or("", |m| m.as_str()))
            if panic.model == Some(PanicModel::Pseries) && panic.info.address.is_some();
        unsupported "the QEMU binary does not support the ISA panic device"
            if panic.model == Some(PanicModel::Isa) && !guest.caps.has(Flag::Pvpanic);
        unsupported "panic is supported only with ISA address type"
            if panic.model == Some(PanicModel::Isa)
                && panic.info.address.as_ref().is_some_and(|a| !matches!(a, Address::Isa(_)));
        unsupported "the QEMU binary does not support the PCI pvpanic device"
            if panic.model == Some(PanicModel::Pvpanic) && !guest.caps.has(Flag::PvpanicPci);
        unsupported "pvpanic is supported only with PCI address type"
            if panic.model == Some(PanicModel::Pvpanic)
                && panic.info.address.as_ref().is_some_and(|a| !matches!(a, Address::Pci(_)));
        unsupported "no panic model provided, and no default for the architecture and machine type"
            if matches!(panic.model, None | Some(PanicModel::Default));
    }
}

rules! {
    /// What a guest has at most one of, and memory that the host can't read.
    SINGLES(guest, def: Domain) {
        unsupported "only a single TPM Proxy device is supported"
            if def.devices.tpms.iter().filter(|t| t.model == Some(TpmModel::SpaprTpmProxy)).count() > 1;
        unsupported "only a single TPM non-proxy device is supported"
            if def.devices.tpms.iter().filter(|t| t.model != Some(TpmModel::SpaprTpmProxy)).count() > 1;
        unsupported "domain can only have one watchdog with model '{}'"
            (watchdog_twice(def).map_or("", |m| m.as_str()))
            if watchdog_twice(def).is_some();
        unsupported "'{}' launch security is not supported with this QEMU binary"
            (launch(def).map_or("", |(name, _)| name))
            if launch(def).is_some_and(|(_, flag)| !guest.caps.has(flag));
        unsupported "SEV measured direct kernel boot is not supported with this QEMU binary"
            if matches!(&def.launch_security, Some(LaunchSecurity::Sev(s)) if s.kernel_hashes.is_some())
                && !guest.caps.has(Flag::SevGuestKernelHashes);
    }
}

/// Consoles of other hypervisors.
fn consoles(guest: &Guest<'_>) -> Result<()> {
    let kinds = guest
        .def
        .devices
        .consoles
        .iter()
        .filter_map(|c| c.target.as_ref()?.kind);
    for kind in kinds {
        let text = match kind {
            ConsoleTargetKind::Serial | ConsoleTargetKind::Virtio => continue,
            ConsoleTargetKind::Sclp if guest.caps.has(Flag::S390Sclp) => continue,
            ConsoleTargetKind::Sclplm if guest.caps.has(Flag::Sclplmconsole) => continue,
            ConsoleTargetKind::Sclp => "sclpconsole is not supported in this QEMU binary".to_owned(),
            ConsoleTargetKind::Sclplm => "sclplmconsole is not supported in this QEMU binary".to_owned(),
            kind => format!("unsupported console target type {}", kind.as_str()),
        };
        return Err(Error::unsupported(text));
    }
    Ok(())
}

fn os_type(def: &Domain) -> &str {
    def.os.kind.as_ref().map_or("", |t| t.value.as_str())
}

/// Whether the firmware is UEFI, as far as the document tells.
fn has_uefi(def: &Domain) -> bool {
    let flash = def
        .os
        .loader
        .as_ref()
        .is_some_and(|l| l.kind == Some(LoaderType::Pflash));
    def.os.firmware == Some(OsFirmware::Efi) || flash
}

fn has_acpi(def: &Domain) -> bool {
    def.features.as_ref().is_some_and(|f| f.acpi)
}

fn has_smm(def: &Domain) -> bool {
    let smm = def.features.as_ref().and_then(|f| f.smm);
    smm.is_some_and(|s| s.state == OnOff::On)
}

fn is_secure(def: &Domain) -> bool {
    def.os
        .loader
        .as_ref()
        .is_some_and(|l| l.secure == Some(YesNo::Yes))
}

fn serial_output(def: &Domain) -> bool {
    def.os.bios.and_then(|b| b.useserial) == Some(YesNo::Yes)
}

fn address_bits(def: &Domain) -> Option<domxml::cpu::MaxPhysAddr> {
    def.cpu.as_ref()?.maxphysaddr
}

fn cache(def: &Domain) -> Option<(CpuCacheMode, Option<u32>)> {
    let cache = def.cpu.as_ref()?.cache?;
    Some((cache.mode, cache.level))
}

fn cpu_mode(def: &Domain) -> CpuMode {
    def.cpu.as_ref().and_then(|c| c.mode).unwrap_or_default()
}

fn is_host(def: &Domain) -> bool {
    matches!(cpu_mode(def), CpuMode::HostPassthrough | CpuMode::Maximum)
}

fn dimm_slot(module: &Memory) -> Option<u32> {
    match &module.info.address {
        Some(Address::Dimm(address)) => Some(address.slot),
        _ => None,
    }
}

fn slots(def: &Domain) -> u32 {
    def.max_memory.and_then(|m| m.slots).unwrap_or(0)
}

fn pools(def: &Domain) -> impl Iterator<Item = &domxml::tuning::IoThreadPool> {
    let listed = def.iothreadids.iter().flat_map(|i| i.all.iter().map(|t| &t.pool));
    listed.chain(def.defaultiothread.iter())
}

fn policy(timer: &Timer) -> &'static str {
    timer.tickpolicy.map_or("", |p| p.as_str())
}

fn vcpus(def: &Domain) -> u32 {
    def.vcpu.as_ref().map_or(1, |v| v.count)
}

/// CPUs that a topology has room for.
fn product(t: domxml::cpu::Topology) -> Option<u32> {
    let parts = [t.sockets, t.dies, t.clusters, t.cores, t.threads];
    parts.iter().try_fold(1u32, |all, part| all.checked_mul(*part))
}

/// Most CPUs of the machine; none when QEMU does not tell.
fn limit(guest: &Guest<'_>) -> Option<u32> {
    let machine = guest.caps.machine(guest.accel, guest.machine_name())?;
    Some(machine.max_cpus).filter(|limit| *limit > 0)
}

/// The first feature that only one machine of POWER has.
fn pseries_feature(f: &Features) -> Option<&'static str> {
    let all = [
        ("hpt", f.hpt.is_some()),
        ("htm", f.htm.is_some()),
        ("nested-hv", f.nested_hv.is_some()),
        ("ccf-assist", f.ccf_assist.is_some()),
        ("cfpc", f.cfpc.is_some()),
        ("sbbc", f.sbbc.is_some()),
        ("ibs", f.ibs.is_some()),
    ];
    all.iter().find(|(_, given)| *given).map(|(name, _)| *name)
}

fn is_pc(guest: &Guest<'_>) -> bool {
    matches!(
        guest.machine,
        MachineKind::I440fx | MachineKind::Q35 | MachineKind::IsaPc
    )
}

fn huge(def: &Domain) -> bool {
    def.memory_backing.as_ref().is_some_and(|m| m.hugepages.is_some())
}

fn allocation(def: &Domain) -> Option<MemoryAllocation> {
    def.memory_backing.as_ref()?.allocation?.mode
}

fn source(def: &Domain) -> Option<MemorySource> {
    def.memory_backing.as_ref()?.source
}

fn firmware_files(def: &Domain) -> impl Iterator<Item = &str> {
    let tables = def.sysinfo.iter().filter(|i| i.kind == SysinfoType::Fwcfg);
    tables.flat_map(|i| i.files.iter().map(|f| f.name.as_str()))
}

/// A model that two watchdogs have, and may not.
fn watchdog_twice(def: &Domain) -> Option<WatchdogModel> {
    let models: Vec<_> = def.devices.watchdogs.iter().map(|w| w.model).collect();
    let twice = |(at, model): &(usize, &WatchdogModel)| {
        **model != WatchdogModel::I6300esb && models[..*at].contains(model)
    };
    models.iter().enumerate().find(twice).map(|(_, model)| *model)
}

fn launch(def: &Domain) -> Option<(&'static str, Flag)> {
    Some(match def.launch_security.as_ref()? {
        LaunchSecurity::Sev(_) => ("sev", Flag::SevGuest),
        LaunchSecurity::SevSnp(_) => ("sev-snp", Flag::SevSnpGuest),
        LaunchSecurity::S390Pv => ("s390-pv", Flag::S390PvGuest),
    })
}
