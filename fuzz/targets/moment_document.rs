//! The document of a snapshot or of a checkpoint: given by a client, or found in a directory. What was read is written in a
//! form that is read again, and written the same.
#![no_main]

use domxml::moment::{Checkpoint, Given, Snapshot};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok((snapshot, current)) = Snapshot::parse_file(text) {
        let kept = snapshot.format_file(current);
        let (again, still) = Snapshot::parse_file(&kept).expect("what was written is read");
        assert_eq!(again.format_file(still), kept);
        drop((snapshot.format(true), snapshot.summary(current)));
    }
    if let Ok(checkpoint) = Checkpoint::parse_file(text) {
        let kept = checkpoint.format_file();
        let again = Checkpoint::parse_file(&kept).expect("what was written is read");
        assert_eq!(again.format_file(), kept);
        drop((checkpoint.format(true, true), checkpoint.summary()));
    }
    for redefine in [false, true] {
        drop(Checkpoint::given(text, redefine));
    }
    for (redefine, offline) in [(false, false), (false, true), (true, false)] {
        drop(Snapshot::given(text, Given { redefine, offline }));
    }
});
