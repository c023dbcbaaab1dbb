//! Images of saved guests as files: found, begun, sealed; their documents read and replaced.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::fcntl::OFlag;
use qemu_plan::save_image::{Damage, HEADER_LEN, Header, ImageFormat, Texts};

use crate::{
    blocking,
    domain::{Domain, View},
    error::{Code, Error, Result},
    ops::{
        Conditions, Driver,
        document::{abi, plan},
        saves::pour::Cache,
    },
};

/// An image that was opened and whose head was read.
#[derive(Debug)]
pub(crate) struct Image {
    /// Where it is.
    pub(crate) path: PathBuf,
    pub(crate) header: Header,
    pub(crate) texts: Texts,
}

/// The document of an image, for whoever asks.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The guest's document.
    pub xml: String,
    /// How the image is stored.
    pub format: ImageFormat,
    /// The guest's CPUs are to run once it is restored.
    pub runs: bool,
}

impl Image {
    /// Opens an image.
    ///
    /// # Errors
    /// It can't be opened, or what is wrong with it.
    pub(crate) async fn open(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        let work = move || match read(&path)? {
            Ok((header, texts)) => Ok(Self { path, header, texts }),
            Err(damage) => Err(damaged(damage)),
        };
        blocking::file("reading a saved guest's image", work).await
    }

    /// The image of a guest's managed save, if it has one. What is no image of a saved guest, or was not written to its
    /// end, is put aside under another name, and there is none then.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) async fn managed(driver: &Driver, name: &str) -> Result<Option<Self>> {
        let path = driver.registry.store().managed_save_path(name);
        let guest = name.to_owned();
        let work = move || {
            if !path.exists() {
                return Ok(None);
            }
            match read(&path)? {
                Ok((header, texts)) => Ok(Some(Self { path, header, texts })),
                Err(damage) if damage.is_no_image() => {
                    let aside = put_aside(&path, "broken")?;
                    tracing::warn!(guest, image = %aside.display(), %damage,
                        "the image of the managed save can't be restored: it is kept under this name, and the guest boots");
                    Ok(None)
                }
                Err(damage) => Err(damaged(damage)),
            }
        };
        blocking::file("reading the image of a managed save", work).await
    }

    /// Opens it once more, for the stream alone.
    ///
    /// # Errors
    /// `System`.
    pub(crate) fn reopen(&self, cache: Cache) -> Result<File> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(direct(cache))
            .open(&self.path);
        opened.map_err(|error| not_opened(&self.path, error))
    }

    async fn shown(&self, driver: &Arc<Driver>, secure: bool) -> Result<Shown> {
        let document = plan::complete(driver, self.document()?, qemu_plan::address::Age::Known).await?;
        let mut flags = domxml::FormatFlags::INACTIVE;
        if secure {
            flags |= domxml::FormatFlags::SECURE;
        }
        Ok(Shown {
            xml: document.domain.format(flags),
            format: self.header.format,
            runs: self.header.runs,
        })
    }

    /// Its document, as it was stored.
    ///
    /// # Errors
    /// It can't be read.
    pub(crate) fn document(&self) -> Result<Box<domxml::Domain>> {
        let flags = domxml::ParseFlags::INACTIVE;
        Ok(Box::new(domxml::Domain::parse(&self.texts.document, flags)?))
    }

    /// The CPU that the guest had, if the image tells.
    pub(crate) fn cpu(&self) -> Option<domxml::cpu::Cpu> {
        let cookie = self.texts.cookie.as_deref()?;
        match domxml::SaveCookie::parse(cookie) {
            Ok(cookie) => cookie.cpu,
            Err(error) => {
                tracing::warn!(image = %self.path.display(), %error, "the cookie of this image can't be read");
                None
            }
        }
    }
}

fn read(path: &Path) -> Result<Result<(Header, Texts), Damage>> {
    let failed = |error| not_opened(path, error);
    let mut file = File::open(path).map_err(failed)?;
    let head = part(&mut file, HEADER_LEN).map_err(failed)?;
    let header = match Header::decode(&head) {
        Ok(header) => header,
        Err(damage) => return Ok(Err(damage)),
    };
    let data = part(&mut file, header.data_len as usize).map_err(failed)?;
    Ok(header.texts(&data).map(|texts| (header, texts)))
}

