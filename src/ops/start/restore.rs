//! Starting a guest from an image instead of booting it.
//!
//! The stages are those of any start, with two more: once QEMU answers it loads the image, and once it has loaded it the
//! guest is there, paused, which its status file says. Only then an image of a managed save is removed, and only then the
//! CPUs run: whatever fails before, the image is still the guest; whatever fails after, QEMU is.

use std::{
    os::fd::{OwnedFd, RawFd},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Instant, SystemTime},
};

use qemu_plan::{address::Age, command::CommandLine, save_image::ImageFormat};
use uuid::Uuid;

use super::{How, attempt::Attempt, carrying_out, plan, reserve::Reserved, taint};
use crate::{
    config::QemuConfig,
    domain::{
        Domain, Effects, GONE, View,
        intents::Intent,
        jobs::{Long, Want},
        long_job::{Current, Kind, Statistics},
    },
    error::{Area, Code, Error, Result},
    hooks::{self, Script},
    ops::{
        Conditions, Driver,
        document::{abi, prepared::Prepared},
        holdings::net::traffic,
        host::identity::Identity,
        operation::{
            self, Ask, Context, Operation,
            record::{Followed, Record},
        },
        run::{cpus, guest::Guest, react},
        saves::{
            image::Image,
            memory::{self, Limit, Shape},
            pour::{Cache, Pour},
            save::channels,
        },
    },
};

/// What operations of this kind are called.
pub const KIND: &str = "restore";
/// Names of QEMU's descriptors of an image, as libvirt has them.
const BUFFERED: &str = "libvirt-incoming-migrate-buffered-fd";
const DIRECT: &str = "libvirt-incoming-migratedirect-io-fd";

/// How a guest is restored.
#[derive(Clone, Debug, Default)]
pub struct Restore {
    /// The image.
    pub path: PathBuf,
    /// A document that the guest gets instead of the image's.
    pub xml: Option<String>,
    /// How many channels read at once, if that was said.
    pub channels: Option<i64>,
    /// Read past the page cache.
    pub bypass_cache: bool,
    /// Whether the CPUs run; none: as the image says.
    pub runs: Option<bool>,
    /// Begin with fresh firmware variables.
    pub reset_nvram: bool,
}

/// An image that a guest is started from.
#[derive(Debug)]
pub(crate) struct Source {
    image: Image,
    /// It goes when the guest goes on.
    managed: bool,
    /// The CPUs are to run.
    pub(super) runs: bool,
    channels: u32,
    cache: Cache,
    /// A sparse one is a plain stream, too.
    plain: bool,
    /// A script of the administrator has changed the document.
    scripted: bool,
}

/// An image on its way into a process that is not QEMU yet.
pub(crate) struct Incoming {
    pour: Option<Pour>,
    way: Way,
    /// Of a snapshot: a new QEMU has nothing set that would have to be set anew.
    plain: bool,
}

enum Way {
    /// A descriptor that is read to its end.
    Stream(RawFd),
    /// A file in which every page has its place; the number of its set of descriptors, once it is known.
    Mapped {
        file: RawFd,
        direct: Option<RawFd>,
        offset: u64,
        channels: u32,
        set: Option<u32>,
    },
}

/// Begins to restore a guest; `None` if it was only a trial.
///
/// # Errors
/// What is in the way of the beginning: what is wrong with the image, or with the document.
pub async fn begin(
    driver: &Arc<Driver>,
    how: Restore,
    conditions: &Conditions,
) -> Result<Option<Arc<Record>>> {
    let image = Image::open(&how.path).await?;
    let channels = channels(how.channels, image.header.format)?;
    let own = plan::complete(driver, image.document()?, Age::Known)
        .await?
        .domain;
    let xml = how.xml;
    let document = match &xml {
        None => own,
        Some(xml) => {
            let given = plan::from_text(driver, xml.clone(), false).await?.domain;
            abi::check(&given, &own)?;
            given
        }
    };
    let (uuid, name) = plan::identity(&document)?;
    let mut source = Source {
        managed: false,
        runs: how.runs.unwrap_or(image.header.runs),
        channels,
        cache: cache(how.bypass_cache),
        plain: false,
        scripted: false,
        image,
    };
    if conditions.trial {
        let view = driver.registry.holder(uuid, &name)?;
        restorable(&view, &source.image.path, driver)?;
        conditions.check(&view)?;
        Box::pin(super::prepare::prepare(driver, document)).await?;
        return Ok(None);
    }
    let reset_nvram = how.reset_nvram;
    let followed = Arc::new(Followed::default());
    let (owned, mine, conditions) = (Arc::clone(driver), Arc::clone(&followed), conditions.clone());
    let work = async move {
        let document = source.filtered(&owned, document, xml).await?;
        let how = How {
            reset_nvram,
            source: Some(Arc::new(source)),
            ..How::default()
        };
        loop {
            let domain = owned.registry.claim(uuid, &name)?;
            let attempt = restore_claimed(
                &owned,
                &domain,
                (document.clone(), how.clone()),
                &conditions,
                &mine,
            );
            match Box::pin(attempt).await {
                // Another start of this guest has just failed, and it left: it is a new one now.
                Err(error) if error.reason == Some(GONE) => {}
                other => return other.map(drop),
            }
        }
    };
    operation::launch(driver, followed, work).await
}

