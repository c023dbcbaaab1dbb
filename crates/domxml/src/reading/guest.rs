//! The guest itself: identity, memory, security labels, firmware, clock, and the order of it all.
// table: one line a rule, in the order in which libvirt reads

use xmlform::{Area, Node};

use super::form::{Form, canonical_uuid, unsigned};
use super::rule::{
    Checked, Rule, Rules, When, Words, attr, domain, filled, given, maybe, named, number, of, on, own_text,
    text, word, yes,
};
use super::size::{kib, kib_attr};
use super::tuning::{BAD_SET, is_not_empty};
use super::{
    chardevs, cpu, devices, disks, displays, features, filesystems, hostdevs, interfaces, storage, tuning,
};
use crate::{Error, Kind};
use Rule::{Check, Child, Each, If, Most, Part, Size};

/// A whole document.
pub(super) const DOMAIN: Rules = &[
    Check(name),
    text(
        "uuid",
        Form::Uuid,
        domain("internal error: malformed uuid element"),
    ),
    Most(
        1,
        "genid",
        domain("XML error: element 'genid' can only appear once"),
    ),
    text(
        "genid",
        Form::Uuid,
        domain("internal error: malformed genid element"),
    ),
    filled("type", domain("internal error: missing domain type attribute")),
    maybe(
        "type",
        Form::Word(crate::VirtType::WORDS),
        domain("unsupported configuration: invalid domain type {}"),
    ),
    Check(os_type),
    text(
        "title",
        Form::Like(|title| !title.contains('\n')),
        domain("XML error: Domain title can't contain newlines"),
    ),
    Each("seclabel", SECLABEL),
    Check(seclabels),
    Part(MEMORY),
    Rule::Merged("blkiotune", &[Each("device", tuning::BLKIO_DEVICE)]),
    Part(tuning::MEMTUNE),
    Part(tuning::VCPUS),
    Part(tuning::IOTHREADS),
    Part(tuning::CPUTUNE),
    Child("cpu", cpu::CPU),
    Check(cpu::cells_and_vcpus),
    Part(tuning::NUMATUNE),
    Most(
        1,
        "resource",
        domain("XML error: only one resource element is supported"),
    ),
    Child("resource", &[Check(resource)]),
    Rule::Merged("features", features::FEATURES),
    Part(LIFECYCLE),
    Child("pm", PM),
    Part(PERF),
    Child("clock", CLOCK),
    If(When::Case(|node| os_is(node, "hvm")), OS),
    If(When::Case(|node| os_is(node, "exe")), EXE),
    Part(disks::THROTTLE_GROUPS),
    Rule::Merged("devices", DEVICES),
    Child("launchSecurity", LAUNCH_SECURITY),
    Rule::Merged("devices", LATE_DEVICES),
    Each("sysinfo", SYSINFO),
    Child("os", &[Child("smbios", SMBIOS)]),
    Rule::Merged("keywrap", KEYWRAP),
    Child(
        "idmap",
        &[
            Each("uid", filesystems::ID_RANGE),
            Each("gid", filesystems::ID_RANGE),
        ],
    ),
    Part(super::namespace::QEMU),
    Child("maxMemory", &[Check(slots_have_memory)]),
];

/// Slots for memory are of no use where no more memory may come.
fn slots_have_memory(node: Node<'_>) -> Checked {
    let slots = unsigned(node.attr("slots").filter(|slots| !slots.is_empty()), 10);
    match slots > 0 && node.text().is_empty() {
        true => {
            let said =
                "XML error: maximum memory size must be specified when specifying number of memory slots";
            Err(domain(said).of(""))
        }
        false => Ok(()),
    }
}

