//! What a disk's image is made of: the images below it, read from their own heads.
//!
//! QEMU is told every node of the chain, so the chain is followed before a guest starts, as libvirt does: each image that
//! the document does not describe is asked for its backing file and format. Heads are written by guests: everything read
//! is bounded, and a format that the image claims is believed only where the document or the image above names it.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use domxml::devices::{
    BackingStore, Disk, DiskDevice, Format, Source, SourcePrivate, StartupPolicy, StorageFormat, StorageKind,
};

use super::descriptors::Handed;
use crate::error::{Area, Code, Error, Result};

/// Deepest chain.
const DEPTH_MAX: usize = 200;
/// Longest name of a backing file that qcow2 allows.
const NAME_MAX: usize = 1_023;
/// Bytes of header extensions that are looked at.
const EXTENSIONS_MAX: usize = 64 << 10;
/// Type of the qcow2 header extension that names the backing file's format.
const EXT_BACKING_FORMAT: u32 = 0xE279_2ACA;

/// What an image's head says of the image below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Below {
    /// Its name as written in the head; none if there is nothing below.
    pub file: Option<String>,
    /// Its format as written in the head.
    pub format: Option<String>,
}

/// Follows the chains of all disks of a document and writes them into it. Blocks on files.
///
/// # Errors
/// `System` for an image that can't be opened, `OperationFailed` for a chain that is too deep or a backing format that is
/// not told.
pub fn follow_all(domain: &mut domxml::Domain, as_user: &str, handed: &Handed) -> Result<()> {
    // Of several that can't be opened libvirt names the last disk's.
    for disk in domain.devices.disks.iter_mut().rev() {
        follow(disk, as_user, handed)?;
    }
    Ok(())
}

/// Leaves out images that need not be there and are not: a drive is empty then, another disk is not there at all. Blocks on
/// files. Answers the disk's alias, the path, and whether the drive stays.
pub fn without_missing(domain: &mut domxml::Domain) -> Vec<(String, String, bool)> {
    let mut missing = Vec::new();
    domain.devices.disks.retain_mut(|disk| {
        let source = disk.source.as_ref();
        let optional = source.is_some_and(|s| s.startup_policy == Some(StartupPolicy::Optional));
        let path = opened_path(disk.kind, source).filter(|path| optional && !path.exists());
        let Some(path) = path else {
            return true;
        };
        let is_drive = matches!(disk.device, DiskDevice::Cdrom | DiskDevice::Floppy);
        let alias = disk.info.alias.clone().unwrap_or_default();
        missing.push((alias, path.to_string_lossy().into_owned(), is_drive));
        if is_drive {
            disk.source = None;
        }
        is_drive
    });
    missing
}

/// Follows the chain of one disk. Errors name the user, if one is given, in libvirt's words.
///
/// # Errors
/// As [`follow_all`].
pub fn follow(disk: &mut Disk, as_user: &str, handed: &Handed) -> Result<()> {
    let Some(path) = local_path(disk.kind, disk.source.as_ref()) else {
        return Ok(());
    };
    // Libvirt does not say as whom it opens what is no file.
    let is_file = disk
        .source
        .as_ref()
        .is_some_and(|s| s.located(disk.kind).0 == StorageKind::File);
    let as_user = if is_file { as_user } else { "" };
    let group = disk.source.as_ref().and_then(|source| source.fdgroup.as_deref());
    let mut file = match group {
        Some(group) => handed.file(group).map_err(|e| cannot_access(&path, as_user, e))?,
        None => open(&path, as_user)?,
    };
    // A chain that the document has stands.
    if disk.backing.is_some() {
        return Ok(());
    }
    let format = disk
        .driver
        .as_ref()
        .and_then(|d| d.kind)
        .unwrap_or(StorageFormat::Raw);
    let reader = Reader { as_user, top: &path };
    disk.backing = Some(Box::new(chain((&path, &mut file), format, reader)?));
    Ok(())
}

/// Opens each local image below the first one of every chain, as the document has them. Blocks on files.
///
/// # Errors
/// That of the first that cannot be opened.
pub fn open_all(domain: &domxml::Domain, as_user: &str) -> Result<()> {
    for disk in &domain.devices.disks {
        let mut below = disk.backing.as_deref();
        while let Some(image) = below {
            let kind = image.kind.unwrap_or(StorageKind::File);
            if let Some(path) = local_path(kind, image.source.as_ref()) {
                open(&path, as_user)?;
            }
            below = image.backing.as_deref();
        }
    }
    Ok(())
}

