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
    Found { uuid: Uuid::from_u128(n), name: format!("guest{n}").into(), defined, id }
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
    journal.append(vec![told(1, lifecycle(0, 0), 0), told(2, lifecycle(0, 0), 0)]);
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
        journal.append(vec![Happening { name: Arc::clone(&long), ..told(1, lifecycle(3, 0), 1) }]);
    }
    let newest = journal.version();
    drop(journal);
    let size: u64 = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(size < 10 << 20, "{size}");
    let journal = Journal::open(dir.path()).unwrap();
    assert_eq!(journal.version(), newest);
    assert!(journal.can_resume(Version { counter: newest.counter - 100, ..newest }));
}

#[test]
fn what_was_not_told_is_told_at_start_up_once() {
    let dir = TempDir::new().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    journal.baseline(&[found(1, true, 0), found(2, true, 4), found(3, false, 5)]);
    journal.append(vec![told(1, lifecycle(2, 0), 6)]);
    drop(journal);

    let journal = Journal::open(dir.path()).unwrap();
    let missed = journal.reconcile(&[found(1, true, 6), found(2, true, 0), found(4, true, 0)]);
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
    assert!(journal.reconcile(&[found(1, true, 6), found(2, true, 0), found(4, true, 0)]).is_empty());
}

#[test]
fn a_first_start_is_no_news() {
    let dir = TempDir::new().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    journal.baseline(&[found(1, true, 0)]);
    assert!(journal.reconcile(&[found(1, true, 0)]).is_empty());
    drop(journal);
    assert!(Journal::open(dir.path()).unwrap().reconcile(&[found(1, true, 0)]).is_empty());
}
