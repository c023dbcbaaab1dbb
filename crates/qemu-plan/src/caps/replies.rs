//! The raw replies of a probe, as the cache keeps them, and look-ups in them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// All that a binary answered: one run, or two when the first one had an accelerator.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Replies {
    /// The runs, accelerated one first.
    pub runs: Vec<Run>,
}

/// One process that was asked.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Run {
    /// Questions and answers, in order.
    pub exchanges: Vec<Exchange>,
}

/// One question and its answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exchange {
    /// Name of the command.
    pub execute: String,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Value>,
    /// The whole reply: an object with `return` or `error`.
    pub reply: Value,
}

/// QEMU's version.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) micro: u32,
    pub(super) package: String,
}

impl Version {
    pub(super) const fn number(&self) -> u32 {
        self.major
            .saturating_mul(1_000_000)
            .saturating_add(self.minor.saturating_mul(1000))
            .saturating_add(self.micro)
    }
}

impl Run {
    /// What the first exchange of a command returned.
    pub(super) fn reply(&self, command: &str) -> Option<&Value> {
        self.exchanges
            .iter()
            .find(|e| e.execute == command)?
            .reply
            .get("return")
    }

    /// What a command with these arguments returned.
    pub(super) fn reply_with(&self, command: &str, wanted: impl Fn(&Value) -> bool) -> Option<&Value> {
        let mut all = self.exchanges.iter().filter(|e| e.execute == command);
        all.find(|e| e.arguments.as_ref().is_some_and(&wanted))?
            .reply
            .get("return")
    }

    /// Whether a command was asked and failed.
    pub(super) fn failed(&self, command: &str) -> bool {
        self.exchanges
            .iter()
            .any(|e| e.execute == command && e.reply.get("error").is_some())
    }

    pub(super) fn version(&self) -> Option<Version> {
        let reply = self.reply("query-version")?;
        let part = |name| {
            reply
                .get("qemu")?
                .get(name)?
                .as_u64()
                .and_then(|n| u32::try_from(n).ok())
        };
        Some(Version {
            major: part("major")?,
            minor: part("minor")?,
            micro: part("micro")?,
            package: reply
                .get("package")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
        })
    }

    /// The guest architecture, with libvirt's name.
    pub(super) fn target(&self) -> Option<&str> {
        let name = self.reply("query-target")?.get("arch")?.as_str()?;
        Some(if name == "i386" { "i686" } else { name })
    }

    pub(super) fn kvm_enabled(&self) -> bool {
        let on = |r: &Value, key: &str| r.get(key).and_then(Value::as_bool) == Some(true);
        self.reply("query-kvm")
            .is_some_and(|r| on(r, "present") && on(r, "enabled"))
    }

    /// Whether a reply that is a list of objects has one whose `key` is `wanted`.
    pub(super) fn lists(&self, command: &str, key: &str, wanted: &str) -> bool {
        self.list(command)
            .iter()
            .any(|e| e.get(key).and_then(Value::as_str) == Some(wanted))
    }

    /// Whether a reply that is a list of names has `wanted`.
    pub(super) fn names(&self, command: &str, wanted: &str) -> bool {
        self.list(command).iter().any(|e| e.as_str() == Some(wanted))
    }

    pub(super) fn list(&self, command: &str) -> &[Value] {
        self.reply(command)
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice)
    }

    pub(super) fn property(&self, command: &str, ty: &str, prop: &str) -> Option<&Value> {
        let reply = self.reply_with(command, |a| a.get("typename").and_then(Value::as_str) == Some(ty))?;
        reply
            .as_array()?
            .iter()
            .find(|p| p.get("name").and_then(Value::as_str) == Some(prop))
    }

    pub(super) fn option(&self, name: &str) -> Option<&Value> {
        self.list("query-command-line-options")
            .iter()
            .find(|o| o.get("option").and_then(Value::as_str) == Some(name))
    }

    pub(super) fn option_has(&self, name: &str, param: &str) -> bool {
        let params = self
            .option(name)
            .and_then(|o| o.get("parameters"))
            .and_then(Value::as_array);
        params.is_some_and(|l| {
            l.iter()
                .any(|p| p.get("name").and_then(Value::as_str) == Some(param))
        })
    }
}
