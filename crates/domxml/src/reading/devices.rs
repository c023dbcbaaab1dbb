//! What all devices share, controllers, and families of few words.
// table: one line a rule, in the order in which libvirt reads

use xmlform::{Area, Node};

use super::form::{Form, unsigned};
use super::info::{INFO, USB_ADDRESS_ONLY};
use super::rule::{
    Checked, Rule, Rules, When, Words, attr, domain, given, maybe, named, number, of, on, text, told, word,
    yes,
};
use super::size::{bytes, kib};
use super::storage::VIRTIO;
use super::tuning::{BAD_SET, is_not_empty};
use crate::Error;
use crate::devices as model;
use Rule::{Check, Child, Each, If, Most, Need, Part, Size};

/// Whether a controller says that there is no USB: of such a one nothing more is looked at.
fn is_no_usb(node: Node<'_>) -> bool {
    node.attr("type") == Some("usb") && node.attr("model") == Some("none")
}

/// `<controller>`.
pub(super) const CONTROLLER: Rules = &[
    word("type", model::ControllerKind::WORDS),
    Check(controller_model),
    attr("index", Form::Natural(10)),
    Child(
        "driver",
        &[
            number("queues"),
            number("cmd_per_lun"),
            number("max_sectors"),
            on("ioeventfd"),
            number("iothread"),
            Child("iothreads", super::storage::IOTHREAD_MAP),
            Part(VIRTIO),
        ],
    ),
    Most(
        1,
        "model",
        domain("XML error: Multiple <model> elements in controller definition not allowed"),
    ),
    If(PCI, &[Child("model", &[word("name", PCI_MODEL_NAMES)])]),
    Most(
        1,
        "target",
        domain("XML error: Multiple <target> elements in controller definition not allowed"),
    ),
    If(PCI, &[Child("target", PCI_TARGET)]),
    Child(
        "target",
        &[text(
            "node",
            Form::Natural(10),
            domain("XML error: invalid NUMA node in target"),
        )],
    ),
    If(When::Case(|node| !is_no_usb(node)), INFO),
    attr("ports", Form::Natural(10)),
    If(
        When::Is("type", &["virtio-serial"]),
        &[attr("vectors", Form::Natural(10))],
    ),
    If(
        When::Case(|node| node.attr("type") == Some("pci") && is_root(node)),
        &[Size(bytes("pcihole64", "./pcihole64").in_units_of(1024))],
    ),
    If(
        When::Is("type", &["xenbus"]),
        &[
            attr("maxGrantFrames", Form::Natural(10)),
            attr("maxEventChannels", Form::Natural(10)),
        ],
    ),
    Check(usb_controller),
];

const PCI: When = When::Is("type", &["pci"]);

fn is_root(node: Node<'_>) -> bool {
    matches!(node.attr("model"), Some("pci-root" | "pcie-root"))
}

const PCI_MODEL_NAMES: &[&str] = &[
    "none",
    "pci-bridge",
    "i82801b11-bridge",
    "ioh3420",
    "x3130-upstream",
    "xio3130-downstream",
    "pxb",
    "pxb-pcie",
    "pcie-root-port",
    "spapr-pci-host-bridge",
    "pcie-pci-bridge",
];

const PCI_TARGET: Rules = &[
    attr("chassisNr", Form::Natural(0)),
    attr("chassis", Form::Natural(0)),
    attr("port", Form::Natural(0)),
    attr("busNr", Form::Natural(0)),
    on("hotplug"),
    attr("index", Form::Natural(0)),
    attr("memReserve", Form::U64(0)).positive(),
];

fn controller_model(node: Node<'_>) -> Checked {
    let Some(model) = node.attr("model") else {
        return Ok(());
    };
    let known: &[&str] = match node.attr("type").unwrap_or("ide") {
        "pci" => model::PciModel::WORDS,
        "usb" => model::UsbModel::WORDS,
        "scsi" => model::ScsiModel::WORDS,
        "ide" => model::IdeModel::WORDS,
        "virtio-serial" => model::VirtioModel::WORDS,
        _ => &[],
    };
    match known.contains(&model) {
        true => Ok(()),
        false => Err(domain("unsupported configuration: Unknown model type '{}'").of(model)),
    }
}

/// A controller of USB stands beside none that says there is no USB, and is alone if it says so itself.
fn usb_controller(node: Node<'_>) -> Checked {
    let usb = |controller: Node<'_>| controller.attr("type") == Some("usb");
    let is_none = |controller: Node<'_>| controller.attr("model") == Some("none");
    let clash = |other: Node<'_>| usb(other) && (is_none(other) || is_none(node));
    match usb(node) && super::tuning::earlier_in_all(node, "controller").any(clash) {
        true => {
            let said = "Can't add another USB controller: USB is disabled for this domain";
            Err(domain(said).of(""))
        }
        false => Ok(()),
    }
}

