//! `<domainbackup>`: disks that are copied as they are at one moment, to targets or for a client to fetch.
//!
//! One type for all three forms: what a client gives, what clients are shown while it runs, and what the status file keeps
//! of it, which says also how far each disk is and what QEMU has for it. What another daemon wrote into a status file and no
//! field names is kept.

use xmlform::{Document, FormatFlags, ParseFlags, Rest, Writer, Xml};

use crate::devices::common::{YesNo, words};
use crate::devices::{Source, SourceObjects, StorageFormat, StorageKind};
use crate::status::Open;
use crate::{Area, Error};

words! {
    /// Who copies: QEMU to targets, or a client what QEMU serves.
    BackupMode { Push "push", Pull "pull" }
    /// How much of a disk is copied.
    BackupExtent { Full "full", Incremental "incremental" }
    /// How far a disk is.
    BackupState {
        Running "running", Complete "complete", Failed "failed", Cancelling "cancelling", Cancelled "cancelled",
    }
    /// How a client reaches what is served.
    BackupTransport { Tcp "tcp", Unix "unix", Fd "fd" }
}

/// A backup.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Backup {
    /// Who copies.
    #[xml(attr, default, always)]
    pub mode: Open<BackupMode>,
    /// Checkpoint since which changes are copied, of disks that name none.
    #[xml(text_child)]
    pub incremental: Option<String>,
    /// Where a pull backup is served.
    #[xml(child)]
    pub server: Option<BackupServer>,
    /// How each disk takes part.
    #[xml(children = "disk", wrap = "disks")]
    pub disks: Vec<BackupDisk>,
    /// What the daemon keeps of it while it runs.
    #[xml(child = "privateData", when = "status")]
    pub private_data: Option<BackupPrivate>,
    /// What no field names.
    #[xml(rest)]
    pub rest: Rest,
}

/// Where a pull backup is served.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupServer {
    /// How it is reached.
    #[xml(attr, default, always)]
    pub transport: Open<BackupTransport>,
    /// Whether connections are encrypted.
    #[xml(attr)]
    pub tls: Option<YesNo>,
    /// Name or address of the host.
    #[xml(attr)]
    pub name: Option<String>,
    /// Its port.
    #[xml(attr)]
    pub port: Option<u32>,
    /// Path of the socket.
    #[xml(attr)]
    pub socket: Option<String>,
    /// Name of a set of descriptors that a client handed over.
    #[xml(attr)]
    pub fdgroup: Option<String>,
    /// What no field names.
    #[xml(rest)]
    pub rest: Rest,
}

/// A disk in a backup.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct BackupDisk {
    /// Target name of the disk.
    #[xml(attr)]
    pub name: String,
    /// Whether the disk is part of it.
    #[xml(attr)]
    pub backup: Option<YesNo>,
    /// How far it is.
    #[xml(attr, when = "status")]
    pub state: Option<Open<BackupState>>,
    /// Kind of the place.
    #[xml(attr = "type")]
    pub kind: Option<StorageKind>,
    /// How much of it is copied.
    #[xml(attr)]
    pub backupmode: Option<BackupExtent>,
    /// Checkpoint since which changes are copied.
    #[xml(attr)]
    pub incremental: Option<String>,
    /// Name of the export.
    #[xml(attr)]
    pub exportname: Option<String>,
    /// Name of the bitmap that shows what was changed.
    #[xml(attr)]
    pub exportbitmap: Option<String>,
    /// Number of the node it is written to.
    #[xml(attr)]
    pub index: Option<u32>,
    /// Format of the image that is written.
    #[xml(attr = "type", wrap = "driver")]
    pub format: Option<StorageFormat>,
    /// Where a push backup writes.
    #[xml(child)]
    pub target: Option<Source>,
    /// Where a pull backup keeps what the guest writes over.
    #[xml(child)]
    pub scratch: Option<Source>,
    /// What no field names.
    #[xml(rest)]
    pub rest: Rest,
}

/// What the daemon keeps of a backup while it runs.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupPrivate {
    /// Objects of its server.
    #[xml(child)]
    pub objects: Option<SourceObjects>,
    /// What no field names.
    #[xml(rest)]
    pub rest: Rest,
}

