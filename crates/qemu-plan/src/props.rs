//! The two notations QEMU takes option values in: JSON objects, whose keys keep the order they
//! were set in, and `key=value` lists, in which a comma inside a value is doubled.

use serde_json::{Map, Value};

/// A JSON option value (`-device`, `-object`, `-blockdev`, ...). The same value is the argument of
/// `device_add`, `object-add` or `blockdev-add`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Props(Map<String, Value>);

impl Props {
    /// Nothing set yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Properties of a front end: `{"driver": NAME, ...}`.
    pub fn driver(name: impl Into<Value>) -> Self {
        Self::new().with("driver", name)
    }

    /// Properties of an object: `{"qom-type": TYPE, "id": ID, ...}`.
    pub fn object(qom_type: &str, id: impl Into<Value>) -> Self {
        Self::new().with("qom-type", qom_type).with("id", id)
    }

    /// Sets a key, after those set before it.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    /// Sets a key if there is a value.
    pub fn opt(&mut self, key: &str, value: Option<impl Into<Value>>) -> &mut Self {
        if let Some(value) = value {
            self.set(key, value);
        }
        self
    }

    /// Sets a key unless the value is zero, libvirt's "not given".
    pub fn nonzero(&mut self, key: &str, value: impl Into<u64>) -> &mut Self {
        let value: u64 = value.into();
        if value != 0 {
            self.set(key, value);
        }
        self
    }

    /// `set` for building in one expression.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.set(key, value);
        self
    }

    /// `opt` for building in one expression.
    #[must_use]
    pub fn with_opt(mut self, key: &str, value: Option<impl Into<Value>>) -> Self {
        self.opt(key, value);
        self
    }

    /// Appends all keys of `other`.
    pub fn extend(&mut self, other: Props) -> &mut Self {
        self.0.extend(other.0);
        self
    }

    /// Takes a key out; the others keep their order.
    pub fn remove(&mut self, key: &str) -> &mut Self {
        self.0.shift_remove(key);
        self
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Whether no key is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The object as JSON, as a monitor command takes it.
    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }
}

impl std::fmt::Display for Props {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&serde_json::to_string(&self.0).map_err(|_| std::fmt::Error)?)
    }
}

impl From<Props> for Value {
    fn from(props: Props) -> Self {
        props.into_value()
    }
}

/// A `key=value,key=value` option value. The first value may stand without its key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keyval(Vec<(String, String)>);

impl Keyval {
    /// Starts with an implied key's value (`pty` in `-chardev pty,id=..`).
    pub fn implied(value: impl Into<String>) -> Self {
        Self(vec![(String::new(), value.into())])
    }

    /// Starts with nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends `key=value`.
    pub fn set(&mut self, key: &str, value: impl std::fmt::Display) -> &mut Self {
        self.0.push((key.to_owned(), value.to_string()));
        self
    }

    /// Appends `key=value` if there is a value.
    pub fn opt(&mut self, key: &str, value: Option<impl std::fmt::Display>) -> &mut Self {
        if let Some(value) = value {
            self.set(key, value);
        }
        self
    }

    /// Appends a word without a value.
    pub fn word(&mut self, word: &str) -> &mut Self {
        self.set("", word)
    }

    /// `set` for building in one expression.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self.set(key, value);
        self
    }

    /// The implied value that the list starts with; empty when there is none.
    pub fn kind(&self) -> &str {
        match self.0.first() {
            Some((key, value)) if key.is_empty() => value,
            _ => "",
        }
    }

    /// Every key with its value, in order, without the implied one.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        let named = self.0.iter().filter(|(key, _)| !key.is_empty());
        named.map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, value)| value.as_str())
    }
}

impl std::fmt::Display for Keyval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, (key, value)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let equals = if key.is_empty() { "" } else { "=" };
            write!(f, "{comma}{key}{equals}{}", escape(value))?;
        }
        Ok(())
    }
}

/// Doubles the commas, as QEMU's option parser wants them inside a value.
pub(crate) fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

/// libvirt's spelling of a switch in a `key=value` list.
pub(crate) fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_the_order_they_were_set_in() {
        let mut props = Props::driver("x");
        props
            .set("z", 1)
            .opt("none", None::<u32>)
            .nonzero("zero", 0u32)
            .set("a", true);
        assert_eq!(props.to_string(), r#"{"driver":"x","z":1,"a":true}"#);
    }

    #[test]
    fn commas_in_values_are_doubled() {
        let list = Keyval::implied("socket").with("path", "/a,b");
        assert_eq!(list.to_string(), "socket,path=/a,,b");
    }
}
