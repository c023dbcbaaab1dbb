//! Every key of `virtqemud.conf`.

use super::key::Default::{Flag, List, Number as Int, Text as Str, Unset};
use super::key::Kind::{self, Mode, Number, Path, Text, Uuid, Word};
use super::key::Support::{Live, Obsolete, Planned, Restart};
use super::key::{Section, Table, key};

const COUNT: Kind = Number(0, 1_000_000);
const AT_LEAST_ONE: Kind = Number(1, 1_000_000);
const SECONDS: Kind = Number(-1, 86_400);
const SWITCH: Kind = Kind::Flag;
const AUTH: Kind = Word(&["none", "polkit", "sasl"]);
const VIRTPROXYD: &str = "virtproxyd.conf: TCP and TLS are served by virtproxyd";

/// `virtqemud.conf`: sockets, limits, logging.
pub static DAEMON: Table = Table {
    file: "virtqemud.conf",
    about: "Settings of the daemon itself: its sockets, how many clients it serves, where it logs.\n\
            What concerns guests is in qemu.conf.",
    sections: SECTIONS,
    foreign: &[
        ("listen_tls", VIRTPROXYD),
        ("listen_tcp", VIRTPROXYD),
        ("tls_port", VIRTPROXYD),
        ("tcp_port", VIRTPROXYD),
        ("listen_addr", VIRTPROXYD),
        ("auth_tcp", VIRTPROXYD),
        ("auth_tls", VIRTPROXYD),
        ("tcp_min_ssf", VIRTPROXYD),
        ("key_file", VIRTPROXYD),
        ("cert_file", VIRTPROXYD),
        ("ca_file", VIRTPROXYD),
        ("crl_file", VIRTPROXYD),
        ("tls_no_sanity_certificate", VIRTPROXYD),
        ("tls_no_verify_certificate", VIRTPROXYD),
        ("tls_allowed_dn_list", VIRTPROXYD),
        ("tls_priority", VIRTPROXYD),
    ],
};

