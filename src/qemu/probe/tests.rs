//! Probing a fake QEMU that replays a real one's answers, and each way a binary can fail.

use std::fs;
use std::time::{Duration, Instant};

use qemu_plan::caps::{Accel, Flag};
use serde_json::{Value, json};
use testkit::fake_qemu::program;

use super::*;

struct Place {
    dir: tempfile::TempDir,
    binary: PathBuf,
}

impl Place {
    /// Every launch is noted in `asked`.
    fn new(mut script: Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        script["record"] = json!(dir.path().join("asked"));
        let binary = program::install(dir.path(), &script).unwrap();
        Self { dir, binary }
    }

    fn prober(&self) -> Prober {
        Prober::new(ProberConfig {
            cache: self.cache(),
            run_as: None,
            deadlines: Deadlines::default(),
        })
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache/virtqemud-caps")
    }

    fn launches(&self) -> usize {
        let asked = fs::read_to_string(self.dir.path().join("asked")).unwrap_or_default();
        asked
            .lines()
            .filter(|line| line.starts_with("{\"launch\""))
            .count()
    }

    fn cached(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.cache())
            .unwrap()
            .map(|entry| entry.unwrap().path());
        files
            .filter(|path| path.extension().is_some_and(|ext| ext == "json"))
            .collect()
    }

    async fn fails(&self) -> String {
        let error = self.prober().caps(&self.binary).await.map(drop).unwrap_err();
        let pid = fs::read_dir(self.cache())
            .unwrap()
            .map(|entry| entry.unwrap().path());
        for path in pid.filter(|path| path.extension().is_some_and(|ext| ext == "pid")) {
            let end = Instant::now() + Duration::from_secs(10);
            while unixfd::lock_holder(&path).unwrap().is_some() {
                assert!(Instant::now() < end, "something is left running");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        error.message.into_owned()
    }
}

#[tokio::test]
async fn a_binary_is_asked_once_however_many_ask_and_whoever_restarts() {
    let place = Place::new(json!({}));
    let prober = Arc::new(place.prober());
    let asks = (0..20).map(|_| {
        let (prober, binary) = (Arc::clone(&prober), place.binary.clone());
        tokio::spawn(async move { prober.caps(&binary).await.unwrap() })
    });
    let asks: Vec<_> = asks.collect();
    for ask in asks {
        let caps = ask.await.unwrap();
        assert_eq!((caps.version(), caps.arch()), (10_000_002, "x86_64"));
        assert!(caps.has(Flag::Kvm) && caps.accel(Accel::Tcg).is_some());
    }
    assert_eq!(place.launches(), 2, "one with KVM, one without");
    let caps = place.prober().caps(&place.binary).await.unwrap();
    assert_eq!(caps.flags(), prober.caps(&place.binary).await.unwrap().flags());
    assert_eq!(place.launches(), 2, "a new daemon finds it in the cache");
}

/// A user who came into a group may use what he could not, KVM say.
#[tokio::test]
async fn a_binary_is_asked_again_for_a_user_of_other_groups() {
    if !nix::unistd::geteuid().is_root() {
        testkit::skip("only root's daemon runs QEMU as somebody");
        return;
    }
    let place = Place::new(json!({}));
    let (uid, gid) = (0, 0);
    let mut launches = Vec::new();
    for groups in [vec![0], vec![0], vec![0, 65534]] {
        let config = ProberConfig {
            cache: place.cache(),
            run_as: Some(RunAs { uid, gid, groups }),
            deadlines: Deadlines::default(),
        };
        Prober::new(config).caps(&place.binary).await.unwrap();
        launches.push(place.launches());
    }
    assert_eq!(launches, [2, 2, 4]);
}

#[tokio::test]
async fn what_is_asked_is_what_the_tables_want() {
    let place = Place::new(json!({}));
    place.prober().caps(&place.binary).await.unwrap();
    let asked = program::read_record(&place.dir.path().join("asked")).unwrap();
    let again = asked
        .iter()
        .filter(|asked| asked.execute == "query-cpu-definitions")
        .count();
    assert_eq!(again, 2);
    assert!(asked.len() > 45, "{}", asked.len());
}

#[tokio::test]
async fn a_replaced_binary_and_a_broken_cache_are_asked_again() {
    let place = Place::new(json!({}));
    let prober = place.prober();
    prober.caps(&place.binary).await.unwrap();
    for (round, damage) in [
        "",
        "{",
        "{\"format\":1}",
        "{\"format\":99,\"identity\":1,\"replies\":{}}",
    ]
    .iter()
    .enumerate()
    {
        for path in place.cached() {
            fs::write(path, damage).unwrap();
        }
        place.prober().caps(&place.binary).await.unwrap();
        assert_eq!(place.launches(), 4 + 2 * round, "{damage}");
    }
    let launches = place.launches();
    // The link's target is another file now, of the same content.
    let target = fs::canonicalize(&place.binary).unwrap();
    fs::remove_file(&place.binary).unwrap();
    fs::copy(target, &place.binary).unwrap();
    tokio::time::sleep(TRUSTED).await;
    prober.caps(&place.binary).await.unwrap();
    assert_eq!(place.launches(), launches + 2);
}

#[tokio::test]
async fn a_failing_binary_says_why_and_may_try_again() {
    let crash = json!({"start": {"stderr": "qemu: could not open module\n", "exit": 1}});
    let words = Place::new(crash).fails().await;
    assert!(
        words.starts_with("Failed to probe QEMU binary /")
            && words.ends_with(": qemu: could not open module"),
        "{words}"
    );
    let eof = json!({"rules": [{"execute": "query-qmp-schema", "then": "eof"}]});
    assert!(Place::new(eof).fails().await.contains("query-qmp-schema"));
    let garbage = json!({"rules": [{"execute": "query-version", "then": "garbage"}]});
    assert!(Place::new(garbage).fails().await.contains("no QMP"));
    let old = json!({"rules": [{"execute": "query-version",
                                "return": {"qemu": {"major": 5, "minor": 2, "micro": 0}, "package": ""}}]});
    let old = Place::new(old);
    assert!(old.fails().await.contains("QEMU version >= 6.2.0 is required"));
    let prober = old.prober();
    prober.caps(&old.binary).await.unwrap_err();
    program::install(old.dir.path(), &json!({})).unwrap();
    prober.caps(&old.binary).await.unwrap();
}

#[tokio::test]
async fn a_binary_that_is_none_is_told_without_running_it() {
    let place = Place::new(json!({}));
    let prober = place.prober();
    let error = prober.caps(Path::new("/nonexistent/qemu")).await.unwrap_err();
    assert_eq!(
        error.message,
        "Cannot check QEMU binary /nonexistent/qemu: No such file or directory"
    );
    let error = prober.caps(Path::new("/etc/passwd")).await.unwrap_err();
    assert_eq!(
        error.message,
        "QEMU binary /etc/passwd is not executable: Permission denied"
    );
}

#[tokio::test]
async fn a_probe_outlives_who_began_it_and_what_a_killed_daemon_left_is_ended() {
    let place = Place::new(json!({"rules": [{"execute": "query-version", "delay_ms": 300}]}));
    let prober = place.prober();
    let impatient = tokio::time::timeout(Duration::from_millis(100), prober.caps(&place.binary));
    assert!(impatient.await.is_err());
    prober.caps(&place.binary).await.unwrap();
    assert_eq!(place.launches(), 2);

    let file = place.cached().pop().unwrap();
    fs::remove_file(&file).unwrap();
    let sleeper = unixfd::Launch::new("/bin/sleep", ["60"]).pid_file(file.with_extension("pid"));
    let left_over = sleeper.start(Duration::from_secs(5)).unwrap();
    place.prober().caps(&place.binary).await.unwrap();
    assert!(left_over.pidfd.has_exited());
}

#[tokio::test]
async fn a_real_qemu_is_understood() {
    let Some(binary) = testkit::place::program("qemu-system-x86_64") else {
        testkit::skip("no qemu-system-x86_64");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    // It needs nothing of root's.
    let nobody = RunAs {
        uid: 65534,
        gid: 65534,
        groups: Vec::new(),
    };
    let run_as = nix::unistd::geteuid().is_root().then_some(nobody);
    let config = ProberConfig {
        cache: dir.path().join("caps"),
        run_as,
        deadlines: Deadlines::default(),
    };
    let begin = Instant::now();
    let caps = Prober::new(config.clone()).caps(&binary).await.unwrap();
    let cold = begin.elapsed();
    let begin = Instant::now();
    let warm = Prober::new(config).caps(&binary).await.unwrap();
    println!("probed in {cold:?}, from the cache in {:?}", begin.elapsed());
    assert_eq!(warm.flags(), caps.flags());
    assert!(caps.version() >= Caps::OLDEST && caps.accel(Accel::Tcg).is_some());
    assert!(caps.default_machine(Accel::Tcg).is_some());
}
