//! virt-admin on our daemon and on libvirt's own: the same commands, the same answers.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::client::{Answer, run};
use testkit::golden::difference;
use testkit::place::program;
use testkit::{Daemon, Sandbox, libvirtd, skip, wait_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use wire::client::Client;
use wire::xdr::{Reader, Xdr};
use wire::{WireError, admin};

const LIMIT: Duration = Duration::from_secs(30);

/// A daemon under test, and what virt-admin calls it.
pub(crate) struct Side {
    pub(crate) sandbox: Sandbox,
    /// Name of its server for guests.
    pub(crate) name: &'static str,
    socket: &'static str,
}

impl Side {
    pub(crate) fn ours() -> Result<Self> {
        Self::run(Daemon::virtqemud(env!("CARGO_BIN_EXE_virtqemud")))
    }

    /// Ours, in a way of its own.
    pub(crate) fn run(daemon: Daemon) -> Result<Self> {
        Ok(Self {
            sandbox: Sandbox::started(daemon)?,
            name: "virtqemud",
            socket: "/run/libvirt/virtqemud-admin-sock",
        })
    }

    fn theirs(daemon: Daemon) -> Result<Self> {
        Ok(Self {
            sandbox: Sandbox::started(daemon)?,
            name: "libvirtd",
            socket: "/run/libvirt/libvirt-admin-sock",
        })
    }

    pub(crate) fn admin_socket(&self) -> std::path::PathBuf {
        self.sandbox.path(self.socket)
    }

    fn uri(&self) -> String {
        format!("{}:///system?socket={}", self.name, self.admin_socket().display())
    }

    /// Runs virt-admin; `SERVER` stands for the server's name, `DIR` for the sandbox, `URI` for the daemon's.
    pub(crate) fn admin(&self, args: &[&str]) -> Result<Answer> {
        run(self.command(args)?, LIMIT).with_context(|| format!("virt-admin {}", args.join(" ")))
    }

    fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(program("virt-admin").context("virt-admin is not installed")?);
        let dir = self.sandbox.dir().to_string_lossy();
        let words = args.iter().map(|word| match *word {
            "SERVER" => self.name.to_owned(),
            "URI" => self.uri(),
            word => word.replace("DIR", &dir),
        });
        command
            .args(["--connect", &self.uri()])
            .args(words)
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC");
        Ok(command)
    }

    /// A command that must succeed; its output.
    pub(crate) fn ok(&self, args: &[&str]) -> Result<String> {
        let answer = self.admin(args)?;
        ensure!(answer.success(), "{args:?}: {}", answer.stderr.trim());
        Ok(answer.stdout)
    }

    /// A command that must be refused; the last line of the message.
    pub(crate) fn refused(&self, args: &[&str]) -> Result<String> {
        let answer = self.admin(args)?;
        ensure!(!answer.success(), "{args:?} succeeded: {}", answer.stdout.trim());
        Ok(answer.stderr.trim().lines().last().unwrap_or_default().to_owned())
    }

    /// What a command answers, without what must differ: names of servers, paths, times, widths of columns.
    fn transcript(&self, args: &[&str]) -> Result<String> {
        let Answer {
            status,
            stdout,
            stderr,
        } = self.admin(args)?;
        let text = format!("status {status:?}\n{stdout}\n{stderr}")
            .replace(&self.uri(), "URI")
            .replace(&*self.sandbox.dir().to_string_lossy(), "DIR")
            .replace(self.name, "SERVER");
        Ok(text.lines().map(plain).collect::<Vec<_>>().join("\n"))
    }
}

/// A line without times and rules.
fn plain(line: &str) -> String {
    let line = line.trim_end_matches('-');
    let is_time = |word: &&str| word.len() == 10 && word.matches('-').count() == 2;
    match line.split_whitespace().find(is_time) {
        Some(date) => line.split(date).next().unwrap_or_default().to_owned() + "TIME",
        None => line.to_owned(),
    }
}

