//! The Host service.

use hostinfo::{Comparison, KsmSetting, Resize};
use tonic::{Request, Response, Status};

use super::{
    convert::{duration, nanoseconds},
    decode::{self, Unit},
    service::{Answer, Service},
};
use crate::{
    access::Caller,
    error::{Error, Result},
    ops::{
        self,
        host::{emulator::Runnable, suspend::Sleep},
    },
    pb::{self, compare_cpu_response::Result as Compared},
    version,
};

/// What the services can do beyond single calls.
const FEATURES: &[&str] = &[
    "request-id",
    "etag",
    "validate-only",
    "watch-resume",
    "autodestroy-session",
    "console",
];

/// Most CPUs that are put together at once; libvirt's limit.
const BASELINE_MAX: usize = 256;

#[tonic::async_trait]
impl pb::host_server::Host for Service {
    async fn get_versions(
        &self,
        _: Request<pb::GetVersionsRequest>,
    ) -> Result<Response<pb::GetVersionsResponse>, Status> {
        Ok(Response::new(pb::GetVersionsResponse {
            libvirt_api: version::API_VERSION_NUMBER,
            daemon: version::OWN_VERSION.to_owned(),
            features: FEATURES.iter().map(|f| (*f).to_owned()).collect(),
        }))
    }

    async fn get_hypervisor_version(
        &self,
        _: Request<pb::GetHypervisorVersionRequest>,
    ) -> Result<Response<pb::GetHypervisorVersionResponse>, Status> {
        let version = ops::host::about::hypervisor_version(&self.driver).await?;
        Ok(Response::new(pb::GetHypervisorVersionResponse { version }))
    }

    async fn get_info(
        &self,
        _: Request<pb::GetInfoRequest>,
    ) -> Result<Response<pb::GetInfoResponse>, Status> {
        let info = ops::host::about::info(&self.driver)?;
        Ok(Response::new(pb::GetInfoResponse {
            hostname: info.hostname,
            uri: info.uri,
            host_uuid: info.uuid.to_string(),
            security_model: info.security_model,
            security_doi: info.security_doi,
        }))
    }

    async fn get_node(
        &self,
        _: Request<pb::GetNodeRequest>,
    ) -> Result<Response<pb::GetNodeResponse>, Status> {
        let node = ops::host::about::node(&self.driver).await?;
        Ok(Response::new(pb::GetNodeResponse {
            model: node.model,
            memory_kib: node.memory_kib,
            cpus: node.cpus,
            mhz: node.mhz,
            nodes: node.nodes,
            sockets: node.sockets,
            cores: node.cores,
            threads: node.threads,
        }))
    }

    async fn get_max_vcpus(
        &self,
        request: Request<pb::GetMaxVcpusRequest>,
    ) -> Result<Response<pb::GetMaxVcpusResponse>, Status> {
        let max_vcpus = ops::host::about::max_vcpus(&request.get_ref().virt_type)?;
        Ok(Response::new(pb::GetMaxVcpusResponse { max_vcpus }))
    }

    async fn list_cpu_models(
        &self,
        request: Request<pb::ListCpuModelsRequest>,
    ) -> Result<Response<pb::ListCpuModelsResponse>, Status> {
        let models = ops::host::about::cpu_models(&request.get_ref().arch)?;
        Ok(Response::new(pb::ListCpuModelsResponse { models }))
    }

    async fn get_cpu_map(
        &self,
        _: Request<pb::GetCpuMapRequest>,
    ) -> Result<Response<pb::GetCpuMapResponse>, Status> {
        let map = ops::host::node::cpu_map(&self.driver).await?;
        Ok(Response::new(pb::GetCpuMapResponse {
            present: map.present.into_iter().collect(),
            online: map.online.into_iter().collect(),
        }))
    }

    async fn get_cpu_times(
        &self,
        request: Request<pb::GetCpuTimesRequest>,
    ) -> Result<Response<pb::GetCpuTimesResponse>, Status> {
        let times = ops::host::node::cpu_times(&self.driver, request.into_inner().cpu).await?;
        Ok(Response::new(pb::GetCpuTimesResponse {
            kernel: Some(nanoseconds(times.kernel)),
            user: Some(nanoseconds(times.user)),
            idle: Some(nanoseconds(times.idle)),
            iowait: Some(nanoseconds(times.iowait)),
        }))
    }

    async fn get_memory(
        &self,
        request: Request<pb::GetMemoryRequest>,
    ) -> Result<Response<pb::GetMemoryResponse>, Status> {
        let memory = ops::host::node::memory(&self.driver, request.into_inner().cell).await?;
        Ok(Response::new(pb::GetMemoryResponse {
            total_kib: memory.total,
            free_kib: memory.free,
            buffers_kib: memory.buffers,
            cached_kib: memory.cached,
        }))
    }

