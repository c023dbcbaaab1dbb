//! QEMU's last words: the end of its log, for errors.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

/// Most of a log that goes into an error, in bytes.
const SHOWN: u64 = 1024;
/// Said by every QEMU with a terminal, and no reason for anything.
const CHATTER: &str = "char device redirected to ";
/// The log may be written by another process: it gets this long, tried so often.
const WAIT: Duration = Duration::from_millis(20);
const TRIES: usize = 5;

/// What a QEMU wrote to its log from a place on.
#[derive(Debug, Clone)]
pub struct LogTail {
    path: PathBuf,
    from: u64,
}

impl LogTail {
    /// What is written to the file at `path` from now on: call it after the command line was written there.
    #[must_use]
    pub fn from_here(path: PathBuf) -> Self {
        let from = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        Self { path, from }
    }

    /// The last lines, up to 1 KiB, without the line end; empty when there are none or the file cannot be read.
    pub async fn read(&self) -> String {
        for _ in 0..TRIES {
            let this = self.clone();
            match super::blocking(move || this.read_now()).await {
                Ok(text) if text.is_empty() => tokio::time::sleep(WAIT).await,
                Ok(text) => return text,
                Err(_) => break,
            }
        }
        String::new()
    }

    fn read_now(&self) -> String {
        let mut bytes = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(self.from.max(end.saturating_sub(SHOWN))))?;
            file.take(SHOWN).read_to_end(&mut bytes)
        });
        if read.is_err() {
            return String::new();
        }
        last_words(&bytes, read.is_ok_and(|length| length as u64 == SHOWN))
    }
}

/// The lines of `bytes` that say something; the first one is left out when it was `cut`.
pub(super) fn last_words(bytes: &[u8], cut: bool) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().skip(usize::from(cut && text.contains('\n')));
    let lines = lines
        .map(str::trim_end)
        .filter(|line| !line.is_empty() && !line.contains(CHATTER));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_came_since_and_says_something_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("demo.log");
        std::fs::write(&path, "old\n").unwrap();
        let tail = LogTail::from_here(path.clone());
        assert_eq!(tail.read_now(), "");
        let said = "old\nchar device redirected to /dev/pts/0 (label charserial0)\nqemu: no such disk\n\n";
        std::fs::write(&path, said).unwrap();
        assert_eq!(tail.read_now(), "qemu: no such disk");
        std::fs::write(&path, format!("old\n{}\nlast\n", "x".repeat(2000))).unwrap();
        assert_eq!(tail.read_now(), "last");
        assert_eq!(LogTail::from_here(dir.path().join("none")).read_now(), "");
    }
}
