//! The one way in which a running guest is changed.
//!
//! ```text
//!  begin: etag ─▶ job ─▶ etag again        refused: nothing happened
//!     │
//!  the operation checks what it is to do; a trial ends here
//!     │
//!  carry_out, on the tracker, in a span:
//!     intend ─▶ step … step ─▶ commit ─▶ what is left ─▶ intent cleared
//!       │         │ error: reversals of the steps, the last first
//!       │         └─ one that fails: part of the error, the run is shown as degraded, the intent stays
//!       └ can't be written: refused
//! ```
//!
//! Used by every operation of the wings above. The hard thing is that none may forget a part: a step without an intent
//! is refused, and what an operation has begun goes on, and is undone, whether or not its caller still waits.

pub mod record;
pub mod undo;

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use futures_util::FutureExt;
use record::{Followed, Record};
use tokio::sync::{Mutex, MutexGuard};
use tracing::Instrument;
use undo::{Failed, Undo};
use uuid::Uuid;

use crate::{
    domain::{
        Domain, Edit, Effects, Job, STALE, View,
        intents::{Intent, Note},
        jobs::Want,
    },
    error::{Code, Error, Result},
    ops::{Conditions, Driver},
};

/// What an operation asks for before it begins.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// What it does, as logs and clients name it: `attach-device`.
    pub kind: &'static str,
    /// The job that it takes on the guest.
    pub job: Want,
    /// What the caller expects of the guest, and whether it is only a trial.
    pub conditions: &'a Conditions,
}

/// An operation that holds its job and has changed nothing yet.
pub struct Operation {
    driver: Arc<Driver>,
    job: Job,
    kind: &'static str,
    trial: bool,
    followed: Option<Arc<Followed>>,
}

impl Operation {
    /// Checks the caller's conditions and takes the job.
    ///
    /// # Errors
    /// The guest is not what the caller saw; the job can't be had in time.
    pub async fn begin(driver: &Arc<Driver>, domain: &Domain, ask: Ask<'_>) -> Result<Self> {
        ask.conditions.check(&domain.view())?;
        let job = domain.job(ask.job).await?;
        // It may have changed while we waited.
        ask.conditions.check(&job.view())?;
        Ok(Self {
            driver: Arc::clone(driver),
            job,
            kind: ask.kind,
            trial: ask.conditions.trial,
            followed: None,
        })
    }

    /// Goes on, with a job that is held already, with what a former daemon had begun.
    #[must_use]
    pub fn resumed(driver: &Arc<Driver>, job: Job, kind: &'static str) -> Self {
        Self {
            driver: Arc::clone(driver),
            job,
            kind,
            trial: false,
            followed: None,
        }
    }

    /// The same operation with a record that all attempts share; see [`followed`].
    #[must_use]
    pub fn in_record_of(mut self, followed: &Arc<Followed>) -> Self {
        self.followed = Some(Arc::clone(followed));
        self
    }

    /// The guest's newest view.
    pub fn view(&self) -> Arc<View> {
        self.job.view()
    }

    /// Whether the caller only wants to know that it would work.
    pub fn is_trial(&self) -> bool {
        self.trial
    }

