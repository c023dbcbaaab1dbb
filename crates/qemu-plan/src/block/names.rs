//! What a status file says of a disk's names in QEMU: the front end's object, the nodes of its images, the objects made
//! for them. Used by start, change of a medium and hot-plug.
//!
//! Whoever takes the guest over goes by these names and makes up none, so they are written down from the very
//! [`Image`] whose nodes QEMU is given.

use domxml::Domain;
use domxml::devices::disk::{Disk, DiskBus};
use domxml::devices::storage::{BackingStore, Source};
use domxml::devices::{DiskPrivate, NodeName, NodeNames, SecretObject, SourceObjects, SourcePrivate};

use super::node::{Backing, Image, copy_on_read_node};
use super::source::Sources;
use super::throttle;
use crate::Result;
use crate::props::Props;
use crate::resources::Resources;

/// Kinds of secret objects, by what their id has before its number.
const SECRETS: &[(&str, &str)] = &[
    ("-auth-secret", "auth"),
    ("-encryption-secret", "encryption"),
    ("-httpcookie-secret", "httpcookie"),
    ("_tls0-secret", "tlskey"),
];

/// Path, or id, of a disk's front end in QEMU's object tree; `None` for a disk without a name, and for a card in the
/// machine's own slot.
#[must_use]
pub fn qom_name(disk: &Disk) -> Option<String> {
    let alias = disk.info.alias.as_deref()?;
    match disk.target.bus.unwrap_or_default() {
        DiskBus::Virtio => Some(format!("/machine/peripheral/{alias}/virtio-backend")),
        DiskBus::Usb => Some(format!("/machine/peripheral/{alias}/{alias}.0/legacy[0]")),
        DiskBus::Sd => None,
        _ => Some(alias.to_owned()),
    }
}

/// Writes the names of every disk into a document whose devices are named and whose images are numbered.
///
/// # Errors
/// When QEMU cannot open a source.
pub fn name_guest(def: &mut Domain) -> Result<()> {
    def.devices.disks.iter_mut().try_for_each(name_disk)
}

/// Writes a disk's names into it. What the private part says beside them stays.
///
/// # Errors
/// As [`name_guest`].
pub fn name_disk(disk: &mut Disk) -> Result<()> {
    let resources = Resources::default();
    let image = match disk.target.bus {
        Some(DiskBus::Sd) => None,
        _ => Sources::new(&resources, 1).disk(disk)?,
    };
    let filter = image
        .is_some()
        .then(|| copy_on_read_node(disk))
        .flatten()
        .map(|name| node("copyOnRead", name));
    let names: Vec<NodeName> = filter.into_iter().chain(throttle::named(disk)).collect();
    let private = DiskPrivate {
        qom: qom_name(disk),
        nodenames: (!names.is_empty()).then_some(NodeNames { names }),
        rest: disk.private_data.take().unwrap_or_default().rest,
    };
    disk.private_data = (private != DiskPrivate::default()).then_some(private);
    if let (Some(source), Some(image)) = (&mut disk.source, &image) {
        name_source(source, image);
        name_backing(disk.backing.as_deref_mut(), &image.backing);
    }
    Ok(())
}

fn name_backing(store: Option<&mut BackingStore>, below: &Backing) {
    let (Some(store), Backing::Image(image)) = (store, below) else {
        return;
    };
    if let Some(source) = &mut store.source {
        name_source(source, image);
    }
    name_backing(store.backing.as_deref_mut(), &image.backing);
}

/// Writes the names of an image, and of its data file, into its source.
pub fn name_source(source: &mut Source, image: &Image) {
    let objects = objects(&image.objects);
    let private = source.private_data.take().unwrap_or_default();
    source.private_data = Some(SourcePrivate {
        nodenames: Some(nodes(image)),
        reservations: image
            .storage
            .get("pr-manager")
            .and_then(|id| Some(id.as_str()?.to_owned())),
        objects: (objects != SourceObjects::default()).then_some(objects),
        ..private
    });
    let data = source
        .data_store
        .as_deref_mut()
        .and_then(|data| data.source.as_mut());
    if let (Some(data), Some(image)) = (data, &image.data_file) {
        name_source(data, image);
    }
}

