//! Internal snapshots in image files: which there are, read from the images themselves, and qemu-img at work on the images
//! of a guest that is off.
//!
//! The table of snapshots is read by us: it is asked before something is done that can't be taken back. Images are written
//! by guests, so everything read is bounded.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};
pub(crate) use crate::ops::holdings::storage::qemu_img::qemu_img;

/// How often qemu-img is asked to remove a part.
const ATTEMPTS: u32 = 3;
/// Most snapshots of an image, as in QEMU.
const SNAPSHOTS_MAX: u32 = 65_536;
/// Longest table of snapshots that is read, bytes.
const TABLE_MAX: u64 = 64 << 20;
/// Bytes of an entry of the table before what has no fixed length.
const ENTRY: usize = 40;

/// A snapshot in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InImage {
    /// Its name.
    pub(crate) name: String,
    /// The guest's memory is with it.
    pub(crate) has_memory: bool,
}

/// What is done to a snapshot in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// It is made.
    Create,
    /// The image is set back to it.
    Apply,
    /// It is removed.
    Delete,
}

impl Deed {
    fn switch(self) -> &'static str {
        match self {
            Self::Create => "-c",
            Self::Apply => "-a",
            Self::Delete => "-d",
        }
    }
}

/// Has qemu-img do something to a snapshot in an image.
///
/// # Errors
/// There is no qemu-img, or it fails: in its words.
pub(crate) async fn carry_out(deed: Deed, name: &str, image: &Path) -> Result<()> {
    let image = image.to_string_lossy().into_owned();
    qemu_img(
        ["snapshot", deed.switch(), name, &image]
            .map(str::to_owned)
            .to_vec(),
    )
    .await
}

/// Removes a snapshot's part from an image of a guest that is off. As in libvirt, an image that has gone, or lost its part, is
/// in nobody's way; one that keeps it is.
///
/// # Errors
/// It keeps it: in qemu-img's words.
pub(crate) async fn remove_part(name: &str, image: PathBuf) -> Result<()> {
    let mut attempts = 1..ATTEMPTS;
    while let Err(error) = carry_out(Deed::Delete, name, &image).await {
        if !matches!(find(image.clone(), name).await, Ok(Some(_))) {
            tracing::warn!(snapshot = name, image = %image.display(), %error, "an image has no part of a snapshot that is removed");
            break;
        }
        // Something may have ended qemu-img.
        if attempts.next().is_none() {
            return Err(error);
        }
    }
    Ok(())
}

/// Removes what images of a guest that is off have of a snapshot that did not come about.
///
/// # Errors
/// An image can't be read or changed.
pub(crate) async fn take_back(name: &str, images: &[PathBuf]) -> Result<()> {
    for image in images {
        // Variables of the firmware may not have been made.
        if image.exists() && find(image.clone(), name).await?.is_some() {
            remove_part(name, image.clone()).await?;
        }
    }
    Ok(())
}

/// The snapshots in an image. One that is no qcow2 has none.
///
/// # Errors
/// `System` if it can't be read.
pub(crate) async fn of(image: PathBuf) -> Result<Vec<InImage>> {
    let read = move || {
        read(&image).map_err(|e| {
            Error::system(
                format_args!("cannot read the snapshots in '{}'", image.display()),
                e,
            )
        })
    };
    crate::blocking::file("reading the snapshots in an image", read).await
}

/// Whether an image has a snapshot of a name.
///
/// # Errors
/// As [`of`].
pub(crate) async fn find(image: PathBuf, name: &str) -> Result<Option<InImage>> {
    Ok(of(image)
        .await?
        .into_iter()
        .find(|snapshot| snapshot.name == name))
}

fn read(path: &Path) -> io::Result<Vec<InImage>> {
    let mut file = File::open(path)?;
    let mut head = [0_u8; 72];
    if read_up_to(&mut file, &mut head)? < head.len() || head[..4] != *b"QFI\xfb" {
        return Ok(Vec::new());
    }
    let (count, offset) = (be32(&head, 60), be64(&head, 64));
    if count > SNAPSHOTS_MAX {
        return Err(bad("it has too many snapshots"));
    }
    file.seek(SeekFrom::Start(offset))?;
    let mut table = io::BufReader::new(file.take(TABLE_MAX));
    (0..count).map(|_| entry(&mut table)).collect()
}

fn entry(table: &mut impl Read) -> io::Result<InImage> {
    let mut fixed = [0_u8; ENTRY];
    table.read_exact(&mut fixed)?;
    let (id, name) = (usize::from(be16(&fixed, 12)), usize::from(be16(&fixed, 14)));
    let extra = be32(&fixed, 36) as usize;
    if extra > 1024 {
        return Err(bad("an entry of its table of snapshots is too long"));
    }
    let length = extra + id + name;
    let mut rest = vec![0_u8; length];
    table.read_exact(&mut rest)?;
    // Entries begin at multiples of 8 bytes; nothing need follow the last.
    let gap = (8 - (ENTRY + length) % 8) % 8;
    io::copy(&mut table.take(gap as u64), &mut io::sink())?;
    // Newer images have the size in the part that may grow.
    let size = if extra >= 8 {
        be64(&rest, 0)
    } else {
        u64::from(be32(&fixed, 32))
    };
    let name = rest.get(extra + id..length).unwrap_or_default();
    Ok(InImage {
        name: String::from_utf8_lossy(name).into_owned(),
        has_memory: size > 0,
    })
}

fn read_up_to(file: &mut File, into: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match file.read(&mut into[done..])? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    if let Some(found) = from.get(at..at + N) {
        bytes.copy_from_slice(found);
    }
    bytes
}

fn be16(from: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes(from, at))
}

fn be32(from: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes(from, at))
}

fn be64(from: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes(from, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::host::programs;

    #[tokio::test]
    async fn qemu_img_makes_what_is_read_and_removes_it() {
        if programs::find("qemu-img", &[]).is_none() {
            testkit::skip::skip("there is no qemu-img");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("a.qcow2");
        let made = std::process::Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(&image)
            .arg("1M")
            .status()
            .unwrap();
        assert!(made.success());
        assert_eq!(of(image.clone()).await.unwrap(), []);
        for name in ["one", "a longer name"] {
            carry_out(Deed::Create, name, &image).await.unwrap();
        }
        let names: Vec<_> = of(image.clone())
            .await
            .unwrap()
            .into_iter()
            .map(|s| s.name)
            .collect();
        assert_eq!(names, ["one", "a longer name"]);
        carry_out(Deed::Apply, "one", &image).await.unwrap();
        carry_out(Deed::Delete, "one", &image).await.unwrap();
        assert_eq!(find(image.clone(), "one").await.unwrap(), None);
        let error = carry_out(Deed::Delete, "one", &image).await.unwrap_err();
        assert!(error.message.contains("unexpected exit status 1: "), "{error}");
    }

    #[test]
    fn a_table_that_leads_nowhere_is_an_error_and_another_format_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, b"raw").unwrap();
        assert_eq!(read(&path).unwrap(), []);
        let mut head = vec![0_u8; 72];
        head[..4].copy_from_slice(b"QFI\xfb");
        head[60..64].copy_from_slice(&1_u32.to_be_bytes());
        head[64..72].copy_from_slice(&u64::MAX.to_be_bytes());
        std::fs::write(&path, &head).unwrap();
        assert!(read(&path).is_err());
        head[60..64].copy_from_slice(&u32::MAX.to_be_bytes());
        std::fs::write(&path, &head).unwrap();
        assert!(read(&path).is_err());
    }
}
