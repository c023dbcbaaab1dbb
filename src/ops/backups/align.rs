//! Completes the document of a backup by the disks that the guest has. Pure.

use domxml::{
    devices::{Disk, Source, StorageKind, YesNo},
    moment::{Backup, BackupDisk, BackupExtent},
};
use qemu_plan::block::{self, Chain};

use crate::error::{Area, Code, Error, Result};

fn refused(said: String) -> Error {
    Error::new(Code::ConfigUnsupported, said).in_area(Area::Domain)
}

/// Says of each disk of a guest whether it takes part, how much of it is copied, and where to; `suffix` ends the names of
/// files that the document does not name.
///
/// # Errors
/// In libvirt's words and order.
pub(super) fn align(backup: &mut Backup, disks: &[Disk], suffix: &str) -> Result<()> {
    if disks.is_empty() {
        return Err(refused(
            "domain must have at least one disk to perform backup".to_owned(),
        ));
    }
    let given = std::mem::take(&mut backup.disks);
    let all = given.is_empty();
    let mut parts: Vec<Option<BackupDisk>> = vec![None; disks.len()];
    for mut part in given {
        let named = |disk: &Disk| disk.target.dev == part.name;
        let Some(at) = disks.iter().position(named) else {
            return Err(refused(format!("no disk named '{}'", part.name)));
        };
        if parts[at].is_some() {
            return Err(refused(format!("disk '{}' specified twice", part.name)));
        }
        if *part.backup.get_or_insert(YesNo::Yes) == YesNo::Yes {
            set_extent(&mut part, backup.incremental.as_deref())?;
            if block::is_empty(&disks[at]) {
                return Err(refused(format!("disk '{}' has no media", part.name)));
            }
        }
        parts[at] = Some(part);
    }
    let mut aligned = Vec::new();
    for (part, disk) in parts.into_iter().zip(disks) {
        let takes_part = all && !block::is_empty(disk) && !disk.readonly;
        let mut part = match part {
            Some(part) => part,
            None => BackupDisk {
                name: disk.target.dev.clone(),
                backup: Some(takes_part.into()),
                ..BackupDisk::default()
            },
        };
        if part.takes_part() {
            set_extent(&mut part, backup.incremental.as_deref())?;
            set_place(&mut part, (disk, suffix), backup.is_pull())?;
        }
        aligned.push(part);
    }
    backup.disks = aligned;
    Ok(())
}

fn set_extent(part: &mut BackupDisk, since: Option<&str>) -> Result<()> {
    let given = part.incremental.take().or_else(|| since.map(str::to_owned));
    let usual = match given {
        Some(_) => BackupExtent::Incremental,
        None => BackupExtent::Full,
    };
    if *part.backupmode.get_or_insert(usual) == BackupExtent::Full {
        return Ok(());
    }
    if given.is_none() {
        return Err(refused(format!(
            "'incremental' backup mode of disk '{}' requires setting 'incremental' field for disk or backup",
            part.name
        )));
    }
    part.incremental = given;
    Ok(())
}

fn set_place(part: &mut BackupDisk, (disk, suffix): (&Disk, &str), pulls: bool) -> Result<()> {
    let kind = *part.kind.get_or_insert(StorageKind::File);
    let place = match pulls {
        true => &mut part.scratch,
        false => &mut part.target,
    };
    if place.is_some() {
        return Ok(());
    }
    let top = Chain::of(disk).layers.into_iter().next();
    let path = top
        .filter(|top| top.kind == StorageKind::File)
        .and_then(|top| top.path());
    let Some(path) = path.filter(|_| kind == StorageKind::File) else {
        return Err(refused(format!(
            "refusing to generate file name for disk '{}'",
            part.name
        )));
    };
    *place = Some(Source {
        file: Some(format!("{path}.{suffix}")),
        ..Source::default()
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disks() -> Vec<Disk> {
        let text = "<domain type='qemu' id='1'><name>a</name><os><type>hvm</type></os><devices>
            <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/a'/><target dev='vda'/></disk>
            <disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/b'/><target dev='vdb'/></disk>
            <disk type='file' device='disk'><source file='/r'/><target dev='vdc'/><readonly/></disk>
            <disk type='file' device='cdrom'><target dev='sda'/><readonly/></disk></devices></domain>";
        let document = domxml::Domain::parse(text, domxml::ParseFlags::NONE).unwrap();
        document.devices.disks
    }

    fn aligned(text: &str) -> Result<String, String> {
        let mut backup = Backup::given(text).unwrap();
        align(&mut backup, &disks(), "7").map_err(|error| error.message.into_owned())?;
        let lines = backup.format();
        let told = lines
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("<disk ") || line.contains("file="));
        Ok(told.collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn every_disk_takes_part_or_is_said_not_to() {
        let text = "<domainbackup mode='pull'><disks><disk name='vda'/></disks></domainbackup>";
        let told = "<disk name='vda' backup='yes' type='file' backupmode='full'>
<scratch file='/a.7'/>
<disk name='vdb' backup='no'/>
<disk name='vdc' backup='no'/>
<disk name='sda' backup='no'/>";
        assert_eq!(aligned(text).unwrap(), told);
    }

    #[test]
    fn a_disk_copies_what_was_written_since_its_own_checkpoint_or_that_of_all() {
        let text = "<domainbackup><incremental>c1</incremental><disks>
            <disk name='vda' incremental='c2'/><disk name='vdc' backupmode='full'/></disks></domainbackup>";
        let told = "<disk name='vda' backup='yes' type='file' backupmode='incremental' incremental='c2'>
<target file='/a.7'/>
<disk name='vdb' backup='no'/>
<disk name='vdc' backup='yes' type='file' backupmode='full'>
<target file='/r.7'/>
<disk name='sda' backup='no'/>";
        assert_eq!(aligned(text).unwrap(), told);
    }

    #[test]
    fn what_does_not_fit_the_guest_is_refused_in_libvirts_words() {
        for (inside, said) in [
            ("", "refusing to generate file name for disk 'vdb'"),
            ("<disks><disk name='/a'/></disks>", "no disk named '/a'"),
            (
                "<disks><disk name='vda'/><disk name='vda' backup='no'/></disks>",
                "disk 'vda' specified twice",
            ),
            ("<disks><disk name='sda'/></disks>", "disk 'sda' has no media"),
            (
                "<disks><disk name='vda' backupmode='incremental'/></disks>",
                "'incremental' backup mode of disk 'vda' requires setting 'incremental' field for disk or backup",
            ),
        ] {
            let text = format!("<domainbackup>{inside}</domainbackup>");
            assert_eq!(aligned(&text).unwrap_err(), said, "{inside}");
        }
        let mut backup = Backup::default();
        assert!(align(&mut backup, &[], "7").is_err());
    }
}
