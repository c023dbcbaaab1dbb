//! Capability flags: libvirt's names, and what in QEMU's replies sets each. One line a flag, in libvirt's order.

use super::rule::Rule::{self, *};

/// A set of [`Flag`]s.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct FlagSet([u64; 4]);

impl FlagSet {
    /// Whether a flag is in the set.
    pub const fn has(&self, flag: Flag) -> bool {
        let bit = flag as usize;
        self.0[bit / 64] >> (bit % 64) & 1 == 1
    }

    /// Adds a flag.
    pub const fn set(&mut self, flag: Flag) {
        let bit = flag as usize;
        self.0[bit / 64] |= 1 << (bit % 64);
    }

    /// Takes a flag out.
    pub const fn clear(&mut self, flag: Flag) {
        let bit = flag as usize;
        self.0[bit / 64] &= !(1 << (bit % 64));
    }

    /// The flags of the set, in libvirt's order.
    pub fn iter(&self) -> impl Iterator<Item = Flag> + '_ {
        Flag::ALL.iter().copied().filter(|f| self.has(*f))
    }

    /// Reads names as a status file holds them; names that are not known any more are left out.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        names.into_iter().filter_map(Flag::from_name).collect()
    }
}

impl FromIterator<Flag> for FlagSet {
    fn from_iter<I: IntoIterator<Item = Flag>>(iter: I) -> Self {
        let mut set = Self::default();
        iter.into_iter().for_each(|f| set.set(f));
        set
    }
}

impl std::fmt::Debug for FlagSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter().map(Flag::name)).finish()
    }
}

macro_rules! flags {
    ($($variant:ident $name:literal [$($rule:expr),*])*) => {
        /// One thing that a QEMU binary can or cannot do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Flag {
            $(#[doc = concat!("`", $name, "`")] $variant,)*
        }

        impl Flag {
            /// Every flag, in libvirt's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            const NAMES: &'static [&'static str] = &[$($name,)*];
        }

        /// What sets each flag: any one of its rules.
        pub(super) const RULES: &[(Flag, &[Rule])] = &[$((Flag::$variant, &[$($rule),*]),)*];
    };
}

impl Flag {
    /// Libvirt's name.
    pub fn name(self) -> &'static str {
        Self::NAMES.get(self as usize).copied().unwrap_or_default()
    }

    /// The flag of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|f| f.name() == name)
    }
}

