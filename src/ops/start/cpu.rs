//! The CPU that a guest really got, as its live document shows it.
//!
//! A named model is what was asked for; QEMU, accelerator and host decide what comes of it. QEMU is asked for the words of
//! CPUID that the guest sees, and what differs from the model is listed.

use domxml::cpu::{Cpu, CpuCheck, CpuFallback, CpuFeature, CpuMatch, CpuMode, FeaturePolicy};
use hostinfo::{CpuData, CpuModels, Place};
use qmp::commands;
use serde::Deserialize;

use crate::{error::Result, qemu::Monitor};

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
    if let Ok(words) = serde_json::from_value::<Vec<Word>>(words) {
        list_differences(cpu, &name, &data(&words));
    }
    Ok(())
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
            feature.policy = Some(policy(has.contains(&number)));
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
        // QEMU tells of CPUID only; what is in registers follows from the model.
        let told = matches!(feature.place, Place::Cpuid { .. });
        if told && !cpu.features.iter().any(|f| f.name == feature.name) {
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
}