/// Devices as far as they come before the guest's memory encryption.
const DEVICES: Rules = &[
    Each("disk", disks::DISK),
    Each("controller", devices::CONTROLLER),
    Check(devices::usb_controllers_lead),
    Each("lease", devices::LEASE),
    Each("filesystem", filesystems::FILESYSTEM),
    Each("interface", interfaces::INTERFACE),
    Each("smartcard", chardevs::SMARTCARD),
    Each("parallel", chardevs::PARALLEL),
    Each("serial", chardevs::SERIAL),
    Each("console", chardevs::CONSOLE),
    Each("channel", chardevs::CHANNEL),
    Each("input", devices::INPUT),
    Each("graphics", displays::GRAPHICS),
    Each("sound", displays::SOUND),
    Each("audio", displays::AUDIO),
    Each("video", displays::VIDEO),
    Each("hostdev", hostdevs::HOSTDEV),
    Each("watchdog", devices::WATCHDOG),
    Most(
        1,
        "memballoon",
        domain("internal error: only a single memory balloon device is supported"),
    ),
    Child("memballoon", devices::MEMBALLOON),
    Each("rng", devices::RNG),
    Each("crypto", devices::CRYPTO),
    Most(
        2,
        "tpm",
        domain("XML error: a maximum of two TPM devices is supported, one of them being a TPM Proxy device"),
    ),
    Each("tpm", devices::TPM),
    Most(
        1,
        "nvram",
        domain("internal error: only a single nvram device is supported"),
    ),
    Child("nvram", super::info::INFO),
    Each("hub", devices::HUB),
    Each("redirdev", chardevs::REDIRDEV),
    Most(
        1,
        "redirfilter",
        domain("internal error: only one set of redirection filter rule is supported"),
    ),
    Child("redirfilter", devices::REDIRFILTER),
    Each("panic", devices::PANIC),
    Each("shmem", devices::SHMEM),
];

/// Devices that come after it.
const LATE_DEVICES: Rules = &[
    Each("memory", devices::MEMORY),
    Most(
        1,
        "iommu",
        domain("XML error: only a single IOMMU device is supported"),
    ),
    Child("iommu", devices::IOMMU),
    Most(
        1,
        "vsock",
        domain("XML error: only a single vsock device is supported"),
    ),
    Child("vsock", devices::VSOCK),
    Most(
        1,
        "pstore",
        domain("XML error: only a single pstore device is supported"),
    ),
    Child("pstore", devices::PSTORE),
];

/// The rules of a device by the name of its element.
pub(super) fn device(name: &str) -> Option<Rules> {
    let lists = DEVICES.iter().chain(LATE_DEVICES);
    lists.into_iter().find_map(|rule| match rule {
        Each(known, rules) | Child(known, rules) if *known == name => Some(*rules),
        _ => None,
    })
}

fn name(node: Node<'_>) -> Checked {
    match node.child("name").is_some_and(|n| !n.text().is_empty()) {
        true => Ok(()),
        false => Err(Error::new(Kind::NoName, "missing name information")),
    }
}

