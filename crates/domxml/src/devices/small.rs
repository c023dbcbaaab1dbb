//! Families of few words: `<input>`, `<hub>`, `<watchdog>`, `<memballoon>`, `<nvram>`, `<panic>`,
//! `<iommu>`, `<vsock>`, `<crypto>`, `<pstore>`, `<shmem>`.

use xmlform::Xml;

use super::common::{OnOff, Size, VirtioDriver, VirtioModel, YesNo, words};
use super::info::DeviceInfo;

words! {
    /// Kind of an input device.
    InputKind {
        Mouse "mouse", Tablet "tablet", Keyboard "keyboard", Passthrough "passthrough",
        Evdev "evdev",
    }
    /// Bus of an input device.
    InputBus {
        Ps2 "ps2", Usb "usb", Xen "xen", Parallels "parallels", Virtio "virtio", None "none",
    }
    /// Which events of a grabbed device are taken.
    InputGrab { All "all" }
    /// Keys that switch between host and guest.
    GrabToggle {
        CtrlCtrl "ctrl-ctrl", AltAlt "alt-alt", ShiftShift "shift-shift",
        MetaMeta "meta-meta", Scrolllock "scrolllock", CtrlScrolllock "ctrl-scrolllock",
    }
    /// Kind of a hub.
    HubKind { Usb "usb" }
    /// Watchdog device.
    WatchdogModel { I6300esb "i6300esb", Ib700 "ib700", Diag288 "diag288", Itco "itco" }
    /// What an expired watchdog does.
    WatchdogAction {
        Reset "reset", Shutdown "shutdown", Poweroff "poweroff", Pause "pause", None "none",
        Dump "dump", InjectNmi "inject-nmi",
    }
    /// Balloon device.
    MemballoonModel {
        Virtio "virtio", Xen "xen", None "none", VirtioTransitional "virtio-transitional",
        VirtioNonTransitional "virtio-non-transitional",
    }
    /// How a guest tells that it crashed.
    PanicModel {
        Default "default", Pseries "pseries", Isa "isa", Hyperv "hyperv", S390 "s390",
        Pvpanic "pvpanic",
    }
    /// I/O MMU of the guest.
    IommuModel { Intel "intel", Smmuv3 "smmuv3", Virtio "virtio" }
    /// Crypto device.
    CryptoModel { Virtio "virtio" }
    /// Who provides a crypto device.
    CryptoKind { Qemu "qemu" }
    /// Back end of a crypto device.
    CryptoBackendModel { Builtin "builtin", Lkcf "lkcf" }
    /// Store of crash records.
    PstoreBackend { AcpiErst "acpi-erst" }
    /// Shared memory device.
    ShmemModelKind {
        Ivshmem "ivshmem", IvshmemPlain "ivshmem-plain", IvshmemDoorbell "ivshmem-doorbell",
    }
    /// Who owns the shared memory.
    ShmemRole { Master "master", Peer "peer" }
}

/// `<input>`: a keyboard, a pointer, or a device of the host.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Input {
    #[xml(attr = "type")]
    pub kind: InputKind,
    #[xml(attr)]
    pub bus: Option<InputBus>,
    #[xml(attr)]
    pub model: Option<VirtioModel>,
    #[xml(child)]
    pub driver: Option<VirtioDriver>,
    #[xml(child)]
    pub source: Option<InputSource>,
    #[xml(flatten)]
    pub info: DeviceInfo,
}

/// `<source>` of an input device.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct InputSource {
    /// Of kind `passthrough`.
    #[xml(attr)]
    pub evdev: Option<String>,
    /// Of kind `evdev`.
    #[xml(attr)]
    pub dev: Option<String>,
    #[xml(attr)]
    pub grab: Option<InputGrab>,
    #[xml(attr = "grabToggle")]
    pub grab_toggle: Option<GrabToggle>,
    #[xml(attr)]
    pub repeat: Option<OnOff>,
}

/// `<hub>`.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Hub {
    #[xml(attr = "type")]
    pub kind: HubKind,
    #[xml(flatten)]
    pub info: DeviceInfo,
}

