//! Devices with few rules each.

use domxml::devices::chardev::ChardevMode;
use domxml::devices::{
    AccessMode, Address, Crypto, CryptoBackendModel, Filesystem, FilesystemDriverKind, FilesystemKind, Hub,
    Input, InputBus, InputKind, Iommu, IommuDriver, IommuModel, Memballoon, MemballoonModel, Multidevs,
    Nvram, Pstore, Redirdev, Rng, RngBackendModel, Shmem, ShmemModelKind, Smartcard, SmartcardMode, Tpm,
    TpmBackend, TpmBackendKind, TpmModel, TpmSourceKind, TpmVersion, VirtioModel, Vsock, Watchdog,
    WatchdogModel,
};

use super::super::Guest;
use super::super::rule::rules;
use crate::caps::Flag;
use crate::facts::{MachineKind, size};

rules! {
    /// Input devices, any hypervisor.
    INPUT_GENERIC(guest, input: Input) {
        internal "ps2 bus does not support {} input device" (input.kind.as_str())
            if input.bus == Some(InputBus::Ps2)
                && !matches!(input.kind, InputKind::Mouse | InputKind::Keyboard);
        internal "unsupported input bus {}" (input.bus.map_or("", |b| b.as_str()))
            if matches!(input.bus, Some(InputBus::Xen | InputBus::Parallels)) && input.kind != InputKind::Evdev;
        conflicting "only bus 'virtio' is supported for 'passthrough' input devices"
            if input.kind == InputKind::Passthrough && input.bus != Some(InputBus::Virtio);
        conflicting "input evdev doesn't support bus element"
            if input.kind == InputKind::Evdev && input.bus.is_some_and(|b| b != InputBus::None);
        conflicting "only bus 'virtio' is supported for input model '{}'"
            (input.model.map_or("", |m| m.as_str()))
            if input.model.is_some() && input.bus != Some(InputBus::Virtio);
        conflicting "ps2 bus inputs require the ps2 feature not to be disabled"
            if input.bus == Some(InputBus::Ps2) && guest.ps2_is_off();
    }
}

rules! {
    /// Input devices of QEMU.
    INPUT(guest, input: Input) {
        unsupported "ps2 is not supported by this QEMU binary"
            if input.bus == Some(InputBus::Ps2) && !guest.caps.has(Flag::I8042);
        unsupported "usb keyboard is not supported by this QEMU binary"
            if input.kind == InputKind::Keyboard && input.bus == Some(InputBus::Usb)
                && !guest.caps.has(Flag::UsbKbd);
        unsupported "virtio (non-)transitional models are not supported for input type={}"
            (input.kind.as_str())
            if input.bus == Some(InputBus::Virtio)
                && input.model.is_some_and(|m| m != VirtioModel::Virtio);
        unsupported "{} is not supported by this QEMU binary" (virtio_input(input).1)
            if input.bus == Some(InputBus::Virtio) && !guest.caps.has(virtio_input(input).0);
    }
}

fn virtio_input(input: &Input) -> (Flag, &'static str) {
    match input.kind {
        InputKind::Mouse => (Flag::VirtioMouse, "virtio-mouse"),
        InputKind::Tablet => (Flag::VirtioTablet, "virtio-tablet"),
        InputKind::Keyboard => (Flag::VirtioKeyboard, "virtio-keyboard"),
        InputKind::Passthrough => (Flag::VirtioInputHost, "virtio-input-host"),
        InputKind::Evdev => (Flag::InputLinux, "input-linux"),
    }
}

rules! {
    /// Shared memory, any hypervisor: the name is a file's.
    SHMEM_GENERIC(guest, shmem: Shmem) {
        conflicting "shmem name cannot include '/' character" if shmem.name.contains('/');
        conflicting "shmem name cannot be equal to '{}'" (shmem.name)
            if matches!(shmem.name.as_str(), "." | "..");
    }
}