flags! {
    Kvm "kvm" [Kvm]
    Sdl "sdl" [Schema("query-display-options/ret-type/+sdl")]
    Spice "spice" [Opt("spice")]
    HdaDuplex "hda-duplex" [Type("hda-duplex")]
    CcidEmulated "ccid-emulated" [Type("ccid-card-emulated")]
    CcidPassthru "ccid-passthru" [Type("ccid-card-passthru")]
    Piix3UsbUhci "piix3-usb-uhci" [Type("piix3-usb-uhci")]
    Piix4UsbUhci "piix4-usb-uhci" [Type("piix4-usb-uhci")]
    UsbEhci "usb-ehci" [Type("usb-ehci")]
    Ich9UsbEhci1 "ich9-usb-ehci1" [Type("ich9-usb-ehci1")]
    Vt82c686bUsbUhci "vt82c686b-usb-uhci" [Type("vt82c686b-usb-uhci")]
    PciOhci "pci-ohci" [Type("pci-ohci")]
    UsbRedir "usb-redir" [Type("usb-redir")]
    UsbHub "usb-hub" [Type("usb-hub")]
    Ich9Ahci "ich9-ahci" [Type("ich9-ahci")]
    VirtioBlkPciScsi "virtio-blk-pci.scsi" [DeviceProp("virtio-blk-pci", "scsi"), DeviceProp("virtio-blk-ccw", "scsi")]
    ScsiDiskChannel "scsi-disk.channel" [DeviceProp("scsi-hd", "channel")]
    ScsiBlock "scsi-block" [Type("scsi-block")]
    HdaMicro "hda-micro" [Type("hda-micro")]
    NecUsbXhci "nec-usb-xhci" [Type("nec-usb-xhci")]
    Lsi "lsi" [Type("lsi53c895a")]
    VirtioScsiPci "virtio-scsi-pci" [Type("virtio-scsi-pci"), Type("virtio-scsi-ccw"), Type("virtio-scsi-device")]
    UsbRedirFilter "usb-redir.filter" [DeviceProp("usb-redir", "filter")]
    SeccompSandbox "seccomp-sandbox" [Opt("sandbox")]
    Vnc "vnc" [Command("query-vnc")]
    Qxl "qxl" [Type("qxl")]
    Vga "VGA" [Type("VGA")]
    CirrusVga "cirrus-vga" [Type("cirrus-vga")]
    VmwareSvga "vmware-svga" [Type("vmware-svga")]
    S390Sclp "s390-sclp" [Type("sclpconsole")]
    UsbSerial "usb-serial" [Type("usb-serial")]
    VirtioRng "virtio-rng" [Type("virtio-rng-pci"), Type("virtio-rng-ccw"), Type("virtio-rng-device")]
    RngRandom "rng-random" [Type("rng-random")]
    RngEgd "rng-egd" [Type("rng-egd")]
    VirtioCcw "virtio-ccw" [Type("virtio-blk-ccw")]
    Megasas "megasas" [Type("megasas")]
    TpmPassthrough "tpm-passthrough" [TpmType("passthrough")]
    TpmTis "tpm-tis" [TpmModel("tpm-tis")]
    Nvram "nvram" [Type("spapr-nvram")]
    PciBridge "pci-bridge" [Type("pci-bridge")]
    VfioPci "vfio-pci" [Type("vfio-pci")]
    DmiToPciBridge "dmi-to-pci-bridge" [Type("i82801b11-bridge")]
    UsbStorage "usb-storage" [Type("usb-storage")]
    VirtioMmio "virtio-mmio" [Type("virtio-mmio")]
    Ich9IntelHda "ich9-intel-hda" [Type("ich9-intel-hda")]
    KvmPitLostTickPolicy "kvm-pit-lost-tick-policy" [DeviceProp("kvm-pit", "lost_tick_policy")]
    Pvpanic "pvpanic" [Type("pvpanic")]
    UsbKbd "usb-kbd" [Type("usb-kbd")]
    UsbAudio "usb-audio" [Type("usb-audio")]
    RtcResetReinjection "rtc-reset-reinjection" [Command("rtc-reset-reinjection")]
    MigrateRdma "migrate-rdma" [Migrate("rdma-pin-all")]
    VgaVgamemMb "VGA.vgamem_mb" [DeviceProp("VGA", "vgamem_mb")]
    VmwareSvgaVgamemMb "vmware-svga.vgamem_mb" [DeviceProp("vmware-svga", "vgamem_mb")]
    QxlVgamemMb "qxl.vgamem_mb" [DeviceProp("qxl", "vgamem_mb")]
    PcDimm "pc-dimm" [Type("pc-dimm")]
    MachineVmportOpt "machine-vmport-opt" [Type("vmport")]
    PciSerial "pci-serial" [Type("pci-serial")]
    Ioh3420 "ioh3420" [Type("ioh3420")]
    X3130Upstream "x3130-upstream" [Type("x3130-upstream")]
    Xio3130Downstream "xio3130-downstream" [Type("xio3130-downstream")]
    Rtl8139 "rtl8139" [Type("rtl8139")]
    E1000 "e1000" [Type("e1000")]
    VirtioNet "virtio-net" [Type("virtio-net-pci"), Type("virtio-net-ccw"), Type("virtio-net-device")]
    VirtioGpu "virtio-gpu" [Type("virtio-gpu-pci"), Type("virtio-gpu-device")]
    VirtioGpuVirgl "virtio-gpu.virgl" [DeviceProp("virtio-gpu-pci", "virgl"), DeviceProp("virtio-gpu-device", "virgl"), DeviceProp("virtio-gpu-ccw", "virgl")]
    VirtioKeyboard "virtio-keyboard" [Type("virtio-keyboard-device"), Type("virtio-keyboard-pci")]
    VirtioMouse "virtio-mouse" [Type("virtio-mouse-device"), Type("virtio-mouse-pci")]
    VirtioTablet "virtio-tablet" [Type("virtio-tablet-device"), Type("virtio-tablet-pci")]
    VirtioInputHost "virtio-input-host" [Type("virtio-input-host-device"), Type("virtio-input-host-pci")]
    VirtioBalloonPciDeflateOnOom "virtio-balloon-pci.deflate-on-oom" [DeviceProp("virtio-balloon-pci", "deflate-on-oom"), DeviceProp("virtio-balloon-ccw", "deflate-on-oom"), DeviceProp("virtio-balloon-device", "deflate-on-oom")]
    Mptsas1068 "mptsas1068" [Type("mptsas1068")]
    SpiceGl "spice-gl" [OptParam("spice", "gl")]
    QxlVram64SizeMb "qxl.vram64_size_mb" [DeviceProp("qxl", "vram64_size_mb")]
    Pxb "pxb" [Type("pxb")]
    PxbPcie "pxb-pcie" [Type("pxb-pcie")]
    IntelIommu "intel-iommu" [Type("intel-iommu")]
    VirtioVga "virtio-vga" [Type("virtio-vga")]
    IvshmemPlain "ivshmem-plain" [Type("ivshmem-plain")]
    IvshmemDoorbell "ivshmem-doorbell" [Type("ivshmem-doorbell")]
    VhostScsi "vhost-scsi" [Type("vhost-scsi")]
    QueryCpuModelExpansion "query-cpu-model-expansion" [Command("query-cpu-model-expansion")]
    SpiceRendernode "spice-rendernode" [OptParam("spice", "rendernode")]
    Nvdimm "nvdimm" [Type("nvdimm")]
    PcieRootPort "pcie-root-port" [Type("pcie-root-port")]
    QueryCpuDefinitions "query-cpu-definitions" [Command("query-cpu-definitions")]
    QemuXhci "qemu-xhci" [Type("qemu-xhci")]
    IntelIommuIntremap "intel-iommu.intremap" [DeviceProp("intel-iommu", "intremap")]
    IntelIommuCachingMode "intel-iommu.caching-mode" [DeviceProp("intel-iommu", "caching-mode")]
    IntelIommuEim "intel-iommu.eim" [DeviceProp("intel-iommu", "eim")]
    IntelIommuDeviceIotlb "intel-iommu.device-iotlb" [DeviceProp("intel-iommu", "device-iotlb")]
    SpaprPciHostBridge "spapr-pci-host-bridge" [Type("spapr-pci-host-bridge")]
    SpaprPciHostBridgeNumaNode "spapr-pci-host-bridge.numa_node" [DeviceProp("spapr-pci-host-bridge", "numa_node")]
    ChardevReconnect "chardev-reconnect" [Schema("chardev-add/arg-type/backend/+socket/data/reconnect")]
    Vmcoreinfo "vmcoreinfo" [Type("vmcoreinfo")]
    SpaprVty "spapr-vty" [Type("spapr-vty")]
    Sclplmconsole "sclplmconsole" [Type("sclplmconsole")]
    IsaSerial "isa-serial" [Type("isa-serial")]
    Pl011 "pl011" [Type("pl011")]
    VirtioGpuCcw "virtio-gpu-ccw" [Type("virtio-gpu-ccw")]
    VirtioKeyboardCcw "virtio-keyboard-ccw" [Type("virtio-keyboard-ccw")]
    VirtioMouseCcw "virtio-mouse-ccw" [Type("virtio-mouse-ccw")]
    VirtioTabletCcw "virtio-tablet-ccw" [Type("virtio-tablet-ccw")]
    PciePciBridge "pcie-pci-bridge" [Type("pcie-pci-bridge")]
    NbdTls "nbd-tls" [Schema("nbd-server-start/arg-type/tls-creds")]
    TpmCrb "tpm-crb" [TpmModel("tpm-crb")]
    PrManagerHelper "pr-manager-helper" [Type("pr-manager-helper")]
    VfioCcw "vfio-ccw" [Type("vfio-ccw")]
    ScreendumpDevice "screendump_device" [Schema("screendump/arg-type/device")]
    HdaOutput "hda-output" [Type("hda-output")]
    Vmgenid "vmgenid" [Type("vmgenid")]
    VhostVsock "vhost-vsock" [Type("vhost-vsock-device")]
    TpmEmulator "tpm-emulator" [TpmType("emulator")]
    Mch "mch" [Type("mch")]
    MchExtendedTsegMbytes "mch.extended-tseg-mbytes" [DeviceProp("mch", "extended-tseg-mbytes")]
    SevGuest "sev-guest" [Type("sev-guest")]
    EglHeadless "egl-headless" [Schema("query-display-options/ret-type/+egl-headless")]
    VfioAp "vfio-ap" [Type("vfio-ap")]
    Zpci "zpci" [Type("zpci")]
    MemoryBackendMemfd "memory-backend-memfd" [Type("memory-backend-memfd")]
    MemoryBackendMemfdHugetlb "memory-backend-memfd.hugetlb" [ObjectProp("memory-backend-memfd", "hugetlb")]
    EglHeadlessRendernode "egl-headless.rendernode" [Schema("query-display-options/ret-type/+egl-headless/rendernode")]
    MemoryBackendFilePmem "memory-backend-file.pmem" [ObjectProp("memory-backend-file", "pmem")]
    NvdimmUnarmed "nvdimm.unarmed" [DeviceProp("nvdimm", "unarmed")]
    VirtioPciNonTransitional "virtio-pci-non-transitional" [Type("virtio-blk-pci-transitional"), Type("virtio-blk-pci-non-transitional"), Type("virtio-net-pci-transitional"), Type("virtio-net-pci-non-transitional"), Type("vhost-scsi-pci-transitional"), Type("vhost-scsi-pci-non-transitional"), Type("virtio-rng-pci-transitional"), Type("virtio-rng-pci-non-transitional"), Type("virtio-9p-pci-transitional"), Type("virtio-9p-pci-non-transitional"), Type("virtio-balloon-pci-transitional"), Type("virtio-balloon-pci-non-transitional"), Type("vhost-vsock-pci-transitional"), Type("vhost-vsock-pci-non-transitional"), Type("virtio-scsi-pci-transitional"), Type("virtio-scsi-pci-non-transitional"), Type("virtio-serial-pci-transitional"), Type("virtio-serial-pci-non-transitional")]
    MachineVirtIommu "machine.virt.iommu" [MachineProp("virt", "iommu")]
    X86MaxCpu "x86-max-cpu" [Type("max-x86_64-cpu")]
    CpuUnavailableFeatures "cpu-unavailable-features" [ObjectProp("max-x86_64-cpu", "unavailable-features"), ObjectProp("max-arm-cpu", "unavailable-features")]
    CanonicalCpuFeatures "canonical-cpu-features" [Implied(Flag::CpuUnavailableFeatures)]
    BochsDisplay "bochs-display" [Type("bochs-display")]
    MigrationFileDropCache "migration-file-drop-cache" [Schema("blockdev-add/arg-type/+file/drop-cache")]
    DbusVmstate "dbus-vmstate" [Type("dbus-vmstate")]
    VhostUserGpu "vhost-user-gpu" [Type("vhost-user-gpu")]
    VhostUserVga "vhost-user-vga" [Type("vhost-user-vga")]
    QueryCpuModelBaseline "query-cpu-model-baseline" [Command("query-cpu-model-baseline")]
    QueryCpuModelComparison "query-cpu-model-comparison" [Command("query-cpu-model-comparison")]
    Ramfb "ramfb" [Type("ramfb")]
    ArmMaxCpu "arm-max-cpu" [Type("max-arm-cpu")]
    DriveNvme "drive-nvme" [Schema("blockdev-add/arg-type/+nvme")]
    SmpDies "smp-dies" [Schema("query-hotpluggable-cpus/ret-type/props/die-id")]
    I8042 "i8042" [Type("i8042")]
    RngBuiltin "rng-builtin" [Type("rng-builtin")]
    TpmSpapr "tpm-spapr" [Type("tpm-spapr"), TpmModel("tpm-spapr")]
    CpuKvmNoAdjvtime "cpu.kvm-no-adjvtime" [ObjectProp("max-x86_64-cpu", "kvm-no-adjvtime"), ObjectProp("max-arm-cpu", "kvm-no-adjvtime")]
    VhostUserFs "vhost-user-fs" [Type("vhost-user-fs-device")]
    FsdevMultidevs "fsdev.multidevs" [OptParam("fsdev", "multidevs")]
    PcieRootPortHotplug "pcie-root-port.hotplug" [DeviceProp("pcie-root-port", "hotplug")]
    AioIoUring "aio.io_uring" [Schema("blockdev-add/arg-type/+file/aio/^io_uring")]
    Tcg "tcg" [Type("tcg-accel")]
    VirtioBlkPciScsiDefaultDisabled "virtio-blk-pci.scsi.default.disabled" [DevicePropOff("virtio-blk-pci", "scsi"), DevicePropOff("virtio-blk-ccw", "scsi")]
    Pvscsi "pvscsi" [Type("pvscsi")]
    CpuMigratable "cpu.migratable" [ObjectProp("max-x86_64-cpu", "migratable"), ObjectProp("max-arm-cpu", "migratable")]
    IntelIommuAwBits "intel-iommu.aw-bits" [DeviceProp("intel-iommu", "aw-bits")]
    SpaprTpmProxy "spapr-tpm-proxy" [Type("spapr-tpm-proxy")]
    NumaHmat "numa.hmat" [Schema("set-numa-node/arg-type/+hmat-lb")]
    UsbHostHostdevice "usb-host.hostdevice" [DeviceProp("usb-host", "hostdevice")]
    VirtioBalloonFreePageReporting "virtio-balloon.free-page-reporting" [DeviceProp("virtio-balloon-pci", "free-page-reporting"), DeviceProp("virtio-balloon-ccw", "free-page-reporting"), DeviceProp("virtio-balloon-device", "free-page-reporting")]
    NetdevVhostVdpa "netdev.vhost-vdpa" [Schema("netdev_add/arg-type/+vhost-vdpa")]
    Ncr53c90 "ncr53c90" [Arch(&["sparc", "m68k", "mips"])]
    Dc390 "dc390" [Type("dc390")]
    Am53c974 "am53c974" [Type("am53c974")]
    VirtioPmemPci "virtio-pmem-pci" [Type("virtio-pmem-pci")]
    VhostUserFsBootindex "vhost-user-fs.bootindex" [DeviceProp("vhost-user-fs-device", "bootindex")]
    VhostUserBlk "vhost-user-blk" [Type("vhost-user-blk")]
    CpuMax "cpu-max" [Cpu("max")]
    MemoryBackendFileXUseCanonicalPathForRamblockId "memory-backend-file.x-use-canonical-path-for-ramblock-id" [ObjectProp("memory-backend-file", "x-use-canonical-path-for-ramblock-id")]
    VncPowerControl "vnc-power-control" [OptParam("vnc", "power-control")]
    RotationRate "rotation-rate" [DeviceProp("scsi-hd", "rotation_rate")]
    AcpiIndex "acpi-index" [DeviceProp("virtio-blk-pci", "acpi-index"), DeviceProp("virtio-net-pci", "acpi-index"), DeviceProp("virtio-scsi-pci", "acpi-index"), DeviceProp("virtio-blk-ccw", "acpi-index"), DeviceProp("virtio-net-ccw", "acpi-index"), DeviceProp("virtio-scsi-ccw", "acpi-index"), DeviceProp("virtio-gpu-pci", "acpi-index"), DeviceProp("virtio-gpu-device", "acpi-index"), DeviceProp("virtio-balloon-pci", "acpi-index"), DeviceProp("virtio-balloon-ccw", "acpi-index"), DeviceProp("virtio-balloon-device", "acpi-index"), DeviceProp("virtio-gpu-ccw", "acpi-index")]
    InputLinux "input-linux" [Type("input-linux")]
    VirtioGpuGlPci "virtio-gpu-gl-pci" [Type("virtio-gpu-gl-pci")]
    VirtioVgaGl "virtio-vga-gl" [Type("virtio-vga-gl")]
    ConfidentialGuestSupport "confidential-guest-support" [MachineProp("none", "confidential-guest-support")]
    S390PvGuest "s390-pv-guest" [Type("s390-pv-guest")]
    SetAction "set-action" [Command("set-action")]
    VirtioBlkQueueSize "virtio-blk.queue-size" [DeviceProp("virtio-blk-pci", "queue-size"), DeviceProp("virtio-blk-ccw", "queue-size")]
    VirtioMemPci "virtio-mem-pci" [Type("virtio-mem-pci")]
    MemoryBackendFileReserve "memory-backend-file.reserve" [ObjectProp("memory-backend-file", "reserve")]
    Piix4AcpiRootPciHotplug "piix4.acpi-root-pci-hotplug" [DeviceProp("PIIX4_PM", "acpi-root-pci-hotplug")]
    NetdevJson "netdev.json" [Schema("netdev_add/arg-type/type/^dgram")]
    ChardevJson "chardev.json" []
    QueryDirtyRate "query-dirty-rate" [Command("query-dirty-rate")]
    RbdEncryption "rbd-encryption" [Schema("blockdev-add/arg-type/+rbd/encrypt")]
    SevGuestKernelHashes "sev-guest-kernel-hashes" [Schema("object-add/arg-type/+sev-guest/kernel-hashes")]
    SevInjectLaunchSecret "sev-inject-launch-secret" [Command("sev-inject-launch-secret")]
    DeviceJsonHotplug "device.json+hotplug" [Schema("device_add/$json-cli-hotplug")]
    Hvf "hvf" []
    VirtioMemPciPrealloc "virtio-mem-pci.prealloc" [DeviceProp("virtio-mem-pci", "prealloc")]
    CalcDirtyRate "calc-dirty-rate" [Command("calc-dirty-rate")]
    DirtyrateParamMode "dirtyrate-param.mode" [Schema("calc-dirty-rate/arg-type/mode")]
    BlockdevNbdTlsHostname "blockdev.nbd.tls-hostname" [Schema("blockdev-add/arg-type/+nbd/tls-hostname")]
    MemoryBackendFilePreallocThreads "memory-backend-file.prealloc-threads" [ObjectProp("memory-backend-file", "prealloc-threads")]
    VirtioIommuPci "virtio-iommu-pci" [Type("virtio-iommu-pci")]
    VirtioIommuBootBypass "virtio-iommu.boot-bypass" [DeviceProp("virtio-iommu-pci", "boot-bypass")]
    VirtioNetRss "virtio-net.rss" [DeviceProp("virtio-net-pci", "rss"), DeviceProp("virtio-net-ccw", "rss")]
    ChardevQemuVdagent "chardev.qemu-vdagent" [Schema("chardev-add/arg-type/backend/+qemu-vdagent")]
    DisplayDbus "display-dbus" [Schema("query-display-options/ret-type/+dbus")]
    IothreadThreadPoolMax "iothread.thread-pool-max" [Schema("object-add/arg-type/+iothread/thread-pool-max")]
    UsbHostGuestResetsAll "usb-host.guest-resets-all" [DeviceProp("usb-host", "guest-resets-all")]
    MigrationBlockedReasons "migration.blocked-reasons" [Schema("query-migrate/ret-type/blocked-reasons")]
    QueryStats "query-stats" [Command("query-stats")]
    QueryStatsSchemas "query-stats-schemas" [Command("query-stats-schemas")]
    SgxEpc "sgx-epc" [Type("sgx-epc")]
    ThreadContext "thread-context" [Type("thread-context")]
    ScreenshotFormatPng "screenshot-format-png" [Schema("screendump/arg-type/format/^png")]
    MachineHpet "machine-hpet" [OptParam("machine", "hpet")]
    NetdevStream "netdev.stream" [Schema("netdev_add/arg-type/+stream")]
    VirtioCrypto "virtio-crypto" [Type("virtio-crypto-pci"), Type("virtio-crypto-device")]
    CryptodevBackendLkcf "cryptodev-backend-lkcf" [Type("cryptodev-backend-lkcf")]
    PvpanicPci "pvpanic-pci" [Type("pvpanic-pci")]
    NetdevStreamReconnect "netdev.stream.reconnect" [Schema("netdev_add/arg-type/+stream/reconnect")]
    VirtioGpuBlob "virtio-gpu.blob" [DeviceProp("virtio-gpu-pci", "blob"), DeviceProp("virtio-gpu-device", "blob"), DeviceProp("virtio-gpu-ccw", "blob")]
    RbdEncryptionLayering "rbd-encryption-layering" [Schema("blockdev-add/arg-type/+rbd/encrypt/parent")]
    RbdEncryptionLuksAny "rbd-encryption-luks-any" [Schema("blockdev-add/arg-type/+rbd/encrypt/format/^luks-any")]
    Qcow2DiscardNoUnref "qcow2-discard-no-unref" [Schema("blockdev-add/arg-type/+qcow2/discard-no-unref")]
    RunWithAsyncTeardown "run-with.async-teardown" [OptParam("run-with", "async-teardown")]
    VirtioBlkVhostVdpa "virtio-blk-vhost-vdpa" [Schema("blockdev-add/arg-type/+virtio-blk-vhost-vdpa/$fdset")]
    VirtioBlkIothreadMapping "virtio-blk.iothread-mapping" [DeviceProp("virtio-blk-pci", "iothread-vq-mapping"), DeviceProp("virtio-blk-ccw", "iothread-vq-mapping")]
    SmpClusters "smp-clusters" [Schema("query-hotpluggable-cpus/ret-type/props/cluster-id")]
    VirtioMemPciDynamicMemslots "virtio-mem-pci.dynamic-memslots" [DeviceProp("virtio-mem-pci", "dynamic-memslots")]
    BlockjobBackingMaskProtocol "blockjob.backing-mask-protocol" [SchemaAll(&["block-commit/arg-type/backing-mask-protocol", "block-stream/arg-type/backing-mask-protocol"])]
    DisplayReload "display-reload" [Command("display-reload")]
    UsbMtp "usb-mtp" [Type("usb-mtp")]
    MachineVirtRas "machine.virt.ras" [MachineProp("virt", "ras")]
    VirtioSound "virtio-sound" [Type("virtio-sound-pci"), Type("virtio-sound-device")]
    SevSnpGuest "sev-snp-guest" [Type("sev-snp-guest")]
    NetdevUser "netdev.user" [Schema("netdev_add/arg-type/+user")]
    AcpiErst "acpi-erst" [Type("acpi-erst")]
    IntelIommuDmaTranslation "intel-iommu.dma-translation" [DeviceProp("intel-iommu", "dma-translation")]
    MachineI8042Opt "machine-i8042-opt" [MachineProp("generic-pc", "i8042")]
    ChardevReconnectMiliseconds "chardev-reconnect-miliseconds" [Schema("chardev-add/arg-type/backend/+socket/data/reconnect-ms")]
    VirtioCcwLoadparm "virtio-ccw.loadparm" [DeviceProp("virtio-blk-ccw", "loadparm")]
    NetdevStreamReconnectMiliseconds "netdev-stream-reconnect-miliseconds" [Schema("netdev_add/arg-type/+stream/reconnect-ms")]
    QueryCpuModelExpansionDeprecatedProps "query-cpu-model-expansion.deprecated-props" [Schema("query-cpu-model-expansion/ret-type/deprecated-props")]
    MigrateIncomingExitOnError "migrate-incoming.exit-on-error" [Schema("migrate-incoming/arg-type/exit-on-error")]
    MachineVirtAia "machine.virt.aia" [MachineProp("virt", "aia")]
    VirtioMemCcw "virtio-mem-ccw" [Type("virtio-mem-ccw")]
    BlockdevSetActive "blockdev-set-active" [Command("blockdev-set-active")]
    Shim "shim" [MachineProp("none", "shim")]
    VirtioScsiIothreadMapping "virtio-scsi.iothread-mapping" [DeviceProp("virtio-scsi-pci", "iothread-vq-mapping"), DeviceProp("virtio-scsi-ccw", "iothread-vq-mapping")]
}
