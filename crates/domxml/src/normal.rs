//! The normal form of a client's document: what says no more than its absence is left out, and what is implied by what
//! stands beside it is spelled out.
//!
//! Here is what needs no knowledge of a host or of QEMU and is no device's; of devices see [`crate::devices`]'s own.

use std::collections::BTreeMap;

use crate::clock::{Adjustment, Clock, ClockBasis, ClockOffset, LockFailureAction};
use crate::cpu::{Cpu, Numa};
use crate::devices::{IoTune, YesNo};
use crate::security::{Seclabel, SeclabelType};
use crate::tuning::{
    BlockTune, BlockTuneDevice, CpuTune, MemoryBacking, MemoryTune, NumaMode, NumaTune, Scheduler, VcpuState,
};
use crate::units::Kib;
use crate::{Bitmap, Domain};

/// Makes numbers absent that are 0.
macro_rules! drop_zeroes {
    ($value:expr; $($field:ident)+) => { $($value.$field = $value.$field.filter(|number| *number != 0);)+ };
}

/// A limit of so many KiB or more means none.
const UNLIMITED: u64 = 9_007_199_254_740_991;

impl Domain {
    /// Brings everything but the devices into its normal form.
    pub(crate) fn normalize(&mut self) {
        let has_cells = self
            .cpu
            .as_ref()
            .and_then(|cpu| cpu.numa.as_ref())
            .is_some_and(|numa| !numa.cells.is_empty());
        let says =
            |most: &crate::domain::MaxMemory| most.size.0 != 0 || most.slots.is_some_and(|slots| slots != 0);
        self.max_memory = self.max_memory.take().filter(says);
        if let Some(most) = &mut self.max_memory {
            drop_zeroes!(most; slots);
        }
        self.metadata = self
            .metadata
            .take()
            .filter(|metadata| metadata.elements().next().is_some());
        self.memory_backing
            .iter_mut()
            .for_each(|backing| normal_backing(backing, has_cells));
        self.blkiotune.iter_mut().for_each(normal_blkiotune);
        self.memtune.iter_mut().for_each(normal_memtune);
        self.cputune.iter_mut().for_each(normal_cputune);
        self.throttlegroups.iter_mut().for_each(IoTune::drop_zeroes);
        self.numatune.iter_mut().for_each(normal_numatune);
        self.cpu.iter_mut().for_each(normal_cpu);
        self.clock.iter_mut().for_each(normal_clock);
        if let Some(vcpus) = &mut self.vcpus {
            let count = self.vcpu.as_ref().map_or(1, |vcpu| vcpu.count);
            merge_vcpus(&mut vcpus.all, count);
            for vcpu in &mut vcpus.all {
                drop_zeroes!(vcpu; order);
            }
        }
        if self.os.kind.as_ref().is_none_or(|kind| kind.value != "exe") {
            self.os.init = None;
        }
        if let Some(kind) = &mut self.os.kind {
            kind.arch = kind.arch.take().filter(|arch| !arch.is_empty());
            kind.machine = kind.machine.take().filter(|machine| !machine.is_empty());
        }
        self.normalize_firmware();
        if let Some(perf) = &mut self.perf {
            perf.events.sort_by_key(|event| event.name);
        }
        self.keywrap = self.keywrap.take().filter(|wrapped| !wrapped.ciphers.is_empty());
        self.iothreads = self.iothreads.filter(|count| *count != 0);
        for sysinfo in &mut self.sysinfo {
            sysinfo.drop_foreign();
        }
        if let Some(resource) = &mut self.resource {
            resource.fibrechannel = resource.fibrechannel.take().filter(|id| !id.is_empty());
        }
        self.on_lockfailure = self
            .on_lockfailure
            .filter(|action| *action != LockFailureAction::Default);
        // A label without a type says nothing.
        self.seclabels.retain(|label| label.kind.is_some());
        self.seclabels.iter_mut().for_each(normal_label);
    }

