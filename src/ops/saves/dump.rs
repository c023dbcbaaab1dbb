//! Dumps: all of a guest as a save has it, or its memory alone for debuggers, in a file; the guest goes on or ends then.
//!
//! [`begin`] is for callers; [`by_itself`] for guests that crashed or whose watchdog expired, if their documents say so. A
//! dump of memory alone can't be cancelled, since QEMU can't be told to give it up.

use std::{path::PathBuf, sync::Arc, time::Duration};

use domxml::status::AsyncJob;
use qemu_plan::save_image::ImageFormat;
use qmp::commands;
use serde_json::{Map, json};

use super::{
    image::New,
    memory::{self, Way},
    movable,
    pour::{self, Pour},
    save::{cache, configured, end_with_undo, make_file, resume, stop_cpus},
};
use crate::{
    domain::{
        Condition, Domain, RunState, View,
        intents::Intent,
        jobs::{Long, Want},
        long_job::{Kind, Outcome, Statistics},
    },
    error::{Code, Error, Result},
    ops::{
        Conditions, Driver,
        operation::{
            self, Ask, Context, Operation,
            record::{Followed, Record},
        },
        run::{
            cause::Cause,
            guest::Guest,
            long_job::{LongJob, What},
            power, stop,
        },
    },
};

/// What operations of this kind are called.
pub const KIND: &str = "dump";
/// How often QEMU is asked how far it is.
const PACE: Duration = Duration::from_millis(500);
/// The name of the descriptor in QEMU.
const FD: &str = "dump";
/// QEMU's format where none is named.
const ELF: &str = "elf";

/// What is dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// All of the guest, for QEMU.
    Whole,
    /// Its memory, in QEMU's format of this name.
    Memory(&'static str),
}

/// What the guest does meanwhile and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Its CPUs stand, and run again if they did.
    GoOn,
    /// Its CPUs run, as far as QEMU lets them.
    Live,
    /// It ends as crashed.
    Crash,
    /// It is reset.
    Reset,
    /// Its CPUs stand, and stay so: something else follows.
    Stay,
}

/// How a guest is dumped.
#[derive(Clone, Debug)]
pub struct How {
    /// The file.
    pub path: PathBuf,
    /// What is dumped.
    pub content: Content,
    /// What the guest does.
    pub then: Then,
    /// Write past the page cache.
    pub bypass_cache: bool,
}

impl How {
    /// libvirt's flags.
    fn flags(&self) -> u32 {
        let then = match self.then {
            Then::GoOn | Then::Stay => 0,
            Then::Crash => 1,
            Then::Live => 2,
            Then::Reset => 8,
        };
        let memory = if self.content == Content::Whole { 0 } else { 16 };
        then | memory | u32::from(self.bypass_cache) << 2
    }
}

/// Begins to dump a guest; `None` if it was only a trial.
///
/// # Errors
/// What is in the way of the beginning.
pub async fn begin(
    driver: &Arc<Driver>,
    domain: &Domain,
    how: How,
    conditions: &Conditions,
) -> Result<Option<Arc<Record>>> {
    let followed = Arc::new(Followed::default());
    let (owned, domain, mine) = (Arc::clone(driver), domain.clone(), Arc::clone(&followed));
    let conditions = conditions.clone();
    let work = async move {
        let attempt = || Box::pin(dump(&owned, &domain, &how, &conditions, &mine));
        operation::followed((&owned, &domain), &mine, attempt).await
    };
    operation::launch(driver, followed, work).await
}

