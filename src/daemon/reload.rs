//! The configuration files: read at the start and again at SIGHUP.
//!
//! A reload applies all or nothing: a file with an error, or a log that cannot be opened, leaves everything
//! as it was. What the administrator set meanwhile stays, where the file says what it said before. Settings that only a restart can apply keep their old value, and the log names them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use super::StartError;
use crate::config::{Changes, DAEMON, DaemonConfig, Document, Presence, QEMU, QemuConfig};
use crate::logging::{self, Plan, Surroundings};
use crate::paths::Paths;

/// The settings in force, and where they come from.
#[derive(Debug)]
pub struct Configuration {
    daemon_file: PathBuf,
    daemon_presence: Presence,
    qemu_file: PathBuf,
    around: Surroundings,
    log: logging::Handle,
    /// The log as the file and the surroundings have it; the administrator may have changed it since.
    plan: Plan,
    documents: Documents,
    daemon: watch::Sender<Arc<DaemonConfig>>,
    qemu: watch::Sender<Arc<QemuConfig>>,
}

#[derive(Debug)]
struct Documents {
    daemon: Document,
    qemu: Document,
    lockd: Option<Document>,
}

impl Configuration {
    /// Reads both files and sets the log up. `named` is what `--config` says.
    ///
    /// # Errors
    /// When a file or the log's settings are wrong, or an output cannot be opened.
    pub fn load(
        named: Option<&Path>,
        paths: &Paths,
        around: Surroundings,
        log: logging::Handle,
    ) -> Result<Self, StartError> {
        let daemon_file = super::absolute(named.unwrap_or(&paths.daemon_conf));
        let daemon_presence = match named {
            Some(_) => Presence::Required,
            None => Presence::Optional,
        };
        let documents = Documents::read(&daemon_file, daemon_presence, &paths.qemu_conf)?;
        let daemon = DaemonConfig::from_document(&documents.daemon)?;
        let qemu = documents.qemu_config()?;
        let plan = Plan::new(&daemon.logging, &around)?;
        log.configure(&plan, None).map_err(no_log)?;
        documents.notice();
        Ok(Self {
            daemon_file,
            daemon_presence,
            qemu_file: paths.qemu_conf.clone(),
            around,
            log,
            plan,
            documents,
            daemon: watch::Sender::new(Arc::new(daemon)),
            qemu: watch::Sender::new(Arc::new(qemu)),
        })
    }

    /// virtqemud.conf as it is in force.
    #[must_use]
    pub fn daemon(&self) -> Arc<DaemonConfig> {
        Arc::clone(&self.daemon.borrow())
    }

    /// Follows virtqemud.conf.
    #[must_use]
    pub fn watch_daemon(&self) -> watch::Receiver<Arc<DaemonConfig>> {
        self.daemon.subscribe()
    }

    /// Follows qemu.conf.
    #[must_use]
    pub fn watch_qemu(&self) -> watch::Receiver<Arc<QemuConfig>> {
        self.qemu.subscribe()
    }

    /// The log, and what beside the file has a say in it.
    pub(super) fn log(&self) -> (logging::Handle, Surroundings) {
        (self.log.clone(), self.around.clone())
    }

    /// Reads both files again.
    pub(super) fn reload(&mut self) {
        match self.try_reload() {
            Ok(changes) => {
                tracing::info!(applied = %changes.live.join(","), "configuration read again");
                if !changes.restart.is_empty() {
                    tracing::warn!(settings = %changes.restart.join(","), "changed settings wait for a restart");
                }
            }
            Err(error) => {
                tracing::error!(%error, "configuration not reloaded: everything stays as it was")
            }
        }
    }

    fn try_reload(&mut self) -> Result<Changes, StartError> {
        let documents = Documents::read(&self.daemon_file, self.daemon_presence, &self.qemu_file)?;
        let daemon = DaemonConfig::from_document(&documents.daemon)?;
        let mut qemu = documents.qemu_config()?;
        // Guests that run have leases, or have none.
        qemu.lockd.clone_from(&self.qemu.borrow().lockd);
        let plan = Plan::new(&daemon.logging, &self.around)?;
        self.log.configure(&plan, Some(&self.plan)).map_err(no_log)?;
        self.plan = plan;
        documents.notice();
        let mut changes = documents.daemon.changes_since(&self.documents.daemon);
        let of_qemu = documents.qemu.changes_since(&self.documents.qemu);
        let of_lockd = documents
            .lockd
            .as_ref()
            .zip(self.documents.lockd.as_ref())
            .map(|(new, old)| new.changes_since(old));
        for more in [of_qemu, of_lockd.unwrap_or_default()] {
            changes.live.extend(more.live);
            changes.restart.extend(more.restart);
        }
        self.documents = documents;
        let merged = daemon.reloaded_over(&self.daemon());
        self.daemon.send_replace(Arc::new(merged));
        self.qemu.send_replace(Arc::new(qemu));
        Ok(changes)
    }
}

impl Documents {
    fn read(daemon: &Path, presence: Presence, qemu: &Path) -> Result<Self, StartError> {
        let daemon = Document::read(&DAEMON, daemon, presence)?;
        let qemu = Document::read(&QEMU, qemu, Presence::Optional)?;
        Ok(Self {
            lockd: QemuConfig::lockd_document(&qemu)?,
            daemon,
            qemu,
        })
    }

    fn qemu_config(&self) -> Result<QemuConfig, StartError> {
        Ok(QemuConfig::from_document(&self.qemu, self.lockd.as_ref())?)
    }

    fn notice(&self) {
        for document in [&self.daemon, &self.qemu].into_iter().chain(&self.lockd) {
            for notice in document.notices() {
                tracing::warn!(
                    file = %document.file().display(),
                    line = notice.line,
                    key = notice.key,
                    about = notice.about,
                    "odd setting"
                );
            }
        }
    }
}

fn no_log(reason: io::Error) -> StartError {
    StartError::Io {
        what: "cannot open the log",
        reason,
    }
}