    async fn list_cells(
        &self,
        request: Request<pb::ListCellsRequest>,
    ) -> Result<Response<pb::ListCellsResponse>, Status> {
        use pb::list_cells_response::{Cell, Pages};
        let pages = |p: hostinfo::PageCount| Pages {
            size_kib: p.size,
            total: p.total,
            free: p.free,
        };
        let cell = |(id, free_memory_kib, counts): ops::host::node::Cell| Cell {
            id,
            free_memory_kib,
            pages: counts.into_iter().map(pages).collect(),
        };
        let counted = if request.get_ref().without_pages {
            ops::host::node::Pages::Left
        } else {
            ops::host::node::Pages::Counted
        };
        let cells = ops::host::node::cells(&self.driver, counted)
            .await?
            .into_iter()
            .map(cell)
            .collect();
        let pages = match counted {
            ops::host::node::Pages::Left => Vec::new(),
            ops::host::node::Pages::Counted => ops::host::node::pages(&self.driver)
                .await?
                .into_iter()
                .map(pages)
                .collect(),
        };
        Ok(Response::new(pb::ListCellsResponse { cells, pages }))
    }

    async fn allocate_pages(
        &self,
        request: Request<pb::AllocatePagesRequest>,
    ) -> Answer<pb::AllocatePagesResponse> {
        self.mutate(request, |call| async move {
            if call.of_host()? {
                return Ok(pb::AllocatePagesResponse::default());
            }
            let r = call.request;
            let resize = if r.absolute { Resize::To } else { Resize::By };
            let pages = r.pages.iter().map(|pages| (pages.size_kib, resize(pages.count)));
            let pools = ops::host::node::resize_pools(&call.driver, r.cells, pages.collect()).await?;
            Ok(pb::AllocatePagesResponse { pools })
        })
        .await
    }

    async fn get_page_merging(&self, _: Request<pb::GetPageMergingRequest>) -> Answer<pb::PageMerging> {
        Ok(Response::new(page_merging(&self.driver).await?))
    }

    async fn set_page_merging(&self, request: Request<pb::SetPageMergingRequest>) -> Answer<pb::PageMerging> {
        self.mutate(request, |call| async move {
            let r = &call.request;
            let sleep = r.sleep.map(|sleep| decode::whole(&sleep, Unit::Milli, "sleep"));
            let sleep = sleep
                .transpose()?
                .map(|millis| u32::try_from(millis).unwrap_or(u32::MAX));
            let settings = [
                (KsmSetting::PagesToScan, r.pages_to_scan),
                (KsmSetting::SleepMillisecs, sleep),
                (KsmSetting::MergeAcrossNodes, r.merge_across_nodes),
            ];
            let settings = settings
                .into_iter()
                .filter_map(|(setting, value)| Some((setting, value?)))
                .collect();
            if !call.of_host()? {
                ops::host::node::tune_page_merging(&call.driver, settings).await?;
            }
            page_merging(&call.driver).await
        })
        .await
    }

    async fn get_sev(&self, _: Request<pb::GetSevRequest>) -> Result<Response<pb::GetSevResponse>, Status> {
        let sev = ops::host::node::sev(&self.driver).await?;
        Ok(Response::new(pb::GetSevResponse {
            pdh: sev.told.pdh,
            cert_chain: sev.told.cert_chain,
            cpu0_id: sev.told.cpu0_id,
            cbitpos: sev.told.cbitpos,
            reduced_phys_bits: sev.told.reduced_phys_bits,
            max_guests: sev.max_guests,
            max_es_guests: sev.max_es_guests,
        }))
    }

    async fn get_sysinfo(
        &self,
        _: Request<pb::GetSysinfoRequest>,
    ) -> Result<Response<pb::GetSysinfoResponse>, Status> {
        let xml = ops::host::node::sysinfo(&self.driver).await?;
        Ok(Response::new(pb::GetSysinfoResponse { xml }))
    }

    async fn suspend_host(
        &self,
        request: Request<pb::SuspendHostRequest>,
    ) -> Answer<pb::SuspendHostResponse> {
        use pb::suspend_host_request::Target;
        self.mutate(request, |call| async move {
            let r = &call.request;
            let target = match decode::needed(r.target, "target")? {
                Target::Unspecified | Target::Memory => Sleep::Mem,
                Target::Disk => Sleep::Disk,
                Target::Hybrid => Sleep::Hybrid,
            };
            let duration = decode::given(r.duration.as_ref(), "duration")?;
            let seconds = decode::whole(duration, Unit::Second, "duration")?;
            if !call.of_host()? {
                ops::host::suspend::suspend(&call.driver, target, seconds).await?;
            }
            Ok(pb::SuspendHostResponse {})
        })
        .await
    }

