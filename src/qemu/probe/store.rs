//! Replies on disk, one file a binary, beside libvirt's own cache: what is odd in it counts as absent.
//!
//! Files are written to another name and renamed, so a reader never sees a part. A daemon that was killed during a
//! probe leaves a QEMU; its locked pid file is here too, and it is killed before the next probe.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use qemu_plan::caps::{Caps, Replies};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::identity::{Identity, hex};
use crate::error::{Error, Result};
use crate::qemu::{Process, Stop};

/// Of the file, and of what is asked: raised when more is asked.
const FORMAT: u32 = 2;
/// Largest file that is read, in bytes; one of QEMU 10.0 has 0.6 MB.
const MAX_FILE: u64 = 32 << 20;

/// The directory.
#[derive(Debug, Clone)]
pub(super) struct Store {
    dir: PathBuf,
}

#[derive(Serialize)]
struct Written<'a> {
    format: u32,
    identity: &'a Identity,
    replies: &'a Replies,
}

#[derive(Deserialize)]
struct Entry {
    format: u32,
    identity: Identity,
    replies: Replies,
}

impl Store {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// What `identity` can do, if it is here and still true.
    pub(super) async fn load(&self, identity: &Identity) -> Option<Caps> {
        let (path, identity) = (self.file(identity, "json"), identity.clone());
        let found = super::super::blocking(move || read(&path, &identity)).await;
        found.ok()?
    }

    /// Keeps `replies`. That it could not is no failure of the probe.
    pub(super) async fn save(&self, identity: Identity, replies: Replies) {
        let path = self.file(&identity, "json");
        let shown = path.clone();
        let written = super::super::blocking(move || write(&path, &identity, &replies)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(path = %shown.display(), %error, "replies of QEMU could not be kept");
        }
    }

    /// Makes the directory, ends what a former daemon's probe of this binary left, and says where to put the pid files.
    pub(super) async fn prepare(&self, identity: &Identity) -> Result<[PathBuf; 2]> {
        let (dir, pid_files) = (
            self.dir.clone(),
            ["pid", "tcg.pid"].map(|extension| self.file(identity, extension)),
        );
        let made = pid_files.clone();
        let failed = |error| Error::system(format!("cannot make directory {}", self.dir.display()), error);
        let left_over = super::super::blocking(move || {
            DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            io::Result::Ok(made.iter().filter_map(|file| left_over(file)).collect::<Vec<_>>())
        })
        .await?
        .map_err(failed)?;
        for process in left_over {
            // Its lock goes with it.
            process.stop(Stop::Now).await?;
        }
        Ok(pid_files)
    }

    fn file(&self, identity: &Identity, extension: &str) -> PathBuf {
        let digest = Sha256::digest(identity.path.as_os_str().as_encoded_bytes());
        self.dir.join(hex(&digest)).with_extension(extension)
    }
}

fn read(path: &Path, identity: &Identity) -> Option<Caps> {
    let mut text = Vec::new();
    File::open(path)
        .ok()?
        .take(MAX_FILE)
        .read_to_end(&mut text)
        .ok()?;
    let entry: Entry = match serde_json::from_slice(&text) {
        Ok(entry) => entry,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "kept replies of QEMU not understood");
            return None;
        }
    };
    if entry.format != FORMAT || entry.identity != *identity {
        return None;
    }
    Caps::derive(&entry.replies).ok()
}

fn write(path: &Path, identity: &Identity, replies: &Replies) -> io::Result<()> {
    let text = serde_json::to_vec(&Written {
        format: FORMAT,
        identity,
        replies,
    })?;
    let new = path.with_extension("json.new");
    // Not synced: one that a crash of the host leaves broken is as good as none.
    File::create(&new)?.write_all(&text)?;
    fs::rename(&new, path)
}

/// The QEMU of a probe that was cut off, if one lives.
fn left_over(pid_file: &Path) -> Option<Process> {
    let holder = unixfd::lock_holder(pid_file).ok()??;
    tracing::warn!(pid = holder, "ending the QEMU of a probe that was cut off");
    unixfd::PidFd::open(holder).ok().map(Process::new)
}
