//! What becomes of guests that run when the host goes down: saved, shut down or switched off, as qemu.conf says.
//!
//! The administrator begins it who ends the daemon and wants guests preserved (`api::admin`), or logind, which tells that the
//! host goes down and waits for those who asked it to ([`watch`]). Each guest gets the first that is meant for it and
//! succeeds: a managed save, a shutdown of its own, power off.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;

use crate::{
    config::{AutoShutdown, GuestsAtEnd},
    domain::{Domain, RunState, View},
    error::Result,
    ops::{
        Conditions, Driver,
        change::configure::set_autostart_once,
        run::{power, stop},
        saves::save,
    },
    paths::Scope,
    peers::logind,
};

/// How long the save of one guest may take.
const SAVE: Duration = Duration::from_secs(600);
/// How long after a failure logind is asked again to tell when the host goes down.
const AGAIN: Duration = Duration::from_secs(30);

/// Waits for the host to go down, and preserves guests then. Returns when the daemon ends.
pub async fn watch(driver: &Arc<Driver>) {
    let system = driver.host.scope == Scope::System;
    let mut config = driver.config.clone();
    while !driver.stop.is_cancelled() {
        let told = async {
            // Others do not keep the host waiting.
            let wanted = config.wait_for(|config| config.auto.handles_guests(system));
            if wanted.await.is_err() {
                std::future::pending::<()>().await;
            }
            match logind::delay("Virtual machines need to be saved").await {
                Ok(Some(mut delay)) => match delay.shutdown().await {
                    true => Some(delay),
                    false => None,
                },
                Ok(None) => std::future::pending().await,
                Err(error) => {
                    tracing::warn!(%error, "logind does not tell when the host goes down");
                    None
                }
            }
        };
        let delay = tokio::select! {
            delay = told => delay,
            () = driver.stop.cancelled() => return,
        };
        match delay {
            // The host waits as long as this lives.
            Some(_delay) => preserve(driver).await,
            None => tokio::time::sleep(AGAIN).await,
        }
    }
}

/// What is to be done to guests; `None` if nothing is.
fn wishes(driver: &Driver) -> Option<GuestsAtEnd> {
    let system = driver.host.scope == Scope::System;
    let auto = driver.config().auto;
    auto.handles_guests(system).then(|| auto.at_end(system))
}

/// Preserves the guests that run, as qemu.conf says. What fails is logged: the host goes down all the same.
pub async fn preserve(driver: &Arc<Driver>) {
    let Some(wishes) = wishes(driver) else { return };
    let auto = driver.config().auto;
    let running = |which| -> Vec<Domain> {
        let all = driver.registry.all().into_iter();
        all.filter(|domain| is_meant(which, &domain.view())).collect()
    };
    if auto.restore {
        for which in [wishes.save, wishes.shutdown, wishes.poweroff] {
            for domain in running(which) {
                start_again(&domain).await;
            }
        }
    }
    save_all(driver, running(wishes.save), auto.save_bypass_cache).await;
    shut_down_all(driver, running(wishes.shutdown), auto.wait).await;
    let how = stop::How {
        graceful: true,
        ..stop::How::default()
    };
    let anyway = Conditions::default();
    for domain in running(wishes.poweroff) {
        let off = stop::power_off(driver, &domain, how, &anyway);
        tell(&domain, "it is not switched off", off.await);
    }
}

/// Whether a guest that runs is one of those.
fn is_meant(which: AutoShutdown, view: &View) -> bool {
    let kept = view.config.is_some();
    view.active()
        && match which {
            AutoShutdown::None => false,
            AutoShutdown::Persistent => kept,
            AutoShutdown::Transient => !kept,
            AutoShutdown::All => true,
        }
}

/// The guest starts once with the host, unless it always does.
async fn start_again(domain: &Domain) {
    let view = domain.view();
    if view.config.is_none() || view.autostart || view.autostart_once {
        return;
    }
    let marked = set_autostart_once(domain, true, &Conditions::default()).await;
    tell(domain, "it will not be started when the host is back", marked);
}

/// Saves guests one after the other. All of them are stopped first: what they would do meanwhile is in the way of the saves.
async fn save_all(driver: &Arc<Driver>, guests: Vec<Domain>, bypass_cache: bool) {
    let anyway = Conditions::default();
    let mut stopped = Vec::new();
    for domain in guests {
        let runs = domain.view().condition.state() == RunState::Running;
        if runs {
            let paused = power::suspend(driver, &domain, &anyway).await;
            tell(&domain, "it is saved as it runs", paused);
        }
        stopped.push((domain, runs));
    }
    for (domain, runs) in stopped {
        let how = save::How {
            bypass_cache,
            runs: runs.then_some(true),
            ..save::How::default()
        };
        let failure = match save::begin(driver, &domain, how, &anyway).await {
            Ok(Some(record)) => {
                let ended = record.wait(SAVE).await.outcome;
                if ended.is_none() {
                    tell(&domain, "its save is not cancelled", record.cancel());
                }
                match ended {
                    Some(ended) => ended.error.map(|status| status.message().to_owned()),
                    None => Some(format!("it takes longer than {} s", SAVE.as_secs())),
                }
            }
            Ok(None) => None,
            Err(error) => Some(error.to_string()),
        };
        let Some(failure) = failure else { continue };
        tracing::warn!(guest = %domain.view().name, failure, "it is not saved");
        if runs && domain.view().condition.state() == RunState::Paused {
            let resumed = power::resume(driver, &domain, &anyway).await;
            tell(&domain, "it stays paused", resumed);
        }
    }
}

/// Has guests shut themselves down, and waits until they have.
async fn shut_down_all(driver: &Arc<Driver>, guests: Vec<Domain>, wait: Duration) {
    let ends = guests.into_iter().map(|domain| async move {
        let asked = power::shutdown(driver, &domain, &[], &Conditions::default()).await;
        let is_asked = asked.is_ok();
        tell(&domain, "it does not shut down", asked);
        if is_asked {
            domain.wait_for(|view| !view.active()).await;
        }
    });
    if tokio::time::timeout(wait, join_all(ends)).await.is_err() {
        tracing::warn!(seconds = wait.as_secs(), "guests have not shut down");
    }
}

fn tell(domain: &Domain, what: &'static str, result: Result<()>) {
    if let Err(error) = result {
        tracing::warn!(guest = %domain.view().name, %error, "{what}");
    }
}