    fn normalize_firmware(&mut self) {
        if let Some(nvram) = &mut self.os.nvram {
            // It is a path, or a source of a type.
            match nvram.kind {
                None => nvram.source = None,
                Some(kind) => {
                    nvram.path = None;
                    nvram
                        .source
                        .iter_mut()
                        .for_each(|source| source.canonicalize(kind));
                }
            }
            for format in [&mut nvram.format, &mut nvram.template_format] {
                *format = format.take().filter(|format| format != "none");
            }
        }
        if let Some(loader) = &mut self.os.loader {
            loader.format = loader.format.take().filter(|format| format != "none");
        }
    }
}

/// Most CPUs that are written down one by one where a list leaves them out; no machine has as many.
const LISTED: u32 = 1 << 14;

/// A list has each CPU once, in order. Of what is said twice of one, what is said last counts; one that is left out of a list
/// is not there.
fn merge_vcpus(all: &mut Vec<VcpuState>, count: u32) {
    let mut merged: BTreeMap<u32, VcpuState> = BTreeMap::new();
    for state in all.drain(..) {
        match merged.get_mut(&state.id) {
            Some(before) => {
                before.enabled = state.enabled;
                before.hotpluggable = state.hotpluggable.or(before.hotpluggable);
                before.order = state.order.or(before.order);
            }
            None => {
                merged.insert(state.id, state);
            }
        }
    }
    if !merged.is_empty() && count <= LISTED {
        for id in 0..count {
            merged.entry(id).or_insert(VcpuState {
                id,
                enabled: YesNo::No,
                hotpluggable: None,
                order: None,
            });
        }
    }
    all.extend(merged.into_values());
}

fn normal_backing(backing: &mut MemoryBacking, has_cells: bool) {
    if let Some(allocation) = &mut backing.allocation {
        drop_zeroes!(allocation; threads);
    }
    let first = Bitmap::range(0, 0);
    let pages = backing.hugepages.iter_mut().flat_map(|huge| &mut huge.pages);
    for page in pages.filter(|_| !has_cells) {
        page.nodeset = page.nodeset.take().filter(|nodes| *nodes != first);
    }
}

fn normal_blkiotune(tune: &mut BlockTune) {
    drop_zeroes!(tune; weight);
    for device in &mut tune.devices {
        drop_zeroes!(device; weight read_iops_sec write_iops_sec read_bytes_sec write_bytes_sec);
    }
    tune.devices.retain(BlockTuneDevice::says_something);
}

fn normal_memtune(tune: &mut MemoryTune) {
    let limit = |limit: Option<Kib>| limit.filter(|limit| limit.0 < UNLIMITED);
    tune.hard_limit = limit(tune.hard_limit);
    tune.soft_limit = limit(tune.soft_limit);
    tune.swap_hard_limit = limit(tune.swap_hard_limit);
    tune.min_guarantee = tune.min_guarantee.filter(|least| least.0 != 0);
}

fn normal_cputune(tune: &mut CpuTune) {
    drop_zeroes!(tune; period quota global_period global_quota emulator_period emulator_quota iothread_period
        iothread_quota);
    let choices = tune.vcpusched.iter_mut().map(|sched| &mut sched.choice);
    let choices = choices.chain(tune.iothreadsched.iter_mut().map(|sched| &mut sched.choice));
    for choice in choices.chain(&mut tune.emulatorsched) {
        if !matches!(choice.scheduler, Scheduler::Fifo | Scheduler::Rr) {
            choice.priority = None;
        }
    }
    for share in &mut tune.cachetune {
        share
            .caches
            .sort_by_key(|cache| (cache.level, cache.kind.as_str(), cache.id));
    }
    for share in &mut tune.memorytune {
        share.nodes.sort_by_key(|node| node.id);
    }
    // An allotment of nothing is none.
    tune.cachetune
        .retain(|share| !share.caches.is_empty() || !share.monitors.is_empty());
    tune.memorytune
        .retain(|share| !share.nodes.is_empty() || !share.monitors.is_empty());
}

fn normal_numatune(tune: &mut NumaTune) {
    for node in &mut tune.memnodes {
        node.mode.get_or_insert(NumaMode::Strict);
    }
}

fn normal_cpu(cpu: &mut Cpu) {
    if let Some(model) = &mut cpu.model {
        model.vendor_id = model.vendor_id.take().filter(|id| !id.is_empty());
    }
    cpu.numa.iter_mut().for_each(normal_numa);
}

