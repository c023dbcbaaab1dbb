//! `<domstatus>`: the daemon's own file of a running guest, libvirt's format.
//!
//! Either daemon reads what the other wrote, so it says all that a daemon must know to take a
//! guest over: how to reach QEMU, what is under way, and the guest itself in its fullest form.
//! What another daemon wrote and no field names is kept.
#![expect(
    missing_docs,
    reason = "fields are libvirt's elements; units and limits are documented"
)]

mod jobs;

pub use jobs::*;

use xmlform::{AnyXml, Document, FormatFlags, ParseFlags, Rest, Writer, Xml};

use crate::cpu::Cpu;
use crate::devices::common::{YesNo, words};
use crate::parse::read_root;
use crate::{Bitmap, Domain, Error};

words! {
    /// State of a guest.
    DomainState {
        NoState "no state", Running "running", Blocked "idle", Paused "paused",
        Shutdown "in shutdown", Shutoff "shut off", Crashed "crashed",
        PmSuspended "pmsuspended",
    }
}

/// The forms of everything in the file.
/// How the documents in a status file are read.
pub const PARSE: ParseFlags = ParseFlags::STATUS
    .with(ParseFlags::ACTUAL_NET)
    .with(ParseFlags::PCI_ORIG_STATES);
/// How the documents in a status file are written.
pub const FORMAT: FormatFlags = FormatFlags::SECURE
    .with(FormatFlags::STATUS)
    .with(FormatFlags::ACTUAL_NET)
    .with(FormatFlags::PCI_ORIG_STATES)
    .with(FormatFlags::CLOCK_ADJUST);

/// A running guest, as a daemon keeps it.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct StatusDocument {
    #[xml(attr, error = "internal error: invalid domain state '{}'")]
    pub state: DomainState,
    /// In the words of the state.
    #[xml(attr, error = "internal error: invalid domain state reason '{}'")]
    pub reason: String,
    /// QEMU's process.
    #[xml(attr, error = "internal error: invalid pid")]
    pub pid: i32,
    #[xml(children = "taint")]
    pub taints: Vec<Taint>,
    #[xml(text_child = "deprecation")]
    pub deprecations: Vec<String>,
    #[xml(child)]
    pub monitor: Option<Monitor>,
    #[xml(flag = "dbusDaemon")]
    pub dbus_daemon: bool,
    #[xml(flag = "dbusVMState")]
    pub dbus_vm_state: bool,
    #[xml(child)]
    pub namespaces: Option<Namespaces>,
    #[xml(children = "vcpu", wrap = "vcpus")]
    pub vcpus: Vec<VcpuThread>,
    /// Capabilities of the QEMU that runs, by libvirt's names.
    #[xml(children = "flag", wrap = "qemuCaps")]
    pub qemu_caps: Vec<CapabilityFlag>,
    #[xml(text_child)]
    pub lockstate: Option<String>,
    /// What was under way.
    #[xml(child)]
    pub job: Option<Job>,
    #[xml(flag)]
    pub fakereboot: bool,
    /// Devices QEMU has.
    #[xml(children = "device", wrap = "devices")]
    pub devices: Vec<DeviceAlias>,
    #[xml(child)]
    pub numad: Option<Numad>,
    #[xml(attr = "path", wrap = "libDir")]
    pub lib_dir: Option<String>,
    #[xml(attr = "path", wrap = "channelTargetDir")]
    pub channel_target_dir: Option<String>,
    #[xml(attr = "path", wrap = "memoryBackingDir")]
    pub memory_backing_dir: Option<String>,
    /// The CPU as it was asked for.
    #[xml(child)]
    pub cpu: Option<Cpu>,
    #[xml(flag = "chardevStdioLogd")]
    pub chardev_stdio_logd: bool,
    #[xml(flag = "rememberOwner")]
    pub remember_owner: bool,
    #[xml(attr = "value", wrap = "allowReboot")]
    pub allow_reboot: Option<YesNo>,
    #[xml(flag = "prDaemon")]
    pub pr_daemon: bool,
    /// Number of the last block node.
    #[xml(attr = "index", wrap = "nodename")]
    pub nodename: Option<u64>,
    /// Number of the next set of descriptors.
    #[xml(attr = "index", wrap = "fdset")]
    pub fdset: Option<u64>,
    #[xml(flag = "memPrealloc")]
    pub mem_prealloc: bool,
    #[xml(child)]
    pub blockjobs: Option<BlockJobs>,
    #[xml(child)]
    pub slirp: Option<AnyXml>,
    /// Seconds to wait for the agent; -2 without end, -1 the default.
    #[xml(text_child = "agentTimeout")]
    pub agent_timeout: Option<i32>,
    #[xml(child)]
    pub backups: Option<Backups>,
    /// Bytes QEMU could lock before the daemon raised it.
    #[xml(text_child = "originalMemlock")]
    pub original_memlock: Option<u64>,
    #[xml(text_child = "preMigrationMemlock")]
    pub pre_migration_memlock: Option<u64>,
    /// Elements of another daemon.
    #[xml(rest)]
    pub rest: Rest,
    #[xml(child)]
    pub domain: Domain,
}

impl StatusDocument {
    /// Reads a status file.
    ///
    /// # Errors
    /// When it is not XML, its root is not `<domstatus>`, or a value is not of its type.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut status: Self = read_root(text, "domstatus", PARSE)?;
        let disks = &mut status.domain.devices.disks;
        disks
            .iter_mut()
            .filter_map(|disk| disk.source.as_mut())
            .for_each(crate::devices::Source::settle_place);
        Ok(status)
    }

    /// The file's text.
    #[must_use]
    pub fn format(&self) -> String {
        let mut w = Writer::new(FORMAT);
        w.element("domstatus", self);
        w.finish()
    }
}

/// Whether a text is a status file, by its root.
#[must_use]
pub fn is_status(text: &str) -> bool {
    let document = Document::parse(text, &[], PARSE);
    document.is_ok_and(|d| d.root().is("domstatus"))
}

/// Something that makes a guest hard to support.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Taint {
    #[xml(attr)]
    pub flag: String,
}

/// Where QEMU's monitor is.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Monitor {
    #[xml(attr, error = "internal error: no monitor path")]
    pub path: String,
    #[xml(attr = "type")]
    pub kind: Option<String>,
}

/// Namespaces that QEMU has of its own.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    #[xml(flag)]
    pub mount: bool,
}

/// Thread of a CPU.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuThread {
    #[xml(attr)]
    pub id: u32,
    #[xml(attr)]
    pub pid: i32,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct CapabilityFlag {
    #[xml(attr)]
    pub name: String,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceAlias {
    #[xml(attr)]
    pub alias: String,
}

/// What automatic placement chose.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Numad {
    #[xml(attr)]
    pub nodeset: Option<Bitmap>,
    #[xml(attr)]
    pub cpuset: Option<Bitmap>,
}
