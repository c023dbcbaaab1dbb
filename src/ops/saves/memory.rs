//! A guest's memory and devices, written by QEMU's migration into a descriptor, or loaded from one.
//!
//! The one place that starts such a migration and waits for its end: for saves, dumps, the memory of snapshots, and for
//! `start`, which restores. What migrations are to do is set anew for each, so nothing of one is left for the next. The
//! hard thing is the end: QEMU may be done, fail, die or be slow, the disk may be full, and somebody may not want it any
//! more; whichever comes first decides, and QEMU has always given up when this returns.

use std::{os::fd::OwnedFd, path::Path, sync::Arc, time::Duration};

use qmp::{commands, types::MigrationCapability};
use serde_json::{Map, Value, json};

use crate::{
    domain::long_job::{NO_LIMIT, Statistics},
    error::{Code, Error, Result},
    ops::{
        operation::Context,
        run::{
            guest::Guest,
            long_job::{self, LongJob},
        },
        saves::pour::Pour,
    },
};

/// Capabilities of migrations that are set for each, in libvirt's order.
// table
const CAPABILITIES: &[&str] = &[
    "xbzrle",
    "auto-converge",
    "rdma-pin-all",
    "postcopy-ram",
    "pause-before-switchover",
    "late-block-activate",
    "multifd",
    "dirty-bitmaps",
    "return-path",
    "zero-copy-send",
    "postcopy-preempt",
    "switchover-ack",
    MAPPED_RAM,
];
/// Every page has a place of its own in the file.
pub(crate) const MAPPED_RAM: &str = "mapped-ram";
const MULTIFD: &str = "multifd";
/// The name of the descriptor in QEMU.
const FD: &str = "migrate";
/// How often QEMU is asked how far it is.
const PACE: Duration = Duration::from_millis(500);
/// How long QEMU may take to give up a migration.
const GIVING_UP: Duration = Duration::from_secs(30);
/// How long it is waited for the migration that was given up because nobody reads.
const DRAINING: Duration = Duration::from_secs(2);

/// How fast a migration may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// As fast as it can.
    None,
    /// It is not said: nothing is sent.
    Unsaid,
}

/// Where a guest's memory goes or comes from, as QEMU sees it.
pub(crate) enum Way {
    /// A pipe.
    Pipe(OwnedFd),
    /// A file that QEMU writes and reads itself.
    File(Mapped),
}

/// A file in which every page has its place.
pub(crate) struct Mapped {
    /// The file.
    pub(crate) file: OwnedFd,
    /// The same file past the page cache, if that is wanted.
    pub(crate) direct: Option<OwnedFd>,
    /// Where QEMU's part of it begins.
    pub(crate) offset: u64,
    /// How many channels there are.
    pub(crate) channels: u32,
}

/// What migrations of a file in which every page has its place are told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// How many channels there are.
    pub(crate) channels: u32,
    /// Past the page cache.
    pub(crate) direct: bool,
}

impl Mapped {
    fn shape(&self) -> Shape {
        Shape {
            channels: self.channels,
            direct: self.direct.is_some(),
        }
    }
}

/// Sets what migrations do: nothing but what the way needs. What leaves QEMU leaves it without a `limit`.
///
/// # Errors
/// What QEMU refuses.
pub(crate) async fn prepare(guest: &Guest, mapped: Option<Shape>, limit: Limit) -> Result<()> {
    let known = guest.execute(commands::QueryMigrateCapabilities {}).await?;
    let is_wanted = |name: &str| mapped.is_some() && matches!(name, MAPPED_RAM | MULTIFD);
    let has = |name: &str| known.iter().any(|known| known.capability == name);
    if mapped.is_some() && !has(MAPPED_RAM) {
        let text = "save image format sparse is not supported by this QEMU binary";
        return Err(Error::new(Code::OperationUnsupported, text));
    }
    let capabilities = CAPABILITIES.iter().filter(|name| has(name));
    let capabilities = capabilities.map(|name| MigrationCapability {
        capability: (*name).to_owned(),
        state: is_wanted(name),
    });
    let capabilities = capabilities.collect();
    guest
        .execute(commands::MigrateSetCapabilities { capabilities })
        .await?;
    let mut parameters = Map::new();
    if limit == Limit::None {
        parameters.insert("max-bandwidth".to_owned(), json!(NO_LIMIT));
    }
    if let Some(mapped) = mapped {
        parameters.insert("multifd-channels".to_owned(), json!(mapped.channels));
        if mapped.direct {
            parameters.insert("direct-io".to_owned(), json!(true));
        }
    }
    if parameters.is_empty() {
        return Ok(());
    }
    guest
        .execute(commands::MigrateSetParameters(parameters))
        .await
        .map(drop)
}

