//! Devices, one after the other in libvirt's order; of each what any hypervisor refuses, then what QEMU does.

pub(super) mod chardev;
pub(super) mod controller;
mod disk;
mod graphics;
mod hostdev;
mod info;
pub(super) mod iotune;
mod memory;
mod net;
mod pci;
pub(super) mod small;
pub(super) mod source;
mod threads;
mod video;

use domxml::devices::{Console, DeviceRef, Devices, VirtioOptions};

use super::Guest;
use super::rule::check;
use crate::error::Result;
use chardev::End;

/// Checks every device.
pub(super) fn devices(guest: &Guest<'_>) -> Result<()> {
    walk(&guest.def.devices).try_for_each(|one| device(guest, one))
}

/// Checks one device of the guest.
pub(super) fn device(guest: &Guest<'_>, device: DeviceRef<'_>) -> Result<()> {
    info::generic(device)?;
    generic(guest, device)?;
    info::qemu(guest, device)?;
    qemu(guest, device)
}

/// Every device in the order in which libvirt goes through them.
fn walk(all: &Devices) -> impl Iterator<Item = DeviceRef<'_>> {
    let first = all.disks.iter().map(DeviceRef::Disk);
    let first = first.chain(all.interfaces.iter().map(DeviceRef::Interface));
    let first = first.chain(all.sounds.iter().map(DeviceRef::Sound));
    let first = first.chain(all.hostdevs.iter().map(DeviceRef::Hostdev));
    let first = first.chain(all.videos.iter().map(DeviceRef::Video));
    let first = first.chain(all.controllers.iter().map(DeviceRef::Controller));
    let first = first.chain(all.smartcards.iter().map(DeviceRef::Smartcard));
    let first = first.chain(all.serials.iter().map(DeviceRef::Serial));
    let first = first.chain(all.parallels.iter().map(DeviceRef::Parallel));
    let first = first.chain(all.channels.iter().map(DeviceRef::Channel));
    let first = first.chain(all.consoles.iter().map(DeviceRef::Console));
    let first = first.chain(all.inputs.iter().map(DeviceRef::Input));
    let first = first.chain(all.filesystems.iter().map(DeviceRef::Filesystem));
    let first = first.chain(all.watchdogs.iter().map(DeviceRef::Watchdog));
    let first = first.chain(all.memballoon.iter().map(DeviceRef::Memballoon));
    let first = first.chain(all.rngs.iter().map(DeviceRef::Rng));
    let rest = all.nvram.iter().map(DeviceRef::Nvram);
    let rest = rest.chain(all.hubs.iter().map(DeviceRef::Hub));
    let rest = rest.chain(all.shmems.iter().map(DeviceRef::Shmem));
    let rest = rest.chain(all.tpms.iter().map(DeviceRef::Tpm));
    let rest = rest.chain(all.panics.iter().map(DeviceRef::Panic));
    let rest = rest.chain(all.memories.iter().map(DeviceRef::Memory));
    let rest = rest.chain(all.redirdevs.iter().map(DeviceRef::Redirdev));
    let rest = rest.chain(all.iommu.iter().map(DeviceRef::Iommu));
    let rest = rest.chain(all.vsock.iter().map(DeviceRef::Vsock));
    let rest = rest.chain(all.cryptos.iter().map(DeviceRef::Crypto));
    let rest = rest.chain(all.pstore.iter().map(DeviceRef::Pstore));
    let rest = rest.chain(all.graphics.iter().map(DeviceRef::Graphics));
    let rest = rest.chain(all.audios.iter().map(DeviceRef::Audio));
    first.chain(rest)
}

/// What no hypervisor takes.
fn generic(guest: &Guest<'_>, device: DeviceRef<'_>) -> Result<()> {
    match device {
        DeviceRef::Disk(d) => disk::generic(guest, d),
        DeviceRef::Interface(d) => net::generic(guest, d),
        DeviceRef::Sound(d) => graphics::sound_generic(guest, d),
        DeviceRef::Hostdev(d) => hostdev::generic(guest, d),
        DeviceRef::Video(d) => video::generic(guest, d),
        DeviceRef::Controller(d) => controller::generic(guest, d),
        DeviceRef::Smartcard(d) => {
            check(small::SMARTCARD_GENERIC, guest, d)?;
            chardev::of_card(d).map_or(Ok(()), |end| chardev::generic(guest, &end))
        }
        DeviceRef::Serial(d) => chardev::generic(guest, &End::from(&d.chardev)),
        DeviceRef::Parallel(d) => chardev::generic(guest, &End::from(&d.chardev)),
        DeviceRef::Channel(d) => chardev::generic(guest, &End::from(d)),
        DeviceRef::Console(d) if is_mirror(guest, d) => Ok(()),
        DeviceRef::Console(d) => chardev::generic(guest, &End::from(&d.chardev)),
        DeviceRef::Input(d) => check(small::INPUT_GENERIC, guest, d),
        DeviceRef::Filesystem(d) => check(small::FILESYSTEM_GENERIC, guest, d),
        DeviceRef::Rng(d) => chardev::of_rng(d).map_or(Ok(()), |end| chardev::generic(guest, &end)),
        DeviceRef::Shmem(d) => check(small::SHMEM_GENERIC, guest, d),
        DeviceRef::Tpm(d) => check(small::TPM_GENERIC, guest, d),
        DeviceRef::Memory(d) => memory::generic(guest, d),
        DeviceRef::Redirdev(d) => chardev::redirected(guest, d),
        DeviceRef::Iommu(d) => check(small::IOMMU_GENERIC, guest, d),
        DeviceRef::Vsock(d) => check(small::VSOCK_GENERIC, guest, d),
        DeviceRef::Pstore(d) => check(small::PSTORE_GENERIC, guest, d),
        DeviceRef::Graphics(d) => graphics::generic(guest, d),
        DeviceRef::Audio(d) => graphics::audio_generic(guest, d),
        DeviceRef::Watchdog(_)
        | DeviceRef::Memballoon(_)
        | DeviceRef::Nvram(_)
        | DeviceRef::Hub(_)
        | DeviceRef::Panic(_)
        | DeviceRef::Crypto(_)
        | DeviceRef::Redirfilter(_)
        | DeviceRef::Lease(_) => Ok(()),
    }
}

