//! Where disks are stored: every image of a chain, from the top down.

use domxml::devices::{
    Auth, BackingStore, CacheMode, Disk, DiskDriver, Encryption, EncryptionEngine, EncryptionFormat,
    HostTransport, MetadataCache, NetProtocol, Source, StartupPolicy, StorageFormat, StorageKind,
};

use super::super::Guest;
use super::super::rule::{check, rules};
use crate::caps::Flag;
use crate::error::Result;

/// One image.
pub(in crate::validate) struct Image<'a> {
    pub(in crate::validate) kind: StorageKind,
    pub(in crate::validate) source: Option<&'a Source>,
    pub(in crate::validate) format: Option<StorageFormat>,
    pub(in crate::validate) encryption: Option<&'a Encryption>,
    /// Whether the document names what it lies on.
    pub(in crate::validate) has_backing: bool,
    auth: Option<&'a Auth>,
    cache: Option<&'a MetadataCache>,
    readonly: bool,
}

/// The images of a disk as far as the document names them.
pub(in crate::validate) fn images(disk: &Disk) -> Vec<Image<'_>> {
    let mut images = vec![Image {
        kind: disk.kind,
        source: disk.source.as_ref(),
        format: disk.driver.as_ref().and_then(|d| d.kind),
        encryption: encryption(disk),
        has_backing: has_source(disk.backing.as_deref()),
        auth: disk.auth.as_ref().or_else(|| disk.source.as_ref()?.auth.as_ref()),
        cache: disk.driver.as_ref().and_then(|d| d.metadata_cache.as_ref()),
        readonly: disk.readonly,
    }];
    let mut next = disk.backing.as_deref();
    while let Some(backing) = next.filter(|b| b.source.is_some()) {
        images.push(below(backing));
        next = backing.backing.as_deref();
    }
    images
}

fn below(backing: &BackingStore) -> Image<'_> {
    let source = backing.source.as_ref();
    Image {
        kind: backing.kind.unwrap_or_default(),
        source,
        format: backing.format.as_ref().and_then(|f| f.kind),
        encryption: source.and_then(|s| s.encryption.as_ref()),
        has_backing: has_source(backing.backing.as_deref()),
        auth: source.and_then(|s| s.auth.as_ref()),
        cache: backing.format.as_ref().and_then(|f| f.metadata_cache.as_ref()),
        readonly: true,
    }
}

/// Whether a chain goes on.
fn has_source(backing: Option<&BackingStore>) -> bool {
    backing.is_some_and(|b| b.source.is_some())
}

/// What no hypervisor takes.
pub(super) fn generic(guest: &Guest<'_>, image: &Image<'_>) -> Result<()> {
    check(GENERIC, guest, image)
}

/// What QEMU does not take.
pub(in crate::validate) fn qemu(guest: &Guest<'_>, image: &Image<'_>) -> Result<()> {
    check(QEMU, guest, image)
}

/// Protocols that know who asks.
const WITH_AUTH: &[NetProtocol] = &[
    NetProtocol::Iscsi,
    NetProtocol::Http,
    NetProtocol::Https,
    NetProtocol::Ftp,
    NetProtocol::Ftps,
    NetProtocol::Ssh,
    NetProtocol::Rbd,
];

/// What a secret may be for.
const SECRET_USES: &[&str] = &["none", "volume", "ceph", "iscsi", "tls", "vtpm"];

/// Which secrets a protocol takes; others take any.
const SECRETS: &[(NetProtocol, &str)] = &[(NetProtocol::Iscsi, "iscsi"), (NetProtocol::Rbd, "ceph")];

