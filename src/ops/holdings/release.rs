//! Gives back what is in the ledger: to the daemon or device that it came from, again and again until it is taken.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use crate::{
    error::Result,
    ops::{
        Driver,
        holdings::{hostdev, ledger::Debt, net::macvtap::Macvtap},
        operation::undo::Undo,
    },
    peers::{self},
};

/// Pause before the first new attempt; it doubles up to [`PAUSE_MAX`].
pub(crate) const PAUSE: Duration = Duration::from_secs(2);

/// Longest pause between two attempts.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Gives back `debts`. What nobody takes for now is due, and is tried again.
pub(crate) async fn give_back(driver: &Arc<Driver>, debts: Vec<Debt>) {
    let left = attempt(driver, debts).await;
    if !left.is_empty() {
        for debt in &left {
            // A run that another daemon began has no note yet.
            if let Err(error) = driver.owed.note(debt).await {
                tracing::warn!(%debt, %error, "should the daemon end now, the next one will not know of it");
            }
        }
        driver.owed.due().extend(left);
        try_again(driver);
    }
}

/// Gives back what is due, now and again until nothing is.
pub(crate) fn try_again(driver: &Arc<Driver>) {
    if !driver.owed.any_due() || driver.owed.busy.swap(true, Ordering::AcqRel) {
        return;
    }
    let (weak, stop) = (Arc::downgrade(driver), driver.stop.clone());
    tokio::spawn(async move {
        let mut pause = PAUSE;
        while let Some(driver) = weak.upgrade() {
            let left = {
                let _alone = driver.owed.hand.write().await;
                let due: Vec<Debt> = driver.owed.due().iter().cloned().collect();
                attempt(&driver, due).await
            };
            if left.is_empty() {
                driver.owed.busy.store(false, Ordering::Release);
                // What became due between the two lines above finds its own way.
                return try_again(&driver);
            }
            drop(driver);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    });
}

/// Gives back what is taken; the rest.
pub(crate) async fn attempt(driver: &Arc<Driver>, debts: Vec<Debt>) -> Vec<Debt> {
    let mut left = Vec::new();
    for result in hand_in(driver, debts).await {
        match result {
            (debt, Ok(())) => driver.owed.settled(&debt).await,
            (debt, Err(error)) if peers::is_unreachable(&error) => {
                tracing::warn!(%debt, %error, "could not be given back; it is tried again");
                left.push(debt);
            }
            (debt, Err(error)) => {
                tracing::error!(%debt, %error, "was not taken back; it stays where it is");
                driver.owed.settled(&debt).await;
            }
        }
    }
    left
}

/// How long the end of a run waits for other daemons; they get back the rest later.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Notes what is about to be had, and gives it back should the start fail.
///
/// # Errors
/// The note can't be written.
pub(crate) async fn remember(driver: &Arc<Driver>, debt: Debt, undo: &mut Undo) -> Result<()> {
    driver.owed.note(&debt).await?;
    let owned = Arc::clone(driver);
    undo.push("what another daemon gave", async move {
        return_within(&owned, vec![debt]).await;
        Ok(())
    });
    Ok(())
}

pub(crate) async fn return_within(driver: &Arc<Driver>, debts: Vec<Debt>) {
    let owned = Arc::clone(driver);
    let work = driver
        .tracker
        .spawn(async move { give_back(&owned, debts).await });
    // Goes on by itself if it takes longer.
    let _ = tokio::time::timeout(PATIENCE, work).await;
}

pub(crate) async fn remove(driver: &Driver, macvtap: Macvtap) -> Result<()> {
    let state = driver.registry.store().paths().state.clone();
    crate::blocking::file("removing a macvtap device", move || macvtap.remove(&state)).await
}

/// Hands things in to the daemons that gave them, over one connection each; what came of each.
pub(crate) async fn hand_in(driver: &Driver, debts: Vec<Debt>) -> Vec<(Debt, Result<()>)> {
    let (mut networks, mut filters) = (None, None);
    let mut results = Vec::new();
    for debt in debts {
        let result = match &debt {
            Debt::Port(id) => match ready(&mut networks, driver.peers.networks()).await {
                Ok(networks) => networks.delete_port(id).await,
                Err(error) => Err(error),
            },
            Debt::Filter(device) => match ready(&mut filters, driver.peers.nwfilters()).await {
                Ok(filters) => filters.unbind(device).await,
                Err(error) => Err(error),
            },
            Debt::Device(address) => hostdev::hand_in(driver, *address).await,
            Debt::SwitchPort(port) => port.remove().await,
            Debt::Macvtap(macvtap) => remove(driver, macvtap.clone()).await,
        };
        results.push((debt, result));
    }
    results
}

/// The connection, opened by the first who needs it. One that can't be opened is not tried for each.
pub(crate) async fn ready<C>(
    place: &mut Option<Option<C>>,
    open: impl Future<Output = Result<C>>,
) -> Result<&mut C> {
    if place.is_none() {
        match open.await {
            Ok(connection) => *place = Some(Some(connection)),
            Err(error) => {
                *place = Some(None);
                return Err(error);
            }
        }
    }
    place
        .as_mut()
        .and_then(Option::as_mut)
        .ok_or_else(crate::peers::still_unreachable)
}
