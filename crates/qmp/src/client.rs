//! Executes commands: encodes them, waits for their answers, decodes those.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::error::ErrorClass;
use crate::pending::{Request, Shared};
use crate::{Command, Error};

/// Executes commands on a monitor; cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) shared: Arc<Shared>,
}

impl Client {
    /// Executes `command` within its own deadline.
    ///
    /// Cancel safe: a command that was not written yet is not sent any more.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute<C: Command>(&self, command: C) -> Result<C::Reply, Error> {
        self.execute_within(command, C::DEADLINE).await
    }

    /// Executes `command` within `deadline` instead of its own.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn execute_within<C: Command>(
        &self,
        command: C,
        deadline: Duration,
    ) -> Result<C::Reply, Error> {
        self.typed(command, Vec::new(), deadline).await
    }

    /// Executes `command`, `fds` going with it: what `getfd` and `add-fd` take.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn execute_with_fds<C: Command>(
        &self,
        command: C,
        fds: Vec<OwnedFd>,
    ) -> Result<C::Reply, Error> {
        self.typed(command, fds, C::DEADLINE).await
    }

    /// Executes a command given as JSON text, `fds` going with it, and returns QEMU's whole answer as text, refusals
    /// included. An `id` of the caller's is replaced by one of ours.
    ///
    /// # Errors
    /// [`Error::NotACommand`], else as [`execute`](Self::execute) but for refusals.
    pub async fn execute_raw(
        &self,
        json: &str,
        fds: Vec<OwnedFd>,
        deadline: Duration,
    ) -> Result<String, Error> {
        let not = |why: &dyn std::fmt::Display| Error::NotACommand(why.to_string());
        let mut object: Map<String, Value> = serde_json::from_str(json).map_err(|error| not(&error))?;
        let verb = object
            .get("execute")
            .or_else(|| object.get("exec-oob"))
            .and_then(Value::as_str);
        let name = verb.ok_or_else(|| not(&"no \"execute\""))?.to_owned();
        let id = self.shared.new_shown_id();
        object.insert("id".to_owned(), Value::String(id.clone()));
        let line = Value::Object(object).to_string();
        self.call(&name, Outgoing { id, line, fds }, deadline).await
    }

    /// Whether the connection is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.is_closed()
    }

    async fn typed<C: Command>(
        &self,
        command: C,
        fds: Vec<OwnedFd>,
        deadline: Duration,
    ) -> Result<C::Reply, Error> {
        let id = self.shared.new_id();
        let arguments = serde_json::value::to_raw_value(&command)
            .map_err(|error| Error::NotACommand(error.to_string()))?;
        let arguments = Some(arguments).filter(|text| text.get() != "{}");
        let out_of_band = C::OUT_OF_BAND && self.shared.out_of_band.load(Ordering::Relaxed);
        let line = serde_json::to_string(&Line {
            execute: (!out_of_band).then_some(C::NAME),
            exec_oob: out_of_band.then_some(C::NAME),
            arguments,
            id: &id,
        });
        let line = line.map_err(|error| Error::NotACommand(error.to_string()))?;
        let reply = self.call(C::NAME, Outgoing { id, line, fds }, deadline).await?;
        decode(C::NAME, &reply)
    }

    async fn call(&self, name: &str, outgoing: Outgoing, deadline: Duration) -> Result<String, Error> {
        let Outgoing { id, mut line, fds } = outgoing;
        line.push('\n');
        let closed = |closed| Error::Closed {
            command: name.to_owned(),
            closed,
        };
        let (waiting, reply) = self.shared.wait_for(id).map_err(closed)?;
        let flight = Arc::clone(&waiting.flight);
        let request = Request {
            line,
            fds,
            flight: Arc::clone(&flight),
        };
        let answered = timeout(deadline, async {
            self.requests.send(request).await.ok()?;
            reply.await.ok()
        });
        match answered.await {
            Ok(Some(line)) => Ok(line),
            Ok(None) => Err(closed(self.shared.why_closed())),
            Err(_) => {
                let sent = flight.give_up();
                Err(Error::Timeout {
                    command: name.to_owned(),
                    after: deadline,
                    sent,
                })
            }
        }
    }
}

struct Outgoing {
    id: String,
    line: String,
    fds: Vec<OwnedFd>,
}

#[derive(serde::Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    execute: Option<&'a str>,
    #[serde(rename = "exec-oob", skip_serializing_if = "Option::is_none")]
    exec_oob: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<Box<RawValue>>,
    id: &'a str,
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow, rename = "return")]
    result: Option<&'a RawValue>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    class: ErrorClass,
    #[serde(default)]
    desc: String,
}

pub(crate) fn decode<T: serde::de::DeserializeOwned>(command: &str, line: &str) -> Result<T, Error> {
    let why = |error: serde_json::Error| Error::Reply {
        command: command.to_owned(),
        why: error.to_string(),
    };
    let reply: Reply<'_> = serde_json::from_str(line).map_err(why)?;
    match reply {
        Reply {
            error: Some(Refusal { class, desc }),
            ..
        } => Err(Error::Refused {
            command: command.to_owned(),
            class,
            desc,
        }),
        Reply { result, .. } => serde_json::from_str(result.map_or("null", RawValue::get)).map_err(why),
    }
}
