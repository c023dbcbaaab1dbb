//! One connection to a fake QEMU.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::devices::{Devices, TRAY_MOVED};
use super::script::{Asked, Fault, Rule, Script};

/// Called with every command.
pub(super) type Record = Box<dyn Fn(Asked) + Send + Sync>;

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The peer went away; the guest lives on.
    Disconnected,
    /// The guest is gone.
    Ended,
}

/// A guest as its monitor shows it; it outlives connections.
pub(super) struct Session {
    script: Script,
    record: Record,
    /// How often each rule was met.
    met: Mutex<HashMap<usize, usize>>,
    running: Mutex<bool>,
    devices: Mutex<Devices>,
    /// A command does not return: only those out of band are executed.
    busy: AtomicBool,
}

/// What is left to do at a command.
enum Step {
    Go,
    End(Outcome),
}

impl Session {
    pub(super) fn new(script: Script, record: Record) -> Self {
        Self {
            script,
            record,
            met: Mutex::default(),
            running: Mutex::new(false),
            devices: Mutex::default(),
            busy: AtomicBool::new(false),
        }
    }

    /// With the devices of a command line.
    pub(super) fn with_devices(mut self, devices: Devices) -> Self {
        self.devices = Mutex::new(devices);
        self
    }

    /// Serves until the peer goes away or the script ends it; `injected` lines are sent as they come.
    pub(super) async fn run(self, stream: UnixStream, injected: mpsc::UnboundedReceiver<String>) -> Outcome {
        self.serve(&stream, injected).await
    }

    /// As [`run`](Self::run), for another connection to come.
    pub(super) async fn serve(
        &self,
        stream: &UnixStream,
        mut injected: mpsc::UnboundedReceiver<String>,
    ) -> Outcome {
        if say(stream, GREETING).await.is_err() {
            return Outcome::Disconnected;
        }
        let (mut buffer, mut fds) = (Vec::new(), Vec::<OwnedFd>::new());
        loop {
            while let Some(line) = take_line(&mut buffer) {
                let Some((asked, id)) = read_command(&line, std::mem::take(&mut fds).len()) else {
                    let _gone = say(stream, JUNK_REPLY).await;
                    continue;
                };
                match self.answer(stream, asked, id).await {
                    Ok(Step::Go) => {}
                    Ok(Step::End(outcome)) => return outcome,
                    Err(_) => return Outcome::Disconnected,
                }
            }
            let mut chunk = [0; 4096];
            tokio::select! {
                received = unixfd::recv_with_fds(stream, &mut chunk) => match received {
                    Ok((0, _)) | Err(_) => return Outcome::Disconnected,
                    Ok((length, more)) => {
                        buffer.extend_from_slice(&chunk[..length]);
                        fds.extend(more);
                    }
                },
                Some(line) = injected.recv() => {
                    let _gone = say(stream, &line).await;
                }
            }
        }
    }

    async fn answer(&self, stream: &UnixStream, asked: Asked, id: Option<Value>) -> io::Result<Step> {
        if self.busy.load(Ordering::Relaxed) && !asked.out_of_band {
            return Ok(Step::Go);
        }
        (self.record)(asked.clone());
        let rule = self.rule_for(&asked).cloned().unwrap_or_default();
        tokio::time::sleep(Duration::from_millis(rule.delay_ms)).await;
        for event in &rule.before {
            say(stream, &scripted_event(event)).await?;
        }
        let reply = line(&with_id(self.reply(&rule, &asked), id));
        let step = match rule.then {
            Fault::Silent => Step::Go,
            Fault::Busy => {
                self.busy.store(true, Ordering::Relaxed);
                Step::Go
            }
            Fault::Hang => std::future::pending().await,
            Fault::Eof => Step::End(Outcome::Ended),
            Fault::Half => {
                say(stream, &reply[..reply.len() / 2]).await?;
                Step::End(Outcome::Ended)
            }
            Fault::Garbage => {
                say(stream, "}{ garbage\r\n").await?;
                Step::Go
            }
            Fault::None | Fault::EofAfter => {
                // What was asked is done, also if nobody waits for the answer any more.
                let said = say(stream, &reply).await;
                let step = self.change(stream, &rule, &asked).await;
                said?;
                step?
            }
        };
        for event in &rule.after {
            say(stream, &scripted_event(event)).await?;
        }
        Ok(if rule.then == Fault::EofAfter {
            Step::End(Outcome::Ended)
        } else {
            step
        })
    }

