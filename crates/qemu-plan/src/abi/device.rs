//! What a guest sees of its devices.

use domxml::devices::common::{Size, VirtioOptions};
use domxml::devices::{
    Address, Channel, Console, Controller, DeviceInfo, Devices, Disk, Filesystem, Hostdev, Hub, Input,
    Interface, Iommu, Memballoon, Memory, Panic, Parallel, Pstore, RedirRule, Redirdev, Rng, Serial, Shmem,
    Smartcard, Sound, Tpm, Video, Vsock, Watchdog,
};

use super::row::{Row, compare, counts, show};
use crate::facts::size;
use crate::{Error, Result};

/// Compares all of one family: how many there are, and then each with its like.
fn family<T>(what: &str, (new, old): (&[T], &[T]), one: fn(&T, &T) -> Result<()>) -> Result<()> {
    counts(what, new.len(), old.len())?;
    new.iter().zip(old).try_for_each(|(new, old)| one(new, old))
}

/// The devices, family by family in libvirt's order.
pub(super) fn check(new: &Devices, old: &Devices) -> Result<()> {
    family("disk", (&new.disks, &old.disks), disk)?;
    family("controller", (&new.controllers, &old.controllers), controller)?;
    family("filesystem", (&new.filesystems, &old.filesystems), filesystem)?;
    family("net card", (&new.interfaces, &old.interfaces), interface)?;
    family("input device", (&new.inputs, &old.inputs), input)?;
    family("sound card", (&new.sounds, &old.sounds), sound)?;
    family("video card", (&new.videos, &old.videos), video)?;
    family("host device", (&new.hostdevs, &old.hostdevs), hostdev)?;
    family("smartcard", (&new.smartcards, &old.smartcards), smartcard)?;
    family("serial port", (&new.serials, &old.serials), serial)?;
    family("parallel port", (&new.parallels, &old.parallels), parallel)?;
    family("channel", (&new.channels, &old.channels), channel)?;
    family("console", (&new.consoles, &old.consoles), console)?;
    family("hub device", (&new.hubs, &old.hubs), hub)?;
    family("redirected devices", (&new.redirdevs, &old.redirdevs), redirdev)?;
    redirfilter(new, old)?;
    family("watchdog device", (&new.watchdogs, &old.watchdogs), watchdog)?;
    optional(&new.memballoon, &old.memballoon, memballoon, |new, old| {
        counts("memory balloon", usize::from(new), usize::from(old))
    })?;
    family("RNG device", (&new.rngs, &old.rngs), rng)?;
    family("panic device", (&new.panics, &old.panics), panic)?;
    family("shared memory device", (&new.shmems, &old.shmems), shmem)?;
    family("TPM device", (&new.tpms, &old.tpms), tpm)?;
    family("memory device", (&new.memories, &old.memories), memory)?;
    let missing = |what: &'static str| {
        move |_, _| {
            Err(Error::conflicting(format!(
                "Target domain {what} device count does not match source"
            )))
        }
    };
    optional(&new.iommu, &old.iommu, iommu, missing("IOMMU"))?;
    optional(&new.vsock, &old.vsock, vsock, missing("vsock"))?;
    optional(&new.pstore, &old.pstore, pstore, missing("pstore"))
}

/// Compares a device of which there is one at most.
fn optional<T>(
    new: &Option<T>,
    old: &Option<T>,
    one: fn(&T, &T) -> Result<()>,
    missing: impl FnOnce(bool, bool) -> Result<()>,
) -> Result<()> {
    match (new, old) {
        (Some(new), Some(old)) => one(new, old),
        (None, None) => Ok(()),
        (new, old) => missing(new.is_some(), old.is_some()),
    }
}

