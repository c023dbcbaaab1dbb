//! Golden files: what a function gave when somebody last looked at it and found it right.
//! `BLESS=1` writes what it gives now.

use std::path::{Path, PathBuf};

/// Compares `text` with the file at `path`, relative to the package under test. With `BLESS=1` in the
/// environment the file is written instead. When they differ, what came out is left beside the file with
/// `.new` at its end.
///
/// # Panics
/// When the file is missing or differs, with the first lines that do.
#[expect(clippy::panic, reason = "it is how a test fails")]
pub fn check_golden(path: impl AsRef<Path>, text: &str) {
    let file = in_package(path.as_ref());
    if std::env::var_os("BLESS").is_some_and(|value| value != "0") {
        write(&file, text);
        return;
    }
    let wanted = std::fs::read_to_string(&file).unwrap_or_default();
    if wanted == text {
        return;
    }
    let mut beside = file.clone().into_os_string();
    beside.push(".new");
    write(Path::new(&beside), text);
    panic!(
        "{} is not what came out (BLESS=1 to accept):\n{}",
        file.display(),
        difference(&wanted, text)
    );
}

/// The lines where two texts begin to differ, at most ten of each, marked `-` (wanted) and `+` (got).
pub fn difference(wanted: &str, got: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (wanted.lines().collect(), got.lines().collect());
    let same = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[same..], &new[same..]);
    let tail = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let mut out = format!("at line {}\n", same + 1);
    for (mark, lines) in [('-', &old[..old.len() - tail]), ('+', &new[..new.len() - tail])] {
        for line in lines.iter().take(10) {
            out.push_str(&format!("{mark} {line}\n"));
        }
        if lines.len() > 10 {
            out.push_str(&format!("{mark} ... {} more\n", lines.len() - 10));
        }
    }
    out
}

fn in_package(path: &Path) -> PathBuf {
    // cargo sets it for the tests it runs, so it is the caller's package and not this one
    match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(dir) => Path::new(&dir).join(path),
        None => path.to_path_buf(),
    }
}

#[expect(clippy::panic, reason = "it is how a test fails")]
fn write(file: &Path, text: &str) {
    let dir = file.parent().unwrap_or(Path::new("."));
    if let Err(error) = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(file, text)) {
        panic!("{}: {error}", file.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_shows_only_the_lines_that_differ() {
        let text = difference("a\nb\nc\nd\n", "a\nB\nC\nd\n");
        assert_eq!(text, "at line 2\n- b\n- c\n+ B\n+ C\n");
    }

    #[test]
    fn a_missing_golden_file_fails_the_test() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("missing.txt");
        assert!(std::panic::catch_unwind(|| check_golden(&file, "text\n")).is_err());
        assert_eq!(
            std::fs::read_to_string(dir.path().join("missing.txt.new")).unwrap(),
            "text\n"
        );
    }
}
