//! A guest's monitor, by intent: what `ops` asks of a running QEMU, one call a question.
//!
//! Every call has a deadline of its own; none waits for a guest without end. Commands that only one operation needs
//! go through [`Monitor::execute`] with a command of the crate `qmp`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use qmp::commands::{self as cmd};
use qmp::types::{BlockStats, ChardevInfo, CpuInfoFast, IoThreadInfo, StatusInfo};
use qmp::{Client, Command, Connection, ErrorClass};
use tokio::net::UnixStream;

use super::Events;
use crate::error::Result;

/// How long a raw command of a user's may take.
const RAW_DEADLINE: Duration = Duration::from_secs(30);

/// Asks a running QEMU; cheap to clone. The connection closes with the last clone.
#[derive(Debug, Clone)]
pub struct Monitor {
    client: Client,
}

/// Where a VNC server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VncAddress {
    /// Address; empty for a Unix socket.
    pub host: String,
    /// Port, or the socket's path.
    pub service: String,
}

impl Monitor {
    /// Connects to the monitor socket at `path`, trying again while nobody listens, and shakes hands: both within
    /// `within`.
    ///
    /// # Errors
    /// When it is not there in time, or is no monitor.
    pub async fn connect(path: &Path, within: Duration) -> Result<(Self, Events)> {
        let end = tokio::time::Instant::now() + within;
        let stream = qmp::connect(path, within).await?;
        Self::handshake(stream, end.saturating_duration_since(tokio::time::Instant::now())).await
    }

    /// Shakes hands on a connection.
    ///
    /// # Errors
    /// When QEMU does not greet in time.
    pub async fn handshake(stream: UnixStream, within: Duration) -> Result<(Self, Events)> {
        let Connection { client, incoming, .. } = Connection::handshake(stream, within).await?;
        Ok((Self { client }, Events::new(incoming)))
    }

    /// Executes one command within its own deadline.
    ///
    /// # Errors
    /// See `From<qmp::Error>`; a refusal carries QEMU's words.
    pub async fn execute<C: Command>(&self, command: C) -> Result<C::Reply> {
        Ok(self.client.execute(command).await?)
    }

    /// The client below, for who must tell one refusal from another or pass descriptors.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether the connection is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}

/// Running and stopping.
impl Monitor {
    /// Whether CPUs run, and why not.
    ///
    /// # Errors
    /// As [`execute`](Self::execute), and so are those of all below.
    pub async fn status(&self) -> Result<StatusInfo> {
        self.execute(cmd::QueryStatus {}).await
    }

    /// Lets CPUs run.
    ///
    /// # Errors
    /// Such as a disk that another has locked.
    pub async fn cont(&self) -> Result<()> {
        self.execute(cmd::Cont {}).await.map(drop)
    }

    /// Stops CPUs and flushes disks.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn stop(&self) -> Result<()> {
        self.execute(cmd::Stop {}).await.map(drop)
    }

    /// Presses the power button.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn powerdown(&self) -> Result<()> {
        self.execute(cmd::SystemPowerdown {}).await.map(drop)
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn reset(&self) -> Result<()> {
        self.execute(cmd::SystemReset {}).await.map(drop)
    }

    /// Wakes the guest up.
    ///
    /// # Errors
    /// Such as when it does not sleep.
    pub async fn wakeup(&self) -> Result<()> {
        self.execute(cmd::SystemWakeup {}).await.map(drop)
    }

    /// Injects a non-maskable interrupt.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn inject_nmi(&self) -> Result<()> {
        self.execute(cmd::InjectNmi {}).await.map(drop)
    }

    /// Says what QEMU does when the guest reboots: `reset`, or `shutdown` for guests that are not to.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn on_reboot(&self, action: &str) -> Result<()> {
        let reboot = Some(action.to_owned());
        let action = cmd::SetAction {
            reboot,
            shutdown: None,
            panic: None,
            watchdog: None,
        };
        self.execute(action).await.map(drop)
    }
}