fn normal_numa(numa: &mut Numa) {
    for cell in &mut numa.cells {
        // A set in which nothing is left is none.
        cell.cpus = cell.cpus.take().filter(|cpus| !cpus.is_empty());
        for cache in &mut cell.caches {
            cache.line = cache.line.take().filter(|line| line.0 != 0);
        }
    }
}

fn normal_clock(clock: &mut Clock) {
    let number = |clock: &Clock| matches!(clock.adjustment, Some(Adjustment::Seconds(_)));
    match clock.offset {
        // A clock that is so many seconds off one is a variable clock.
        ClockOffset::Utc | ClockOffset::Localtime if number(clock) => {
            clock.basis = Some(match clock.offset {
                ClockOffset::Localtime => ClockBasis::Localtime,
                _ => ClockBasis::Utc,
            });
            clock.offset = ClockOffset::Variable;
        }
        ClockOffset::Utc | ClockOffset::Localtime => clock.basis = None,
        ClockOffset::Variable => {}
        ClockOffset::Timezone | ClockOffset::Absolute => (clock.adjustment, clock.basis) = (None, None),
    }
    if clock.offset != ClockOffset::Timezone {
        clock.timezone = None;
    }
    if clock.offset != ClockOffset::Absolute {
        clock.start = None;
    }
    for timer in &mut clock.timers {
        drop_zeroes!(timer; frequency);
        if let Some(catchup) = &mut timer.catchup {
            drop_zeroes!(catchup; threshold slew limit);
        }
    }
}

fn normal_label(label: &mut Seclabel) {
    if label.model.as_deref() == Some("none") {
        (label.kind, label.relabel) = (Some(SeclabelType::None), None);
    } else if label.kind == Some(SeclabelType::Static) {
        label.baselabel = None;
        label.relabel.get_or_insert(crate::devices::YesNo::No);
    }
}

#[cfg(test)]
mod tests {
    use xmlform::FormatFlags;

    use super::*;

    #[test]
    fn what_says_no_more_than_absence_is_left_out() {
        for (given, kept) in [
            (
                "<maxMemory slots='0'>8</maxMemory>",
                "<maxMemory unit='KiB'>8</maxMemory>",
            ),
            ("<metadata/>", ""),
            ("<keywrap/>", ""),
            ("<blkiotune><weight>0</weight></blkiotune>", ""),
            (
                "<memtune><hard_limit unit='PiB'>8191</hard_limit><min_guarantee>0</min_guarantee></memtune>",
                "<memtune><hard_limit unit='KiB'>9006099743113216</hard_limit></memtune>",
            ),
            (
                "<cputune><shares>0</shares><period>0</period></cputune>",
                "<cputune><shares>0</shares></cputune>",
            ),
            (
                "<clock offset='absolute' start='3' basis='utc' timezone='x'/>",
                "<clock offset='absolute' start='3'/>",
            ),
            (
                "<clock offset='localtime' adjustment='60'/>",
                "<clock offset='variable' adjustment='60' basis='localtime'/>",
            ),
            (
                "<clock offset='utc' adjustment='reset' basis='utc'/>",
                "<clock offset='utc' adjustment='reset'/>",
            ),
            ("<seclabel model='dac' relabel='yes'/>", ""),
            (
                "<seclabel type='dynamic' model='none'/>",
                "<seclabel type='none' model='none'/>",
            ),
            (
                "<memoryBacking><hugepages><page size='4' nodeset='0'/></hugepages></memoryBacking>",
                "<memoryBacking><hugepages><page size='4' unit='KiB'/></hugepages></memoryBacking>",
            ),
        ] {
            let text = format!("<domain type='qemu'><name>a</name><os><type>hvm</type></os>{given}</domain>");
            let domain = Domain::given(&text).unwrap();
            let text = domain.format(FormatFlags::INACTIVE | FormatFlags::SECURE);
            let lines: Vec<&str> = text.lines().map(str::trim).collect();
            let lines = lines.concat();
            let rest = lines.strip_prefix("<domain type='qemu'><name>a</name>").unwrap();
            let rest = rest
                .replace("<os><type>hvm</type></os>", "")
                .replace("<devices></devices>", "");
            let rest = rest.replace("<devices/>", "");
            assert_eq!(rest, format!("{kept}</domain>"), "{given}");
        }
    }
}
