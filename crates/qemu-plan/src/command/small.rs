//! Families of one device each: watchdogs, balloon, randomness, vsock, crash reports, shared memory,
//! crypto, I/O MMU.

use domxml::devices::common::{OnOff, VirtioModel};
use domxml::devices::rng::{Rng, RngBackendModel};
use domxml::devices::small::{
    Crypto, CryptoBackendModel, Iommu, IommuModel, Memballoon, MemballoonModel, Panic, PanicModel, Pstore,
    Shmem, ShmemModelKind, ShmemRole, Vsock, Watchdog, WatchdogAction, WatchdogModel,
};

use super::address::{self, Virtio};
use super::chardev;
use super::context::{Context, alias};
use super::line::CommandLine;
use crate::facts::size;
use crate::props::{Keyval, Props, on_off};
use crate::resources::FdRef;
use crate::{Error, Result};

/// Appends all watchdogs, and what they do when they expire.
///
/// # Errors
/// When a bus is not there.
pub fn build_watchdogs(cx: Context<'_>, line: &mut CommandLine) -> Result<()> {
    let mut action = None;
    for watchdog in &cx.def.devices.watchdogs {
        match watchdog_props(cx, watchdog)? {
            Some(props) => line.device(props),
            None => line.push("-global", "ICH9-LPC.noreboot=off"),
        }
        action = Some(watchdog_action(watchdog));
    }
    if let Some(action) = action {
        line.push("-watchdog-action", action.as_str());
    }
    Ok(())
}

/// What QEMU does when a watchdog expires. What a dump is made of is the daemon's work: QEMU only stops the guest.
pub fn watchdog_action(watchdog: &Watchdog) -> WatchdogAction {
    match watchdog.action.unwrap_or_default() {
        WatchdogAction::Dump => WatchdogAction::Pause,
        other => other,
    }
}

/// Front end of a watchdog; `None` for the one that is part of the machine.
///
/// # Errors
/// When its bus is not there.
pub fn watchdog_props(cx: Context<'_>, watchdog: &Watchdog) -> Result<Option<Props>> {
    if watchdog.model == WatchdogModel::Itco {
        return Ok(None);
    }
    let mut props = Props::driver(watchdog.model.as_str()).with("id", alias(&watchdog.info)?);
    address::put(cx, &watchdog.info, &mut props)?;
    Ok(Some(props))
}

/// Front end of the balloon; `None` when the guest has none.
///
/// # Errors
/// When its bus is not there.
pub fn balloon_props(cx: Context<'_>, balloon: &Memballoon) -> Result<Option<Props>> {
    let generation = match balloon.model {
        MemballoonModel::None => return Ok(None),
        MemballoonModel::Xen => {
            return Err(Error::unsupported(
                "Memory balloon device type 'xen' is not supported by this version of qemu",
            ));
        }
        MemballoonModel::Virtio => VirtioModel::Virtio,
        MemballoonModel::VirtioTransitional => VirtioModel::Transitional,
        MemballoonModel::VirtioNonTransitional => VirtioModel::NonTransitional,
    };
    let options = balloon.driver.as_ref().map(|driver| &driver.virtio);
    let mut props = address::virtio(
        "virtio-balloon",
        &balloon.info,
        Virtio::new(Some(generation), options),
    )?
    .with("id", alias(&balloon.info)?)
    .with_opt("deflate-on-oom", balloon.autodeflate.map(OnOff::is_on))
    .with_opt(
        "free-page-reporting",
        balloon.free_page_reporting.map(OnOff::is_on),
    );
    address::put(cx, &balloon.info, &mut props)?;
    Ok(Some(props))
}

/// Appends a source of randomness.
///
/// # Errors
/// When its back end or bus is not there.
pub fn build_rng(cx: Context<'_>, rng: &Rng, line: &mut CommandLine) -> Result<()> {
    let id = alias(&rng.info)?;
    let backend = rng.backend.clone().unwrap_or_default();
    let object = format!("obj{id}");
    line_rng_chardev(cx, rng, line)?;
    line.object(match backend.model {
        RngBackendModel::Random => Props::object("rng-random", object).with("filename", backend.path),
        RngBackendModel::Egd => Props::object("rng-egd", object).with("chardev", format!("char{id}")),
        RngBackendModel::Builtin => Props::object("rng-builtin", object),
    });
    line.device(rng_props(cx, rng)?);
    Ok(())
}

