//! The Tuning service.

use std::sync::Arc;

use domxml::tuning::{BlockTuneDevice, NumaMode};
use tonic::{Request, Response, Status};
use unixfd::Peer;

use super::{convert, once::Once};
use crate::{
    domain::View,
    error::{Error, Result},
    ops::{
        Driver,
        change::configure::{self, Change},
        document::scope::Scope,
        holdings::cgroup::thread::Thread,
        host::node,
        tuning::{self, blocks, memory, numa, pinning, scheduler, usage},
    },
    pb,
};

#[derive(Clone)]
pub(super) struct Service {
    driver: Arc<Driver>,
    once: Once,
}

impl Service {
    pub(super) fn new(driver: &Arc<Driver>) -> Self {
        Self {
            driver: Arc::clone(driver),
            once: Once::default(),
        }
    }

    /// The guest that a reader asks of, and which configuration.
    fn asked(&self, request: Request<pb::GetTuningRequest>) -> Result<(Arc<View>, Scope)> {
        let request = request.into_inner();
        let scope = convert::scope(request.scope());
        Ok((convert::find(&self.driver, request.domain)?.view(), scope))
    }

    /// Makes one change, once for each request id.
    async fn change(&self, peer: Option<Peer>, wanted: Wanted) -> Result<Response<()>, Status> {
        let conditions = convert::conditions(wanted.options.as_ref());
        let id = wanted.options.map_or_else(String::new, |o| o.request_id);
        let work = async {
            let domain = convert::find(&self.driver, wanted.domain)?;
            let change = Change::Tuning(wanted.change?);
            Box::pin(configure::configure(
                &self.driver,
                &domain,
                wanted.scope,
                change,
                &conditions,
            ))
            .await
        };
        self.once
            .run(peer.as_ref(), wanted.method, &id, work)
            .await
            .map(Response::new)
    }
}

/// A request for a change.
struct Wanted {
    method: &'static str,
    domain: Option<pb::DomainRef>,
    scope: Scope,
    change: Result<tuning::Change>,
    options: Option<pb::MutationOptions>,
}

fn peer<T>(request: &Request<T>) -> Option<Peer> {
    request.extensions().get::<Peer>().copied()
}

#[tonic::async_trait]
impl pb::tuning_server::Tuning for Service {
    async fn get_pinning(
        &self,
        request: Request<pb::GetTuningRequest>,
    ) -> Result<Response<pb::Pinning>, Status> {
        let (view, scope) = self.asked(request)?;
        let found = pinning::read(&self.driver, &view, scope).await?;
        let vcpus = found.vcpus.iter().map(pinning::to_bits).collect();
        Ok(Response::new(pb::Pinning {
            vcpus,
            emulator: pinning::to_bits(&found.emulator),
        }))
    }