    /// Carries the operation out on the daemon's tracker, also when the caller goes away.
    ///
    /// # Errors
    /// What `work` gives; then what it did is undone, and what could not be undone is named.
    pub async fn carry_out<T, F>(self, work: impl FnOnce(Arc<Context>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let view = self.job.view();
        let begin = || self.driver.operations.begin(&view, self.kind);
        let record = match &self.followed {
            Some(followed) => followed.record_or(begin),
            None => begin(),
        };
        let span = tracing::info_span!("operation", id = %record.id, guest = %view.name, kind = self.kind);
        let driver = Arc::clone(&self.driver);
        let context = Arc::new(Context {
            driver: self.driver,
            job: self.job,
            record,
            has_attempts: self.followed.is_some(),
            undo: Mutex::default(),
            notes: Mutex::default(),
            unnoted: AtomicBool::new(false),
        });
        let work = work(Arc::clone(&context));
        driver
            .tracked(finish(context, Box::pin(work)).instrument(span))
            .await
    }
}

/// Sends work that clients follow by its record on its way; returns its record as soon as there is one, or `None` if the
/// work ended without: it was only a trial.
///
/// # Errors
/// What keeps the work from beginning.
pub async fn launch<T: Send + 'static>(
    driver: &Arc<Driver>,
    followed: Arc<Followed>,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<Option<Arc<Record>>> {
    let mut task = std::pin::pin!(crate::peers::track(&driver.tracker, work));
    tokio::select! {
        biased;
        record = followed.begun() => Ok(Some(record)),
        ended = &mut task => {
            let bug = |panic| Error::internal("the operation met a bug in the daemon; see its log").caused_by(panic);
            match (followed.record(), ended.map_err(bug)?) {
                (Some(record), _) => Ok(Some(record)),
                (None, result) => result.map(|_| None),
            }
        }
    }
}

/// How often an operation is made anew whose stored document another call replaced meanwhile.
const ATTEMPTS: usize = 3;

/// Makes an attempt, and another one if the stored document was replaced while it was prepared.
///
/// # Errors
/// What the last attempt gives.
pub async fn retrying<T, F>(mut attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut result = attempt().await;
    for _ in 1..ATTEMPTS {
        match &result {
            Err(error) if error.reason == Some(STALE) => result = attempt().await,
            _ => break,
        }
    }
    result
}

/// The same for an operation whose record clients follow: it ends with the last attempt.
///
/// # Errors
/// What the last attempt gives.
pub async fn followed<T, F>(
    (driver, domain): (&Arc<Driver>, &Domain),
    followed: &Followed,
    attempt: impl FnMut() -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let result = retrying(attempt).await;
    if let Some(record) = followed.record() {
        let etag = domain.view().etag();
        driver.operations.end(&record, etag, result.as_ref().err());
    }
    result
}

/// Runs the work to its end: undone if it failed, its intents cleared unless something of it stayed.
async fn finish<T>(context: Arc<Context>, work: impl Future<Output = Result<T>>) -> Result<T> {
    let begun = Instant::now();
    // What a bug has cut off is undone like what was refused.
    let result = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
        Err(Error::internal(
            "the operation met a bug in the daemon; see its log",
        ))
    });
    let undo = std::mem::take(&mut *context.undo.lock().await);
    let failed = match &result {
        Ok(_) => Vec::new(),
        Err(_) => undo.unwind().await,
    };
    if !failed.is_empty() {
        context.degrade(&failed).await;
    }
    let notes = std::mem::take(&mut *context.notes.lock().await);
    let intents = context.driver.registry.store().intents();
    for note in &notes {
        // The end of a run clears its notes, but may have come before the last of them was written.
        let is_over = note.run != Note::OFF && context.view().id() != note.run;
        if !failed.is_empty() && is_over && note.intent.outlives_run() {
            (context.driver.run_over)(&context.driver, context.domain(), note.clone()).await;
        } else if failed.is_empty() || is_over {
            intents.clear(note).await;
        }
    }
    let result = result.map_err(|error| with_failed(error, &failed));
    let error = result.as_ref().err();
    if !context.has_attempts {
        let etag = context.view().etag();
        context.driver.operations.end(&context.record, etag, error);
    }
    tracing::debug!(
        milliseconds = begun.elapsed().as_millis(),
        error = error.map(tracing::field::display),
        "ended"
    );
    result
}

/// The error of an operation with what could not be undone.
pub(crate) fn with_failed(error: Error, failed: &[Failed]) -> Error {
    failed.iter().fold(error, |error, Failed { what, error: cause }| {
        error.with_detail(format!("could not be undone: {what}: {cause}"))
    })
}

/// An operation at work.
pub struct Context {
    driver: Arc<Driver>,
    job: Job,
    record: Arc<Record>,
    /// Another attempt may follow: whoever makes them ends the record.
    has_attempts: bool,
    undo: Mutex<Undo>,
    notes: Mutex<Vec<Note>>,
    /// The operation goes on without a note.
    unnoted: AtomicBool,
}

impl Context {
    /// What all operations share.
    pub fn driver(&self) -> &Arc<Driver> {
        &self.driver
    }

    /// The guest's newest view.
    pub fn view(&self) -> Arc<View> {
        self.job.view()
    }

    /// The guest.
    pub fn domain(&self) -> &Domain {
        self.job.domain()
    }

    /// The operation's id.
    pub fn id(&self) -> Uuid {
        self.record.id
    }

    /// Notes on disk what is about to be done to the run. It takes the place of what the operation has noted of the run
    /// before: what of that is still to be seen to, the new one says as well.
    ///
    /// # Errors
    /// The note can't be written, or the guest does not run: nothing may be done then.
    pub async fn intend(&self, intent: Intent) -> Result<()> {
        let view = self.view();
        let note = Note::new(self.record.id, view.uuid, view.running()?.launched.id, intent);
        self.driver.registry.store().intents().write(&note).await?;
        self.notes.lock().await.push(note);
        Ok(())
    }

    /// Notes on disk what is about to be done to a guest that is off, or whose run is to end with it: such a note outlives
    /// the run.
    ///
    /// # Errors
    /// The note can't be written: nothing may be done then.
    pub async fn intend_off(&self, intent: Intent) -> Result<()> {
        let note = Note::new(self.record.id, self.view().uuid, Note::OFF, intent);
        self.driver.registry.store().intents().write(&note).await?;
        self.notes.lock().await.push(note);
        Ok(())
    }

