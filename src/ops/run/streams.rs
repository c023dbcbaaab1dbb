//! Pulls that have ended and are not dismissed: QEMU must not be asked about its block nodes meanwhile.
//!
//! QEMU 10.0.2 ends with a segmentation fault if `query-named-block-nodes` comes between the end of a stream, however it
//! ended, and its dismissal, whether the guest runs or not. So a pull is dismissed as soon as its end is told or found, and
//! whoever asks about nodes waits here until then. A daemon that comes to a guest with pulls does not know how they stand:
//! until it has asked, they count as over. What remains is a pull that ends while such a question is on its way to QEMU.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use super::jobs::CONCLUDED;
use crate::error::{Code, Error, Result};

/// How names of pulls begin, in libvirt's scheme.
const PULL: &str = "pull-";
/// How long it is waited for the dismissal of one.
const PATIENCE: Duration = Duration::from_secs(20);

/// The pulls of one QEMU that have ended.
#[derive(Debug, Default)]
pub(crate) struct Streams {
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
