//! From a disk in the document to the image QEMU opens: numbers the nodes, decides which layers there
//! are, and names the secrets that the caller has to fetch and encrypt.

use std::borrow::Cow;

use domxml::devices::common::{AuthSecret, YesNo};
use domxml::devices::disk::{CacheMode, DetectZeroes, Discard, Disk, DiskDevice, IoMode};
use domxml::devices::storage::{
    BackingStore, DataStore, Encryption, EncryptionEngine, EncryptionFormat, MetadataCache, NetProtocol,
    Source, StorageFormat, StorageKind,
};

use super::node::{Access, Backing, Cache, Descriptors, Format, Image, Slice};
use super::number::set_of;
use super::protocol::{Refs, storage_props};
use crate::facts::size;
use crate::props::Props;
use crate::resources::{Resources, TlsFiles};
use crate::{Error, Result};

/// Id of the object with the key of a run.
const MASTER_KEY: &str = "masterKey0";

/// What all images of a disk's chain have in common.
#[derive(Debug, Clone, Default)]
pub struct Common {
    /// `aio` of local files.
    pub io: Option<String>,
    /// Host cache mode.
    pub cache: Option<Cache>,
    /// What discards do.
    pub discard: Option<String>,
    /// The disk is a floppy.
    pub floppy: bool,
    /// Keep clusters allocated on discard.
    pub discard_no_unref: Option<bool>,
}

/// One image of a chain, as the document has it.
#[derive(Debug, Clone)]
pub struct Link<'a> {
    /// Kind of the source.
    pub kind: StorageKind,
    /// Image format.
    pub format: StorageFormat,
    /// The source.
    pub source: Cow<'a, Source>,
    /// What the whole chain has.
    pub common: &'a Common,
    /// Nobody writes to the image.
    pub read_only: bool,
    /// What writes of zeroes become; top image only.
    pub detect_zeroes: Option<String>,
    /// Size of the metadata cache, bytes.
    pub metadata_cache: Option<u64>,
}

/// A secret that must be fetched, encrypted under the master key and put into
/// [`Resources::secrets`] under `id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretNeed {
    /// Id of the secret object.
    pub id: String,
    /// Where the value comes from.
    pub from: SecretFrom,
}

/// Where a secret's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretFrom {
    /// A secret by uuid.
    Uuid(String),
    /// A secret by use (`ceph`, `iscsi`, `volume`, `tls`) and name.
    Usage(String, String),
    /// The document itself.
    Value(String),
}

/// Turns disks into images: the state of one command line, or of one hot-plug.
#[derive(Debug)]
pub struct Sources<'r> {
    /// What the caller prepared.
    pub res: &'r Resources,
    /// Number of the next node.
    pub next: u32,
    /// Secrets met so far.
    pub needs: Vec<SecretNeed>,
}

/// The secrets that a disk needs, in the order in which they are looked for.
#[must_use]
pub fn secrets_of(disk: &Disk, res: &Resources) -> Vec<SecretNeed> {
    let mut sources = Sources::new(res, 1);
    // What is wrong with an image is told when it is its turn.
    let _ = sources.disk(disk);
    sources.needs
}

impl SecretFrom {
    /// The secret that an `<auth>` names.
    pub fn of(secret: &AuthSecret) -> Self {
        match (&secret.uuid, &secret.usage) {
            (Some(uuid), _) => Self::Uuid(uuid.clone()),
            (None, usage) => Self::Usage(
                secret.kind.clone().unwrap_or_default(),
                usage.clone().unwrap_or_default(),
            ),
        }
    }
}

impl Backing {
    /// What of it an image of a format can say.
    fn of(self, format: StorageFormat) -> Self {
        let layered = matches!(
            format,
            StorageFormat::Qcow2
                | StorageFormat::Qcow
                | StorageFormat::Qed
                | StorageFormat::Vmdk
                | StorageFormat::Cow
        );
        if layered { self } else { Self::Unknown }
    }
}

impl<'a> Link<'a> {
    /// A raw image with nothing special about it.
    pub fn raw(kind: StorageKind, source: &'a Source, common: &'a Common, read_only: bool) -> Self {
        Self {
            kind,
            format: StorageFormat::Raw,
            source: Cow::Borrowed(source),
            common,
            read_only,
            detect_zeroes: None,
            metadata_cache: None,
        }
    }
}

