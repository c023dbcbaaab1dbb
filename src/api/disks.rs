//! The Disks service.

use domxml::devices::IoTune;
use prost_types::Duration;
use tonic::{Request, Response};

use super::{
    decode,
    service::{Answer, Service},
};
use crate::{
    access::Caller,
    error::Error,
    ops::{
        document::scope,
        inspect::{
            disks::{self, JobKind},
            peek,
        },
    },
    pb::{
        self,
        disk_job::Kind,
        disk_limits::{Rate, Rates},
    },
};

#[tonic::async_trait]
impl pb::disks_server::Disks for Service {
    async fn get_sizes(&self, request: Request<pb::GetDiskSizesRequest>) -> Answer<pb::DiskSizes> {
        let caller = Caller::of(&request)?;
        let request = request.get_ref();
        let domain = self.domain(&caller, request.domain.as_ref())?;
        let sizes = disks::sizes(&self.driver, &domain, &request.disk).await?;
        Ok(Response::new(pb::DiskSizes {
            capacity: sizes.capacity,
            allocation: sizes.allocation,
            physical: sizes.physical,
        }))
    }

    async fn get_job(&self, request: Request<pb::GetDiskJobRequest>) -> Answer<pb::GetDiskJobResponse> {
        let caller = Caller::of(&request)?;
        let request = request.get_ref();
        let domain = self.domain(&caller, request.domain.as_ref())?;
        let (target, job) = disks::job(&self.driver, &domain, &request.disk).await?;
        let job = job.map(|job| pb::DiskJob {
            kind: kind(job.kind).into(),
            bandwidth: job.bandwidth,
            done: job.done,
            total: job.total,
        });
        Ok(Response::new(pb::GetDiskJobResponse { target, job }))
    }

    async fn get_limits(&self, request: Request<pb::GetDiskLimitsRequest>) -> Answer<pb::DiskLimits> {
        let caller = Caller::of(&request)?;
        let request = request.get_ref();
        let wanted = decode::read_scope(request.scope)?;
        let view = self.domain(&caller, request.domain.as_ref())?.view();
        let document = scope::read(&view, wanted)?;
        let document = document.domain()?;
        let missing = |error| match view.active() {
            true => error,
            false => Error::argument(format!(
                "disk '{}' was not found in the domain config",
                request.disk
            )),
        };
        let disk = peek::find(&document.devices.disks, &request.disk).map_err(missing)?;
        Ok(Response::new(limits(&disk.iotune.clone().unwrap_or_default())))
    }
}

fn kind(kind: Option<JobKind>) -> Kind {
    match kind {
        None => Kind::Unspecified,
        Some(JobKind::Pull) => Kind::Pull,
        Some(JobKind::Copy) => Kind::Copy,
        Some(JobKind::Commit) => Kind::Commit,
        Some(JobKind::ActiveCommit) => Kind::ActiveCommit,
        Some(JobKind::Backup) => Kind::Backup,
    }
}

fn limits(tune: &IoTune) -> pb::DiskLimits {
    let rate = |average: Option<u64>, burst: Option<u64>, seconds: Option<u64>| {
        Some(Rate {
            average: average.unwrap_or(0),
            burst: burst.unwrap_or(0),
            burst_length: seconds.map(|seconds| Duration {
                seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
                nanos: 0,
            }),
        })
    };
    pb::DiskLimits {
        bytes: Some(Rates {
            total: rate(
                tune.total_bytes_sec,
                tune.total_bytes_sec_max,
                tune.total_bytes_sec_max_length,
            ),
            read: rate(
                tune.read_bytes_sec,
                tune.read_bytes_sec_max,
                tune.read_bytes_sec_max_length,
            ),
            write: rate(
                tune.write_bytes_sec,
                tune.write_bytes_sec_max,
                tune.write_bytes_sec_max_length,
            ),
        }),
        operations: Some(Rates {
            total: rate(
                tune.total_iops_sec,
                tune.total_iops_sec_max,
                tune.total_iops_sec_max_length,
            ),
            read: rate(
                tune.read_iops_sec,
                tune.read_iops_sec_max,
                tune.read_iops_sec_max_length,
            ),
            write: rate(
                tune.write_iops_sec,
                tune.write_iops_sec_max,
                tune.write_iops_sec_max_length,
            ),
        }),
        operation_size: tune.size_iops_sec.unwrap_or(0),
        group: tune.group_name.clone().unwrap_or_default(),
    }
}
