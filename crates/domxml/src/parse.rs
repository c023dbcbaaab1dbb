//! From text to [`Domain`] and back.

use xmlform::{Document, FormatFlags, Node, ParseFlags, Writer, Xml, XmlChoice};

use crate::devices::{Device, Disk, DiskBus, DiskDevice};
use crate::qemu::NAMESPACE;
use crate::{Area, Domain, Error, reading};

impl Domain {
    /// Reads a domain document.
    ///
    /// # Errors
    /// When it is not XML, its root is not `<domain>`, or a value is not of its type.
    pub fn parse(text: &str, flags: ParseFlags) -> Result<Self, Error> {
        read_root(text, "domain", flags)
    }

    /// Reads the document of somebody who asks for a guest: checked as libvirt checks what it is given, and in its
    /// order. What is stored is read by [`Self::parse`], whatever rules there were when it was written.
    ///
    /// # Errors
    /// The first thing that is wrong with it, in libvirt's words; as [`Self::parse`] else.
    pub fn given(text: &str) -> Result<Self, Error> {
        let mut document = Document::parse(text, &[NAMESPACE], ParseFlags::INACTIVE)?;
        rooted(&document, "domain")?;
        document.judge(reading::check_domain)?;
        let mut domain = Self::read(document.root())?;
        domain.settle();
        domain.normalize();
        Ok(domain)
    }

    /// The document, in the given form.
    #[must_use]
    pub fn format(&self, flags: FormatFlags) -> String {
        if self.devices.disks.iter().any(Disk::is_removable_in_silence) {
            let mut shown = self.clone();
            let of_disks = shown.devices.disks.iter_mut();
            of_disks
                .filter(|disk| disk.is_removable_in_silence())
                .for_each(|disk| disk.target.removable = None);
            return shown.format(flags);
        }
        let mut w = Writer::new(flags);
        w.element("domain", self);
        w.finish()
    }
}

impl Disk {
    /// QEMU is told of a SCSI disk that it can be taken out, documents are not.
    fn is_removable_in_silence(&self) -> bool {
        let silent = self.target.bus == Some(DiskBus::Scsi) && self.device == DiskDevice::Disk;
        silent && self.target.removable.is_some()
    }
}

impl Device {
    /// Reads the device of somebody who asks for it, checked as [`crate::Domain::given`] checks a whole document.
    ///
    /// # Errors
    /// The first thing that is wrong with it, in libvirt's words; `Unsupported` if no device has such a name.
    pub fn given(text: &str) -> Result<Self, Error> {
        Self::given_as(text, ParseFlags::INACTIVE)
    }

    /// The same for a device of a running guest, of which more may be said.
    ///
    /// # Errors
    /// As [`Self::given`].
    pub fn given_as(text: &str, flags: ParseFlags) -> Result<Self, Error> {
        let mut document = Document::parse(text, &[], flags)?;
        document.judge(reading::check_device)?;
        let root = document.root();
        let mut device = Self::read_choice(root)?
            .ok_or_else(|| Error::unsupported(format!("unknown device type '{}'", root.name())))?;
        if flags.has(ParseFlags::INACTIVE) {
            device.settle();
        }
        Ok(device)
    }
}

/// Reads a document whose root has a name.
pub(crate) fn read_root<T: Xml>(text: &str, name: &str, flags: ParseFlags) -> Result<T, Error> {
    let document = Document::parse(text, &[NAMESPACE], flags)?;
    Ok(T::read(rooted(&document, name)?)?)
}

fn rooted<'d>(document: &'d Document<'_>, name: &str) -> Result<Node<'d>, Error> {
    let root = document.root();
    if !root.is(name) {
        let found = root.name();
        let message = format!("expecting root element of '{name}', not '{found}'");
        return Err(Error::xml(message).in_area(Area::Xml));
    }
    Ok(root)
}
