//! virtqemud.conf and qemu.conf: read, checked, made into values.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use virtqemud::config::{DAEMON, DaemonConfig, Document, QEMU, QemuConfig};

fuzz_target!(|text: &str| {
    let read = |table| Document::from_text(table, Path::new("a.conf"), text);
    if let Ok(document) = read(&DAEMON) {
        let _ = DaemonConfig::from_document(&document);
    }
    if let Ok(document) = read(&QEMU) {
        let _ = QemuConfig::from_document(&document);
    }
});
