//! What `qemu.conf` says, as values that start and run guests.

use std::path::PathBuf;
use std::time::Duration;

use super::document::{Document, Error, Presence};
use super::lockd::{LOCKD, LockdConfig};

/// The program that gives ports of bridges.
const BRIDGE_HELPER: &str = "qemu-bridge-helper";

/// The file's settings, those that are honoured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuConfig {
    /// Whom QEMU runs as.
    pub identity: Identity,
    /// Whom emulators of TPMs run as.
    pub swtpm: HelperIdentity,
    /// What keeps guests in.
    pub guard: Guard,
    /// Limits of a guest's process.
    pub limits: ProcessLimits,
    /// Certificates of character devices over TCP.
    pub chardev_tls: Tls,
    /// Certificates of disks on NBD servers.
    pub nbd_tls: Tls,
    /// Encryption of the servers of pull backups.
    pub backup_tls: Tls,
    /// VNC displays.
    pub vnc: Vnc,
    /// SPICE displays.
    pub spice: Spice,
    /// Ports of displays.
    pub display_ports: PortRange,
    /// Ports of VNC over WebSocket.
    pub websocket_ports: PortRange,
    /// Sound of the host.
    pub audio: Audio,
    /// Formats of saved state.
    pub save_format: SaveFormats,
    /// What happens to guests when the host goes down and comes up.
    pub auto: Auto,
    /// Directories set by the administrator.
    pub paths: Paths,
    /// Calls that may wait on one guest; `None` for no limit.
    pub max_queued: Option<usize>,
    /// Show processes as `qemu:NAME`.
    pub set_process_name: bool,
    /// Where QEMU's messages go.
    pub stdio_handler: StdioHandler,
    /// Have QEMU put the time before its messages.
    pub log_timestamp: bool,
    /// `FIRMWARE:VARIABLES` pairs; `None` for the built-in ones.
    pub nvram: Option<Vec<(PathBuf, PathBuf)>>,
    /// Program that makes persistent reservations of SCSI disks: a path, or a name.
    pub pr_helper: String,
    /// Program that is the message bus of a D-Bus display.
    pub dbus_daemon: String,
    /// Have virtiofsd log in detail.
    pub virtiofsd_debug: bool,
    /// How much QEMU's GlusterFS driver logs.
    pub gluster_debug_level: u32,
    /// Drop what guests send to bridges under a foreign MAC address.
    pub mac_filter: bool,
    /// Program that gives the guests of one user ports of bridges: a path, or a name.
    pub bridge_helper: String,
    /// Names of QEMU capabilities to do without.
    pub capability_filters: Vec<String>,
    /// What QEMU does about deprecated interfaces: "none", "omit", "reject" or "crash".
    pub deprecation_behavior: String,
    /// Who shares a core with nobody else.
    pub sched_core: SchedCore,
    /// Leases of disks through virtlockd; none: disks have no leases.
    pub lockd: Option<LockdConfig>,
}

/// Which threads of a guest share the hardware threads of a core with nobody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchedCore {
    /// None.
    None,
    /// Those of its CPUs.
    Vcpus,
    /// All of its QEMU.
    Emulator,
}

/// Whom QEMU runs as, as the file writes it: a name, a number, or "+number".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub user: String,
    /// Group.
    pub group: String,
    /// Give files to them while a guest uses them.
    pub dynamic_ownership: bool,
    /// Set the former owner back afterwards.
    pub remember_owner: bool,
    /// Show owners of guests whose documents do not name any.
    pub labelled: bool,
}

/// Whom a helper runs as, written as in [`Identity`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelperIdentity {
    /// User.
    pub user: String,
    /// Group.
    pub group: String,
}

/// What keeps guests in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// Controllers to use; `None` for all there are.
    pub cgroup_controllers: Option<Vec<String>>,
    /// Device nodes that every guest may use.
    pub device_acl: Vec<PathBuf>,
    /// QEMU's system call filter; `None` for where QEMU can.
    pub seccomp_sandbox: Option<bool>,
    /// A mount namespace of each guest's own.
    pub mount_namespace: bool,
    /// Take all privileges from QEMU.
    pub clear_capabilities: bool,
}

/// Limits of a guest's process; `None` leaves the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessLimits {
    /// Processes of the user.
    pub processes: Option<u64>,
    /// Open files.
    pub files: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// Core dump.
    pub core: CoreLimit,
    /// Guest memory in a core dump, where the XML does not say.
    pub dump_guest_core: bool,
}