/// One of the controllers of USB leads.
pub(super) fn usb_controllers_lead(devices: Node<'_>) -> Checked {
    let all: Vec<_> = devices
        .children_named("controller")
        .filter(|c| c.attr("type") == Some("usb") && c.attr("model") != Some("none"))
        .collect();
    let follows = |controller: &Node<'_>| {
        let companion = matches!(
            controller.attr("model"),
            Some("ich9-uhci1" | "ich9-uhci2" | "ich9-uhci3")
        );
        companion || controller.child("master").is_some()
    };
    match !all.is_empty() && all.iter().all(follows) {
        true => Err(domain("No master USB controller specified").of("")),
        false => Ok(()),
    }
}

/// Whether the document says that there is no USB.
pub(super) fn usb_is_off(node: Node<'_>) -> bool {
    let devices = super::tuning::root(node).child("devices");
    let mut controllers = devices.into_iter().flat_map(|d| d.children_named("controller"));
    controllers.any(|c| c.attr("type") == Some("usb") && c.attr("model") == Some("none"))
}

/// `<lease>`.
pub(super) const LEASE: Rules = &[
    told("key", domain("XML error: Missing 'key' element for lease")),
    told(
        "lockspace",
        of(
            Area::None,
            "internal error: <lockspace> of a lease must not be empty",
        ),
    ),
    Need(
        "target",
        domain("XML error: Missing 'target' element for lease"),
        &[
            named(
                "path",
                domain("XML error: Missing 'path' attribute to 'target' element for lease"),
            ),
            attr("offset", Form::U64(10)),
        ],
    ),
];

/// `<input>`.
pub(super) const INPUT: Rules = &[
    Child("driver", VIRTIO),
    named("type", domain("internal error: missing input device type")),
    given(
        "type",
        Form::Word(model::InputKind::WORDS),
        domain("unsupported configuration: unknown input device type '{}'"),
    ),
    given(
        "model",
        Form::Word(model::VirtioModel::WORDS),
        domain("unsupported configuration: unknown input model '{}'"),
    ),
    given(
        "bus",
        Form::Word(model::InputBus::WORDS),
        domain("unsupported configuration: unknown input bus type '{}'"),
    ),
    Part(INFO),
    If(When::Is("bus", &["usb"]), USB_ADDRESS_ONLY),
    If(
        When::Is("type", &["passthrough"]),
        &[Child("source", &[named("evdev", NO_EVDEV)])],
    ),
    If(
        When::Is("type", &["evdev"]),
        &[Child(
            "source",
            &[
                named("dev", NO_EVDEV),
                word("grab", model::InputGrab::WORDS),
                word("grabToggle", model::GrabToggle::WORDS),
                on("repeat"),
            ],
        )],
    ),
    If(
        When::Is("bus", &["usb"]),
        &[Check(|node| {
            usb_is_on(node, "Can't add USB input device. USB bus is disabled")
        })],
    ),
];

const NO_EVDEV: Words = domain("XML error: Missing evdev path for input device");

pub(super) fn usb_is_on(node: Node<'_>, said: &str) -> Checked {
    match usb_is_off(node) {
        true => Err(Error::unsupported(said)),
        false => Ok(()),
    }
}

/// `<watchdog>`.
pub(super) const WATCHDOG: Rules = &[
    word("model", model::WatchdogModel::WORDS).needed(),
    word("action", model::WatchdogAction::WORDS),
    Part(INFO),
];

/// `<memballoon>`.
pub(super) const MEMBALLOON: Rules = &[
    word("model", model::MemballoonModel::WORDS).needed(),
    on("autodeflate"),
    on("freePageReporting"),
    Child("stats", &[attr("period", Form::I32(0))]),
    Part(INFO),
    Child("driver", VIRTIO),
];

/// `<rng>`.
pub(super) const RNG: Rules = &[
    word("model", model::VirtioModel::WORDS).needed(),
    Child(
        "rate",
        &[
            maybe(
                "bytes",
                Form::U32(10),
                domain("XML error: invalid RNG rate bytes value"),
            ),
            If(
                When::Case(|node| unsigned(node.attr("bytes"), 10) > 0),
                &[maybe(
                    "period",
                    Form::U32(10),
                    domain("XML error: invalid RNG rate period value"),
                )],
            ),
        ],
    ),
    Check(|node| one_backend(node, "only one RNG backend is supported")),
    Child(
        "backend",
        &[
            word("model", model::RngBackendModel::WORDS).needed(),
            If(
                When::Is("model", &["egd"]),
                &[
                    named("type", domain("XML error: missing EGD backend type")),
                    given(
                        "type",
                        Form::Word(super::chardevs::KINDS),
                        domain("unsupported configuration: unknown backend type '{}' for egd"),
                    ),
                    Part(super::chardevs::SOURCES),
                ],
            ),
        ],
    ),
    Part(INFO),
    Child("driver", VIRTIO),
];

