//! CPUs that clients describe: compared with this host's or with what its QEMU gives, and put together to what several
//! have in common.
//!
//! Documents become `hostinfo`'s descriptions here, and its answers documents again; what x86 features mean is decided
//! there. Other architectures have no tables: what libvirt answers for them without any is answered, the rest is refused.

use std::sync::Arc;

use domxml::{
    CpuDocument, FormatFlags, WantedCpu,
    capabilities::{Counter, HostCpu},
    clock::TimerName,
    cpu::{
        Cpu, CpuCheck, CpuFallback, CpuFeature, CpuMatch, CpuMode, CpuModel, FeaturePolicy, MaxPhysAddr,
        MaxPhysAddrMode,
    },
    devices::YesNo,
};
use hostinfo::{
    Baseline, Comparison, CpuDescription, CpuError, CpuKind, CpuModels, GuestModel, OfferedModel, Policy,
};
use qemu_plan::{
    caps::{Accel, Caps},
    command,
};

use crate::{
    error::{Area, Code, Error, Result},
    ops::{
        Driver,
        host::{
            arch,
            domcaps::{self, Asked, HypervisorCpu},
        },
    },
};

/// What to put together, and how to tell it.
#[derive(Clone, Debug, Default)]
pub struct BaselineRequest {
    /// Documents of CPUs: of hosts, or for a hypervisor of guests too.
    pub documents: Vec<String>,
    /// Name every feature.
    pub expand: bool,
    /// Leave out what keeps a guest on its host.
    pub migratable: bool,
}

/// Compares a CPU with this host's.
///
/// # Errors
/// `Xml` and its like for the document, `Internal` for a model or feature that is not known; with `validate`,
/// `XmlInvalidSchema`.
pub fn compare(driver: &Driver, xml: &str, validate: bool) -> Result<Comparison> {
    let cpu = read(xml, WantedCpu::Any, validate)?;
    if !is_x86(&driver.host.arch) {
        return Err(Error::new(
            Code::NoSupport,
            format!("cannot compare CPUs of {} architecture", driver.host.arch),
        )
        .in_area(Area::Cpu));
    }
    let facts = arch::cpu_facts(&driver.host);
    let Some(model) = facts.model() else {
        return Ok(Comparison::Incompatible("unknown host CPU".to_owned()));
    };
    let host = CpuDescription {
        kind: CpuKind::Host,
        arch: Some(driver.host.arch.clone()),
        model: Some(model.model.to_owned()),
        vendor: facts.data.vendor(),
        features: model
            .features
            .iter()
            .map(|name| ((*name).to_owned(), Policy::Require))
            .collect(),
    };
    CpuModels::x86().compare(&host, &described(&cpu)).map_err(refused)
}

/// Compares a CPU with what a hypervisor gives to its guests.
///
/// # Errors
/// As of [`compare`]; what is wrong with the hypervisor that is asked for; `ConfigUnsupported` for one whose
/// architecture has no tables.
pub async fn compare_hypervisor(
    driver: &Arc<Driver>,
    asked: Asked,
    xml: &str,
    validate: bool,
) -> Result<Comparison> {
    let hypervisor = domcaps::hypervisor_cpu(driver, asked).await?;
    if !is_x86(&hypervisor.arch) {
        let message = format!(
            "comparing with the hypervisor CPU is not supported for arch {}",
            hypervisor.arch
        );
        return Err(Error::new(Code::ConfigUnsupported, message));
    }
    let cpu = described(&read(xml, WantedCpu::Any, validate)?);
    let blockers = hypervisor
        .models
        .iter()
        .find(|(name, _)| Some(name) == cpu.model.as_ref())
        .map(|(_, blockers)| blockers.as_slice());
    let Some(model) = &hypervisor.model else {
        return Ok(Comparison::Incompatible("unknown host CPU".to_owned()));
    };
    CpuModels::x86()
        .compare_offered(&offered(model), &cpu, blockers)
        .map_err(refused)
}

