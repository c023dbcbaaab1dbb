//! Error numbers with the words that begin their messages, error domains and levels.

use crate::xdr_enum;

macro_rules! error_codes {
    ($( $number:literal $name:ident $words:literal; )*) => {
        xdr_enum! {
            /// What went wrong.
            ErrorCode { $( $name = $number ),* }
        }

        impl ErrorCode {
            /// The words of its message, `{}` standing for the detail.
            #[must_use]
            pub fn words(self) -> &'static str {
                match self.0 {
                    $( $number => $words, )*
                    _ => "{}",
                }
            }
        }
    };
}

error_codes! {
    0 OK "";
    1 INTERNAL_ERROR "internal error: {}";
    2 NO_MEMORY "out of memory: {}";
    3 NO_SUPPORT "this function is not supported by the connection driver: {}";
    4 UNKNOWN_HOST "unknown host {}";
    5 NO_CONNECT "no connection driver available for {}";
    6 INVALID_CONN "invalid connection pointer in {}";
    7 INVALID_DOMAIN "invalid domain pointer in {}";
    8 INVALID_ARG "invalid argument: {}";
    9 OPERATION_FAILED "operation failed: {}";
    10 GET_FAILED "GET operation failed: {}";
    11 POST_FAILED "POST operation failed: {}";
    12 HTTP_ERROR "got unknown HTTP error code {}";
    13 SEXPR_SERIAL "failed to serialize S-Expr: {}";
    14 NO_XEN "could not use Xen hypervisor entry {}";
    15 XEN_CALL "failed Xen syscall {}";
    16 OS_TYPE "unknown OS type {}";
    17 NO_KERNEL "missing kernel information: {}";
    18 NO_ROOT "missing root device information in {}";
    19 NO_SOURCE "missing source information for device {}";
    20 NO_TARGET "missing target information for device {}";
    21 NO_NAME "missing name information in {}";
    22 NO_OS "missing operating system information for {}";
    23 NO_DEVICE "missing devices information for {}";
    24 NO_XENSTORE "could not connect to Xen Store {}";
    25 DRIVER_FULL "too many drivers registered in {}";
    26 CALL_FAILED "library call failed: {}";
    27 XML_ERROR "XML error: {}";
    28 DOM_EXIST "domain {} exists already";
    29 OPERATION_DENIED "operation forbidden: {}";
    30 OPEN_FAILED "failed to open configuration file {}";
    31 READ_FAILED "failed to read configuration file {}";
    32 PARSE_FAILED "failed to parse configuration file {}";
    33 CONF_SYNTAX "configuration file syntax error: {}";
    34 WRITE_FAILED "failed to write configuration file: {}";
    35 XML_DETAIL "{}";
    36 INVALID_NETWORK "invalid network pointer in {}";
    37 NETWORK_EXIST "network {} exists already";
    38 SYSTEM_ERROR "{}";
    39 RPC "{}";
    40 GNUTLS_ERROR "{}";
    41 WAR_NO_NETWORK "Failed to find the network: {}";
    42 NO_DOMAIN "Domain not found: {}";
    43 NO_NETWORK "Network not found: {}";
    44 INVALID_MAC "invalid MAC address: {}";
    45 AUTH_FAILED "authentication failed: {}";
    46 INVALID_STORAGE_POOL "invalid storage pool pointer in {}";
    47 INVALID_STORAGE_VOL "invalid storage volume pointer in {}";
    48 WAR_NO_STORAGE "Failed to find a storage driver: {}";
    49 NO_STORAGE_POOL "Storage pool not found: {}";
    50 NO_STORAGE_VOL "Storage volume not found: {}";
    51 WAR_NO_NODE "Failed to find a node driver: {}";
    52 INVALID_NODE_DEVICE "invalid node device pointer in {}";
    53 NO_NODE_DEVICE "Node device not found: {}";
    54 NO_SECURITY_MODEL "Security model not found: {}";
    55 OPERATION_INVALID "Requested operation is not valid: {}";
    56 WAR_NO_INTERFACE "Failed to find the interface: {}";
    57 NO_INTERFACE "Interface not found: {}";
    58 INVALID_INTERFACE "invalid interface pointer in {}";
    59 MULTIPLE_INTERFACES "multiple matching interfaces found: {}";
    60 WAR_NO_NWFILTER "Failed to start the nwfilter driver: {}";
    61 INVALID_NWFILTER "Invalid network filter: {}";
    62 NO_NWFILTER "Network filter not found: {}";
    63 BUILD_FIREWALL "Error while building firewall: {}";
    64 WAR_NO_SECRET "Failed to find a secret storage driver: {}";
    65 INVALID_SECRET "Invalid secret: {}";
    66 NO_SECRET "Secret not found: {}";
    67 CONFIG_UNSUPPORTED "unsupported configuration: {}";
    68 OPERATION_TIMEOUT "Timed out during operation: {}";
    69 MIGRATE_PERSIST_FAILED "Failed to make domain persistent after migration: {}";
    70 HOOK_SCRIPT_FAILED "Hook script execution failed: {}";
    71 INVALID_DOMAIN_SNAPSHOT "Invalid domain snapshot: {}";
    72 NO_DOMAIN_SNAPSHOT "Domain snapshot not found: {}";
    73 INVALID_STREAM "invalid stream pointer in {}";
    74 ARGUMENT_UNSUPPORTED "argument unsupported: {}";
    75 STORAGE_PROBE_FAILED "Storage pool probe failed: {}";
    76 STORAGE_POOL_BUILT "Storage pool already built: {}";
    77 SNAPSHOT_REVERT_RISKY "revert requires force: {}";
    78 OPERATION_ABORTED "operation aborted: {}";
    79 AUTH_CANCELLED "authentication cancelled: {}";
    80 NO_DOMAIN_METADATA "metadata not found: {}";
    81 MIGRATE_UNSAFE "Unsafe migration: {}";
    82 OVERFLOW "numerical overflow: {}";
    83 BLOCK_COPY_ACTIVE "block copy still active: {}";
    84 OPERATION_UNSUPPORTED "Operation not supported: {}";
    85 SSH "SSH transport error: {}";
    86 AGENT_UNRESPONSIVE "Guest agent is not responding: {}";
    87 RESOURCE_BUSY "resource busy: {}";
    88 ACCESS_DENIED "access denied: {}";
    89 DBUS_SERVICE "error from service: {}";
    90 STORAGE_VOL_EXIST "storage volume {} exists already";
    91 CPU_INCOMPATIBLE "the CPU is incompatible with host CPU: {}";
    92 XML_INVALID_SCHEMA "XML document failed to validate against schema: {}";
    93 MIGRATE_FINISH_OK "migration successfully aborted: {}";
    94 AUTH_UNAVAILABLE "authentication unavailable: {}";
    95 NO_SERVER "Server not found: {}";
    96 NO_CLIENT "Client not found: {}";
    97 AGENT_UNSYNCED "guest agent replied with wrong id to guest-sync command: {}";
    98 LIBSSH "libssh transport error: {}";
    99 DEVICE_MISSING "device not found: {}";
    100 INVALID_NWFILTER_BINDING "Invalid network filter binding: {}";
    101 NO_NWFILTER_BINDING "Network filter binding not found: {}";
    102 INVALID_DOMAIN_CHECKPOINT "Invalid domain checkpoint: {}";
    103 NO_DOMAIN_CHECKPOINT "Domain checkpoint not found: {}";
    104 NO_DOMAIN_BACKUP "Domain backup job id not found: {}";
    105 INVALID_NETWORK_PORT "Invalid network port pointer: {}";
    106 NETWORK_PORT_EXIST "network port {} exists already";
    107 NO_NETWORK_PORT "network port not found: {}";
    108 NO_HOSTNAME "no hostname found: {}";
    109 CHECKPOINT_INCONSISTENT "checkpoint inconsistent: {}";
    110 MULTIPLE_DOMAINS "multiple matching domains found: {}";
    111 NO_NETWORK_METADATA "metadata not found: {}";
    112 AGENT_COMMAND_TIMEOUT "guest agent command timed out: {}";
    113 AGENT_COMMAND_FAILED "guest agent command failed: {}";
}

