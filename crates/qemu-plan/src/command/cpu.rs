//! `-cpu`: model, features, Hyper-V and KVM interfaces.

use domxml::clock::{Timer, TimerName};
use domxml::cpu::{
    Cpu, CpuCacheMode, CpuFallback, CpuFeature, CpuMatch, CpuMode, CpuModel, FeaturePolicy, MaxPhysAddrMode,
};
use domxml::devices::common::OnOff;
use domxml::devices::small::PanicModel;
use domxml::features::{Features, Hyperv, HypervMode, State};
use domxml::{Domain, VirtType};
use hostinfo::CpuModels;

use super::context::Context;
use super::host_model;
use super::line::CommandLine;
use crate::caps::{Accel, AccelCaps, Caps, Flag};
use crate::props::{Keyval, on_off};
use crate::resources::CpuExpansion;
use crate::{Error, Result};

/// Features whose name in QEMU is another than libvirt's.
const NAMES: [(&str, &str); 13] = [
    ("cmp_legacy", "cmp-legacy"),
    ("ds_cpl", "ds-cpl"),
    ("fxsr_opt", "fxsr-opt"),
    ("kvm_pv_eoi", "kvm-pv-eoi"),
    ("kvm_pv_unhalt", "kvm-pv-unhalt"),
    ("lahf_lm", "lahf-lm"),
    ("nodeid_msr", "nodeid-msr"),
    ("pclmuldq", "pclmulqdq"),
    ("perfctr_core", "perfctr-core"),
    ("perfctr_nb", "perfctr-nb"),
    ("tsc_adjust", "tsc-adjust"),
    ("tsc_scale", "tsc-scale"),
    ("vmcb_clean", "vmcb-clean"),
];

/// Appends `-cpu`.
///
/// # Errors
/// When the model must be worked out from the host's and was not.
pub fn build(cx: Context<'_>, line: &mut CommandLine) -> Result<()> {
    let default = Cpu::default();
    let cpu = cx.def.cpu.as_ref().unwrap_or(&default);
    let features = cx.def.features.clone().unwrap_or_default();
    let mut value = model(cx, cpu)?;
    put_timers(cx, &mut value);
    put_paravirtual(&features, &mut value);
    if let Some(hyperv) = &features.hyperv {
        put_hyperv(hyperv, &mut value);
    }
    if cx
        .def
        .devices
        .panics
        .iter()
        .any(|panic| panic.model == Some(PanicModel::Hyperv))
    {
        value.word("hv-crash");
    }
    put_kvm(&features, &mut value);
    put_pmu(&features, &mut value);
    put_cache(cpu, &mut value);
    put_address_width(cpu, &mut value);
    line.push("-cpu", value);
    Ok(())
}

fn model(cx: Context<'_>, cpu: &Cpu) -> Result<Keyval> {
    if is_host_model(cpu) {
        return host_model(cx, cpu);
    }
    let mut value = match cpu.mode.unwrap_or(CpuMode::Custom) {
        CpuMode::HostPassthrough => passthrough(cx, cpu)?,
        CpuMode::Maximum => {
            let mut value = Keyval::implied("max");
            put_migratable(cx, cpu, &mut value);
            value
        }
        CpuMode::Custom | CpuMode::HostModel => custom(cx, cpu),
    };
    for feature in &cpu.features {
        let name = qemu_name(&feature.name);
        let on = switched(feature).unwrap_or_else(|| host_has(cx, name));
        value.set(name, on_off(on));
    }
    put_removed(cpu, &mut value);
    Ok(value)
}

/// Switches off what was part of a named model once, unless the document names it.
fn put_removed(cpu: &Cpu, value: &mut Keyval) {
    let model = cpu.model.as_ref().and_then(|model| model.name.as_deref());
    for removed in host_model::removed_from(model.unwrap_or_default()) {
        if !cpu.features.iter().any(|feature| feature.name == *removed) {
            value.set(qemu_name(removed), "off");
        }
    }
}

