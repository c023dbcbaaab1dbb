use std::io::{Seek, SeekFrom};
use std::os::fd::IntoRawFd;

use super::*;

const SOON: Duration = Duration::from_secs(10);

/// Runs a shell script and gives what it wrote.
async fn run(script: &str, change: impl FnOnce(Launch) -> Launch) -> String {
    let mut out = tempfile::tempfile().unwrap();
    let launch = Launch::new("/bin/sh", ["-c", script]).output(out.try_clone().unwrap().into());
    let started = change(launch).start(SOON).unwrap();
    tokio::time::timeout(SOON, started.pidfd.exited())
        .await
        .unwrap()
        .unwrap();
    out.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    text
}

fn file_with(text: &str) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file.into()
}

#[tokio::test]
async fn it_starts_with_what_was_said_and_nothing_else() {
    let script = "pwd; umask; env | sort; readlink /proc/self/fd/0; ls /proc/$$/fd | tr '\\n' ' '";
    let text = run(script, |l| l.env("LC_ALL", "C").umask(0o002)).await;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..2], ["/", "0002"]);
    assert!(
        lines.contains(&"LC_ALL=C") && lines.contains(&"/dev/null"),
        "{text}"
    );
    assert!(!text.contains("HOME="), "{text}");
    assert_eq!(lines.last(), Some(&"0 1 2 "), "{text}");
}

#[tokio::test]
async fn descriptors_are_at_their_numbers_even_when_numbers_are_swapped() {
    let (one, two) = (file_with("one "), file_with("two "));
    let (a, b) = (one.as_raw_fd(), two.as_raw_fd());
    let script = format!("cat /dev/fd/{a} /dev/fd/{b}");
    assert_eq!(run(&script, |l| l.place(one, b).place(two, a)).await, "two one ");
}

#[tokio::test]
async fn an_inherited_descriptor_keeps_the_number_that_was_told() {
    let mut out = tempfile::tempfile().unwrap();
    let mut launch =
        Launch::new("/bin/sh", ["-c", "cat /dev/fd/$FD"]).output(out.try_clone().unwrap().into());
    let number = launch.inherit(file_with("three")).unwrap();
    let started = launch.env("FD", number.to_string()).start(SOON).unwrap();
    started.pidfd.exited().await.unwrap();
    out.rewind().unwrap();
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    assert_eq!(text, "three");
}

#[test]
fn a_number_asked_for_twice_is_refused() {
    let launch = Launch::new("/bin/true", [""; 0])
        .place(file_with("a"), 9)
        .place(file_with("b"), 9);
    assert!(matches!(
        launch.hold(),
        Err(LaunchError::Failed {
            stage: Stage::Prepare,
            ..
        })
    ));
}

#[tokio::test]
async fn limits_signals_and_privileges_hold_in_the_program() {
    let script = "ulimit -n; ulimit -c; ulimit -l; grep -E '^(SigBlk|NoNewPrivs)' /proc/self/status; \
                  echo pipe $((0x$(sed -n 's/^SigIgn:.//p' /proc/$$/status) & 0x1000)); \
                  test $(cut -d' ' -f6 /proc/$$/stat) != $$ && echo in a session of another";
    let text = run(script, |l| {
        let l = l.limit(Limit::OpenFiles, 77).limit(Limit::Core, 0);
        l.limit(Limit::LockedMemory, 64 << 10).no_new_privileges()
    });
    let text = text.await.replace('\t', " ");
    let expected = "77\n0\n64\nNoNewPrivs: 1\nSigBlk: 0000000000000000\npipe 0\n\
                    in a session of another\n";
    let sorted = |text: &str| {
        text.lines()
            .map(str::to_owned)
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(sorted(&text), sorted(expected));
}

#[tokio::test]
async fn it_runs_as_the_user_with_exactly_the_groups() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let text = run("id -u; id -g; id -G", |l| {
        l.identity(1234, 1235, vec![1236, 1237])
    })
    .await;
    assert_eq!(text, "1234\n1235\n1235 1236 1237\n");
}