/// `<watchdog>`.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Watchdog {
    #[xml(attr)]
    pub model: WatchdogModel,
    #[xml(attr)]
    pub action: Option<WatchdogAction>,
    #[xml(flatten)]
    pub info: DeviceInfo,
}

/// `<memballoon>`.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Memballoon {
    #[xml(attr)]
    pub model: MemballoonModel,
    #[xml(attr)]
    pub autodeflate: Option<OnOff>,
    #[xml(attr = "freePageReporting")]
    pub free_page_reporting: Option<OnOff>,
    /// Seconds between statistics.
    #[xml(attr = "period", wrap = "stats", format = "auto", lax)]
    pub stats_period: Option<u32>,
    #[xml(flatten)]
    pub info: DeviceInfo,
    #[xml(child)]
    pub driver: Option<VirtioDriver>,
}

/// `<nvram>`: the variable store of pSeries.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Nvram {
    #[xml(flatten)]
    pub info: DeviceInfo,
}

/// `<panic>`.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Panic {
    #[xml(attr)]
    pub model: Option<PanicModel>,
    #[xml(flatten)]
    pub info: DeviceInfo,
}

/// `<iommu>`.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Iommu {
    #[xml(attr)]
    pub model: IommuModel,
    #[xml(child)]
    pub driver: Option<IommuDriver>,
    #[xml(flatten)]
    pub info: DeviceInfo,
}

/// `<driver>` of an I/O MMU.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct IommuDriver {
    #[xml(attr)]
    pub intremap: Option<OnOff>,
    #[xml(attr)]
    pub caching_mode: Option<OnOff>,
    #[xml(attr)]
    pub eim: Option<OnOff>,
    #[xml(attr)]
    pub iotlb: Option<OnOff>,
    /// Width of addresses.
    #[xml(attr)]
    pub aw_bits: Option<u32>,
    #[xml(attr)]
    pub dma_translation: Option<OnOff>,
}

/// `<vsock>`.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Vsock {
    #[xml(attr, lax)]
    pub model: Option<VirtioModel>,
    #[xml(child)]
    pub cid: Option<VsockCid>,
    #[xml(flatten)]
    pub info: DeviceInfo,
    #[xml(child)]
    pub driver: Option<VirtioDriver>,
}

/// `<cid>`: the guest's address on the socket family.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct VsockCid {
    #[xml(attr)]
    pub auto: Option<YesNo>,
    /// From 3.
    #[xml(attr)]
    pub address: Option<u32>,
}

/// `<crypto>`.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Crypto {
    #[xml(attr)]
    pub model: CryptoModel,
    #[xml(attr = "type")]
    pub kind: CryptoKind,
    #[xml(child)]
    pub backend: Option<CryptoBackend>,
    #[xml(child)]
    pub driver: Option<VirtioDriver>,
    #[xml(flatten)]
    pub info: DeviceInfo,
}

/// `<backend>` of a crypto device.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct CryptoBackend {
    #[xml(attr)]
    pub model: CryptoBackendModel,
    #[xml(attr)]
    pub queues: Option<u32>,
}

/// `<pstore>`.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Pstore {
    #[xml(attr)]
    pub backend: PstoreBackend,
    /// File of the records.
    #[xml(text_child)]
    pub path: Option<String>,
    #[xml(child, blank)]
    pub size: Option<Size>,
    #[xml(flatten)]
    pub info: DeviceInfo,
}

/// `<shmem>`.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Shmem {
    #[xml(attr)]
    pub name: String,
    #[xml(attr)]
    pub role: Option<ShmemRole>,
    #[xml(attr = "type", wrap = "model")]
    pub model: Option<ShmemModelKind>,
    #[xml(child, blank)]
    pub size: Option<Size>,
    #[xml(child, keep_empty)]
    pub server: Option<ShmemServer>,
    #[xml(child)]
    pub msi: Option<ShmemMsi>,
    #[xml(flatten)]
    pub info: DeviceInfo,
}

/// Server that hands out the memory.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct ShmemServer {
    #[xml(attr)]
    pub path: Option<String>,
}

/// Interrupts of shared memory.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct ShmemMsi {
    #[xml(attr, format = "auto")]
    pub vectors: Option<u32>,
    #[xml(attr)]
    pub ioeventfd: Option<OnOff>,
}
