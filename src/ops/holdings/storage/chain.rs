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
    BackingStore, DataStore, Disk, DiskDevice, Format, Source, SourcePrivate, StartupPolicy, StorageFormat,
    StorageKind,
};

use super::{
    backing_name::{self, Named},
    descriptors::Handed,
    head::{looks_raw, read_up_to},
};
use crate::error::{Area, Code, Error, Result};

/// Deepest chain.
const DEPTH_MAX: usize = 200;
/// Longest name of a backing file that qcow2 allows.
const NAME_MAX: usize = 1_023;
/// Bytes of header extensions that are looked at.
const EXTENSIONS_MAX: usize = 64 << 10;
/// Type of the qcow2 header extension that names the backing file's format.
const EXT_BACKING_FORMAT: u32 = 0xE279_2ACA;
/// Type of the qcow2 header extension that names the file with the data.
const EXT_DATA_FILE: u32 = 0x4441_5441;
/// The incompatible feature of qcow2 images whose data is in a file of its own.
const DATA_FILE: u8 = 1 << 2;

/// What an image's head says of the image below, and of its data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Below {
    /// Its name as written in the head; none if there is nothing below.
    pub file: Option<String>,
    /// Its format as written in the head.
    pub format: Option<String>,
    /// The file with the image's own data as written in the head; none if the data is in the image.
    pub data: Option<String>,
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
    let format = disk
        .driver
        .as_ref()
        .and_then(|d| d.kind)
        .unwrap_or(StorageFormat::Raw);
    // Libvirt does not say as whom it opens what is no file, or has none below.
    let is_file = disk
        .source
        .as_ref()
        .is_some_and(|s| s.located(disk.kind).0 == StorageKind::File);
    let as_user = if is_file && is_layer(format) { as_user } else { "" };
    let group = disk.source.as_ref().and_then(|source| source.fdgroup.as_deref());
    let mut file = match group {
        Some(group) => handed.file(group).map_err(|e| cannot_access(&path, as_user, e))?,
        None => open(&path, as_user)?,
    };
    let reader = Reader { as_user, top: &path };
    if disk.backing.is_some() {
        return go_on(disk.backing.as_deref_mut(), reader);
    }
    let (data, below) = chain((&path, &mut file), format, reader)?;
    disk.backing = below.map(Box::new);
    if let Some(source) = disk.source.as_mut().filter(|source| source.data_store.is_none()) {
        source.data_store = data.map(Box::new);
    }
    Ok(())
}

/// Follows a chain of which a document has the beginning: what it has stands, and the last of it is asked, unless that says
/// that nothing is below.
fn go_on(mut image: Option<&mut BackingStore>, reader: Reader<'_>) -> Result<()> {
    while let Some(last) = image {
        if last.backing.is_some() {
            image = last.backing.as_deref_mut();
            continue;
        }
        let kind = last.kind.filter(|_| last.source.is_some());
        let path = kind.and_then(|kind| local_path(kind, last.source.as_ref()));
        let format = last.format.as_ref().and_then(|format| format.kind);
        let (Some(path), Some(format)) = (path, format) else {
            return Ok(());
        };
        let mut file = open(&path, reader.as_user)?;
        let (data, below) = chain((&path, &mut file), format, reader)?;
        last.backing = below.map(Box::new);
        if let Some(source) = last.source.as_mut().filter(|source| source.data_store.is_none()) {
            source.data_store = data.map(Box::new);
        }
        return Ok(());
    }
    Ok(())
}

