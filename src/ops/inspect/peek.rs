//! A look into a guest's memory, and into its disks as the host has them.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use domxml::devices::{Disk, StorageFormat, StorageKind};
use qmp::commands;

use crate::{
    domain::{
        Domain, View,
        jobs::{Kind, Want},
    },
    error::{Area, Code, Error, Result},
    ops::{Driver, host::scratch::Scratch, run::react},
};

/// Most bytes of one look, as libvirt's protocol has it.
pub const MOST: u32 = 4 << 20;

/// Whose addresses are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// Those of the first CPU's address space.
    Virtual,
    /// Those of the machine.
    Physical,
}

/// Reads a running guest's memory.
///
/// # Errors
/// `OperationInvalid` if it does not run, `InvalidArg` for more than [`MOST`] bytes, what QEMU refuses.
pub async fn memory(
    driver: &Arc<Driver>,
    domain: &Domain,
    which: Addresses,
    start: u64,
    size: u32,
) -> Result<Vec<u8>> {
    bounded(size)?;
    domain.view().running()?;
    let job = domain.job(Want::Plain(Kind::Query)).await?;
    let view = job.view();
    let (guest, run) = (driver.guests.of(&view)?, view.running()?);
    let file = Scratch::new(driver, run, "mem").await?;
    // The monitor counts with a sign.
    let (val, size, filename) = (start.cast_signed(), u64::from(size), file.name());
    match which {
        Addresses::Virtual => guest.execute(commands::Memsave { val, size, filename }).await?,
        Addresses::Physical => guest.execute(commands::Pmemsave { val, size, filename }).await?,
    };
    file.read(size).await
}

/// Reads a disk's image, as the host sees it.
///
/// # Errors
/// `InvalidArg` if there is no such disk, or not that much of it; `OperationUnsupported` if the image is not raw, `System`
/// if it can't be read.
pub async fn disk(view: &View, name: &str, offset: u64, size: u32) -> Result<Vec<u8>> {
    bounded(size)?;
    let document = view
        .current()
        .ok_or_else(|| Error::internal("the domain has no document"))?
        .domain()?;
    let disk = find(&document.devices.disks, name)?;
    if disk.kind == StorageKind::VhostUser {
        let text = "peeking is not supported for vhostuser disk";
        return Err(Error::new(Code::OperationUnsupported, text));
    }
    let source = local(disk)?;
    let name = name.to_owned();
    crate::blocking::file("reading a disk's image", move || {
        read(&source, &name, offset, size)
    })
    .await
}

fn bounded(size: u32) -> Result<()> {
    match size > MOST {
        true => Err(
            Error::internal(format!("size {size} is more than the maximum of {MOST} bytes"))
                .in_area(Area::Rpc),
        ),
        false => Ok(()),
    }
}

/// What stopped writing to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// The host's storage is full.
    NoSpace,
    /// Something else.
    Unspecified,
}

/// How many disks a running guest has, and those on which an error stopped it, each with its target.
///
/// # Errors
/// `OperationInvalid` if it does not run; what QEMU refuses.
pub async fn disk_errors(driver: &Arc<Driver>, domain: &Domain) -> Result<(usize, Vec<(String, DiskError)>)> {
    domain.view().running()?;
    let job = domain.job(Want::Plain(Kind::Query)).await?;
    let view = job.view();
    let (guest, run) = (driver.guests.of(&view)?, view.running()?);
    let backends = guest.execute(commands::QueryBlock {}).await?;
    let error_of = |disk: &Disk| {
        let alias = disk.info.alias.as_deref()?;
        let backend = backends.iter().find(|backend| {
            backend
                .qdev
                .as_deref()
                .is_some_and(|qdev| react::alias_of(qdev) == alias)
        })?;
        let error = match backend.io_status.as_deref()? {
            "nospace" => DiskError::NoSpace,
            "failed" => DiskError::Unspecified,
            _ => return None,
        };
        Some((disk.target.dev.clone(), error))
    };
    let disks = &run.document.domain.devices.disks;
    Ok((disks.len(), disks.iter().filter_map(error_of).collect()))
}

/// The disk with this target or source.
///
/// # Errors
/// `InvalidArg` if there is none.
pub(crate) fn find<'a>(disks: &'a [Disk], name: &str) -> Result<&'a Disk> {
    let is_it =
        |disk: &&Disk| disk.target.dev == name || image(disk).is_some_and(|path| path == Path::new(name));
    disks
        .iter()
        .find(is_it)
        .ok_or_else(|| Error::argument(format!("disk '{name}' not found in domain")))
}