fn cache(bypass: bool) -> Cache {
    if bypass { Cache::Bypassed } else { Cache::Used }
}

async fn restore_claimed(
    driver: &Arc<Driver>,
    domain: &Domain,
    (document, how): (Box<domxml::Domain>, How),
    conditions: &Conditions,
    followed: &Arc<Followed>,
) -> Result<Arc<View>> {
    let image = how.source.as_ref().map(|source| source.image.path.clone());
    let image = image.unwrap_or_default();
    let attempt = || {
        Box::pin(async {
            let ask = Ask {
                kind: "restore",
                job: Want::Long(Long::Start),
                conditions,
            };
            // A guest that runs is not waited for.
            restorable(&domain.view(), &image, driver)?;
            let operation = Operation::begin(driver, domain, ask).await?;
            let view = operation.view();
            restorable(&view, &image, driver)?;
            let (config, document, how) = (view.config.clone(), document.clone(), how.clone());
            operation
                .in_record_of(followed)
                .carry_out(|context| carrying_out(context, document, config, how))
                .await
        })
    };
    let result = operation::followed((driver, domain), followed, attempt).await;
    if result.is_err() {
        // A handle that never became a guest leaves the registry with its next commit.
        let _ = domain.commit(|_| Ok(Effects::none())).await;
    }
    result
}

fn restorable(view: &View, image: &Path, driver: &Driver) -> Result<()> {
    if view.active() {
        let text = format!("domain '{}' is already active", view.name);
        return Err(Error::invalid(text).in_area(Area::Domain));
    }
    if view.managed_save && *image != driver.registry.store().managed_save_path(&view.name) {
        return Err(super::is_saved(view));
    }
    Ok(())
}

/// The image of a guest's managed save, if its start is to go on from one, and its document.
///
/// # Errors
/// The image can't be read, or is another guest's. It is kept.
pub(super) async fn managed(
    driver: &Arc<Driver>,
    view: &View,
    how: &How,
) -> Result<Option<(Arc<Source>, Box<domxml::Domain>)>> {
    if how.force_boot {
        return Ok(None);
    }
    let Some(image) = Image::managed(driver, &view.name).await? else {
        return Ok(None);
    };
    let mut document = image.document()?;
    let uuid = document.uuid.unwrap_or_default();
    if uuid != view.uuid || *document.name != *view.name {
        let text = format!(
            "cannot restore domain '{}' uuid {} from a file which belongs to domain '{}' uuid {uuid}",
            view.name, view.uuid, document.name
        );
        return Err(Error::new(Code::OperationFailed, text));
    }
    let mut source = Source {
        managed: true,
        runs: image.header.runs && !how.paused,
        channels: 1,
        cache: cache(how.bypass_cache),
        plain: false,
        scripted: false,
        image,
    };
    document = source.filtered(driver, document, None).await?;
    Ok(Some((Arc::new(source), document)))
}

impl Source {
    /// The memory of a snapshot.
    pub(crate) fn of_snapshot(image: Image) -> Arc<Self> {
        Arc::new(Self {
            managed: false,
            runs: image.header.runs,
            channels: 1,
            cache: Cache::Used,
            plain: true,
            scripted: false,
            image,
        })
    }

