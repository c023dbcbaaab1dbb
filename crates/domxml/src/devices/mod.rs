//! `<devices>`: one family a file, one table of the families here.
//!
//! Structs are shapes: field order is output order, names are libvirt's (`kind` stands for
//! the attribute `type`), and nothing absent is filled in. Where the kind of a device decides
//! which fields count, the struct has them all and says so. Everything that is meant for every
//! device goes through [`DeviceRef`] and [`DeviceMut`].
#![expect(
    missing_docs,
    reason = "fields and words are libvirt's elements and attributes; units and limits are documented"
)]

pub mod address;
pub mod audio;
mod canonical;
pub mod chardev;
pub mod codec;
pub mod common;
pub mod controller;
pub mod disk;
mod edit;
pub mod filesystem;
pub mod graphics;
pub mod hostdev;
pub mod info;
pub mod interface;
pub mod lease;
pub mod memory;
pub mod netparts;
pub mod private;
pub mod redirect;
pub mod rng;
mod runtime;
pub mod small;
pub mod storage;
pub mod tpm;
pub mod video;

pub use address::*;
pub use audio::*;
pub use chardev::*;
pub use common::*;
pub use controller::*;
pub use disk::*;
pub use edit::Place;
pub use filesystem::*;
pub use graphics::*;
pub use hostdev::*;
pub use info::*;
pub use interface::*;
pub use lease::*;
pub use memory::*;
pub use netparts::*;
pub use private::*;
pub use redirect::*;
pub use rng::*;
pub use small::*;
pub use storage::*;
pub use tpm::*;
pub use video::*;

use self::edit::Shelf;
use xmlform::codec::Plain;
use xmlform::{Error, Node, Writer, Xml, XmlChoice, field};

macro_rules! families {
    (@read children) => { field::children };
    (@read child) => { field::child_opt };
    (@info $device:ident) => { None };
    (@info $device:ident info) => { Some(&$device.info) };
    (@info_mut $device:ident) => { None };
    (@info_mut $device:ident info) => { Some(&mut $device.info) };
    ($($field:ident: $list:ident<$family:ident> = $name:tt $shape:tt $($info:ident)?;)+) => {
        /// All devices of a guest, in output order.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Devices {
            /// Path of the QEMU binary.
            pub emulator: Option<String>,
            $(pub $field: $list<$family>,)+
        }

        impl Xml for Devices {
            fn read(node: Node<'_>) -> Result<Self, Error> {
                let mut devices = Self {
                    emulator: field::text_child_opt::<Plain, _>(node, "emulator")?,
                    $($field: families!(@read $shape)(node, $name)?,)+
                };
                devices.canonicalize();
                Ok(devices)
            }

            fn write_attrs(&self, _: &mut Writer) {}

            fn write_content(&self, w: &mut Writer) {
                if let Some(emulator) = &self.emulator {
                    w.text_child::<Plain, _>("emulator", emulator);
                }
                self.iter().for_each(|device| device.write(w));
            }
        }

        /// Family of a device.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Family { $($family),+ }

        impl Family {
            /// Every family, in output order.
            pub const ALL: &'static [Self] = &[$(Self::$family),+];

            /// Name of the element.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$family => $name),+ }
            }
        }

        /// A device of its own, as hot-plug has it.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Device { $($family(Box<$family>)),+ }

        impl XmlChoice for Device {
            fn read_choice(node: Node<'_>) -> Result<Option<Self>, Error> {
                let mut device = match node.name() {
                    $($name => Self::$family(Box::new(Xml::read(node)?)),)+
                    _ => return Ok(None),
                };
                device.canonicalize();
                Ok(Some(device))
            }

            fn write_choice(&self, w: &mut Writer) {
                self.as_ref().write(w);
            }
        }

        /// A device in its place.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum DeviceRef<'a> { $($family(&'a $family)),+ }

        /// A device in its place, to be changed.
        #[derive(Debug, PartialEq)]
        pub enum DeviceMut<'a> { $($family(&'a mut $family)),+ }

        impl Devices {
            /// Every device, family by family in output order.
            pub fn iter(&self) -> impl Iterator<Item = DeviceRef<'_>> {
                std::iter::empty()$(.chain(self.$field.iter().map(DeviceRef::$family)))+
            }

            /// Every device, to be changed.
            pub fn iter_mut(&mut self) -> impl Iterator<Item = DeviceMut<'_>> {
                std::iter::empty()$(.chain(self.$field.iter_mut().map(DeviceMut::$family)))+
            }

            /// The device at a place.
            #[must_use]
            pub fn get(&self, place: Place) -> Option<DeviceRef<'_>> {
                match place.family {
                    $(Family::$family => self.$field.iter().nth(place.at).map(DeviceRef::$family)),+
                }
            }

            /// The device at a place, to be changed.
            pub fn get_mut(&mut self, place: Place) -> Option<DeviceMut<'_>> {
                match place.family {
                    $(Family::$family => self.$field.iter_mut().nth(place.at).map(DeviceMut::$family)),+
                }
            }

            /// How many devices of a family there are.
            #[must_use]
            pub fn count(&self, family: Family) -> usize {
                match family { $(Family::$family => self.$field.iter().count()),+ }
            }

            /// Puts a device before the one that has place `at` among its family; behind all others if there is none.
            ///
            /// # Errors
            /// The device itself, if the guest can have only one of the family and has it.
            pub fn insert(&mut self, device: Device, at: usize) -> Result<Place, Device> {
                let family = device.as_ref().family();
                let placed = match device {
                    $(Device::$family(device) => {
                        self.$field.put(*device, at).map_err(|device| Device::$family(Box::new(device)))
                    }),+
                };
                placed.map(|at| Place { family, at })
            }

            /// Takes a device out.
            pub fn remove(&mut self, place: Place) -> Option<Device> {
                match place.family {
                    $(Family::$family => {
                        self.$field.take_at(place.at).map(|device| Device::$family(Box::new(device)))
                    }),+
                }
            }
        }

        impl Device {
            /// The device, as the list would show it.
            #[must_use]
            pub fn as_ref(&self) -> DeviceRef<'_> {
                match self { $(Self::$family(device) => DeviceRef::$family(device)),+ }
            }

            /// The device, as the list would show it, to be changed.
            pub fn as_mut(&mut self) -> DeviceMut<'_> {
                match self { $(Self::$family(device) => DeviceMut::$family(device)),+ }
            }
        }

        impl<'a> DeviceRef<'a> {
            /// The device's family.
            #[must_use]
            pub const fn family(self) -> Family {
                match self { $(Self::$family(_) => Family::$family),+ }
            }

            /// What all devices share; none of those that the guest does not see as one.
            #[must_use]
            pub fn info(self) -> Option<&'a DeviceInfo> {
                #[allow(unused_variables, reason = "families without info do not look")]
                match self { $(Self::$family(device) => families!(@info device $($info)?)),+ }
            }

            /// A copy that stands alone.
            #[must_use]
            pub fn to_device(self) -> Device {
                match self { $(Self::$family(device) => Device::$family(Box::new(device.clone()))),+ }
            }

            /// Writes the device's element.
            pub fn write(self, w: &mut Writer) {
                match self { $(Self::$family(device) => w.element($name, device)),+ }
            }
        }

        impl<'a> DeviceMut<'a> {
            /// The device, no longer to be changed.
            #[must_use]
            pub fn as_ref(&self) -> DeviceRef<'_> {
                match self { $(Self::$family(device) => DeviceRef::$family(device)),+ }
            }

            /// What all devices share, to be changed.
            #[must_use]
            pub fn into_info(self) -> Option<&'a mut DeviceInfo> {
                #[allow(unused_variables, reason = "families without info do not look")]
                match self { $(Self::$family(device) => families!(@info_mut device $($info)?)),+ }
            }
        }
    };
}

