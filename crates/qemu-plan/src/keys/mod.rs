//! Keys that are pressed in a guest: from the codes of a keyboard to the numbers that QEMU takes.
//!
//! Used for pressing keys by request. QEMU's numbers are XT's codes with the prefix `0xe0` as bit 7. The hard thing is
//! that a code may name a key that QEMU has no number for: such a key is known, and pressed as number 0.

mod tables;

use tables::X;

/// The prefix of XT and AT codes of keys that keyboards had later.
const PREFIX: u32 = 0xe0;

/// Codes of one keyboard; the index is the code, or its last byte after the prefix.
struct Table {
    plain: &'static [u16],
    prefixed: &'static [u16],
}

/// A way to number keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeSet {
    /// Linux's input events.
    Linux,
    /// XT keyboards.
    Xt,
    /// AT keyboards, first mode.
    AtSet1,
    /// AT keyboards, second mode.
    AtSet2,
    /// AT keyboards, third mode.
    AtSet3,
    /// Virtual key codes of macOS.
    OsX,
    /// XT codes as Linux's keyboard driver once had them.
    XtKbd,
    /// Usages of USB keyboards.
    Usb,
    /// Virtual key codes of Windows.
    Win32,
    /// QEMU's own numbers.
    Qnum,
}

impl CodeSet {
    /// Its name in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            CodeSet::Linux => "linux",
            CodeSet::Xt => "xt",
            CodeSet::AtSet1 => "atset1",
            CodeSet::AtSet2 => "atset2",
            CodeSet::AtSet3 => "atset3",
            CodeSet::OsX => "os_x",
            CodeSet::XtKbd => "xt_kbd",
            CodeSet::Usb => "usb",
            CodeSet::Win32 => "win32",
            CodeSet::Qnum => "qnum",
        }
    }

    /// QEMU's number of the key with this code; none if there is no such key. QEMU's own numbers are not checked.
    #[must_use]
    pub fn number(self, code: u32) -> Option<u32> {
        let table = match self {
            CodeSet::Qnum => return Some(code),
            CodeSet::Linux => &tables::LINUX,
            CodeSet::Xt | CodeSet::AtSet1 => &tables::XT,
            CodeSet::AtSet2 => &tables::ATSET2,
            CodeSet::AtSet3 => &tables::ATSET3,
            CodeSet::OsX => &tables::OS_X,
            CodeSet::XtKbd => &tables::XT_KBD,
            CodeSet::Usb => &tables::USB,
            CodeSet::Win32 => &tables::WIN32,
        };
        let (part, index) = match code >> 8 {
            PREFIX => (table.prefixed, code & 0xff),
            _ => (table.plain, code),
        };
        let number = part.get(usize::try_from(index).ok()?)?;
        (*number != X).then_some(u32::from(*number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_has_one_number_in_every_set() {
        // A, the right control key, and the left Windows key.
        let keys = [
            (CodeSet::Linux, [30, 97, 125]),
            (CodeSet::Xt, [0x1e, 0xe01d, 0xe05b]),
            (CodeSet::AtSet1, [0x1e, 0xe01d, 0xe05b]),
            (CodeSet::AtSet2, [0x1c, 0xe014, 0xe01f]),
            (CodeSet::AtSet3, [0x1c, 0x58, 0x8b]),
            (CodeSet::OsX, [0, 0x3e, 0x37]),
            (CodeSet::XtKbd, [0x1e, 0x11d, 0x15b]),
            (CodeSet::Usb, [4, 228, 227]),
            (CodeSet::Win32, [0x41, 0xa3, 0x5b]),
            (CodeSet::Qnum, [0x1e, 0x9d, 0xdb]),
        ];
        for (set, codes) in keys {
            let numbers = codes.map(|code| set.number(code));
            assert_eq!(numbers, [Some(0x1e), Some(0x9d), Some(0xdb)], "{}", set.name());
        }
    }

    #[test]
    fn a_code_of_no_key_has_no_number() {
        let codes = [
            (CodeSet::Linux, 9999),
            (CodeSet::Xt, 96),
            (CodeSet::AtSet2, 2),
            (CodeSet::Win32, 3),
            (CodeSet::XtKbd, 0xe01d),
            (CodeSet::Linux, u32::MAX),
        ];
        for (set, code) in codes {
            assert_eq!(set.number(code), None, "{} {code}", set.name());
        }
        // A key that Linux knows and QEMU does not.
        assert_eq!(CodeSet::Linux.number(240), Some(0));
    }
}