/// Whether the guest gets what the host has: said so, or at least a model.
fn is_host_model(cpu: &Cpu) -> bool {
    cpu.mode == Some(CpuMode::HostModel)
        || (cpu.mode.unwrap_or(CpuMode::Custom) == CpuMode::Custom && cpu.match_ == Some(CpuMatch::Minimum))
}

/// The host's model; features that the document names are as it says.
fn host_model(cx: Context<'_>, cpu: &Cpu) -> Result<Keyval> {
    let given = cx.res.cpu.clone();
    let host = given.or_else(|| host_model::expand(accel_caps(cx)?));
    let host = host.ok_or_else(|| {
        Error::unsupported(
            "CPU mode 'host-model' for this domain on this host is not supported by hypervisor",
        )
    })?;
    let mut value = Keyval::implied(&host.model);
    let vendor = cpu.model.as_ref().and_then(|model| model.vendor_id.as_ref());
    value.opt("vendor", vendor.or(host.vendor.as_ref()));
    let has = |name: &str| host_has(cx, name);
    for (name, on) in &with_features_of(cpu, host, has).features {
        value.set(qemu_name(name), on_off(*on));
    }
    Ok(value)
}

/// The host's model with the features that the document names as it says.
fn with_features_of(cpu: &Cpu, mut host: CpuExpansion, has: impl Fn(&str) -> bool) -> CpuExpansion {
    for feature in &cpu.features {
        let on = switched(feature).unwrap_or_else(|| has(qemu_name(&feature.name)));
        match host.features.iter_mut().find(|(name, _)| *name == feature.name) {
            Some(known) => known.1 = on,
            None => host.features.push((feature.name.clone(), on)),
        }
    }
    host
}

/// The CPU of a guest that gets the host's model, spelled out as a named model with the features of its command line;
/// `None` for any other, and when QEMU has not said what its model is.
///
/// A live document has this form: another daemon, or another host, would work out another model.
#[must_use]
pub fn spelled_out(def: &Domain, caps: &Caps) -> Option<Cpu> {
    let cpu = def.cpu.as_ref().filter(|cpu| is_host_model(cpu))?;
    let accel = caps.accel(Accel::from_virt_type(def.kind.as_str())?)?;
    let host = with_features_of(cpu, host_model::expand(accel)?, |name| gives(accel, name));
    let vendor = match cpu.mode {
        Some(CpuMode::HostModel) => host_model::vendor(accel),
        _ => cpu.vendor.clone(),
    };
    let policy = |name: &str, on| match cpu.features.iter().find(|f| f.name == name)?.policy? {
        given @ (FeaturePolicy::Force | FeaturePolicy::Forbid) => Some(given),
        _ if on => Some(FeaturePolicy::Require),
        _ => Some(FeaturePolicy::Disable),
    };
    let usual = |on| match on {
        true => FeaturePolicy::Require,
        false => FeaturePolicy::Disable,
    };
    let features = host.features.into_iter().map(|(name, on)| CpuFeature {
        policy: policy(&name, on).or(Some(usual(on))),
        name,
    });
    Some(Cpu {
        mode: Some(CpuMode::Custom),
        match_: Some(CpuMatch::Exact),
        model: Some(CpuModel {
            fallback: Some(CpuFallback::Forbid),
            vendor_id: cpu.model.as_ref().and_then(|model| model.vendor_id.clone()),
            name: Some(host.model),
        }),
        vendor,
        features: features.collect(),
        ..cpu.clone()
    })
}

/// Whether what a CPU comes to is decided by the host.
#[must_use]
pub fn depends_on_host(cpu: &Cpu) -> bool {
    let optional = |feature: &CpuFeature| feature.policy == Some(FeaturePolicy::Optional);
    let named = cpu.mode.unwrap_or(CpuMode::Custom) == CpuMode::Custom;
    is_host_model(cpu) || named && (cpu.features.iter().any(optional) || !retired(cpu).is_empty())
}

/// Features that the model of a CPU once had and that the document does not speak of.
fn retired(cpu: &Cpu) -> Vec<&'static str> {
    let tables = CpuModels::x86();
    let name = cpu.model.as_ref().and_then(|model| model.name.as_deref());
    let model = name.and_then(|name| tables.models.iter().find(|model| model.name == name));
    let all = model.map(|model| model.removed.as_slice()).unwrap_or_default();
    let spoken_of = |name: &str| cpu.features.iter().any(|feature| feature.name == name);
    all.iter().copied().filter(|name| !spoken_of(name)).collect()
}

