//! The files of kept answers: two segments of length-prefixed, checksummed lines, as the journal of events has them.
//!
//! `answers.N` begins with a head, and then has a line when the work of a request begins and one when it has ended. When
//! the newest segment is full, or its first line is older than answers are kept, the next is begun with the requests that
//! are under way, and those before the last are removed. Nothing is synced: the runtime directory does not outlive the
//! host, and what was written outlives the daemon. A segment that can't be read is reported and ignored; a line that was
//! not written to its end is cut off.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use prost::Message;

use crate::events::{record, split_record};

/// Begins each segment, with the version of the lines.
const MAGIC: &[u8; 8] = b"vqansw01";
/// How the names of segments begin.
const NAME: &str = "answers.";
/// A segment is full at this size.
const SEGMENT_BYTES: u64 = 32 << 20;
/// No segment that this daemon writes is longer: a full one and one answer.
const SEGMENT_MAX: u64 = 2 * SEGMENT_BYTES;

/// What is noted of a request.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Line {
    /// The user.
    #[prost(uint32, tag = "1")]
    pub(super) user: u32,
    /// The call.
    #[prost(string, tag = "2")]
    pub(super) call: String,
    /// The id.
    #[prost(string, tag = "3")]
    pub(super) id: String,
    /// Tells the request from a different one.
    #[prost(bytes = "vec", tag = "4")]
    pub(super) content: Vec<u8>,
    /// When, in milliseconds since 1970.
    #[prost(uint64, tag = "5")]
    pub(super) at: u64,
    /// What it was answered; none: the work begins.
    #[prost(message, optional, tag = "6")]
    pub(super) told: Option<Told>,
}

/// An answer.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Told {
    /// gRPC's code.
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    /// The message of an error.
    #[prost(string, tag = "2")]
    pub(super) message: String,
    /// The answer, or the details of an error.
    #[prost(bytes = "vec", tag = "3")]
    pub(super) body: Vec<u8>,
}

/// The segments, open for appending.
#[derive(Debug)]
pub(super) struct Segments {
    dir: PathBuf,
    /// Number of the newest.
    number: u64,
    file: File,
    bytes: u64,
    /// When its first line was written; 0 if it has none.
    since: u64,
}

impl Segments {
    /// Opens the segments in `dir`, or begins them; with their lines, the oldest first.
    ///
    /// # Errors
    /// The directory can't be read or written.
    pub(super) fn open(dir: &Path) -> io::Result<(Self, Vec<Line>)> {
        fs::create_dir_all(dir)?;
        let (mut lines, mut newest) = (Vec::new(), None);
        let numbers = numbers(dir)?;
        for number in &numbers {
            let path = path(dir, *number);
            newest = read(&path)
                .inspect_err(|error| tracing::error!(path = %path.display(), %error, "kept answers can't be read; they are ignored"))
                .ok()
                .map(|(found, good)| {
                    let since = found.first().map_or(0, |line| line.at);
                    lines.extend(found);
                    (*number, good, since)
                });
        }
        let last = numbers.last().copied().unwrap_or(0);
        let segments = match newest {
            Some((number, bytes, since)) => {
                let file = OpenOptions::new().append(true).open(path(dir, number))?;
                file.set_len(bytes)?;
                Self {
                    dir: dir.to_owned(),
                    number,
                    file,
                    bytes,
                    since,
                }
            }
            None => Self::begin(dir, last + 1, &[])?,
        };
        Ok((segments, lines))
    }

    /// A segment that begins with `lines`: it appears whole or not at all.
    fn begin(dir: &Path, number: u64, lines: &[Line]) -> io::Result<Self> {
        let mut body = record(MAGIC);
        body.extend(lines.iter().flat_map(|line| record(&line.encode_to_vec())));
        let new = dir.join("answers-new");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&new)?.write_all(&body)?;
        fs::rename(&new, path(dir, number))?;
        Ok(Self {
            dir: dir.to_owned(),
            number,
            file: OpenOptions::new().append(true).open(path(dir, number))?,
            bytes: body.len() as u64,
            since: lines.first().map_or(0, |line| line.at),
        })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// It can't be written.
    pub(super) fn append(&mut self, line: &Line) -> io::Result<()> {
        let bytes = record(&line.encode_to_vec());
        self.file.write_all(&bytes)?;
        self.bytes += bytes.len() as u64;
        if self.since == 0 {
            self.since = line.at;
        }
        Ok(())
    }

