//! A guest's owner, jobs, registry and files together, without QEMU.

use std::{fs, path::PathBuf};

use domxml::ParseFlags;
use futures_util::FutureExt;
use jobs::{Kind, Long};
use tempfile::TempDir;

use super::{store::Store, *};
use crate::{
    events::{Journal, Next, Version, model as pb, model::event::Detail},
    paths::Paths,
};

const SOON: Duration = Duration::from_secs(10);
const DEFINED: (i32, i32) = (0, 0);

/// A registry over files of its own.
struct Place {
    registry: Arc<Registry>,
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self::with_queue(0)
    }

    fn with_queue(max_queued: usize) -> Self {
        let dir = TempDir::new().unwrap();
        let paths = Arc::new(Paths::system(dir.path()));
        for path in [&paths.config, &paths.state] {
            fs::create_dir_all(path).unwrap();
        }
        Self {
            registry: Registry::new(Store::new(paths), Journal::in_memory(1), max_queued),
            dir,
        }
    }

    fn config(&self, name: &str) -> PathBuf {
        self.registry.store().config_path(name)
    }

    async fn define(&self, n: u128, name: &str) -> Result<Domain> {
        let domain = self.registry.claim(Uuid::from_u128(n), name)?;
        domain.commit(defines(n, name)).await?;
        Ok(domain)
    }

    /// Lifecycle events so far: name, type, detail, gone.
    async fn told(&self) -> Vec<(String, i32, i32, bool)> {
        if self.registry.journal().version().counter == 0 {
            return Vec::new();
        }
        let Next::Events(events) = self.registry.journal().next(0, 1_000).await else {
            panic!("the journal has expired")
        };
        let one = |event: &Arc<pb::Event>| match &event.detail {
            Some(Detail::Lifecycle(l)) => (event.name.clone(), l.r#type, l.detail, l.gone),
            other => panic!("{other:?}"),
        };
        events.iter().map(one).collect()
    }
}

fn document(n: u128, name: &str) -> domxml::Domain {
    let uuid = Uuid::from_u128(n);
    let text = format!(
        "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory>1024</memory><os><type>hvm</type></os></domain>"
    );
    domxml::Domain::parse(&text, ParseFlags::INACTIVE).unwrap()
}

fn defines(n: u128, name: &str) -> impl FnOnce(&mut View) -> Result<Effects> + Send + 'static {
    let config = Stored::new(&document(n, name));
    move |view| {
        view.config = Some(config);
        Ok(Effects::none().lifecycle(DEFINED.0, DEFINED.1))
    }
}

fn undefines(view: &mut View) -> Result<Effects> {
    view.config = None;
    Ok(Effects::none().lifecycle(1, 0))
}

fn run(id: i32, document: domxml::Domain) -> Run {
    fixture::run(domxml::Domain {
        id: Some(id),
        ..document
    })
}

