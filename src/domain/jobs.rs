//! Who may work on a guest at the same time: libvirt's job rules as a pure value.
//!
//! Asked by the guest's owner task, which does the waiting. A guest has one plain job at a time, besides at most one
//! long (asynchronous) job, which says what kinds of plain job it tolerates, and one job of the guest agent.
//! `destroy` is not here: powering off is never refused and never queued.
//!
//! ```text
//!            ask                     done
//!   idle ───────────▶ held by id ───────────▶ first waiter that fits, in order
//!     ▲                  │ ask: waits, unless the queue is full
//!     └──────────────────┘ done, nobody waits
//! ```

use std::collections::VecDeque;

/// Names one job, granted or waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(u64);

/// A plain job, by what it does to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Asks QEMU something.
    Query,
    /// Stops or continues the guest's CPUs.
    Suspend,
    /// Changes the guest.
    Modify,
    /// Cancels the long job.
    Abort,
    /// Steers a migration.
    MigrationOp,
}

impl Kind {
    /// libvirt's word for it, as messages and status XML have it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Query => "query",
            Kind::Suspend => "suspend",
            Kind::Modify => "modify",
            Kind::Abort => "abort",
            Kind::MigrationOp => "migration operation",
        }
    }
    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A long job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Long {
    /// The guest is being started.
    Start,
    /// The guest's memory is being saved.
    Save,
    /// A dump of the guest is made.
    Dump,
    /// A snapshot is made.
    Snapshot,
    /// The guest leaves for another host.
    MigrationOut,
    /// The guest comes from another host.
    MigrationIn,
    /// A backup runs.
    Backup,
}

impl Long {
    /// libvirt's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Long::Start => "start",
            Long::Save => "save",
            Long::Dump => "dump",
            Long::Snapshot => "snapshot",
            Long::MigrationOut => "migration out",
            Long::MigrationIn => "migration in",
            Long::Backup => "backup",
        }
    }
    /// What plain jobs it tolerates when it begins.
    pub const fn tolerates(self) -> Mask {
        match self {
            Long::Start | Long::MigrationIn => Mask::NONE,
            Long::Save | Long::Dump | Long::Snapshot => Mask::of(&[Kind::Query, Kind::Abort]),
            Long::MigrationOut => Mask::of(&[Kind::Query, Kind::Abort, Kind::Suspend, Kind::MigrationOp]),
            Long::Backup => Mask::of(&[Kind::Query, Kind::Abort, Kind::Suspend, Kind::Modify]),
        }
    }
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mask(u8);

impl Mask {
    /// No kind.
    pub const NONE: Mask = Mask(0);
    /// These kinds.
    pub const fn of(kinds: &[Kind]) -> Mask {
        let mut bits = 0;
        let mut i = 0;
        while i < kinds.len() {
            bits |= kinds[i].bit();
            i += 1;
        }
        Mask(bits)
    }
    /// Whether `kind` is in it.
    pub fn has(self, kind: Kind) -> bool {
        self.0 & kind.bit() != 0
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Want {
    /// A plain job.
    Plain(Kind),
    /// A long job.
    Long(Long),
    /// A job of the guest agent.
    Agent,
}

impl Want {
    /// The word for messages.
    pub fn name(self) -> &'static str {
        match self {
            Want::Plain(kind) => kind.name(),
            Want::Long(long) => long.name(),
            Want::Agent => "agent",
        }
    }
}

/// The answer to `ask`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The job is yours.
    Granted(JobId),
    /// Wait; `done` of another job will name this id.
    Queued(JobId),
    /// Too many wait already.
    Full,
}

/// The jobs of one guest.
#[derive(Debug)]
pub struct Jobs {
    next: u64,
    max_queued: usize,
    plain: Option<(JobId, Kind)>,
    long: Option<(JobId, Long, Mask)>,
    agent: Option<JobId>,
    waiting: VecDeque<(JobId, Want)>,
}

impl Jobs {
    /// No job; at most `max_queued` may wait (0: any number).
    pub fn new(max_queued: usize) -> Self {
        Self {
            next: 1,
            max_queued,
            plain: None,
            long: None,
            agent: None,
            waiting: VecDeque::new(),
        }
    }

