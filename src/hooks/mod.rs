//! Scripts of the host's administrator, called when guests start and end and when the daemon does: libvirt's hooks.
//!
//! `ops::run::hooks` calls them for guests, `daemon` for itself. There is one script each and a directory of more, and
//! whether there are any is looked up when the daemon starts and when it reads its configuration anew, as libvirt does:
//! a host without scripts pays nothing. What is called with what is decided in `call`, without a file or a clock, and
//! `script` runs one. Scripts run beside the daemon: one that hangs delays whoever called it and nobody else, and ends
//! when that one gives up.

mod call;
mod script;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use nix::unistd::{AccessFlags, access};

pub use call::{Operation, Script};

use crate::error::{Error, Result};
use call::Call;
use script::Output;

/// How long scripts may take in which the daemon, or the end of a run, is waiting.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long the daemon's own may take: it serves nobody meanwhile, or is to end.
const PATIENCE_OF_DAEMON: Duration = Duration::from_secs(60);

/// The scripts of this host.
#[derive(Debug)]
pub struct Hooks {
    directory: PathBuf,
    /// Whose there are, a bit each.
    found: AtomicU8,
}

impl Hooks {
    /// Those of a directory; none before [`Self::look`].
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            found: AtomicU8::new(0),
        }
    }

    /// Looks whose scripts there are.
    pub async fn look(&self) {
        let directory = self.directory.clone();
        let find = move || {
            let there = Script::ALL
                .into_iter()
                .filter(|script| !files(&directory, *script).is_empty());
            Ok(there.fold(0, |bits, script| bits | script.bit()))
        };
        match crate::blocking::file("looking for hooks", find).await {
            Ok(found) => self.found.store(found, Ordering::Release),
            Err(error) => tracing::error!(%error, "hooks are what they were"),
        }
    }

    /// Whether there were scripts when they were last looked for.
    pub fn has(&self, script: Script) -> bool {
        self.found.load(Ordering::Acquire) & script.bit() != 0
    }

    /// Calls the scripts about a guest, each after the one before it, until all have ended.
    ///
    /// # Errors
    /// `HookScriptFailed` with what the last one said that failed; the others are called all the same.
    pub async fn call(&self, guest: &str, operation: Operation, document: &str) -> Result<()> {
        let call = Call::new(Some(guest), operation);
        self.run(&call, Some(document.to_owned()), Output::Dropped)
            .await
            .map(drop)
    }

    /// Calls the scripts about a guest, each of which may give it another document: what one writes is what the next one
    /// reads, and one that writes nothing changes nothing. Answers what came of it; `None` if nothing was written.
    ///
    /// # Errors
    /// As [`Self::call`], and a document that is too long or no text.
    pub async fn filter(&self, guest: &str, operation: Operation, document: &str) -> Result<Option<String>> {
        let call = Call::new(Some(guest), operation);
        let left = self.run(&call, Some(document.to_owned()), Output::Read).await?;
        Ok(left.filter(|left| left != document))
    }

    /// The same for scripts whose failure changes nothing: it is logged. They are ended if they take too long.
    pub async fn tell(&self, guest: &str, operation: Operation, document: &str) {
        let called = self.call(guest, operation, document);
        if let Err(error) = within(PATIENCE, called).await {
            tracing::warn!(guest, ?operation, %error, "a hook failed");
        }
    }

    /// Looks for scripts and tells those of the daemon what it does.
    pub async fn tell_daemon(&self, operation: Operation) {
        self.look().await;
        let call = Call::new(None, operation);
        let called = async { self.run(&call, None, Output::Dropped).await.map(drop) };
        if let Err(error) = within(PATIENCE_OF_DAEMON, called).await {
            tracing::warn!(?operation, %error, "a hook failed");
        }
    }

    /// Runs all scripts of a call, and answers the document as the last one that wrote left it.
    async fn run(&self, call: &Call, mut document: Option<String>, output: Output) -> Result<Option<String>> {
        let script = call.operation.script();
        if !self.has(script) {
            return Ok(document);
        }
        let directory = self.directory.clone();
        let found = crate::blocking::file("looking for hooks", move || Ok(files(&directory, script)));
        let mut outcome = Ok(());
        for program in found.await? {
            let input = document.as_deref().map(input).transpose()?;
            match script::run(&program, call, (input, output)).await {
                Ok(written) if !written.trim().is_empty() => document = Some(written),
                Ok(_) => {}
                Err(error) => outcome = Err(error),
            }
        }
        outcome.map(|()| document)
    }
}

