//! Lists of CPUs: what is read is written and read again as the same.
#![no_main]

use hostinfo::{format_cpu_list, parse_cpu_list};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Some(set) = parse_cpu_list(text) {
        assert_eq!(parse_cpu_list(&format_cpu_list(&set)).as_ref(), Some(&set));
    }
});
