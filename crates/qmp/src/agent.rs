//! Guest agent: commands to a program inside the guest, one after the other.
//!
//! Nothing says which answer belongs to which command, and the agent may have died, been restarted, or still be
//! busy with what nobody waits for any more. So every command is preceded by a sync: a number that the agent
//! must give back, after a byte that ends whatever it has half read. All that comes before is discarded.
//!
//! The guest is not to be trusted: lines are bounded, and what it says is only handed on.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::error::Closed;
use crate::{Command, Error, LineDecoder, MAX_LINE, client};

/// How long the agent may take to answer a sync: when it does not, it is not there.
pub const SYNC_DEADLINE: Duration = Duration::from_secs(5);
/// Ends whatever the other side has half read, in both directions. No UTF-8: it reads as [`REPLACED`].
const SENTINEL: u8 = 0xff;
/// What a decoder of lines makes of a sentinel.
const REPLACED: char = char::REPLACEMENT_CHARACTER;
/// Bytes read at once.
const CHUNK: usize = 16 << 10;

/// An agent behind a channel of the guest. Commands wait for each other.
#[derive(Debug)]
pub struct Agent {
    channel: Mutex<Channel>,
}

#[derive(Debug)]
struct Channel {
    stream: UnixStream,
    decoder: LineDecoder,
    last_sync: u64,
}

impl Agent {
    /// Talks over `stream`, connected to the channel's socket.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        let decoder = LineDecoder::with_bound(MAX_LINE);
        Self {
            channel: Mutex::new(Channel {
                stream,
                decoder,
                last_sync: 0,
            }),
        }
    }

    /// Executes `command` within `deadline`, which begins when the commands before it are done.
    ///
    /// Cancel safe: a late answer is discarded by the next command.
    ///
    /// # Errors
    /// [`Error::Timeout`] of `guest-sync-delimited` when there is no agent, of the command when it is slow; else as a
    /// monitor's.
    pub async fn execute<C: Command>(&self, command: &C, deadline: Duration) -> Result<C::Reply, Error> {
        let arguments =
            serde_json::to_value(command).map_err(|error| Error::NotACommand(error.to_string()))?;
        let line = json!({"execute": C::NAME, "arguments": arguments}).to_string();
        client::decode(C::NAME, &self.call(C::NAME, &line, deadline).await?)
    }

    /// Executes a command given as JSON text; the agent's whole answer, refusals included.
    ///
    /// # Errors
    /// [`Error::NotACommand`], else as [`execute`](Self::execute) but for refusals.
    pub async fn execute_raw(&self, json: &str, deadline: Duration) -> Result<String, Error> {
        let (name, line) = read_command(json)?;
        self.call(&name, &line, deadline).await
    }

    /// Executes a command that is not answered when it succeeds, such as `guest-shutdown`: none when no answer
    /// came within `wait`, or the channel closed.
    ///
    /// # Errors
    /// As [`execute_raw`](Self::execute_raw), but for the command's own timeout.
    pub async fn execute_unanswered(&self, json: &str, wait: Duration) -> Result<Option<String>, Error> {
        let (name, line) = read_command(json)?;
        match self.call(&name, &line, wait).await {
            Ok(answer) => Ok(Some(answer)),
            Err(Error::Timeout {
                command, sent: true, ..
            }) if command == name => Ok(None),
            Err(Error::Closed { command, .. }) if command == name => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn call(&self, name: &str, line: &str, deadline: Duration) -> Result<String, Error> {
        let mut channel = self.channel.lock().await;
        channel.sync().await?;
        let text = format!("{line}\n");
        channel.exchange(name, text.as_bytes(), deadline, is_answer).await
    }
}

impl Channel {
    async fn sync(&mut self) -> Result<(), Error> {
        const NAME: &str = "guest-sync-delimited";
        self.last_sync += 1;
        let id = self.last_sync;
        let command = json!({"execute": NAME, "arguments": {"id": id}});
        let mut bytes = vec![SENTINEL];
        bytes.extend_from_slice(format!("{command}\n").as_bytes());
        // What stands before the last sentinel was said to somebody else.
        let is_ours = |line: &str| result_of(line.rsplit(REPLACED).next().unwrap_or(line)) == Some(id.into());
        self.exchange(NAME, &bytes, SYNC_DEADLINE, is_ours)
            .await
            .map(drop)
    }

    /// Sends `bytes` and takes the first line that is an answer and `wanted`.
    async fn exchange(
        &mut self,
        name: &str,
        bytes: &[u8],
        within: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String, Error> {
        let end = Instant::now() + within;
        let late = |sent| Error::Timeout {
            command: name.to_owned(),
            after: within,
            sent,
        };
        let closed = |closed: Closed| Error::Closed {
            command: name.to_owned(),
            closed,
        };
        let sending = timeout_at(end, unixfd::send_with_fds(&self.stream, bytes, &[]));
        sending
            .await
            .map_err(|_| late(false))?
            .map_err(|error| closed(error.into()))?;
        // No time at all is not rounded up to a tick of the clock.
        if within.is_zero() {
            return Err(late(true));
        }
        loop {
            let line = timeout_at(end, self.next_line())
                .await
                .map_err(|_| late(true))?
                .map_err(closed)?;
            if wanted(&line) {
                return Ok(line);
            }
            tracing::debug!(command = name, "guest agent said what nobody asked for");
        }
    }

    async fn next_line(&mut self) -> Result<String, Closed> {
        loop {
            if let Some(line) = self.decoder.next_line()? {
                return Ok(line);
            }
            let mut chunk = vec![0; CHUNK];
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

/// What an answer returns.
fn result_of(line: &str) -> Option<Value> {
    let answer: Value = serde_json::from_str(line).ok()?;
    answer.get("return").cloned()
}

fn is_answer(line: &str) -> bool {
    let answer: Value = serde_json::from_str(line).unwrap_or_default();
    answer.get("return").or(answer.get("error")).is_some()
}

/// Name and one line of a command that somebody wrote.
fn read_command(json: &str) -> Result<(String, String), Error> {
    let not = |why: &dyn std::fmt::Display| Error::NotACommand(why.to_string());
    let command: Value = serde_json::from_str(json).map_err(|error| not(&error))?;
    let name = command.get("execute").and_then(Value::as_str);
    let name = name.ok_or_else(|| not(&"no \"execute\""))?.to_owned();
    Ok((name, command.to_string()))
}