/// Where the guest finds a device.
fn info(new: &DeviceInfo, old: &DeviceInfo) -> Result<()> {
    // table
    const INFO: &[Row<DeviceInfo>] = &[
        Row("Target device address type {} does not match source {}", |i| {
            i.address
                .as_ref()
                .map_or("none", |address| address.kind().as_str())
                .to_owned()
        }),
        Row(
            "Target device PCI address {} does not match source {}",
            |i| match &i.address {
                Some(Address::Pci(a)) => {
                    format!("{:04x}:{:02x}:{:02x}.{}", a.domain, a.bus, a.slot, a.function)
                }
                _ => String::new(),
            },
        ),
        Row(
            "Target device drive address {} does not match source {}",
            |i| match &i.address {
                Some(Address::Drive(a)) => format!("{}:{}:{}", a.controller, a.bus, a.unit),
                _ => String::new(),
            },
        ),
        Row(
            "Target device virtio serial address {} does not match source {}",
            |i| match &i.address {
                Some(Address::VirtioSerial(a)) => format!("{}:{}:{}", a.controller, a.bus, a.port),
                _ => String::new(),
            },
        ),
        Row(
            "Target device ccid address {} does not match source {}",
            |i| match &i.address {
                Some(Address::Ccid(a)) => format!("{}:{}", a.controller, a.slot),
                _ => String::new(),
            },
        ),
        Row(
            "Target device isa address {} does not match source {}",
            |i| match &i.address {
                Some(Address::Isa(a)) => format!("{}:{}", a.iobase.unwrap_or(0), a.irq.unwrap_or(0)),
                _ => String::new(),
            },
        ),
        Row(
            "Target device dimm slot {} does not match source {}",
            |i| match &i.address {
                Some(Address::Dimm(a)) => a.slot.to_string(),
                _ => String::new(),
            },
        ),
        Row(
            "Target device dimm base address '{}' does not match source '{}'",
            |i| match &i.address {
                Some(Address::Dimm(a)) => format!("{:x}", a.base.unwrap_or(0)),
                _ => String::new(),
            },
        ),
        Row(
            "Target device CCW address {} does not match source {}",
            |i| match &i.address {
                Some(Address::Ccw(a)) => a
                    .place
                    .map(|p| format!("{:x}.{:x}.{:04x}", p.cssid, p.ssid, p.devno))
                    .unwrap_or_default(),
                _ => String::new(),
            },
        ),
        Row("Target ACPI index '{}' does not match source '{}'", |i| {
            i.acpi_index.unwrap_or(0).to_string()
        }),
    ];
    compare(INFO, new, old)
}

/// Options of virtio devices.
fn virtio(new: Option<&VirtioOptions>, old: Option<&VirtioOptions>) -> Result<()> {
    // table
    const VIRTIO: &[Row<VirtioOptions>] = &[
        Row(
            "Target device iommu option '{}' does not match source '{}'",
            |v| show(v.iommu.as_ref()),
        ),
        Row("Target device ats option '{}' does not match source '{}'", |v| {
            show(v.ats.as_ref())
        }),
        Row(
            "Target device packed option '{}' does not match source '{}'",
            |v| show(v.packed.as_ref()),
        ),
        Row(
            "Target device page_per_vq option '{}' does not match source '{}'",
            |v| show(v.page_per_vq.as_ref()),
        ),
    ];
    let (none, none_either) = (VirtioOptions::default(), VirtioOptions::default());
    compare(VIRTIO, new.unwrap_or(&none), old.unwrap_or(&none_either))
}

// table
const DISK: &[Row<Disk>] = &[
    Row(
        "Target disk logical_block_size {} does not match source {}",
        |d| {
            d.blockio
                .as_ref()
                .and_then(|io| io.logical_block_size)
                .unwrap_or(0)
                .to_string()
        },
    ),
    Row(
        "Target disk physical_block_size {} does not match source {}",
        |d| {
            d.blockio
                .as_ref()
                .and_then(|io| io.physical_block_size)
                .unwrap_or(0)
                .to_string()
        },
    ),
    Row(
        "Target disk discard_granularity {} does not match source {}",
        |d| {
            d.blockio
                .as_ref()
                .and_then(|io| io.discard_granularity)
                .unwrap_or(0)
                .to_string()
        },
    ),
    Row("Target disk device {} does not match source {}", |d| {
        d.device.to_string()
    }),
    Row("Target disk bus {} does not match source {}", |d| {
        show(d.target.bus.as_ref())
    }),
    Row("Target disk {} does not match source {}", |d| {
        d.target.dev.clone()
    }),
    Row("Target disk serial {} does not match source {}", |d| {
        show(d.serial.as_ref())
    }),
    Row("Target disk wwn '{}' does not match source '{}'", |d| {
        show(d.wwn.as_ref())
    }),
    Row("Target disk access mode does not match source", |d| {
        format!("{} {}", d.readonly, d.shareable)
    }),
    Row("Target disk model {} does not match source {}", |d| {
        show(d.model.as_ref())
    }),
    Row(
        "Target disk rotation rate {} RPM does not match source {} RPM",
        |d| d.target.rotation_rate.unwrap_or(0).to_string(),
    ),
    Row("Target disk queue count {} does not match source {}", |d| {
        d.driver
            .as_ref()
            .and_then(|driver| driver.queues)
            .unwrap_or(0)
            .to_string()
    }),
    Row("Target disk queue size {} does not match source {}", |d| {
        d.driver
            .as_ref()
            .and_then(|driver| driver.queue_size)
            .unwrap_or(0)
            .to_string()
    }),
];

