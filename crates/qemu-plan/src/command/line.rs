//! The finished command line: environment, program, switches. One value prints as the argument
//! vector of a process and as the text of `domxml-to-native`.

use domxml::qemu::{Overrides, PropertyType};

use crate::block::{Descriptors, End, SecretNeed, credentials};
use crate::props::{Keyval, Props};
use crate::resources::{Resources, TlsFiles};

/// A whole command line.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CommandLine {
    /// Environment of the process, in order; nothing else is inherited.
    pub env: Vec<(String, String)>,
    /// Path of the QEMU binary.
    pub program: String,
    /// The switches, in order.
    pub switches: Vec<Switch>,
    /// Properties that the document changes in front ends.
    pub(super) overrides: Overrides,
    /// Number of the next descriptor set.
    pub(super) next_fdset: u32,
    /// Secrets that objects of the line are made of.
    pub(super) needs: Vec<SecretNeed>,
}

/// One switch and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Switch {
    /// Name with its dash: `-device`. For a passed-through argument, the argument itself.
    pub name: String,
    /// What follows it.
    pub value: Arg,
}

/// The value of a switch.
#[derive(Debug, Clone, PartialEq)]
pub enum Arg {
    /// The switch stands alone.
    None,
    /// Plain text.
    Text(String),
    /// A `key=value` list.
    List(Keyval),
    /// A JSON object.
    Json(Props),
}

impl From<Props> for Arg {
    fn from(props: Props) -> Self {
        Arg::Json(props)
    }
}

impl From<Keyval> for Arg {
    fn from(list: Keyval) -> Self {
        Arg::List(list)
    }
}

impl From<String> for Arg {
    fn from(text: String) -> Self {
        Arg::Text(text)
    }
}

impl From<&str> for Arg {
    fn from(text: &str) -> Self {
        Arg::Text(text.to_owned())
    }
}

impl CommandLine {
    /// Number of the next descriptor set: where plugging in goes on counting.
    pub fn next_fdset(&self) -> u32 {
        self.next_fdset
    }

    /// The value of `-cpu`.
    pub fn cpu(&self) -> Option<&Keyval> {
        let mut switches = self.switches.iter();
        switches.find_map(|switch| match (switch.name.as_str(), &switch.value) {
            ("-cpu", Arg::List(value)) => Some(value),
            _ => None,
        })
    }

    /// Appends a switch without a value.
    pub fn flag(&mut self, name: &str) {
        self.switches.push(Switch {
            name: name.to_owned(),
            value: Arg::None,
        });
    }

    /// Appends a switch and its value.
    pub fn push(&mut self, name: &str, value: impl Into<Arg>) {
        self.switches.push(Switch {
            name: name.to_owned(),
            value: value.into(),
        });
    }

    /// Appends `-device`, changed as the document says.
    pub fn device(&mut self, mut props: Props) {
        self.apply_overrides(&mut props);
        self.push("-device", props);
    }

    fn apply_overrides(&self, props: &mut Props) {
        let id = props.get("id").and_then(|id| id.as_str()).unwrap_or_default();
        let Some(device) = self.overrides.devices.iter().find(|device| device.alias == id) else {
            return;
        };
        for property in &device.frontend {
            let text = property.value.clone().unwrap_or_default();
            match property.kind {
                PropertyType::String => props.set(&property.name, text),
                PropertyType::Signed => props.opt(&property.name, text.parse::<i64>().ok()),
                PropertyType::Unsigned => props.opt(&property.name, text.parse::<u64>().ok()),
                PropertyType::Bool => props.set(&property.name, text == "true"),
                PropertyType::Remove => props.remove(&property.name),
            };
        }
    }

    /// Appends `-add-fd` with a set of its own; answers the path under which QEMU opens it.
    pub fn add_fd(&mut self, fd: i32, opaque: &str) -> String {
        let set = self.next_fdset;
        self.next_fdset += 1;
        self.push(
            "-add-fd",
            Keyval::new()
                .with("set", set)
                .with("fd", fd)
                .with("opaque", opaque),
        );
        format!("/dev/fdset/{set}")
    }

    /// Appends `-add-fd` for each descriptor of an image's set.
    pub(super) fn add_fds(&mut self, given: &Descriptors, node: &str) {
        for (at, fd) in given.numbers.iter().enumerate() {
            let list = Keyval::new().with("set", given.set).with("fd", *fd);
            self.push("-add-fd", list.with("opaque", format!("{node}{at}")));
        }
    }

    /// Appends an environment variable if there is a value.
    pub fn opt_env(&mut self, name: &str, value: Option<&str>) {
        self.env
            .extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }

    /// Appends `-object`.
    pub fn object(&mut self, props: Props) {
        self.push("-object", props);
    }

    /// Appends what one end of an encrypted connection shows, with its id and that of the secret that opens its key.
    pub(super) fn credentials(&mut self, res: &Resources, files: &TlsFiles, ids: (&str, &str), end: End) {
        let (objects, need) = credentials(res, files, ids, end);
        objects.into_iter().for_each(|object| self.object(object));
        self.needs.extend(need);
    }

    /// The argument vector, program first.
    pub fn argv(&self) -> Vec<String> {
        let mut argv = vec![self.program.clone()];
        for switch in &self.switches {
            argv.push(switch.name.clone());
            match &switch.value {
                Arg::None => {}
                Arg::Text(text) => argv.push(text.clone()),
                Arg::List(list) => argv.push(list.to_string()),
                Arg::Json(props) => argv.push(props.to_string()),
            }
        }
        argv
    }

    /// The text `domxml-to-native` answers with: one line, quoted for a shell.
    pub fn to_native(&self) -> String {
        let env = self
            .env
            .iter()
            .map(|(name, value)| format!("{name}={}", shell_quote(value)));
        let argv = self.argv();
        let words = argv.iter().map(|word| shell_quote(word));
        env.chain(words).collect::<Vec<_>>().join(" ")
    }
}

/// Quotes a word for a POSIX shell, only when it needs it.
pub fn shell_quote(word: &str) -> String {
    const SPECIAL: &str = "\r\t\n !\"#$&'()*;<>?[\\]^`{|}~";
    if word.is_empty() {
        return "''".to_owned();
    }
    if !word.contains(|c| SPECIAL.contains(c)) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_text_quotes_only_what_a_shell_would_split() {
        let mut line = CommandLine {
            program: "/bin/qemu".into(),
            ..CommandLine::default()
        };
        line.env.push(("HOME".into(), "/a b".into()));
        line.flag("-S");
        line.push("-name", "it's");
        line.device(Props::driver("x"));
        assert_eq!(
            line.to_native(),
            r#"HOME='/a b' /bin/qemu -S -name 'it'\''s' -device '{"driver":"x"}'"#
        );
    }
}
