//! `-machine`, `-accel`, firmware: what the guest's board is.

use domxml::VirtType;
use domxml::clock::TimerName;
use domxml::devices::audio::SoundModel;
use domxml::devices::common::{OnOff, YesNo};
use domxml::devices::memory::MemoryModel;
use domxml::devices::storage::{Source, StorageFormat, StorageKind};
use domxml::features::{Features, IoapicDriver};
use domxml::os::LoaderType;
use domxml::security::LaunchSecurity;

use super::context::Context;
use super::line::CommandLine;
use super::{audio, memory, numa};
use crate::block::{Common, Image, Link, Sources};
use crate::props::{Keyval, Props, on_off};
use crate::{Error, Result};

/// The pflash drives of a guest's firmware, in order; none for other firmware.
///
/// # Errors
/// When QEMU cannot open the variables' source.
pub fn pflash(cx: Context<'_>, sources: &mut Sources<'_>) -> Result<Vec<Image>> {
    let os = &cx.def.os;
    let Some(loader) = os
        .loader
        .as_ref()
        .filter(|loader| loader.kind == Some(LoaderType::Pflash))
    else {
        return Ok(Vec::new());
    };
    let common = Common::default();
    let code = Source {
        file: loader.path.clone(),
        ..Source::default()
    };
    let mut link = Link::raw(
        StorageKind::File,
        &code,
        &common,
        loader.readonly != Some(YesNo::No),
    );
    link.format = image_format(loader.format.as_deref());
    let mut image = sources.pflash(&link, 0)?;
    // Firmware code has a format node even when it is raw.
    image.require_format(link.format.as_str());
    let mut images = vec![image];
    if let Some((kind, source, format)) = variables(cx) {
        let mut link = Link::raw(kind, &source, &common, false);
        link.format = image_format(format.as_deref());
        images.push(sources.pflash(&link, 1)?);
    }
    Ok(images)
}

fn image_format(format: Option<&str>) -> StorageFormat {
    format
        .and_then(|format| format.parse().ok())
        .unwrap_or(StorageFormat::Raw)
}

fn variables(cx: Context<'_>) -> Option<(StorageKind, Source, Option<String>)> {
    let nvram = cx.def.os.nvram.as_ref()?;
    let format = nvram.format.clone();
    if let Some(source) = &nvram.source {
        return Some((nvram.kind.unwrap_or_default(), source.clone(), format));
    }
    let path = nvram.path.clone()?;
    Some((
        StorageKind::File,
        Source {
            file: Some(path),
            ..Source::default()
        },
        format,
    ))
}

/// Appends `-machine`.
///
/// # Errors
/// When QEMU has no such machine.
pub fn build(cx: Context<'_>, pflash: &[Image], line: &mut CommandLine) -> Result<()> {
    let def = cx.def;
    let features = def.features.clone().unwrap_or_default();
    let mut machine = Keyval::implied(cx.machine()).with("usb", "off");
    put_board(&features, &mut machine);
    machine.set("dump-guest-core", on_off(dump_core(cx)));
    if def
        .memory_backing
        .as_ref()
        .is_some_and(|backing| backing.nosharepages)
    {
        machine.set("mem-merge", "off");
    }
    if def
        .devices
        .memories
        .iter()
        .any(|memory| memory.model == MemoryModel::Nvdimm)
    {
        machine.set("nvdimm", "on");
    }
    if let Some(LaunchSecurity::Sev(_) | LaunchSecurity::SevSnp(_)) = &def.launch_security {
        machine.set("confidential-guest-support", "lsec0");
    }
    if numa::cells(cx).is_empty() {
        machine.set("memory-backend", memory::default_ram(cx));
    }
    for (number, image) in pflash.iter().enumerate() {
        machine.set(&format!("pflash{number}"), image.node());
    }
    put_firmware_options(cx, &mut machine)?;
    machine.set("acpi", on_off(features.acpi));
    line.push("-machine", machine);
    Ok(())
}

fn put_board(features: &Features, machine: &mut Keyval) {
    machine.opt("vmport", features.vmport.map(|switch| switch.state.as_str()));
    machine.opt("smm", features.smm.map(|smm| smm.state.as_str()));
    machine.opt(
        "kernel_irqchip",
        features.ioapic.map(|driver| match driver {
            IoapicDriver::Qemu => "split",
            IoapicDriver::Kvm => "on",
        }),
    );
    machine.opt("i8042", features.ps2.map(|switch| switch.state.as_str()));
}