/// Largest core dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoreLimit {
    /// Any size.
    Unlimited,
    /// Bytes; 0 for none.
    Bytes(u64),
}

/// Encryption of one kind of connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Encrypt what says nothing of it.
    pub on: bool,
    /// Directory of the certificates; `None` for the default ones.
    pub cert_dir: Option<PathBuf>,
    /// Directory of the default certificates.
    pub default_dir: PathBuf,
    /// Whether clients must show a certificate.
    pub verify: bool,
    /// Secret that opens the private key.
    pub secret: Option<uuid::Uuid>,
}

/// VNC displays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vnc {
    /// Address of displays whose XML names none.
    pub listen: String,
    /// Use a Unix socket instead of that address.
    pub auto_unix_socket: bool,
    /// Encryption.
    pub tls: Tls,
    /// Password of displays whose XML gives none.
    pub password: Option<String>,
    /// SASL.
    pub sasl: bool,
    /// Directory of SASL's configuration.
    pub sasl_dir: Option<PathBuf>,
}

/// SPICE displays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spice {
    /// Address of displays whose XML names none.
    pub listen: String,
    /// Use a Unix socket instead of that address.
    pub auto_unix_socket: bool,
    /// Encryption.
    pub tls: Tls,
    /// Password of displays whose XML gives none.
    pub password: Option<String>,
    /// SASL.
    pub sasl: bool,
    /// Directory of SASL's configuration.
    pub sasl_dir: Option<PathBuf>,
}

/// Ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// First.
    pub min: u16,
    /// Last.
    pub max: u16,
}

/// When the host's sound is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audio {
    /// With a VNC display.
    pub with_vnc: bool,
    /// Without a display.
    pub without_graphics: bool,
}

/// Formats of saved state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaveFormats {
    /// Saved guests.
    pub save: SaveFormat,
    /// Crash dumps.
    pub dump: SaveFormat,
    /// Memory of external snapshots.
    pub snapshot: SaveFormat,
}

/// Format of a memory image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the format of its name")]
pub enum SaveFormat {
    Raw,
    Gzip,
    Bzip2,
    Xz,
    Lzop,
    Zstd,
    Sparse,
}

/// What happens to guests when the host comes up and goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Auto {
    /// Between the starts of two guests.
    pub start_delay: Duration,
    /// Restore past the page cache.
    pub start_bypass_cache: bool,
    /// Dump past the page cache.
    pub dump_bypass_cache: bool,
    /// Save past the page cache.
    pub save_bypass_cache: bool,
    /// Guests to save; `None`: by the kind of daemon.
    pub try_save: Option<AutoShutdown>,
    /// Guests to shut down; likewise.
    pub try_shutdown: Option<AutoShutdown>,
    /// Guests to switch off; likewise.
    pub poweroff: Option<AutoShutdown>,
    /// Time for shutting down.
    pub wait: Duration,
    /// Start them again when the host is back.
    pub restore: bool,
}

impl Auto {
    /// Whether anything is done to guests when the daemon is shut down. What is not set is nothing for the system's daemon.
    #[must_use]
    pub fn handles_guests(&self, system: bool) -> bool {
        let of = [self.try_save, self.try_shutdown, self.poweroff];
        of.into_iter()
            .any(|guests| guests.map_or(!system, |guests| guests != AutoShutdown::None))
    }

    /// What is done to guests when the daemon is shut down or the host goes down. What is not set is nothing for the system's
    /// daemon; a session's saves what it can and ends the others.
    #[must_use]
    pub fn at_end(&self, system: bool) -> GuestsAtEnd {
        let usual = |of_session| if system { AutoShutdown::None } else { of_session };
        GuestsAtEnd {
            save: self.try_save.unwrap_or(usual(AutoShutdown::Persistent)),
            shutdown: self.try_shutdown.unwrap_or(usual(AutoShutdown::All)),
            poweroff: self.poweroff.unwrap_or(usual(AutoShutdown::All)),
        }
    }
}

/// What is done to which guests at the end, each of it to those for whom the one before failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestsAtEnd {
    /// Managed saves.
    pub save: AutoShutdown,
    /// They shut themselves down.
    pub shutdown: AutoShutdown,
    /// They are switched off.
    pub poweroff: AutoShutdown,
}

/// To which guests something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the sort of guests of its name")]
pub enum AutoShutdown {
    None,
    Persistent,
    Transient,
    All,
}

/// Directories set by the administrator; `None` for the usual ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Automatic dumps.
    pub auto_dump: Option<PathBuf>,
    /// Guest memory in files.
    pub memory_backing: Option<PathBuf>,
    /// Huge pages; `None` for what is mounted, empty for none.
    pub hugetlbfs: Option<Vec<PathBuf>>,
}

