//! The gRPC services: decode, call an operation, encode. Nothing else.
//!
//! One file a service. Who may call is decided before, by `access`; what a call does is in `ops`. The same router serves
//! the gRPC sockets and, in process, the libvirt front.

mod consoles;
pub mod convert;
mod devices;
mod domains;
mod events;
mod guest_agent;
mod host;
mod monitor;
mod node_devices;
mod once;
mod stats;
mod tuning;

use std::sync::Arc;

use tonic::service::Routes;
use tower::ServiceBuilder;

use crate::{
    access::{Guard, GuardLayer},
    error::{Error, Result},
    ops::Driver,
    pb,
};

/// Longest message either way, bytes.
pub const MESSAGE_MAX: usize = 32 << 20;

/// All services behind their guard. Cheap to clone.
pub type Service = Guard<Routes>;

macro_rules! services {
    ($routes:ident, $driver:ident: $($module:ident :: $server:ident ($($service:ident)::+),)*) => {
        $(let $routes = $routes.add_service(
            pb::$module::$server::new($($service)::+::new(&$driver)).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX),
        );)*
    };
}

/// The services of this daemon.
///
/// # Errors
/// The descriptors can't be decoded, which a test rules out.
pub fn router(driver: &Arc<Driver>) -> Result<Service> {
    let bad = |e| Error::internal("reflection is not to be had").caused_by(e);
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS);
        builder.register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (health, health_service) = tonic_health::server::health_reporter();
    drop(health);
    let routes = Routes::new(health_service)
        .add_service(reflection().build_v1().map_err(bad)?)
        .add_service(reflection().build_v1alpha().map_err(bad)?);
    services! { routes, driver:
        domains_server::DomainsServer(domains::Service),
        devices_server::DevicesServer(devices::Service),
        events_server::EventsServer(events::Service),
        consoles_server::ConsolesServer(consoles::Service),
        host_server::HostServer(host::Service),
        monitor_server::MonitorServer(monitor::Service),
        node_devices_server::NodeDevicesServer(node_devices::Service),
        tuning_server::TuningServer(tuning::Service),
        guest_agent_server::GuestAgentServer(guest_agent::Service),
    }
    Ok(ServiceBuilder::new().layer(GuardLayer).service(routes.prepare()))
}