/// Checks that a guest can have the CPU of its document, where the document has that checked before QEMU is started, and
/// the clock that it asks for.
///
/// # Errors
/// `CpuIncompatible` with what it lacks, `ConfigUnsupported` for the clock; what is wrong with the description.
pub(crate) fn check(driver: &Driver, caps: &Caps, document: &domxml::Domain) -> Result<()> {
    let Some(accel) = Accel::from_virt_type(document.kind.as_str()).filter(|_| is_x86(caps.arch())) else {
        return Ok(());
    };
    check_frequency(driver, document)?;
    if let Some(feature) = command::cpu::unknown_feature(document) {
        let text = format!("unknown CPU feature: {feature}");
        return Err(Error::new(Code::ConfigUnsupported, text).in_area(Area::Cpu));
    }
    let cpu = document.cpu.as_ref();
    if let Some(cpu) = cpu.filter(|cpu| accel == Accel::Kvm && cpu.check != Some(CpuCheck::None))
        && let Some(feature) = command::cpu::forbidden_feature(cpu, caps, accel)
    {
        return Err(incompatible(format!(
            "Host CPU provides forbidden feature '{feature}'"
        )));
    }
    let Some(cpu) = cpu.filter(|cpu| cpu.check == Some(CpuCheck::Partial)) else {
        return Ok(());
    };
    let cpu = described_guest(cpu);
    let models = domcaps::models(caps, accel);
    let blockers = models.iter().find(|(name, _)| Some(name) == cpu.model.as_ref());
    let blockers = blockers.map(|(_, blockers)| blockers.as_slice());
    let model = domcaps::describe(caps, accel);
    let compared = match accel {
        Accel::Kvm if blockers.is_some_and(<[_]>::is_empty) && cpu.features.is_empty() => return Ok(()),
        // The host's own CPU counts, too: KVM may not be asked as guests will ask it.
        Accel::Kvm => {
            host_for_guests(driver, model.as_ref()).map(|host| CpuModels::x86().compare(&host, &cpu))
        }
        _ => model.map(|model| CpuModels::x86().compare_offered(&offered(&model), &cpu, blockers)),
    };
    match compared.transpose().map_err(refused)? {
        None => Err(incompatible("unknown host CPU".to_owned())),
        Some(Comparison::Incompatible(why)) => Err(incompatible(why)),
        Some(Comparison::Identical | Comparison::Superset) => Ok(()),
    }
}

fn incompatible(why: String) -> Error {
    Error::new(Code::CpuIncompatible, why).in_area(Area::Cpu)
}

/// The host's CPU with what KVM gives to guests beside.
fn host_for_guests(driver: &Driver, offered: Option<&GuestModel>) -> Option<CpuDescription> {
    let facts = arch::cpu_facts(&driver.host);
    let host = facts.model()?;
    let tables = CpuModels::x86();
    let of_offered = offered.and_then(|offered| tables.model(offered.model));
    let of_model = of_offered.iter().flat_map(|model| &model.features);
    let dropped = |name: &str| offered.is_some_and(|offered| offered.disable.contains(&name));
    let of_model = of_model
        .map(|number| tables.features[*number].name)
        .filter(|name| !dropped(name));
    let beside = offered.iter().flat_map(|offered| offered.require.iter().copied());
    let all = host.features.iter().copied().chain(of_model).chain(beside);
    Some(CpuDescription {
        kind: CpuKind::Host,
        arch: Some(driver.host.arch.clone()),
        model: Some(host.model.to_owned()),
        vendor: facts.data.vendor(),
        features: all.map(|name| (name.to_owned(), Policy::Require)).collect(),
    })
}

/// How far a guest's clock may be from the host's, in millionths.
const CLOCK_TOLERANCE: u64 = 250;

/// Checks the frequency that a document wants a guest's CPUs to count at.
///
/// # Errors
/// `ConfigUnsupported`.
pub(crate) fn check_frequency(driver: &Driver, document: &domxml::Domain) -> Result<()> {
    check_clock(arch::cpu_facts(&driver.host).counter.as_ref(), document)
}