/// Where QEMU's messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StdioHandler {
    /// The guest's log file.
    File,
    /// virtlogd, or the start fails.
    Logd,
    /// virtlogd where it is there, else the guest's log file.
    LogdIfThere,
}

const SHUTDOWN_WAIT: u64 = 30;

impl QemuConfig {
    /// What holds where nothing is configured.
    #[cfg(test)]
    pub(crate) fn usual() -> Self {
        use super::{Presence, QEMU};
        let nothing =
            Document::read(&QEMU, std::path::Path::new("/nonexistent"), Presence::Optional).unwrap();
        Self::from_document(&nothing, None).unwrap()
    }

    /// The document of the lock manager's own file, beside that of `document`, where it says that there is one.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn lockd_document(document: &Document) -> Result<Option<Document>, Error> {
        let file = document.file().with_file_name(LOCKD.file);
        let read = || Document::read(&LOCKD, &file, Presence::Optional);
        (document.text("lock_manager") == Some("lockd"))
            .then(read)
            .transpose()
    }

    /// Takes the values out of a document of [`super::QEMU`], and the lock manager's.
    ///
    /// # Errors
    /// When values do not go together or ask for what the daemon cannot do.
    pub fn from_document(document: &Document, lockd: Option<&Document>) -> Result<Self, Error> {
        refuse_unsupported_labels(document)?;
        refuse_lock_managers(document)?;
        Ok(Self {
            identity: identity(document),
            swtpm: HelperIdentity {
                user: document.text("swtpm_user").unwrap_or_default().to_owned(),
                group: document.text("swtpm_group").unwrap_or_default().to_owned(),
            },
            guard: guard(document),
            limits: process_limits(document),
            chardev_tls: CHARDEV_TLS.read(document),
            nbd_tls: NBD_TLS.read(document),
            backup_tls: BACKUP_TLS.read(document),
            vnc: vnc(document),
            spice: spice(document),
            display_ports: ports(document, "remote_display_port_min", "remote_display_port_max")?,
            websocket_ports: ports(document, "remote_websocket_port_min", "remote_websocket_port_max")?,
            audio: Audio {
                with_vnc: document.flag("vnc_allow_host_audio"),
                without_graphics: document.flag("nographics_allow_host_audio"),
            },
            save_format: SaveFormats {
                save: save_format(document, "save_image_format"),
                dump: save_format(document, "dump_image_format"),
                snapshot: save_format(document, "snapshot_image_format"),
            },
            auto: auto(document),
            paths: paths(document),
            max_queued: Some(document.count("max_queued")).filter(|count| *count != 0),
            set_process_name: document.flag("set_process_name"),
            stdio_handler: match document.text("stdio_handler") {
                Some("logd") => StdioHandler::Logd,
                Some(_) => StdioHandler::File,
                None => StdioHandler::LogdIfThere,
            },
            log_timestamp: document.flag("log_timestamp"),
            nvram: nvram(document)?,
            dbus_daemon: document.text("dbus_daemon").unwrap_or("dbus-daemon").to_owned(),
            pr_helper: document.text("pr_helper").unwrap_or("qemu-pr-helper").to_owned(),
            virtiofsd_debug: document.flag("virtiofsd_debug"),
            gluster_debug_level: document.count("gluster_debug_level"),
            mac_filter: document.flag("mac_filter"),
            bridge_helper: document.text("bridge_helper").unwrap_or(BRIDGE_HELPER).to_owned(),
            capability_filters: document.list("capability_filters").unwrap_or_default(),
            deprecation_behavior: document.text("deprecation_behavior").unwrap_or("none").to_owned(),
            sched_core: sched_core(document)?,
            lockd: lockd.map(LockdConfig::from_document),
        })
    }
}

fn refuse_unsupported_labels(document: &Document) -> Result<(), Error> {
    let drivers = document.list("security_driver").unwrap_or_default();
    match drivers.iter().find(|driver| *driver != "none") {
        Some(driver) => Err(document.meaning(
            "security_driver",
            format!("\"{driver}\" is not supported yet; set \"none\": owner and mode protect guests then"),
        )),
        None if drivers.len() > 1 => {
            Err(document.meaning("security_driver", "\"none\" stands alone, not in a list"))
        }
        // Guests would have to be confined, and there is nothing that confines them.
        None if document.flag("security_require_confined") => Err(document.meaning(
            "security_require_confined",
            "Security driver \"none\" cannot create confined guests",
        )),
        None => Ok(()),
    }
}