/// At most so many bytes, of a file that may end before.
fn part(file: &mut File, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn damaged(damage: Damage) -> Error {
    Error::new(Code::OperationFailed, damage.to_string())
}

fn not_opened(path: &Path, error: io::Error) -> Error {
    Error::system(format_args!("Failed to open file '{}'", path.display()), error)
}

fn direct(cache: Cache) -> i32 {
    match cache {
        Cache::Used => 0,
        Cache::Bypassed => OFlag::O_DIRECT.bits(),
    }
}

/// Gives a file a name under which nobody takes it for an image: `FILE.WORD`, with a number if there is one already.
pub(crate) fn put_aside(path: &Path, word: &str) -> Result<PathBuf> {
    let name = |number: u32| match number {
        0 => format!("{}.{word}", path.display()),
        number => format!("{}.{word}.{number}", path.display()),
    };
    let free = (0..1000).map(name).find(|name| !Path::new(name).exists());
    let aside = PathBuf::from(free.unwrap_or_else(|| name(1000)));
    let renamed = fs::rename(path, &aside);
    renamed.map_err(|error| {
        Error::system(
            format_args!("cannot rename '{}' to '{}'", path.display(), aside.display()),
            error,
        )
    })?;
    Ok(aside)
}

/// A file that is about to be written.
#[derive(Debug)]
pub(crate) struct New {
    pub(crate) file: File,
    /// It was not there before.
    pub(crate) created: bool,
}

impl New {
    /// Whether there is a file of that name.
    pub(crate) async fn exists(path: &Path) -> Result<bool> {
        let path = path.to_owned();
        blocking::file("looking for a file", move || {
            Ok(fs::symlink_metadata(&path).is_ok())
        })
        .await
    }

    /// Refuses, for a trial, what [`Self::create`] would fail at.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub(crate) async fn may_create(path: &Path) -> Result<()> {
        crate::ops::host::files::may_make(path, not_made(path)).await
    }

    /// Makes the file, or empties the one that is there; it keeps its owner.
    ///
    /// # Errors
    /// `System`.
    pub(crate) async fn create(path: &Path, cache: Cache) -> Result<Self> {
        let path = path.to_owned();
        let work = move || {
            let failed = |error| Error::system(not_made(&path), error);
            let mut options = OpenOptions::new();
            options.write(true).mode(0o600).custom_flags(direct(cache));
            let made = options.clone().create_new(true).open(&path);
            let (file, created) = match made {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    (options.open(&path).map_err(failed)?, false)
                }
                made => (made.map_err(failed)?, true),
            };
            if file.metadata().map_err(failed)?.is_file() {
                file.set_len(0).map_err(failed)?;
            }
            Ok(Self { file, created })
        };
        blocking::file("creating a file", work).await
    }
}

fn not_made(path: &Path) -> String {
    format!("Failed to create file '{}'", path.display())
}

/// Removes a file that was made in vain; of one that was there before, what was written is no image.
pub(crate) fn discard(path: &Path, created: bool) -> Result<()> {
    if created {
        return crate::ops::host::files::remove(path);
    }
    unseal(path)
}

/// Marks an image as complete: from here on it is one.
///
/// # Errors
/// `System`.
pub(crate) async fn seal(path: &Path, header: Header) -> Result<()> {
    let path = path.to_owned();
    let work = move || {
        let write = || {
            let file = OpenOptions::new().write(true).open(&path)?;
            file.sync_data()?;
            file.write_all_at(&header.encode(true), 0)?;
            file.sync_all()?;
            match path.parent() {
                Some(dir) => File::open(dir)?.sync_all(),
                None => Ok(()),
            }
        };
        write().map_err(|error| Error::system(format_args!("Failed to write '{}'", path.display()), error))
    };
    // All that QEMU wrote goes to the disk first.
    blocking::within(SYNC, "completing a saved guest's image", work).await
}

/// How long a disk may take for what was written.
const SYNC: std::time::Duration = std::time::Duration::from_secs(600);

/// Whether a file is there and is a complete image.
///
/// # Errors
/// It can't be read.
pub(crate) fn is_sealed(path: &Path) -> Result<bool> {
    let read = || {
        let mut head = Vec::new();
        File::open(path)?.take(HEADER_LEN as u64).read_to_end(&mut head)?;
        io::Result::Ok(Header::decode(&head).is_ok())
    };
    match read() {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::system(
            format_args!("Failed to read '{}'", path.display()),
            error,
        )),
        sealed => Ok(sealed.unwrap_or(false)),
    }
}

