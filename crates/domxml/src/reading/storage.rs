//! Where bytes come from: sources of disks and firmware variables, their servers, secrets and encryption.
// table: one line a rule, in the order in which libvirt reads

use xmlform::{Area, Node};

use super::form::{Form, unsigned};
use super::rule::{
    Checked, Rule, Rules, When, Words, attr, domain, filled, given, maybe, named, number, of, on, word, yes,
};
use super::size::{Size, bytes};
use crate::{Error, Kind};
use Rule::{Check, Child, Each, If, Need, Part};

/// Kinds of sources.
pub(super) const KINDS: &[&str] = crate::devices::StorageKind::WORDS;

/// Kinds of sources, and that there is none.
pub(super) const KINDS_AND_NONE: &[&str] = &[
    "none",
    "file",
    "block",
    "dir",
    "network",
    "volume",
    "nvme",
    "vhostuser",
    "vhostvdpa",
];

/// Formats of images.
pub(super) const FORMATS: &[&str] = &[
    "raw", "dir", "bochs", "cloop", "dmg", "iso", "vpc", "vdi", "fat", "vhd", "ploop", "cow", "qcow",
    "qcow2", "qed", "vmdk",
];

/// Formats of images, and that there is none.
pub(super) const FORMATS_AND_NONE: &[&str] = &[
    "none", "raw", "dir", "bochs", "cloop", "dmg", "iso", "vpc", "vdi", "fat", "vhd", "ploop", "cow", "qcow",
    "qcow2", "qed", "vmdk",
];

/// Words of the reader of storage sources.
const fn storage(text: &'static str) -> Words {
    of(Area::Storage, text)
}

/// The source in an element that says its type; a file when it says none.
pub(super) const SOURCE_BY_TYPE: Rules = &[
    If(When::Is("type", &["network"]), &[Child("source", NETWORK)]),
    If(When::Is("type", &["volume"]), &[Child("source", VOLUME)]),
    If(When::Is("type", &["nvme"]), &[Child("source", NVME)]),
    If(When::Is("type", &["vhostuser"]), &[Child("source", VHOST_USER)]),
    If(
        When::Is("type", &["vhostvdpa"]),
        &[Child("source", &[attr("dev", Form::Any).needed()])],
    ),
    Child("source", SOURCE),
];

/// What sources of every kind have.
const SOURCE: Rules = &[
    Child("auth", AUTH),
    Child("encryption", ENCRYPTION),
    Child("reservations", RESERVATIONS),
    Child(
        "slices",
        &[Check(|node| {
            let mut slices = node.children_named("slice");
            match slices.find(|slice| slice.attr("type") == Some("storage")) {
                Some(slice) => super::rule::check(slice, SLICE),
                None => Ok(()),
            }
        })],
    ),
    Part(SECLABELS),
    Child("dataStore", DATA_STORE),
];

/// A volume of a pool, which a disk and a filesystem may be of.
pub(super) const VOLUME: Rules = &[
    Check(
        |node| match node.attr("pool").is_some() == node.attr("volume").is_some() {
            true => Ok(()),
            false => {
                let said = "XML error: 'pool' and 'volume' must be specified together for 'pool' type source";
                Err(domain(said).of(""))
            }
        },
    ),
    If(
        When::Given("pool"),
        &[word("mode", crate::devices::VolumeMode::WORDS)],
    ),
];

const HTTP: When = When::Is("protocol", &["http", "https"]);
const SECURE: When = When::Is("protocol", &["https", "ftps"]);
const CURL: When = When::Is("protocol", &["http", "https", "ftp", "ftps"]);
const SSH: When = When::Is("protocol", &["ssh"]);
const NBD: When = When::Is("protocol", &["nbd"]);
const POOLED: When = When::Is("protocol", &["gluster", "rbd"]);

