//! A fake QEMU through the whole start: what goes right, and each way to fail, with QEMU's words.

use std::fs::{self, File};
use std::time::Instant;

use serde_json::{Value, json};
use testkit::fake_qemu::program;

use super::*;
use crate::qemu::{GuestEvent, Notice, Stop};

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new(script: &Value) -> Self {
        let this = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        program::install(this.dir.path(), script).unwrap();
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn start(&self) -> Result<Live> {
        let prepared = Prepared::new(&self.path("qemu-system-x86_64"), &self.path("monitor.sock"))?;
        let monitor = format!(
            "socket,id=charmonitor,fd={},server=on,wait=off",
            prepared.monitor_fd()
        );
        let log = self.path("demo.log");
        fs::write(&log, "starting up\n").unwrap();
        let output = File::options().append(true).open(&log).unwrap().into();
        let held = prepared.hold(Start {
            args: ["-name", "guest=demo", "-S", "-chardev", &monitor]
                .map(str::to_owned)
                .to_vec(),
            env: vec![("LC_ALL".into(), "C".into())],
            output,
            log: LogTail::from_here(log),
            run_as: None,
            limits: confine::Limits {
                core: Some(0),
                ..confine::Limits::default()
            },
            pid_file: self.path("demo.pid"),
        });
        held.await?.run().await
    }

    fn pid(&self) -> i32 {
        fs::read_to_string(self.path("demo.pid"))
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    }
}

fn is_gone(pid: i32) -> bool {
    unixfd::PidFd::open(pid).is_err()
}

#[tokio::test]
async fn a_started_qemu_answers_and_can_be_taken_up_by_another_daemon() {
    let place = Place::new(&json!({}));
    let mut live = place.start().await.unwrap();
    assert_eq!(place.pid(), live.process.pid());
    assert!(!live.monitor.status().await.unwrap().running);
    live.monitor.cont().await.unwrap();
    assert!(matches!(
        live.events.next().await,
        Some(Notice::Event {
            event: GuestEvent::Resume,
            ..
        })
    ));
    assert!(live.monitor.status().await.unwrap().running);
    assert_eq!(live.monitor.balloon().await.unwrap(), Some(128 << 20));
    drop(live);
    let process = Process::find(&place.path("demo.pid"), place.pid(), "demo")
        .unwrap()
        .unwrap();
    let again = Live::attach(process, &place.path("monitor.sock"), Duration::from_secs(5))
        .await
        .unwrap();
    assert!(again.monitor.status().await.unwrap().running);
    again.process.stop(Stop::Gracefully).await.unwrap();
    assert!(again.monitor.status().await.is_err());
}

#[tokio::test]
async fn a_qemu_that_does_not_answer_a_new_daemon_is_left_alone() {
    let place = Place::new(&json!({}));
    let live = place.start().await.unwrap();
    let process = live.process.clone();
    let pid = nix::unistd::Pid::from_raw(process.pid());
    let signal = |signal| nix::sys::signal::kill(pid, signal).unwrap();
    drop(live);
    signal(nix::sys::signal::Signal::SIGSTOP);
    let monitor = place.path("monitor.sock");
    let within = Duration::from_millis(200);
    let error = Live::attach(process.clone(), &monitor, within).await.unwrap_err();
    assert_eq!(error.reason, Some("MONITOR_UNREACHABLE"), "{}", error.message);
    signal(nix::sys::signal::Signal::SIGCONT);
    let within = Duration::from_secs(5);
    let again = Live::attach(process.clone(), &monitor, within).await.unwrap();
    assert!(!again.monitor.status().await.unwrap().running);
    process.stop(Stop::Now).await.unwrap();
}

