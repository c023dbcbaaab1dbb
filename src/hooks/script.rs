//! Running one script: what it gets, what it says, and its end, however it comes.
//!
//! A script is a group of processes of its own. Whoever drops the future that runs it kills the group: nobody waits for a
//! script whose guest is gone. What a script leaves running in the background when it ends is left alone.

use std::{
    fs::File,
    io::{self, Read, Seek},
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::AsyncReadExt,
    process::{Child, ChildStderr, Command},
};

use super::call::{self, Call, End};
use crate::error::{Area, Code, Error, Result};

/// Most of what a script says that is kept, in bytes.
const WORDS: usize = 16 * 1024;
/// How long the last words of a script that has ended are waited for, which somebody else may still be able to add to.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Most that a script may write of a document, in bytes.
const DOCUMENT: u64 = 16 << 20;

/// What becomes of what a script writes to its standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Dropped,
    Read,
}

/// Runs a script to its end, with `input` on its standard input; what it has written, if that is read.
pub(super) async fn run(
    program: &Path,
    call: &Call,
    (input, output): (Option<File>, Output),
) -> Result<String> {
    let written = match output {
        Output::Dropped => None,
        Output::Read => Some(unixfd::bounded_memfd("document of a hook", DOCUMENT).map_err(not_read)?),
    };
    let stdout = match &written {
        Some(file) => Stdio::from(file.try_clone().map_err(not_read)?),
        None => Stdio::null(),
    };
    let environment = call::environment(|name| std::env::var_os(name));
    let mut command = Command::new(program);
    command
        .args(&call.args)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(input.map_or_else(Stdio::null, Stdio::from))
        .stdout(stdout)
        .stderr(Stdio::piped())
        .process_group(0);
    let (end, said) = match command.spawn() {
        Ok(child) => {
            let (status, said) = Running(child).wait().await.map_err(not_waited_for)?;
            (End::from(status), String::from_utf8_lossy(&said).into_owned())
        }
        Err(error) => {
            let end = End::not_executed(&error);
            let error = Error::system(format_args!("cannot execute binary {}", program.display()), error);
            (end, error.to_string())
        }
    };
    match end {
        End::Status(0) => written.map_or_else(|| Ok(String::new()), read_back),
        end => Err(refusal(&call::failure(program, call, &environment, (end, &said)))),
    }
}

/// What a script has written into a file of memory: up to where it has come in it.
fn read_back(mut file: File) -> Result<String> {
    let length = file.stream_position().map_err(not_read)?;
    let mut text = String::new();
    file.rewind().map_err(not_read)?;
    file.take(length).read_to_string(&mut text).map_err(not_read)?;
    Ok(text)
}

fn not_read(error: io::Error) -> Error {
    Error::system("cannot read what a hook writes", error)
}

fn not_waited_for(error: io::Error) -> Error {
    Error::system("cannot wait for a hook", error)
}

/// The error of a call that did not succeed, as libvirt words it.
pub(super) fn refusal(text: &str) -> Error {
    Error::new(Code::HookScriptFailed, format!("internal error: {text}")).in_area(Area::Hook)
}

/// A script that runs; dropped before its end, it is killed with all that it started.
struct Running(Child);

impl Running {
    async fn wait(&mut self) -> io::Result<(ExitStatus, Vec<u8>)> {
        let mut pipe = self.0.stderr.take();
        let mut said = Said::default();
        let status = loop {
            let Some(open) = &mut pipe else {
                break self.0.wait().await?;
            };
            tokio::select! {
                status = self.0.wait() => break status?,
                more = said.read(open) => if !more { pipe = None },
            }
        };
        if let Some(mut open) = pipe {
            let rest = async { while said.read(&mut open).await {} };
            if tokio::time::timeout(LAST_WORDS, rest).await.is_err() {
                keep_open(open);
            }
        }
        Ok((status, said.words))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its number is its own until it is waited for, and so is its group's.
        let number = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(number) = number {
            let _gone_already = killpg(Pid::from_raw(number), Signal::SIGKILL);
        }
    }
}