/// Whether an image of a format can have one below.
const fn is_layer(format: StorageFormat) -> bool {
    use StorageFormat::{Cow, Qcow, Qcow2, Qed, Vmdk};
    matches!(format, Cow | Qcow | Qcow2 | Qed | Vmdk)
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

/// Where the data of the image at `path` is, if not there; and the images below it, ending with an empty one unless QEMU
/// finds more by itself.
fn chain(
    (path, file): (&Path, &mut File),
    format: StorageFormat,
    reader: Reader<'_>,
) -> Result<(Option<DataStore>, Option<BackingStore>)> {
    let mut links = Vec::new();
    let (data, mut next) = below((path, file), format, reader)?;
    let is_whole = loop {
        let mut image = match next {
            Next::Image(image) => *image,
            Next::Remote(store) => {
                // What is served raw stands on nothing; of another image there only QEMU can read the head.
                let is_raw = store.format.as_ref().and_then(|f| f.kind) == Some(StorageFormat::Raw);
                links.push(store);
                break is_raw;
            }
            Next::Nothing => break true,
            Next::Hidden => break false,
        };
        // Of one that is below itself there is no end.
        if links.len() >= DEPTH_MAX {
            let text = format!(
                "backing store for {} is self-referential or too deeply nested",
                image.path.display()
            );
            return Err(Error::internal(text).in_area(Area::Storage));
        }
        let (data, after) = below((&image.path, &mut image.file), image.format, reader)?;
        if let Some(source) = image.store.source.as_mut() {
            source.data_store = data.map(Box::new);
        }
        links.push(Box::new(image.store));
        next = after;
    };
    let end = is_whole.then(|| BackingStore {
        detected: true,
        ..BackingStore::default()
    });
    let chain = links
        .into_iter()
        .rev()
        .fold(end.map(Box::new), |below, mut image| {
            image.backing = below;
            Some(image)
        });
    Ok((data, chain.map(|chain| *chain)))
}

/// What is below an image.
enum Next {
    Nothing,
    /// An image on this host.
    Image(Box<Found>),
    /// One that QEMU reaches by a protocol.
    Remote(Box<BackingStore>),
    /// One that only QEMU can open.
    Hidden,
}

/// An image that was found below another.
struct Found {
    path: PathBuf,
    file: File,
    format: StorageFormat,
    store: BackingStore,
}

/// Where the data of an image is, if not in it; and what is below it.
fn below(
    (path, file): (&Path, &mut File),
    format: StorageFormat,
    reader: Reader<'_>,
) -> Result<(Option<DataStore>, Next)> {
    if format != StorageFormat::Qcow2 {
        return Ok((None, Next::Nothing));
    }
    // Whoever handed it over may have read from it.
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| read_qcow2(file));
    let below = read.map_err(|e| {
        Error::system(format_args!("cannot read the head of '{}'", path.display()), e).in_area(Area::Storage)
    })?;
    let data = below.data.map(|name| data_file(path, &name)).transpose()?;
    let Some(name) = below.file else {
        return Ok((data, Next::Nothing));
    };
    let next = match backing_name::read(&name)? {
        Named::Beside(name) => {
            let next = beside(path, &name);
            let format = format_of(below.format, (&next, path), reader)?;
            let mut found = open_found(next, format, reader)?;
            if let Some(source) = found.store.source.as_mut().filter(|_| !name.starts_with('/')) {
                source.private_data = Some(SourcePrivate {
                    rel_path: Some(name),
                    ..SourcePrivate::default()
                });
            }
            Next::Image(Box::new(found))
        }
        Named::File(kind, source) => {
            let next = local_path(kind, Some(&source)).unwrap_or_default();
            let format = format_of(below.format, (&next, path), reader)?;
            let mut found = open_found(next, format, reader)?;
            if let Some(into) = found.store.source.as_mut() {
                into.slices = source.slices;
            }
            Next::Image(Box::new(found))
        }
        Named::Remote(source) => {
            let format = below
                .format
                .map_or(Ok(StorageFormat::Raw), |format| known(&format, &name))?;
            Next::Remote(Box::new(link(StorageKind::Network, format, *source)))
        }
        Named::Hidden => Next::Hidden,
    };
    Ok((data, next))
}

