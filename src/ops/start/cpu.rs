//! The CPU that a guest really got, as its live document shows it.
//!
//! A named model is what was asked for; QEMU, accelerator and host decide what comes of it. QEMU is asked for the words of
//! CPUID that the guest sees, and what differs from the model is listed.

use domxml::cpu::{Cpu, CpuCheck, CpuFallback, CpuFeature, CpuMatch, CpuMode, FeaturePolicy};
use hostinfo::{CpuData, CpuModels, Place};
use qmp::commands;
use serde::Deserialize;

use crate::{
    error::{Area, Code, Error, Result},
    qemu::Monitor,
};

/// libvirt's name of a clock that never varies.
const STEADY_CLOCK: &str = "invtsc";
/// Where QEMU keeps the first CPU.
const FIRST_CPU: &str = "/machine/unattached/device[0]";

/// One word of CPUID, as QEMU's property `feature-words` has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Word {
    cpuid_register: String,
    cpuid_input_eax: u32,
    #[serde(default)]
    cpuid_input_ecx: u32,
    features: u32,
}

/// Asks QEMU and lists what the guest's CPU has beside its model, and lacks of it. A CPU that is no named model, or one
/// that libvirt does not know, stays as it is.
pub(crate) async fn show_actual(monitor: &Monitor, cpu: &mut Cpu) -> Result<()> {
    if cpu.mode.unwrap_or(CpuMode::Custom) != CpuMode::Custom {
        return Ok(());
    }
    let tables = CpuModels::x86();
    let name = cpu
        .model
        .as_ref()
        .and_then(|m| m.name.clone())
        .unwrap_or_default();
    if tables.model(&name).is_none() {
        return Ok(());
    }
    let path = monitor
        .cpus()
        .await?
        .first()
        .map_or_else(|| FIRST_CPU.to_owned(), |c| c.qom_path.clone());
    let words = monitor
        .execute(commands::QomGet {
            path,
            property: "feature-words".to_owned(),
        })
        .await?;
    // A QEMU that words it differently tells nothing here.
    let Ok(words) = serde_json::from_value::<Vec<Word>>(words) else {
        return Ok(());
    };
    let actual = data(&words);
    check_clock(cpu, &actual)?;
    check_fully(cpu, &name, &actual)?;
    list_differences(cpu, &name, &actual);
    Ok(())
}

/// Spinlocks that guests yield in are KVM's.
pub(crate) fn check_spinlocks(document: &domxml::Domain) -> Result<()> {
    let features = document.features.as_ref();
    let wanted = features.and_then(|features| features.pvspinlock.as_ref());
    let wanted = wanted.is_some_and(|switch| switch.state == domxml::devices::OnOff::On);
    match wanted && document.kind != domxml::domain::VirtType::Kvm {
        true => Err(Error::new(
            Code::ConfigUnsupported,
            "host doesn't support paravirtual spinlocks",
        )),
        false => Ok(()),
    }
}

/// A clock that never varies can't be had everywhere, and QEMU does not refuse to go without.
fn check_clock(cpu: &Cpu, actual: &CpuData) -> Result<()> {
    let tables = CpuModels::x86();
    let wanted = |f: &&CpuFeature| f.name == STEADY_CLOCK && f.policy == Some(FeaturePolicy::Require);
    let wanted = cpu.features.iter().find(wanted);
    let number = wanted.and_then(|feature| tables.feature(&feature.name));
    match number {
        Some(number) if !tables.features_of(actual).contains(&number) => Err(Error::new(
            Code::ConfigUnsupported,
            "host doesn't support invariant TSC",
        )),
        _ => Ok(()),
    }
}