/// The text of `<os><type>`.
fn os_of(node: Node<'_>) -> Option<Node<'_>> {
    let mut all = node.children_named("os").flat_map(|os| os.children_named("type"));
    all.next()
}

fn os_is(node: Node<'_>, kind: &str) -> bool {
    os_of(node).is_some_and(|os| os.text() == kind)
}

const OS_TYPES: &[&str] = &["hvm", "xen", "linux", "exe", "uml", "xenpvh"];

fn os_type(node: Node<'_>) -> Checked {
    let kind = os_of(node);
    let bootloader = node.child("bootloader").is_some_and(|b| !b.text().is_empty());
    match kind.map(Node::text).filter(|kind| !kind.is_empty()) {
        None if bootloader => {}
        None => return Err(domain("XML error: an os <type> must be specified").of("")),
        Some(kind) if !OS_TYPES.contains(&kind) => {
            return Err(domain("unsupported configuration: unknown OS type '{}'").of(kind));
        }
        Some(_) => {}
    }
    match kind
        .and_then(|kind| kind.attr("arch"))
        .filter(|arch| !arch.is_empty())
    {
        Some(arch) if !ARCHITECTURES.contains(&arch) => {
            Err(domain("unsupported configuration: Unknown architecture {}").of(arch))
        }
        _ => Ok(()),
    }
}

/// Every architecture that has a name.
const ARCHITECTURES: &[&str] = &[
    "alpha",
    "armv6l",
    "armv7l",
    "armv7b",
    "aarch64",
    "cris",
    "i686",
    "ia64",
    "lm32",
    "loongarch64",
    "m68k",
    "microblaze",
    "microblazeel",
    "mips",
    "mipsel",
    "mips64",
    "mips64el",
    "openrisc",
    "parisc",
    "parisc64",
    "ppc",
    "ppcle",
    "ppc64",
    "ppc64le",
    "ppcemb",
    "riscv32",
    "riscv64",
    "s390",
    "s390x",
    "sh4",
    "sh4eb",
    "sparc",
    "sparc64",
    "unicore32",
    "x86_64",
    "xtensa",
    "xtensaeb",
];

const SECLABEL: Rules = &[
    word("type", crate::security::SeclabelType::WORDS),
    yes("relabel"),
    Check(seclabel),
];

/// Longest label, bytes.
const LABEL_MOST: usize = 4096;

fn seclabel(node: Node<'_>) -> Checked {
    let relabel = node.attr("relabel");
    let kind = node.attr("type").unwrap_or_default();
    match (kind, relabel) {
        ("dynamic", Some("no")) => {
            return Err(
                domain("unsupported configuration: dynamic label type must use resource relabeling").of(""),
            );
        }
        ("none", Some("yes")) => {
            let said =
                "unsupported configuration: resource relabeling is not compatible with 'none' label type";
            return Err(domain(said).of(""));
        }
        _ => {}
    }
    if node.attr("model") == Some("none") {
        return Ok(());
    }
    let label = node.child("label").map_or("", Node::text);
    if kind == "static" && (label.is_empty() || label.len() > LABEL_MOST) {
        return Err(domain("XML error: security label is missing").of(""));
    }
    Ok(())
}

fn seclabels(node: Node<'_>) -> Checked {
    let models: Vec<_> = node.children_named("seclabel").map(|s| s.attr("model")).collect();
    if let [None] = models[..] {
        return only_label(node.child("seclabel"));
    }
    if models.len() < 2 {
        return Ok(());
    }
    for (at, model) in models.iter().enumerate() {
        if models[..at].contains(model) {
            let said = domain("seclabel for model {} is already provided");
            return Err(said.of(model.unwrap_or("(null)")));
        }
    }
    match models.iter().any(Option::is_none) {
        true => Err(domain("XML error: missing security model when using multiple labels").of("")),
        false => Ok(()),
    }
}

/// A label of no model is one of the host's, if it leaves everything to the host.
fn only_label(label: Option<Node<'_>>) -> Checked {
    let Some(label) = label else { return Ok(()) };
    let based = label
        .child("baselabel")
        .is_some_and(|base| !base.text().is_empty());
    match label.attr("type") {
        Some("none") => Ok(()),
        Some("dynamic") if !based => Ok(()),
        _ => Err(domain("XML error: missing security model in domain seclabel").of("")),
    }
}

const MEMORY: Rules = &[
    Size(kib("memory", "./memory[1]")),
    Size(kib("currentMemory", "./currentMemory[1]")),
    Size(kib("maxMemory", "./maxMemory[1]")),
    Child(
        "maxMemory",
        &[maybe(
            "slots",
            Form::U32(10),
            domain("XML error: Failed to parse memory slot count"),
        )],
    ),
    Child("memory", &[on("dumpCore")]),
    Child("memoryBacking", MEMORY_BACKING),
];

const MEMORY_BACKING: Rules = &[
    Child(
        "source",
        &[maybe(
            "type",
            Form::Word(&["file", "anonymous", "memfd"]),
            domain("unsupported configuration: unknown memoryBacking/source/type '{}'"),
        )],
    ),
    Child(
        "access",
        &[maybe(
            "mode",
            Form::Word(&["shared", "private"]),
            domain("unsupported configuration: unknown memoryBacking/access/mode '{}'"),
        )],
    ),
    Child(
        "allocation",
        &[
            maybe(
                "mode",
                Form::Word(&["immediate", "ondemand"]),
                domain("unsupported configuration: unknown memoryBacking/allocation/mode '{}'"),
            ),
            maybe(
                "threads",
                Form::U32(10),
                domain("XML error: Failed to parse memory allocation threads"),
            ),
        ],
    ),
    Child("hugepages", &[Each("page", HUGE_PAGE)]),
];

const PAGE_SIZE: super::size::Size = kib_attr("size", "./@size");

const HUGE_PAGE: Rules = &[
    Size(PAGE_SIZE),
    Check(|node| match PAGE_SIZE.check(node)? {
        Some(0) => Err(domain("hugepage size can't be zero").of("")),
        _ => Ok(()),
    }),
    given("nodeset", Form::Set, BAD_SET),
    given(
        "nodeset",
        Form::Like(is_not_empty),
        domain("unsupported configuration: Invalid value of 'nodeset': {}"),
    ),
];

fn resource(node: Node<'_>) -> Checked {
    let partition = node.child("partition").is_some_and(|p| !p.text().is_empty());
    let application = node
        .child("fibrechannel")
        .is_some_and(|f| f.attr("appid").is_some_and(|id| !id.is_empty()));
    match partition || application {
        true => Ok(()),
        false => {
            let said = "internal error: <resource> has neither a partition nor an application's identity";
            Err(of(Area::None, said).of(""))
        }
    }
}

const ACTIONS: Form = Form::Word(crate::clock::LifecycleAction::WORDS);

const LIFECYCLE: Rules = &[
    text(
        "on_reboot",
        ACTIONS,
        domain("unsupported configuration: unknown on_reboot action: {}"),
    ),
    text(
        "on_poweroff",
        ACTIONS,
        domain("unsupported configuration: unknown on_poweroff action: {}"),
    ),
    text(
        "on_crash",
        ACTIONS,
        domain("unsupported configuration: unknown on_crash action: {}"),
    ),
    text(
        "on_lockfailure",
        Form::Word(crate::clock::LockFailureAction::WORDS),
        domain("unsupported configuration: unknown on_lockfailure action: {}"),
    ),
];

const PM: Rules = &[
    Child("suspend-to-mem", &[yes("enabled")]),
    Child("suspend-to-disk", &[yes("enabled")]),
];

const PERF: Rules = &[Rule::Merged(
    "perf",
    &[Each(
        "event",
        &[
            word("name", crate::clock::PerfEventName::WORDS).needed(),
            yes("enabled").needed(),
            Check(event_is_the_first),
        ],
    )],
)];

fn event_is_the_first(node: Node<'_>) -> Checked {
    let said = domain("XML error: perf event '{}' was already specified");
    super::rule::first_of(node, "event", "name", said)
}

const CLOCK: Rules = &[
    maybe(
        "offset",
        Form::Word(crate::clock::ClockOffset::WORDS),
        domain("unsupported configuration: unknown clock offset '{}'"),
    ),
    Check(clock),
    Each("timer", TIMER),
];

fn clock(node: Node<'_>) -> Checked {
    let value = |name| node.attr(name).filter(|v| !v.is_empty());
    match value("offset").unwrap_or("utc") {
        "utc" | "localtime" => match value("adjustment") {
            Some(by) if by != "reset" && Form::I64(10).check(by).is_err() => {
                Err(domain("XML error: unknown clock adjustment '{}'").of(by))
            }
            _ => Ok(()),
        },
        "variable" => match value("basis") {
            Some(basis) if !["utc", "localtime"].contains(&basis) => {
                Err(domain("unsupported configuration: unknown clock basis '{}'").of(basis))
            }
            _ => Ok(()),
        },
        "timezone" if value("timezone").is_none() => {
            let said = "internal error: missing 'timezone' attribute for clock with offset='timezone'";
            Err(domain(said).of(""))
        }
        "absolute" if value("start").is_none_or(|start| Form::U64(10).check(start).is_err()) => {
            let said = "internal error: missing 'start' attribute for clock with offset='absolute'";
            Err(domain(said).of(""))
        }
        _ => Ok(()),
    }
}

const TIMER: Rules = &[
    word("name", crate::clock::TimerName::WORDS).needed(),
    yes("present"),
    word("tickpolicy", crate::clock::TickPolicy::WORDS),
    word("track", crate::clock::TimerTrack::WORDS),
    attr("frequency", Form::U64(10)),
    word("mode", crate::clock::TimerMode::WORDS),
    Child(
        "catchup",
        &[
            attr("threshold", Form::U64(10)),
            attr("slew", Form::U64(10)),
            attr("limit", Form::U64(10)),
        ],
    ),
];

/// Formats of a firmware's files.
const FIRMWARE_FORMATS: &[&str] = &["none", "raw", "qcow2"];

fn is_firmware_format(format: &str) -> bool {
    FIRMWARE_FORMATS.contains(&format)
}

const OS: Rules = &[Rule::Merged(
    "os",
    &[
        Child(
            "firmware",
            &[Each(
                "feature",
                &[
                    word("name", crate::os::FirmwareFeatureName::WORDS).needed(),
                    yes("enabled").needed(),
                ],
            )],
        ),
        maybe(
            "firmware",
            Form::Word(crate::os::OsFirmware::WORDS),
            domain("XML error: unknown firmware value {}"),
        ),
        Child("nvram", NVRAM),
        Child("loader", LOADER),
        Rule::Merged(
            "acpi",
            &[
                Each("table", &[word("type", crate::os::AcpiTableType::WORDS).needed()]),
                Check(tables_once),
            ],
        ),
        Check(boot_devices),
        Child(
            "bootmenu",
            &[
                yes("enable"),
                If(When::Is("enable", &["yes"]), &[number("timeout")]),
            ],
        ),
        Child("bios", &[attr("rebootTimeout", Form::I32(10))]),
    ],
)];

const NVRAM: Rules = &[
    word("templateFormat", storage::FORMATS_AND_NONE),
    given(
        "templateFormat",
        Form::Like(is_firmware_format),
        domain("XML error: Unsupported nvram template format '{}'"),
    ),
    word("format", storage::FORMATS_AND_NONE),
    given(
        "format",
        Form::Like(is_firmware_format),
        domain("XML error: Unsupported nvram format '{}'"),
    ),
    word("type", storage::KINDS_AND_NONE),
    If(
        When::Given("type"),
        &[Rule::Need(
            "source",
            of(Area::None, "internal error: <nvram> with a type has no <source>"),
            &[],
        )],
    ),
    If(
        When::Is("type", &["none"]),
        &[Check(|_| {
            Err(domain("internal error: unexpected disk type none").of(""))
        })],
    ),
    // Without a type it is a path, and no source is looked at.
    If(When::Given("type"), &[Part(storage::SOURCE_BY_TYPE)]),
];

const LOADER: Rules = &[
    yes("readonly"),
    word("type", crate::os::LoaderType::WORDS),
    yes("secure"),
    yes("stateless"),
    word("format", storage::FORMATS_AND_NONE),
    given(
        "format",
        Form::Like(is_firmware_format),
        domain("XML error: Unsupported loader format '{}'"),
    ),
];

/// Devices to boot from that are read; more are left out.
const BOOT_DEVICES: usize = 4;

fn boot_devices(node: Node<'_>) -> Checked {
    let mut read = node.children_named("boot").take(BOOT_DEVICES);
    read.try_for_each(|boot| super::rule::check(boot, BOOT_DEVICE))
}

const BOOT_DEVICE: Rules = &[word("dev", crate::os::BootDevice::WORDS).needed()];

/// Of a container: its first process.
const EXE: Rules = &[Child(
    "os",
    &[
        Each(
            "initarg",
            &[own_text(
                Form::Like(|text| !text.is_empty()),
                domain("XML error: No data supplied for <initarg> element"),
            )],
        ),
        Each(
            "initenv",
            &[
                named(
                    "name",
                    domain("XML error: No name supplied for <initenv> element"),
                ),
                Check(|node| match node.text().is_empty() {
                    true => {
                        let said = domain("XML error: No value supplied for <initenv name='{}'> element");
                        Err(said.of(node.attr("name").unwrap_or_default()))
                    }
                    false => Ok(()),
                }),
            ],
        ),
    ],
)];

fn tables_once(node: Node<'_>) -> Checked {
    let kinds = node.children_named("table").filter_map(|t| t.attr("type"));
    let kinds = kinds.filter(|kind| *kind != "raw");
    super::rule::once(
        kinds,
        domain("XML error: ACPI table type '{}' may only appear once"),
    )
}

const LAUNCH_SECURITY: Rules = &[
    word("type", &["sev", "sev-snp", "s390-pv"]).needed(),
    If(When::Is("type", &["sev", "sev-snp"]), &[yes("kernelHashes")]),
    If(
        When::Is("type", &["sev"]),
        &[
            Part(SEV_COMMON),
            text("policy", Form::U32(16), SEV_POLICY).or(SEV_POLICY),
        ],
    ),
    If(
        When::Is("type", &["sev-snp"]),
        &[
            Part(SEV_COMMON),
            yes("authorKey"),
            yes("vcek"),
            text("policy", Form::U64(16), SEV_POLICY).or(SEV_POLICY),
        ],
    ),
];

const SEV_POLICY: Words = domain("XML error: failed to get launch security policy");

const SEV_COMMON: Rules = &[
    text(
        "cbitpos",
        Form::U32(10),
        domain("XML error: Invalid format for launch security cbitpos"),
    ),
    text(
        "reducedPhysBits",
        Form::U32(10),
        domain("XML error: Invalid format for launch security reduced-phys-bits"),
    ),
];

const SYSINFO: Rules = &[
    word("type", crate::sysinfo::SysinfoType::WORDS).needed(),
    If(When::Is("type", &["smbios"]), &[Check(smbios)]),
    If(
        When::Is("type", &["fwcfg"]),
        &[Each(
            "entry",
            &[
                named(
                    "name",
                    domain("XML error: Firmware entry is missing 'name' attribute"),
                ),
                Check(entry_has_value),
            ],
        )],
    ),
];

fn entry_has_value(node: Node<'_>) -> Checked {
    match node.text().is_empty() && node.attr("file").is_none() {
        true => Err(domain("XML error: Firmware entry must have either value or 'file' attribute").of("")),
        false => Ok(()),
    }
}

/// The text of an entry of an SMBIOS table.
fn entry<'d>(node: Node<'d>, table: &str, name: &str) -> Option<&'d str> {
    let table = node.child(table)?;
    let mut entries = table.children_named("entry");
    let found = entries.find(|e| e.attr("name") == Some(name))?;
    Some(found.text()).filter(|text| !text.is_empty())
}

