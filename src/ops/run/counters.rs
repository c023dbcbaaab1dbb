//! What QEMU counts for a run. It is asked here, and its last answer is kept.
//!
//! Called by `inspect::stats`. The questions change nothing in QEMU, so they take no job. The hard thing is an answer that
//! comes after its caller has stopped waiting: the question stays open, one for each guest however many callers there are,
//! and until it is answered the guest is overdue, so that the next callers need not wait for it in vain.
//!
//! ```text
//!   prompt ──no answer within OVERDUE──▶ overdue ──answered, or the connection ended──▶ prompt
//! ```

use std::{
    collections::HashSet,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use qmp::{Command, commands, types};
use tokio::time::timeout;
use uuid::Uuid;

use crate::{ops::run::guest::Guest, qemu::Monitor};

/// A guest that has not answered by then is overdue.
pub(crate) const OVERDUE: Duration = Duration::from_secs(5);
/// An open question is put again after this time, should QEMU have lost it.
const AGAIN: Duration = Duration::from_secs(60);

/// What QEMU is asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Questions {
    /// What the guest's driver told the balloon device at this path.
    pub balloon: Option<String>,
    /// Counters and sizes of all disks.
    pub disks: Option<Images>,
    /// Threads for I/O.
    pub iothreads: bool,
    /// How fast memory is written.
    pub dirty_rate: bool,
}

/// Of which images of a disk QEMU is asked. Every image costs QEMU time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Images {
    /// Of those that guests read and write.
    #[default]
    Top,
    /// Of all that it has open.
    All,
}

impl Questions {
    /// Whether there is nothing to ask.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Part<T> {
    at: Instant,
    told: Option<Arc<T>>,
}

impl<T> Part<T> {
    /// The answer; none if QEMU refused the question.
    pub fn told(&self) -> Option<&T> {
        self.told.as_deref()
    }
}

/// Counters and sizes of disks, in QEMU's own form.
#[derive(Clone, Debug, Default)]
pub struct Disks {
    /// Counters by device.
    pub devices: Vec<types::BlockStats>,
    /// Counters by block node; none if only the top images were asked for.
    pub nodes: Vec<types::BlockStats>,
    /// The nodes and their images.
    pub images: Vec<types::BlockDeviceInfo>,
    /// Of which images it was asked.
    pub asked: Images,
}

/// Answers of one run; none where QEMU was not asked yet. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// What the guest's driver told the balloon.
    pub balloon: Option<Part<serde_json::Value>>,
    /// Disks.
    pub disks: Option<Part<Disks>>,
    /// Threads for I/O.
    pub iothreads: Option<Part<Vec<types::IoThreadInfo>>>,
    /// How fast memory is written.
    pub dirty_rate: Option<Part<types::DirtyRateInfo>>,
}

impl Sample {
    /// When the oldest answer to `questions` came; none if one of them was never answered.
    pub fn since(&self, questions: &Questions) -> Option<Instant> {
        let enough = |part: &&Part<Disks>| {
            part.told()
                .is_none_or(|disks| questions.disks <= Some(disks.asked))
        };
        let all = [
            (questions.balloon.is_some(), self.balloon.as_ref().map(|p| p.at)),
            (
                questions.disks.is_some(),
                self.disks.as_ref().filter(enough).map(|p| p.at),
            ),
            (questions.iothreads, self.iothreads.as_ref().map(|p| p.at)),
            (questions.dirty_rate, self.dirty_rate.as_ref().map(|p| p.at)),
        ];
        let times = all.into_iter().filter(|(asked, _)| *asked).map(|(_, at)| at);
        // None is less than any time.
        times.min().flatten()
    }

    fn take(&mut self, newer: Sample) {
        self.balloon = newer.balloon.or(self.balloon.take());
        self.disks = newer.disks.or(self.disks.take());
        self.iothreads = newer.iothreads.or(self.iothreads.take());
        self.dirty_rate = newer.dirty_rate.or(self.dirty_rate.take());
    }
}

/// What one run has answered so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    last: Mutex<Sample>,
    overdue: AtomicBool,
}