/// Checks that the guest has the CPU that its document describes and no other, where the document wants that.
fn check_fully(cpu: &Cpu, name: &str, actual: &CpuData) -> Result<()> {
    let tables = CpuModels::x86();
    let Some(model) = tables.model(name).filter(|_| cpu.check == Some(CpuCheck::Full)) else {
        return Ok(());
    };
    let has = tables.features_of(actual);
    let described = |number: usize| {
        let feature = &tables.features[number];
        let named = cpu.features.iter().find(|f| f.name == feature.name);
        match named.map(|f| f.policy.unwrap_or(FeaturePolicy::Require)) {
            Some(FeaturePolicy::Require | FeaturePolicy::Force) => true,
            Some(FeaturePolicy::Disable | FeaturePolicy::Forbid) => false,
            Some(FeaturePolicy::Optional) => has.contains(&number),
            None => model.features.contains(&number),
        }
    };
    let named = |is: &dyn Fn(usize) -> bool| {
        let told = (0..tables.features.len()).filter(|number| is_told(*number) && is(*number));
        told.map(|number| tables.features[number].name)
            .collect::<Vec<_>>()
            .join(",")
    };
    let extra = named(&|number| has.contains(&number) && !described(number));
    let missing = named(&|number| !has.contains(&number) && described(number));
    let what = match (extra.as_str(), missing.as_str()) {
        ("", "") => return Ok(()),
        (extra, "") => format!("extra features: {extra}"),
        ("", missing) => format!("missing features: {missing}"),
        (extra, missing) => format!("extra features: {extra}, missing features: {missing}"),
    };
    let text = format!("guest CPU doesn't match specification: {what}");
    Err(Error::new(Code::OperationFailed, text).in_area(Area::Cpu))
}

/// Whether QEMU tells of a feature: of CPUID it does; what is in registers follows from the model.
fn is_told(number: usize) -> bool {
    let feature = CpuModels::x86().features.get(number);
    feature.is_some_and(|feature| matches!(feature.place, Place::Cpuid { .. }))
}

fn data(words: &[Word]) -> CpuData {
    let mut data = CpuData::default();
    for word in words {
        let Some(register) = ["EAX", "EBX", "ECX", "EDX"]
            .iter()
            .position(|r| *r == word.cpuid_register)
        else {
            continue;
        };
        data.cpuid
            .entry((word.cpuid_input_eax, word.cpuid_input_ecx))
            .or_default()[register] = word.features;
    }
    data
}

fn list_differences(cpu: &mut Cpu, name: &str, actual: &CpuData) {
    let tables = CpuModels::x86();
    let Some(model) = tables.model(name) else { return };
    let has = tables.features_of(actual);
    cpu.check = Some(CpuCheck::Full);
    cpu.match_ = Some(CpuMatch::Exact);
    if let Some(model) = &mut cpu.model {
        model.fallback = Some(CpuFallback::Forbid);
    }
    for feature in &mut cpu.features {
        if let Some(number) = tables.feature(&feature.name) {
            let has = has.contains(&number);
            let as_described = match feature.policy {
                Some(FeaturePolicy::Force) => has,
                Some(FeaturePolicy::Forbid) => !has,
                _ => false,
            };
            if !as_described {
                feature.policy = Some(policy(has));
            }
        }
    }
    let removed = model
        .removed
        .iter()
        .filter_map(|name| tables.feature(name))
        .filter(|number| !has.contains(number));
    let in_order =
        (0..tables.features.len()).filter(|number| model.features.contains(number) != has.contains(number));
    for number in removed.chain(in_order) {
        let feature = &tables.features[number];
        if is_told(number) && !cpu.features.iter().any(|f| f.name == feature.name) {
            cpu.features.push(CpuFeature {
                name: feature.name.to_owned(),
                policy: Some(policy(has.contains(&number))),
            });
        }
    }
}