fn renames(n: u128, name: &'static str) -> impl FnOnce(&mut View) -> Result<Effects> + Send + 'static {
    let config = Stored::new(&document(n, name));
    move |view| {
        view.name = name.into();
        view.config = Some(config);
        Ok(Effects::none().lifecycle(1, 1).lifecycle(0, 2))
    }
}

#[tokio::test]
async fn who_sees_an_event_finds_its_file_and_its_view() {
    let place = Place::new();
    let watching = tokio::spawn({
        let registry = Arc::clone(&place.registry);
        async move {
            for counter in 0..50 {
                let Next::Events(events) = registry.journal().next(counter, 1).await else {
                    panic!("expired")
                };
                let event = &events[0];
                assert!(
                    registry.store().config_path(&event.name).exists(),
                    "{}",
                    event.name
                );
                let view = registry.by_name(&event.name).unwrap().view();
                assert!(view.version.counter >= event.version.as_ref().unwrap().counter);
            }
        }
    });
    for n in 0..50 {
        place.define(n, &format!("g{n}")).await.unwrap();
    }
    tokio::time::timeout(SOON, watching).await.unwrap().unwrap();
}

#[tokio::test]
async fn every_commit_changes_the_etag_and_commits_do_not_mix() {
    let place = Place::new();
    let domain = place.define(1, "a").await.unwrap();
    let commits: Vec<_> = (0..100)
        .map(|_| {
            let domain = domain.clone();
            tokio::spawn(async move {
                let count = |view: &mut View| {
                    let title = view
                        .config
                        .as_ref()
                        .and_then(|c| c.domain().unwrap().title.clone())
                        .map_or(0, |t| t.parse::<u32>().unwrap());
                    let mut next = document(1, "a");
                    next.title = Some((title + 1).to_string());
                    view.config = Some(Stored::new(&next));
                    Ok(Effects::none())
                };
                domain.commit(count).await.unwrap().etag()
            })
        })
        .collect();
    let mut etags = std::collections::BTreeSet::new();
    for commit in commits {
        etags.insert(commit.await.unwrap());
    }
    assert_eq!(etags.len(), 100);
    let view = domain.view();
    assert_eq!(
        view.config.as_ref().unwrap().domain().unwrap().title.as_deref(),
        Some("100")
    );
    assert!(
        fs::read_to_string(place.config("a"))
            .unwrap()
            .contains("<title>100</title>"),
        "the file is of the last commit"
    );
}

#[tokio::test]
async fn a_commit_that_changes_nothing_keeps_the_etag() {
    let place = Place::new();
    let domain = place.define(1, "a").await.unwrap();
    let before = domain.view();
    let after = domain
        .commit(|view| {
            view.autostart = false;
            Ok(Effects::none())
        })
        .await
        .unwrap();
    assert_eq!(after.etag(), before.etag());
    let told = domain
        .commit(|_| Ok(Effects::none().lifecycle(0, 1)))
        .await
        .unwrap();
    assert_ne!(told.etag(), before.etag());
}

#[tokio::test]
async fn what_qemu_says_is_taken_in_before_what_somebody_wants() {
    let place = Place::new();
    let domain = place.define(1, "a").await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let note = |word: &'static str| {
        let order = Arc::clone(&order);
        move |_: &mut View| {
            order.lock().unwrap().push(word);
            Ok(Effects::none())
        }
    };
    // On one thread the owner does not run between these: both wait for it.
    let (wish, fact) = (domain.clone(), domain.clone());
    let (wish, fact) = (note("wish"), (wish, fact, note("fact")));
    let wished = fact.0.commit(wish);
    let said = fact.1.from_monitor(fact.2);
    let (wished, ()) = tokio::join!(wished, said);
    wished.unwrap();
    assert_eq!(*order.lock().unwrap(), ["fact", "wish"]);
}

#[tokio::test]
async fn a_change_that_fails_changes_nothing() {
    let place = Place::new();
    let domain = place.define(1, "a").await.unwrap();
    let (before, text) = (domain.view(), fs::read_to_string(place.config("a")).unwrap());
    let refused = |view: &mut View| {
        view.config = None;
        view.name = "b".into();
        Err(Error::invalid("no"))
    };
    assert!(domain.commit(refused).await.is_err());
    assert!(Arc::ptr_eq(&before, &domain.view()));
    assert_eq!(fs::read_to_string(place.config("a")).unwrap(), text);
    assert_eq!(place.told().await.len(), 1);
}

#[tokio::test]
async fn a_store_that_fails_leaves_nothing_changed() {
    let place = Place::new();
    let domain = place.define(1, "a").await.unwrap();
    let before = domain.view();
    let text = fs::read_to_string(place.config("a")).unwrap();
    // In the way of the temporary file.
    fs::create_dir(place.config("a").with_extension("xml.new")).unwrap();
    let error = domain.commit(defines(1, "a")).await.unwrap_err();
    assert!(error.to_string().contains("a.xml"), "{error}");
    assert!(Arc::ptr_eq(&before, &domain.view()));
    assert_eq!(fs::read_to_string(place.config("a")).unwrap(), text);
    // A guest that could not be stored is none.
    fs::create_dir(place.config("b").with_extension("xml.new")).unwrap();
    assert!(place.define(2, "b").await.is_err());
    assert!(place.registry.by_name("b").is_err());
    assert_eq!(place.told().await.len(), 1, "nobody was told");
    // Both can be stored once nothing is in the way.
    for name in ["a", "b"] {
        fs::remove_dir(place.config(name).with_extension("xml.new")).unwrap();
    }
    domain.commit(defines(1, "a")).await.unwrap();
    place.define(2, "b").await.unwrap();
}