impl<'r> Sources<'r> {
    /// Numbers start from `next`.
    pub fn new(res: &'r Resources, next: u32) -> Self {
        Self {
            res,
            next,
            needs: Vec::new(),
        }
    }

    /// The image behind a disk with everything below; `None` when the drive is empty or QEMU does
    /// not open it itself (vhost-user). Numbers are taken either way.
    ///
    /// # Errors
    /// When QEMU cannot open such a source.
    pub fn disk(&mut self, disk: &Disk) -> Result<Option<Image>> {
        let common = common(disk);
        let number = self.number(disk.source.as_ref());
        let Some(top) = top_link(disk, &common) else {
            return Ok(None);
        };
        let mut image = self.image(&top, number)?;
        image.backing = self.backing(disk.backing.as_deref(), &common)?.of(top.format);
        Ok(Some(image))
    }

    /// A secret object with the encrypted value; the value is empty if the caller has not prepared it.
    pub fn secret(&mut self, id: &str, from: SecretFrom) -> Props {
        self.needs.push(SecretNeed {
            id: id.to_owned(),
            from,
        });
        secret_object(self.res, id)
    }

    /// The number of the next node.
    pub fn take_number(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }

    /// The image of a firmware's flash drive.
    ///
    /// # Errors
    /// When QEMU cannot open such a source.
    pub fn pflash(&mut self, link: &Link<'_>, drive: u32) -> Result<Image> {
        let mut image = self.image_named(link, format!("libvirt-pflash{drive}"))?;
        image.backing = Backing::End.of(link.format);
        Ok(image)
    }

    fn number(&mut self, source: Option<&Source>) -> u32 {
        self.number_or(source.and_then(|source| source.index))
    }

    /// The number that an image has, or the next one.
    fn number_or(&mut self, given: Option<u32>) -> u32 {
        match given {
            Some(index) => {
                self.next = self.next.max(index.saturating_add(1));
                index
            }
            None => self.take_number(),
        }
    }

    fn backing(&mut self, store: Option<&BackingStore>, common: &Common) -> Result<Backing> {
        let Some(store) = store else {
            return Ok(Backing::Unknown);
        };
        let (Some(kind), Some(source)) = (store.kind, store.source.as_ref()) else {
            return Ok(Backing::End);
        };
        let format = store.format.as_ref();
        let link = Link {
            kind,
            format: format
                .and_then(|format| format.kind)
                .unwrap_or(StorageFormat::Raw),
            source: Cow::Borrowed(source),
            common,
            read_only: true,
            detect_zeroes: None,
            metadata_cache: format.and_then(|format| cache_size(format.metadata_cache.as_ref())),
        };
        let number = self.number_or(store.index);
        let mut image = self.image(&link, number)?;
        image.backing = self.backing(store.backing.as_deref(), common)?.of(link.format);
        Ok(Backing::Image(Box::new(image)))
    }

    /// One image without what is below it.
    ///
    /// # Errors
    /// When QEMU cannot open such a source.
    pub fn image(&mut self, link: &Link<'_>, number: u32) -> Result<Image> {
        self.image_named(link, format!("libvirt-{number}"))
    }

    fn image_named(&mut self, link: &Link<'_>, stem: String) -> Result<Image> {
        let mut image = Image {
            stem,
            slice: storage_slice(&link.source),
            access: access(link),
            ..Image::default()
        };
        let refs = self.refs(link, &mut image);
        image.format = format_layer(link, &image)?;
        image.storage = storage_props(link, &refs)?;
        image.data_file = self.data_file(link)?.map(Box::new);
        Ok(image)
    }

    fn data_file(&mut self, link: &Link<'_>) -> Result<Option<Image>> {
        let Some(DataStore {
            kind: Some(kind),
            source: Some(source),
            format,
        }) = link.source.data_store.as_deref()
        else {
            return Ok(None);
        };
        let data = Link {
            kind: *kind,
            format: format
                .as_ref()
                .and_then(|format| format.kind)
                .unwrap_or(StorageFormat::Raw),
            source: Cow::Borrowed(source),
            metadata_cache: None,
            ..link.clone()
        };
        let number = self.number(Some(source));
        self.image(&data, number).map(Some)
    }

