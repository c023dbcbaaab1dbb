//! The Tuning service.

use std::sync::Arc;

use domxml::tuning::{BlockTuneDevice, NumaMode};
use tonic::{Request, Response};

use super::{
    convert::{self, microseconds, nanoseconds},
    decode::{self, Unit},
    service::{Answer, Call, Service},
};
use crate::{
    access::Caller,
    domain::View,
    error::{Error, Result},
    ops::{
        change::configure::{self, Change},
        document::scope::Scope,
        holdings::cgroup::thread::Thread,
        host::node,
        tuning::{self, blocks, iothreads, memory, numa, pinning, scheduler, usage},
    },
    pb,
};

impl Service {
    /// The guest that a reader asks of, and which configuration.
    fn asked(&self, request: &Request<pb::GetTuningRequest>) -> Result<(Arc<View>, Scope)> {
        let caller = Caller::of(request)?;
        let request = request.get_ref();
        let scope = decode::read_scope(request.scope)?;
        Ok((self.domain(&caller, request.domain.as_ref())?.view(), scope))
    }
}

/// Makes one change, which answers the guest as it is then.
pub(super) async fn change<R>(
    call: Call<R>,
    of: fn(&R) -> (Option<&pb::DomainRef>, i32),
    wanted: impl FnOnce(&R) -> Result<tuning::Change>,
) -> Result<pb::Domain> {
    let (reference, scope) = of(&call.request);
    let (scope, wanted) = (decode::scope(scope)?, wanted(&call.request)?);
    let domain = call.domain(reference)?;
    let change = Change::Tuning(wanted);
    let made = configure::configure(&call.driver, &domain, scope, change, &call.conditions);
    Box::pin(made).await?;
    Ok(convert::basic(&domain.view()))
}

#[tonic::async_trait]
impl pb::tuning_server::Tuning for Service {
    async fn get_pinning(&self, request: Request<pb::GetTuningRequest>) -> Answer<pb::Pinning> {
        let (view, scope) = self.asked(&request)?;
        let found = pinning::read(&self.driver, &view, scope).await?;
        let vcpus = found.vcpus.iter().map(pinning::to_bits).collect();
        Ok(Response::new(pb::Pinning {
            vcpus,
            emulator: pinning::to_bits(&found.emulator),
        }))
    }

