//! Saving a guest into an image, and ending it.
//!
//! ```text
//!  checks ─▶ intent, job ─▶ CPUs stopped ─▶ file made ─▶ memory written ─▶ sealed ─▶ QEMU ended
//!                              │               │              │
//!                              ◀───────────────◀──────────────◀ error, cancelled: all undone, the guest goes on
//! ```
//!
//! Until the image is sealed it says of itself that it is not complete; from then on it is the guest, and QEMU ends. The
//! hard thing is to have never both: a QEMU that can't be ended goes on only after its image is none any more.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use domxml::{SaveCookie, status::AsyncJob};
use qemu_plan::save_image::{Header, ImageFormat, Texts};

use super::{
    image::{self, New},
    memory::{self, Mapped, Way},
    movable,
    pour::{self, Cache, Pour},
};
use crate::{
    config::SaveFormat,
    domain::{
        Condition, Domain, Effects, RunState, View,
        intents::Intent,
        jobs::{Long, Want},
        long_job::{Kind, Outcome, Statistics},
    },
    error::{Error, Result},
    ops::{
        Conditions, Driver,
        document::copy,
        holdings::net::traffic,
        operation::{
            self, Ask, Context, Operation,
            record::{Followed, Record},
        },
        run::{
            cause::Cause,
            cpus,
            guest::Guest,
            long_job::{LongJob, What},
            react, stop,
        },
    },
};

/// What operations of this kind are called.
pub const KIND: &str = "save";

/// How a guest is saved.
#[derive(Clone, Debug, Default)]
pub struct How {
    /// The image; none: a managed save.
    pub path: Option<PathBuf>,
    /// A document that the image gets instead of the guest's.
    pub xml: Option<String>,
    /// How it is stored; none: as qemu.conf says.
    pub format: Option<ImageFormat>,
    /// How many channels write at once, if that was said.
    pub channels: Option<i64>,
    /// Write past the page cache.
    pub bypass_cache: bool,
    /// Whether the guest is to run once it is restored; none: as it does now.
    pub runs: Option<bool>,
}

impl How {
    fn cache(&self) -> Cache {
        cache(self.bypass_cache)
    }

    /// libvirt's flags.
    fn flags(&self) -> u32 {
        let state = match self.runs {
            None => 0,
            Some(true) => 2,
            Some(false) => 4,
        };
        state | u32::from(self.bypass_cache)
    }
}

pub(super) fn cache(bypass: bool) -> Cache {
    if bypass { Cache::Bypassed } else { Cache::Used }
}

/// The format that qemu.conf names.
pub(crate) fn configured(format: SaveFormat) -> ImageFormat {
    match format {
        SaveFormat::Raw => ImageFormat::Raw,
        SaveFormat::Gzip => ImageFormat::Gzip,
        SaveFormat::Bzip2 => ImageFormat::Bzip2,
        SaveFormat::Xz => ImageFormat::Xz,
        SaveFormat::Lzop => ImageFormat::Lzop,
        SaveFormat::Zstd => ImageFormat::Zstd,
        SaveFormat::Sparse => ImageFormat::Sparse,
    }
}

/// How many channels there are, if a format can have so many.
///
/// # Errors
/// `InvalidArg`.
pub(crate) fn channels(wanted: Option<i64>, format: ImageFormat) -> Result<u32> {
    let Some(wanted) = wanted else { return Ok(1) };
    if format != ImageFormat::Sparse {
        let text = "Parallel save is only supported with the 'sparse' save image format";
        return Err(Error::argument(text));
    }
    // How many are too many, QEMU says.
    let wanted = u32::try_from(wanted).ok().filter(|channels| *channels > 0);
    wanted.ok_or_else(|| Error::argument("number of parallel save channels cannot be less than 1"))
}

/// Begins to save a guest; `None` if it was only a trial.
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
        let attempt = || Box::pin(save(&owned, &domain, &how, &conditions, &mine));
        operation::followed((&owned, &domain), &mine, attempt).await
    };
    operation::launch(driver, followed, work).await
}

