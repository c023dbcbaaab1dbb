//! Begins a backup: everything that all its disks take, in one transaction.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use domxml::{
    moment::{Backup, Checkpoint},
    status::{AsyncJob, BlockJobState, Open},
};
use qmp::commands;
use serde_json::Value;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    align::align,
    part::{Part, Plans},
    serve::{self, Server},
    watch,
};
use crate::{
    domain::{
        Domain, Effects, View,
        intents::Intent,
        jobs::{Long, Want},
        long_job::{Kind, Outcome},
    },
    error::{Code, Error, Result},
    ops::{
        Conditions, Driver, blockjobs,
        checkpoints::create::{self, New},
        document::schema,
        graph::{
            self,
            bitmaps::{self, Bitmaps},
        },
        operation::{Ask, Context, Operation},
        run::{
            guest::Guest,
            left_backup::REUSE,
            long_job::{LongJob, What},
        },
    },
};

/// Longest document, bytes.
const XML_MAX: usize = 8 << 20;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The document of the backup.
    pub backup: String,
    /// The document of a checkpoint that is made at the same moment.
    pub checkpoint: Option<String>,
    /// The images are there and formatted.
    pub reuse: bool,
}

/// A backup that is under way.
#[derive(Clone, Debug)]
pub struct Begun {
    /// The guest.
    pub view: Arc<View>,
    /// The operation that it is; none of a trial.
    pub operation: Option<Uuid>,
}

/// What the job of a backup is.
pub(super) const fn what(flags: u32) -> What {
    What {
        kind: Kind::Backup,
        word: AsyncJob::Backup,
        name: "backup",
        flags,
        uncancellable: None,
    }
}