fn one_backend(node: Node<'_>, said: &str) -> Checked {
    match node.children_named("backend").count() {
        1 => Ok(()),
        _ => Err(Error::xml(said)),
    }
}

/// `<crypto>`.
pub(super) const CRYPTO: Rules = &[
    word("model", model::CryptoModel::WORDS).needed(),
    word("type", model::CryptoKind::WORDS).needed(),
    Check(|node| one_backend(node, "only one crypto backend is supported")),
    Child(
        "backend",
        &[
            word("model", model::CryptoBackendModel::WORDS).needed(),
            number("queues"),
        ],
    ),
    Part(INFO),
    Child("driver", VIRTIO),
];

/// `<tpm>`.
pub(super) const TPM: Rules = &[
    word("model", model::TpmModel::WORDS),
    Most(
        1,
        "backend",
        domain("XML error: only one TPM backend is supported"),
    ),
    Need(
        "backend",
        domain("XML error: missing TPM device backend"),
        &[
            word("type", model::TpmBackendKind::WORDS).needed(),
            If(When::Is("type", &["emulator"]), TPM_EMULATOR),
            If(When::Is("type", &["external"]), TPM_EXTERNAL),
        ],
    ),
    Part(INFO),
];

const TPM_EMULATOR: Rules = &[
    word("version", model::TpmVersion::WORDS),
    number("debug"),
    Child(
        "encryption",
        &[maybe(
            "secret",
            Form::Uuid,
            domain("internal error: Unable to parse secret uuid '{}'"),
        )],
    ),
    Child(
        "source",
        &[
            word("type", &["file", "dir"]),
            named("path", domain("XML error: missing TPM source path")),
        ],
    ),
    given(
        "persistent_state",
        Form::Word(&["yes", "no"]),
        domain("internal error: Invalid persistent_state value, either 'yes' or 'no'"),
    ),
    Child(
        "active_pcr_banks",
        &[Rule::All(&[Check(|node| {
            match ["sha1", "sha256", "sha384", "sha512"].contains(&node.name()) {
                true => Ok(()),
                false => Err(domain("unsupported configuration: Unsupported PCR banks '{}'").of(node.name())),
            }
        })])],
    ),
    Child(
        "profile",
        &[word("removeDisabled", model::TpmRemoveDisabled::WORDS)],
    ),
];

const TPM_EXTERNAL: Rules = &[
    Check(|node| {
        let kind = node
            .child("source")
            .and_then(|s| s.attr("type"))
            .unwrap_or_default();
        if kind.is_empty() {
            return Err(domain("XML error: missing external TPM backend source type").of(""));
        }
        match super::chardevs::KINDS.contains(&kind) {
            true => Ok(()),
            false => {
                let said =
                    domain("unsupported configuration: unknown backend source type '{}' for external TPM");
                Err(said.of(kind))
            }
        }
    }),
    Most(
        1,
        "source",
        domain("XML error: only one source element is allowed for character device"),
    ),
    Each("source", super::chardevs::SOCKET),
];

/// `<hub>`.
pub(super) const HUB: Rules = &[
    named("type", domain("internal error: missing hub device type")),
    given(
        "type",
        Form::Word(model::HubKind::WORDS),
        domain("unsupported configuration: unknown hub device type '{}'"),
    ),
    Part(INFO),
    Check(|node| usb_is_on(node, "Can't add USB hub: USB is disabled for this domain")),
];

/// `<redirfilter>`.
pub(super) const REDIRFILTER: Rules = &[Each(
    "usbdev",
    &[
        attr("class", Form::I32(0)),
        Check(|node| {
            let class = node
                .attr("class")
                .and_then(|c| crate::number::integer(c, 0))
                .unwrap_or(-1);
            match (-1..=0xff).contains(&class) {
                true => Ok(()),
                false => {
                    let class = class as i32;
                    Err(Error::internal(format!("Invalid USB Class code {class:#x}")))
                }
            }
        }),
        attr("vendor", Form::I32(0)),
        attr("product", Form::I32(0)),
        given(
            "version",
            Form::Like(is_usb_version),
            domain("XML error: Cannot parse USB device version {}"),
        ),
        yes("allow").needed(),
    ],
)];

fn is_usb_version(version: &str) -> bool {
    let small = |part: &str| crate::number::integer(part, 10).is_some_and(|n| (0..100).contains(&n));
    version == "-1"
        || version
            .split_once('.')
            .is_some_and(|(major, minor)| small(major) && small(minor))
}

/// `<panic>`.
pub(super) const PANIC: Rules = &[
    Part(INFO),
    given(
        "model",
        Form::Word(model::PanicModel::WORDS),
        domain("unsupported configuration: unknown panic model '{}'"),
    ),
];

