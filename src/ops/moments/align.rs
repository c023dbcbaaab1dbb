//! How each disk of a guest takes part in a snapshot, where the client's document does not say it. Pure but for one
//! question about files.

use domxml::{
    devices::{Disk, SnapshotMode, StorageKind},
    moment::{Snapshot, SnapshotDisk},
};

use super::mode_of;
use crate::{
    error::{Area, Code, Error, Result},
    ops::holdings::storage::chain::local_path,
};

/// An error about a snapshot's document.
pub(crate) fn unfit(message: impl Into<String>) -> Error {
    Error::new(Code::ConfigUnsupported, message.into()).in_area(Area::Snapshot)
}

/// Says of every disk of the guest how it takes part, in the guest's order: as the document says, as the disk itself
/// says, or by default. Where the default is internal, all have to be. `is_file` tells regular files from others.
///
/// # Errors
/// `ConfigUnsupported`: the document names a disk that there is not, or twice, or wants something else of one.
pub(crate) fn align(
    snapshot: &mut Snapshot,
    disks: &[Disk],
    default: SnapshotMode,
    is_file: &dyn Fn(&str) -> bool,
) -> Result<()> {
    if snapshot.disks.len() > disks.len() {
        return Err(unfit("too many disk snapshot requests for domain"));
    }
    let mut named: Vec<Option<SnapshotDisk>> = vec![None; disks.len()];
    for mut given in std::mem::take(&mut snapshot.disks) {
        let at =
            position(disks, &given.name).ok_or_else(|| unfit(format!("no disk named '{}'", given.name)))?;
        if named[at].is_some() {
            return Err(unfit(format!("disk '{}' specified twice", given.name)));
        }
        settle(&mut given, &disks[at], default)?;
        named[at] = Some(given);
    }
    let all = named.into_iter().zip(disks);
    snapshot.disks = all
        .map(|(given, disk)| given.unwrap_or_else(|| unnamed(disk, default)))
        .collect();
    name_images(snapshot, disks, is_file)
}

fn position(disks: &[Disk], name: &str) -> Option<usize> {
    let by_target = disks.iter().position(|disk| disk.target.dev == name);
    let has_path = |disk: &Disk| path_of(disk).is_some_and(|path| path == name);
    by_target.or_else(|| disks.iter().position(has_path))
}

fn path_of(disk: &Disk) -> Option<String> {
    local_path(disk.kind, disk.source.as_ref()).map(|path| path.to_string_lossy().into_owned())
}

/// A disk that the document names.
fn settle(given: &mut SnapshotDisk, disk: &Disk, default: SnapshotMode) -> Result<()> {
    let all_alike = default == SnapshotMode::Internal;
    let own = mode_of(disk);
    let named = given.name.clone();
    match given.mode {
        None => {
            let own = own.filter(|own| !all_alike || *own == SnapshotMode::No);
            given.mode = Some(own.unwrap_or(default));
        }
        Some(mode) => {
            let both_no = mode == SnapshotMode::No && own == Some(SnapshotMode::No);
            if all_alike && mode != default && !both_no {
                return Err(unfit(format!(
                    "disk '{named}' must use snapshot mode '{}'",
                    default.as_str()
                )));
            }
        }
    }
    if let Some(path) = given
        .path()
        .filter(|_| given.mode != Some(SnapshotMode::External))
    {
        return Err(unfit(format!(
            "file '{path}' for disk '{named}' requires use of external snapshot mode"
        )));
    }
    given.name.clone_from(&disk.target.dev);
    Ok(())
}

/// A disk that the document does not name.
fn unnamed(disk: &Disk, default: SnapshotMode) -> SnapshotDisk {
    let mode = match qemu_plan::block::is_empty(disk) {
        true => SnapshotMode::No,
        false => mode_of(disk).unwrap_or(default),
    };
    SnapshotDisk {
        name: disk.target.dev.clone(),
        mode: Some(mode),
        ..SnapshotDisk::default()
    }
}

/// Names the new images that the document does not name: after the disk's own and the snapshot.
fn name_images(snapshot: &mut Snapshot, disks: &[Disk], is_file: &dyn Fn(&str) -> bool) -> Result<()> {
    for (at, of_guest) in disks.iter().enumerate().take(snapshot.disks.len()) {
        let disk = &snapshot.disks[at];
        if disk.mode != Some(SnapshotMode::External) || disk.path().is_some() {
            continue;
        }
        let target = disk.name.clone();
        if disk.kind != StorageKind::File {
            return Err(unfit(format!(
                "cannot generate external snapshot name for disk '{target}' on a '{}' device",
                disk.kind.as_str()
            )));
        }
        let path = path_of(of_guest).ok_or_else(|| {
            unfit(format!(
                "cannot generate external snapshot name for disk '{target}' without source"
            ))
        })?;
        if !is_file(&path) {
            return Err(unfit(format!(
                "source for disk '{target}' is not a regular file; refusing to generate external snapshot name"
            )));
        }
        let name = image_name(&path, &snapshot.moment.name);
        let others = snapshot.disks.iter().find(|other| other.path() == Some(&name));
        if let Some(other) = others {
            return Err(unfit(format!(
                "cannot generate external snapshot name for disk '{target}': collision with disk '{}'",
                other.name
            )));
        }
        snapshot.disks[at].source.get_or_insert_default().file = Some(name);
    }
    Ok(())
}