    /// The document that scripts of the administrator leave of one that the guest is to go on with. They read the image's, or
    /// the one that was given instead.
    ///
    /// # Errors
    /// A script fails, or leaves a document with which the guest can't go on.
    async fn filtered(
        &mut self,
        driver: &Arc<Driver>,
        document: Box<domxml::Domain>,
        given: Option<String>,
    ) -> Result<Box<domxml::Domain>> {
        if !driver.hooks.has(Script::Qemu) {
            return Ok(document);
        }
        let text = given.as_deref().unwrap_or(&self.image.texts.document);
        let left = driver
            .hooks
            .filter(&document.name, hooks::Operation::Restore, text)
            .await?;
        let Some(left) = left else {
            return Ok(document);
        };
        let own = plan::complete(driver, self.image.document()?, Age::Known).await?;
        let left = plan::from_text(driver, left, false).await?.domain;
        abi::check(&left, &own.domain)?;
        self.scripted = true;
        Ok(left)
    }

    /// The guest has the CPU that it had, and knows that time has passed.
    pub(super) fn complete(&self, prepared: &mut Prepared) {
        if let Some(mut cpu) = self.image.cpu() {
            // Nodes of memory are the document's own.
            cpu.numa = prepared.document.cpu.take().and_then(|cpu| cpu.numa);
            prepared.document.cpu = Some(cpu);
        }
        if let Some(genid) = &mut prepared.document.genid {
            genid.value = Some(Uuid::new_v4());
        }
    }

    /// Hands the image to the process that becomes QEMU.
    ///
    /// # Errors
    /// It can't be opened, or its program not be run.
    pub(super) fn hand_over(&self, reserved: &mut Reserved) -> Result<Incoming> {
        reserved.resources.incoming = Some("defer".to_owned());
        let (header, path, plain) = (self.image.header, &self.image.path, self.plain);
        if header.format == ImageFormat::Sparse && !self.plain {
            let file: OwnedFd = self.image.reopen(Cache::Used)?.into();
            let direct = match self.cache {
                Cache::Used => None,
                Cache::Bypassed => Some(reserved.pass(self.image.reopen(Cache::Bypassed)?.into())?),
            };
            let way = Way::Mapped {
                file: reserved.pass(file)?,
                direct,
                offset: header.stream_at(),
                channels: self.channels,
                set: None,
            };
            return Ok(Incoming {
                pour: None,
                way,
                plain,
            });
        }
        let mut file = self.image.reopen(self.cache)?;
        if header.format.program().is_none() && self.cache == Cache::Used {
            use std::io::Seek;
            let sought = file.seek(std::io::SeekFrom::Start(header.stream_at()));
            sought.map_err(|e| Error::system(format_args!("cannot read '{}'", path.display()), e))?;
            let way = Way::Stream(reserved.pass(file.into())?);
            return Ok(Incoming {
                pour: None,
                way,
                plain,
            });
        }
        let how = (self.cache, header.format);
        let (pour, end) = Pour::out_of_file(file, path, header.stream_at(), how)?;
        Ok(Incoming {
            pour: Some(pour),
            way: Way::Stream(reserved.pass(end)?),
            plain,
        })
    }
}

impl Attempt<'_> {
    /// What is to be told of the run: of a restored one also that a script of the administrator has changed its document.
    pub(super) fn told_of(&self, prepared: &Prepared, conf: &QemuConfig) -> Result<taint::Told> {
        let scripted = self.how.source.as_ref().is_some_and(|source| source.scripted);
        // libvirt goes by qemu.conf, whoever the guest runs as.
        let identity = Identity::of(conf)?;
        Ok(taint::of(
            &prepared.document,
            &prepared.caps,
            (&identity, scripted),
        ))
    }
}

impl Incoming {
    /// What the command line says of the image.
    pub(super) fn switches(&mut self, line: &mut CommandLine) {
        let Way::Mapped {
            file, direct, set, ..
        } = &mut self.way
        else {
            return;
        };
        let number = line.next_fdset();
        *set = Some(number);
        for (fd, opaque) in [(Some(*file), BUFFERED), (*direct, DIRECT)] {
            if let Some(fd) = fd {
                line.push("-add-fd", format!("set={number},fd={fd},opaque={opaque}"));
            }
        }
    }