fn line_rng_chardev(cx: Context<'_>, rng: &Rng, line: &mut CommandLine) -> Result<()> {
    match &rng.backend {
        Some(backend) if backend.model == RngBackendModel::Egd => {
            chardev::build(cx, backend.into(), alias(&rng.info)?, line)
        }
        _ => Ok(()),
    }
}

/// Front end of a source of randomness.
///
/// # Errors
/// When its bus is not there.
pub fn rng_props(cx: Context<'_>, rng: &Rng) -> Result<Props> {
    const PERIOD_MS: u32 = 1000;
    let id = alias(&rng.info)?;
    let options = rng.driver.as_ref().map(|driver| &driver.virtio);
    let mut props = address::virtio("virtio-rng", &rng.info, Virtio::new(Some(rng.model), options))?
        .with("rng", format!("obj{id}"))
        .with("id", id);
    if let Some(rate) = rng.rate.as_ref().filter(|rate| rate.bytes != 0) {
        let period = rate.period.filter(|period| *period != 0).unwrap_or(PERIOD_MS);
        props.set("max-bytes", rate.bytes).set("period", period);
    }
    address::put(cx, &rng.info, &mut props)?;
    Ok(props)
}

/// Front end of a vsock. The descriptor carries the guest's address; native conversions have none.
///
/// # Errors
/// When the descriptor was not prepared.
pub fn vsock_props(cx: Context<'_>, vsock: &Vsock) -> Result<Props> {
    let id = alias(&vsock.info)?;
    let fd = cx.res.device(id).vhost_fds.first().cloned();
    let fd = fd.or(cx.res.is_native().then_some(FdRef::Number(-1)));
    let fd = fd.ok_or_else(|| Error::internal_qemu("no vhost-vsock descriptor"))?;
    let options = vsock.driver.as_ref().map(|driver| &driver.virtio);
    let mut props = address::virtio("vhost-vsock", &vsock.info, Virtio::new(vsock.model, options))?
        .with("id", id)
        .with(
            "guest-cid",
            vsock.cid.as_ref().and_then(|cid| cid.address).unwrap_or_default(),
        )
        .with("vhostfd", fd.to_string());
    address::put(cx, &vsock.info, &mut props)?;
    Ok(props)
}

/// Front end of a crash reporter; `None` for those that are a CPU feature or part of the machine.
///
/// # Errors
/// When its bus is not there.
pub fn panic_props(cx: Context<'_>, panic: &Panic) -> Result<Option<Props>> {
    let mut props = match panic.model.unwrap_or_default() {
        PanicModel::Isa | PanicModel::Default => {
            let port = match &panic.info.address {
                Some(domxml::devices::address::Address::Isa(isa)) => isa.iobase,
                _ => None,
            };
            return Ok(Some(Props::driver("pvpanic").with_opt("ioport", port)));
        }
        PanicModel::Pvpanic => Props::driver("pvpanic-pci"),
        PanicModel::Hyperv | PanicModel::Pseries | PanicModel::S390 => return Ok(None),
    };
    address::put(cx, &panic.info, &mut props)?;
    Ok(Some(props))
}

/// Appends shared memory.
///
/// # Errors
/// When the model is gone from QEMU.
pub fn build_shmem(cx: Context<'_>, shmem: &Shmem, line: &mut CommandLine) -> Result<()> {
    let id = alias(&shmem.info)?;
    match shmem.model.unwrap_or_default() {
        ShmemModelKind::IvshmemPlain => {
            line.object(shmem_memory(shmem, id));
            let master = shmem.role.map(|role| on_off(role == ShmemRole::Master));
            let mut props = Props::driver("ivshmem-plain")
                .with("id", id)
                .with("memdev", format!("shmmem-{id}"))
                .with_opt("master", master);
            address::put(cx, &shmem.info, &mut props)?;
            line.device(props);
        }
        ShmemModelKind::IvshmemDoorbell => {
            let options = shmem.msi.clone().unwrap_or_default();
            let mut props = Props::driver("ivshmem-doorbell")
                .with("id", id)
                .with("chardev", format!("char{id}"))
                .with_opt("vectors", options.vectors.filter(|vectors| *vectors != 0))
                .with_opt("ioeventfd", options.ioeventfd.map(OnOff::is_on));
            address::put(cx, &shmem.info, &mut props)?;
            line.device(props);
            line.push("-chardev", shmem_socket(shmem, id));
        }
        ShmemModelKind::Ivshmem => {
            return Err(Error::unsupported(
                "ivshmem device is not supported with this QEMU binary",
            ));
        }
    }
    Ok(())
}