/// Who opens the images of a chain, and the image that it begins with: errors name both.
#[derive(Clone, Copy)]
struct Reader<'a> {
    as_user: &'a str,
    top: &'a Path,
}

/// The images below `path`, ending with an empty one.
fn chain(
    (path, file): (&Path, &mut File),
    format: StorageFormat,
    reader: Reader<'_>,
) -> Result<BackingStore> {
    let mut links = Vec::new();
    let mut next = below((path, file), format, reader)?;
    while let Some(mut image) = next {
        // Of one that is below itself there is no end.
        if links.len() >= DEPTH_MAX {
            let text = format!(
                "backing store for {} is self-referential or too deeply nested",
                image.path.display()
            );
            return Err(Error::internal(text).in_area(Area::Storage));
        }
        links.push(Box::new(image.store));
        next = below((&image.path, &mut image.file), image.format, reader)?;
    }
    let end = BackingStore {
        detected: true,
        ..BackingStore::default()
    };
    let chain = links.into_iter().rev().fold(Box::new(end), |below, mut image| {
        image.backing = Some(below);
        image
    });
    Ok(*chain)
}

/// An image that was found below another.
struct Found {
    path: PathBuf,
    file: File,
    format: StorageFormat,
    store: BackingStore,
}

/// The image below one, if there is one.
fn below(
    (path, file): (&Path, &mut File),
    format: StorageFormat,
    reader: Reader<'_>,
) -> Result<Option<Found>> {
    if format != StorageFormat::Qcow2 {
        return Ok(None);
    }
    // Whoever handed it over may have read from it.
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| read_qcow2(file));
    let below = read.map_err(|e| {
        Error::system(format_args!("cannot read the head of '{}'", path.display()), e).in_area(Area::Storage)
    })?;
    let Some(name) = below.file else { return Ok(None) };
    // Names with a protocol are QEMU's to open; they have no local file to follow.
    let named = name.strip_prefix("file:").unwrap_or(&name);
    if named.contains(':') && !named.starts_with('/') {
        return Err(Error::new(
            Code::ConfigUnsupported,
            format!(
                "backing file '{name}' of '{}' is not a local file, which is not supported yet",
                path.display()
            ),
        ));
    }
    let next = path.parent().unwrap_or(Path::new("/")).join(named);
    let format = format_of(below.format, (&next, path), reader)?;
    let mut found = open_found(next, format, reader)?;
    if let Some(source) = found.store.source.as_mut().filter(|_| !named.starts_with('/')) {
        source.private_data = Some(SourcePrivate {
            rel_path: Some(named.to_owned()),
            ..SourcePrivate::default()
        });
    }
    Ok(Some(found))
}

/// The format of an image as the one above it says; raw if that says nothing and nothing in it says otherwise.
fn format_of(
    said: Option<String>,
    (next, above): (&Path, &Path),
    reader: Reader<'_>,
) -> Result<StorageFormat> {
    let Some(format) = said else {
        let raw = open_below(next, reader)
            .and_then(|mut file| looks_raw(&mut file).map_err(|e| broken(next, reader, e)))?;
        if raw {
            return Ok(StorageFormat::Raw);
        }
        let message = format!(
            "format of backing image '{}' of image '{}' was not specified in the image metadata (See \
             https://libvirt.org/kbase/backing_chains.html for troubleshooting)",
            next.display(),
            above.display()
        );
        return Err(Error::invalid(message).in_area(Area::Storage));
    };
    format.parse().map_err(|_| {
        Error::new(
            Code::ConfigUnsupported,
            format!("unknown format '{format}' of backing image '{}'", next.display()),
        )
    })
}

fn open_found(path: PathBuf, format: StorageFormat, reader: Reader<'_>) -> Result<Found> {
    use std::os::unix::fs::FileTypeExt;
    let file = open_below(&path, reader)?;
    let metadata = file.metadata().map_err(|e| broken(&path, reader, e))?;
    let text = path.to_string_lossy().into_owned();
    let (kind, source) = match metadata.file_type().is_block_device() {
        true => (
            StorageKind::Block,
            Source {
                dev: Some(text),
                ..Source::default()
            },
        ),
        false => (
            StorageKind::File,
            Source {
                file: Some(text),
                ..Source::default()
            },
        ),
    };
    let store = BackingStore {
        kind: Some(kind),
        format: Some(Format {
            kind: Some(format),
            ..Format::default()
        }),
        source: Some(source),
        detected: true,
        ..BackingStore::default()
    };
    Ok(Found {
        path,
        file,
        format,
        store,
    })
}