/// Memory, CPUs, threads, counters.
impl Monitor {
    /// Bytes that the balloon leaves; none without a balloon.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn balloon(&self) -> Result<Option<u64>> {
        match self.client.execute(cmd::QueryBalloon {}).await {
            Ok(info) => Ok(Some(info.actual)),
            Err(error)
                if matches!(
                    error.class(),
                    Some(ErrorClass::DeviceNotActive | ErrorClass::KvmMissingCap)
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Asks the guest to live with `bytes`; it answers by event, if ever.
    ///
    /// # Errors
    /// Such as no balloon.
    pub async fn set_balloon(&self, bytes: u64) -> Result<()> {
        self.execute(cmd::Balloon { value: bytes }).await.map(drop)
    }

    /// How often, in seconds, the balloon device at `path` asks the guest for its statistics; 0: never.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn set_balloon_period(&self, path: &str, seconds: u32) -> Result<()> {
        let (path, property) = (path.to_owned(), "guest-stats-polling-interval".to_owned());
        self.execute(cmd::QomSet {
            path,
            property,
            value: seconds.into(),
        })
        .await
        .map(drop)
    }

    /// Virtual CPUs and their threads.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn cpus(&self) -> Result<Vec<CpuInfoFast>> {
        self.execute(cmd::QueryCpusFast {}).await
    }

    /// Threads for I/O.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn iothreads(&self) -> Result<Vec<IoThreadInfo>> {
        self.execute(cmd::QueryIothreads {}).await
    }

    /// Counters of disks.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn block_stats(&self) -> Result<Vec<BlockStats>> {
        self.execute(cmd::QueryBlockstats { query_nodes: false }).await
    }
}

/// Devices and their other ends.
impl Monitor {
    /// Character devices' back ends.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn chardevs(&self) -> Result<Vec<ChardevInfo>> {
        self.execute(cmd::QueryChardev {}).await
    }

    /// Terminals that QEMU has opened, by back end's id (`charserial0`).
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn ptys(&self) -> Result<BTreeMap<String, String>> {
        let chardevs = self.chardevs().await?.into_iter();
        let pty = |dev: ChardevInfo| Some((dev.label, dev.filename.strip_prefix("pty:")?.to_owned()));
        Ok(chardevs.filter_map(pty).collect())
    }

    /// Where VNC listens, if it does.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn vnc(&self) -> Result<Option<VncAddress>> {
        let info = self.execute(cmd::QueryVnc {}).await?;
        let host = info
            .host
            .filter(|_| info.family.as_deref() != Some("unix"))
            .unwrap_or_default();
        Ok(info
            .service
            .filter(|_| info.enabled)
            .map(|service| VncAddress { host, service }))
    }

    /// Ids of the devices that QEMU has now.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn device_ids(&self) -> Result<BTreeSet<String>> {
        let list = self
            .execute(cmd::QomList {
                path: "/machine/peripheral".to_owned(),
            })
            .await?;
        let devices = list
            .into_iter()
            .filter(|entry| entry.r#type.starts_with("child<"));
        Ok(devices.map(|entry| entry.name).collect())
    }

    /// Names `fd` as `name` in QEMU.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn pass_fd(&self, name: &str, fd: OwnedFd) -> Result<()> {
        let command = cmd::Getfd {
            fdname: name.to_owned(),
        };
        self.client.execute_with_fds(command, vec![fd]).await?;
        Ok(())
    }
}

/// What users ask for in QEMU's own words.
impl Monitor {
    /// Executes a QMP command given as JSON, `fds` going with it; QEMU's whole answer, refusals included.
    ///
    /// # Errors
    /// When it is no command, or is not answered.
    pub async fn raw(&self, json: &str, fds: Vec<OwnedFd>) -> Result<String> {
        let answer = self.client.execute_raw(json, fds, RAW_DEADLINE).await?;
        Ok(qmp::compact(&answer))
    }

    /// Runs a line of the human monitor; what it prints.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn human(&self, line: &str) -> Result<String> {
        self.execute(cmd::HumanMonitorCommand {
            command_line: line.to_owned(),
        })
        .await
    }
}