families! {
    disks: Vec<Disk> = "disk" children info;
    controllers: Vec<Controller> = "controller" children info;
    leases: Vec<Lease> = "lease" children;
    filesystems: Vec<Filesystem> = "filesystem" children info;
    interfaces: Vec<Interface> = "interface" children info;
    smartcards: Vec<Smartcard> = "smartcard" children info;
    serials: Vec<Serial> = "serial" children info;
    parallels: Vec<Parallel> = "parallel" children info;
    consoles: Vec<Console> = "console" children info;
    channels: Vec<Channel> = "channel" children info;
    inputs: Vec<Input> = "input" children info;
    tpms: Vec<Tpm> = "tpm" children info;
    graphics: Vec<Graphics> = "graphics" children;
    sounds: Vec<Sound> = "sound" children info;
    audios: Vec<Audio> = "audio" children;
    videos: Vec<Video> = "video" children info;
    hostdevs: Vec<Hostdev> = "hostdev" children info;
    redirdevs: Vec<Redirdev> = "redirdev" children info;
    redirfilter: Option<Redirfilter> = "redirfilter" child;
    hubs: Vec<Hub> = "hub" children info;
    watchdogs: Vec<Watchdog> = "watchdog" children info;
    memballoon: Option<Memballoon> = "memballoon" child info;
    rngs: Vec<Rng> = "rng" children info;
    nvram: Option<Nvram> = "nvram" child info;
    panics: Vec<Panic> = "panic" children info;
    shmems: Vec<Shmem> = "shmem" children info;
    memories: Vec<Memory> = "memory" children info;
    cryptos: Vec<Crypto> = "crypto" children info;
    iommu: Option<Iommu> = "iommu" child info;
    vsock: Option<Vsock> = "vsock" child info;
    pstore: Option<Pstore> = "pstore" child info;
}

impl Devices {
    /// Calls `f` with what all devices share, device by device in output order.
    pub fn for_each_info(&mut self, mut f: impl FnMut(Family, &mut DeviceInfo)) {
        for device in self.iter_mut() {
            let family = device.as_ref().family();
            if let Some(info) = device.into_info() {
                f(family, info);
            }
        }
    }
}