    /// Has QEMU load it.
    ///
    /// # Errors
    /// What is wrong with the stream, or somebody has cancelled the start.
    pub(super) async fn load(self, context: &Context, guest: &Arc<Guest>) -> Result<()> {
        context.enter("memory");
        let (uri, shape, set) = match self.way {
            Way::Stream(fd) => (format!("fd:{fd}"), None, None),
            Way::Mapped {
                direct,
                offset,
                channels,
                set,
                ..
            } => {
                let shape = Shape {
                    channels,
                    direct: direct.is_some(),
                };
                let set = set.unwrap_or_default();
                (
                    format!("file:/dev/fdset/{set},offset={offset:#x}"),
                    Some(shape),
                    Some(set),
                )
            }
        };
        if !self.plain {
            memory::prepare(guest, shape, Limit::Unsaid).await?;
        }
        context.set_cancellable(true);
        memory::load(context, guest, uri, self.pour).await?;
        context.set_cancellable(false);
        if let Some(set) = set {
            let fdset_id = i64::from(set);
            guest
                .execute(qmp::commands::RemoveFd { fdset_id, fd: None })
                .await?;
            memory::prepare(guest, None, Limit::Unsaid).await?;
        }
        Ok(())
    }
}

impl Attempt<'_> {
    /// Notes that the guest is there, before that is told: whoever finds it lets it go on.
    pub(super) async fn intend_to_go_on(&self) -> Result<()> {
        let Some(source) = &self.how.source else {
            return Ok(());
        };
        let image = source.image.path.to_string_lossy().into_owned();
        let intent = Intent::Restore {
            managed: source.managed.then_some(image),
            runs: source.runs,
        };
        self.context.intend(intent).await
    }

    /// The guest is there, loaded and paused: its image goes, if it is a managed save's, and its CPUs run.
    ///
    /// # Errors
    /// The image can't be removed, or the CPUs can't run. The guest stays as it is, and so does what is left of the image.
    pub(super) async fn go_on(&self, guest: &Arc<Guest>, view: Arc<View>) -> Result<Arc<View>> {
        let Some(source) = self.how.source.as_ref().filter(|_| self.how.back.is_none()) else {
            return Ok(view);
        };
        if source.managed {
            let store = self.driver.registry.store();
            store.remove_managed_save(&view.name).await?;
            let gone = |view: &mut View| {
                view.managed_save = false;
                Ok(Effects::none())
            };
            self.context.commit_with(gone).await?;
        }
        if !source.runs {
            let (kind, detail) = match self.how.paused {
                true => react::lifecycle::SUSPENDED,
                false => react::lifecycle::SUSPENDED_RESTORED,
            };
            let paused = move |_: &mut View| Ok(Effects::none().lifecycle(kind, detail));
            return self.context.commit_with(paused).await;
        }
        traffic::allow(&view.running()?.document.domain).await?;
        let run = async {
            guest.is_told.store(true, Ordering::Release);
            guest.execute(qmp::commands::Cont {}).await?;
            self.context.commit_with(|view| Ok(react::restored(view))).await
        };
        cpus::run_cpus(self.driver, guest, run).await
    }
}

/// Shows a start from an image or a snapshot as the guest's job, as long as it lives.
pub(super) struct ShownJob {
    domain: Domain,
    operation: Uuid,
}

impl ShownJob {
    pub(super) fn of(context: &Context, how: &How) -> Option<Self> {
        let kind = match (&how.back, &how.source) {
            (Some(_), _) => Kind::SnapshotRevert,
            (None, Some(_)) => Kind::Restore,
            (None, None) => return None,
        };
        let shown = Self {
            domain: context.domain().clone(),
            operation: context.id(),
        };
        shown.domain.long_jobs().begin(Current {
            operation: shown.operation,
            kind,
            uncancellable: None,
            since: Instant::now(),
            started: SystemTime::now(),
            statistics: Statistics::None,
        });
        Some(shown)
    }
}

impl Drop for ShownJob {
    fn drop(&mut self) {
        self.domain.long_jobs().end(self.operation, None);
    }
}

impl Reserved {
    /// Hands a descriptor to the process that becomes QEMU; its number there.
    fn pass(&self, fd: OwnedFd) -> Result<RawFd> {
        let mut place = self.qemu.lock().unwrap_or_else(PoisonError::into_inner);
        let qemu = place.as_mut();
        qemu.ok_or_else(|| Error::internal("the process was made already"))?
            .pass(fd)
    }
}
