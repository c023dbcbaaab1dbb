//! What of a document a guest has to hold, and what that is in virtlockd's terms.
//!
//! Which devices make claims is pure; an LVM volume or a SCSI disk that is told apart by what it is and not by its path is
//! asked of the host.

use std::{path::Path, time::Duration};

use domxml::{
    Domain,
    devices::{Disk, Lease, StorageKind},
};
use sha2::{Digest, Sha256};

use crate::{
    config::LockdConfig,
    error::{Area, Code, Error, Result},
    ops::host::programs,
    peers::Resource,
    qemu::Helper,
};

/// Below it are the host's own devices.
const DEVICES: &str = "/dev";
/// Tells LVM volumes apart.
const LVS: (&str, &[&str]) = (
    "lvs",
    &["--noheadings", "--unbuffered", "--nosuffix", "--options", "uuid"],
);
/// Tells SCSI disks apart.
const SCSI_ID: (&str, &[&str]) = (
    "/lib/udev/scsi_id",
    &["--replace-whitespace", "--whitelisted", "--device"],
);
/// How long the host may take to say which device it is.
const ASKING: Duration = Duration::from_secs(10);

/// Something that nobody else may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// An image.
    Image {
        /// The file or device.
        path: String,
        /// Others may write to it, too.
        shared: bool,
    },
    /// A lease that the document names.
    Lease(Resource),
}

/// The claims of a document.
///
/// # Errors
/// `ConfigUnsupported` for a disk without the lease that it must have, `Internal` for a lease that is no such thing.
pub(crate) fn of_document(config: &LockdConfig, document: &Domain) -> Result<Vec<Claim>> {
    let devices = &document.devices;
    let images: Vec<Claim> = devices.disks.iter().filter_map(of_disk).collect();
    let mut claims = devices.leases.iter().map(of_lease).collect::<Result<Vec<_>>>()?;
    if config.auto_disk_leases {
        claims.extend(images);
    } else if claims.is_empty()
        && config.require_lease_for_disks
        && images
            .iter()
            .any(|i| matches!(i, Claim::Image { shared: false, .. }))
    {
        let message = "Read/write, exclusive access, disks were present, but no leases specified";
        return Err(Error::new(Code::ConfigUnsupported, message).in_area(Area::Locking));
    }
    Ok(claims)
}

/// A disk that the guest can write to, and that is a file or a device of the host.
pub(crate) fn of_disk(disk: &Disk) -> Option<Claim> {
    let source = disk.source.as_ref().filter(|source| source.fdgroup.is_none())?;
    let (kind, source) = source.located(disk.kind);
    let path = match kind {
        StorageKind::File => source.file.as_deref(),
        StorageKind::Block => source.dev.as_deref(),
        StorageKind::Dir => source.dir.as_deref(),
        _ => None,
    };
    let path = path.filter(|path| !path.is_empty() && !disk.readonly)?;
    Some(Claim::Image {
        path: path.to_owned(),
        shared: disk.shareable,
    })
}

/// # Errors
/// `Internal` if it has no name or place, or is not a file as a whole.
pub(crate) fn of_lease(lease: &Lease) -> Result<Claim> {
    let internal = |message: &'static str| Error::internal(message).in_area(Area::Locking);
    let target = lease.target.as_ref();
    if target.and_then(|t| t.offset).unwrap_or(0) != 0 {
        return Err(internal("Offset must be zero for this lock manager"));
    }
    let path = target
        .and_then(|t| t.path.as_deref())
        .ok_or_else(|| internal("Missing path parameter for lease resource"))?;
    let name = lease
        .key
        .clone()
        .ok_or_else(|| internal("Missing key of lease resource"))?;
    let lockspace = match &lease.lockspace {
        Some(area) => format!("{path}/{area}"),
        None => path.to_owned(),
    };
    Ok(Claim::Lease(Resource {
        lockspace,
        name,
        shared: false,
        create: false,
    }))
}

/// What virtlockd knows a claim by; none: it needs no lease.
pub(crate) async fn resource(config: &LockdConfig, claim: &Claim) -> Option<Resource> {
    let (path, shared) = match claim {
        Claim::Lease(resource) => return Some(resource.clone()),
        Claim::Image { .. } if !config.auto_disk_leases => return None,
        Claim::Image { path, shared } => (path, *shared),
    };
    let stand_in = |dir: &Path, name| Resource {
        lockspace: dir.to_string_lossy().into_owned(),
        name,
        shared,
        create: true,
    };
    if path.starts_with(DEVICES) {
        for (dir, asked) in [(&config.lvm_dir, LVS), (&config.scsi_dir, SCSI_ID)] {
            let Some(dir) = dir else { continue };
            if let Some(key) = ask(asked, path).await {
                return Some(stand_in(dir, key));
            }
        }
    }
    Some(match &config.file_dir {
        Some(dir) => stand_in(dir, hash(path)),
        None => Resource {
            lockspace: String::new(),
            name: path.clone(),
            shared,
            create: false,
        },
    })
}