impl Counters {
    /// The last answers.
    pub(crate) fn last(&self) -> Sample {
        lock(&self.last).clone()
    }
    /// Whether an answer is overdue.
    pub(crate) fn overdue(&self) -> bool {
        self.overdue.load(Ordering::Acquire)
    }
}

/// Asks QEMU and waits for the answer for at most `limit`; none if it did not come, or the connection ended. A guest that
/// is silent for [`OVERDUE`] is marked, its answer is kept whenever it comes, and whether it can be reached at all is
/// looked into.
pub(crate) async fn ask(guest: &Arc<Guest>, questions: Questions, limit: Duration) -> Option<Sample> {
    let monitor = guest.monitor().ok()?;
    let mut asking = Box::pin(answer(Arc::clone(guest), monitor, questions));
    let prompt = limit.min(OVERDUE);
    if let Ok(sample) = timeout(prompt, &mut asking).await {
        return sample;
    }
    guest.suspect();
    if guest.counters.overdue.swap(true, Ordering::AcqRel) {
        // An open question is enough.
        return timeout(limit.saturating_sub(prompt), asking).await.ok()?;
    }
    let owned = Arc::clone(guest);
    let open = tokio::spawn(async move {
        let sample = asking.await;
        owned.counters.overdue.store(false, Ordering::Release);
        sample
    });
    timeout(limit.saturating_sub(prompt), open).await.ok()?.ok()?
}

/// Asks until QEMU answers, and keeps the answer; none once the connection has ended.
async fn answer(guest: Arc<Guest>, monitor: Monitor, questions: Questions) -> Option<Sample> {
    loop {
        match once(&guest, &monitor, &questions).await {
            Ok(sample) => {
                lock(&guest.counters.last).take(sample.clone());
                return Some(sample);
            }
            Err(qmp::Error::Timeout { .. }) => {}
            Err(_) => return None,
        }
    }
}

/// Puts all questions at once: a busy QEMU answers them in one go.
async fn once(guest: &Guest, monitor: &Monitor, questions: &Questions) -> Result<Sample, qmp::Error> {
    let balloon = questions.balloon.as_ref().map(|path| commands::QomGet {
        path: path.clone(),
        property: "guest-stats".to_owned(),
    });
    let (balloon, disks, iothreads, dirty_rate) = tokio::try_join!(
        told(monitor, balloon),
        disks(guest, monitor, questions.disks),
        told(
            monitor,
            questions.iothreads.then_some(commands::QueryIothreads {})
        ),
        told(
            monitor,
            questions.dirty_rate.then_some(commands::QueryDirtyRate {})
        ),
    )?;
    Ok(Sample {
        balloon: part(questions.balloon.is_some(), balloon),
        disks: part(questions.disks.is_some(), disks),
        iothreads: part(questions.iothreads, iothreads),
        dirty_rate: part(questions.dirty_rate, dirty_rate),
    })
}

async fn disks(
    guest: &Guest,
    monitor: &Monitor,
    wanted: Option<Images>,
) -> Result<Option<Disks>, qmp::Error> {
    let Some(mut asked) = wanted else { return Ok(None) };
    // Those below are left out if QEMU can't be asked about them.
    let mut asking = None;
    if asked == Images::All {
        match guest.nodes_may_be_asked().await {
            Ok(begun) => asking = Some(begun),
            Err(_) => asked = Images::Top,
        }
    }
    let all = asked == Images::All;
    let (devices, drives, nodes, named) = tokio::try_join!(
        told(monitor, Some(commands::QueryBlockstats { query_nodes: false })),
        told(monitor, (!all).then_some(commands::QueryBlock {})),
        told(
            monitor,
            all.then_some(commands::QueryBlockstats { query_nodes: true })
        ),
        told(
            monitor,
            all.then_some(commands::QueryNamedBlockNodes { flat: true })
        ),
    )?;
    drop(asking);
    let drives = drives.unwrap_or_default().into_iter();
    let mut images = named.unwrap_or_default();
    images.extend(drives.filter_map(|drive| drive.inserted));
    Ok(Some(Disks {
        devices: devices.unwrap_or_default(),
        nodes: nodes.unwrap_or_default(),
        images,
        asked,
    }))
}