async fn within(limit: Duration, called: impl Future<Output = Result<()>>) -> Result<()> {
    let late = |_| {
        let text = format!("a script did not end within {} s and was ended", limit.as_secs());
        Err(script::refusal(&text).because("HELPER_DOES_NOT_END"))
    };
    tokio::time::timeout(limit, called).await.unwrap_or_else(late)
}

/// A document as a script reads it: anew for each.
fn input(document: &str) -> Result<fs::File> {
    let failed = |error: io::Error| Error::system("cannot hand a document to a hook", error);
    unixfd::sealed_memfd("document", document.as_bytes()).map_err(failed)
}

/// The scripts that can be executed now, in their order.
fn files(directory: &Path, script: Script) -> Vec<PathBuf> {
    let first = directory.join(script.name());
    let entries = fs::read_dir(call::directory(&first));
    let names = entries.map(|entries| entries.flatten().map(|entry| entry.file_name()).collect());
    let mut files = call::in_order(&first, names.unwrap_or_default());
    files.retain(|path| is_executable(path));
    files
}

fn is_executable(path: &Path) -> bool {
    let is_directory = fs::metadata(path).map(|meta| meta.is_dir());
    matches!(is_directory, Ok(false)) && access(path, AccessFlags::X_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn write(path: &Path, text: &str, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[tokio::test]
    async fn only_what_can_be_executed_is_called_and_only_after_it_was_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let (hooks, log) = (Hooks::new(dir.path().to_owned()), dir.path().join("log"));
        hooks.look().await;
        let line = |name: &str| format!("#!/bin/sh\necho {name} $1 $2 >>{}\n", log.display());
        write(&dir.path().join("qemu.d/b"), &line("b"), 0o755);
        hooks.call("g", Operation::Prepare, "").await.unwrap();
        assert!(!log.exists(), "they were not looked for");
        hooks.look().await;
        assert!(hooks.has(Script::Qemu) && !hooks.has(Script::Daemon));
        write(&dir.path().join("qemu"), &line("first"), 0o755);
        write(&dir.path().join("qemu.d/a"), &line("a"), 0o644);
        write(&dir.path().join("qemu.d/sub/x"), &line("x"), 0o755);
        symlink(dir.path().join("qemu.d/b"), dir.path().join("qemu.d/link")).unwrap();
        hooks.call("g", Operation::Prepare, "").await.unwrap();
        assert_eq!(
            fs::read_to_string(&log).unwrap(),
            "first g prepare\nb g prepare\nb g prepare\n"
        );
    }

    #[tokio::test]
    async fn each_script_gets_the_document_and_one_that_fails_does_not_keep_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let (hooks, log) = (Hooks::new(dir.path().to_owned()), dir.path().join("log"));
        let line = |status: u8| {
            format!(
                "#!/bin/sh\ncat >>{}\necho said {status} >&2\nexit {status}\n",
                log.display()
            )
        };
        for (name, status) in [("a", 3), ("b", 4), ("c", 0)] {
            write(&dir.path().join("qemu.d").join(name), &line(status), 0o755);
        }
        hooks.look().await;
        let error = hooks.call("g", Operation::Start, "doc.").await.unwrap_err();
        assert!(
            error.message.ends_with("exit status 4: said 4"),
            "{}",
            error.message
        );
        assert_eq!(fs::read_to_string(&log).unwrap(), "doc.doc.doc.");
    }

    #[tokio::test]
    async fn scripts_that_filter_read_what_the_one_before_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let hooks = Hooks::new(dir.path().to_owned());
        let filter = |document: &'static str| hooks.filter("g", Operation::Restore, document);
        write(&dir.path().join("qemu"), "#!/bin/sh\nsed s/a/b/\n", 0o755);
        write(&dir.path().join("qemu.d/1"), "#!/bin/sh\nexit 0\n", 0o755);
        write(&dir.path().join("qemu.d/2"), "#!/bin/sh\nsed s/b/c/\n", 0o755);
        assert_eq!(filter("xa").await.unwrap(), None, "nobody has looked for scripts");
        hooks.look().await;
        assert_eq!(filter("xa").await.unwrap().as_deref(), Some("xc"));
        assert_eq!(filter("xyz").await.unwrap(), None);
        write(
            &dir.path().join("qemu.d/3"),
            "#!/bin/sh\necho no >&2; exit 3\n",
            0o755,
        );
        let error = filter("xa").await.unwrap_err();
        assert!(error.message.ends_with("exit status 3: no"), "{}", error.message);
        write(
            &dir.path().join("qemu.d/3"),
            "#!/bin/sh\nhead -c 40000000 /dev/zero\n",
            0o755,
        );
        assert!(filter("xa").await.is_err(), "a document without a bound");
    }
}
