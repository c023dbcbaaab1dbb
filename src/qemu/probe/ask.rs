//! One probe: a QEMU without a machine, asked over a socket pair, twice where it has an accelerator.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use qemu_plan::caps::probe::{Query, Stage, queries};
use qemu_plan::caps::{Accel, Caps, Exchange, Flag, Replies, Run};
use qmp::{Client, Connection};
use serde_json::{Map, Value, json};
use tokio::time::timeout;
use unixfd::{Launch, Limit};

use crate::error::{Code, Error, Result};
use crate::qemu::{Process, RunAs, Stop, log};

/// How long one QEMU may take to answer everything. Usually a tenth of a second; a host that swaps needs more.
const RUN_DEADLINE: Duration = Duration::from_secs(60);
/// How long one answer may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// How long fork and exec may take.
const EXEC_DEADLINE: Duration = Duration::from_secs(30);
/// Between the end of a process and the end of its monitor.
const LAST_MOMENT: Duration = Duration::from_millis(300);
/// Most that is kept of what QEMU prints, in bytes.
const OUTPUT: u64 = 64 << 10;
/// Most of that which goes into an error.
const SHOWN: usize = 1024;
/// Where it finds helpers, should it want any.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Most descriptors it may open.
const OPEN_FILES: u64 = 1024;

/// Whom to ask, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probe<'a> {
    /// The binary, for words and exec.
    pub(super) binary: &'a Path,
    /// What its process writes its number to, and locks.
    pub(super) pid_file: &'a Path,
    /// Whom it runs as.
    pub(super) run_as: Option<&'a RunAs>,
}

/// A QEMU that is being asked. Dropped, it is killed.
struct Candidate {
    process: Process,
    output: File,
}

impl Probe<'_> {
    /// Asks all there is to ask.
    ///
    /// # Errors
    /// When the binary cannot be run, ends, hangs or talks nonsense.
    pub(super) async fn ask(self) -> Result<Replies> {
        let first = self.run("kvm:tcg", &[Stage::Basics, Stage::Details]).await?;
        let mut replies = Replies { runs: vec![first] };
        let caps = Caps::derive(&replies);
        if caps.is_ok_and(|caps| caps.accel(Accel::Kvm).is_some() && caps.has(Flag::Tcg)) {
            replies.runs.push(self.run("tcg", &[Stage::TcgOnly]).await?);
        }
        Ok(replies)
    }

    async fn run(self, accel: &str, stages: &[Stage]) -> Result<Run> {
        let (mut candidate, monitor) = self.launch(accel).await?;
        let talk = timeout(RUN_DEADLINE, converse(monitor, stages));
        tokio::pin!(talk);
        let answered = tokio::select! {
            biased;
            answered = &mut talk => answered,
            // Which question it did not survive shows on the monitor, in a moment.
            ended = candidate.process.exited() => timeout(LAST_MOMENT, talk).await.unwrap_or_else(|_| Ok(Err(ended.err().unwrap_or_else(exited)))),
        };
        let answered = answered.unwrap_or_else(|_| Err(late()));
        let stopped = candidate.process.stop(Stop::Now).await;
        match answered {
            Ok(run) => stopped.map(|()| run),
            Err(error) => Err(self.failed(&error, &candidate.words())),
        }
    }

    async fn launch(self, accel: &str) -> Result<(Candidate, UnixStream)> {
        let failed = |error| Error::system(format!("cannot probe QEMU binary {}", self.binary.display()), error);
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let output = unixfd::bounded_memfd("qemu-probe", OUTPUT).map_err(failed)?;
        let mut launch = Launch::new(self.binary, arguments(accel)).output(output.try_clone().map_err(failed)?.into());
        let number = launch.inherit(theirs.into()).map_err(failed)?;
        launch = launch.args(["-chardev".to_owned(), format!("socket,id=charmonitor,fd={number}")]);
        launch = launch.args(["-mon", "chardev=charmonitor,id=monitor,mode=control"]).pid_file(self.pid_file);
        launch = launch.env("LC_ALL", "C").env("PATH", PATH).no_new_privileges();
        launch = launch.limit(Limit::OpenFiles, OPEN_FILES).limit(Limit::Core, 0);
        if let Some(RunAs { uid, gid, groups }) = self.run_as.cloned() {
            launch = launch.identity(uid, gid, groups);
        }
        let started = crate::qemu::blocking(move || launch.start(EXEC_DEADLINE)).await?;
        let process = Process::new(started.map_err(|error| self.failed(&error, ""))?.pidfd);
        Ok((Candidate { process, output }, ours))
    }

    fn failed(&self, why: &dyn std::fmt::Display, words: &str) -> Error {
        let binary = self.binary.display();
        let separator = if words.is_empty() { "" } else { ": " };
        let message = format!("Failed to probe QEMU binary {binary} with QMP: {why}{separator}{words}");
        Error::internal(message).because("QEMU_PROBE_FAILED")
    }
}

impl Candidate {
    /// What it printed, the end of it.
    fn words(&mut self) -> String {
        let mut bytes = Vec::new();
        let read = self.output.rewind().and_then(|()| self.output.read_to_end(&mut bytes));
        bytes.truncate(bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1));
        let from = bytes.len().saturating_sub(SHOWN);
        read.map_or_else(|_| String::new(), |_| log::last_words(&bytes[from..], from > 0))
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        self.process.kill();
    }
}

fn arguments(accel: &str) -> [String; 6] {
    let machine = format!("none,accel={accel}");
    ["-S", "-no-user-config", "-nodefaults", "-nographic", "-machine", &machine].map(str::to_owned)
}

async fn converse(stream: UnixStream, stages: &[Stage]) -> Result<Run> {
    let unusable = |error| Error::system("monitor of a probe", error);
    stream.set_nonblocking(true).map_err(unusable)?;
    let stream = tokio::net::UnixStream::from_std(stream).map_err(unusable)?;
    let connection = Connection::handshake(stream, RUN_DEADLINE).await?;
    // Nobody wants events of a machine that is none.
    drop(connection.incoming);
    let mut run = Run::default();
    for &stage in stages {
        for query in queries(stage, &run) {
            let exchange = exchange(&connection.client, query).await?;
            run.exchanges.push(exchange);
        }
    }
    Ok(run)
}

async fn exchange(client: &Client, query: Query) -> Result<Exchange> {
    let Query { execute, arguments } = query;
    let mut command = json!({ "execute": execute });
    if let Some(arguments) = &arguments {
        command["arguments"] = arguments.clone();
    }
    let answer = client.execute_raw(&command.to_string(), ANSWER_DEADLINE).await?;
    let not_json = |error: serde_json::Error| Error::internal(format!("answer to {execute} not understood: {error}"));
    let mut reply: Map<String, Value> = serde_json::from_str(&answer).map_err(not_json)?;
    reply.remove("id");
    Ok(Exchange { execute: execute.to_owned(), arguments, reply: Value::Object(reply) })
}

fn late() -> Error {
    Error::new(Code::OperationTimeout, format!("no answers within {} s", RUN_DEADLINE.as_secs()))
}

fn exited() -> Error {
    Error::internal("it exited")
}