/// Sets back what was set for a way: the guest goes on.
async fn set_back(guest: &Guest, mapped: Option<Shape>, set: Option<i64>) -> Result<()> {
    if let Some(fdset_id) = set {
        let remove = commands::RemoveFd { fdset_id, fd: None };
        // One that QEMU has closed itself is not there any more.
        if let Err(error) = guest.execute(remove).await {
            tracing::debug!(%error, "the set of descriptors of a migration is gone already");
        }
    }
    prepare(guest, None, Limit::None).await?;
    if mapped.is_some_and(|mapped| mapped.direct) {
        let off = Map::from_iter([("direct-io".to_owned(), json!(false))]);
        guest.execute(commands::MigrateSetParameters(off)).await?;
    }
    Ok(())
}

/// Hands the descriptors to QEMU; the address of the migration, and the set of descriptors that was made for it.
async fn hand_over(guest: &Guest, way: Way) -> Result<(String, Option<i64>)> {
    let monitor = guest.monitor()?;
    let client = monitor.client();
    match way {
        Way::Pipe(fd) => {
            let fdname = FD.to_owned();
            client
                .execute_with_fds(commands::Getfd { fdname }, vec![fd])
                .await?;
            Ok((format!("fd:{FD}"), None))
        }
        Way::File(mapped) => {
            let sets = guest.execute(commands::QueryFdsets {}).await?;
            let next = (0..).find(|id| sets.iter().all(|set| set.fdset_id != *id));
            let fdset_id = next.unwrap_or_default();
            let named = [
                (Some(mapped.file), "libvirt-outgoing-migrate-fd"),
                (mapped.direct, "libvirt-outgoing-migrate-directio-fd"),
            ];
            for (fd, opaque) in named {
                let Some(fd) = fd else { continue };
                let command = commands::AddFd {
                    fdset_id: Some(fdset_id),
                    opaque: Some(opaque.to_owned()),
                };
                client.execute_with_fds(command, vec![fd]).await?;
            }
            let offset = mapped.offset;
            Ok((
                format!("file:/dev/fdset/{fdset_id},offset={offset:#x}"),
                Some(fdset_id),
            ))
        }
    }
}

/// Has QEMU write the guest, and waits until all of it is written. The guest's CPUs are stopped before or by it.
///
/// # Errors
/// QEMU fails or dies, the file can't be written, or somebody has cancelled the operation. QEMU has given up then.
pub(crate) async fn write(
    context: &Context,
    guest: &Arc<Guest>,
    job: &LongJob,
    (way, pour): (Way, Option<Pour>),
) -> Result<Statistics> {
    let mapped = match &way {
        Way::File(mapped) => Some(mapped.shape()),
        Way::Pipe(_) => None,
    };
    prepare(guest, mapped, Limit::None).await?;
    let (uri, set) = hand_over(guest, way).await?;
    guest.migration.send_replace(String::new());
    let command = commands::Migrate {
        detach: true,
        resume: false,
        uri,
    };
    let result = match guest.execute(command).await {
        Ok(_) => {
            let waiting = Waiting {
                guest,
                job: Some(job),
                name: job.name(),
            };
            waiting.written(context, pour).await
        }
        Err(error) => {
            // QEMU keeps what it did not take. It may have none: then nothing is to be closed.
            let fdname = FD.to_owned();
            if set.is_none() {
                let _ = guest.execute(commands::Closefd { fdname }).await;
            }
            Err(error)
        }
    };
    if guest.process()?.has_exited() {
        return result;
    }
    match result {
        // A QEMU whose memory is in a file of its own ends now: what it would do next matters to nobody.
        Ok(done) => prepare(guest, mapped, Limit::None).await.map(|()| done),
        Err(error) => {
            if let Err(failed) = set_back(guest, mapped, set).await {
                tracing::warn!(error = %failed, "what a migration had set in QEMU is not set back");
            }
            Err(error)
        }
    }
}