/// A guest's CPUs count at the host's frequency, unless the host's can do otherwise.
fn check_clock(host: Option<&Counter>, document: &domxml::Domain) -> Result<()> {
    let timers = document.clock.iter().flat_map(|clock| &clock.timers);
    let asked = timers
        .filter(|timer| timer.name == TimerName::Tsc)
        .find_map(|timer| timer.frequency.filter(|frequency| *frequency != 0));
    let (Some(asked), Some(host)) = (asked, host) else {
        return Ok(());
    };
    let frequency = host.frequency;
    let tolerance =
        u64::try_from(u128::from(frequency) * u128::from(CLOCK_TOLERANCE) / 1_000_000).unwrap_or(0);
    let range = frequency.saturating_sub(tolerance)..=frequency.saturating_add(tolerance);
    if range.contains(&asked) || host.scaling == Some(YesNo::Yes) {
        return Ok(());
    }
    let (least, most) = (range.start(), range.end());
    Err(Error::new(
        Code::ConfigUnsupported,
        format!(
            "Requested TSC frequency {asked} Hz is outside tolerance range ([{least}, {most}] Hz) around host frequency \
             {frequency} Hz and TSC scaling is not supported by the host CPU"
        ),
    ))
}

/// The CPU that several hosts have in common, as a guest's document.
///
/// # Errors
/// As of [`compare`]; `OperationFailed` for CPUs that have nothing in common; `NoSupport` for architectures without
/// tables.
pub fn baseline(request: &BaselineRequest) -> Result<String> {
    let mut descriptions = Vec::with_capacity(request.documents.len());
    for xml in &request.documents {
        descriptions.push(described(&read(xml, WantedCpu::Host, false)?));
    }
    let arch = descriptions
        .first()
        .and_then(|cpu| cpu.arch.clone())
        .unwrap_or_default();
    if !is_x86(&arch) {
        return Ok(document(&foreign_baseline(&arch, &descriptions)?, None));
    }
    let tables = CpuModels::x86();
    let mut found = tables.baseline(&descriptions, None).map_err(refused)?;
    if request.migratable {
        tables.without_fixed(&mut found);
    }
    finished(found, request, None)
}

/// The CPU that several hosts have in common and a hypervisor has a model of.
///
/// # Errors
/// As of [`baseline`] and [`compare_hypervisor`].
pub async fn baseline_hypervisor(
    driver: &Arc<Driver>,
    asked: Asked,
    request: &BaselineRequest,
) -> Result<String> {
    let mut documents = Vec::with_capacity(request.documents.len());
    for xml in &request.documents {
        documents.push(read(xml, WantedCpu::Any, false)?);
    }
    let HypervisorCpu {
        path,
        arch,
        accel,
        models,
        fixed,
        ..
    } = domcaps::hypervisor_cpu(driver, asked).await?;
    if !is_x86(&arch) {
        let message = format!("computing baseline hypervisor CPU is not supported for arch {arch}");
        return Err(Error::new(Code::ConfigUnsupported, message));
    }
    if models.is_empty() {
        let message = format!(
            "QEMU '{path}' does not support any CPU models for virttype '{}'",
            accel.virt_type()
        );
        return Err(Error::new(Code::ConfigUnsupported, message));
    }
    let tables = CpuModels::x86();
    let numbers = |names: &[String]| names.iter().filter_map(|name| tables.feature(name)).collect();
    let models: Vec<_> = models
        .iter()
        .map(|(name, names)| OfferedModel {
            name: name.clone(),
            blockers: numbers(names),
        })
        .collect();
    let descriptions: Vec<_> = documents.iter().map(described).collect();
    let mut found = tables.baseline(&descriptions, Some(&models)).map_err(refused)?;
    if request.migratable {
        // It knows better than the tables.
        found.features.retain(|(name, on)| !on || !fixed.contains(name));
    }
    finished(found, request, least_limit(&documents))
}

fn finished(mut found: Baseline, request: &BaselineRequest, limit: Option<u32>) -> Result<String> {
    if request.expand {
        CpuModels::x86().expand(&mut found).map_err(refused)?;
    }
    Ok(document(&found, limit))
}