/// The file of a source that is one, or that a volume was found to be.
pub fn local_path(kind: StorageKind, source: Option<&Source>) -> Option<PathBuf> {
    let (kind, source) = source?.located(kind);
    match kind {
        StorageKind::File => source.file.as_deref(),
        StorageKind::Block => source.dev.as_deref(),
        _ => None,
    }
    .map(PathBuf::from)
}

/// The same, of a source that is opened by its path: one that a client handed over is open already.
pub fn opened_path(kind: StorageKind, source: Option<&Source>) -> Option<PathBuf> {
    local_path(kind, source.filter(|source| source.fdgroup.is_none()))
}

/// Bytes of an image that is not in use: allocated, seen by a guest, on the host.
///
/// # Errors
/// `System` if it can't be opened or read, in libvirt's words.
pub fn sizes(path: &Path, format: StorageFormat) -> Result<[u64; 3]> {
    let failed = |what: &str, error| Error::system(format_args!("{what} '{}'", path.display()), error);
    let file = File::open(path).map_err(|error| failed("Failed to open file", error))?;
    measure(file, format).map_err(|error| failed("cannot read the head of", error))
}

fn measure(mut file: File, format: StorageFormat) -> io::Result<[u64; 3]> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let metadata = file.metadata()?;
    let length = if metadata.file_type().is_block_device() {
        file.seek(SeekFrom::End(0))?
    } else {
        metadata.len()
    };
    file.seek(SeekFrom::Start(0))?;
    let mut head = [0; 32];
    let got = read_up_to(&mut file, &mut head)?;
    let is_qcow2 = format == StorageFormat::Qcow2 && got == head.len() && head.starts_with(b"QFI\xfb");
    let capacity = if is_qcow2 {
        u64::from_be_bytes(head[24..32].try_into().unwrap_or_default())
    } else {
        length
    };
    Ok([metadata.blocks().saturating_mul(512), capacity, length])
}

fn open(path: &Path, as_user: &str) -> Result<File> {
    File::open(path).map_err(|e| cannot_access(path, as_user, e))
}

/// Opens an image below the first one.
fn open_below(path: &Path, reader: Reader<'_>) -> Result<File> {
    File::open(path).map_err(|e| broken(path, reader, e))
}

fn broken(path: &Path, reader: Reader<'_>, error: io::Error) -> Error {
    let (path, top) = (path.display(), reader.top.display());
    let text = match reader.as_user {
        "" => format!("Cannot access backing file '{path}' of storage file '{top}'"),
        user => format!("Cannot access backing file '{path}' of storage file '{top}' (as {user})"),
    };
    Error::system(text, error).in_area(Area::Storage)
}

/// Where images of a format have a mark, and the mark.
// table
const MARKS: &[(u64, &[u8])] = &[
    (0, b"QFI\xfb"),
    (0, b"QED\0"),
    (0, b"KDMV"),
    (0, b"COWD"),
    (0, b"vhdxfile"),
    (0, b"conectix"),
    (0, b"LUKS\xba\xbe"),
    (0, b"WithoutFreeSpace"),
    (0, b"WithouFreSpacExt"),
    (0, b"OOOM"),
    (0, b"Bochs Virtual HD Image"),
    (64, b"\x7f\x10\xda\xbe"),
];

/// Whether an image of which nobody says the format has the mark of none.
fn looks_raw(file: &mut File) -> io::Result<bool> {
    let mut head = [0; 128];
    file.seek(SeekFrom::Start(0))?;
    let got = read_up_to(file, &mut head)?;
    let has = |(at, mark): &(u64, &[u8])| {
        let from = usize::try_from(*at).unwrap_or(usize::MAX);
        head[..got].get(from..).is_some_and(|rest| rest.starts_with(mark))
    };
    Ok(!MARKS.iter().any(has))
}

fn cannot_access(path: &Path, as_user: &str, error: io::Error) -> Error {
    let path = path.display();
    let text = match as_user {
        "" => format!("Cannot access storage file '{path}'"),
        user => format!("Cannot access storage file '{path}' (as {user})"),
    };
    Error::system(text, error).in_area(Area::Storage)
}