    async fn set_pinning(&self, request: Request<pb::SetPinningRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            change(
                call,
                |r| (r.domain.as_ref(), r.scope),
                |r| pin(r.thread.as_ref(), &r.cpus),
            )
        })
        .await
    }

    async fn list_io_threads(
        &self,
        request: Request<pb::GetTuningRequest>,
    ) -> Answer<pb::ListIoThreadsResponse> {
        let (view, scope) = self.asked(&request)?;
        let found = pinning::iothreads(&self.driver, &view, scope).await?;
        let shown = |t: pinning::IoThread| pb::list_io_threads_response::IoThread {
            id: t.id,
            cpus: pinning::to_bits(&t.cpus),
        };
        Ok(Response::new(pb::ListIoThreadsResponse {
            iothreads: found.into_iter().map(shown).collect(),
        }))
    }

    async fn add_io_thread(&self, request: Request<pb::AddIoThreadRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            change(
                call,
                |r| (r.domain.as_ref(), r.scope),
                |r| {
                    let (id, params) = (r.id, iothreads::Params::default());
                    Ok(tuning::Change::IoThread(iothreads::Change::Add { id, params }))
                },
            )
        })
        .await
    }

    async fn remove_io_thread(&self, request: Request<pb::RemoveIoThreadRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            change(
                call,
                |r| (r.domain.as_ref(), r.scope),
                |r| Ok(tuning::Change::IoThread(iothreads::Change::Remove { id: r.id })),
            )
        })
        .await
    }

    async fn set_io_thread(&self, request: Request<pb::SetIoThreadRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            change(call, |r| (r.domain.as_ref(), r.scope), wanted_iothread)
        })
        .await
    }

    async fn get_scheduler(&self, request: Request<pb::GetTuningRequest>) -> Answer<pb::Scheduler> {
        let (view, scope) = self.asked(&request)?;
        let found = scheduler::read(&self.driver, &view, scope)?;
        let [vcpu, emulator, iothread, global] = found.bandwidths.map(shown_bandwidth);
        Ok(Response::new(pb::Scheduler {
            shares: found.shares,
            vcpu,
            emulator,
            iothread,
            global,
        }))
    }

    async fn set_scheduler(&self, request: Request<pb::SetSchedulerRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            change(
                call,
                |r| (r.domain.as_ref(), r.scope),
                |r| wanted_scheduler(r.scheduler.as_ref()).map(tuning::Change::Scheduler),
            )
        })
        .await
    }

    async fn get_memory_limits(&self, request: Request<pb::GetTuningRequest>) -> Answer<pb::MemoryLimits> {
        let (view, scope) = self.asked(&request)?;
        let found = memory::read(&self.driver, &view, scope)?;
        let (hard_limit_kib, soft_limit_kib, swap_hard_limit_kib) = (found.hard, found.soft, found.swap_hard);
        Ok(Response::new(pb::MemoryLimits {
            hard_limit_kib,
            soft_limit_kib,
            swap_hard_limit_kib,
        }))
    }

    async fn set_memory_limits(&self, request: Request<pb::SetMemoryLimitsRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            change(
                call,
                |r| (r.domain.as_ref(), r.scope),
                |r| {
                    Ok(tuning::Change::Memory(wanted_memory(
                        r.limits.unwrap_or_default(),
                    )))
                },
            )
        })
        .await
    }

    async fn get_numa_placement(&self, request: Request<pb::GetTuningRequest>) -> Answer<pb::NumaPlacement> {
        let (view, scope) = self.asked(&request)?;
        let found = numa::read(&view, scope)?;
        let mode = found.mode.map(|mode| shown_mode(mode).into());
        Ok(Response::new(pb::NumaPlacement {
            mode,
            nodeset: found.nodes.map(|nodes| nodes.to_string()),
        }))
    }

    async fn set_numa_placement(&self, request: Request<pb::SetNumaPlacementRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            change(
                call,
                |r| (r.domain.as_ref(), r.scope),
                |r| wanted_placement(r.placement.clone()).map(tuning::Change::Numa),
            )
        })
        .await
    }

    async fn get_block_limits(&self, request: Request<pb::GetTuningRequest>) -> Answer<pb::BlockLimits> {
        let (view, scope) = self.asked(&request)?;
        let found = blocks::read(&self.driver, &view, scope)?;
        let devices = found.devices.into_iter().map(shown_device).collect();
        Ok(Response::new(pb::BlockLimits {
            weight: found.weight,
            devices,
        }))
    }

    async fn set_block_limits(&self, request: Request<pb::SetBlockLimitsRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            change(
                call,
                |r| (r.domain.as_ref(), r.scope),
                |r| {
                    Ok(tuning::Change::Blocks(wanted_blocks(
                        r.limits.clone().unwrap_or_default(),
                    )))
                },
            )
        })
        .await
    }

    async fn get_cpu_usage(&self, request: Request<pb::GetCpuUsageRequest>) -> Answer<pb::CpuUsage> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let view = self.domain(&caller, request.domain.as_ref())?.view();
        let times = usage::total(&self.driver, &view)?;
        let cpus = if request.by_cpu {
            usage::by_cpu(&self.driver, &view)?
        } else {
            Vec::new()
        };
        let cpus = cpus
            .into_iter()
            .map(|cpu| pb::cpu_usage::Cpu {
                total: Some(nanoseconds(cpu.total)),
                vcpus: Some(nanoseconds(cpu.vcpus)),
            })
            .collect();
        let host_cpus = node::cpu_map(&self.driver)
            .await?
            .present
            .last()
            .map_or(0, |last| last + 1);
        Ok(Response::new(pb::CpuUsage {
            total: Some(nanoseconds(times.total)),
            user: Some(nanoseconds(times.user)),
            system: Some(nanoseconds(times.system)),
            cpus,
            host_cpus,
        }))
    }
}

fn pin(thread: Option<&pb::set_pinning_request::Thread>, cpus: &[u8]) -> Result<tuning::Change> {
    use pb::set_pinning_request::Thread as T;
    let thread = match decode::given(thread, "thread")? {
        T::Vcpu(id) => Thread::Vcpu(*id),
        T::Emulator(_) => Thread::Emulator,
        T::Iothread(id) => Thread::Io(*id),
    };
    Ok(tuning::Change::Pin {
        thread,
        cpus: pinning::from_bits(cpus)?,
    })
}