fn disk(new: &Disk, old: &Disk) -> Result<()> {
    compare(DISK, new, old)?;
    let options = |disk: &Disk| disk.driver.as_ref().map(|driver| driver.virtio.clone());
    virtio(options(new).as_ref(), options(old).as_ref())?;
    info(&new.info, &old.info)
}

// table
const CONTROLLER: &[Row<Controller>] = &[
    Row("Target controller type {} does not match source {}", |c| {
        c.kind.to_string()
    }),
    Row("Target controller index {} does not match source {}", |c| {
        c.index.unwrap_or(0).to_string()
    }),
    Row("Target controller model {} does not match source {}", |c| {
        show(c.model.as_ref())
    }),
    Row("Target controller ports {} does not match source {}", |c| {
        c.ports.map_or(-1, i64::from).to_string()
    }),
    Row("Target controller vectors {} does not match source {}", |c| {
        c.vectors.map_or(-1, i64::from).to_string()
    }),
];

fn controller(new: &Controller, old: &Controller) -> Result<()> {
    compare(CONTROLLER, new, old)?;
    let options = |controller: &Controller| controller.driver.as_ref().map(|driver| driver.virtio.clone());
    virtio(options(new).as_ref(), options(old).as_ref())?;
    info(&new.info, &old.info)
}

// table
const FILESYSTEM: &[Row<Filesystem>] = &[
    Row(
        "Target filesystem guest target {} does not match source {}",
        |f| show(f.target.as_ref()),
    ),
    Row("Target filesystem access mode does not match source", |f| {
        f.readonly.to_string()
    }),
    Row("Target filesystem model does not match source", |f| {
        show(f.model.as_ref())
    }),
];

fn filesystem(new: &Filesystem, old: &Filesystem) -> Result<()> {
    compare(FILESYSTEM, new, old)?;
    let options = |filesystem: &Filesystem| filesystem.driver.as_ref().map(|driver| driver.virtio.clone());
    virtio(options(new).as_ref(), options(old).as_ref())?;
    info(&new.info, &old.info)
}

// table
const INTERFACE: &[Row<Interface>] = &[
    Row("Target network card mac {} does not match source {}", |i| {
        i.mac
            .as_ref()
            .map(|mac| mac.address.to_lowercase())
            .unwrap_or_default()
    }),
    Row("Target network card model {} does not match source {}", |i| {
        show(i.model.as_ref())
    }),
    Row("Target network card MTU {} does not match source {}", |i| {
        i.mtu.unwrap_or(0).to_string()
    }),
];

fn interface(new: &Interface, old: &Interface) -> Result<()> {
    compare(INTERFACE, new, old)?;
    let options = |interface: &Interface| interface.driver.as_ref().map(|driver| driver.virtio.clone());
    virtio(options(new).as_ref(), options(old).as_ref())?;
    info(&new.info, &old.info)
}

// table
const INPUT: &[Row<Input>] = &[
    Row("Target input device type {} does not match source {}", |i| {
        i.kind.to_string()
    }),
    Row("Target input device bus {} does not match source {}", |i| {
        show(i.bus.as_ref())
    }),
    Row("Target input model {} does not match source {}", |i| {
        show(i.model.as_ref())
    }),
];

