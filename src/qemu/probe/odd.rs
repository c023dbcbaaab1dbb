//! Binaries that hang, crash, talk nonsense, leave something behind or change: each is told of, in bounded time, nothing
//! of it is left, and the next one who asks has it tried again.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use testkit::fake_qemu::program;

use super::*;

/// Short ones: what hangs in a test need not do so for long.
const SHORT: Deadlines = Deadlines {
    exec: Duration::from_secs(150),
    answer: Duration::from_millis(800),
    run: Duration::from_millis(2500),
};
/// Within which a failure is told. A machine whose disk is busy may let a new file wait for minutes; what does not end sleeps
/// for a quarter of an hour.
const BOUND: Duration = Duration::from_secs(200);

/// How a binary misbehaves.
enum Odd {
    /// A script of bash; `$fd` is its monitor.
    Script(&'static str),
    /// The scripted QEMU.
    Fake(Value),
    /// What is no program at all.
    File(&'static str),
}

use Odd::{Fake, File, Script};

fn huge(bytes: usize) -> Value {
    json!({"rules": [{"execute": "query-qmp-schema", "return": "x".repeat(bytes)}]})
}

/// Names, binaries, and a part of what is said of them.
// table: one row a case
fn odd() -> Vec<(&'static str, Odd, &'static str)> {
    const NO_GREETING: &str = "no greeting from QEMU within 800ms";
    let fault = |execute: &str, then: &str| Fake(json!({"rules": [{"execute": execute, "then": then}]}));
    vec![
        (
            "sleeps",
            Script("echo one moment >&2; leave; sleep 1000"),
            "no greeting from QEMU within 800ms: one moment",
        ),
        ("is stopped", Script("kill -STOP $$"), NO_GREETING),
        (
            "ignores signals",
            Script("trap '' TERM INT HUP; leave; while :; do sleep 1; done"),
            NO_GREETING,
        ),
        ("ends silently", Script("exit 0"), "with QMP: "),
        (
            "complains and ends",
            Script("echo 'qemu: no such luck' >&2; exit 3"),
            ": qemu: no such luck",
        ),
        ("crashes", Script("kill -SEGV $$"), "with QMP: "),
        (
            "crashes and leaves a child with its monitor",
            Script("leave; kill -SEGV $$"),
            "with QMP: it exited",
        ),
        (
            "leaves a child in a session of its own",
            Script("leave_far; exit 0"),
            "with QMP: it exited",
        ),
        (
            "greets with garbage",
            Script("echo hello >&$fd; sleep 1000"),
            "hello",
        ),
        ("greets twice", Script("greet; greet; sleep 1000"), "greeting"),
        (
            "prints without end",
            Script("while :; do echo $RANDOM noise; done >&2"),
            NO_GREETING,
        ),
        (
            "talks without end",
            Script("exec cat /dev/zero >&$fd"),
            "with QMP: ",
        ),
        (
            "has events without end",
            Script("greet; while :; do echo '{\"event\": \"X\"}'; done >&$fd"),
            NO_GREETING,
        ),
        ("answers one question", fault("query-kvm", "silent"), "query-kvm"),
        (
            "hangs at a question",
            fault("query-qmp-schema", "hang"),
            "query-qmp-schema",
        ),
        (
            "closes its monitor",
            fault("query-qmp-schema", "eof"),
            "query-qmp-schema",
        ),
        (
            "cuts an answer off",
            fault("query-qmp-schema", "half"),
            "query-qmp-schema",
        ),
        (
            "answers with garbage",
            fault("query-version", "garbage"),
            "no QMP",
        ),
        (
            "ends the second time",
            Fake(json!({"rules": [{"execute": "query-machines", "nth": 1, "then": "eof"}]})),
            "query-machines",
        ),
        (
            "answers too much",
            Fake(huge(9 << 20)),
            "its answers have more than 8 MiB",
        ),
        ("answers a line too long", Fake(huge(11 << 20)), "with QMP: "),
        (
            "says numbers where there are lists",
            Fake(json!({"rules": [{"execute": "query-qmp-schema", "return": 7}]})),
            "query-qmp-schema",
        ),
        (
            "says lists where there are objects",
            Fake(json!({"rules": [{"execute": "query-version", "return": []}]})),
            "query-version",
        ),
        (
            "has no interpreter",
            File("#!/nonexistent/interpreter\n"),
            "No such file or directory",
        ),
        ("is empty", File(""), "Exec format error"),
        ("is text", File("qemu"), "Exec format error"),
    ]
}

const PRELUDE: &str = r#"#!/bin/bash
[[ "$*" =~ ,fd=([0-9]+) ]] && fd=${BASH_REMATCH[1]}
leave() { (exec -a "$0.left" sleep 1000) & }
leave_far() { setsid bash -c 'exec -a "$0.left" sleep 1000' "$0" >/dev/null 2>&1 & sleep 0.2; }
greet() { echo '{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 10}, "package": ""}, "capabilities": []}}' >&$fd; }
"#;

struct Place {
    dir: tempfile::TempDir,
    binary: PathBuf,
}

impl Place {
    fn new(odd: &Odd) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let binary = dir.path().join("qemu-system-x86_64");
        let put = |text: String| {
            fs::write(&binary, text).unwrap();
            fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        };
        match odd {
            Script(text) => put(format!("{PRELUDE}{text}\n")),
            File(text) => put((*text).to_owned()),
            Fake(script) => drop(program::install(dir.path(), script).unwrap()),
        }
        Self { dir, binary }
    }

    fn prober(&self) -> Prober {
        Prober::new(ProberConfig {
            cache: self.dir.path().join("cache"),
            run_as: None,
            deadlines: SHORT,
        })
    }

    /// Makes it an honest one.
    fn mend(&self) {
        if self.binary.is_symlink() || self.binary.exists() {
            fs::remove_file(&self.binary).unwrap();
        }
        program::install(self.dir.path(), &json!({})).unwrap();
    }

    /// Command lines of what runs from here, or was left behind.
    fn left(&self) -> Vec<String> {
        let here = self.dir.path().to_str().unwrap();
        let line = |pid: i32| {
            String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default())
                .into_owned()
        };
        let pids = testkit::process::find(|pid| pid != std::process::id() as i32 && line(pid).contains(here));
        pids.into_iter()
            .map(line)
            .filter(|line| !line.is_empty())
            .collect()
    }

