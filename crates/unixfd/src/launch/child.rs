//! What runs in the new process, up to its exec.
//!
//! The process is a copy of one thread of many: a lock that another thread held at the fork is held for
//! ever. So here only async-signal-safe system calls are made; nothing allocates, logs or panics.
#![expect(
    unsafe_code,
    reason = "fork, exec, and plain system calls on the copy's own state"
)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::sys::socket::SockaddrLike;

use super::Limit;
use super::plan::Plan;
use super::stage::Stage;

/// A failed step: the stage; its reason is in `errno`.
type Step = Result<(), Stage>;

/// Forks a process that forks the process that runs `plan`, and waits for the first one only.
pub(super) fn fork_twice(plan: &mut Plan) -> io::Result<()> {
    // No signal may meet the copy while it has our handlers: they would write into our pipes.
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets live on this stack; sigfillset initialises the first, pthread_sigmask the second.
    let pid = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        libc::fork()
    };
    if pid == 0 {
        middle(plan);
    }
    let error = io::Error::last_os_error();
    // SAFETY: `before` was filled above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    if pid < 0 {
        return Err(error);
    }
    reap(pid);
    Ok(())
}

/// The middle process lives for microseconds; its fate is on the report pipe.
fn reap(pid: libc::pid_t) {
    let mut status = 0;
    // SAFETY: `status` lives on this stack.
    while unsafe { libc::waitpid(pid, &mut status, 0) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

fn middle(plan: &mut Plan) -> ! {
    // SAFETY: plain system calls; see the module's head for what may run here.
    unsafe {
        for &(first, last) in &plan.gaps {
            libc::syscall(libc::SYS_close_range, first, last, 0);
        }
        if libc::setsid() < 0 {
            fail(plan, Stage::Session);
        }
        match libc::fork() {
            0 => child(plan),
            pid if pid < 0 => fail(plan, Stage::Fork),
            _ => libc::_exit(0),
        }
    }
}

fn child(plan: &mut Plan) -> ! {
    if let Err(stage) = connect(plan) {
        fail(plan, stage);
    }
    // SAFETY: getpid cannot fail.
    report(plan, 0, unsafe { libc::getpid() });
    wait_for_release(plan);
    match set_up(plan) {
        Ok(()) => {
            // SAFETY: getpid cannot fail.
            report(plan, 0, unsafe { libc::getpid() });
            // SAFETY: both arrays end in a null pointer and point to strings that `plan` keeps.
            unsafe { libc::execve(plan.program.as_ptr(), plan.argv(), plan.envp()) };
            fail(plan, Stage::Exec)
        }
        Err(stage) => fail(plan, stage),
    }
}

/// Ends when the daemon goes away instead of answering.
fn wait_for_release(plan: &Plan) {
    let mut byte = 0_u8;
    // SAFETY: one byte into a buffer of one byte; _exit does not return.
    unsafe {
        if libc::read(raw(&plan.go), (&raw mut byte).cast(), 1) != 1 {
            libc::_exit(127);
        }
    }
}

/// Done before anything is reported: whoever holds the process can talk over its connections.
fn connect(plan: &Plan) -> Step {
    for (fd, address) in &plan.connections {
        // SAFETY: the address lives in the plan, and its length is its own.
        check(
            unsafe { libc::connect(*fd, address.as_ptr().cast(), address.len()) },
            Stage::Connect,
        )?;
    }
    Ok(())
}

fn set_up(plan: &mut Plan) -> Step {
    reset_signals();
    place_descriptors(plan).map_err(|()| Stage::Descriptors)?;
    // SAFETY: takes a number; "/" is a string constant.
    unsafe {
        libc::umask(plan.umask as libc::mode_t);
        check(libc::chdir(c"/".as_ptr()), Stage::Directory)?;
    }
    set_limits(plan)?;
    write_pid_file(plan)?;
    become_user(plan)?;
    if plan.no_new_privileges {
        // SAFETY: takes numbers.
        check(
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) },
            Stage::NoNewPrivileges,
        )?;
    }
    Ok(())
}

fn reset_signals() {
    // SAFETY: a zeroed sigaction is SIG_DFL with an empty mask; refused ones (KILL, STOP) need none.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        for signal in 1..=64 {
            libc::sigaction(signal, &default, std::ptr::null_mut());
        }
        libc::sigprocmask(libc::SIG_SETMASK, &default.sa_mask, std::ptr::null_mut());
    }
}

