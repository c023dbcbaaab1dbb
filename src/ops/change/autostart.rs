//! Starting the guests that start with the host.

use std::{sync::Arc, time::Duration};

use crate::{
    domain::Domain,
    ops::{Conditions, Driver, change::configure::set_autostart_once, start},
};

/// How long the start of one guest keeps the next one waiting: an administrator's script may hold it up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts the guests that start with the host, unless that was done since the host started.
pub async fn autostart(driver: &Arc<Driver>) {
    let mark = driver.registry.store().paths().autostarted();
    if mark.exists() {
        return;
    }
    for domain in driver.registry.all() {
        let view = domain.view();
        if view.autostart_once
            && let Err(error) = set_autostart_once(&domain, false, &Conditions::default()).await
        {
            tracing::warn!(guest = %view.name, %error, "the guest may start with the host once more");
        }
        if !(view.autostart || view.autostart_once) || view.active() {
            continue;
        }
        let started = driver.tracker.spawn(start_one(Arc::clone(driver), domain));
        if tokio::time::timeout(PATIENCE, started).await.is_err() {
            tracing::warn!(guest = %view.name, "its start takes long: the next guest is started beside it");
        }
    }
    if let Err(error) = crate::domain::store::write(&mark, b"", false) {
        tracing::warn!(%error, "guests may be started with the host once more");
    }
}

async fn start_one(driver: Arc<Driver>, domain: Domain) {
    let how = start::How {
        bypass_cache: driver.config().auto.start_bypass_cache,
        ..Default::default()
    };
    let anyway = Conditions::default();
    if let Err(error) = start::start(&driver, &domain, how, &anyway).await {
        let name = &domain.view().name;
        tracing::error!(guest = %name, %error, "the guest could not be started with the host");
    }
}
