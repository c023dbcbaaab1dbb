//! A scripted QEMU: answers QMP by a table, and errs where it is told to.
//!
//! In a test's own process it serves one end of a socket pair ([`FakeQemu::serve`]); as the program `fake-qemu` it
//! takes QEMU's command line and stands in for `qemu-system-x86_64` under a daemon ([`program`]).
//!
//! What is not scripted is answered as an idle guest would: run state follows `cont` and `stop`, `quit` ends.

mod cpus;
mod devices;
pub mod program;
mod relay;
pub mod script;
mod session;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub use script::{Asked, Rule, Script};
use session::{Outcome, Session};

/// A fake QEMU in this process. Dropped, its connection closes.
#[derive(Debug)]
pub struct FakeQemu {
    asked: Arc<Mutex<Vec<Asked>>>,
    count: watch::Receiver<usize>,
    inject: mpsc::UnboundedSender<String>,
    task: JoinHandle<Outcome>,
}

impl FakeQemu {
    /// Serves `stream` by `script`.
    #[must_use]
    pub fn serve(stream: UnixStream, script: Script) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (counter, count) = watch::channel(0);
        let (inject, injected) = mpsc::unbounded_channel();
        let log = Arc::clone(&asked);
        let record = move |entry: Asked| {
            let mut log = lock(&log);
            log.push(entry);
            let _nobody_waits = counter.send(log.len());
        };
        let session = Session::new(script, Box::new(record));
        let task = tokio::spawn(session.run(stream, injected));
        Self {
            asked,
            count,
            inject,
            task,
        }
    }

    /// A fake and the stream to talk to it.
    ///
    /// # Panics
    /// When the process is out of descriptors.
    #[must_use]
    #[expect(clippy::expect_used, reason = "for tests")]
    pub fn pair(script: Script) -> (Self, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        (Self::serve(ours, script), theirs)
    }

    /// What it was asked so far, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.asked).clone()
    }

    /// Names of the commands it was asked so far, but for the handshake.
    #[must_use]
    pub fn commands(&self) -> Vec<String> {
        let names = self.asked().into_iter().map(|asked| asked.execute);
        names.filter(|name| name != "qmp_capabilities").collect()
    }

    /// Waits until it was asked `count` times in all.
    pub async fn wait_for(&mut self, count: usize) {
        let _ended = self.count.wait_for(|&now| now >= count).await;
    }

    /// Sends an event.
    pub fn event(&self, name: &str, data: Value) {
        self.text(&session::event_line(name, &data));
    }

    /// Sends `text` as it is.
    pub fn text(&self, text: &str) {
        let _ended = self.inject.send(text.to_owned());
    }

    /// Closes the connection.
    pub fn close(&self) {
        self.task.abort();
    }
}

impl Drop for FakeQemu {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(asked: &Mutex<Vec<Asked>>) -> MutexGuard<'_, Vec<Asked>> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}
