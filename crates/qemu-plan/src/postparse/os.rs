//! Which QEMU runs the guest, as which machine, and what it boots from.

use std::sync::Arc;

use domxml::Domain;
use domxml::devices::DeviceRef;
use domxml::os::{Boot, BootDevice, OsType};

use super::Context;
use crate::caps::{Accel, Caps};
use crate::error::{Error, Result};
use crate::facts::{MachineKind, accel_of};

/// Architectures that libvirt has names for.
const ARCHES: &[&str] = &[
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

/// Finds the emulator and what it can do.
pub(super) fn emulator(def: &mut Domain, ctx: &Context<'_>) -> Result<Arc<Caps>> {
    let wanted = def.os.kind.as_ref().and_then(|t| t.arch.clone());
    let path = match def.devices.emulator.take().filter(|e| !e.is_empty()) {
        Some(path) => path,
        None => {
            let arch = wanted.as_deref().unwrap_or(ctx.host_arch);
            let missing = || Error::unsupported(format!("No emulator found for arch '{arch}'"));
            if !ARCHES.contains(&arch) {
                return Err(Error::conflicting(format!("Unknown architecture {arch}")));
            }
            ctx.emulators.default_for(arch).ok_or_else(missing)?
        }
    };
    let caps = ctx.emulators.caps(&path)?;
    let kind = def.os.kind.get_or_insert_with(OsType::default);
    let arch = kind.arch.get_or_insert_with(|| caps.arch().to_owned()).clone();
    let refuse = |what: String| {
        Err(Error::unsupported(format!(
            "Emulator '{path}' does not support {what}"
        )))
    };
    if kind.value != "hvm" {
        let os = kind.value.clone();
        return refuse(format!("os type '{os}'"));
    }
    if !caps.runs_arch(&arch) {
        return refuse(format!("arch '{arch}'"));
    }
    match accel_of(def) {
        Some(accel) if caps.accel(accel).is_some() => {}
        _ => return refuse(format!("virt type '{}'", def.kind.as_str())),
    }
    def.devices.emulator = Some(path);
    Ok(caps)
}

/// Writes the machine's canonical name, and says what kind it is. One that the emulator does not have is left for
/// the checks to refuse.
pub(super) fn machine(def: &mut Domain, caps: &Caps) -> MachineKind {
    let accel = accel_of(def).unwrap_or(Accel::Tcg);
    let kind = def.os.kind.get_or_insert_with(OsType::default);
    let found = match &kind.machine {
        Some(name) => caps.machine(accel, name),
        None => caps.default_machine(accel),
    };
    if let Some(found) = found {
        kind.machine = Some(found.name.clone());
    }
    MachineKind::of(kind.machine.as_deref().unwrap_or_default())
}

/// A guest that names nothing to boot from boots from its first disk.
pub(super) fn fill_boot(def: &mut Domain) -> Result<()> {
    let os = &mut def.os;
    for path in [&mut os.kernel, &mut os.initrd, &mut os.cmdline] {
        *path = path.take().filter(|p| !p.is_empty());
    }
    if let Some(menu) = &mut os.bootmenu
        && menu.enable.is_none_or(|e| !e.is_yes())
    {
        menu.timeout = None;
    }
    let by_device = def
        .devices
        .iter()
        .filter_map(DeviceRef::info)
        .any(|i| i.boot.is_some());
    if by_device && !os.boot.is_empty() {
        return Err(Error::conflicting(
            "per-device boot elements cannot be used together with os/boot elements",
        ));
    }
    if !by_device && os.boot.is_empty() {
        os.boot.push(Boot { dev: BootDevice::Hd });
    }
    Ok(())
}