xdr_enum! {
    /// Which part of libvirt an error comes from.
    ErrorDomain { NONE = 0, XEN = 1, XEND = 2, XENSTORE = 3, SEXPR = 4, XML = 5, DOM = 6, RPC = 7, PROXY = 8,
        CONF = 9, QEMU = 10, NET = 11, TEST = 12, REMOTE = 13, OPENVZ = 14, XENXM = 15, STATS_LINUX = 16,
        LXC = 17, STORAGE = 18, NETWORK = 19, DOMAIN = 20, UML = 21, NODEDEV = 22, XEN_INOTIFY = 23,
        SECURITY = 24, VBOX = 25, INTERFACE = 26, ONE = 27, ESX = 28, PHYP = 29, SECRET = 30, CPU = 31,
        XENAPI = 32, NWFILTER = 33, HOOK = 34, DOMAIN_SNAPSHOT = 35, AUDIT = 36, SYSINFO = 37, STREAMS = 38,
        VMWARE = 39, EVENT = 40, LIBXL = 41, LOCKING = 42, HYPERV = 43, CAPABILITIES = 44, URI = 45,
        AUTH = 46, DBUS = 47, PARALLELS = 48, DEVICE = 49, SSH = 50, LOCKSPACE = 51, INITCTL = 52,
        IDENTITY = 53, CGROUP = 54, ACCESS = 55, SYSTEMD = 56, BHYVE = 57, CRYPTO = 58, FIREWALL = 59,
        POLKIT = 60, THREAD = 61, ADMIN = 62, LOGGING = 63, XENXL = 64, PERF = 65, LIBSSH = 66, RESCTRL = 67,
        FIREWALLD = 68, DOMAIN_CHECKPOINT = 69, TPM = 70, BPF = 71, CH = 72 }
    /// How bad an error is.
    ErrorLevel { NONE = 0, WARNING = 1, ERROR = 2 }
}