fn policy(has: bool) -> FeaturePolicy {
    if has {
        FeaturePolicy::Require
    } else {
        FeaturePolicy::Disable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What QEMU 10.0.2 tells of `qemu64` under TCG.
    const QEMU64: &str = r#"[{"cpuid-register":"ECX","cpuid-input-eax":2147483649,"features":5},{"cpuid-register":"EDX","cpuid-input-eax":2147483649,"features":563346429},{"cpuid-register":"ECX","cpuid-input-eax":1,"features":2147491841},{"cpuid-register":"EDX","cpuid-input-eax":1,"features":126614525},{"cpuid-register":"EBX","cpuid-input-ecx":0,"cpuid-input-eax":7,"features":0}]"#;

    #[test]
    fn what_differs_from_the_model_is_listed_as_libvirt_lists_it() {
        let words: Vec<Word> = serde_json::from_str(QEMU64).unwrap();
        let mut cpu = Cpu {
            model: Some(domxml::cpu::CpuModel {
                name: Some("qemu64".to_owned()),
                ..Default::default()
            }),
            ..Cpu::default()
        };
        list_differences(&mut cpu, "qemu64", &data(&words));
        let listed: Vec<_> = cpu.features.iter().map(|f| (f.policy, f.name.as_str())).collect();
        assert_eq!(
            listed,
            [
                (Some(FeaturePolicy::Require), "hypervisor"),
                (Some(FeaturePolicy::Require), "lahf_lm")
            ]
        );
        assert_eq!(cpu.check, Some(CpuCheck::Full));
    }

    fn described(check: CpuCheck, features: &[(&str, FeaturePolicy)]) -> Cpu {
        let feature = |(name, policy): &(&str, FeaturePolicy)| CpuFeature {
            name: (*name).to_owned(),
            policy: Some(*policy),
        };
        Cpu {
            check: Some(check),
            features: features.iter().map(feature).collect(),
            ..Cpu::default()
        }
    }

    #[test]
    fn what_is_checked_fully_is_what_is_described_or_refused() {
        use FeaturePolicy as P;
        let words: Vec<Word> = serde_json::from_str(QEMU64).unwrap();
        let actual = data(&words);
        let check = |features: &[(&str, P)]| {
            check_fully(&described(CpuCheck::Full, features), "qemu64", &actual).map_err(|e| e.to_string())
        };
        let refused = |what: &str| {
            Err(format!(
                "operation failed: guest CPU doesn't match specification: {what}"
            ))
        };
        assert_eq!(check(&[]), refused("extra features: hypervisor,lahf_lm"));
        let named = [("hypervisor", P::Require), ("lahf_lm", P::Force)];
        assert_eq!(check(&named), Ok(()));
        let more = [named[0], named[1], ("avx512f", P::Require)];
        assert_eq!(check(&more), refused("missing features: avx512f"));
        assert_eq!(
            check(&[("hypervisor", P::Optional), ("avx512f", P::Require)]),
            refused("extra features: lahf_lm, missing features: avx512f")
        );
        assert!(check_fully(&described(CpuCheck::None, &more), "qemu64", &actual).is_ok());
    }

    #[test]
    fn what_is_forbidden_and_not_there_stays_forbidden() {
        use FeaturePolicy as P;
        let words: Vec<Word> = serde_json::from_str(QEMU64).unwrap();
        let mut cpu = described(
            CpuCheck::None,
            &[("avx", P::Forbid), ("avx2", P::Require), ("sse2", P::Force)],
        );
        list_differences(&mut cpu, "qemu64", &data(&words));
        let policies: Vec<_> = cpu.features.iter().take(3).map(|f| f.policy).collect();
        assert_eq!(policies, [Some(P::Forbid), Some(P::Disable), Some(P::Force)]);
    }

    #[test]
    fn a_clock_that_never_varies_can_not_be_had_everywhere() {
        let words: Vec<Word> = serde_json::from_str(QEMU64).unwrap();
        let wanted = described(CpuCheck::None, &[(STEADY_CLOCK, FeaturePolicy::Require)]);
        let error = check_clock(&wanted, &data(&words)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unsupported configuration: host doesn't support invariant TSC"
        );
        let unwanted = described(CpuCheck::None, &[(STEADY_CLOCK, FeaturePolicy::Disable)]);
        assert!(check_clock(&unwanted, &data(&words)).is_ok());
    }
}
