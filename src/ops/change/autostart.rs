//! Starting the guests that start with the host.

use std::sync::Arc;

use crate::ops::{Conditions, Driver, change::configure::set_autostart_once, start};

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
        if let Err(error) = start::start(driver, &domain, start::How::default(), &Conditions::default()).await
        {
            tracing::error!(guest = %view.name, %error, "the guest could not be started with the host");
        }
    }
    if let Err(error) = crate::domain::store::write(&mark, b"", false) {
        tracing::warn!(%error, "guests may be started with the host once more");
    }
}