/// What QEMU does not take.
fn qemu(guest: &Guest<'_>, device: DeviceRef<'_>) -> Result<()> {
    match device {
        DeviceRef::Disk(d) => disk::qemu(guest, d),
        DeviceRef::Interface(d) => net::qemu(guest, d),
        DeviceRef::Sound(d) => graphics::sound_qemu(guest, d),
        DeviceRef::Hostdev(d) => hostdev::qemu(guest, d),
        DeviceRef::Video(d) => video::qemu(guest, d),
        DeviceRef::Controller(d) => controller::qemu(guest, d),
        DeviceRef::Smartcard(d) => {
            check(small::SMARTCARD, guest, d)?;
            chardev::of_card(d).map_or(Ok(()), |end| chardev::qemu(guest, &end))
        }
        DeviceRef::Serial(d) => chardev::serial(guest, d),
        DeviceRef::Parallel(d) => chardev::parallel(guest, d),
        DeviceRef::Channel(d) => chardev::qemu(guest, &End::from(d)),
        DeviceRef::Console(d) if is_mirror(guest, d) => Ok(()),
        DeviceRef::Console(d) => chardev::qemu(guest, &End::from(&d.chardev)),
        DeviceRef::Input(d) => check(small::INPUT, guest, d),
        DeviceRef::Filesystem(d) => check(small::FILESYSTEM, guest, d),
        DeviceRef::Watchdog(d) => check(small::WATCHDOG, guest, d),
        DeviceRef::Memballoon(d) => check(small::MEMBALLOON, guest, d),
        DeviceRef::Rng(d) => {
            check(small::RNG, guest, d)?;
            chardev::of_rng(d).map_or(Ok(()), |end| chardev::qemu(guest, &end))
        }
        DeviceRef::Nvram(d) => check(small::NVRAM, guest, d),
        DeviceRef::Hub(d) => check(small::HUB, guest, d),
        DeviceRef::Shmem(d) => check(small::SHMEM, guest, d),
        DeviceRef::Tpm(d) => check(small::TPM, guest, d),
        DeviceRef::Memory(d) => memory::qemu(guest, d),
        DeviceRef::Redirdev(d) => {
            check(small::REDIRDEV, guest, d)?;
            chardev::qemu(guest, &End::from(&d.chardev))
        }
        DeviceRef::Iommu(d) => check(small::IOMMU, guest, d),
        DeviceRef::Vsock(d) => check(small::VSOCK, guest, d),
        DeviceRef::Crypto(d) => check(small::CRYPTO, guest, d),
        DeviceRef::Pstore(d) => check(small::PSTORE, guest, d),
        DeviceRef::Graphics(d) => graphics::qemu(guest, d),
        DeviceRef::Audio(d) => graphics::audio_qemu(guest, d),
        // The document as a whole is asked about panics; leases and filters have no rules.
        DeviceRef::Panic(_) | DeviceRef::Redirfilter(_) | DeviceRef::Lease(_) => Ok(()),
    }
}

/// Whether a console is the first serial port by another name.
fn is_mirror(guest: &Guest<'_>, console: &Console) -> bool {
    let devices = &guest.def.devices;
    let serial = devices.serials.first().map(|s| &s.chardev);
    devices
        .consoles
        .first()
        .is_some_and(|first| std::ptr::eq(first, console))
        && serial == Some(&console.chardev)
}

/// Whether an option is given that only virtio devices have.
fn has_virtio_options(options: Option<&VirtioOptions>) -> bool {
    !virtio_option(options).is_empty()
}

/// The first such option, as messages name it; empty for none.
fn virtio_option(options: Option<&VirtioOptions>) -> &'static str {
    let Some(options) = options else { return "" };
    let names = [
        ("iommu driver option", options.iommu),
        ("ats driver option", options.ats),
        ("packed driver option", options.packed),
        ("page_per_vq option", options.page_per_vq),
    ];
    names
        .iter()
        .find(|(_, given)| given.is_some())
        .map_or("", |(name, _)| name)
}