/// Architectures of which libvirt takes the first CPU for all, however they differ.
const FIRST_FOR_ALL: &[&str] = &["aarch64", "armv6l", "armv7b", "armv7l"];
/// Architectures of which libvirt wants all CPUs to be of one model.
const ONE_MODEL: &[&str] = &["ppc64", "ppc64le"];
/// Architectures that libvirt knows CPUs of, and can't put them together.
const NOT_TOGETHER: &[&str] = &["s390x", "riscv64", "loongarch64"];

fn foreign_baseline(arch: &str, cpus: &[CpuDescription]) -> Result<Baseline> {
    let model = cpus.first().and_then(|cpu| cpu.model.clone()).unwrap_or_default();
    let of = |model_is_sure| Baseline {
        model: model.clone(),
        model_is_sure,
        vendor: None,
        features: Vec::new(),
    };
    if FIRST_FOR_ALL.contains(&arch) {
        return Ok(of(false));
    }
    if ONE_MODEL.contains(&arch) {
        let same = cpus.iter().all(|cpu| cpu.model.as_ref() == Some(&model));
        return if same {
            Ok(of(true))
        } else {
            Err(refused(CpuError::NothingInCommon))
        };
    }
    let message = if NOT_TOGETHER.contains(&arch) {
        format!("cannot compute baseline CPU of {arch} architecture")
    } else {
        format!("'{arch}' architecture is not supported by CPU driver")
    };
    Err(Error::new(Code::NoSupport, message).in_area(Area::Cpu))
}

fn is_x86(arch: &str) -> bool {
    matches!(arch, "i686" | "x86_64")
}

fn read(xml: &str, wanted: WantedCpu, validate: bool) -> Result<CpuDocument> {
    let of_documents = |error: domxml::Error| {
        let error = match error.area {
            domxml::Area::Domain => error.in_area(domxml::Area::Cpu),
            _ => error,
        };
        Error::from(error)
    };
    if validate {
        CpuDocument::check_schema(xml, arch::is_arch).map_err(of_documents)?;
    }
    CpuDocument::parse(xml, wanted, arch::is_arch).map_err(of_documents)
}

fn described(document: &CpuDocument) -> CpuDescription {
    match document {
        CpuDocument::Host(cpu) => described_host(cpu),
        CpuDocument::Guest(cpu) => described_guest(cpu),
    }
}

fn described_host(cpu: &HostCpu) -> CpuDescription {
    CpuDescription {
        kind: CpuKind::Host,
        arch: cpu.arch.clone(),
        model: cpu.model.clone(),
        vendor: cpu.vendor.clone(),
        features: cpu
            .features
            .iter()
            .map(|feature| (feature.name.clone(), Policy::Require))
            .collect(),
    }
}

fn described_guest(cpu: &Cpu) -> CpuDescription {
    let policy = |feature: &CpuFeature| match feature.policy.unwrap_or(FeaturePolicy::Require) {
        FeaturePolicy::Force => Policy::Force,
        FeaturePolicy::Require => Policy::Require,
        FeaturePolicy::Optional => Policy::Optional,
        FeaturePolicy::Disable => Policy::Disable,
        FeaturePolicy::Forbid => Policy::Forbid,
    };
    CpuDescription {
        kind: if cpu.match_ == Some(CpuMatch::Strict) {
            CpuKind::StrictGuest
        } else {
            CpuKind::Guest
        },
        arch: None,
        model: cpu
            .model
            .as_ref()
            .and_then(|model| model.name.clone())
            .filter(|name| !name.is_empty()),
        vendor: cpu.vendor.clone(),
        features: cpu
            .features
            .iter()
            .map(|feature| (feature.name.clone(), policy(feature)))
            .collect(),
    }
}