fn shmem_memory(shmem: &Shmem, id: &str) -> Props {
    const SIZE: u64 = 4 << 20;
    let size = shmem
        .size
        .as_ref()
        .and_then(|size| size::bytes(size.value, size.unit.as_deref().unwrap_or("B")));
    Props::object("memory-backend-file", format!("shmmem-{id}"))
        .with("mem-path", format!("/dev/shm/{}", shmem.name))
        .with("size", size.filter(|size| *size != 0).unwrap_or(SIZE))
        .with("share", true)
}

fn shmem_socket(shmem: &Shmem, id: &str) -> Keyval {
    let own = || format!("/var/lib/libvirt/shmem-{}-sock", shmem.name);
    let path = shmem
        .server
        .as_ref()
        .and_then(|server| server.path.clone())
        .unwrap_or_else(own);
    Keyval::implied("socket")
        .with("id", format!("char{id}"))
        .with("path", path)
}

/// Appends a crypto device.
///
/// # Errors
/// When its bus is not there.
pub fn build_crypto(cx: Context<'_>, crypto: &Crypto, line: &mut CommandLine) -> Result<()> {
    let id = alias(&crypto.info)?;
    let backend = crypto.backend.clone().unwrap_or_default();
    let kind = match backend.model {
        CryptoBackendModel::Builtin => "cryptodev-backend-builtin",
        CryptoBackendModel::Lkcf => "cryptodev-backend-lkcf",
    };
    let object = format!("obj{id}");
    line.object(
        Props::object(kind, object.clone()).with_opt("queues", backend.queues.filter(|queues| *queues != 0)),
    );
    let options = crypto.driver.as_ref().map(|driver| &driver.virtio);
    let mut props = address::virtio("virtio-crypto", &crypto.info, Virtio::options(options))?
        .with("cryptodev", object)
        .with("id", id);
    address::put(cx, &crypto.info, &mut props)?;
    line.device(props);
    Ok(())
}

/// Bytes of a store of crash records.
#[must_use]
pub fn pstore_size(pstore: &Pstore) -> Option<u64> {
    let size = pstore.size.as_ref()?;
    size::bytes(size.value, size.unit.as_deref().unwrap_or("KiB"))
}

/// Appends a store of crash records.
///
/// # Errors
/// When its bus is not there.
pub fn build_pstore(cx: Context<'_>, pstore: &Pstore, line: &mut CommandLine) -> Result<()> {
    let id = alias(&pstore.info)?;
    let size = pstore_size(pstore);
    let memdev = format!("mem{id}");
    line.object(
        Props::object("memory-backend-file", memdev.clone())
            .with("mem-path", pstore.path.clone().unwrap_or_default())
            .with("size", size.unwrap_or_default())
            .with("share", true),
    );
    let mut props = Props::driver("acpi-erst").with("id", id).with("memdev", memdev);
    address::put(cx, &pstore.info, &mut props)?;
    line.device(props);
    Ok(())
}

/// Front end of an I/O MMU; `None` when it is part of the machine.
///
/// # Errors
/// When its bus is not there.
pub fn iommu_props(cx: Context<'_>, iommu: &Iommu) -> Result<Option<Props>> {
    let driver = iommu.driver.clone().unwrap_or_default();
    let id = alias(&iommu.info)?;
    match iommu.model {
        IommuModel::Smmuv3 => Ok(None),
        IommuModel::Virtio => {
            let mut props = Props::driver("virtio-iommu").with("id", id);
            address::put(cx, &iommu.info, &mut props)?;
            Ok(Some(props))
        }
        IommuModel::Intel => Ok(Some(
            Props::driver("intel-iommu")
                .with("id", id)
                .with_opt("intremap", driver.intremap.map(OnOff::as_str))
                .with_opt("caching-mode", driver.caching_mode.map(OnOff::is_on))
                .with_opt("eim", driver.eim.map(OnOff::as_str))
                .with_opt("device-iotlb", driver.iotlb.map(OnOff::is_on))
                .with_opt("aw-bits", driver.aw_bits.filter(|bits| *bits != 0))
                .with_opt("dma-translation", driver.dma_translation.map(OnOff::is_on)),
        )),
    }
}