fn input(new: &Input, old: &Input) -> Result<()> {
    compare(INPUT, new, old)?;
    virtio(
        new.driver.as_ref().map(|driver| &driver.virtio),
        old.driver.as_ref().map(|driver| &driver.virtio),
    )?;
    info(&new.info, &old.info)
}

// table
const SOUND: &[Row<Sound>] = &[
    Row("Target sound card model {} does not match source {}", |s| {
        s.model.to_string()
    }),
    Row(
        "Target sound card multichannel setting '{}' does not match source '{}'",
        |s| show(s.multichannel.as_ref()),
    ),
];

fn sound(new: &Sound, old: &Sound) -> Result<()> {
    compare(SOUND, new, old)?;
    info(&new.info, &old.info)
}

/// A number of a video card.
fn number(video: &Video, of: fn(&domxml::devices::VideoModel) -> Option<u32>) -> String {
    video.model.as_ref().and_then(of).unwrap_or(0).to_string()
}

// table
const VIDEO: &[Row<Video>] = &[
    Row("Target video card model {} does not match source {}", |v| {
        show(v.model.as_ref().map(|model| &model.kind))
    }),
    Row("Target video card ram {} does not match source {}", |v| {
        number(v, |m| m.ram)
    }),
    Row("Target video card vram {} does not match source {}", |v| {
        number(v, |m| m.vram)
    }),
    Row("Target video card vram64 {} does not match source {}", |v| {
        number(v, |m| m.vram64)
    }),
    Row("Target video card vgamem {} does not match source {}", |v| {
        number(v, |m| m.vgamem)
    }),
    Row("Target video card heads {} does not match source {}", |v| {
        number(v, |m| m.heads)
    }),
    Row("Target video card acceleration does not match source", |v| {
        let model = v.model.as_ref();
        model
            .is_some_and(|model| model.acceleration.is_some())
            .to_string()
    }),
    Row("Target video card 2d accel {} does not match source {}", |v| {
        let acceleration = v.model.as_ref().and_then(|model| model.acceleration.as_ref());
        show(acceleration.and_then(|of| of.accel2d.as_ref()))
    }),
    Row("Target video card 3d accel {} does not match source {}", |v| {
        let acceleration = v.model.as_ref().and_then(|model| model.acceleration.as_ref());
        show(acceleration.and_then(|of| of.accel3d.as_ref()))
    }),
];

fn video(new: &Video, old: &Video) -> Result<()> {
    compare(VIDEO, new, old)?;
    let options = |video: &Video| video.driver.as_ref().map(|driver| driver.virtio.clone());
    virtio(options(new).as_ref(), options(old).as_ref())?;
    info(&new.info, &old.info)
}

// table
const HOSTDEV: &[Row<Hostdev>] = &[
    Row("Target host device mode {} does not match source {}", |h| {
        h.mode.to_string()
    }),
    Row(
        "Target host device subsystem type {} is not compatible with source subsystem type {}",
        |h| h.kind.to_string(),
    ),
];

fn hostdev(new: &Hostdev, old: &Hostdev) -> Result<()> {
    compare(HOSTDEV, new, old)?;
    info(&new.info, &old.info)
}

fn smartcard(new: &Smartcard, old: &Smartcard) -> Result<()> {
    info(&new.info, &old.info)
}

// table
const SERIAL: &[Row<Serial>] = &[
    Row("Target serial type {} does not match source {}", |s| {
        show(s.target.as_ref().and_then(|target| target.kind.as_ref()))
    }),
    Row("Target serial model {} does not match source {}", |s| {
        show(
            s.target
                .as_ref()
                .and_then(|target| target.model.as_ref())
                .map(|model| format!("{model:?}"))
                .as_ref(),
        )
    }),
    Row("Target serial port {} does not match source {}", |s| {
        s.target
            .as_ref()
            .and_then(|target| target.port)
            .unwrap_or(0)
            .to_string()
    }),
];

fn serial(new: &Serial, old: &Serial) -> Result<()> {
    compare(SERIAL, new, old)?;
    info(&new.info, &old.info)
}

