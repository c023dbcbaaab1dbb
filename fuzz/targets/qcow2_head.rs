//! The head of a disk image, which guests can write.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use virtqemud::ops::holdings::storage::chain::read_qcow2;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(below) = read_qcow2(&mut Cursor::new(bytes)) {
        assert!(below.file.is_some() || below.format.is_none());
    }
});