/// A feature that a document forbids and the host gives to guests.
#[must_use]
pub fn forbidden_feature<'a>(cpu: &'a Cpu, caps: &Caps, accel: Accel) -> Option<&'a str> {
    let accel = caps.accel(accel)?;
    let forbidden = |feature: &&CpuFeature| feature.policy == Some(FeaturePolicy::Forbid);
    let mut names = cpu
        .features
        .iter()
        .filter(forbidden)
        .map(|feature| feature.name.as_str());
    names.find(|name| gives(accel, qemu_name(name)))
}

/// A feature of an x86 guest's CPU that there is none of.
#[must_use]
pub fn unknown_feature(def: &Domain) -> Option<&str> {
    let tables = CpuModels::x86();
    let known = |name: &str| tables.features.iter().any(|f| f.name == name);
    let features = def.cpu.as_ref().map_or(&[][..], |c| c.features.as_slice());
    features.iter().map(|f| f.name.as_str()).find(|name| !known(name))
}

/// The model of an x86 guest's CPU, if there is none of that name.
#[must_use]
pub fn unknown_model(def: &Domain) -> Option<&str> {
    let cpu = def.cpu.as_ref()?;
    let name = cpu.model.as_ref()?.name.as_deref()?;
    let arch = def.os.kind.as_ref().and_then(|kind| kind.arch.as_deref());
    let x86 = matches!(arch, Some("i686" | "x86_64"));
    let known = || CpuModels::x86().models.iter().any(|model| model.name == name);
    (cpu.mode == Some(CpuMode::Custom) && x86 && !known()).then_some(name)
}

/// The CPU of a guest as it would be if the guest were started now; `None` where the host decides nothing.
#[must_use]
pub fn updated(def: &Domain, caps: &Caps) -> Option<Cpu> {
    let cpu = def.cpu.as_ref().filter(|cpu| depends_on_host(cpu))?;
    if is_host_model(cpu) {
        let fallback = cpu.model.as_ref().and_then(|model| model.fallback);
        let mut cpu = spelled_out(def, caps)?;
        if let Some(model) = &mut cpu.model {
            // Nothing was found out with a running QEMU, so the model may still be replaced.
            model.fallback = fallback.or(Some(CpuFallback::Allow));
        }
        return Some(cpu);
    }
    let accel = caps.accel(Accel::from_virt_type(def.kind.as_str())?)?;
    let gone = retired(cpu).into_iter().map(|name| CpuFeature {
        policy: Some(FeaturePolicy::Disable),
        name: name.to_owned(),
    });
    let gone: Vec<_> = gone.collect();
    let mut cpu = cpu.clone();
    cpu.features.extend(gone);
    for feature in &mut cpu.features {
        if feature.policy == Some(FeaturePolicy::Optional) {
            let on = gives(accel, qemu_name(&feature.name));
            feature.policy = Some(if on {
                FeaturePolicy::Require
            } else {
                FeaturePolicy::Disable
            });
        }
    }
    Some(cpu)
}

fn accel_caps(cx: Context<'_>) -> Option<&AccelCaps> {
    cx.caps.accel(Accel::from_virt_type(cx.def.kind.as_str())?)
}

/// Whether the best CPU that QEMU gives on this host has a feature.
fn host_has(cx: Context<'_>, name: &str) -> bool {
    accel_caps(cx).is_some_and(|accel| gives(accel, name))
}

/// Whether the best CPU that QEMU gives with an accelerator has a feature, by QEMU's name.
fn gives(accel: &AccelCaps, name: &str) -> bool {
    let mut host = accel.host.properties.iter();
    host.any(|property| property.name == name && property.value == serde_json::Value::Bool(true))
}