async fn save(
    driver: &Arc<Driver>,
    domain: &Domain,
    how: &How,
    conditions: &Conditions,
    followed: &Arc<Followed>,
) -> Result<()> {
    let format = match how.format {
        Some(format) => format,
        None => configured(driver.config().save_format.save),
    };
    let compressor = pour::program(format, "save")?;
    saveable(&domain.view(), how)?;
    let ask = Ask {
        kind: "save",
        job: Want::Long(Long::Save),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    let view = operation.view();
    saveable(&view, how)?;
    let guest = driver.guests.of(&view)?;
    movable::check(&guest, &view).await?;
    let content = Content::plan(driver, &view, how, format).await;
    let path = match &how.path {
        Some(path) => path.clone(),
        None => driver.registry.store().managed_save_path(&view.name),
    };
    if operation.is_trial() {
        content?;
        return New::may_create(&path).await;
    }
    let saving = Saving {
        guest,
        path,
        managed: how.path.is_none(),
        cache: how.cache(),
        compressor,
        flags: how.flags(),
    };
    let operation = operation.in_record_of(followed);
    operation
        .carry_out(|context| Box::pin(async move { saving.carry_out(content, &context).await }))
        .await
}

/// What is written into an image beside the guest's memory, and how.
struct Content {
    head: (Header, Vec<u8>),
    channels: u32,
}

impl Content {
    /// Plans it. What stands in the way of it is told once the CPUs stand: a client sees them stop and go on, as with libvirt.
    ///
    /// # Errors
    /// The document that the image is to get is none, or another machine's; the format can't have so many channels.
    async fn plan(driver: &Arc<Driver>, view: &View, how: &How, format: ImageFormat) -> Result<Self> {
        let texts = Texts {
            document: image::document_of(driver, view, how.xml.clone()).await?,
            cookie: Some(cookie(view)?.format()),
        };
        let runs = view.condition.state() == RunState::Running;
        Ok(Self {
            channels: channels(how.channels, format)?,
            head: texts.compose(how.runs.unwrap_or(runs), format),
        })
    }
}

fn saveable(view: &View, how: &How) -> Result<()> {
    view.running()?;
    if how.path.is_none() && view.config.is_none() {
        return Err(Error::invalid("cannot do managed save for transient domain"));
    }
    Ok(())
}

/// What the image's document does not say: the CPU as QEMU has it.
fn cookie(view: &View) -> Result<SaveCookie> {
    let document = &view.running()?.document.domain;
    Ok(SaveCookie {
        cpu: copy::cpu_of_run(document),
        slirp_helper: copy::user_networks_go_along(document),
        ..SaveCookie::default()
    })
}

/// A save that is checked and may begin.
struct Saving {
    guest: Arc<Guest>,
    path: PathBuf,
    managed: bool,
    cache: Cache,
    compressor: Option<PathBuf>,
    flags: u32,
}

impl Saving {
    async fn carry_out(self, content: Result<Content>, context: &Arc<Context>) -> Result<()> {
        let driver = Arc::clone(context.driver());
        if self.managed {
            make_directory(&self.path).await?;
        }
        let created = !New::exists(&self.path).await?;
        context.intend(self.intent(created, false)).await?;
        let what = What {
            kind: Kind::Save,
            word: AsyncJob::Save,
            name: "domain save",
            flags: self.flags,
            uncancellable: None,
        };
        let job = LongJob::begin(context, what).await?;
        end_with_undo(context, &job).await?;
        context.set_cancellable(true);
        stop_cpus(context, &self.guest, Condition::PAUSED_SAVE).await?;
        let content = content?;
        let statistics = self.write(context, &job, &content).await?;
        if context.is_cancelled() {
            return Err(job.cancelled());
        }
        context.set_cancellable(false);
        context.enter("sealed");
        image::seal(&self.path, content.head.0).await?;
        self.end(context, &driver, &job, statistics).await
    }

    fn intent(&self, created: bool, begun: bool) -> Intent {
        Intent::Save {
            path: self.path.to_string_lossy().into_owned(),
            created,
            begun,
        }
    }

    /// Writes all of the image; it is not complete yet.
    async fn write(
        &self,
        context: &Arc<Context>,
        job: &Arc<LongJob>,
        content: &Content,
    ) -> Result<Statistics> {
        let (header, data) = &content.head;
        let mut head = header.encode(false).to_vec();
        head.extend_from_slice(data);
        let is_mapped = header.format == ImageFormat::Sparse;
        let cache = if is_mapped { Cache::Used } else { self.cache };
        // An image that QEMU has ended for is the guest.
        let stays = |cause| cause == Some(Cause::Saved);
        let new = make_file(context, &self.guest, &self.path, (cache, stays)).await?;
        context.intend(self.intent(new.created, true)).await?;
        context.enter("memory");
        if !is_mapped {
            let (pour, to) = Pour::into_file(new.file, &self.path, head, (cache, self.compressor.clone()))?;
            return memory::write(context, &self.guest, job, (Way::Pipe(to), Some(pour))).await;
        }
        let path = self.path.clone();
        let bypass = self.cache == Cache::Bypassed;
        let opened = crate::blocking::file("writing a saved guest's image", move || {
            use std::os::unix::fs::FileExt;
            let written = new.file.write_all_at(&head, 0);
            written.map_err(|e| Error::system(format_args!("Failed to write '{}'", path.display()), e))?;
            let direct = match bypass {
                true => Some(memory::directly(&path, true)?),
                false => None,
            };
            Ok((new.file.into(), direct))
        });
        let (file, direct) = opened.await?;
        let mapped = Mapped {
            file,
            direct,
            offset: header.stream_at(),
            channels: content.channels,
        };
        memory::write(context, &self.guest, job, (Way::File(mapped), None)).await
    }

    /// The image is the guest now: QEMU ends.
    async fn end(
        &self,
        context: &Arc<Context>,
        driver: &Arc<Driver>,
        job: &Arc<LongJob>,
        statistics: Statistics,
    ) -> Result<()> {
        // From here on what was done is undone by hand, and only if QEMU goes on: an image must not go with its guest.
        let undo = context.take_undo().await;
        if self.managed {
            let saved = |view: &mut View| {
                view.managed_save = true;
                Ok(Effects::none())
            };
            context.domain().commit(saved).await?;
        }
        context.enter("ended");
        let first = self.guest.end_because(Cause::Saved);
        if let Err(error) = stop::terminate(driver, &self.guest, stop::Patience::Usual).await {
            if self.guest.process()?.has_exited() {
                return Err(error);
            }
            self.guest.goes_on(first);
            if self.managed {
                let not_saved = |view: &mut View| {
                    view.managed_save = false;
                    Ok(Effects::none())
                };
                context.domain().commit(not_saved).await?;
            }
            let failed = undo.unwind().await;
            return Err(operation::with_failed(error, &failed));
        }
        job.end(Outcome::Completed, Some(statistics)).await;
        Ok(())
    }
}

/// The job ends, too, when what was done is undone.
pub(crate) async fn end_with_undo(context: &Arc<Context>, job: &Arc<LongJob>) -> Result<()> {
    let (ended, context_of) = (Arc::clone(job), Arc::downgrade(context));
    let mut steps = context.steps("job").await?;
    steps.push("the job", async move {
        let was_cancelled = context_of.upgrade().is_some_and(|context| context.is_cancelled());
        let outcome = if was_cancelled {
            Outcome::Cancelled
        } else {
            Outcome::Failed
        };
        ended.end(outcome, None).await;
        Ok(())
    });
    Ok(())
}

/// Stops the CPUs, if they run; undone, they run again.
pub(super) async fn stop_cpus(
    context: &Arc<Context>,
    guest: &Arc<Guest>,
    condition: Condition,
) -> Result<()> {
    if context.view().condition.state() != RunState::Running {
        return Ok(());
    }
    guest.expect_pause(condition);
    let stop = async { guest.execute(qmp::commands::Stop {}).await.map(drop) };
    let running = match condition {
        // Whether it is dumped or not: the guest goes on.
        Condition::PAUSED_DUMP => Condition::RUNNING_UNPAUSED,
        _ => Condition::RUNNING_SAVE_CANCELED,
    };
    let again = resume(Arc::clone(context.driver()), Arc::clone(guest), running);
    context.step("CPUs", stop, again).await?;
    traffic::hold_back(&context.view()).await;
    // QEMU's own event has told it, or will find it told. The steps stay to be undone.
    context
        .domain()
        .commit(move |view| Ok(react::paused(view, condition)))
        .await?;
    cpus::cpus_stopped(context.driver(), guest).await;
    Ok(())
}

/// Has the CPUs run again; a guest that has ended needs none.
pub(super) async fn resume(driver: Arc<Driver>, guest: Arc<Guest>, condition: Condition) -> Result<()> {
    if guest.process()?.has_exited() {
        return Ok(());
    }
    traffic::allow(&guest.domain.view().running()?.document.domain).await?;
    let run = async {
        guest.execute(qmp::commands::Cont {}).await?;
        let id = guest.id;
        let change = move |view: &mut View| {
            if view.id() != id {
                return Ok(Effects::none());
            }
            let effects = react::resumed(view);
            view.condition = condition;
            Ok(effects)
        };
        guest.domain.commit(change).await.map(drop)
    };
    cpus::run_cpus(&driver, &guest, run).await
}

/// Makes the file; undone, it is gone, or is no image. It is kept if QEMU has ended for a reason for which it `stays`.
pub(crate) async fn make_file(
    context: &Arc<Context>,
    guest: &Arc<Guest>,
    path: &Path,
    (cache, stays): (Cache, fn(Option<Cause>) -> bool),
) -> Result<New> {
    let new = New::create(path, cache).await?;
    let (made, created, guest) = (path.to_owned(), new.created, Arc::clone(guest));
    let mut steps = context.steps("file").await?;
    steps.push("the file", async move {
        if guest.has_ended().await && stays(guest.ending()) {
            return Ok(());
        }
        crate::blocking::file("removing a file", move || image::discard(&made, created)).await
    });
    Ok(new)
}

async fn make_directory(path: &Path) -> Result<()> {
    let dir = path.parent().map(Path::to_owned).unwrap_or_default();
    crate::blocking::file("making the directory of managed saves", move || {
        std::fs::create_dir_all(&dir)
            .map_err(|e| Error::system(format_args!("cannot create directory '{}'", dir.display()), e))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sparse_images_have_channels() {
        let text = |wanted, format| channels(wanted, format).map_err(|error| error.to_string());
        assert_eq!(text(None, ImageFormat::Raw), Ok(1));
        assert_eq!(text(Some(3), ImageFormat::Sparse), Ok(3));
        assert_eq!(text(Some(300), ImageFormat::Sparse), Ok(300));
        let refused = |text: &str| Err(format!("invalid argument: {text}"));
        assert_eq!(
            text(Some(2), ImageFormat::Raw),
            refused("Parallel save is only supported with the 'sparse' save image format")
        );
        for wanted in [0, -1, i64::MIN] {
            assert_eq!(
                text(Some(wanted), ImageFormat::Sparse),
                refused("number of parallel save channels cannot be less than 1")
            );
        }
    }

    #[test]
    fn flags_are_libvirts() {
        let how = |bypass_cache, runs| How {
            bypass_cache,
            runs,
            ..How::default()
        };
        assert_eq!(how(false, None).flags(), 0);
        assert_eq!(how(true, Some(true)).flags(), 3);
        assert_eq!(how(false, Some(false)).flags(), 4);
    }
}
