//! Security labels of a document: each needs a driver that is here.

use domxml::{
    Domain,
    devices::{Chardev, DeviceSeclabel},
};

use crate::{
    error::{Area, Code, Error, Result},
    paths::Scope,
};

/// What a document may name where there is no driver at all.
const NONE: &str = "none";
/// The driver of owners of files, which only the system's daemon has.
const OWNERS: &str = "dac";

/// Checks the labels of the guest, then those of its disks and character devices.
///
/// # Errors
/// `ConfigUnsupported` for a label of a driver that is not here.
pub(crate) fn check(document: &Domain, scope: Scope) -> Result<()> {
    let devices = &document.devices;
    let of_disks = devices.disks.iter().flat_map(|disk| &disk.source);
    let of_disks = of_disks.flat_map(|source| &source.seclabels);
    let chardevs = (devices.serials.iter().map(|d| &d.chardev))
        .chain(devices.parallels.iter().map(|d| &d.chardev))
        .chain(devices.channels.iter().map(|d| &d.chardev))
        .chain(devices.consoles.iter().map(|d| &d.chardev));
    let of_guest = document.seclabels.iter().map(|label| label.model.as_deref());
    let of_devices = of_disks
        .chain(chardevs.flat_map(of_chardev))
        .map(|label| label.model.as_deref());
    let missing = of_guest
        .chain(of_devices)
        .flatten()
        .find(|model| !is_here(model, scope));
    missing.map_or(Ok(()), |model| {
        let text = format!("Security driver model '{model}' is not available");
        Err(Error::new(Code::ConfigUnsupported, text).in_area(Area::Security))
    })
}

fn of_chardev(chardev: &Chardev) -> impl Iterator<Item = &DeviceSeclabel> {
    chardev.sources.iter().flat_map(|source| &source.seclabels)
}

fn is_here(model: &str, scope: Scope) -> bool {
    model == NONE || model == OWNERS && scope == Scope::System
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_drivers_that_are_not_here_are_refused() {
        let check = |content: &str, scope| {
            let text = format!("<domain type='qemu'><name>a</name><memory>1</memory>{content}</domain>");
            let document = Domain::parse(&text, domxml::ParseFlags::NONE).unwrap();
            check(&document, scope).map_err(|error| error.to_string())
        };
        let dac = "<seclabel type='dynamic' model='dac'/>";
        assert_eq!(check(dac, Scope::System), Ok(()));
        let refused = |model| {
            Err(format!(
                "unsupported configuration: Security driver model '{model}' is not available"
            ))
        };
        assert_eq!(check(dac, Scope::Session), refused("dac"));
        assert_eq!(
            check("<seclabel type='none' model='none'/>", Scope::Session),
            Ok(())
        );
        for content in [
            "<seclabel type='dynamic' model='selinux'/>",
            "<devices><disk type='file'><source file='/a'><seclabel model='selinux' relabel='no'/></source>
             <target dev='sda' bus='sata'/></disk></devices>",
            "<devices><serial type='unix'><source mode='bind' path='/a'><seclabel model='selinux' relabel='no'/>
             </source></serial></devices>",
        ] {
            assert_eq!(check(content, Scope::System), refused("selinux"), "{content}");
        }
    }
}
