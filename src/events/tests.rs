use tempfile::TempDir;
use uuid::Uuid;

use super::*;

fn told(n: u128, change: pb::event::Lifecycle, id: i32) -> Happening {
    Happening {
        uuid: Uuid::from_u128(n),
        name: format!("guest{n}").into(),
        id,
        kind: pb::EventKind::Lifecycle,
        detail: Some(pb::event::Detail::Lifecycle(change)),
    }
}

fn found(n: u128, defined: bool, id: i32) -> Found {
    Found {
        uuid: Uuid::from_u128(n),
        name: format!("guest{n}").into(),
        defined,
        id,
        state: (0, 0),
        moments: Vec::new(),
    }
}

/// Nobody knows why a run ended.
fn failed(_: Uuid, _: i32) -> i32 {
    5
}

/// Lifecycle events: guest, type, detail, state, whether it is gone.
fn lines(happenings: &[Happening]) -> Vec<(String, i32, i32, i32, bool)> {
    let one = |h: &Happening| match &h.detail {
        Some(pb::event::Detail::Lifecycle(l)) => (h.name.to_string(), l.r#type, l.detail, l.state, l.gone),
        other => panic!("{other:?}"),
    };
    happenings.iter().map(one).collect()
}

fn counters(next: Next) -> Vec<u64> {
    match next {
        Next::Events(events) => events.iter().map(|e| counter(e)).collect(),
        Next::Expired => vec![],
    }
}

#[tokio::test]
async fn a_watch_resumes_where_it_stopped_across_a_restart() {
    let dir = TempDir::new().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    for n in 1..=5 {
        journal.append(vec![told(n, lifecycle(0, 0), 0)]);
    }
    let before = journal.version();
    drop(journal);
    let journal = Journal::open(dir.path()).unwrap();
    assert_eq!(journal.version(), before);
    assert!(journal.can_resume(Version { counter: 2, ..before }));
    assert_eq!(counters(journal.next(2, 100).await), [3, 4, 5]);
    assert_eq!(journal.append(vec![told(9, lifecycle(0, 0), 0)]).counter, 6);
    assert_eq!(counters(journal.next(5, 100).await), [6]);
}

#[test]
fn another_epoch_or_the_future_can_not_be_resumed() {
    let journal = Journal::in_memory(7);
    journal.append(vec![told(1, lifecycle(0, 0), 0)]);
    assert!(journal.can_resume(Version { epoch: 7, counter: 0 }));
    assert!(!journal.can_resume(Version { epoch: 8, counter: 0 }));
    assert!(!journal.can_resume(Version { epoch: 7, counter: 2 }));
}

#[tokio::test]
async fn who_lags_too_far_is_told() {
    let journal = Journal::in_memory(1);
    for _ in 0..=RING_EVENTS {
        journal.append(vec![told(1, lifecycle(3, 0), 1)]);
    }
    assert!(matches!(journal.next(0, 10).await, Next::Expired));
    assert!(!journal.can_resume(Version { epoch: 1, counter: 0 }));
    assert_eq!(counters(journal.next(1, 2).await), [2, 3]);
}

#[test]
fn a_torn_tail_is_cut_off_and_written_over() {
    let dir = TempDir::new().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    journal.append(vec![told(1, lifecycle(0, 0), 0)]);
    journal.append(vec![told(2, lifecycle(0, 0), 0)]);
    drop(journal);
    let path = dir.path().join("journal.1");
    let bytes = std::fs::read(&path).unwrap();
    for cut in 1..20 {
        std::fs::write(&path, &bytes[..bytes.len() - cut]).unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        assert_eq!(journal.version().counter, 1, "cut {cut}");
        assert_eq!(journal.append(vec![told(3, lifecycle(0, 0), 0)]).counter, 2);
        drop(journal);
        assert_eq!(Journal::open(dir.path()).unwrap().version().counter, 2);
    }
}

#[test]
fn segments_roll_and_stay_bounded() {
    let dir = TempDir::new().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let long: Arc<str> = "x".repeat(10_000).into();
    for _ in 0..1_500 {
        journal.append(vec![Happening {
            name: Arc::clone(&long),
            ..told(1, lifecycle(3, 0), 1)
        }]);
    }
    let newest = journal.version();
    drop(journal);
    let size: u64 = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().metadata().unwrap().len())
        .sum();
    assert!(size < 10 << 20, "{size}");
    let journal = Journal::open(dir.path()).unwrap();
    assert_eq!(journal.version(), newest);
    assert!(journal.can_resume(Version {
        counter: newest.counter - 100,
        ..newest
    }));
}

