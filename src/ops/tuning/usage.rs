//! CPU time that a running guest's process has used, as its control group counts it.

use confine::cgroup::{Controller, CpuTimes};

use crate::{
    domain::View,
    error::{Code, Error, Result},
    ops::{
        Driver,
        holdings::cgroup::{
            refused,
            thread::{Thread, part_of},
        },
        tuning::group_with,
    },
};

const NO_GROUP: &str = "cgroup CPUACCT controller is not mounted";

/// Nanoseconds of one of the host's CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OfCpu {
    /// By the whole process.
    pub total: u64,
    /// By the guest's CPUs.
    pub vcpus: u64,
}

/// In all.
///
/// # Errors
/// `OperationInvalid` if the guest does not run, or is in no group that counts.
pub fn total(driver: &Driver, view: &View) -> Result<CpuTimes> {
    group_with(driver, view, Controller::CpuAcct, NO_GROUP)?
        .cpu_times()
        .map_err(refused)
}

/// By each of the host's CPUs.
///
/// # Errors
/// As [`total`], and `OperationUnsupported` where the kernel does not count by CPU.
pub fn by_cpu(driver: &Driver, view: &View) -> Result<Vec<OfCpu>> {
    let group = group_with(driver, view, Controller::CpuAcct, NO_GROUP)?;
    let not_counted = || {
        let message = "operation 'getCpuacctPercpuUsage' not supported for backend 'cgroup V2'";
        Error::new(Code::OperationUnsupported, message)
    };
    let all = group
        .cpu_time_by_cpu()
        .map_err(refused)?
        .ok_or_else(not_counted)?;
    let mut cpus: Vec<OfCpu> = all.into_iter().map(|total| OfCpu { total, vcpus: 0 }).collect();
    for vcpu in &view.running()?.status.vcpus {
        let of_vcpu = group
            .part(part_of(Thread::Vcpu(vcpu.id)))
            .cpu_time_by_cpu()
            .map_err(refused)?
            .unwrap_or_default();
        for (cpu, used) in cpus.iter_mut().zip(of_vcpu) {
            cpu.vcpus = cpu.vcpus.saturating_add(used);
        }
    }
    Ok(cpus)
}