/// The file or device that is the disk's image.
fn local(disk: &Disk) -> Result<PathBuf> {
    let path = image(disk);
    let format = disk.driver.as_ref().and_then(|driver| driver.kind);
    let shown = if path.is_none() {
        "none"
    } else {
        format.map_or("none", |format| format.as_str())
    };
    let unsupported = |message: String| Err(Error::new(Code::OperationUnsupported, message));
    if format != Some(StorageFormat::Raw) || path.is_none() && disk.kind != StorageKind::Network {
        return unsupported(format!(
            "peeking is only supported for disk with 'raw' format not '{shown}'"
        ));
    }
    if disk
        .source
        .as_ref()
        .is_some_and(|source| source.fdgroup.is_some())
    {
        return unsupported("peeking is not supported for FD passed images".to_owned());
    }
    match path {
        Some(path) => Ok(path),
        None if disk.kind == StorageKind::Network => {
            let protocol = disk.source.as_ref().and_then(|source| source.protocol);
            let protocol = protocol.map_or("none", |protocol| protocol.as_str());
            let text = format!("missing storage backend for network files using {protocol} protocol");
            Err(Error::internal(text).in_area(Area::Storage))
        }
        None => unsupported(format!(
            "peeking into disk '{}' of type '{}' is not supported yet",
            disk.target.dev,
            disk.kind.as_str()
        )),
    }
}

fn image(disk: &Disk) -> Option<PathBuf> {
    crate::ops::holdings::storage::chain::local_path(disk.kind, disk.source.as_ref())
}

fn read(path: &Path, name: &str, offset: u64, size: u32) -> Result<Vec<u8>> {
    let failed = |what: &str, error: io::Error| {
        Error::system(format_args!("{what} '{}'", path.display()), error).in_area(Area::Storage)
    };
    let file = File::open(path).map_err(|error| failed("Failed to open file", error))?;
    let mut bytes = vec![0; size as usize];
    if size == 0 {
        return Err(failed(
            "cannot read header",
            io::Error::from_raw_os_error(nix::libc::EINVAL),
        ));
    }
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset.saturating_add(filled as u64)) {
            Ok(0) => {
                return Err(Error::argument(format!(
                    "'{name}' starting from {offset} has only {filled} bytes available"
                )));
            }
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed("cannot read header", error)),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disks(xml: &str) -> Vec<Disk> {
        let text = format!("<domain type='qemu'><name>a</name><devices>{xml}</devices></domain>");
        domxml::Domain::parse(&text, domxml::ParseFlags::INACTIVE)
            .unwrap()
            .devices
            .disks
    }

    #[test]
    fn an_image_is_read_where_it_is_raw_and_long_enough() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raw");
        std::fs::write(&path, b"0123456789").unwrap();
        type Expected = Result<&'static [u8], &'static str>;
        let table: [(u64, u32, Expected); 5] = [
            (0, 4, Ok(b"0123")),
            (6, 4, Ok(b"6789")),
            (7, 4, Err("'vdb' starting from 7 has only 3 bytes available")),
            (u64::MAX, 4, Err("")),
            (0, 0, Err("Invalid argument")),
        ];
        for (offset, size, expected) in table {
            match (read(&path, "vdb", offset, size), expected) {
                (Ok(bytes), Ok(expected)) => assert_eq!(bytes, expected),
                (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
                (other, _) => panic!("{offset} {size}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_disk_is_found_by_target_and_by_source() {
        let disks = disks(
            "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/a/raw'/><target dev='vda'/></disk>\
             <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/a/cow'/><target dev='vdb'/></disk>\
             <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><target dev='sda'/></disk>\
             <disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd'><host name='h'/></source><target dev='vdc'/></disk>",
        );
        let said = |name: &str| match find(&disks, name).and_then(local) {
            Ok(path) => path.display().to_string(),
            Err(error) => error.message.to_string(),
        };
        assert_eq!(said("vda"), "/a/raw");
        assert_eq!(said("/a/raw"), "/a/raw");
        assert!(said("vdb").ends_with("not 'qcow2'") && said("sda").ends_with("not 'none'"));
        assert!(
            said("vdc").contains("missing storage backend for network files using nbd protocol"),
            "{}",
            said("vdc")
        );
        assert!(said("vdz").contains("disk 'vdz' not found in domain"));
    }
}
