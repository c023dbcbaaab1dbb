//! Disks that are volumes of storage pools: where the volumes lie.
//!
//! Called by `start` before the chains of images are followed. A pool is asked at each start: where it lies may change.

use domxml::devices::{Disk, StorageFormat, StorageKind, VolumePlace};

use super::Driver;
use crate::{
    error::{Area, Code, Error, Result},
    peers,
};

/// Types of pools whose volumes are files or block devices of this host.
// table
const LOCAL_POOLS: &[&str] = &["dir", "fs", "netfs", "logical", "disk", "scsi", "zfs", "vstorage"];
/// Kinds of volumes, by libvirt's number, with its word.
// table
const KINDS: &[(&str, Option<StorageKind>)] = &[
    ("file", Some(StorageKind::File)),
    ("block", Some(StorageKind::Block)),
    ("dir", Some(StorageKind::Dir)),
    ("network", None),
    ("netdir", None),
    ("ploop", None),
];

/// Finds the volumes of a document's disks and notes in it where they are.
///
/// # Errors
/// What the pool says, that nobody serves pools, or that such a volume can't be a disk.
pub(super) async fn find(driver: &Driver, document: &mut domxml::Domain) -> Result<()> {
    for disk in document.devices.disks.iter_mut().filter(|d| d.kind == StorageKind::Volume) {
        let source = disk.source.as_ref();
        let (pool, volume) = match source.map(|s| (s.pool.clone(), s.volume.clone())) {
            Some((Some(pool), Some(volume))) => (pool, volume),
            // A drive that is empty.
            _ => continue,
        };
        let found = driver.peers.storage().await?.find(&pool, &volume).await?;
        settle(disk, found)?;
    }
    Ok(())
}

/// Notes where a volume was found.
fn settle(disk: &mut Disk, found: peers::VolumePlace) -> Result<()> {
    let pool = attribute(&found.pool_xml, &[], "type")?.unwrap_or_default();
    let Some(source) = &mut disk.source else { return Ok(()) };
    let kind = match pool.as_str() {
        "iscsi" if source.mode.is_none_or(|mode| mode.as_str() == "host") => StorageKind::Block,
        "iscsi" => {
            return Err(unsupported("starting a guest with a volume of an iSCSI pool in mode 'direct' is not supported yet".to_owned()));
        }
        local if LOCAL_POOLS.contains(&local) => {
            if source.mode.is_some() {
                let message = "disk source mode is only valid when storage pool is of iscsi type";
                return Err(Error::new(Code::Xml, message).in_area(Area::None));
            }
            kind_of(found.kind, local)?
        }
        other => return Err(unsupported(format!("using '{other}' pools for backing 'volume' disks isn't yet supported"))),
    };
    source.place = VolumePlace { kind: Some(kind), path: Some(found.path) };
    if let Some(driver) = disk.driver.as_mut().filter(|d| d.kind.is_none()) {
        let format = attribute(&found.xml, &["target", "format"], "type")?;
        driver.kind = Some(format.and_then(|format| format.parse().ok()).unwrap_or(StorageFormat::Raw));
    }
    Ok(())
}

fn kind_of(number: i8, pool: &str) -> Result<StorageKind> {
    let (word, kind) = usize::try_from(number).ok().and_then(|index| KINDS.get(index)).copied().unwrap_or(("unknown", None));
    kind.ok_or_else(|| {
        let message = format!("unexpected storage volume type '{word}' for storage pool type '{pool}'");
        Error::internal(message).in_area(Area::None)
    })
}

fn unsupported(message: String) -> Error {
    Error::new(Code::ConfigUnsupported, message).in_area(Area::None)
}

/// An attribute of the element that `path` leads to from the root.
fn attribute(text: &str, path: &[&str], name: &str) -> Result<Option<String>> {
    let document = xmlform::Document::parse(text, &[], xmlform::ParseFlags::NONE).map_err(domxml::Error::from)?;
    let element = path.iter().try_fold(document.root(), |node, name| node.child(name));
    Ok(element.and_then(|node| node.attr(name)).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(pool: &str, kind: i8, more: &str) -> Result<Disk> {
        let text = format!(
            "<domain type='qemu'><name>a</name><devices><disk type='volume' device='disk'><driver name='qemu'/>\
             <source pool='p' volume='v' {more}/><target dev='vda'/></disk></devices></domain>"
        );
        let mut disk = domxml::Domain::parse(&text, domxml::ParseFlags::INACTIVE)?.devices.disks.remove(0);
        let found = peers::VolumePlace {
            path: "/p/v".to_owned(),
            kind,
            pool_xml: format!("<pool type='{pool}'><name>p</name></pool>"),
            xml: "<volume><target><format type='qcow2'/></target></volume>".to_owned(),
        };
        settle(&mut disk, found).map(|()| disk)
    }

    #[test]
    fn the_pool_says_what_a_volume_is() {
        // The pool, the kind of the volume, the mode, and what the disk is then, or the error's words.
        let table = [
            ("dir", 0, "", Ok(StorageKind::File)),
            ("logical", 1, "", Ok(StorageKind::Block)),
            ("fs", 2, "", Ok(StorageKind::Dir)),
            ("iscsi", 1, "", Ok(StorageKind::Block)),
            ("iscsi", 1, "mode='host'", Ok(StorageKind::Block)),
            ("iscsi", 1, "mode='direct'", Err("mode 'direct'")),
            ("dir", 0, "mode='host'", Err("only valid when storage pool is of iscsi type")),
            ("netfs", 3, "", Err("unexpected storage volume type 'network' for storage pool type 'netfs'")),
            ("rbd", 3, "", Err("using 'rbd' pools")),
        ];
        for (pool, kind, mode, expected) in table {
            match (settled(pool, kind, mode), expected) {
                (Ok(disk), Ok(kind)) => {
                    let place = disk.source.unwrap().place;
                    assert_eq!((place.kind, place.path.as_deref()), (Some(kind), Some("/p/v")), "{pool}");
                    assert_eq!(disk.driver.unwrap().kind, Some(StorageFormat::Qcow2));
                }
                (Err(error), Err(words)) => assert!(error.message.contains(words), "{pool}: {error}"),
                (other, _) => panic!("{pool}: {:?}", other.err()),
            }
        }
    }
}