const NETWORK: Rules = &[
    word(
        "protocol",
        &[
            "none", "nbd", "rbd", "sheepdog", "gluster", "iscsi", "http", "https", "ftp", "ftps", "tftp",
            "ssh", "vxhs", "nfs",
        ],
    )
    .needed(),
    If(
        When::Case(|node| node.attr("protocol") != Some("nbd")),
        &[named("name", domain("XML error: missing name for disk source"))],
    ),
    yes("tls"),
    If(NBD, &[Child("reconnect", &[number("delay")])]),
    If(POOLED, &[Check(name_has_pool)]),
    Each("host", HOST),
    If(SECURE, &[Child("ssl", &[yes("verify")])]),
    If(HTTP, &[Child("cookies", &[Each("cookie", COOKIE)])]),
    If(
        CURL,
        &[
            Child("readahead", &[maybe("size", Form::U64(10), BAD_READAHEAD)]),
            Child("timeout", &[maybe("seconds", Form::U64(10), BAD_READAHEAD)]),
        ],
    ),
    If(
        SSH,
        &[
            Child("knownHosts", &[attr("path", Form::Any).needed()]),
            Child(
                "identity",
                &[attr("username", Form::Any).needed(), Check(identity)],
            ),
        ],
    ),
];

const BAD_READAHEAD: Words = domain("XML error: invalid readahead size or timeout");

fn name_has_pool(node: Node<'_>) -> Checked {
    let name = node.attr("name").unwrap_or_default();
    match name.find('/') {
        None | Some(0) => {
            let said = domain("XML error: can't split path '{}' into pool name and image name");
            Err(said.of(name))
        }
        Some(_) => Ok(()),
    }
}

/// A storage server.
pub(super) const HOST: Rules = &[word("transport", &["tcp", "unix", "rdma", "fd"]), Check(host)];

/// Largest port.
const PORT_MOST: u64 = 65_535;

fn host(node: Node<'_>) -> Checked {
    let transport = node.attr("transport").unwrap_or("tcp");
    if transport == "fd" {
        return Err(domain("XML error: transport 'fd' is now allowed").of(""));
    }
    if transport == "unix" {
        return match node.attr("socket") {
            Some(_) => Ok(()),
            None => Err(domain("XML error: missing socket for unix transport").of("")),
        };
    }
    if node.attr("socket").is_some() {
        return Err(domain("XML error: transport '{}' does not support socket attribute").of(transport));
    }
    if let Some(port) = node.attr("port") {
        let said = |text| Err(of(Area::None, text).of(port));
        if Form::U32(10).check(port).is_err() {
            return said("invalid argument: failed to parse port number '{}'");
        }
        if unsigned(Some(port), 10) > PORT_MOST {
            return said("invalid argument: port '{}' out of range");
        }
    }
    match node.attr("name") {
        Some(_) => Ok(()),
        None => Err(domain("XML error: missing name for host").of("")),
    }
}

const COOKIE: Rules = &[
    filled("name", domain("XML error: missing cookie name")),
    Check(cookie),
];

fn cookie(node: Node<'_>) -> Checked {
    let (name, value) = (node.attr("name").unwrap_or_default(), node.text());
    if value.is_empty() {
        return Err(domain("XML error: missing value for cookie '{}'").of(name));
    }
    let plain = |c: char| c > ' ' && !"\",;\\".contains(c);
    if !name.chars().all(|c| plain(c) && !"()<>@:/[]?={}".contains(c)) {
        return Err(storage("XML error: cookie name '{}' contains invalid characters").of(name));
    }
    let inside = match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"'),
        None => Some(value),
    };
    if !inside.is_some_and(|inside| inside.chars().all(plain)) {
        return Err(storage("XML error: value of cookie '{}' contains invalid characters").of(name));
    }
    match super::tuning::earlier(node, "cookie").any(|e| e.attr("name") == Some(name)) {
        true => Err(storage("XML error: duplicate cookie '{}'").of(name)),
        false => Ok(()),
    }
}

fn identity(node: Node<'_>) -> Checked {
    match node.attr("keyfile").or_else(|| node.attr("agentsock")) {
        Some(_) => Ok(()),
        None => {
            let said = domain("XML error: element '{}' requires either 'keyfile' or 'agentsock' attribute");
            Err(said.of(node.name()))
        }
    }
}

const NVME: Rules = &[
    named(
        "type",
        domain("XML error: missing 'type' attribute to disk source"),
    ),
    given(
        "type",
        Form::Word(&["pci"]),
        domain("XML error: unsupported source type '{}'"),
    ),
    attr("namespace", Form::U64(10)).needed(),
    yes("managed"),
    Need(
        "address",
        domain("XML error: NVMe disk source is missing address"),
        super::info::PCI_ADDRESS,
    ),
];

