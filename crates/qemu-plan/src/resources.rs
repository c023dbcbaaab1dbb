//! What the world gives to a command line: directories, descriptors, ports, configuration, secrets.
//! The caller (`ops::start`, or the native conversion) prepares it; nothing here looks anything up.

use std::collections::BTreeMap;

use crate::props::Props;

/// What a command line needs besides the document and the capabilities.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    /// For what the line is made.
    pub purpose: Purpose,
    /// Directories of this guest.
    pub dirs: Dirs,
    /// Environment variables of the process, in order, without those that come from [`Dirs`].
    pub env: Vec<(String, String)>,
    /// Descriptor of the monitor's listening socket; without it QEMU binds the path.
    pub monitor_fd: Option<i32>,
    /// Values of qemu.conf.
    pub config: Config,
    /// What belongs to single devices, by alias; what belongs to a storage node, by its name.
    pub devices: BTreeMap<String, DeviceResources>,
    /// Encrypted secrets, by the id of the secret object.
    pub secrets: BTreeMap<String, Secret>,
    /// The model for guests with `host-model`, when it is not to be worked out from the capabilities.
    pub cpu: Option<CpuExpansion>,
    /// Time that `<clock offset='variable'>` starts at, `YYYY-MM-DDTHH:MM:SS`.
    pub rtc_base: Option<String>,
    /// The host's own SMBIOS data, for `<smbios mode='host'/>`.
    pub host_smbios: Option<domxml::sysinfo::Sysinfo>,
    /// The host's DRM render node, for displays that name none.
    pub rendernode: Option<String>,
    /// State to load instead of booting: `-incoming` value (`defer`).
    pub incoming: Option<String>,
    /// VM generation id that QEMU gets (`auto` is replaced by the caller).
    pub genid: Option<String>,
    /// First number of an fdset that is free.
    pub first_fdset: u32,
}

/// For what a command line is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Purpose {
    /// A guest is started.
    #[default]
    Start,
    /// `domxml-to-native`: nothing is opened, sockets are named by path.
    Native,
    /// A device is plugged into a running guest.
    Plug,
}

/// Directories of one guest.
#[derive(Debug, Clone, Default)]
pub struct Dirs {
    /// `/var/lib/libvirt/qemu/domain-ID-NAME`: master key, monitor socket, HOME.
    pub lib: String,
    /// `/run/libvirt/qemu/channel/ID-NAME`: sockets of agent channels without a path.
    pub channel: String,
    /// `/var/lib/libvirt/qemu/ram/ID-NAME`: file-backed memory.
    pub memory: String,
    /// Where the guest's huge pages are, by page size in KiB; the host's default size first:
    /// `/dev/hugepages/libvirt/qemu/ID-NAME`.
    pub hugepages: Vec<(u64, String)>,
    /// `/run/libvirt/qemu/dbus/ID-NAME-dbus.sock` of a guest with D-Bus graphics.
    pub dbus_socket: String,
}

