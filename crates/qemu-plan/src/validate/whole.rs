//! The guest as a whole: life cycle, clock, features, numbers of CPUs, memory, boot options.

use domxml::Domain;
use domxml::clock::{ClockOffset, LifecycleAction, TickPolicy, TimerName};
use domxml::cpu::{Cell, Cpu, CpuCacheMode, CpuMode};
use domxml::devices::{MemoryModel, OnOff};

use domxml::tuning::CpuTune;

use super::Guest;
use crate::caps::{Accel, Flag};
use crate::error::{Area, Code, Error, Result};

/// Fewest retries of a Hyper-V spinlock.
const SPINLOCK_RETRIES: u32 = 4095;

/// What a document must say, whatever becomes of it.
pub(super) fn shapes(def: &Domain) -> Result<()> {
    clock_shapes(def)?;
    hyperv_shapes(def)?;
    let dirty_ring = def
        .features
        .as_ref()
        .and_then(|f| f.kvm)
        .and_then(|k| k.dirty_ring);
    if let Some(ring) = dirty_ring.filter(|r| r.state == OnOff::On)
        && !ring
            .size
            .is_some_and(|s| s.is_power_of_two() && (1024..=65536).contains(&s))
    {
        return Err(Error::xml(
            "dirty ring must be power of 2 and ranges [1024, 65536]",
        ));
    }
    if def.os.bootmenu.and_then(|m| m.timeout).is_some_and(|t| t > 65535) {
        return Err(Error::conflicting(
            "invalid value for boot menu timeout, must be in range [0,65535]",
        ));
    }
    if def
        .os
        .bios
        .and_then(|b| b.reboot_timeout)
        .is_some_and(|t| !(-1..=65535).contains(&t))
    {
        return Err(Error::conflicting(
            "invalid value for rebootTimeout, must be in range [-1,65535]",
        ));
    }
    match &def.idmap {
        Some(map) if map.uid.is_empty() != map.gid.is_empty() => {
            Err(Error::conflicting("uid and gid should be mapped both"))
        }
        _ => Ok(()),
    }
}

fn clock_shapes(def: &Domain) -> Result<()> {
    let Some(clock) = &def.clock else {
        return Ok(());
    };
    match clock.offset {
        ClockOffset::Timezone if clock.timezone.is_none() => Err(Error::internal(
            "missing 'timezone' attribute for clock with offset='timezone'",
        )),
        ClockOffset::Absolute if clock.start.is_none() => Err(Error::internal(
            "missing 'start' attribute for clock with offset='absolute'",
        )),
        _ => Ok(()),
    }
}

fn hyperv_shapes(def: &Domain) -> Result<()> {
    let Some(hyperv) = def.features.as_ref().and_then(|f| f.hyperv.as_ref()) else {
        return Ok(());
    };
    if let Some(spinlocks) = hyperv.spinlocks.filter(|s| s.state == OnOff::On) {
        match spinlocks.retries {
            None => {
                let message = "Missing required attribute 'retries' in element 'spinlocks'";
                return Err(Error::new(Code::Xml, Area::Xml, message));
            }
            Some(retries) if retries < SPINLOCK_RETRIES => {
                return Err(Error::xml(format!(
                    "HyperV spinlock retry count must be at least {SPINLOCK_RETRIES}"
                )));
            }
            Some(_) => {}
        }
    }
    let vendor = hyperv.vendor_id.as_ref().and_then(|v| v.value.as_deref());
    if vendor.is_some_and(|v| v.contains(',')) {
        return Err(Error::xml("HyperV vendor_id value is invalid"));
    }
    Ok(())
}

/// The CPU's parts go together; the guest's cells share no CPU.
pub(super) fn cpu_shapes(def: &Domain) -> Result<()> {
    let Some(cpu) = &def.cpu else { return Ok(()) };
    cpu.check_shape().map_err(|error| {
        let area = match error.area {
            domxml::Area::Xml => Area::Xml,
            _ => Area::Cpu,
        };
        Error::new(Code::Xml, area, error.message)
    })?;
    cells_apart(cpu)
}