const VHOST_USER: Rules = &[
    named(
        "type",
        domain("XML error: missing 'type' attribute for vhostuser disk source"),
    ),
    given(
        "type",
        Form::Word(&["unix"]),
        domain("XML error: invalid 'type' attribute for vhostuser disk source"),
    ),
    named(
        "path",
        domain("XML error: missing 'path' attribute for vhostuser disk source"),
    ),
    Child("reconnect", RECONNECT),
];

/// `<reconnect>` of a socket.
pub(super) const RECONNECT: Rules = &[
    yes("enabled"),
    If(When::Is("enabled", &["yes"]), &[number("timeout").needed()]),
];

/// `<auth>`.
pub(super) const AUTH: Rules = &[
    filled("username", storage("XML error: missing username for auth")),
    maybe(
        "type",
        Form::Word(&["none", "chap", "ceph"]),
        storage("unsupported configuration: unknown auth type '{}'"),
    ),
    Need(
        "secret",
        storage("XML error: Missing <secret> element in auth"),
        &[Check(secret)],
    ),
];

/// A secret is named by its UUID or its usage.
pub(super) fn secret(node: Node<'_>) -> Checked {
    let said = |text: &str| Err(Error::new(Kind::Xml, text).in_area(Area::None));
    match (node.attr("uuid"), node.attr("usage")) {
        (None, None) => said("missing secret uuid or usage attribute"),
        (Some(_), Some(_)) => said("either secret uuid or usage expected"),
        (Some(uuid), None) if Form::Uuid.check(uuid).is_err() => {
            said(&format!("invalid secret uuid '{uuid}'"))
        }
        _ => Ok(()),
    }
}

/// `<encryption>`.
pub(super) const ENCRYPTION: Rules = &[
    filled("format", storage("XML error: unknown volume encryption format")),
    maybe(
        "format",
        Form::Word(crate::devices::EncryptionFormat::WORDS),
        storage("unsupported configuration: unknown volume encryption format type {}"),
    ),
    word("engine", crate::devices::EncryptionEngine::WORDS),
    Each(
        "secret",
        &[
            filled(
                "type",
                storage("XML error: unknown volume encryption secret type"),
            ),
            maybe(
                "type",
                Form::Word(&["passphrase"]),
                storage("unsupported configuration: unknown volume encryption secret type {}"),
            ),
            Check(secret),
        ],
    ),
    If(When::Is("format", &["luks"]), LUKS),
];

const LUKS: Rules = &[
    Child(
        "cipher",
        &[
            named("name", storage("XML error: cipher info missing 'name' attribute")),
            number("size").needed(),
        ],
    ),
    Child(
        "ivgen",
        &[
            Check(|node| match node.parent().and_then(|p| p.child("cipher")) {
                Some(_) => Ok(()),
                None => Err(storage("XML error: ivgen element found, but cipher is missing").of("")),
            }),
            named("name", storage("XML error: missing ivgen info name string")),
        ],
    ),
];

const RESERVATIONS: Rules = &[yes("managed").needed(), Check(reservations)];

fn reservations(node: Node<'_>) -> Checked {
    let source = node.child("source");
    let value = |name| source.and_then(|s| s.attr(name)).filter(|v| !v.is_empty());
    let parts = ["type", "path", "mode"];
    if node.attr("managed") != Some("no") && parts.iter().all(|part| value(part).is_none()) {
        return Ok(());
    }
    let missing = |text| Err(storage(text).of(""));
    match (value("type"), value("path"), value("mode")) {
        (None, _, _) => missing("XML error: missing connection type for <reservations/>"),
        (_, None, _) => missing("XML error: missing path for <reservations/>"),
        (_, _, None) => missing("XML error: missing connection mode for <reservations/>"),
        (Some(kind), ..) if kind != "unix" => {
            Err(storage("XML error: unsupported connection type for <reservations/>: {}").of(kind))
        }
        (_, _, Some(mode)) if mode != "client" => {
            Err(storage("XML error: unsupported connection mode for <reservations/>: {}").of(mode))
        }
        _ => Ok(()),
    }
}