/// Whether the head of an image names a file as the one below it. What can't be read names none. Blocks on files.
pub fn names(image: &Path, below: &Path) -> bool {
    let head = File::open(image).and_then(|mut file| read_qcow2(&mut file));
    let name = head.ok().and_then(|head| head.file);
    name.is_some_and(|name| beside(image, &name) == below)
}

/// The path that a name in the head of an image leads to.
fn beside(image: &Path, name: &str) -> PathBuf {
    image.parent().unwrap_or(Path::new("/")).join(name)
}

/// A link of a chain that was found.
fn link(kind: StorageKind, format: StorageFormat, source: Source) -> BackingStore {
    BackingStore {
        kind: Some(kind),
        format: Some(Format {
            kind: Some(format),
            ..Format::default()
        }),
        source: Some(source),
        detected: true,
        ..BackingStore::default()
    }
}

/// The file with the data of the image at `path`, by the name in its head.
fn data_file(path: &Path, name: &str) -> Result<DataStore> {
    if name.is_empty() {
        let text = format!("invalid empty data-file definition in '{}'", path.display());
        return Err(Error::new(Code::OperationFailed, text).in_area(Area::Storage));
    }
    let (kind, source) = match backing_name::read(name)? {
        Named::Beside(name) => {
            let file = beside(path, &name);
            located(&file, is_block_device(&file))
        }
        Named::File(kind, source) => (kind, *source),
        Named::Remote(source) => (StorageKind::Network, *source),
        Named::Hidden => {
            let text = format!("can't use data file definition '{name}'");
            return Err(Error::new(Code::OperationFailed, text).in_area(Area::Storage));
        }
    };
    let format = Format {
        kind: Some(StorageFormat::Raw),
        ..Format::default()
    };
    Ok(DataStore {
        kind: Some(kind),
        format: Some(format),
        source: Some(source),
    })
}