fn cells_apart(cpu: &Cpu) -> Result<()> {
    let cells: &[Cell] = cpu.numa.as_ref().map_or(&[], |n| &n.cells);
    for (at, cell) in cells.iter().enumerate() {
        let Some(cpus) = &cell.cpus else { continue };
        let clash = cells[..at]
            .iter()
            .position(|c| c.cpus.as_ref().is_some_and(|b| b.overlaps(cpus)));
        if let Some(other) = clash {
            return Err(Error::conflicting(format!(
                "NUMA cells {at} and {other} have overlapping vCPU ids"
            )));
        }
    }
    Ok(())
}

/// Ranges of periods and quotas, microseconds.
const PERIODS: (u64, u64) = (1000, 1_000_000);
const QUOTAS: (i64, i64) = (1000, 17_592_186_044_415);

pub(super) fn tuning_shapes(def: &Domain) -> Result<()> {
    let ids = def.iothreadids.as_ref().map_or(&[][..], |i| i.all.as_slice());
    if let Some((_, twin)) = ids
        .iter()
        .enumerate()
        .find(|(at, t)| ids[..*at].iter().any(|o| o.id == t.id))
    {
        return Err(Error::xml(format!("duplicate iothread id '{}' found", twin.id)));
    }
    let Some(tune) = &def.cputune else {
        return Ok(());
    };
    let pins = &tune.vcpupin;
    if let Some((_, twin)) = pins
        .iter()
        .enumerate()
        .find(|(at, p)| pins[..*at].iter().any(|o| o.vcpu == p.vcpu))
    {
        return Err(Error::internal(format!(
            "duplicate vcpupin for vcpu '{}'",
            twin.vcpu
        )));
    }
    limits(tune)
}

fn limits(tune: &CpuTune) -> Result<()> {
    let periods = [
        ("period", tune.period),
        ("global_period", tune.global_period),
        ("emulator_period", tune.emulator_period),
        ("iothread_period", tune.iothread_period),
    ];
    let quotas = [
        ("quota", tune.quota),
        ("global_quota", tune.global_quota),
        ("emulator_quota", tune.emulator_quota),
        ("iothread_quota", tune.iothread_quota),
    ];
    let out = |name: &str, low: i128, high: i128| {
        Err(Error::conflicting(format!(
            "Value of cputune '{name}' must be in range [{low}, {high}]"
        )))
    };
    let (low, high) = PERIODS;
    if let Some((name, _)) = periods
        .iter()
        .find(|(_, v)| v.is_some_and(|v| v != 0 && !(low..=high).contains(&v)))
    {
        return out(name, low.into(), high.into());
    }
    let (low, high) = QUOTAS;
    if let Some((name, _)) = quotas
        .iter()
        .find(|(_, v)| v.is_some_and(|v| v > 0 && !(low..=high).contains(&v)))
    {
        return out(name, low.into(), high.into());
    }
    Ok(())
}

pub(super) fn lifecycle(guest: &Guest<'_>) -> Result<()> {
    let (off, reboot) = (guest.def.on_poweroff, guest.def.on_reboot);
    if guest.def.bootloader.is_some() || guest.def.bootloader_args.is_some() {
        return Err(Error::unsupported("bootloader is not supported by QEMU"));
    }
    if reboot == Some(LifecycleAction::Destroy) && off == Some(LifecycleAction::Restart) {
        return Err(Error::unsupported(
            "qemu driver doesn't support 'onReboot' set to 'destroy and 'onPoweroff' set to 'reboot'",
        ));
    }
    if [off, reboot].contains(&Some(LifecycleAction::Preserve)) {
        return Err(Error::unsupported(
            "qemu driver doesn't support the 'preserve' action for 'on_reboot'/'on_poweroff'",
        ));
    }
    Ok(())
}

pub(super) fn clock(guest: &Guest<'_>) -> Result<()> {
    let timers = guest.def.clock.as_ref().map_or(&[][..], |c| c.timers.as_slice());
    timers.iter().try_for_each(|timer| {
        let policy = timer.tickpolicy;
        let message = match (timer.name, policy) {
            (TimerName::Platform, _) => "unsupported timer type (name) 'platform'".to_owned(),
            (TimerName::Rtc, Some(p @ (TickPolicy::Merge | TickPolicy::Discard))) => {
                format!("unsupported rtc timer tickpolicy '{}'", p.as_str())
            }
            (TimerName::Pit, Some(p @ TickPolicy::Merge)) => format!("unsupported pit tickpolicy '{}'", p.as_str()),
            (TimerName::Armvtimer, _) => format!(
                "Configuring the 'armvtimer' timer is not supported for virtType={} arch={} machine={} guests",
                guest.def.kind.as_str(),
                guest.def.os.kind.as_ref().and_then(|t| t.arch.as_deref()).unwrap_or_default(),
                super::domain::machine_name(guest)
            ),
            _ => return Ok(()),
        };
        Err(Error::unsupported(message))
    })
}

