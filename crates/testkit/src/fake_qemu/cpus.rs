//! The CPUs of a fake QEMU, and what it has made: I/O threads and throttle groups.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// How many CPUs there are from the beginning, and at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cpus {
    present: u32,
    most: u32,
}

impl Default for Cpus {
    fn default() -> Self {
        Self { present: 1, most: 1 }
    }
}

impl Cpus {
    /// Those of a `-smp`: `1,maxcpus=4,sockets=4`.
    pub(super) fn of(smp: &str) -> Self {
        let mut words = smp.split(',');
        let present = words.next().and_then(|word| word.parse().ok()).unwrap_or(1);
        let most = words.find_map(|word| word.strip_prefix("maxcpus=")?.parse().ok());
        Self {
            present,
            most: most.unwrap_or(present),
        }
    }

    /// The slots as QEMU lists them, the last one first. `has` says which devices there are.
    pub(super) fn slots(self, has: impl Fn(&str) -> bool) -> Value {
        let slot = |number: u32| {
            let props = json!({"core-id": 0, "thread-id": 0, "socket-id": number});
            let mut slot = json!({"props": props, "vcpus-count": 1, "type": "fake-cpu"});
            if let Some(path) = self.path(number, &has) {
                slot["qom-path"] = path.into();
            }
            slot
        };
        (0..self.most).rev().map(slot).collect()
    }

    /// The CPUs that run.
    pub(super) fn running(self, has: impl Fn(&str) -> bool) -> Value {
        // A thread that exists: this process's own.
        let thread = std::process::id();
        let cpu = |number: u32| {
            let path = self.path(number, &has)?;
            let props = json!({"core-id": 0, "thread-id": 0, "socket-id": number});
            Some(
                json!({"cpu-index": number, "qom-path": path, "thread-id": thread, "props": props,
                        "target": "x86_64"}),
            )
        };
        (0..self.most).filter_map(cpu).collect()
    }

    fn path(self, number: u32, has: impl Fn(&str) -> bool) -> Option<String> {
        let id = format!("vcpu{number}");
        match number < self.present {
            true => Some(format!("/machine/unattached/device[{number}]")),
            false => has(&id).then(|| format!("/machine/peripheral/{id}")),
        }
    }
}

/// The I/O threads among the objects with these ids.
pub(super) fn iothreads(objects: &BTreeSet<String>) -> Value {
    let threads = objects.iter().filter(|id| id.starts_with("iothread"));
    let thread = std::process::id();
    threads
        .map(|id| json!({"id": id, "thread-id": thread, "poll-max-ns": 32768}))
        .collect()
}