/// `<shmem>`.
pub(super) const SHMEM: Rules = &[
    Child("model", &[word("type", model::ShmemModelKind::WORDS)]),
    named(
        "name",
        domain("XML error: shmem element must contain 'name' attribute"),
    ),
    If(
        When::Case(|node| {
            let kind = node.child("model").and_then(|m| m.attr("type"));
            matches!(kind, Some("ivshmem-plain" | "ivshmem-doorbell"))
        }),
        &[word("role", model::ShmemRole::WORDS)],
    ),
    Size(bytes("size", "./size[1]").in_units_of(1)),
    Child("msi", &[attr("vectors", Form::U32(0)), on("ioeventfd")]),
    Check(
        |node| match node.child("msi").is_some() && node.child("server").is_none() {
            true => Err(domain("XML error: msi option is only supported with a server").of("")),
            false => Ok(()),
        },
    ),
    Part(INFO),
];

const EMPTY_NODEMASK: Words = domain("unsupported configuration: Invalid value of 'nodemask': {}");

/// The host's nodes of a module.
const NODEMASK: Rules = &[
    text("nodemask", Form::Set, BAD_SET),
    text("nodemask", Form::Like(is_not_empty), EMPTY_NODEMASK),
];

const TARGET_SIZE: super::size::Size = kib("size", "./size").needed();
const LABEL_SIZE: super::size::Size = kib("size", "./label/size");

/// `<memory>`, a module.
pub(super) const MEMORY: Rules = &[
    word("model", model::MemoryModel::WORDS).needed(),
    word("access", model::MemoryAccess::WORDS),
    yes("discard"),
    If(
        When::Is("model", &["nvdimm"]),
        &[text(
            "uuid",
            Form::Uuid,
            domain("internal error: malformed uuid element"),
        )],
    ),
    If(
        When::Is("model", &["dimm", "virtio-mem"]),
        &[Child(
            "source",
            &[Size(kib("pagesize", "./pagesize")), Part(NODEMASK)],
        )],
    ),
    If(
        When::Is("model", &["nvdimm"]),
        &[Child("source", &[Size(kib("alignsize", "./alignsize"))])],
    ),
    If(When::Is("model", &["sgx-epc"]), &[Child("source", NODEMASK)]),
    Need(
        "target",
        domain("XML error: missing <target> element for <memory> device"),
        &[
            text(
                "node",
                Form::Natural(10),
                domain("XML error: invalid value of memory device node"),
            ),
            Size(TARGET_SIZE),
        ],
    ),
    If(
        When::Is("model", &["nvdimm"]),
        &[Child("target", &[Check(label)])],
    ),
    If(
        When::Is("model", &["virtio-mem"]),
        &[Child(
            "target",
            &[
                Size(kib("block", "./block")),
                Size(kib("requested", "./requested")),
                yes("dynamicMemslots"),
            ],
        )],
    ),
    If(
        When::Is("model", &["virtio-mem", "virtio-pmem"]),
        &[Child(
            "target",
            &[Child("address", &[attr("base", Form::U64(16))])],
        )],
    ),
    Part(INFO),
];

/// Smallest label area of an NVDIMM, bytes.
const LABEL_LEAST: u64 = 128 << 10;

fn label(target: Node<'_>) -> Checked {
    let size = TARGET_SIZE.check(target)?.unwrap_or_default();
    let label = target
        .child("label")
        .map(|label| LABEL_SIZE.check(label))
        .transpose()?;
    let label = label.flatten().unwrap_or_default();
    if label != 0 && label < LABEL_LEAST {
        return Err(domain("XML error: nvdimm label must be at least 128KiB").of(""));
    }
    match label >= size {
        true => Err(domain("XML error: label size must be smaller than NVDIMM size").of("")),
        false => Ok(()),
    }
}

/// `<iommu>`.
pub(super) const IOMMU: Rules = &[
    word("model", model::IommuModel::WORDS).needed(),
    Child(
        "driver",
        &[
            on("intremap"),
            on("caching_mode"),
            on("iotlb"),
            on("eim"),
            number("aw_bits"),
            on("dma_translation"),
        ],
    ),
    Part(INFO),
];

/// `<vsock>`.
pub(super) const VSOCK: Rules = &[
    word(
        "model",
        &[
            "default",
            "virtio",
            "virtio-transitional",
            "virtio-non-transitional",
        ],
    ),
    Child("cid", &[number("address").positive(), yes("auto")]),
    Part(INFO),
    Child("driver", VIRTIO),
];

/// `<pstore>`.
pub(super) const PSTORE: Rules = &[
    word("backend", model::PstoreBackend::WORDS).needed(),
    Size(kib("size", "./size").needed()),
    Part(INFO),
];