/// Reads the head of a qcow2 image. Nothing below for what is none: QEMU will say so.
///
/// # Errors
/// What reading gives, `InvalidData` for lengths that qcow2 does not allow.
pub fn read_qcow2(file: &mut (impl Read + Seek)) -> io::Result<Below> {
    let mut head = [0; 104];
    let got = read_up_to(file, &mut head)?;
    if got < 20 || !head.starts_with(b"QFI\xfb") {
        return Ok(Below::default());
    }
    let offset = u64::from_be_bytes(head[8..16].try_into().unwrap_or_default());
    let length = usize::try_from(be32(&head, 16)).unwrap_or(usize::MAX);
    let extensions = match be32(&head, 4) {
        3 if got >= 104 => u64::from(be32(&head, 100)),
        _ => 72,
    };
    if offset == 0 || length == 0 {
        return Ok(Below::default());
    }
    if length > NAME_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the name of the backing file is too long",
        ));
    }
    let mut name = vec![0; length];
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut name)?;
    let name = String::from_utf8(name).map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "the name of the backing file is not text",
        )
    })?;
    let format = read_format(file, extensions, offset)?;
    Ok(Below {
        file: Some(name),
        format,
    })
}

/// Looks for the backing file's format among the header extensions, which end before the name.
fn read_format(file: &mut (impl Read + Seek), from: u64, until: u64) -> io::Result<Option<String>> {
    let length = usize::try_from(until.saturating_sub(from))
        .unwrap_or(usize::MAX)
        .min(EXTENSIONS_MAX);
    let mut bytes = vec![0; length];
    file.seek(SeekFrom::Start(from))?;
    let got = read_up_to(file, &mut bytes)?;
    let mut rest = &bytes[..got];
    while rest.len() >= 8 {
        let (kind, length) = (
            be32(rest, 0),
            usize::try_from(be32(rest, 4)).unwrap_or(usize::MAX),
        );
        if kind == 0 {
            break;
        }
        let Some(data) = rest.get(8..8usize.saturating_add(length)) else {
            break;
        };
        if kind == EXT_BACKING_FORMAT {
            return Ok(std::str::from_utf8(data).ok().map(str::to_owned));
        }
        rest = rest.get(8 + length.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(None)
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_be_bytes)
}

fn read_up_to(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read(&mut buffer[got..])? {
            0 => break,
            n => got += n,
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn image(name: &str, format: Option<&str>) -> Vec<u8> {
        let mut bytes = vec![0; 104];
        bytes[..4].copy_from_slice(b"QFI\xfb");
        bytes[4..8].copy_from_slice(&3u32.to_be_bytes());
        bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
        if let Some(format) = format {
            bytes.extend(EXT_BACKING_FORMAT.to_be_bytes());
            bytes.extend(u32::try_from(format.len()).unwrap().to_be_bytes());
            bytes.extend(format.as_bytes());
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes.extend([0; 8]);
        let offset = bytes.len() as u64;
        bytes[8..16].copy_from_slice(&offset.to_be_bytes());
        bytes[16..20].copy_from_slice(&u32::try_from(name.len()).unwrap().to_be_bytes());
        bytes.extend(name.as_bytes());
        bytes
    }

    #[test]
    fn name_and_format_are_found() {
        let below = read_qcow2(&mut Cursor::new(image("base.img", Some("qcow2")))).unwrap();
        assert_eq!(
            below,
            Below {
                file: Some("base.img".into()),
                format: Some("qcow2".into())
            }
        );
        let below = read_qcow2(&mut Cursor::new(image("base.img", None))).unwrap();
        assert_eq!(
            below,
            Below {
                file: Some("base.img".into()),
                format: None
            }
        );
    }

    #[test]
    fn what_is_no_image_has_nothing_below() {
        for bytes in [vec![], vec![0; 512], b"QFI\xfb".to_vec()] {
            assert_eq!(read_qcow2(&mut Cursor::new(bytes)).unwrap(), Below::default());
        }
    }

    proptest! {
        #[test]
        fn a_hostile_head_is_survived(mut tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = b"QFI\xfb\0\0\0\x03".to_vec();
            bytes.append(&mut tail);
            let _ = read_qcow2(&mut Cursor::new(bytes));
        }
    }
}
