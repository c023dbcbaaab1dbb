//! What clients connect to: the libvirt front, its administration, and gRPC. All of them call one service.
//!
//! Limits come from the configuration and follow its reloads.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::watch;

use super::sockets::{Role, Socket};
use super::{Setup, Work, grpc};
use crate::config::{DaemonConfig, Keepalive};
use crate::paths::Scope;

/// The fronts at work.
pub(super) struct Fronts {
    clients: grpc::Clients,
    admin: watch::Receiver<usize>,
    /// Ends when the last connection has ended, after the daemon was told to stop.
    pub(super) ended: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Sockets by who serves them.
#[derive(Default)]
struct Listeners {
    libvirt: Vec<compat::Socket>,
    admin: Vec<compat::Socket>,
    grpc: Vec<(UnixListener, bool)>,
}

impl Fronts {
    /// Serves `sockets` until the setup's `stop`. Call it within the runtime.
    pub(super) fn start(work: &Work, setup: &Setup, sockets: Vec<Socket>) -> io::Result<Self> {
        let listeners = Listeners::sort(sockets)?;
        let system = setup.paths.scope == Scope::System;
        let mut libvirt = compat::Options::new(work.service.clone(), system);
        libvirt.neighbours.directory = neighbours(setup);
        let libvirt = Arc::new(libvirt);
        let admin = Arc::new(compat::Options::new(work.service.clone(), system));
        let clients = grpc::Clients::new(libvirt.clients.watch());
        let seen_admin = admin.clients.watch();
        let front = grpc::Front::new(
            work.service.clone(),
            setup.daemon.clone(),
            clients.clone(),
            setup.stop.clone(),
        );
        follow(&libvirt, &setup.daemon, limits);
        follow(&admin, &setup.daemon, admin_limits);
        let tasks = [
            tokio::spawn(front.serve(listeners.grpc)),
            tokio::spawn(compat::serve(listeners.libvirt, libvirt, setup.stop.clone())),
            tokio::spawn(compat::serve(listeners.admin, admin, setup.stop.clone())),
        ];
        let ended = async {
            for ended in futures_util::future::join_all(tasks).await {
                if let Err(error) = ended {
                    tracing::error!(%error, "a front failed; this is a bug in the daemon");
                }
            }
        };
        Ok(Self {
            clients,
            admin: seen_admin,
            ended: Box::pin(ended),
        })
    }

    /// Counts the clients of all fronts.
    pub(super) fn counter(&self) -> impl Fn() -> usize + Send + use<> {
        let (clients, admin) = (self.clients.clone(), self.admin.clone());
        move || clients.count() + *admin.borrow()
    }
}

impl Listeners {
    fn sort(sockets: Vec<Socket>) -> io::Result<Self> {
        let mut listeners = Self::default();
        for Socket { role, listener } in sockets {
            let listener = UnixListener::from_std(listener)?;
            let libvirt = |kind, listener| compat::Socket { kind, listener };
            match role {
                Role::Main => listeners
                    .libvirt
                    .push(libvirt(compat::SocketKind::ReadWrite, listener)),
                Role::ReadOnly => listeners
                    .libvirt
                    .push(libvirt(compat::SocketKind::ReadOnly, listener)),
                Role::Admin => listeners.admin.push(libvirt(compat::SocketKind::Admin, listener)),
                Role::Grpc | Role::GrpcReadOnly => listeners.grpc.push((listener, role.read_only())),
            }
        }
        Ok(listeners)
    }
}

/// Where the daemons of the other drivers have their sockets.
pub(crate) fn neighbours(setup: &Setup) -> PathBuf {
    let configured = setup.daemon.borrow().sockets.neighbours.clone();
    configured.unwrap_or_else(|| setup.paths.sockets.clone())
}

/// Keeps the limits of a front what the configuration says.
fn follow(
    options: &Arc<compat::Options>,
    config: &watch::Receiver<Arc<DaemonConfig>>,
    limits: fn(&DaemonConfig) -> compat::Limits,
) {
    let mut config = config.clone();
    let apply = move |options: &compat::Options, config: &DaemonConfig| {
        *options.limits.write().unwrap_or_else(PoisonError::into_inner) = limits(config);
    };
    apply(options, &config.borrow_and_update());
    let options = Arc::downgrade(options);
    tokio::spawn(async move {
        while config.changed().await.is_ok() {
            let Some(options) = options.upgrade() else {
                return;
            };
            apply(&options, &config.borrow_and_update());
        }
    });
}

fn limits(config: &DaemonConfig) -> compat::Limits {
    compat::Limits {
        max_clients: config.limits.clients,
        max_anonymous_clients: config.limits.anonymous_clients.unwrap_or(usize::MAX),
        max_client_requests: config.limits.client_requests,
        keepalive_interval: interval(config.keepalive),
        keepalive_count: config.keepalive.count,
    }
}

fn admin_limits(config: &DaemonConfig) -> compat::Limits {
    compat::Limits {
        max_clients: config.admin_limits.clients,
        max_anonymous_clients: config.admin_limits.clients,
        max_client_requests: config.admin_limits.client_requests,
        keepalive_interval: interval(config.admin_keepalive),
        keepalive_count: config.admin_keepalive.count,
    }
}

/// The front's "never" is zero.
fn interval(keepalive: Keepalive) -> Duration {
    keepalive.interval.unwrap_or(Duration::ZERO)
}
