//! Between a pipe and a file: what QEMU writes goes to disk, what is on disk goes to QEMU; compressed on the way if wanted.
//!
//! QEMU gets a pipe, so that a disk that is full or slow is ours to tell of, and a file can be written past the page
//! cache. The copying has a thread of its own; it ends when the other end of the pipe is closed. For `saves` alone.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Stdio,
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use qemu_plan::save_image::ImageFormat;
use tokio::{io::AsyncReadExt, process::Command, task::JoinHandle};

use crate::{
    error::{Area, Code, Error, Result},
    ops::host::programs,
};

/// What a pipe holds; fewer switches between the two ends.
const PIPE: i32 = 1 << 20;
/// What is read or written at once. QEMU may be done before a file that is full is met, as with libvirt's helper.
const BLOCK: usize = 1 << 20;
/// How blocks must lie for that.
const ALIGN: usize = 4096;
/// Most of what a compressor says that is told.
const WORDS: u64 = 1000;

/// How a file is written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cache {
    /// As usual.
    Used,
    /// Past the page cache.
    Bypassed,
}

/// The program of a format, if it needs one.
///
/// # Errors
/// It is not installed; `what` is saved: `save`, `dump`, `snapshot`.
pub(crate) fn program(format: ImageFormat, what: &str) -> Result<Option<PathBuf>> {
    let Some(name) = format.program() else {
        return Ok(None);
    };
    let found = programs::find(name, &[]).ok_or_else(|| {
        let text =
            format!("Compression program for {what} image format in configuration file isn't available");
        Error::new(Code::OperationFailed, text)
    })?;
    Ok(Some(found))
}

/// Bytes on their way into a file or out of it.
pub(crate) struct Pour {
    /// None once it has ended.
    copying: Option<JoinHandle<io::Result<()>>>,
    program: Option<Running>,
    path: PathBuf,
}

struct Running {
    child: tokio::process::Child,
    name: String,
    /// What it says of what went wrong.
    words: JoinHandle<Vec<u8>>,
}

impl Pour {
    /// Has what is written to the descriptor that is returned go into `file`, after `head`.
    ///
    /// # Errors
    /// No pipe can be made, or the compressor not be run.
    pub(crate) fn into_file(
        file: File,
        path: &Path,
        head: Vec<u8>,
        (cache, compressor): (Cache, Option<PathBuf>),
    ) -> Result<(Self, OwnedFd)> {
        let (from, end) = pipe()?;
        let (from, program) = match compressor {
            None => (from, None),
            Some(program) => {
                let (compressed, to) = pipe()?;
                (compressed, Some(run(&program, &["-c"], from, to)?))
            }
        };
        let copying = tokio::task::spawn_blocking(move || fill(file, from.into(), head, cache));
        let pour = Self {
            copying: Some(copying),
            program,
            path: path.to_owned(),
        };
        Ok((pour, end))
    }

    /// Has what is in `file` from `at` on be read from the descriptor that is returned.
    ///
    /// # Errors
    /// As [`Self::into_file`].
    pub(crate) fn out_of_file(
        mut file: File,
        path: &Path,
        at: u64,
        (cache, format): (Cache, ImageFormat),
    ) -> Result<(Self, OwnedFd)> {
        let program = format.program().map(|name| {
            let text = format!("the program '{name}' that decompresses the image is not installed");
            programs::find(name, &[]).ok_or_else(|| Error::new(Code::OperationFailed, text))
        });
        let program = program.transpose()?;
        let (end, to) = pipe()?;
        let mut running = None;
        let copying = match (program, cache) {
            (Some(program), Cache::Used) => {
                seek(&mut file, at, path)?;
                running = Some(run(&program, format.decompress(), file.into(), to)?);
                tokio::task::spawn_blocking(|| Ok(()))
            }
            (Some(program), Cache::Bypassed) => {
                let (compressed, into) = pipe()?;
                running = Some(run(&program, format.decompress(), compressed, to)?);
                tokio::task::spawn_blocking(move || drain(file, at, into.into(), cache))
            }
            (None, _) => tokio::task::spawn_blocking(move || drain(file, at, to.into(), cache)),
        };
        let pour = Self {
            copying: Some(copying),
            program: running,
            path: path.to_owned(),
        };
        Ok((pour, end))
    }