fn smbios(node: Node<'_>) -> Checked {
    if entry(node, "bios", "date").is_some_and(|date| !is_date(date)) {
        return Err(domain("Invalid BIOS 'date' format").of(""));
    }
    let Some(uuid) = entry(node, "system", "uuid") else {
        return Ok(());
    };
    let Some(uuid) = canonical_uuid(uuid) else {
        return Err(domain("malformed <sysinfo> uuid element").of(""));
    };
    let own = node.parent().and_then(|root| root.child("uuid")).map(Node::text);
    match own.filter(|own| !own.is_empty()).and_then(canonical_uuid) {
        Some(own) if own != uuid => Err(domain("UUID mismatch between <uuid> and <sysinfo>").of("")),
        _ => Ok(()),
    }
}

/// Whether it is month, day and year, the year with two digits or from 1900 on.
fn is_date(date: &str) -> bool {
    let parts: Vec<_> = date
        .split('/')
        .map(|part| crate::number::integer(part, 10))
        .collect();
    match parts[..] {
        [Some(month), Some(day), Some(year)] => {
            (1..=12).contains(&month) && (1..=31).contains(&day) && ((0..100).contains(&year) || year >= 1900)
        }
        _ => false,
    }
}

const SMBIOS: Rules = &[maybe(
    "mode",
    Form::Word(&["none", "emulate", "host", "sysinfo"]),
    domain("unsupported configuration: unknown smbios mode '{}'"),
)];

const KEYWRAP: Rules = &[Each(
    "cipher",
    &[
        word("name", crate::security::CipherName::WORDS).needed(),
        on("state").needed(),
        Check(cipher_is_the_first),
    ],
)];

fn cipher_is_the_first(node: Node<'_>) -> Checked {
    let said = "internal error: A domain definition can have no more than one cipher node with name {}";
    super::rule::first_of(node, "cipher", "name", domain(said))
}