/// What a script said; of much the end.
#[derive(Default)]
struct Said {
    words: Vec<u8>,
}

impl Said {
    /// Reads some more, if there is more. Cancel safe.
    async fn read(&mut self, pipe: &mut ChildStderr) -> bool {
        let mut buffer = [0; 4096];
        let length = pipe.read(&mut buffer).await.unwrap_or(0);
        self.words.extend_from_slice(&buffer[..length]);
        let surplus = self.words.len().saturating_sub(WORDS);
        self.words.drain(..surplus);
        length > 0
    }
}

/// What a script left in the background may go on saying things, to nobody.
fn keep_open(mut pipe: ChildStderr) {
    tokio::spawn(async move { tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await });
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::PermissionsExt, path::PathBuf, time::Instant};

    use super::*;
    use crate::hooks::call::Operation;

    fn script(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("script");
        let mut file = File::create(&path).unwrap();
        write!(file, "#!/bin/sh\n{text}\n").unwrap();
        file.set_permissions(std::fs::Permissions::from_mode(0o755))
            .unwrap();
        path
    }

    async fn run_it(text: &str, input: &[u8]) -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let call = Call::new(Some("g"), Operation::Prepare);
        let input = unixfd::sealed_memfd("test", input).unwrap();
        let given = (Some(input), Output::Dropped);
        run(&script(dir.path(), text), &call, given).await.map(drop)
    }

    #[tokio::test]
    async fn a_script_gets_its_input_and_nothing_else_that_is_open() {
        run_it("[ \"$(cat)\" = document ]", b"document").await.unwrap();
        // As the daemon does; its own list of descriptors is the fourth.
        unixfd::keep_from_programs();
        let error = run_it("ls /proc/self/fd >&2; exit 1", b"").await.unwrap_err();
        assert!(
            error.message.ends_with("exit status 1: 0\n1\n2\n3"),
            "{}",
            error.message
        );
    }

    #[tokio::test]
    async fn a_script_that_says_much_is_heard_to_the_end() {
        let error = run_it(
            "head -c 300000 /dev/zero | tr '\\0' x >&2; echo last >&2; exit 4",
            b"",
        )
        .await;
        let message = error.unwrap_err().message;
        assert!(
            message.ends_with("xlast") && message.contains("exit status 4"),
            "{}",
            message.len()
        );
        assert!(message.len() < 2 * WORDS, "{}", message.len());
    }

    #[tokio::test]
    async fn what_a_script_leaves_in_the_background_is_not_waited_for() {
        let begun = Instant::now();
        run_it("sleep 20 & exit 0", b"").await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn a_script_that_is_given_up_ends_with_what_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let text = format!("sleep 60 & echo $! >{}; wait", file.display());
        let call = Call::new(Some("g"), Operation::Prepare);
        let path = script(dir.path(), &text);
        let written = async {
            while std::fs::read_to_string(&file).unwrap_or_default().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            ended = run(&path, &call, (None, Output::Dropped)) => panic!("{ended:?}"),
            () = written => {}
        }
        let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        if let Ok(child) = unixfd::PidFd::open(pid) {
            tokio::time::timeout(Duration::from_secs(10), child.exited())
                .await
                .unwrap()
                .unwrap();
        }
    }

    #[tokio::test]
    async fn what_can_not_be_executed_is_told() {
        let call = Call::new(None, Operation::DaemonStart);
        let given = (None, Output::Dropped);
        let error = run(Path::new("/nonexistent"), &call, given).await.unwrap_err();
        let text = error.to_string();
        let end = "unexpected exit status 127: cannot execute binary /nonexistent: No such file or directory";
        assert!(
            text.starts_with("Hook script execution failed: internal error: Child process ("),
            "{text}"
        );
        assert!(text.ends_with(end), "{text}");
    }
}