    fn rule_for(&self, asked: &Asked) -> Option<&Rule> {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        self.script.rules.iter().enumerate().find_map(|(index, rule)| {
            if !rule.fits(asked) {
                return None;
            }
            let times = met.entry(index).or_insert(0);
            *times += 1;
            rule.nth.is_none_or(|nth| nth == *times).then_some(rule)
        })
    }

    fn reply(&self, rule: &Rule, asked: &Asked) -> Value {
        match (&rule.error, &rule.result) {
            (Some(error), _) => json!({"error": error}),
            (None, Some(result)) => json!({"return": result}),
            (None, None) => self.idle_reply(asked),
        }
    }

    fn idle_reply(&self, asked: &Asked) -> Value {
        let running = *self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.execute == "query-status" {
            let status = if running { "running" } else { "paused" };
            return json!({"return": {"running": running, "status": status}});
        }
        let devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reply) = devices.answer(asked) {
            return reply;
        }
        let table: Map<String, Value> = serde_json::from_str(IDLE).unwrap_or_default();
        match table.get(&asked.execute) {
            Some(result) => json!({"return": result}),
            None => {
                let desc = format!("The command {} has not been found", asked.execute);
                json!({"error": {"class": "CommandNotFound", "desc": desc}})
            }
        }
    }

    /// What a command that was not refused changes, as far as an idle guest shows it.
    async fn change(&self, stream: &UnixStream, rule: &Rule, asked: &Asked) -> io::Result<Step> {
        if rule.error.is_some() {
            return Ok(Step::Go);
        }
        let is_scripted = !rule.before.is_empty() || !rule.after.is_empty();
        // A daemon that opened a tray waits for this, whatever else happens.
        let (tray, told) = match self.change_devices(rule, asked, is_scripted) {
            Some((TRAY_MOVED, data)) => (Some(event_line(TRAY_MOVED, &data)), None),
            told => (None, told),
        };
        if let Some(event) = tray {
            say(stream, &event).await?;
        }
        let event = match asked.execute.as_str() {
            "cont" => Some(self.run_state(true, "RESUME")),
            "stop" => Some(self.run_state(false, "STOP")),
            "system_reset" => Some(event_line(
                "RESET",
                &json!({"guest": false, "reason": "host-qmp-system-reset"}),
            )),
            "system_powerdown" => Some(event_line("POWERDOWN", &Value::Null)),
            "quit" => Some(event_line(
                "SHUTDOWN",
                &json!({"guest": false, "reason": "host-qmp-quit"}),
            )),
            _ => told.map(|(name, data)| event_line(name, &data)),
        };
        if let Some(event) = event.filter(|_| !is_scripted) {
            say(stream, &event).await?;
        }
        Ok(if asked.execute == "quit" {
            Step::End(Outcome::Ended)
        } else {
            Step::Go
        })
    }

    /// A script that tells of events says with them whether a device has left.
    fn change_devices(&self, rule: &Rule, asked: &Asked, is_scripted: bool) -> Option<(&'static str, Value)> {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let is_scripted = is_scripted || rule.result.is_some();
        if !is_scripted || asked.execute != "device_del" {
            return devices.execute(asked);
        }
        let left = rule.before.iter().chain(&rule.after);
        for event in left.filter(|event| event["event"] == "DEVICE_DELETED") {
            devices.unplug(event["data"]["device"].as_str().unwrap_or_default());
        }
        None
    }

    fn run_state(&self, running: bool, event: &str) -> String {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = running;
        event_line(event, &Value::Null)
    }
}

const GREETING: &str = "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 0, \"major\": 10}, \
                        \"package\": \"fake\"}, \"capabilities\": [\"oob\"]}}\r\n";
const JUNK_REPLY: &str = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}\r\n";