    async fn get_capabilities(
        &self,
        _: Request<pb::GetCapabilitiesRequest>,
    ) -> Result<Response<pb::GetCapabilitiesResponse>, Status> {
        let xml = ops::host::about::capabilities(&self.driver).await?;
        Ok(Response::new(pb::GetCapabilitiesResponse { xml }))
    }

    async fn get_domain_capabilities(
        &self,
        request: Request<pb::GetDomainCapabilitiesRequest>,
    ) -> Result<Response<pb::GetDomainCapabilitiesResponse>, Status> {
        let runnable = runnable(&request)?;
        let r = request.into_inner();
        let asked = ops::host::domcaps::Asked {
            emulator: r.emulator,
            arch: r.arch,
            machine: r.machine,
            virt_type: r.virt_type,
            runnable,
        };
        let xml = ops::host::about::domain_capabilities(&self.driver, asked).await?;
        Ok(Response::new(pb::GetDomainCapabilitiesResponse { xml }))
    }

    async fn compare_cpu(
        &self,
        request: Request<pb::CompareCpuRequest>,
    ) -> Result<Response<pb::CompareCpuResponse>, Status> {
        let runnable = runnable(&request)?;
        let r = request.into_inner();
        let found = match r.hypervisor {
            None => ops::host::cpu::compare(&self.driver, &r.xml, r.validate)?,
            Some(hypervisor) => {
                ops::host::cpu::compare_hypervisor(
                    &self.driver,
                    asked(hypervisor, runnable),
                    &r.xml,
                    r.validate,
                )
                .await?
            }
        };
        Ok(Response::new(match found {
            Comparison::Incompatible(reason) => pb::CompareCpuResponse {
                result: Compared::Incompatible.into(),
                reason,
            },
            Comparison::Identical => pb::CompareCpuResponse {
                result: Compared::Identical.into(),
                ..Default::default()
            },
            Comparison::Superset => pb::CompareCpuResponse {
                result: Compared::Superset.into(),
                ..Default::default()
            },
        }))
    }

    async fn baseline_cpu(
        &self,
        request: Request<pb::BaselineCpuRequest>,
    ) -> Result<Response<pb::BaselineCpuResponse>, Status> {
        let runnable = runnable(&request)?;
        let r = request.into_inner();
        if r.xml.is_empty() || r.xml.len() > BASELINE_MAX {
            return Err(Error::argument(format!(
                "xml must hold 1 to {BASELINE_MAX} documents, not {}",
                r.xml.len()
            ))
            .into());
        }
        let wanted = ops::host::cpu::BaselineRequest {
            documents: r.xml,
            expand: r.expand_features,
            migratable: r.migratable,
        };
        let xml = match r.hypervisor {
            None => ops::host::cpu::baseline(&wanted)?,
            Some(hypervisor) => {
                ops::host::cpu::baseline_hypervisor(&self.driver, asked(hypervisor, runnable), &wanted)
                    .await?
            }
        };
        Ok(Response::new(pb::BaselineCpuResponse { xml }))
    }
}

/// How pages are merged now.
async fn page_merging(driver: &ops::Driver) -> Result<pb::PageMerging> {
    let ksm = ops::host::node::page_merging(driver).await?;
    let sleep = ksm
        .sleep_millisecs
        .map(|millis| std::time::Duration::from_millis(millis.into()));
    Ok(pb::PageMerging {
        pages_to_scan: ksm.pages_to_scan,
        sleep: sleep.map(duration),
        pages_shared: ksm.pages_shared,
        pages_sharing: ksm.pages_sharing,
        pages_unshared: ksm.pages_unshared,
        pages_volatile: ksm.pages_volatile,
        full_scans: ksm.full_scans,
        merge_across_nodes: ksm.merge_across_nodes,
    })
}

fn asked(hypervisor: pb::Hypervisor, runnable: Runnable) -> ops::host::domcaps::Asked {
    let pb::Hypervisor {
        emulator,
        arch,
        machine,
        virt_type,
    } = hypervisor;
    ops::host::domcaps::Asked {
        emulator,
        arch,
        machine,
        virt_type,
        runnable,
    }
}

/// Which emulators the caller may have run.
fn runnable<T>(request: &Request<T>) -> Result<Runnable> {
    Ok(match Caller::of(request)?.read_only() {
        true => Runnable::Found,
        false => Runnable::Any,
    })
}
