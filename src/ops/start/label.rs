//! Security labels of a document: each needs a driver that is here, and a run has one of owners.

use domxml::{
    Domain,
    devices::{Chardev, DeviceSeclabel, YesNo},
    security::{Seclabel, SeclabelType},
};

use crate::{
    config::QemuConfig,
    error::{Area, Code, Error, Result},
    ops::host::identity::{Identity, OWNERS},
    paths::Scope,
};

/// What a document may name where there is no driver at all.
const NONE: &str = "none";

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
    let missing = of_guest.chain(of_devices).find(|model| !is_here(*model, scope));
    missing.map_or(Ok(()), |model| {
        // libvirt's text for a label without a model.
        let model = model.unwrap_or("(null)");
        let text = format!("Security driver model '{model}' is not available");
        Err(Error::new(Code::ConfigUnsupported, text).in_area(Area::Security))
    })
}

fn of_chardev(chardev: &Chardev) -> impl Iterator<Item = &DeviceSeclabel> {
    chardev.sources.iter().flat_map(|source| &source.seclabels)
}

/// The driver of owners is the system's daemon's alone.
fn is_here(model: Option<&str>, scope: Scope) -> bool {
    model == Some(NONE) || model == Some(OWNERS) && scope == Scope::System
}

/// Gives the run's document its label of owners: one that the document has is completed, else there is one of whom
/// qemu.conf names, unless guests that say nothing are to have none.
///
/// # Errors
/// `InvalidArg` for a label that names nobody.
pub(crate) fn put(document: &mut Domain, config: &QemuConfig) -> Result<Identity> {
    let usual = Identity::of(config)?;
    let mut labels = document.seclabels.iter_mut();
    match labels.find(|label| label.model.as_deref() == Some(OWNERS)) {
        Some(label) => complete(label, usual),
        None if config.identity.labelled => {
            let mut label = Seclabel {
                model: Some(OWNERS.to_owned()),
                implicit: true,
                ..Seclabel::default()
            };
            complete(&mut label, usual);
            document.seclabels.push(label);
        }
        None => {}
    }
    Identity::of_guest(config, document)
}

fn complete(label: &mut Seclabel, usual: Identity) {
    match label.kind.get_or_insert(SeclabelType::Dynamic) {
        SeclabelType::None => return,
        SeclabelType::Static => {}
        SeclabelType::Dynamic => {
            label.relabel = Some(YesNo::Yes);
            label.label = Some(usual.label());
        }
    }
    let relabels = label.relabel == Some(YesNo::Yes);
    label.imagelabel = label.label.clone().filter(|_| relabels);
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
        let nameless = "<devices><disk type='file'><source file='/a'><seclabel relabel='no'/></source>
            <target dev='sda' bus='sata'/></disk></devices>";
        assert_eq!(check(nameless, Scope::System), refused("(null)"));
    }

    #[test]
    fn a_run_has_a_label_of_owners() {
        let mut config = QemuConfig::usual();
        config.identity.user = "+5".to_owned();
        config.identity.group = "+6".to_owned();
        let Ok(usual) = Identity::of(&config) else { return };
        let of = |content: &str, config: &QemuConfig| {
            let text = format!("<domain type='qemu'><name>a</name><memory>1</memory>{content}</domain>");
            let mut document = Domain::parse(&text, domxml::ParseFlags::NONE).unwrap();
            put(&mut document, config).unwrap();
            let live = document.format(domxml::FormatFlags::NONE);
            let at = live.find("  <seclabel").unwrap_or(live.len());
            live[at..]
                .replace("</domain>", "")
                .replace("\n", "")
                .replace("  ", "")
        };
        let own = usual.label();
        let dynamic = format!(
            "<seclabel type='dynamic' model='dac' relabel='yes'><label>{own}</label><imagelabel>{own}</imagelabel></seclabel>"
        );
        assert_eq!(of("", &config), dynamic);
        assert_eq!(
            of("<seclabel type='dynamic' model='dac' relabel='yes'/>", &config),
            dynamic
        );
        assert_eq!(
            of("<seclabel type='none' model='none'/>", &config),
            format!("<seclabel type='none' model='none'/>{dynamic}")
        );
        let fixed = "<seclabel type='static' model='dac' relabel='no'><label>+1:+2</label></seclabel>";
        assert_eq!(of(fixed, &config), fixed);
        assert_eq!(
            of(&fixed.replace("'no'", "'yes'"), &config),
            "<seclabel type='static' model='dac' relabel='yes'><label>+1:+2</label><imagelabel>+1:+2</imagelabel></seclabel>"
        );
        let none = "<seclabel type='none' model='dac'/>";
        assert_eq!(of(none, &config), none);
        config.identity.labelled = false;
        assert_eq!(of("", &config), "");
    }
}