#[tokio::test]
async fn a_qemu_that_ends_early_is_seen_at_once_with_its_last_words() {
    let place = Place::new(&json!({"start": {"stderr": "qemu: -drive: no such file\n", "exit": 1}}));
    let begin = Instant::now();
    let error = place.start().await.unwrap_err();
    assert_eq!(
        error.message,
        "process exited while connecting to monitor: qemu: -drive: no such file"
    );
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_qemu_that_refuses_the_handshake_is_killed() {
    let rule = json!({"execute": "qmp_capabilities", "error": {"class": "GenericError", "desc": "no"}});
    let place = Place::new(&json!({"rules": [rule]}));
    let error = place.start().await.unwrap_err();
    assert_eq!(
        error.message,
        "unable to execute QEMU command 'qmp_capabilities': no"
    );
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(is_gone(place.pid()));
}

#[tokio::test]
async fn a_start_that_is_given_up_leaves_nothing() {
    let place = Place::new(&json!({"start": {"mute": true}}));
    let given_up = tokio::time::timeout(Duration::from_millis(500), place.start()).await;
    assert!(given_up.is_err());
    let pid = place.pid();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(is_gone(pid));
}

#[tokio::test]
async fn a_program_that_cannot_run_is_named() {
    let place = Place::new(&json!({}));
    fs::remove_file(place.path("qemu-system-x86_64")).unwrap();
    let error = place.start().await.unwrap_err();
    assert!(
        error.message.ends_with("exec: No such file or directory"),
        "{}",
        error.message
    );
    assert_eq!(error.errno, Some(nix::libc::ENOENT));
    assert!(!place.path("demo.pid").exists());
}

/// A pc with a serial terminal, a balloon and VNC on a socket.
async fn start_real(place: &Place, qemu: &Path) -> Live {
    let mut prepared = Prepared::new(qemu, &place.path("monitor.sock")).unwrap();
    let passed = prepared.pass(unixfd::memfd("passed").unwrap().into()).unwrap();
    let monitor = format!(
        "socket,id=charmonitor,fd={},server=on,wait=off",
        prepared.monitor_fd()
    );
    let (set, vnc) = (
        format!("set=1,fd={passed}"),
        format!("unix:{}", place.path("vnc.sock").display()),
    );
    let args = [
        "-name",
        "guest=demo",
        "-S",
        "-machine",
        "pc,accel=tcg",
        "-m",
        "16",
        "-display",
        "none",
        "-nodefaults",
        "-no-user-config",
        "-chardev",
        &monitor,
        "-mon",
        "chardev=charmonitor,id=monitor,mode=control",
        "-chardev",
        "pty,id=charserial0",
        "-device",
        "isa-serial,chardev=charserial0,id=serial0",
        "-device",
        "virtio-balloon-pci,id=balloon0",
        "-vnc",
        &vnc,
        "-add-fd",
        &set,
    ];
    let log = place.path("demo.log");
    let output = File::create(&log).unwrap().into();
    let start = Start {
        args: args.map(str::to_owned).to_vec(),
        env: vec![("LC_ALL".into(), "C".into())],
        output,
        log: LogTail::from_here(log),
        run_as: None,
        limits: confine::Limits::default(),
        pid_file: place.path("demo.pid"),
    };
    prepared.hold(start).await.unwrap().run().await.unwrap()
}

#[tokio::test]
async fn a_real_qemu_is_started_asked_taken_up_and_stopped() {
    let Some(qemu) = testkit::place::program("qemu-system-x86_64") else {
        return testkit::skip("no qemu-system-x86_64");
    };
    let place = Place::new(&json!({}));
    let mut live = start_real(&place, &qemu).await;
    let monitor = live.monitor.clone();
    assert_eq!(
        monitor.status().await.unwrap().status,
        qmp::types::RunState::Prelaunch
    );
    assert_eq!(monitor.cpus().await.unwrap().len(), 1);
    assert!(monitor.ptys().await.unwrap()["charserial0"].starts_with("/dev/pts/"));
    let vnc = monitor.vnc().await.unwrap().unwrap();
    assert_eq!(
        (vnc.host.as_str(), Path::new(&vnc.service)),
        ("", place.path("vnc.sock").as_path())
    );
    assert_eq!(monitor.balloon().await.unwrap(), Some(16 << 20));
    let ids: Vec<_> = monitor.device_ids().await.unwrap().into_iter().collect();
    assert_eq!(ids, ["balloon0", "serial0"]);
    monitor
        .pass_fd("named", unixfd::memfd("named").unwrap().into())
        .await
        .unwrap();
    assert!(monitor.human("info status").await.unwrap().contains("VM status"));
    assert!(
        monitor
            .raw(r#"{"execute":"no-such"}"#, Vec::new())
            .await
            .unwrap()
            .contains("CommandNotFound")
    );
    monitor.cont().await.unwrap();
    assert!(matches!(
        live.events.next().await,
        Some(Notice::Event {
            event: GuestEvent::Resume,
            ..
        })
    ));
    drop((monitor, live));

    let found = || Process::find(&place.path("demo.pid"), place.pid(), "demo").unwrap();
    let mut again = Live::attach(
        found().unwrap(),
        &place.path("monitor.sock"),
        Duration::from_secs(5),
    )
    .await
    .unwrap();
    assert!(again.monitor.status().await.unwrap().running);
    again.process.stop(Stop::Gracefully).await.unwrap();
    let Some(Notice::Event {
        event: GuestEvent::Shutdown(shutdown),
        ..
    }) = again.events.next().await
    else {
        panic!("no SHUTDOWN")
    };
    assert_eq!((shutdown.guest, shutdown.reason.as_str()), (false, "host-signal"));
    assert!(matches!(again.events.next().await, Some(Notice::Closed(_))));
    assert!(found().is_none());
}