fn is_block_device(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// How a document names a file or a device.
fn located(path: &Path, is_device: bool) -> (StorageKind, Source) {
    let text = Some(path.to_string_lossy().into_owned());
    let mut source = Source::default();
    if is_device {
        source.dev = text;
        return (StorageKind::Block, source);
    }
    source.file = text;
    (StorageKind::File, source)
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
    known(&format, &next.to_string_lossy())
}

fn known(format: &str, image: &str) -> Result<StorageFormat> {
    let text = format!("unknown format '{format}' of backing image '{image}'");
    let unknown = |_| Error::new(Code::ConfigUnsupported, text);
    format.parse().map_err(unknown)
}

fn open_found(path: PathBuf, format: StorageFormat, reader: Reader<'_>) -> Result<Found> {
    use std::os::unix::fs::FileTypeExt;
    let file = open_below(&path, reader)?;
    let metadata = file.metadata().map_err(|e| broken(&path, reader, e))?;
    let (kind, source) = located(&path, metadata.file_type().is_block_device());
    let store = link(kind, format, source);
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

/// The files of an image that are opened by their paths: its own, and that with its data.
pub fn files_of(kind: StorageKind, source: Option<&Source>) -> Vec<PathBuf> {
    let data = source.and_then(|source| source.data_store.as_deref());
    let data = data.and_then(|data| opened_path(data.kind.unwrap_or_default(), data.source.as_ref()));
    opened_path(kind, source).into_iter().chain(data).collect()
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
    let is_named = offset != 0 && length != 0;
    let until = if is_named { offset } else { u64::MAX };
    let bytes = read_extensions(file, extensions, until)?;
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    let mut below = Below::default();
    // The features are the first of a head that is longer than a version 2 has.
    if extensions > 72 && head[79] & DATA_FILE != 0 {
        below.data = match extension(&bytes, EXT_DATA_FILE) {
            Some(name) => Some(text(name).ok_or_else(|| wrong("the name of the data file is not text"))?),
            None => None,
        };
    }
    if !is_named {
        return Ok(below);
    }
    if length > NAME_MAX {
        return Err(wrong("the name of the backing file is too long"));
    }
    let mut name = vec![0; length];
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut name)?;
    let name = String::from_utf8(name).map_err(|_| wrong("the name of the backing file is not text"))?;
    below.file = Some(name);
    below.format = extension(&bytes, EXT_BACKING_FORMAT).and_then(text);
    Ok(below)
}

fn wrong(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The header extensions, which end before the name of the backing file.
fn read_extensions(file: &mut (impl Read + Seek), from: u64, until: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(until.saturating_sub(from))
        .unwrap_or(usize::MAX)
        .min(EXTENSIONS_MAX);
    let mut bytes = vec![0; length];
    file.seek(SeekFrom::Start(from))?;
    let got = read_up_to(file, &mut bytes)?;
    bytes.truncate(got);
    Ok(bytes)
}

/// What the first header extension of a type has.
fn extension(mut rest: &[u8], wanted: u32) -> Option<&[u8]> {
    while rest.len() >= 8 {
        let kind = be32(rest, 0);
        let length = usize::try_from(be32(rest, 4)).unwrap_or(usize::MAX);
        let data = rest.get(8..8usize.saturating_add(length))?;
        if kind == 0 || kind == wanted {
            return Some(data).filter(|_| kind == wanted);
        }
        rest = rest.get(8 + length.next_multiple_of(8)..).unwrap_or_default();
    }
    None
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_be_bytes)
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
    fn a_name_is_read_from_where_the_image_is() {
        let dir = tempfile::tempdir().unwrap();
        let (top, low) = (dir.path().join("top"), dir.path().join("low"));
        let whole = low.display().to_string();
        for (name, expected) in [
            ("low", true),
            (whole.as_str(), true),
            ("other", false),
            ("", false),
        ] {
            std::fs::write(&top, image(name, None)).unwrap();
            assert_eq!(names(&top, &low), expected, "{name}");
        }
        assert!(!names(&low, &top));
    }

    #[test]
    fn as_whom_a_file_is_opened_is_told_of_images_that_may_have_others_below() {
        for (format, whom) in [
            ("qcow2", " (as uid:0)"),
            ("qed", " (as uid:0)"),
            ("raw", ""),
            ("vdi", ""),
        ] {
            let text = format!(
                "<disk><driver name='qemu' type='{format}'/><source file='/nowhere/a'/><target dev='vda'/></disk>"
            );
            let parsed = domxml::devices::Device::parse(&text, domxml::ParseFlags::NONE).unwrap();
            let domxml::devices::Device::Disk(mut disk) = parsed else {
                panic!()
            };
            let error = follow(&mut disk, "uid:0", &Handed::default()).unwrap_err();
            let said = format!("Cannot access storage file '/nowhere/a'{whom}: No such file or directory");
            assert_eq!(error.to_string(), said);
        }
    }

    #[test]
    fn a_chain_that_is_given_in_part_is_followed_from_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        for (name, below) in [("a", "b"), ("b", "c"), ("c", "")] {
            let head = match below {
                "" => [image("", None)[..8].to_vec(), vec![0; 96]].concat(),
                below => image(below, Some("qcow2")),
            };
            std::fs::write(path(name), head).unwrap();
        }
        // table: what is below in the document, the images that there are then
        for (given, names) in [
            ("", "b c"),
            (
                "<backingStore type='file'><format type='qcow2'/><source file='DIR/b'/></backingStore>",
                "b c",
            ),
            (
                "<backingStore type='file'><format type='qcow2'/><source file='DIR/b'/><backingStore/></backingStore>",
                "b",
            ),
            ("<backingStore/>", ""),
        ] {
            let text = format!(
                "<disk><driver name='qemu' type='qcow2'/><source file='DIR/a'/>{given}<target dev='vda'/></disk>"
            );
            let text = text.replace("DIR", &dir.path().display().to_string());
            let parsed = domxml::devices::Device::parse(&text, domxml::ParseFlags::NONE).unwrap();
            let domxml::devices::Device::Disk(mut disk) = parsed else {
                panic!()
            };
            follow(&mut disk, "", &Handed::default()).unwrap();
            let mut found = Vec::new();
            let mut next = disk.backing.as_deref();
            while let Some(store) = next {
                let file = store.source.as_ref().and_then(|source| source.file.clone());
                found.extend(file.and_then(|file| Some(file.rsplit_once('/')?.1.to_owned())));
                assert!(
                    store.backing.is_some() || store.source.is_none(),
                    "{given}: no end"
                );
                next = store.backing.as_deref();
            }
            assert_eq!(found.join(" "), names, "{given}");
        }
    }

    #[test]
    fn name_and_format_are_found() {
        let below = read_qcow2(&mut Cursor::new(image("base.img", Some("qcow2")))).unwrap();
        assert_eq!(
            below,
            Below {
                file: Some("base.img".into()),
                format: Some("qcow2".into()),
                data: None
            }
        );
        let below = read_qcow2(&mut Cursor::new(image("base.img", None))).unwrap();
        assert_eq!(
            below,
            Below {
                file: Some("base.img".into()),
                format: None,
                data: None
            }
        );
    }

    #[test]
    fn data_in_a_file_of_its_own_is_found_beside_the_image() {
        let with_data = |name: &str, marked: bool| {
            let mut bytes = vec![0; 104];
            bytes[..4].copy_from_slice(b"QFI\xfb");
            bytes[4..8].copy_from_slice(&3u32.to_be_bytes());
            bytes[79] = if marked { DATA_FILE } else { 0 };
            bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
            bytes.extend(EXT_DATA_FILE.to_be_bytes());
            bytes.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
            bytes.extend(name.as_bytes());
            bytes.resize(bytes.len().next_multiple_of(8) + 8, 0);
            bytes
        };
        let data = |bytes| read_qcow2(&mut Cursor::new(bytes)).unwrap().data;
        assert_eq!(data(with_data("d.raw", true)).as_deref(), Some("d.raw"));
        assert_eq!(data(with_data("d.raw", false)), None, "the mark decides");
        assert_eq!(data(image("base.img", None)), None);

        let dir = tempfile::tempdir().unwrap();
        let (top, middle) = (dir.path().join("top"), dir.path().join("middle"));
        std::fs::write(&top, image("middle", Some("qcow2"))).unwrap();
        std::fs::write(&middle, with_data("d.raw", true)).unwrap();
        let followed = |path: &Path| {
            let xml = format!(
                "<domain type='qemu'><name>a</name><memory>1</memory><devices><disk type='file'>\
                 <driver type='qcow2'/><source file='{}'/><target dev='vda'/></disk></devices></domain>",
                path.display()
            );
            let mut domain = domxml::Domain::parse(&xml, domxml::ParseFlags::NONE).unwrap();
            let mut disk = domain.devices.disks.remove(0);
            follow(&mut disk, "", &Handed::default()).map(|()| disk)
        };
        let named = |store: Option<&DataStore>| store.unwrap().source.as_ref().unwrap().file.clone().unwrap();
        let beside = dir.path().join("d.raw").to_string_lossy().into_owned();
        let disk = followed(&middle).unwrap();
        assert_eq!(named(disk.source.unwrap().data_store.as_deref()), beside);
        let disk = followed(&top).unwrap();
        assert!(disk.source.unwrap().data_store.is_none());
        let below = disk.backing.unwrap().source.unwrap();
        assert_eq!(named(below.data_store.as_deref()), beside);

        std::fs::write(&middle, with_data("", true)).unwrap();
        let error = followed(&middle).unwrap_err();
        assert_eq!((error.code, error.area), (Code::OperationFailed, Area::Storage));
        assert!(error.message.starts_with("invalid empty data-file definition in"));
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
