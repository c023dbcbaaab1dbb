//! What a command is, and the table form that declares one a line.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A QMP command: its fields are its arguments.
pub trait Command: Serialize {
    /// QEMU's name.
    const NAME: &'static str;
    /// How long QEMU may take to answer, unless the caller says otherwise.
    const DEADLINE: Duration;
    /// Executed out of band, where the monitor has that: QEMU answers though an earlier command hangs.
    const OUT_OF_BAND: bool = false;
    /// What QEMU returns.
    type Reply: DeserializeOwned;
}

/// Declares commands: documentation, seconds it may take, type and name, arguments, reply. Arguments are named as
/// QEMU names them, with `_` for `-` (`#[serde(rename)]` where QEMU's own name has `_`); those that are
/// `Option` and `None` are not sent.
macro_rules! commands {
    ($($(#[$doc:meta])* $seconds:literal $name:ident $text:literal {
        $($(#[$fdoc:meta])* $field:ident: $type:ty),* $(,)?
    } -> $reply:ty;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, serde::Serialize)]
            #[serde(rename_all = "kebab-case")]
            pub struct $name { $($(#[$fdoc])* pub $field: $type,)* }

            impl $crate::Command for $name {
                const NAME: &'static str = $text;
                const DEADLINE: std::time::Duration = std::time::Duration::from_secs($seconds);
                type Reply = $reply;
            }
        )*

        #[cfg(test)]
        pub(crate) const NAMES: &[&str] = &[$($text),*];
    };
}

/// Declares commands that take QEMU's own options as a map: seconds, type and name, reply.
macro_rules! open_commands {
    ($($(#[$doc:meta])* $seconds:literal $name:ident $text:literal -> $reply:ty;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Default, serde::Serialize)]
            #[serde(transparent)]
            pub struct $name(pub serde_json::Map<String, serde_json::Value>);

            impl $crate::Command for $name {
                const NAME: &'static str = $text;
                const DEADLINE: std::time::Duration = std::time::Duration::from_secs($seconds);
                type Reply = $reply;
            }
        )*

        #[cfg(test)]
        pub(crate) const OPEN_NAMES: &[&str] = &[$($text),*];
    };
}

pub(crate) use {commands, open_commands};