/// First all sources are copied out of the way, then to their targets: the order of numbers is free.
fn place_descriptors(plan: &mut Plan) -> Result<(), ()> {
    let done = |result: libc::c_int| if result < 0 { Err(()) } else { Ok(result) };
    // SAFETY: numbers only.
    unsafe {
        // The sources go at exec, whatever flags they came with.
        libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        for (fd, _, copy) in &mut plan.placed {
            *copy = done(libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, plan.spare))?;
        }
        for (_, number, copy) in &plan.placed {
            done(libc::dup2(*copy, *number))?;
        }
        for fd in plan.inherited.iter().chain(&plan.pid_file) {
            done(libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0))?;
        }
    }
    Ok(())
}

fn set_limits(plan: &Plan) -> Step {
    for &(limit, value) in &plan.limits {
        let resource = match limit {
            Limit::OpenFiles => libc::RLIMIT_NOFILE,
            Limit::LockedMemory => libc::RLIMIT_MEMLOCK,
            Limit::Core => libc::RLIMIT_CORE,
            Limit::Processes => libc::RLIMIT_NPROC,
        };
        let both = libc::rlimit {
            rlim_cur: value,
            rlim_max: value,
        };
        // SAFETY: reads a struct on this stack.
        check(unsafe { libc::setrlimit(resource, &both) }, Stage::Limits)?;
    }
    Ok(())
}

/// The lock belongs to this process, and to the program it becomes: its descriptor stays open there.
fn write_pid_file(plan: &Plan) -> Step {
    let Some(file) = &plan.pid_file else {
        return Ok(());
    };
    let fd = file.as_raw_fd();
    let mut digits = [0; 12];
    // SAFETY: numbers, and structs on this stack.
    unsafe {
        let mut lock: libc::flock = std::mem::zeroed();
        lock.l_type = libc::F_WRLCK as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
        lock.l_len = 1;
        check(libc::fcntl(fd, libc::F_SETLK, &lock), Stage::PidFile)?;
        check(libc::ftruncate(fd, 0), Stage::PidFile)?;
        let text = pid_line(libc::getpid(), &mut digits);
        if libc::write(fd, text.as_ptr().cast(), text.len()) != text.len() as isize {
            return Err(Stage::PidFile);
        }
    }
    Ok(())
}

fn become_user(plan: &Plan) -> Step {
    let Some((uid, gid, groups)) = &plan.identity else {
        return Ok(());
    };
    // SAFETY: `groups` lives in the plan. The raw calls act on this one thread, which is all there is.
    unsafe {
        check(libc::setgroups(groups.len(), groups.as_ptr()), Stage::Groups)?;
        check(libc::setresgid(*gid, *gid, *gid), Stage::Gid)?;
        check(libc::setresuid(*uid, *uid, *uid), Stage::Uid)
    }
}

/// `pid` in decimal and a newline, at the end of `buffer`.
fn pid_line(pid: libc::pid_t, buffer: &mut [u8; 12]) -> &[u8] {
    let (mut at, mut rest) = (buffer.len() - 1, pid);
    buffer[at] = b'\n';
    while at > 0 {
        at -= 1;
        buffer[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    &buffer[at..]
}

fn check(result: libc::c_int, stage: Stage) -> Step {
    if result < 0 { Err(stage) } else { Ok(()) }
}

fn fail(plan: &Plan, stage: Stage) -> ! {
    // SAFETY: errno is this thread's; _exit does not return.
    unsafe {
        let errno = *libc::__errno_location();
        report(plan, stage as i32, errno);
        libc::_exit(127)
    }
}

/// Eight bytes are atomic on a pipe. When nobody reads any more there is nobody to tell.
fn report(plan: &Plan, code: i32, value: i32) {
    let both = [code, value];
    // SAFETY: eight bytes of this stack.
    unsafe { libc::write(raw(&plan.report), both.as_ptr().cast(), size_of_val(&both)) };
}

fn raw(fd: &Option<OwnedFd>) -> RawFd {
    fd.as_ref().map_or(-1, OwnedFd::as_raw_fd)
}

#[cfg(test)]
mod tests {
    use super::pid_line;

    #[test]
    fn a_pid_is_written_in_decimal() {
        for (pid, text) in [
            (0, "0\n"),
            (7, "7\n"),
            (4194304, "4194304\n"),
            (i32::MAX, "2147483647\n"),
        ] {
            assert_eq!(pid_line(pid, &mut [0; 12]), text.as_bytes());
        }
    }
}
