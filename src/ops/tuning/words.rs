//! The types of documents in the words of notes: what is text in a document is text in a note.

/// A value that is written and read as text.
pub(super) mod text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes the text.
    pub(in crate::ops::tuning) fn serialize<T: Display, S: Serializer>(
        value: &T,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    /// Reads the text.
    pub(in crate::ops::tuning) fn deserialize<'de, T: FromStr, D: Deserializer<'de>>(
        from: D,
    ) -> Result<T, D::Error> {
        let text = String::deserialize(from)?;
        text.parse()
            .map_err(|_| D::Error::custom(format!("'{text}' can't be read")))
    }
}

/// The same for a value that may be missing.
pub(super) mod optional {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes the text, or nothing.
    pub(in crate::ops::tuning) fn serialize<T: Display, S: Serializer>(
        value: &Option<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.collect_str(value),
            None => to.serialize_none(),
        }
    }

    /// Reads the text, if there is one.
    pub(in crate::ops::tuning) fn deserialize<'de, T: FromStr, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<T>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        let read = |text: String| {
            text.parse()
                .map_err(|_| D::Error::custom(format!("'{text}' can't be read")))
        };
        text.map(read).transpose()
    }
}

/// Limits of block devices.
pub(super) mod devices {
    use domxml::tuning::BlockTuneDevice;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Device {
        path: String,
        weight: Option<u32>,
        iops: [Option<u32>; 2],
        bytes: [Option<u64>; 2],
    }

    /// Writes them.
    pub(in crate::ops::tuning) fn serialize<S: Serializer>(
        devices: &[BlockTuneDevice],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(devices.iter().map(|device| Device {
            path: device.path.clone(),
            weight: device.weight,
            iops: [device.read_iops_sec, device.write_iops_sec],
            bytes: [device.read_bytes_sec, device.write_bytes_sec],
        }))
    }

    /// Reads them.
    pub(in crate::ops::tuning) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<BlockTuneDevice>, D::Error> {
        let devices = Vec::<Device>::deserialize(from)?;
        let read = |device: Device| {
            let ([read_iops_sec, write_iops_sec], [read_bytes_sec, write_bytes_sec]) =
                (device.iops, device.bytes);
            BlockTuneDevice {
                path: device.path,
                weight: device.weight,
                read_iops_sec,
                write_iops_sec,
                read_bytes_sec,
                write_bytes_sec,
            }
        };
        Ok(devices.into_iter().map(read).collect())
    }
}
