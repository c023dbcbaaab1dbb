//! What scripts are called with, in which order, and how a failure is told. Pure.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use qemu_plan::command::shell_quote;

/// What stands for an argument that there is nothing to say in.
const NOTHING: &str = "-";
/// Variables that scripts get as the daemon has them, in libvirt's order.
const PASSED: &[&str] = &[
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
];

/// Whose scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// The daemon's.
    Daemon,
    /// Those of guests.
    Qemu,
}

impl Script {
    /// All of them.
    pub(super) const ALL: [Self; 2] = [Self::Daemon, Self::Qemu];

    /// The name of the script, and of the directory of more of them without its `.d`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Qemu => "qemu",
        }
    }

    pub(super) fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// When scripts are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A guest is to be started; nothing was done for it yet.
    Prepare,
    /// All that the guest needs of the host is there; QEMU is about to be executed.
    Start,
    /// The guest runs.
    Started,
    /// QEMU is gone; what the guest had of the host is there still.
    Stopped,
    /// All was given back; why the run ended.
    Release(&'static str),
    /// A daemon that started has taken the guest over.
    Reconnect,
    /// The guest is to go on from the image of a save; scripts may give it another document.
    Restore,
    /// The daemon starts.
    DaemonStart,
    /// The daemon reads its configuration anew.
    DaemonReload,
    /// The daemon ends.
    DaemonShutdown,
}

impl Operation {
    /// Whose scripts are called.
    pub(super) fn script(self) -> Script {
        match self {
            Self::DaemonStart | Self::DaemonReload | Self::DaemonShutdown => Script::Daemon,
            _ => Script::Qemu,
        }
    }

    /// The three arguments after the object's name.
    fn words(self) -> [&'static str; 3] {
        match self {
            Self::Prepare => ["prepare", "begin", NOTHING],
            Self::Start => ["start", "begin", NOTHING],
            Self::Started => ["started", "begin", NOTHING],
            Self::Stopped => ["stopped", "end", NOTHING],
            Self::Release(reason) => ["release", "end", reason],
            Self::Reconnect => ["reconnect", "begin", NOTHING],
            Self::Restore => ["restore", "begin", NOTHING],
            Self::DaemonStart => ["start", NOTHING, "start"],
            Self::DaemonReload => ["reload", "begin", "SIGHUP"],
            Self::DaemonShutdown => ["shutdown", NOTHING, "shutdown"],
        }
    }
}

/// One call of scripts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) operation: Operation,
    pub(super) args: [String; 4],
}

impl Call {
    /// About a guest, or about the daemon, which has no name.
    pub(super) fn new(guest: Option<&str>, operation: Operation) -> Self {
        let [first, second, third] = operation.words();
        let words = [guest.unwrap_or(NOTHING), first, second, third];
        Self {
            operation,
            args: words.map(str::to_owned),
        }
    }
}

/// The directory of further scripts beside `script`.
pub(super) fn directory(script: &Path) -> PathBuf {
    let mut name = script.as_os_str().to_owned();
    name.push(".d");
    name.into()
}

/// The order in which scripts run: the one, then those of its directory by their names' bytes.
pub(super) fn in_order(script: &Path, mut names: Vec<OsString>) -> Vec<PathBuf> {
    names.sort_unstable();
    let directory = directory(script);
    let others = names.iter().map(|name| directory.join(name));
    std::iter::once(script.to_owned()).chain(others).collect()
}

/// The whole environment of a script; `variable` reads the daemon's.
pub(super) fn environment(variable: impl Fn(&str) -> Option<OsString>) -> Vec<(&'static str, OsString)> {
    let passed = PASSED.iter().filter_map(|name| Some((*name, variable(name)?)));
    std::iter::once(("LC_ALL", "C".into())).chain(passed).collect()
}

/// How a script ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By itself, with this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Status(code),
            (None, signal) => Self::Signal(signal.unwrap_or(0)),
        }
    }
}

impl End {
    /// That of one that could not be executed, as shells tell it.
    pub(super) fn not_executed(error: &io::Error) -> Self {
        Self::Status(if error.kind() == io::ErrorKind::NotFound {
            127
        } else {
            126
        })
    }
}

/// How a script that did not succeed is told of, in libvirt's words.
pub(super) fn failure(
    program: &Path,
    call: &Call,
    environment: &[(&'static str, OsString)],
    (end, said): (End, &str),
) -> String {
    let text = |word: &OsStr| shell_quote(&word.to_string_lossy());
    let variables = environment
        .iter()
        .map(|(name, value)| format!("{name}={}", text(value)));
    let args = call.args.iter().map(|arg| shell_quote(arg));
    let words: Vec<_> = variables.chain([text(program.as_os_str())]).chain(args).collect();
    let ended = match end {
        End::Status(status) => format!("exit status {status}"),
        End::Signal(signal) => format!("fatal signal {signal}"),
    };
    let said = match said.trim_end() {
        "" => String::new(),
        said => format!(": {said}"),
    };
    format!("Child process ({}) unexpected {ended}{said}", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_libvirts() {
        let table = [
            (Operation::Prepare, "g prepare begin -"),
            (Operation::Start, "g start begin -"),
            (Operation::Started, "g started begin -"),
            (Operation::Stopped, "g stopped end -"),
            (Operation::Release("destroyed"), "g release end destroyed"),
            (Operation::Reconnect, "g reconnect begin -"),
            (Operation::Restore, "g restore begin -"),
        ];
        for (operation, args) in table {
            assert_eq!(Call::new(Some("g"), operation).args.join(" "), args);
            assert_eq!(operation.script(), Script::Qemu);
        }
        let table = [
            (Operation::DaemonStart, "- start - start"),
            (Operation::DaemonReload, "- reload begin SIGHUP"),
            (Operation::DaemonShutdown, "- shutdown - shutdown"),
        ];
        for (operation, args) in table {
            assert_eq!(Call::new(None, operation).args.join(" "), args);
            assert_eq!(operation.script(), Script::Daemon);
        }
    }

    #[test]
    fn the_script_comes_first_and_its_directory_by_bytes() {
        let names = ["b", "a", "B", "10", "9", ".hidden"].map(OsString::from).to_vec();
        let order = in_order(Path::new("/h/qemu"), names);
        let order: Vec<_> = order.iter().map(|path| path.to_str().unwrap()).collect();
        let names = [
            "qemu",
            "qemu.d/.hidden",
            "qemu.d/10",
            "qemu.d/9",
            "qemu.d/B",
            "qemu.d/a",
            "qemu.d/b",
        ];
        assert_eq!(order, names.map(|name| format!("/h/{name}")));
    }

    #[test]
    fn a_failure_names_the_whole_command() {
        let variable = |name: &str| (name == "HOME").then(|| "/a b".into());
        let environment = environment(variable);
        let call = Call::new(Some("it's"), Operation::Prepare);
        let told = |end, said| failure(Path::new("/h/qemu"), &call, &environment, (end, said));
        let begin = r"Child process (LC_ALL=C HOME='/a b' /h/qemu 'it'\''s' prepare begin -) unexpected ";
        assert_eq!(
            told(End::Status(3), "no\nway\n"),
            format!("{begin}exit status 3: no\nway")
        );
        assert_eq!(told(End::Status(1), "\n"), format!("{begin}exit status 1"));
        assert_eq!(told(End::Signal(9), ""), format!("{begin}fatal signal 9"));
    }
}
