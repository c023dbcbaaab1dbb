//! What a fake QEMU does: rules, tried in order, then the answers of an idle guest.
//!
//! As JSON, for the program:
//! ```json
//! {"rules": [
//!   {"execute": "cont", "delay_ms": 500},
//!   {"execute": "query-balloon", "nth": 2, "then": "hang"},
//!   {"execute": "device_add", "arguments": {"driver": "pc-dimm"},
//!    "error": {"class": "GenericError", "desc": "no free slot"},
//!    "before": [{"event": "STOP"}]}],
//!  "probe": "recorded", "record": "/tmp/asked.jsonl"}
//! ```

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How a fake QEMU behaves.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Script {
    /// The first one that fits a command answers it.
    pub rules: Vec<Rule>,
    /// What it does before its monitor is served (the program only).
    pub start: Start,
    /// What the capability probe gets (the program only, with `-machine none`).
    pub probe: Probe,
    /// A real QEMU that does what the rules do not say (the program only).
    pub real: Option<PathBuf>,
    /// File that gets a line of JSON for each launch and each command (the program only).
    pub record: Option<PathBuf>,
}

/// What is answered to one command.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// The command; empty: any.
    pub execute: String,
    /// Arguments it must have at least.
    pub arguments: Option<Value>,
    /// Only this one of the commands that fit, counted from 1.
    pub nth: Option<usize>,
    /// The answer. Without it and `error`: what an idle guest would say.
    #[serde(rename = "return")]
    pub result: Option<Value>,
    /// A refusal instead: `class` and `desc`.
    pub error: Option<Value>,
    /// Milliseconds before all that follows.
    pub delay_ms: u64,
    /// Events before the answer: `event` and `data`.
    pub before: Vec<Value>,
    /// Events after it.
    pub after: Vec<Value>,
    /// What goes wrong.
    pub then: Fault,
}

/// What goes wrong at a command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// No answer to this command; later ones are answered.
    Silent,
    /// No answer, nor to any later command that is not out of band.
    Busy,
    /// No answer and nothing is read any more.
    Hang,
    /// End of file instead of the answer.
    Eof,
    /// End of file in the midst of the answer.
    Half,
    /// End of file after the answer; a real QEMU has had its `delay_ms` for the command, and ends before its answer is heard.
    EofAfter,
    /// What is no JSON instead of the answer.
    Garbage,
}

/// What a fake QEMU does before it serves its monitor.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Start {
    /// Written to standard error.
    pub stderr: String,
    /// It ends with this status.
    pub exit: Option<i32>,
    /// It accepts a connection but never greets.
    pub mute: bool,
    /// Milliseconds before it accepts a connection.
    pub delay_ms: u64,
}

/// What the capability probe gets.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// The recorded replies of a QEMU 10.0.2 with KVM and TCG.
    #[default]
    Recorded,
    /// The rules, as any guest.
    Rules,
}

/// A command that was asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// Its name.
    pub execute: String,
    /// Its arguments; empty if none.
    #[serde(default)]
    pub arguments: Map<String, Value>,
    /// Descriptors that came with it.
    #[serde(default)]
    pub fds: usize,
    /// It was to be executed out of band.
    #[serde(default)]
    pub out_of_band: bool,
}

impl Script {
    /// An idle guest with `rules`.
    #[must_use]
    pub fn with(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self {
            rules: rules.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Reads a script from JSON.
    ///
    /// # Errors
    /// When it is no JSON, or has fields that are not known.
    pub fn from_json(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }
}

impl Rule {
    /// Answers `execute` with `result`.
    #[must_use]
    pub fn reply(execute: &str, result: Value) -> Self {
        Self {
            execute: execute.to_owned(),
            result: Some(result),
            ..Self::default()
        }
    }

    /// Refuses `execute` with a generic error that says `desc`.
    #[must_use]
    pub fn refuse(execute: &str, desc: &str) -> Self {
        let error = serde_json::json!({"class": "GenericError", "desc": desc});
        Self {
            execute: execute.to_owned(),
            error: Some(error),
            ..Self::default()
        }
    }

    /// Lets `fault` happen at `execute`.
    #[must_use]
    pub fn fault(execute: &str, fault: Fault) -> Self {
        Self {
            execute: execute.to_owned(),
            then: fault,
            ..Self::default()
        }
    }

    /// Only at the `nth` of the commands that fit, counted from 1.
    #[must_use]
    pub fn nth(mut self, nth: usize) -> Self {
        self.nth = Some(nth);
        self
    }

    /// After `delay_ms` milliseconds.
    #[must_use]
    pub fn delayed(mut self, delay_ms: u64) -> Self {
        self.delay_ms = delay_ms;
        self
    }

    /// With an event before the answer.
    #[must_use]
    pub fn event_before(mut self, name: &str, data: Value) -> Self {
        self.before.push(serde_json::json!({"event": name, "data": data}));
        self
    }

    /// With an event after the answer.
    #[must_use]
    pub fn event_after(mut self, name: &str, data: Value) -> Self {
        self.after.push(serde_json::json!({"event": name, "data": data}));
        self
    }

    /// Whether it is about `asked`, `nth` aside.
    pub(super) fn fits(&self, asked: &Asked) -> bool {
        let wanted = self.arguments.as_ref().and_then(Value::as_object);
        let has = |(name, value): (&String, &Value)| asked.arguments.get(name) == Some(value);
        (self.execute.is_empty() || self.execute == asked.execute)
            && wanted.is_none_or(|all| all.iter().all(has))
    }
}
