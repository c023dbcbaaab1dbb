//! Puts the driver together: files, journal, guests, services.
//!
//! Called once by `main` when the sockets are there. It reads what is on disk and waits for no QEMU: guests that ran are
//! taken over, and those that start with the host are started, beside the first calls.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use bytes::Bytes;
use tokio_util::task::TaskTracker;

use crate::{
    admin::{self, Admin, Entered, Places},
    api,
    daemon::{self, Setup, Work},
    domain::{Registry, store::Store},
    events::Journal,
    ops::{
        self, Driver,
        host::place::Facts,
        run::{guest::Guests, sessions::Sessions},
    },
    paths::{Environment, Paths, Scope},
    peers::Peers,
    qemu::{FirmwareStore, Prober, ProberConfig, RunAs, probe::Deadlines},
};

/// Makes the service of a daemon.
///
/// # Errors
/// The host's facts, or the directories of guests, can't be read.
pub async fn make(setup: Setup) -> anyhow::Result<Work> {
    let of_driver = setup.clone();
    let driver = tokio::task::spawn_blocking(move || driver(&of_driver))
        .await
        .context("making the driver")??;
    let served = Arc::clone(&driver);
    let admin = Arc::clone(&setup.admin);
    let places = Arc::clone(&admin);
    let (service, direct) = tokio::task::spawn_blocking(move || api::router(&served, &admin))
        .await
        .context("making the services")??;
    ops::recover::run_over::before_all(&driver).await;
    let (background, held) = (Arc::clone(&driver), ops::recover::hold(&driver).await);
    driver.tracker.spawn(async move {
        ops::recover::reconnect(&background, held).await;
        ops::change::cut_off::finish_all(&background).await;
        ops::change::autostart::autostart(&background).await;
    });
    let watching = Arc::clone(&driver);
    driver
        .tracker
        .spawn(async move { ops::change::preserve::watch(&watching).await });
    let (counted, ending) = (Arc::clone(&driver), Arc::clone(&driver));
    Ok(Work {
        calls: Arc::new(Calls {
            direct,
            admin: Arc::clone(&places),
        }),
        service: daemon::Service::new(Places::new(service, places)),
        running_guests: Box::new(move || counted.running()),
        finished: Box::pin(async move {
            ending.tracker.close();
            ending.tracker.wait().await;
            ending.registry.close().await;
        }),
    })
}

/// The libvirt front's calls: they have the same workers as those of gRPC.
struct Calls {
    direct: api::Direct,
    admin: Arc<Admin>,
}

impl compat::Unary for Calls {
    fn unary(&self, path: &'static str, asked: compat::Asked, request: Bytes) -> compat::Answer {
        let entered = admin::enter(&self.admin, path, asked.priority);
        let call = self.direct.call(path, asked.caller, asked.fds, request);
        Box::pin(async move {
            let _place = match entered {
                None => None,
                Some(Entered::Now(place)) => Some(place),
                Some(Entered::Later(turn)) => turn.await.ok(),
            };
            call.await
        })
    }
}

fn driver(setup: &Setup) -> anyhow::Result<Arc<Driver>> {
    let paths = &setup.paths;
    let config = Arc::clone(&setup.qemu.borrow());
    let run_as = ops::host::identity::run_as(&config)?;
    make_directories(paths, run_as.as_ref())?;
    let journal = Journal::open(&paths.state.join("virtqemud")).unwrap_or_else(|error| {
        tracing::warn!(%error, "the journal of events can't be kept; versions will not outlive the daemon");
        Journal::in_memory(u64::from(std::process::id()))
    });
    let driver = Arc::new(Driver {
        registry: Registry::new(
            Store::new(Arc::clone(paths)),
            journal,
            config.max_queued.unwrap_or(0),
        ),
        guests: Guests::default(),
        config: setup.qemu.clone(),
        prober: Prober::new(ProberConfig {
            cache: paths.capabilities.clone(),
            run_as,
            deadlines: Deadlines::default(),
        }),
        sessions: Sessions::default(),
        groups: ops::holdings::storage::descriptors::Groups::default(),
        run_over: |driver, domain, note| Box::pin(ops::recover::run_over::see_to(driver, domain, note)),
        operations: ops::operation::record::Operations::default(),
        ports: ops::Ports::default(),
        host: Facts::read(Path::new("/"), paths.scope, &setup.daemon.borrow().host_uuid)?,
        peers: Peers::new(
            daemon::neighbours(setup),
            paths.common.clone(),
            paths.scope == Scope::System,
        ),
        hooks: Arc::clone(&setup.hooks),
        owed: ops::holdings::ledger::Owed::new(&paths.state.join("virtqemud")),
        hostdevs: Arc::new(ops::holdings::hostdev::Hostdevs::new(hostinfo::Root::default())),
        cgroups: ops::holdings::cgroup::Kept::default(),
        link_names: ops::holdings::net::tap::LinkNames::default(),
        firmware: FirmwareStore::new(user_config(paths.scope).as_deref()),
        suspend: ops::host::suspend::Suspend::default(),
        images: ops::holdings::storage::look::Hanging::default(),
        host_document: ops::host::capabilities::Kept::default(),
        host_facts: ops::host::facts::Kept::default(),
        domain_capabilities: ops::host::domcaps::Kept::default(),
        tracker: TaskTracker::new(),
        stop: setup.stop.clone(),
    });
    ops::recover::load(&driver)?;
    Ok(driver)
}

/// Makes the directories that are missing. Those that QEMU has files in belong to the user it runs as, as after each
/// start of libvirt's daemon: scripts put images and firmware variables there before the first guest is defined.
fn make_directories(paths: &Paths, run_as: Option<&RunAs>) -> anyhow::Result<()> {
    for dir in [&paths.config, &paths.domains, &paths.log, &paths.capabilities] {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let (user, group) = run_as.map_or((0, 0), |user| (user.uid, user.gid));
    for dir in paths.of_qemu() {
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&dir, Some(user), Some(group))
                .with_context(|| format!("giving {} to the user of QEMU", dir.display()))?;
        }
    }
    Ok(())
}

/// Where a user keeps configuration; the system's daemon has no user.
fn user_config(scope: Scope) -> Option<PathBuf> {
    let environment = Environment::of_process();
    let usual = environment.home.join(".config");
    (scope == Scope::Session).then(|| environment.config_home.unwrap_or(usual))
}