    /// Makes the objects that the image's nodes refer to, in libvirt's order.
    fn refs(&mut self, link: &Link<'_>, image: &mut Image) -> Refs {
        let mut refs = Refs::default();
        let storage = image.storage_node();
        let source = link.source.as_ref();
        refs.pr_manager = self.reservations(source, image);
        let before = self.needs.len();
        refs.auth = self.auth(source, &storage, image);
        refs.cookie = self.cookies(source, &storage, image);
        let others = self.needs.len() - before;
        refs.encrypt = self.encryption(link, image);
        // What opens the image is looked for first.
        self.needs[before..].rotate_left(others);
        refs.tls = self.tls(source, &storage, image);
        refs.debug = self.res.config.gluster_debug;
        let prepared = self.res.device(&storage);
        refs.path = prepared.path;
        if let Some(set) = set_of(source) {
            refs.path = Some(format!("/dev/fdset/{set}"));
            image.descriptors = Some(Descriptors {
                set,
                single: prepared.descriptors.len() == 1,
                numbers: prepared.descriptors,
            });
        }
        refs
    }

    fn reservations(&mut self, source: &Source, image: &mut Image) -> Option<String> {
        let reservations = source.reservations.as_ref()?;
        if reservations.managed == Some(YesNo::Yes) {
            return Some("pr-helper0".to_owned());
        }
        let path = reservations.source.as_ref()?.path.clone()?;
        let id = format!("pr-helper-{}", image.storage_node());
        image
            .objects
            .push(Props::object("pr-manager-helper", id.clone()).with("path", path));
        Some(id)
    }

    fn auth(&mut self, source: &Source, storage: &str, image: &mut Image) -> Option<String> {
        let secret = source.auth.as_ref()?.secret.as_ref()?;
        let id = format!("{storage}-auth-secret0");
        // The protocol says what the secret is for, whatever the document calls it.
        let kind = match source.protocol {
            Some(NetProtocol::Rbd) => "ceph",
            _ => "iscsi",
        };
        let from = match SecretFrom::of(secret) {
            SecretFrom::Usage(_, name) => SecretFrom::Usage(kind.to_owned(), name),
            other => other,
        };
        image.objects.push(self.secret(&id, from));
        Some(id)
    }

    /// Makes the secrets of an encrypted image; answers `encrypt` when the storage decrypts.
    fn encryption(&mut self, link: &Link<'_>, image: &mut Image) -> Option<Props> {
        let encryption = link.source.encryption.as_ref()?;
        let in_storage = encryption.engine == Some(EncryptionEngine::Librbd);
        let raw = link.format == StorageFormat::Raw;
        let stem = if in_storage && raw {
            image.storage_node()
        } else {
            image.format_node()
        };
        let ids: Vec<_> = (0..encryption.secrets.len())
            .map(|n| format!("{stem}-encryption-secret{n}"))
            .collect();
        for (id, secret) in ids.iter().zip(&encryption.secrets) {
            let from = match (&secret.uuid, &secret.usage) {
                (Some(uuid), _) => SecretFrom::Uuid(uuid.clone()),
                (None, usage) => SecretFrom::Usage("volume".into(), usage.clone().unwrap_or_default()),
            };
            image.objects.push(self.secret(id, from));
        }
        in_storage.then(|| layered(encryption.format.as_str(), &ids))
    }

    fn cookies(&mut self, source: &Source, storage: &str, image: &mut Image) -> Option<String> {
        let cookies = &source.cookies.as_ref()?.cookies;
        if cookies.is_empty() {
            return None;
        }
        let text: Vec<_> = cookies
            .iter()
            .map(|cookie| format!("{}={}", cookie.name, cookie.value))
            .collect();
        let id = format!("{storage}-httpcookie-secret0");
        image
            .objects
            .push(self.secret(&id, SecretFrom::Value(text.join("; "))));
        Some(id)
    }

