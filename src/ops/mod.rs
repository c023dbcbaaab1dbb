//! What an operation does, one file a family. Here `domain` and `qemu` meet.
//!
//! Called by `api` and, at start-up, by `daemon`. Every operation takes the [`Driver`], checks the caller's
//! [`Conditions`], takes a job where it changes a running guest, and commits. An operation that has begun to change
//! something runs on the driver's tracker, so that it ends well even if the caller hangs up.

pub mod backups;
pub mod blockjobs;
pub mod change;
pub mod checkpoints;
pub mod device;
pub mod document;
pub(crate) mod graph;
pub mod holdings;
pub mod host;
pub mod inspect;
pub mod moments;
pub mod operation;
pub mod recover;
pub mod run;
pub mod saves;
pub mod start;
pub mod supervise;
pub mod tuning;

pub use crate::ops::holdings::display_port::Ports;

use std::{future::Future, sync::Arc};

use futures_util::future::BoxFuture;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    config::QemuConfig,
    domain::{Domain, Registry, View, intents::Note},
    error::{Code, Error, Result},
    hooks::Hooks,
    ops::{
        holdings::{cgroup, hostdev, ledger, storage},
        host::{capabilities, domcaps, facts, place, suspend},
        run::{guest, sessions},
    },
    peers::{self, Peers},
    qemu::{FirmwareStore, Prober},
};

/// What all operations share.
pub struct Driver {
    /// The guests.
    pub registry: Arc<Registry>,
    /// Connections to running guests.
    pub guests: guest::Guests,
    /// Values of qemu.conf; replaced as a whole by a reload.
    pub config: tokio::sync::watch::Receiver<Arc<QemuConfig>>,
    /// What QEMU binaries can do.
    pub prober: Prober,
    /// Sessions that guests are bound to.
    pub sessions: sessions::Sessions,
    /// Descriptors that clients have handed over for guests.
    pub groups: storage::descriptors::Groups,
    /// Ports of displays.
    pub ports: Ports,
    /// Facts of the host and of the mode that the daemon runs in.
    pub host: place::Facts,
    /// The daemons of networks, storage, secrets and filters.
    pub peers: Peers,
    /// Scripts of the administrator.
    pub hooks: Arc<Hooks>,
    /// What they gave and must get back.
    pub owed: ledger::Owed,
    /// Devices of the host that guests have.
    pub hostdevs: Arc<hostdev::Hostdevs>,
    /// Control groups of the host.
    pub cgroups: cgroup::Kept,
    /// Directories of images that hang.
    pub images: storage::look::Hanging,
    /// Names of the host's ends of interfaces.
    pub link_names: crate::ops::holdings::net::tap::LinkNames,
    /// The host's firmware.
    pub firmware: FirmwareStore,
    /// Putting the host to sleep.
    pub suspend: suspend::Suspend,
    /// The last document about the host.
    pub host_document: capabilities::Kept,
    /// What is known of the host.
    pub host_facts: facts::Kept,
    /// The last documents about emulators.
    pub domain_capabilities: domcaps::Kept,
    /// Sees to what was under way on a run that is over.
    pub run_over: RunOver,
    /// What is known of the operations on guests.
    pub operations: operation::record::Operations,
    /// Work that goes on when its caller hangs up; a daemon that ends waits for it.
    pub tracker: TaskTracker,
    /// Cancelled when the daemon ends: streams end with it, guests do not.
    pub stop: CancellationToken,
}

/// Sees to a note that outlives its run, and clears it. Known by the driver, since whoever ends a run knows nothing of what
/// can be under way on it.
pub type RunOver = for<'a> fn(&'a Arc<Driver>, &'a Domain, Note) -> BoxFuture<'a, ()>;

/// How a request names a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// By UUID.
    Uuid(Uuid),
    /// By name.
    Name(String),
    /// By number of its run.
    Id(i32),
}

/// What must hold for a mutation, and whether it is only a trial.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The guest's etag must be this.
    pub etag: Option<String>,
    /// Check everything and change nothing.
    pub trial: bool,
}

impl Conditions {
    /// Whether the guest is still what the caller saw.
    ///
    /// # Errors
    /// `OperationAborted` with reason ETAG_MISMATCH.
    pub fn check(&self, view: &View) -> Result<()> {
        match &self.etag {
            Some(etag) if *etag != view.etag() => {
                let message = format!(
                    "the domain '{}' has changed: its etag is {}, not {etag}",
                    view.name,
                    view.etag()
                );
                Err(Error::new(Code::OperationAborted, message).because("ETAG_MISMATCH"))
            }
            _ => Ok(()),
        }
    }
}

impl Driver {
    /// The guest of that name, UUID or number.
    ///
    /// # Errors
    /// `NoDomain`.
    pub fn find(&self, target: &Target) -> Result<Domain> {
        match target {
            Target::Uuid(uuid) => self.registry.by_uuid(*uuid),
            Target::Name(name) => self.registry.by_name(name),
            Target::Id(id) => self.registry.by_id(*id),
        }
    }

    /// The configuration now in force.
    pub fn config(&self) -> Arc<QemuConfig> {
        Arc::clone(&self.config.borrow())
    }

    /// Runs work that goes on when the caller hangs up, for that caller, and waits for it.
    ///
    /// # Errors
    /// What the work gives.
    pub async fn tracked<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match peers::track(&self.tracker, work).await {
            Ok(result) => result,
            Err(panic) => {
                Err(Error::internal("the operation met a bug in the daemon; see its log").caused_by(panic))
            }
        }
    }

    /// Runs work that watches over something: unlike [`Self::tracked`] a daemon that ends does not wait for it. It is not
    /// stopped either, since operations that the daemon waits for need what it reports.
    pub fn background(&self, work: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(work);
    }

    /// How many guests run.
    pub fn running(&self) -> usize {
        self.registry.views().iter().filter(|v| v.active()).count()
    }
}
