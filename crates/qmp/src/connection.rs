//! A connection to a monitor: the handshake, and the one task that reads and writes.
//!
//! The task ends with the connection, or when the last [`Client`] is dropped. Replies are matched by id, so
//! that an answer to a command which nobody waits for any more is dropped and disturbs nothing.
//!
//! The hard thing is what happens when the receiver of events is slow: no event may be lost, so the task
//! stops reading, replies included, until there is room. Whoever receives events must therefore not wait
//! for a command in between; commands have deadlines in any case.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::commands::QmpCapabilities;
use crate::pending::{Request, Shared};
use crate::{Client, Closed, Error, Event, Greeting, LineDecoder, Message, parse};

/// How long greeting and negotiation may take together.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(30);
/// Events that wait for their receiver; the reader waits when it is full.
const EVENT_QUEUE: usize = 256;
/// Commands that wait to be written; who executes waits when it is full, within its deadline.
const COMMAND_QUEUE: usize = 32;
/// Bytes read at once.
const CHUNK: usize = 64 << 10;
/// Capability that lets commands be executed while another hangs.
const OUT_OF_BAND: &str = "oob";

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
        let shared = Arc::new(Shared::new());
        tokio::spawn(run(lines, queue, events, Arc::clone(&shared)));
        let client = Client { requests, shared };
        let offered = greeting.capabilities.iter().any(|name| name == OUT_OF_BAND);
        let enable = offered.then(|| vec![OUT_OF_BAND.to_owned()]);
        client.execute(QmpCapabilities { enable }).await?;
        client.shared.out_of_band.store(offered, Ordering::Relaxed);
        Ok(Self {
            client,
            incoming,
            greeting,
        })
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
