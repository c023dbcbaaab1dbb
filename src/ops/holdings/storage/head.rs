//! The first bytes of an image of which nobody says the format.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

/// Where images of a format have a mark, and the mark.
// table
const MARKS: &[(u64, &[u8])] = &[
    (0, b"QFI\xfb"),
    (0, b"QED\0"),
    (0, b"KDMV"),
    (0, b"COWD"),
    (0, b"vhdxfile"),
    (0, b"conectix"),
    (0, b"LUKS\xba\xbe"),
    (0, b"WithoutFreeSpace"),
    (0, b"WithouFreSpacExt"),
    (0, b"OOOM"),
    (0, b"Bochs Virtual HD Image"),
    (64, b"\x7f\x10\xda\xbe"),
];

/// Whether an image of which nobody says the format has the mark of none.
pub(super) fn looks_raw(file: &mut File) -> io::Result<bool> {
    let mut head = [0; 128];
    file.seek(SeekFrom::Start(0))?;
    let got = read_up_to(file, &mut head)?;
    let has = |(at, mark): &(u64, &[u8])| {
        let from = usize::try_from(*at).unwrap_or(usize::MAX);
        head[..got].get(from..).is_some_and(|rest| rest.starts_with(mark))
    };
    Ok(!MARKS.iter().any(has))
}

/// Reads until the buffer is full or there is no more; how much was read.
pub(super) fn read_up_to(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read(&mut buffer[got..])? {
            0 => break,
            n => got += n,
        }
    }
    Ok(got)
}
