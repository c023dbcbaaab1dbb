//! Programs of the host that guests need, or that are asked about it: where they are, and short ones run.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use crate::error::{Area, Error, Result};

/// Characters of what a program that failed has said which are told.
const SAID: usize = 500;

/// The program of that name in the directories of `PATH`, then in `more`; a name that is a path is taken as it is. What is
/// found is absolute. May block on files.
pub(crate) fn find(program: &str, more: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(more.iter().map(PathBuf::from));
    dirs.map(|dir| dir.join(program))
        .chain([Path::new(program).to_owned()])
        .find(|file| file.is_absolute() && file.is_file())
}

/// Runs a program to its end, which must come within `deadline`. `purpose` is what needs it, for whoever lacks it.
///
/// # Errors
/// `Internal`: it can't be run, takes too long, or fails; then with its words.
pub(crate) async fn run(program: &str, words: &[&str], deadline: Duration, purpose: &str) -> Result<()> {
    let failed = |what: String| {
        Error::internal(format!("Child process ({program} {}) {what}", words.join(" "))).in_area(Area::None)
    };
    let child = tokio::process::Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(deadline, child).await;
    let output = output.map_err(|_| failed(format!("did not end within {} s", deadline.as_secs())))?;
    let output = output.map_err(|error| {
        failed(format!("can't be run: {error}; {purpose} needs it installed")).caused_by(error)
    })?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let said: String = stderr.chars().take(SAID).collect();
    let status = match output.status.code() {
        Some(code) => format!("exit status {code}"),
        None => output.status.to_string(),
    };
    Err(failed(format!("unexpected {status}: {said}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_by_name_and_by_path() {
        let dir = tempfile::tempdir().unwrap();
        let (file, name) = (dir.path().join("vq-only-here"), "vq-only-here");
        std::fs::write(&file, "").unwrap();
        assert_eq!(find(name, &[]), None);
        assert_eq!(find(name, &[dir.path().to_str().unwrap()]), Some(file.clone()));
        assert_eq!(find(file.to_str().unwrap(), &[]), Some(file));
        assert!(find("sh", &[]).is_some_and(|sh| sh.is_absolute()));
        assert_eq!((find("/vq/absent", &[]), find("", &[])), (None, None));
    }

    #[tokio::test]
    async fn what_a_program_fails_at_is_told() {
        let run = async |words: &[&str]| run("sh", words, Duration::from_secs(20), "a test").await;
        run(&["-c", "true"]).await.unwrap();
        let failed = run(&["-c", "echo no >&2; exit 3"]).await.unwrap_err();
        assert!(
            failed.message.ends_with("unexpected exit status 3: no\n"),
            "{}",
            failed.message
        );
        let absent = super::run("vq-absent", &["x"], Duration::from_secs(20), "a test").await;
        let said = absent.unwrap_err().message;
        assert!(
            said.starts_with("Child process (vq-absent x) can't be run"),
            "{said}"
        );
        let slow = super::run("sleep", &["60"], Duration::from_millis(50), "a test").await;
        assert!(slow.unwrap_err().message.contains("did not end"));
    }
}
