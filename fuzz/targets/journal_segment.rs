//! A segment of the journal: as it is, and as records with right checksums whose bodies the input gives.
#![no_main]

use libfuzzer_sys::fuzz_target;
use virtqemud::events::{record, segment_events};

fn sealed(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (body, tail) = rest.split_at(length);
        out.extend(record(body));
        bytes = tail;
    }
    out
}

fuzz_target!(|bytes: &[u8]| {
    let _ = segment_events(bytes);
    let _ = segment_events(&sealed(bytes));
});