/// Whether a feature is switched on or off; none for those that are as the host has them.
fn switched(feature: &CpuFeature) -> Option<bool> {
    match feature.policy.unwrap_or(FeaturePolicy::Require) {
        FeaturePolicy::Force | FeaturePolicy::Require => Some(true),
        FeaturePolicy::Disable | FeaturePolicy::Forbid => Some(false),
        FeaturePolicy::Optional => None,
    }
}

fn passthrough(cx: Context<'_>, cpu: &Cpu) -> Result<Keyval> {
    if cx.def.kind == VirtType::Qemu {
        return Err(Error::unsupported(
            "CPU mode 'host-passthrough' for x86_64 qemu domain on x86_64 host is not supported by hypervisor",
        ));
    }
    let mut value = Keyval::implied("host");
    put_migratable(cx, cpu, &mut value);
    Ok(value)
}

fn put_migratable(cx: Context<'_>, cpu: &Cpu, value: &mut Keyval) {
    if cx.caps.has(Flag::CpuMigratable) {
        value.opt("migratable", cpu.migratable.map(OnOff::as_str));
    }
}

/// A named model; a guest without one gets what QEMU would give it.
fn custom(cx: Context<'_>, cpu: &Cpu) -> Keyval {
    let model = cpu.model.as_ref();
    let default = match cx.def.os.kind.as_ref().and_then(|kind| kind.arch.as_deref()) {
        Some("i686") => "qemu32",
        _ => "qemu64",
    };
    let mut value = Keyval::implied(model.and_then(|model| model.name.as_deref()).unwrap_or(default));
    value.opt("vendor", model.and_then(|model| model.vendor_id.as_deref()));
    value
}

/// QEMU's name of a feature.
pub fn qemu_name(name: &str) -> &str {
    NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map_or(name, |(_, qemu)| qemu)
}

/// libvirt's name of a feature of QEMU's.
pub fn libvirt_name(name: &str) -> &str {
    NAMES
        .iter()
        .find(|(_, qemu)| *qemu == name)
        .map_or(name, |(known, _)| known)
}

fn put_timers(cx: Context<'_>, value: &mut Keyval) {
    let timers = cx
        .def
        .clock
        .as_ref()
        .map(|clock| clock.timers.as_slice())
        .unwrap_or_default();
    for timer in timers {
        put_timer(timer, value);
    }
}

fn put_timer(timer: &Timer, value: &mut Keyval) {
    let present = timer.present.map(|present| present.is_yes());
    match timer.name {
        TimerName::Kvmclock => {
            value.opt("kvmclock", present.map(on_off));
        }
        TimerName::Hypervclock if present == Some(true) => {
            value.set("hv-time", "on");
        }
        TimerName::Tsc => {
            value.opt(
                "tsc-frequency",
                timer.frequency.filter(|frequency| *frequency != 0),
            );
        }
        _ => {}
    }
}

fn put_paravirtual(features: &Features, value: &mut Keyval) {
    value.opt(
        "kvm-pv-eoi",
        features.apic.and_then(|apic| apic.eoi).map(OnOff::as_str),
    );
    value.opt(
        "kvm-pv-unhalt",
        features.pvspinlock.map(|switch| switch.state.as_str()),
    );
}

fn is_on(state: Option<State>) -> bool {
    state.is_some_and(|state| state.state == OnOff::On)
}

fn put_hyperv(hyperv: &Hyperv, value: &mut Keyval) {
    if hyperv.mode == HypervMode::Passthrough {
        value.set("hv-passthrough", "on");
    }
    put_states(
        &[("hv-relaxed", hyperv.relaxed), ("hv-vapic", hyperv.vapic)],
        value,
    );
    let spinlocks = hyperv.spinlocks.filter(|spinlocks| spinlocks.state == OnOff::On);
    let retries = spinlocks.map(|spinlocks| spinlocks.retries.unwrap_or_default());
    value.opt("hv-spinlocks", retries.map(|retries| format!("0x{retries:x}")));
    put_hyperv_timers(hyperv, value);
    let vendor = hyperv
        .vendor_id
        .as_ref()
        .filter(|vendor| vendor.state == OnOff::On);
    value.opt("hv-vendor-id", vendor.and_then(|vendor| vendor.value.as_deref()));
    put_states(
        &[
            ("hv-frequencies", hyperv.frequencies),
            ("hv-reenlightenment", hyperv.reenlightenment),
        ],
        value,
    );
    put_hyperv_calls(hyperv, value);
}