rules! {
    /// What no hypervisor takes.
    GENERIC(guest, image: Image<'_>) {
        conflicting "'sheepdog' protocol is no longer supported by any hypervisor driver"
            if protocol(image) == Some(NetProtocol::Sheepdog);
        conflicting "authentication is not supported for protocol '{}'"
            (protocol(image).map_or("none", |p| p.as_str()))
            if image.auth.is_some() && protocol(image).is_some_and(|p| !WITH_AUTH.contains(&p));
        conflicting "unknown secret type '{}'" (secret_use(image).unwrap_or("<null>"))
            if protocol(image).is_some() && image.auth.is_some_and(|a| a.secret.is_some())
                && !secret_use(image).is_some_and(|u| SECRET_USES.contains(&u));
        conflicting "invalid secret type '{}'" (secret_use(image).unwrap_or("<null>"))
            if secret_use(image).is_some_and(|u| SECRETS.iter().any(|(p, wanted)| Some(*p) == protocol(image) && *wanted != u));
        conflicting "supplying <cipher> for domain disk definition is unnecessary"
            if image.encryption.is_some_and(|e| e.format == EncryptionFormat::Luks && e.cipher.is_some());
        conflicting "<dataStore> feature available only with qcow2 images"
            if data(image).is_some() && image.format != Some(StorageFormat::Qcow2);
        conflicting "only 'raw' images supported as <dataStore>"
            if data(image).is_some_and(|d| d.format.as_ref().and_then(|f| f.kind).is_some_and(|f| f != StorageFormat::Raw));
        xml "The <source> of <dataStore> can't have another nested <dataStore> or <backingStore> element"
            if data(image).and_then(|d| d.source.as_ref()).is_some_and(|s| s.data_store.is_some());
        xml "slices are not supported for <dataStore>"
            if data(image).and_then(|d| d.source.as_ref()).is_some_and(has_slice);
    }
}

rules! {
    /// What QEMU's block layer has.
    QEMU(guest, image: Image<'_>) {
        unsupported "'cow' storage format is not supported" if image.format == Some(StorageFormat::Cow);
        unsupported "'directory' storage format is not directly supported by QEMU, use 'dir' disk type instead"
            if image.format == Some(StorageFormat::Dir);
        unsupported "storage format 'iso' is not directly supported by QEMU, use 'raw' instead"
            if image.format == Some(StorageFormat::Iso);
        unsupported "storage format 'fat' is supported only with 'dir' storage type"
            if image.format == Some(StorageFormat::Fat)
                && !matches!(image.kind, StorageKind::Dir | StorageKind::Volume);
        unsupported "storage type 'dir' requires use of storage format 'fat'"
            if image.kind == StorageKind::Dir && image.format.is_some_and(|f| f != StorageFormat::Fat);
        unsupported "virtual FAT storage can't be accessed in read-write mode"
            if image.kind == StorageKind::Dir && !image.readonly;
        unsupported "reservations not supported with this QEMU binary"
            if image.source.is_some_and(|s| s.reservations.is_some())
                && !guest.caps.has(Flag::PrManagerHelper);
        unsupported "'tftp' protocol is not supported with this QEMU binary"
            if protocol(image) == Some(NetProtocol::Tftp);
        unsupported "'nfs' protocol requires the usage of exactly one host"
            if protocol(image) == Some(NetProtocol::Nfs) && image.source.is_some_and(|s| s.hosts.len() != 1);
        unsupported "'nfs' host must use TCP protocol"
            if protocol(image) == Some(NetProtocol::Nfs) && image.source.is_some_and(|s| {
                s.hosts.iter().any(|h| h.transport.is_some_and(|t| t != HostTransport::Tcp))
            });
        unsupported "port cannot be specified in 'nfs' protocol host"
            if protocol(image) == Some(NetProtocol::Nfs)
                && image.source.is_some_and(|s| s.hosts.iter().any(|h| h.port.is_some()));
        unsupported "metadata cache max size control is supported only with qcow2 images"
            if has_cache_limit(image.cache) && image.format != Some(StorageFormat::Qcow2);
        unsupported "old qcow/qcow2 encryption is not supported"
            if image.encryption.is_some_and(|e| !is_modern(e));
        unsupported "encryption is supported only with 'raw' and 'qcow2' image format"
            if by_qemu(image).is_some_and(|e| e.format == EncryptionFormat::Luks)
                && !matches!(image.format, Some(StorageFormat::Raw | StorageFormat::Qcow2 | StorageFormat::Luks));
        unsupported "'{}' is currently not supported by the qemu encryption engine"
            (image.encryption.map_or("", |e| e.format.as_str()))
            if by_qemu(image).is_some_and(|e| matches!(e.format, EncryptionFormat::Luks2 | EncryptionFormat::LuksAny));
        unsupported "qemu encryption engine expects only a single secret"
            if by_qemu(image).is_some_and(|e| e.secrets.len() > 1);
        unsupported "librbd encryption is not supported by this QEMU binary"
            if by_librbd(image).is_some() && !guest.caps.has(Flag::RbdEncryption);
        unsupported "librbd encryption is supported only with RBD backed disks"
            if by_librbd(image).is_some() && protocol(image) != Some(NetProtocol::Rbd);
        unsupported "librbd encryption layering is not supported by this QEMU binary"
            if by_librbd(image).is_some_and(|e| e.secrets.len() > 1)
                && !guest.caps.has(Flag::RbdEncryptionLayering);
        unsupported "luks-any encryption is not supported by this QEMU binary"
            if by_librbd(image).is_some_and(|e| e.format == EncryptionFormat::LuksAny)
                && !guest.caps.has(Flag::RbdEncryptionLuksAny);
        unsupported "'tlsHostname' field is supported only with NBD disks"
            if image.source.is_some_and(|s| s.tls_hostname.is_some())
                && protocol(image) != Some(NetProtocol::Nbd);
        unsupported "'tlsHostname' field is not supported by this QEMU"
            if image.source.is_some_and(|s| s.tls_hostname.is_some())
                && !guest.caps.has(Flag::BlockdevNbdTlsHostname);
    }
}