/// Has nobody take a file for a complete image any more.
pub(crate) fn unseal(path: &Path) -> Result<()> {
    let write = || {
        // What went into a pipe can't be had back.
        if !std::fs::metadata(path)?.is_file() {
            return Ok(());
        }
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        let head = part(&mut file, HEADER_LEN)?;
        if let Ok(header) = Header::decode(&head) {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&header.encode(false))?;
            file.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|error: io::Error| {
        Error::system(format_args!("Failed to write '{}'", path.display()), error)
    })
}

/// Which image somebody means.
#[derive(Clone, Debug)]
pub enum Named {
    /// The one at this path.
    Path(PathBuf),
    /// The managed save of a guest.
    Managed(Domain),
}

impl Named {
    async fn open(&self, driver: &Driver) -> Result<Image> {
        match self {
            Self::Path(path) => Image::open(path).await,
            Self::Managed(domain) => {
                let path = driver.registry.store().managed_save_path(&domain.view().name);
                let found = New::exists(&path).await?;
                if !found {
                    return Err(Error::invalid("domain does not have managed save image"));
                }
                Image::open(&path).await
            }
        }
    }
}

/// The document of an image.
///
/// # Errors
/// There is none, or what is wrong with it.
pub async fn get(driver: &Arc<Driver>, named: &Named, secure: bool) -> Result<Shown> {
    named.open(driver).await?.shown(driver, secure).await
}

/// Replaces the document of an image, or whether its guest is to run.
///
/// # Errors
/// What is wrong with image or document; the guest would be another one; there is no room. Nothing is changed then.
pub async fn update(
    driver: &Arc<Driver>,
    named: &Named,
    (xml, runs): (String, Option<bool>),
    conditions: &Conditions,
) -> Result<Shown> {
    // Nobody restores it meanwhile.
    let _job = match named {
        Named::Managed(domain) => {
            conditions.check(&domain.view())?;
            Some(
                domain
                    .job(crate::domain::jobs::Want::Plain(
                        crate::domain::jobs::Kind::Modify,
                    ))
                    .await?,
            )
        }
        Named::Path(_) => None,
    };
    let image = named.open(driver).await?;
    let runs = runs.unwrap_or(image.header.runs);
    if xml == image.texts.document && runs == image.header.runs {
        return image.shown(driver, true).await;
    }
    let text = replaced(driver, &image, xml).await?;
    let texts = Texts {
        document: text,
        cookie: image.texts.cookie.clone(),
    };
    let too_large = || Error::new(Code::OperationFailed, "new xml too large to fit in file");
    let (header, data) = texts.recompose(image.header, runs).ok_or_else(too_large)?;
    let changed = Image {
        header,
        texts,
        ..image
    };
    if conditions.trial {
        return changed.shown(driver, true).await;
    }
    let path = changed.path.clone();
    let work = move || {
        let mut bytes = header.encode(true).to_vec();
        bytes.extend_from_slice(&data);
        let write = || {
            let file = OpenOptions::new().write(true).open(&path)?;
            file.write_all_at(&bytes, 0)?;
            file.sync_all()
        };
        write().map_err(|error| Error::system(format_args!("Failed to write '{}'", path.display()), error))
    };
    blocking::file("writing a saved guest's image", work).await?;
    changed.shown(driver, true).await
}

/// A document that replaces an image's, as the image gets it.
async fn replaced(driver: &Arc<Driver>, image: &Image, xml: String) -> Result<String> {
    let new = plan::from_text(driver, xml, false).await?.domain;
    let old = plan::complete(driver, image.document()?, qemu_plan::address::Age::Known).await?;
    abi::check(&new, &old.domain)?;
    Ok(abi::migratable_text(*new))
}

/// The document of a running guest, as its image gets it.
pub(crate) async fn document_of(driver: &Arc<Driver>, view: &View, xml: Option<String>) -> Result<String> {
    use crate::ops::document::xml::{Form, text};
    let form = Form {
        migratable: true,
        ..Form::default()
    };
    let own = text(driver, view, form).await?;
    let Some(xml) = xml else {
        return Ok(own.to_string());
    };
    let new = plan::from_text(driver, xml, false).await?.domain;
    let own = Box::new(domxml::Domain::parse(&own, domxml::ParseFlags::INACTIVE)?);
    let own = plan::complete(driver, own, qemu_plan::address::Age::Known).await?;
    abi::check(&new, &own.domain)?;
    Ok(abi::migratable_text(*new))
}