rules! {
    /// Shared memory of QEMU.
    SHMEM(guest, shmem: Shmem) {
        xml_qemu "shmem size must be a power of 2 and at least 1 MiB (1024 KiB)"
            if shmem_size(shmem).is_some_and(|s| s < 1 << 20 || !s.is_power_of_two());
        unsupported "ivshmem device is no longer supported"
            if matches!(shmem.model, None | Some(ShmemModelKind::Ivshmem));
        unsupported "shmem model '{}' is not supported by this QEMU binary"
            (ShmemModelKind::IvshmemPlain.as_str())
            if shmem.model == Some(ShmemModelKind::IvshmemPlain) && !guest.caps.has(Flag::IvshmemPlain);
        unsupported "shmem model '{}' is not supported by this QEMU binary"
            (ShmemModelKind::IvshmemDoorbell.as_str())
            if shmem.model == Some(ShmemModelKind::IvshmemDoorbell) && !guest.caps.has(Flag::IvshmemDoorbell);
    }
}

rules! {
    /// Shared memory before it gets its defaults.
    SHMEM_EARLY(guest, shmem: Shmem) {
        unsupported "shmem model '{}' is supported only with server option enabled"
            (ShmemModelKind::IvshmemDoorbell.as_str())
            if shmem.model == Some(ShmemModelKind::IvshmemDoorbell) && shmem.server.is_none();
        unsupported "shmem model '{}' is supported only with server option disabled"
            (ShmemModelKind::IvshmemPlain.as_str())
            if shmem.model == Some(ShmemModelKind::IvshmemPlain) && shmem.server.is_some();
        unsupported "shmem model '{}' does not support size setting" (shmem.model.map_or("", |m| m.as_str()))
            if shmem.model == Some(ShmemModelKind::IvshmemDoorbell) && shmem.server.is_some()
                && shmem_size(shmem).is_some_and(|s| s > 0);
    }
}

fn shmem_size(shmem: &Shmem) -> Option<u64> {
    let given = shmem.size.as_ref()?;
    size::bytes(given.value, given.unit.as_deref().unwrap_or("B"))
}

rules! {
    /// Shared folders, any hypervisor.
    FILESYSTEM_GENERIC(guest, fs: Filesystem) {
        no_target "{}" (fs_source(fs)) if fs.target.as_deref().is_none_or(str::is_empty);
        conflicting "boot order is only supported for virtiofs" if fs.info.boot.is_some() && !virtiofs(fs);
        conflicting "filesystem target '{}' specified twice" (fs.target.as_deref().unwrap_or_default())
            if guest.def.devices.filesystems.iter().any(|other| {
                !std::ptr::eq(other, fs) && virtiofs(other) && other.target == fs.target
            });
    }
}

rules! {
    /// Shared folders of QEMU.
    FILESYSTEM(guest, fs: Filesystem) {
        unsupported "only supports mount filesystem type" if fs.kind != FilesystemKind::Mount;
        unsupported "filesystem usage limits are not supported with QEMU"
            if [&fs.space_hard_limit, &fs.space_soft_limit].into_iter().flatten().any(|l| l.value > 0);
        unsupported "multidevs is not supported with this QEMU binary"
            if multidevs(fs) && !guest.caps.has(Flag::FsdevMultidevs);
        unsupported "fmode and dmode must be used with accessmode=mapped"
            if (fs.fmode.is_some() || fs.dmode.is_some()) && fs.accessmode != Some(AccessMode::Mapped);
        unsupported "only supports passthrough accessmode"
            if fs_driver(fs) == Some(FilesystemDriverKind::Handle) && fs.accessmode != Some(AccessMode::Passthrough);
        unsupported "Filesystem driver type not supported" if matches!(
            fs_driver(fs), Some(FilesystemDriverKind::Loop | FilesystemDriverKind::Nbd | FilesystemDriverKind::Ploop));
        unsupported "virtiofs only supports passthrough accessmode"
            if virtiofs(fs) && !served(fs) && !passes(fs);
        unsupported "virtiofs does not support wrpolicy"
            if virtiofs(fs) && !served(fs) && fs.driver.as_ref().is_some_and(|d| d.wrpolicy.is_some());
        unsupported "virtiofs does not support model" if virtiofs(fs) && fs.model.is_some();
        unsupported "virtiofs does not support format"
            if virtiofs(fs) && fs.driver.as_ref().is_some_and(|d| d.format.is_some());
        unsupported "virtiofs is not supported with this QEMU binary"
            if virtiofs(fs) && !guest.caps.has(Flag::VhostUserFs);
        unsupported "virtiofs does not support multidevs" if virtiofs(fs) && multidevs(fs);
        unsupported "virtiofs does not support fmode and dmode"
            if virtiofs(fs) && (fs.fmode.is_some() || fs.dmode.is_some());
        unsupported "'virtiofs' requires shared memory" if virtiofs(fs) && !guest.shares_memory();
        unsupported "setting virtiofs boot order is not supported with this QEMU binary"
            if virtiofs(fs) && fs.info.boot.is_some() && !guest.caps.has(Flag::VhostUserFsBootindex);
        unsupported "setting virtiofs boot order is supported only with PCI bus"
            if virtiofs(fs) && fs.info.boot.is_some()
                && fs.info.address.as_ref().is_some_and(|a| !matches!(a, Address::Pci(_)));
        unsupported "mtp is not supported with this QEMU binary"
            if fs_driver(fs) == Some(FilesystemDriverKind::Mtp) && !guest.caps.has(Flag::UsbMtp);
        unsupported "mtp only supports passthrough accessmode"
            if fs_driver(fs) == Some(FilesystemDriverKind::Mtp) && fs.accessmode != Some(AccessMode::Passthrough);
    }
}