    /// In a moment: who gets an answer need not wait for the end of what gave it.
    async fn is_left_by_all(&self, name: &str) {
        let end = Instant::now() + BOUND;
        while !self.left().is_empty() {
            assert!(Instant::now() < end, "{name}: left running: {:?}", self.left());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn check(name: &str, odd: &Odd, wanted: &str) {
    let place = Place::new(odd);
    let prober = place.prober();
    let begin = Instant::now();
    let error = prober.caps(&place.binary).await.map(drop).expect_err(name);
    assert!(
        begin.elapsed() < BOUND,
        "{name}: told after {:?}",
        begin.elapsed()
    );
    let message = &error.message;
    assert!(
        message.contains(wanted) && message.contains(place.binary.to_str().unwrap()),
        "{name}: {message}"
    );
    assert!(message.len() < 2048, "{name}: {} bytes", message.len());
    place.is_left_by_all(name).await;
    place.mend();
    prober
        .caps(&place.binary)
        .await
        .unwrap_or_else(|error| panic!("{name}: not tried again: {error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_that_misbehaves_is_told_of_and_ended() {
    // Not all at once: those that answer have deadlines too.
    for cases in odd().chunks(4) {
        futures_util::future::join_all(cases.iter().map(|(name, odd, wanted)| check(name, odd, wanted)))
            .await;
    }
}

#[tokio::test]
async fn what_an_honest_binary_leaves_behind_is_ended() {
    let place = Place::new(&Fake(json!({})));
    let honest = place.dir.path().join("honest");
    fs::rename(&place.binary, &honest).unwrap();
    fs::rename(
        place.dir.path().join("qemu-system-x86_64.json"),
        place.dir.path().join("honest.json"),
    )
    .unwrap();
    fs::write(
        &place.binary,
        format!("{PRELUDE}leave; leave_far; exec {} \"$@\"\n", honest.display()),
    )
    .unwrap();
    fs::set_permissions(&place.binary, fs::Permissions::from_mode(0o755)).unwrap();
    place.prober().caps(&place.binary).await.unwrap();
    place.is_left_by_all("honest").await;
}

#[tokio::test]
async fn a_binary_that_changes_meanwhile_is_not_believed() {
    let place = Place::new(&Fake(
        json!({"rules": [{"execute": "query-version", "delay_ms": 300}]}),
    ));
    let prober = place.prober();
    let replace = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        place.mend();
        let copy = fs::canonicalize(&place.binary).unwrap();
        fs::remove_file(&place.binary).unwrap();
        fs::copy(copy, &place.binary).unwrap();
    };
    let (answer, ()) = tokio::join!(prober.caps(&place.binary), replace);
    let error = answer.map(drop).unwrap_err();
    assert_eq!(
        error.message,
        format!(
            "QEMU binary {} changed while it was probed",
            place.binary.display()
        )
    );
    prober.caps(&place.binary).await.unwrap();
}

#[tokio::test]
async fn who_may_not_run_it_says_so() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let place = Place::new(&Fake(json!({})));
    let nobody = RunAs {
        uid: 65534,
        gid: 65534,
        groups: Vec::new(),
    };
    let config = ProberConfig {
        cache: place.dir.path().join("cache"),
        run_as: Some(nobody),
        deadlines: SHORT,
    };
    fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let error = Prober::new(config)
        .caps(&place.binary)
        .await
        .map(drop)
        .unwrap_err();
    assert!(
        error.message.contains("exec: Permission denied"),
        "{}",
        error.message
    );
    let error = place.prober().caps(place.dir.path()).await.map(drop).unwrap_err();
    assert!(
        error.message.ends_with("is not executable: Is a directory"),
        "{}",
        error.message
    );
}