#[tokio::test]
async fn a_run_that_can_not_be_written_down_does_not_begin() {
    let place = Place::new();
    let domain = place.define(1, "a").await.unwrap();
    let blocked = place.registry.store().status_path("a").with_extension("xml.new");
    fs::create_dir(&blocked).unwrap();
    let begins = |view: &mut View| {
        view.run = Some(run(7, document(1, "a")));
        view.condition = Condition::RUNNING_BOOTED;
        Ok(Effects::none().lifecycle(2, 0))
    };
    assert!(domain.commit(begins).await.is_err());
    assert!(!domain.view().active() && place.registry.by_id(7).is_err());
    fs::remove_dir(&blocked).unwrap();
    domain.commit(begins).await.unwrap();
    assert_eq!(place.registry.by_id(7).unwrap().uuid(), domain.uuid());
    // One that runs already only loses a better description of itself.
    fs::create_dir(&blocked).unwrap();
    let pauses = |view: &mut View| {
        view.condition = Condition::PAUSED_USER;
        Ok(Effects::none().lifecycle(3, 0))
    };
    domain.commit(pauses).await.unwrap();
    assert_eq!(domain.view().condition, Condition::PAUSED_USER);
}

#[tokio::test]
async fn a_file_that_is_not_a_guests_is_kept() {
    let place = Place::new();
    fs::write(place.config("mine"), "precious").unwrap();
    let found = place.registry.store().load().unwrap();
    assert!(found.configs.is_empty());
    assert!(place.define(1, "mine").await.is_err());
    assert_eq!(fs::read_to_string(place.config("mine")).unwrap(), "precious");
    assert!(place.registry.by_name("mine").is_err());
    // Nor by a rename.
    let other = place.define(2, "other").await.unwrap();
    assert!(other.commit(renames(2, "mine")).await.is_err());
    assert_eq!(fs::read_to_string(place.config("mine")).unwrap(), "precious");
    assert_eq!(&*other.view().name, "other");
    assert!(place.config("other").exists());
}

#[tokio::test]
async fn a_name_is_kept_while_a_rename_is_on_its_way() {
    let place = Place::new();
    let domain = place.define(1, "old").await.unwrap();
    place.registry.reserve_name(domain.uuid(), "new").unwrap();
    assert!(
        place.registry.claim(Uuid::from_u128(2), "new").is_err(),
        "somebody took the name"
    );
    assert!(place.registry.reserve_name(Uuid::from_u128(3), "new").is_err());
    assert!(place.registry.by_name("old").is_ok());
    domain.commit(renames(1, "new")).await.unwrap();
    assert!(place.registry.by_name("old").is_err());
    assert_eq!(place.registry.by_name("new").unwrap().uuid(), domain.uuid());
    assert_eq!(
        (place.config("old").exists(), place.config("new").exists()),
        (false, true)
    );
    let told: Vec<_> = place.told().await.split_off(1);
    assert_eq!(
        told,
        [("old".to_owned(), 1, 1, false), ("new".to_owned(), 0, 2, false)]
    );
    // The old name is free.
    place.define(4, "old").await.unwrap();
}

