//! What an agent returns, taken apart by names.
//!
//! Used by every command whose return is more than a number. The guest writes it: what is missing or of another kind is
//! an error that names the field, and never more.

use serde_json::Value;

use crate::error::{Error, Result};

/// A value of a reply, and the command that it answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply<'a> {
    command: &'a str,
    value: &'a Value,
}

impl<'a> Reply<'a> {
    pub(crate) fn new(command: &'a str, value: &'a Value) -> Self {
        Self { command, value }
    }

    fn missing(self, name: &str) -> Error {
        Error::internal(format!("'{name}' missing in reply of {}", self.command))
    }

    /// The entries of a list.
    ///
    /// # Errors
    /// `Internal` if it is no list.
    pub(crate) fn entries(self) -> Result<impl DoubleEndedIterator<Item = Reply<'a>>> {
        let Some(entries) = self.value.as_array() else {
            return Err(super::malformed(self.command));
        };
        Ok(entries.iter().map(move |value| Reply { value, ..self }))
    }

    /// A field that may be left out.
    pub(crate) fn at(self, name: &str) -> Option<Reply<'a>> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(Reply { value, ..self })
    }

    /// A field.
    ///
    /// # Errors
    /// `Internal` if it is left out.
    pub(crate) fn need(self, name: &str) -> Result<Reply<'a>> {
        self.at(name).ok_or_else(|| self.missing(name))
    }

    /// A text that may be left out.
    pub(crate) fn may_text(self, name: &str) -> Option<String> {
        self.at(name)?.value.as_str().map(str::to_owned)
    }

    /// A text.
    ///
    /// # Errors
    /// `Internal` if it is left out or no text.
    pub(crate) fn text(self, name: &str) -> Result<String> {
        self.may_text(name).ok_or_else(|| self.missing(name))
    }

    /// Yes or no, which may be left out.
    pub(crate) fn may_flag(self, name: &str) -> Option<bool> {
        self.at(name)?.value.as_bool()
    }

    /// Yes or no.
    ///
    /// # Errors
    /// `Internal` if it is left out or neither.
    pub(crate) fn flag(self, name: &str) -> Result<bool> {
        self.may_flag(name).ok_or_else(|| self.missing(name))
    }

    /// A number.
    ///
    /// # Errors
    /// `Internal` if it is left out, no number, or does not fit.
    pub(crate) fn number<N: TryFrom<i64>>(self, name: &str) -> Result<N> {
        let number = self.at(name).and_then(|field| field.value.as_i64());
        let number = number.and_then(|number| N::try_from(number).ok());
        number.ok_or_else(|| self.missing(name))
    }

    /// A number of bytes that may be left out.
    ///
    /// # Errors
    /// `Internal` if it is there and no number.
    pub(crate) fn may_size(self, name: &str) -> Result<Option<u64>> {
        let Some(field) = self.at(name) else {
            return Ok(None);
        };
        let size = field.value.as_u64();
        size.map(Some).ok_or_else(|| self.missing(name))
    }

    /// A number that need not be whole.
    ///
    /// # Errors
    /// `Internal` if it is left out or no number.
    pub(crate) fn fraction(self, name: &str) -> Result<f64> {
        let number = self.at(name).and_then(|field| field.value.as_f64());
        number.ok_or_else(|| self.missing(name))
    }

    /// The value itself as text.
    ///
    /// # Errors
    /// `Internal` if it is none.
    pub(crate) fn own_text(self) -> Result<String> {
        let text = self.value.as_str().map(str::to_owned);
        text.ok_or_else(|| super::malformed(self.command))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_missing_or_of_another_kind_is_named() {
        let value = json!({"name": 1, "size": -1, "flag": "yes", "load": "x", "null": null, "list": {}});
        let reply = Reply::new("guest-x", &value);
        let text = |error: Error| error.to_string();
        for (name, error) in [
            ("name", reply.text("name").map(drop)),
            ("size", reply.number::<u32>("size").map(drop)),
            ("flag", reply.flag("flag").map(drop)),
            ("load", reply.fraction("load").map(drop)),
            ("null", reply.need("null").map(drop)),
            ("none", reply.text("none").map(drop)),
        ] {
            let expected = format!("internal error: '{name}' missing in reply of guest-x");
            assert_eq!(text(error.unwrap_err()), expected);
        }
        assert_eq!(reply.may_size("none").unwrap(), None);
        assert!(reply.may_size("flag").is_err());
        assert!(reply.need("list").unwrap().entries().is_err());
    }
}