/// Values of qemu.conf that appear on command lines.
#[derive(Debug, Clone)]
pub struct Config {
    /// `vnc_listen`.
    pub vnc_listen: String,
    /// `vnc_tls`, and the directory when it is on.
    pub vnc_tls: Option<TlsFiles>,
    /// `vnc_password` is set.
    pub vnc_password: bool,
    /// `vnc_sasl`.
    pub vnc_sasl: bool,
    /// `vnc_sasl_dir`.
    pub vnc_sasl_dir: Option<String>,
    /// `spice_listen`.
    pub spice_listen: String,
    /// `spice_tls` and its directory.
    pub spice_tls: Option<TlsFiles>,
    /// `spice_password` is set.
    pub spice_password: bool,
    /// `spice_sasl`.
    pub spice_sasl: bool,
    /// `spice_sasl_dir`.
    pub spice_sasl_dir: Option<String>,
    /// `vnc_allow_host_audio` and the like: audio goes to the host.
    pub nographics_allow_host_audio: bool,
    /// `chardev_tls`: whether character devices over TCP encrypt that say nothing of it.
    pub chardev_tls: bool,
    /// Certificates of character devices.
    pub chardev_files: TlsFiles,
    /// `nbd_tls`: whether disks on NBD servers are reached encrypted that say nothing of it.
    pub nbd_tls: bool,
    /// Certificates of NBD disks.
    pub nbd_files: TlsFiles,
    /// `gluster_debug_level`; libvirt's own if none is set.
    pub gluster_debug: Option<u32>,
    /// `dump_guest_core`, if set.
    pub dump_guest_core: Option<bool>,
    /// `seccomp_sandbox`: whether the sandbox is on.
    pub seccomp_sandbox: bool,
    /// `log_timestamp`.
    pub log_timestamp: bool,
    /// `set_process_name`.
    pub set_process_name: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            vnc_listen: "127.0.0.1".into(),
            vnc_tls: None,
            vnc_password: false,
            vnc_sasl: false,
            vnc_sasl_dir: None,
            spice_listen: "127.0.0.1".into(),
            spice_tls: None,
            spice_password: false,
            spice_sasl: false,
            spice_sasl_dir: None,
            nographics_allow_host_audio: false,
            chardev_tls: false,
            chardev_files: TlsFiles::default(),
            nbd_tls: false,
            nbd_files: TlsFiles::default(),
            gluster_debug: None,
            dump_guest_core: None,
            seccomp_sandbox: true,
            log_timestamp: true,
            set_process_name: false,
        }
    }
}

/// A set of X.509 files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Directory of the files.
    pub dir: String,
    /// Whether the peer must show a certificate.
    pub verify: bool,
    /// uuid of the secret that opens the private key.
    pub secret: Option<String>,
}

impl Default for TlsFiles {
    fn default() -> Self {
        Self {
            dir: "/etc/pki/qemu".into(),
            verify: true,
            secret: None,
        }
    }
}

/// A descriptor as QEMU knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FdRef {
    /// By number: the process has it from its start.
    Number(i32),
    /// By name: it was passed to the running process with `getfd`.
    Name(String),
}

impl std::fmt::Display for FdRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// What one device gets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeviceResources {
    /// Descriptors of TAP or macvtap queues.
    pub tap_fds: Vec<FdRef>,
    /// Descriptors of vhost-net queues, or of vhost-vsock or vhost-scsi.
    pub vhost_fds: Vec<FdRef>,
    /// Descriptor of the file that a character device writes to, or of an opened device.
    pub fd: Option<i32>,
    /// Listening socket of a character device.
    pub listener: Option<FdRef>,
    /// Descriptor of a log or output file, passed with `-add-fd`.
    pub log_fd: Option<i32>,
    /// Path of a helper's socket (swtpm, virtiofsd, passt, vhost-user).
    pub socket: Option<String>,
    /// Port that the caller chose: VNC or SPICE.
    pub port: Option<u16>,
    /// TLS port, or websocket port.
    pub second_port: Option<u16>,
    /// Path of a host device node (SCSI generic, USB).
    pub path: Option<String>,
    /// Descriptors of a client's that a storage node is opened by, in place of its path: QEMU gets them as one set.
    pub descriptors: Vec<i32>,
    /// Netdev properties, when the caller made the back end itself.
    pub netdev: Option<Props>,
}

/// An encrypted secret as a secret object takes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secret {
    /// Data, AES-256-CBC under the master key, base64.
    pub data: String,
    /// Initialization vector, base64.
    pub iv: String,
}

/// A model with its features, as the host gives it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuExpansion {
    /// QEMU's model name.
    pub model: String,
    /// Vendor text to show instead of the model's.
    pub vendor: Option<String>,
    /// Features with libvirt's names, and whether they are on.
    pub features: Vec<(String, bool)>,
}

impl Resources {
    /// What belongs to the device with this alias; empty when nothing was prepared.
    pub fn device(&self, alias: &str) -> DeviceResources {
        self.devices.get(alias).cloned().unwrap_or_default()
    }

    /// Whether this is for `domxml-to-native`.
    pub fn is_native(&self) -> bool {
        self.purpose == Purpose::Native
    }

    /// Path of a file in the guest's own directory.
    pub fn lib_file(&self, name: &str) -> String {
        format!("{}/{name}", self.dirs.lib)
    }
}
