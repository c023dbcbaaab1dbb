//! Which QEMU runs the guest, as which machine, and what it boots from.

use std::sync::Arc;

use domxml::Domain;
use domxml::devices::DeviceRef;
use domxml::os::{Boot, BootDevice, OsType};

use super::Context;
use crate::caps::{Accel, Caps};
use crate::error::{Error, Result};
use crate::facts::{MachineKind, accel_of};

/// Finds the emulator and what it can do.
pub(super) fn emulator(def: &mut Domain, ctx: &Context<'_>) -> Result<Arc<Caps>> {
    let wanted = def.os.kind.as_ref().and_then(|t| t.arch.clone());
    let path = match def.devices.emulator.take().filter(|e| !e.is_empty()) {
        Some(path) => path,
        None => {
            let arch = wanted.as_deref().unwrap_or(ctx.host_arch);
            let missing = || Error::unsupported(format!("No emulator found for arch '{arch}'"));
            ctx.emulators.default_for(arch).ok_or_else(missing)?
        }
    };
    let caps = ctx.emulators.caps(&path)?;
    let kind = def.os.kind.get_or_insert_with(OsType::default);
    kind.arch.get_or_insert_with(|| caps.arch().to_owned());
    def.devices.emulator = Some(path);
    Ok(caps)
}

/// Writes the machine's canonical name, and says what kind it is. One that the emulator does not have is left for
/// the checks to refuse.
///
/// # Errors
/// When the document names none and the emulator has no default.
pub(super) fn machine(def: &mut Domain, caps: &Caps) -> Result<MachineKind> {
    let accel = accel_of(def).unwrap_or(Accel::Tcg);
    let kind = def.os.kind.get_or_insert_with(OsType::default);
    let found = match &kind.machine {
        Some(name) => caps.machine(accel, name),
        None => caps.default_machine(accel),
    };
    if let Some(found) = found {
        kind.machine = Some(found.name.clone());
    }
    match &kind.machine {
        Some(name) => Ok(MachineKind::of(name)),
        None => Err(Error::argument_qemu(format!(
            "could not get preferred machine for {} type={}",
            def.devices.emulator.as_deref().unwrap_or_default(),
            def.kind.as_str()
        ))),
    }
}

/// Boot devices that are looked at.
const MAX_BOOT: usize = 4;

/// A guest that names nothing to boot from boots from its first disk.
pub(super) fn fill_boot(def: &mut Domain) {
    let os = &mut def.os;
    for path in [&mut os.kernel, &mut os.initrd, &mut os.cmdline] {
        *path = path.take().filter(|p| !p.is_empty());
    }
    if let Some(menu) = &mut os.bootmenu
        && menu.enable.is_none_or(|e| !e.is_yes())
    {
        menu.timeout = None;
    }
    os.boot.truncate(MAX_BOOT);
    let by_device = def
        .devices
        .iter()
        .filter_map(DeviceRef::info)
        .any(|i| i.boot.is_some());
    if !by_device && os.boot.is_empty() {
        os.boot.push(Boot { dev: BootDevice::Hd });
    }
}
