//! The guest's memory in an external snapshot: a file like that of a saved guest, written while the guest stays.

use std::{path::PathBuf, sync::Arc};

use domxml::{SaveCookie, moment::Snapshot};
use qemu_plan::save_image::{Header, Texts};

use crate::{
    domain::{Condition, View, long_job::Statistics},
    error::{Error, Result},
    ops::{
        Driver,
        operation::Context,
        run::{guest::Guest, long_job::LongJob},
        saves::{
            image::{self, New},
            memory::{self, Way},
            movable,
            pour::{self, Cache, Pour},
            save::{configured, make_file},
        },
    },
};

/// A file of memory that can be written.
pub(crate) struct Memory {
    path: PathBuf,
    /// It is not there yet.
    is_new: bool,
    compressor: Option<PathBuf>,
    head: (Header, Vec<u8>),
}

impl Memory {
    /// Plans the file of a snapshot.
    ///
    /// # Errors
    /// The guest's memory can't be written; the program that compresses is not there.
    pub(crate) async fn plan(
        driver: &Arc<Driver>,
        (view, guest): (&View, &Guest),
        snapshot: &Snapshot,
        cookie: Option<&SaveCookie>,
        runs: bool,
    ) -> Result<Self> {
        movable::check(guest, view).await?;
        let format = configured(driver.config().save_format.snapshot);
        let compressor = pour::program(format, "snapshot")?;
        let file = snapshot.memory.file.as_deref();
        let path = PathBuf::from(file.ok_or_else(|| Error::internal("the snapshot has no file for memory"))?);
        let texts = Texts {
            document: image::document_of(driver, view, None).await?,
            cookie: cookie.map(SaveCookie::format),
        };
        Ok(Self {
            is_new: !New::exists(&path).await?,
            path,
            compressor,
            head: texts.compose(runs, format),
        })
    }

    /// The file, if it is made.
    pub(crate) fn new_file(&self) -> Option<PathBuf> {
        self.is_new.then(|| self.path.clone())
    }

    /// Refuses, for a trial, what the making of the file would fail at.
    pub(crate) async fn may_make(&self) -> Result<()> {
        New::may_create(&self.path).await
    }

    /// Writes it. The CPUs stand by its end.
    ///
    /// # Errors
    /// The file can't be written, QEMU fails or dies, or somebody has cancelled it. The file is gone then, or is no image.
    pub(crate) async fn write(
        &self,
        context: &Arc<Context>,
        guest: &Arc<Guest>,
        job: &LongJob,
    ) -> Result<Statistics> {
        let (header, data) = &self.head;
        let mut head = header.encode(false).to_vec();
        head.extend_from_slice(data);
        context.set_cancellable(true);
        let new = make_file(context, guest, &self.path, (Cache::Used, |_| false)).await?;
        context.enter("memory");
        // Also of a sparse one: libvirt writes a plain stream there, and reads one.
        let how = (Cache::Used, self.compressor.clone());
        let (pour, to) = Pour::into_file(new.file, &self.path, head, how)?;
        guest.expect_pause(Condition::PAUSED_SNAPSHOT);
        let written = memory::write(context, guest, job, (Way::Pipe(to), Some(pour))).await?;
        if context.is_cancelled() {
            return Err(job.cancelled());
        }
        context.set_cancellable(false);
        image::seal(&self.path, *header).await?;
        Ok(written)
    }
}
