//! A packet from a client or a server: split, its arguments or reply read and written again. What was written must
//! read as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::frame::decode_packet;
use wire::{PROGRAMS, admin};

fuzz_target!(|bytes: &[u8]| {
    let Ok(packet) = decode_packet(bytes) else {
        return;
    };
    let header = &packet.header;
    let programs = PROGRAMS.into_iter().chain([&admin::PROGRAM]);
    for program in programs.filter(|program| program.number == header.program) {
        let Some(info) = program.procedure(header.procedure) else {
            continue;
        };
        for recode in [info.recode_args, info.recode_reply] {
            let mut once = Vec::new();
            if recode(packet.payload, &mut once).is_ok() {
                let mut twice = Vec::new();
                assert!(recode(&once, &mut twice).is_ok(), "{}: unreadable", info.name);
                assert_eq!(once, twice, "{}", info.name);
            }
        }
    }
});