const SLICE: Rules = &[
    filled(
        "offset",
        domain("XML error: missing offset or size attribute of slice"),
    ),
    filled(
        "size",
        domain("XML error: missing offset or size attribute of slice"),
    ),
    maybe(
        "offset",
        Form::U64(10),
        domain("XML error: malformed value '{}' of 'offset' attribute of slice"),
    ),
    maybe(
        "size",
        Form::U64(10),
        domain("XML error: malformed value '{}' of 'size' attribute of slice"),
    ),
];

/// Labels of a source.
pub(super) const SECLABELS: Rules = &[Each(
    "seclabel",
    &[Check(label_once), yes("relabel"), Check(label_fits)],
)];

fn label_once(node: Node<'_>) -> Checked {
    let Some(model) = node.attr("model") else {
        return Ok(());
    };
    match super::tuning::earlier(node, "seclabel").any(|e| e.attr("model") == Some(model)) {
        true => Err(domain("seclabel for model {} is already provided").of(model)),
        false => Ok(()),
    }
}

fn label_fits(node: Node<'_>) -> Checked {
    let labelled = node.child("label").is_some_and(|label| !label.text().is_empty());
    let model = node.attr("model").unwrap_or("<null>");
    match (node.attr("relabel"), labelled) {
        (Some("no"), true) => {
            Err(domain("XML error: Cannot specify a label if relabelling is turned off. model={}").of(model))
        }
        (Some("yes"), false) => {
            Err(domain("XML error: Cannot specify relabel if label is missing. model={}").of(model))
        }
        _ => Ok(()),
    }
}

const DATA_STORE: Rules = &[
    attr("type", Form::Any).needed(),
    Check(|node| needs_format(node, domain("XML error: missing data file store format"))),
    Need(
        "source",
        domain("XML error: missing disk data file store source"),
        &[],
    ),
    Part(CHAINED_TYPE),
    Part(CHAINED_FORMAT),
    // A source may have a store, so the table would hold itself.
    Check(|node| super::rule::check(node, SOURCE_BY_TYPE)),
];

pub(super) const CHAINED_TYPE: Rules = &[given(
    "type",
    Form::Word(KINDS),
    domain("XML error: unknown storage source type '{}'"),
)];

pub(super) const CHAINED_FORMAT: Rules = &[Child("format", &[maybe("type", Form::Word(FORMATS), NO_FORMAT)])];

pub(super) const NO_FORMAT: Words = domain("XML error: unknown storage source format '{}'");

fn needs_format(node: Node<'_>, missing: Words) -> Checked {
    let format = node.child("format").and_then(|f| f.attr("type"));
    match format.is_some_and(|format| !format.is_empty()) {
        true => Ok(()),
        false => Err(missing.of("")),
    }
}

/// An image below; one without a type ends the chain. Chains are as deep as documents may nest.
pub(super) const BACKING: Rules = &[If(
    When::Given("type"),
    &[
        Check(|node| needs_format(node, domain("XML error: missing disk backing store format"))),
        Need(
            "source",
            domain("XML error: missing disk backing store source"),
            &[],
        ),
        Part(CHAINED_TYPE),
        Part(CHAINED_FORMAT),
        Part(SOURCE_BY_TYPE),
        Child("format", &[Part(METADATA_CACHE_OF_FORMAT)]),
        Check(|node| {
            node.child("backingStore")
                .map_or(Ok(()), |below| super::rule::check(below, BACKING))
        }),
    ],
)];

const METADATA_CACHE_OF_FORMAT: Rules = &[Child(
    "metadata_cache",
    &[Rule::Size(bytes("max_size", "./format/metadata_cache/max_size"))],
)];

/// The cache of an image's tables, in a disk's driver.
pub(super) const METADATA_CACHE: Size = bytes("max_size", "./metadata_cache/max_size");

/// `iommu`, `ats`, `packed`, `page_per_vq`.
pub(super) const VIRTIO: Rules = &[on("iommu"), on("ats"), on("packed"), on("page_per_vq")];

/// Which I/O thread serves which queue.
pub(super) const IOTHREAD_MAP: Rules = &[Each(
    "iothread",
    &[
        attr("id", Form::U32(10)).needed(),
        Each("queue", &[attr("id", Form::U32(10)).needed()]),
    ],
)];