/// The answer to one question; none if it is not put, or QEMU refuses it.
async fn told<C: Command>(monitor: &Monitor, command: Option<C>) -> Result<Option<C::Reply>, qmp::Error> {
    let Some(command) = command else {
        return Ok(None);
    };
    match monitor.client().execute_within(command, AGAIN).await {
        Ok(reply) => Ok(Some(reply)),
        Err(error @ (qmp::Error::Timeout { .. } | qmp::Error::Closed { .. })) => Err(error),
        Err(error) => {
            tracing::debug!(%error, "statistics are without what QEMU refuses to tell");
            Ok(None)
        }
    }
}

fn part<T>(asked: bool, told: Option<T>) -> Option<Part<T>> {
    asked.then(|| Part {
        at: Instant::now(),
        told: told.map(Arc::new),
    })
}

/// Runs that could not be asked within a whole call because they were being started, or looked for. The next calls do not
/// wait for them.
#[derive(Debug, Default)]
pub(crate) struct Absent {
    runs: Mutex<HashSet<(Uuid, i32)>>,
}

impl Absent {
    /// Whether this run was waited for in vain.
    pub(crate) fn has(&self, uuid: Uuid, id: i32) -> bool {
        lock(&self.runs).contains(&(uuid, id))
    }
    /// Notes that this run was waited for in vain. Runs that `current` does not confirm are forgotten.
    pub(crate) fn note(&self, uuid: Uuid, id: i32, current: impl Fn(Uuid, i32) -> bool) {
        let mut runs = lock(&self.runs);
        runs.retain(|(uuid, id)| current(*uuid, *id));
        runs.insert((uuid, id));
    }
}

/// Lets `work` go on in one of `slots`, and outside of them once it has taken longer than `prompt`: what hangs keeps no
/// slot from others.
pub(crate) async fn in_turn<T>(
    slots: &tokio::sync::Semaphore,
    prompt: Duration,
    work: impl Future<Output = T>,
) -> T {
    // The slots are never closed.
    let slot = slots.acquire().await.ok();
    let mut work = std::pin::pin!(work);
    match timeout(prompt, &mut work).await {
        Ok(done) => done,
        Err(_) => {
            drop(slot);
            work.await
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at<T>(at: Instant) -> Option<Part<T>> {
        Some(Part { at, told: None })
    }

    #[test]
    fn a_sample_is_as_old_as_the_oldest_answer_that_was_asked_for() {
        let (first, second) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let both = Questions {
            disks: Some(Images::Top),
            iothreads: true,
            ..Questions::default()
        };
        let mut sample = Sample {
            disks: at(first),
            ..Sample::default()
        };
        assert_eq!(sample.since(&both), None, "threads were never asked for");
        sample.take(Sample {
            iothreads: at(second),
            ..Sample::default()
        });
        assert_eq!(sample.since(&both), Some(first));
        sample.take(Sample {
            disks: at(second),
            ..Sample::default()
        });
        assert_eq!(sample.since(&both), Some(second));
        assert_eq!(sample.since(&Questions::default()), None);
        sample.disks = Some(Part {
            at: second,
            told: Some(Arc::new(Disks::default())),
        });
        assert_eq!(sample.since(&both), Some(second));
        let chains = Questions {
            disks: Some(Images::All),
            ..both
        };
        assert_eq!(
            sample.since(&chains),
            None,
            "images below the top ones were never asked for"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_hangs_keeps_no_slot() {
        let slots = tokio::sync::Semaphore::new(1);
        let prompt = Duration::from_millis(100);
        let hanging = in_turn(&slots, prompt, std::future::pending::<()>());
        let begun = tokio::time::Instant::now();
        tokio::select! {
            biased;
            () = hanging => panic!("it hangs"),
            () = in_turn(&slots, prompt, async {}) => {}
        }
        assert_eq!(begun.elapsed().as_millis() / 100, 1);
    }

    #[test]
    fn runs_that_are_over_are_forgotten() {
        let absent = Absent::default();
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        absent.note(one, 1, |_, _| true);
        absent.note(two, 2, |_, _| true);
        assert!(absent.has(one, 1) && absent.has(two, 2) && !absent.has(one, 2));
        absent.note(two, 3, |_, id| id != 1);
        assert!(!absent.has(one, 1) && absent.has(two, 2));
    }
}
