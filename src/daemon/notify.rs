//! What systemd is told of the daemon's life, and the watchdog that it keeps. Elsewhere none of it does anything.

use std::time::Duration;

use sd_notify::NotifyState;

/// The sockets are there.
pub(super) fn ready() {
    send(&[NotifyState::Ready]);
}

/// The configuration is read again; [`ready`] ends it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot tell systemd of the reload"),
    }
}

/// The daemon ends.
pub(super) fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// The daemon is alive.
pub(super) fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// How often to say [`alive`]: twice as often as systemd asks for.
pub(super) fn watchdog_interval() -> Option<Duration> {
    let mut usec = 0;
    sd_notify::watchdog_enabled(false, &mut usec).then(|| Duration::from_micros((usec / 2).max(1000)))
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::warn!(%error, "cannot reach systemd");
    }
}
