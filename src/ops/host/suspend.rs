//! Putting the host to sleep for a while: to memory, to disk, or both.
//!
//! What the host can is asked of logind, once. An alarm of its clock is set to wake it up; only then, and some seconds
//! later so that the caller gets its answer, it is put to sleep: by pm-utils where they are installed, else by logind. One
//! such thing is under way at a time. Programs are found on the daemon's path.
//!
//! Idle -> UnderWay (alarm set, waiting) -> asleep -> Idle; any error before that: Idle.

use std::{
    path::PathBuf,
    process::{Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{process::Command, sync::OnceCell};

use crate::{
    error::{Area, Code, Error, Result},
    ops::Driver,
    peers::logind,
};

/// The shortest sleep, seconds: the time that falling asleep takes must have passed when the alarm goes off.
const SHORTEST: u64 = 60;
/// How long the host stays awake once the caller has its answer.
const DELAY: Duration = Duration::from_secs(10);
/// How long the program that sets the alarm may take.
const PROGRAM: Duration = Duration::from_secs(20);

/// A way to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// Memory stays powered.
    Mem,
    /// Memory is written to disk.
    Disk,
    /// Both.
    Hybrid,
}

impl Sleep {
    /// libvirt's words for it.
    fn title(self) -> &'static str {
        match self {
            Self::Mem => "Suspend-to-RAM",
            Self::Disk => "Suspend-to-Disk",
            Self::Hybrid => "Hybrid-Suspend",
        }
    }

    /// logind's question for it.
    fn question(self) -> &'static str {
        match self {
            Self::Mem => "CanSuspend",
            Self::Disk => "CanHibernate",
            Self::Hybrid => "CanHybridSleep",
        }
    }

    /// The program of pm-utils that does it.
    fn program(self) -> &'static str {
        match self {
            Self::Mem => "pm-suspend",
            Self::Disk => "pm-hibernate",
            Self::Hybrid => "pm-suspend-hybrid",
        }
    }

    /// logind's method that does it.
    fn method(self) -> &'static str {
        match self {
            Self::Mem => "Suspend",
            Self::Disk => "Hibernate",
            Self::Hybrid => "HybridSleep",
        }
    }
}

/// Which ways the host has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offered {
    /// To memory.
    pub mem: bool,
    /// To disk.
    pub disk: bool,
    /// To both.
    pub hybrid: bool,
}

impl Offered {
    fn has(self, way: Sleep) -> bool {
        match way {
            Sleep::Mem => self.mem,
            Sleep::Disk => self.disk,
            Sleep::Hybrid => self.hybrid,
        }
    }
}

/// The host's sleep.
#[derive(Debug)]
pub struct Suspend {
    dirs: Vec<PathBuf>,
    delay: Duration,
    offered: OnceCell<Offered>,
    under_way: Arc<AtomicBool>,
}

impl Default for Suspend {
    fn default() -> Self {
        let dirs = std::env::var_os("PATH")
            .map(|path| std::env::split_paths(&path).collect())
            .unwrap_or_default();
        Self::with(dirs, DELAY)
    }
}

/// What ways the host has to sleep: none where there is no logind.
pub async fn offered(driver: &Driver) -> Offered {
    driver.suspend.offered().await
}

/// Has the host sleep, and returns before it does.
///
/// # Errors
/// `OperationInvalid` while that is under way; `ArgumentUnsupported` if the host has no such way; `InvalidArg` for less
/// than a minute; `Internal` if the alarm can't be set.
pub async fn suspend(driver: &Driver, way: Sleep, seconds: u64) -> Result<()> {
    let asleep = driver.suspend.prepare(way, seconds).await?;
    let stop = driver.stop.clone();
    driver.tracker.spawn(async move {
        if stop.run_until_cancelled(asleep).await.is_none() {
            tracing::warn!(?way, "the host is not put to sleep: the daemon ends");
        }
    });
    Ok(())
}

impl Suspend {
    fn with(dirs: Vec<PathBuf>, delay: Duration) -> Self {
        Self {
            dirs,
            delay,
            offered: OnceCell::new(),
            under_way: Arc::default(),
        }
    }

    async fn offered(&self) -> Offered {
        let ask = async || Offered {
            mem: can(Sleep::Mem).await,
            disk: can(Sleep::Disk).await,
            hybrid: can(Sleep::Hybrid).await,
        };
        *self.offered.get_or_init(ask).await
    }

    /// Sets the alarm; what is returned puts the host to sleep.
    async fn prepare(&self, way: Sleep, seconds: u64) -> Result<impl Future<Output = ()> + Send + 'static> {
        let turn = Turn::take(&self.under_way)?;
        let refuse = |code, message: String| Err(Error::new(code, message).in_area(Area::None));
        if !self.offered().await.has(way) {
            return refuse(Code::ArgumentUnsupported, way.title().to_owned());
        }
        if seconds < SHORTEST {
            return refuse(
                Code::InvalidArg,
                format!("Suspend duration is too short, must be at least {SHORTEST} seconds"),
            );
        }
        self.set_alarm(seconds).await?;
        let delay = self.delay;
        let program = self.find(way.program());
        Ok(async move {
            tokio::time::sleep(delay).await;
            fall_asleep(way, program).await;
            drop(turn);
        })
    }

    async fn set_alarm(&self, seconds: u64) -> Result<()> {
        let internal = |message: String| Error::internal(message).in_area(Area::None);
        let rtcwake = self
            .find("rtcwake")
            .ok_or_else(|| internal("Cannot find 'rtcwake' in path".to_owned()))?;
        let mut command = Command::new(rtcwake);
        command.args(["-m", "no", "-s", &seconds.to_string()]);
        let output = run(command)
            .await
            .map_err(|error| internal(format!("Cannot run rtcwake: {error}")))?;
        if output.status.success() {
            return Ok(());
        }
        let how = match output.status.code() {
            Some(status) => format!("exit status {status}"),
            None => output.status.to_string(),
        };
        let words = String::from_utf8_lossy(&output.stderr);
        let words = if words.is_empty() {
            String::new()
        } else {
            format!(": {words}")
        };
        Err(internal(format!(
            "Child process (rtcwake -m no -s {seconds}) unexpected {how}{words}"
        )))
    }

    fn find(&self, program: &str) -> Option<PathBuf> {
        self.dirs
            .iter()
            .map(|dir| dir.join(program))
            .find(|path| path.is_file())
    }
}

