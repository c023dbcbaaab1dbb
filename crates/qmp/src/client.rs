//! A connection to a monitor: one task reads and writes; handles execute commands from anywhere.
//!
//! The task ends with the connection, or when the last [`Client`] is dropped. Replies are matched by id, so
//! that an answer to a command which nobody waits for any more is dropped and disturbs nothing.
//!
//! The hard thing is what happens when the receiver of events is slow: no event may be lost, so the task
//! stops reading, replies included, until there is room. Whoever receives events must therefore not wait
//! for a command in between; commands have deadlines in any case.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::error::ErrorClass;
use crate::{Closed, Command, Error, Event, Greeting, LineDecoder, Message, parse};

/// How long greeting and negotiation may take together.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(30);
/// Events that wait for their receiver; the reader waits when it is full.
const EVENT_QUEUE: usize = 256;
/// Commands that wait to be written; who executes waits when it is full, within its deadline.
const COMMAND_QUEUE: usize = 32;
/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// What a monitor says by itself. The last one is `Closed`, and it comes once.
#[derive(Debug)]
pub enum Incoming {
    /// Something happened.
    Event(Event),
    /// The connection is over.
    Closed(Closed),
}

/// A monitor after its handshake.
#[derive(Debug)]
pub struct Connection {
    /// Executes commands.
    pub client: Client,
    /// Events, then the end.
    pub incoming: mpsc::Receiver<Incoming>,
    /// How QEMU introduced itself.
    pub greeting: Greeting,
}

/// Executes commands on a monitor; cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    requests: mpsc::Sender<Request>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Request {
    line: String,
    fds: Vec<OwnedFd>,
    flight: Arc<Flight>,
}

/// Where a command is on its way: queued, then either written or given up, never both.
#[derive(Debug, Default)]
struct Flight(AtomicU8);

impl Flight {
    const QUEUED: u8 = 0;
    const WRITTEN: u8 = 1;
    const GIVEN_UP: u8 = 2;

    /// Whether it may be written: nobody gave it up.
    fn take_off(&self) -> bool {
        self.leave_queue(Self::WRITTEN).is_ok()
    }

    /// Whether it was written before it could be given up.
    fn give_up(&self) -> bool {
        self.leave_queue(Self::GIVEN_UP) == Err(Self::WRITTEN)
    }

    fn leave_queue(&self, to: u8) -> Result<u8, u8> {
        self.0
            .compare_exchange(Self::QUEUED, to, Ordering::AcqRel, Ordering::Acquire)
    }
}

#[derive(Debug)]
struct Shared {
    next_id: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Open(HashMap<String, oneshot::Sender<String>>),
    Closed(Closed),
}

impl Connection {
    /// Shakes hands on `stream`, connected to a monitor that greets, within `within`.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Malformed`] or that of `qmp_capabilities`.
    pub async fn handshake(stream: UnixStream, within: Duration) -> Result<Self, Error> {
        let late = |_| Error::Connect(format!("no greeting from QEMU within {within:?}"));
        timeout(within, Self::greet(stream)).await.map_err(late)?
    }

    async fn greet(stream: UnixStream) -> Result<Self, Error> {
        let mut lines = LineReader {
            stream: Arc::new(stream),
            decoder: LineDecoder::default(),
        };
        let first = lines
            .next()
            .await
            .map_err(|closed| Error::Connect(closed.to_string()))?;
        let Message::Greeting(greeting) = first else {
            return Err(Error::Connect(format!("no greeting but {first:?}")));
        };
        let (requests, queue) = mpsc::channel(COMMAND_QUEUE);
        let (events, incoming) = mpsc::channel(EVENT_QUEUE);
        let state = Mutex::new(State::Open(HashMap::new()));
        let shared = Arc::new(Shared {
            next_id: AtomicU64::new(1),
            state,
        });
        tokio::spawn(run(lines, queue, events, Arc::clone(&shared)));
        let client = Client { requests, shared };
        client
            .execute(crate::commands::QmpCapabilities { enable: None })
            .await?;
        Ok(Self {
            client,
            incoming,
            greeting,
        })
    }
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

    /// Executes a command given as JSON text, and returns QEMU's whole answer as text, refusals included.
    /// An `id` of the caller's is replaced by one of ours.
    ///
    /// # Errors
    /// [`Error::NotACommand`], else as [`execute`](Self::execute) but for refusals.
    pub async fn execute_raw(&self, json: &str, deadline: Duration) -> Result<String, Error> {
        let not = |why: &dyn std::fmt::Display| Error::NotACommand(why.to_string());
        let mut object: Map<String, Value> =
            serde_json::from_str(json).map_err(|error| not(&error))?;
        let verb = object
            .get("execute")
            .or_else(|| object.get("exec-oob"))
            .and_then(Value::as_str);
        let name = verb.ok_or_else(|| not(&"no \"execute\""))?.to_owned();
        let id = self.shared.new_id();
        object.insert("id".to_owned(), Value::String(id.clone()));
        let line = Value::Object(object).to_string();
        self.call(
            &name,
            Outgoing {
                id,
                line,
                fds: Vec::new(),
            },
            deadline,
        )
        .await
    }

