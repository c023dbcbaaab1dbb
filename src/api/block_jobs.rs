//! The BlockJobs service.

use domxml::{ParseFlags, devices::Device};
use tonic::Request;

use super::{
    convert, decode,
    service::{Answer, Service},
};
use crate::{
    error::{Code, Error, Result},
    ops::blockjobs::{
        commit::{self, Commit},
        control::{self, End},
        copy::{self, Copy, Place},
        pull::{self, Pull},
    },
    pb::{self, copy_blocks_request::Destination, end_block_job_request::How},
};

#[tonic::async_trait]
impl pb::block_jobs_server::BlockJobs for Service {
    async fn pull(&self, request: Request<pb::PullBlocksRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| async move {
            let r = &call.request;
            let domain = call.domain(r.domain.as_ref())?;
            let wanted = Pull {
                disk: r.disk.clone(),
                base: named(&r.base),
                speed: r.bytes_per_second,
                relative: r.keep_relative,
            };
            pull::pull(&call.driver, &domain, &wanted, &call.conditions).await?;
            Ok(convert::basic(&domain.view()))
        })
        .await
    }

    async fn commit(&self, request: Request<pb::CommitBlocksRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| async move {
            let r = &call.request;
            let domain = call.domain(r.domain.as_ref())?;
            let wanted = Commit {
                disk: r.disk.clone(),
                base: named(&r.base),
                top: named(&r.top),
                speed: r.bytes_per_second,
                shallow: r.shallow,
                delete: r.delete,
                active: r.active,
                relative: r.keep_relative,
            };
            commit::commit(&call.driver, &domain, &wanted, &call.conditions).await?;
            Ok(convert::basic(&domain.view()))
        })
        .await
    }

    async fn copy(&self, request: Request<pb::CopyBlocksRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| async move {
            let r = &call.request;
            let domain = call.domain(r.domain.as_ref())?;
            let (to, block_device) = destination(r)?;
            let wanted = Copy {
                disk: r.disk.clone(),
                to,
                speed: r.bytes_per_second,
                granularity: r.granularity,
                buffer: r.buffer_bytes,
                shallow: r.shallow,
                reuse: r.reuse,
                transient_job: r.transient_job,
                synchronous_writes: r.synchronous_writes,
                block_device,
            };
            Box::pin(copy::copy(&call.driver, &domain, wanted, &call.conditions)).await?;
            Ok(convert::basic(&domain.view()))
        })
        .await
    }

    async fn end(&self, request: Request<pb::EndBlockJobRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| async move {
            let r = &call.request;
            let how = match decode::needed::<How>(r.how, "how")? {
                How::Pivot => End::Pivot,
                How::Abort | How::Unspecified => End::Abort,
            };
            let domain = call.domain(r.domain.as_ref())?;
            control::end(
                &call.driver,
                &domain,
                (&r.disk, how, !r.no_wait),
                &call.conditions,
            )
            .await?;
            Ok(convert::basic(&domain.view()))
        })
        .await
    }

    async fn set_speed(&self, request: Request<pb::SetBlockJobSpeedRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| async move {
            let r = &call.request;
            let domain = call.domain(r.domain.as_ref())?;
            let what = (r.disk.as_str(), r.bytes_per_second);
            control::set_speed(&call.driver, &domain, what, &call.conditions).await?;
            Ok(convert::basic(&domain.view()))
        })
        .await
    }
}

/// A name that may be left out.
fn named(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Where a copy is made, and whether it must be a block device.
fn destination(request: &pb::CopyBlocksRequest) -> Result<(Place, bool)> {
    match decode::given(request.destination.as_ref(), "destination")? {
        Destination::Path(to) => {
            let format = named(&to.format).map(|format| {
                format.parse().map_err(|_| {
                    Error::new(Code::InvalidArg, format!("unknown format '{format}'"))
                        .at("destination.path.format")
                })
            });
            let place = Place::of_path(&to.path, to.block_device, format.transpose()?);
            Ok((place, to.block_device))
        }
        Destination::Xml(text) => {
            let disk = Device::parse_disk(text, ParseFlags::INACTIVE)?;
            Ok((Place { disk }, false))
        }
    }
}
