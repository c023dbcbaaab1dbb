//! Whether a guest's memory can leave its QEMU: what libvirt asks before a save, a dump and a snapshot.

use domxml::{
    clock::TimerName,
    cpu::FeaturePolicy,
    devices::{Address, MemoryModel, ShmemRole},
};
use qmp::commands;
use serde_json::Value;

use crate::{
    domain::View,
    error::{Error, Result},
    ops::run::guest::Guest,
};

/// Whether it can.
///
/// # Errors
/// `OperationInvalid`: why not.
pub(crate) async fn check(guest: &Guest, view: &View) -> Result<()> {
    let run = view.running()?;
    let answer = guest.execute(commands::QueryMigrate {}).await?;
    let blocked = answer.get("blocked-reasons").and_then(Value::as_array);
    let reasons: Vec<_> = blocked.into_iter().flatten().filter_map(Value::as_str).collect();
    if !reasons.is_empty() {
        return Err(Error::invalid(format!(
            "cannot migrate domain: {}",
            reasons.join("; ")
        )));
    }
    let active = run
        .status
        .blockjobs
        .as_ref()
        .is_some_and(|all| !all.jobs.is_empty());
    if active {
        return Err(Error::invalid("domain has active block job"));
    }
    of_document(&run.document.domain)
}

/// What stands in the way by the document alone.
pub(crate) fn of_document(document: &domxml::Domain) -> Result<()> {
    let devices = &document.devices;
    if devices.disks.iter().any(|disk| disk.transient.is_some()) {
        return Err(Error::invalid("migration with transient disk is not supported"));
    }
    let features = document.cpu.iter().flat_map(|cpu| &cpu.features);
    let is_required = |policy: Option<FeaturePolicy>| {
        matches!(policy, None | Some(FeaturePolicy::Require | FeaturePolicy::Force))
    };
    let mut invtsc = features.filter(|feature| feature.name == "invtsc" && is_required(feature.policy));
    let mut timers = document.clock.iter().flat_map(|clock| &clock.timers);
    if invtsc.next().is_some()
        && !timers.any(|timer| timer.name == TimerName::Tsc && timer.frequency.is_some())
    {
        let text = "domain has 'invtsc' CPU feature but TSC frequency is not specified";
        return Err(Error::invalid(text));
    }
    let dimms = devices.memories.iter();
    let mut dimms = dimms.filter(|m| matches!(m.model, MemoryModel::Dimm | MemoryModel::Nvdimm));
    if dimms.any(|dimm| !matches!(dimm.info.address, Some(Address::Dimm(_)))) {
        return Err(Error::invalid("domain's dimm info lacks slot ID or base address"));
    }
    let mut shmems = devices.shmems.iter();
    if let Some(peer) = shmems.find(|shmem| shmem.role != Some(ShmemRole::Master)) {
        return Err(Error::invalid(format!(
            "shmem device '{}' cannot be migrated, only shmem with role='master' can be migrated",
            peer.name
        )));
    }
    Ok(())
}
