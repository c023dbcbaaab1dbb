//! Leases of a guest's disks at virtlockd: the connection that holds them, and how one is acquired and released.
//!
//! `run::cpus` decides when; here is how.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{
    config::LockdConfig,
    error::{Code, Result},
    ops::{Driver, document::prepared::Prepared, holdings::storage::claim},
    peers::{Holder, Locks, Resource, is_unreachable},
    qemu,
};

/// What a guest holds.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    /// All that it has to.
    pub(crate) held: AtomicBool,
    /// It may hold something that does not end with its own connection: virtlockd may have been started anew since.
    pub(crate) outlives: AtomicBool,
}

impl Holding {
    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }
    pub(crate) fn set(&self, held: bool) {
        self.held.store(held, Ordering::Release);
    }
}

/// Has the process that is to be QEMU connect to virtlockd.
///
/// # Errors
/// What of the document can't be held.
pub(crate) fn connect(driver: &Driver, document: &domxml::Domain, qemu: &mut qemu::Prepared) -> Result<()> {
    let config = driver.config();
    let Some(lockd) = &config.lockd else { return Ok(()) };
    claim::of_document(lockd, document)?;
    qemu.connect(&driver.peers.lock_socket(), driver.peers.opening)
}

/// Registers that connection for the guest.
///
/// # Errors
/// What virtlockd says, or that it does not answer.
pub(crate) async fn register(driver: &Driver, held: &mut qemu::Held, prepared: &Prepared) -> Result<()> {
    let Some(connection) = held.take_connection() else {
        return Ok(());
    };
    let (uuid, name) = crate::ops::document::plan::identity(&prepared.document)?;
    driver
        .peers
        .register_own(
            connection,
            &Holder {
                uuid,
                name,
                id: prepared.id,
                pid: held.pid(),
            },
        )
        .await
}

/// Takes a resource. One that is still held for this guest from before, and not just `taken`, is given back first.
pub(crate) async fn acquire_anew(
    locks: &mut Locks,
    lockd: &LockdConfig,
    resource: &Resource,
    taken: &[Resource],
) -> Result<()> {
    let result = acquire(locks, lockd, resource).await;
    let busy = matches!(&result, Err(error) if error.code == Code::ResourceBusy);
    let is_same = |other: &Resource| (&other.lockspace, &other.name) == (&resource.lockspace, &resource.name);
    if busy && !taken.iter().any(is_same) && locks.release(resource).await.is_ok() {
        return acquire(locks, lockd, resource).await;
    }
    result
}

/// Takes a resource. A virtlockd that was started anew does not know our directories: it is told.
pub(crate) async fn acquire(locks: &mut Locks, lockd: &LockdConfig, resource: &Resource) -> Result<()> {
    let result = locks.acquire(resource).await;
    let unknown = matches!(&result, Err(error) if error.code == Code::Internal && !is_unreachable(error));
    if unknown
        && lockd.keeps(Path::new(&resource.lockspace))
        && locks.create_lockspace(&resource.lockspace).await.is_ok()
    {
        return locks.acquire(resource).await;
    }
    result
}

/// Gives all of them back, whatever becomes of one; the first error.
pub(crate) async fn give(locks: &mut Locks, resources: &[Resource]) -> Result<()> {
    let mut first = Ok(());
    for resource in resources {
        let result = locks.release(resource).await;
        if matches!(&result, Err(error) if is_unreachable(error)) {
            return result;
        }
        first = first.and(result);
    }
    first
}

pub(crate) async fn resources(lockd: &LockdConfig, document: &domxml::Domain) -> Result<Vec<Resource>> {
    let mut resources = Vec::new();
    for claim in claim::of_document(lockd, document)? {
        resources.extend(claim::resource(lockd, &claim).await);
    }
    Ok(resources)
}