/// What an idle guest without devices says.
const IDLE: &str = r#"{
  "qmp_capabilities": {}, "cont": {}, "stop": {}, "system_powerdown": {}, "system_reset": {}, "system_wakeup": {},
  "quit": {}, "set-action": {}, "balloon": {}, "getfd": {}, "closefd": {}, "remove-fd": {}, "qom-set": {},
  "add-fd": {"fdset-id": 1, "fd": 30}, "device_add": {}, "device_del": {}, "object-add": {}, "object-del": {},
  "blockdev-add": {}, "blockdev-del": {}, "netdev_add": {}, "netdev_del": {}, "chardev-add": {},
  "chardev-remove": {}, "set_password": {}, "expire_password": {}, "inject-nmi": {}, "blockdev-set-active": {},
  "block_set_io_throttle": {}, "block_resize": {}, "blockdev-reopen": {}, "eject": {}, "blockdev-open-tray": {},
  "blockdev-close-tray": {}, "blockdev-remove-medium": {}, "blockdev-insert-medium": {}, "set_link": {},
  "migrate-set-capabilities": {}, "migrate-set-parameters": {}, "dump-guest-memory": {}, "migrate_cancel": {},
  "block-latency-histogram-set": {}, "announce-self": {}, "send-key": {}, "screendump": {}, "transaction": {},
  "query-version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "fake"},
  "query-balloon": {"actual": 134217728}, "query-block": [], "query-blockstats": [], "query-named-block-nodes": [],
  "query-chardev": [{"label": "charmonitor", "filename": "unix:", "frontend-open": true}],
  "query-vnc": {"enabled": false}, "query-pci": [],
  "query-memory-devices": [], "query-memory-size-summary": {"base-memory": 134217728, "plugged-memory": 0},
  "query-rx-filter": [], "query-yank": [], "yank": {}, "query-jobs": [], "query-migrate": {}, "qom-list": [],
  "qom-get": {},
  "query-migrate-capabilities": [], "query-migrate-parameters": {}, "query-dump": {"status": "none",
  "completed": 0, "total": 0}, "query-fdsets": [], "query-kvm": {"enabled": false, "present": true},
  "query-block-jobs": [], "query-vnc-servers": [], "query-name": {}, "query-uuid": {},
  "query-cpu-model-expansion": {"model": {"name": "base", "props": {}}}, "query-command-line-options": []
}"#;

pub(super) fn event_line(name: &str, data: &Value) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut event =
        json!({"timestamp": {"seconds": now.as_secs(), "microseconds": now.subsec_micros()}, "event": name});
    if !data.is_null() {
        event["data"] = data.clone();
    }
    line(&event)
}

pub(super) fn scripted_event(event: &Value) -> String {
    event_line(event["event"].as_str().unwrap_or_default(), &event["data"])
}

pub(super) fn with_id(mut reply: Value, id: Option<Value>) -> Value {
    if let Some(id) = id {
        reply["id"] = id;
    }
    reply
}

pub(super) fn line(value: &Value) -> String {
    format!("{value}\r\n")
}

async fn say(stream: &UnixStream, text: &str) -> io::Result<()> {
    unixfd::send_with_fds(stream, text.as_bytes(), &[]).await
}

pub(super) fn take_line(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = buffer.iter().position(|&byte| byte == b'\n')?;
    let rest = buffer.split_off(end + 1);
    Some(std::mem::replace(buffer, rest))
}

/// Descriptors count for the first command after they came.
pub(super) fn read_command(line: &[u8], fds: usize) -> Option<(Asked, Option<Value>)> {
    let mut object: Map<String, Value> = serde_json::from_slice(line).ok()?;
    let out_of_band = object.contains_key("exec-oob");
    let verb = if out_of_band { "exec-oob" } else { "execute" };
    let execute = object.get(verb)?.as_str()?.to_owned();
    let arguments = match object.remove("arguments") {
        Some(Value::Object(arguments)) => arguments,
        _ => Map::new(),
    };
    let asked = Asked {
        execute,
        arguments,
        fds,
        out_of_band,
    };
    Some((asked, object.remove("id")))
}
