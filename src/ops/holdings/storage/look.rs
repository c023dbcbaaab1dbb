//! Sizes of images that no guest uses now, read from their files.
//!
//! Called by `inspect::stats` for many images at once. The hard thing is a file system that hangs: a thread that has asked
//! it can't be called back. So each such thread costs its callers one wait, the directory is remembered until the thread is
//! back, and images in other directories are looked at by another thread.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use domxml::devices::StorageFormat;

use super::chain;
use crate::error::{Code, Error, Result};

/// How long the look at images may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// At one of them.
    pub one: Duration,
    /// At all together.
    pub all: Duration,
}

/// An image to look at.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its file.
    pub path: PathBuf,
    /// Its format.
    pub format: StorageFormat,
}

/// Bytes: allocated, seen by the guest, on the host.
pub type Sizes = [u64; 3];

/// Directories whose file system does not answer.
#[derive(Clone, Debug, Default)]
pub struct Hanging {
    directories: Arc<Mutex<HashSet<PathBuf>>>,
}

/// What one thread has found so far, in order.
#[derive(Default)]
struct Progress {
    found: Vec<Result<Sizes>>,
    /// Nobody waits for it any more.
    abandoned: bool,
}

impl Hanging {
    /// Looks at images; an answer for each, in their order.
    pub async fn sizes(&self, mut images: Vec<Image>, limits: Limits) -> Vec<Result<Sizes>> {
        // Two threads are quicker than one, more are not.
        let rest = images.split_off(images.len() / 2);
        let (mut found, others) = tokio::join!(self.walk(images, limits), self.walk(rest, limits));
        found.extend(others);
        found
    }

    async fn walk(&self, images: Vec<Image>, limits: Limits) -> Vec<Result<Sizes>> {
        let images: Arc<[Image]> = images.into();
        let begun = Instant::now();
        let mut found = Vec::with_capacity(images.len());
        while let Some(next) = images.get(found.len()) {
            if begun.elapsed() >= limits.all || self.has(&next.path) {
                found.push(Err(hangs(&next.path)));
                continue;
            }
            found.extend(self.look(&images, found.len(), limits.one).await);
        }
        found
    }

    /// Looks at images from the `from`th on, until one takes longer than `limit`: that one is the last of the answer.
    async fn look(&self, images: &Arc<[Image]>, from: usize, limit: Duration) -> Vec<Result<Sizes>> {
        let progress = Arc::new(Mutex::new(Progress::default()));
        let mut thread = tokio::task::spawn_blocking({
            let (images, progress, hanging) = (Arc::clone(images), Arc::clone(&progress), self.clone());
            move || hanging.read(images.get(from..).unwrap_or_default(), &progress)
        });
        let mut seen = 0;
        loop {
            let over = tokio::time::timeout(limit, &mut thread).await.is_ok();
            let mut progress = lock(&progress);
            if !over && progress.found.len() > seen {
                seen = progress.found.len();
                continue;
            }
            let mut found = std::mem::take(&mut progress.found);
            if let Some(last) = images
                .get(from + found.len())
                .filter(|_| !over || found.is_empty())
            {
                progress.abandoned = true;
                if !over {
                    lock(&self.directories).insert(directory(&last.path));
                }
                found.push(Err(hangs(&last.path)));
            }
            return found;
        }
    }

    /// What a thread does: it reads until all is read or nobody waits for it any more.
    fn read(&self, images: &[Image], progress: &Mutex<Progress>) {
        for image in images {
            if self.has(&image.path) {
                // Not the place to hang again: the caller decides.
                return;
            }
            let sizes = chain::sizes(&image.path, image.format);
            let mut progress = lock(progress);
            if progress.abandoned {
                lock(&self.directories).remove(&directory(&image.path));
                return;
            }
            progress.found.push(sizes);
        }
    }

    fn has(&self, path: &Path) -> bool {
        let directories = lock(&self.directories);
        !directories.is_empty() && directories.contains(&directory(path))
    }
}

fn directory(path: &Path) -> PathBuf {
    path.parent().unwrap_or(path).to_owned()
}

fn hangs(path: &Path) -> Error {
    Error::new(
        Code::OperationTimeout,
        format!("the file system of '{}' does not answer", path.display()),
    )
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    const LIMITS: Limits = Limits {
        one: Duration::from_millis(300),
        all: Duration::from_secs(5),
    };

    fn image(path: PathBuf) -> Image {
        Image {
            path,
            format: StorageFormat::Raw,
        }
    }

    /// A pipe without a writer stands in for a file on a server that is gone: its reader waits in `open`.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_image_that_hangs_costs_one_wait_and_no_other_image_its_sizes() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        std::fs::create_dir(place("far")).unwrap();
        let pipe = place("far/pipe");
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        for near in ["a", "b", "c", "far/x"] {
            std::fs::write(place(near), [0; 512]).unwrap();
        }
        let images: Vec<_> = ["a", "missing", "far/pipe", "far/x", "b", "c"]
            .iter()
            .map(|name| image(place(name)))
            .collect();
        let hanging = Hanging::default();
        let words = |found: Vec<Result<Sizes>>| -> Vec<String> {
            let word = |one: Result<Sizes>| one.map_or_else(|e| e.message.to_string(), |s| s[2].to_string());
            found.into_iter().map(word).collect()
        };
        let begun = Instant::now();
        let found = words(hanging.sizes(images.clone(), LIMITS).await);
        assert!(begun.elapsed() >= LIMITS.one);
        let missing = format!(
            "Failed to open file '{}': No such file or directory",
            place("missing").display()
        );
        let hangs = format!("the file system of '{}' does not answer", pipe.display());
        let known = [(0, "512"), (1, &*missing), (2, &*hangs), (4, "512"), (5, "512")];
        for (at, expected) in known {
            assert_eq!(found[at], expected, "image {at}");
        }
        let begun = Instant::now();
        let found = words(hanging.sizes(images.clone(), LIMITS).await);
        assert!(begun.elapsed() < LIMITS.one, "it was waited for again");
        for (at, expected) in known {
            assert_eq!(found[at], expected, "image {at} again");
        }
        // The server is back.
        let writer = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
        let back = async {
            while hanging.has(&pipe) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), back).await.unwrap();
        drop(writer);
        std::fs::remove_file(&pipe).unwrap();
        std::fs::write(&pipe, [0; 512]).unwrap();
        assert_eq!(words(hanging.sizes(images, LIMITS).await)[2..4], ["512", "512"]);
    }
}
