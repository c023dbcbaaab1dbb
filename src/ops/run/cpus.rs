//! Leases of a guest's disks through virtlockd: held while its CPUs run, so that no other guest writes to them.
//!
//! A guest's process connects to virtlockd before it is QEMU, and what is held for it ends with that connection at the
//! latest. Here it is said what is held: everything is taken before the CPUs run ([`run_cpus`]: whoever has them run goes
//! through it) and given back when they have stopped ([`cpus_stopped`], or [`follow_stop`] where QEMU stopped them by
//! itself). Callers have the guest's job, so these never meet. Without a lock manager in qemu.conf nothing is done.
//!
//! ```text
//!   not held ──run_cpus: all are taken, or none and an error──▶ held
//!       ▲                                                        │
//!       └── CPUs stopped; what can't be given back is logged ────┘
//! ```
//!
//! The hard thing is what a daemon leaves that ends in the midst: the next one takes what runs as held and what is paused
//! as not, and gives back what is still held for a guest before it takes that anew.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
};

use crate::{
    config::LockdConfig,
    domain::{
        Effects, RunState, View,
        jobs::{Kind, Want},
    },
    error::{Code, Result},
    ops::{
        Driver,
        holdings::storage::{
            claim::{self, Claim},
            lease::{acquire, acquire_anew, give, resources},
        },
        operation::undo::Undo,
        run::guest::Guest,
    },
    peers::{Holder, Locks, Resource, is_unreachable},
};

/// Lets the CPUs run by `run`, with all that the guest has to hold. If `run` fails and they do not run, it is given back.
///
/// # Errors
/// `ResourceBusy` if another has something of it, what else virtlockd says, what `run` gives.
pub(crate) async fn run_cpus<T>(
    driver: &Driver,
    guest: &Guest,
    run: impl Future<Output = Result<T>>,
) -> Result<T> {
    let config = driver.config();
    let Some(lockd) = &config.lockd else {
        return run.await;
    };
    if !guest.holding.is_held() {
        take_all(driver, lockd, guest).await?;
        guest.holding.set(true);
    }
    let result = run.await;
    if result.is_err()
        && let Ok(monitor) = guest.monitor()
        && monitor.status().await.is_ok_and(|status| !status.running)
    {
        cpus_stopped(driver, guest).await;
    }
    result
}

/// The CPUs have stopped: gives everything back. What can't be given back is logged.
pub(crate) async fn cpus_stopped(driver: &Driver, guest: &Guest) {
    let config = driver.config();
    let Some(lockd) = config.lockd.as_ref().filter(|_| guest.holding.is_held()) else {
        return;
    };
    guest.holding.set(false);
    let view = guest.domain.view();
    match give_all(driver, lockd, guest, &view).await {
        Ok(()) => {}
        // As with a guest that we found paused.
        Err(error) if error.code == Code::ResourceBusy => {
            tracing::debug!(guest = %view.name, %error, "a lease was not held")
        }
        Err(error) => tracing::warn!(guest = %view.name, %error, "a lease of its disks is not given back"),
    }
}

/// QEMU may have stopped the CPUs by itself, or had them stopped when we came: gives everything back then.
pub(crate) fn follow_stop(driver: &Arc<Driver>, guest: &Arc<Guest>) {
    if driver.config().lockd.is_none() || !guest.holding.is_held() {
        return;
    }
    let (owned, guest) = (Arc::clone(driver), Arc::clone(guest));
    driver.tracker.spawn(async move {
        let settled = async {
            let job = guest.domain.job(Want::Plain(Kind::Suspend)).await?;
            // What made us come may be on its way to the view: this comes after it.
            let view = job.commit(|_| Ok(Effects::none())).await?;
            if is_stopped(&view) {
                cpus_stopped(&owned, &guest).await;
            }
            Ok(())
        };
        let result: Result<()> = settled.await;
        if let Err(error) = result
            && guest.ending().is_none()
        {
            tracing::warn!(guest = %guest.domain.view().name, %error, "it keeps its leases although its CPUs have stopped");
        }
    });
}

/// Whether a guest is in a state in which it holds nothing.
pub(crate) fn is_stopped(view: &View) -> bool {
    matches!(view.condition.state(), RunState::Paused | RunState::Crashed)
}

/// A run that a former daemon started: it may hold everything.
pub(crate) fn found(guest: &Guest) {
    guest.holding.set(true);
    guest.holding.outlives.store(true, Ordering::Release);
}

