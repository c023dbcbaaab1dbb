//! Machine types, CPU models and the host's CPU as the replies describe them.

use serde_json::Value;

use super::replies::Run;

/// A machine type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Canonical name, as `pc-q35-10.0`.
    pub name: String,
    /// Short name that stands for it, as `q35`.
    pub alias: Option<String>,
    /// Most vCPUs.
    pub max_cpus: u32,
    /// Whether vCPUs can be plugged one by one.
    pub hotplug_cpus: bool,
    /// QEMU's own choice when none is named.
    pub default: bool,
    /// QOM type of the CPU when none is named, as `qemu64-x86_64-cpu`.
    pub default_cpu: Option<String>,
    /// Id of the memory back end that is the machine's RAM.
    pub default_ram_id: Option<String>,
    /// Whether `-numa mem=` is taken.
    pub numa_mem: bool,
    /// Whether QEMU means to drop it.
    pub deprecated: bool,
    /// Whether it can have ACPI; `None` when QEMU does not say.
    pub acpi: Option<bool>,
}

/// A CPU model that QEMU knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuModel {
    /// Name as on the command line.
    pub name: String,
    /// QOM type.
    pub typename: String,
    /// What keeps it from running here, when QEMU says; an empty list means that nothing does.
    pub blockers: Option<Vec<String>>,
    /// Whether QEMU means to drop it.
    pub deprecated: bool,
}

/// The expansion of `host` or `max`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostCpu {
    /// The properties, in QEMU's order.
    pub properties: Vec<HostProperty>,
}

/// One property of an expanded CPU model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostProperty {
    /// QEMU's name.
    pub name: String,
    /// Its value: boolean, number or text.
    pub value: Value,
    /// Whether it stays on when only migratable features are asked for.
    pub migratable: bool,
}

/// What QEMU says of AMD's encryption of guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sev {
    /// The bit of a page table's entry that says encrypted.
    pub cbitpos: u32,
    /// Bits of physical addresses that are lost by it.
    pub reduced_phys_bits: u32,
    /// The platform's Diffie-Hellman key, Base64.
    pub pdh: String,
    /// The certificates that vouch for it, Base64.
    pub cert_chain: String,
    /// Identity of the first CPU, Base64; older binaries do not tell.
    pub cpu0_id: Option<String>,
}

/// What QEMU says of Intel's enclaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sgx {
    /// Launch control is flexible.
    pub flc: bool,
    /// The first set of instructions.
    pub sgx1: bool,
    /// The second.
    pub sgx2: bool,
}

/// Enlightenments by libvirt's name, in its order; QEMU's is the same with `-` and the prefix `hv-`.
const HYPERV: &[&str] = &[
    "relaxed",
    "vapic",
    "spinlocks",
    "vpindex",
    "runtime",
    "synic",
    "stimer",
    "reset",
    "vendor_id",
    "frequencies",
    "reenlightenment",
    "tlbflush",
    "ipi",
    "evmcs",
    "avic",
    "emsr_bitmap",
    "xmm_input",
];

/// Enlightenments that the host's CPU can have: true, a number, or a text.
pub(super) fn hyperv(run: &Run) -> Vec<&'static str> {
    let full = |a: &Value| a.pointer("/model/props/hv-passthrough").is_some();
    let reply = run.reply_with("query-cpu-model-expansion", full);
    let Some(props) = reply.and_then(|r| r.pointer("/model/props")) else {
        return Vec::new();
    };
    let has = |name: &&&str| match props.get(format!("hv-{}", name.replace('_', "-"))) {
        Some(Value::Bool(on)) => *on,
        Some(Value::Number(number)) => number.as_i64() > Some(0),
        Some(Value::String(_)) => true,
        _ => false,
    };
    HYPERV.iter().filter(has).copied().collect()
}

pub(super) fn sev(run: &Run) -> Option<Sev> {
    let reply = run.reply("query-sev-capabilities")?;
    let number = |key| u32::try_from(reply.get(key)?.as_u64()?).ok();
    let text = |key| Some(reply.get(key)?.as_str()?.to_owned());
    Some(Sev {
        cbitpos: number("cbitpos")?,
        reduced_phys_bits: number("reduced-phys-bits")?,
        pdh: text("pdh").unwrap_or_default(),
        cert_chain: text("cert-chain").unwrap_or_default(),
        cpu0_id: text("cpu0-id"),
    })
}

pub(super) fn sgx(run: &Run) -> Option<Sgx> {
    let reply = run.reply("query-sgx-capabilities")?;
    let has = |key| reply.get(key).and_then(Value::as_bool);
    Some(Sgx {
        flc: has("flc")?,
        sgx1: has("sgx1")?,
        sgx2: has("sgx2")?,
    })
}

/// Machine types, the default one first; `none` and those without a name are left out.
pub(super) fn machines(run: &Run) -> Vec<Machine> {
    let all = run.list("query-machines").iter().filter_map(machine);
    let mut all: Vec<Machine> = all.filter(|m| m.name != "none").collect();
    if let Some(at) = all.iter().position(|m| m.default) {
        all[..=at].rotate_right(1);
    }
    all
}

fn machine(v: &Value) -> Option<Machine> {
    let text = |key| v.get(key).and_then(Value::as_str).map(str::to_owned);
    let flag = |key| v.get(key).and_then(Value::as_bool);
    Some(Machine {
        name: text("name")?,
        alias: text("alias"),
        max_cpus: v
            .get("cpu-max")
            .and_then(Value::as_u64)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(0),
        hotplug_cpus: flag("hotpluggable-cpus").unwrap_or(false),
        default: flag("is-default").unwrap_or(false),
        default_cpu: text("default-cpu-type"),
        default_ram_id: text("default-ram-id"),
        numa_mem: flag("numa-mem-supported").unwrap_or(true),
        deprecated: flag("deprecated").unwrap_or(false),
        acpi: flag("acpi"),
    })
}

pub(super) fn cpus(run: &Run) -> Vec<CpuModel> {
    run.list("query-cpu-definitions").iter().filter_map(cpu).collect()
}

fn cpu(v: &Value) -> Option<CpuModel> {
    let blockers = v.get("unavailable-features").and_then(Value::as_array);
    Some(CpuModel {
        name: v.get("name")?.as_str()?.to_owned(),
        typename: v
            .get("typename")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
        blockers: blockers.map(|l| l.iter().filter_map(|f| f.as_str().map(str::to_owned)).collect()),
        deprecated: v.get("deprecated").and_then(Value::as_bool).unwrap_or(false),
    })
}

/// The static expansion; a property that is on only with `migratable=false` is there, and marked.
pub(super) fn host(run: &Run) -> HostCpu {
    let is_static = |a: &Value| a.get("type").and_then(Value::as_str) == Some("static");
    let limited = |a: &Value| a.pointer("/model/props/migratable").is_some();
    let expansion = |wanted: &dyn Fn(&Value) -> bool| {
        run.reply_with("query-cpu-model-expansion", wanted)
            .and_then(|r| r.pointer("/model/props")?.as_object())
    };
    let migratable = expansion(&|a| is_static(a) && !limited(a));
    let all = expansion(&|a| is_static(a) && limited(a)).or(migratable);
    let Some(all) = all else {
        return HostCpu::default();
    };
    let stays = |name: &str, value: &Value| migratable.is_none_or(|m| m.get(name) == Some(value));
    let property = |(name, value): (&String, &Value)| HostProperty {
        name: name.clone(),
        migratable: stays(name, value),
        value: value.clone(),
    };
    HostCpu {
        properties: all.iter().map(property).collect(),
    }
}
