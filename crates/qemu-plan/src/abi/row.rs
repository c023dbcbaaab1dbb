//! One thing that a guest sees, and how two of them are compared.

use std::fmt::Display;

use crate::{Error, Result};

/// The text of a difference, `{}` standing for the new and then the old value, and where the value stands.
pub(super) struct Row<T: ?Sized>(pub(super) &'static str, pub(super) fn(&T) -> String);

/// Compares two things row by row.
pub(super) fn compare<T: ?Sized>(rows: &[Row<T>], new: &T, old: &T) -> Result<()> {
    rows.iter().try_for_each(|Row(text, value)| {
        let (new, old) = (value(new), value(old));
        if new == old {
            return Ok(());
        }
        let text = text.replacen("{}", &new, 1).replacen("{}", &old, 1);
        Err(Error::conflicting(text))
    })
}

/// Compares how many there are of something.
pub(super) fn counts(what: &str, new: usize, old: usize) -> Result<()> {
    if new == old {
        return Ok(());
    }
    Err(Error::conflicting(format!(
        "Target domain {what} count {new} does not match source {old}"
    )))
}

/// What is written of a value; nothing of none.
pub(super) fn show<T: Display>(value: Option<&T>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}