fn wanted_iothread(wanted: &pb::SetIoThreadRequest) -> Result<tuning::Change> {
    let poll_max = wanted.poll_max.as_ref();
    let poll_max = poll_max.map(|time| decode::whole(time, Unit::Nano, "poll_max"));
    let params = iothreads::Params {
        poll_max: poll_max.transpose()?,
        poll_grow: wanted.poll_grow,
        poll_shrink: wanted.poll_shrink,
        pool_min: wanted.thread_pool_min,
        pool_max: wanted.thread_pool_max,
    };
    if params == iothreads::Params::default() {
        return Err(Error::argument("nothing is to be changed").at("poll_max"));
    }
    let id = wanted.id;
    Ok(tuning::Change::IoThread(iothreads::Change::Set { id, params }))
}

fn shown_bandwidth(of: scheduler::Bandwidth) -> Option<pb::scheduler::Bandwidth> {
    let period = of.period.and_then(|micros| i64::try_from(micros).ok());
    (of != scheduler::Bandwidth::default()).then_some(pb::scheduler::Bandwidth {
        period: period.map(microseconds),
        quota: of.quota.map(microseconds),
    })
}

fn wanted_scheduler(wanted: Option<&pb::Scheduler>) -> Result<scheduler::Scheduler> {
    let wanted = decode::given(wanted, "scheduler")?;
    let bandwidth = |of: Option<pb::scheduler::Bandwidth>| {
        let of = of.unwrap_or_default();
        let period = of
            .period
            .map(|period| decode::whole(&period, Unit::Micro, "period"));
        let quota = of.quota.map(|quota| decode::signed(&quota, Unit::Micro, "quota"));
        Ok::<_, Error>(scheduler::Bandwidth {
            period: period.transpose()?,
            quota: quota.transpose()?,
        })
    };
    Ok(scheduler::Scheduler {
        shares: wanted.shares,
        bandwidths: [
            bandwidth(wanted.vcpu)?,
            bandwidth(wanted.emulator)?,
            bandwidth(wanted.iothread)?,
            bandwidth(wanted.global)?,
        ],
    })
}

fn wanted_memory(limits: pb::MemoryLimits) -> memory::Limits {
    memory::Limits {
        hard: limits.hard_limit_kib,
        soft: limits.soft_limit_kib,
        swap_hard: limits.swap_hard_limit_kib,
    }
}

fn wanted_blocks(limits: pb::BlockLimits) -> blocks::Limits {
    blocks::Limits {
        weight: limits.weight,
        devices: limits.devices.into_iter().map(wanted_device).collect(),
    }
}

fn wanted_placement(wanted: Option<pb::NumaPlacement>) -> Result<numa::Placement> {
    use pb::numa_placement::Mode;
    let wanted = wanted.unwrap_or_default();
    let mode = wanted.mode.map(|number| decode::needed(number, "placement.mode"));
    let mode = mode.transpose()?.map(|mode| match mode {
        Mode::Unspecified | Mode::Strict => NumaMode::Strict,
        Mode::Preferred => NumaMode::Preferred,
        Mode::Interleave => NumaMode::Interleave,
        Mode::Restrictive => NumaMode::Restrictive,
    });
    let nodes = wanted.nodeset.filter(|text| !text.is_empty()).map(|text| {
        text.parse()
            .map_err(|_| Error::argument(format!("Failed to parse bitmap '{text}'")).at("placement.nodeset"))
    });
    Ok(numa::Placement {
        mode,
        nodes: nodes.transpose()?,
    })
}

fn shown_mode(mode: NumaMode) -> pb::numa_placement::Mode {
    match mode {
        NumaMode::Strict => pb::numa_placement::Mode::Strict,
        NumaMode::Preferred => pb::numa_placement::Mode::Preferred,
        NumaMode::Interleave => pb::numa_placement::Mode::Interleave,
        NumaMode::Restrictive => pb::numa_placement::Mode::Restrictive,
    }
}

fn shown_device(device: BlockTuneDevice) -> pb::block_limits::Device {
    pb::block_limits::Device {
        path: device.path,
        weight: device.weight,
        read_iops: device.read_iops_sec,
        write_iops: device.write_iops_sec,
        read_bytes: device.read_bytes_sec,
        write_bytes: device.write_bytes_sec,
    }
}

fn wanted_device(device: pb::block_limits::Device) -> BlockTuneDevice {
    BlockTuneDevice {
        path: device.path,
        weight: device.weight,
        read_iops_sec: device.read_iops,
        write_iops_sec: device.write_iops,
        read_bytes_sec: device.read_bytes,
        write_bytes_sec: device.write_bytes,
    }
}
