//! An event as it came; its data is decoded when somebody wants it.

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::Error;

/// Something that happened in QEMU.
#[derive(Debug, Clone)]
pub struct Event {
    /// QEMU's name, such as `SHUTDOWN`.
    pub name: String,
    /// Its data as JSON text, if it has any.
    pub data: Option<Box<RawValue>>,
    /// Seconds of QEMU's clock since 1970; -1 when QEMU could not tell.
    pub seconds: i64,
    /// Microseconds within the second; -1 when QEMU could not tell.
    pub microseconds: i64,
}

/// Data of a kind of event.
pub trait EventData: DeserializeOwned {
    /// QEMU's name of the event.
    const NAME: &'static str;
}

impl Event {
    /// Its data, if it is of kind `T` and of the shape known.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it is of that kind but its data is not understood.
    pub fn decode<T: EventData>(&self) -> Option<Result<T, Error>> {
        (self.name == T::NAME).then(|| self.data_as())
    }

    /// Its data as text; an empty object when it has none.
    #[must_use]
    pub fn data_text(&self) -> &str {
        self.data.as_deref().map_or("{}", RawValue::get)
    }

    fn data_as<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_str(self.data_text()).map_err(|error| Error::Malformed {
            why: format!("{}: {error}", self.name),
            start: self.data_text().chars().take(120).collect(),
        })
    }
}