    /// Waits until all is done. Cancel safe.
    ///
    /// # Errors
    /// What the file or the compressor met.
    pub(crate) async fn done(&mut self) -> Result<()> {
        if let Some(copying) = &mut self.copying {
            let copied = copying.await;
            self.copying = None;
            let copied = copied.map_err(|panic| {
                Error::internal("copying met a bug in the daemon; see its log").caused_by(panic)
            })?;
            // The compressor would only tell that nobody reads.
            copied.map_err(|error| self.failed(error))?;
        }
        if let Some(program) = &mut self.program {
            let ended = program.ended().await;
            self.program = None;
            ended?;
        }
        Ok(())
    }

    /// What the file met, in the words of libvirt's helper.
    fn failed(&self, error: io::Error) -> Error {
        let path = self.path.display();
        let what = format!("failure with {path}: Unable to write {path}");
        Error {
            code: Code::OperationFailed,
            area: Area::None,
            ..Error::system(what, error)
        }
    }
}

impl Running {
    async fn ended(&mut self) -> Result<()> {
        let name = self.name.as_str();
        let failed =
            |what: String| Error::new(Code::OperationFailed, format!("Child process ({name}) {what}"));
        let status = self.child.wait().await;
        let status = status.map_err(|e| failed("can't be waited for".to_owned()).caused_by(e))?;
        if status.success() {
            return Ok(());
        }
        let words = (&mut self.words).await.unwrap_or_default();
        let words = String::from_utf8_lossy(&words);
        Err(failed(format!("unexpected {status}: {}", words.trim())))
    }
}

fn run(program: &Path, arguments: &[&str], stdin: OwnedFd, stdout: OwnedFd) -> Result<Running> {
    let name = format!("{} {}", program.display(), arguments.join(" "));
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(stdout))
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = child.map_err(|error| Error::system(format_args!("cannot run '{name}'"), error))?;
    let stderr = child.stderr.take();
    let words = tokio::spawn(async move {
        let mut words = Vec::new();
        if let Some(stderr) = stderr {
            // What it said until then is all there is.
            let _ = stderr.take(WORDS).read_to_end(&mut words).await;
        }
        words
    });
    Ok(Running { child, name, words })
}

/// The end that is read and the end that is written.
fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)
        .map_err(|error| Error::system("cannot make a pipe", error.into()))?;
    // It is a matter of speed.
    let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE));
    Ok((read, write))
}

fn seek(file: &mut File, at: u64, path: &Path) -> Result<()> {
    let sought = file.seek(SeekFrom::Start(at)).map(drop);
    sought.map_err(|error| Error::system(format_args!("cannot read '{}'", path.display()), error))
}

