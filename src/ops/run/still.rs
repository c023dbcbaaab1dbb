//! CPUs that stand for a moment of which nobody is told: while a disk goes over to another image.
//!
//! QEMU goes over first and the documents follow. What the guest was told is written in between would be in an image that no
//! document names, and missing if QEMU ended then: so the guest writes nothing in between. It is a matter of milliseconds,
//! and the guest counts as running; who watches QEMU itself sees that the CPUs stopped.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use qmp::commands;

use super::{cpus, guest::Guest, react};
use crate::{
    domain::{Condition, View},
    error::Result,
    ops::Driver,
};

/// Between two attempts to let CPUs run again.
const RETRY: Duration = Duration::from_secs(2);

/// A guest whose CPUs stand. Dropped, they run again.
pub(crate) struct Still {
    driver: Arc<Driver>,
    guest: Arc<Guest>,
    /// We have stopped them, and they have not run since.
    stands: bool,
}

impl Still {
    /// Whether CPUs are to be stopped at all: one that is paused stays as it is.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub(crate) async fn is_needed(guest: &Guest) -> Result<bool> {
        Ok(guest.monitor()?.status().await?.running)
    }

    /// Stops the CPUs, if they run. Disks are flushed then.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub(crate) async fn begin(driver: &Arc<Driver>, guest: &Arc<Guest>) -> Result<Self> {
        let mut still = Self {
            driver: Arc::clone(driver),
            guest: Arc::clone(guest),
            stands: false,
        };
        if !Self::is_needed(guest).await? {
            return Ok(still);
        }
        guest.hides_stop.store(true, Ordering::Release);
        // Whatever the answer, it may have been done.
        still.stands = true;
        guest.execute(commands::Stop {}).await?;
        let status = guest.monitor()?.status().await?;
        let word = status.status.to_string();
        if word != "paused" {
            // They stopped by themselves, and that was hidden.
            still.stands = false;
            guest.hides_stop.store(false, Ordering::Release);
            let cause = guest.pause_cause();
            let change = move |view: &mut View| Ok(react::paused(view, cause));
            guest.domain.commit(change).await?;
        }
        Ok(still)
    }

    /// Whether we have stopped them.
    pub(crate) fn stands(&self) -> bool {
        self.stands
    }

    /// Lets the CPUs run again.
    pub(crate) async fn end(mut self) {
        if std::mem::take(&mut self.stands) {
            go_on(&self.driver, &self.guest).await;
        }
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        if self.stands {
            let (driver, guest) = (Arc::clone(&self.driver), Arc::clone(&self.guest));
            let tracker = driver.tracker.clone();
            tracker.spawn(async move { go_on(&driver, &guest).await });
        }
    }
}

/// Lets the CPUs run, until that has succeeded or the guest is gone: nobody else would.
async fn go_on(driver: &Driver, guest: &Guest) {
    while let Err(error) = guest.execute(commands::Cont {}).await {
        if guest.ended_with(&error).await || guest.ending().is_some() {
            return;
        }
        tracing::error!(guest = %guest.domain.view().name, %error, "its CPUs were stopped for a moment and do not run again");
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = guest.process_ended() => return,
            () = driver.stop.cancelled() => return,
        }
    }
}

/// Lets the CPUs of a guest run that a former daemon had stopped for a moment.
///
/// # Errors
/// They can't run.
pub(crate) async fn found(driver: &Driver, guest: &Guest) -> Result<()> {
    if guest.domain.view().condition != Condition::PAUSED_UNKNOWN {
        return Ok(());
    }
    let cont = async { guest.execute(commands::Cont {}).await.map(drop) };
    cpus::run_cpus(driver, guest, cont).await
}