/// Begins a backup; answers as soon as it is under way.
///
/// # Errors
/// What is wrong with the documents, what can't be copied, what the host or QEMU refuses. Nothing is left of it then, but
/// for the checkpoint if only the disks could not be exported.
pub async fn begin(
    driver: &Arc<Driver>,
    domain: &Domain,
    wish: Wish,
    conditions: &Conditions,
) -> Result<Begun> {
    let reuse = wish.reuse;
    let backup = given(wish.backup).await?;
    let checkpoint = match wish.checkpoint {
        Some(text) => Some(create::given(text, false).await?),
        None => None,
    };
    let ask = Ask {
        kind: "backup",
        job: Want::Long(Long::Backup),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    let view = operation.view();
    if !view.active() {
        let said = "cannot perform disk backup for inactive domain";
        return Err(Error::new(Code::OperationUnsupported, said));
    }
    let guest = driver.guests.of(&view)?;
    let planned = Planned::of((driver, &view, &guest), (backup, checkpoint), reuse).await?;
    if operation.is_trial() {
        for part in &planned.parts {
            part.may_make().await?;
        }
        return Ok(Begun {
            view,
            operation: None,
        });
    }
    let (tell, told) = oneshot::channel();
    let work = |context| async move { Box::pin(planned.carry_out(context, guest, tell)).await };
    let mut ended = Box::pin(operation.carry_out(work));
    tokio::select! {
        biased;
        Ok(begun) = told => begun,
        ended = &mut ended => {
            ended?;
            Err(Error::internal("the backup ended before it had begun"))
        }
    }
}

async fn given(document: String) -> Result<Backup> {
    if document.len() > XML_MAX {
        return Err(Error::argument(format!(
            "the document has {} bytes; the most is {XML_MAX}",
            document.len()
        )));
    }
    schema::check_other(&document, schema::Other::Backup).await?;
    let read = move || Ok(Backup::given(&document)?);
    crate::blocking::file("reading the document of a backup", read).await
}

/// A backup that is checked and may begin.
struct Planned {
    backup: Backup,
    parts: Vec<Part>,
    server: Option<Server>,
    checkpoint: Option<New>,
    next_number: u32,
    reuse: bool,
}

impl Planned {
    async fn of(
        (driver, view, guest): (&Arc<Driver>, &View, &Guest),
        (mut backup, checkpoint): (Backup, Option<Checkpoint>),
        reuse: bool,
    ) -> Result<Self> {
        let run = view.running()?;
        let suffix = match &checkpoint {
            Some(checkpoint) => checkpoint.moment.name.clone(),
            None => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                now.as_secs().to_string()
            }
        };
        align(&mut backup, &run.document.domain.devices.disks, &suffix)?;
        if backup.is_pull() {
            Server::complete(&mut backup)?;
        }
        let server = Server::of(driver, guest, &mut backup).await?;
        let checkpoint = match checkpoint {
            Some(checkpoint) => Some(New::of(driver, view, checkpoint).await?),
            None => None,
        };
        let nodes = guest
            .execute(commands::QueryNamedBlockNodes { flat: true })
            .await?;
        let plans = Plans {
            driver,
            guest,
            view,
            bitmaps: Bitmaps::of(nodes.clone()),
            nodes,
            pulls: backup.is_pull(),
            reuse,
        };
        let mut next_number = graph::next_number(run, guest);
        let mut parts = Vec::new();
        for part in backup.disks.iter_mut().filter(|part| part.takes_part()) {
            let (planned, next) = plans.part(part, next_number).await?;
            planned.check_place().await?;
            parts.push(planned);
            next_number = next;
        }
        if parts.is_empty() {
            return Err(Error::new(
                Code::ConfigUnsupported,
                "no disks selected for backup",
            ));
        }
        Ok(Self {
            backup,
            parts,
            server,
            checkpoint,
            next_number,
            reuse,
        })
    }

    async fn carry_out(
        self,
        context: Arc<Context>,
        guest: Arc<Guest>,
        tell: oneshot::Sender<Result<Begun>>,
    ) -> Result<()> {
        context.intend(self.intent()).await?;
        let flags = if self.reuse { REUSE } else { 0 };
        let job = LongJob::begin(&context, what(flags)).await?;
        end_with_undo(&context, &job).await?;
        let backup = self.backup.clone();
        self.start(&context, &guest).await?;
        let exported = match backup.is_pull() {
            true => serve::export(&guest, &backup, &[]).await,
            false => Ok(()),
        };
        context.settle().await;
        let answer = Begun {
            view: context.view(),
            operation: Some(context.id()),
        };
        let failed = exported.as_ref().err().map(|error| {
            let said = format!("the disks could not be exported: {}", error.message);
            Error::new(error.code, said)
        });
        // A caller who has gone asks for the operation, or for the guest's job.
        let _ = tell.send(exported.map(|()| answer));
        let mut watch = watch::Watch::new(&context, &guest, job);
        if failed.is_some() {
            watch.cancel().await?;
        }
        let watched = watch.run().await;
        failed.map_or(watched, Err)
    }

    fn intent(&self) -> Intent {
        let of_checkpoint = self.checkpoint.iter().flat_map(|new| {
            let bitmap = |node: &String| (node.clone(), new.name.clone());
            new.nodes.iter().map(bitmap)
        });
        let bitmaps = of_checkpoint.chain(self.parts.iter().filter_map(Part::bitmap));
        Intent::Backup {
            jobs: self.parts.iter().map(|part| part.job.clone()).collect(),
            bitmaps: bitmaps.collect(),
            nodes: self.parts.iter().flat_map(Part::nodes).collect(),
            files: self.parts.iter().filter_map(Part::file).collect(),
            serves: self.server.is_some(),
            objects: serve::objects(&self.backup),
        }
    }

    /// Has QEMU begin; from here on it is under way.
    async fn start(self, context: &Context, guest: &Arc<Guest>) -> Result<()> {
        self.enter(context, guest).await?;
        for part in &self.parts {
            part.open(context, guest).await?;
        }
        if let Some(server) = &self.server {
            server.start(context, guest).await?;
        }
        let jobs: Vec<_> = self.parts.iter().map(|part| part.job.clone()).collect();
        jobs.iter().for_each(|job| guest.block_jobs.begins(job));
        let of_checkpoint = self.checkpoint.iter().flat_map(New::actions);
        let actions: Vec<Value> = of_checkpoint
            .chain(self.parts.iter().flat_map(Part::actions))
            .collect();
        let begin = guest.execute(commands::Transaction { actions });
        let made = self.checkpoint.iter().flat_map(New::reversal);
        let made: Vec<_> = made
            .chain(
                self.parts
                    .iter()
                    .filter_map(Part::bitmap)
                    .map(|(node, name)| bitmaps::remove(&node, &name)),
            )
            .collect();
        let give_up = give_up(Arc::clone(guest), jobs.clone(), made);
        context.step("the jobs", begin, give_up).await?;
        let (backup, checkpoint) = (self.backup, self.checkpoint);
        let follow = move |view: &mut View| {
            view.running()?;
            if let Some(checkpoint) = checkpoint {
                checkpoint.apply(view)?;
            }
            for job in &jobs {
                blockjobs::change_entry(view, job, |job| job.state = Open::Known(BlockJobState::Running));
            }
            super::change(view, |known| *known = Some(backup));
            Ok(Effects::none())
        };
        context.commit_with(follow).await.map(drop)
    }

    /// Another daemon knows of the jobs before QEMU does.
    async fn enter(&self, context: &Context, guest: &Arc<Guest>) -> Result<()> {
        let entries: Vec<_> = self.parts.iter().map(Part::entry).collect();
        let names: Vec<_> = entries.iter().map(|entry| entry.name.clone()).collect();
        let next = self.next_number;
        let enter = guest.domain.commit(move |view| {
            view.running()?;
            graph::took_numbers(view, next);
            blockjobs::change_entries(view, |all| {
                all.extend(entries);
                all.sort_by(|one, other| one.name.cmp(&other.name));
            });
            Ok(Effects::none())
        });
        let domain = guest.domain.clone();
        let leave = async move {
            let forget = move |view: &mut View| {
                blockjobs::change_entries(view, |all| all.retain(|job| !names.contains(&job.name)));
                Ok(Effects::none())
            };
            domain.commit(forget).await.map(drop)
        };
        context.step("the jobs' entries", enter, leave).await.map(drop)
    }
}

/// Undone, the job is over.
async fn end_with_undo(context: &Context, job: &Arc<LongJob>) -> Result<()> {
    let job = Arc::clone(job);
    let mut steps = context.steps("the job").await?;
    steps.push("the job", async move {
        job.end(Outcome::Failed, None).await;
        Ok(())
    });
    Ok(())
}

/// Takes back what a transaction has done, if it has.
pub(super) async fn give_up(guest: Arc<Guest>, jobs: Vec<String>, bitmaps: Vec<Value>) -> Result<()> {
    let mut result = Ok(());
    for job in jobs {
        result = result.and(blockjobs::begin::give_up(&guest, &job).await);
    }
    if !bitmaps.is_empty() {
        let removed = guest.execute(commands::Transaction { actions: bitmaps }).await;
        result = result.and(removed.map(drop));
    }
    result
}
