//! Devices of a guest, one at a time: found, put in, taken out.
//!
//! Hot-plug and changes of stored documents use it. The table of families in the parent module writes the cases; a family
//! of which a guest has many is a list, one of which it has at most one is an option, and [`Shelf`] makes them alike.

use xmlform::{Document, FormatFlags, ParseFlags, Writer, XmlChoice};

use super::{Device, DeviceInfo, DeviceRef, Devices, Family};
use crate::Error;

/// Where a device is: the family, and the position among that family in output order. It holds until a device of the
/// family is put in or taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The family.
    pub family: Family,
    /// Position, from 0.
    pub at: usize,
}

impl Devices {
    /// Devices of a family with their places, in output order.
    pub fn of_family(&self, family: Family) -> impl Iterator<Item = (Place, DeviceRef<'_>)> {
        let of_family = self.iter().filter(move |device| device.family() == family);
        of_family
            .enumerate()
            .map(move |(at, device)| (Place { family, at }, device))
    }

    /// The device with an alias.
    #[must_use]
    pub fn by_alias(&self, alias: &str) -> Option<Place> {
        let named = |info: &DeviceInfo| info.alias.as_deref() == Some(alias);
        let families = Family::ALL.iter();
        families
            .flat_map(|family| self.of_family(*family))
            .find(|(_, device)| device.info().is_some_and(named))
            .map(|(place, _)| place)
    }
}

impl Device {
    /// Reads a document that is one device.
    ///
    /// # Errors
    /// When it is not XML, no device, or a value is not of its type.
    pub fn parse(text: &str, flags: ParseFlags) -> Result<Self, Error> {
        let document = Document::parse(text, &[], flags)?;
        let root = document.root();
        let device = Self::read_choice(root)?;
        device.ok_or_else(|| Error::unsupported(format!("unknown device type '{}'", root.name())))
    }

    /// Reads the document of a disk, where nothing else may be.
    ///
    /// # Errors
    /// As [`Self::parse`]; in libvirt's words for another root.
    pub fn parse_disk(text: &str, flags: ParseFlags) -> Result<super::Disk, Error> {
        let document = Document::parse(text, &[], flags)?;
        let name = document.root().name().to_owned();
        match Self::parse(text, flags) {
            Ok(Self::Disk(disk)) if name == "disk" => Ok(*disk),
            Err(error) if name == "disk" => Err(error),
            _ => {
                let message = format!("expecting root element of 'disk', not '{name}'");
                Err(Error::xml(message).in_area(xmlform::Area::Xml))
            }
        }
    }

    /// The device's document, in the given form.
    #[must_use]
    pub fn format(&self, flags: FormatFlags) -> String {
        let mut w = Writer::new(flags);
        self.write_choice(&mut w);
        w.finish()
    }
}

/// What holds the devices of one family.
pub(super) trait Shelf<T> {
    /// Puts a device at a position, or behind all others; gives it back if there is no room.
    fn put(&mut self, device: T, at: usize) -> Result<usize, T>;
    /// Takes the device at a position out.
    fn take_at(&mut self, at: usize) -> Option<T>;
}

impl<T> Shelf<T> for Vec<T> {
    fn put(&mut self, device: T, at: usize) -> Result<usize, T> {
        let at = at.min(self.len());
        self.insert(at, device);
        Ok(at)
    }

    fn take_at(&mut self, at: usize) -> Option<T> {
        (at < self.len()).then(|| self.remove(at))
    }
}

impl<T> Shelf<T> for Option<T> {
    fn put(&mut self, device: T, _: usize) -> Result<usize, T> {
        if self.is_some() {
            return Err(device);
        }
        *self = Some(device);
        Ok(0)
    }

    fn take_at(&mut self, at: usize) -> Option<T> {
        self.take_if(|_| at == 0)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Domain, ParseFlags, devices::Family};

    fn devices(text: &str) -> crate::devices::Devices {
        let text = format!("<domain type='qemu'><name>a</name><devices>{text}</devices></domain>");
        Domain::parse(&text, ParseFlags::NONE).unwrap().devices
    }

    #[test]
    fn a_device_that_is_taken_out_can_be_put_back_where_it_was() {
        let before = devices(
            "<disk type='file'><target dev='vda'/><alias name='virtio-disk0'/></disk>\
             <disk type='file'><target dev='vdb'/><alias name='ua-second'/></disk>\
             <interface type='user'><alias name='net0'/></interface><memballoon model='virtio'/>\
             <rng model='virtio'><alias name='rng0'/></rng>",
        );
        for alias in ["virtio-disk0", "ua-second", "net0", "rng0"] {
            let mut after = before.clone();
            let place = after.by_alias(alias).unwrap();
            assert_eq!(
                after.get(place).unwrap().info().unwrap().alias.as_deref(),
                Some(alias)
            );
            let taken = after.remove(place).unwrap();
            assert_eq!(after.by_alias(alias), None);
            assert_eq!(after.count(place.family) + 1, before.count(place.family));
            assert_eq!(after.insert(taken, place.at).unwrap(), place);
            assert_eq!(after, before, "{alias}");
        }
        assert_eq!(before.by_alias("net1"), None);
    }

    #[test]
    fn a_guest_has_one_memory_balloon_at_most() {
        let mut list = devices("<memballoon model='virtio'/>");
        let (place, balloon) = list.of_family(Family::Memballoon).next().unwrap();
        let balloon = balloon.to_device();
        assert!(list.insert(balloon.clone(), 0).is_err());
        assert_eq!(list.remove(place), Some(balloon.clone()));
        assert_eq!(list.remove(place), None);
        assert_eq!(list.insert(balloon, 7), Ok(place));
    }
}