/// Who asks for leases relies on them: two guests could write to one disk.
fn refuse_lock_managers(document: &Document) -> Result<(), Error> {
    match document.text("lock_manager") {
        None | Some("nop" | "lockd") => Ok(()),
        Some(manager) => Err(document.meaning(
            "lock_manager",
            format!("\"{manager}\" is not supported; set \"lockd\", or \"nop\": disks have no leases then"),
        )),
    }
}

/// Who asks for cores of a guest's own relies on them: other guests could learn what this one computes.
fn sched_core(document: &Document) -> Result<SchedCore, Error> {
    let key = "sched_core";
    let wanted = match document.text(key) {
        Some("vcpus") => SchedCore::Vcpus,
        Some("emulator") => SchedCore::Emulator,
        Some("full") => {
            let problem =
                "\"full\" is not supported yet; set \"emulator\": helpers of a guest share cores then";
            return Err(document.meaning(key, problem));
        }
        _ => return Ok(SchedCore::None),
    };
    match unixfd::has_core_scheduling() {
        Ok(true) => Ok(wanted),
        Ok(false) => Err(document.meaning(key, "SCHED_CORE not supported by kernel")),
        Err(error) => Err(document.meaning(key, format!("SCHED_CORE cannot be used on this host: {error}"))),
    }
}

fn identity(document: &Document) -> Identity {
    Identity {
        user: document.text("user").unwrap_or_default().to_owned(),
        group: document.text("group").unwrap_or_default().to_owned(),
        dynamic_ownership: document.flag("dynamic_ownership"),
        remember_owner: document.flag("remember_owner"),
        labelled: document.flag("security_default_confined"),
    }
}

fn guard(document: &Document) -> Guard {
    let acl = document.list("cgroup_device_acl").unwrap_or_default();
    let namespaces = document.list("namespaces").unwrap_or_default();
    Guard {
        cgroup_controllers: document.list("cgroup_controllers"),
        device_acl: acl.into_iter().map(PathBuf::from).collect(),
        seccomp_sandbox: document.optional_number("seccomp_sandbox").map(|n| n != 0),
        mount_namespace: namespaces.iter().any(|namespace| namespace == "mount"),
        clear_capabilities: document.flag("clear_emulator_capabilities"),
    }
}

fn process_limits(document: &Document) -> ProcessLimits {
    let limit = |name| Some(document.count(name)).filter(|count| *count != 0);
    ProcessLimits {
        processes: limit("max_processes"),
        files: limit("max_files"),
        threads: limit("max_threads_per_process"),
        core: match document.optional_number("max_core").map(u64::try_from) {
            Some(Ok(bytes)) => CoreLimit::Bytes(bytes),
            _ => CoreLimit::Unlimited,
        },
        dump_guest_core: document.flag("dump_guest_core"),
    }
}

/// The keys of one kind of encrypted connections.
struct TlsKeys {
    on: Option<&'static str>,
    dir: &'static str,
    verify: Option<&'static str>,
    secret: Option<&'static str>,
    /// Whether clients must show a certificate where no key says.
    verifies: bool,
}

const VNC_TLS: TlsKeys = TlsKeys {
    on: Some("vnc_tls"),
    dir: "vnc_tls_x509_cert_dir",
    verify: Some("vnc_tls_x509_verify"),
    secret: Some("vnc_tls_x509_secret_uuid"),
    verifies: false,
};
const SPICE_TLS: TlsKeys = TlsKeys {
    on: Some("spice_tls"),
    dir: "spice_tls_x509_cert_dir",
    verify: None,
    secret: None,
    verifies: false,
};
const CHARDEV_TLS: TlsKeys = TlsKeys {
    on: Some("chardev_tls"),
    dir: "chardev_tls_x509_cert_dir",
    verify: Some("chardev_tls_x509_verify"),
    secret: Some("chardev_tls_x509_secret_uuid"),
    verifies: true,
};
const NBD_TLS: TlsKeys = TlsKeys {
    on: Some("nbd_tls"),
    dir: "nbd_tls_x509_cert_dir",
    verify: None,
    secret: Some("nbd_tls_x509_secret_uuid"),
    verifies: true,
};

const BACKUP_TLS: TlsKeys = TlsKeys {
    // Each backup says it for itself.
    on: None,
    dir: "backup_tls_x509_cert_dir",
    verify: Some("backup_tls_x509_verify"),
    secret: Some("backup_tls_x509_secret_uuid"),
    verifies: true,
};

