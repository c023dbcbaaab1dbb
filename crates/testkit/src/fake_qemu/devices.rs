//! The devices and block nodes of a fake QEMU: those of its command line, and what came and went since.
//!
//! The monitor's commands change them as they would a guest's that answers at once, and what is asked about them is
//! answered from here. So a daemon that was killed finds what it had done.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    cpus::{Cpus, iothreads},
    script::Asked,
};

/// The event that tells of a tray.
pub(super) const TRAY_MOVED: &str = "DEVICE_TRAY_MOVED";

/// The devices and block nodes.
#[derive(Debug, Default)]
pub(super) struct Devices {
    /// By id; with what is in it if it is a drive.
    devices: BTreeMap<String, Option<Drive>>,
    /// By name.
    nodes: BTreeSet<String>,
    /// By id.
    objects: BTreeSet<String>,
    cpus: Cpus,
}

#[derive(Debug)]
struct Drive {
    is_open: bool,
    node: Option<String>,
}

impl Devices {
    /// Those of a command line.
    pub(super) fn of(args: &[String]) -> Self {
        let mut devices = Self::default();
        for pair in args.windows(2) {
            let [option, text] = pair else { continue };
            if option == "-smp" {
                devices.cpus = Cpus::of(text);
            }
            // Other forms name nothing that is asked about.
            let Ok(value) = serde_json::from_str::<Value>(text) else {
                continue;
            };
            match option.as_str() {
                "-device" => devices.plug(&value),
                "-object" => drop(devices.objects.insert(word(&value, "id"))),
                "-blockdev" => drop(devices.nodes.insert(word(&value, "node-name"))),
                _ => {}
            }
        }
        devices
    }

    fn plug(&mut self, value: &Value) {
        let node = value["drive"].as_str().map(str::to_owned);
        let is_drive = node.is_some() || word(value, "driver").ends_with("-cd");
        let drive = is_drive.then_some(Drive { is_open: false, node });
        self.devices.insert(word(value, "id"), drive);
    }

    /// The answer to a question about them; none if it is another command.
    pub(super) fn answer(&self, asked: &Asked) -> Option<Value> {
        let argument = |name: &str| word(&Value::Object(asked.arguments.clone()), name);
        Some(match asked.execute.as_str() {
            "qom-list" if argument("path") == "/machine/peripheral" => {
                let entry = |id: &String| json!({"name": id, "type": "child<device>"});
                json!({"return": self.devices.keys().map(entry).collect::<Vec<_>>()})
            }
            "qom-list" if argument("path") == "/objects" => {
                let entry = |id: &String| json!({"name": id, "type": "child<object>"});
                json!({"return": self.objects.iter().map(entry).collect::<Vec<_>>()})
            }
            "query-hotpluggable-cpus" => {
                json!({"return": self.cpus.slots(|id| self.devices.contains_key(id))})
            }
            "query-cpus-fast" => json!({"return": self.cpus.running(|id| self.devices.contains_key(id))}),
            "query-iothreads" => json!({"return": iothreads(&self.objects)}),
            "object-del" if !self.objects.contains(&argument("id")) => {
                refusal(&format!("object '{}' not found", argument("id")))
            }
            "query-named-block-nodes" => {
                json!({"return": self.nodes.iter().map(|name| node(name)).collect::<Vec<_>>()})
            }
            "query-block" => {
                let drives = self
                    .devices
                    .iter()
                    .filter_map(|(id, drive)| Some(block(id, drive.as_ref()?)));
                json!({"return": drives.collect::<Vec<_>>()})
            }
            "device_del" if !self.devices.contains_key(&argument("id")) => {
                json!({"error": {"class": "DeviceNotFound", "desc": format!("Device '{}' not found", argument("id"))}})
            }
            "blockdev-del" if !self.nodes.contains(&argument("node-name")) => refusal(&format!(
                "Failed to find node with node-name='{}'",
                argument("node-name")
            )),
            "blockdev-add" if self.nodes.contains(&argument("node-name")) => refusal(&format!(
                "Duplicate nodes with node-name='{}'",
                argument("node-name")
            )),
            _ => return None,
        })
    }