/// What a hypervisor gives, as the description of a guest's CPU.
fn offered(model: &GuestModel) -> CpuDescription {
    let named = |names: &[&str], policy| {
        names
            .iter()
            .map(move |name| ((*name).to_owned(), policy))
            .collect::<Vec<_>>()
    };
    let mut features = named(&model.require, Policy::Require);
    features.extend(named(&model.disable, Policy::Disable));
    CpuDescription {
        kind: CpuKind::Guest,
        arch: None,
        model: Some(model.model.to_owned()),
        vendor: model.vendor.clone(),
        features,
    }
}

/// The least limit of addresses, if each CPU has one: a guest's that is as wide as the host's, up to it.
fn least_limit(documents: &[CpuDocument]) -> Option<u32> {
    let limit = |document: &CpuDocument| match document {
        CpuDocument::Guest(Cpu {
            maxphysaddr:
                Some(MaxPhysAddr {
                    mode: MaxPhysAddrMode::Passthrough,
                    limit,
                    ..
                }),
            ..
        }) => *limit,
        _ => None,
    };
    documents
        .iter()
        .map(limit)
        .collect::<Option<Vec<u32>>>()?
        .into_iter()
        .min()
}

fn document(found: &Baseline, limit: Option<u32>) -> String {
    let fallback = if found.model_is_sure {
        CpuFallback::Forbid
    } else {
        CpuFallback::Allow
    };
    let feature = |(name, on): &(String, bool)| CpuFeature {
        policy: Some(if *on {
            FeaturePolicy::Require
        } else {
            FeaturePolicy::Disable
        }),
        name: name.clone(),
    };
    let cpu = Cpu {
        mode: Some(CpuMode::Custom),
        match_: Some(CpuMatch::Exact),
        model: Some(CpuModel {
            fallback: Some(fallback),
            vendor_id: None,
            name: Some(found.model.clone()),
        }),
        vendor: found.vendor.clone(),
        maxphysaddr: limit.map(|limit| MaxPhysAddr {
            mode: MaxPhysAddrMode::Passthrough,
            bits: None,
            limit: Some(limit),
        }),
        features: found.features.iter().map(feature).collect(),
        ..Cpu::default()
    };
    cpu.document(FormatFlags::NONE)
}

fn refused(error: CpuError) -> Error {
    let code = match error {
        CpuError::UnknownModel(_) | CpuError::UnknownFeature(_) | CpuError::NoSuchCpu => Code::Internal,
        CpuError::HypervisorsModel(_) | CpuError::NoModel(_) => Code::InvalidArg,
        CpuError::UnknownVendor(_)
        | CpuError::VendorOfModel { .. }
        | CpuError::Vendors
        | CpuError::NothingInCommon => Code::OperationFailed,
    };
    Error::new(code, error.to_string()).in_area(Area::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_clock_is_as_fast_as_the_hosts() {
        let host = |scaling: bool| Counter {
            name: "tsc".to_owned(),
            frequency: 2_599_998_000,
            scaling: Some(scaling.into()),
        };
        let check = |frequency: u64, host: Option<&Counter>| {
            let text = format!(
                "<domain type='kvm'><name>a</name><memory>1</memory><clock offset='utc'>
                 <timer name='tsc' frequency='{frequency}'/></clock></domain>"
            );
            let document = domxml::Domain::parse(&text, domxml::ParseFlags::NONE).unwrap();
            check_clock(host, &document).map_err(|error| error.to_string())
        };
        for near in [2_599_348_001, 2_599_998_000, 2_600_647_999] {
            assert_eq!(check(near, Some(&host(false))), Ok(()));
        }
        let refused = "unsupported configuration: Requested TSC frequency 4567890000 Hz is outside tolerance range \
                       ([2599348001, 2600647999] Hz) around host frequency 2599998000 Hz and TSC scaling is not supported \
                       by the host CPU";
        assert_eq!(check(4_567_890_000, Some(&host(false))), Err(refused.to_owned()));
        assert!(check(2_599_348_000, Some(&host(false))).is_err());
        assert_eq!(check(4_567_890_000, Some(&host(true))), Ok(()));
        assert_eq!(check(4_567_890_000, None), Ok(()));
    }
}
