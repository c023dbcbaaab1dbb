//! What clients connect to: the libvirt front, its administration, and gRPC. All of them call one service.
//!
//! Limits come from the configuration and follow its reloads.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::watch;

use super::sockets::{Role, Socket};
use super::{Setup, Work, grpc};
use crate::admin::{Admin, Settings};
use crate::config::{self, DaemonConfig, Keepalive};
use crate::paths::Scope;

/// The fronts at work.
pub(super) struct Fronts {
    clients: [watch::Receiver<usize>; 2],
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
        let [main, admin] = setup.admin.servers().each_ref().map(|server| &server.clients);
        let backend = compat::Backend {
            calls: Arc::clone(&work.calls),
            streams: work.service.clone(),
        };
        let mut libvirt = compat::Options::new(backend.clone(), system);
        libvirt.neighbours.directory = neighbours(setup);
        libvirt.clients = Arc::clone(main);
        let mut of_admin = compat::Options::new(backend, system);
        of_admin.clients = Arc::clone(admin);
        let front = grpc::Front::new(
            work.service.clone(),
            setup.daemon.clone(),
            Arc::clone(main),
            setup.stop.clone(),
        );
        tokio::spawn(follow(Arc::clone(&setup.admin), setup.daemon.clone()));
        let tasks = [
            tokio::spawn(front.serve(listeners.grpc)),
            tokio::spawn(compat::serve(
                listeners.libvirt,
                Arc::new(libvirt),
                setup.stop.clone(),
            )),
            tokio::spawn(compat::serve(
                listeners.admin,
                Arc::new(of_admin),
                setup.stop.clone(),
            )),
        ];
        let clients = [main.watch(), admin.watch()];
        let ended = async {
            for ended in futures_util::future::join_all(tasks).await {
                if let Err(error) = ended {
                    tracing::error!(%error, "a front failed; this is a bug in the daemon");
                }
            }
        };
        Ok(Self {
            clients,
            ended: Box::pin(ended),
        })
    }

    /// Counts the clients of all fronts.
    pub(super) fn counter(&self) -> impl Fn() -> usize + Send + use<> {
        let clients = self.clients.clone();
        move || clients.iter().map(|count| *count.borrow()).sum()
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

/// What the servers begin with: limits of clients, and places for their calls.
pub(super) fn beginnings(config: &DaemonConfig) -> [(compat::Limits, Settings); 2] {
    [
        (limits(config), workers(config.workers)),
        (admin_limits(config), workers(config.admin_workers)),
    ]
}

/// Has the limits follow the configuration. What a file that was read again does not say differently stays as the
/// administrator may have set it.
async fn follow(admin: Arc<Admin>, mut config: watch::Receiver<Arc<DaemonConfig>>) {
    let mut before = beginnings(&config.borrow_and_update());
    while config.changed().await.is_ok() {
        let now = beginnings(&config.borrow_and_update());
        for ((server, before), now) in admin.servers().iter().zip(before).zip(now) {
            let Ok(()) = server.clients.change_limits(|limits| {
                reread(&mut limits.max_clients, before.0.max_clients, now.0.max_clients);
                let anonymous = now.0.max_anonymous_clients;
                reread(
                    &mut limits.max_anonymous_clients,
                    before.0.max_anonymous_clients,
                    anonymous,
                );
                *limits = compat::Limits {
                    max_clients: limits.max_clients,
                    max_anonymous_clients: limits.max_anonymous_clients,
                    ..now.0
                };
                Ok::<_, Infallible>(())
            });
            let Ok(()) = server.workers.change(|settings| {
                reread(&mut settings.min, before.1.min, now.1.min);
                reread(&mut settings.max, before.1.max, now.1.max);
                reread(&mut settings.priority, before.1.priority, now.1.priority);
                Ok::<_, Infallible>(())
            });
        }
        before = now;
    }
}

fn reread<T: PartialEq>(value: &mut T, before: T, now: T) {
    if now != before {
        *value = now;
    }
}

fn limits(config: &DaemonConfig) -> compat::Limits {
    compat::Limits {
        max_clients: config.limits.clients,
        max_anonymous_clients: config.limits.anonymous_clients.unwrap_or(0),
        max_client_requests: config.limits.client_requests,
        keepalive_interval: interval(config.keepalive),
        keepalive_count: config.keepalive.count,
    }
}

fn admin_limits(config: &DaemonConfig) -> compat::Limits {
    compat::Limits {
        max_clients: config.admin_limits.clients,
        max_anonymous_clients: 0,
        max_client_requests: config.admin_limits.client_requests,
        keepalive_interval: interval(config.admin_keepalive),
        keepalive_count: config.admin_keepalive.count,
    }
}

fn workers(config: config::Workers) -> Settings {
    Settings {
        min: config.max.map_or(config.min, |max| config.min.min(max)),
        max: config.max,
        priority: config.priority,
    }
}

/// The front's "never" is zero.
fn interval(keepalive: Keepalive) -> Duration {
    keepalive.interval.unwrap_or(Duration::ZERO)
}
