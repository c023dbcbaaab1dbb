//! The gRPC services: decode, call an operation, encode. Nothing else.
//!
//! One file a service. Who may call is decided before, by `access`; what a call does is in `ops`. The same services answer
//! the gRPC sockets, by the router, and the libvirt front: its streams by the router too, its calls by [`Direct`].

mod admin;
mod backups;
mod block_jobs;
mod checkpoints;
mod consoles;
mod convert;
mod decode;
mod device;
mod devices;
mod direct;
mod disks;
mod domains;
mod event;
mod events;
mod guest_agent;
mod host;
mod jobs;
mod launch_security;
mod migrations;
mod moments;
mod monitor;
mod node_devices;
mod once;
mod operations;
mod perf_events;
mod saves;
mod service;
mod snapshots;
mod stats;
mod told;
mod tuning;

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use tonic::{body::Body, server::NamedService, service::Routes};
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
};
use tower::ServiceBuilder;

use crate::{
    access::{Guard, GuardLayer},
    admin::Admin,
    error::{Error, Result},
    ops::Driver,
    pb,
};

/// Longest message either way, bytes.
pub const MESSAGE_MAX: usize = 32 << 20;

/// All services behind their guard. Cheap to clone.
pub type Service = Guard<House>;

pub use direct::Direct;

/// The services by name. The way of every call leads through here, so it costs a comparison of names; what is not ours,
/// reflection and health, goes by a router.
#[derive(Clone)]
pub struct House {
    service: Arc<service::Service>,
    others: Routes,
}

macro_rules! services {
    ($($module:ident :: $server:ident,)*) => {
        /// Names of the services, as health tells of them.
        const SERVED: &[&str] = &[$(<pb::$module::$server<service::Service> as NamedService>::NAME),*];

        impl tower::Service<Request<Body>> for House {
            type Response = Response<Body>;
            type Error = Infallible;
            type Future = BoxFuture<'static, std::result::Result<Response<Body>, Infallible>>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: Request<Body>) -> Self::Future {
                let service = Arc::clone(&self.service);
                match request.uri().path().split('/').nth(1).unwrap_or_default() {
                    $(<pb::$module::$server<service::Service> as NamedService>::NAME => {
                        pb::$module::$server::from_arc(service)
                            .max_decoding_message_size(MESSAGE_MAX)
                            .max_encoding_message_size(MESSAGE_MAX)
                            .call(request)
                    })*
                    _ => Box::pin(self.others.call(request)),
                }
            }
        }
    };
}

services! {
    domains_server::DomainsServer,
    devices_server::DevicesServer,
    events_server::EventsServer,
    consoles_server::ConsolesServer,
    host_server::HostServer,
    monitor_server::MonitorServer,
    node_devices_server::NodeDevicesServer,
    tuning_server::TuningServer,
    guest_agent_server::GuestAgentServer,
    operations_server::OperationsServer,
    disks_server::DisksServer,
    block_jobs_server::BlockJobsServer,
    snapshots_server::SnapshotsServer,
    checkpoints_server::CheckpointsServer,
    backups_server::BackupsServer,
    perf_events_server::PerfEventsServer,
    launch_security_server::LaunchSecurityServer,
    admin_server::AdminServer,
    jobs_server::JobsServer,
    migrations_server::MigrationsServer,
    saves_server::SavesServer,
}

/// The services of this daemon, and the short way to them from within the process.
///
/// # Errors
/// The descriptors can't be decoded, which a test rules out.
pub fn router(driver: &Arc<Driver>, admin: &Arc<Admin>) -> Result<(Service, Direct)> {
    let others = reflection(Routes::default())?.add_service(health(driver, SERVED));
    let service = Arc::new(service::Service::new(driver, admin));
    let house = House {
        service: Arc::clone(&service),
        others: others.prepare(),
    };
    let stack = ServiceBuilder::new().layer(GuardLayer).service(house);
    Ok((stack, Direct::new(service)))
}

/// Adds both versions of reflection. They know the messages of errors' details too.
fn reflection(routes: Routes) -> Result<Routes> {
    let bad = |error| Error::internal("the descriptors of the services do not decode").caused_by(error);
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = routes.add_service(builder().build_v1().map_err(bad)?);
    Ok(routes.add_service(builder().build_v1alpha().map_err(bad)?))
}

/// The health of the daemon as a whole (the empty name) and of each service: they serve until the daemon ends.
fn health(driver: &Arc<Driver>, served: &'static [&'static str]) -> HealthServer<impl Health> {
    let (reporter, server) = tonic_health::server::health_reporter();
    let stop = driver.stop.clone();
    let report = async move |status| {
        for name in served.iter().copied().chain([""]) {
            reporter.set_service_status(name, status).await;
        }
    };
    // Nobody else holds the reporter's lock yet: the names are there before the first call.
    let _ = report(ServingStatus::Serving).now_or_never();
    tokio::spawn(async move {
        stop.cancelled().await;
        report(ServingStatus::NotServing).await;
    });
    server
}