#[tokio::test]
async fn the_pid_file_is_written_and_locked_while_the_program_lives() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("demo.pid");
    fs::write(&path, "a longer line of old\n").unwrap();
    let launch = || Launch::new("/bin/sleep", ["60"]).pid_file(&path);
    let started = launch().start(SOON).unwrap();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        format!("{}\n", started.pidfd.pid())
    );
    assert_eq!(crate::lock_holder(&path).unwrap(), Some(started.pidfd.pid()));
    match launch().start(SOON) {
        Err(LaunchError::Failed {
            stage: Stage::PidFile,
            source,
            ..
        }) => {
            assert!(
                matches!(source.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)),
                "{source}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        format!("{}\n", started.pidfd.pid())
    );
    started.pidfd.send_signal(Signal::SIGKILL).unwrap();
    started.pidfd.exited().await.unwrap();
    assert_eq!(crate::lock_holder(&path).unwrap(), None);
    let again = launch().start(SOON).unwrap();
    again.pidfd.send_signal(Signal::SIGKILL).unwrap();
}

#[test]
fn a_failed_exec_names_its_stage_and_reason_and_leaves_no_pid_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("demo.pid");
    for (program, errno) in [("/nonexistent", libc::ENOENT), ("/etc", libc::EACCES)] {
        let error = Launch::new(program, [""; 0])
            .pid_file(&path)
            .start(SOON)
            .unwrap_err();
        let LaunchError::Failed { stage, source, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(
            (*stage, source.raw_os_error()),
            (Stage::Exec, Some(errno)),
            "{error}"
        );
        assert!(!path.exists());
    }
}

#[tokio::test]
async fn a_held_process_runs_nothing_until_released_and_ends_when_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let launch = || Launch::new("/bin/touch", [&mark]);
    let held = launch().hold().unwrap();
    let watch = held.pidfd.try_clone().unwrap();
    assert_eq!(held.pid(), watch.pid());
    drop(held);
    tokio::time::timeout(SOON, watch.exited()).await.unwrap().unwrap();
    assert!(!mark.exists());
    let held = launch().hold().unwrap();
    // Another that waits must not hold up the first one's release.
    let _waits = launch().hold().unwrap();
    let started = held.release(SOON).unwrap();
    started.pidfd.exited().await.unwrap();
    assert!(mark.exists());
}

#[test]
fn a_process_that_dies_while_held_is_reported() {
    let held = Launch::new("/bin/true", [""; 0]).hold().unwrap();
    held.pidfd.send_signal(Signal::SIGKILL).unwrap();
    assert!(matches!(held.release(SOON), Err(LaunchError::Died(_))));
}

#[test]
fn a_leaked_descriptor_without_close_on_exec_does_not_reach_the_program() {
    let file = file_with("leak");
    fcntl(&file, FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let number = file.into_raw_fd();
    let mut out = tempfile::tempfile().unwrap();
    let script = format!("ls /proc/$$/fd/{number} 2>&1");
    let launch = Launch::new("/bin/sh", ["-c", &script]).output(out.try_clone().unwrap().into());
    let started = launch.start(SOON).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(started.pidfd.exited()).unwrap();
    out.rewind().unwrap();
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    assert!(text.contains("No such file"), "{text}");
    drop(plan::own(number));
}

#[tokio::test]
async fn a_connection_is_the_new_processs_own_and_lives_as_long_as_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut launch = Launch::new("/bin/sleep", ["60"]);
    let ours = launch.connect(&path, SOON).unwrap();
    let held = launch.hold().unwrap();
    let (mut theirs, _) = listener.accept().unwrap();
    let cred = nix::sys::socket::getsockopt(&theirs, sockopt::PeerCredentials).unwrap();
    assert_eq!(cred.pid(), held.pid());
    File::from(ours).write_all(b"from us").unwrap();
    let mut said = [0; 7];
    theirs.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"from us");
    let started = held.release(SOON).unwrap();
    theirs.set_nonblocking(true).unwrap();
    assert_eq!(
        theirs.read(&mut said).unwrap_err().kind(),
        io::ErrorKind::WouldBlock,
        "still open in the program"
    );
    started.pidfd.send_signal(Signal::SIGKILL).unwrap();
    started.pidfd.exited().await.unwrap();
    assert_eq!(theirs.read(&mut said).unwrap(), 0);
}

#[test]
fn a_peer_that_is_not_there_or_too_busy_ends_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let attempt = || {
        let mut launch = Launch::new("/bin/true", [""; 0]);
        launch.connect(&path, Duration::from_millis(50)).unwrap();
        match launch.hold() {
            Err(LaunchError::Failed {
                stage: Stage::Connect,
                source,
                ..
            }) => source.raw_os_error(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(attempt(), Some(libc::ENOENT));
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap();
    nix::sys::socket::bind(socket.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    assert_eq!(attempt(), Some(libc::ECONNREFUSED));
    nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let _first = std::os::unix::net::UnixStream::connect(&path).unwrap();
    assert_eq!(attempt(), Some(libc::EAGAIN), "waited for in vain");
}