/// The nodes of one image by layer, the lowest first; a slice is told after the format.
#[must_use]
pub fn nodes(image: &Image) -> NodeNames {
    let layers = [
        Some(node("storage", image.storage_node())),
        image.format.as_ref().map(|_| node("format", image.format_node())),
        image.slice.map(|_| node("slice-storage", image.slice_node())),
    ];
    NodeNames {
        names: layers.into_iter().flatten().collect(),
    }
}

fn node(kind: &str, name: String) -> NodeName {
    NodeName {
        kind: kind.to_owned(),
        name,
        group: None,
    }
}

fn objects(all: &[Props]) -> SourceObjects {
    let text = |object: &Props, key: &str| {
        object
            .get(key)
            .and_then(|v| v.as_str())
            .unwrap_or_default()
            .to_owned()
    };
    let mut objects = SourceObjects::default();
    for object in all {
        let id = text(object, "id");
        match text(object, "qom-type").as_str() {
            "secret" => objects.secrets.extend(secret(id)),
            "tls-creds-x509" => objects.tls = Some(id),
            _ => {}
        }
    }
    objects
}

fn secret(alias: String) -> Option<SecretObject> {
    let (_, kind) = SECRETS.iter().find(|(stem, _)| alias.contains(stem))?;
    Some(SecretObject {
        kind: (*kind).to_owned(),
        alias,
    })
}

#[cfg(test)]
mod tests {
    use domxml::{ParseFlags, StatusDocument};

    use super::*;
    use crate::block::{number_found, number_guest};

    fn disk(xml: &str) -> Disk {
        let text = format!(
            "<domain type='qemu' id='1'><name>a</name><devices><disk type='file' device='disk'>{xml}</disk></devices></domain>"
        );
        let mut domain = Domain::parse(&text, ParseFlags::NONE).unwrap();
        domain.devices.disks.remove(0)
    }

    #[test]
    fn the_front_end_is_named_by_bus() {
        let table = [
            (
                "vda",
                "virtio",
                "virtio-disk0",
                Some("/machine/peripheral/virtio-disk0/virtio-backend"),
            ),
            (
                "sda",
                "usb",
                "usb-disk0",
                Some("/machine/peripheral/usb-disk0/usb-disk0.0/legacy[0]"),
            ),
            ("sda", "sata", "sata0-0-0", Some("sata0-0-0")),
            ("sda", "scsi", "scsi0-0-0-2", Some("scsi0-0-0-2")),
            ("hda", "ide", "ide0-0-0", Some("ide0-0-0")),
            ("fda", "fdc", "fdc0-0-0", Some("fdc0-0-0")),
            (
                "vda",
                "virtio",
                "ua-mine",
                Some("/machine/peripheral/ua-mine/virtio-backend"),
            ),
            ("sda", "sd", "sd-disk0", None),
        ];
        for (dev, bus, alias, name) in table {
            let disk = disk(&format!(
                "<target dev='{dev}' bus='{bus}'/><alias name='{alias}'/>"
            ));
            assert_eq!(qom_name(&disk).as_deref(), name, "{alias} on {bus}");
        }
    }

    /// The names of a disk, in the order of the document.
    fn names(disk: &Disk) -> Vec<String> {
        let kept = |source: Option<&Source>| source.and_then(|s| s.private_data.clone()?.nodenames);
        let mut all: Vec<_> = kept(disk.source.as_ref()).into_iter().collect();
        let mut below = disk.backing.as_deref();
        while let Some(store) = below {
            all.extend(kept(store.source.as_ref()));
            below = store.backing.as_deref();
        }
        all.extend(disk.private_data.as_ref().and_then(|p| p.nodenames.clone()));
        let nodes = all.into_iter().flat_map(|names| names.names);
        nodes.map(|node| format!("{} {}", node.kind, node.name)).collect()
    }