async fn dump(
    driver: &Arc<Driver>,
    domain: &Domain,
    how: &How,
    conditions: &Conditions,
    followed: &Arc<Followed>,
) -> Result<()> {
    domain.view().running()?;
    let ask = Ask {
        kind: "dump",
        job: Want::Long(Long::Dump),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    let view = operation.view();
    let guest = driver.guests.of(&view)?;
    // There is no sparse form of what goes through a pipe.
    let format = match configured(driver.config().save_format.dump) {
        ImageFormat::Sparse => ImageFormat::Raw,
        other => other,
    };
    let possible = Possible {
        program: pour::program(format, "dump"),
        content: dumpable(&guest, &view, how.content).await,
    };
    if operation.is_trial() {
        possible.program?;
        New::may_create(&how.path).await?;
        return possible.content;
    }
    let dumping = Dumping {
        guest,
        how: how.clone(),
        // Of one that has just crashed or stopped it may not be known yet.
        ran: how.then != Then::Stay && view.condition.state() == RunState::Running,
    };
    let operation = operation.in_record_of(followed);
    operation
        .carry_out(|context| Box::pin(async move { dumping.carry_out(possible, &context).await }))
        .await
}

/// Whether QEMU can write this of the guest.
async fn dumpable(guest: &Guest, view: &View, content: Content) -> Result<()> {
    match content {
        Content::Whole => movable::check(guest, view).await,
        Content::Memory(ELF) => Ok(()),
        Content::Memory(format) => {
            let known = guest.execute(commands::QueryDumpGuestMemoryCapability {}).await?;
            if known.formats.iter().any(|known| known == format) {
                return Ok(());
            }
            let text = format!("unsupported dumpformat '{format}' for this QEMU binary");
            Err(Error::argument(text))
        }
    }
}

/// What a dump needs. What is missing is told where libvirt tells it: once the CPUs stand.
struct Possible {
    /// The program that compresses, if one does. Before the file is made.
    program: Result<Option<PathBuf>>,
    /// What QEMU can write. After the file is made.
    content: Result<()>,
}

/// A dump that may begin.
struct Dumping {
    guest: Arc<Guest>,
    how: How,
    /// The CPUs ran before.
    ran: bool,
}

impl Dumping {
    async fn carry_out(self, possible: Possible, context: &Arc<Context>) -> Result<()> {
        let path = self.how.path.to_string_lossy().into_owned();
        context.intend(Intent::Dump { path }).await?;
        let whole = self.how.content == Content::Whole;
        let what = What {
            kind: Kind::Dump,
            word: AsyncJob::Dump,
            name: "domain core dump",
            flags: self.how.flags(),
            uncancellable: (!whole).then_some("cannot abort memory-only dump"),
        };
        let job = LongJob::begin(context, what).await?;
        end_with_undo(context, &job).await?;
        context.set_cancellable(whole);
        match self.how.then {
            Then::Live => self.run_on_if_it_fails(context).await?,
            Then::Stay => {}
            _ => stop_cpus(context, &self.guest, Condition::PAUSED_DUMP).await?,
        }
        let statistics = self.write(context, &job, possible).await?;
        if context.is_cancelled() {
            return Err(job.cancelled());
        }
        context.set_cancellable(false);
        // The file stays, whatever becomes of the guest now.
        let _done = context.take_undo().await;
        let after = self.after(context).await;
        // Of one of memory alone nothing is kept, as with libvirt.
        let kept = Some(statistics).filter(|_| whole);
        job.end(Outcome::Completed, kept).await;
        after
    }

    /// QEMU stops the CPUs by itself in the end; they run again if that was in vain.
    async fn run_on_if_it_fails(&self, context: &Arc<Context>) -> Result<()> {
        if !self.ran {
            return Ok(());
        }
        self.guest.expect_pause(Condition::PAUSED_DUMP);
        let again = self.again(context, Condition::RUNNING_UNPAUSED);
        context.steps("live").await?.push("CPUs", again);
        Ok(())
    }

    fn again(
        &self,
        context: &Arc<Context>,
        condition: Condition,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        resume(Arc::clone(context.driver()), Arc::clone(&self.guest), condition)
    }

    async fn write(
        &self,
        context: &Arc<Context>,
        job: &Arc<LongJob>,
        possible: Possible,
    ) -> Result<Statistics> {
        let compressor = possible.program?;
        let cache = cache(self.how.bypass_cache);
        // What was dumped of a guest that died meanwhile is all that there is of it.
        let new = make_file(context, &self.guest, &self.how.path, (cache, |_| true)).await?;
        possible.content?;
        context.enter("memory");
        match self.how.content {
            Content::Whole => {
                let (pour, to) = Pour::into_file(new.file, &self.how.path, Vec::new(), (cache, compressor))?;
                memory::write(context, &self.guest, job, (Way::Pipe(to), Some(pour))).await
            }
            Content::Memory(format) => {
                let (pour, to) = Pour::into_file(new.file, &self.how.path, Vec::new(), (cache, None))?;
                write_memory(context, &self.guest, job, (format, to.into(), pour)).await
            }
        }
    }

    async fn after(&self, context: &Arc<Context>) -> Result<()> {
        match self.how.then {
            Then::Crash => {
                context.enter("ended");
                let first = self.guest.end_because(Cause::Crashed);
                let ended = stop::terminate(context.driver(), &self.guest, stop::Patience::Usual).await;
                if ended.is_err() {
                    self.guest.goes_on(first);
                }
                return ended;
            }
            Then::Reset => {
                self.guest.execute(commands::SystemReset {}).await?;
            }
            Then::GoOn | Then::Live | Then::Stay => {}
        }
        if !self.ran {
            return Ok(());
        }
        self.again(context, Condition::RUNNING_UNPAUSED).await
    }
}

/// Has QEMU write the guest's memory alone, and waits until all of it is written.
async fn write_memory(
    context: &Context,
    guest: &Arc<Guest>,
    job: &LongJob,
    (format, to, mut pour): (&str, std::fs::File, Pour),
) -> Result<Statistics> {
    let monitor = guest.monitor()?;
    let fdname = FD.to_owned();
    let client = monitor.client();
    client
        .execute_with_fds(commands::Getfd { fdname }, vec![to.into()])
        .await?;
    guest.dumped.send_replace(None);
    let mut arguments = Map::from_iter([
        ("paging".to_owned(), json!(false)),
        ("protocol".to_owned(), json!(format!("fd:{FD}"))),
        ("detach".to_owned(), json!(true)),
    ]);
    if format != ELF {
        arguments.insert("format".to_owned(), json!(format));
    }
    guest.execute(commands::DumpGuestMemory(arguments)).await?;
    let failed = |why: &str| {
        let text = format!("memory-only dump failed: {why}");
        Error::new(Code::OperationFailed, text)
    };
    let mut ends = guest.dumped.subscribe();
    let mut pace = tokio::time::interval_at(tokio::time::Instant::now() + PACE, PACE);
    let mut poured = None;
    let total = loop {
        tokio::select! {
            biased;
            () = guest.process_ended() => return Err(memory::gone()),
            ended = ended(&mut ends) => {
                match ended?.map(|end| (end.error, end.result)) {
                    Some((None, result)) if result.status == "completed" => break result.total,
                    Some((error, _)) => {
                        // A file that can't be written is why.
                        match poured {
                            Some(done) => done?,
                            None => pour.done().await?,
                        }
                        return Err(failed(&error.unwrap_or_default()));
                    }
                    None => {}
                }
            }
            // What was written so far can only have failed; QEMU will tell so.
            done = pour.done(), if poured.is_none() => poured = Some(done),
            _ = pace.tick() => {
                let told = guest.execute(commands::QueryDump {}).await?;
                job.post(Statistics::Dump { total: told.total, processed: told.completed });
                context.progress(told.completed, told.total);
            }
        }
    };
    match poured {
        Some(done) => done?,
        None => pour.done().await?,
    }
    Ok(Statistics::Dump {
        total,
        processed: total,
    })
}

/// Waits until QEMU's dump has ended.
async fn ended(
    ends: &mut tokio::sync::watch::Receiver<Option<qmp::events::DumpCompleted>>,
) -> Result<Option<qmp::events::DumpCompleted>> {
    let ended = ends.wait_for(Option::is_some).await;
    Ok(ended.map_err(|_| memory::gone())?.clone())
}

/// What follows a dump that the guest's document asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// The machine is reset and runs.
    Restart,
    /// The run ends.
    End,
    /// The CPUs run again.
    Resume,
}

