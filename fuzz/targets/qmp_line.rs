//! What QEMU or a guest agent sends, in pieces of any size: split into lines, each sorted. However it is cut, the lines
//! are the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qmp::LineDecoder;

const BOUND: usize = 4096;

fn lines(pieces: &[&[u8]]) -> Vec<String> {
    let mut decoder = LineDecoder::with_bound(BOUND);
    let mut lines = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_line() {
                Ok(Some(line)) => lines.push(line),
                Ok(None) => break,
                Err(_) => return lines,
            }
        }
    }
    lines
}

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, bytes)) = bytes.split_first() else {
        return;
    };
    if bytes.len() > BOUND {
        return;
    }
    let (head, tail) = bytes.split_at(usize::from(*cut) % (bytes.len() + 1));
    let whole = lines(&[bytes]);
    assert_eq!(whole, lines(&[head, tail]));
    for line in whole {
        let _ = qmp::parse(line);
    }
});
