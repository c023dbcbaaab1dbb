//! One probe: a QEMU without a machine, asked over a socket pair; two at once where it has an accelerator.

use std::fs::File;
use std::future::Future;
use std::io::{Read, Seek};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use nix::unistd::{Pid, getpgid};
use qemu_plan::caps::probe::{Query, Stage, needs_tcg_run, queries};
use qemu_plan::caps::{Exchange, Replies, Run};
use qmp::{Client, Connection};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout, timeout_at};
use unixfd::{Held, Launch, LaunchError, Limit, Started};

use super::family::{Family, VARIABLE};
use crate::error::{Code, Error, Result};
use crate::qemu::{Process, RunAs, log};

/// Between the end of a process and the end of its monitor.
const LAST_MOMENT: Duration = Duration::from_millis(300);
/// Most that is kept of what QEMU prints, in bytes.
const OUTPUT: u64 = 64 << 10;
/// Most of that which goes into an error.
const SHOWN: usize = 1024;
/// Most that one process may answer, in bytes; QEMU 10.0 says 0.5 MB.
const ANSWERS: usize = 8 << 20;
/// Questions on their way; QEMU reads no more than these at a time.
const AHEAD: usize = 8;
/// Where it finds helpers, should it want any.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Most descriptors it may open.
const OPEN_FILES: u64 = 1024;

/// How long a binary may take. Usually it is a tenth of a second for all; a host that swaps needs more.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// For fork and exec.
    pub exec: Duration,
    /// For the greeting, and for one answer.
    pub answer: Duration,
    /// For all answers of one process.
    pub run: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            exec: Duration::from_secs(30),
            answer: Duration::from_secs(30),
            run: Duration::from_secs(60),
        }
    }
}

/// Whom to ask, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probe<'a> {
    /// The binary, for words and exec.
    pub(super) binary: &'a Path,
    /// What the processes write their numbers to, and lock: the first one, and the one without accelerator.
    pub(super) pid_files: &'a [PathBuf; 2],
    /// Whom it runs as.
    pub(super) run_as: Option<&'a RunAs>,
    /// How long it may take.
    pub(super) deadlines: Deadlines,
}

/// Kills a family when whoever asks is gone.
struct Guard(Arc<Family>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// A QEMU that is being asked.
struct Candidate<'a> {
    probe: Probe<'a>,
    process: Process,
    output: File,
    end: Instant,
}

/// A QEMU and what it answered so far.
struct Talk<'a> {
    candidate: Candidate<'a>,
    client: Client,
    run: Run,
    bytes: usize,
}

impl<'a> Probe<'a> {
    /// Asks all there is to ask. Nothing that was started is left when it fails; when it succeeds, all is being killed.
    ///
    /// # Errors
    /// When the binary cannot be run, ends, hangs or talks nonsense.
    pub(super) async fn ask(self) -> Result<Replies> {
        let guard = Guard(Arc::new(Family::new()));
        let replies = self.ask_both(&guard.0).await;
        guard.0.kill();
        let ended = Arc::clone(&guard.0).end();
        match replies {
            // Who asked need not wait for the kernel to take a process apart.
            Ok(_) => drop(tokio::spawn(async move { note_leftover(ended.await) })),
            Err(_) => note_leftover(ended.await),
        }
        replies
    }

    async fn ask_both(self, family: &Arc<Family>) -> Result<Replies> {
        let [first, second] = self.pid_files;
        let mut talk = self.talk("kvm:tcg", first, family).await?;
        talk.ask(Stage::Basics).await?;
        let needed = needs_tcg_run(&talk.run);
        let rest = async {
            talk.ask(Stage::Schema).await?;
            talk.ask(Stage::Details).await?;
            Ok(talk.run)
        };
        // It starts while the first one answers.
        let without = async {
            if !needed {
                return Ok(None);
            }
            let mut talk = self.talk("tcg", second, family).await?;
            talk.ask(Stage::TcgOnly).await?;
            Ok::<_, Error>(Some(talk.run))
        };
        let (first, second) = tokio::try_join!(rest, without)?;
        Ok(Replies {
            runs: [Some(first), second].into_iter().flatten().collect(),
        })
    }

    async fn talk(self, accel: &str, pid_file: &Path, family: &Arc<Family>) -> Result<Talk<'a>> {
        let (candidate, monitor) = self.launch(accel, pid_file, family).await?;
        let client = candidate.watch(greet(monitor, self.deadlines.answer)).await?;
        Ok(Talk {
            candidate,
            client,
            run: Run::default(),
            bytes: 0,
        })
    }

    async fn launch(
        self,
        accel: &str,
        pid_file: &Path,
        family: &Arc<Family>,
    ) -> Result<(Candidate<'a>, UnixStream)> {
        let failed = |error| {
            Error::system(
                format!("cannot probe QEMU binary {}", self.binary.display()),
                error,
            )
        };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let output = unixfd::bounded_memfd("qemu-probe", OUTPUT).map_err(failed)?;
        let mut launch =
            Launch::new(self.binary, arguments(accel)).output(output.try_clone().map_err(failed)?.into());
        let number = launch.inherit(theirs.into()).map_err(failed)?;
        launch = launch.args([
            "-chardev".to_owned(),
            format!("socket,id=charmonitor,fd={number}"),
        ]);
        launch = launch
            .args(["-mon", "chardev=charmonitor,id=monitor,mode=control"])
            .pid_file(pid_file);
        launch = launch
            .env("LC_ALL", "C")
            .env("PATH", PATH)
            .env(VARIABLE, family.mark())
            .no_new_privileges();
        launch = launch.limit(Limit::OpenFiles, OPEN_FILES).limit(Limit::Core, 0);
        if let Some(RunAs { uid, gid, groups }) = self.run_as.cloned() {
            launch = launch.identity(uid, gid, groups);
        }
        let (within, family) = (self.deadlines.exec, Arc::clone(family));
        let started = crate::qemu::blocking(move || start(launch, within, &family)).await?;
        let process = started.map_err(|error| self.failed(&error, ""))?;
        let end = Instant::now() + self.deadlines.run;
        Ok((
            Candidate {
                probe: self,
                process,
                output,
                end,
            },
            ours,
        ))
    }

    fn failed(&self, why: &dyn std::fmt::Display, words: &str) -> Error {
        let binary = self.binary.display();
        let separator = if words.is_empty() { "" } else { ": " };
        let message = format!("Failed to probe QEMU binary {binary} with QMP: {why}{separator}{words}");
        Error::internal(message).because("QEMU_PROBE_FAILED")
    }

    fn late(&self) -> Error {
        Error::new(
            Code::OperationTimeout,
            format!("no answers within {:?}", self.deadlines.run),
        )
    }
}