/// Dumps a guest's memory into qemu.conf's directory and does what follows. If it can't be dumped, nothing follows: the
/// guest stays as it is, for somebody to look at.
pub(crate) async fn by_itself(driver: Arc<Driver>, guest: Arc<Guest>, after: After) {
    let view = guest.domain.view();
    let attempt = async {
        let how = How {
            path: automatic_path(&driver, &view).await?,
            content: Content::Memory(ELF),
            then: Then::Stay,
            bypass_cache: driver.config().auto.dump_bypass_cache,
        };
        let path = how.path.clone();
        let followed = Arc::new(Followed::default());
        let conditions = Conditions::default();
        let attempt = || Box::pin(dump(&driver, &guest.domain, &how, &conditions, &followed));
        operation::followed((&driver, &guest.domain), &followed, attempt).await?;
        tracing::info!(guest = %view.name, file = %path.display(), "dumped, as its document says");
        Ok::<_, Error>(())
    };
    if let Err(error) = attempt.await {
        tracing::error!(guest = %view.name, %error, "the guest could not be dumped; it is left as it is");
        return;
    }
    match after {
        After::Restart => power::restart(&driver, &guest).await,
        After::End => {
            guest.end_because(Cause::Crashed);
            if let Err(error) = stop::terminate(&driver, &guest, stop::Patience::Usual).await {
                tracing::error!(guest = %view.name, %error, "the guest could not be ended after its dump");
            }
        }
        After::Resume => {
            let resumed = async {
                let job = guest
                    .domain
                    .job(Want::Plain(crate::domain::jobs::Kind::Modify))
                    .await?;
                let running = resume(
                    Arc::clone(&driver),
                    Arc::clone(&guest),
                    Condition::RUNNING_UNPAUSED,
                )
                .await;
                drop(job);
                running
            };
            if let Err(error) = resumed.await {
                tracing::error!(guest = %view.name, %error, "the guest could not go on after its dump");
            }
        }
    }
}