    /// Whether the connection is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(&*self.shared.lock(), State::Closed(_))
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
        let line = serde_json::to_string(&Line {
            execute: C::NAME,
            arguments,
            id: &id,
        });
        let line = line.map_err(|error| Error::NotACommand(error.to_string()))?;
        let reply = self
            .call(C::NAME, Outgoing { id, line, fds }, deadline)
            .await?;
        decode(C::NAME, &reply)
    }

    async fn call(
        &self,
        name: &str,
        outgoing: Outgoing,
        deadline: Duration,
    ) -> Result<String, Error> {
        let Outgoing { id, mut line, fds } = outgoing;
        line.push_str("\r\n");
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
    execute: &'a str,
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

fn decode<T: serde::de::DeserializeOwned>(command: &str, line: &str) -> Result<T, Error> {
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
        Reply { result, .. } => {
            serde_json::from_str(result.map_or("null", RawValue::get)).map_err(why)
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock; if it did, the map would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ids look like libvirt's: answers to raw commands are shown to users with them.
    fn new_id(&self) -> String {
        format!("libvirt-{}", self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    fn wait_for(
        self: &Arc<Self>,
        id: String,
    ) -> Result<(Waiting, oneshot::Receiver<String>), Closed> {
        let (answer, reply) = oneshot::channel();
        match &mut *self.lock() {
            State::Closed(closed) => return Err(closed.clone()),
            State::Open(pending) => pending.insert(id.clone(), answer),
        };
        let waiting = Waiting {
            shared: Arc::clone(self),
            id,
            flight: Arc::default(),
        };
        Ok((waiting, reply))
    }

    fn answer(&self, id: Option<String>, line: String) {
        let waiting = match (&mut *self.lock(), &id) {
            (State::Open(pending), Some(id)) => pending.remove(id),
            _ => None,
        };
        match waiting.map(|answer| answer.send(line)) {
            Some(Ok(())) => {}
            _ => tracing::debug!(id, "reply that nobody waits for"),
        }
    }

    fn close(&self, closed: Closed) {
        // Dropping the map tells everybody who waits.
        *self.lock() = State::Closed(closed);
    }

    fn why_closed(&self) -> Closed {
        match &*self.lock() {
            State::Closed(closed) => closed.clone(),
            State::Open(_) => Closed::Dropped,
        }
    }
}

/// Somebody waits for an id; dropped when they stop, answered or not.
struct Waiting {
    shared: Arc<Shared>,
    id: String,
    flight: Arc<Flight>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _written_already = self.flight.give_up();
        if let State::Open(pending) = &mut *self.shared.lock() {
            pending.remove(&self.id);
        }
    }
}

struct LineReader {
    stream: Arc<UnixStream>,
    decoder: LineDecoder,
}

impl LineReader {
    async fn next(&mut self) -> Result<Message, Closed> {
        let mut chunk = Vec::new();
        loop {
            if let Some(line) = self.decoder.next_line()? {
                tracing::trace!(line, "monitor says");
                return Ok(parse(line)?);
            }
            chunk.resize(CHUNK, 0);
            self.stream.readable().await?;
            match self.stream.try_read(&mut chunk) {
                Ok(0) => return Err(Closed::EndOfFile),
                Ok(length) => self.decoder.push(&chunk[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

async fn run(
    lines: LineReader,
    queue: mpsc::Receiver<Request>,
    events: mpsc::Sender<Incoming>,
    shared: Arc<Shared>,
) {
    let stream = Arc::clone(&lines.stream);
    let closed = tokio::select! {
        closed = read(lines, &events, &shared) => closed,
        () = write(&stream, queue) => Closed::Dropped,
    };
    tracing::debug!(%closed, "monitor connection over");
    shared.close(closed.clone());
    let _nobody_listens = events.send(Incoming::Closed(closed)).await;
}

async fn read(mut lines: LineReader, events: &mpsc::Sender<Incoming>, shared: &Shared) -> Closed {
    loop {
        match lines.next().await {
            Ok(Message::Reply { id, line }) => shared.answer(id, line),
            Ok(Message::Event(event)) => {
                let _nobody_listens = events.send(Incoming::Event(event)).await;
            }
            Ok(Message::Greeting(_)) => return Closed::Protocol("a second greeting".to_owned()),
            Err(closed) => return closed,
        }
    }
}

/// Ends when nobody can ask any more.
async fn write(stream: &UnixStream, mut queue: mpsc::Receiver<Request>) {
    while let Some(Request { line, fds, flight }) = queue.recv().await {
        if !flight.take_off() {
            continue;
        }
        tracing::trace!(line = line.trim_end(), fds = fds.len(), "to monitor");
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        if let Err(error) = unixfd::send_with_fds(stream, line.as_bytes(), &fds).await {
            // What QEMU said last is still to be read: the reader finds the end.
            tracing::debug!(%error, "cannot write to monitor");
            std::future::pending::<()>().await;
        }
    }
}
