//! The program: options, log, runtime, then the daemon.

use std::io::Write as _;
use std::process::ExitCode;

use virtqemud::daemon::{self, Daemon};
use virtqemud::logging::{self, Plan};
use virtqemud::options::{Instead, Options};
use virtqemud::service;

/// Threads that run tasks: half of the host's CPUs, within these bounds. None of them ever waits for a guest or a disk, so
/// few are enough.
const WORKERS: std::ops::RangeInclusive<usize> = 2..=4;
/// Threads for what may block on a file system; they end when idle.
const BLOCKING: usize = 32;

fn main() -> ExitCode {
    let options = match Options::read(std::env::args_os()) {
        Ok(options) => options,
        Err(Instead::Print(text)) => return print(&text),
        Err(Instead::Refuse(text)) => return refuse(&text),
    };
    if options.daemon && !options.detached {
        return match daemon::start_in_background(std::env::args_os().skip(1)) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => refuse(&format!("virtqemud: cannot go to the background: {error}\n")),
        };
    }
    match logging::install(Plan::initial()) {
        Ok(log) => run(options, log),
        Err(error) => refuse(&format!("virtqemud: {error}\n")),
    }
}

fn run(options: Options, log: logging::Handle) -> ExitCode {
    match try_run(options, log.clone()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !log.plan().says_on_stderr() {
                tracing::error!(error = format!("{error:#}"), "the daemon failed");
            }
            refuse(&format!("virtqemud: {error:#}\n"))
        }
    }
}

fn try_run(options: Options, log: logging::Handle) -> anyhow::Result<()> {
    unixfd::keep_from_programs();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .max_blocking_threads(BLOCKING)
        .thread_name("virtqemud")
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async { Box::pin(Daemon::prepare(options, log)?.run(service::make)).await });
    runtime.shutdown_background();
    ended
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(*WORKERS.start(), |cpus| {
        (cpus.get() / 2).clamp(*WORKERS.start(), *WORKERS.end())
    })
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn refuse(text: &str) -> ExitCode {
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::FAILURE
}