/// The path with the suffix of its file's name replaced.
fn image_name(path: &str, suffix: &str) -> String {
    let directory = path.rfind('/').map_or(0, |at| at + 1);
    let stem = match path[directory..].rfind('.') {
        Some(dot) => &path[..directory + dot],
        None => path,
    };
    format!("{stem}.{suffix}")
}

#[cfg(test)]
mod tests {
    use domxml::moment::Given;

    use super::*;

    fn disks() -> Vec<Disk> {
        let disk = |target: &str, inside: &str, rest: &str| {
            format!("<disk type='file' device='disk'>{inside}<target dev='{target}'/>{rest}</disk>")
        };
        let text = format!(
            "<domain type='qemu'><name>a</name><devices>{}{}{}{}</devices></domain>",
            disk("vda", "<source file='/i/a.qcow2'/>", ""),
            disk("vdb", "<source file='/i.d/b'/>", ""),
            disk("vdc", "<source file='/i/c.raw'/>", "<readonly/>"),
            disk("sda", "", ""),
        );
        let domain = domxml::Domain::parse(&text, domxml::ParseFlags::INACTIVE).unwrap();
        domain.devices.disks
    }

    fn aligned(disks_said: &str, default: SnapshotMode) -> Result<String> {
        let text = format!("<domainsnapshot><name>s</name><disks>{disks_said}</disks></domainsnapshot>");
        let mut snapshot = Snapshot::given(&text, Given::default())?;
        align(&mut snapshot, &disks(), default, &|path| path.starts_with("/i"))?;
        let told = snapshot.disks.iter().map(|disk| {
            let mode = disk.mode.map_or("", SnapshotMode::as_str);
            format!(
                "{}={mode}{}",
                disk.name,
                disk.path().map(|p| format!(":{p}")).unwrap_or_default()
            )
        });
        Ok(told.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn every_disk_is_told_how_it_takes_part() {
        use SnapshotMode::{External, Internal};
        let cases = [
            ("", Internal, "vda=internal vdb=internal vdc=no sda=no"),
            (
                "",
                External,
                "vda=external:/i/a.s vdb=external:/i.d/b.s vdc=no sda=no",
            ),
            (
                "<disk name='/i.d/b' snapshot='no'/>",
                External,
                "vda=external:/i/a.s vdb=no vdc=no sda=no",
            ),
            (
                "<disk name='vdc' snapshot='no'/>",
                Internal,
                "vda=internal vdb=internal vdc=no sda=no",
            ),
            (
                "<disk name='vda'><source file='/x'/></disk>",
                External,
                "vda=external:/x vdb=external:/i.d/b.s vdc=no sda=no",
            ),
        ];
        for (said, default, told) in cases {
            assert_eq!(aligned(said, default).unwrap(), told, "{said}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        use SnapshotMode::{External, Internal};
        let cases = [
            ("<disk name='vdz'/>", Internal, "no disk named 'vdz'"),
            (
                "<disk name='vda'/><disk name='/i/a.qcow2'/>",
                Internal,
                "disk '/i/a.qcow2' specified twice",
            ),
            (
                "<disk name='vda' snapshot='no'/>",
                Internal,
                "disk 'vda' must use snapshot mode 'internal'",
            ),
            (
                "<disk name='vda' snapshot='internal'><source file='/x'/></disk>",
                Internal,
                "file '/x' for disk 'vda' requires use of external snapshot mode",
            ),
            (
                "<disk name='vda'><source file='/i.d/b.s'/></disk>",
                External,
                "cannot generate external snapshot name for disk 'vdb': collision with disk 'vda'",
            ),
            (
                "<disk name='sda' snapshot='external'/>",
                External,
                "cannot generate external snapshot name for disk 'sda' without source",
            ),
            (
                "<disk name='vda' type='block' snapshot='external'/>",
                External,
                "cannot generate external snapshot name for disk 'vda' on a 'block' device",
            ),
        ];
        for (said, default, message) in cases {
            assert_eq!(aligned(said, default).unwrap_err().message, message, "{said}");
        }
        let many = "<disk name='a'/>".repeat(5);
        assert_eq!(
            aligned(&many, Internal).unwrap_err().message,
            "too many disk snapshot requests for domain"
        );
    }
}
