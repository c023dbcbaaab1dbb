//! Disks that are volumes of storage pools: where the volumes lie.
//!
//! Called by `start` before the chains of images are followed. A pool is asked at each start: where it lies may change.

use domxml::devices::{Auth, Disk, StorageFormat, StorageHost, StorageKind, VolumePlace};
use xmlform::Xml;

use crate::{
    error::{Area, Code, Error, Result},
    ops::Driver,
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
pub(crate) async fn find(driver: &Driver, document: &mut domxml::Domain) -> Result<()> {
    for disk in &mut document.devices.disks {
        find_one(driver, disk).await?;
    }
    Ok(())
}

/// Finds the volume of one disk, if it is one, and notes in the disk where it is.
///
/// # Errors
/// As [`find`].
pub(crate) async fn find_one(driver: &Driver, disk: &mut Disk) -> Result<()> {
    let source = disk.source.as_ref().filter(|_| disk.kind == StorageKind::Volume);
    let Some((Some(pool), Some(volume))) = source.map(|s| (s.pool.clone(), s.volume.clone())) else {
        // No volume, or a drive that is empty.
        return Ok(());
    };
    let found = driver.peers.storage().await?.find(&pool, &volume).await?;
    settle(disk, found)
}

/// Notes where a volume was found.
fn settle(disk: &mut Disk, found: peers::VolumePlace) -> Result<()> {
    let pool = attribute(&found.pool_xml, &[], "type")?.unwrap_or_default();
    let Some(source) = &mut disk.source else {
        return Ok(());
    };
    let kind = match pool.as_str() {
        "iscsi" if source.mode.is_none_or(|mode| mode.as_str() == "host") => StorageKind::Block,
        "iscsi" => {
            source.place = target(&found)?;
            return Ok(());
        }
        local if LOCAL_POOLS.contains(&local) => {
            if source.mode.is_some() {
                let message = "disk source mode is only valid when storage pool is of iscsi type";
                return Err(Error::new(Code::Xml, message).in_area(Area::None));
            }
            kind_of(found.kind, local)?
        }
        other => {
            return Err(unsupported(format!(
                "using '{other}' pools for backing 'volume' disks isn't yet supported"
            )));
        }
    };
    source.place = VolumePlace {
        kind: Some(kind),
        path: Some(found.path),
        ..VolumePlace::default()
    };
    if let Some(driver) = disk.driver.as_mut().filter(|d| d.kind.is_none()) {
        let format = attribute(&found.xml, &["target", "format"], "type")?;
        driver.kind = Some(
            format
                .and_then(|format| format.parse().ok())
                .unwrap_or(StorageFormat::Raw),
        );
    }
    Ok(())
}

/// A unit of an iSCSI target that QEMU opens itself, as its pool does.
fn target(found: &peers::VolumePlace) -> Result<VolumePlace> {
    let document = xmlform::Document::parse(&found.pool_xml, &[], xmlform::ParseFlags::NONE)
        .map_err(domxml::Error::from)?;
    let source = document.root().child("source");
    let name = source
        .and_then(|source| source.child("device")?.attr("path"))
        .unwrap_or_default();
    let unit = found.name.rsplit(':').next().unwrap_or_default();
    if !found.name.starts_with("unit:") || unit.parse::<u32>().is_err() {
        return Err(
            Error::internal(format!("Could not parse unit name '{}'", found.name)).in_area(Area::None),
        );
    }
    let read = |error: xmlform::Error| Error::from(domxml::Error::from(error));
    let hosts = source
        .into_iter()
        .flat_map(|source| source.children())
        .filter(|child| child.name() == "host");
    let hosts = hosts
        .map(StorageHost::read)
        .collect::<std::result::Result<_, _>>()
        .map_err(read)?;
    let auth = source
        .and_then(|source| source.child("auth"))
        .map(Auth::read)
        .transpose()
        .map_err(read)?;
    Ok(VolumePlace {
        kind: Some(StorageKind::Network),
        path: Some(format!("{name}/{unit}")),
        hosts,
        auth,
    })
}

fn kind_of(number: i8, pool: &str) -> Result<StorageKind> {
    let (word, kind) = usize::try_from(number)
        .ok()
        .and_then(|index| KINDS.get(index))
        .copied()
        .unwrap_or(("unknown", None));
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
    let document =
        xmlform::Document::parse(text, &[], xmlform::ParseFlags::NONE).map_err(domxml::Error::from)?;
    let element = path
        .iter()
        .try_fold(document.root(), |node, name| node.child(name));
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
        let mut disk = domxml::Domain::parse(&text, domxml::ParseFlags::INACTIVE)?
            .devices
            .disks
            .remove(0);
        let found = peers::VolumePlace {
            name: "unit:0:0:3".to_owned(),
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
            (
                "dir",
                0,
                "mode='host'",
                Err("only valid when storage pool is of iscsi type"),
            ),
            (
                "netfs",
                3,
                "",
                Err("unexpected storage volume type 'network' for storage pool type 'netfs'"),
            ),
            ("rbd", 3, "", Err("using 'rbd' pools")),
        ];
        for (pool, kind, mode, expected) in table {
            match (settled(pool, kind, mode), expected) {
                (Ok(disk), Ok(kind)) => {
                    let place = disk.source.unwrap().place;
                    assert_eq!(
                        (place.kind, place.path.as_deref()),
                        (Some(kind), Some("/p/v")),
                        "{pool}"
                    );
                    assert_eq!(disk.driver.unwrap().kind, Some(StorageFormat::Qcow2));
                }
                (Err(error), Err(words)) => assert!(error.message.contains(words), "{pool}: {error}"),
                (other, _) => panic!("{pool}: {:?}", other.err()),
            }
        }
    }

    #[test]
    fn a_unit_that_qemu_opens_itself_is_one_of_the_pools_target() {
        let pool = "<pool type='iscsi'><name>p</name><source><host name='store' port='3261'/><device path='iqn.2026-11.x:t'/>\
             <auth type='chap' username='me'><secret usage='key'/></auth></source></pool>";
        let found = |name: &str| peers::VolumePlace {
            name: name.to_owned(),
            path: "/dev/x".to_owned(),
            kind: 1,
            pool_xml: pool.to_owned(),
            xml: String::new(),
        };
        let source = domxml::devices::Source {
            place: target(&found("unit:0:0:3")).unwrap(),
            ..Default::default()
        };
        let (kind, opened) = source.located(StorageKind::Volume);
        assert_eq!(
            (kind, opened.protocol.map(|p| p.as_str())),
            (StorageKind::Network, Some("iscsi"))
        );
        let host = &opened.hosts[0];
        assert_eq!(
            (opened.name.as_deref(), host.name.as_deref(), host.port),
            (Some("iqn.2026-11.x:t/3"), Some("store"), Some(3261))
        );
        let auth = opened.auth.as_ref().unwrap();
        assert_eq!(
            (
                auth.username.as_deref(),
                auth.secret.as_ref().unwrap().usage.as_deref()
            ),
            (Some("me"), Some("key"))
        );
        for name in ["luks", "unit:0:0:x", "unit", ""] {
            assert!(
                target(&found(name))
                    .unwrap_err()
                    .message
                    .contains("Could not parse unit name"),
                "{name}"
            );
        }
    }
}