    /// Asks for a job.
    pub fn ask(&mut self, want: Want) -> Answer {
        let id = JobId(self.next);
        self.next += 1;
        // Who comes later does not overtake who waits for the same thing.
        let blocked = self.waiting.iter().any(|(_, w)| same_slot(*w, want));
        if !blocked && self.fits(want) {
            self.grant(id, want);
            return Answer::Granted(id);
        }
        if self.max_queued > 0 && self.waiting.len() >= self.max_queued {
            return Answer::Full;
        }
        self.waiting.push_back((id, want));
        Answer::Queued(id)
    }

    /// Ends a job, or stops waiting for it, and returns who is granted now. An unknown id changes nothing.
    pub fn done(&mut self, id: JobId) -> Vec<JobId> {
        self.plain.take_if(|(held, _)| *held == id);
        self.long.take_if(|(held, ..)| *held == id);
        self.agent.take_if(|held| *held == id);
        self.waiting.retain(|(waiting, _)| *waiting != id);
        self.grant_waiting()
    }

    /// Changes what the long job `id` tolerates, as its phases do, and returns who is granted now.
    pub fn tolerate(&mut self, id: JobId, mask: Mask) -> Vec<JobId> {
        if let Some((held, _, tolerated)) = &mut self.long
            && *held == id
        {
            *tolerated = mask;
        }
        self.grant_waiting()
    }

    /// The job that stands in the way of `want`, and libvirt's word for it.
    pub fn holder(&self, want: Want) -> (Option<JobId>, &'static str) {
        match (want, &self.plain, &self.long) {
            (Want::Agent, ..) => (self.agent, "agent"),
            (Want::Plain(kind), _, Some((id, long, mask))) if !mask.has(kind) => (Some(*id), long.name()),
            (_, Some((id, kind)), _) => (Some(*id), kind.name()),
            (_, None, Some((id, long, _))) => (Some(*id), long.name()),
            (_, None, None) => (None, "none"),
        }
    }

    /// Whether any job is held.
    pub fn busy(&self) -> bool {
        self.plain.is_some() || self.long.is_some()
    }

    /// The long job at work.
    pub fn long(&self) -> Option<Long> {
        self.long.map(|(_, long, _)| long)
    }

    fn fits(&self, want: Want) -> bool {
        match want {
            Want::Agent => self.agent.is_none(),
            Want::Plain(kind) => self.plain.is_none() && self.long.is_none_or(|(_, _, mask)| mask.has(kind)),
            Want::Long(_) => self.plain.is_none() && self.long.is_none(),
        }
    }

    fn grant(&mut self, id: JobId, want: Want) {
        match want {
            Want::Agent => self.agent = Some(id),
            Want::Plain(kind) => self.plain = Some((id, kind)),
            Want::Long(long) => self.long = Some((id, long, long.tolerates())),
        }
    }

    fn grant_waiting(&mut self) -> Vec<JobId> {
        let mut granted = Vec::new();
        let mut left = VecDeque::with_capacity(self.waiting.len());
        for (id, want) in std::mem::take(&mut self.waiting) {
            let blocked = left.iter().any(|(_, w)| blocks(*w, want));
            if !blocked && self.fits(want) {
                self.grant(id, want);
                granted.push(id);
            } else {
                left.push_back((id, want));
            }
        }
        self.waiting = left;
        granted
    }
}

/// Whether two wants are for one slot.
fn same_slot(a: Want, b: Want) -> bool {
    (a == Want::Agent) == (b == Want::Agent)
}

