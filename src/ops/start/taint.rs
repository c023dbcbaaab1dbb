//! What makes a run hard to support, and what of it QEMU means to drop: told in its log, its status file and to clients.

use std::{collections::BTreeSet, sync::Arc};

use domxml::{
    Domain,
    cpu::CpuMode,
    devices::{Disk, DiskDevice, HostdevKind, StorageKind, YesNo},
};
use qemu_plan::caps::{Accel, Caps};

use crate::ops::host::identity::Identity;

/// What is to be told of a run.
pub(crate) struct Told {
    /// libvirt's words of what makes it hard to support.
    pub(crate) taints: BTreeSet<&'static str>,
    /// What of it QEMU means to drop.
    pub(crate) deprecations: Vec<Arc<str>>,
}

/// What is to be told of the run of a document by a QEMU; whether a script of the administrator has changed the document.
pub(crate) fn of(document: &Domain, caps: &Caps, (identity, scripted): (&Identity, bool)) -> Told {
    let deprecations = deprecations(document, caps);
    let mut found = taints(document);
    found.push((scripted, "hook-script"));
    found.push((identity.is_root(), "high-privileges"));
    found.push((!deprecations.is_empty(), "deprecated-config"));
    let taints = found.into_iter().filter(|(is, _)| *is).map(|(_, word)| word);
    Told {
        taints: taints.collect(),
        deprecations,
    }
}

fn taints(document: &Domain) -> Vec<(bool, &'static str)> {
    let qemu = &document.qemu;
    let line = qemu.commandline.as_ref();
    let capabilities = qemu.capabilities.as_ref();
    let overrides = qemu.overrides.as_ref();
    let devices = &document.devices;
    let is_host = |mode: Option<CpuMode>| mode == Some(CpuMode::HostPassthrough);
    let raw_disk = devices.disks.iter().any(|disk| disk.rawio == Some(YesNo::Yes));
    let mut hostdevs = devices.hostdevs.iter();
    let raw_device = hostdevs.any(|d| d.kind == HostdevKind::Scsi && d.rawio == Some(YesNo::Yes));
    vec![
        (
            line.is_some_and(|line| !line.args.is_empty() || !line.env.is_empty()),
            "custom-argv",
        ),
        (
            capabilities.is_some_and(|c| !c.add.is_empty() || !c.del.is_empty()),
            "custom-hypervisor-feature",
        ),
        (overrides.is_some_and(|o| !o.devices.is_empty()), "custom-device"),
        (
            document.cpu.as_ref().is_some_and(|cpu| is_host(cpu.mode)),
            "host-cpu",
        ),
        (raw_disk || raw_device, "high-privileges"),
        (devices.disks.iter().any(is_host_drive), "cdrom-passthrough"),
        (
            devices.interfaces.iter().any(|i| i.script.is_some()),
            "shell-scripts",
        ),
        (document.os.dtb.is_some(), "custom-dtb"),
    ]
}

/// A drive of the host is the guest's.
fn is_host_drive(disk: &Disk) -> bool {
    disk.device == DiskDevice::Cdrom && disk.kind == StorageKind::Block && !qemu_plan::block::is_empty(disk)
}

fn deprecations(document: &Domain, caps: &Caps) -> Vec<Arc<str>> {
    let Some(accel) = Accel::from_virt_type(document.kind.as_str()) else {
        return Vec::new();
    };
    let machine = document.os.kind.as_ref().and_then(|kind| kind.machine.as_deref());
    let machine = machine.filter(|name| caps.machine(accel, name).is_some_and(|m| m.deprecated));
    let model = document
        .cpu
        .as_ref()
        .and_then(|cpu| cpu.model.as_ref()?.name.as_deref());
    let model = model.filter(|name| caps.cpu(accel, name).is_some_and(|m| m.deprecated));
    let machine = machine.map(|name| format!("machine type '{name}'").into());
    let model = model.map(|name| format!("CPU model '{name}'").into());
    machine.into_iter().chain(model).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(content: &str) -> Vec<&'static str> {
        let text = format!(
            "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>a</name>
             <memory>1</memory><os><type>hvm</type><dtb>/d</dtb></os>{content}</domain>"
        );
        let document = Domain::parse(&text, domxml::ParseFlags::NONE).unwrap();
        let found = taints(&document).into_iter().filter(|(is, _)| *is);
        found
            .map(|(_, word)| word)
            .filter(|word| *word != "custom-dtb")
            .collect()
    }

    #[test]
    fn what_is_hard_to_support_is_told() {
        let table = [
            ("", ""),
            ("<qemu:commandline><qemu:env name='A' value='1'/></qemu:commandline>", "custom-argv"),
            (
                "<qemu:capabilities><qemu:del capability='blockdev'/></qemu:capabilities>",
                "custom-hypervisor-feature",
            ),
            ("<cpu mode='host-passthrough'/>", "host-cpu"),
            (
                "<devices><disk type='block' device='cdrom'><source dev='/dev/sr0'/><target dev='sda' bus='sata'/></disk>
                 </devices>",
                "cdrom-passthrough",
            ),
            (
                "<devices><disk type='block' device='lun' rawio='yes'><source dev='/dev/sda'/>
                 <target dev='sda' bus='scsi'/></disk></devices>",
                "high-privileges",
            ),
        ];
        for (content, word) in table {
            assert_eq!(words(content).join(" "), word, "{content}");
        }
    }
}
