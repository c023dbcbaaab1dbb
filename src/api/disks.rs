//! The Disks service.

use domxml::devices::IoTune;
use prost_types::Duration;
use tonic::{Request, Response};

use super::{
    convert,
    decode::{self, Unit},
    service::{Answer, Service},
};
use crate::{
    access::Caller,
    error::{Error, Result},
    ops::{
        device::images,
        document::scope,
        inspect::{
            disks::{self, JobKind},
            peek,
        },
        tuning::{
            self,
            disks::{GroupChange, Limits},
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
        let missing = |error| match document.id.is_some() {
            true => error,
            false => Error::argument(format!(
                "disk '{}' was not found in the domain config",
                request.disk
            )),
        };
        let disk = peek::find(&document.devices.disks, &request.disk).map_err(missing)?;
        Ok(Response::new(limits(&disk.iotune.clone().unwrap_or_default())))
    }

    async fn set_limits(&self, request: Request<pb::SetDiskLimitsRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            super::tuning::change(
                call,
                |r| (r.domain.as_ref(), r.scope),
                |r| {
                    Ok(tuning::Change::Disk(Box::new(tuning::disks::Change {
                        disk: r.disk.clone(),
                        limits: wanted(r.limits.as_ref())?,
                        whole: false,
                    })))
                },
            )
        })
        .await
    }

    async fn set_throttle_group(&self, request: Request<pb::SetThrottleGroupRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            super::tuning::change(
                call,
                |r| (r.domain.as_ref(), r.scope),
                |r| {
                    let (group, limits) = (group(&r.group)?, wanted(r.limits.as_ref())?);
                    let limits = Limits {
                        group: None,
                        ..limits
                    };
                    let limits = Box::new(limits);
                    Ok(tuning::Change::DiskGroup(Box::new(GroupChange::Set {
                        group,
                        limits,
                    })))
                },
            )
        })
        .await
    }

    async fn remove_throttle_group(
        &self,
        request: Request<pb::RemoveThrottleGroupRequest>,
    ) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            super::tuning::change(
                call,
                |r| (r.domain.as_ref(), r.scope),
                |r| {
                    let group = group(&r.group)?;
                    Ok(tuning::Change::DiskGroup(Box::new(GroupChange::Remove { group })))
                },
            )
        })
        .await
    }

    async fn resize(&self, request: Request<pb::ResizeDiskRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| async move {
            let request = &call.request;
            let size = match request.whole_device {
                true => images::Size::WholeDevice(request.bytes),
                false => images::Size::Bytes(request.bytes),
            };
            let domain = call.domain(request.domain.as_ref())?;
            let what = (request.disk.as_str(), size);
            images::resize(&call.driver, &domain, what, &call.conditions).await?;
            Ok(convert::basic(&domain.view()))
        })
        .await
    }

    async fn set_threshold(&self, request: Request<pb::SetDiskThresholdRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| async move {
            let request = &call.request;
            let domain = call.domain(request.domain.as_ref())?;
            let what = (request.device.as_str(), request.bytes);
            images::set_threshold(&call.driver, &domain, what, &call.conditions).await?;
            Ok(convert::basic(&domain.view()))
        })
        .await
    }
}

fn group(name: &str) -> Result<String> {
    match name.is_empty() {
        true => Err(Error::argument("the group has no name").at("group")),
        false => Ok(name.to_owned()),
    }
}

/// The limits that are wanted, in the order of [`Limits::numbers`].
fn wanted(change: Option<&pb::DiskLimitsChange>) -> Result<Limits> {
    use pb::disk_limits_change::Rate;
    let change = decode::given(change, "limits")?;
    let rates = [change.bytes, change.operations].map(|rates| {
        let rates = rates.unwrap_or_default();
        [rates.total, rates.read, rates.write].map(Option::unwrap_or_default)
    });
    let rates: Vec<Rate> = rates.into_iter().flatten().collect();
    let length = |rate: &Rate| {
        let length = rate.burst_length.as_ref();
        length
            .map(|length| decode::whole(length, Unit::Second, "burst_length"))
            .transpose()
    };
    let mut numbers: Vec<Option<u64>> = rates.iter().map(|rate| rate.average).collect();
    numbers.extend(rates.iter().map(|rate| rate.burst));
    numbers.push(change.operation_size);
    for rate in &rates {
        numbers.push(length(rate)?);
    }
    let numbers = numbers.try_into();
    Ok(Limits {
        numbers: numbers.map_err(|_| Error::internal("a limit got lost"))?,
        group: change.group.clone(),
    })
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
