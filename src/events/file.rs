//! The journal's files: two segments of length-prefixed, checksummed records, each begun by what was known then.
//!
//! `journal.N` holds a head (magic, epoch, first counter, the known guests) and then the events of one change after
//! another: a record holds all events of a change, so that a daemon killed in the midst of writing has told of all or of
//! none. When the newest segment is full the next is begun and the one before the last is removed. Nothing is synced: the
//! runtime directory does not outlive the host, and what was written outlives the daemon.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use prost::Message;

use super::model as pb;
use super::{Known, counter};

const MAGIC: &[u8; 8] = b"vqjrnl02";
/// A segment is full at this size.
const SEGMENT_BYTES: u64 = 4 << 20;
/// No record is longer.
const RECORD_MAX: usize = 64 << 20;

/// The files of one journal, open for appending.
pub(super) struct Segments {
    dir: PathBuf,
    epoch: u64,
    /// Number of the newest segment.
    number: u64,
    /// Counter before the first event of the newest segment.
    base: u64,
    file: File,
    bytes: u64,
}

/// What the files held.
#[derive(Default)]
pub(super) struct Replay {
    /// Known at the end.
    pub(super) known: Known,
    /// Events with their size, oldest first.
    pub(super) events: Vec<(pb::Event, usize)>,
}

struct Head {
    epoch: u64,
    base: u64,
    known: Known,
}

impl Segments {
    pub(super) fn open(dir: &Path) -> io::Result<(Self, Replay)> {
        fs::create_dir_all(dir)?;
        let mut numbers = segment_numbers(dir)?;
        numbers.sort_unstable();
        let mut replay = Replay::default();
        let mut last: Option<(u64, Head, u64)> = None;
        for number in numbers {
            match read_segment(&segment_path(dir, number), &mut replay) {
                Ok((head, good)) if last.as_ref().is_none_or(|(_, l, _)| l.epoch == head.epoch) => {
                    last = Some((number, head, good))
                }
                // A segment that can't be read, or of another epoch: what came before it can't be resumed from either.
                _ => (replay, last) = (Replay::default(), None),
            }
        }
        match last {
            Some((number, head, good)) => {
                let file = OpenOptions::new().append(true).open(segment_path(dir, number))?;
                file.set_len(good)?;
                let base = replay.events.last().map_or(head.base, |(e, _)| counter(e));
                Ok((
                    Self {
                        dir: dir.to_owned(),
                        epoch: head.epoch,
                        number,
                        base,
                        file,
                        bytes: good,
                    },
                    replay,
                ))
            }
            None => Ok((Self::begin(dir, new_epoch())?, Replay::default())),
        }
    }

    fn begin(dir: &Path, epoch: u64) -> io::Result<Self> {
        for number in segment_numbers(dir)? {
            fs::remove_file(segment_path(dir, number))?;
        }
        let (file, bytes) = create(
            dir,
            1,
            &Head {
                epoch,
                base: 0,
                known: Known::default(),
            },
        )?;
        Ok(Self {
            dir: dir.to_owned(),
            epoch,
            number: 1,
            base: 0,
            file,
            bytes,
        })
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Counter of the newest event in the files.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Appends the events of one change. `known` is what is known with them.
    pub(super) fn append(&mut self, events: &[pb::Event], known: &Known) -> io::Result<()> {
        let Some(last) = events.last() else { return Ok(()) };
        let record = record(
            &events
                .iter()
                .flat_map(Message::encode_length_delimited_to_vec)
                .collect::<Vec<_>>(),
        );
        self.file.write_all(&record)?;
        self.base = counter(last);
        self.bytes += record.len() as u64;
        if self.bytes > SEGMENT_BYTES {
            self.roll(known)?;
        }
        Ok(())
    }

    /// Begins a segment whose head holds `known`.
    pub(super) fn checkpoint(&mut self, known: &Known) -> io::Result<()> {
        self.roll(known)
    }

    fn roll(&mut self, known: &Known) -> io::Result<()> {
        let head = Head {
            epoch: self.epoch,
            base: self.base,
            known: known.clone(),
        };
        let (file, bytes) = create(&self.dir, self.number + 1, &head)?;
        let old = self.number.saturating_sub(1);
        self.number += 1;
        self.file = file;
        self.bytes = bytes;
        match fs::remove_file(segment_path(&self.dir, old)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes the files, so that the next start begins a new epoch.
    pub(super) fn give_up(self) {
        for number in segment_numbers(&self.dir).unwrap_or_default() {
            // They could not be written; if they can't be removed either, their tail is cut at the next start.
            let _ = fs::remove_file(segment_path(&self.dir, number));
        }
    }
}

/// A number that no journal of this host had before: nanoseconds since 1970.
fn new_epoch() -> u64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).max(1)
}

fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("journal.{number}"))
}

