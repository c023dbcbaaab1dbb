//! A status file: of this daemon, of libvirt's, or damaged. Read and written again.
#![no_main]

use domxml::StatusDocument;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(status) = StatusDocument::parse(text) {
        let _ = status.format();
    }
});