    fn tls(&mut self, source: &Source, storage: &str, image: &mut Image) -> Option<String> {
        let config = &self.res.config;
        let wanted = source.tls.map_or(config.nbd_tls, YesNo::is_yes);
        if !wanted || source.protocol != Some(NetProtocol::Nbd) {
            return None;
        }
        let id = format!("obj{storage}_tls0");
        let secret = format!("{id}-secret0");
        let (objects, need) = credentials(self.res, &config.nbd_files, (&id, &secret), End::Client);
        image.objects.extend(objects);
        self.needs.extend(need);
        Some(id)
    }
}

/// The key of a run, from its file: the values of secrets are encrypted with it.
pub fn master_key(file: impl Into<String>) -> Props {
    Props::object("secret", MASTER_KEY)
        .with("format", "raw")
        .with("file", file.into())
}

fn secret_object(res: &Resources, id: &str) -> Props {
    let secret = res.secrets.get(id).cloned().unwrap_or_default();
    Props::object("secret", id)
        .with("data", secret.data)
        .with("keyid", MASTER_KEY)
        .with("iv", secret.iv)
        .with("format", "base64")
}

/// Which end of an encrypted connection QEMU is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is connected to, and may want to see who connects.
    Server,
    /// It connects, and always wants to see to whom.
    Client,
}

/// The objects that one end of an encrypted connection shows itself with, and the secret that opens its key.
pub fn credentials(
    res: &Resources,
    files: &TlsFiles,
    (id, secret): (&str, &str),
    end: End,
) -> (Vec<Props>, Option<SecretNeed>) {
    let need = files.secret.as_ref().map(|uuid| SecretNeed {
        id: secret.to_owned(),
        from: SecretFrom::Uuid(uuid.clone()),
    });
    let shown = Props::object("tls-creds-x509", id)
        .with("dir", files.dir.clone())
        .with("endpoint", if end == End::Server { "server" } else { "client" })
        .with("verify-peer", end == End::Client || files.verify)
        .with_opt("passwordid", need.as_ref().map(|need| need.id.clone()));
    let opened = need.as_ref().map(|need| secret_object(res, &need.id));
    (opened.into_iter().chain([shown]).collect(), need)
}

/// `encrypt` of RBD: the first secret opens the outer layer, the others those of its parents.
fn layered(format: &str, ids: &[String]) -> Props {
    let mut props: Option<Props> = None;
    for id in ids.iter().rev() {
        props = Some(
            Props::new()
                .with("format", format)
                .with("key-secret", id.clone())
                .with_opt("parent", props.take()),
        );
    }
    props.unwrap_or_default()
}

fn common(disk: &Disk) -> Common {
    let driver = disk.driver.as_ref();
    let cache = driver.and_then(|driver| driver.cache).unwrap_or_default();
    let io = driver
        .and_then(|driver| driver.io)
        .filter(|io| *io != IoMode::Default);
    let discard = driver
        .and_then(|driver| driver.discard)
        .filter(|discard| *discard != Discard::Default);
    Common {
        io: io.map(|io| io.as_str().to_owned()),
        cache: Cache::from_mode(CacheMode::as_str(cache)),
        discard: discard.map(|discard| discard.as_str().to_owned()),
        floppy: disk.device == DiskDevice::Floppy,
        discard_no_unref: driver
            .and_then(|driver| driver.discard_no_unref)
            .map(|value| value.is_on()),
    }
}

/// Whether a drive has no medium.
pub fn is_empty(disk: &Disk) -> bool {
    let Some(source) = &disk.source else {
        return true;
    };
    match disk.kind {
        StorageKind::File => source.file.is_none(),
        StorageKind::Block => source.dev.is_none(),
        StorageKind::Dir => source.dir.is_none(),
        _ => false,
    }
}

fn top_link<'a>(disk: &'a Disk, common: &'a Common) -> Option<Link<'a>> {
    if is_empty(disk) || disk.kind == StorageKind::VhostUser {
        return None;
    }
    let driver = disk.driver.as_ref();
    let (kind, mut source) = disk.source.as_ref()?.located(disk.kind);
    if disk.auth.is_some() && source.auth.is_none() {
        source.to_mut().auth.clone_from(&disk.auth);
    }
    if disk.encryption.is_some() && source.encryption.is_none() {
        source.to_mut().encryption.clone_from(&disk.encryption);
    }
    Some(Link {
        kind,
        format: driver
            .and_then(|driver| driver.kind)
            .unwrap_or(StorageFormat::Raw),
        source,
        common,
        read_only: disk.readonly,
        detect_zeroes: detect_zeroes(disk),
        metadata_cache: driver.and_then(|driver| cache_size(driver.metadata_cache.as_ref())),
    })
}

