//! The generated clients, each on the same way to the daemon.

use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Body as HttpBody, Bytes, StdError};

pub use crate::proto::{
    admin_client::AdminClient, backups_client::BackupsClient, block_jobs_client::BlockJobsClient,
    checkpoints_client::CheckpointsClient, consoles_client::ConsolesClient, devices_client::DevicesClient,
    disks_client::DisksClient, domains_client::DomainsClient, events_client::EventsClient,
    guest_agent_client::GuestAgentClient, host_client::HostClient, jobs_client::JobsClient,
    launch_security_client::LaunchSecurityClient, migrations_client::MigrationsClient,
    monitor_client::MonitorClient, node_devices_client::NodeDevicesClient,
    operations_client::OperationsClient, perf_events_client::PerfEventsClient, saves_client::SavesClient,
    snapshots_client::SnapshotsClient, tuning_client::TuningClient,
};
pub use tonic::transport::Channel;

/// Longest message in either direction, bytes; the daemon's own limit.
pub const MESSAGE_MAX: usize = 32 << 20;

/// The services of one daemon. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct Services<T> {
    inner: T,
}

macro_rules! services {
    ($($(#[doc = $doc:literal])* $name:ident: $client:ident;)*) => {
        impl<T> Services<T>
        where
            T: GrpcService<Body> + Clone,
            T::Error: Into<StdError>,
            T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
            <T::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
        {
            $($(#[doc = $doc])*
            pub fn $name(&self) -> $client<T> {
                $client::new(self.inner.clone())
                    .max_decoding_message_size(MESSAGE_MAX)
                    .max_encoding_message_size(MESSAGE_MAX)
            })*
        }
    };
}

services! {
    /// The daemon itself.
    admin: AdminClient;
    /// Guests.
    domains: DomainsClient;
    /// Devices of guests.
    devices: DevicesClient;
    /// Events.
    events: EventsClient;
    /// Screens, consoles and channels.
    consoles: ConsolesClient;
    /// The host.
    host: HostClient;
    /// QEMU's monitor.
    monitor: MonitorClient;
    /// Devices of the host.
    node_devices: NodeDevicesClient;
    /// The guests' agents.
    guest_agent: GuestAgentClient;
    /// What is under way on guests.
    operations: OperationsClient;
    /// Placement and limits.
    tuning: TuningClient;
    /// Disks of guests.
    disks: DisksClient;
    /// Jobs that move the blocks of disks.
    block_jobs: BlockJobsClient;
    /// Snapshots.
    snapshots: SnapshotsClient;
    /// Checkpoints.
    checkpoints: CheckpointsClient;
    /// Backups of guests' disks.
    backups: BackupsClient;
    /// Events that are counted for guests.
    perf_events: PerfEventsClient;
    /// Jobs of guests.
    jobs: JobsClient;
    /// Migrations of guests to other hosts.
    migrations: MigrationsClient;
    /// Saves, restores and dumps.
    saves: SavesClient;
    /// Protection of guests from the host.
    launch_security: LaunchSecurityClient;
}

impl<T> Services<T> {
    /// The services at the other end of `inner`: a channel, or a service in this process.
    pub fn new(inner: T) -> Self {
        Self { inner }
    }

    /// The way to the daemon, for requests that no generated client makes.
    pub fn inner(&self) -> &T {
        &self.inner
    }
}
