//! Every key of `qemu.conf`.
// table

use super::key::Default::{Flag, List, Number as Int, Text as Str, Unset};
use super::key::Kind::{self, ListOrText, Number, NumberOrWord, Path, Text, Word, Words};
use super::key::Support::{Live, Planned, Restart};
use super::key::{Section, Table, key};

const SWITCH: Kind = Kind::Flag;
const PORT: Kind = Number(1, 65_535);
const SECRET: &str = "\"2d7891af-20be-4e5e-af83-190e8a922360\"";
/// A secret's UUID; checked as one when it is used.
const UUID: Kind = Kind::Uuid;
const SAVE_FORMAT: Kind = Word(&["raw", "sparse", "zstd", "lzop", "gzip", "bzip2", "xz"]);
const WHICH_GUESTS: Kind = Word(&["none", "persistent", "transient", "all"]);
const PERSISTENT_ONLY: Kind = Word(&["none", "persistent"]);

/// `qemu.conf`: how guests are run.
pub static QEMU: Table = Table {
    file: "qemu.conf",
    about: "Settings for the guests: whom they run as, what they may use, defaults for their devices.\n\
            A change holds for guests that start after a reload; running ones are left as they are.",
    sections: SECTIONS,
    foreign: &[],
};

const SECTIONS: &[Section] = &[
    Section {
        title: "Certificates (TLS), for all that does not name its own",
        keys: &[
            key(
                "default_tls_x509_cert_dir",
                Path,
                Str("/etc/pki/qemu"),
                Planned,
                "Directory with ca-cert.pem, server-cert.pem and server-key.pem, and with client-cert.pem and\nclient-key.pem where this host is a client.",
            ),
            key(
                "default_tls_x509_verify",
                SWITCH,
                Unset("1"),
                Planned,
                "Whether a client must show a certificate that the same authority signed.",
            ),
            key("default_tls_x509_secret_uuid", UUID, Unset(SECRET), Planned, "Secret that holds the password of server-key.pem."),
        ],
    },
    Section {
        title: "VNC",
        keys: &[
            key(
                "vnc_listen",
                Text,
                Str("127.0.0.1"),
                Live,
                "Address on which guests listen whose XML names none. 0.0.0.0 is every interface; use TLS then.",
            ),
            key(
                "vnc_auto_unix_socket",
                SWITCH,
                Flag(false),
                Live,
                "Listen on a Unix socket of the guest's own instead, where its XML leaves the address open.",
            ),
            key("vnc_tls", SWITCH, Flag(false), Live, "Encrypt, which the viewer must know (VeNCrypt)."),
            key("vnc_tls_x509_cert_dir", Path, Unset("\"/etc/pki/libvirt-vnc\""), Live, "Certificates for VNC."),
            key("vnc_tls_x509_secret_uuid", UUID, Unset(SECRET), Live, "Secret with the key's password."),
            key("vnc_tls_x509_verify", SWITCH, Unset("1"), Live, "Whether viewers must show a certificate."),
            key(
                "vnc_password",
                Text,
                Unset("\"XYZ12345\""),
                Live,
                "Password for guests whose XML gives none; 8 bytes count. An empty one shuts everybody out.",
            ),
            key("vnc_sasl", SWITCH, Flag(false), Live, "Let viewers log in by SASL."),
            key("vnc_sasl_dir", Path, Unset("\"/some/directory/sasl2\""), Live, "Directory of SASL's qemu.conf, instead of /etc/sasl2."),
            key("vnc_allow_host_audio", SWITCH, Flag(false), Live, "Keep QEMU's sound on the host although there is a VNC display."),
        ],
    },
    Section {
        title: "SPICE",
        keys: &[
            key("spice_listen", Text, Str("127.0.0.1"), Planned, "As vnc_listen."),
            key("spice_auto_unix_socket", SWITCH, Flag(false), Planned, "As vnc_auto_unix_socket."),
            key("spice_tls", SWITCH, Flag(false), Planned, "Encrypt."),
            key("spice_tls_x509_cert_dir", Path, Unset("\"/etc/pki/libvirt-spice\""), Planned, "Certificates for SPICE."),
            key("spice_password", Text, Unset("\"XYZ12345\""), Planned, "As vnc_password."),
            key("spice_sasl", SWITCH, Flag(false), Planned, "Let viewers log in by SASL."),
            key("spice_sasl_dir", Path, Unset("\"/some/directory/sasl2\""), Planned, "As vnc_sasl_dir."),
        ],
    },
    Section {
        title: "RDP",
        keys: &[
            key("rdp_listen", Text, Str("127.0.0.1"), Planned, "As vnc_listen."),
            key("rdp_tls_x509_cert_dir", Path, Unset("\"/etc/pki/libvirt-rdp\""), Planned, "Certificates for RDP."),
            key("rdp_username", Text, Unset("\"user\""), Planned, "User for guests whose XML names none."),
            key("rdp_password", Text, Unset("\"RDP12345\""), Planned, "Password of that user."),
        ],
    },
    Section {
        title: "Character devices over TCP",
        keys: &[
            key("chardev_tls", SWITCH, Flag(false), Planned, "Encrypt, unless the device's XML says no."),
            key("chardev_tls_x509_cert_dir", Path, Unset("\"/etc/pki/libvirt-chardev\""), Planned, "Certificates."),
            key("chardev_tls_x509_verify", SWITCH, Unset("1"), Planned, "Whether clients must show a certificate."),
            key("chardev_tls_x509_secret_uuid", UUID, Unset(SECRET), Planned, "Secret with the key's password."),
        ],
    },
    Section {
        title: "Network disks",
        keys: &[
            key("vxhs_tls", SWITCH, Flag(false), Planned, "Encrypt to VxHS servers; QEMU has dropped VxHS."),
            key("vxhs_tls_x509_cert_dir", Path, Unset("\"/etc/pki/libvirt-vxhs\""), Planned, "Certificates."),
            key("vxhs_tls_x509_secret_uuid", UUID, Unset(SECRET), Planned, "Secret with the key's password."),
            key("nbd_tls", SWITCH, Flag(false), Planned, "Encrypt to NBD servers, unless the disk's XML says no."),
            key("nbd_tls_x509_cert_dir", Path, Unset("\"/etc/pki/libvirt-nbd\""), Planned, "Certificates."),
            key("nbd_tls_x509_secret_uuid", UUID, Unset(SECRET), Planned, "Secret with the key's password."),
            key("storage_use_nbdkit", SWITCH, Flag(false), Planned, "Reach remote disks through nbdkit instead of QEMU's own drivers."),
            key("gluster_debug_level", Number(0, 9), Int(4), Planned, "How much QEMU's GlusterFS driver logs: 0 nothing, 9 everything."),
        ],
    },
    Section {
        title: "Migration and backup",
        keys: &[
            key("migrate_tls_x509_cert_dir", Path, Unset("\"/etc/pki/libvirt-migrate\""), Planned, "Certificates for migration with TLS."),
            key("migrate_tls_x509_verify", SWITCH, Unset("1"), Planned, "Whether the source must show a certificate."),
            key("migrate_tls_x509_secret_uuid", UUID, Unset(SECRET), Planned, "Secret with the key's password."),
            key("migrate_tls_force", SWITCH, Flag(false), Planned, "Refuse migrations that do not ask for TLS."),
            key(
                "migration_address",
                Text,
                Unset("\"0.0.0.0\""),
                Planned,
                "Address on which this host awaits incoming guests; by default every interface.",
            ),
            key(
                "migration_host",
                Text,
                Unset("\"host.example.com\""),
                Planned,
                "Name or address under which the source reaches this host; by default the host's name.",
            ),
            key("migration_port_min", PORT, Int(49_152), Planned, "First port for incoming guests."),
            key("migration_port_max", PORT, Int(49_215), Planned, "Last port for incoming guests."),
            key("backup_tls_x509_cert_dir", Path, Unset("\"/etc/pki/libvirt-backup\""), Planned, "Certificates for pull backups."),
            key("backup_tls_x509_verify", SWITCH, Unset("1"), Planned, "Whether clients must show a certificate."),
            key("backup_tls_x509_secret_uuid", UUID, Unset(SECRET), Planned, "Secret with the key's password."),
            key(
                "shared_filesystems",
                Kind::List,
                List(&[]),
                Planned,
                "Directories that other hosts reach too, although they do not look like a shared file system.\nSet it on the host that exports them only.",
            ),
        ],
    },
    Section {
        title: "Sound",
        keys: &[key(
            "nographics_allow_host_audio",
            SWITCH,
            Flag(false),
            Live,
            "Keep QEMU's sound on the host although there is no display.",
        )],
    },
    Section {
        title: "Ports of displays",
        keys: &[
            key(
                "remote_display_port_min",
                Number(5900, 65_535),
                Int(5900),
                Live,
                "First port for displays whose XML leaves the port open.",
            ),
            key("remote_display_port_max", Number(5900, 65_535), Int(65_535), Live, "Last such port."),
            key("remote_websocket_port_min", Number(5700, 65_535), Int(5700), Live, "First port for VNC over WebSocket."),
            key("remote_websocket_port_max", Number(5700, 65_535), Int(65_535), Live, "Last such port."),
        ],
    },
    Section {
        title: "Confinement",
        keys: &[
            key(
                "security_driver",
                ListOrText,
                Str("none"),
                Live,
                "Labels that keep guests apart beside owner and mode, which are always used: \"selinux\",\n\"apparmor\", a list of them, or \"none\". Only \"none\" is supported so far.",
            ),
            key("security_default_confined", SWITCH, Flag(true), Planned, "Whether guests are labelled whose XML does not say."),
            key("security_require_confined", SWITCH, Flag(false), Planned, "Refuse guests without a label."),
            key(
                "user",
                Text,
                Str("libvirt-qemu"),
                Live,
                "User that QEMU runs as: a name, or a number, which \"+\" in front keeps from being taken for a name.\nOnly for the system daemon: guests of a user run as that user.",
            ),
            key("group", Text, Str("libvirt-qemu"), Live, "Group that QEMU runs in, written likewise."),
            key("dynamic_ownership", SWITCH, Flag(true), Live, "Give files to that user and group while a guest uses them."),
            key(
                "remember_owner",
                SWITCH,
                Flag(true),
                Live,
                "Note the former owner in extended attributes, and set it back when the last guest lets go.",
            ),
            key(
                "cgroup_controllers",
                Words(&["cpu", "devices", "memory", "blkio", "cpuset", "cpuacct"]),
                Unset("[ \"cpu\", \"devices\", \"memory\", \"blkio\", \"cpuset\", \"cpuacct\" ]"),
                Live,
                "Controllers to use for guests; by default all that the host has.",
            ),
            key(
                "cgroup_device_acl",
                Kind::List,
                List(&["/dev/null", "/dev/full", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/ptmx", "/dev/kvm", "/dev/userfaultfd"]),
                Live,
                "Device nodes that every guest may use, beside those of its own devices.",
            ),
            key(
                "seccomp_sandbox",
                SWITCH,
                Unset("1"),
                Live,
                "Have QEMU give up system calls that it does not need: 1 always, 0 never; by default where QEMU\ncan.",
            ),
            key(
                "namespaces",
                Words(&["mount"]),
                List(&["mount"]),
                Live,
                "Namespaces of a guest's own. \"mount\" hides device nodes that are not the guest's.",
            ),
            key(
                "clear_emulator_capabilities",
                SWITCH,
                Flag(true),
                Live,
                "Take all privileges from QEMU. Without it a guest that breaks out as root has them.",
            ),
            key(
                "sched_core",
                Word(&["none", "vcpus", "emulator", "full"]),
                Str("none"),
                Planned,
                "Who shares a core's threads with nobody else: \"vcpus\" the guest's CPUs, \"emulator\" all of QEMU,\n\"full\" its helpers too.",
            ),
        ],
    },
    Section {
        title: "Limits of a guest's process; 0 leaves the host's",
        keys: &[
            key("max_processes", Number(0, 4_194_304), Int(0), Live, "Processes of QEMU's user."),
            key("max_files", Number(0, 1_073_741_816), Int(0), Live, "Open files of one QEMU."),
            key("max_threads_per_process", Number(0, 4_194_304), Int(0), Live, "Threads of one QEMU."),
            key(
                "max_core",
                NumberOrWord(0, i64::MAX, "unlimited"),
                Unset("\"unlimited\""),
                Live,
                "Bytes of a core dump of QEMU. By default without a limit, as the guest's memory is left out.",
            ),
            key("dump_guest_core", SWITCH, Unset("1"), Live, "Whether a core dump has the guest's memory, where its XML does not say."),
        ],
    },
    Section {
        title: "Saved state and dumps",
        keys: &[
            key(
                "save_image_format",
                SAVE_FORMAT,
                Str("raw"),
                Live,
                "Format of saved guests. \"sparse\" keeps a page at a fixed place; the rest but \"raw\" compress.",
            ),
            key("dump_image_format", SAVE_FORMAT, Str("raw"), Live, "Format of crash dumps."),
            key("snapshot_image_format", SAVE_FORMAT, Str("raw"), Live, "Format of the memory of external snapshots."),
            key(
                "auto_dump_path",
                Path,
                Unset("\"/var/lib/libvirt/qemu/dump\""),
                Live,
                "Directory of dumps that a watchdog or a crash of a guest triggers.",
            ),
            key("auto_dump_bypass_cache", SWITCH, Flag(false), Live, "Write those dumps past the page cache."),
        ],
    },
    Section {
        title: "Start and end of the host",
        keys: &[
            key(
                "auto_start_bypass_cache",
                SWITCH,
                Flag(false),
                Live,
                "Read saved state past the page cache when guests are started with the host.",
            ),
            key(
                "auto_start_delay",
                Number(0, 86_400_000),
                Int(0),
                Live,
                "Milliseconds between the starts of two guests when the host comes up.",
            ),
            key(
                "auto_shutdown_try_save",
                PERSISTENT_ONLY,
                Unset("\"persistent\""),
                Live,
                "Guests to save when the host goes down. Transient guests cannot be saved. By default \"none\" for\nthe system daemon and \"persistent\" for a user's. Leave it at \"none\" where libvirt-guests.service\ndoes this.",
            ),
            key(
                "auto_shutdown_try_shutdown",
                WHICH_GUESTS,
                Unset("\"all\""),
                Live,
                "Guests to shut down, if saving them was not wanted or failed. By default \"none\" and \"all\".",
            ),
            key(
                "auto_shutdown_poweroff",
                WHICH_GUESTS,
                Unset("\"all\""),
                Live,
                "Guests to switch off, if all else was not wanted or failed. By default \"none\" and \"all\".",
            ),
            key("auto_shutdown_wait", Number(0, 86_400), Int(0), Live, "Seconds that guests have for shutting down; 0 is 30."),
            key("auto_shutdown_restore", SWITCH, Flag(true), Live, "Start those guests again when the host is back."),
            key("auto_save_bypass_cache", SWITCH, Flag(false), Live, "Save them past the page cache."),
        ],
    },
    Section {
        title: "Memory",
        keys: &[
            key(
                "hugetlbfs_mount",
                ListOrText,
                Unset("[ \"/dev/hugepages2M\", \"/dev/hugepages1G\" ]"),
                Live,
                "Mount points of huge pages; by default what /proc/mounts has. \"\" keeps guests from using any.",
            ),
            key(
                "memory_backing_dir",
                Path,
                Unset("\"/var/lib/libvirt/qemu/ram\""),
                Live,
                "Directory of guest memory that is kept in files. They are as large as the guests.",
            ),
        ],
    },
    Section {
        title: "Calls",
        keys: &[
            key(
                "max_queued",
                Number(0, 1_000_000),
                Int(0),
                Live,
                "Calls that may wait for their turn on one guest; further ones fail. 0 sets no limit.",
            ),
            key(
                "keepalive_interval",
                Number(-1, 86_400),
                Int(5),
                Planned,
                "Seconds of silence after which the other daemon of a peer-to-peer migration is asked for a sign\nof life; -1: never.",
            ),
            key("keepalive_count", Number(0, 1_000_000), Int(5), Planned, "Questions to it that may stay unanswered."),
        ],
    },
    Section {
        title: "QEMU and its logs",
        keys: &[
            key("set_process_name", SWITCH, Flag(false), Live, "Show a guest's process as qemu:NAME instead of its command line."),
            key(
                "stdio_handler",
                Word(&["logd", "file"]),
                Unset("\"logd\""),
                Live,
                "Where QEMU's messages go: \"file\" into the guest's log directly, \"logd\" through virtlogd, which\nrotates it, and without which no guest starts. Unset: through virtlogd if it is there.",
            ),
            key("log_timestamp", SWITCH, Flag(true), Live, "Have QEMU put the time before its messages."),
            key("capability_filters", Kind::List, List(&[]), Live, "Names of QEMU capabilities to do without. For tests."),
            key(
                "deprecation_behavior",
                Word(&["none", "omit", "reject", "crash"]),
                Str("none"),
                Live,
                "What QEMU does about deprecated interfaces: nothing, leave them out of its answers, refuse them,\nor crash. For tests.",
            ),
            key(
                "nvram",
                Kind::List,
                Unset("[ \"/usr/share/OVMF/OVMF_CODE.fd:/usr/share/OVMF/OVMF_VARS.fd\" ]"),
                Live,
                "Firmware images, each with the template of its variables. Counts only on hosts without firmware\ndescriptions (*.json in /usr/share/qemu/firmware).",
            ),
        ],
    },
    Section {
        title: "Helpers",
        keys: &[
            key("bridge_helper", Text, Str("qemu-bridge-helper"), Live, "Program that connects a user's guests to a bridge."),
            key("pr_helper", Text, Str("qemu-pr-helper"), Planned, "Program for SCSI persistent reservations."),
            key("slirp_helper", Text, Unset("\"/usr/bin/slirp-helper\""), Planned, "Program for user networking."),
            key("qemu_rdp", Text, Str("qemu-rdp"), Planned, "Program that serves RDP."),
            key("dbus_daemon", Text, Str("dbus-daemon"), Planned, "Message bus for a guest's helpers."),
            key("swtpm_user", Text, Str("tss"), Live, "User that the TPM emulator runs as."),
            key("swtpm_group", Text, Str("tss"), Live, "Group of the TPM emulator."),
            key("virtiofsd_debug", SWITCH, Flag(false), Planned, "Have virtiofsd log in detail."),
        ],
    },
    Section {
        title: "Devices and disks",
        keys: &[
            key("mac_filter", SWITCH, Flag(false), Planned, "Drop frames of guests under a foreign MAC address."),
            key(
                "relaxed_acs_check",
                SWITCH,
                Flag(false),
                Planned,
                "Pass PCI devices through that sit behind a switch without access control.",
            ),
            key(
                "lock_manager",
                Word(&["lockd", "sanlock", "nop"]),
                Unset("\"lockd\""),
                Restart,
                "Who keeps two guests from writing to one disk: virtlockd (\"lockd\", with settings of its own in qemu-lockd.conf),\nor nobody (\"nop\", as without this setting). The daemon does not start with \"sanlock\".",
            ),
        ],
    },
];
