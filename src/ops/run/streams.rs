//! Pulls that have ended and are not dismissed: QEMU must not be asked about its block nodes meanwhile.
//!
//! QEMU 10.0.2 ends with a segmentation fault if `query-named-block-nodes` comes between the end of a stream, however it
//! ended, and its dismissal, whether the guest runs or not. So a pull is dismissed as soon as its end is told or found, and
//! whoever asks about nodes waits here until then. A daemon that comes to a guest with pulls does not know how they stand:
//! until it has asked, they count as over. A pull that is at work could end while such a question is on its way to QEMU: it
//! stands meanwhile ([`Asking`]), a matter of milliseconds.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use qmp::{Command, commands};
use tokio::sync::{OwnedMutexGuard, watch};

use super::jobs::CONCLUDED;
use crate::{
    error::{Code, Error, Result},
    qemu::Monitor,
};

/// How names of pulls begin, in libvirt's scheme.
const PULL: &str = "pull-";
/// How long it is waited for the dismissal of one.
const PATIENCE: Duration = Duration::from_secs(20);

/// The state of a job that stands.
const PAUSED: &str = "paused";
/// States in which a job will stand soon.
const AT_WORK: [&str; 2] = ["created", "running"];
/// Between two questions whether a pull stands.
const SOON: Duration = Duration::from_millis(2);
/// How often that is asked.
const QUESTIONS: u32 = 100;

/// The pulls of one QEMU that have ended.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Who asks about nodes while there are pulls: one at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
    over: watch::Sender<BTreeSet<String>>,
    /// Why those that were dismissed had failed, until somebody has seen to it.
    errors: Mutex<HashMap<String, String>>,
}

impl Streams {
    /// QEMU has told a job's state.
    pub(crate) fn tell(&self, id: &str, state: &str) {
        match state {
            CONCLUDED => self.may_be_over(id),
            "null" => self.is_gone(id),
            _ => {}
        }
    }

    /// A job may have ended: it is waited for until somebody says otherwise.
    pub(crate) fn may_be_over(&self, id: &str) {
        if id.starts_with(PULL) {
            self.over.send_if_modified(|over| over.insert(id.to_owned()));
        }
    }

    /// A job is at work, or QEMU has it no more.
    pub(crate) fn is_gone(&self, id: &str) {
        self.over.send_if_modified(|over| over.remove(id));
    }

    /// Waits until all that have ended are dismissed.
    ///
    /// # Errors
    /// `OperationTimeout` if one is not.
    pub(crate) async fn dismissed(&self) -> Result<()> {
        self.dismissed_within(PATIENCE).await
    }

    async fn dismissed_within(&self, limit: Duration) -> Result<()> {
        let mut over = self.over.subscribe();
        // The sender is ours.
        if tokio::time::timeout(limit, over.wait_for(BTreeSet::is_empty))
            .await
            .is_ok()
        {
            return Ok(());
        }
        let text = "a block job has ended and is not dismissed: QEMU can't be asked about its block nodes";
        Err(Error::new(Code::OperationTimeout, text))
    }

    /// QEMU may be asked about its nodes as long as the answer lives. `pulls` are those that there are.
    ///
    /// # Errors
    /// As [`Self::dismissed`]; QEMU does not answer.
    pub(crate) async fn may_ask(&self, monitor: &Monitor, pulls: impl Fn() -> Vec<String>) -> Result<Asking> {
        loop {
            self.dismissed().await?;
            if pulls().is_empty() {
                return Ok(Asking::default());
            }
            let turn = Arc::clone(&self.turn).lock_owned().await;
            let mut asking = Asking {
                paused: Some((monitor.clone(), Vec::new())),
                turn: Some(turn),
            };
            match asking.pause(pulls()).await? {
                None => return Ok(asking),
                // Its end has come first: its dismissal is waited for.
                Some(over) => self.may_be_over(&over),
            }
        }
    }

    /// Keeps why one failed.
    pub(crate) fn failed(&self, id: &str, error: String) {
        self.errors().insert(id.to_owned(), error);
    }

    /// Why one failed; once.
    pub(crate) fn take_error(&self, id: &str) -> Option<String> {
        self.errors().remove(id)
    }

    fn errors(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// QEMU is asked about its nodes. Dropped, pulls go on.
#[derive(Debug, Default)]
pub(crate) struct Asking {
    paused: Option<(Monitor, Vec<String>)>,
    turn: Option<OwnedMutexGuard<()>>,
}

impl Asking {
    /// Has pulls stand; one that has ended, if there is one.
    async fn pause(&mut self, pulls: Vec<String>) -> Result<Option<String>> {
        let Some((monitor, paused)) = &mut self.paused else {
            return Ok(None);
        };
        for id in pulls {
            paused.push(id.clone());
            match monitor.execute(commands::JobPause { id }).await {
                Ok(_) => {}
                // It is not there yet or not any more, or is about to end: its state tells.
                Err(error) if !error.is_unknown() => drop(paused.pop()),
                Err(error) => return Err(error),
            }
        }
        for _ in 0..QUESTIONS {
            let jobs = monitor.execute(commands::QueryJobs {}).await?;
            let mut moving = jobs
                .iter()
                .filter(|job| job.id.starts_with(PULL) && job.status != PAUSED);
            match moving.next() {
                None => return Ok(None),
                Some(job) if !AT_WORK.contains(&job.status.as_str()) => return Ok(Some(job.id.clone())),
                Some(_) => tokio::time::sleep(SOON).await,
            }
        }
        // Such a pull waits for its images: it does not end now.
        Ok(None)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let Some((monitor, paused)) = self.paused.take().filter(|(_, paused)| !paused.is_empty()) else {
            return;
        };
        // Whoever asks next comes after that.
        let turn = self.turn.take();
        tokio::spawn(async move {
            let _turn = turn;
            for id in paused {
                go_on(&monitor, id).await;
            }
        });
    }
}

/// Has a pull go on that stands.
pub(crate) async fn go_on(monitor: &Monitor, id: String) {
    let named = id.clone();
    if let Err(error) = monitor.execute(commands::JobResume { id }).await {
        tracing::warn!(job = named, %error, "a pull stands");
    }
}

/// Whether a command has QEMU look at all its nodes.
pub(crate) fn is_about_nodes<C: Command>() -> bool {
    C::NAME == commands::QueryNamedBlockNodes::NAME
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nodes_are_asked_about_once_pulls_that_ended_are_dismissed() {
        let streams = Streams::default();
        let soon = Duration::from_millis(20);
        streams.tell("copy-vda-libvirt-1-format", CONCLUDED);
        streams.tell("pull-vda-libvirt-1-format", "running");
        assert!(streams.dismissed_within(soon).await.is_ok());
        streams.tell("pull-vda-libvirt-1-format", CONCLUDED);
        let error = streams.dismissed_within(soon).await.unwrap_err();
        assert_eq!(error.code, Code::OperationTimeout);
        let (waited, ()) = tokio::join!(streams.dismissed(), async {
            tokio::task::yield_now().await;
            streams.tell("pull-vda-libvirt-1-format", "null");
        });
        assert!(waited.is_ok());
        streams.may_be_over("pull-vdb-libvirt-2-format");
        assert!(streams.dismissed_within(soon).await.is_err());
        streams.is_gone("pull-vdb-libvirt-2-format");
        assert!(streams.dismissed_within(soon).await.is_ok());
    }
}