/// A disk's encryption: old documents have it beside the source.
pub(super) fn encryption(disk: &Disk) -> Option<&Encryption> {
    disk.encryption
        .as_ref()
        .or_else(|| disk.source.as_ref()?.encryption.as_ref())
}

/// Whether encryption is more than the formats' own of old.
pub(super) fn is_modern(encryption: &Encryption) -> bool {
    !matches!(
        encryption.format,
        EncryptionFormat::Default | EncryptionFormat::Qcow
    )
}

/// Whether a part of an image is served.
pub(in crate::validate) fn has_slice(source: &Source) -> bool {
    source.slices.as_ref().is_some_and(|s| !s.slices.is_empty())
}

pub(super) fn is_iscsi(disk: &Disk) -> bool {
    disk.source.as_ref().and_then(|s| s.protocol) == Some(NetProtocol::Iscsi)
}

/// Whether a disk has no medium.
pub(super) fn is_empty(disk: &Disk) -> bool {
    let Some(source) = &disk.source else {
        // What a pool or a server has needs no name here.
        return matches!(
            disk.kind,
            StorageKind::File | StorageKind::Block | StorageKind::Dir | StorageKind::Network
        );
    };
    let none = |name: &Option<String>| name.as_deref().is_none_or(str::is_empty);
    match disk.kind {
        StorageKind::File => none(&source.file) && none(&source.fdgroup),
        StorageKind::Block => none(&source.dev),
        StorageKind::Dir => none(&source.dir),
        StorageKind::Network => source.protocol.is_none(),
        _ => false,
    }
}

/// What a disk's source is called in errors: a path, or a name behind that of a pool. Not every kind has one.
pub(crate) fn path(disk: &Disk) -> Option<&str> {
    let source = disk.source.as_ref()?;
    let name = match disk.kind {
        StorageKind::File => &source.file,
        StorageKind::Block => &source.dev,
        StorageKind::Dir => &source.dir,
        StorageKind::Network => &source.name,
        _ => &None,
    };
    let name = name.as_deref()?;
    let pooled = matches!(source.protocol, Some(NetProtocol::Rbd | NetProtocol::Gluster));
    match name.split_once('/') {
        Some((_, image)) if disk.kind == StorageKind::Network && pooled => Some(image),
        _ => Some(name),
    }
}

/// What happens when the medium is not there; empty for the usual.
pub(super) fn policy(disk: &Disk) -> &'static str {
    let policy = disk.source.as_ref().and_then(|s| s.startup_policy);
    policy.map_or("", StartupPolicy::as_str)
}

/// Whether the host's page cache is left out, as native I/O needs.
pub(super) fn bypasses_cache(driver: &DiskDriver) -> bool {
    matches!(driver.cache, Some(CacheMode::None | CacheMode::Directsync))
}

pub(super) fn has_cache_limit(cache: Option<&MetadataCache>) -> bool {
    cache
        .and_then(|c| c.max_size.as_ref())
        .is_some_and(|size| size.value > 0)
}

fn protocol(image: &Image<'_>) -> Option<NetProtocol> {
    image
        .source
        .filter(|_| image.kind == StorageKind::Network)?
        .protocol
}

fn secret_use<'a>(image: &Image<'a>) -> Option<&'a str> {
    image.auth?.secret.as_ref()?.kind.as_deref()
}

fn data<'a>(image: &Image<'a>) -> Option<&'a domxml::devices::DataStore> {
    image.source?.data_store.as_deref()
}

fn by_qemu<'a>(image: &Image<'a>) -> Option<&'a Encryption> {
    image
        .encryption
        .filter(|e| e.engine != Some(EncryptionEngine::Librbd))
}

fn by_librbd<'a>(image: &Image<'a>) -> Option<&'a Encryption> {
    image
        .encryption
        .filter(|e| e.engine == Some(EncryptionEngine::Librbd))
}
