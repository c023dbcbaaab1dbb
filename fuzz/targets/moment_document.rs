//! The document of a snapshot or of a checkpoint: given by a client, or found in a directory. What was read is written in a
//! form that is read again, and that form is settled: written the same however often it is read. The first writing may
//! differ from the second as libvirt's does: the guest in it may have a drive of a block device whose source names none,
//! which is written without a source and read as an empty drive.
#![no_main]

use domxml::moment::{Checkpoint, Given, Snapshot};
use libfuzzer_sys::fuzz_target;

/// Reads and writes a file twice; fails if the second writing is not settled.
fn settles(first: String, again: impl Fn(&str) -> String) {
    let settled = again(&first);
    assert_eq!(again(&settled), settled);
}

fuzz_target!(|text: &str| {
    if let Ok((snapshot, current)) = Snapshot::parse_file(text) {
        settles(snapshot.format_file(current), |kept| {
            let (read, still) = Snapshot::parse_file(kept).expect("what was written is read");
            assert_eq!(still, current);
            read.format_file(still)
        });
        drop((snapshot.format(true), snapshot.summary(current)));
    }
    if let Ok(checkpoint) = Checkpoint::parse_file(text) {
        settles(checkpoint.format_file(), |kept| {
            Checkpoint::parse_file(kept).expect("what was written is read").format_file()
        });
        drop((checkpoint.format(true, true), checkpoint.summary()));
    }
    for redefine in [false, true] {
        drop(Checkpoint::given(text, redefine));
    }
    for (redefine, offline) in [(false, false), (false, true), (true, false)] {
        drop(Snapshot::given(text, Given { redefine, offline }));
    }
});