fn fs_driver(fs: &Filesystem) -> Option<FilesystemDriverKind> {
    fs.driver.as_ref()?.kind
}

fn virtiofs(fs: &Filesystem) -> bool {
    fs_driver(fs) == Some(FilesystemDriverKind::Virtiofs)
}

/// Whether somebody else serves the folder.
fn served(fs: &Filesystem) -> bool {
    fs.source.as_ref().is_some_and(|s| s.socket.is_some())
}

fn passes(fs: &Filesystem) -> bool {
    matches!(fs.accessmode, None | Some(AccessMode::Passthrough))
}

fn multidevs(fs: &Filesystem) -> bool {
    fs.multidevs.is_some_and(|m| m != Multidevs::Default)
}

fn fs_source(fs: &Filesystem) -> &str {
    let names = fs.source.as_ref().map(|s| [&s.dir, &s.socket]);
    let first = names.and_then(|names| names.into_iter().find_map(|name| name.as_deref()));
    first.unwrap_or_default()
}

rules! {
    /// I/O MMUs, any hypervisor.
    IOMMU_GENERIC(guest, iommu: Iommu) {
        xml "iommu model '{}' doesn't support additional attributes" (iommu.model.as_str())
            if iommu.model != IommuModel::Intel && iommu.driver.as_ref().is_some_and(has_options);
        xml "iommu model '{}' can't have address" (iommu.model.as_str())
            if iommu.model != IommuModel::Virtio && iommu.info.address.is_some();
    }
}

rules! {
    /// I/O MMUs of QEMU.
    IOMMU(guest, iommu: Iommu) {
        unsupported "IOMMU device: '{}' is only supported with Q35 machines" (iommu.model.as_str())
            if iommu.model == IommuModel::Intel && guest.machine != MachineKind::Q35;
        unsupported "IOMMU device: '{}' is not supported with this QEMU binary" (iommu.model.as_str())
            if iommu.model == IommuModel::Intel && !guest.caps.has(Flag::IntelIommu);
        unsupported "IOMMU device: '{}' is only supported with ARM Virt machines" (iommu.model.as_str())
            if iommu.model == IommuModel::Smmuv3 && !guest.is_arm_virt();
        unsupported "IOMMU device: '{}' is not supported with this QEMU binary" (iommu.model.as_str())
            if iommu.model == IommuModel::Smmuv3 && !guest.caps.has(Flag::MachineVirtIommu);
        unsupported "IOMMU device: '{}' is only supported with Q35 and ARM Virt machines"
            (iommu.model.as_str())
            if iommu.model == IommuModel::Virtio && guest.machine != MachineKind::Q35 && !guest.is_arm_virt();
        unsupported "IOMMU device: '{}' is not supported with this QEMU binary" (iommu.model.as_str())
            if iommu.model == IommuModel::Virtio
                && !(guest.caps.has(Flag::VirtioIommuPci) && guest.caps.has(Flag::VirtioIommuBootBypass));
        unsupported "IOMMU device: '{}' requires ACPI" (iommu.model.as_str())
            if iommu.model == IommuModel::Virtio && !guest.def.features.as_ref().is_some_and(|f| f.acpi);
        unsupported "IOMMU device: '{}' needs a PCI address" (iommu.model.as_str())
            if iommu.model == IommuModel::Virtio
                && iommu.info.address.as_ref().is_some_and(|a| !matches!(a, Address::Pci(_)));
        unsupported "iommu: {} with this QEMU binary" (lacking(guest, iommu).unwrap_or_default())
            if lacking(guest, iommu).is_some();
    }
}

