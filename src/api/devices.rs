//! The Devices service.

use std::{sync::Arc, time::Duration};

use domxml::{FormatFlags, devices::Rate};
use tonic::{Request, Response, Status};
use unixfd::Peer;

use super::{convert, once::Once};
use crate::{
    error::Error,
    ops::{
        Driver,
        device::{
            self,
            detach::{self, How},
            limits,
            medium::{self, Lock},
        },
        inspect::{addresses, peek},
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
}

#[tonic::async_trait]
impl pb::devices_server::Devices for Service {
    async fn attach_device(
        &self,
        request: Request<pb::AttachDeviceRequest>,
    ) -> Result<Response<pb::AttachDeviceResponse>, Status> {
        let peer = request.extensions().get::<Peer>().copied();
        let request = request.into_inner();
        let conditions = convert::conditions(request.options.as_ref());
        let id = request
            .options
            .as_ref()
            .map_or_else(String::new, |o| o.request_id.clone());
        let work = async {
            let scope = convert::scope(request.scope());
            let domain = convert::find(&self.driver, request.domain.clone())?;
            let attached = device::attach(&self.driver, &domain, &request.xml, scope, &conditions);
            let device = Box::pin(attached).await?;
            let info = device.as_ref().info();
            Ok(pb::AttachDeviceResponse {
                alias: info.and_then(|info| info.alias.clone()).unwrap_or_default(),
                xml: device.format(FormatFlags::NONE),
            })
        };
        self.once
            .run(peer.as_ref(), "AttachDevice", &id, work)
            .await
            .map(Response::new)
    }

    async fn detach_device(
        &self,
        request: Request<pb::DetachDeviceRequest>,
    ) -> Result<Response<pb::DetachDeviceResponse>, Status> {
        use pb::{detach_device_request::Device as Named, detach_device_response::Outcome};
        let peer = request.extensions().get::<Peer>().copied();
        let request = request.into_inner();
        let conditions = convert::conditions(request.options.as_ref());
        let id = request
            .options
            .as_ref()
            .map_or_else(String::new, |o| o.request_id.clone());
        let work = async {
            let named = match &request.device {
                Some(Named::Alias(alias)) => device::Named::Alias(alias),
                Some(Named::Xml(xml)) => device::Named::Xml(xml),
                None => return Err(Error::argument("the request names no device")),
            };
            let how = How {
                scope: convert::scope(request.scope()),
                patience: patience(request.wait)?,
            };
            let domain = convert::find(&self.driver, request.domain.clone())?;
            let detached = Box::pin(device::detach(&self.driver, &domain, named, how, &conditions)).await?;
            let outcome = match detached {
                detach::Outcome::Removed => Outcome::Removed,
                detach::Outcome::Pending => Outcome::Pending,
            };
            Ok(pb::DetachDeviceResponse {
                outcome: outcome.into(),
            })
        };
        self.once
            .run(peer.as_ref(), "DetachDevice", &id, work)
            .await
            .map(Response::new)
    }

    async fn update_device(&self, request: Request<pb::UpdateDeviceRequest>) -> Result<Response<()>, Status> {
        let peer = request.extensions().get::<Peer>().copied();
        let request = request.into_inner();
        let conditions = convert::conditions(request.options.as_ref());
        let id = request
            .options
            .as_ref()
            .map_or_else(String::new, |o| o.request_id.clone());
        let work = async {
            let scope = convert::scope(request.scope());
            let lock = if request.force { Lock::Break } else { Lock::Respect };
            let domain = convert::find(&self.driver, request.domain.clone())?;
            Box::pin(device::update(
                &self.driver,
                &domain,
                &request.xml,
                medium::How { scope, lock },
                &conditions,
            ))
            .await
        };
        self.once
            .run(peer.as_ref(), "UpdateDevice", &id, work)
            .await
            .map(Response::new)
    }

    async fn list_interface_addresses(
        &self,
        request: Request<pb::ListInterfaceAddressesRequest>,
    ) -> Result<Response<pb::ListInterfaceAddressesResponse>, Status> {
        use pb::list_interface_addresses_request::Source;
        let request = request.into_inner();
        let source = match request.source() {
            Source::Unspecified => addresses::Source::Leases,
            Source::Arp => addresses::Source::Neighbours,
        };
        let domain = convert::find(&self.driver, request.domain)?;
        let found = addresses::list(&self.driver, &domain, source).await?;
        Ok(Response::new(pb::ListInterfaceAddressesResponse {
            interfaces: convert::interfaces(found),
        }))
    }

    async fn peek_disk(
        &self,
        request: Request<pb::PeekDiskRequest>,
    ) -> Result<Response<pb::PeekResponse>, Status> {
        let request = request.into_inner();
        let view = convert::find(&self.driver, request.domain)?.view();
        let data = peek::disk(&view, &request.disk, request.offset, request.size).await?;
        Ok(Response::new(pb::PeekResponse { data }))
    }

    async fn peek_memory(
        &self,
        request: Request<pb::PeekMemoryRequest>,
    ) -> Result<Response<pb::PeekResponse>, Status> {
        let request = request.into_inner();
        let which = if request.physical {
            peek::Addresses::Physical
        } else {
            peek::Addresses::Virtual
        };
        let domain = convert::find(&self.driver, request.domain)?;
        let data = peek::memory(&self.driver, &domain, which, request.address, request.size).await?;
        Ok(Response::new(pb::PeekResponse { data }))
    }

    async fn list_disk_errors(
        &self,
        request: Request<pb::ListDiskErrorsRequest>,
    ) -> Result<Response<pb::ListDiskErrorsResponse>, Status> {
        use pb::list_disk_errors_response::{DiskError, Kind};
        let domain = convert::find(&self.driver, request.into_inner().domain)?;
        let shown = |(disk, error)| {
            let kind = match error {
                peek::DiskError::NoSpace => Kind::NoSpace,
                peek::DiskError::Unspecified => Kind::Unspecified,
            };
            DiskError {
                disk,
                kind: kind.into(),
            }
        };
        let (disks, errors) = peek::disk_errors(&self.driver, &domain).await?;
        let errors = errors.into_iter().map(shown).collect();
        Ok(Response::new(pb::ListDiskErrorsResponse {
            errors,
            disks: u32::try_from(disks).unwrap_or(u32::MAX),
        }))
    }

    async fn get_interface_limits(
        &self,
        request: Request<pb::GetInterfaceLimitsRequest>,
    ) -> Result<Response<pb::InterfaceLimits>, Status> {
        let request = request.into_inner();
        let scope = convert::scope(request.scope());
        let domain = convert::find(&self.driver, request.domain)?;
        let limits = limits::read(&domain.view(), scope, &request.interface)?;
        let (inbound, outbound) = (
            limits.inbound.as_ref().map(shown_rate),
            limits.outbound.as_ref().map(shown_rate),
        );
        Ok(Response::new(pb::InterfaceLimits { inbound, outbound }))
    }

    async fn set_interface_limits(
        &self,
        request: Request<pb::SetInterfaceLimitsRequest>,
    ) -> Result<Response<()>, Status> {
        let peer = request.extensions().get::<Peer>().copied();
        let request = request.into_inner();
        let conditions = convert::conditions(request.options.as_ref());
        let id = request
            .options
            .as_ref()
            .map_or_else(String::new, |o| o.request_id.clone());
        let work = async {
            let scope = convert::scope(request.scope());
            let limits = request.limits.unwrap_or_default();
            let (inbound, outbound) = (
                limits.inbound.as_ref().map(wanted_rate),
                limits.outbound.as_ref().map(wanted_rate),
            );
            let wanted = limits::Wanted {
                interface: request.interface.clone(),
                inbound,
                outbound,
            };
            let domain = convert::find(&self.driver, request.domain.clone())?;
            Box::pin(limits::set(&self.driver, &domain, scope, wanted, &conditions)).await
        };
        self.once
            .run(peer.as_ref(), "SetInterfaceLimits", &id, work)
            .await
            .map(Response::new)
    }
}

/// How long a guest may take to let a device go.
fn patience(wait: Option<prost_types::Duration>) -> crate::error::Result<Duration> {
    let Some(wait) = wait else {
        return Ok(detach::PATIENCE);
    };
    let within = Duration::try_from(wait)
        .ok()
        .filter(|wait| *wait <= detach::PATIENCE_MAX);
    within.ok_or_else(|| {
        let most = detach::PATIENCE_MAX.as_secs();
        Error::argument(format!("the wait must be from 0 to {most} seconds"))
    })
}

fn shown_rate(rate: &Rate) -> pb::interface_limits::Rate {
    let or_none = Option::unwrap_or_default;
    pb::interface_limits::Rate {
        average: or_none(rate.average),
        peak: or_none(rate.peak),
        burst: or_none(rate.burst),
        floor: or_none(rate.floor),
    }
}

fn wanted_rate(rate: &pb::interface_limits::Rate) -> Rate {
    let given = |n: u64| (n > 0).then_some(n);
    Rate {
        average: given(rate.average),
        peak: given(rate.peak),
        burst: given(rate.burst),
        floor: given(rate.floor),
    }
}
