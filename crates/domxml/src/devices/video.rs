//! `<video>`: a display adapter.

use xmlform::Xml;

use super::common::{OnOff, VirtioOptions, YesNo, words};
use super::info::DeviceInfo;

words! {
    /// Display adapter.
    VideoModelKind {
        Default "default", Vga "vga", Cirrus "cirrus", Vmvga "vmvga", Xen "xen",
        Vbox "vbox", Qxl "qxl", Parallels "parallels", Virtio "virtio", Gop "gop",
        None "none", Bochs "bochs", Ramfb "ramfb",
    }
    /// Who renders.
    VideoBackend { Default "default", Qemu "qemu", Vhostuser "vhostuser" }
    /// How VGA is decoded.
    VgaConf { Io "io", On "on", Off "off" }
}

/// A display adapter.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Video {
    #[xml(child)]
    pub driver: Option<VideoDriver>,
    #[xml(child)]
    pub model: Option<VideoModel>,
    #[xml(flatten)]
    pub info: DeviceInfo,
}

/// `<driver>` of a display adapter.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct VideoDriver {
    #[xml(flatten)]
    pub virtio: VirtioOptions,
    #[xml(attr)]
    pub name: Option<VideoBackend>,
    #[xml(attr)]
    pub vgaconf: Option<VgaConf>,
}

/// `<model>` of a display adapter. Memory in KiB.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct VideoModel {
    #[xml(attr = "type", default, always)]
    pub kind: VideoModelKind,
    #[xml(attr)]
    pub ram: Option<u32>,
    #[xml(attr)]
    pub vram: Option<u32>,
    #[xml(attr)]
    pub vram64: Option<u32>,
    #[xml(attr)]
    pub vgamem: Option<u32>,
    #[xml(attr)]
    pub heads: Option<u32>,
    #[xml(attr)]
    pub primary: Option<YesNo>,
    #[xml(attr)]
    pub blob: Option<OnOff>,
    #[xml(child)]
    pub acceleration: Option<Acceleration>,
    #[xml(child)]
    pub resolution: Option<Resolution>,
}

/// `<acceleration>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Acceleration {
    #[xml(attr)]
    pub accel3d: Option<YesNo>,
    #[xml(attr)]
    pub accel2d: Option<YesNo>,
    #[xml(attr)]
    pub rendernode: Option<String>,
}

/// `<resolution>`, in pixels.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    #[xml(attr)]
    pub x: u32,
    #[xml(attr)]
    pub y: u32,
}