/// Processor numbers, interrupts and timers, and reset.
fn put_hyperv_timers(hyperv: &Hyperv, value: &mut Keyval) {
    let stimer = hyperv.stimer.filter(|stimer| stimer.state == OnOff::On);
    let states = [
        ("hv-vpindex", hyperv.vpindex),
        ("hv-runtime", hyperv.runtime),
        ("hv-synic", hyperv.synic),
        ("hv-stimer", stimer.map(|stimer| State { state: stimer.state })),
        ("hv-stimer-direct", stimer.and_then(|stimer| stimer.direct)),
        ("hv-reset", hyperv.reset),
    ];
    put_states(&states, value);
}

/// Calls in place of what is slow in a guest.
fn put_hyperv_calls(hyperv: &Hyperv, value: &mut Keyval) {
    let flush = hyperv.tlbflush.filter(|flush| flush.state == OnOff::On);
    let states = [
        ("hv-tlbflush", flush.map(|flush| State { state: flush.state })),
        ("hv-tlbflush-direct", flush.and_then(|flush| flush.direct)),
        ("hv-tlbflush-ext", flush.and_then(|flush| flush.extended)),
        ("hv-ipi", hyperv.ipi),
        ("hv-evmcs", hyperv.evmcs),
        ("hv-avic", hyperv.avic),
        ("hv-emsr-bitmap", hyperv.emsr_bitmap),
        ("hv-xmm-input", hyperv.xmm_input),
    ];
    put_states(&states, value);
}

fn put_states(states: &[(&str, Option<State>)], value: &mut Keyval) {
    for (key, state) in states {
        if is_on(*state) {
            value.set(key, "on");
        }
    }
}

fn put_kvm(features: &Features, value: &mut Keyval) {
    let Some(kvm) = features.kvm else { return };
    if is_on(kvm.hidden) {
        value.set("kvm", "off");
    }
    put_states(
        &[
            ("kvm-hint-dedicated", kvm.hint_dedicated),
            ("kvm-poll-control", kvm.poll_control),
        ],
        value,
    );
    if kvm.pv_ipi.is_some_and(|state| state.state == OnOff::Off) {
        value.set("kvm-pv-ipi", "off");
    }
}

fn put_pmu(features: &Features, value: &mut Keyval) {
    value.opt("pmu", features.pmu.map(|switch| switch.state.as_str()));
}

/// Option that shows the guest the host's caches.
const HOST_CACHE: &str = "host-cache-info";

fn put_cache(cpu: &Cpu, value: &mut Keyval) {
    let Some(cache) = cpu.cache else { return };
    let options: [(&str, &str); 2] = match cache.mode {
        CpuCacheMode::Emulate => [("l3-cache", "on"), (HOST_CACHE, "off")],
        CpuCacheMode::Passthrough => [(HOST_CACHE, "on"), ("l3-cache", "off")],
        CpuCacheMode::Disable => [(HOST_CACHE, "off"), ("l3-cache", "off")],
    };
    // Only models that are the host's have its caches.
    let host = matches!(cpu.mode, Some(CpuMode::HostPassthrough | CpuMode::Maximum));
    for (key, option) in options.into_iter().filter(|(key, _)| host || *key != HOST_CACHE) {
        value.set(key, option);
    }
}

fn put_address_width(cpu: &Cpu, value: &mut Keyval) {
    let Some(width) = cpu.maxphysaddr else { return };
    match width.mode {
        MaxPhysAddrMode::Passthrough => {
            value.set("host-phys-bits", "on");
            value.opt("host-phys-bits-limit", width.limit.filter(|limit| *limit != 0));
        }
        MaxPhysAddrMode::Emulate => match width.bits.filter(|bits| *bits != 0) {
            Some(bits) => {
                value.set("phys-bits", bits);
            }
            None => {
                value.set("host-phys-bits", "off");
            }
        },
    }
}