/// A path as the name of a file.
fn hash(path: &str) -> String {
    Sha256::digest(path.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The first word that a program says of a device; none if it does not know it.
async fn ask((program, arguments): (&'static str, &[&str]), device: &str) -> Option<String> {
    let arguments = arguments
        .iter()
        .copied()
        .chain([device])
        .map(str::to_owned)
        .collect();
    let helper = Helper::new(&programs::find(program, &[])?, None);
    match helper.run(arguments, ASKING).await {
        Ok(ended) if ended.status == Some(0) => first_word(&ended.words),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(program, device, %error, "it can't be asked which device this is; its path stands for it");
            None
        }
    }
}

fn first_word(words: &str) -> Option<String> {
    words.split_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> LockdConfig {
        let document =
            crate::config::Document::from_text(&crate::config::LOCKD, Path::new("/x.conf"), text).unwrap();
        LockdConfig::from_document(&document)
    }

    fn document(devices: &str) -> Domain {
        let text = format!(
            "<domain type='qemu'><name>a</name><os><type>hvm</type></os><devices>{devices}</devices></domain>"
        );
        Domain::parse(&text, domxml::ParseFlags::NONE).unwrap()
    }

    async fn shown(conf: &str, devices: &str) -> String {
        let config = config(conf);
        let claims = match of_document(&config, &document(devices)) {
            Ok(claims) => claims,
            Err(error) => return error.to_string(),
        };
        let mut shown = Vec::new();
        for claim in &claims {
            let Some(Resource {
                lockspace,
                name,
                shared,
                create,
            }) = resource(&config, claim).await
            else {
                continue;
            };
            let mark = |is: bool, word: &'static str| if is { word } else { "" };
            shown.push(format!(
                "{lockspace}:{name}{}{}",
                mark(shared, " shared"),
                mark(create, " create")
            ));
        }
        shown.join(", ")
    }

    #[tokio::test]
    async fn what_a_guest_has_to_hold() {
        let disk = |source: &str, more: &str| format!("<disk {source}<target dev='vda'/>{more}</disk>");
        let file = "type='file'><source file='/i/a'/>";
        let lease = "<lease><lockspace>area</lockspace><key>k</key><target path='/l'/></lease>";
        let two = format!("{}{lease}", disk(file, ""));
        let (no_auto, off) = (
            "auto_disk_leases = 0",
            "auto_disk_leases = 0; require_lease_for_disks = 0",
        );
        let refused = "unsupported configuration: Read/write, exclusive access, disks were present, but no leases specified";
        let cases = [
            ("", disk(file, ""), ":/i/a"),
            ("", disk(file, "<shareable/>"), ":/i/a shared"),
            ("", disk(file, "<readonly/>"), ""),
            ("", disk("type='block'><source dev='/dev/x'/>", ""), ":/dev/x"),
            (
                "lvm_lockspace_dir = \"/lvm\"",
                disk("type='block'><source dev='/dev/null'/>", ""),
                ":/dev/null",
            ),
            ("", disk("type='dir'><source dir='/d'/>", ""), ":/d"),
            (
                "",
                disk(
                    "type='network'><source protocol='nbd' name='n'><host name='h'/></source>",
                    "",
                ),
                "",
            ),
            (
                "",
                "<disk type='file' device='floppy'><target dev='fda'/></disk>".to_owned(),
                "",
            ),
            ("", two.clone(), "/l/area:k, :/i/a"),
            (no_auto, two, "/l/area:k"),
            (no_auto, disk(file, ""), refused),
            (no_auto, disk(file, "<shareable/>"), ""),
            (no_auto, disk(file, "<readonly/>"), ""),
            (off, disk(file, ""), ""),
            (
                "file_lockspace_dir = \"/files\"",
                disk(file, ""),
                "/files:23eae693aa852e5334202ecb30cff980e865016620ee51c87ad4e50b81a517e6 create",
            ),
            (
                "",
                lease.replace("'/l'", "'/l' offset='512'"),
                "internal error: Offset must be zero for this lock manager",
            ),
            (
                "",
                "<lease><key>k</key></lease>".to_owned(),
                "internal error: Missing path parameter for lease resource",
            ),
        ];
        for (conf, devices, expected) in cases {
            assert_eq!(shown(conf, &devices).await, expected, "{conf}: {devices}");
        }
    }

    #[test]
    fn a_device_is_what_the_program_says_first() {
        assert_eq!(
            first_word("  06UgP5-2rhb-w3Bo\n").as_deref(),
            Some("06UgP5-2rhb-w3Bo")
        );
        assert_eq!(first_word(" \n"), None);
    }
}
