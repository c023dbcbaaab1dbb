//! What a line says: greeting, reply or event. Only the envelope is read; contents stay as they came.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Error, Event};

/// Longest event in bytes: with a bounded queue this bounds the memory that a guest can make us hold.
pub const MAX_EVENT: usize = 64 << 10;

/// A line of QEMU's, sorted.
#[derive(Debug)]
pub enum Message {
    /// The first line of a connection.
    Greeting(Greeting),
    /// An answer, whole, with the id of its command; none when QEMU could not read the command.
    Reply {
        /// As the command had it.
        id: Option<String>,
        /// The whole line.
        line: String,
    },
    /// An event.
    Event(Event),
}

/// How QEMU introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Greeting {
    /// Its version.
    pub version: Version,
    /// Capabilities of the protocol it offers, such as `oob`.
    #[serde(default)]
    pub capabilities: Vec<String>,
}

/// Version of a QEMU, in `query-version`'s shape.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Version {
    /// Number.
    pub qemu: VersionTriple,
    /// The distributor's name for it; may be empty.
    #[serde(default)]
    pub package: String,
}

/// A version number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct VersionTriple {
    /// First part.
    pub major: u32,
    /// Second part.
    pub minor: u32,
    /// Third part.
    pub micro: u32,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "QMP")]
    greeting: Option<Greeting>,
    #[serde(borrow)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "return")]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    timestamp: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Timestamp {
    seconds: i64,
    microseconds: i64,
}

/// Sorts a line.
///
/// # Errors
/// [`Error::Malformed`] for what is no JSON object of QMP's, or an event above [`MAX_EVENT`].
pub fn parse(line: String) -> Result<Message, Error> {
    let envelope: Envelope<'_> = serde_json::from_str(&line).map_err(|error| malformed(&line, &error))?;
    if let Some(name) = envelope.event {
        if line.len() > MAX_EVENT {
            return Err(malformed(&line, &format!("an event of {} bytes", line.len())));
        }
        let timestamp = envelope.timestamp;
        return Ok(Message::Event(Event {
            name: name.into_owned(),
            data: envelope.data.map(ToOwned::to_owned),
            seconds: timestamp.as_ref().map_or(-1, |time| time.seconds),
            microseconds: timestamp.as_ref().map_or(-1, |time| time.microseconds),
        }));
    }
    if envelope.result.is_some() || envelope.error.is_some() {
        let id = envelope.id.map(Cow::into_owned);
        return Ok(Message::Reply { id, line });
    }
    match envelope.greeting {
        Some(greeting) => Ok(Message::Greeting(greeting)),
        None => Err(malformed(&line, &"neither greeting, reply nor event")),
    }
}

fn malformed(line: &str, why: &dyn std::fmt::Display) -> Error {
    const SHOWN: usize = 120;
    let start: String = line.chars().take(SHOWN).collect();
    Error::Malformed {
        why: why.to_string(),
        start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_kinds_are_told_apart() {
        let greeting = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""}, "capabilities": ["oob"]}}"#;
        let Ok(Message::Greeting(greeting)) = parse(greeting.into()) else {
            panic!()
        };
        assert_eq!(
            (greeting.version.qemu.major, greeting.capabilities),
            (10, vec!["oob".to_owned()])
        );
        for line in [
            r#"{"return": {}, "id": "libvirt-7"}"#,
            r#"{"id": "libvirt-7", "error": {"class": "x", "desc": "y"}}"#,
        ] {
            let Ok(Message::Reply { id, .. }) = parse(line.into()) else {
                panic!()
            };
            assert_eq!(id.as_deref(), Some("libvirt-7"));
        }
        let Ok(Message::Reply { id: None, .. }) = parse(r#"{"error": {}}"#.into()) else {
            panic!()
        };
        let event = r#"{"timestamp": {"seconds": 12, "microseconds": 34}, "event": "RESET", "data": {"guest": true}}"#;
        let Ok(Message::Event(event)) = parse(event.into()) else {
            panic!()
        };
        assert_eq!(
            (event.name.as_str(), event.seconds, event.microseconds),
            ("RESET", 12, 34)
        );
        assert_eq!(event.data.unwrap().get(), r#"{"guest": true}"#);
        assert!(matches!(
            parse(r#"{"event": "STOP"}"#.into()),
            Ok(Message::Event(Event { data: None, .. }))
        ));
    }

    #[test]
    fn what_is_not_qmp_is_refused_and_shown() {
        let long = format!(r#"{{"event": "X", "data": "{}"}}"#, "x".repeat(MAX_EVENT));
        for line in [
            "",
            "garbage",
            "{}",
            "[]",
            "1",
            r#"{"QMP": {}}"#,
            r#"{"event": 3}"#,
            r#"{"return": 1"#,
            &long,
        ] {
            let error = parse(line.into()).unwrap_err();
            assert!(matches!(error, Error::Malformed { .. }), "{line}: {error}");
        }
    }
}