impl TlsKeys {
    fn read(&self, document: &Document) -> Tls {
        let verify = [self.verify, Some("default_tls_x509_verify")];
        let verify = verify.into_iter().flatten().find(|key| document.sets(key));
        let secret = |key: &'static str| document.text(key).and_then(super::key::uuid);
        let default = || secret("default_tls_x509_secret_uuid");
        Tls {
            on: self.on.is_some_and(|key| document.flag(key)),
            cert_dir: document.path(self.dir),
            default_dir: document.path("default_tls_x509_cert_dir").unwrap_or_default(),
            verify: verify.map_or(self.verifies, |key| document.flag(key)),
            secret: self.secret.and_then(|key| secret(key).or_else(default)),
        }
    }
}

fn vnc(document: &Document) -> Vnc {
    Vnc {
        listen: document.text("vnc_listen").unwrap_or_default().to_owned(),
        auto_unix_socket: document.flag("vnc_auto_unix_socket"),
        tls: VNC_TLS.read(document),
        password: document.text("vnc_password").map(str::to_owned),
        sasl: document.flag("vnc_sasl"),
        sasl_dir: document.path("vnc_sasl_dir"),
    }
}

fn spice(document: &Document) -> Spice {
    Spice {
        listen: document.text("spice_listen").unwrap_or_default().to_owned(),
        auto_unix_socket: document.flag("spice_auto_unix_socket"),
        tls: SPICE_TLS.read(document),
        password: document.text("spice_password").map(str::to_owned),
        sasl: document.flag("spice_sasl"),
        sasl_dir: document.path("spice_sasl_dir"),
    }
}

fn ports(document: &Document, min: &'static str, max: &'static str) -> Result<PortRange, Error> {
    let range = PortRange {
        min: document.count(min),
        max: document.count(max),
    };
    if range.min > range.max {
        return Err(document.meaning(
            min,
            format!("it is {}, more than {max}, which is {}", range.min, range.max),
        ));
    }
    Ok(range)
}

fn save_format(document: &Document, name: &str) -> SaveFormat {
    match document.text(name) {
        Some("gzip") => SaveFormat::Gzip,
        Some("bzip2") => SaveFormat::Bzip2,
        Some("xz") => SaveFormat::Xz,
        Some("lzop") => SaveFormat::Lzop,
        Some("zstd") => SaveFormat::Zstd,
        Some("sparse") => SaveFormat::Sparse,
        _ => SaveFormat::Raw,
    }
}

fn auto(document: &Document) -> Auto {
    let wait = document.count("auto_shutdown_wait");
    Auto {
        start_delay: Duration::from_millis(document.count("auto_start_delay")),
        start_bypass_cache: document.flag("auto_start_bypass_cache"),
        dump_bypass_cache: document.flag("auto_dump_bypass_cache"),
        save_bypass_cache: document.flag("auto_save_bypass_cache"),
        try_save: document.text("auto_shutdown_try_save").map(which_guests),
        try_shutdown: document.text("auto_shutdown_try_shutdown").map(which_guests),
        poweroff: document.text("auto_shutdown_poweroff").map(which_guests),
        wait: Duration::from_secs(if wait == 0 { SHUTDOWN_WAIT } else { wait }),
        restore: document.flag("auto_shutdown_restore"),
    }
}

fn which_guests(word: &str) -> AutoShutdown {
    match word {
        "persistent" => AutoShutdown::Persistent,
        "transient" => AutoShutdown::Transient,
        "all" => AutoShutdown::All,
        _ => AutoShutdown::None,
    }
}

fn paths(document: &Document) -> Paths {
    let hugetlbfs = document.list("hugetlbfs_mount").map(|mounts| {
        mounts
            .into_iter()
            .filter(|mount| !mount.is_empty())
            .map(PathBuf::from)
            .collect()
    });
    Paths {
        auto_dump: document.path("auto_dump_path"),
        memory_backing: document.path("memory_backing_dir"),
        hugetlbfs,
    }
}

fn nvram(document: &Document) -> Result<Option<Vec<(PathBuf, PathBuf)>>, Error> {
    let Some(pairs) = document.list("nvram") else {
        return Ok(None);
    };
    pairs
        .iter()
        .map(|pair| match pair.split_once(':') {
            Some((code, vars)) if !code.is_empty() && !vars.is_empty() => {
                Ok((PathBuf::from(code), PathBuf::from(vars)))
            }
            _ => Err(document.meaning("nvram", format!("\"{pair}\" is not FIRMWARE:VARIABLES"))),
        })
        .collect::<Result<_, _>>()
        .map(Some)
}