fn has_options(driver: &IommuDriver) -> bool {
    IOMMU_OPTIONS.iter().any(|(is, ..)| is(driver))
}

/// Whether an option is given, what it needs of QEMU, and how its lack is told.
type IommuOption = (fn(&IommuDriver) -> bool, Flag, &'static str);

// table
const IOMMU_OPTIONS: &[IommuOption] = &[
    (
        |d| d.intremap.is_some(),
        Flag::IntelIommuIntremap,
        "interrupt remapping is not supported",
    ),
    (
        |d| d.caching_mode.is_some(),
        Flag::IntelIommuCachingMode,
        "caching mode is not supported",
    ),
    (|d| d.eim.is_some(), Flag::IntelIommuEim, "eim is not supported"),
    (
        |d| d.iotlb.is_some(),
        Flag::IntelIommuDeviceIotlb,
        "device IOTLB is not supported",
    ),
    (
        |d| d.aw_bits.is_some_and(|b| b > 0),
        Flag::IntelIommuAwBits,
        "aw_bits is not supported",
    ),
    (
        |d| d.dma_translation.is_some(),
        Flag::IntelIommuDmaTranslation,
        "updating dma translation is not supported",
    ),
];

fn lacking(guest: &Guest<'_>, iommu: &Iommu) -> Option<&'static str> {
    let driver = iommu.driver.as_ref()?;
    let lacks = |(is, flag, _): &&IommuOption| is(driver) && !guest.caps.has(*flag);
    IOMMU_OPTIONS.iter().find(lacks).map(|(.., why)| *why)
}

rules! {
    /// TPMs, any hypervisor.
    TPM_GENERIC(guest, tpm: Tpm) {
        xml "<active_pcr_banks/> requires TPM version '2.0'"
            if emulated(tpm).is_some_and(|b| b.active_pcr_banks.is_some()
                && b.version != Some(TpmVersion::V2_0));
        xml "<profile/> requires TPM version '2.0'"
            if emulated(tpm).is_some_and(|b| b.profile.as_ref().is_some_and(|p| p.source.is_some())
                && b.version != Some(TpmVersion::V2_0));
        xml "only source type 'unix' is supported for external TPM device"
            if external(tpm).and_then(|b| b.source.as_ref()).is_some_and(|s| s.kind.is_some_and(|k| k != TpmSourceKind::Unix));
        xml "only 'connect' mode is supported for external TPM device"
            if external(tpm).and_then(|b| b.source.as_ref()).is_some_and(|s| s.mode == Some(ChardevMode::Bind));
        xml "missing socket path for external TPM device"
            if external(tpm).is_some_and(|b| b.source.as_ref().is_none_or(|s| s.path.is_none()));
    }
}

rules! {
    /// TPMs of QEMU.
    TPM(guest, tpm: Tpm) {
        unsupported "TPM 1.2 is not supported for model '{}'" (tpm.model.map_or("", |m| m.as_str()))
            if emulated(tpm).is_some_and(|b| b.version == Some(TpmVersion::V1_2))
                && tpm.model != Some(TpmModel::TpmTis);
        unsupported "TPM 1.2 is not supported on architecture '{}'" (guest.arch())
            if emulated(tpm).is_some_and(|b| b.version == Some(TpmVersion::V1_2)) && !guest.is_x86();
        unsupported "The QEMU executable {} does not support TPM backend type {}"
            (guest.emulator(), tpm.backend.as_ref().map_or("", |b| b.kind.as_str()))
            if tpm.backend.as_ref().is_some_and(|b| !guest.caps.has(tpm_flag(b)));
        unsupported "TPM Proxy model {} requires 'Passthrough' backend" (TpmModel::SpaprTpmProxy.as_str())
            if tpm.model == Some(TpmModel::SpaprTpmProxy)
                && tpm.backend.as_ref().is_none_or(|b| b.kind != TpmBackendKind::Passthrough);
        unsupported "The QEMU executable {} does not support TPM model {}"
            (guest.emulator(), tpm.model.map_or("", |m| m.as_str()))
            if tpm.model.is_some_and(|m| !guest.caps.has(match m {
                TpmModel::TpmTis => Flag::TpmTis,
                TpmModel::TpmCrb => Flag::TpmCrb,
                TpmModel::TpmSpapr => Flag::TpmSpapr,
                TpmModel::SpaprTpmProxy => Flag::SpaprTpmProxy,
            }));
    }
}

fn emulated(tpm: &Tpm) -> Option<&TpmBackend> {
    tpm.backend
        .as_ref()
        .filter(|b| b.kind == TpmBackendKind::Emulator)
}

fn external(tpm: &Tpm) -> Option<&TpmBackend> {
    tpm.backend
        .as_ref()
        .filter(|b| b.kind == TpmBackendKind::External)
}

/// What a backend needs of QEMU.
fn tpm_flag(backend: &TpmBackend) -> Flag {
    match backend.kind {
        TpmBackendKind::Passthrough => Flag::TpmPassthrough,
        TpmBackendKind::Emulator | TpmBackendKind::External => Flag::TpmEmulator,
    }
}

rules! {
    /// Where a crash is kept, any hypervisor.
    PSTORE_GENERIC(guest, pstore: Pstore) {
        xml "invalid size of ACPI ERST pstore device"
            if pstore_kib(pstore).is_none_or(|kib| kib < 4 || !kib.is_power_of_two());
    }
}

rules! {
    /// Where a crash is kept, in QEMU.
    PSTORE(guest, pstore: Pstore) {
        unsupported "acpi-erst backend of pstore device is not supported" if !guest.caps.has(Flag::AcpiErst);
        unsupported "ACPI ERST device must reside on a PCI bus"
            if pstore.info.address.as_ref().is_some_and(|a| !matches!(a, Address::Pci(_)));
    }
}

fn pstore_kib(pstore: &Pstore) -> Option<u64> {
    let given = pstore.size.as_ref()?;
    size::kib(given.value, given.unit.as_deref().unwrap_or("KiB"))
}

rules! {
    /// Numbers of a guest on the host's socket bus.
    VSOCK_GENERIC(guest, vsock: Vsock) {
        conflicting "guest CIDs must be >= 3"
            if vsock.cid.as_ref().and_then(|c| c.address).is_some_and(|a| a == 1 || a == 2);
    }
}

rules! {
    /// The socket bus of QEMU.
    VSOCK(guest, vsock: Vsock) {
        unsupported "vsock device is not supported with this QEMU binary"
            if !guest.caps.has(Flag::VhostVsock);
    }
}

rules! {
    /// Readers of smart cards, any hypervisor.
    SMARTCARD_GENERIC(guest, card: Smartcard) {
        conflicting "Controllers must use the 'ccid' address type"
            if card.info.address.as_ref().is_some_and(|a| !matches!(a, Address::Ccid(_)));
    }
}

rules! {
    /// Readers of smart cards of QEMU: there is one.
    SMARTCARD(guest, card: Smartcard) {
        unsupported "this QEMU binary lacks multiple smartcard support"
            if guest.def.devices.smartcards.len() > 1
                || !matches!(&card.info.address, Some(Address::Ccid(a)) if a.controller == 0 && a.slot == 0);
        unsupported "this QEMU binary lacks smartcard host mode support"
            if matches!(card.mode, SmartcardMode::Host | SmartcardMode::HostCertificates)
                && !guest.caps.has(Flag::CcidEmulated);
        unsupported "this QEMU binary lacks smartcard passthrough mode support"
            if card.mode == SmartcardMode::Passthrough && !guest.caps.has(Flag::CcidPassthru);
    }
}

rules! {
    /// Watchdogs.
    WATCHDOG(guest, watchdog: Watchdog) {
        unsupported "watchdogs with different actions are not supported with this QEMU binary"
            if guest.def.devices.watchdogs.first()
                .is_some_and(|first| first.action.unwrap_or_default() != watchdog.action.unwrap_or_default());
        unsupported "{} model of watchdog can go only on PCI bus" (watchdog.model.as_str())
            if watchdog.model == WatchdogModel::I6300esb
                && watchdog.info.address.as_ref().is_some_and(|a| !matches!(a, Address::Pci(_)));
        unsupported "{} model of watchdog cannot be used with this machine type" (watchdog.model.as_str())
            if watchdog.model == WatchdogModel::Ib700 && guest.machine != MachineKind::I440fx;
        unsupported "{} model of watchdog does not support configuring the address" (watchdog.model.as_str())
            if watchdog.model == WatchdogModel::Ib700 && watchdog.info.address.is_some();
        unsupported "{} model of watchdog is virtual and cannot go on any bus." (watchdog.model.as_str())
            if watchdog.model == WatchdogModel::Diag288 && watchdog.info.address.is_some();
        unsupported "{} model of watchdog is allowed for s390 and s390x only" (watchdog.model.as_str())
            if watchdog.model == WatchdogModel::Diag288 && !guest.is_s390();
        unsupported "{} model of watchdog is part of the machine and cannot have any address set."
            (watchdog.model.as_str())
            if watchdog.model == WatchdogModel::Itco && watchdog.info.address.is_some();
        unsupported "{} model of watchdog is only part of q35 machine" (watchdog.model.as_str())
            if watchdog.model == WatchdogModel::Itco && guest.machine != MachineKind::Q35;
    }
}

rules! {
    /// Balloons.
    MEMBALLOON(guest, balloon: Memballoon) {
        unsupported "Memory balloon device type '{}' is not supported by this version of qemu"
            (balloon.model.as_str())
            if balloon.model == MemballoonModel::Xen;
        unsupported "deflate-on-oom is not supported by this QEMU binary"
            if balloon.autodeflate.is_some() && !guest.caps.has(Flag::VirtioBalloonPciDeflateOnOom);
        unsupported "freePageReporting is not supported by this QEMU binary"
            if balloon.free_page_reporting.is_some() && !guest.caps.has(Flag::VirtioBalloonFreePageReporting);
    }
}

rules! {
    /// Sources of randomness.
    RNG(guest, rng: Rng) {
        unsupported "this qemu doesn't support the rng-random backend"
            if from(rng, RngBackendModel::Random) && !guest.caps.has(Flag::RngRandom);
        unsupported "this qemu doesn't support the rng-egd backend"
            if from(rng, RngBackendModel::Egd) && !guest.caps.has(Flag::RngEgd);
        unsupported "this qemu doesn't support the rng-builtin backend"
            if from(rng, RngBackendModel::Builtin) && !guest.caps.has(Flag::RngBuiltin);
        unsupported "domain configuration does not support rng model '{}'" (rng.model.as_str())
            if !guest.caps.has(Flag::VirtioRng)
                || rng.model != VirtioModel::Virtio && !guest.caps.has(Flag::VirtioPciNonTransitional);
    }
}

fn from(rng: &Rng, model: RngBackendModel) -> bool {
    rng.backend.as_ref().is_some_and(|b| b.model == model)
}

rules! {
    /// The firmware's memory of a pSeries machine.
    NVRAM(guest, nvram: Nvram) {
        unsupported "nvram device is not supported by this QEMU binary"
            if guest.is_pseries() && !guest.caps.has(Flag::Nvram);
        unsupported "nvram device is only supported for PPC64" if !guest.is_pseries();
        xml_qemu "nvram address type must be spaprvio"
            if !matches!(&nvram.info.address, Some(Address::SpaprVio(a)) if a.reg.is_some());
    }
}

rules! {
    /// Hubs.
    HUB(guest, hub: Hub) {
        unsupported "usb-hub not supported by QEMU binary" if !guest.caps.has(Flag::UsbHub);
    }
}

rules! {
    /// Redirected devices.
    REDIRDEV(guest, device: Redirdev) {
        unsupported "USB redirection is not supported by this version of QEMU"
            if !guest.caps.has(Flag::UsbRedir);
        unsupported "USB redirection filter is not supported by this version of QEMU"
            if guest.def.devices.redirfilter.is_some() && !guest.caps.has(Flag::UsbRedirFilter);
    }
}

rules! {
    /// Cryptography.
    CRYPTO(guest, crypto: Crypto) {
        unsupported "crypto model {} is not supported" (crypto.model.as_str())
            if !guest.caps.has(Flag::VirtioCrypto);
        unsupported "crypto backend {} is not supported" (CryptoBackendModel::Lkcf.as_str())
            if crypto.backend.as_ref().is_some_and(|b| b.model == CryptoBackendModel::Lkcf)
                && !guest.caps.has(Flag::CryptodevBackendLkcf);
    }
}
