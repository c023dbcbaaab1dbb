//! A rule as one line of a table: what is refused, in which part's name, and in which words.
//!
//! ```text
//! rules! {
//!     /// Disks.
//!     DISK(guest, disk: Disk) {
//!         unsupported "serial is not supported on '{}'" (disk.target.dev) if disk.serial.is_some();
//!     }
//! }
//! ```
//!
//! The first word is the function of [`Error`] that makes the refusal. The first rule that refuses decides, so the
//! order of lines is libvirt's.

use super::Guest;
use crate::error::{Error, Result};

/// Why a thing of a guest is refused; `None` if it is not.
pub(super) type Rule<T> = fn(&Guest<'_>, &T) -> Option<Error>;

/// Goes through a table.
pub(super) fn check<T>(rules: &[Rule<T>], guest: &Guest<'_>, thing: &T) -> Result<()> {
    let refusal = rules.iter().find_map(|rule| rule(guest, thing));
    refusal.map_or(Ok(()), Err)
}

macro_rules! rules {
    ($(#[$doc:meta])* $name:ident($guest:ident, $thing:ident: $type:ty) {
        $($kind:ident $text:literal $(($($word:expr),+))? if $wrong:expr;)+
    }) => {
        $(#[$doc])*
        // table: one line a rule
        pub(in crate::validate) const $name: &[fn(&$crate::validate::Guest<'_>, &$type) -> Option<$crate::error::Error>] = &[$(
            |$guest, $thing| {
                let _ = ($guest, $thing);
                let wrong = $wrong;
                wrong.then(|| $crate::error::Error::$kind($crate::validate::rule::words!($text $(, $($word),+)?)))
            },
        )+];
    };
}

/// A text without words to fill in is not formatted.
macro_rules! words {
    ($text:literal) => {
        $text
    };
    ($text:literal, $($word:expr),+) => {
        format!($text, $($word),+)
    };
}

pub(super) use {rules, words};