async fn can(way: Sleep) -> bool {
    logind::can(way.question()).await.unwrap_or_else(|error| {
        tracing::warn!(?way, %error, "logind does not say whether the host can sleep");
        false
    })
}

/// The right to put the host to sleep; given back when dropped.
struct Turn(Arc<AtomicBool>);

impl Turn {
    fn take(under_way: &Arc<AtomicBool>) -> Result<Self> {
        match under_way.swap(true, Ordering::AcqRel) {
            false => Ok(Self(Arc::clone(under_way))),
            true => Err(Error::invalid("Suspend operation already in progress").in_area(Area::None)),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Returns once the host is awake again, so there is no deadline.
async fn fall_asleep(way: Sleep, program: Option<PathBuf>) {
    tracing::info!(?way, ?program, "the host is put to sleep");
    let Some(program) = program else {
        if let Err(error) = logind::sleep(way.method()).await {
            tracing::error!(?way, %error, "the host does not sleep");
        }
        return;
    };
    match Command::new(&program).stdin(Stdio::null()).output().await {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            tracing::error!(?way, status = %output.status, words = %String::from_utf8_lossy(&output.stderr), "the host does not sleep")
        }
        Err(error) => tracing::error!(?way, program = %program.display(), %error, "the host does not sleep"),
    }
}

async fn run(mut command: Command) -> std::io::Result<Output> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    tokio::time::timeout(PROGRAM, output)
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    /// Programs that only write down that they ran.
    struct Programs(tempfile::TempDir);

    impl Programs {
        fn new(scripts: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let ran = dir.path().join("ran");
            for (name, body) in scripts {
                let path = dir.path().join(name);
                fs::write(
                    &path,
                    format!("#!/bin/sh\necho {name} $* >>{}\n{body}\n", ran.display()),
                )
                .expect("a script");
                fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("mode");
            }
            Self(dir)
        }

        /// On a host that can sleep to memory, and to both.
        fn suspend(&self) -> Suspend {
            let offered = Offered {
                mem: true,
                disk: false,
                hybrid: true,
            };
            Suspend {
                offered: OnceCell::new_with(Some(offered)),
                ..Suspend::with(vec![self.0.path().to_owned()], Duration::ZERO)
            }
        }

        fn ran(&self) -> Vec<String> {
            let text = fs::read_to_string(self.0.path().join("ran")).unwrap_or_default();
            text.lines().map(str::to_owned).collect()
        }
    }

    async fn refused(suspend: &Suspend, way: Sleep, seconds: u64) -> String {
        suspend
            .prepare(way, seconds)
            .await
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    }

    #[tokio::test]
    async fn the_alarm_is_set_before_the_host_falls_asleep() {
        let programs = Programs::new(&[("rtcwake", ""), ("pm-suspend-hybrid", "")]);
        let suspend = programs.suspend();
        let asleep = suspend.prepare(Sleep::Hybrid, 90).await.expect("it is offered");
        assert_eq!(programs.ran(), ["rtcwake -m no -s 90"]);
        assert!(
            refused(&suspend, Sleep::Mem, 1)
                .await
                .ends_with("Suspend operation already in progress")
        );
        asleep.await;
        assert_eq!(programs.ran(), ["rtcwake -m no -s 90", "pm-suspend-hybrid"]);
        assert!(suspend.prepare(Sleep::Mem, 60).await.is_ok());
    }

    #[tokio::test]
    async fn what_the_host_has_not_is_refused_before_what_is_too_short() {
        let programs = Programs::new(&[("rtcwake", "echo no clock >&2; exit 3")]);
        let suspend = programs.suspend();
        assert_eq!(
            refused(&suspend, Sleep::Disk, 1).await,
            "argument unsupported: Suspend-to-Disk"
        );
        let short = "invalid argument: Suspend duration is too short, must be at least 60 seconds";
        assert_eq!(refused(&suspend, Sleep::Mem, 59).await, short);
        let clock =
            "internal error: Child process (rtcwake -m no -s 60) unexpected exit status 3: no clock\n";
        assert_eq!(refused(&suspend, Sleep::Mem, 60).await, clock);
        let none = Suspend {
            offered: OnceCell::new_with(Some(Offered::default())),
            ..Suspend::with(Vec::new(), Duration::ZERO)
        };
        assert_eq!(
            refused(&none, Sleep::Mem, 60).await,
            "argument unsupported: Suspend-to-RAM"
        );
    }
}