#[test]
fn what_was_not_told_is_told_at_start_up_once() {
    let dir = TempDir::new().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    journal.baseline(&[found(1, true, 0), found(2, true, 4), found(3, false, 5)]);
    journal.append(vec![told(1, lifecycle(2, 0), 6)]);
    drop(journal);

    let journal = Journal::open(dir.path()).unwrap();
    let missed = journal.reconcile(&[found(1, true, 6), found(2, true, 0), found(4, true, 0)], failed);
    let mut seen: Vec<_> = missed
        .iter()
        .map(|h| match &h.detail {
            Some(pb::event::Detail::Lifecycle(l)) => (h.uuid.as_u128(), l.r#type, l.gone),
            _ => panic!("not a lifecycle event"),
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [(2, 5, false), (3, 5, true), (4, 0, false)]);
    journal.append(missed);
    assert!(
        journal
            .reconcile(&[found(1, true, 6), found(2, true, 0), found(4, true, 0)], failed)
            .is_empty()
    );
}

#[test]
fn a_first_start_is_no_news() {
    let dir = TempDir::new().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    journal.baseline(&[found(1, true, 0)]);
    assert!(journal.reconcile(&[found(1, true, 0)], failed).is_empty());
    drop(journal);
    assert!(
        Journal::open(dir.path())
            .unwrap()
            .reconcile(&[found(1, true, 0)], failed)
            .is_empty()
    );
}

#[test]
fn the_events_of_one_change_are_kept_together_or_not_at_all() {
    let dir = TempDir::new().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    journal.append(vec![told(1, lifecycle(0, 0), 0)]);
    journal.append(vec![told(1, lifecycle(4, 0), 7), told(1, lifecycle(2, 0), 7)]);
    drop(journal);
    let path = dir.path().join("journal.1");
    let bytes = std::fs::read(&path).unwrap();
    let ends: std::collections::BTreeSet<_> = (0..bytes.len())
        .map(|length| {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let journal = Journal::open(dir.path()).unwrap();
            journal.version().counter
        })
        .collect();
    assert_eq!(ends.into_iter().collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn what_was_missed_is_told_with_state_name_and_reason() {
    let known = |defined, id, state| Found {
        state: (state, 0),
        ..found(1, defined, id)
    };
    let renamed = Found {
        name: "new".into(),
        ..known(true, 0, 5)
    };
    let guest = || "guest1".to_owned();
    // Told last, found now, what was missed.
    for (before, now, wanted) in [
        (known(true, 4, 1), known(true, 4, 1), vec![]),
        (
            known(true, 4, 1),
            known(true, 4, 3),
            vec![(guest(), 3, 0, 3, false)],
        ),
        (
            known(true, 4, 3),
            known(true, 4, 1),
            vec![(guest(), 4, 0, 1, false)],
        ),
        (
            known(true, 4, 1),
            known(true, 4, 4),
            vec![(guest(), 6, 1, 4, false)],
        ),
        (
            known(true, 4, 1),
            known(true, 4, 6),
            vec![(guest(), 8, 0, 6, false)],
        ),
        (
            known(true, 4, 1),
            known(true, 0, 5),
            vec![(guest(), 5, 5, 5, false)],
        ),
        (
            known(true, 0, 5),
            known(true, 4, 1),
            vec![(guest(), 2, 0, 1, false)],
        ),
        (
            known(true, 0, 5),
            known(true, 4, 3),
            vec![(guest(), 2, 0, 3, false), (guest(), 3, 0, 3, false)],
        ),
        (
            known(true, 4, 1),
            known(true, 5, 1),
            vec![(guest(), 5, 5, 5, false), (guest(), 2, 0, 1, false)],
        ),
        (
            known(false, 4, 1),
            known(true, 4, 1),
            vec![(guest(), 0, 0, 1, false)],
        ),
        (
            known(true, 0, 5),
            renamed,
            vec![(guest(), 1, 1, 5, false), ("new".to_owned(), 0, 2, 5, false)],
        ),
    ] {
        let dir = TempDir::new().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        journal.baseline(std::slice::from_ref(&before));
        drop(journal);
        // Over a restart, so that all of it is in the files.
        let journal = Journal::open(dir.path()).unwrap();
        let missed = journal.reconcile(std::slice::from_ref(&now), failed);
        assert_eq!(lines(&missed), wanted, "{before:?} {now:?}");
        journal.append(missed);
        assert!(
            journal.reconcile(std::slice::from_ref(&now), failed).is_empty(),
            "told twice: {before:?} {now:?}"
        );
    }
}

#[test]
fn why_a_run_ended_is_asked_of_who_may_know() {
    let journal = Journal::in_memory(1);
    journal.baseline(&[found(1, false, 4), found(2, true, 5)]);
    let mut missed =
        lines(&journal.reconcile(&[], |uuid, id| if (uuid.as_u128(), id) == (1, 4) { 1 } else { 5 }));
    missed.sort();
    let (one, two) = ("guest1".to_owned(), "guest2".to_owned());
    assert_eq!(
        missed,
        [
            (one, 5, 1, 5, true),
            (two.clone(), 1, 0, 0, true),
            (two, 5, 5, 5, false)
        ]
    );
}

#[tokio::test]
async fn what_became_of_snapshots_is_told_once_also_over_a_kill() {
    let dir = TempDir::new().unwrap();
    let moment = |name: &str, parent: &str, current| pb::event::MomentChange {
        r#type: pb::MomentType::Created.into(),
        name: name.to_owned(),
        parent: parent.to_owned(),
        current,
    };
    let with = |moments: &[(pb::EventKind, pb::event::MomentChange)]| Found {
        moments: moments.to_vec(),
        ..found(1, true, 0)
    };
    let missed = |journal: &Journal, found: Found| {
        let missed = journal.reconcile(&[found], failed);
        let line = |h: &Happening| match &h.detail {
            Some(pb::event::Detail::Moment(m)) => {
                format!(
                    "{:?} {:?} {} {} {}",
                    h.kind,
                    m.r#type(),
                    m.name,
                    m.parent,
                    m.current
                )
            }
            other => panic!("{other:?}"),
        };
        missed.iter().map(line).collect::<Vec<_>>()
    };
    let (snapshot, checkpoint) = (pb::EventKind::Snapshot, pb::EventKind::Checkpoint);
    let first = [
        (snapshot, moment("a", "", true)),
        (checkpoint, moment("a", "", true)),
    ];
    let journal = Journal::open(dir.path()).unwrap();
    journal.baseline(&[with(&first)]);
    assert!(missed(&journal, with(&first)).is_empty());
    let told = Happening {
        uuid: Uuid::from_u128(1),
        name: "guest1".into(),
        id: 0,
        kind: snapshot,
        detail: Some(pb::event::Detail::Moment(moment("b", "a", true))),
    };
    journal.append(vec![told]);
    drop(journal);
    // What was found at first is in the file's head, what came later in its records.
    let journal = Journal::open(dir.path()).unwrap();
    let now = [
        (snapshot, moment("b", "", true)),
        (snapshot, moment("c", "b", false)),
    ];
    let news = [
        "Snapshot Deleted a  false",
        "Checkpoint Deleted a  false",
        "Snapshot Changed b  true",
        "Snapshot Created c b false",
    ];
    assert_eq!(missed(&journal, with(&now)), news);
    journal.append(journal.reconcile(&[with(&now)], failed));
    assert!(missed(&journal, with(&now)).is_empty());
    // The moments of a guest that is gone are not told of.
    let gone = journal.reconcile(&[], failed);
    assert_eq!(lines(&gone), [("guest1".to_owned(), 1, 0, 0, true)]);
}
