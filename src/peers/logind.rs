//! systemd-logind: whether and how the host can sleep, having it do so, and being told when it goes down.
//!
//! Called by the operation that puts the host to sleep, and by what becomes of guests when the host goes down. logind is not started for a question: where it does not run,
//! nobody manages the host's sleep.

use std::time::Duration;

use futures_util::StreamExt;
use zbus::{MessageStream, zvariant::OwnedFd};

use super::bus::{Bus, Fault, Object, within};

/// How long logind may take to answer a question.
const LIMIT: Duration = Duration::from_secs(20);

const MANAGER: Object = Object {
    service: "org.freedesktop.login1",
    path: "/org/freedesktop/login1",
    interface: "org.freedesktop.login1.Manager",
};

/// Answers logind's question of the given name, such as "CanSuspend": whether the host can, be it that a password were
/// asked for, which nobody asks of a daemon. `false` where no logind runs.
///
/// # Errors
/// logind's, or no answer within 20 s.
pub async fn can(question: &str) -> Result<bool, Fault> {
    within(LIMIT, async {
        let Some(bus) = running().await? else {
            return Ok(false);
        };
        let answer: String = bus.call(MANAGER, question, &()).await?;
        Ok(is_consent(&answer))
    })
    .await
}

/// Has logind do what its method of the given name does, such as "Suspend". Returns when the host is awake again, if that
/// takes longer than the call.
///
/// # Errors
/// logind's, or that none runs.
pub async fn sleep(method: &str) -> Result<(), Fault> {
    let Some(bus) = running().await? else {
        return Err(Fault::Bus(zbus::Error::Failure("logind does not run".to_owned())));
    };
    // Not interactive: it must not ask anybody for a password.
    bus.call(MANAGER, method, &(false,)).await
}

/// The host waits with going down, as long as this lives, for at most as long as logind lets it.
pub struct Delay {
    signals: MessageStream,
    _inhibitor: OwnedFd,
    _bus: Bus,
}

/// Has the host wait with going down; `why` is shown to who asks what it waits for. `None` where no logind runs.
///
/// # Errors
/// logind's, or no answer within 20 s.
pub async fn delay(why: &str) -> Result<Option<Delay>, Fault> {
    within(LIMIT, async {
        let Some(bus) = running().await? else {
            return Ok(None);
        };
        // First, so that nothing is missed.
        let signals = bus.signals(MANAGER, "PrepareForShutdown").await?;
        let inhibitor = bus
            .call(MANAGER, "Inhibit", &("shutdown", "libvirt", why, "delay"))
            .await?;
        Ok(Some(Delay {
            signals,
            _inhibitor: inhibitor,
            _bus: bus,
        }))
    })
    .await
}

impl Delay {
    /// Waits until the host is about to go down; `false` if the bus has gone before.
    pub async fn shutdown(&mut self) -> bool {
        while let Some(Ok(signal)) = self.signals.next().await {
            if let Ok(true) = signal.body().deserialize() {
                return true;
            }
        }
        false
    }
}

async fn running() -> Result<Option<Bus>, Fault> {
    match Bus::open().await? {
        Some(bus) if bus.runs(MANAGER.service).await? => Ok(Some(bus)),
        _ => Ok(None),
    }
}

fn is_consent(answer: &str) -> bool {
    matches!(answer, "yes" | "challenge")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_and_a_password_mean_that_the_host_can() {
        for (answer, can) in [
            ("yes", true),
            ("challenge", true),
            ("no", false),
            ("na", false),
            ("", false),
        ] {
            assert_eq!(is_consent(answer), can, "{answer}");
        }
    }
}
