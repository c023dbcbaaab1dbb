//! Firmware descriptors: what is understood can be asked about.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qemu_plan::postparse::Firmware;

fuzz_target!(|text: &str| {
    if let Some(firmware) = Firmware::parse(text) {
        for (arch, machine) in [
            ("x86_64", "pc-q35-10.0"),
            ("i686", "isapc"),
            ("aarch64", "virt-10.0"),
            ("", ""),
        ] {
            firmware.runs_on(arch, machine);
        }
        assert!(text.contains(firmware.executable()) || text.contains('\\'));
        assert!(!firmware.has("no such feature") || text.contains("no such feature") || text.contains('\\'));
    }
});