/// Features of other architectures.
pub(super) fn features(guest: &Guest<'_>) -> Result<()> {
    let Some(f) = &guest.def.features else {
        return Ok(());
    };
    let foreign = [
        ("gic", f.gic.is_some()),
        ("hpt", f.hpt.is_some()),
        ("htm", f.htm.is_some()),
        ("nested-hv", f.nested_hv.is_some()),
        ("ccf-assist", f.ccf_assist.is_some()),
        ("cfpc", f.cfpc.is_some()),
        ("sbbc", f.sbbc.is_some()),
        ("ibs", f.ibs.is_some()),
        ("ras", f.ras.is_some()),
        ("aia", f.aia.is_some()),
    ];
    if let Some((name, _)) = foreign.iter().find(|(_, there)| *there) {
        let arch = guest
            .def
            .os
            .kind
            .as_ref()
            .and_then(|t| t.arch.as_deref())
            .unwrap_or_default();
        let machine = super::domain::machine_name(guest);
        return Err(Error::unsupported(format!(
            "The '{name}' feature is not supported for architecture '{arch}' or machine type '{machine}'"
        )));
    }
    if f.tcg.is_some_and(|t| t.tb_cache.is_some()) && guest.accel == Accel::Kvm {
        return Err(Error::unsupported(
            "TCG features are incompatible with domain type 'kvm'",
        ));
    }
    Ok(())
}

pub(super) fn vcpus(guest: &Guest<'_>) -> Result<()> {
    let count = guest.def.vcpu.as_ref().map_or(1, |v| v.count);
    let machine = guest
        .caps
        .machine(guest.accel, super::domain::machine_name(guest));
    if let Some(limit) = machine.map(|m| m.max_cpus).filter(|l| *l > 0 && count > *l) {
        return Err(Error::unsupported(format!(
            "Maximum CPUs greater than specified machine type limit {limit}"
        )));
    }
    let Some(cpu) = &guest.def.cpu else {
        return Ok(());
    };
    if let Some(t) = cpu.topology {
        let all = [t.sockets, t.dies, t.clusters, t.cores, t.threads];
        let product = all.iter().try_fold(1u32, |product, n| product.checked_mul(*n));
        if product != Some(count) {
            return Err(Error::unsupported(
                "CPU topology doesn't match maximum vcpu count",
            ));
        }
    }
    let host = matches!(cpu.mode, Some(CpuMode::HostPassthrough | CpuMode::Maximum));
    if cpu.cache.is_some_and(|c| c.mode == CpuCacheMode::Passthrough) && !host {
        return Err(Error::unsupported(
            "CPU cache mode 'passthrough' can only be used with 'host-passthrough' / 'maximum' CPUs",
        ));
    }
    let cells: &[Cell] = cpu.numa.as_ref().map_or(&[], |n| &n.cells);
    if cells
        .iter()
        .filter_map(|c| c.cpus.as_ref())
        .map(domxml::Bitmap::len)
        .sum::<usize>()
        > count as usize
    {
        return Err(Error::internal(
            "Number of CPUs in <numa> exceeds the <vcpu> count",
        ));
    }
    Ok(())
}

pub(super) fn memory(guest: &Guest<'_>) -> Result<()> {
    let modules = &guest.def.devices.memories;
    if modules.iter().any(|m| m.model == MemoryModel::SgxEpc) && !guest.caps.has(Flag::SgxEpc) {
        return Err(Error::unsupported("sgx epc isn't supported by this QEMU binary"));
    }
    Ok(())
}

pub(super) fn os(guest: &Guest<'_>) -> Result<()> {
    let serial_output = guest
        .def
        .os
        .bios
        .and_then(|b| b.useserial)
        .is_some_and(|u| u.is_yes());
    if serial_output && guest.def.devices.serials.is_empty() {
        let message = "need at least one serial port to use BIOS serial output";
        return Err(Error::new(Code::Xml, Area::Qemu, message));
    }
    Ok(())
}
