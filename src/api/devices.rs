//! The Devices service.

use std::time::Duration;

use domxml::devices::{Device, Rate};
use tonic::{Request, Response};
use xmlform::{Document as XmlDocument, ParseFlags, XmlChoice};

use super::{
    convert, decode,
    device::Shown,
    operations,
    service::{Answer, Service},
};
use crate::{
    access::Caller,
    domain::View,
    error::{Error, Result},
    ops::{
        device::{
            self, Detach,
            detach::{self, How},
            limits,
            medium::{self, Lock},
        },
        document::scope::Scope,
        inspect::{addresses, peek},
        run::once,
    },
    pb,
};

#[tonic::async_trait]
impl pb::devices_server::Devices for Service {
    async fn list_devices(
        &self,
        request: Request<pb::ListDevicesRequest>,
    ) -> Answer<pb::ListDevicesResponse> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (scope, families) = (
            decode::read_scope(request.scope)?,
            decode::all(&request.families, "families")?,
        );
        let view = self.domain(&caller, request.domain.as_ref())?.view();
        Ok(Response::new(pb::ListDevicesResponse {
            devices: Shown::of(&view, scope)?.all(&families),
            etag: view.etag(),
        }))
    }

    async fn get_device(&self, request: Request<pb::GetDeviceRequest>) -> Answer<pb::Device> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let scope = decode::read_scope(request.scope)?;
        let view = self.domain(&caller, request.domain.as_ref())?.view();
        Ok(Response::new(Shown::of(&view, scope)?.named(&request.alias)?))
    }

    async fn attach_device(&self, request: Request<pb::AttachDeviceRequest>) -> Answer<pb::Device> {
        self.mutate(request, |call| async move {
            let r = &call.request;
            let scope = decode::scope(r.scope)?;
            let domain = call.domain(r.domain.as_ref())?;
            let attached = device::attach(&call.driver, &domain, &r.xml, scope, &call.conditions);
            let device = Box::pin(attached).await?;
            Ok(Shown::of(&domain.view(), changed(scope))?.changed(&device))
        })
        .await
    }

    async fn detach_device(&self, request: Request<pb::DetachDeviceRequest>) -> Answer<pb::Operation> {
        use pb::detach_device_request::Device as Named;
        self.mutate(request, |call| async move {
            let r = &call.request;
            let named = match decode::given(r.device.as_ref(), "device")? {
                Named::Alias(alias) => device::Named::Alias(alias),
                Named::Xml(xml) => device::Named::Xml(xml),
            };
            let how = How {
                scope: decode::scope(r.scope)?,
                patience: patience(r.wait.as_ref())?,
            };
            let domain = call.domain(r.domain.as_ref())?;
            let begun = device::begin_detach(&call.driver, &domain, named, how, &call.conditions);
            Ok(match Box::pin(begun).await? {
                Detach::Begun(record) => operations::shown(&record),
                Detach::Tried => operations::trial(detach::KIND),
            })
        })
        .await
    }

    async fn update_device(&self, request: Request<pb::UpdateDeviceRequest>) -> Answer<pb::Device> {
        self.mutate(request, |call| async move {
            let r = &call.request;
            let scope = decode::scope(r.scope)?;
            let lock = if r.force { Lock::Break } else { Lock::Respect };
            let domain = call.domain(r.domain.as_ref())?;
            let how = medium::How { scope, lock };
            Box::pin(device::update(
                &call.driver,
                &domain,
                &r.xml,
                how,
                &call.conditions,
            ))
            .await?;
            updated(&domain.view(), scope, &r.xml)
        })
        .await
    }

    async fn list_interface_addresses(
        &self,
        request: Request<pb::ListInterfaceAddressesRequest>,
    ) -> Answer<pb::ListInterfaceAddressesResponse> {
        use pb::list_interface_addresses_request::Source;
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let source = match decode::needed(request.source, "source")? {
            Source::Unspecified | Source::Lease => addresses::Source::Leases,
            Source::Arp => addresses::Source::Neighbours,
        };
        let domain = self.domain(&caller, request.domain.as_ref())?;
        let found = addresses::list(&self.driver, &domain, source).await?;
        Ok(Response::new(pb::ListInterfaceAddressesResponse {
            interfaces: convert::interfaces(found),
        }))
    }

    async fn peek_disk(&self, request: Request<pb::PeekDiskRequest>) -> Answer<pb::PeekDiskResponse> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let view = self.domain(&caller, request.domain.as_ref())?.view();
        let data = peek::disk(&view, &request.disk, request.offset, request.size).await?;
        Ok(Response::new(pb::PeekDiskResponse { data }))
    }

    async fn peek_memory(&self, request: Request<pb::PeekMemoryRequest>) -> Answer<pb::PeekMemoryResponse> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let which = if request.physical {
            peek::Addresses::Physical
        } else {
            peek::Addresses::Virtual
        };
        let domain = self.domain(&caller, request.domain.as_ref())?;
        let data = peek::memory(&self.driver, &domain, which, request.address, request.size).await?;
        Ok(Response::new(pb::PeekMemoryResponse { data }))
    }

    async fn reload_display(&self, request: Request<pb::ReloadDisplayRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| async move {
            let domain = call.domain(call.request.domain.as_ref())?;
            once::reload_display(&call.driver, &domain, &call.conditions).await?;
            Ok(convert::basic(&domain.view()))
        })
        .await
    }

    async fn list_disk_errors(
        &self,
        request: Request<pb::ListDiskErrorsRequest>,
    ) -> Answer<pb::ListDiskErrorsResponse> {
        use pb::list_disk_errors_response::{DiskError, Kind};
        let caller = Caller::of(&request)?;
        let domain = self.domain(&caller, request.get_ref().domain.as_ref())?;
        let shown = |(disk, error)| {
            let kind = match error {
                peek::DiskError::NoSpace => Kind::NoSpace,
                peek::DiskError::Unspecified => Kind::Other,
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
    ) -> Answer<pb::InterfaceLimits> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let scope = decode::read_scope(request.scope)?;
        let domain = self.domain(&caller, request.domain.as_ref())?;
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
    ) -> Answer<pb::Domain> {
        self.mutate(request, |call| async move {
            let r = &call.request;
            let scope = decode::scope(r.scope)?;
            let asked = r.limits.unwrap_or_default();
            let wanted = limits::Wanted {
                interface: r.interface.clone(),
                inbound: asked.inbound.as_ref().map(wanted_rate),
                outbound: asked.outbound.as_ref().map(wanted_rate),
            };
            let domain = call.domain(r.domain.as_ref())?;
            let set = limits::set(&call.driver, &domain, scope, wanted, &call.conditions);
            Box::pin(set).await?;
            Ok(convert::basic(&domain.view()))
        })
        .await
    }
}

/// The device as it is after its document was carried out.
fn updated(view: &View, scope: Scope, xml: &str) -> Result<pb::Device> {
    let document = XmlDocument::parse(xml, &[], ParseFlags::INACTIVE).map_err(domxml::Error::from)?;
    let device = Device::read_choice(document.root()).map_err(domxml::Error::from)?;
    let device = device.ok_or_else(|| Error::internal("a device that was changed is no device"))?;
    Ok(Shown::of(view, changed(scope))?.changed(&device))
}

/// The configuration in which a change is shown: of both, the running one.
fn changed(scope: Scope) -> Scope {
    match scope {
        Scope::Both => Scope::Live,
        other => other,
    }
}

/// How long a guest may take to let a device go.
fn patience(wait: Option<&prost_types::Duration>) -> Result<Duration> {
    let Some(wait) = wait else {
        return Ok(detach::PATIENCE);
    };
    let within = decode::duration(wait, "wait")
        .ok()
        .filter(|wait| *wait <= detach::PATIENCE_MAX);
    within.ok_or_else(|| {
        let most = detach::PATIENCE_MAX.as_secs();
        Error::argument(format!("the wait must be from 0 to {most} seconds")).at("wait")
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