fn parallel(new: &Parallel, old: &Parallel) -> Result<()> {
    // table
    const PARALLEL: &[Row<Parallel>] = &[Row("Target parallel port {} does not match source {}", |p| {
        p.target
            .as_ref()
            .and_then(|target| target.port)
            .unwrap_or(0)
            .to_string()
    })];
    compare(PARALLEL, new, old)?;
    info(&new.info, &old.info)
}

// table
const CHANNEL: &[Row<Channel>] = &[
    Row("Target channel type {} does not match source {}", |c| {
        show(c.target.as_ref().and_then(|target| target.kind.as_ref()))
    }),
    Row("Target channel name {} does not match source {}", |c| {
        show(c.target.as_ref().and_then(|target| target.name.as_ref()))
    }),
    Row("Target channel addr {} does not match source {}", |c| {
        show(c.target.as_ref().and_then(|target| target.address.as_ref()))
    }),
];

fn channel(new: &Channel, old: &Channel) -> Result<()> {
    compare(CHANNEL, new, old)?;
    info(&new.info, &old.info)
}

fn console(new: &Console, old: &Console) -> Result<()> {
    // table
    const CONSOLE: &[Row<Console>] = &[Row("Target console type {} does not match source {}", |c| {
        show(c.target.as_ref().and_then(|target| target.kind.as_ref()))
    })];
    compare(CONSOLE, new, old)
}

fn hub(new: &Hub, old: &Hub) -> Result<()> {
    // table
    const HUB: &[Row<Hub>] = &[Row("Target hub device type {} does not match source {}", |h| {
        h.kind.to_string()
    })];
    compare(HUB, new, old)?;
    info(&new.info, &old.info)
}

fn redirdev(new: &Redirdev, old: &Redirdev) -> Result<()> {
    // table
    const REDIRDEV: &[Row<Redirdev>] = &[
        Row("Target redirected device bus {} does not match source {}", |r| {
            r.bus.to_string()
        }),
        Row(
            "Target redirected device source type {} does not match source device source type {}",
            |r| r.chardev.kind.to_string(),
        ),
    ];
    compare(REDIRDEV, new, old)?;
    info(&new.info, &old.info)
}

fn redirfilter(new: &Devices, old: &Devices) -> Result<()> {
    // table
    const RULE: &[Row<RedirRule>] = &[
        Row("Target USB Class code does not match source", |r| {
            show(r.class.as_ref())
        }),
        Row("Target USB vendor ID does not match source", |r| {
            show(r.vendor.as_ref())
        }),
        Row("Target USB product ID does not match source", |r| {
            show(r.product.as_ref())
        }),
        Row("Target USB version does not match source", |r| {
            show(r.version.as_ref())
        }),
        Row("Target USB allow '{}' does not match source '{}'", |r| {
            r.allow.to_string()
        }),
    ];
    let one = |new: &domxml::devices::Redirfilter, old: &domxml::devices::Redirfilter| {
        let (new, old) = (&new.rules, &old.rules);
        if new.len() != old.len() {
            return Err(Error::conflicting(format!(
                "Target USB redirection filter rule count {} does not match source {}",
                new.len(),
                old.len()
            )));
        }
        new.iter()
            .zip(old)
            .try_for_each(|(new, old)| compare(RULE, new, old))
    };
    optional(&new.redirfilter, &old.redirfilter, one, |new, old| {
        counts("USB redirection filter", usize::from(new), usize::from(old))
    })
}

fn watchdog(new: &Watchdog, old: &Watchdog) -> Result<()> {
    // table
    const WATCHDOG: &[Row<Watchdog>] = &[Row("Target watchdog model {} does not match source {}", |w| {
        w.model.to_string()
    })];
    compare(WATCHDOG, new, old)?;
    info(&new.info, &old.info)
}

fn memballoon(new: &Memballoon, old: &Memballoon) -> Result<()> {
    // table
    const MEMBALLOON: &[Row<Memballoon>] = &[
        Row("Target balloon model {} does not match source {}", |b| {
            b.model.to_string()
        }),
        Row(
            "Target balloon autodeflate attribute value '{}' does not match source '{}'",
            |b| show(b.autodeflate.as_ref()),
        ),
        Row(
            "Target balloon freePageReporting attribute value '{}' does not match source '{}'",
            |b| show(b.free_page_reporting.as_ref()),
        ),
    ];
    compare(MEMBALLOON, new, old)?;
    virtio(
        new.driver.as_ref().map(|driver| &driver.virtio),
        old.driver.as_ref().map(|driver| &driver.virtio),
    )?;
    info(&new.info, &old.info)
}

