//! One event to many watchers: through the journal, and as whole calls of `Events.Watch` in process. Measured from the
//! append until the last of them has the event.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "what fails here fails the measurement"
)]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use tokio::{runtime::Runtime, sync::mpsc};
use tonic::{Request, client::Grpc};
use uuid::Uuid;
use virtqemud::{
    admin::{Admin, Settings},
    api,
    config::{HostUuid, QEMU, QemuConfig},
    domain::{Registry, store::Store},
    events::{Happening, Journal, Next, counter, lifecycle},
    logging,
    ops::{
        self, Driver,
        host::place::Facts,
        run::{guest::Guests, sessions::Sessions},
    },
    paths::{Paths, Scope},
    pb,
    peers::Peers,
    qemu::{FirmwareStore, Prober, ProberConfig, probe::Deadlines},
};

/// Who waits for the event.
const WATCHERS: usize = 200;

fn happening() -> Happening {
    Happening {
        uuid: Uuid::from_u128(7),
        name: "guest-0007".into(),
        id: 3,
        kind: virtqemud::events::model::EventKind::Lifecycle,
        detail: Some(virtqemud::events::model::event::Detail::Lifecycle(lifecycle(
            2, 0,
        ))),
    }
}

/// Appends one event a round and waits until every watcher has told of it.
fn rounds(runtime: &Runtime, journal: &Journal, told: &mut mpsc::Receiver<()>, rounds: u64) -> Duration {
    runtime.block_on(async {
        let begin = Instant::now();
        for _ in 0..rounds {
            journal.append(vec![happening()]);
            for _ in 0..WATCHERS {
                told.recv().await.unwrap();
            }
        }
        begin.elapsed()
    })
}

fn through_the_journal(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let journal = Journal::in_memory(1);
    let (tell, mut told) = mpsc::channel(WATCHERS);
    for _ in 0..WATCHERS {
        let (journal, tell) = (journal.clone(), tell.clone());
        runtime.spawn(async move {
            let mut place = journal.version().counter;
            while let Next::Events(events) = journal.next(place, 64).await {
                place = events.last().map_or(place, |e| counter(e));
                for _ in &events {
                    tell.send(()).await.unwrap();
                }
            }
        });
    }
    c.bench_function("journal/event_to_200", |b| {
        b.iter_custom(|n| rounds(&runtime, &journal, &mut told, n))
    });
}

/// A driver without guests; nothing below `root` is touched.
fn driver(root: &Path) -> Arc<Driver> {
    let paths = Arc::new(Paths::system(root));
    let document = virtqemud::config::Document::from_text(&QEMU, Path::new("qemu.conf"), "").unwrap();
    let config = Arc::new(QemuConfig::from_document(&document, None).unwrap());
    Arc::new(Driver {
        registry: Registry::new(Store::new(Arc::clone(&paths)), Journal::in_memory(1), 0),
        guests: Guests::default(),
        config: tokio::sync::watch::Sender::new(config).subscribe(),
        prober: Prober::new(ProberConfig {
            cache: paths.capabilities.clone(),
            run_as: None,
            deadlines: Deadlines::default(),
        }),
        sessions: Sessions::default(),
        run_over: |_, _, _| Box::pin(async {}),
        operations: virtqemud::ops::operation::record::Operations::default(),
        images: virtqemud::ops::holdings::storage::look::Hanging::default(),
        ports: ops::Ports::default(),
        groups: virtqemud::ops::holdings::storage::descriptors::Groups::default(),
        host: Facts::read(
            Path::new("/"),
            Scope::System,
            &HostUuid::Fixed(Uuid::from_u128(9)),
        )
        .unwrap(),
        peers: Peers::new(paths.sockets.clone(), paths.common.clone(), true),
        hooks: Arc::new(virtqemud::hooks::Hooks::new("/nonexistent".into())),
        owed: ops::holdings::ledger::Owed::new(&paths.state.join("virtqemud")),
        hostdevs: Arc::new(virtqemud::ops::holdings::hostdev::Hostdevs::new(
            hostinfo::Root::default(),
        )),
        cgroups: virtqemud::ops::holdings::cgroup::Kept::default(),
        link_names: ops::holdings::net::tap::LinkNames::default(),
        firmware: FirmwareStore::new(None),
        suspend: ops::host::suspend::Suspend::default(),
        host_document: ops::host::capabilities::Kept::default(),
        host_facts: ops::host::facts::Kept::default(),
        domain_capabilities: ops::host::domcaps::Kept::default(),
        tracker: tokio_util::task::TaskTracker::new(),
        stop: tokio_util::sync::CancellationToken::new(),
    })
}

/// A watch as a client of the service has it, from the call to the decoded answer.
async fn watch(service: api::Service) -> tonic::Streaming<pb::WatchResponse> {
    let mut client = Grpc::new(service);
    client.ready().await.unwrap();
    let mut request = Request::new(pb::WatchRequest::default());
    let cred = unixfd::PeerCred {
        pid: 1,
        uid: 0,
        gid: 0,
    };
    request.extensions_mut().insert(unixfd::Peer {
        cred,
        read_only: false,
    });
    let path = http::uri::PathAndQuery::from_static("/virtqemud.v1.Events/Watch");
    client
        .server_streaming(request, path, tonic_prost::ProstCodec::default())
        .await
        .unwrap()
        .into_inner()
}

fn through_the_service(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let driver = runtime.block_on(async { driver(Path::new("/nonexistent")) });
    let log = logging::install(logging::Plan::initial()).unwrap();
    let settings = Settings {
        min: 0,
        max: None,
        priority: 0,
    };
    let limits = [(compat::Limits::default(), settings); 2];
    let admin = Arc::new(Admin::new(limits, (log, logging::Surroundings::default()), None));
    let (service, _) = api::router(&driver, &admin).unwrap();
    let (tell, mut told) = mpsc::channel(WATCHERS);
    for _ in 0..WATCHERS {
        let mut stream = runtime.block_on(watch(service.clone()));
        let tell = tell.clone();
        runtime.spawn(async move {
            while let Ok(Some(answer)) = stream.message().await {
                if matches!(answer.item, Some(pb::watch_response::Item::Event(_))) {
                    tell.send(()).await.unwrap();
                }
            }
        });
    }
    let journal = driver.registry.journal().clone();
    c.bench_function("events_watch/event_to_200", |b| {
        b.iter_custom(|n| rounds(&runtime, &journal, &mut told, n))
    });
}

criterion_group!(fanout, through_the_journal, through_the_service);
criterion_main!(fanout);