/// The process has ended, and its connection with it: gives back what might outlive that.
pub(crate) fn ended(driver: &Arc<Driver>, guest: &Guest, view: &Arc<View>) {
    let config = driver.config();
    let remains = guest.holding.is_held() && guest.holding.outlives.load(Ordering::Acquire);
    let Some(lockd) = config.lockd.clone().filter(|_| remains) else {
        return;
    };
    let (Some(holder), Some(run)) = (holder(guest, view), view.run.as_ref()) else {
        return;
    };
    let (owned, document) = (Arc::clone(driver), Arc::clone(&run.document.domain));
    driver.tracker.spawn(async move {
        // Most often there is nothing left of it.
        let result = async {
            give(
                &mut owned.peers.locks(&holder).await?,
                &resources(&lockd, &document).await?,
            )
            .await
        };
        if let Err(error) = result.await {
            tracing::debug!(guest = holder.name, %error, "nothing was left of its leases");
        }
    });
}

/// Takes what one more device of a guest makes a claim on, if the guest holds the others.
///
/// # Errors
/// As [`run_cpus`].
pub(crate) async fn take(
    driver: &Arc<Driver>,
    guest: &Arc<Guest>,
    claim: &Claim,
    undo: &mut Undo,
) -> Result<()> {
    let Some((mut locks, resource, config)) = one(driver, guest, claim).await? else {
        return Ok(());
    };
    acquire(&mut locks, &config, &resource).await?;
    guest.holding.outlives.store(true, Ordering::Release);
    let (owned, guest, claim) = (Arc::clone(driver), Arc::clone(guest), claim.clone());
    undo.push("a lease", async move { give_one(&owned, &guest, &claim).await });
    Ok(())
}

/// Gives back what a device that has left the guest made a claim on. What can't be given back is logged.
pub(crate) async fn give_back(driver: &Arc<Driver>, guest: &Arc<Guest>, claim: &Claim) {
    if let Err(error) = give_one(driver, guest, claim).await {
        tracing::warn!(guest = %guest.domain.view().name, ?claim, %error, "a lease is not given back");
    }
}

async fn give_one(driver: &Driver, guest: &Guest, claim: &Claim) -> Result<()> {
    match one(driver, guest, claim).await? {
        Some((mut locks, resource, _)) => locks.release(&resource).await,
        None => Ok(()),
    }
}

/// What a claim is, and where it is asked for; none: there is nothing to ask for.
async fn one(
    driver: &Driver,
    guest: &Guest,
    claim: &Claim,
) -> Result<Option<(Locks, Resource, LockdConfig)>> {
    let config = driver.config();
    let Some(lockd) = config.lockd.as_ref().filter(|_| guest.holding.is_held()) else {
        return Ok(None);
    };
    let (Some(resource), Some(holder)) = (
        claim::resource(lockd, claim).await,
        holder(guest, &guest.domain.view()),
    ) else {
        return Ok(None);
    };
    Ok(Some((
        driver.peers.locks(&holder).await?,
        resource,
        lockd.clone(),
    )))
}

async fn take_all(driver: &Driver, lockd: &LockdConfig, guest: &Guest) -> Result<()> {
    let view = guest.domain.view();
    let run = view.running()?;
    let resources = resources(lockd, &run.document.domain).await?;
    let Some(holder) = holder(guest, &view).filter(|_| !resources.is_empty()) else {
        return Ok(());
    };
    if !run.starting {
        guest.holding.outlives.store(true, Ordering::Release);
    }
    let mut locks = driver.peers.locks(&holder).await?;
    for (at, resource) in resources.iter().enumerate() {
        let (taken, _) = resources.split_at(at);
        if let Err(error) = acquire_anew(&mut locks, lockd, resource, taken).await {
            // Who does not answer is not asked again; what it took all the same is given back before the next attempt.
            if !is_unreachable(&error)
                && let Err(error) = give(&mut locks, taken).await
            {
                tracing::warn!(guest = %view.name, %error, "a lease of its disks is not given back");
            }
            return Err(error);
        }
    }
    Ok(())
}

async fn give_all(driver: &Driver, lockd: &LockdConfig, guest: &Guest, view: &View) -> Result<()> {
    let resources = resources(lockd, &view.running()?.document.domain).await?;
    let Some(holder) = holder(guest, view).filter(|_| !resources.is_empty()) else {
        return Ok(());
    };
    give(&mut driver.peers.locks(&holder).await?, &resources).await
}

/// For whom it is asked; none if the process had ended before we looked.
fn holder(guest: &Guest, view: &View) -> Option<Holder> {
    let pid = guest.process().ok()?.pid();
    Some(Holder {
        uuid: view.uuid,
        name: view.name.to_string(),
        id: guest.id,
        pid,
    })
}