#[tokio::test]
async fn a_rename_that_fails_gives_the_name_back() {
    let place = Place::new();
    let domain = place.define(1, "old").await.unwrap();
    place.registry.reserve_name(domain.uuid(), "new").unwrap();
    fs::create_dir(place.config("new").with_extension("xml.new")).unwrap();
    domain.commit(renames(1, "new")).await.unwrap_err();
    place.registry.release_name("new");
    fs::remove_dir(place.config("new").with_extension("xml.new")).unwrap();
    assert_eq!(place.registry.by_name("old").unwrap().uuid(), domain.uuid());
    place.define(2, "new").await.unwrap();
    // What is somebody's is not released.
    place.registry.release_name("new");
    assert!(place.registry.by_name("new").is_ok());
}

#[tokio::test]
async fn one_of_many_that_want_a_name_gets_it() {
    let place = Arc::new(Place::new());
    let attempts: Vec<_> = (1..=20)
        .map(|n| {
            let place = Arc::clone(&place);
            tokio::spawn(async move { place.define(n, "wanted").await.is_ok() })
        })
        .collect();
    let mut got = 0;
    for attempt in attempts {
        got += usize::from(attempt.await.unwrap());
    }
    assert_eq!(got, 1);
    assert_eq!(place.registry.views().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_guest_that_leaves_while_it_is_defined_again_is_never_half_there() {
    let place = Arc::new(Place::new());
    for _ in 0..100 {
        let domain = place.define(1, "a").await.unwrap();
        let leaves = tokio::spawn(async move { domain.commit(undefines).await });
        // As `ops::change::define` does: who meets the guest as it leaves tries again.
        let returns = async {
            loop {
                match place.define(1, "a").await {
                    Err(error) if error.reason == Some(GONE) => tokio::task::yield_now().await,
                    other => return other,
                }
            }
        };
        let (left, returned) = tokio::join!(leaves, returns);
        left.unwrap().unwrap();
        let there = place.registry.by_name("a").is_ok();
        assert_eq!(place.config("a").exists(), there);
        assert_eq!(place.registry.by_uuid(Uuid::from_u128(1)).is_ok(), there);
        if let Ok(returned) = returned
            && there
        {
            returned.commit(undefines).await.unwrap();
        }
        let gone = tokio::time::timeout(SOON, async {
            while place.registry.claim(Uuid::from_u128(2), "a").is_err() {
                tokio::task::yield_now().await;
            }
        });
        gone.await.unwrap();
        // The handle just claimed was never a guest: its first commit lets it go.
        let claimed = place.registry.claim(Uuid::from_u128(2), "a").unwrap();
        let _ = claimed.commit(|_| Ok(Effects::none())).await;
        while place.registry.claim(Uuid::from_u128(1), "a").is_err() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn the_last_event_of_a_guest_says_so() {
    let place = Place::new();
    let domain = place.define(1, "a").await.unwrap();
    domain
        .commit(|view| {
            view.run = Some(run(3, document(1, "a")));
            view.condition = Condition::RUNNING_BOOTED;
            Ok(Effects::none().lifecycle(2, 0))
        })
        .await
        .unwrap();
    domain.commit(undefines).await.unwrap();
    assert!(place.registry.by_name("a").is_ok(), "it runs on");
    domain
        .commit(|view| {
            view.run = None;
            view.condition = Condition::SHUTOFF_DESTROYED;
            Ok(Effects::none().lifecycle(6, 2).lifecycle(5, 1))
        })
        .await
        .unwrap();
    let gone: Vec<_> = place
        .told()
        .await
        .into_iter()
        .map(|(_, kind, _, gone)| (kind, gone))
        .collect();
    assert_eq!(gone, [(0, false), (2, false), (1, false), (6, false), (5, true)]);
    assert!(domain.commit(undefines).await.unwrap_err().reason == Some(GONE));
    assert!(place.registry.by_uuid(domain.uuid()).is_err());
    assert!(
        fs::read_dir(&place.registry.store().paths().state)
            .unwrap()
            .next()
            .is_none(),
        "a status file is left"
    );
    assert!(place.dir.path().exists());
}

#[tokio::test]
async fn autostart_follows_name_and_configuration() {
    let place = Place::new();
    let domain = place.define(1, "a").await.unwrap();
    let sets = |view: &mut View| {
        view.autostart = true;
        Ok(Effects::none())
    };
    domain.commit(sets).await.unwrap();
    let link = |name: &str| fs::read_link(place.registry.store().autostart_path(name)).ok();
    assert_eq!(link("a"), Some(place.config("a")));
    place.registry.reserve_name(domain.uuid(), "b").unwrap();
    domain.commit(renames(1, "b")).await.unwrap();
    assert_eq!((link("a"), link("b")), (None, Some(place.config("b"))));
    domain
        .commit(|view| {
            view.autostart = false;
            undefines(view)
        })
        .await
        .unwrap();
    assert_eq!(link("b"), None);
}

#[tokio::test]
async fn a_commit_that_is_on_its_way_stands_when_nobody_waits() {
    let place = Place::new();
    let domain = place.define(1, "a").await.unwrap();
    let mut commit = Box::pin(domain.commit(|view| {
        view.condition = Condition::SHUTOFF_FAILED;
        Ok(Effects::none())
    }));
    assert!((&mut commit).now_or_never().is_none());
    drop(commit);
    let seen = tokio::time::timeout(
        SOON,
        domain.wait_for(|v| v.condition == Condition::SHUTOFF_FAILED),
    );
    seen.await.unwrap();
}

#[tokio::test]
async fn a_job_is_waited_for_and_who_holds_it_is_named() {
    let place = Place::new();
    let domain = place.define(1, "a").await.unwrap();
    let start = domain.job(Want::Long(Long::Start)).await.unwrap();
    let began = std::time::Instant::now();
    let error = domain
        .job_within(Want::Plain(Kind::Query), Duration::from_millis(50))
        .await
        .unwrap_err();
    assert!(began.elapsed() >= Duration::from_millis(50));
    assert_eq!(error.code, Code::OperationTimeout);
    assert!(error.to_string().contains("held by start"), "{error}");
    drop(error);
    // A call of libvirt's protocol is named as libvirt's daemon names it.
    let of_a_call = |job| {
        let peer = unixfd::Peer {
            cred: unixfd::PeerCred::own(),
            read_only: false,
        };
        let call = Some(&<wire::remote::DomainBackupBegin as wire::procedure::Procedure>::INFO);
        let caller = wire::Caller {
            peer,
            more: None,
            call,
        };
        crate::peers::on_behalf(Some(caller), job)
    };
    let other = place.define(2, "b").await.unwrap();
    let _backup = of_a_call(Box::pin(other.job(Want::Long(Long::Backup))))
        .await
        .unwrap();
    let _agent = of_a_call(Box::pin(other.job(Want::Agent))).await.unwrap();
    for (want, slot) in [(Want::Long(Long::Save), "monitor"), (Want::Agent, "agent")] {
        let error = other.job_within(want, Duration::ZERO).await.unwrap_err();
        let text = format!("(held by {slot}=remoteDispatchDomainBackupBegin)");
        assert!(error.to_string().ends_with(&text), "{error}");
    }
    // Zero does not wait.
    assert!(
        domain
            .job_within(Want::Plain(Kind::Query), Duration::ZERO)
            .await
            .is_err()
    );
    let waiting = tokio::spawn({
        let domain = domain.clone();
        async move { domain.job(Want::Plain(Kind::Query)).await.map(drop) }
    });
    tokio::task::yield_now().await;
    drop(start);
    tokio::time::timeout(SOON, waiting)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(!domain.busy());
}

#[tokio::test]
async fn who_gives_up_waiting_is_passed_over() {
    let place = Place::new();
    let domain = place.define(1, "a").await.unwrap();
    let held = domain.job(Want::Plain(Kind::Modify)).await.unwrap();
    let mut given_up: Vec<_> = (0..10)
        .map(|_| Box::pin(domain.job(Want::Plain(Kind::Modify))))
        .collect();
    for job in &mut given_up {
        assert!(job.now_or_never().is_none());
    }
    let mut patient = Box::pin(domain.job(Want::Plain(Kind::Modify)));
    assert!((&mut patient).now_or_never().is_none());
    // Half give up before the job is free, half after they were granted it without looking.
    given_up.truncate(5);
    drop(held);
    drop(given_up);
    let job = tokio::time::timeout(SOON, patient).await.unwrap().unwrap();
    drop(job);
    assert!(!domain.busy());
}

#[tokio::test]
async fn too_many_that_wait_are_refused() {
    let place = Place::with_queue(2);
    let domain = place.define(1, "a").await.unwrap();
    let _held = domain.job(Want::Plain(Kind::Modify)).await.unwrap();
    let mut waiting: Vec<_> = (0..2)
        .map(|_| Box::pin(domain.job(Want::Plain(Kind::Modify))))
        .collect();
    for job in &mut waiting {
        assert!(job.now_or_never().is_none());
    }
    let error = domain.job(Want::Plain(Kind::Modify)).await.unwrap_err();
    assert_eq!(error.code, Code::OperationFailed);
    assert!(error.to_string().contains("max_queued"), "{error}");
}

#[tokio::test]
async fn a_panic_under_a_job_gives_it_back() {
    let place = Place::new();
    let domain = place.define(1, "a").await.unwrap();
    let held = domain.job(Want::Plain(Kind::Modify)).await.unwrap();
    let panics = tokio::spawn(async move {
        let _held = held;
        panic!("a bug");
    });
    assert!(panics.await.is_err());
    assert!(
        domain
            .job_within(Want::Plain(Kind::Modify), Duration::ZERO)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_version_in_a_view_is_of_the_last_event_of_its_commit() {
    let place = Place::new();
    let domain = place.define(1, "a").await.unwrap();
    assert_eq!(domain.view().version, Version { epoch: 1, counter: 1 });
    place.registry.reserve_name(domain.uuid(), "b").unwrap();
    domain.commit(renames(1, "b")).await.unwrap();
    assert_eq!(domain.view().version.counter, 3);
}

#[tokio::test]
async fn what_becomes_of_snapshots_and_checkpoints_is_told_whoever_commits_it() {
    let place = Place::new();
    // Those of which files go have some.
    for kind in ["checkpoint", "snapshot"] {
        let files = place.dir.path().join("var/lib/libvirt/qemu").join(kind);
        fs::create_dir_all(files.join("a")).unwrap();
    }
    let domain = place.define(1, "a").await.unwrap();
    let tree = |names: &[&str]| {
        let summary = |name: &&str| domxml::moment::Summary {
            name: (*name).to_owned(),
            ..Default::default()
        };
        let summaries = names.iter().map(summary).collect();
        Arc::new(snapshots::Snapshots::found(summaries).0)
    };
    let (one, two) = (tree(&["x"]), tree(&["y", "z"]));
    let (snapshots, checkpoints) = (Arc::clone(&one), two);
    let both = move |view: &mut View| {
        (view.snapshots, view.checkpoints) = (snapshots, checkpoints);
        Ok(Effects::none().lifecycle(0, 3))
    };
    domain.commit(both).await.unwrap();
    let fewer = move |view: &mut View| {
        view.checkpoints = one;
        Ok(Effects::none())
    };
    domain.commit(fewer).await.unwrap();
    // Nobody is told of those that go with their guest.
    domain.commit(undefines).await.unwrap();
    let Next::Events(events) = place.registry.journal().next(1, 100).await else {
        panic!("the journal has expired")
    };
    let word = |event: &Arc<pb::Event>| match &event.detail {
        Some(Detail::Moment(m)) => format!("{:?} {:?} {}", event.kind(), m.r#type(), m.name),
        _ => format!("{:?}", event.kind()),
    };
    let told = [
        "Snapshot Created x",
        "Checkpoint Created y",
        "Checkpoint Created z",
        "Lifecycle",
        "Checkpoint Deleted y",
        "Checkpoint Deleted z",
        "Checkpoint Created x",
        "Lifecycle",
    ];
    assert_eq!(events.iter().map(word).collect::<Vec<_>>(), told);
}
