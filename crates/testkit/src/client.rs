//! Clients that drive a daemon under test: virsh, and grpcurl.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::place::program;
use crate::wait::wait_for;

/// What a program answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Exit status; `None` when a signal ended it.
    pub status: Option<i32>,
    /// Standard output, invalid UTF-8 replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
}

impl Answer {
    /// Whether the program ended with status 0.
    pub fn success(&self) -> bool {
        self.status == Some(0)
    }
}

/// virsh on one connection.
#[derive(Debug, Clone)]
pub struct Virsh {
    uri: String,
    limit: Duration,
}

impl Virsh {
    /// virsh on the libvirt URI; a command may take a minute.
    pub fn new(uri: impl Into<String>) -> Self {
        Self {
            uri: uri.into(),
            limit: Duration::from_secs(60),
        }
    }

    /// The same with another limit of time for a command.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs one command, each argument handed over as it is.
    ///
    /// # Errors
    /// When virsh cannot be run or does not end in time; a command that it refuses is an answer.
    pub fn run(&self, args: &[&str]) -> Result<Answer> {
        run(self.command(args)?, self.limit).with_context(|| format!("virsh {}", args.join(" ")))
    }

    /// Starts one command and does not wait; what it prints is lost.
    ///
    /// # Errors
    /// When virsh cannot be run.
    pub fn spawn(&self, args: &[&str]) -> Result<Child> {
        let mut command = self.command(args)?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok(command.spawn()?)
    }

    fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(program("virsh").context("virsh is not installed")?);
        command
            .args(["--quiet", "--connect", &self.uri])
            .args(args)
            .env("LC_ALL", "C.UTF-8");
        Ok(command)
    }

    /// Runs a command that must succeed and gives its output.
    ///
    /// # Errors
    /// With virsh's message when it fails.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let answer = self.run(args)?;
        ensure!(
            answer.success(),
            "virsh {}: {}",
            args.join(" "),
            answer.stderr.trim()
        );
        Ok(answer.stdout)
    }

    /// Runs a command that must be refused and gives the message, all lines.
    ///
    /// # Errors
    /// When it succeeds.
    pub fn refused(&self, args: &[&str]) -> Result<String> {
        let answer = self.run(args)?;
        ensure!(
            !answer.success(),
            "virsh {} succeeded: {}",
            args.join(" "),
            answer.stdout.trim()
        );
        Ok(answer.stderr)
    }

    /// Defines a domain from a document handed over on a file.
    ///
    /// # Errors
    /// With virsh's message when it is refused.
    pub fn define(&self, xml: &str) -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), xml)?;
        self.ok(&["define", &file.path().to_string_lossy()]).map(drop)
    }

    /// A domain's state as virsh prints it: "running", "shut off", ...
    ///
    /// # Errors
    /// When there is no such domain.
    pub fn state(&self, domain: &str) -> Result<String> {
        Ok(self.ok(&["domstate", domain])?.trim().to_owned())
    }
}

/// grpcurl on a daemon's socket; it learns the service from reflection.
#[derive(Debug, Clone)]
pub struct Grpcurl {
    program: PathBuf,
    socket: PathBuf,
    limit: Duration,
}

impl Grpcurl {
    /// grpcurl for the socket, or `None` when it is not installed.
    pub fn find(socket: &Path) -> Option<Self> {
        Some(Self {
            program: program("grpcurl")?,
            socket: socket.to_path_buf(),
            limit: Duration::from_secs(60),
        })
    }

    /// The services that reflection tells of.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn services(&self) -> Result<Vec<String>> {
        let answer = self.run(&["list"], None)?;
        ensure!(answer.success(), "grpcurl list: {}", answer.stderr.trim());
        Ok(answer.stdout.lines().map(str::to_owned).collect())
    }

    /// Calls `package.Service/Method` with a request in JSON. A stream's messages come as an array.
    ///
    /// # Errors
    /// With the status that the daemon answered.
    pub fn call(&self, method: &str, request: &Value) -> Result<Value> {
        let answer = self.run(&[method], Some(&request.to_string()))?;
        ensure!(answer.success(), "grpcurl {method}: {}", answer.stderr.trim());
        let stream = serde_json::Deserializer::from_str(&answer.stdout).into_iter();
        let mut messages = stream.collect::<Result<Vec<Value>, _>>()?;
        Ok(if messages.len() == 1 {
            messages.remove(0)
        } else {
            Value::Array(messages)
        })
    }

    fn run(&self, args: &[&str], request: Option<&str>) -> Result<Answer> {
        let seconds = self.limit.as_secs().to_string();
        let mut command = Command::new(&self.program);
        command.args([
            "-plaintext",
            "-unix",
            "-authority",
            "localhost",
            "-max-time",
            &seconds,
        ]);
        if let Some(request) = request {
            command.args(["-d", request]);
        }
        command.arg(&self.socket).args(args);
        run(command, self.limit + Duration::from_secs(5))
    }
}

/// Runs a program to its end, with no input, and gives what it printed.
///
/// # Errors
/// When it cannot be started or runs for longer than `limit`, after which it is killed.
pub fn run(mut command: Command, limit: Duration) -> Result<Answer> {
    // files, not pipes: what the program leaves running must not keep this from ending
    let (out, err) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out.reopen()?)
        .stderr(err.reopen()?)
        .spawn()
        .with_context(|| format!("{:?}", command.get_program()))?;
    let ended = wait_for("its end", limit, || child.try_wait().transpose());
    let read = |file: &tempfile::NamedTempFile| -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(file.path())?).into_owned())
    };
    let Ok(status) = ended else {
        child.kill()?;
        child.wait()?;
        bail!(
            "no end after {limit:?}; printed {:?} {:?}",
            read(&out)?,
            read(&err)?
        );
    };
    Ok(Answer {
        status: status?.code(),
        stdout: read(&out)?,
        stderr: read(&err)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn an_answer_has_status_and_both_outputs() {
        let answer = run(shell("echo out; echo err >&2; exit 3"), Duration::from_secs(10)).unwrap();
        assert_eq!(answer.status, Some(3));
        assert_eq!(
            (answer.stdout.as_str(), answer.stderr.as_str()),
            ("out\n", "err\n")
        );
    }

    #[test]
    fn a_program_past_its_limit_is_killed() {
        let error = run(shell("echo begun; exec sleep 60"), Duration::from_millis(300)).unwrap_err();
        assert!(error.to_string().contains("begun"), "{error}");
    }
}