fn rng(new: &Rng, old: &Rng) -> Result<()> {
    // table
    const RNG: &[Row<Rng>] = &[Row("Target RNG model '{}' does not match source '{}'", |r| {
        r.model.to_string()
    })];
    compare(RNG, new, old)?;
    virtio(
        new.driver.as_ref().map(|driver| &driver.virtio),
        old.driver.as_ref().map(|driver| &driver.virtio),
    )?;
    info(&new.info, &old.info)
}

fn panic(new: &Panic, old: &Panic) -> Result<()> {
    // table
    const PANIC: &[Row<Panic>] = &[Row("Target panic model '{}' does not match source '{}'", |p| {
        show(p.model.as_ref())
    })];
    compare(PANIC, new, old)?;
    info(&new.info, &old.info)
}

// table
const SHMEM: &[Row<Shmem>] = &[
    Row(
        "Target shared memory role '{}' does not match source role '{}'",
        |s| show(s.role.as_ref()),
    ),
    Row(
        "Target shared memory model '{}' does not match source model '{}'",
        |s| show(s.model.as_ref()),
    ),
    Row(
        "Target shared memory size '{}' does not match source size '{}'",
        |s| {
            let bytes = s
                .size
                .as_ref()
                .and_then(|size| size::bytes(size.value, size.unit.as_deref().unwrap_or("B")));
            bytes.unwrap_or(0).to_string()
        },
    ),
    Row("Target shared memory server usage doesn't match source", |s| {
        s.server.is_some().to_string()
    }),
    Row(
        "Target shared memory MSI configuration doesn't match source",
        |s| format!("{:?}", s.msi),
    ),
];

fn shmem(new: &Shmem, old: &Shmem) -> Result<()> {
    compare(SHMEM, new, old)?;
    info(&new.info, &old.info)
}

fn tpm(new: &Tpm, old: &Tpm) -> Result<()> {
    // table
    const TPM: &[Row<Tpm>] = &[
        Row("Target TPM device type doesn't match source", |t| {
            show(t.backend.as_ref().map(|backend| &backend.kind))
        }),
        Row("Target TPM device model doesn't match source", |t| {
            show(t.model.as_ref())
        }),
        Row("Target TPM version doesn't match source", |t| {
            show(t.backend.as_ref().and_then(|backend| backend.version.as_ref()))
        }),
        Row("Target active PCR banks doesn't match source", |t| {
            format!(
                "{:?}",
                t.backend.as_ref().map(|backend| &backend.active_pcr_banks)
            )
        }),
    ];
    compare(TPM, new, old)?;
    info(&new.info, &old.info)
}

/// A size of a memory module in KiB.
fn kib(size: Option<&Size>) -> String {
    let kib = size.and_then(|size| self::size::kib(size.value, size.unit.as_deref().unwrap_or("KiB")));
    kib.unwrap_or(0).to_string()
}