fn put_firmware_options(cx: Context<'_>, machine: &mut Keyval) -> Result<()> {
    if numa::has_hmat(cx) {
        machine.set("hmat", "on");
    }
    if cx.def.os.bios.as_ref().and_then(|bios| bios.useserial) == Some(YesNo::Yes) {
        machine.set("graphics", "off");
    }
    let timers = cx
        .def
        .clock
        .as_ref()
        .map(|clock| clock.timers.as_slice())
        .unwrap_or_default();
    let hpets = timers.iter().filter(|timer| timer.name == TimerName::Hpet);
    for present in hpets.filter_map(|timer| timer.present) {
        machine.set("hpet", on_off(present.is_yes()));
    }
    if let Some(speaker) = cx
        .def
        .devices
        .sounds
        .iter()
        .find(|sound| sound.model == SoundModel::Pcspk)
    {
        machine.set(
            "pcspk-audiodev",
            audio::audiodev_id(audio::find(cx, speaker.audio)?.id),
        );
    }
    Ok(())
}

fn dump_core(cx: Context<'_>) -> bool {
    let said = cx
        .def
        .memory
        .as_ref()
        .and_then(|memory| memory.dump_core)
        .map(OnOff::is_on);
    said.or(cx.res.config.dump_guest_core).unwrap_or_default()
}

/// Appends `-accel`.
///
/// # Errors
/// When the domain type is not QEMU's.
pub fn build_accel(cx: Context<'_>, line: &mut CommandLine) -> Result<()> {
    let features = cx.def.features.clone().unwrap_or_default();
    let accel = match cx.def.kind {
        VirtType::Qemu => {
            let cache = features
                .tcg
                .and_then(|tcg| tcg.tb_cache)
                .filter(|size| size.0 != 0);
            let mut accel = Keyval::implied("tcg");
            accel.opt("tb-size", cache.map(|size| size.0 / 1024));
            accel
        }
        VirtType::Kvm => {
            let ring = features
                .kvm
                .and_then(|kvm| kvm.dirty_ring)
                .filter(|ring| ring.state == OnOff::On);
            let mut accel = Keyval::implied("kvm");
            accel.opt("dirty-ring-size", ring.and_then(|ring| ring.size));
            accel
        }
        VirtType::Hvf => Keyval::implied("hvf"),
        other => {
            return Err(Error::unsupported(format!(
                "the QEMU binary does not support {}",
                other.as_str()
            )));
        }
    };
    line.push("-accel", accel);
    Ok(())
}

/// Appends the size of the memory that system management mode has for itself.
pub fn build_tseg(cx: Context<'_>, line: &mut CommandLine) {
    let smm = cx.def.features.as_ref().and_then(|features| features.smm);
    if let Some(tseg) = smm.and_then(|smm| smm.tseg) {
        line.push("-global", format!("mch.extended-tseg-mbytes={}", tseg.0 >> 20));
    }
}

/// Appends what makes the firmware a ROM, or its flash writable from system management mode only.
pub fn build_loader(cx: Context<'_>, line: &mut CommandLine) {
    let Some(loader) = &cx.def.os.loader else {
        return;
    };
    match loader.kind {
        Some(LoaderType::Pflash) if loader.secure == Some(YesNo::Yes) => {
            line.push("-global", "driver=cfi.pflash01,property=secure,value=on");
        }
        Some(LoaderType::Pflash) => {}
        Some(LoaderType::Rom) | None => {
            if let Some(path) = &loader.path {
                line.push("-bios", path.as_str());
            }
        }
    }
}

/// Appends the object that encrypts the guest's memory.
pub fn build_launch_security(cx: Context<'_>, line: &mut CommandLine) {
    let Some(security) = &cx.def.launch_security else {
        return;
    };
    let props = match security {
        LaunchSecurity::Sev(sev) => Props::object("sev-guest", "lsec0")
            .with_opt("cbitpos", sev.common.cbitpos)
            .with_opt("reduced-phys-bits", sev.common.reduced_phys_bits)
            .with_opt("policy", sev.policy)
            .with_opt(
                "dh-cert-file",
                sev.dh_cert.as_ref().map(|_| cx.res.lib_file("dh_cert.base64")),
            )
            .with_opt(
                "session-file",
                sev.session.as_ref().map(|_| cx.res.lib_file("session.base64")),
            )
            .with_opt("kernel-hashes", sev.kernel_hashes.map(YesNo::is_yes)),
        LaunchSecurity::SevSnp(snp) => Props::object("sev-snp-guest", "lsec0")
            .with_opt("cbitpos", snp.common.cbitpos)
            .with_opt("reduced-phys-bits", snp.common.reduced_phys_bits)
            .with_opt("kernel-hashes", snp.kernel_hashes.map(YesNo::is_yes))
            .with_opt("policy", snp.policy)
            .with_opt("guest-visible-workarounds", snp.guest_visible_workarounds.clone())
            .with_opt("id-block", snp.id_block.clone())
            .with_opt("id-auth", snp.id_auth.clone())
            .with_opt("host-data", snp.host_data.clone())
            .with_opt("author-key-enabled", snp.author_key.map(YesNo::is_yes))
            .with_opt("vcek-disabled", snp.vcek.map(|vcek| !vcek.is_yes())),
        LaunchSecurity::S390Pv => Props::object("s390-pv-guest", "lsec0"),
    };
    line.object(props);
}
