//! Lists of CPUs as the kernel and libvirt write them: `0-3,8,10-11`.

use std::collections::BTreeSet;
use std::fmt::Write;

/// Numbers of CPUs.
pub type CpuSet = BTreeSet<u32>;

/// Numbers are below this; Linux has no more CPUs than 8,192 today.
const LIMIT: u32 = 1 << 16;

/// Reads a list; `None` when it is not one, or a number is 65,536 or more. An empty text is an empty list.
pub fn parse_cpu_list(text: &str) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= LIMIT {
            return None;
        }
        set.extend(first..=last);
    }
    Some(set)
}

/// Writes a list, ranges joined.
pub fn format_cpu_list(set: &CpuSet) -> String {
    let mut out = String::new();
    let mut rest = set.iter().copied().peekable();
    while let Some(first) = rest.next() {
        let mut last = first;
        while let Some(next) = rest.next_if(|next| *next == last + 1) {
            last = next;
        }
        if !out.is_empty() {
            out.push(',');
        }
        // writing to a string cannot fail
        let _ = if first == last {
            write!(out, "{first}")
        } else {
            write!(out, "{first}-{last}")
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_back_with_ranges_joined() {
        for (text, back) in [
            ("0-1\n", "0-1"),
            ("", ""),
            ("0", "0"),
            ("3,1,2,7", "1-3,7"),
            ("0-3,8,10-11", "0-3,8,10-11"),
        ] {
            let set = parse_cpu_list(text).unwrap();
            assert_eq!(format_cpu_list(&set), back, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["a", "1-", "-1", "3-1", "0-4294967295", "65536", "1;2"] {
            assert_eq!(parse_cpu_list(text), None, "{text:?}");
        }
    }
}