    #[test]
    fn nodes_are_named_by_number_and_layer() {
        let slice = "<slices><slice type='storage' offset='0' size='512'/></slices>";
        let below = "<backingStore type='file' index='8'><format type='raw'/><source file='/b'/><backingStore/></backingStore>";
        let table: &[(&str, String, &[&str])] = &[
            ("an empty drive", "<driver name='qemu'/>".into(), &[]),
            (
                "raw",
                "<driver name='qemu' type='raw'/><source file='/a' index='3'/>".into(),
                &["storage libvirt-3-storage"],
            ),
            (
                "raw that finds zeroes",
                "<driver name='qemu' type='raw' detect_zeroes='on'/><source file='/a' index='3'/>".into(),
                &["storage libvirt-3-storage"],
            ),
            (
                "a slice",
                format!("<driver name='qemu' type='raw'/><source file='/a' index='3'>{slice}</source>"),
                &["storage libvirt-3-storage", "slice-storage libvirt-3-slice-sto"],
            ),
            (
                "a format in a slice",
                format!("<driver name='qemu' type='qcow2'/><source file='/a' index='3'>{slice}</source>"),
                &[
                    "storage libvirt-3-storage",
                    "format libvirt-3-format",
                    "slice-storage libvirt-3-slice-sto",
                ],
            ),
            (
                "a chain that is copied on reads",
                format!(
                    "<driver name='qemu' type='qcow2' copy_on_read='on'/><source file='/a' index='3'/>{below}"
                ),
                &[
                    "storage libvirt-3-storage",
                    "format libvirt-3-format",
                    "storage libvirt-8-storage",
                    "copyOnRead libvirt-CoR-vda",
                ],
            ),
        ];
        for (what, xml, expected) in table {
            let mut disk = disk(&format!(
                "{xml}<target dev='vda' bus='virtio'/><alias name='virtio-disk0'/>"
            ));
            name_disk(&mut disk).unwrap();
            assert_eq!(names(&disk), *expected, "{what}");
        }
    }

    #[test]
    fn objects_are_told_by_kind() {
        let ids = [
            ("secret", "libvirt-1-storage-auth-secret0", "auth"),
            ("secret", "libvirt-1-format-encryption-secret0", "encryption"),
            ("secret", "libvirt-1-format-encryption-secret1", "encryption"),
            ("secret", "libvirt-1-storage-httpcookie-secret0", "httpcookie"),
            ("secret", "objlibvirt-1-storage_tls0-secret0", "tlskey"),
            ("tls-creds-x509", "objlibvirt-1-storage_tls0", ""),
        ];
        let all: Vec<_> = ids.iter().map(|(kind, id, _)| Props::object(kind, *id)).collect();
        let found = objects(&all);
        let secrets: Vec<_> = found
            .secrets
            .iter()
            .map(|s| (s.alias.as_str(), s.kind.as_str()))
            .collect();
        let expected: Vec<_> = ids[..5].iter().map(|(_, id, kind)| (*id, *kind)).collect();
        assert_eq!(secrets, expected);
        assert_eq!(found.tls.as_deref(), Some("objlibvirt-1-storage_tls0"));
    }

    /// A guest of libvirt 11.3.0 without its names and numbers: it gets the same ones.
    #[test]
    fn a_whole_guest_is_named_as_libvirt_names_it() {
        let text = include_str!("../../../domxml/tests/data/status/rich.xml");
        let status = StatusDocument::parse(text).unwrap();
        let expected = status.domain.devices.disks.clone();
        let mut def = status.domain;
        def.devices.drop_runtime();
        for (disk, named) in def.devices.disks.iter_mut().zip(&expected) {
            disk.info.alias.clone_from(&named.info.alias);
        }
        let found: Vec<_> = def.devices.disks.iter_mut().map(take_found).collect();
        let next = number_guest(&mut def, 1);
        for (disk, found) in def.devices.disks.iter_mut().zip(found) {
            put_found(disk, found);
        }
        let next = number_found(&mut def, next);
        name_guest(&mut def).unwrap();
        for (disk, expected) in def.devices.disks.iter().zip(&expected) {
            assert_eq!(names(disk), names(expected), "{}", disk.target.dev);
            assert_eq!(disk.private_data, expected.private_data, "{}", disk.target.dev);
        }
        assert_eq!(next, 18);
    }

    type Found = (Option<Box<BackingStore>>, Option<Box<domxml::devices::DataStore>>);

    /// Takes away what is found in an image only.
    fn take_found(disk: &mut Disk) -> Found {
        let data = disk.source.as_mut().and_then(|source| source.data_store.take());
        (disk.backing.take(), data)
    }

    fn put_found(disk: &mut Disk, (backing, data): Found) {
        disk.backing = backing;
        if let Some(source) = &mut disk.source {
            source.data_store = data;
        }
    }
}