/// Has a QEMU that waits for it load a guest from `uri`, and waits until it has.
///
/// # Errors
/// What is wrong with the stream, that QEMU dies, or somebody has cancelled the operation.
pub(crate) async fn load(
    context: &Context,
    guest: &Arc<Guest>,
    uri: String,
    pour: Option<Pour>,
) -> Result<()> {
    guest.migration.send_replace(String::new());
    let command = commands::MigrateIncoming {
        uri,
        exit_on_error: Some(false),
    };
    guest.execute(command).await?;
    let waiting = Waiting {
        guest,
        job: None,
        name: "start",
    };
    waiting.loaded(context, pour).await
}

/// A migration that is waited for.
struct Waiting<'a> {
    guest: &'a Arc<Guest>,
    job: Option<&'a LongJob>,
    name: &'static str,
}

/// What happens next in a migration.
enum Next {
    /// It is in this state.
    State(String),
    /// The file or the compressor is done, or has failed.
    Poured(Result<()>),
    /// Nothing; time has passed.
    Nothing,
}

impl Waiting<'_> {
    async fn written(&self, context: &Context, mut pour: Option<Pour>) -> Result<Statistics> {
        let mut full = Ok(());
        let step = |next| {
            if let Next::Poured(done) = next {
                // Nobody reads any more: QEMU fails as well, unless it has just written the last of it.
                full = done;
            }
            None
        };
        let written = self.until_over(context, &mut pour, step).await;
        let statistics = match written {
            Ok(()) => self.statistics().await?,
            Err(error) => {
                if full.is_ok() && error.code == Code::OperationFailed {
                    full = self.poured_soon(&mut pour).await;
                }
                drop(pour);
                self.give_up().await;
                return Err(full.err().unwrap_or(error));
            }
        };
        if let Some(job) = self.job {
            job.tell(statistics).await?;
        }
        full?;
        if let Some(mut pour) = pour {
            // All has left QEMU; how long the disk takes for it, nobody can say.
            tokio::select! {
                done = pour.done() => done?,
                () = context.cancelled() => return Err(self.cancelled()),
            }
        }
        Ok(statistics)
    }

    async fn loaded(&self, context: &Context, mut pour: Option<Pour>) -> Result<()> {
        let step = |next| self.load_step(next);
        self.until_over(context, &mut pour, step).await
    }

    /// What a file that is written meets, where QEMU has failed at the pipe to it.
    async fn poured_soon(&self, pour: &mut Option<Pour>) -> Result<()> {
        let Some(pour) = pour else { return Ok(()) };
        if self.guest.process()?.has_exited() {
            return Ok(());
        }
        tokio::time::timeout(DRAINING, pour.done())
            .await
            .unwrap_or(Ok(()))
    }

    /// Goes on until `step` says that it is over.
    async fn until_over(
        &self,
        context: &Context,
        pour: &mut Option<Pour>,
        mut step: impl FnMut(Next) -> Option<Result<()>> + Send,
    ) -> Result<()> {
        let mut states = self.guest.migration.subscribe();
        let mut pace = tokio::time::interval_at(tokio::time::Instant::now() + PACE, PACE);
        let mut drained_since: Option<tokio::time::Instant> = None;
        loop {
            let next = tokio::select! {
                biased;
                () = self.guest.process_ended() => return Err(gone()),
                changed = states.changed() => {
                    changed.map_err(|_| gone())?;
                    Next::State(states.borrow_and_update().clone())
                }
                () = context.cancelled() => return Err(self.cancelled()),
                done = poured(pour) => {
                    *pour = None;
                    drained_since = Some(tokio::time::Instant::now());
                    Next::Poured(done)
                }
                _ = pace.tick() => self.asked(context).await?,
            };
            match &next {
                Next::State(state) if state == "completed" => return Ok(()),
                Next::State(state) if matches!(state.as_str(), "failed" | "cancelled") => {
                    return Err(self.failed().await);
                }
                _ => {}
            }
            if let Some(over) = step(next) {
                return over;
            }
            // A stream that is over and was not taken for one: QEMU would wait for the rest for ever.
            if self.job.is_none() && drained_since.is_some_and(|since| since.elapsed() > GIVING_UP) {
                let text = format!("job '{}' failed: the image ends before the guest does", self.name);
                return Err(Error::new(Code::OperationFailed, text));
            }
        }
    }

    fn load_step(&self, next: Next) -> Option<Result<()>> {
        match next {
            Next::Poured(Err(error)) => {
                let text = format!("job '{}' failed: {}", self.name, error.message);
                Some(Err(Error::new(Code::OperationFailed, text)))
            }
            _ => None,
        }
    }

    /// Asks QEMU how far it is, and posts it. The answer has the state, too: not every QEMU tells it by itself.
    async fn asked(&self, context: &Context) -> Result<Next> {
        // A QEMU that has much to do for the end of a migration may be slow; it is asked again.
        let Ok(answer) = self.guest.monitor()?.execute(commands::QueryMigrate {}).await else {
            return Ok(Next::Nothing);
        };
        if let Some(transfer) = long_job::transfer(&answer) {
            if let Some(job) = self.job {
                job.post(Statistics::Transfer(transfer));
            }
            let done = transfer.total.saturating_sub(transfer.remaining);
            context.progress(done, transfer.total);
        }
        let state = answer.get("status").and_then(Value::as_str);
        Ok(state.map_or(Next::Nothing, |state| Next::State(state.to_owned())))
    }

    async fn statistics(&self) -> Result<Statistics> {
        let answer = self.guest.execute(commands::QueryMigrate {}).await?;
        Ok(long_job::transfer(&answer).map_or(Statistics::None, Statistics::Transfer))
    }

    /// Why QEMU failed.
    async fn failed(&self) -> Error {
        let answer = self.guest.execute(commands::QueryMigrate {}).await;
        let answer = answer.unwrap_or_default();
        let text = match answer.get("error-desc").and_then(Value::as_str) {
            Some(why) => format!("job '{}' failed: {why}", self.name),
            None => format!("job '{}' unexpectedly failed", self.name),
        };
        Error::new(Code::OperationFailed, text)
    }

    fn cancelled(&self) -> Error {
        match self.job {
            Some(job) => job.cancelled(),
            None => {
                let text = format!("job '{}' canceled by client", self.name);
                Error::new(Code::OperationAborted, text)
            }
        }
    }

    /// Has QEMU give up, and waits until it has.
    async fn give_up(&self) {
        let over = |state: &String| matches!(state.as_str(), "" | "completed" | "failed" | "cancelled");
        let given_up = async {
            let mut states = self.guest.migration.subscribe();
            let mut is_told = false;
            loop {
                let answer = self.guest.execute(commands::QueryMigrate {}).await?;
                let state = answer.get("status").and_then(Value::as_str).unwrap_or_default();
                if over(&state.to_owned()) {
                    return Ok::<_, Error>(());
                }
                if !std::mem::replace(&mut is_told, true) {
                    self.guest.execute(commands::MigrateCancel {}).await?;
                }
                // The event may be missing: it is asked again.
                let _ = tokio::time::timeout(DRAINING / 20, states.changed()).await;
            }
        };
        let gone = async {
            // What does not answer any more ends.
            if given_up.await.is_err() {
                self.guest.process_ended().await;
            }
        };
        tokio::select! {
            () = self.guest.process_ended() => {}
            ended = tokio::time::timeout(GIVING_UP, gone) => {
                if ended.is_err() {
                    tracing::error!(guest = %self.guest.domain.view().name, "QEMU does not give up a migration");
                }
            }
        }
    }
}

/// Waits for what is poured; for ever if nothing is.
async fn poured(pour: &mut Option<Pour>) -> Result<()> {
    match pour {
        Some(pour) => pour.done().await,
        None => std::future::pending().await,
    }
}

/// QEMU has died in the midst of it.
pub(crate) fn gone() -> Error {
    Error::new(Code::OperationFailed, "domain is not running")
}

/// A second descriptor of the same file past the page cache.
///
/// # Errors
/// `System`.
pub(crate) fn directly(path: &Path, write: bool) -> Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    let opened = std::fs::OpenOptions::new()
        .read(!write)
        .write(write)
        .custom_flags(nix::fcntl::OFlag::O_DIRECT.bits())
        .open(path);
    let file = opened
        .map_err(|error| Error::system(format_args!("Failed to open file '{}'", path.display()), error))?;
    Ok(file.into())
}