// table
const MODULE: &[Row<Memory>] = &[
    Row(
        "Target memory device model '{}' doesn't match source model '{}'",
        |m| m.model.to_string(),
    ),
    Row(
        "Target memory device targetNode '{}' doesn't match source targetNode '{}'",
        |m| {
            m.target
                .as_ref()
                .and_then(|target| target.node)
                .map_or(-1, i64::from)
                .to_string()
        },
    ),
    Row(
        "Target memory device size '{}' doesn't match source memory device size '{}'",
        |m| kib(m.target.as_ref().and_then(|target| target.size.as_ref())),
    ),
    Row(
        "Target NVDIMM label size '{}' doesn't match source NVDIMM label size '{}'",
        |m| {
            let label = m.target.as_ref().and_then(|target| target.label.as_ref());
            kib(label.and_then(|label| label.size.as_ref()))
        },
    ),
    Row(
        "Target NVDIMM alignment '{}' doesn't match source NVDIMM alignment '{}'",
        |m| kib(m.source.as_ref().and_then(|source| source.alignsize.as_ref())),
    ),
    Row(
        "Target NVDIMM pmem flag doesn't match source NVDIMM pmem flag",
        |m| m.source.as_ref().is_some_and(|source| source.pmem).to_string(),
    ),
    Row(
        "Target NVDIMM readonly flag doesn't match source NVDIMM readonly flag",
        |m| {
            m.target
                .as_ref()
                .is_some_and(|target| target.readonly)
                .to_string()
        },
    ),
    Row("Target NVDIMM UUID doesn't match source NVDIMM", |m| {
        show(m.uuid.as_ref())
    }),
    Row(
        "Target memory device address '0x{}' doesn't match source memory device address '0x{}'",
        |m| {
            format!(
                "{:x}",
                m.target.as_ref().and_then(|target| target.address).unwrap_or(0)
            )
        },
    ),
    Row(
        "Target memory device block size '{}' doesn't match source memory device block size '{}'",
        |m| kib(m.target.as_ref().and_then(|target| target.block.as_ref())),
    ),
    Row(
        "Target memory device requested size '{}' doesn't match source memory device requested size '{}'",
        |m| kib(m.target.as_ref().and_then(|target| target.requested.as_ref())),
    ),
    Row(
        "Target memory device 'dynamicMemslots' property doesn't match source memory device",
        |m| {
            show(
                m.target
                    .as_ref()
                    .and_then(|target| target.dynamic_memslots.as_ref()),
            )
        },
    ),
];

fn memory(new: &Memory, old: &Memory) -> Result<()> {
    compare(MODULE, new, old)?;
    info(&new.info, &old.info)
}

/// An option of an I/O MMU.
fn option(iommu: &Iommu, of: fn(&domxml::devices::IommuDriver) -> String) -> String {
    iommu.driver.as_ref().map(of).unwrap_or_default()
}

fn iommu(new: &Iommu, old: &Iommu) -> Result<()> {
    // table
    const IOMMU: &[Row<Iommu>] = &[
        Row(
            "Target domain IOMMU device model '{}' does not match source '{}'",
            |i| i.model.to_string(),
        ),
        Row(
            "Target domain IOMMU device intremap value '{}' does not match source '{}'",
            |i| option(i, |driver| show(driver.intremap.as_ref())),
        ),
        Row(
            "Target domain IOMMU device caching mode '{}' does not match source '{}'",
            |i| option(i, |driver| show(driver.caching_mode.as_ref())),
        ),
        Row(
            "Target domain IOMMU device eim value '{}' does not match source '{}'",
            |i| option(i, |driver| show(driver.eim.as_ref())),
        ),
        Row(
            "Target domain IOMMU device iotlb value '{}' does not match source '{}'",
            |i| option(i, |driver| show(driver.iotlb.as_ref())),
        ),
        Row(
            "Target domain IOMMU device aw_bits value '{}' does not match source '{}'",
            |i| option(i, |driver| driver.aw_bits.unwrap_or(0).to_string()),
        ),
        Row(
            "Target domain IOMMU device dma translation '{}' does not match source '{}'",
            |i| option(i, |driver| show(driver.dma_translation.as_ref())),
        ),
    ];
    compare(IOMMU, new, old)?;
    info(&new.info, &old.info)
}

fn vsock(new: &Vsock, old: &Vsock) -> Result<()> {
    // table
    const VSOCK: &[Row<Vsock>] = &[Row(
        "Target domain vsock device model '{}' does not match source '{}'",
        |v| show(v.model.as_ref()),
    )];
    compare(VSOCK, new, old)?;
    info(&new.info, &old.info)
}

fn pstore(new: &Pstore, old: &Pstore) -> Result<()> {
    // table
    const PSTORE: &[Row<Pstore>] = &[
        Row(
            "Target pstore device backend '{}' does not match source '{}'",
            |p| p.backend.to_string(),
        ),
        Row("Target pstore size '{}' does not match source '{}'", |p| {
            kib(p.size.as_ref())
        }),
    ];
    compare(PSTORE, new, old)?;
    info(&new.info, &old.info)
}
