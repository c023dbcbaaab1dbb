//! The two configuration files: read at the start and again at SIGHUP.
//!
//! A reload applies all or nothing: a file with an error, or a log that cannot be opened, leaves everything
//! as it was. Settings that only a restart can apply keep their old value, and the log names them.

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
    documents: Documents,
    daemon: watch::Sender<Arc<DaemonConfig>>,
    qemu: watch::Sender<Arc<QemuConfig>>,
}

#[derive(Debug)]
struct Documents {
    daemon: Document,
    qemu: Document,
}

impl Configuration {
    /// Reads both files and sets the log up. `named` is what `--config` says.
    ///
    /// # Errors
    /// When a file or the log's settings are wrong, or an output cannot be opened.
    pub fn load(named: Option<&Path>, paths: &Paths, around: Surroundings, log: logging::Handle) -> Result<Self, StartError> {
        let daemon_file = super::absolute(named.unwrap_or(&paths.daemon_conf));
        let daemon_presence = match named {
            Some(_) => Presence::Required,
            None => Presence::Optional,
        };
        let documents = Documents {
            daemon: Document::read(&DAEMON, &daemon_file, daemon_presence)?,
            qemu: Document::read(&QEMU, &paths.qemu_conf, Presence::Optional)?,
        };
        let daemon = DaemonConfig::from_document(&documents.daemon)?;
        let qemu = QemuConfig::from_document(&documents.qemu)?;
        apply_plan(&log, Plan::new(&daemon.logging, &around)?)?;
        documents.notice();
        Ok(Self {
            daemon_file,
            daemon_presence,
            qemu_file: paths.qemu_conf.clone(),
            around,
            log,
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
        let documents = Documents {
            daemon: Document::read(&DAEMON, &self.daemon_file, self.daemon_presence)?,
            qemu: Document::read(&QEMU, &self.qemu_file, Presence::Optional)?,
        };
        let daemon = DaemonConfig::from_document(&documents.daemon)?;
        let qemu = QemuConfig::from_document(&documents.qemu)?;
        apply_plan(&self.log, Plan::new(&daemon.logging, &self.around)?)?;
        documents.notice();
        let mut changes = documents.daemon.changes_since(&self.documents.daemon);
        let of_qemu = documents.qemu.changes_since(&self.documents.qemu);
        changes.live.extend(of_qemu.live);
        changes.restart.extend(of_qemu.restart);
        self.documents = documents;
        let merged = daemon.reloaded_over(&self.daemon());
        self.daemon.send_replace(Arc::new(merged));
        self.qemu.send_replace(Arc::new(qemu));
        Ok(changes)
    }
}

impl Documents {
    fn notice(&self) {
        for document in [&self.daemon, &self.qemu] {
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

fn apply_plan(log: &logging::Handle, plan: Plan) -> Result<(), StartError> {
    log.apply(plan).map_err(|reason| StartError::Io { what: "cannot open the log", reason })
}