    /// Whether the next segment is due: this one is full, or all of the one before was written before `oldest`.
    pub(super) fn is_full(&self, oldest: u64) -> bool {
        self.bytes > SEGMENT_BYTES || self.since != 0 && self.since < oldest
    }

    /// Begins the next segment with the requests that are under way.
    ///
    /// # Errors
    /// It can't be written, or an old one can't be removed.
    pub(super) fn roll(&mut self, under_way: &[Line]) -> io::Result<()> {
        let kept = self.number;
        *self = Self::begin(&self.dir, kept + 1, under_way)?;
        for number in numbers(&self.dir)?.into_iter().filter(|number| *number < kept) {
            fs::remove_file(path(&self.dir, number))?;
        }
        Ok(())
    }
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{NAME}{number}"))
}

/// The numbers of the segments that are there, in order.
fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(NAME));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The lines of a segment, and how many of its bytes are whole.
fn read(path: &Path) -> io::Result<(Vec<Line>, u64)> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > SEGMENT_MAX {
        return Err(invalid(format!("it has {length} bytes")));
    }
    let mut bytes = Vec::new();
    file.take(SEGMENT_MAX).read_to_end(&mut bytes)?;
    parse(&bytes).ok_or_else(|| invalid("it has no head that this version knows".to_owned()))
}

fn parse(bytes: &[u8]) -> Option<(Vec<Line>, u64)> {
    let (head, mut rest) = split_record(bytes)?;
    if head != MAGIC {
        return None;
    }
    let mut lines = Vec::new();
    while let Some((body, tail)) = split_record(rest) {
        let Ok(line) = Line::decode(body) else { break };
        lines.push(line);
        rest = tail;
    }
    Some((lines, (bytes.len() - rest.len()) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str, at: u64) -> Line {
        Line {
            id: id.to_owned(),
            at,
            ..Line::default()
        }
    }

    fn ids(dir: &Path) -> Vec<String> {
        let (_, lines) = Segments::open(dir).unwrap();
        lines.into_iter().map(|line| line.id).collect()
    }

    #[test]
    fn a_line_that_was_not_written_to_its_end_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let (mut segments, _) = Segments::open(dir.path()).unwrap();
        for id in ["a", "b"] {
            segments.append(&line(id, 1)).unwrap();
        }
        let whole = segments.bytes;
        for torn in 1..5 {
            let file = OpenOptions::new().write(true).open(path(dir.path(), 1)).unwrap();
            file.set_len(whole - torn).unwrap();
            assert_eq!(ids(dir.path()), ["a"]);
            let (mut segments, _) = Segments::open(dir.path()).unwrap();
            segments.append(&line("b", 1)).unwrap();
            assert_eq!(ids(dir.path()), ["a", "b"]);
        }
    }

    #[test]
    fn a_segment_that_can_not_be_read_is_ignored() {
        for bad in [&b"nothing"[..], &record(b"vqansw99"), b""] {
            let dir = tempfile::tempdir().unwrap();
            let (mut segments, _) = Segments::open(dir.path()).unwrap();
            segments.append(&line("a", 1)).unwrap();
            fs::write(path(dir.path(), 2), bad).unwrap();
            let (mut segments, lines) = Segments::open(dir.path()).unwrap();
            assert_eq!((lines.len(), segments.number), (1, 3));
            segments.append(&line("b", 1)).unwrap();
            assert_eq!(ids(dir.path()), ["a", "b"]);
            assert_eq!(fs::read(path(dir.path(), 2)).unwrap(), bad);
        }
    }

    #[test]
    fn two_segments_are_kept_and_what_is_under_way() {
        let dir = tempfile::tempdir().unwrap();
        let (mut segments, _) = Segments::open(dir.path()).unwrap();
        assert!(!segments.is_full(10));
        segments.append(&line("a", 9)).unwrap();
        assert!(segments.is_full(10) && !segments.is_full(9));
        segments.roll(&[line("a", 9)]).unwrap();
        segments.append(&line("b", 11)).unwrap();
        segments.roll(&[]).unwrap();
        segments.append(&line("c", 12)).unwrap();
        assert_eq!(ids(dir.path()), ["a", "b", "c"]);
        assert_eq!(numbers(dir.path()).unwrap(), [2, 3]);
    }
}