fn segment_numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if let Some(number) = name
            .to_str()
            .and_then(|n| n.strip_prefix("journal."))
            .and_then(|n| n.parse().ok())
        {
            numbers.push(number);
        }
    }
    Ok(numbers)
}

fn create(dir: &Path, number: u64, head: &Head) -> io::Result<(File, u64)> {
    let mut body = MAGIC.to_vec();
    body.extend(head.epoch.to_le_bytes());
    body.extend(head.base.to_le_bytes());
    body.extend(head.known.encode());
    let bytes = record(&body);
    // A segment appears whole or not at all.
    let temporary = dir.join("journal.new");
    let mut file = File::create(&temporary)?;
    file.write_all(&bytes)?;
    fs::rename(&temporary, segment_path(dir, number))?;
    drop(file);
    let file = OpenOptions::new().append(true).open(segment_path(dir, number))?;
    Ok((file, bytes.len() as u64))
}

/// A record of a segment: length, checksum, body.
pub fn record(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 8);
    out.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend(checksum(body).to_le_bytes());
    out.extend(body);
    out
}

/// FNV-1a: finds torn writes; nobody forges here.
fn checksum(body: &[u8]) -> u32 {
    body.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// Splits the first record off `bytes`; none if it is torn.
pub fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length))
        .ok()
        .filter(|l| *l <= RECORD_MAX)?;
    let (body, rest) = rest.split_at_checked(length)?;
    (checksum(body) == u32::from_le_bytes(*sum)).then_some((body, rest))
}

/// Reads one segment; returns its head and how many of its bytes are whole records.
fn read_segment(path: &Path, replay: &mut Replay) -> io::Result<(Head, u64)> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    parse_segment(&bytes, replay)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "segment without a head"))
}

/// The events of a segment with this content, up to where it is damaged; none if its head is.
pub fn segment_events(bytes: &[u8]) -> Option<Vec<pb::Event>> {
    let mut replay = Replay::default();
    parse_segment(bytes, &mut replay)?;
    Some(replay.events.into_iter().map(|(event, _)| event).collect())
}

fn parse_segment(bytes: &[u8], replay: &mut Replay) -> Option<(Head, u64)> {
    let (body, mut rest) = split_record(bytes)?;
    let head = parse_head(body)?;
    // Each head says all that was known then.
    replay.known = head.known.clone();
    while let Some((body, tail)) = split_record(rest) {
        let Some(events) = parse_events(body) else { break };
        for event in events {
            replay.known.note(&event);
            let bytes = event.encoded_len();
            replay.events.push((event, bytes));
        }
        rest = tail;
    }
    Some((head, (bytes.len() - rest.len()) as u64))
}

fn parse_events(mut body: &[u8]) -> Option<Vec<pb::Event>> {
    let mut events = Vec::new();
    while !body.is_empty() {
        events.push(pb::Event::decode_length_delimited(&mut body).ok()?);
    }
    Some(events)
}

fn parse_head(body: &[u8]) -> Option<Head> {
    let rest = body.strip_prefix(MAGIC)?;
    let (epoch, rest) = rest.split_first_chunk::<8>()?;
    let (base, rest) = rest.split_first_chunk::<8>()?;
    Some(Head {
        epoch: u64::from_le_bytes(*epoch),
        base: u64::from_le_bytes(*base),
        known: Known::decode(rest)?,
    })
}