impl Backup {
    /// Reads a client's document.
    ///
    /// # Errors
    /// The first thing that is wrong with it, in libvirt's words.
    pub fn given(text: &str) -> Result<Self, Error> {
        let document = Document::parse(text, &[], ParseFlags::INACTIVE)?;
        let root = super::rooted(&document, "domainbackup")?;
        let mut read = Self::read(root)?;
        read.private_data = None;
        read.rest = Rest::default();
        for disk in &mut read.disks {
            (disk.state, disk.index, disk.rest) = (None, None, Rest::default());
        }
        if let Some(server) = &mut read.server {
            server.rest = Rest::default();
            server.check()?;
        }
        Ok(read)
    }

    /// The document as clients are shown it.
    #[must_use]
    pub fn format(&self) -> String {
        let mut w = Writer::new(FormatFlags::NONE);
        w.element("domainbackup", self);
        w.finish()
    }

    /// Whether a client fetches what is copied.
    #[must_use]
    pub fn is_pull(&self) -> bool {
        self.mode.known() == Some(BackupMode::Pull)
    }

    /// The disks that take part.
    pub fn parts(&self) -> impl Iterator<Item = &BackupDisk> {
        self.disks.iter().filter(|disk| disk.takes_part())
    }
}

impl BackupServer {
    fn check(&self) -> Result<(), Error> {
        let socket = self.socket.as_deref().unwrap_or_default();
        if self.transport.known() == Some(BackupTransport::Unix) && !socket.starts_with('/') {
            let said = format!("backup socket path '{socket}' must be absolute");
            return Err(Error::xml(said).in_area(Area::Domain));
        }
        Ok(())
    }
}

impl BackupDisk {
    /// Whether it takes part.
    #[must_use]
    pub fn takes_part(&self) -> bool {
        self.backup == Some(YesNo::Yes)
    }

    /// Where it is written: the target, or what the guest writes over.
    #[must_use]
    pub fn store(&self) -> Option<&Source> {
        self.target.as_ref().or(self.scratch.as_ref())
    }

    /// Whether nothing is to come of it any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        use BackupState as S;
        let state = self.state.as_ref().and_then(Open::known);
        matches!(state, Some(S::Complete | S::Failed | S::Cancelled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PULL: &str = "<domainbackup mode='pull'>
  <incremental>k1</incremental>
  <server transport='tcp' name='127.0.0.1' port='10997'/>
  <disks>
    <disk name='vda' backup='yes' type='file' backupmode='incremental' incremental='k1' exportname='exp' exportbitmap='ebm' index='13'>
      <driver type='qcow2'/>
      <scratch file='/tmp/w/scr2.qcow2'/>
    </disk>
    <disk name='vdb' backup='no'/>
  </disks>
</domainbackup>
";

    #[test]
    fn what_clients_are_shown_can_be_given_again() {
        let mut read = Backup::given(PULL).unwrap();
        assert_eq!(read.disks[0].index, None);
        read.disks[0].index = Some(13);
        assert_eq!(read.format(), PULL);
        assert!(read.is_pull());
        assert_eq!(read.parts().count(), 1);
        assert_eq!(
            Backup::given("<domainbackup/>").unwrap().format(),
            "<domainbackup mode='push'/>\n"
        );
    }

    #[test]
    fn clients_are_not_shown_what_the_daemon_keeps() {
        let mut read = Backup::given(PULL).unwrap();
        read.disks[0].state = Some(Open::Known(BackupState::Running));
        read.private_data = Some(BackupPrivate::default());
        assert!(!read.format().contains("state=") && !read.format().contains("privateData"));
        let mut w = Writer::new(crate::status::FORMAT);
        w.element("domainbackup", &read);
        assert!(
            w.finish()
                .contains("<disk name='vda' backup='yes' state='running' type='file'")
        );
    }

    #[test]
    fn wrong_documents_are_refused_in_libvirts_words() {
        let said = |text: &str| Backup::given(text).unwrap_err().message;
        assert_eq!(
            said("<backup/>"),
            "expecting root element of 'domainbackup', not 'backup'"
        );
        assert_eq!(
            said("<domainbackup mode='pull'><server transport='unix' socket='a'/></domainbackup>"),
            "backup socket path 'a' must be absolute"
        );
    }
}