    /// What a command changes; the event that tells of it.
    pub(super) fn execute(&mut self, asked: &Asked) -> Option<(&'static str, Value)> {
        let arguments = Value::Object(asked.arguments.clone());
        let id = word(&arguments, "id");
        let is_there = self.devices.contains_key(&id);
        let drive = self.devices.get_mut(&id).and_then(Option::as_mut);
        match (asked.execute.as_str(), drive) {
            ("device_add", _) => self.plug(&arguments),
            ("device_del", _) if !is_there => {}
            ("device_del", _) => {
                self.unplug(&id);
                let path = format!("/machine/peripheral/{id}");
                return Some(("DEVICE_DELETED", json!({"device": id, "path": path})));
            }
            ("object-add", _) => drop(self.objects.insert(id)),
            ("object-del", _) => drop(self.objects.remove(&id)),
            ("blockdev-add", _) => drop(self.nodes.insert(word(&arguments, "node-name"))),
            ("blockdev-del", _) => drop(self.nodes.remove(&word(&arguments, "node-name"))),
            ("blockdev-open-tray", Some(drive)) if !drive.is_open => {
                drive.is_open = true;
                return Some(tray_moved(&id, true));
            }
            ("blockdev-close-tray", Some(drive)) if drive.is_open => {
                drive.is_open = false;
                return Some(tray_moved(&id, false));
            }
            ("blockdev-remove-medium", Some(drive)) => drive.node = None,
            ("blockdev-insert-medium", Some(drive)) => drive.node = Some(word(&arguments, "node-name")),
            _ => {}
        }
        None
    }

    /// A device leaves.
    pub(super) fn unplug(&mut self, id: &str) {
        self.devices.remove(id);
    }
}

fn tray_moved(id: &str, is_open: bool) -> (&'static str, Value) {
    (TRAY_MOVED, json!({"device": "", "id": id, "tray-open": is_open}))
}

fn word(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

fn refusal(desc: &str) -> Value {
    json!({"error": {"class": "GenericError", "desc": desc}})
}

fn node(name: &str) -> Value {
    json!({"node-name": name, "file": "", "drv": "raw", "ro": true, "encrypted": false, "detect_zeroes": "off",
        "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0, "write_threshold": 0,
        "image": {"filename": "", "format": "raw", "virtual-size": 4096},
        "cache": {"writeback": true, "direct": false, "no-flush": false}})
}

fn block(id: &str, drive: &Drive) -> Value {
    let mut block = json!({"device": "", "qdev": id, "removable": true, "locked": false, "type": "unknown",
        "tray_open": drive.is_open});
    if let Some(name) = &drive.node {
        block["inserted"] = node(name);
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(execute: &str, arguments: Value) -> Asked {
        let Value::Object(arguments) = arguments else {
            panic!("not an object")
        };
        Asked {
            execute: execute.to_owned(),
            arguments,
            fds: 0,
            out_of_band: false,
        }
    }

    #[test]
    fn what_came_and_went_is_told() {
        let args = [
            "-blockdev",
            r#"{"node-name": "n1"}"#,
            "-device",
            r#"{"driver": "ide-cd", "drive": "n1", "id": "cd"}"#,
        ];
        let mut devices = Devices::of(&args.map(str::to_owned));
        let list = asked("qom-list", json!({"path": "/machine/peripheral"}));
        let names = |devices: &Devices| {
            let told = devices.answer(&list).unwrap();
            let list = told["return"].as_array().unwrap().clone();
            list.iter().map(|d| word(d, "name")).collect::<Vec<_>>()
        };
        assert_eq!(names(&devices), ["cd"]);
        let gone = asked("device_del", json!({"id": "net1"}));
        assert!(devices.answer(&gone).unwrap()["error"].is_object());
        devices.execute(&asked("device_add", json!({"driver": "e1000", "id": "net1"})));
        assert_eq!(names(&devices), ["cd", "net1"]);
        assert!(devices.answer(&gone).is_none());
        assert_eq!(devices.execute(&gone).unwrap().0, "DEVICE_DELETED");
        devices.execute(&asked("blockdev-open-tray", json!({"id": "cd"})));
        devices.execute(&asked("blockdev-remove-medium", json!({"id": "cd"})));
        let told = devices.answer(&asked("query-block", json!({}))).unwrap();
        assert_eq!(told["return"][0]["tray_open"], true);
        assert!(told["return"][0]["inserted"].is_null());
        let add = asked("blockdev-add", json!({"node-name": "n1"}));
        assert!(devices.answer(&add).unwrap()["error"].is_object());
        devices.execute(&asked("blockdev-del", json!({"node-name": "n1"})));
        assert!(devices.answer(&add).is_none());
    }
}