/// Copies until the other end of the pipe is closed; what was written is on the disk then.
fn fill(mut file: File, mut from: File, head: Vec<u8>, cache: Cache) -> io::Result<()> {
    match cache {
        Cache::Used => {
            file.write_all(&head)?;
            in_blocks(&mut from, &mut file)?;
        }
        Cache::Bypassed => {
            let mut all = Read::chain(io::Cursor::new(head), from);
            past_the_cache(&mut all, &mut file)?;
        }
    }
    match file.sync_data() {
        // A pipe has nothing that could be on a disk.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

/// Copies from there on to the end.
fn drain(mut file: File, at: u64, mut to: File, cache: Cache) -> io::Result<()> {
    let copied = match cache {
        Cache::Used => file
            .seek(SeekFrom::Start(at))
            .and_then(|_| io::copy(&mut file, &mut to))
            .map(drop),
        Cache::Bypassed => read_past_the_cache(&mut file, at, &mut to),
    };
    match copied {
        // Whoever reads has enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// A buffer for reading and writing past the page cache.
struct Aligned {
    bytes: Vec<u8>,
    offset: usize,
}

impl Aligned {
    fn new() -> Self {
        let bytes = vec![0; BLOCK + ALIGN];
        let offset = bytes.as_ptr().align_offset(ALIGN);
        Self { bytes, offset }
    }

    fn block(&mut self) -> &mut [u8] {
        &mut self.bytes[self.offset..self.offset + BLOCK]
    }
}

/// Reads until the block is full or nothing more comes; how much was read.
fn fill_block(from: &mut impl Read, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match from.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn in_blocks(from: &mut impl Read, file: &mut File) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    loop {
        let filled = fill_block(from, &mut block)?;
        file.write_all(&block[..filled])?;
        if filled < block.len() {
            return Ok(());
        }
    }
}

fn past_the_cache(from: &mut impl Read, file: &mut File) -> io::Result<()> {
    let mut buffer = Aligned::new();
    loop {
        let block = buffer.block();
        let filled = fill_block(from, block)?;
        if filled == block.len() {
            file.write_all(block)?;
            continue;
        }
        // What is left fills no block.
        let flags = OFlag::from_bits_retain(fcntl(&*file, FcntlArg::F_GETFL)?);
        fcntl(&*file, FcntlArg::F_SETFL(flags - OFlag::O_DIRECT))?;
        return file.write_all(&block[..filled]);
    }
}

fn read_past_the_cache(file: &mut File, at: u64, to: &mut File) -> io::Result<()> {
    let aligned = at - at % ALIGN as u64;
    file.seek(SeekFrom::Start(aligned))?;
    let mut skip = usize::try_from(at - aligned).unwrap_or(0);
    let mut buffer = Aligned::new();
    loop {
        let block = buffer.block();
        match file.read(block)? {
            0 => return Ok(()),
            read => {
                to.write_all(block.get(skip..read).unwrap_or_default())?;
                skip = skip.saturating_sub(read);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|i| u8::try_from(i % 251).unwrap_or(0)).collect()
    }

    fn open(path: &Path, cache: Cache, write: bool) -> File {
        let mut options = File::options();
        options.read(!write).write(write).create(write);
        if cache == Cache::Bypassed {
            options.custom_flags(OFlag::O_DIRECT.bits());
        }
        options.open(path).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_goes_into_a_file_comes_out() {
        // On a disk: not every file system of memory has files past its cache.
        let dir = tempfile::tempdir_in("target").unwrap();
        let path = dir.path().join("image");
        let head = content(100_123);
        for format in [ImageFormat::Raw, ImageFormat::Gzip] {
            for cache in [Cache::Used, Cache::Bypassed] {
                for len in [0, 1, BLOCK - head.len(), BLOCK, 3 * BLOCK + 77] {
                    let program = program(format, "save").unwrap();
                    let file = open(&path, cache, true);
                    file.set_len(0).unwrap();
                    let (mut pour, to) =
                        Pour::into_file(file, &path, head.clone(), (cache, program)).unwrap();
                    let written = tokio::task::spawn_blocking(move || {
                        File::from(to).write_all(&content(len)).unwrap();
                    });
                    written.await.unwrap();
                    pour.done().await.unwrap();
                    let at = head.len() as u64;
                    let file = open(&path, cache, false);
                    let (mut pour, from) = Pour::out_of_file(file, &path, at, (cache, format)).unwrap();
                    let read = tokio::task::spawn_blocking(move || {
                        let mut bytes = Vec::new();
                        File::from(from).read_to_end(&mut bytes).unwrap();
                        bytes
                    });
                    assert!(read.await.unwrap() == content(len), "{format:?} {cache:?} {len}");
                    pour.done().await.unwrap();
                    assert_eq!(std::fs::read(&path).unwrap()[..head.len()], head);
                }
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_disk_that_is_full_and_a_stream_that_is_damaged_are_told() {
        let full = open(Path::new("/dev/full"), Cache::Used, true);
        let (mut pour, to) =
            Pour::into_file(full, Path::new("/dev/full"), Vec::new(), (Cache::Used, None)).unwrap();
        tokio::task::spawn_blocking(move || drop(File::from(to).write_all(b"x")))
            .await
            .unwrap();
        let error = pour.done().await.unwrap_err();
        let text =
            "operation failed: failure with /dev/full: Unable to write /dev/full: No space left on device";
        assert_eq!(error.to_string(), text);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("damaged");
        std::fs::write(&path, "no such stream").unwrap();
        let file = open(&path, Cache::Used, false);
        let (mut pour, _from) = Pour::out_of_file(file, &path, 0, (Cache::Used, ImageFormat::Gzip)).unwrap();
        let error = pour.done().await.unwrap_err();
        assert!(error.message.contains("gzip"), "{error}");
    }
}