/// `key: number` lines without their numbers.
fn without_numbers(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| line.split(':').next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// Both daemons, or none with the test noted as skipped.
fn both() -> Result<Option<[Side; 2]>> {
    let Some(daemon) = libvirtd() else {
        return Ok(None);
    };
    if program("virt-admin").is_none() || !nix::unistd::geteuid().is_root() {
        skip("virt-admin is not installed, or this is not root");
        return Ok(None);
    }
    Ok(Some([Side::ours()?, Side::theirs(daemon)?]))
}

/// Numbers of workers are those of the daemon's own making: compared are their names.
const COUNTS: &[&[&str]] = &[
    &["srv-threadpool-info", "SERVER"],
    &["server-threadpool-info", "admin"],
];

/// Commands whose answers must be the same, word for word.
const COMMANDS: &[&[&str]] = &[
    &["uri"],
    &["version"],
    &["srv-list"],
    &["server-list"],
    &["list"],
    &["srv-clients-info", "SERVER"],
    &["srv-clients-info", "admin"],
    &["srv-threadpool-info", "nope"],
    &["srv-clients-info", "nope"],
    &["srv-threadpool-info"],
    &[
        "srv-threadpool-set",
        "SERVER",
        "--min-workers",
        "6",
        "--max-workers",
        "22",
        "--priority-workers",
        "7",
    ],
    &["srv-threadpool-info", "SERVER"],
    &["srv-threadpool-set", "SERVER", "--min-workers", "30"],
    &["srv-threadpool-set", "SERVER", "--max-workers", "0"],
    &["srv-threadpool-set", "SERVER", "--max-workers", "3"],
    &["srv-threadpool-info", "SERVER"],
    &["srv-threadpool-set", "SERVER"],
    &["srv-threadpool-set", "nope", "--max-workers", "30"],
    &["srv-threadpool-set", "SERVER", "--max-workers", "-1"],
    &["srv-threadpool-set", "SERVER", "--max-workers", "abc"],
    &["srv-threadpool-set", "SERVER", "--max-workers", "99999"],
    &[
        "srv-threadpool-set",
        "SERVER",
        "--min-workers",
        "5",
        "--max-workers",
        "20",
        "--priority-workers",
        "5",
    ],
    &[
        "srv-threadpool-set",
        "admin",
        "--min-workers",
        "2",
        "--max-workers",
        "3",
        "--priority-workers",
        "1",
    ],
    &[
        "srv-clients-set",
        "SERVER",
        "--max-clients",
        "100",
        "--max-unauth-clients",
        "10",
    ],
    &["srv-clients-info", "SERVER"],
    &["srv-clients-set", "SERVER", "--max-clients", "5"],
    &["srv-clients-set", "SERVER", "--max-unauth-clients", "200"],
    &["srv-clients-set", "SERVER"],
    &["srv-clients-set", "SERVER", "--max-clients", "0"],
    &["srv-clients-info", "SERVER"],
    &["srv-clients-set", "nope", "--max-clients", "20"],
    &[
        "srv-clients-set",
        "SERVER",
        "--max-clients",
        "5000",
        "--max-unauth-clients",
        "20",
    ],
    &[
        "srv-clients-set",
        "admin",
        "--max-clients",
        "9",
        "--max-unauth-clients",
        "8",
    ],
    &["srv-clients-info", "admin"],
    &["client-list", "SERVER"],
    &["client-list", "admin"],
    &["client-list", "nope"],
    &["srv-clients-list", "SERVER"],
    &["client-info", "SERVER", "2"],
    &["client-info", "SERVER", "9999"],
    &["client-info", "nope", "1"],
    &["client-info", "admin", "1"],
    &["client-info", "SERVER", "abc"],
    &["client-disconnect", "SERVER", "2"],
    &["client-list", "SERVER"],
    &["client-disconnect", "SERVER", "9999"],
    &["client-disconnect", "SERVER", "2"],
    &["daemon-log-filters"],
    &["daemon-log-outputs"],
    &["dmn-log-info"],
    &["daemon-log-filters", "3:qemu 4:event"],
    &["daemon-log-filters"],
    &["daemon-log-filters", "3:*qemu* 1:a*b 2:+plus 4:?x"],
    &["daemon-log-filters"],
    &["daemon-log-filters", ""],
    &["daemon-log-filters"],
    &["daemon-log-filters", "9:qemu"],
    &["daemon-log-filters", "0:qemu"],
    &["daemon-log-filters", "qemu"],
    &["daemon-log-filters", ":"],
    &["daemon-log-filters", "x:y"],
    &["daemon-log-filters", "3qemu"],
    &["daemon-log-filters", "1:"],
    &["daemon-log-filters", "9:"],
    &["daemon-log-filters", "3:qemu 9:x"],
    &["daemon-log-filters"],
    &["daemon-log-filters", "3:qemu   4:qemu 1:x"],
    &["daemon-log-filters"],
    &["daemon-log-filters", ""],
    &["daemon-log-outputs", "1:file:DIR/adm.log 3:stderr"],
    &["daemon-log-outputs"],
    &[
        "daemon-log-outputs",
        "1:file:DIR/adm.log 3:file:DIR/adm.log 2:stderr 4:stderr",
    ],
    &["daemon-log-outputs"],
    &["daemon-log-outputs", "3:nope"],
    &["daemon-log-outputs", "3:file"],
    &["daemon-log-outputs", "3:file:"],
    &["daemon-log-outputs", "3:file:/nonexistent/x"],
    &["daemon-log-outputs", "3:file:DIR"],
    &["daemon-log-outputs", "3:syslog"],
    &["daemon-log-outputs", "3:syslog:"],
    &["daemon-log-outputs", "3:stderr:x"],
    &["daemon-log-outputs", "stderr"],
    &["daemon-log-outputs", "3:"],
    &["daemon-log-outputs", "9:nope"],
    &["daemon-log-outputs"],
    &["daemon-log-outputs", ""],
    &["daemon-log-outputs"],
    &["daemon-log-outputs", "3:journald"],
    &["daemon-log-outputs"],
    &["daemon-log-outputs", "9:stderr"],
    &["daemon-log-outputs", "3:syslog:x"],
    &["daemon-log-outputs"],
    &["dmn-log-outputs", "3:stderr"],
    &["daemon-timeout"],
    &["daemon-timeout", "--timeout", "600"],
    &["daemon-timeout", "600"],
    &["daemon-timeout", "0"],
    &["daemon-timeout", "-1"],
    &["daemon-timeout", "abc"],
    &["daemon-timeout", "4294967295"],
    &["daemon-timeout", "0"],
    &["srv-update-tls", "SERVER"],
    &["server-update-tls", "admin"],
    &["srv-update-tls", "nope"],
    &["connect", "URI"],
    &["connect", "nope:///system"],
    &["connect", "SERVER+tcp:///system"],
    &["cd", "/tmp"],
    &["pwd"],
    &["echo", "x"],
    &["self-test"],
    &["quit"],
    &["foo"],
];

#[tokio::test(flavor = "multi_thread")]
async fn virt_admin_says_what_it_says_of_libvirts_daemon() -> Result<()> {
    let Some(sides) = both()? else {
        return Ok(());
    };
    let mut clients = Vec::new();
    for side in &sides {
        clients.push(Client::open(&side.sandbox.socket(), "qemu:///system").await?);
        // The sandbox's look whether the socket is there had the first number.
        let list = side.ok(&["client-list", "SERVER"])?;
        ensure!(list.contains("\n 2    unix"), "{list}");
    }
    let mut differences = Vec::new();
    for args in COUNTS {
        let [ours, theirs] = [&sides[0], &sides[1]].map(|side| side.transcript(args));
        let (ours, theirs) = (without_numbers(&ours?), without_numbers(&theirs?));
        if ours != theirs {
            differences.push(format!("{args:?} {}", difference(&theirs, &ours)));
        }
    }
    for args in COMMANDS {
        let [ours, theirs] = [&sides[0], &sides[1]].map(|side| side.transcript(args));
        let (mut ours, mut theirs) = (ours?, theirs?);
        if matches!(args, ["srv-list" | "server-list", ..]) {
            (ours, theirs) = (in_order(&ours), in_order(&theirs));
        }
        if ours != theirs {
            differences.push(format!("{args:?} {}", difference(&theirs, &ours)));
        }
    }
    for side in &sides {
        // The daemon may end before it has answered.
        side.admin(&["daemon-shutdown"])?;
        let gone = || (!side.sandbox.pid().is_some_and(alive)).then_some(());
        wait_for("the daemon's end", LIMIT, gone)?;
    }
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

/// Lines without their numbers, sorted: libvirt's daemon lists its servers in another order each time it runs.
fn in_order(text: &str) -> String {
    let digits = |c: char| c.is_ascii_digit() || c == ' ';
    let mut lines: Vec<_> = text.lines().map(|line| line.trim_start_matches(digits)).collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// Whether a process runs: one that nobody has waited for does not.
fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !matches!(stat.rsplit(") ").next(), None | Some("")) && !stat.contains(") Z")
}

/// A call of the administration program, or of another, with arguments as bytes.
#[derive(Clone)]
struct Raw {
    what: &'static str,
    words: [u32; 3],
    args: Vec<u8>,
}

const PROGRAM: u32 = admin::PROGRAM_NUMBER;

fn raw(what: &'static str, procedure: u32, args: Vec<u8>) -> Raw {
    Raw {
        what,
        words: [PROGRAM, 1, procedure],
        args,
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn text(text: &[u8]) -> Vec<u8> {
    let mut out = words(&[u32::try_from(text.len()).unwrap_or(u32::MAX)]);
    out.extend(text);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// A typed parameter: name, type, value.
fn param(name: &str, kind: u32, value: &[u32]) -> Vec<u8> {
    [text(name.as_bytes()), words(&[kind]), words(value)].concat()
}

/// Sets of server "admin": how many parameters are said to come, those that come, flags.
fn set(count: u32, params: &[Vec<u8>], flags: u32) -> Vec<u8> {
    [text(b"admin"), words(&[count]), params.concat(), words(&[flags])].concat()
}

fn of_admin(more: &[u32]) -> Vec<u8> {
    [text(b"admin"), words(more)].concat()
}

fn client(id: u32, flags: u32) -> Vec<u8> {
    of_admin(&[0, id, 0, 0, 0, flags])
}

// table: a line a call
fn odd_calls() -> Vec<Raw> {
    let workers = |value| param("maxWorkers", 2, &[value]);
    let many: Vec<_> = (0..33).map(|_| workers(20)).collect();
    let mut calls = vec![
        raw("open with a flag", 1, words(&[1])),
        raw("version", 3, vec![]),
        raw("servers with a flag", 4, words(&[1, 1])),
        raw("servers, only counted", 4, words(&[0, 0])),
        raw("servers without arguments", 4, vec![]),
        raw("servers and more", 4, words(&[0, 0, 7])),
        raw("lookup with a flag", 5, of_admin(&[1])),
        raw("lookup", 5, of_admin(&[0])),
        raw("lookup of nothing", 5, [text(b""), words(&[0])].concat()),
        raw(
            "lookup of an odd name",
            5,
            [text(b"a\0b\xff"), words(&[0])].concat(),
        ),
        raw("lookup of a name that does not come", 5, words(&[0x7fff_ffff, 0])),
        raw(
            "lookup of a name beyond the limit",
            5,
            text(&vec![b'x'; 4_194_305]),
        ),
        raw("workers with a flag", 6, of_admin(&[1])),
        raw(
            "workers of nothing with a flag",
            6,
            [text(b"no"), words(&[1])].concat(),
        ),
        raw("set workers with a flag", 7, set(1, &[workers(20)], 1)),
        raw("set no workers", 7, set(0, &[], 0)),
        raw("set unknown workers", 7, set(1, &[param("nope", 2, &[1])], 0)),
        raw("set counted workers", 7, set(1, &[param("nWorkers", 2, &[1])], 0)),
        raw(
            "set workers of another type",
            7,
            set(1, &[param("maxWorkers", 1, &[9])], 0),
        ),
        raw("set workers twice", 7, set(2, &[workers(20), workers(21)], 0)),
        raw(
            "set workers of no type",
            7,
            set(1, &[param("maxWorkers", 9, &[9])], 0),
        ),
        raw("set 33 workers", 7, set(33, &many, 0)),
        raw(
            "set workers that do not come",
            7,
            set(0xffff_ffff, &[workers(20)], 0),
        ),
        raw(
            "set workers of a long name",
            7,
            set(1, &[param(&"x".repeat(100), 2, &[1])], 0),
        ),
        raw("clients with a flag", 8, of_admin(&[1, 1])),
        raw("lookup of a client with a flag", 9, of_admin(&[0, 9999, 1])),
        raw("lookup of no client", 9, of_admin(&[0, 9999, 0])),
        raw("lookup of client 0", 9, of_admin(&[0, 0, 0])),
        raw("info of no client with a flag", 10, client(9999, 1)),
        raw("info of no client", 10, client(9999, 0)),
        raw("close of no client with a flag", 11, client(9999, 1)),
        raw("close of no client", 11, client(9999, 0)),
        raw("limits with a flag", 12, of_admin(&[1])),
        raw(
            "set limits with a flag",
            13,
            set(1, &[param("nclients_max", 2, &[50])], 1),
        ),
        raw(
            "set unknown limits",
            13,
            set(1, &[param("nclients", 2, &[50])], 0),
        ),
        raw(
            "set limits of another type",
            13,
            set(1, &[param("nclients_max", 4, &[0, 50])], 0),
        ),
        raw("set no limits", 13, set(0, &[], 0)),
        raw("outputs with a flag", 14, words(&[1])),
        raw("filters with a flag", 15, words(&[1])),
        raw("set outputs with a flag", 16, words(&[0, 1])),
        raw("set filters with a flag", 17, words(&[0, 1])),
        raw("set no filters", 17, words(&[0, 0])),
        raw("set no outputs", 16, words(&[0, 0])),
        raw("tls with a flag", 18, of_admin(&[1])),
        raw(
            "tls of nothing with a flag",
            18,
            [text(b"no"), words(&[1])].concat(),
        ),
        raw("timeout with a flag", 19, words(&[5, 1])),
        raw("shutdown with a flag", 20, words(&[2])),
        raw("procedure 0", 0, vec![]),
        raw("procedure 21", 21, vec![]),
        raw("procedure -1", 0xffff_ffff, vec![]),
    ];
    let other = |what, words| Raw {
        what,
        words,
        args: vec![],
    };
    calls.push(other("another version", [PROGRAM, 2, 3]));
    calls.push(other(
        "the program of guests",
        [wire::remote::PROGRAM_NUMBER, 1, 66],
    ));
    calls.push(other("no program", [7, 1, 1]));
    calls
}

/// Makes a call on a new connection, opened or not; the answer's status and its bytes, or the error, or that it hangs up.
async fn exchange(socket: &Path, opened: bool, call: &Raw) -> Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    if opened {
        let open = packet([PROGRAM, 1, 1], &words(&[0]));
        stream.write_all(&open).await?;
        receive(&mut stream).await?;
    }
    // Who hangs up does not read all of it.
    let _ = stream.write_all(&packet(call.words, &call.args)).await;
    Ok(receive(&mut stream)
        .await
        .unwrap_or_else(|_| "hung up".to_owned()))
}

fn packet([program, version, procedure]: [u32; 3], args: &[u8]) -> Vec<u8> {
    let len = u32::try_from(28 + args.len()).unwrap_or(u32::MAX);
    let head = words(&[len, program, version, procedure, 0, 1, 0]);
    [head, args.to_vec()].concat()
}

async fn receive(stream: &mut UnixStream) -> Result<String> {
    let receiving = async {
        let len = stream.read_u32().await?;
        let mut body = vec![0; usize::try_from(len)?.saturating_sub(4)];
        stream.read_exact(&mut body).await?;
        anyhow::Ok(body)
    };
    let body = tokio::time::timeout(LIMIT, receiving).await??;
    let (head, payload) = body.split_at_checked(24).context("short")?;
    if head.ends_with(&[0, 0, 0, 0]) {
        return Ok(format!("ok {payload:?}"));
    }
    let error = WireError::decode(&mut Reader::new(payload))?;
    Ok(format!("error {error:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_calls_are_answered_as_libvirts_daemon_answers_them() -> Result<()> {
    let Some(sides) = both()? else {
        return Ok(());
    };
    let mut differences = Vec::new();
    for opened in [true, false] {
        for call in odd_calls() {
            let mut answers = Vec::new();
            for side in &sides {
                answers.push(exchange(&side.admin_socket(), opened, &call).await?);
            }
            if answers[0] != answers[1] {
                let [ours, theirs] = [&answers[0], &answers[1]];
                let what = call.what;
                differences.push(format!(
                    "{what} (opened: {opened})\n  ours   {ours}\n  theirs {theirs}"
                ));
            }
        }
    }
    for side in &sides {
        side.ok(&["server-list"])?;
    }
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

#[test]
fn another_user_is_turned_away_as_by_libvirts_daemon() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let Some(sides) = both()? else {
        return Ok(());
    };
    for side in &sides {
        std::fs::set_permissions(side.admin_socket(), PermissionsExt::from_mode(0o777))?;
        let as_nobody = side.command(&["server-list"])?;
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(as_nobody.get_program())
            .args(as_nobody.get_args());
        command.env("HOME", "/nonexistent").env("LC_ALL", "C.UTF-8");
        let answer = run(command, LIMIT)?;
        ensure!(!answer.success(), "{}", answer.stdout);
        // The connection is closed while the client still writes: what it says of that, if anything, is a matter of time.
        let told = answer.stdout + &answer.stderr;
        ensure!(!told.contains(side.name), "{}: {told}", side.name);
        side.ok(&["server-list"])?;
    }
    Ok(())
}