/// Whether `earlier`, which could not be granted, keeps `later` waiting too: a long job that waits for the slot must
/// not starve, but a plain job that the long one does not tolerate lets those pass that it does.
fn blocks(earlier: Want, later: Want) -> bool {
    same_slot(earlier, later) && !matches!((earlier, later), (Want::Plain(_), Want::Plain(_)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn granted(answer: Answer) -> JobId {
        match answer {
            Answer::Granted(id) => id,
            other => panic!("{other:?}"),
        }
    }
    fn queued(answer: Answer) -> JobId {
        match answer {
            Answer::Queued(id) => id,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_plain_job_at_a_time_in_order() {
        let mut jobs = Jobs::new(0);
        let a = granted(jobs.ask(Want::Plain(Kind::Modify)));
        let b = queued(jobs.ask(Want::Plain(Kind::Query)));
        let c = queued(jobs.ask(Want::Plain(Kind::Modify)));
        assert_eq!(jobs.holder(Want::Plain(Kind::Query)), (Some(a), "modify"));
        assert_eq!(jobs.done(a), [b]);
        assert_eq!(jobs.done(b), [c]);
        assert!(jobs.done(c).is_empty() && !jobs.busy());
    }

    #[test]
    fn a_long_job_lets_pass_what_it_tolerates() {
        let mut jobs = Jobs::new(0);
        let save = granted(jobs.ask(Want::Long(Long::Save)));
        let query = granted(jobs.ask(Want::Plain(Kind::Query)));
        jobs.done(query);
        let modify = queued(jobs.ask(Want::Plain(Kind::Modify)));
        assert_eq!(jobs.holder(Want::Plain(Kind::Modify)), (Some(save), "save"));
        assert_eq!(jobs.tolerate(save, Mask::of(&[Kind::Modify])), [modify]);
        jobs.done(modify);
        assert!(jobs.done(save).is_empty());
    }

    #[test]
    fn who_gives_up_waiting_is_not_granted() {
        let mut jobs = Jobs::new(0);
        let a = granted(jobs.ask(Want::Plain(Kind::Modify)));
        let b = queued(jobs.ask(Want::Plain(Kind::Modify)));
        let c = queued(jobs.ask(Want::Plain(Kind::Modify)));
        assert!(jobs.done(b).is_empty());
        assert_eq!(jobs.done(a), [c]);
    }

    #[test]
    fn the_queue_has_a_limit() {
        let mut jobs = Jobs::new(1);
        granted(jobs.ask(Want::Plain(Kind::Modify)));
        queued(jobs.ask(Want::Plain(Kind::Modify)));
        assert_eq!(jobs.ask(Want::Plain(Kind::Modify)), Answer::Full);
    }

    #[test]
    fn the_agent_has_a_slot_of_its_own() {
        let mut jobs = Jobs::new(0);
        granted(jobs.ask(Want::Plain(Kind::Modify)));
        granted(jobs.ask(Want::Agent));
        queued(jobs.ask(Want::Agent));
    }

    fn want() -> impl Strategy<Value = Want> {
        prop_oneof![
            Just(Want::Agent),
            prop_oneof![
                Just(Kind::Query),
                Just(Kind::Modify),
                Just(Kind::Suspend),
                Just(Kind::Abort)
            ]
            .prop_map(Want::Plain),
            prop_oneof![Just(Long::Start), Just(Long::Save), Just(Long::Backup)].prop_map(Want::Long),
        ]
    }

    proptest! {
        /// Whatever is asked and ended in whatever order: nobody is granted twice, slots are never shared, and when all
        /// is ended all were granted.
        #[test]
        fn everybody_gets_a_turn(wants in prop::collection::vec((want(), any::<prop::sample::Index>()), 1..60)) {
            let mut jobs = Jobs::new(0);
            let mut held: Vec<JobId> = Vec::new();
            let mut waiting = Vec::new();
            for (want, pick) in wants {
                match jobs.ask(want) {
                    Answer::Granted(id) => held.push(id),
                    Answer::Queued(id) => waiting.push(id),
                    Answer::Full => prop_assert!(false, "no limit was set"),
                }
                prop_assert!(held.len() <= 3);
                if pick.index(3) == 0 && !held.is_empty() {
                    let id = held.remove(pick.index(held.len()));
                    for new in jobs.done(id) {
                        prop_assert!(waiting.contains(&new));
                        waiting.retain(|w| *w != new);
                        held.push(new);
                    }
                }
            }
            while let Some(id) = held.pop() {
                for new in jobs.done(id) {
                    waiting.retain(|w| *w != new);
                    held.push(new);
                }
            }
            prop_assert!(waiting.is_empty());
            prop_assert!(!jobs.busy());
        }
    }
}
