//! What filling in a document has to know of the world; all of it is handed in.

use std::sync::Arc;

use crate::caps::Caps;
use crate::error::Result;
use crate::facts::Age;

/// Makes up what identifies a guest or a card. The daemon draws at random; tests count.
pub trait Ids {
    /// A MAC address within libvirt's range: `52:54:00:xx:xx:xx`, lower case.
    fn mac(&mut self) -> String;
    /// A UUID.
    fn uuid(&mut self) -> uuid::Uuid;
}

/// The QEMU binaries of the host.
pub trait Emulators {
    /// The binary for guests of an architecture that name none.
    fn default_for(&self, arch: &str) -> Option<String>;

    /// What a binary can do.
    ///
    /// # Errors
    /// When there is none at that path, or it could not be asked.
    fn caps(&self, path: &str) -> Result<Arc<Caps>>;
}

/// The part of `qemu.conf` and of the daemon's directories that documents depend on.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directories of the sockets of channels: the one in use, and those in which they were made before
    /// (`/run/libvirt/qemu/channel`, `/var/lib/libvirt/qemu/channel`).
    pub channel_dirs: Vec<String>,
    /// Directory of what guests have while they run, as `/var/lib/libvirt/qemu`.
    pub lib_dir: String,
    /// Directory of the variable stores of firmware, as `/var/lib/libvirt/qemu/nvram`.
    pub nvram_dir: String,
    /// The first security model of the host: `selinux`, `apparmor`, or `none`.
    pub security_model: String,
    /// Descriptors of the host's firmware, best first.
    pub firmware: Vec<super::Firmware>,
    /// Firmware known by path only: code and variable template (`nvram` of `qemu.conf`).
    pub legacy_firmware: Vec<(String, String)>,
    /// Which guests keep the sound of the host.
    pub host_audio: HostAudio,
}

/// Which guests without a back end for sound get none that is silent: QEMU chooses the host's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostAudio {
    /// Those with a VNC display (`vnc_allow_host_audio`).
    pub with_vnc: bool,
    /// Those without a display (`nographics_allow_host_audio`).
    pub without_graphics: bool,
}

/// Everything handed in.
pub struct Context<'a> {
    /// Architecture of the host, with libvirt's name.
    pub host_arch: &'a str,
    /// The QEMU binaries.
    pub emulators: &'a dyn Emulators,
    /// Configuration.
    pub config: &'a Config,
    /// Makes up identities.
    pub ids: &'a mut dyn Ids,
    /// Whether the document is new.
    pub age: Age,
}