const SECTIONS: &[Section] = &[
    Section {
        title: "Sockets. None of this applies to sockets that systemd hands over: edit their units instead.",
        keys: &[
            key(
                "unix_sock_dir",
                Path,
                Unset("\"/run/libvirt\""),
                Restart,
                "Directory of the sockets. By default /run/libvirt for root, and libvirt/ in the runtime\ndirectory of any other user.",
            ),
            key(
                "unix_sock_group",
                Text,
                Unset("\"libvirt\""),
                Restart,
                "Group that owns the sockets, by name or number. Together with the modes below it decides who may\nconnect. By default the group that the daemon runs in.",
            ),
            key(
                "unix_sock_rw_perms",
                Mode,
                Str("0700"),
                Restart,
                "Mode of virtqemud-sock and virtqemud-grpc-sock. Whoever may connect to them controls every guest\nand, through them, the host: 0770 with a group is as far as one should go.",
            ),
            key(
                "unix_sock_ro_perms",
                Mode,
                Str("0777"),
                Restart,
                "Mode of virtqemud-sock-ro and virtqemud-grpc-sock-ro, which serve only what changes nothing.",
            ),
            key(
                "unix_sock_admin_perms",
                Mode,
                Str("0700"),
                Restart,
                "Mode of virtqemud-admin-sock, by which the daemon itself is inspected and tuned.",
            ),
        ],
    },
    Section {
        title: "Daemons of the other drivers.",
        keys: &[key(
            "neighbour_sock_dir",
            Path,
            Unset("\"/run/libvirt\""),
            Restart,
            "Directory where the daemons of the other drivers listen: virtnetworkd-sock and its like, or else\nlibvirt-sock of a daemon that has them all. Clients that ask here for networks, storage, node devices,\nsecrets, filters or interfaces are passed on to them.",
        )],
    },
    Section {
        title: "Who may do what",
        keys: &[
            key(
                "auth_unix_rw",
                AUTH,
                Str("none"),
                Restart,
                "How a client of the read-write sockets proves who it is. Only \"none\" is supported so far: the\nmode of the sockets decides. The daemon does not start with another choice, lest it be open.",
            ),
            key(
                "auth_unix_ro",
                AUTH,
                Str("none"),
                Restart,
                "The same for the read-only sockets.",
            ),
            key(
                "access_drivers",
                Kind::Words(&["polkit", "none"]),
                List(&[]),
                Restart,
                "Whom to ask about each call of a client that is connected. Only the empty list is supported so\nfar: clients of the read-write sockets may do everything.",
            ),
            key(
                "sasl_allowed_username_list",
                Kind::List,
                Unset("[ \"*@EXAMPLE.COM\" ]"),
                Planned,
                "Names that may log in by SASL, with * as a wildcard.",
            ),
        ],
    },
    Section {
        title: "Limits",
        keys: &[
            key(
                "max_clients",
                AT_LEAST_ONE,
                Int(5000),
                Live,
                "Clients that are served at one time, over all sockets but the admin one. Further ones wait in the\nkernel's queue until one leaves.",
            ),
            key(
                "max_queued_clients",
                AT_LEAST_ONE,
                Int(1000),
                Restart,
                "Clients that may wait in the kernel's queue of one socket. The kernel bounds it by\nnet.core.somaxconn.",
            ),
            key(
                "max_anonymous_clients",
                COUNT,
                Int(20),
                Live,
                "Clients that have connected but not yet proved who they are. 0 sets no limit of its own; else at\nmost max_clients.",
            ),
            key(
                "max_client_requests",
                AT_LEAST_ONE,
                Int(5),
                Live,
                "Calls of one connection that are worked on at one time. Further ones are not read from the socket\nbefore one of these is answered.",
            ),
            key(
                "admin_max_clients",
                AT_LEAST_ONE,
                Int(5000),
                Restart,
                "As max_clients, for the admin socket.",
            ),
            key(
                "admin_max_queued_clients",
                AT_LEAST_ONE,
                Int(5),
                Restart,
                "As max_queued_clients, for the admin socket.",
            ),
            key(
                "admin_max_client_requests",
                AT_LEAST_ONE,
                Int(5),
                Restart,
                "As max_client_requests, for the admin socket.",
            ),
            key(
                "min_workers",
                COUNT,
                Int(5),
                Live,
                "Workers that virt-admin is told are there even when no call is worked on. This daemon has no thread\nfor each call, so it keeps none.",
            ),
            key(
                "max_workers",
                AT_LEAST_ONE,
                Unset("20"),
                Live,
                "Calls of all clients together that are worked on at one time; further ones wait. By default each\nclient may have its max_client_requests. Powering a guest off never waits.",
            ),
            key(
                "prio_workers",
                COUNT,
                Int(5),
                Live,
                "Calls beside these that are worked on if they never wait for a guest.",
            ),
            key(
                "admin_min_workers",
                COUNT,
                Int(5),
                Restart,
                "As min_workers, for the admin socket.",
            ),
            key(
                "admin_max_workers",
                AT_LEAST_ONE,
                Unset("20"),
                Restart,
                "As max_workers, for the admin socket.",
            ),
        ],
    },
    Section {
        title: "Logging",
        keys: &[
            key(
                "log_level",
                Number(0, 4),
                Int(3),
                Live,
                "Least importance of what is logged where no filter says otherwise: 1 debug, 2 information,\n3 warnings, 4 errors. 0 means the default.",
            ),
            key(
                "log_filters",
                Text,
                Str(""),
                Live,
                "Exceptions from log_level, parted by spaces: LEVEL:PATTERN. The pattern is looked for anywhere in\nthe name of the code's module, such as qemu.monitor or compat; * and ? are wildcards. The first\nfilter that matches counts. Example: \"1:qemu 4:api\".",
            ),
            key(
                "log_outputs",
                Text,
                Str(""),
                Live,
                "Where to log, parted by spaces, each with the least importance that it gets:\n  LEVEL:stderr          standard error\n  LEVEL:file:PATH       a file, appended to\n  LEVEL:syslog:NAME     the system log, under that name\n  LEVEL:journald        the journal, with each field of its own\nBy default the journal where there is one, else standard error (or syslog when in the background), which\ngets what is at least as important as log_level.",
            ),
        ],
    },
    Section {
        title: "Auditing",
        keys: &[
            key(
                "audit_level",
                Number(0, 2),
                Int(1),
                Planned,
                "Records for the kernel's audit trail: 0 none, 1 where the host audits, 2 insist on it.",
            ),
            key(
                "audit_logging",
                SWITCH,
                Flag(false),
                Planned,
                "Whether audit records go to the log as well.",
            ),
        ],
    },
    Section {
        title: "Identity of the host",
        keys: &[
            key(
                "host_uuid_source",
                Word(&["smbios", "machine-id"]),
                Str("smbios"),
                Restart,
                "Where the host's UUID comes from when host_uuid is not set: the firmware's tables, or\n/etc/machine-id.",
            ),
            key(
                "host_uuid",
                Uuid,
                Unset("\"4dea22b3-1d52-d8f3-2516-782e98ab3fa0\""),
                Restart,
                "The host's UUID. Migration tells hosts apart by it. Its digits must not all be equal.",
            ),
        ],
    },
    Section {
        title: "Connections that died",
        keys: &[
            key(
                "keepalive_interval",
                SECONDS,
                Int(5),
                Live,
                "Seconds of silence after which a client is asked for a sign of life; 0 or -1: never ask. Clients that ask\nare answered all the same.",
            ),
            key(
                "keepalive_count",
                COUNT,
                Int(5),
                Live,
                "Questions that may stay unanswered. A client is given up after interval * (count + 1) seconds.",
            ),
            key(
                "admin_keepalive_interval",
                SECONDS,
                Int(5),
                Restart,
                "As keepalive_interval, for the admin socket.",
            ),
            key(
                "admin_keepalive_count",
                COUNT,
                Int(5),
                Restart,
                "As keepalive_count, for the admin socket.",
            ),
            key(
                "keepalive_required",
                SWITCH,
                Flag(false),
                Obsolete,
                "Without an effect in libvirt too.",
            ),
            key(
                "admin_keepalive_required",
                SWITCH,
                Flag(false),
                Obsolete,
                "Without an effect in libvirt too.",
            ),
        ],
    },
    Section {
        title: "Other programs",
        keys: &[key(
            "ovs_timeout",
            Number(0, 86_400),
            Int(5),
            Planned,
            "Seconds that a call of ovs-vsctl may take.",
        )],
    },
];