/// `unmap` needs discards; without them QEMU is told `on`.
fn detect_zeroes(disk: &Disk) -> Option<String> {
    let driver = disk.driver.as_ref()?;
    let mode = driver
        .detect_zeroes
        .filter(|mode| *mode != DetectZeroes::Default)?;
    let mode = match mode {
        DetectZeroes::Unmap if driver.discard != Some(Discard::Unmap) => DetectZeroes::On,
        other => other,
    };
    Some(mode.as_str().to_owned())
}

fn cache_size(cache: Option<&MetadataCache>) -> Option<u64> {
    let size = cache?.max_size.as_ref()?;
    size::bytes(size.value, size.unit.as_deref().unwrap_or("bytes"))
}

fn storage_slice(source: &Source) -> Option<Slice> {
    let slices = source.slices.as_ref()?;
    let slice = slices
        .slices
        .iter()
        .find(|slice| slice.kind.as_deref() == Some("storage"))?;
    Some(Slice {
        offset: slice.offset,
        size: slice.size,
    })
}

fn access(link: &Link<'_>) -> Access {
    Access {
        read_only: link.read_only,
        discard: link.common.discard.clone(),
        detect_zeroes: link.detect_zeroes.clone(),
        cache: link.common.cache,
    }
}

/// The format node of an image; raw images have none unless QEMU decrypts them.
fn format_layer(link: &Link<'_>, image: &Image) -> Result<Option<Format>> {
    let encryption = link
        .source
        .encryption
        .as_ref()
        .filter(|encryption| encryption.engine != Some(EncryptionEngine::Librbd));
    let key = format!("{}-encryption-secret0", image.format_node());
    let options = match (link.format, encryption) {
        (StorageFormat::Raw, None) => return Ok(None),
        (StorageFormat::Raw | StorageFormat::Luks, Some(_)) => Props::driver("luks").with("key-secret", key),
        // One that names no secret opens nothing.
        (StorageFormat::Qcow2, encryption) => {
            qcow2(link, encryption.filter(|of| !of.secrets.is_empty()), key)?
        }
        (StorageFormat::Qcow, encryption) => {
            let opened = encryption.filter(|of| !of.secrets.is_empty());
            Props::driver("qcow").with_opt("encrypt", opened.map(|_| aes(key)))
        }
        (format, _) => Props::driver(format_driver(format)?),
    };
    Ok(Some(Format { options }))
}

fn qcow2(link: &Link<'_>, encryption: Option<&Encryption>, key: String) -> Result<Props> {
    let encrypt = match encryption.map(|encryption| encryption.format) {
        None => None,
        Some(EncryptionFormat::Luks) => Some(Props::new().with("format", "luks").with("key-secret", key)),
        Some(EncryptionFormat::Qcow) => Some(aes(key)),
        Some(other) => {
            return Err(Error::unsupported(format!(
                "encryption format '{}' is not supported with 'qcow2' images",
                other.as_str()
            )));
        }
    };
    Ok(Props::driver("qcow2")
        .with_opt("encrypt", encrypt)
        .with_opt("cache-size", link.metadata_cache.filter(|size| *size != 0))
        .with_opt("discard-no-unref", link.common.discard_no_unref))
}

fn aes(key: String) -> Props {
    Props::new().with("format", "aes").with("key-secret", key)
}

/// QEMU's driver for a format.
fn format_driver(format: StorageFormat) -> Result<&'static str> {
    match format {
        StorageFormat::Fat => Ok("raw"),
        StorageFormat::Ploop => Ok("parallels"),
        StorageFormat::Vhd => Ok("vpc"),
        StorageFormat::Dir | StorageFormat::Iso | StorageFormat::Cow => Err(Error::internal_qemu(format!(
            "mishandled storage format '{}'",
            format.as_str()
        ))),
        other => Ok(other.as_str()),
    }
}