    async fn set_pinning(&self, request: Request<pb::SetPinningRequest>) -> Result<Response<()>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        let scope = convert::scope(request.scope());
        let change = pin(request.thread, &request.cpus);
        self.change(
            peer,
            Wanted {
                method: "SetPinning",
                domain: request.domain,
                scope,
                change,
                options: request.options,
            },
        )
        .await
    }

    async fn list_io_threads(
        &self,
        request: Request<pb::GetTuningRequest>,
    ) -> Result<Response<pb::ListIoThreadsResponse>, Status> {
        let (view, scope) = self.asked(request)?;
        let found = pinning::iothreads(&self.driver, &view, scope).await?;
        let shown = |t: pinning::IoThread| pb::list_io_threads_response::IoThread {
            id: t.id,
            cpus: pinning::to_bits(&t.cpus),
        };
        Ok(Response::new(pb::ListIoThreadsResponse {
            iothreads: found.into_iter().map(shown).collect(),
        }))
    }

    async fn get_scheduler(
        &self,
        request: Request<pb::GetTuningRequest>,
    ) -> Result<Response<pb::Scheduler>, Status> {
        let (view, scope) = self.asked(request)?;
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

    async fn set_scheduler(&self, request: Request<pb::SetSchedulerRequest>) -> Result<Response<()>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        let scope = convert::scope(request.scope());
        let change = Ok(tuning::Change::Scheduler(wanted_scheduler(request.scheduler)));
        self.change(
            peer,
            Wanted {
                method: "SetScheduler",
                domain: request.domain,
                scope,
                change,
                options: request.options,
            },
        )
        .await
    }

    async fn get_memory_limits(
        &self,
        request: Request<pb::GetTuningRequest>,
    ) -> Result<Response<pb::MemoryLimits>, Status> {
        let (view, scope) = self.asked(request)?;
        let found = memory::read(&self.driver, &view, scope)?;
        let (hard_limit_kib, soft_limit_kib, swap_hard_limit_kib) = (found.hard, found.soft, found.swap_hard);
        Ok(Response::new(pb::MemoryLimits {
            hard_limit_kib,
            soft_limit_kib,
            swap_hard_limit_kib,
        }))
    }

    async fn set_memory_limits(
        &self,
        request: Request<pb::SetMemoryLimitsRequest>,
    ) -> Result<Response<()>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        let scope = convert::scope(request.scope());
        let limits = request.limits.unwrap_or_default();
        let (hard, soft, swap_hard) = (
            limits.hard_limit_kib,
            limits.soft_limit_kib,
            limits.swap_hard_limit_kib,
        );
        let change = Ok(tuning::Change::Memory(memory::Limits {
            hard,
            soft,
            swap_hard,
        }));
        self.change(
            peer,
            Wanted {
                method: "SetMemoryLimits",
                domain: request.domain,
                scope,
                change,
                options: request.options,
            },
        )
        .await
    }

    async fn get_numa_placement(
        &self,
        request: Request<pb::GetTuningRequest>,
    ) -> Result<Response<pb::NumaPlacement>, Status> {
        let (view, scope) = self.asked(request)?;
        let found = numa::read(&view, scope)?;
        let mode = found.mode.map(|mode| shown_mode(mode).into());
        Ok(Response::new(pb::NumaPlacement {
            mode,
            nodeset: found.nodes.map(|nodes| nodes.to_string()),
        }))
    }

    async fn set_numa_placement(
        &self,
        request: Request<pb::SetNumaPlacementRequest>,
    ) -> Result<Response<()>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        let scope = convert::scope(request.scope());
        let change = wanted_placement(request.placement).map(tuning::Change::Numa);
        self.change(
            peer,
            Wanted {
                method: "SetNumaPlacement",
                domain: request.domain,
                scope,
                change,
                options: request.options,
            },
        )
        .await
    }

    async fn get_block_limits(
        &self,
        request: Request<pb::GetTuningRequest>,
    ) -> Result<Response<pb::BlockLimits>, Status> {
        let (view, scope) = self.asked(request)?;
        let found = blocks::read(&self.driver, &view, scope)?;
        let devices = found.devices.into_iter().map(shown_device).collect();
        Ok(Response::new(pb::BlockLimits {
            weight: found.weight,
            devices,
        }))
    }

    async fn set_block_limits(
        &self,
        request: Request<pb::SetBlockLimitsRequest>,
    ) -> Result<Response<()>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        let scope = convert::scope(request.scope());
        let limits = request.limits.unwrap_or_default();
        let devices = limits.devices.into_iter().map(wanted_device).collect();
        let change = Ok(tuning::Change::Blocks(blocks::Limits {
            weight: limits.weight,
            devices,
        }));
        self.change(
            peer,
            Wanted {
                method: "SetBlockLimits",
                domain: request.domain,
                scope,
                change,
                options: request.options,
            },
        )
        .await
    }

    async fn get_cpu_usage(
        &self,
        request: Request<pb::GetCpuUsageRequest>,
    ) -> Result<Response<pb::CpuUsage>, Status> {
        let request = request.into_inner();
        let view = convert::find(&self.driver, request.domain)?.view();
        let times = usage::total(&self.driver, &view)?;
        let cpus = if request.by_cpu {
            usage::by_cpu(&self.driver, &view)?
        } else {
            Vec::new()
        };
        let cpus = cpus
            .into_iter()
            .map(|cpu| pb::cpu_usage::Cpu {
                total: cpu.total,
                vcpus: cpu.vcpus,
            })
            .collect();
        let host_cpus = node::cpu_map(&self.driver)
            .await?
            .present
            .last()
            .map_or(0, |last| last + 1);
        Ok(Response::new(pb::CpuUsage {
            total: times.total,
            user: times.user,
            system: times.system,
            cpus,
            host_cpus,
        }))
    }
}

fn pin(thread: Option<pb::set_pinning_request::Thread>, cpus: &[u8]) -> Result<tuning::Change> {
    use pb::set_pinning_request::Thread as T;
    let thread = match thread.ok_or_else(|| Error::argument("the request names no thread"))? {
        T::Vcpu(id) => Thread::Vcpu(id),
        T::Emulator(()) => Thread::Emulator,
        T::Iothread(id) => Thread::Io(id),
    };
    Ok(tuning::Change::Pin {
        thread,
        cpus: pinning::from_bits(cpus)?,
    })
}

fn shown_bandwidth(of: scheduler::Bandwidth) -> Option<pb::scheduler::Bandwidth> {
    (of != scheduler::Bandwidth::default()).then_some(pb::scheduler::Bandwidth {
        period: of.period,
        quota: of.quota,
    })
}

fn wanted_scheduler(wanted: Option<pb::Scheduler>) -> scheduler::Scheduler {
    let wanted = wanted.unwrap_or_default();
    let bandwidth = |of: Option<pb::scheduler::Bandwidth>| {
        let of = of.unwrap_or_default();
        scheduler::Bandwidth {
            period: of.period,
            quota: of.quota,
        }
    };
    let bandwidths = [wanted.vcpu, wanted.emulator, wanted.iothread, wanted.global].map(bandwidth);
    scheduler::Scheduler {
        shares: wanted.shares,
        bandwidths,
    }
}

fn wanted_placement(wanted: Option<pb::NumaPlacement>) -> Result<numa::Placement> {
    let wanted = wanted.unwrap_or_default();
    let mode = wanted.mode.map(|number| {
        let mode = pb::numa_placement::Mode::try_from(number);
        mode.map_err(|_| Error::argument(format!("unsupported numatune mode: '{number}'")))
    });
    let mode = mode.transpose()?.map(|mode| match mode {
        pb::numa_placement::Mode::Strict => NumaMode::Strict,
        pb::numa_placement::Mode::Preferred => NumaMode::Preferred,
        pb::numa_placement::Mode::Interleave => NumaMode::Interleave,
        pb::numa_placement::Mode::Restrictive => NumaMode::Restrictive,
    });
    let nodes = wanted.nodeset.filter(|text| !text.is_empty()).map(|text| {
        text.parse()
            .map_err(|_| Error::argument(format!("Failed to parse bitmap '{text}'")))
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