    /// Notes what is about to be done where that can be noted, and goes on where it can't: for what QEMU itself tells of,
    /// and a full disk must not keep anybody from.
    pub async fn intend_if_possible(&self, intent: Intent) {
        if let Err(error) = self.intend(intent).await {
            tracing::warn!(%error, "the operation goes on without a note of it");
            self.unnoted.store(true, Ordering::Release);
        }
    }

    /// What was noted is done, and the status file says what goes on from here: the notes are cleared while the operation
    /// stays under way. Another step needs another note.
    pub async fn settle(&self) {
        let notes = std::mem::take(&mut *self.notes.lock().await);
        let intents = self.driver.registry.store().intents();
        for note in &notes {
            intents.clear(note).await;
        }
    }

    /// Does one thing to QEMU or the host and remembers how it is undone.
    ///
    /// # Errors
    /// What `forward` gives. A step whose answer did not come may have been done: it is undone as well.
    pub async fn step<T>(
        &self,
        what: &'static str,
        forward: impl Future<Output = Result<T>>,
        reverse: impl Future<Output = Result<()>> + Send + 'static,
    ) -> Result<T> {
        self.needs_intent(what).await?;
        self.enter(what);
        let result = forward.await;
        if result.as_ref().err().is_none_or(Error::is_unknown) {
            self.undo.lock().await.push(what, reverse);
        }
        result
    }

    /// The stack of reversals, for what pushes its own as it does for a start. Drop it before the next step or commit.
    ///
    /// # Errors
    /// No intent was noted.
    pub async fn steps(&self, what: &'static str) -> Result<MutexGuard<'_, Undo>> {
        self.needs_intent(what).await?;
        self.enter(what);
        Ok(self.undo.lock().await)
    }

    async fn needs_intent(&self, what: &str) -> Result<()> {
        if self.notes.lock().await.is_empty() && !self.unnoted.load(Ordering::Acquire) {
            return Err(Error::internal(format!(
                "{what} was to be done without an intent"
            )));
        }
        Ok(())
    }

    /// Says which phase begins.
    pub fn enter(&self, word: &'static str) {
        self.record.enter(word);
    }

    /// Says how much is done.
    pub fn progress(&self, done: u64, total: u64) {
        self.record
            .update(|state| (state.done, state.total) = (done, total));
    }

    /// Waits for `work`, or until somebody asks the operation to stop, which only here is possible.
    ///
    /// # Errors
    /// `OperationAborted` if somebody did.
    pub async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        self.record.update(|state| state.cancellable = true);
        let result = tokio::select! {
            biased;
            result = work => Ok(result),
            () = self.record.cancelled() => Err(Error::new(Code::OperationAborted, "it was cancelled")),
        };
        self.record.update(|state| state.cancellable = false);
        result
    }

    /// Says whether it can be asked to stop from now on.
    pub fn set_cancellable(&self, cancellable: bool) {
        self.record.update(|state| state.cancellable = cancellable);
    }

    /// Resolves when somebody asked it to stop.
    pub async fn cancelled(&self) {
        self.record.cancelled().await;
    }

    /// Whether somebody asked it to stop.
    pub fn is_cancelled(&self) -> bool {
        self.record.is_cancelled()
    }

    /// Takes the reversals over: whoever has them decides whether they are carried out.
    pub async fn take_undo(&self) -> Undo {
        std::mem::take(&mut *self.undo.lock().await)
    }

    /// The point of no return: the documents follow, the files are written, the view published, the events told. From
    /// here nothing is undone.
    ///
    /// # Errors
    /// As [`Edit::apply`], or the files can't be written; then nothing has changed, and the steps are undone.
    pub async fn commit(&self, edit: Edit, effects: Effects) -> Result<Arc<View>> {
        self.commit_with(move |view| {
            edit.apply(view)?;
            Ok(effects)
        })
        .await
    }

    /// The same for a change that is more than its documents.
    ///
    /// # Errors
    /// What `change` gives, or the files can't be written.
    pub async fn commit_with(
        &self,
        change: impl FnOnce(&mut View) -> Result<Effects> + Send + 'static,
    ) -> Result<Arc<View>> {
        let view = self.job.commit(change).await?;
        self.undo.lock().await.forget();
        Ok(view)
    }

    /// Shows the run as one in which something is half done.
    async fn degrade(&self, failed: &[Failed]) {
        let what: Vec<_> = failed
            .iter()
            .map(|f| format!("{}: {}", f.what, f.error))
            .collect();
        let text: Arc<str> = format!("{}: {}", self.record.kind, what.join("; ")).into();
        let change = move |view: &mut View| {
            if let Some(run) = &mut view.run {
                run.seen.degraded = Some(text);
            }
            Ok(Effects::none())
        };
        // A guest that has gone has nothing half done.
        let _ = self.job.commit(change).await;
    }
}