/// The family has it before it runs, so that it is ended even if nobody waits any more.
fn start(launch: Launch, within: Duration, family: &Family) -> Result<Process, LaunchError> {
    let held: Held = launch.hold()?;
    // A process that waits has a group: that of the one which forked it, which has ended.
    let group = getpgid(Some(Pid::from_raw(held.pid()))).ok();
    let Started { pidfd } = held.release(within)?;
    let process = Process::new(pidfd);
    family.add(process.clone(), group);
    Ok(process)
}

fn note_leftover(ended: Result<()>) {
    if let Err(error) = ended {
        tracing::warn!(%error, "a QEMU that was probed does not end");
    }
}

impl Talk<'_> {
    async fn ask(&mut self, stage: Stage) -> Result<()> {
        let (client, within, bytes) = (
            &self.client,
            self.candidate.probe.deadlines.answer,
            &mut self.bytes,
        );
        let asked = stream::iter(queries(stage, &self.run))
            .map(|query| exchange(client, query, within))
            .buffered(AHEAD);
        let counted = asked.map(|answer| {
            let (exchange, length) = answer?;
            *bytes += length;
            if *bytes > ANSWERS {
                Err(Error::internal(format!(
                    "its answers have more than {} MiB",
                    ANSWERS >> 20
                )))
            } else {
                Ok(exchange)
            }
        });
        let exchanges: Vec<Exchange> = self.candidate.watch(counted.try_collect()).await?;
        self.run.exchanges.extend(exchanges);
        Ok(())
    }
}

impl Candidate<'_> {
    /// What `talk` gives, unless the process ends or its time is up.
    async fn watch<T>(&self, talk: impl Future<Output = Result<T>>) -> Result<T> {
        let talk = timeout_at(self.end, talk);
        tokio::pin!(talk);
        let answered = tokio::select! {
            biased;
            answered = &mut talk => answered,
            // Which question it did not survive shows on the monitor, in a moment.
            ended = self.process.exited() => timeout(LAST_MOMENT, talk).await.unwrap_or_else(|_| Ok(Err(ended.err().unwrap_or_else(exited)))),
        };
        let answered = answered.unwrap_or_else(|_| Err(self.probe.late()));
        answered.map_err(|error| self.probe.failed(&error.message, &self.words()))
    }

    /// What it printed, the end of it.
    fn words(&self) -> String {
        let (mut output, mut bytes) = (&self.output, Vec::new());
        let read = output.rewind().and_then(|()| output.read_to_end(&mut bytes));
        bytes.truncate(
            bytes
                .iter()
                .rposition(|&byte| byte != 0)
                .map_or(0, |last| last + 1),
        );
        let from = bytes.len().saturating_sub(SHOWN);
        read.map_or_else(|_| String::new(), |_| log::last_words(&bytes[from..], from > 0))
    }
}

fn arguments(accel: &str) -> [String; 6] {
    let machine = format!("none,accel={accel}");
    [
        "-S",
        "-no-user-config",
        "-nodefaults",
        "-nographic",
        "-machine",
        &machine,
    ]
    .map(str::to_owned)
}

async fn greet(stream: UnixStream, within: Duration) -> Result<Client> {
    let unusable = |error| Error::system("monitor of a probe", error);
    stream.set_nonblocking(true).map_err(unusable)?;
    let stream = tokio::net::UnixStream::from_std(stream).map_err(unusable)?;
    // Nobody wants events of a machine that is none.
    let Connection { client, .. } = Connection::handshake(stream, within).await?;
    Ok(client)
}

/// A question with its answer, and the length of that.
async fn exchange(client: &Client, query: Query, within: Duration) -> Result<(Exchange, usize)> {
    let Query { execute, arguments } = query;
    let mut command = json!({ "execute": execute });
    if let Some(arguments) = &arguments {
        command["arguments"] = arguments.clone();
    }
    let answer = client
        .execute_raw(&command.to_string(), Vec::new(), within)
        .await?;
    let not_json =
        |error: serde_json::Error| Error::internal(format!("answer to {execute} not understood: {error}"));
    let mut reply: Map<String, Value> = serde_json::from_str(&answer).map_err(not_json)?;
    reply.remove("id");
    Ok((
        Exchange {
            execute: execute.to_owned(),
            arguments,
            reply: Value::Object(reply),
        },
        answer.len(),
    ))
}

fn exited() -> Error {
    Error::internal("it exited")
}
