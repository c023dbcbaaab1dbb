//! The Host service.

use std::sync::Arc;

use hostinfo::{Comparison, KsmSetting, Resize};
use tonic::{Request, Response, Status};
use unixfd::Peer;

use crate::{
    error::Error,
    ops::{
        self, Driver,
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

#[derive(Clone)]
pub(super) struct Service {
    driver: Arc<Driver>,
}

impl Service {
    pub(super) fn new(driver: &Arc<Driver>) -> Self {
        Self {
            driver: Arc::clone(driver),
        }
    }
}

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
            kernel: times.kernel,
            user: times.user,
            idle: times.idle,
            iowait: times.iowait,
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
    ) -> Result<Response<pb::AllocatePagesResponse>, Status> {
        let r = request.into_inner();
        let resize = if r.absolute { Resize::To } else { Resize::By };
        let pages = r
            .pages
            .iter()
            .map(|pages| (pages.size_kib, resize(pages.count)))
            .collect();
        let pools = ops::host::node::resize_pools(&self.driver, r.cells, pages).await?;
        Ok(Response::new(pb::AllocatePagesResponse { pools }))
    }

    async fn get_page_merging(
        &self,
        _: Request<pb::GetPageMergingRequest>,
    ) -> Result<Response<pb::GetPageMergingResponse>, Status> {
        let ksm = ops::host::node::page_merging(&self.driver).await?;
        Ok(Response::new(pb::GetPageMergingResponse {
            pages_to_scan: ksm.pages_to_scan,
            sleep_ms: ksm.sleep_millisecs,
            pages_shared: ksm.pages_shared,
            pages_sharing: ksm.pages_sharing,
            pages_unshared: ksm.pages_unshared,
            pages_volatile: ksm.pages_volatile,
            full_scans: ksm.full_scans,
            merge_across_nodes: ksm.merge_across_nodes,
        }))
    }

    async fn set_page_merging(
        &self,
        request: Request<pb::SetPageMergingRequest>,
    ) -> Result<Response<pb::SetPageMergingResponse>, Status> {
        let r = request.into_inner();
        let settings = [
            (KsmSetting::PagesToScan, r.pages_to_scan),
            (KsmSetting::SleepMillisecs, r.sleep_ms),
            (KsmSetting::MergeAcrossNodes, r.merge_across_nodes),
        ];
        let settings = settings
            .into_iter()
            .filter_map(|(setting, value)| Some((setting, value?)))
            .collect();
        ops::host::node::tune_page_merging(&self.driver, settings).await?;
        Ok(Response::new(pb::SetPageMergingResponse {}))
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
    ) -> Result<Response<pb::SuspendHostResponse>, Status> {
        use pb::suspend_host_request::Target;
        let r = request.into_inner();
        let target = match r.target() {
            Target::Mem => Sleep::Mem,
            Target::Disk => Sleep::Disk,
            Target::Hybrid => Sleep::Hybrid,
            Target::Unspecified => return Err(ops::host::suspend::no_target().into()),
        };
        ops::host::suspend::suspend(&self.driver, target, r.duration_seconds).await?;
        Ok(Response::new(pb::SuspendHostResponse {}))
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
        let runnable = runnable(&request);
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
        let runnable = runnable(&request);
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
        let runnable = runnable(&request);
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
fn runnable<T>(request: &Request<T>) -> Runnable {
    match request.extensions().get::<Peer>() {
        Some(peer) if !peer.read_only => Runnable::Any,
        _ => Runnable::Found,
    }
}