/// `ID-NAME-YYYY-MM-DD-HH:MM:SS` in the directory of automatic dumps.
async fn automatic_path(driver: &Driver, view: &View) -> Result<PathBuf> {
    let config = driver.config();
    let dir = config
        .paths
        .auto_dump
        .clone()
        .unwrap_or_else(|| driver.registry.store().paths().dumps());
    let name = crate::ops::document::plan::short_name(view.id(), &view.name);
    let moment = crate::ops::host::clock::stamp();
    let path = dir.join(format!("{name}-{moment}"));
    crate::blocking::file("making the directory of dumps", move || {
        std::fs::create_dir_all(&dir)
            .map_err(|e| Error::system(format_args!("cannot create directory '{}'", dir.display()), e))
    })
    .await?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_libvirts() {
        let how = |then, content, bypass_cache| How {
            path: PathBuf::new(),
            content,
            then,
            bypass_cache,
        };
        assert_eq!(how(Then::GoOn, Content::Whole, false).flags(), 0);
        assert_eq!(how(Then::Live, Content::Memory(ELF), true).flags(), 2 | 4 | 16);
        assert_eq!(how(Then::Crash, Content::Whole, false).flags(), 1);
        assert_eq!(how(Then::Stay, Content::Memory(ELF), false).flags(), 16);
        assert_eq!(how(Then::Reset, Content::Whole, false).flags(), 8);
    }
}
